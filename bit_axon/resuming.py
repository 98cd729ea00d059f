"""`resume=RUN_DIR`: goes on with a run in place, with the config it was started with."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from bit_axon.composition import absolute, tag_text, unknown_key
from bit_axon.errors import ConfigError, RunDirectoryError, problem
from bit_axon.files import digest_of
from bit_axon.launch import execute
from bit_axon.outcome import exit_code
from bit_axon.provenance import Command
from bit_axon.run_directory import CONFIG, RunDirectory

# What may differ when a run goes on: nothing here changes what is learned.
_FREE_ON_RESUME = (
    "resume",
    "name",
    "tags.",
    "tracking.",
    "thermal.",
    "training.max_minutes",
    "training.keep_checkpoints",
    "training.memory_limit_gb",
    "training.cache_limit_gb",
)
_ENDED = ("finished", "pruned")
_MISSING = object()


def resume_run(run_dir: Path, overrides: Sequence[str]) -> int:
    """Continues a run in place with its saved config and returns the exit code.

    Raises:
        RunDirectoryError: not the folder of a run.
        ConfigError: an override differs from the saved config in a key that changes what is learned.
        DataError, ModelError: the data or the model is not what the run was started with.
    """
    directory = RunDirectory(run_dir)
    saved, repro = directory.read_config(), directory.read_repro()
    refuse_edited(
        run_dir, saved, repro, "Undo the change to continue that run, or start a new run without resume=."
    )
    result = directory.read_result()
    values = _with_free_changes(saved, repro["choices"], overrides, run_dir)
    if result is not None and result["state"] in _ENDED:
        print(f"{run_dir} is {result['state']} already: step {result['step']}, loss {result['loss']:.4f}.")
        return 0
    command = Command(tuple(sys.argv), repro["choices"], tuple(repro["overrides"]))
    try:
        return exit_code(execute(values, run_dir, command, resume=True))
    except ConfigError as error:
        given = {override.lstrip("+").partition("=")[0] for override in overrides}
        place = "" if given & set(error.keys) else f"{run_dir / CONFIG}: "
        raise ConfigError(f"{place}{error}", error.keys) from None


def refuse_edited(run_dir: Path, saved: Mapping[str, Any], repro: Mapping[str, Any], remedy: str) -> None:
    """What a run was trained with is its config as it was written, and nothing of bit_axon writes it anew.

    Raises:
        RunDirectoryError: the file says something else today.
    """
    if repro["config_digest"] != digest_of(saved):
        wanted, place = "the config the run was started with", str(run_dir / CONFIG)
        raise RunDirectoryError(problem(wanted, "another", remedy, where=place))


def _with_free_changes(
    saved: Mapping[str, Any], choices: Mapping[str, str], overrides: Sequence[str], run_dir: Path
) -> dict[str, Any]:
    values: dict[str, Any] = {**json.loads(json.dumps(saved)), "trial": None}  # its study has its answer
    differing: list[str] = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, given = override.key_or_group, _given(override)
        if key.startswith("tags."):
            given = tag_text(given)
        if key in choices:
            if given != choices[key]:
                differing.append(f"{key}={given} (saved: {choices[key]})")
            continue
        old = _get(values, key)
        if old is _MISSING and not key.startswith("tags."):
            raise unknown_key(key)
        if old != given and key.startswith(_FREE_ON_RESUME):
            _set(values, key, given)
        elif old != given:
            differing.append(f"{key}={json.dumps(given)} (saved: {json.dumps(old)})")
    if differing:
        raise ConfigError(
            problem(
                f"the config {run_dir} was started with",
                ", ".join(differing),
                "Leave these out to continue that run, or start a new run without resume=.",
            )
        )
    return values


def _given(override: Override) -> Any:
    """The value as a composed config would hold it."""
    if override.is_sweep_override():
        got = f"'{override.input_line}', which is several"
        raise ConfigError(problem("one value on resuming", got, "Resume one run at a time."))
    return absolute(override.value())


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
