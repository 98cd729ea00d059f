"""What the trainer asks for: encoded sets, prompts, and digests of sources."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from bit_axon.data.building import ExampleKind, build_entry
from bit_axon.data.encoding import ENCODING_VERSION, Encoder
from bit_axon.data.examples import Example, PairExample
from bit_axon.data.formats import check_format
from bit_axon.data.prompts import PromptRow, load_prompts, prompt_ids
from bit_axon.data.reading import digest_sources, read_rows
from bit_axon.data.sequences import Resampled, resampling
from bit_axon.data.sources import Source, SourceDigest, parse_sources
from bit_axon.data.store import CacheEntry, NewEntry, PairStore, load_entry
from bit_axon.files import digest_of
from bit_axon.tokenizer import QwenTokenizerWrapper

__all__ = [
    "EncodedSet",
    "PromptRow",
    "Source",
    "SourceDigest",
    "digest_sources",
    "load_examples",
    "load_prompts",
    "parse_sources",
    "prompt_ids",
]


@dataclass(frozen=True)
class EncodedSet:
    """A data set as tokens.

    Attributes:
        examples: `Sequence[Example]` or `Sequence[PairExample]`, weights applied.
        digest: of everything that decides the tokens and masks; names the cache entry.
        files: what was read.
        rows: rows read.
        truncated: examples kept, but cut at `max_seq_len`.
        dropped_too_long: rows whose answer lay behind the cut.
        dropped_masked: rows without a target.
    """

    examples: Sequence[Example] | Sequence[PairExample]
    digest: str
    files: tuple[SourceDigest, ...]
    rows: int
    truncated: int
    dropped_too_long: int
    dropped_masked: int


def load_examples(
    sources: Sequence[Source],
    *,
    kind: ExampleKind,
    format: str,
    tokenizer: QwenTokenizerWrapper,
    max_seq_len: int,
    mask_prompt: bool,
    cache_dir: Path | None,
    seed: int,
) -> EncodedSet:
    """Reads, encodes and caches a data set; a set seen before is only mapped into memory.

    Args:
        sources: rows of all of them, in order.
        kind: `tokens` for single sequences, `pairs` for preference data.
        format: a row format's name, or `auto`.
        tokenizer: whose template and tokens are used.
        max_seq_len: tokens; longer examples are cut on the right.
        mask_prompt: False trains prompts too; pairs always mask them.
        cache_dir: where entries live, one folder per digest; None keeps the tokens in memory only.
        seed: decides which rows a fractional weight takes.

    Raises:
        DataError: a source or a row is wrong, or nothing is left to learn.
        ConfigError: unknown format.
        ModelError: chat rows, but no usable chat template.
        StorageError: the cache cannot be written.
    """
    check_format(format)
    files = [digest_sources([source]) for source in sources]
    digest = digest_of(
        {
            "version": ENCODING_VERSION,
            "kind": kind,
            "format": format,
            "files": [[(Path(f.path).suffix, f.sha256) for f in part] for part in files],
            "tokenizer": tokenizer.digest,
            "template": tokenizer.chat_template,
            "max_seq_len": max_seq_len,
            "mask_prompt": mask_prompt,
        }
    )
    place = cache_dir / digest if cache_dir else None
    entry = load_entry(place) if place else None
    if entry is None:
        encoder = Encoder(tokenizer, mask_prompt=mask_prompt or kind == "pairs")
        new = NewEntry(place)
        with new as folder:
            openers = [partial(read_rows, source) for source in sources]
            build_entry(
                folder,
                openers,
                name=", ".join(source.path for source in sources),
                kind=kind,
                format=format,
                encoder=encoder,
                max_seq_len=max_seq_len,
            )
            entry = new.publish()
    counts = asdict(entry.counts)
    del counts["kept"]
    return EncodedSet(
        _weighted(entry, sources, seed), digest, tuple(f for part in files for f in part), **counts
    )


def _weighted(
    entry: CacheEntry, sources: Sequence[Source], seed: int
) -> Sequence[Example] | Sequence[PairExample]:
    weights = [source.weight for source in sources]
    indices = None if set(weights) == {1.0} else resampling(entry.counts.kept, weights, seed)
    if len(entry.sides) == 1:
        store = entry.sides[0]
        return store if indices is None else Resampled(store, store.lengths, indices)
    pairs = PairStore(*entry.sides)
    return pairs if indices is None else Resampled(pairs, pairs.lengths, indices)
