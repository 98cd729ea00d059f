"""The Python API's thermal limits as the guide describes them, and a trainer that is held by them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bit_axon.backend import mx
from bit_axon.errors import ConfigError, ThermalShutdownError
from bit_axon.models.loading import load_base
from bit_axon.profiling.clock import VirtualClock
from bit_axon.profiling.thermal import ThermalMonitor
from bit_axon.schema import ModelConfig
from bit_axon.training import Trainer, TrainingConfig, apply_lora_to_model
from bit_axon.training.checkpoint import get_latest_checkpoint
from bit_axon.training.cooling import CoolingScheduler, ThermalPolicy
from bit_axon.training.records import EvaluationRecord, StepRecord
from bit_axon.training.session import SilentObserver


class Thermometer:
    """A monitor whose temperature is a function of time; counts how often it is read."""

    def __init__(self, clock: VirtualClock, temp: Callable[[float], float | None]):
        self._clock, self._temp = clock, temp
        self.reads = 0

    @property
    def temperature(self) -> float | None:
        self.reads += 1
        return self._temp(self._clock.monotonic())


class Bench:
    """A scheduler over a curve, in virtual time."""

    def __init__(self, temp: Callable[[float], float | None], **policy: Any):
        self.clock = VirtualClock()
        self.monitor = Thermometer(self.clock, temp)
        self.cooling = CoolingScheduler(self.monitor, ThermalPolicy(**policy), self.clock)

    def check(self, step: int = 1) -> float:
        """The seconds one check took."""
        began = self.clock.monotonic()
        self.cooling.check_before_step(step)
        return self.clock.monotonic() - began


# The guide's table


def test_the_defaults_are_those_of_the_guide() -> None:
    policy = ThermalPolicy()
    assert (policy.max_speed_temp, policy.pause_temp, policy.stop_temp) == (75.0, 85.0, 95.0)
    assert policy.pause_duration == 0.5
    assert CoolingScheduler(Thermometer(VirtualClock(), lambda now: 90.0)).total_pause_time == 0.0


@pytest.mark.parametrize("temp", [-5.0, 20.0, 74.9, 75.0, 80.0, 84.9])
def test_below_the_pause_nothing_is_waited_for(temp: float) -> None:
    bench = Bench(lambda now: temp)
    assert [bench.check(step) for step in range(5)] == [0.0] * 5
    assert bench.cooling.total_pause_time == 0.0


@pytest.mark.parametrize(
    ("temp", "reduce"),
    [
        (74.999, False),
        (75.0, True),
        (80.0, True),
        (84.999, True),
        (85.0, False),
        (96.0, False),
        (None, False),
    ],
)
def test_the_warm_tier_wants_smaller_batches(temp: float | None, reduce: bool) -> None:
    assert Bench(lambda now: temp).cooling.should_reduce_batch() is reduce


def test_the_warm_tier_lies_where_the_policy_says() -> None:
    def reduces(temp: float) -> bool:
        policy = {"max_speed_temp": 50.0, "pause_temp": 60.0, "stop_temp": 70.0}
        return Bench(lambda now: temp, **policy).cooling.should_reduce_batch()

    assert [reduces(temp) for temp in (49.9, 50.0, 59.9, 60.0)] == [False, True, True, False]


@pytest.mark.parametrize("duration", [0.5, 0.25, 2.0])
def test_a_pause_sleeps_in_intervals_until_it_is_under_the_pause_temperature(duration: float) -> None:
    """90 °C and one degree less each second: under 85 °C after more than five seconds."""
    bench = Bench(lambda now: 90.0 - now, pause_duration=duration)
    waited = bench.check()
    sleeps = int(5.0 // duration) + 1
    assert waited == pytest.approx(sleeps * duration)
    assert bench.cooling.total_pause_time == pytest.approx(waited)
    assert bench.monitor.reads == 1 + sleeps


def test_the_pause_begins_at_exactly_its_temperature() -> None:
    bench = Bench(lambda now: 85.0 if now < 3.0 else 84.9)
    assert bench.check() == pytest.approx(3.0)


def test_pauses_add_up() -> None:
    bench = Bench(lambda now: 86.0 if now % 10 < 3 else 60.0)
    waits = []
    for step in range(4):
        waits.append(bench.check(step))
        bench.clock.advance(7.0)
    assert waits == pytest.approx([3.0] * 4)
    assert bench.cooling.total_pause_time == pytest.approx(12.0)


@pytest.mark.parametrize("temp", [95.0, 95.1, 130.0])
def test_the_first_reading_at_the_stop_temperature_ends_the_training(temp: float) -> None:
    bench = Bench(lambda now: temp)
    with pytest.raises(ThermalShutdownError, match=f"{temp:.1f} °C, and 95 °C is the limit"):
        bench.check(7)
    assert (bench.clock.monotonic(), bench.monitor.reads) == (0.0, 1)
    assert bench.cooling.total_pause_time == 0.0


def test_just_under_the_stop_temperature_is_a_pause() -> None:
    bench = Bench(lambda now: 94.9 if now < 2.0 else 60.0)
    assert bench.check() == pytest.approx(2.0)


def test_the_stop_is_looked_for_within_a_pause() -> None:
    bench = Bench(lambda now: 90.0 + now)
    with pytest.raises(ThermalShutdownError, match=r"^Step 3: "):
        bench.check(3)
    assert bench.clock.monotonic() == pytest.approx(5.0)
    assert bench.cooling.total_pause_time == pytest.approx(5.0)


def test_a_stop_that_has_to_last() -> None:
    held = Bench(lambda now: 96.0, stop_hold_seconds=3.0)
    with pytest.raises(ThermalShutdownError, match="for 3 s"):
        held.check()
    assert held.clock.monotonic() == pytest.approx(3.0)
    spike = Bench(lambda now: 96.0 if now < 2.5 else 70.0, stop_hold_seconds=3.0)
    assert spike.check() == pytest.approx(2.5)  # it was a pause
    broken = Bench(
        lambda now: (94.0 if 2.0 <= now < 2.5 else 96.0) if now < 5.0 else 70.0, stop_hold_seconds=3.0
    )
    assert broken.check() == pytest.approx(5.0)  # 2 s and 2.5 s, never 3 s without a break


def test_a_stop_that_needs_several_readings() -> None:
    bench = Bench(lambda now: 96.0, stop_samples=4)
    with pytest.raises(ThermalShutdownError):
        bench.check()
    assert bench.monitor.reads == 4 and bench.clock.monotonic() == pytest.approx(1.5)


def test_the_monitor_is_read_once_for_each_check_and_each_wait() -> None:
    bench = Bench(lambda now: 60.0 if now < 1.0 else 86.0 if now < 3.0 else 60.0)
    for _ in range(3):
        bench.check()
    assert bench.monitor.reads == 3
    bench.clock.advance(1.0)
    bench.check()
    assert bench.monitor.reads == 3 + 1 + 4  # four waits of half a second
    bench.cooling.should_reduce_batch()
    assert bench.monitor.reads == 9


def test_an_unknown_temperature_holds_nothing_up() -> None:
    bench = Bench(lambda now: None)
    assert [bench.check() for _ in range(3)] == [0.0] * 3
    assert bench.cooling.total_pause_time == 0.0 and not bench.cooling.should_reduce_batch()


def test_unknown_within_a_pause_is_not_cool() -> None:
    bench = Bench(lambda now: 90.0 if now < 1.0 else None if now < 4.0 else 60.0)
    assert bench.check() == pytest.approx(4.0)


def test_a_pause_has_an_end() -> None:
    bench = Bench(lambda now: 90.0, max_pause_seconds=20.0)
    with pytest.raises(ThermalShutdownError, match=r"still 90.0 °C after a pause of 20 s"):
        bench.check()
    assert bench.cooling.total_pause_time == pytest.approx(20.5)


def test_hysteresis_and_a_shortest_pause_on_request() -> None:
    assert Bench(lambda now: 90.0 - now, resume_temp=78.0).check() == pytest.approx(12.0)
    assert Bench(lambda now: 90.0 if now < 0.5 else 60.0, min_pause_seconds=4.0).check() == pytest.approx(4.0)


def test_the_warm_tier_may_pace_or_split() -> None:
    paced = Bench(lambda now: 80.0, warm_action="pace")
    for _ in range(3):
        paced.check()
        paced.clock.advance(7.0)
    assert paced.cooling.total_pause_time == pytest.approx(2 * 3.0)  # a duty of 0.7
    split = Bench(lambda now: 80.0, warm_action="reduce_batch")
    split.check()
    assert split.cooling.gate.splits_batches and split.cooling.total_pause_time == 0.0
    plain = Bench(lambda now: 80.0)
    plain.check()
    assert not plain.cooling.gate.splits_batches


@pytest.mark.parametrize(
    "wrong",
    [
        {"pause_temp": 95.0},
        {"pause_temp": 96.0},
        {"stop_temp": 84.0},
        {"max_speed_temp": 85.0},
        {"max_speed_temp": 90.0},
        {"resume_temp": 85.0},
        {"resume_temp": 90.0},
        {"pause_duration": 0.0},
        {"pause_duration": -1.0},
        {"max_pause_seconds": 0.0},
        {"stop_samples": 0},
        {"stop_temp": 1000.0},
        {"pause_temp": float("nan")},
        {"warm_action": "faster"},
    ],
    ids=str,
)
def test_a_policy_that_cannot_work_is_refused_where_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        ThermalPolicy(**wrong)


def test_a_monitor_on_the_same_clock_serves() -> None:
    """The guide's scheduler over the package's own monitor, median and all."""
    clock = VirtualClock()
    monitor = ThermalMonitor(0.5, read_fn=lambda: 90.0 - clock.monotonic(), clock=clock)
    cooling = CoolingScheduler(monitor, ThermalPolicy(), clock)
    with monitor:
        cooling.check_before_step(1)
    assert 5.0 <= cooling.total_pause_time <= 7.0


# A trainer that is held by it


def dataset(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(count)
    found = []
    for _ in range(count):
        length = int(random.integers(6, 20))
        mask = np.zeros(length, np.uint8)
        mask[length // 2 :] = 1
        found.append((random.integers(3, 300, length).astype(np.int32), mask))
    return found


class Recorder(SilentObserver):
    """Keeps what it is told; calls `after` at each step."""

    def __init__(self, after: Callable[[StepRecord], None] = lambda record: None):
        self._after = after
        self.steps: list[StepRecord] = []
        self.evaluations: list[EvaluationRecord] = []

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record)
        self._after(record)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        self.evaluations.append(record)

    @property
    def facts(self) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        steps = [(record.step, record.loss) for record in self.steps]
        return steps, [(record.step, record.loss) for record in self.evaluations]


def train(tiny_model: Path, folder: Path, cooling: Any, observer: Recorder) -> dict[str, Any]:
    """A whole training, or what is left of it: five steps of three micro-batches, with dropout."""
    model = load_base(ModelConfig(path=str(tiny_model)), seed=0).model
    mx.random.seed(3)  # of the adapter's first values
    apply_lora_to_model(model, rank=4, dropout=0.1, use_dora=True)
    config = TrainingConfig(
        max_steps=5,
        warmup_steps=1,
        grad_accum_steps=3,
        learning_rate=1e-2,
        lora_dropout=0.1,
        max_seq_len=64,
        save_every=2,
        eval_every=2,
        output_dir=str(folder),
    )
    return Trainer(
        model, config, dataset(10), dataset(4), cooling_scheduler=cooling, observer=observer
    ).train()


def adapter(folder: Path) -> bytes:
    return (folder / "step_00000005" / "adapters.safetensors").read_bytes()


def readings(*parts: tuple[int, float | None]) -> Iterator[float | None]:
    """So many readings of each temperature; the last for ever."""
    for count, temp in parts:
        for _ in range(count):
            yield temp
    while True:
        yield parts[-1][1]


class InTurn:
    """A thermometer that gives one reading after the other."""

    def __init__(self, *parts: tuple[int, float | None]):
        self._readings = readings(*parts)

    @property
    def temperature(self) -> float | None:
        return next(self._readings)


Plain = tuple[bytes, Recorder, dict[str, Any]]


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder, observer = tmp_path_factory.mktemp("plain"), Recorder()
    result = train(tiny_model, folder, None, observer)
    return adapter(folder), observer, result


def test_pauses_change_no_byte_of_a_training(tiny_model: Path, tmp_path: Path, plain: Plain) -> None:
    clock = VirtualClock()
    cooling = CoolingScheduler(Thermometer(clock, lambda now: 90.0 - now), clock=clock)
    observer = Recorder()
    assert train(tiny_model, tmp_path / "run", cooling, observer) == plain[2]
    assert adapter(tmp_path / "run") == plain[0] and observer.facts == plain[1].facts
    assert cooling.total_pause_time == pytest.approx(5.5)


# A reading before each micro-batch and each batch of an evaluation (there is one), and one after each step.
POSITIONS = {
    "first evaluation": 0,
    "first micro-batch": 1,
    "third micro-batch of step 1": 3,
    "second micro-batch of step 2": 6,
    "evaluation at a save": 9,
    "second micro-batch of step 3": 11,
    "first micro-batch of step 5": 19,
    "last evaluation": 23,
}


@pytest.mark.parametrize("cool_readings", POSITIONS.values(), ids=POSITIONS)
def test_a_shutdown_is_checkpointed_and_a_second_trainer_ends_with_the_same_bytes(
    cool_readings: int, tiny_model: Path, tmp_path: Path, plain: Plain
) -> None:
    folder, observer = tmp_path / "run", Recorder()
    cooling = CoolingScheduler(InTurn((cool_readings, 60.0), (1, 95.0)), clock=VirtualClock())
    with pytest.raises(ThermalShutdownError, match=r"95\.0 °C"):
        train(tiny_model, folder, cooling, observer)
    latest = get_latest_checkpoint(folder)
    assert (int(latest.name[5:]) if latest else 0) == len(observer.steps)
    again = Recorder()
    cold = CoolingScheduler(InTurn((1, 60.0)), clock=VirtualClock())
    assert train(tiny_model, folder, cold, again) == plain[2]
    assert adapter(folder) == plain[0]
    steps, evaluations = plain[1].facts
    assert observer.facts[0] + again.facts[0] == steps
    evaluated = observer.facts[1] if latest else []  # what no checkpoint remembers is done again
    assert evaluated + again.facts[1] == evaluations


def test_records_tell_the_temperature_and_the_waiting(tiny_model: Path, tmp_path: Path) -> None:
    observer = Recorder()
    train(tiny_model, tmp_path / "run", CoolingScheduler(InTurn((1, 61.5)), clock=VirtualClock()), observer)
    assert [record.temp_c for record in observer.steps] == [61.5] * 5


class Plainest:
    """All that a trainer needs: anything with these two will do."""

    def __init__(self, limit: int | None):
        self._limit, self.asked = limit, list[int]()
        self.total_pause_time = 0.0

    def check_before_step(self, step: int) -> None:
        if self._limit is not None and len(self.asked) >= self._limit:
            raise ThermalShutdownError("too hot")
        self.asked.append(step)
        self.total_pause_time += 1.0


def test_any_object_of_that_shape_is_a_scheduler(tiny_model: Path, tmp_path: Path, plain: Plain) -> None:
    folder, observer, cooling = tmp_path / "run", Recorder(), Plainest(limit=None)
    assert train(tiny_model, folder, cooling, observer) == plain[2]
    assert [step for step in cooling.asked if step][:3] == [1, 1, 1]
    assert [record.paused_seconds for record in observer.steps] == [3.0] * 5
    with pytest.raises(ThermalShutdownError, match="too hot"):
        train(tiny_model, tmp_path / "other", Plainest(limit=len(cooling.asked) - 6), Recorder())
    train(tiny_model, tmp_path / "other", Plainest(limit=None), Recorder())
    assert adapter(folder) == adapter(tmp_path / "other") == plain[0]
