"""Run directories made by hand, as the loop writes them, for the tests of the mirror."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START_MS = 1_790_000_000_000

CONFIG = """\
seed: 42
name: null
tags: {team: blue}
resume: null
model: {path: 'embedded:nano', quantization: null}
adapter: {name: dora, rank: 8, targets: [q_proj, v_proj], rslora: false}
method: {name: sft}
tracking: {enabled: true, uri: null, experiment: bit_axon}
"""
RESULT: dict[str, Any] = {
    "state": "finished",
    "stop_reason": "max_steps",
    "step": 20,
    "eval_loss_before": 3.25,
    "eval_loss": 0.75,
    "tokens_per_second": 12345.5,
    "seconds": {"total": 61.5, "train_active": 50.0},
    "task_accuracy": 0.9,
    "adapter_sha256": "c" * 64,
    "method": "sft",
}


def train_line(step: int, loss: float | str, time_ms: int | None = None) -> dict[str, Any]:
    """A record of one step, as metrics.jsonl has it."""
    metrics = {"train/loss": loss, "train/learning_rate": 1e-4}
    moment = START_MS + 250 * step if time_ms is None else time_ms
    return {"time": moment, "step": step, "kind": "train", "metrics": metrics}


def append_lines(run_dir: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds records to the run's metrics."""
    with open(run_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def make_run(run_dir: Path, steps: int = 20, *, result: Mapping[str, Any] | None = None) -> Path:
    """A run directory with config, repro and metrics; with `result`, one that has ended."""
    run_dir.mkdir(parents=True)
    data_file = run_dir / "train_rows.jsonl"
    data_file.write_text('{"text": "a"}\n')
    (run_dir / "config.yaml").write_text(CONFIG)
    repro = {
        "overrides": ["adapter=dora", "name=a b"],
        "git": {"commit": "f" * 40, "dirty": True},
        "data": {
            "train": [{"source": "x", "path": str(data_file), "sha256": "0" * 64, "rows": 1000}],
            "valid": [{"source": "y", "path": "embedded:demo/valid", "sha256": "1" * 64, "rows": 200}],
        },
    }
    (run_dir / "repro.json").write_text(json.dumps(repro))
    append_lines(run_dir, [train_line(step, 4.0 / step) for step in range(1, steps + 1)])
    if result is not None:
        end_run(run_dir, result)
    return run_dir


def end_run(run_dir: Path, result: Mapping[str, Any]) -> None:
    """Writes what a run writes at its end."""
    samples = [
        {"when": "before", "prompt": "2+2?", "reference": "4", "answer": "\u2028no", "correct": False},
        {"when": "after", "prompt": "2+2?", "reference": "4", "answer": "4", "correct": True},
    ]
    lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    (run_dir / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    (run_dir / "adapter_config.json").write_text("{}")
    (run_dir / "adapters.safetensors").write_bytes(b"weights")
    (run_dir / "result.json").write_text(json.dumps(result))
