"""What is looked at before a search begins, and said about it; and what is said when it gives up."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial

from bit_axon.composition import plain_values
from bit_axon.errors import BitAxonError, ConfigError, RunDirectoryError, problem
from bit_axon.schema import RunConfig
from bit_axon.sweep.config.objectives import check_objectives
from bit_axon.sweep.config.samplers import trial_limit
from bit_axon.sweep.config.settings import SweepSettings
from bit_axon.sweep.config.space import Space
from bit_axon.sweep.launching.command import as_hydra_config
from bit_axon.sweep.studies.counting import MESSAGE, REASON
from bit_axon.tracking.parent import read_parent
from bit_axon.tracking.places import runs_below
from bit_axon.validation import check

# What a person is told who stops a search while it waits, cools down or publishes; a trial has its own words.
STOP_TEXTS: Final = (
    "Stopping: no more trials are started. Again: at once.",
    "Stopped at once; the same command goes on where the study is.",
)


def checked_job(
    settings: SweepSettings, space: Space, config: DictConfig, hydra_context: HydraContext
) -> dict[str, Any]:
    """Composes and checks trials that hold every choice and both ends of every range; returns one.

    Raises:
        ConfigError: one of them is wrong or will not have an objective, or there is nothing to search.
    """
    job: dict[str, Any] = {}
    for example in space.examples():
        overrides = [*space.fixed, *space.overrides(example)]
        composed = hydra_context.config_loader.load_sweep_config(config, overrides)
        parts = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        with as_hydra_config(composed):
            job = plain_values(parts)
        check_objectives(settings, check(RunConfig, job))
    if not job:
        raise ConfigError(
            problem("something to search", "no hydra.sweeper.params", "Give it params, or choose sweep=NAME.")
        )
    return job


def notes(settings: SweepSettings, space: Space, config: DictConfig) -> list[str]:
    """What a person may not expect."""
    found = [f"{key} is fixed on the command line: it is not searched." for key in space.dropped]
    if settings.trial_minutes is not None and "timeout_minutes" not in config.hydra.launcher:
        found.append("trial_minutes is not heeded: only hydra/launcher=isolated can end a trial.")
    return found


def within_the_space(settings: SweepSettings, space: Space) -> tuple[SweepSettings, list[str]]:
    """The settings with no more trials than there are combinations, and what to say about it.

    Raises:
        ConfigError: the sampler cannot search the space.
    """
    limit = trial_limit(settings.sampler, space)
    if limit is None or limit >= settings.n_trials:
        return settings, []
    said = f"{settings.sampler['name']} has {limit} combinations: n_trials={limit} instead of "
    return replace(settings, n_trials=limit), [f"{said}{settings.n_trials}."]


def refuse_runs_of_another(folder: Path, uid: str) -> None:
    """A trial needs an empty folder: the runs of another study are not to be met one by one.

    Args:
        folder: of the sweep.
        uid: of the study's parent.

    Raises:
        RunDirectoryError: another study or grid has runs there.
    """
    parent = read_parent(folder)
    if parent is None or parent.run_uid == uid or not runs_below(folder):
        return
    got = f"{folder}, with runs of another {parent.kind}, {parent.name}"
    remedy = "Choose another hydra.sweeper.study_name, give hydra.sweep.dir, or move the folder away."
    raise RunDirectoryError(problem("a folder without runs of other searches", got, remedy))


def nothing_found(trials: Sequence[FrozenTrial], folder: Path) -> BitAxonError:
    """The error for a search of which every trial has failed."""
    last = trials[-1].user_attrs
    why = ", ".join(str(last[name]) for name in (REASON, MESSAGE) if last.get(name))
    got = f"{len(trials)} that failed; the last one: {why or 'no reason was told'}"
    remedy = (
        f"Look at {folder / str(trials[-1].number)}, and begin a new study: hydra.sweeper.study_name=NAME."
    )
    return BitAxonError(problem("a trial with a value", got, remedy))


def gives_up(failures: int, trial: FrozenTrial, folder: Path) -> BitAxonError:
    """The error for too many failures in a row, of which `trial` is the last."""
    last = trial.user_attrs.get(MESSAGE) or trial.user_attrs.get(REASON)
    return BitAxonError(
        problem(
            f"trials that run, at most {failures - 1} failures in a row (hydra.sweeper.max_failures)",
            f"{failures}; the last one, trial {trial.number}: {last}",
            f"Look at {folder / str(trial.number)}, mend it, and start the same command again to go on.",
        )
    )
