"""Who hears a Ctrl-C while a trial waits for the storage: the search in this process, or the trial itself."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bit_axon.stopping import StopRequest
from bit_axon.sweep.studies.storage import never

_TEXTS: Final = (
    "Stopping: the study's storage is not waited for any longer. Again: at once.",
    "Stopped at once; how the trial ended is in its result.json.",
)


def heard() -> Callable[[], bool]:
    """Whether who listens in this process has heard a signal; without anybody, signals act by themselves."""
    listener = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return listener if isinstance(listener, StopRequest) else never


@contextmanager
def listening() -> Iterator[Callable[[], bool]]:
    """`heard`, where nobody listens by listening within the block."""
    if (stop := heard()) is not never:
        yield stop
        return
    with StopRequest(*_TEXTS).installed() as own:
        yield own
