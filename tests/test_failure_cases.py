"""The failure cases that thermal limits have to stand: which test covers each, and tests of whole runs.

The parts have tests of their own; those here are of the parts together: a gate over a monitor over
sources, with its trace, or a run by its command line.
"""

import ast
import json
import socket
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Outcome, Runner, run_of_module, small_overrides
from laboratory import Fake, reading
from thermal_cases import Bench

from bit_axon.errors import SensorError, ThermalShutdownError
from bit_axon.profiling.clock import Clock, VirtualClock
from bit_axon.profiling.reading import RawReading
from bit_axon.profiling.sensors.base import Probe, Source, Thresholds
from bit_axon.profiling.sensors.registry import Choice, choose
from bit_axon.profiling.sensors.replay import ReplaySource
from bit_axon.profiling.trace import TraceRow, read_trace
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling import assembly
from bit_axon.training.cooling.assembly import ThermalSetup, session
from bit_axon.training.cooling.gates import until_cool
from bit_axon.training.cooling.presence import presence

# In the order of the project's list of them. What the runs' base temperature is to be while hot belongs to
# searches, which are not there yet.
CASES: dict[str, tuple[str, ...]] = {
    "no source on this system": (
        "test_failure_cases.py::test_a_run_without_a_source_says_so_once_and_is_tagged",
        "test_failure_cases.py::test_a_run_that_demands_a_source_ends_before_anything_is_loaded",
        "test_sensor_choice.py::test_on_missing_error_names_what_was_tried",
        "test_thermal_gate.py::test_without_a_sensor_only_speed_is_known",
    ),
    "sensor vanishes mid-run": (
        "test_failure_cases.py::test_a_source_that_vanishes_is_replaced_and_the_gate_goes_by_the_next",
        "test_monitor.py::test_sensor_vanishes_its_value_is_held_and_the_next_source_takes_over",
        "test_monitor.py::test_all_sources_lost_is_stale_and_said_once_with_the_pressure_going_on",
        "test_sensors_tools.py::test_a_child_is_restarted_three_times_with_longer_and_longer_pauses",
        "test_sensors_nvml.py::test_nvml_lost_in_mid_run_is_an_error",
        "test_sensors_smc.py::test_a_key_that_vanishes_is_left_out_until_none_is_left",
    ),
    "NaN, infinity, sentinels": (
        "test_monitor.py::test_nonsense_of_one_sensor_is_dropped",
        "test_monitor.py::test_nonsense_of_all_sensors_is_invalid_and_holds",
        "test_population.py::test_a_sensor_out_of_range_is_not_believed",
    ),
    "GPU gated in a pause": (
        "test_monitor.py::test_gpu_gated_in_a_pause_never_looks_cool_at_once",
        "test_population.py::test_gpu_gated_in_a_pause_approaches_the_cpu_die",
        "test_cooling_policies.py::test_a_pause_ends_at_the_resume_temperature_by_the_mean_and_not_at_once",
        "test_cooling_policies.py::test_unknown_is_not_cool_and_ends_no_pause",
    ),
    "one-sample spike": (
        "test_monitor.py::test_one_sample_spike_does_not_show",
        "test_thermal_gate.py::test_case_one_sample_over_the_stop_is_no_stop",
        "test_cooling_policies.py::test_a_stop_needs_time_and_readings_without_a_break",
    ),
    "stuck value": (
        "test_monitor.py::test_stuck_value_is_dropped_with_an_event_and_the_next_source_takes_over",
        "test_population.py::test_stuck_while_the_duty_changed_is_dropped",
        "test_sensors_macos.py::test_groups_of_hid_names",
    ),
    "sensor set changes": (
        "test_monitor.py::test_changing_sensor_set_does_not_move_the_mean",
        "test_population.py::test_the_mean_does_not_saw_tooth_when_a_rotating_subset_is_read",
    ),
    "poll thread dies or blocks": (
        "test_monitor.py::test_real_thread_that_dies_makes_the_reading_stale",
        "test_monitor.py::test_real_thread_that_hangs_makes_the_reading_stale_and_holds_nobody_up",
        "test_thermal_gate.py::test_case_stale_is_unknown_and_not_cool",
    ),
    "pause never ends": (
        "test_thermal_gate.py::test_case_pause_never_ends",
        "test_thermal_gate.py::test_case_pause_without_a_valid_reading_ends_too",
        "test_thermal_loop.py::test_a_stop_ends_in_a_checkpoint_and_loses_nothing",
    ),
    "sleep and wake": (
        "test_failure_cases.py::test_a_machine_that_slept_leaves_a_gap_in_the_trace_and_control_begins_anew",
        "test_monitor.py::test_sleep_and_wake_is_a_gap_and_starts_anew",
        "test_cooling_policies.py::test_pacing_keeps_its_duty_while_nothing_is_known_and_forgets_it_after_a_gap",
        "test_clock.py::test_system_time_agrees_with_the_process",
        "test_summary.py::test_energy_is_that_of_the_system_where_it_is_known",
    ),
    "wall clock steps": (
        "test_failure_cases.py::test_a_wall_clock_that_is_set_changes_no_decision",
        "test_monitor.py::test_wall_clock_steps_change_only_the_time_stamps",
        "test_trace.py::test_a_resumed_trace_goes_on_by_the_wall_time_that_passed",
    ),
    "long pieces of work": (
        "test_thermal_gate.py::test_case_step_longer_than_poll_and_long_evaluations",
        "test_thermal_run.py::test_the_gate_is_asked_in_accumulation_evaluation_and_generation",
        "test_thermal_loop.py::test_the_gate_is_asked_before_every_piece_of_work",
        "test_answers.py::test_a_call_before_each_token_and_each_part_of_a_prompt",
    ),
    "hot start": (
        "test_failure_cases.py::test_a_run_that_starts_hot_waits_or_begins_slowly",
        "test_thermal_gate.py::test_case_hot_start",
        "test_cooling_policies.py::test_a_hot_start_begins_slowly",
    ),
    "nominal pressure while slow": (
        "test_failure_cases.py::test_nominal_pressure_alone_is_no_proof_of_speed",
        "test_thermal_gate.py::test_case_pressure_says_nominal_while_slow",
        "test_throughput.py::test_a_fall_is_told_once_and_again_only_after_it_was_over",
    ),
    "sudo missing or expired": (
        "test_sensors_tools.py::test_a_sudo_that_would_ask_is_refused_before_anything_starts",
        "test_sensors_tools.py::test_powermetrics_runs_as_one_child_under_sudo_that_never_asks",
        "test_sensors_tools.py::test_the_child_cannot_prompt_and_does_not_hear_ctrl_c",
        "test_sensor_choice.py::test_root_is_never_asked_for_unasked",
    ),
    "NVML does not support a field": (
        "test_sensors_nvml.py::test_a_field_that_is_not_supported_is_none_for_ever_and_logged_once",
        "test_sensors_nvml.py::test_a_field_that_stops_being_supported_is_dropped_too",
        "test_trace.py::test_what_is_unknown_is_an_empty_cell_and_never_a_zero",
    ),
    "two runs on one machine": (
        "test_failure_cases.py::test_the_second_run_on_a_machine_is_told_of_the_first",
        "test_thermal_gate.py::test_case_two_runs_on_one_machine",
    ),
    "Ctrl-C or SIGTERM in a pause": (
        "test_thermal_gate.py::test_case_interrupted_in_a_pause",
        "test_thermal_run.py::test_a_signal_ends_a_real_pause",
        "test_thermal_loop.py::test_requested_stops_end_the_waiting",
        "test_thermal_loop.py::test_a_stop_requested_in_a_pause_is_heard_before_the_next_piece",
    ),
    "disk full or MLflow down": (
        "test_failure_cases.py::test_a_trace_that_cannot_be_written_costs_the_run_nothing",
        "test_failure_cases.py::test_without_a_tracking_server_the_trace_is_whole",
        "test_trace.py::test_a_full_disk_drops_rows_and_later_ones_are_whole",
        "test_thermal_gate.py::test_case_disk_full_drops_rows_and_training_goes_on",
        "test_failures.py::test_the_mlflow_server_is_not_there",
    ),
    "thermal trapping or sleeping": (
        "test_failure_cases.py::test_a_run_at_trapping_pressure_is_checkpointed_and_stopped",
        "test_failure_cases.py::test_waiting_to_cool_down_lasts_until_the_pressure_is_gone_too",
        "test_thermal_gate.py::test_case_thermal_trapping_or_sleeping",
        "test_cooling_policies.py::test_trapping_and_sleeping_pressure_stop_at_once",
    ),
    "thresholds out of order": (
        "test_cooling_policies.py::test_case_thresholds_out_of_order",
        "test_cooling_scheduler.py::test_a_policy_that_cannot_work_is_refused_where_it_is_made",
        "test_thermal_run.py::test_wrong_thermal_options_are_told_before_anything_is_loaded",
    ),
    "replay shorter than the run": (
        "test_failure_cases.py::test_a_recording_that_ends_is_held_and_then_not_known",
        "test_replay.py::test_the_last_row_holds_for_a_while_then_there_is_no_answer",
    ),
}
TABLE = ROOT.parent / "shared" / "reference" / "thermal.md"


@cache
def functions_in(file: str) -> frozenset[str]:
    """Names at the top level of a test file, which is not imported."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_covered_by_tests_that_exist(case: str) -> None:
    assert CASES[case]
    for place in CASES[case]:
        file, _, name = place.partition("::")
        assert name.startswith("test_") and name in functions_in(file), f"{place} is not there"


@pytest.mark.skipif(not TABLE.is_file(), reason="the list of cases is not here")
def test_no_case_of_the_list_is_left_out() -> None:
    section = TABLE.read_text().partition("### 5.5")[2].partition("###")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(CASES)


# Gate, monitor, sources and trace together, in virtual time


class Course(Fake):
    """A source whose answer is a function of time."""

    def __init__(self, name: str, clock: Clock, answer: Callable[[float], RawReading | Exception]):
        super().__init__(name, reading())
        self._clock, self._answer = clock, answer

    def read(self) -> RawReading:
        answer = self._answer(self._clock.monotonic())
        if isinstance(answer, Exception):
            raise answer
        return answer


def temp(degrees: float, now: float) -> RawReading:
    """Two sensors with some noise: constants are not believed for ever."""
    noise = 0.01 * ((now * 7.3) % 5)
    return reading(("cpu", degrees - 3.0 - noise), ("gpu", degrees + noise))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other run of this machine is seen, nor sees these."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class Held:
    """A run's worth of checks under a session's gate, a second of work after each."""

    def __init__(self, folder: Path, clock: VirtualClock, *sources: Source, **options: object):
        self.clock, self.folder, self.said = clock, folder, list[str]()
        config = ThermalConfig(median_samples=1, **options)  # type: ignore[arg-type]
        setup = ThermalSetup(config, clock, Choice(sources), Thresholds())
        self.session = session(setup, folder, "run", say=self.said.append)

    def work(self, seconds: float, on_the_way: Callable[[int], None] = lambda step: None) -> list[float]:
        """The moments at which work began."""
        moments = []
        with self.session as thermal:
            step = 0
            while self.clock.monotonic() < seconds:
                step += 1
                on_the_way(step)
                thermal.gate.check("train", step)
                moments.append(self.clock.monotonic())
                self.clock.advance(1.0)
        return moments

    @property
    def rows(self) -> list[TraceRow]:
        return read_trace(self.folder / "thermal.csv")

    @property
    def actions(self) -> list[str]:
        return [row.action for row in self.rows if row.action]


def test_a_source_that_vanishes_is_replaced_and_the_gate_goes_by_the_next(
    tmp_path: Path, alone: None
) -> None:
    clock = VirtualClock()
    gone = SensorError("no answer")
    first = Course("smc", clock, lambda now: temp(60.0, now) if now < 10 else gone)
    second = Course("iohid", clock, lambda now: temp(90.0 if now < 40 else 60.0, now))
    held = Held(tmp_path, clock, first, second, policy="tiers", filter_seconds=1.0)
    moments = held.work(60.0)
    assert held.actions == ["start", "lost", "source", "pause", "resume"]
    assert not [moment for moment in moments if 16 < moment < 40]
    qualities = {row.t_mono_s: row.quality for row in held.rows if not row.action}
    assert [qualities[second] for second in (9.0, 11.0, 14.0, 17.0)] == ["ok", "held", "held", "ok"]
    assert {row.source for row in held.rows if row.t_mono_s > 17} == {"iohid"}
    assert first.closed and second.closed
    said = " ".join(held.said)
    assert "smc" in said and "no answer" in said and "Temperature from iohid now" in said


def test_a_machine_that_slept_leaves_a_gap_in_the_trace_and_control_begins_anew(
    tmp_path: Path, alone: None
) -> None:
    """What the controller had learned, a duty far below its first one, is void after an hour."""
    clock = VirtualClock()
    source = Course("smc", clock, lambda now: temp(86.0 if now < 400 else 83.0, now))
    held = Held(tmp_path, clock, source, policy="pacing")
    asleep: list[float] = []

    def sleep(step: int) -> None:
        if clock.monotonic() >= 400 and not asleep:
            asleep.append(clock.monotonic())
            clock.suspend(3600.0)

    held.work(450.0, sleep)
    rows = held.rows
    assert held.actions.count("gap") == 1
    gap = next(row for row in rows if row.action == "gap")
    assert gap.t_mono_s == pytest.approx(asleep[0], abs=1.1)
    before, after = (
        [r for r in rows if not r.action and (r.t_mono_s < asleep[0]) is b] for b in (True, False)
    )
    assert after[0].quality == "gap" and {row.quality for row in [*before, *after[1:]]} == {"ok"}
    passed = after[0].t_wall_utc_ms - before[-1].t_wall_utc_ms
    assert passed == pytest.approx(3_600_000 + 1000 * (after[0].t_mono_s - before[-1].t_mono_s), abs=2)
    assert before[-1].duty < 0.1 and after[-1].duty == pytest.approx(0.5, abs=0.02)
    assert after[0].temp_filt_c == pytest.approx(83.0, abs=0.1)  # no mean with what was before


def test_a_wall_clock_that_is_set_changes_no_decision(tmp_path: Path, alone: None) -> None:
    moments = []
    for name, shift_ms in (("plain", 0), ("back", -7_200_000), ("forward", 7_200_000)):
        clock = VirtualClock()
        source = Course("smc", clock, lambda now: temp(90.0 if now % 40 >= 20 else 65.0, now))
        folder = tmp_path / name
        folder.mkdir()
        held = Held(folder, clock, source, policy="tiers")

        def shift(step: int, clock: VirtualClock = clock, shift_ms: int = shift_ms) -> None:
            if step == 10:
                clock.set_wall(shift_ms)

        moments.append((held.work(120.0, shift), [row.t_mono_s for row in held.rows], held.actions))
    assert moments[0] == moments[1] == moments[2]
    assert "pause" in moments[0][2] and "gap" not in moments[0][2]


def test_a_recording_that_ends_is_held_and_then_not_known(tmp_path: Path, alone: None) -> None:
    """It ended hot: that nothing is known any more is no reason to go on, nor to wait for ever."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    clock = VirtualClock()
    source = Course("smc", clock, lambda now: temp(60.0 + 3.0 * now, now))
    Held(recorded, clock, source, policy="off").work(11.0)
    clock = VirtualClock()
    replay = ReplaySource(recorded / "thermal.csv", clock)
    assert replay.probe().ok
    again = tmp_path / "again"
    again.mkdir()
    held = Held(again, clock, replay, policy="tiers", max_pause_seconds=60.0)
    with pytest.raises(ThermalShutdownError, match=r"still no valid temperature after a pause of 6\d s"):
        held.work(200.0)
    qualities = [row.quality for row in held.rows if not row.action]
    changes = [quality for n, quality in enumerate(qualities) if qualities[n - 1] != quality]
    assert changes == ["ok", "held", "stale"]
    assert held.actions[-1] == "stop"
    cool = tmp_path / "cool"
    cool.mkdir()
    clock = VirtualClock()
    source = Course("smc", clock, lambda now: temp(60.0, now))
    Held(cool, clock, source, policy="off").work(11.0)
    clock = VirtualClock()
    replay = ReplaySource(cool / "thermal.csv", clock)
    assert replay.probe().ok
    (tmp_path / "on").mkdir()
    held = Held(tmp_path / "on", clock, replay, policy="tiers")
    moments = held.work(100.0)  # it ended cool: unknown is a reason to go slower, and none to stand still
    assert max(b - a for a, b in pairwise(moments)) < 2.0 and "pause" not in held.actions


def test_the_second_run_on_a_machine_is_told_of_the_first(tmp_path: Path, alone: None) -> None:
    def begins(name: str) -> Held:
        clock = VirtualClock()
        (tmp_path / name).mkdir()
        return Held(tmp_path / name, clock, Course("smc", clock, lambda now: temp(60.0, now)))

    with presence() as other:  # the first run
        assert other is None
        second = begins("second")
        second.work(2.0)
    third = begins("third")
    third.work(2.0)
    assert len(second.said) == 1
    assert "heating this machine" in second.said[0] and "process" in second.said[0]
    assert third.said == []


# The gate alone


def test_nominal_pressure_alone_is_no_proof_of_speed() -> None:
    """On a machine that tells its pressure and no temperature, speed is all there is to go by."""
    bench = Bench(lambda now: None)
    bench.curve.pressure = 0
    worker = bench.gate._ledger._workload
    for step in range(200):
        worker.seconds = 1.0 if step < 100 else 1.3  # type: ignore[attr-defined]
        bench.gate.check("train", step)
        bench.gate.after_step(step, 1000, 1000 * step, "shape", compiled=False)
    assert len(bench.said) == 1 and "77%" in bench.said[0]


@pytest.mark.parametrize("degrees", [70.0, None])
def test_waiting_to_cool_down_lasts_until_the_pressure_is_gone_too(degrees: float | None) -> None:
    """The pressure that stopped the run is what has to fall, whatever the sensors of the die say."""
    bench = Bench(lambda now: degrees, policy="tiers", on_stop="wait")
    bench.curve.pressure = 3

    def fall() -> None:
        bench.curve.pressure = 3 if bench.clock.monotonic() < 60 else 0

    def work() -> float:
        bench.gate.check("train", 5)
        return bench.clock.monotonic()

    bench.clock.every(1.0, fall)
    assert until_cool(bench.gate, work, lambda error: None) == pytest.approx(60.0)


# Whole runs


Install = Callable[..., None]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, alone: None) -> Install:
    """Puts these sources, and no others, on a system of that name."""

    def install(platform: str, builders: Mapping[str, Callable[[Clock], Source]]) -> None:
        monkeypatch.setattr(assembly, "choose", partial(choose, platform=platform, builders=builders))

    return install


def refusing(name: str) -> Callable[[Clock], Source]:
    return lambda clock: Fake(name, reading(), Probe(False, f"{name} is not there"))


NOTHING = {name: refusing(name) for name in ("smc", "iohid", "macmon", "pressure", "nvml", "linux")}


def adapter(done: Outcome) -> bytes:
    assert done.run_dir is not None
    return (done.run_dir / "adapters.safetensors").read_bytes()


@pytest.mark.parametrize("platform", ["darwin", "linux", "win32"])
def test_a_run_without_a_source_says_so_once_and_is_tagged(
    platform: str, system: Install, run: Runner, small_run: list[str]
) -> None:
    system(platform, NOTHING)
    done = run(*small_run, "thermal=auto", "training.max_steps=1")
    assert done.code == 0, done.err
    said = " ".join((done.out + done.err).split())
    assert said.count("No temperature sensor answers") == 1
    assert said.count("has no thermal limits") == 1 and "Traceback" not in said
    assert done.result["thermal"]["gated"] is False and done.result["thermal"]["source"] == "none"
    assert done.run_dir is not None and not (done.run_dir / "thermal.csv").exists()
    repro = json.loads((done.run_dir / "repro.json").read_text())
    assert repro["thermal"]["gated"] is False


@pytest.mark.parametrize("platform", ["darwin", "linux", "win32"])
def test_a_run_that_demands_a_source_ends_before_anything_is_loaded(
    platform: str, system: Install, run: Runner, small_run: list[str]
) -> None:
    system(platform, NOTHING)
    done = run(*small_run, "thermal.on_missing=error", "model.path=/nowhere")
    assert done.code == 2 and done.run_dir is None
    assert "wanted a temperature sensor" in done.err and "nowhere" not in done.err


class Trapped(Fake):
    """Pressure that is nominal until three steps were made."""

    def __init__(self, outputs: Path):
        super().__init__("pressure", reading(), Probe(True, "nominal"))
        self._outputs = outputs

    def read(self) -> RawReading:
        logs = self._outputs.glob("runs/*/metrics.jsonl")
        steps = sum(log.read_text().count('"kind": "train"') for log in logs)
        return RawReading(pressure=3 if steps >= 3 else 0)


def test_a_run_at_trapping_pressure_is_checkpointed_and_stopped(
    system: Install, run: Runner, small_run: list[str], outputs: Path
) -> None:
    steps = ["training.max_steps=400", "training.save_every=1000", "training.eval_every=0"]
    system("darwin", {**NOTHING, "pressure": lambda clock: Trapped(outputs)})
    done = run(*small_run, *steps, "thermal=auto", "thermal.poll_interval=0.02")
    assert done.code == 3, done.err
    assert done.result["stop_reason"] == "thermal" and done.result["step"] >= 3
    assert "thermal pressure 'trapping'" in " ".join(done.out.split())
    assert done.run_dir is not None
    saved = [path.name for path in (done.run_dir / "checkpoints").glob("step_*")]
    assert saved == [f"step_{done.result['step']:08}"]
    actions = [row.action for row in read_trace(done.run_dir / "thermal.csv") if row.action]
    assert actions[0] == "start" and actions[-1] == "stop"
    assert done.result["thermal"]["stops"] == 1


def test_a_run_that_starts_hot_waits_or_begins_slowly(run: Runner, small_run: list[str]) -> None:
    cold = run(*small_run, "thermal=off")
    hot = ["thermal=simulated_air", "thermal.simulation.start_temp=90"]
    tiers = run(*small_run, *hot, "thermal.policy=tiers")
    assert tiers.code == 0, tiers.err
    rows = read_trace(tiers.run_dir / "thermal.csv")  # type: ignore[operator]
    actions = [row.action for row in rows if row.action]
    assert actions[:3] == ["start", "pause", "resume"]
    resumed = next(row for row in rows if row.action == "resume")
    assert resumed.tokens_total == 0 and resumed.temp_filt_c <= 78.0
    pacing = run(*small_run, *hot, "thermal.policy=pacing")
    rows = read_trace(pacing.run_dir / "thermal.csv")  # type: ignore[operator]
    duties = [row.duty for row in rows if row.phase in ("train", "eval")]
    assert duties[1] < 0.6
    assert adapter(cold) == adapter(tiers) == adapter(pacing)


WARM = ["thermal=simulated_air", "thermal.simulation.start_temp=70"]


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A warm run of the same rows as each test's own, that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    return run_of_module(folder, *small_overrides(tiny_model, folder), *WARM)


def test_a_trace_that_cannot_be_written_costs_the_run_nothing(
    run: Runner, small_run: list[str], whole: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "TRACE_FILE", "absent/thermal.csv")
    done = run(*small_run, *WARM)
    assert done.code == 0 and done.result["state"] == "finished", done.err
    assert adapter(done) == adapter(whole)
    thermal: dict[str, Any] = done.result["thermal"]
    assert thermal["dropped_rows"] > 10 and "absent/thermal.csv" in thermal["trace_error"]
    assert thermal["gated"] is True and "Traceback" not in done.err + done.out
    assert whole.result["thermal"]["dropped_rows"] == 0


def test_without_a_tracking_server_the_trace_is_whole(
    run: Runner, small_run: list[str], whole: Outcome
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    done = run(*small_run, *WARM, "tracking=mlflow", f"tracking.uri={address}")
    assert done.code == 0 and done.result["state"] == "finished", done.err
    assert "Traceback" not in done.out + done.err
    assert adapter(done) == adapter(whole)
    rows, expected = (read_trace(d.run_dir / "thermal.csv") for d in (done, whole))  # type: ignore[operator]
    assert [row.t_mono_s for row in rows] == [row.t_mono_s for row in expected]
    assert [row.temp_ctrl_c for row in rows[1:]] == [row.temp_ctrl_c for row in expected[1:]]
