"""The compute backend: which device, which BLAS, which dtype. Import this module before `mlx.core`.

MLX's Linux wheel bundles reference BLAS (about 6 GFLOP/s on two cores); a system OpenBLAS loaded with
global symbols first takes its place (about 200). On Metal and CUDA nothing is changed.
"""

import ctypes
import ctypes.util
import functools
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["BLAS_REMEDY", "Backend", "Compilation", "detect", "memory_limits", "mx", "preload_openblas"]

_OPENBLAS_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")
_BUNDLED = "bundled reference BLAS"
BLAS_REMEDY = (
    "Matrix products will be about 30 times slower than they could be. Install OpenBLAS "
    "(Debian, Ubuntu: apt-get install libopenblas0-pthread; Fedora: dnf install openblas)."
)


class _OpenBlas(NamedTuple):
    """The library that was loaded."""

    name: str
    library: ctypes.CDLL


@functools.cache
def preload_openblas() -> _OpenBlas | None:
    """Loads OpenBLAS in place of the bundled BLAS on Linux; returns the library, or None.

    It has to happen before `mlx.core` is imported, which is why this module calls it below.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    for name in (*_OPENBLAS_NAMES, ctypes.util.find_library("openblas")):
        if name is None:
            continue
        try:
            return _OpenBlas(name, ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL))
        except OSError:
            continue
    return None


_OPENBLAS = preload_openblas()

import mlx.core as mx  # noqa: E402 - after the BLAS


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """One thread per matrix product within the block, for callers that are parallel themselves."""
    if _OPENBLAS is None:
        yield
        return
    before = _OPENBLAS.library.openblas_get_num_threads()
    _OPENBLAS.library.openblas_set_num_threads(1)
    try:
        yield
    finally:
        _OPENBLAS.library.openblas_set_num_threads(before)


_GB = 10**9
_CACHE_SHARE = 4  # of the recommended working set: one part of so many

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_HEAP_BLOCK = 32 << 20  # glibc allows no more


@functools.cache
def reuse_freed_memory() -> None:
    """Has glibc keep freed memory instead of giving it back to the system and faulting it in again.

    MLX allocates every array of a step anew on a CPU; without this a seventh of a step is page faults.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
    library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def memory_limits(memory_limit_gb: float | None, cache_limit_gb: float | None) -> Iterator[None]:
    """MLX's limits within the block; those of before afterwards.

    Args:
        memory_limit_gb: what may be in use before allocations wait for others to be freed, in 10^9 bytes;
            None = as MLX has it.
        cache_limit_gb: freed memory that is kept for the next allocation; None = a quarter of what the
            device recommends to use, as MLX has it where the device does not say, and on a CPU.
    """
    memory = None if memory_limit_gb is None else int(memory_limit_gb * _GB)
    cache = _default_cache_bytes() if cache_limit_gb is None else int(cache_limit_gb * _GB)
    with _limited(mx.set_memory_limit, memory), _limited(mx.set_cache_limit, cache):
        yield


@contextmanager
def _limited(set_limit: Callable[[int], int], limit_bytes: int | None) -> Iterator[None]:
    if limit_bytes is None:
        yield
        return
    before = set_limit(limit_bytes)
    try:
        yield
    finally:
        set_limit(before)


def _default_cache_bytes() -> int | None:
    if detect().device == "cpu":
        return None
    recommended = mx.device_info().get("max_recommended_working_set_size")
    return None if recommended is None else int(recommended) // _CACHE_SHARE


class Compilation(NamedTuple):
    """Which of a step's functions go through `mx.compile`."""

    step: bool  # forward and backward pass
    update: bool  # clipping and optimizer


@dataclass(frozen=True)
class Backend:
    """What the run computes on."""

    device: str  # "cpu", "metal" or "cuda"
    blas: str | None  # the BLAS behind CPU products; None where it plays no part
    compiles: bool  # whether mx.compile works here (the CPU backend needs a C++ compiler)

    def compilation(self, wanted: bool | None) -> "Compilation":
        """What to compile; None leaves the choice to the device.

        On a CPU a compiled forward and backward pass is no faster (measured: it took 1.05 to 1.26 times
        as long) and building its forty kernels delays a first run; only the update gains, threefold.
        """
        step = self.device != "cpu" if wanted is None else wanted
        return Compilation(step and self.compiles, (wanted is None or wanted) and self.compiles)

    @property
    def default_dtype(self) -> str:
        """float32 on CPU, where half precision is emulated; bfloat16 elsewhere."""
        return "float32" if self.device == "cpu" else "bfloat16"

    def notes(self) -> list[str]:
        """Plain lines for the console, said once per run."""
        if self.device != "cpu":
            return [f"device: {self.device}"]
        lines = [f"device: CPU, {available_cores()} cores, BLAS: {self.blas}"]
        if self.blas == _BUNDLED:
            lines.append(BLAS_REMEDY)
        if not self.compiles:
            lines.append("No C++ compiler found: nothing is compiled. Install g++ for faster updates.")
        return lines


@functools.cache
def detect() -> Backend:
    """Looks once; the answer does not change within a process."""
    if mx.default_device().type == mx.DeviceType.cpu:
        blas = "Accelerate" if sys.platform == "darwin" else _OPENBLAS.name if _OPENBLAS else _BUNDLED
        compiles = shutil.which("g++") is not None or sys.platform == "darwin"
        if not compiles:
            mx.disable_compile()  # models of mlx-lm compile parts of themselves
        return Backend("cpu", blas, compiles)
    return Backend("metal" if mx.metal.is_available() else "cuda", None, compiles=True)
