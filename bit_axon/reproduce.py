"""`bit-axon reproduce`: repeat a run from its saved config, and say what has changed since."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from bit_axon.backend import detect
from bit_axon.composition import slug, without_secrets
from bit_axon.config_files import ConfigFiles, config_files, without_folder
from bit_axon.data.loading import digest_sources
from bit_axon.data.sources import changed_source, parse_sources
from bit_axon.errors import BitAxonError, RunDirectoryError, problem
from bit_axon.files import outputs_dir, sha256_file
from bit_axon.launch import execute
from bit_axon.models.loading import find_model, model_digest
from bit_axon.outcome import exit_code
from bit_axon.provenance import Command, git_state, versions
from bit_axon.recomposed import Composed, composed, refuse_own_keys, with_overrides
from bit_axon.resuming import refuse_edited
from bit_axon.run_directory import ADAPTERS, RunDirectory
from bit_axon.tokenizer import QwenTokenizerWrapper
from bit_axon.tracking.facts import flattened

_UNCOMPARED: Final = ("resume", "name", "tags", "trial")  # of each run its own
_MAX_MINUTES: Final = "training.max_minutes"


@dataclass(frozen=True)
class Repetition:
    """A run that is to be trained again with the values that it was trained with.

    Attributes:
        values: of the config.
        choices: option of each group.
        overrides: which that config came of.
        files: which config files beside.
        drift: what is otherwise today, one line each; it changes nothing of the values.
        inputs: what of data and model is not what it was.
        is_timed: an override says how long it may train.
    """

    values: dict[str, Any]
    choices: Mapping[str, str | None]
    overrides: tuple[str, ...]
    files: ConfigFiles
    drift: list[str]
    inputs: list[str]
    is_timed: bool

    def say(self) -> None:
        """Prints what has changed since the run."""
        if not self.drift and not self.inputs:
            print("Config, data, model and versions are those of the run.")
            return
        print("Changed since the run:")
        for line in (*self.inputs, *self.drift):
            print(f"  {line}")

    def train(self, label: str) -> tuple[int, Path]:
        """Runs it in a new folder of that name; the exit code, and the folder.

        Raises:
            BitAxonError: as `bit_axon.launch.execute`.
        """
        folder = outputs_dir() / "runs" / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{slug(label)}"
        command = Command(tuple(map(without_secrets, sys.argv)), dict(self.choices), self.overrides)

        def on_ready() -> None:
            if self.files != ConfigFiles():  # for whoever repeats the repetition
                self.files.keep(folder)

        return exit_code(execute(self.values, folder, command, on_ready=on_ready)), folder


def repetition(run_dir: Path, overrides: Sequence[str], folder: str | None = None) -> Repetition:
    """The run as it was; `overrides` win over its values.

    Args:
        run_dir: of the run.
        overrides: as on the command line of a run.
        folder: where the files of its `--config-dir` are now, if they have moved.

    Raises:
        RunDirectoryError: not a run, its config has been edited since, or a folder of config files is gone
            that the overrides need.
        ConfigError: an override is wrong, or of a key that is each run's own.
    """
    refuse_own_keys(overrides)
    directory = RunDirectory(run_dir)
    saved, repro = directory.read_config(), directory.read_repro()
    refuse_edited(run_dir, saved, repro, "Undo the change, and give what is to be otherwise as an override.")
    files = config_files(run_dir)
    files = files if folder is None else replace(files, folder=folder)
    old = [each for each in repro["overrides"] if not each.lstrip("+").startswith(("trial=", "trial."))]
    found, drift = _recomposed(Composed(repro["choices"], saved), old, overrides, files)
    return Repetition(
        {**found.values, "trial": None, "resume": None},  # its study has its answer
        found.choices,
        (*old, *overrides),
        files,
        drift + _changed_versions(repro),
        _changed_inputs(found.values, saved, repro),
        found.names(_MAX_MINUTES),
    )


def reproduce(run_dir: Path, check: bool, overrides: Sequence[str]) -> int:
    """Repeats a run into a new folder; prints every drift and the comparison.

    Saved values win over what config files say today; `overrides` win over both.

    Args:
        run_dir: a finished run.
        check: compare the adapters byte for byte. Changed inputs end it before training.
        overrides: as on the command line of a run; a `--config-dir` among them says where the run's own
            config files are now.

    Returns:
        0; with `check`, 1 when an input has changed or the bytes differ.

    Raises:
        RunDirectoryError: as `repetition`, or with `check` not a finished run.
        ConfigError: an override is wrong.
    """
    overrides, folder = without_folder(overrides, "the run")
    directory = RunDirectory(run_dir)
    directory.read_config()  # what is no run at all is told first
    result = directory.read_result()
    if check and (result is None or result["state"] != "finished"):
        raise RunDirectoryError(
            problem("a finished run", f"{run_dir}, which did not finish", f"Finish it with resume={run_dir}.")
        )
    found = repetition(run_dir, overrides, folder)
    if not found.is_timed:  # a limit of the run's own would cut the repetition elsewhere
        found.values["training"]["max_minutes"] = None
    found.say()
    if check and found.inputs:
        print("Not the same inputs, so the result cannot be the same: nothing was run.")
        return 1
    code, repeated = found.train(f"repeat-of-{run_dir.resolve().name}")
    if not check or code:
        return code
    return _compare(run_dir, repeated)


def _compare(run_dir: Path, folder: Path) -> int:
    first, second = (sha256_file(path / ADAPTERS) for path in (run_dir, folder))
    same = first == second
    print(f"{ADAPTERS} of {run_dir}: sha256 {first}")
    print(f"{ADAPTERS} of {folder}: sha256 {second}")
    print("Equal, bit for bit." if same else "DIFFERENT.")
    return 0 if same else 1


def _recomposed(
    saved: Composed, old: Sequence[str], new: Sequence[str], files: ConfigFiles
) -> tuple[Composed, list[str]]:
    """The saved config with the new overrides on top, and what is composed otherwise today."""
    try:
        today = composed(old, files)
    except BitAxonError as error:
        if new:
            raise
        return saved, [_uncomposed(error, files)]
    before, now = dict(flattened(saved.values, ".")), dict(flattened(today.values, "."))
    drift = [
        f"config: {key} was {before.get(key, 'absent')!r}, the config files say {now.get(key, 'absent')!r}"
        for key in sorted(before.keys() | now.keys())
        if not key.startswith(_UNCOMPARED) and before.get(key) != now.get(key)
    ]
    return with_overrides(saved, today, old, new, files) if new else saved, drift


def _uncomposed(error: BitAxonError, files: ConfigFiles) -> str:
    if files.missing is not None:
        return f"config: its config files were in {files.missing}, which is gone; the saved values are used"
    return f"config: cannot be composed today ({error}); the saved values are used"


def _changed_inputs(
    values: Mapping[str, Any], saved: Mapping[str, Any], repro: Mapping[str, Any]
) -> list[str]:
    """Data files and model files whose bytes are not those of the run; not where others are wanted now."""
    changed: list[str] = []
    for split in ("train", "valid"):
        if saved["data"][split] is None or values["data"][split] != saved["data"][split]:
            continue
        now = digest_sources(parse_sources(values["data"][split], split=split))
        if place := changed_source(repro["data"][split], now):
            changed.append(f"data.{split}: {place} has changed")
    model = values["model"]
    if model != saved["model"]:
        return changed
    folder = find_model(model["path"], model["revision"])
    if model_digest(folder) != repro["model"]["digest"]:
        changed.append(f"model.path: the weights or config of {model['path']} have changed")
    if QwenTokenizerWrapper(folder, model["chat_template"]).digest != repro["tokenizer"]["digest"]:
        changed.append(f"model.path: the tokenizer or chat template of {model['path']} has changed")
    return changed


def _changed_versions(repro: Mapping[str, Any]) -> list[str]:
    now = versions()
    lines = [
        f"version: {name} was {old}, is {now.get(name, 'absent')}"
        for name, old in repro["versions"].items()
        if now.get(name) != old
    ]
    hardware = repro["hardware"]
    for key, value in (("device", detect().device), ("blas", detect().blas)):
        if hardware[key] != value:
            lines.append(f"hardware: {key} was {hardware[key]}, is {value}")
    git = git_state()
    if git != repro["git"]:
        lines.append(f"code: was {_commit(repro['git'])}, is {_commit(git)}")
    return lines


def _commit(git: Mapping[str, Any]) -> str:
    if git["commit"] is None:
        return "outside git"
    return f"{git['commit'][:12]}{' with changed files' if git['dirty'] else ''}"
