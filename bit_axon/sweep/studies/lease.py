"""Who works on a trial: a process that can be looked up, or one elsewhere that shows signs of life."""

import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import psutil

BEAT_SECONDS: Final = 30.0
STALE_SECONDS: Final = 600.0  # without a beat a process of another machine counts as dead
_SAME_START_SECONDS: Final = 30.0  # the system's idea of a start moves when its clock is set

Owner = dict[str, Any]
"""`host`, `pid`, `started` and `beat` (unix seconds), and `sweeper`: the process that launched it."""


def identity() -> Owner:
    """This process, as others can look it up."""
    return {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def new_owner(sweeper: Mapping[str, Any], now: float | None = None) -> Owner:
    """This process as the owner of a trial that `sweeper` asked for."""
    beat = time.time() if now is None else now
    return {**identity(), "beat": beat, "sweeper": {key: sweeper[key] for key in ("host", "pid", "started")}}


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both are the same process."""
    near = abs(one["started"] - other["started"]) <= _SAME_START_SECONDS
    return bool(one["host"] == other["host"] and one["pid"] == other["pid"] and near)


def is_alive(owner: Mapping[str, Any], now: float | None = None) -> bool:
    """Whether a trial's process, or the sweeper that waits for it and will tell its end, still exists.

    A process of this machine is looked up by id and start time; of another machine only beats are known.
    """
    if _runs_here(owner) or _runs_here(owner["sweeper"]):
        return True
    elsewhere = owner["host"] != platform.node()
    return elsewhere and (time.time() if now is None else now) - owner["beat"] <= STALE_SECONDS


def is_orphan(owner: Mapping[str, Any] | None) -> bool:
    """Whether a trial's process runs on this machine and the sweeper that launched it does not any more."""
    return owner is not None and _runs_here(owner) and not _runs_here(owner["sweeper"])


def _runs_here(process: Mapping[str, Any]) -> bool:
    if process["host"] != platform.node():
        return False
    try:
        found = psutil.Process(process["pid"])
        if found.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        return abs(found.create_time() - process["started"]) <= _SAME_START_SECONDS
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


class Heartbeat:
    """Calls `beat` every so often, from a thread of its own: a long pause must not look like death."""

    def __init__(self, beat: Callable[[], None], seconds: float = BEAT_SECONDS):
        self._beat, self._seconds = beat, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trial-heartbeat", daemon=True)
        self._thread.start()

    def stop(self, wait_seconds: float = 10.0) -> None:
        """Ends it; a beat under way is waited for."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(wait_seconds)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._beat()
