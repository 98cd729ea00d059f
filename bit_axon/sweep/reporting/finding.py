"""Which sweep a person means: a folder, a name in the outputs folder, or a study in a shared storage."""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.study import Study

from bit_axon.errors import RunDirectoryError, nearest, problem
from bit_axon.files import outputs_dir
from bit_axon.sweep.reporting.grids import grid_report
from bit_axon.sweep.reporting.report import Report
from bit_axon.sweep.reporting.study_report import study_report
from bit_axon.sweep.studies.locks import study_lock
from bit_axon.sweep.studies.storage import (
    START_SECONDS,
    STORAGE_VARIABLE,
    Patience,
    absolute_storage,
    connect,
    never,
)
from bit_axon.sweep.studies.study import SETTINGS
from bit_axon.tracking.location import redacted
from bit_axon.tracking.parent import Parent, read_parent
from bit_axon.tracking.places import runs_below

PARENT_UID: Final = "parent_uid"  # attribute of a study: the MLflow run above its trials, on every machine
_DATABASE: Final = "study.db"

T = TypeVar("T")


@dataclass(frozen=True)
class Sweep:
    """A study, or a folder of runs without one.

    Attributes:
        folder: None = the study is another machine's.
        study: None = a grid.
        storage: of the study, for messages.
        patience_seconds: how long a storage that cannot be reached is waited for.
    """

    folder: Path | None
    study: Study | None = None
    storage: str = "of the sweep"
    patience_seconds: float = START_SECONDS

    def report(self, *, has_ended: bool = False) -> Report:
        """What it has found until now; `has_ended` tells that no run of a grid goes on.

        Raises:
            StorageError: the study's storage does not answer.
        """
        study = self.study
        if study is not None:
            return self._answer(lambda: study_report(study, self.folder))
        assert self.folder is not None
        return grid_report(self.folder, has_ended=has_ended)

    def uid(self) -> str | None:
        """Of the MLflow run above the trials of a study, where one was drawn.

        Raises:
            StorageError: the study's storage does not answer.
        """
        study = self.study
        return None if study is None else self._answer(lambda: study.user_attrs.get(PARENT_UID))

    def _answer(self, question: Callable[[], T]) -> T:
        return Patience(self.storage, self.patience_seconds)(question)


def find_sweep(text: str, environment: Mapping[str, str] = os.environ) -> Sweep:
    """Finds a sweep by its folder or name; the environment may name the storage of its study.

    Raises:
        RunDirectoryError: there is none, or its study is in a storage that the environment does not name.
        StorageError: the storage does not answer.
    """
    folder, url = _folder(text), environment.get(STORAGE_VARIABLE)
    for address in _addresses(folder, url):
        found = _study_in(address, text, folder)
        if found is not None:
            return Sweep(folder, found, address)
    parent = read_parent(folder) if folder is not None else None
    if folder is not None and parent is not None and parent.kind == "study":
        raise RunDirectoryError(_is_elsewhere(folder, parent, url))
    if folder is not None and runs_below(folder):
        return Sweep(folder)
    raise RunDirectoryError(problem("a sweep", _got(text, folder, url), _remedy(text)))


def _addresses(folder: Path | None, url: str | None) -> list[str]:
    """Where a study may be: in what the environment names, and in the sweep's own folder."""
    database = folder / _DATABASE if folder is not None else None
    own = [f"sqlite:///{database}"] if database is not None and database.is_file() else []
    return [absolute_storage(address) for address in (*([url] if url else []), *own)]


def _is_elsewhere(folder: Path, parent: Parent, url: str | None) -> str:
    """Never as a grid: its runs alone would give another objective, and another best."""
    tried = f"none of that name in {redacted(url)}" if url else f"no {_DATABASE} in its folder"
    return problem(
        f"the study {parent.name} of {folder}",
        f"{tried}, so it is in another storage",
        f"Set {STORAGE_VARIABLE} to the address that the sweep was given as hydra.sweeper.storage.",
    )


def parent_uid(study: Study, storage: str, stop: Callable[[], bool] = never) -> str:
    """The uid of the MLflow run above a study's trials; drawn once, whoever asks first.

    Raises:
        StorageError: another process keeps the storage's lock.
    """
    with study_lock(storage, stop=stop):
        known = study.user_attrs.get(PARENT_UID)
        if known is None:
            known = uuid.uuid4().hex
            study.set_user_attr(PARENT_UID, known)
    return str(known)


def _folder(text: str) -> Path | None:
    for folder in (Path(text).expanduser(), outputs_dir() / "sweeps" / text):
        if folder.is_dir():
            return folder.resolve()
    return None


def _study_in(url: str, text: str, folder: Path | None) -> Study | None:
    """The study of that name, or of that folder, or the only one there is beside the folder's runs."""

    def read() -> Study | None:
        backend = connect(url)
        names = optuna.get_all_study_names(storage=backend)
        if folder is not None:
            return _of_folder(backend, names, folder, is_private=url.endswith(f"{folder / _DATABASE}"))
        return _loaded(backend, text) if text in names else None

    return Patience(url, START_SECONDS)(read)


def _of_folder(backend: RDBStorage, names: Sequence[str], folder: Path, *, is_private: bool) -> Study | None:
    """The study of a sweep's folder; in the folder's own database the only one, whatever it is called."""
    parent = read_parent(folder)
    likely = (parent.name if parent else folder.name, folder.name)
    for name in sorted(names, key=lambda name: name not in likely):
        study = _loaded(backend, name)
        if _is_of(study, folder, parent):
            return study
    return _loaded(backend, names[0]) if is_private and len(names) == 1 else None


def _is_of(study: Study, folder: Path, parent: Parent | None) -> bool:
    """By the uid of the run above the trials, else by the study's name or the folder it says it is in."""
    attributes = study.user_attrs
    if parent is not None and PARENT_UID in attributes:
        return bool(attributes[PARENT_UID] == parent.run_uid)
    settings = attributes.get(SETTINGS) or {}
    return study.study_name == folder.name or settings.get("sweep_dir") == str(folder)


def _loaded(backend: RDBStorage, name: str) -> Study:
    return optuna.load_study(study_name=name, storage=backend, sampler=RandomSampler(), pruner=NopPruner())


def _got(text: str, folder: Path | None, url: str | None) -> str:
    storage = f", and no study of that name in {redacted(url)}" if url else ""
    return f"{text}, {'which holds neither a study nor runs' if folder else 'which is not there'}{storage}"


def _remedy(text: str) -> str:
    known = [path.name for path in (outputs_dir() / "sweeps").glob("*/")]
    if known:
        return nearest(Path(text).name, known)
    return f"There are no sweeps in {outputs_dir() / 'sweeps'} yet; start one with -m sweep=NAME."
