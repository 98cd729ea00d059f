"""What breaks from outside: nothing that was saved is lost, and the run ends as the design says."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Outcome, Runner, rows_file, run_of_module, small_overrides
from waiting import LONGEST_SECONDS, wait_for

from bit_axon.tracking.sync import sync_run
from bit_axon.tracking.writer import TrackingWriter
from bit_axon.training.checkpoint import checkpoints

STEPS = ["training.max_steps=10", "training.save_every=2", "training.keep_checkpoints=20"]
CHECKPOINT_BYTES = 120_000  # of the tiny model with DoRA, rounded up


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system of its own; only root may."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if os.path.ismount(folder) else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    try:
        yield mount
    finally:
        if os.path.ismount(folder):
            subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(autouse=True)
def needs_linux() -> None:
    if sys.platform != "linux":
        pytest.skip("mounts and signals as on Linux")


def only_message(done: Outcome) -> str:
    """What a run that failed said, after checking that it is one message."""
    assert done.err.startswith("bit_axon: ") and done.err.count("bit_axon: ") == 1, done
    assert "Traceback" not in done.err + done.out
    return done.err


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same rows as each test's own, that nothing breaks."""
    folder = tmp_path_factory.mktemp("whole")
    done = run_of_module(folder, *small_overrides(tiny_model, folder), *STEPS)
    assert done.code == 0 and done.run_dir is not None, done.err
    return done.run_dir


def adapter(run_dir: Path) -> bytes:
    return (run_dir / "adapters.safetensors").read_bytes()


def lines(run_dir: Path) -> list[str]:
    return (run_dir / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("checkpoints_that_fit", [0, 2])
def test_the_disk_fills_up(
    checkpoints_that_fit: int, mounted: Callable[..., Path], run: Runner, small_run: list[str], whole: Path
) -> None:
    disk = mounted(f"size={64_000 + checkpoints_that_fit * CHECKPOINT_BYTES}")
    folder = disk / "run"
    done = run(*small_run, *STEPS, f"hydra.run.dir={folder}")
    assert done.code == 1
    message = only_message(done)
    assert "no space left on device" in message and str(folder) in message and "Free some space" in message
    kept = checkpoints(folder / "checkpoints")
    assert len(kept) == checkpoints_that_fit
    for checkpoint in kept:
        twin = whole / "checkpoints" / checkpoint.name
        for name in ("adapters.safetensors", "optimizer_state.safetensors"):
            assert (checkpoint / name).read_bytes() == (twin / name).read_bytes()
    assert not list(folder.rglob("*.tmp"))
    mounted("size=8m")
    assert run(f"resume={folder}").code == 0
    assert adapter(folder) == adapter(whole)
    assert json.loads((folder / "result.json").read_text())["state"] == "finished"


@pytest.mark.slow
def test_the_disk_is_too_full_for_a_line_of_metrics(
    mounted: Callable[..., Path], run: Runner, small_run: list[str]
) -> None:
    steps = ["training.max_steps=50", "training.save_every=0", "training.eval_every=0"]
    whole = run(*small_run, *steps)
    folder = mounted("size=36k") / "run"
    done = run(*small_run, *steps, f"hydra.run.dir={folder}")
    assert done.code == 1
    assert f"wanted to write {folder / 'metrics.jsonl'}; got no space left" in only_message(done)
    assert 0 < len(lines(folder)) < 50
    mounted("size=8m")
    assert run(f"resume={folder}").code == 0
    assert adapter(folder) == adapter(whole.run_dir)
    readable = [json.loads(line) for line in lines(folder) if line.endswith("}")]
    assert [x["step"] for x in readable if x["kind"] == "train"][-50:] == list(range(1, 51))


@pytest.mark.parametrize("size", ["4k", "12k", "20k"])
def test_there_is_no_room_to_begin(
    size: str, mounted: Callable[..., Path], run: Runner, small_run: list[str]
) -> None:
    folder = mounted(f"size={size}") / "run"
    done = run(*small_run, f"hydra.run.dir={folder}")
    assert done.code == 1 and "no space left on device" in only_message(done)


def test_outputs_are_read_only(
    mounted: Callable[..., Path], run: Runner, small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mounted("size=1m,ro")
    done = run(*small_run, f"hydra.run.dir={disk / 'run'}")
    assert done.code == 1 and "read-only file system" in only_message(done) and str(disk) in done.err
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(disk / "outputs"))
    done = run(*small_run)
    assert done.code == 1 and "read-only file system" in only_message(done)
    assert list(disk.iterdir()) == []


def test_outputs_become_read_only_while_a_run_goes_on(
    mounted: Callable[..., Path], run: Runner, small_run: list[str], whole: Path
) -> None:
    """The metrics file stays writable on some systems; a checkpoint cannot be made on any."""
    folder = mounted("size=8m") / "run"
    first = run(*small_run, *STEPS, "training.max_minutes=0.0000001", f"hydra.run.dir={folder}")
    assert first.code == 0
    before = sorted(path.name for path in folder.rglob("*"))
    mounted("ro,size=8m")
    done = run(f"resume={folder}", "training.max_minutes=null")
    assert done.code == 1 and "read-only file system" in only_message(done)
    assert sorted(path.name for path in folder.rglob("*")) == before
    mounted("rw,size=8m")
    assert run(f"resume={folder}", "training.max_minutes=null").code == 0
    assert adapter(folder) == adapter(whole)


def test_outputs_below_a_file(
    run: Runner, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(tmp_path / "train.jsonl" / "outputs"))
    done = run(*small_run)
    assert done.code == 1
    assert "not a directory" in only_message(done) and "BIT_AXON_OUTPUTS" in done.err


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run waits until MLflow's thread has said all it has to say."""
    monkeypatch.setattr(TrackingWriter.close, "__defaults__", (LONGEST_SECONDS,))


def test_the_mlflow_server_is_not_there(run: Runner, small_run: list[str], patient: None) -> None:
    address = f"http://127.0.0.1:{closed_port()}"
    done = run(*small_run, "tracking=mlflow", f"tracking.uri={address}")
    assert done.code == 0 and done.result["state"] == "finished"
    said = " ".join((done.out + done.err).split())
    assert f"no MLflow server answers at {address}" in said
    assert f"bit-axon track sync {done.run_dir}" in said
    assert "Traceback" not in said


def test_the_mlflow_database_is_locked(
    run: Runner, small_run: list[str], outputs: Path, patient: None, mlflow_database: Path
) -> None:
    outputs.mkdir()
    database = Path(shutil.copy(mlflow_database, outputs / "mlflow.db"))
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        done = run(*small_run, "tracking=mlflow", f"tracking.uri='sqlite:///{database}?timeout=0.1'")
    finally:
        other.close()
    assert done.code == 0 and done.result["state"] == "finished"
    said = " ".join((done.out + done.err).split())
    assert f"bit-axon track sync {done.run_dir}" in said and "Traceback" not in said
    report = sync_run(done.run_dir)
    assert report.broken_lines == 0 and report.sent_points > 0


def start(arguments: list[str], outputs: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bit_axon.run", *arguments],
        cwd=ROOT,
        env={**os.environ, "BIT_AXON_OUTPUTS": str(outputs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_line(words: str, run_dir: Path, process: subprocess.Popen[str]) -> None:
    """Returns once the log of the run has them."""
    log = run_dir / "metrics.jsonl"
    wait_for(
        lambda: log.is_file() and words in log.read_text(), f"{words} in {log}", process, pause_seconds=0.001
    )


@pytest.mark.slow
def test_the_second_ctrl_c_ends_the_run_at_once(
    small_run: list[str], outputs: Path, tmp_path: Path, run: Runner
) -> None:
    """During the first evaluation, which takes a while; the run then goes on from its start."""
    rows_file(tmp_path / "valid.jsonl", 400)  # a second's work or more, for a test that is not woken at once
    arguments = [*small_run, "data.packing=false", "training.batch_size=1", "training.eval_every=0"]
    folder = tmp_path / "stopped"
    process = start([*arguments, f"hydra.run.dir={folder}"], outputs)
    wait_for_line("", folder, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = process.stderr.readline() + process.stderr.readline()
    assert "Stopping after this micro-batch" in said
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=LONGEST_SECONDS)[1]
    assert process.returncode == 130, rest
    assert rest.strip() == "Stopped at once; the last checkpoint is kept."
    assert not (folder / "result.json").exists() and not checkpoints(folder / "checkpoints")
    assert run(f"resume={folder}").code == 0
    assert adapter(folder) == adapter(run(*arguments).run_dir)


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(
    small_run: list[str], outputs: Path, tmp_path: Path, run: Runner
) -> None:
    arguments = [*small_run, "training.max_steps=60", "training.save_every=0", "training.eval_every=0"]
    folder = tmp_path / "killed"
    process = start([*arguments, f"hydra.run.dir={folder}"], outputs)
    wait_for_line('"step": 3, "kind": "train"', folder, process)
    process.kill()
    process.communicate()
    assert not checkpoints(folder / "checkpoints") and not (folder / "result.json").exists()
    assert run(f"resume={folder}").code == 0
    assert adapter(folder) == adapter(run(*arguments).run_dir)


def test_ctrl_c_before_the_run_has_begun(
    small_run: list[str], outputs: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """While the model's config is read, from a pipe that nobody fills: no traceback, and no folder left."""
    model = tmp_path / "model"
    model.mkdir()
    pipe = model / "config.json"
    os.mkfifo(pipe)
    process = start([*small_run, f"model.path={model}"], outputs)
    writer = threading.Thread(target=lambda: held.append(os.open(pipe, os.O_WRONLY)), daemon=True)
    held: list[int] = []
    writer.start()
    writer.join(timeout=LONGEST_SECONDS)  # until the run opens it
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONGEST_SECONDS)
    os.close(held[0])
    assert (process.returncode, out, err) == (130, "", "bit_axon: interrupted\n")
    assert list((outputs / "runs").iterdir()) == []
