"""What each thermal policy decides, from readings written by hand."""

import math

import pytest
from thermal_cases import view

from bit_axon.errors import ConfigError
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling.policies import POLICIES, Policy, build_policy
from bit_axon.training.cooling.policies.base import HEAVY_PRESSURE_DUTY
from bit_axon.training.cooling.thresholds import thresholds_of
from bit_axon.validation import check


def policy(name: str, **options: object) -> Policy:
    config = ThermalConfig(policy=name, **options)  # type: ignore[arg-type]
    return build_policy(config, thresholds_of(config))


@pytest.mark.parametrize("temp", [20.0, 80.0, 96.0, 129.0, None])
def test_off_never_waits(temp: float | None) -> None:
    off = policy("off")
    decisions = [off.decide(view(temp, now=second, pressure=4)) for second in range(30)]
    assert {(d.action, d.duty) for d in decisions} == {("run", 1.0)}


@pytest.mark.parametrize(
    ("temp", "action", "tier", "duty"),
    [
        (74.9, "run", "normal", 1.0),
        (75.0, "run", "warm", 0.7),
        (84.9, "run", "warm", 0.7),
        (85.0, "pause", "hot", 1.0),
        (94.9, "pause", "hot", 1.0),
        (95.0, "pause", "critical", 1.0),  # the stop has to last first
        (None, "run", "unknown", 1.0),
    ],
)
def test_the_tiers_begin_where_they_say(temp: float | None, action: str, tier: str, duty: float) -> None:
    decision = policy("tiers").decide(view(temp))
    assert (decision.action, decision.tier, decision.duty) == (action, tier, duty)


def test_a_pause_ends_at_the_resume_temperature_by_the_mean_and_not_at_once() -> None:
    tiers = policy("tiers")
    assert tiers.decide(view(86.0)).action == "pause"
    assert tiers.decide(view(84.0, now=1, pausing=1.0)).action == "pause"  # hysteresis
    assert tiers.decide(view(70.0, now=2, filtered=70.0, pausing=2.0)).action == "pause"  # shorter than 3 s
    assert tiers.decide(view(70.0, now=4, filtered=79.0, pausing=4.0)).action == "pause"  # the mean is hot
    assert tiers.decide(view(79.0, now=5, filtered=70.0, pausing=5.0)).action == "pause"
    assert tiers.decide(view(78.0, now=6, filtered=78.0, pausing=6.0)).action == "run"


@pytest.mark.parametrize("name", ["tiers", "pacing"])
def test_unknown_is_not_cool_and_ends_no_pause(name: str) -> None:
    held = policy(name)
    held.decide(view(94.0))
    assert held.decide(view(None, now=60, pausing=60.0)).action == "pause"


@pytest.mark.parametrize("name", ["tiers", "pacing"])
def test_a_stop_needs_time_and_readings_without_a_break(name: str) -> None:
    held = policy(name)
    assert [held.decide(view(96.0, now=second, pausing=1.0)).action for second in range(6)] == [
        *["pause"] * 5,
        "stop",
    ]
    broken = policy(name)
    temps = [96.0, 96.0, 96.0, 96.0, 94.0, 96.0, 96.0, 96.0, 96.0, 96.0]
    decisions = [broken.decide(view(temp, now=second, pausing=1.0)) for second, temp in enumerate(temps)]
    assert "stop" not in [decision.action for decision in decisions]


def test_one_hot_reading_seen_often_is_one_reading() -> None:
    tiers = policy("tiers")
    decisions = [tiers.decide(view(97.0, now=second, number=7, pausing=1.0)) for second in range(20)]
    assert "stop" not in [decision.action for decision in decisions]


def test_an_unknown_reading_neither_counts_nor_clears_a_stop() -> None:
    tiers = policy("tiers")
    temps = [96.0, 96.0, None, None, 96.0, 96.0]
    actions = [tiers.decide(view(t, now=s, pausing=1.0)).action for s, t in enumerate(temps)]
    assert actions[-1] == "stop"


@pytest.mark.parametrize("name", ["tiers", "pacing"])
@pytest.mark.parametrize("pressure", [3, 4])
def test_trapping_and_sleeping_pressure_stop_at_once(name: str, pressure: int) -> None:
    decision = policy(name).decide(view(60.0, pressure=pressure))
    assert decision.action == "stop"
    assert ("trapping", "sleeping")[pressure - 3] in decision.reason


@pytest.mark.parametrize("name", ["tiers", "pacing"])
def test_pressure_only_ever_slows_down(name: str) -> None:
    duties = [policy(name).decide(view(60.0, pressure=level)).duty for level in (0, 1, 2)]
    assert duties == [1.0, 0.7, HEAVY_PRESSURE_DUTY]
    without_temperature = [policy(name).decide(view(None, pressure=level)).duty for level in (0, 1, 2)]
    assert without_temperature == duties
    assert policy("tiers").decide(view(86.0, pressure=0)).action == "pause"  # nominal proves nothing


def test_the_warm_tier_can_split_batches_or_do_nothing() -> None:
    reducing = policy("tiers", warm_action="reduce_batch").decide(view(80.0))
    assert (reducing.reduce_batch, reducing.duty) == (True, 1.0)
    assert not policy("tiers", warm_action="reduce_batch").decide(view(70.0)).reduce_batch
    idle = policy("tiers", warm_action="none").decide(view(80.0))
    assert (idle.reduce_batch, idle.duty) == (False, 1.0)


def test_pacing_follows_its_equation() -> None:
    """The proportional part of this reading and the integral of those before it."""
    pacing = policy("pacing")
    temps = [60.0, 72.0, 76.0, 81.0, 84.5, 86.0, 85.0, 83.5, 82.0, 83.0]
    duties = [pacing.decide(view(90.0, now=n, filtered=t)).duty for n, t in enumerate(temps)]
    expected, integral = [1.0, 1.0], 0.5
    for temp in temps[2:]:  # the first to come within 10 °C of the target engages the control
        error = 83.0 - temp
        wanted = 0.03 * error + integral
        integral += 0.03 * error * 1.0 / 60.0
        expected.append(min(max(wanted, 0.05), 1.0))
    assert duties == pytest.approx(expected, abs=1e-12)


def test_pacing_does_not_wind_up() -> None:
    """After an hour under the target at full duty, heat is answered as soon as after ten minutes."""
    answers = []
    for minutes in (10, 60):
        pacing = policy("pacing")
        for second in range(minutes * 60):
            pacing.decide(view(80.0, now=second))
        late = [pacing.decide(view(88.0, now=minutes * 60 + s)).duty for s in range(30)]
        answers.append(late[-1])
    assert answers[1] < 0.85
    assert answers[1] == pytest.approx(answers[0], abs=1e-9)


def test_pacing_keeps_its_duty_while_nothing_is_known_and_forgets_it_after_a_gap() -> None:
    pacing = policy("pacing")
    for second in range(300):
        pacing.decide(view(84.5, now=second))
    learned = pacing.decide(view(84.5, now=300)).duty
    assert pacing.decide(view(None, now=301)).duty == learned < 0.4
    after = pacing.decide(view(83.0, now=400, gap=True)).duty
    assert after == pytest.approx(0.5)  # begins again


def test_pacing_pauses_far_above_its_target() -> None:
    pacing = policy("pacing")
    assert pacing.decide(view(91.9)).action == "run"
    assert pacing.decide(view(92.0, now=1)).action == "pause"
    assert pacing.decide(view(84.0, now=2, pausing=1.0)).action == "pause"
    assert pacing.decide(view(82.0, now=6, pausing=5.0)).action == "run"


def test_a_hot_start_begins_slowly() -> None:
    assert policy("pacing").decide(view(88.0)).duty < 0.5
    assert policy("tiers").decide(view(88.0)).action == "pause"


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_that_was_reset_is_a_new_one(name: str) -> None:
    used, fresh = policy(name), policy(name)
    for second in range(4):
        used.decide(view(96.0, now=second))
    used.reset()
    views = [view(96.0, now=10 + second) for second in range(5)]
    assert [used.decide(v) for v in views] == [fresh.decide(v) for v in views]


def test_thresholds_follow_the_pause() -> None:
    assert thresholds_of(ThermalConfig()) == Thresholds()
    moved = thresholds_of(ThermalConfig(pause_temp=70.0))
    assert moved == Thresholds(warm=60.0, target=68.0, resume=63.0, pause=70.0, stop=95.0)
    own = Thresholds(80.0, 93.0, 88.0, 95.0, 103.0)
    assert thresholds_of(ThermalConfig(stop_temp=99.0), own) == Thresholds(80.0, 93.0, 88.0, 95.0, 99.0)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"pause_temp": 96.0}, ("thermal.pause_temp", "thermal.stop_temp")),
        ({"resume_temp": 85.0}, ("thermal.resume_temp", "thermal.pause_temp")),
        ({"max_speed_temp": 90.0}, ("thermal.max_speed_temp", "thermal.pause_temp")),
        ({"target_temp": 97.0}, ("thermal.target_temp", "thermal.stop_temp")),
    ],
)
def test_case_thresholds_out_of_order(options: dict[str, float], keys: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as raised:
        thresholds_of(check(ThermalConfig, options, path="thermal"))
    assert raised.value.keys == keys
    assert "wanted" in str(raised.value) and "got" in str(raised.value)


def test_an_unknown_policy_is_told_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'pacing'"):
        policy("paceing")


def test_duties_are_shares() -> None:
    pacing = policy("pacing")
    for second in range(2000):
        temp = 83.0 + 30.0 * math.sin(second / 7.0)
        decision = pacing.decide(view(min(temp, 94.0), now=second, filtered=temp))
        assert 0.05 <= decision.duty <= 1.0
