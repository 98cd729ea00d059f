"""Rows of a Parquet file, batch by batch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from bit_axon.errors import DataError, problem

_BATCH_ROWS = 1024


def read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    """`(row, values)`, rows counted from 1; a missing value is None.

    Raises:
        DataError: the file is not Parquet, or is cut short.
    """
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken(path, error) from None


def count_parquet(path: Path) -> int:
    """Rows, from the file's footer."""
    try:
        return int(parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> DataError:
    reason = str(error).strip().split("\n")[0]
    return DataError(problem("a Parquet file", reason, "Write the file again.", where=str(path)))
