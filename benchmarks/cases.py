"""What is compared with what, and what the project promises of it."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.contestants import OURS, Contestant
from benchmarks.folders import model_folder, quantized_folder
from benchmarks.rows import FixedBatch, long_batch, median_batch, read_rows
from benchmarks.workers.protocol import Spec
from bit_axon.backend import available_cores
from bit_axon.files import outputs_dir
from bit_axon.tokenizer import QwenTokenizerWrapper

SCENARIOS = ("stream", "same", "orpo")
ADAPTERS = ("lora", "dora", "lora4")
BATCH_ROWS = 4
_TEXT_ROWS = 4000  # of each file; what tokenizers learn from
_LONG_TOKENS = 512


@dataclass(frozen=True)
class Target:
    """What a ratio, ours to the peer's, has to be."""

    value: float
    at_least: bool

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is as promised."""
        return ratio >= self.value if self.at_least else ratio <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g}"


@dataclass(frozen=True)
class Comparison:
    """One row of the report: a metric of two contestants."""

    what: str
    metric: str
    ours: str  # labels
    peer: str
    target: Target | None = None


@dataclass(frozen=True)
class Case:
    """Contestants measured in turn."""

    scenario: str
    model: str
    title: str
    contestants: tuple[Contestant, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Selection:
    """What the command line asked for."""

    models: tuple[str, ...]
    scenarios: tuple[str, ...]
    adapters: tuple[str, ...]
    peers: tuple[str, ...]
    sft: Path
    preferences: Path
    peft_python: str
    our_batch: int = BATCH_ROWS
    quick: bool = False


def cases(chosen: Selection) -> Iterator[Case]:
    """All cases, models from small to large; folders and batches are made on the way."""
    for model in chosen.models:
        folder = model_folder(model, texts_of(chosen.sft, chosen.preferences))
        if "stream" in chosen.scenarios:
            yield from _stream_cases(chosen, model, folder)
        if "same" in chosen.scenarios:
            yield from _same_cases(chosen, model, folder)
        if "orpo" in chosen.scenarios:
            yield _orpo_case(chosen, model, folder)


def texts_of(*paths: Path) -> list[str]:
    """Every string in the first rows of some files."""
    return [text for path in paths for row in read_rows(path, _TEXT_ROWS) for text in _strings(row)]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _stream_cases(chosen: Selection, model: str, folder: Path) -> Iterator[Case]:
    """Shuffled rows of natural lengths, each contestant with its own batching."""
    targets = {"lora": Target(3.0, True), "dora": Target(3.0, True), "lora4": Target(20.0, True)}
    peers = [peer for peer in ("mlx-lm", "mlx-lm-bundled") if peer in chosen.peers]
    for adapter in chosen.adapters:
        base = quantized_folder(folder) if adapter == "lora4" else folder
        spec = Spec(str(base), str(chosen.sft), adapter=adapter.removesuffix("4"), batch_size=BATCH_ROWS)
        ours = Contestant(OURS, OURS, sys.executable, replace(spec, batch_size=chosen.our_batch))
        others = tuple(Contestant(peer, peer, sys.executable, spec) for peer in peers)
        name = f"SFT {_adapter_title(adapter)}"
        comparisons: list[Comparison] = []
        for peer in peers:
            target = targets[adapter] if peer == "mlx-lm" else None
            comparisons += [
                Comparison(f"{name}, real tokens/s", "real_tokens_per_second", OURS, peer, target),
                Comparison(f"{name}, supervised tokens/s", "supervised_tokens_per_second", OURS, peer),
                Comparison(f"{name}, peak memory", "peak_bytes", OURS, peer),
            ]
        yield Case("stream", model, f"{name}, stream", (ours, *others), tuple(comparisons))


def _same_cases(chosen: Selection, model: str, folder: Path) -> Iterator[Case]:
    """One batch of four rows for everyone, of the same shape."""
    tokenizer = QwenTokenizerWrapper(folder)
    place = outputs_dir() / "benchmarks" / "data" / folder.name
    batch = median_batch(chosen.sft, tokenizer, BATCH_ROWS, place / "median")
    yield _same_case(chosen, model, folder, batch)
    if not chosen.quick:
        target = place / f"long{_LONG_TOKENS}"
        yield _same_case(
            chosen, model, folder, long_batch(chosen.sft, tokenizer, _LONG_TOKENS, BATCH_ROWS, target)
        )


def _same_case(chosen: Selection, model: str, folder: Path, batch: FixedBatch) -> Case:
    adapters = [adapter for adapter in ("lora", "dora") if adapter in chosen.adapters]
    peers = [peer for peer in ("mlx-lm", "peft") if peer in chosen.peers]
    spec = Spec(str(folder), str(batch.rows), batch_size=len(batch.lengths), packing=False)
    spec = replace(spec, tokens=str(batch.tokens), threads=available_cores())
    contestants: list[Contestant] = []
    comparisons: list[Comparison] = []
    size = f"{len(batch.lengths)} x {max(batch.lengths)} tokens"
    for adapter in adapters:
        for peer in (OURS, *peers):
            python = chosen.peft_python if peer == "peft" else sys.executable
            contestants.append(Contestant(f"{peer} {adapter}", peer, python, replace(spec, adapter=adapter)))
        comparisons += _same_comparisons(f"{_adapter_title(adapter)}, {size}", adapter, peers)
    if len(adapters) == 2:
        what = f"DoRA against our LoRA, {size}, step time"
        comparisons.append(Comparison(what, "step_seconds", "ours dora", "ours lora", Target(1.1, False)))
    return Case("same", model, f"same batch, {size}", tuple(contestants), tuple(comparisons))


def _same_comparisons(name: str, adapter: str, peers: Sequence[str]) -> Iterator[Comparison]:
    ours = f"{OURS} {adapter}"
    for peer in peers:
        label = f"{peer} {adapter}"
        is_peft = peer == "peft"
        promise = Target(1.0, False) if is_peft else None
        yield Comparison(f"{name}, step time", "step_seconds", ours, label, promise)
        if is_peft:  # PyTorch does not count what it allocates on a CPU
            yield Comparison(f"{name}, peak resident memory", "resident_peak_bytes", ours, label)
        else:
            yield Comparison(f"{name}, peak memory", "peak_bytes", ours, label, Target(0.5, False))


def _orpo_case(chosen: Selection, model: str, folder: Path) -> Case:
    """Shuffled preference pairs."""
    spec = Spec(str(folder), str(chosen.preferences), method="orpo", batch_size=BATCH_ROWS)
    peers = [peer for peer in ("mlx-lm-lora",) if peer in chosen.peers]
    contestants = [Contestant(name, name, sys.executable, spec) for name in (OURS, *peers)]
    comparisons: list[Comparison] = []
    for peer in peers:
        comparisons += [
            Comparison("ORPO LoRA, pairs/s", "examples_per_second", OURS, peer, Target(3.0, True)),
            Comparison("ORPO LoRA, peak memory", "peak_bytes", OURS, peer),
        ]
    return Case("orpo", model, "ORPO LoRA, stream", tuple(contestants), tuple(comparisons))


def _adapter_title(adapter: str) -> str:
    return {"lora": "LoRA", "dora": "DoRA", "lora4": "LoRA on a 4-bit base"}[adapter]
