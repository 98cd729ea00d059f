"""Resident memory of this process, as the kernel counts it."""

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


class ResidentMemory:
    """The peak since the last reset on Linux; elsewhere that of the whole process."""

    def reset(self) -> None:
        """Forgets the peak where the kernel can."""
        if _CLEAR.exists():
            _CLEAR.write_text(_FORGET_PEAK)

    def peak_bytes(self) -> int:
        """The most that was resident since."""
        return status_bytes("VmHWM") or _process_peak_bytes()


def status_bytes(name: str) -> int:
    """A line of /proc/self/status, such as VmRSS, in bytes; 0 where there is none."""
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _process_peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
