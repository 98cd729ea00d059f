"""What a run says about itself: the header it starts with, what repeating it takes, and its result."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bit_axon.backend import mx
from bit_axon.files import digest_of
from bit_axon.preparation import Prepared
from bit_axon.provenance import Command, git_state, hardware, versions
from bit_axon.training.loop import StopReason
from bit_axon.training.loop_state import LoopState

STATES: Mapping[StopReason, str] = {
    "max_steps": "finished",
    "early_stop": "finished",
    "time_limit": "stopped",
    "pruned": "pruned",
    "thermal": "stopped",
    "interrupt": "interrupted",
}
EXIT_CODES: Mapping[str, int] = {"finished": 0, "pruned": 0, "stopped": 0, "interrupted": 130, "failed": 1}


def header(prepared: Prepared, run_dir: Path, resumed_at: int | None) -> dict[str, Any]:
    """What is about to be trained, for a person to read."""
    config, attached = prepared.config, prepared.attached
    quantization = config.model.quantization
    return {
        "name": config.name,
        "model": config.model.path,
        "parameters": prepared.base.parameters,
        "dtype": prepared.base.dtype,
        "quantization": f"{quantization.bits} bits" if quantization else None,
        "adapter": attached.name if attached.paths else "none, every parameter is trained",
        "rank": attached.rank or None,
        "scale": attached.scale or None,
        "layers": len(attached.paths) or None,
        "trainable_parameters": attached.trainable_parameters,
        "method": prepared.method.name,
        "packed": prepared.packed or None,
        "train_rows": prepared.train.rows,
        "valid_rows": prepared.valid.rows if prepared.valid else None,
        "max_steps": prepared.limits.max_steps,
        "batch_size": config.training.batch_size,
        "grad_accum_steps": config.training.grad_accum_steps,
        "seed": config.seed,
        "run_dir": str(run_dir),
        "resumed_at": resumed_at,
    }


def repro_facts(prepared: Prepared, command: Command, config_values: Mapping[str, Any]) -> dict[str, Any]:
    """What repeating the run takes, for repro.json."""
    files = {"train": prepared.train.files, "valid": prepared.valid.files if prepared.valid else ()}
    return {
        "run_uid": uuid.uuid4().hex,
        "argv": list(command.argv),
        "choices": command.choices,
        "overrides": list(command.overrides),
        "seed": prepared.config.seed,
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(),
        "data": {name: [asdict(file) for file in found] for name, found in files.items()},
        "model": {"path": prepared.config.model.path, "digest": prepared.base.digest},
        "tokenizer": {"digest": prepared.tokenizer.digest},
        "config_digest": digest_of(config_values),
        "thermal": prepared.thermal.facts,
    }


def result_of(
    prepared: Prepared,
    state: LoopState,
    reason: StopReason,
    *,
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    adapter_sha256: str,
    setup_seconds: float,
    total_seconds: float,
    thermal: Mapping[str, Any],
) -> dict[str, Any]:
    """The values of result.json; `before` and `after` are the answers to the held-out prompts."""
    count = prepared.config.data.accuracy_prompts
    measured = state.measured_seconds
    evaluated = state.evaluated_step > 0 or not state.step
    metrics = state.eval_metrics if evaluated and state.eval_metrics else state.metrics
    return {
        "state": STATES[reason],
        "stop_reason": reason,
        "step": state.step,
        "epoch": state.epoch,
        "loss": state.loss,
        "eval_loss_before": state.eval_loss_before,
        "eval_loss": state.eval_loss if evaluated else None,
        "eval_loss_best": state.eval_loss_best,
        "grad_norm": state.grad_norm,
        "examples": state.examples,
        "tokens": state.tokens,
        "supervised_tokens": state.supervised_tokens,
        "seconds": {
            "setup": setup_seconds,
            "train_active": state.train_seconds,
            "paused": state.paused_seconds,
            "eval": state.eval_seconds,
            "save": state.save_seconds,
            "total": total_seconds,
        },
        "examples_per_second": state.measured_examples / measured if measured else None,
        "tokens_per_second": state.measured_tokens / measured if measured else None,
        "peak_memory_bytes": mx.get_peak_memory(),
        "trainable_parameters": prepared.attached.trainable_parameters,
        "adapter_sha256": adapter_sha256,
        "task_accuracy_before": _share_correct(before[:count]),
        "task_accuracy": _share_correct(after[:count]),
        "method": prepared.method.name,
        "thermal": dict(thermal),
        **metrics,
        **{f"{name}_before": value for name, value in state.eval_metrics_before.items()},
    }


def _share_correct(samples: Sequence[Mapping[str, Any]]) -> float | None:
    return sum(bool(s["correct"]) for s in samples) / len(samples) if samples else None


def exit_code(result: Mapping[str, Any]) -> int:
    """The process's exit code for a result."""
    return 3 if result["stop_reason"] == "thermal" else EXIT_CODES[str(result["state"])]
