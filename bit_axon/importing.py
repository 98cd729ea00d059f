"""Imports of many modules at once, without a search for garbage among them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imported_to_stay() -> Iterator[None]:
    """What is imported within is put among the old objects, which Python seldom looks through.

    A start imports two hundred thousand objects, which it would look through again and again while they
    become more: 0.1 s of 2.5 s.
    """
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # to the oldest generation: what is garbage is still found, later
        if searched:
            gc.enable()
