"""From a checked config to a finished run."""

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bit_axon.backend import detect, mx
from bit_axon.errors import BitAxonError, NonFiniteLossError, StorageError
from bit_axon.evaluation.accuracy import Answer, accuracy, answer_prompts
from bit_axon.evaluation.loss import evaluate_loss
from bit_axon.files import digest_of, sha256_file, write_json_atomic
from bit_axon.preparation import Prepared
from bit_axon.provenance import Command, git_state, hardware, versions
from bit_axon.run_directory import ADAPTER_CONFIG, ADAPTERS, METRICS, MetricsLog, RunDirectory
from bit_axon.training.adapters import ModelReference, adapter_config, save_adapter
from bit_axon.training.checkpoint import (
    get_latest_checkpoint,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from bit_axon.training.loop import Loop, LoopParts, StopReason
from bit_axon.training.loop_state import LoopState
from bit_axon.training.optimizers import build_optimizer
from bit_axon.training.records import Evaluation, EvaluationRecord, Observer, StepRecord
from bit_axon.training.scheduler import learning_rate_at
from bit_axon.training.stepper import Stepper

_STATES: Mapping[StopReason, str] = {
    "max_steps": "finished",
    "early_stop": "finished",
    "time_limit": "stopped",
    "thermal": "stopped",
    "interrupt": "interrupted",
}
EXIT_CODES: Mapping[str, int] = {"finished": 0, "pruned": 0, "stopped": 0, "interrupted": 130, "failed": 1}


class Reporter(Observer, Protocol):
    """An observer that is also told of the run as a whole."""

    def on_start(self, header: Mapping[str, Any]) -> None:
        """The run directory is ready and training is about to begin."""

    def on_samples(self, samples: list[dict[str, Any]]) -> None:
        """Answers before or after training."""

    def on_finish(self, result: Mapping[str, Any]) -> None:
        """result.json is written."""


@dataclass
class _Run:
    """One run in progress: the parts that the steps below share."""

    prepared: Prepared
    directory: RunDirectory
    reporter: Reporter
    stepper: Stepper
    state: LoopState
    log: MetricsLog
    started: float
    resumed: bool


def run_experiment(
    prepared: Prepared,
    directory: RunDirectory,
    command: Command,
    reporter: Reporter,
    *,
    config_values: Mapping[str, Any],
    stop_requested: Callable[[], bool] = lambda: False,
    resume: bool = False,
    started: float | None = None,
) -> dict[str, Any]:
    """Trains, evaluates and writes the run directory; returns what result.json holds.

    Args:
        prepared: model, data and plans.
        directory: locked by the caller; empty, or with `resume` that of the run to continue.
        command: how the run was asked for, for repro.json.
        reporter: is told what happens.
        config_values: the resolved config, every key, for config.yaml.
        stop_requested: asked between micro-batches.
        resume: continue from the newest checkpoint.
        started: `time.perf_counter()` when the run began; the set-up time counts from there.

    Raises:
        NonFiniteLossError, StorageError: the run ended early; result.json says so where it could.
    """
    started = time.perf_counter() if started is None else started
    if not resume:
        directory.write_config(config_values)
        directory.write_repro(_repro(prepared, command, config_values))
    run = _begin(prepared, directory, reporter, resume, started)
    try:
        return _train(run, stop_requested)
    except BitAxonError as error:
        _record_failure(run, error)
        raise
    finally:
        run.log.close()


def _repro(prepared: Prepared, command: Command, config_values: Mapping[str, Any]) -> dict[str, Any]:
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
    }


def _begin(
    prepared: Prepared, directory: RunDirectory, reporter: Reporter, resume: bool, started: float
) -> _Run:
    """Restores the newest checkpoint, if there is one, before anything is traced."""
    options = prepared.config.training
    model = prepared.base.model
    optimizer = build_optimizer(options, model)
    state = LoopState()
    checkpoint = get_latest_checkpoint(directory.checkpoints) if resume else None
    if checkpoint is not None:
        load_checkpoint(model, optimizer, checkpoint)
        state = LoopState.from_dict(read_state(checkpoint)["loop"])
    stepper = Stepper(
        prepared.policy,
        prepared.method,
        optimizer,
        max_grad_norm=options.max_grad_norm,
        seed=prepared.config.seed,
        compile=options.compile and detect().compiles,
    )
    log = MetricsLog(directory.path / METRICS)
    if resume:
        log.append("event", state.step, {}, f"resumed at step {state.step}")
    return _Run(prepared, directory, reporter, stepper, state, log, started, resume)


def _train(run: _Run, stop_requested: Callable[[], bool]) -> dict[str, Any]:
    prepared, directory = run.prepared, run.directory
    run.reporter.on_start(_header(run))
    for note in prepared.notes:
        run.reporter.on_message(note)
    before = [s for s in directory.read_samples() if s["when"] == "before"]
    if not (before and run.state.step):
        before = _answers(run, "before")
    setup_seconds = time.perf_counter() - run.started
    mx.reset_peak_memory()
    reason = Loop(_parts(run, stop_requested), prepared.limits, run.state).run()
    after = _answers(run, "after") if reason in ("max_steps", "early_stop", "time_limit") else []
    directory.write_samples(before + after)
    _save_adapter(run)
    result = _result(run, _STATES[reason], reason, before, after, setup_seconds)
    run.log.append("event", run.state.step, {}, str(result["state"]))
    directory.write_result(result)
    run.reporter.on_finish(result)
    return result


def _parts(run: _Run, stop_requested: Callable[[], bool]) -> LoopParts:
    options, prepared = run.prepared.config.training, run.prepared
    valid_plan = prepared.valid_plan

    def evaluate() -> Evaluation:
        assert valid_plan is not None
        return evaluate_loss(run.stepper, valid_plan, options.eval_batches)

    def save(state: LoopState) -> None:
        save_checkpoint(
            prepared.base.model,
            run.stepper.optimizer,
            state.step,
            state.loss,
            run.directory.checkpoints,
            state={"loop": state.to_dict(), "seed": prepared.config.seed},
            keep=options.keep_checkpoints,
        )

    return LoopParts(
        stepper=run.stepper,
        plan=prepared.train_plan,
        learning_rate=lambda step: learning_rate_at(
            step,
            peak=options.learning_rate,
            minimum=options.min_learning_rate,
            warmup_steps=options.warmup_steps,
            max_steps=prepared.limits.max_steps,
            schedule=options.schedule,
        ),
        observer=_LoggingObserver(run.log, run.reporter, prepared.method.name),
        evaluate=evaluate if valid_plan is not None else None,
        save=save,
        stop_requested=stop_requested,
    )


class _LoggingObserver:
    """Writes metrics.jsonl, then passes everything on."""

    def __init__(self, log: MetricsLog, reporter: Reporter, method_name: str):
        self._log, self._reporter, self._prefix = log, reporter, method_name

    def on_step(self, record: StepRecord) -> None:
        metrics = {
            "train/loss": record.loss,
            "train/grad_norm": record.grad_norm,
            "train/learning_rate": record.learning_rate,
            "train/epoch": record.epoch,
            "memory/peak_bytes": float(record.peak_memory_bytes),
        }
        if not record.compiled:
            metrics["train/tokens_per_second"] = record.tokens / record.seconds
            metrics["train/examples_per_second"] = record.examples / record.seconds
        if record.temp_c is not None:
            metrics["thermal/temp_c"] = record.temp_c
        metrics |= {f"{self._prefix}/{name}": value for name, value in record.metrics.items()}
        self._log.append("train", record.step, metrics)
        self._reporter.on_step(record)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        metrics = {"val/loss": record.loss, "val/loss_best": record.loss_best}
        metrics |= {f"val/{self._prefix}_{name}": value for name, value in record.metrics.items()}
        self._log.append("eval", record.step, metrics)
        self._reporter.on_evaluation(record)

    def on_message(self, text: str) -> None:
        self._reporter.on_message(text)


def _answers(run: _Run, when: str) -> list[dict[str, Any]]:
    """Greedy answers to the held-out prompts, reported and kept."""
    prepared, data = run.prepared, run.prepared.config.data
    answers = answer_prompts(
        prepared.base.model, prepared.tokenizer, prepared.prompts, max_new_tokens=data.max_new_tokens
    )
    samples = [_sample(answer, when) for answer in answers]
    if data.accuracy_prompts and answers:
        run.log.append("eval", run.state.step, {"task/accuracy": accuracy(answers[: data.accuracy_prompts])})
    if when == "before":
        run.directory.write_samples(samples)
    run.reporter.on_samples(samples[: data.sample_prompts])
    return samples


def _sample(answer: Answer, when: str) -> dict[str, Any]:
    return {"when": when, **asdict(answer), "correct": answer.correct}


def _save_adapter(run: _Run) -> None:
    prepared, directory = run.prepared, run.directory
    reference = ModelReference(
        str(prepared.base.folder), prepared.base.digest, prepared.config.model.revision
    )
    save_adapter(prepared.base.model, directory.path / ADAPTERS)
    write_json_atomic(directory.path / ADAPTER_CONFIG, adapter_config(prepared.attached, reference))


def _header(run: _Run) -> dict[str, Any]:
    prepared, config, attached = run.prepared, run.prepared.config, run.prepared.attached
    quantization = config.model.quantization
    adapter = {
        "type": attached.name,
        "rank": attached.rank,
        "scale": attached.scale,
        "layers": len(attached.paths),
    }
    return {
        "name": config.name,
        "model": {
            "path": config.model.path,
            "dtype": prepared.base.dtype,
            **({"bits": quantization.bits} if quantization else {}),
        },
        "adapter": adapter if attached.paths else "none: every parameter is trained",
        "method": prepared.method.name,
        "data": {
            "training_rows": prepared.train.rows,
            "validation_rows": prepared.valid.rows if prepared.valid else 0,
            "packed": "yes" if prepared.packed else "no",
        },
        "parameters": {"total": prepared.base.parameters, "trainable": attached.trainable_parameters},
        "steps": {
            "max": prepared.limits.max_steps,
            "batch_size": config.training.batch_size,
            "micro_batches": config.training.grad_accum_steps,
        },
        "seed": config.seed,
        "run_dir": str(run.directory.path),
        "resumed": f"at step {run.state.step}" if run.resumed else None,
    }


def _result(
    run: _Run,
    state_name: str,
    reason: str,
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    setup_seconds: float,
) -> dict[str, Any]:
    state, count = run.state, run.prepared.config.data.accuracy_prompts
    measured = state.measured_seconds
    metrics = state.eval_metrics or state.metrics
    return {
        "state": state_name,
        "stop_reason": reason,
        "step": state.step,
        "epoch": state.epoch,
        "loss": state.loss,
        "eval_loss_before": state.eval_loss_before,
        "eval_loss": state.eval_loss,
        "eval_loss_best": state.eval_loss_best,
        "grad_norm": state.grad_norm,
        "examples": state.examples,
        "tokens": state.tokens,
        "supervised_tokens": state.supervised_tokens,
        "seconds": {
            "setup": setup_seconds,
            "train_active": state.train_seconds,
            "paused": 0.0,
            "eval": state.eval_seconds,
            "save": state.save_seconds,
            "total": time.perf_counter() - run.started,
        },
        "examples_per_second": state.measured_examples / measured if measured else None,
        "tokens_per_second": state.measured_tokens / measured if measured else None,
        "peak_memory_bytes": mx.get_peak_memory(),
        "trainable_parameters": run.prepared.attached.trainable_parameters,
        "adapter_sha256": sha256_file(run.directory.path / ADAPTERS),
        "task_accuracy_before": _share_correct(before[:count]),
        "task_accuracy": _share_correct(after[:count]),
        "method": run.prepared.method.name,
        "thermal": {"source": "none"},
        **metrics,
        **{f"{name}_before": value for name, value in state.eval_metrics_before.items()},
    }


def _share_correct(samples: list[dict[str, Any]]) -> float | None:
    return sum(bool(s["correct"]) for s in samples) / len(samples) if samples else None


def _record_failure(run: _Run, error: BitAxonError) -> None:
    """Says in result.json why the run failed; a disk that is full may not take even that."""
    reason = "non_finite_loss" if isinstance(error, NonFiniteLossError) else "storage"
    result = {"state": "failed", "stop_reason": reason, "step": run.state.step, "message": str(error)}
    with suppress(StorageError, OSError):
        run.log.append("event", run.state.step, {}, f"failed: {reason}")
        run.directory.write_result(result)
    run.reporter.on_finish(result)


def exit_code(result: Mapping[str, Any]) -> int:
    """The process's exit code for a result."""
    return 3 if result["stop_reason"] == "thermal" else EXIT_CODES[str(result["state"])]
