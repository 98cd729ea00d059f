"""Starts a composed run: checks it, prepares it, and runs it with console and tracking attached."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_axon.cli.console import ConsoleObserver
from bit_axon.data.sources import changed_source
from bit_axon.errors import DataError, ModelError, StorageError, problem
from bit_axon.experiment import run_experiment
from bit_axon.preparation import Prepared, prepare
from bit_axon.profiling.trace import TRACE_FILE
from bit_axon.provenance import Command
from bit_axon.run_directory import RunDirectory
from bit_axon.schema import RunConfig
from bit_axon.stopping import StopRequest
from bit_axon.tracking.location import absolute_uri
from bit_axon.tracking.writer import TrackingWriter
from bit_axon.training.records import EvaluationRecord, StepRecord
from bit_axon.validation import check

if TYPE_CHECKING:
    from bit_axon.sweep.job import TrialJob


MIRRORED_BY_SWEEPER = "BIT_AXON_MIRRORED_BY_SWEEPER"  # set for the trials of a sweep


class RunReporter:
    """Console and MLflow, fed from one stream of records."""

    def __init__(
        self, console: ConsoleObserver, tracking: TrackingWriter | None, trial: "TrialJob | None" = None
    ):
        self._console, self._tracking, self._trial = console, tracking, trial

    def on_start(self, header: Mapping[str, Any]) -> None:
        """Shows what is trained and starts the mirror."""
        self._console.on_start(header)
        if self._tracking is not None:
            self._tracking.start()

    def on_step(self, record: StepRecord) -> None:
        """Progress, and a nudge to the mirror."""
        self._console.on_step(record)
        if self._trial is not None:
            self._trial.on_step(record)
        if self._tracking is not None:
            self._tracking.notify()

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """A line for the evaluation, and the study's say in it."""
        self._console.on_evaluation(record)
        if self._trial is not None:
            self._trial.on_evaluation(record)

    def on_message(self, text: str) -> None:
        """A plain line."""
        self._console.on_message(text)

    def on_samples(self, samples: list[dict[str, Any]]) -> None:
        """Answers, a few."""
        self._console.on_samples(samples)

    def on_finish(self, result: Mapping[str, Any]) -> None:
        """Ends the display and shows the summary."""
        self._console.on_finish(result)


def execute(
    values: Mapping[str, Any],
    run_dir: Path,
    command: Command,
    *,
    on_ready: Callable[[], None] = lambda: None,
    resume: bool = False,
) -> dict[str, Any]:
    """Checks `values`, prepares and runs; returns the result.

    Args:
        values: the composed config, plain.
        run_dir: an empty or new folder; with `resume`, the folder of the run.
        command: how it was asked for.
        on_ready: called once everything is checked and the folder is held, before training.
        resume: go on from the newest checkpoint.

    Raises:
        BitAxonError: as `prepare` and `run_experiment`.
    """
    started = time.perf_counter()
    config = check(RunConfig, values)
    with _as_trial(config) as trial:
        result = _execute(config, values, run_dir, command, trial, on_ready, resume, started)
        if trial is not None:
            trial.on_result(result)
        return result


def _as_trial(config: RunConfig) -> "AbstractContextManager[TrialJob | None]":
    """The run as a trial of a study; Optuna is imported only for one that is."""
    if config.trial is None:
        return nullcontext()
    from bit_axon.sweep.job import trial_job

    return trial_job(config.trial)


def _execute(
    config: RunConfig,
    values: Mapping[str, Any],
    run_dir: Path,
    command: Command,
    trial: "TrialJob | None",
    on_ready: Callable[[], None],
    resume: bool,
    started: float,
) -> dict[str, Any]:
    if config.tracking.enabled:
        absolute_uri(config.tracking.uri)  # a wrong one is told before a model is loaded
    directory = RunDirectory(run_dir)
    if not resume:
        directory.refuse_if_used()
    prepared = prepare(config)
    if trial is not None:
        pause_temp, max_steps = prepared.thermal.thresholds.pause, prepared.limits.max_steps
        trial.on_prepared(run_dir / TRACE_FILE, pause_temp, max_steps)
    if resume:
        _refuse_other_inputs(prepared, directory.read_repro())
    with ConsoleObserver(eval_every=config.training.eval_every) as console:
        tracking = _tracking(config, run_dir, console)
        try:
            with directory.locked(), StopRequest().installed() as stop:
                on_ready()
                return run_experiment(
                    prepared,
                    directory,
                    command,
                    RunReporter(console, tracking, trial),
                    config_values=values,
                    stop_requested=stop,
                    pruned=trial.is_pruned if trial is not None else lambda: False,
                    resume=resume,
                    started=started,
                )
        finally:
            if tracking is not None:
                tracking.close()  # with the figures
            else:
                _draw_thermal_figure(run_dir)


def _draw_thermal_figure(run_dir: Path) -> None:
    """For a run that MLflow's mirror does not draw for; without a trace, nothing heavy is imported."""
    if not (run_dir / TRACE_FILE).is_file():
        return
    from bit_axon.tracking.thermal_figure import write_thermal_figure

    with suppress(StorageError):
        write_thermal_figure(run_dir)


def _refuse_other_inputs(prepared: Prepared, repro: Mapping[str, Any]) -> None:
    """A run goes on with the data and the model it began with, or not at all."""
    remedy = "Put the old content back to continue that run, or start a new run without resume=."
    now = {"train": prepared.train.files, "valid": prepared.valid.files if prepared.valid else ()}
    for split, files in now.items():
        if place := changed_source(repro["data"][split], files):
            raise DataError(problem("the rows the run was started with", "others", remedy, where=place))
    found = {"model": prepared.base.digest, "tokenizer": prepared.tokenizer.digest}
    for name, digest in found.items():
        if repro[name]["digest"] != digest:
            place = str(prepared.base.folder)
            raise ModelError(problem(f"the {name} the run was started with", "another", remedy, where=place))


def _tracking(config: RunConfig, run_dir: Path, console: ConsoleObserver) -> TrackingWriter | None:
    options = config.tracking
    if not options.enabled:
        return None
    return TrackingWriter(
        run_dir,
        options.uri,
        options.experiment,
        say=console.on_message,
        leaves_short_runs=MIRRORED_BY_SWEEPER in os.environ,
    )
