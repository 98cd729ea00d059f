"""What a run was made with: versions, machine, code. Enough to say later what has changed since."""

import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from bit_axon import __version__
from bit_axon.backend import available_cores, detect
from bit_axon.files import project_root

_PACKAGES = ("mlx", "mlx-lm", "numpy", "transformers", "tokenizers", "hydra-core", "mlflow", "optuna")


@dataclass(frozen=True)
class Command:
    """How the run was asked for."""

    argv: tuple[str, ...]
    choices: dict[str, str | None]  # option chosen per config group
    overrides: tuple[str, ...]  # as given on the command line


def versions() -> dict[str, str]:
    """Installed versions of everything that can change a result."""
    found = {"bit_axon": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def hardware() -> dict[str, Any]:
    """The machine; what can change rounding (BLAS, cores, chip) is in here."""
    backend = detect()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": backend.device,
        "blas": backend.blas,
    }


def _processor() -> str:
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def git_state() -> dict[str, Any]:
    """Commit and whether files differ from it; nulls outside a git checkout."""
    root = str(project_root())
    commit = _output("git", "-C", root, "rev-parse", "HEAD")
    status = _output("git", "-C", root, "status", "--porcelain") if commit else None
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
