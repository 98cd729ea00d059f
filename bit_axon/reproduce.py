"""`bit-axon reproduce`: repeat a run from its saved config, and say what has changed since."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from bit_axon.backend import detect
from bit_axon.composition import (
    CONFIG_ERRORS,
    conf_dir,
    explained,
    plain_values,
    register_resolvers,
    with_free_tags,
)
from bit_axon.data.loading import digest_sources
from bit_axon.data.sources import changed_source, parse_sources
from bit_axon.errors import BitAxonError, RunDirectoryError, problem
from bit_axon.files import outputs_dir, sha256_file
from bit_axon.launch import execute
from bit_axon.models.loading import find_model, model_digest
from bit_axon.outcome import exit_code
from bit_axon.provenance import Command, git_state, versions
from bit_axon.run_directory import ADAPTERS, RunDirectory
from bit_axon.tokenizer import QwenTokenizerWrapper

_UNCOMPARED = ("resume", "name", "trial")


def reproduce(run_dir: Path, check: bool, overrides: Sequence[str]) -> int:
    """Repeats a run into a new folder; prints every drift and the comparison.

    Saved values win over what `conf/` says today; `overrides` win over both.

    Args:
        run_dir: a finished run.
        check: compare the adapters byte for byte. Changed inputs end it before training.
        overrides: as on the command line of a run.

    Returns:
        0; with `check`, 1 when an input has changed or the bytes differ.

    Raises:
        RunDirectoryError: not a run, or with `check` not a finished one.
        ConfigError: an override is wrong.
    """
    directory = RunDirectory(run_dir)
    saved, repro = directory.read_config(), directory.read_repro()
    result = directory.read_result()
    if check and (result is None or result["state"] != "finished"):
        raise RunDirectoryError(
            problem("a finished run", f"{run_dir}, which did not finish", f"Finish it with resume={run_dir}.")
        )
    values, config_drift = _recomposed(saved, repro["overrides"], overrides)
    values["training"]["max_minutes"] = None  # a limit of the clock would cut the repetition elsewhere
    inputs = _changed_inputs(values, saved, repro) if not overrides else []
    _print_drift(config_drift + _changed_versions(repro), inputs)
    if check and inputs:
        print("Not the same inputs, so the result cannot be the same: nothing was run.")
        return 1
    folder = outputs_dir() / "runs" / f"{datetime.now():%Y%m%d-%H%M%S-%f}-repeat-of-{run_dir.resolve().name}"
    command = Command(tuple(sys.argv), repro["choices"], (*repro["overrides"], *overrides))
    repeated = execute({**values, "trial": None}, folder, command)  # its study has its answer
    code = exit_code(repeated)
    if not check or code:
        return code
    return _compare(run_dir, folder)


def _compare(run_dir: Path, folder: Path) -> int:
    first, second = (sha256_file(path / ADAPTERS) for path in (run_dir, folder))
    same = first == second
    print(f"{ADAPTERS} of {run_dir}: sha256 {first}")
    print(f"{ADAPTERS} of {folder}: sha256 {second}")
    print("Equal, bit for bit." if same else "DIFFERENT.")
    return 0 if same else 1


def _recomposed(
    saved: Mapping[str, Any], old: Sequence[str], new: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The saved values with the new overrides on top, and what `conf/` composes differently today."""
    try:
        today = _composed(old)
    except BitAxonError as error:
        if new:
            raise
        return dict(saved), [f"config: cannot be composed today ({error}); the saved values are used"]
    before, now = _flat(saved), _flat(today)
    drift = [
        f"config: {key} was {before.get(key, 'absent')!r}, conf/ says {now.get(key, 'absent')!r} today"
        for key in sorted(before.keys() | now.keys())
        if not key.startswith(_UNCOMPARED) and before.get(key) != now.get(key)
    ]
    if not new:
        return dict(saved), drift
    wanted = _flat(_composed([*old, *new]))
    merged = {
        key: before.get(key, wanted[key]) if now.get(key) == wanted[key] else wanted[key] for key in wanted
    }
    return _nested(merged), drift


def _composed(overrides: Sequence[str]) -> dict[str, Any]:
    register_resolvers()
    named = any(override.startswith("name=") for override in overrides)
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            given = with_free_tags([*overrides, *([] if named else ["name=null"])])
            config = compose("config", given)
        return plain_values(config)
    except CONFIG_ERRORS as error:
        raise explained(error) from None


def _changed_inputs(
    values: Mapping[str, Any], saved: Mapping[str, Any], repro: Mapping[str, Any]
) -> list[str]:
    """Data files and model files whose bytes are not those of the run."""
    changed: list[str] = []
    for split in ("train", "valid"):
        if saved["data"][split] is None:
            continue
        now = digest_sources(parse_sources(values["data"][split], split=split))
        if place := changed_source(repro["data"][split], now):
            changed.append(f"data.{split}: {place} has changed")
    model = values["model"]
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


def _print_drift(drift: list[str], inputs: list[str]) -> None:
    if not drift and not inputs:
        print("Config, data, model and versions are those of the run.")
        return
    print("Changed since the run:")
    for line in (*inputs, *drift):
        print(f"  {line}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return nested
