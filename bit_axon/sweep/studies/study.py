"""A study: made once, opened by any number of workers, refused to a search that differs from its own."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage

from bit_axon.errors import ConfigError, problem
from bit_axon.sweep.config.fingerprint import differences
from bit_axon.sweep.studies.locks import study_lock
from bit_axon.sweep.studies.storage import START_SECONDS, Patience, absolute_storage, connect, make_folder

SETTINGS: Final = "bit_axon"  # the study's attribute that says what is searched
_SESSIONS: Final = "bit_axon_sessions"  # how often a worker has opened the study
_LISTED: Final = 8

Settings = Mapping[str, Any]
SamplerFactory = Callable[[int], BaseSampler]


def open_study(
    name: str,
    storage: str,
    settings: Settings,
    sampler: SamplerFactory,
    pruner: BasePruner,
    patience: Patience | None = None,
) -> optuna.Study:
    """The study, made with its tables when it is new; every worker of a sweep opens it with this.

    Args:
        name: of the study, unique in its storage.
        storage: a SQLite or PostgreSQL URL.
        settings: what is kept with the study: `version`, `fingerprint`, `objectives`, `pruner`, `sampler`.
        sampler: makes the sampler from the number of times the study was opened before, which is to shift
            its seed: a worker that comes later must not suggest what the first one did.
        pruner: the pruner.
        patience: how long an unreachable storage is tried.

    Raises:
        ConfigError: the study was begun with other settings; names what differs.
        StorageError: the storage cannot be reached or written.
    """
    url = absolute_storage(storage)
    make_folder(url)
    wanted = json.loads(json.dumps(settings))
    waits = patience or Patience(url, START_SECONDS)

    def begun() -> optuna.Study:
        with study_lock(url, stop=waits.stop):
            return _open(_found_or_made(name, connect(url), wanted, pruner), wanted, sampler)

    return waits(begun)


def _open(study: optuna.Study, settings: dict[str, Any], sampler: SamplerFactory) -> optuna.Study:
    known = study.user_attrs.get(SETTINGS)
    if known is None:
        study.set_user_attr(SETTINGS, settings)
    else:
        _agree(study.study_name, known, settings)
        _follow(study, known, settings)
    sessions = int(study.user_attrs.get(_SESSIONS, 0))
    study.set_user_attr(_SESSIONS, sessions + 1)
    study.sampler = sampler(sessions)
    return study


def _found_or_made(
    name: str, backend: RDBStorage, settings: dict[str, Any], pruner: BasePruner
) -> optuna.Study:
    directions = [objective["direction"] for objective in settings["objectives"]]
    study = optuna.create_study(
        study_name=name, storage=backend, pruner=pruner, directions=directions, load_if_exists=True
    )
    if SETTINGS in study.user_attrs:
        return study
    if study.get_trials(deepcopy=False):
        raise _foreign(name)
    # A worker died between making the study and saying what it is; its directions may be another search's.
    if [direction.name.lower() for direction in study.directions] == directions:
        return study
    optuna.delete_study(study_name=name, storage=backend)
    return optuna.create_study(study_name=name, storage=backend, pruner=pruner, directions=directions)


def _foreign(name: str) -> ConfigError:
    return ConfigError(
        problem(
            f"the study {name!r} to be one of bit_axon",
            "one with trials that another program has made",
            "Choose another hydra.sweeper.study_name.",
        ),
        keys=("hydra.sweeper.study_name",),
    )


def _agree(name: str, known: Settings, wanted: Settings) -> None:
    changes = differences(known["fingerprint"], wanted["fingerprint"])
    if not changes:
        return
    more = f"; and {len(changes) - _LISTED} more" if len(changes) > _LISTED else ""
    raise ConfigError(
        problem(
            f"the search that the study {name!r} was begun with",
            f"another: {'; '.join(changes[:_LISTED])}{more}",
            "Trials of different searches cannot be compared. Put the values back, or begin a new study: "
            "hydra.sweeper.study_name=NAME.",
        ),
        keys=("hydra.sweeper.study_name",),
    )


def _follow(study: optuna.Study, known: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Another sampler, pruner or folder does not make the trials incomparable: the newest worker's hold."""
    if {**known, **wanted} != known:
        study.set_user_attr(SETTINGS, {**known, **wanted})


def settings_of(study: optuna.Study) -> dict[str, Any]:
    """What is kept with a study.

    Raises:
        ConfigError: another program has made it.
    """
    known: dict[str, Any] | None = study.user_attrs.get(SETTINGS)
    if known is None:
        raise _foreign(study.study_name)
    return known


def existing_study(name: str, storage: str, sampler: BaseSampler, pruner: BasePruner) -> optuna.Study:
    """A study that must be there already; nothing is made.

    Raises:
        ConfigError: there is none of that name.
    """
    missing = problem(
        f"the study {name!r}", "a storage without it", "Check the name, and that the sweep is the right one."
    )
    url = absolute_storage(storage)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        raise ConfigError(missing)
    try:
        return optuna.load_study(
            study_name=name, storage=connect(url, is_ready=True), sampler=sampler, pruner=pruner
        )
    except KeyError as error:
        raise ConfigError(missing) from error
