"""The launcher `isolated`: processes of their own, their output, their signals, their ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf
from waiting import AT_ONCE_SECONDS, LONGEST_SECONDS, wait_for

from bit_axon.composition import conf_dir, register_resolvers
from bit_axon.errors import BitAxonError
from bit_axon.sweep.launching import child as child_module
from bit_axon.sweep.launching.child import DEADLINE, Ending, Limits, run_child
from bit_axon.sweep.launching.command import job_environment, quoted
from bit_axon.sweep.launching.isolated import LOG, IsolatedReturn, launch

COUNTS_SIGNALS = """
import signal, time
seen = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: seen.append(number))
print("ready", flush=True)
until = time.monotonic() + 300
while not seen and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.3)
print("seen", *map(int, seen), flush=True)
raise SystemExit(130)
"""
HEEDS_NOTHING = """
import signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", other.pid, flush=True)
time.sleep(600)
"""
PATIENT = Limits(grace_seconds=LONGEST_SECONDS)  # for a child that ends when it is told to


class Shown:
    """What the child said, and what to do at its first line."""

    def __init__(self, at_first: Callable[[], None] = lambda: None):
        self.lines: list[str] = []
        self._at_first = at_first

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if len(self.lines) == 1:
            self._at_first()


def child(code: str, log: Path, shown: Shown | None = None, limits: Limits = Limits()) -> Ending:  # noqa: B008
    return run_child([sys.executable, "-u", "-c", code], os.environ, log, limits, shown or Shown())


def has_gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have fetched its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "7.log"


def test_lines_are_shown_as_they_come_and_kept(log: Path, tmp_path: Path) -> None:
    """The child does not end before its first line was shown."""
    seen = tmp_path / "seen"
    code = (
        "import pathlib, sys, time\n"
        "print('first'); print('10%\\r50%\\r100%'); print('\\xe9', file=sys.stderr)\n"
        f"while not pathlib.Path({str(seen)!r}).exists(): time.sleep(0.01)\n"
        "sys.stdout.write('no end')"
    )
    shown = Shown(seen.touch)
    ending = child(code, log, shown, Limits(timeout_seconds=LONGEST_SECONDS))
    assert ending == Ending(0, None, "")
    assert shown.lines == ["first", "100%", "é", "no end"]
    assert log.read_text().endswith("no end")


@pytest.mark.parametrize(
    ("code", "exit_code", "reason", "said"),
    [
        ("", 0, None, ""),
        ("import sys; sys.exit('bit_axon: wanted a; got b')", 1, "exception", "exit code 1: wanted a; got b"),
        ("print('bit_axon: no'); print('more'); raise SystemExit(2)", 2, "exception", "exit code 2: no"),
        ("raise SystemExit(3)", 3, "thermal_stop", "exit code 3"),
        ("raise SystemExit(130)", 130, "interrupted", "exit code 130"),
        ("import os; os.kill(os.getpid(), 15)", -15, "interrupted", "ended by SIGTERM"),
        ("import os; print('x'); os.kill(os.getpid(), 9)", -9, "killed", "ended by SIGKILL: x"),
        ("raise MemoryError", 1, "out_of_memory", "exit code 1: MemoryError"),
        ("print('Insufficient Memory'); import os; os.abort()", -6, "out_of_memory", "ended by SIGABRT"),
        ("print('Attempting to allocate 9 bytes'); import os; os.abort()", -6, "out_of_memory", ""),
        ("import os; os.abort()", -6, "killed", "ended by SIGABRT"),
    ],
)  # fmt: skip
def test_why_it_ended(code: str, exit_code: int, reason: str | None, said: str, log: Path) -> None:
    ending = child(code, log)
    assert (ending.exit_code, ending.reason) == (exit_code, reason)
    assert ending.message.startswith(said) and ending.stopped is None


def test_what_the_kernel_kills_for_memory_is_not_just_killed(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 1\noom_kill 3\nlast 0\n")
    monkeypatch.setattr("bit_axon.sweep.launching.child._KERNEL_COUNTERS", counters)
    kill = "import os; os.kill(os.getpid(), 9)"
    assert child(kill, log).reason == "killed"
    counted = f"import pathlib; pathlib.Path({str(counters)!r}).write_text('oom_kill 4\\n'); {kill}"
    assert child(counted, log).reason == "out_of_memory"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once(number: signal.Signals, log: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    shown = Shown(lambda: os.kill(os.getpid(), number))
    ending = child(COUNTS_SIGNALS, log, shown, PATIENT)
    assert shown.lines == ["ready", f"seen {int(number)}"]
    assert (ending.reason, ending.stopped) == ("interrupted", number)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_does_not_end_is_killed_with_all_it_started(log: Path) -> None:
    shown = Shown(lambda: os.kill(os.getpid(), signal.SIGTERM))
    started = time.monotonic()
    ending = child(HEEDS_NOTHING, log, shown, Limits(grace_seconds=0.3))
    assert 0.3 <= time.monotonic() - started < AT_ONCE_SECONDS  # not ten minutes, which it would have taken
    assert (ending.exit_code, ending.reason) == (-signal.SIGKILL, "interrupted")
    wait_for(lambda: has_gone(int(shown.lines[0].split()[1])), "the child's child to be gone")


def test_a_second_signal_kills_at_once(log: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    started = time.monotonic()
    ending = child(HEEDS_NOTHING, log, Shown(twice), PATIENT)
    assert time.monotonic() - started < AT_ONCE_SECONDS
    assert ending.exit_code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "grace_seconds", "exit_code"), [(COUNTS_SIGNALS, LONGEST_SECONDS, 130), (HEEDS_NOTHING, 0.6, -9)]
)
def test_its_time_is_up(
    code: str, grace_seconds: float, exit_code: int, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour after it has begun to listen to signals, however long that took."""
    passed: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(passed))
    monkeypatch.setattr(child_module, "time", clock)
    shown = Shown(lambda: passed.append(3600.0))
    ending = child(code, log, shown, Limits(timeout_seconds=3600.0, grace_seconds=grace_seconds))
    assert (ending.exit_code, ending.reason, ending.stopped) == (exit_code, "timeout", None)


def test_time_that_is_not_up_changes_nothing(log: Path) -> None:
    assert child("", log, limits=Limits(timeout_seconds=LONGEST_SECONDS)).reason is None


def test_the_child_knows_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIT_AXON_ANYTHING", "here")
    earliest = time.monotonic() + 100
    environment = job_environment(Limits(timeout_seconds=100))
    assert earliest - 1 <= float(environment[DEADLINE]) <= time.monotonic() + 100
    assert environment["BIT_AXON_ANYTHING"] == "here"
    assert DEADLINE not in job_environment(Limits())


def test_a_child_does_not_outlive_an_error_here(log: Path) -> None:
    def broken() -> None:
        raise ValueError("no terminal")

    shown = Shown(broken)
    with pytest.raises(ValueError, match="no terminal"):
        child(HEEDS_NOTHING, log, shown, Limits(grace_seconds=0.2))
    wait_for(lambda: has_gone(int(shown.lines[0].split()[1])), "the child's child to be gone")


def test_a_child_lives_on_when_its_launcher_is_killed(log: Path, tmp_path: Path) -> None:
    alone, done = tmp_path / "alone", tmp_path / "done"
    code = (
        "import os, pathlib, time\n"
        "print('started', os.getpid(), os.getpgid(0), flush=True)\n"
        f"while not pathlib.Path({str(alone)!r}).exists(): time.sleep(0.01)\n"
        f"print('x' * 200_000, flush=True); pathlib.Path({str(done)!r}).touch()"
    )
    launcher = (
        "import os, pathlib, sys\n"
        "from bit_axon.sweep.launching.child import Limits, run_child\n"
        f"command, log = [sys.executable, '-c', {code!r}], pathlib.Path({str(log)!r})\n"
        "run_child(command, os.environ, log, Limits(), print)"
    )
    command = [sys.executable, "-u", "-c", launcher]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    _, pid, group = process.stdout.readline().split()
    process.kill()
    process.wait()
    process.stdout.close()
    alone.touch()
    assert pid == group  # a Ctrl-C in the launcher's terminal does not reach it directly
    wait_for(done.exists, "the child's end")
    assert len(log.read_text()) > 200_000


@pytest.mark.parametrize(
    "text",
    [
        "/a b",
        "/a,b=c/(d)",
        "it's",
        "back\\slash",
        "end\\",
        "${now:%Y}",
        "[1,2]",
        "{a: 1}",
        "a:b@c",
        "é%20",
        '"q"',
    ],
)
def test_a_quoted_folder_comes_back(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir={quoted(text)}"])
    assert OmegaConf.create({"dir": override.value()}).dir == text


def launched(overrides: list[str], jobs: list[list[str]], first: int = 0) -> list[IsolatedReturn]:
    """Launches jobs of the composed sweep, as a sweeper does."""
    register_resolvers()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        return launch(jobs, first, config, context, Limits())


def test_jobs_run_and_one_that_fails_fails_alone(
    small_run: list[str], outputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a sweep, (1)"
    fixed = [*small_run, "training.max_steps=1", "++trial={study: s}"]
    bad, good = launched(
        [f"hydra.sweep.dir='{folder}'", "hydra.mode=MULTIRUN", "hydra/launcher=isolated"],
        [fixed, [*small_run, "training.max_steps=1", "seed=3"]],
        first=6,
    )
    out, err = capfd.readouterr()
    assert err == "" and "\ntrial 6 | bit_axon: " in f"\n{out}" and "\njob 7 | finished after 1 steps" in out
    assert bad.status is JobStatus.FAILED and bad.ending.exit_code == 2 and bad.ending.reason == "exception"
    assert bad.log == folder / "6.log" and "trial.number: wanted a value" in bad.ending.message
    with pytest.raises(BitAxonError, match=r"trial 6: exception, exit code 2: .*6\.log") as caught:
        _ = bad.return_value
    assert caught.value.exit_code == 2

    assert good.status is JobStatus.COMPLETED and good.run_dir == folder / "7"
    result = json.loads((good.run_dir / "result.json").read_text())
    assert good.result == result and good.return_value == result["eval_loss_best"] > 0
    assert good.log == good.run_dir / LOG and "validation loss" in good.log.read_text()
    assert good.cfg is not None and good.cfg.seed == 3 and "hydra" not in good.cfg
    hydra = OmegaConf.load(good.run_dir / ".hydra" / "hydra.yaml").hydra
    assert hydra.job.num == 7 and hydra.mode == "RUN"


def test_a_process_that_cannot_start_is_a_failed_job(
    small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    (failed,) = launched([f"hydra.sweep.dir={tmp_path / 'sweep'}"], [small_run])
    assert failed.status is JobStatus.FAILED and failed.ending.reason == "storage"
    assert "no-python: No such file" in failed.ending.message


@pytest.mark.slow
def test_a_grid_ends_with_the_code_of_the_job_that_failed(
    small_run: list[str], outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from bit_axon.run import main

    assert main(["-m", "hydra/launcher=isolated", *small_run, "training.learning_rate=-1"]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("bit_axon: wanted every job to end well; got job 0: exception, exit code 2: ")
    assert err.count("\n") == 1 and "job 0 | exception" in out
    (sweep,) = (outputs / "sweeps").iterdir()
    assert (sweep / "0.log").is_file() and not (sweep / "0").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_grid_that_is_stopped_starts_no_other_job(
    number: signal.Signals, small_run: list[str], outputs: Path
) -> None:
    command = [sys.executable, "-u", "-m", "bit_axon.run", "-m", "hydra/launcher=isolated", *small_run]
    process = subprocess.Popen(
        [*command, "training.max_steps=100000", "seed=1,2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("job 0 | step ") and "/100000 " in line)
    process.send_signal(number)
    _, err = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 130 and "Traceback" not in err
    (result,) = outputs.glob("sweeps/*/*/result.json")
    assert result.parent.name == "0" and json.loads(result.read_text())["state"] == "interrupted"
    assert not (result.parent.parent / "1").exists()
