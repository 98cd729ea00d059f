"""Whole runs within thermal limits: on a simulated machine in virtual time, so that hours take seconds."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Outcome, Runner, run_of_module, small_overrides
from waiting import LONGEST_SECONDS, wait_for

from bit_axon.profiling.trace import TraceRow, read_trace

HOT = ["thermal=simulated_air", "thermal.simulation.start_temp=70", "thermal.simulation.work_seconds=6"]
STEPS = ["training.max_steps=12", "training.eval_every=4", "training.save_every=4", "training.eval_batches=2"]
# Ends at the first reading over 75 °C, which it comes to after some steps.
EAGER = [
    "thermal=simulated_air",
    "thermal.simulation.start_temp=50",
    "thermal.simulation.work_seconds=1.0",
    "thermal.poll_interval=0.25",
    "thermal.policy=tiers",
    "thermal.warm_action=none",
    "thermal.max_speed_temp=50",
    "thermal.resume_temp=55",
    "thermal.pause_temp=74.9",
    "thermal.stop_temp=75",
    "thermal.stop_hold_seconds=0",
    "thermal.stop_samples=1",
    "thermal.median_samples=1",
]


def adapter(done: Outcome) -> bytes:
    assert done.run_dir is not None
    return (done.run_dir / "adapters.safetensors").read_bytes()


def losses(done: Outcome) -> list[float]:
    assert done.run_dir is not None
    lines = [json.loads(line) for line in (done.run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["metrics"]["train/loss"] for line in lines if line["kind"] == "train"]


def trace(done: Outcome) -> list[TraceRow]:
    assert done.run_dir is not None
    return read_trace(done.run_dir / "thermal.csv")


@pytest.fixture(scope="module")
def cold(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run without limits, of the same rows as each test's own."""
    folder = tmp_path_factory.mktemp("cold")
    done = run_of_module(folder, *small_overrides(tiny_model, folder), *STEPS, "thermal=off")
    assert done.code == 0, done.err
    assert not (done.run_dir / "thermal.csv").exists()  # type: ignore[operator]
    return done


@pytest.fixture(scope="module", params=["tiers", "pacing"])
def hot(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """One that has to wait, under either policy."""
    folder = tmp_path_factory.mktemp("hot")
    limits = [*HOT, f"thermal.policy={request.param}"]
    done = run_of_module(folder, *small_overrides(tiny_model, folder), *STEPS, *limits)
    assert done.code == 0, done.err
    return done


def test_waiting_changes_no_byte(hot: Outcome, cold: Outcome) -> None:
    assert hot.result["thermal"]["overhead"] > 0.1
    assert adapter(hot) == adapter(cold) and losses(hot) == losses(cold)


def test_split_batches_change_rounding_and_are_tagged(
    run: Runner, small_run: list[str], cold: Outcome
) -> None:
    done = run(*small_run, *STEPS, *HOT, "thermal.policy=tiers", "thermal.warm_action=reduce_batch")
    assert done.code == 0, done.err
    assert losses(done) == pytest.approx(losses(cold), rel=1e-5)
    assert done.result["eval_loss"] == pytest.approx(cold.result["eval_loss"], rel=1e-5)
    assert done.result["thermal"]["batches_split"] is True
    assert "batches_split" not in cold.result["thermal"]
    work = [row for row in trace(done) if row.action == "split"]
    assert work and adapter(done) != b""


@pytest.mark.slow
def test_a_stop_loses_nothing_and_the_same_command_goes_on(
    run: Runner, small_run: list[str], cold: Outcome, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    command = [*small_run, *STEPS, *EAGER]
    done = run(*command, f"hydra.run.dir={folder}")
    codes = [done.code]
    steps = []
    while codes[-1] == 3 and len(codes) < 40:
        result = json.loads((folder / "result.json").read_text())
        assert (result["state"], result["stop_reason"]) == ("stopped", "thermal")
        steps.append(result["step"])
        saved = [path.name for path in (folder / "checkpoints").glob("step_*")]
        assert not result["step"] or f"step_{result['step']:08}" in saved
        codes.append(run(f"resume={folder}").code)
    assert codes[0] == 3 and codes[-1] == 0 and len(codes) >= 3, codes
    assert steps == sorted(steps)
    assert (folder / "adapters.safetensors").read_bytes() == adapter(cold)
    rows = read_trace(folder / "thermal.csv")
    assert [row.action for row in rows].count("stop") == len(codes) - 1
    assert all(a.t_mono_s <= b.t_mono_s for a, b in itertools.pairwise(rows))
    assert json.loads((folder / "result.json").read_text())["thermal"]["stops"] == len(codes) - 1


def test_a_run_may_wait_and_go_on_by_itself(run: Runner, small_run: list[str], cold: Outcome) -> None:
    done = run(*small_run, *STEPS, *EAGER, "thermal.on_stop=wait")
    assert done.code == 0, done.err
    assert adapter(done) == adapter(cold)
    assert done.result["thermal"]["stops"] >= 2
    assert "cooldown" in [row.action for row in trace(done)]
    assert "going on" in done.out
    lines = (done.run_dir / "metrics.jsonl").read_text().splitlines()  # type: ignore[operator]
    evaluated = [json.loads(line)["step"] for line in lines if json.loads(line)["kind"] == "eval"]
    assert evaluated == [0, 4, 8, 12]


def test_the_gate_is_asked_in_accumulation_evaluation_and_generation(
    run: Runner, small_run: list[str]
) -> None:
    options = ["thermal=simulated_air", "data.sample_prompts=4", "data.max_new_tokens=6"]
    done = run(*small_run, *options, "training.grad_accum_steps=4")
    assert done.code == 0, done.err
    rows = trace(done)
    training = [row for row in rows if row.phase == "train"]
    assert {row.micro_step for row in training} >= {1, 2, 3, 4}
    assert [row.phase for row in rows].count("eval") > 2
    assert done.result["thermal"]["longest_work_seconds"] == pytest.approx(1.5, abs=0.01)


def test_the_trace_and_the_figures_of_a_run(hot: Outcome) -> None:
    done = hot
    rows, thermal = trace(done), done.result["thermal"]
    assert rows[0].action == "start" and {row.source for row in rows[1:]} == {"simulated"}
    assert thermal["max"] == pytest.approx(max(row.temp_ctrl_c for row in rows[1:]), abs=1e-6)
    assert thermal["gated"] is True and thermal["simulated"] is True
    assert done.result["seconds"]["paused"] == 0  # simulated time is none of this process's
    metrics = [json.loads(line) for line in (done.run_dir / "metrics.jsonl").read_text().splitlines()]  # type: ignore[operator]
    steps = [line for line in metrics if line["kind"] == "train"]
    assert all({"thermal/temp_c", "thermal/duty"} <= set(line["metrics"]) for line in steps)
    assert (done.run_dir / "thermal.png").read_bytes().startswith(b"\x89PNG")  # type: ignore[operator]
    assert "in the mean" in done.out and "waited to cool" in done.out


def test_a_recorded_trace_drives_a_run(run: Runner, small_run: list[str], hot: Outcome) -> None:
    again = run(*small_run, "thermal=replay", f"thermal.replay_file={hot.run_dir}/thermal.csv")
    assert again.code == 0, again.err
    assert again.result["thermal"]["source"] == "replay"
    assert trace(again)[1].temp_ctrl_c == pytest.approx(trace(hot)[1].temp_ctrl_c, abs=0.01)


def has_paused(folder: Path) -> bool:
    trace = folder / "thermal.csv"
    return trace.is_file() and ",pause," in trace.read_text()


@pytest.mark.slow
def test_a_signal_ends_a_real_pause(small_run: list[str], outputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "paused"
    command = [
        *(sys.executable, "-m", "bit_axon.run", *small_run, f"hydra.run.dir={folder}"),
        *("thermal=simulated_air", "thermal.simulation.clock=real", "thermal.policy=tiers"),
        *("thermal.simulation.start_temp=94", "thermal.simulation.ambient_temp=80", "thermal.stop_temp=120"),
    ]
    environment = {**os.environ, "BIT_AXON_OUTPUTS": str(outputs)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: has_paused(folder), "a pause", process)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=LONGEST_SECONDS)[0]  # a pause may last fifteen minutes
    assert process.returncode == 130, out
    assert "paused to cool down" in out
    assert json.loads((folder / "result.json").read_text())["seconds"]["paused"] > 0


WRONG = [
    (["thermal.policy=pacig"], "pacing"),
    (["thermal.source=nvml"], "thermal doctor"),
    (["thermal.source=smc"], "macOS"),
    (["thermal=replay"], "replay_file"),
    (["thermal=replay", "thermal.replay_file=/nowhere/thermal.csv"], "/nowhere/thermal.csv"),
    (["thermal.pause_temp=96"], "thermal.pause_temp below thermal.stop_temp"),
    (["thermal=simulated_air", "thermal.simulation.preset=fanles_air"], "fanless_air"),
    (["thermal.target_temp=200"], "thermal.target_temp"),
    (["thermal.typo=1"], "thermal.typo"),
    (["thermal=simulated_air", "thermal.valid_temp=[130,15]"], "thermal.valid_temp"),
    (["thermal=simulated_air", "thermal.start_duty=0.02"], "thermal.min_duty"),
]


@pytest.mark.parametrize(("overrides", "told"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_wrong_thermal_options_are_told_before_anything_is_loaded(
    overrides: list[str], told: str, run: Runner, small_run: list[str]
) -> None:
    done = run(*small_run, *overrides)
    assert done.code == 2 and told in done.err and "Traceback" not in done.err
    assert done.run_dir is None


@pytest.mark.parametrize("asked", ["before", "eval"])
def test_a_signal_in_a_pause_of_answers_or_evaluation(
    asked: str, small_run: list[str], outputs: Path, tmp_path: Path
) -> None:
    """It ends there, with 130: the rest is not done without limits on a hot machine."""
    folder = tmp_path / "paused"
    answers = ["data.sample_prompts=4"] if asked == "before" else []
    command = [
        *(sys.executable, "-m", "bit_axon.run", *small_run, *answers, f"hydra.run.dir={folder}"),
        *("thermal=simulated_air", "thermal.simulation.clock=real", "thermal.policy=tiers"),
        *("thermal.simulation.start_temp=94", "thermal.simulation.ambient_temp=80", "thermal.stop_temp=120"),
        "thermal.poll_interval=0.25",
    ]
    environment = {**os.environ, "BIT_AXON_OUTPUTS": str(outputs)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: has_paused(folder), "a pause", process)
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=LONGEST_SECONDS)[0]
    assert process.returncode == 130, out
    result = json.loads((folder / "result.json").read_text())
    assert (result["state"], result["stop_reason"], result["step"]) == ("interrupted", "interrupt", 0)
    assert result["eval_loss_before"] is None  # the evaluation was not made without limits
