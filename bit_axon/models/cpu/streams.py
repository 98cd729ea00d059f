"""Parts of a batch on all cores at once.

MLX works through a stream of operations on one thread; only matrix products use more. With a stream per
part, and single-threaded products, everything else runs in parallel too. MLX queues about a hundred
operations at a time, over all streams: so the parts take turns, a few operations each, and all stay busy.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from typing import Any, Final, TypeAlias, TypeVar

from bit_axon.backend import blas_threads, mx

T = TypeVar("T")
_MOST_STREAMS: Final = 4
Steps: TypeAlias = Generator[Any, None, T]  # yields arrays that may be computed now; returns a result


class Streams:
    """As many streams as parts run at once.

    Args:
        cores: to be used; above four, parts share them out, as one thread describes all parts.
    """

    def __init__(self, cores: int):
        self.count = count = min(max(cores, 1), _MOST_STREAMS)
        self._product_threads = max(cores // count, 1)
        self._streams = [mx.new_stream(mx.cpu) for _ in range(count)] if count > 1 else []

    def run(self, parts: Sequence[Steps[T]]) -> list[T]:
        """The results of at most `count` parts, in order, evaluated."""
        if len(parts) == 1 or not self._streams:
            results = [result_of(part) for part in parts]
            mx.eval(results)
            return results
        with blas_threads(self._product_threads):
            results = self._interleaved(parts)
            mx.eval(results)
        return results

    def each(self, tasks: Sequence[Callable[[], mx.array | None]]) -> None:
        """Evaluates what the tasks return, spread over the streams."""
        streams = self._streams or [mx.default_stream(mx.default_device())]
        found = []
        with blas_threads(self._product_threads) if self._streams else nullcontext():
            for number, task in enumerate(tasks):
                with mx.stream(streams[number % len(streams)]):
                    found.append(task())
            mx.eval([array for array in found if array is not None])

    def _interleaved(self, parts: Sequence[Steps[T]]) -> list[T]:
        results: dict[int, T] = {}
        while len(results) < len(parts):
            for number, part in enumerate(parts):
                if number in results:
                    continue
                with mx.stream(self._streams[number]):
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
