"""A run that is cut anywhere and resumed ends with the bytes of one that was not cut."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Runner, run_of_module, small_overrides
from waiting import LONGEST_SECONDS, wait_for

from bit_axon.training.checkpoint import get_latest_checkpoint

ATTEMPTS = 5
STEPS = ["training.max_steps=30", "training.save_every=3", "training.eval_every=10", "adapter.dropout=0.1"]


def start(arguments: list[str], outputs: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "BIT_AXON_OUTPUTS": str(outputs)}
    command = [sys.executable, "-m", "bit_axon.run", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Returns once the log of the run has the step."""
    log = run_dir / "metrics.jsonl"
    wanted = f'"step": {step}, "kind": "train"'
    wait_for(
        lambda: log.is_file() and wanted in log.read_text(), f"step {step}", process, pause_seconds=0.002
    )


def signalled(
    number: int, arguments: list[str], outputs: Path, folder: Path, *, step: int, later_seconds: float = 0.0
) -> tuple[Path, int, str]:
    """The folder of a run that was sent a signal after the step, its exit code, and what it said.

    On a busy machine the signal may come when the run has ended: then there is another run.
    """
    for attempt in range(ATTEMPTS):
        run_dir = folder.with_name(f"{folder.name}-{attempt}")
        process = start([*arguments, f"hydra.run.dir={run_dir}"], outputs)
        wait_for_step(run_dir, step, process)
        time.sleep(later_seconds)
        process.send_signal(number)
        said = process.communicate(timeout=LONGEST_SECONDS)[0]
        result = run_dir / "result.json"
        if not result.exists() or '"state": "finished"' not in result.read_text():
            return run_dir, process.returncode, said
    raise AssertionError(f"{ATTEMPTS} runs went on to their ends in spite of signal {number}")


def adapter(run_dir: Path) -> bytes:
    return (run_dir / "adapters.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run_of_module(folder, *small_overrides(tiny_model, folder), *STEPS)
    assert done.code == 0, done.err
    assert done.run_dir is not None
    return adapter(done.run_dir)


def kill_and_resume(
    number: int, small_run: list[str], outputs: Path, tmp_path: Path, run: Runner, expected: bytes
) -> None:
    chance = random.Random(number)
    step = chance.randint(1, 26)
    later_seconds = chance.random() * 0.05  # anywhere: in an accumulation, an evaluation, a save
    folder, code, said = signalled(
        signal.SIGKILL,
        [*small_run, *STEPS],
        outputs,
        tmp_path / f"cut{number}",
        step=step,
        later_seconds=later_seconds,
    )
    assert code == -signal.SIGKILL and not (folder / "result.json").exists(), said
    assert run(f"resume={folder}").code == 0
    assert adapter(folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_killed_at_a_random_moment(
    number: int, small_run: list[str], outputs: Path, tmp_path: Path, run: Runner, uninterrupted: bytes
) -> None:
    kill_and_resume(number, small_run, outputs, tmp_path, run, uninterrupted)


@pytest.mark.slow
def test_killed_twenty_times(
    small_run: list[str], outputs: Path, tmp_path: Path, run: Runner, uninterrupted: bytes
) -> None:
    for number in range(100, 120):
        kill_and_resume(number, small_run, outputs, tmp_path, run, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_in_a_checkpoint(
    number: int, small_run: list[str], outputs: Path, tmp_path: Path, run: Runner, uninterrupted: bytes
) -> None:
    folder, code, said = signalled(number, [*small_run, *STEPS], outputs, tmp_path / "stopped", step=4)
    assert code == 130, said
    assert "Traceback" not in said
    assert '"state": "interrupted"' in (folder / "result.json").read_text()
    assert run(f"resume={folder}").code == 0
    assert adapter(folder) == uninterrupted


def test_resuming_a_finished_run_changes_nothing(run: Runner, small_run: list[str]) -> None:
    done = run(*small_run)
    before = {p: p.stat().st_mtime_ns for p in done.run_dir.rglob("*")}
    again = run(f"resume={done.run_dir}")
    assert again.code == 0 and "finished already" in again.out
    assert {p: p.stat().st_mtime_ns for p in done.run_dir.rglob("*")} == before


def test_a_half_written_checkpoint_is_passed_over(
    run: Runner, small_run: list[str], outputs: Path, tmp_path: Path, uninterrupted: bytes
) -> None:
    folder, _, _ = signalled(signal.SIGKILL, [*small_run, *STEPS], outputs, tmp_path / "torn", step=7)
    torn = folder / "checkpoints" / ".step_00000099.1.tmp"
    torn.mkdir()
    (torn / "adapters.safetensors").write_bytes(b"half")
    with open(folder / "metrics.jsonl", "a") as log:
        log.write('{"step": 8, "ki')
    assert run(f"resume={folder}").code == 0
    assert adapter(folder) == uninterrupted
    assert not torn.exists()


def test_a_kill_between_a_checkpoint_and_its_replacement(tmp_path: Path) -> None:
    replaced = tmp_path / ".step_00000004.77.old"
    replaced.mkdir()
    (replaced / "training_state.json").write_text('{"step": 4, "loss": 1.0}')
    assert get_latest_checkpoint(tmp_path) == tmp_path / "step_00000004"


@pytest.mark.slow
def test_a_signal_ends_a_grid(small_run: list[str], outputs: Path) -> None:
    process = start(["-m", *small_run, "training.max_steps=100000", "seed=0,1,2"], outputs)
    wait_for(lambda: any(outputs.glob("sweeps/*/0/checkpoints/step_*")), "the first job's steps", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 130
    assert [p.parent.name for p in outputs.glob("sweeps/*/*/metrics.jsonl")] == ["0"]
