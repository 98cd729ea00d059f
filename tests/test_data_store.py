"""The token cache: what is written is read back, what is damaged is made again."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bit_axon.data.examples import Example, PairExample, PreferenceItem
from bit_axon.data.sequences import Resampled, in_memory, pair_store, resampling, token_store
from bit_axon.data.store import Counts, NewEntry, PairStore, StoreWriter, load_entry, save_entry
from bit_axon.errors import StorageError

COUNTS = Counts(rows=3, truncated=1, dropped_too_long=0, dropped_masked=0, kept=(3,))


def example(*ids: int) -> Example:
    return Example(np.array(ids, np.int32), np.array([i % 2 for i in ids], np.uint8))


EXAMPLES = [example(5, 6, 7), example(1), example(2, 3)]


def same(first: Example, second: Example) -> bool:
    return np.array_equal(first.token_ids, second.token_ids) and np.array_equal(
        first.loss_mask, second.loss_mask
    )


def write(place: Path | None, sides: tuple[str, ...] = ("tokens",)) -> NewEntry:
    new = NewEntry(place)
    with new as folder:
        for side in sides:
            writer = StoreWriter(folder, side)
            writer.append(EXAMPLES[:2])
            writer.append([])
            writer.append(EXAMPLES[2:])
            writer.close()
        save_entry(folder, COUNTS, sides)
        new.publish()
    return new


def test_written_examples_are_read_back(tmp_path: Path) -> None:
    write(tmp_path / "entry", ("chosen", "rejected"))
    entry = load_entry(tmp_path / "entry")
    assert entry is not None and entry.counts == COUNTS and len(entry.sides) == 2
    store = entry.sides[1]
    assert all(same(*both) for both in zip(store, EXAMPLES, strict=True))
    assert same(store[-1], EXAMPLES[-1]) and same(store[1:][0], EXAMPLES[1])
    assert store.lengths.tolist() == [3, 1, 2]
    assert isinstance(store.ids, np.memmap) and store.ids.dtype == np.int32 and store.mask.dtype == np.uint8
    with pytest.raises(IndexError):
        store[3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entry"]
    assert not list((tmp_path / "entry").glob("*.raw"))


def test_without_a_place_nothing_stays_on_disk() -> None:
    new = NewEntry(None)
    with new as folder:
        writer = StoreWriter(folder, "tokens")
        writer.append(EXAMPLES)
        writer.close()
        save_entry(folder, COUNTS, ("tokens",))
        entry = new.publish()
    assert not folder.exists()
    assert all(same(*both) for both in zip(entry.sides[0], EXAMPLES, strict=True))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_entry_is_none_and_is_replaced(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "entry"
    write(place)
    victim = place / ("manifest.json" if damage == "manifest" else "tokens.ids.npy")
    raw = bytearray(victim.read_bytes())
    raw[-1] ^= 1
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(bytes(raw) if damage == "flip" else bytes(raw[:-3]))
    assert load_entry(place) is None
    write(place)
    assert load_entry(place) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_an_entry_that_another_process_made_first_stays(tmp_path: Path) -> None:
    write(tmp_path / "entry")
    before = os.stat(tmp_path / "entry").st_ino
    write(tmp_path / "entry")
    assert os.stat(tmp_path / "entry").st_ino == before


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), NewEntry(tmp_path / "entry") as folder:
        StoreWriter(folder, "tokens").abandon()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no space left on device"), NewEntry(tmp_path / "entry"):
        raise OSError(28, "No space left on device")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), NewEntry(tmp_path / "file" / "entry"):
        pass


def test_pairs_in_either_shape() -> None:
    pairs = [PairExample(EXAMPLES[0], EXAMPLES[1]), PairExample(EXAMPLES[1], EXAMPLES[2])]
    for items in (pairs, [PreferenceItem(*p.chosen, *p.rejected) for p in pairs]):
        store = pair_store(items)
        assert isinstance(store, PairStore) and store.lengths.tolist() == [3, 2]
        assert same(store[1].rejected, EXAMPLES[2]) and same(store[:1][0].chosen, EXAMPLES[0])
        assert pair_store(store) is store


def test_token_store_of_a_list_and_of_nothing() -> None:
    store = token_store(EXAMPLES)
    assert all(same(*both) for both in zip(store, EXAMPLES, strict=True))
    assert token_store(store) is store
    assert len(token_store([])) == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0.05, 3.5)), min_size=1, max_size=4),
    st.integers(0, 5),
)
def test_weights(sources: list[tuple[int, float]], seed: int) -> None:
    kept, weights = [n for n, _ in sources], [w for _, w in sources]
    indices = resampling(kept, weights, seed)
    assert np.array_equal(indices, resampling(kept, weights, seed))
    first = 0
    for count, weight in sources:
        own = indices[(indices >= first) & (indices < first + count)]
        times = np.bincount(own - first, minlength=count)
        extra = weight % 1 * count
        assert set(times.tolist()) <= {int(weight), int(weight) + 1}
        assert abs(int((times > int(weight)).sum()) - extra) <= 1
        first += count
    assert len(indices) == sum(((indices >= 0) & (indices < sum(kept))).tolist())


def test_resampled_sequence() -> None:
    store = in_memory(EXAMPLES)
    twice = Resampled(store, store.lengths, np.array([2, 2, 0]))
    assert twice.lengths.tolist() == [2, 2, 3]
    assert same(twice[1], EXAMPLES[2]) and same(twice[-1], EXAMPLES[0]) and len(twice[1:]) == 2
    with pytest.raises(IndexError):
        twice[3]
