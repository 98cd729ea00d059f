"""From a file of rows to the first batch, in a fresh process: seconds and memory of the data path.

Reads one JSON object {folder, data, cache, batch_size, max_seq_len} and answers with one.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import psutil

from benchmarks.workers.memory import ResidentMemory, status_bytes
from benchmarks.workers.protocol import Channel
from bit_axon import preparation  # noqa: F401 - all that a run imports belongs to the baseline
from bit_axon.data.examples import Example
from bit_axon.data.loading import EncodedSet, load_examples
from bit_axon.data.sources import Source
from bit_axon.tokenizer import QwenTokenizerWrapper
from bit_axon.training.collate import TokenBatchPlan


def main() -> None:
    """Serves one request."""
    channel = Channel.claim()
    request = channel.receive()
    if request is not None:
        channel.send(_measured(request))


def _measured(request: Mapping[str, Any]) -> dict[str, float]:
    resident = ResidentMemory()
    resident.reset()
    baseline, anonymous = _resident_bytes(), status_bytes("RssAnon")
    times = [time.perf_counter()]
    tokenizer = QwenTokenizerWrapper(request["folder"])
    times.append(time.perf_counter())
    encoded = _encoded(request, tokenizer)
    times.append(time.perf_counter())
    plan = _plan(request, tokenizer, encoded)
    times.append(time.perf_counter())
    batch = plan.batch(0, 0)
    times.append(time.perf_counter())
    names = ("tokenizer_seconds", "load_seconds", "plan_seconds", "batch_seconds")
    parts = {name: end - start for name, start, end in zip(names, times[:-1], times[1:], strict=True)}
    return {
        **parts,
        "seconds": times[-1] - times[0],
        "examples": len(encoded.examples),
        "batch_tokens": batch.real_tokens,
        "baseline_bytes": baseline,
        "added_bytes": _resident_bytes() - baseline,
        "added_anonymous_bytes": status_bytes("RssAnon") - anonymous,
        "added_peak_bytes": resident.peak_bytes() - baseline,
        "total_peak_bytes": resident.peak_bytes(),
    }


def _encoded(request: Mapping[str, Any], tokenizer: QwenTokenizerWrapper) -> EncodedSet:
    return load_examples(
        [Source(request["data"])],
        kind="tokens",
        format="auto",
        tokenizer=tokenizer,
        max_seq_len=request["max_seq_len"],
        mask_prompt=True,
        cache_dir=Path(request["cache"]),
        seed=0,
    )


def _plan(request: Mapping[str, Any], tokenizer: QwenTokenizerWrapper, encoded: EncodedSet) -> TokenBatchPlan:
    return TokenBatchPlan(
        cast(Sequence[Example], encoded.examples),  # of the kind "tokens"
        batch_size=request["batch_size"],
        max_seq_len=request["max_seq_len"],
        packing=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        seed=0,
    )


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
