"""Imports without a search for garbage: nothing stays off, nothing stays uncollected."""

import gc
import weakref

import pytest

from bit_axon.importing import imported_to_stay


class Node:
    """Something that can refer to itself."""

    itself: "Node"


def cycle() -> weakref.ref[Node]:
    node = Node()
    node.itself = node
    return weakref.ref(node)


@pytest.mark.parametrize("searched", [True, False])
def test_the_search_is_as_it_was_afterwards(searched: bool) -> None:
    was = gc.isenabled()
    try:
        gc.enable() if searched else gc.disable()
        with pytest.raises(ImportError), imported_to_stay():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() is searched
    finally:
        gc.enable() if was else gc.disable()


def test_what_was_made_is_old_and_is_still_found_when_it_is_garbage() -> None:
    with imported_to_stay():
        found = cycle()
    assert any(each is found() for each in gc.get_objects(generation=2))
    gc.collect(1)
    assert found() is not None
    gc.collect()
    assert found() is None and gc.get_freeze_count() == 0
