"""Full load for the device that MLX computes on, for as long as a block runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bit_axon.backend import detect, mx

_GPU_SIZE, _CPU_SIZE = 4096, 1024  # of square matrices: a product takes milliseconds, not seconds
_WARM_UP: Final = 3


@contextmanager
def matrix_products() -> Iterator[None]:
    """One matrix product after the other in a thread of its own; begins when the device is at work.

    Raises:
        Exception: what the device refused, when the block ends.
    """
    size = _CPU_SIZE if detect().device == "cpu" else _GPU_SIZE
    warm, stopped = threading.Event(), threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        try:
            # Made here: MLX's default stream is each thread's own.
            matrix = mx.random.normal((size, size), key=mx.random.key(0))
            for _ in range(_WARM_UP):
                mx.eval(matrix @ matrix)
            warm.set()
            while not stopped.is_set():
                mx.eval(matrix @ matrix)
        except Exception as error:
            failures.append(error)
        finally:
            warm.set()

    thread = threading.Thread(target=work, name="load", daemon=True)
    thread.start()
    try:
        warm.wait()
        yield
    finally:
        stopped.set()
        thread.join()
    if failures:
        raise failures[0]
