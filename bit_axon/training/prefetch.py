"""The next batch is built while the device works on the present one."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from bit_axon.training.collate import Batch
from bit_axon.training.position import Plan, Position


class Prefetch:
    """Batches of a plan by their number in the endless stream, the next one built by a background thread.

    They are the plan's own, whatever is asked for in whatever order: a plan is a pure function. What goes
    wrong in the thread is raised where its batch is asked for. To be used as a context manager: on leaving,
    the thread has ended.

    Args:
        plan: of the batches.
    """

    def __init__(self, plan: Plan):
        self._plan, self._position = plan, Position(plan)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def batch(self, number: int, *, ahead: bool) -> Batch:
        """A batch; with `ahead`, the one behind it is begun."""
        begun, self._ahead = self._ahead, None
        future = begun[1] if begun is not None and begun[0] == number else self._begun(number)
        batch = future.result()
        if ahead:
            self._ahead = number + 1, self._begun(number + 1)
        return batch

    def _begun(self, number: int) -> Future[Batch]:
        return self._thread.submit(self._plan.batch, *self._position.find(number))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
