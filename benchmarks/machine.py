"""What was measured on what: the header of every report."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from bit_axon import __version__
from bit_axon.backend import available_cores

_CPU_INFO = Path("/proc/cpuinfo")
_PACKAGES = ("mlx", "mlx-lm", "mlx-lm-lora", "transformers", "numpy")


def machine_facts(module: str, arguments: Sequence[str]) -> dict[str, str]:
    """Machine, versions, date and command line."""
    versions = [f"bit_axon {__version__}", *filter(None, map(_version, _PACKAGES))]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_cpu_model()}, {available_cores()} cores, {_memory_gib()} GiB memory",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(versions),
        "environment": ", ".join(_settings()) or "no OPENBLAS, OMP or MKL variable set",
        "command": f"python -m {module} {shlex.join(_without_folders(arguments))}".rstrip(),
    }


def _settings() -> list[str]:
    """Variables that choose the kernels or threads of a BLAS."""
    prefixes = ("OPENBLAS_", "OMP_", "MKL_")
    return [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(prefixes)]


def _without_folders(arguments: Sequence[str]) -> list[str]:
    """Paths of this machine say nothing elsewhere: only their last part is kept."""
    return [Path(argument).name if "/" in argument else argument for argument in arguments]


def _cpu_model() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> int:
    return round(psutil.virtual_memory().total / 1024**3)


def _version(package: str) -> str | None:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None
