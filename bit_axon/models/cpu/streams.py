"""Parts of a batch on all cores at once.

MLX works through a stream of operations on one thread; only matrix products use more. With a stream per
part, everything else runs in parallel too. Products are single-threaded then: those of several threads
wait for each other in older versions of OpenBLAS. MLX queues about a hundred operations at a time, over all
streams: so the parts take turns, a few operations each, and all stay busy.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from functools import cache
from typing import Any, Final, TypeAlias, TypeVar

from bit_axon.backend import mx, single_threaded_blas

T = TypeVar("T")
_MOST_STREAMS: Final = 8
Steps: TypeAlias = Generator[Any, None, T]  # yields arrays that may be computed now; returns a result


@cache
def _stream(number: int, thread: int) -> mx.Stream:
    """MLX never frees a stream and knows it in its own thread alone, so all objects of a thread share them.

    What was begun in one has ended when `run` returns.
    """
    return mx.new_stream(mx.cpu)


class Streams:
    """As many streams as parts run at once.

    Args:
        cores: to be used, eight at most: one thread describes all parts.
    """

    def __init__(self, cores: int):
        self.count = min(max(cores, 1), _MOST_STREAMS)

    def run(self, parts: Sequence[Steps[T]]) -> list[T]:
        """The results of at most `count` parts, in order, evaluated."""
        if len(parts) == 1:
            results = [result_of(part) for part in parts]
            mx.eval(results)
            return results
        with single_threaded_blas():
            results = self._interleaved(parts)
            mx.eval(results)
        return results

    def each(self, tasks: Sequence[Callable[[], mx.array | None]]) -> None:
        """Evaluates what the tasks return, spread over the streams."""
        if self.count == 1:
            mx.eval([array for task in tasks if (array := task()) is not None])
            return
        found = []
        with single_threaded_blas():
            for number, task in enumerate(tasks):
                with mx.stream(_stream(number % self.count, threading.get_ident())):
                    found.append(task())
            mx.eval([array for array in found if array is not None])

    def _interleaved(self, parts: Sequence[Steps[T]]) -> list[T]:
        results: dict[int, T] = {}
        while len(results) < len(parts):
            for number, part in enumerate(parts):
                if number in results:
                    continue
                with mx.stream(_stream(number, threading.get_ident())):
                    try:
                        mx.async_eval(next(part))
                    except StopIteration as stop:
                        results[number] = stop.value
                        mx.async_eval(stop.value)
        return [results[number] for number in range(len(parts))]


def result_of(part: Steps[T]) -> T:
    """The result of one part, in the current stream, not waited for."""
    while True:
        try:
            mx.async_eval(next(part))
        except StopIteration as stop:
            result: T = stop.value
            return result
