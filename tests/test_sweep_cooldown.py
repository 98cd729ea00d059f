"""Cooling down between trials: to where the machine rests, not for ever, and nothing made up."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thermal_cases import Curve
from trace_cases import row

from bit_axon.errors import ConfigError
from bit_axon.profiling.clock import VirtualClock
from bit_axon.profiling.rc_model import PRESETS
from bit_axon.profiling.sensors.simulated import SimulatedSource
from bit_axon.profiling.simulation import SimulatedMachine
from bit_axon.profiling.thermal import ThermalMonitor
from bit_axon.profiling.trace import HEADER, TRACE_FILE
from bit_axon.schema import SimulationConfig, ThermalConfig
from bit_axon.sweep.thermal.baseline import Baseline, KnownBase, LastMinutes, last_base
from bit_axon.sweep.thermal.cooldown import Cooldown
from bit_axon.sweep.thermal.sensing import build_cooldown, other_run
from bit_axon.sweep.thermal.starts import CooldownOptions, Sensing, Start
from bit_axon.training.cooling.presence import presence

REST_TEMP = 34.45  # of the simulated fanless laptop in air of 25 °C
HOUR = 3600.0


class Laptop:
    """A simulated fanless laptop that works between two waits."""

    def __init__(self, seed: int = 0, **arguments: Any):
        self.clock = VirtualClock()
        self.machine = SimulatedMachine(PRESETS["fanless_air"], self.clock, seed=seed)
        self.said: list[str] = []
        options = arguments.pop("options", CooldownOptions())
        self.cooldown = Cooldown(options, self._sensing, self.clock, say=self.said.append, **arguments)

    @contextmanager
    def _sensing(self) -> Iterator[Sensing | None]:
        with ThermalMonitor(sources=(SimulatedSource(self.machine),), clock=self.clock) as monitor:
            yield Sensing(monitor, "simulated", warm_temp=75.0)

    def work(self, seconds: float) -> None:
        self.machine.begin()
        self.clock.advance(seconds)
        self.machine.end()


class Watched:
    """A cool-down over a sensor whose temperature is a function of time."""

    def __init__(
        self,
        temp: Callable[[float], float | None],
        *,
        options: CooldownOptions | None = None,
        facts: Mapping[str, Any] | None = None,
        **arguments: Any,
    ):
        self.clock = VirtualClock()
        readings = Curve(self.clock, temp)
        self.said: list[str] = []

        @contextmanager
        def opened() -> Iterator[Sensing | None]:
            yield Sensing(readings, "curve", **{"warm_temp": 75.0, **(facts or {})})

        self.cooldown = Cooldown(
            options or CooldownOptions(), opened, self.clock, say=self.said.append, **arguments
        )

    def wait(self) -> Start:
        return self.cooldown.wait()


def known(temp: float, clock: VirtualClock | None = None) -> KnownBase:
    return KnownBase(temp, (clock or VirtualClock()).wall_ms())


def test_a_cold_machine_is_measured_and_starts() -> None:
    start = Laptop().cooldown.wait()
    assert start.outcome == "cool" and start.cool is True
    assert start.base_c == pytest.approx(REST_TEMP, abs=0.2)
    assert start.temp_c == pytest.approx(REST_TEMP, abs=0.5)
    assert 60 <= start.waited_seconds <= 180
    assert start.chassis_c == pytest.approx(31.3, abs=1.0)


def test_after_work_it_cools_to_the_base_and_a_few_degrees() -> None:
    laptop = Laptop()
    base = laptop.cooldown.wait().base_c
    laptop.work(120.0)
    assert laptop.machine.sensor_temp > 90
    start = laptop.cooldown.wait()
    assert base is not None and start.base_c == base
    assert start.outcome == "cool" and start.cool is True
    assert start.temp_c is not None and base + 4 < start.temp_c <= base + 5
    assert 60 < start.waited_seconds < 600
    assert laptop.machine.sensor_temp == pytest.approx(start.temp_c, abs=1.0)
    assert laptop.cooldown.waited_seconds > start.waited_seconds


def test_a_wait_is_bounded_and_the_trial_is_marked_warm() -> None:
    laptop = Laptop()
    laptop.cooldown.wait()
    laptop.work(HOUR - 300)
    start = laptop.cooldown.wait()
    assert start.outcome == "timeout" and start.cool is False
    assert start.waited_seconds == pytest.approx(600, abs=1.5)
    assert start.temp_c == pytest.approx(44, abs=2)
    assert any("not cool" in line for line in laptop.said)


@pytest.mark.parametrize("seed", range(3))
def test_a_warm_case_is_not_taken_for_one_at_rest(seed: int) -> None:
    laptop = Laptop(seed)
    laptop.cooldown.wait()
    laptop.work(HOUR - 300)
    assert laptop.cooldown.wait().outcome == "timeout"


def test_the_base_does_not_creep_up_over_hours_of_trials() -> None:
    laptop = Laptop()
    starts = [laptop.cooldown.wait()]
    while laptop.clock.monotonic() < 3.5 * HOUR:
        laptop.work(120.0)
        starts.append(laptop.cooldown.wait())
    bases = [start.base_c for start in starts if start.base_c is not None]
    assert len(bases) == len(starts) > 15
    assert max(bases) <= bases[0] + 0.1 and min(bases) >= REST_TEMP - 1
    assert len({start.base_wall_ms for start in starts}) >= 3  # measured again and again
    assert sum(start.cool is True for start in starts) > 0.9 * len(starts)


def test_a_first_wait_on_a_hot_machine_is_bounded_too() -> None:
    laptop = Laptop()
    laptop.work(HOUR)
    start = laptop.cooldown.wait()
    assert start.waited_seconds == pytest.approx(600, abs=1.5)
    assert start.base_c is not None and 43 < start.base_c < 46


def test_a_lower_minute_lowers_the_base() -> None:
    watched = Watched(lambda now: 36.0 if now < 300 else 33.0)
    assert watched.wait().base_c == 36.0
    watched.clock.advance(400.0)
    baseline_before = watched.wait()
    assert baseline_before.outcome == "cool" and baseline_before.waited_seconds == 0.0
    watched.clock.advance(HOUR)
    assert watched.wait().base_c == 33.0


@pytest.mark.parametrize(("rise", "base"), [(2.0, 34.0), (6.0, 40.0), (30.0, 34.0)])
def test_after_an_hour_warmer_air_moves_the_base_but_other_work_does_not(rise: float, base: float) -> None:
    watched = Watched(lambda now: 34.0 if now < 600 else 34.0 + rise)
    assert watched.wait().base_c == 34.0
    watched.clock.advance(HOUR + 600)
    start = watched.wait()
    assert start.base_c == base
    assert start.cool is (34.0 + rise <= base + 5.0)


def test_what_no_longer_falls_is_not_waited_for() -> None:
    watched = Watched(lambda now: 60.0, base=known(34.0))
    start = watched.wait()
    assert start.outcome == "settled" and start.cool is False
    assert start.waited_seconds == pytest.approx(120, abs=2)


def test_a_machine_that_rests_hot_is_never_called_cool() -> None:
    start = Watched(lambda now: 78.0).wait()
    assert start.base_c == 78.0 and start.cool is False


@pytest.mark.parametrize("lost_after", [0.0, 50.0])
def test_a_lost_sensor_ends_the_wait(lost_after: float) -> None:
    watched = Watched(lambda now: 60.0 - now / 10 if now < lost_after else None, base=known(34.0))
    start = watched.wait()
    assert start.outcome == "unknown"
    assert start.waited_seconds == pytest.approx(lost_after + 30, abs=2)
    if not lost_after:
        assert start.cool is None and start.temp_c is None
        assert "start_temp_c" not in start.attributes()


def test_a_wait_can_be_interrupted() -> None:
    clock_at = [0.0]
    watched = Watched(
        lambda now: clock_at.__setitem__(0, now) or 60.0 - now / 100,
        base=known(34.0),
        stop_requested=lambda: clock_at[0] >= 10,
    )
    start = watched.wait()
    assert start.outcome == "interrupted" and start.waited_seconds <= 12


def test_without_cooling_down_the_start_is_noted_all_the_same() -> None:
    watched = Watched(lambda now: 71.5, options=CooldownOptions(enabled=False))
    start = watched.wait()
    assert (start.outcome, start.cool, start.waited_seconds) == ("off", None, 0.0)
    assert start.attributes()["start_temp_c"] == 71.5


def test_another_run_on_the_machine_is_not_waited_for() -> None:
    watched = Watched(lambda now: 80.0, facts={"other": 4321}, base=known(34.0))
    start = watched.wait()
    assert (start.outcome, start.cool, start.waited_seconds) == ("busy", None, 0.0)
    assert "Another run heats this machine" in watched.said[0]


def test_after_the_machine_slept_the_minutes_begin_anew() -> None:
    """It woke cooler: the steady minute before and the one after together would be no rest."""
    laptop = Laptop()
    slept: list[bool] = []

    def sleep_once() -> bool:
        if laptop.clock.monotonic() > 50 and not slept:
            slept.append(True)
            laptop.clock.suspend(1000.0)
        return False

    laptop.cooldown = Cooldown(CooldownOptions(), laptop._sensing, laptop.clock, stop_requested=sleep_once)
    assert laptop.cooldown.wait().waited_seconds > 165


def test_a_gap_begins_the_minutes_anew() -> None:
    recent = LastMinutes()
    for second in range(100):
        recent.add(float(second), 60.0)
    assert recent.mean == 60.0
    recent.clear()
    recent.add(5000.0, 34.0)
    assert recent.mean is None and not recent.is_steady


def test_what_a_person_is_told() -> None:
    laptop = Laptop()
    base = laptop.cooldown.wait().base_c
    assert base is not None
    laptop.work(600.0)
    laptop.cooldown.wait()
    assert laptop.said[0].startswith("Measuring the temperature at rest, 34")
    assert laptop.said[0].endswith("600 s at the latest.")
    falling = [line for line in laptop.said if line.startswith("Cooling down from")]
    assert 3 <= len(falling) <= 6 and f"to {base + 5:.1f} °C" in falling[0]
    assert laptop.said[-1].startswith("The next trial starts at ")


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 500), st.floats(20, 110)), min_size=1, max_size=200))
def test_the_mean_lies_within_the_readings_of_a_minute(readings: list[tuple[float, float]]) -> None:
    recent = LastMinutes()
    at = 0.0
    for step, temp in readings:
        at += step
        recent.add(at, temp)
    mean = recent.mean
    if mean is not None:
        assert min(t for _, t in readings) - 1e-9 <= mean <= max(t for _, t in readings) + 1e-9


@pytest.mark.parametrize("slope", [-0.5, -0.1, 0.0, 0.1, 0.5])
def test_steady_is_what_moves_less_than_a_fifth_of_a_degree_a_minute(slope: float) -> None:
    recent = LastMinutes()
    for second in range(121):
        assert not recent.is_steady
        recent.add(float(second), 40.0 + slope * second / 60)
    assert recent.is_steady is (abs(slope) < 0.2)


def test_the_base_of_earlier_trials_is_gone_on_with() -> None:
    clock = VirtualClock()
    attributes = [
        Start("cool", base_c=33.0, base_wall_ms=1, host="here").attributes(),
        Start("cool", base_c=35.0, base_wall_ms=2, host="elsewhere").attributes(),
        Start("cool", base_c=34.0, base_wall_ms=clock.wall_ms() - 600_000, host="here").attributes(),
        Start("unknown", host="here").attributes(),
        {"start": "nonsense"},
        {},
    ]
    found = last_base(attributes, "here")
    assert found == KnownBase(34.0, clock.wall_ms() - 600_000)
    assert last_base(attributes, "nowhere") is None
    baseline = Baseline(clock, found)
    assert baseline.temp == 34.0 and not baseline.is_due
    clock.advance(3001.0)
    assert baseline.is_due
    start = Watched(lambda now: 38.0, base=known(34.0)).wait()
    assert (start.outcome, start.waited_seconds) == ("cool", 0.0)


def test_a_base_from_the_future_is_new() -> None:
    clock = VirtualClock()
    baseline = Baseline(clock, KnownBase(34.0, clock.wall_ms() + 10_000_000))
    assert not baseline.is_due


def test_simulated_machines_start_every_trial_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial begins such a machine anew: waiting in the sweeper would change nothing."""
    monkeypatch.setattr("bit_axon.sweep.thermal.sensing.SystemClock", VirtualClock)
    said: list[str] = []
    cool = build_cooldown(
        CooldownOptions(), ThermalConfig(source="simulated"), device="cpu", say=said.append
    ).wait()
    assert (cool.outcome, cool.cool, cool.waited_seconds) == ("given", True, 0.0)
    assert cool.base_c == pytest.approx(REST_TEMP, abs=0.1)
    hot = ThermalConfig(source="simulated", simulation=SimulationConfig(start_temp=80.0))
    start = build_cooldown(CooldownOptions(), hot, device="cpu", say=said.append).wait()
    assert (start.outcome, start.cool) == ("given", False)
    assert start.temp_c == pytest.approx(80, abs=1) and start.base_c == pytest.approx(REST_TEMP, abs=0.1)
    assert not said


def _cell(value: object) -> str:
    return "" if value is None or value != value else str(value)


def test_of_a_recording_nothing_is_claimed(tmp_path: Path) -> None:
    trace = tmp_path / TRACE_FILE
    rows = [row(float(second), 40.0, gpu_avg_c=40.0, gpu_max_c=40.0, n_valid=1) for second in range(60)]
    cells = [
        ["" if value in (None, "") or value != value else str(value) for value in vars(each).values()]
        for each in rows
    ]
    trace.write_text(HEADER + "".join(",".join(each) + "\n" for each in cells))
    config = ThermalConfig(source="replay", replay_file=str(trace))
    start = build_cooldown(CooldownOptions(), config, device="cpu").wait()
    assert (start.outcome, start.cool) == ("given", None) and start.temp_c is not None


def test_without_a_sensor_nothing_is_waited_for() -> None:
    off = ThermalConfig(source="none", policy="off")
    start = build_cooldown(CooldownOptions(), off, device="cpu").wait()
    assert (start.outcome, start.cool, start.waited_seconds) == ("unknown", None, 0.0)
    with pytest.raises(ConfigError, match=r"hydra.sweeper.cooldown.enabled=true"):
        build_cooldown(CooldownOptions(enabled=True), off, device="cpu")


def test_a_run_that_heats_the_machine_is_seen(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert other_run(lock) is None
    with presence(lock) as first:
        assert first is None
        assert other_run(lock) == os.getpid()
    assert other_run(lock) is None


def test_a_start_beside_another_run_is_never_called_cool() -> None:
    watched = Watched(lambda now: 34.5, facts={"other": 4321}, base=known(34.0))
    assert (watched.wait().outcome, watched.wait().cool) == ("busy", None)
