"""Data sets for Python programs, over the same readers, formats and encoder as a run.

    dataset = CacheDataset(SFTDataset("train.jsonl", tokenizer, max_seq_len=2048))
    token_ids, loss_mask = dataset[0]

Rows are checked when the set is made and tokenised when they are asked for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from bit_axon.data.building import ExampleKind, row_samples
from bit_axon.data.encoding import Encoder, cut
from bit_axon.data.examples import Example, PreferenceItem
from bit_axon.data.formats import AUTO, formatted
from bit_axon.data.reading import read_rows, rows_of_list
from bit_axon.data.samples import Sample
from bit_axon.data.sources import Source
from bit_axon.errors import DataError, problem
from bit_axon.tokenizer import QwenTokenizerWrapper

Rows = Sequence[Mapping[str, Any]] | str | Path
Item = TypeVar("Item")


class SFTDataset(Sequence[Example]):
    """Conversations, or any other rows of single sequences, as `(token_ids, loss_mask)`.

    Args:
        data: rows, or a source of them: a JSON or JSON lines file, a folder, Parquet, a hub id.
        tokenizer: whose chat template is applied.
        max_seq_len: tokens; longer examples are cut on the right.
        mask_prompt: train the answers alone; False trains every token but the first.

    Raises:
        DataError: a row is wrong, or there is none.
    """

    def __init__(
        self, data: Rows, tokenizer: QwenTokenizerWrapper, max_seq_len: int = 2048, mask_prompt: bool = True
    ):
        self._rows = _EncodedRows(data, Encoder(tokenizer, mask_prompt=mask_prompt), max_seq_len)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._rows.sides(index)[0]


class AlpacaDataset(Sequence[Example]):
    """Alpaca rows (`instruction`, `input`, `output`) as `(token_ids, loss_mask)`; else like `SFTDataset`."""

    def __init__(
        self, data: Rows, tokenizer: QwenTokenizerWrapper, max_seq_len: int = 2048, mask_prompt: bool = True
    ):
        encoder = Encoder(tokenizer, mask_prompt=mask_prompt)
        self._rows = _EncodedRows(data, encoder, max_seq_len, format="alpaca")

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._rows.sides(index)[0]


class ORPODataset(Sequence[PreferenceItem]):
    """Preference pairs as `(chosen_ids, chosen_mask, rejected_ids, rejected_mask)`.

    Args:
        data: rows with `prompt`, `chosen` and `rejected`, or a source of them.
        tokenizer: whose chat template is applied.
        max_seq_len: tokens of each side; longer ones are cut on the right.

    Raises:
        DataError: a row is wrong, or there is none.
    """

    def __init__(self, data: Rows, tokenizer: QwenTokenizerWrapper, max_seq_len: int = 2048):
        self._rows = _EncodedRows(data, Encoder(tokenizer), max_seq_len, kind="pairs", format="preference")

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> PreferenceItem: ...
    @overload
    def __getitem__(self, index: slice) -> list[PreferenceItem]: ...
    def __getitem__(self, index: int | slice) -> PreferenceItem | list[PreferenceItem]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        chosen, rejected = self._rows.sides(index)
        return PreferenceItem(*chosen, *rejected)


class CacheDataset(Sequence[Item]):
    """Keeps what a data set yields, so that each item is made once."""

    def __init__(self, raw: Sequence[Item]):
        self._raw = raw
        self._items: dict[int, Item] = {}

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        if at not in self._items:
            self._items[at] = self._raw[at]
        return self._items[at]


class _EncodedRows:
    """Checked rows, encoded one at a time."""

    def __init__(
        self,
        data: Rows,
        encoder: Encoder,
        max_seq_len: int,
        *,
        kind: ExampleKind = "tokens",
        format: str = AUTO,
    ):
        self._samples = _samples(data, kind, format)
        self._encoder = encoder
        self._max_seq_len = max_seq_len

    def __len__(self) -> int:
        return len(self._samples)

    def sides(self, index: int) -> tuple[Example, ...]:
        """The row's sequence, or its chosen and rejected one; raises IndexError behind the last."""
        samples = self._samples[index]
        return tuple(cut(example, self._max_seq_len).example for example in self._encoder.encode(samples))


def _samples(data: Rows, kind: ExampleKind, format: str) -> list[tuple[Sample, ...]]:
    rows = read_rows(Source(str(data))) if isinstance(data, str | Path) else rows_of_list(data)
    samples = [row_samples(row, row_format, kind) for row, row_format in formatted(rows, format)]
    if not samples:
        raise DataError(problem("at least one row", "an empty list", "Give rows to learn from."))
    return samples
