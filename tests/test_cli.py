"""The `bit-axon` command: quick help, clear errors, exit codes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
from tracking_cases import RESULT, make_run
from typer.testing import CliRunner
from waiting import LONGEST_SECONDS, slowness

from bit_axon import __version__
from bit_axon.cli.failures import report_failure
from bit_axon.cli.main import app, main
from bit_axon.errors import BitAxonError, DataError, ThermalShutdownError, UserError
from bit_axon.tracking.ui import run_ui, server_command

HEAVY = ("mlx", "mlflow", "optuna", "transformers", "numpy", "matplotlib")


def call_main(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["bit-axon", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["track", "--help"],
        ["reproduce", "--help"],
        ["compare", "--help"],
        ["sweep", "show", "--help"],
        ["--version"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import json, sys\n"
        "from bit_axon.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    assert (done.returncode, json.loads(done.stderr)) == (0, [])
    assert "Usage" in done.stdout or __version__ in done.stdout


def test_help_takes_less_than_six_tenths_of_a_second() -> None:
    command = [sys.executable, "-m", "bit_axon.cli.main", "--help"]
    fastest_seconds = min(_timed(command) for _ in range(3))
    assert fastest_seconds < 0.6 * slowness()


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, timeout=LONGEST_SECONDS)
    return time.perf_counter() - started


def test_every_command_is_listed() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    for command in ("run", "reproduce", "compare", "ui", "track", "sweep", "thermal"):
        assert f"  {command} " in shown


def test_a_wrong_command_ends_with_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call_main(["trian"], monkeypatch) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [(BitAxonError("a"), 1), (UserError("a"), 2), (DataError("a"), 2), (ThermalShutdownError("a"), 3)],
)
def test_errors_have_their_message_and_exit_code(
    error: BitAxonError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_failure(error) == code
    assert capsys.readouterr().err == "bit_axon: a\n"


def test_an_unexpected_error_is_short_and_its_details_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(tmp_path))
    monkeypatch.delenv("BIT_AXON_DEBUG", raising=False)
    error = RuntimeError("first line\nsecond line")
    assert report_failure(error) == 1
    said = capsys.readouterr().err
    assert "unexpected error: RuntimeError: first line\n" in said
    assert str(tmp_path / "bit-axon-error.log") in said
    assert "second line" in (tmp_path / "bit-axon-error.log").read_text()


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIT_AXON_DEBUG", "1")
    with pytest.raises(RuntimeError, match="boom"):
        report_failure(RuntimeError("boom"))


def test_syncing_no_run_directory_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call_main(["track", "sync", str(tmp_path)], monkeypatch) == 2
    assert "wanted a run directory" in capsys.readouterr().err


def test_status_lists_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(tmp_path))
    assert "No run directories yet" in CliRunner().invoke(app, ["track", "status"]).stdout
    run_dir = make_run(tmp_path / "runs" / "a", result=RESULT)
    assert f"{run_dir}  finished  not mirrored  -" in CliRunner().invoke(app, ["track", "status"]).stdout


def test_a_port_in_use_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(tmp_path))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(UserError, match="address already in use") as refused:
            run_ui(port=holder.getsockname()[1])
    assert refused.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_server_keeps_its_files_in_the_outputs_folder(tmp_path: Path) -> None:
    command = server_command(f"sqlite:///{tmp_path}/mlflow.db", "127.0.0.1", 5050)
    assert command[:4] == [sys.executable, "-m", "mlflow", "ui"]
    assert command[-2:] == ["--default-artifact-root", (tmp_path / "mlartifacts").as_uri()]


@pytest.mark.slow
def test_the_interface_starts_answers_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "bit_axon.cli.main", "ui", "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "BIT_AXON_OUTPUTS": str(tmp_path)},
    )
    watchdog = threading.Timer(LONGEST_SECONDS, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        said = [process.stdout.readline(), process.stdout.readline()]
        assert said[1].startswith(f"ready: http://127.0.0.1:{port}")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=LONGEST_SECONDS) as reply:
            assert b"MLflow" in reply.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=LONGEST_SECONDS) == 0
        process.stdout.close()
    finally:
        watchdog.cancel()
        process.kill()
    assert (tmp_path / "mlflow.db").is_file()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
