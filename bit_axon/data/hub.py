"""Rows of a data set on the Hugging Face hub; the one module that loads `datasets`."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import datasets
from huggingface_hub import snapshot_download

from bit_axon.data.sources import Source
from bit_axon.errors import DataError, problem
from bit_axon.hub import hub_reason

_CARD: Final = "README.md"


def read_hub(source: Source) -> Iterator[Mapping[str, Any]]:
    """The rows of a hub set, memory-mapped from its local cache.

    Raises:
        DataError: the set, its split or its configuration cannot be had.
    """
    split = source.split or "train"
    try:
        _refuse_unreachable(source)
        loaded = datasets.load_dataset(
            source.path, source.config, split=_hub_split(source, split), revision=source.revision
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            problem(
                f"hub data set '{source.path}' (split {split})",
                hub_reason(error),
                "Check the id, the split, the config and the connection, or give a local file.",
            )
        ) from error
    yield from loaded


def _refuse_unreachable(source: Source) -> None:
    """Asks the hub or its cache once; `load_dataset` would go on asking for half a minute."""
    snapshot_download(source.path, repo_type="dataset", revision=source.revision, allow_patterns=_CARD)


def _hub_split(source: Source, split: str) -> str:
    """The hub's sets call it `validation`."""
    if split != "valid":
        return split
    names = datasets.get_dataset_split_names(source.path, source.config, revision=source.revision)
    return next((name for name in ("validation", "valid", "dev", "test") if name in names), "validation")
