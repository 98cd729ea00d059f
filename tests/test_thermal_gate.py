"""The gate: when it waits, for how long, what it says, and what ends it. Clock and readings are injected."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from thermal_cases import Bench, Curve
from waiting import AT_ONCE_SECONDS, LONGEST_SECONDS

from bit_axon.errors import ThermalShutdownError
from bit_axon.profiling.clock import SystemClock, VirtualClock
from bit_axon.profiling.thermal import ThermalMonitor
from bit_axon.profiling.trace import TraceWriter, read_trace
from bit_axon.schema import ThermalConfig
from bit_axon.stopping import StopRequest
from bit_axon.training.cooling.gate import ThermalGate
from bit_axon.training.cooling.gates import NoGate, until_cool
from bit_axon.training.cooling.policies import build_policy
from bit_axon.training.cooling.presence import presence
from bit_axon.training.cooling.recorder import TraceRecorder
from bit_axon.training.cooling.thresholds import thresholds_of


def test_a_cool_machine_is_never_held_up() -> None:
    bench = Bench(lambda now: 60.0)
    assert bench.work(5) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert bench.gate.waited_seconds == 0 and not bench.said


def test_pacing_waits_in_proportion_to_the_work() -> None:
    bench = Bench(lambda now: 80.0, policy="tiers", warm_duty=0.5)
    assert bench.work(4) == [0.0, 2.0, 4.0, 6.0]
    assert bench.gate.waited_seconds == pytest.approx(3.0)
    assert not bench.said  # being paced is no news


def test_short_waits_are_put_together() -> None:
    bench = Bench(lambda now: 80.0, policy="tiers", warm_duty=0.9, work_seconds=0.02)
    moments = bench.work(1000)
    waits = [b - a - 0.02 for a, b in itertools.pairwise(moments) if b - a > 0.021]
    assert min(waits) >= 0.05
    assert bench.gate.waited_seconds == pytest.approx(999 * 0.02 / 0.9 * 0.1, abs=0.06)


def test_the_device_is_drained_before_any_wait_and_only_then() -> None:
    drained: list[float] = []
    bench = Bench(lambda now: 60.0 if now < 2.5 else 80.0, policy="tiers")
    for _ in range(6):
        bench.gate.check("train", 1, lambda: drained.append(bench.clock.monotonic()))
    assert drained[0] >= 3.0 and len(drained) == 3


def test_what_was_drained_is_paced_too() -> None:
    bench = Bench(lambda now: 80.0, policy="tiers", warm_duty=0.5, work_seconds=1.0)
    for _ in range(2):
        bench.gate.check("train", 1, lambda: bench.clock.advance(2.0))
    assert bench.gate.waited_seconds == pytest.approx(3.0)


def test_a_pause_lasts_until_it_is_cool() -> None:
    bench = Bench(lambda now: 90.0 - now if now >= 3 else 60.0, policy="tiers")
    moments = bench.work(5)
    assert moments[3:] == pytest.approx([12.0, 13 + 3 / 7])  # 87 °C at 3 s, 78 °C at 12 s
    assert bench.gate.waited_seconds == pytest.approx(9 + 3 / 7)
    assert bench.said == ["Step 1: paused to cool down (87.0 °C, limit 85 °C)."]


def test_pauses_are_told_seldom() -> None:
    bench = Bench(lambda now: 86.0 if now % 20 < 10 else 70.0, policy="tiers")
    bench.work(200)
    assert 1 <= len(bench.said) <= 1 + bench.clock.monotonic() / 300
    assert "pauses so far" in bench.said[-1]


def test_case_pause_never_ends() -> None:
    bench = Bench(lambda now: 88.0, policy="tiers", max_pause_seconds=120.0)
    with pytest.raises(ThermalShutdownError, match=r"still 88.0 °C after a pause of 121 s") as raised:
        bench.work(1)
    assert "max_pause_seconds" in str(raised.value) and "lid" in str(raised.value)
    assert bench.gate.waited_seconds == pytest.approx(121.0)


def test_case_pause_without_a_valid_reading_ends_too() -> None:
    bench = Bench(lambda now: 90.0 if now < 5 else None, policy="tiers", max_pause_seconds=60.0)
    with pytest.raises(ThermalShutdownError, match="still no valid temperature"):
        bench.work(1)


def test_the_stop_is_looked_for_within_a_pause() -> None:
    bench = Bench(lambda now: 86.0 + now / 2, policy="tiers")
    with pytest.raises(ThermalShutdownError, match=r"for 5 s, and 95 °C is the limit"):
        bench.work(1)
    assert bench.clock.monotonic() == pytest.approx(23.0)  # 95 °C at 18 s


def test_case_one_sample_over_the_stop_is_no_stop() -> None:
    bench = Bench(lambda now: 110.0 if 3.0 <= now < 4.0 else 70.0, policy="tiers")
    bench.work(20)
    assert bench.gate.waited_seconds < 10


@pytest.mark.parametrize("policy", ["tiers", "pacing"])
def test_case_thermal_trapping_or_sleeping(policy: str) -> None:
    bench = Bench(lambda now: 70.0, policy=policy)
    bench.work(2)
    bench.curve.pressure = 3
    with pytest.raises(ThermalShutdownError, match="trapping"):
        bench.work(1)


def test_case_hot_start() -> None:
    tiers = Bench(lambda now: max(92.0 - now, 50.0), policy="tiers")
    assert tiers.work(1) == [14.0]
    pacing = Bench(lambda now: 88.0, policy="pacing")
    pacing.work(2)
    assert pacing.gate.waited_seconds > 1.5


def test_case_stale_is_unknown_and_not_cool() -> None:
    """The machine was hot when its sensor fell silent: the pause goes on."""
    bench = Bench(lambda now: 86.0 if now < 2 else (None if now < 30 else 70.0), policy="tiers")
    assert bench.work(1) == [30.0]


@pytest.mark.parametrize("phase", ["eval", "generate"])
def test_case_step_longer_than_poll_and_long_evaluations(phase: str) -> None:
    """The gate acts in every kind of work, and remembers how long nobody asked it."""
    bench = Bench(lambda now: 60.0 if now < 10 else 90.0 - (now - 10), policy="tiers", work_seconds=12.0)
    bench.gate.check("train", 1)
    bench.gate.check(phase, 1)  # type: ignore[arg-type]
    assert bench.gate.waited_seconds > 5
    assert bench.gate.longest_work_seconds == pytest.approx(12.0)


def test_case_pressure_says_nominal_while_slow() -> None:
    bench = Bench(lambda now: 70.0)
    bench.curve.pressure = 0
    worker = bench.gate._ledger._workload
    for step in range(200):
        worker.seconds = 1.0 if step < 100 else 1.3  # type: ignore[attr-defined]
        bench.gate.check("train", step)
        known = bench.gate.after_step(step, 1000, 1000, "shape", compiled=False)
    assert known["throughput_ratio"] == pytest.approx(1 / 1.3, rel=1e-6)
    assert len(bench.said) == 1 and "77%" in bench.said[0]


def test_slowness_is_no_news_on_a_machine_that_is_known_to_be_hot() -> None:
    bench = Bench(lambda now: 70.0)
    bench.curve.pressure = 2
    worker = bench.gate._ledger._workload
    for step in range(200):
        worker.seconds = 1.0 if step < 100 else 1.3  # type: ignore[attr-defined]
        bench.gate.check("train", step)
        bench.gate.after_step(step, 1000, 1000, "shape", compiled=False)
    assert not bench.said


def test_pauses_are_not_taken_for_slowness() -> None:
    bench = Bench(lambda now: 70.0 if now < 60 else 80.0, policy="tiers", warm_duty=0.3)
    for step in range(200):
        bench.gate.check("train", step)
        known = bench.gate.after_step(step, 1000, 1000, "shape", compiled=False)
    assert known["throughput_ratio"] == pytest.approx(1.0) and not bench.said


def test_steps_that_compiled_are_no_measure() -> None:
    bench = Bench(lambda now: 70.0)
    for step in range(100):
        bench.gate.check("train", step)
        known = bench.gate.after_step(step, 1000, 1000, "shape", compiled=True)
    assert "throughput_ratio" not in known


def test_what_is_known_after_a_step_has_no_holes_filled_in() -> None:
    bench = Bench(lambda now: 70.0)
    bench.work(2)
    assert bench.gate.after_step(1, 10, 10, "s", compiled=False) == {
        "temp_c": 70.0,
        "temp_filtered_c": 70.0,
        "duty": 1.0,
        "waited_seconds": 0.0,
    }
    blind = Bench(lambda now: None)
    blind.work(2)
    assert set(blind.gate.after_step(1, 10, 10, "s", compiled=False)) == {"duty", "waited_seconds"}


def test_without_a_sensor_only_speed_is_known() -> None:
    config = ThermalConfig()
    thresholds = thresholds_of(config)
    clock = VirtualClock()
    gate = ThermalGate(None, build_policy(config, thresholds), clock, config, thresholds)
    for step in range(60):
        gate.check("train", step)
        clock.advance(1.0)
        known = gate.after_step(step, 10, 10, "s", compiled=False)
    assert known == {"throughput_ratio": pytest.approx(1.0)}


def test_virtual_waiting_is_none_of_this_process() -> None:
    bench = Bench(lambda now: 80.0, policy="tiers")
    bench.work(5)
    assert bench.gate.waited_seconds > 0 and bench.gate.paused_seconds == 0


def test_split_batches_are_asked_for_and_noted(tmp_path: Path) -> None:
    bench = Bench(lambda now: 60.0 if now < 3 else 80.0, policy="tiers", warm_action="reduce_batch")
    writer = TraceWriter(tmp_path / "thermal.csv", "run", bench.clock)
    bench.gate._recorder = TraceRecorder(writer)
    asked = []
    for _ in range(6):
        bench.gate.check("train", 1)
        asked.append(bench.gate.splits_batches)
    writer.close()
    assert asked == [False, False, False, True, True, True]
    assert [row.action for row in read_trace(tmp_path / "thermal.csv")] == ["split"]


def test_half_a_micro_batch_is_half_the_work() -> None:
    bench = Bench(lambda now: 60.0)
    for _ in range(3):
        bench.gate.check("train", 1, share=0.5)
    assert bench.clock.monotonic() == pytest.approx(1.0)


class Interrupting(SystemClock):
    """Sends this process a signal a while after the first sleep has begun."""

    def __init__(self, number: int):
        self._timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), number))

    def sleep(self, seconds: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        if self._timer.ident is None:
            self._timer.start()
        super().sleep(seconds, interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_case_interrupted_in_a_pause(number: int) -> None:
    """A real signal, a real clock, a real pause: it ends within a fraction of a second."""
    config = ThermalConfig(policy="tiers")
    thresholds = thresholds_of(config)
    clock = Interrupting(number)
    hot = Curve(VirtualClock(), lambda now: 90.0)
    with StopRequest().installed() as stop:
        gate = ThermalGate(
            hot, build_policy(config, thresholds), clock, config, thresholds, stop_requested=stop
        )
        began = time.perf_counter()
        gate.check("train", 1)
        assert stop()
    assert 0.2 < time.perf_counter() - began < AT_ONCE_SECONDS  # not the fifteen minutes of a pause
    assert gate.paused_seconds > 0.2


def test_case_two_runs_on_one_machine(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    other = context.Process(target=_stay, args=(place, there))
    other.start()
    assert here.recv() == "held"
    with presence(place) as found:
        assert found == other.pid
    other.kill()  # however it ends
    other.join()
    with presence(place) as found:
        assert found is None


def _stay(place: Path, pipe: Connection) -> None:
    with presence(place):
        pipe.send("held")
        time.sleep(LONGEST_SECONDS)


def test_no_place_for_the_lock_is_no_error(tmp_path: Path) -> None:
    with presence(tmp_path / "absent" / "lock") as found:
        assert found is None


def test_case_disk_full_drops_rows_and_training_goes_on(tmp_path: Path) -> None:
    bench = Bench(lambda now: 80.0 if now < 50 else 90.0 - (now - 50), policy="tiers")
    writer = TraceWriter(tmp_path / "absent" / "thermal.csv", "run", bench.clock)
    bench.gate._recorder = TraceRecorder(writer)
    bench.work(60)
    assert writer.dropped >= 2


def test_waiting_goes_on_by_itself_and_does_the_work_again() -> None:
    bench = Bench(lambda now: 99.0 if now < 30 else 60.0, policy="tiers", on_stop="wait")
    done: list[float] = []
    stopped: list[str] = []

    def work() -> str:
        bench.gate.check("train", 5)
        done.append(bench.clock.monotonic())
        return "done"

    assert until_cool(bench.gate, work, lambda error: stopped.append(str(error))) == "done"
    assert len(stopped) == 1 and done == [30.0]
    assert bench.said[-1].startswith("Cooled down to 60.0 °C")
    assert bench.gate.waited_seconds == pytest.approx(30.0)


def test_waiting_is_not_for_ever_when_nothing_can_be_read() -> None:
    bench = Bench(
        lambda now: 99.0 if now < 30 else None, policy="tiers", on_stop="wait", max_pause_seconds=50.0
    )
    with pytest.raises(ThermalShutdownError):
        until_cool(bench.gate, lambda: bench.gate.check("train", 1), lambda error: None)
    assert bench.clock.monotonic() < 100


def test_a_step_that_never_fits_is_not_tried_for_ever() -> None:
    """Cool at once after each stop, and hot again by the end of the work."""
    bench = Bench(lambda now: 60.0, policy="tiers", on_stop="wait", work_seconds=0.0)
    stopped: list[str] = []

    def work() -> None:
        bench.curve.pressure = 0
        bench.gate.check("train", 7)
        bench.curve.pressure = 4
        bench.gate.check("train", 7)

    def on_stop(error: ThermalShutdownError) -> None:
        stopped.append(str(error))
        bench.curve.pressure = 0

    with pytest.raises(ThermalShutdownError, match=r"Step 7: stopped for the 4\. time"):
        until_cool(bench.gate, work, on_stop)
    assert len(stopped) == 4


def test_a_requested_stop_ends_the_waiting() -> None:
    asked: list[bool] = []
    bench = Bench(lambda now: 99.0, policy="tiers", on_stop="wait", stop_requested=lambda: len(asked) > 0)
    with pytest.raises(ThermalShutdownError):
        bench.gate.check("train", 1)
    asked.append(True)
    assert not bench.gate.wait_until_cool()


def test_no_gate_has_no_limits() -> None:
    gate = NoGate()
    gate.check("train", 1)
    assert gate.after_step(1, 1, 1, "s", compiled=False) == {}
    assert gate.wait_until_cool() and not gate.splits_batches and gate.paused_seconds == 0


def test_case_sleep_and_wake_between_two_checks() -> None:
    """The reading that noticed the gap was replaced before the gate looked: it starts anew all the same."""
    clock = VirtualClock()
    config = ThermalConfig(policy="pacing")
    thresholds = thresholds_of(config)
    monitor = ThermalMonitor(read_fn=lambda: 84.5, clock=clock)
    gate = ThermalGate(monitor, build_policy(config, thresholds), clock, config, thresholds)
    with monitor:
        for _ in range(300):
            gate.check("train", 1)
            clock.advance(1.0)
        learned = gate.after_step(1, 1, 1, "s", compiled=True)["duty"]
        clock.suspend(3600.0)
        clock.advance(3.0)  # three polls, and the first of them saw the gap
        gate.check("train", 2)
        known = gate.after_step(2, 1, 1, "s", compiled=True)
    assert learned < 0.4 < known["duty"] < 0.5


@pytest.mark.parametrize("policy", ["tiers", "pacing"])
def test_case_hot_start_over_the_stop_is_waited_out(policy: str) -> None:
    """The second of two runs on a machine that lets itself reach 112 °C: it cools, so nothing stops."""
    bench = Bench(lambda now: max(112.0 - 1.5 * now, 40.0), policy=policy)
    bench.work(3)
    assert bench.gate.waited_seconds > 10


def test_a_plateau_over_the_stop_is_a_stop() -> None:
    bench = Bench(lambda now: 96.0 + 0.4 * (int(now) % 2), policy="tiers")
    with pytest.raises(ThermalShutdownError, match="95 °C is the limit"):
        bench.work(1)


@pytest.mark.parametrize("phase", ["eval", "generate"])
def test_evaluation_and_answers_wait_in_place(phase: str) -> None:
    """With `on_stop: wait` nothing has to begin again but a step, whose sums are void."""
    bench = Bench(lambda now: 99.0 if now < 30 else 60.0, policy="tiers", on_stop="wait")
    bench.gate.check(phase, 3)  # type: ignore[arg-type]
    assert bench.clock.monotonic() == 30.0
    assert any("stopped (99.0 °C" in line for line in bench.said)


def test_pressure_alone_is_watched_for_slowness_too() -> None:
    bench = Bench(lambda now: None)
    bench.curve.pressure = 0
    worker = bench.gate._ledger._workload
    for step in range(200):
        worker.seconds = 1.0 if step < 100 else 1.3  # type: ignore[attr-defined]
        bench.gate.check("train", step)
        bench.gate.after_step(step, 1000, 1000, "shape", compiled=False)
    assert len(bench.said) == 1 and "77%" in bench.said[0]


@pytest.mark.parametrize("temp", [None, 50.0])
def test_waiting_for_pressure_ends_when_it_is_gone(temp: float | None) -> None:
    asked: list[float] = []

    def requested() -> bool:  # looked at while waiting: the pressure goes after a minute
        asked.append(0.0)
        bench.curve.pressure = 3 if bench.clock.monotonic() < 60 else 0
        return False

    bench = Bench(lambda now: temp, policy="pacing", on_stop="wait", stop_requested=requested)
    bench.curve.pressure = 3
    with pytest.raises(ThermalShutdownError, match="trapping"):
        bench.gate.check("train", 1)
    assert bench.gate.wait_until_cool()
    assert 60 <= bench.clock.monotonic() <= 62


def test_a_sensor_lost_in_a_pause_is_no_reason_to_stop() -> None:
    """After two minutes, in which any die cools, work goes on as if it were warm."""
    bench = Bench(lambda now: 86.0 if now < 10 else None, policy="tiers")
    moments = bench.work(3)
    assert moments[0] == pytest.approx(120.0, abs=1.1)
    assert moments[1] - moments[0] == pytest.approx(1 / 0.7)


def test_a_cool_down_is_traced_as_one(tmp_path: Path) -> None:
    bench = Bench(lambda now: max(99.0 - now, 50.0) if now > 8 else 99.0, policy="tiers", on_stop="wait")
    writer = TraceWriter(tmp_path / "thermal.csv", "run", bench.clock)
    recorder = bench.gate._recorder = TraceRecorder(writer, bench.thresholds)
    repeater = bench.clock.every(1.0, lambda: recorder.on_reading(bench.curve.latest()))
    until_cool(bench.gate, lambda: bench.gate.check("train", 1), lambda error: None)
    repeater.stop()
    writer.close()
    rows = [row for row in read_trace(tmp_path / "thermal.csv") if row.phase == "cooldown" and not row.action]
    assert {row.tier for row in rows} >= {"critical", "hot", "warm"}
    assert all((row.tier == "critical") == (row.temp_ctrl_c >= 95) for row in rows)


def test_waiting_in_a_room_that_is_too_hot_ends() -> None:
    bench = Bench(lambda now: 99.0, policy="tiers", on_stop="wait")
    with pytest.raises(ThermalShutdownError):
        until_cool(bench.gate, lambda: bench.gate.check("train", 1), lambda error: None)
    assert 7200 < bench.clock.monotonic() < 7300
    assert bench.said[-1].startswith("Still at 99.0 °C after 72")


def test_after_short_pieces_a_long_one_begins_as_cool_as_its_like() -> None:
    bench = Bench(lambda now: 80.0, policy="tiers", warm_duty=0.5)
    bench.work(3)  # of a second each
    for _ in range(3):
        bench.gate.check("eval", 3, share=0.1)
    before = bench.gate.waited_seconds
    bench.gate.check("train", 4)
    assert bench.gate.waited_seconds - before == pytest.approx(1.0)  # and not the 0.1 s of the evaluation
    before = bench.gate.waited_seconds
    bench.gate.check("train", 4)
    assert bench.gate.waited_seconds - before == pytest.approx(1.0)
