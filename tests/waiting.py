"""Time in tests: waiting for a condition, and bounds that a slow or busy machine keeps too.

A test waits for what it needs and not for a time in which it should have happened. A bound on a time is one
that only a broken promise misses: where the machine's speed is in it, it is multiplied by `slowness()`.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LONGEST_SECONDS = 300.0  # of anything that is waited for; only what is broken takes as long
AT_ONCE_SECONDS = 60.0  # for what has nothing to wait for: a busy machine may stop a process for seconds
_MANY_MODULES = "import asyncio, decimal, email.message, http.client, logging.config, unittest.mock"
_USUAL_SECONDS = 0.15  # of a process that imports them, where the bounds were set


def wait_for(
    condition: Callable[[], Any],
    what: str,
    process: "subprocess.Popen[Any] | None" = None,
    *,
    pause_seconds: float = 0.02,
) -> None:
    """Until the condition is true; an error at once if it needs a process that has ended."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        if process is not None and process.poll() is not None:
            assert condition(), f"waited for {what}, but the process ended: {process.communicate()}"
            return
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(pause_seconds)


def slowness() -> float:
    """How many times longer a process takes here and now than where the bounds were set; at least 1."""
    return max(1.0, *(_process_seconds() / _USUAL_SECONDS for _ in range(3)))


def _process_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", _MANY_MODULES], check=True, timeout=LONGEST_SECONDS)
    return time.perf_counter() - started
