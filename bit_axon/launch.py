"""Starts a composed run: checks it, prepares it, and runs it with console and tracking attached."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bit_axon.cli.console import ConsoleObserver
from bit_axon.errors import ConfigError, problem
from bit_axon.experiment import exit_code, run_experiment
from bit_axon.preparation import prepare
from bit_axon.provenance import Command
from bit_axon.run_directory import RunDirectory
from bit_axon.schema import RunConfig
from bit_axon.stopping import StopRequest
from bit_axon.tracking.writer import TrackingWriter
from bit_axon.training.records import EvaluationRecord, StepRecord
from bit_axon.validation import check

# What may differ when a run goes on: nothing here changes what is learned.
_FREE_ON_RESUME = (
    "resume",
    "name",
    "tracking.",
    "thermal.",
    "training.max_minutes",
    "training.keep_checkpoints",
)


class RunReporter:
    """Console and MLflow, fed from one stream of records."""

    def __init__(self, console: ConsoleObserver, tracking: TrackingWriter | None):
        self._console, self._tracking = console, tracking

    def on_start(self, header: Mapping[str, Any]) -> None:
        """Shows what is trained and starts the mirror."""
        self._console.on_start(header)
        if self._tracking is not None:
            self._tracking.start()

    def on_step(self, record: StepRecord) -> None:
        """Progress, and a nudge to the mirror."""
        self._console.on_step(record)
        if self._tracking is not None:
            self._tracking.notify()

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """A line for the evaluation."""
        self._console.on_evaluation(record)

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
    directory = RunDirectory(run_dir)
    if not resume:
        directory.refuse_if_used()
    prepared = prepare(config)
    with ConsoleObserver(eval_every=config.training.eval_every) as console:
        tracking = _tracking(config, run_dir, console)
        try:
            with directory.locked(), StopRequest().installed() as stop:
                on_ready()
                return run_experiment(
                    prepared,
                    directory,
                    command,
                    RunReporter(console, tracking),
                    config_values=values,
                    stop_requested=stop,
                    resume=resume,
                    started=started,
                )
        finally:
            if tracking is not None:
                tracking.close()


def _tracking(config: RunConfig, run_dir: Path, console: ConsoleObserver) -> TrackingWriter | None:
    options = config.tracking
    if not options.enabled:
        return None
    return TrackingWriter(run_dir, options.uri, options.experiment, say=console.on_message)


def resume_run(run_dir: Path, overrides: Sequence[str]) -> int:
    """Continues a run in place with its saved config and returns the exit code.

    Raises:
        ConfigError: an override differs from the saved config in a key that changes what is learned.
    """
    directory = RunDirectory(run_dir)
    saved = directory.read_config()
    result = directory.read_result()
    if result is not None and result["state"] in ("finished", "pruned"):
        print(f"{run_dir} is {result['state']} already: step {result['step']}, loss {result['loss']:.4f}.")
        return 0
    values = _with_free_changes(saved, overrides, run_dir)
    repro = directory.read_repro()
    command = Command(tuple(sys.argv), repro["choices"], tuple(repro["overrides"]))
    return exit_code(execute(values, run_dir, command, resume=True))


def _with_free_changes(saved: Mapping[str, Any], overrides: Sequence[str], run_dir: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(saved))
    differing: list[str] = []
    for override in overrides:
        key, _, text = override.lstrip("+").partition("=")
        given = _parsed(text)
        old = _get(values, key)
        if old == given:
            continue
        if key.startswith(_FREE_ON_RESUME) and old is not _MISSING:
            _set(values, key, given)
        else:
            differing.append(f"{key}: saved {_shown(old)}, given {_shown(given)}")
    if differing:
        raise ConfigError(
            problem(
                f"the config {run_dir} was started with",
                "; ".join(differing),
                "Leave these out to continue that run, or start a new run without resume=.",
            )
        )
    return values


_MISSING = object()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None if text == "null" else text


def _get(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return _MISSING
        values = values[part]
    return values


def _set(values: Any, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for part in parents:
        values = values[part]
    values[leaf] = value


def _shown(value: Any) -> str:
    return "nothing" if value is _MISSING else json.dumps(value)
