"""MLflow's user interface on this project's store."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from bit_axon.errors import BitAxonError, UserError, problem
from bit_axon.files import outputs_dir, storage_error
from bit_axon.tracking.environment import prepare_environment
from bit_axon.tracking.location import absolute_uri, artifact_root, redacted
from bit_axon.tracking.locks import opening

_POLL_SECONDS = 0.25
_STOP_SECONDS = 10.0
_SHOWN_LOG_LINES = 15
_EXPERIMENT = "bit_axon"  # the default of tracking.experiment


def run_ui(
    uri: str | None = None, host: str = "127.0.0.1", port: int = 5050, say: Callable[[str], None] = print
) -> int:
    """Serves the interface until Ctrl-C or SIGTERM; the exit code.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
        BitAxonError: the server ended by itself.
    """
    address = absolute_uri(uri)
    _check_port(host, port)
    prepare_environment(say)
    log_path = outputs_dir() / "mlflow-ui.log"
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_file = open(log_path, "wb")  # noqa: SIM115 - closed by the with below
    except OSError as error:
        raise storage_error(log_path, error) from error
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '') else host}:{port}"
    say(f"MLflow on {redacted(address)}: starting, up to half a minute ...")
    with log_file:
        # Its own session: a Ctrl-C of the terminal reaches this process alone, which passes it on once.
        server = subprocess.Popen(
            server_command(address, host, port),
            stdout=log_file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=_server_environment(os.environ),
            cwd=log_path.parent,
        )
        _serve(server, address, url, log_path, say)
    return 0


def server_command(uri: str, host: str, port: int) -> list[str]:
    """The command line of MLflow's server; one worker is enough for one person."""
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    root = artifact_root(uri)
    return command if root is None else [*command, "--default-artifact-root", root]


def _server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    # Jobs of the generative-AI pages would start several more processes.
    return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(
            problem(
                f"to serve on {host}:{port}",
                reason.lower(),
                f"Choose another port, such as --port {port + 1}, or end the program that uses this one.",
            )
        ) from error


def _serve(
    server: "subprocess.Popen[bytes]", uri: str, url: str, log_path: Path, say: Callable[[str], None]
) -> None:
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with opening(uri):  # the server makes the schema of a new database
            _wait_for_answer(server, url)
        say(f"ready: {_runs_page(url)}   (Ctrl-C ends it)" if server.poll() is None else "it ended at once")
        server.wait()
    except KeyboardInterrupt:
        say("stopping ...")
        return
    finally:
        signal.signal(signal.SIGTERM, previous)
        _stop(server)
    lines = log_path.read_text(errors="replace").splitlines()[-_SHOWN_LOG_LINES:]
    raise BitAxonError(
        problem(
            "MLflow's server to run",
            f"that it ended with code {server.returncode}",
            f"Its last lines (all of them in {log_path}):\n" + "\n".join(lines),
        )
    )


def _wait_for_answer(server: "subprocess.Popen[bytes]", url: str) -> None:
    while server.poll() is None and not _answers(url):
        time.sleep(_POLL_SECONDS)


def _runs_page(url: str) -> str:
    """The table of runs; MLflow's own first page is one for agents and their traces."""
    query = f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name={_EXPERIMENT}"
    try:
        with urllib.request.urlopen(query, timeout=5.0) as reply:
            place = f"experiments/{json.load(reply)['experiment']['experiment_id']}/runs"
    except (urllib.error.URLError, OSError, ValueError, KeyError):
        place = "experiments"  # no run yet
    return f"{url}/#/{place}?workflowType=machine_learning"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1.0) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """Ends the server and its workers."""
    if server.poll() is not None:
        return
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
