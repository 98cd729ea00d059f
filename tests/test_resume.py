"""A run that is cut anywhere and resumed ends with the bytes of one that was not cut."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Runner

from bit_axon.training.checkpoint import get_latest_checkpoint

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
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and wanted in log.read_text():
            return
        time.sleep(0.002)
    raise AssertionError(f"step {step} never came: {process.communicate()[0]}")


def adapter(run_dir: Path) -> bytes:
    return (run_dir / "adapters.safetensors").read_bytes()


@pytest.fixture
def uninterrupted(run: Runner, small_run: list[str]) -> bytes:
    done = run(*small_run, *STEPS)
    assert done.code == 0, done.err
    return adapter(done.run_dir)


def kill_and_resume(
    number: int, small_run: list[str], outputs: Path, tmp_path: Path, run: Runner, expected: bytes
) -> None:
    chance = random.Random(number)
    folder = tmp_path / f"cut{number}"
    process = start([*small_run, *STEPS, f"hydra.run.dir={folder}"], outputs)
    wait_for_step(folder, chance.randint(1, 26), process)
    time.sleep(chance.random() * 0.05)  # anywhere: in an accumulation, an evaluation, a save
    process.kill()
    process.communicate()
    assert not (folder / "result.json").exists()
    assert run(f"resume={folder}").code == 0
    assert adapter(folder) == expected


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5))])
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
    folder = tmp_path / "stopped"
    process = start([*small_run, *STEPS, f"hydra.run.dir={folder}"], outputs)
    wait_for_step(folder, 4, process)
    process.send_signal(number)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 130, said
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
    folder = tmp_path / "torn"
    process = start([*small_run, *STEPS, f"hydra.run.dir={folder}"], outputs)
    wait_for_step(folder, 7, process)
    process.kill()
    process.communicate()
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
    process = start(["-m", *small_run, "training.max_steps=400", "seed=0,1,2"], outputs)
    deadline = time.monotonic() + 60
    while not list(outputs.glob("sweeps/*/0/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [p.parent.name for p in outputs.glob("sweeps/*/*/metrics.jsonl")] == ["0"]
