"""A job's side of its trial: it reports by step, hears whether to stop, and tells its end itself.

This is the only module that uses the constructor of Optuna's `Trial`, `_trial_id` and `_suggest`: there is no
public way to go on with a trial in another process.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import Trial

from bit_axon.errors import BitAxonError, problem
from bit_axon.sweep.config.pruners import build_pruner
from bit_axon.sweep.studies import lease
from bit_axon.sweep.studies.counting import OWNER
from bit_axon.sweep.studies.handle import TELL_SECONDS, TrialHandle
from bit_axon.sweep.studies.stops import heard
from bit_axon.sweep.studies.storage import Patience, storage_url
from bit_axon.sweep.studies.study import existing_study, settings_of

MakePruner = Callable[[Mapping[str, Any]], BasePruner]
"""The pruner from a study's settings."""


class TrialAddress(Protocol):
    """The part of a run's config that says which trial it is."""

    @property
    def study(self) -> str:
        """The study's name."""

    @property
    def number(self) -> int:
        """The trial's number."""

    @property
    def sweep_dir(self) -> str:
        """The sweep's folder."""


class TrialTakenError(BitAxonError):
    """The trial is not this process's: it has ended, or another process was given its parameters."""


def trial_of(study: optuna.Study, number: int) -> Trial:
    """Optuna's trial object for a trial that was begun elsewhere.

    Raises:
        IndexError: the study has no such trial.
    """
    return Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def completed(study: optuna.Study, number: int, space: Mapping[str, BaseDistribution]) -> None:
    """Draws what a trial still lacks, as `Study.ask` would have done; what it has stays.

    Raises:
        UpdateFinishedTrialError: it has ended.
    """
    trial = trial_of(study, number)
    for name, found in space.items():
        trial._suggest(name, found)


def stored_pruner(settings: Mapping[str, Any]) -> BasePruner:
    """The pruner that the study names, so that all workers agree."""
    return build_pruner(settings["pruner"])


def attach(
    config: TrialAddress,
    environment: Mapping[str, str] = os.environ,
    *,
    make_pruner: MakePruner = stored_pruner,
    patience: Patience | None = None,
    beat_seconds: float = lease.BEAT_SECONDS,
) -> TrialHandle:
    """Makes this process the owner of its trial.

    Args:
        config: which trial.
        environment: may name the storage.
        make_pruner: the pruner from the study's settings.
        patience: the clock and the console for an unreachable storage.
        beat_seconds: time between signs of life.

    Raises:
        TrialTakenError: the trial has ended.
        ConfigError: there is no such study.
        StorageError: the storage could not be reached for minutes.
        KeyboardInterrupt: a stop was asked for meanwhile.
    """
    url = storage_url(Path(config.sweep_dir), environment)
    waits = patience or Patience(url)

    def begun() -> TrialHandle:
        study = existing_study(config.study, url, RandomSampler(), NopPruner())
        settings = settings_of(study)
        study.pruner = make_pruner(settings)
        try:
            trial = trial_of(study, config.number)
            asked_by = trial.user_attrs.get(OWNER, {}).get("sweeper") or lease.identity()
            trial.set_user_attr(OWNER, lease.new_owner(asked_by))
        except (IndexError, UpdateFinishedTrialError) as error:
            raise _taken(config) from error
        return TrialHandle(trial, settings, waits, beat_seconds)

    return replace(waits, seconds=TELL_SECONDS, stop=heard())(begun)


def _taken(config: TrialAddress) -> TrialTakenError:
    return TrialTakenError(
        problem(
            f"trial {config.number} of the study {config.study!r} to be running",
            "one that has ended or is not there",
            "Another worker has taken it over; nothing is to be done.",
        )
    )
