"""Rows of a data set on the Hugging Face hub; the one module that loads `datasets`."""

from collections.abc import Iterator, Mapping
from typing import Any

import datasets

from bit_axon.data.sources import Source
from bit_axon.errors import DataError, problem


def read_hub(source: Source) -> Iterator[Mapping[str, Any]]:
    """The rows of a hub set, memory-mapped from its local cache.

    Raises:
        DataError: the set, its split or its configuration cannot be had.
    """
    split = source.split or "train"
    try:
        loaded = datasets.load_dataset(
            source.path, source.config, split=_hub_split(source, split), revision=source.revision
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            problem(
                f"hub data set '{source.path}' (split {split})",
                reason,
                "Check the id, the split, the config and the connection, or give a local file.",
            )
        ) from error
    yield from loaded


def _hub_split(source: Source, split: str) -> str:
    """The hub's sets call it `validation`."""
    if split != "valid":
        return split
    names = datasets.get_dataset_split_names(source.path, source.config, revision=source.revision)
    return next((name for name in ("validation", "valid", "dev", "test") if name in names), "validation")
