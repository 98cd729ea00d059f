"""The launcher `isolated`: every job of a search or a grid in a process of its own, one after the other."""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from bit_axon.composition import plain_values
from bit_axon.errors import BitAxonError, problem
from bit_axon.run_directory import RESULT
from bit_axon.schema import NonNegative, Positive, options
from bit_axon.sweep.launching.child import Ending, Limits, run_child
from bit_axon.sweep.launching.command import as_hydra_config, job_command, job_environment, job_folder
from bit_axon.sweep.launching.saying import say
from bit_axon.sweep.reporting.ledger import Job, tell
from bit_axon.tracking.parent import declare_parent
from bit_axon.validation import check

LOG: Final = "launcher.log"
_OBJECTIVE: Final = "eval_loss_best"  # what a job returns to Hydra
_TRIAL: Final = "trial."


@options
class LauncherOptions:
    """`hydra.launcher` of this launcher."""

    timeout_minutes: Positive | None = None  # per job
    grace_seconds: NonNegative = 30.0  # that a job has to end in when it is told to stop
    show_output: bool = True


def checked_limits(values: Mapping[str, Any]) -> Limits:
    """The limits of each job.

    Raises:
        ConfigError: a value of `hydra.launcher` is wrong; it names the key.
    """
    found = check(LauncherOptions, values, path="hydra.launcher")
    seconds = None if found.timeout_minutes is None else found.timeout_minutes * 60
    return Limits(seconds, found.grace_seconds, found.show_output)


@dataclass
class IsolatedReturn(JobReturn):
    """A job's outcome as Hydra takes it, with how its process ended.

    Attributes:
        ending: of the process.
        run_dir: where the job wrote.
        log: its output.
        result: result.json, None without one.
    """

    ending: Ending = field(default_factory=lambda: Ending(0, None, ""))
    run_dir: Path = Path()
    log: Path = Path()
    result: Mapping[str, Any] | None = None

    @property
    def return_value(self) -> Any:
        """The job's objective; asking a job that failed for it raises its error, as Hydra expects."""
        if self.status is not JobStatus.COMPLETED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def launch(
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
    config: DictConfig,
    hydra_context: HydraContext,
    limits: Limits,
) -> list[IsolatedReturn]:
    """Runs the jobs and returns how each ended; one that fails does not keep the next from starting.

    Args:
        job_overrides: of each job, behind those of the sweep.
        initial_job_idx: the number of the first.
        config: of the sweep.
        hydra_context: of the sweep.
        limits: of each job.

    Raises:
        KeyboardInterrupt: this process was told to stop; the job that ran has ended.
        HydraException: a job's config does not compose.
    """
    setup_globals()
    returns: list[IsolatedReturn] = []
    is_grid = not any(_is_of_a_trial(overrides) for overrides in job_overrides)
    folder = Path(str(config.hydra.sweep.dir)).resolve()
    if is_grid:
        declare_parent(folder, folder.name, "grid")
        jobs = enumerate(job_overrides, start=initial_job_idx)
        tell(folder, "running", [Job(number, tuple(given), begun=False) for number, given in jobs])
    try:
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            job_config = _composed(config, hydra_context, overrides, number)
            returns.append(_run(job_config, hydra_context, overrides, number, limits))
            if returns[-1].ending.stopped is not None:
                raise KeyboardInterrupt
    finally:
        if is_grid and returns:
            _end_grid(folder, returns, initial_job_idx, len(job_overrides))
    return returns


def _is_of_a_trial(overrides: Sequence[str]) -> bool:
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    return any(f"{key}.".startswith(_TRIAL) for key in keys)


def _end_grid(folder: Path, returns: Sequence[IsolatedReturn], first: int, wanted: int) -> None:
    """The report of all jobs, and their parent."""
    # Late: a search has its own, and Optuna is not imported for a job.
    from bit_axon.sweep.reporting.grid_end import end_grid

    with as_hydra_config(returns[-1].hydra_cfg):
        tracking = plain_values(returns[-1].cfg.tracking)
    stopped = any(job.ending.stopped is not None for job in returns)
    failed = len(returns) < wanted or any(job.ending.reason is not None for job in returns)
    jobs = [_as_told(number, job) for number, job in enumerate(returns, start=first)]
    end_grid(folder, tracking, "interrupted" if stopped else "failed" if failed else "finished", jobs)


def _as_told(number: int, job: IsolatedReturn) -> Job:
    ending = job.ending
    failure = "" if ending.reason is None else f"{ending.reason}: {ending.message}"
    return Job(number, tuple(job.overrides or ()), failure=failure)


def _composed(
    config: DictConfig, hydra_context: HydraContext, overrides: Sequence[str], number: int
) -> DictConfig:
    """The job's config: its folder may depend on it, and a wrong one need not start a process."""
    job_config = hydra_context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job_config):
        job_config.hydra.job.id, job_config.hydra.job.num = str(number), number
    return job_config


def _run(
    job_config: DictConfig,
    hydra_context: HydraContext,
    overrides: Sequence[str],
    number: int,
    limits: Limits,
) -> IsolatedReturn:
    run_dir = job_folder(job_config)
    kind = "trial" if _is_of_a_trial(overrides) else "job"
    label = f"{kind} {number}"
    log = run_dir.with_name(f"{run_dir.name}.log")
    command = job_command(hydra_context, job_config, overrides, run_dir)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        ending = run_child(
            command, job_environment(limits), log, limits, lambda line: say(f"{label} | {line}")
        )
    except OSError as error:
        ending = _not_started(error)
    log = _moved(log, run_dir)
    if kind == "job" and ending.reason is not None:
        say(f"{label} | {ending.reason}: {ending.message}")
    return _job_return(job_config, overrides, ending, run_dir, log, label)


def _not_started(error: OSError) -> Ending:
    reason = "out_of_memory" if error.errno == errno.ENOMEM else "storage"
    return Ending(1, reason, f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _moved(log: Path, run_dir: Path) -> Path:
    """Into the run directory, which had to be empty until now; beside it when there is none."""
    target = run_dir / LOG
    if not run_dir.is_dir() or target.exists():
        return log
    with suppress(OSError):
        os.replace(log, target)
        return target
    return log


def _job_return(
    job_config: DictConfig,
    overrides: Sequence[str],
    ending: Ending,
    run_dir: Path,
    log: Path,
    label: str,
) -> IsolatedReturn:
    job = IsolatedReturn(
        overrides=list(overrides),
        cfg=OmegaConf.masked_copy(job_config, [str(key) for key in job_config if key != "hydra"]),
        hydra_cfg=OmegaConf.masked_copy(job_config, "hydra"),
        working_dir=os.getcwd(),
        task_name=job_config.hydra.job.name,
        status=JobStatus.COMPLETED if ending.reason is None else JobStatus.FAILED,
        ending=ending,
        run_dir=run_dir,
        log=log,
        result=_result(run_dir),
    )
    if ending.reason is None:
        job.return_value = (job.result or {}).get(_OBJECTIVE)
    else:
        job.return_value = _failure(ending, label, log)
    return job


def _result(run_dir: Path) -> dict[str, Any] | None:
    try:
        values = json.loads((run_dir / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _failure(ending: Ending, label: str, log: Path) -> BitAxonError:
    got = f"{label}: {ending.reason}, {ending.message}"
    error = BitAxonError(problem("every job to end well", got, f"What it printed is in {log}"))
    error.exit_code = ending.exit_code if ending.exit_code > 0 else 1
    return error
