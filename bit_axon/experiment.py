"""From a checked config to a finished run."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from bit_axon.backend import detect, memory_limits, mx
from bit_axon.errors import (
    BitAxonError,
    NonFiniteLossError,
    StopRequestedError,
    StorageError,
    ThermalShutdownError,
)
from bit_axon.evaluation.accuracy import Answer, accuracy, answer_prompts
from bit_axon.evaluation.loss import evaluate_loss
from bit_axon.files import sha256_file, write_json_atomic
from bit_axon.outcome import header, repro_facts, result_of
from bit_axon.preparation import Prepared
from bit_axon.provenance import Command
from bit_axon.recording import LoggingObserver
from bit_axon.run_directory import ADAPTER_CONFIG, ADAPTERS, METRICS, MetricsLog, RunDirectory
from bit_axon.run_in_progress import Reporter, RunInProgress
from bit_axon.training.adapters import ModelReference, adapter_config, save_adapter
from bit_axon.training.checkpoint import (
    get_latest_checkpoint,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from bit_axon.training.cooling.assembly import ThermalSession, session
from bit_axon.training.cooling.gates import until_cool
from bit_axon.training.loop import Loop, LoopParts, StopReason
from bit_axon.training.loop_state import LoopState
from bit_axon.training.optimizers import build_optimizer
from bit_axon.training.records import Evaluation
from bit_axon.training.scheduler import learning_rate_at
from bit_axon.training.stepper import Stepper

# Of a micro-batch of training, for a simulated machine: no backward pass, and one token of each answer.
_EVALUATION_SHARE, _TOKEN_SHARE = 0.33, 0.05


def run_experiment(
    prepared: Prepared,
    directory: RunDirectory,
    command: Command,
    reporter: Reporter,
    *,
    config_values: Mapping[str, Any],
    stop_requested: Callable[[], bool] = lambda: False,
    pruned: Callable[[], bool] = lambda: False,
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
        pruned: asked between updates; true = the run is not worth going on with.
        resume: continue from the newest checkpoint.
        started: `time.perf_counter()` when the run began; the set-up time counts from there.

    Raises:
        NonFiniteLossError, StorageError: the run ended early; result.json says so where it could.
    """
    started = time.perf_counter() if started is None else started
    if not resume:
        directory.write_config(config_values)
        directory.write_repro(repro_facts(prepared, command, config_values))
    with session(
        prepared.thermal,
        directory.path,
        str(directory.read_repro()["run_uid"]),
        say=reporter.on_message,
        stop_requested=stop_requested,
        resumed=resume,
    ) as thermal:
        run = _begin(prepared, directory, reporter, resume, started, thermal, stop_requested, pruned)
        return _run_within_memory(run)


def _run_within_memory(run: RunInProgress) -> dict[str, Any]:
    options = run.prepared.config.training
    try:
        with memory_limits(options.memory_limit_gb, options.cache_limit_gb):
            return _train(run)
    except BitAxonError as error:
        _record_failure(run, error)
        raise
    finally:
        run.log.close()


def _begin(
    prepared: Prepared,
    directory: RunDirectory,
    reporter: Reporter,
    resume: bool,
    started: float,
    thermal: ThermalSession,
    stop_requested: Callable[[], bool],
    pruned: Callable[[], bool],
) -> RunInProgress:
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
        compilation=detect().compilation(options.compile),
    )
    log = MetricsLog(directory.path / METRICS)
    if resume:
        log.append("event", state.step, {}, f"resumed at step {state.step}")
    return RunInProgress(
        prepared,
        directory,
        reporter,
        stepper,
        state,
        log,
        started,
        resume,
        thermal,
        stop_requested,
        state.paused_seconds,
        pruned,
    )


def _train(run: RunInProgress) -> dict[str, Any]:
    prepared, directory = run.prepared, run.directory
    resumed_at = run.state.step if run.resumed else None
    run.reporter.on_start(header(prepared, directory.path, resumed_at))
    for note in prepared.notes:
        run.reporter.on_message(note)
    before, after = _earlier_answers(run), list[dict[str, Any]]()
    setup_seconds = time.perf_counter() - run.started
    mx.reset_peak_memory()
    reason: StopReason | None = None
    with suppress(ThermalShutdownError, StopRequestedError):  # said, and nothing of it is lost
        before = before or _answers(run, "before")
        setup_seconds = time.perf_counter() - run.started
        mx.reset_peak_memory()
        reason = Loop(_parts(run), prepared.limits, run.state).run()
    _save_adapter(run)
    if reason in ("max_steps", "early_stop", "time_limit"):
        trained, reason = reason, None
        with suppress(ThermalShutdownError, StopRequestedError):
            after, reason = _answers(run, "after"), trained
    run.thermal.gate.rest("idle", run.state.step)
    run.state.paused_seconds = run.paused_before + run.thermal.gate.paused_seconds
    reason = reason or ("interrupt" if run.stop_requested() else "thermal")
    directory.write_samples(before + after)
    result = result_of(
        prepared,
        run.state,
        reason,
        before=before,
        after=after,
        adapter_sha256=sha256_file(directory.path / ADAPTERS),
        setup_seconds=setup_seconds,
        total_seconds=time.perf_counter() - run.started,
        thermal=run.thermal.summary(),
    )
    run.log.append("event", run.state.step, {}, str(result["state"]))
    directory.write_result(result)
    run.reporter.on_finish(result)
    return result


def _earlier_answers(run: RunInProgress) -> list[dict[str, Any]]:
    """Those before training, when a run is resumed that has them."""
    return [s for s in run.directory.read_samples() if s["when"] == "before"] if run.state.step else []


def _parts(run: RunInProgress) -> LoopParts:
    options, prepared = run.prepared.config.training, run.prepared
    valid_plan = prepared.valid_plan

    def evaluate() -> Evaluation:
        assert valid_plan is not None
        return evaluate_loss(
            run.stepper,
            valid_plan,
            options.eval_batches,
            between=lambda: run.between("eval", _EVALUATION_SHARE),
        )

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
        observer=LoggingObserver(run.log, run.reporter, prepared.method.name),
        evaluate=evaluate if valid_plan is not None else None,
        save=save,
        gate=run.thermal.gate,
        stop_requested=run.stop_requested,
        pruned=run.pruned,
    )


def _answers(run: RunInProgress, when: str) -> list[dict[str, Any]]:
    """Greedy answers to the held-out prompts, reported and kept."""
    prepared, data, gate = run.prepared, run.prepared.config.data, run.thermal.gate

    def work() -> list[Answer]:
        return answer_prompts(
            prepared.base.model,
            prepared.tokenizer,
            prepared.prompts,
            max_new_tokens=data.max_new_tokens,
            between=lambda: run.between("generate", _TOKEN_SHARE),
        )

    answers = until_cool(gate, work, lambda error: run.reporter.on_message(str(error)))
    samples = [_sample(answer, when) for answer in answers]
    if data.accuracy_prompts and answers:
        run.log.append("eval", run.state.step, {"task/accuracy": accuracy(answers[: data.accuracy_prompts])})
    if when == "before":
        run.directory.write_samples(samples)
    run.reporter.on_samples(samples[: data.sample_prompts])
    return samples


def _sample(answer: Answer, when: str) -> dict[str, Any]:
    return {"when": when, **asdict(answer), "correct": answer.correct}


def _save_adapter(run: RunInProgress) -> None:
    prepared, directory = run.prepared, run.directory
    reference = ModelReference(
        str(prepared.base.folder), prepared.base.digest, prepared.config.model.revision
    )
    save_adapter(prepared.base.model, directory.path / ADAPTERS)
    write_json_atomic(directory.path / ADAPTER_CONFIG, adapter_config(prepared.attached, reference))


def _record_failure(run: RunInProgress, error: BitAxonError) -> None:
    """Says in result.json why the run failed; a disk that is full may not take even that."""
    reason = "non_finite_loss" if isinstance(error, NonFiniteLossError) else "storage"
    result = {"state": "failed", "stop_reason": reason, "step": run.state.step, "message": str(error)}
    with suppress(StorageError, OSError):
        run.log.append("event", run.state.step, {}, f"failed: {reason}")
        run.directory.write_result(result)
    run.reporter.on_finish(result)
