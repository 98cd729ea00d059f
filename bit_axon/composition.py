"""From Hydra's composed config to the run's checked config, and Hydra's errors in plain words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from bit_axon.errors import ConfigError, nearest, problem
from bit_axon.files import data_dir, outputs_dir
from bit_axon.schema import RunConfig
from bit_axon.sweep.config.mistakes import refused_setting
from bit_axon.sweep.plugins import SWEEPER, register_plugins, unknown_setting
from bit_axon.tracking.redaction import without_secrets as without_secrets

SWEEP_GROUP = "sweep"
_FREE_SETTINGS = ("sampler", "pruner", "params", "constraints", "cooldown", "heat_budget")
_FREE_KEYS = ("tags.", *(f"{SWEEPER}{name}{sign}" for name in _FREE_SETTINGS for sign in ".="))
CONFIG_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
_KEY = re.compile(r"Could not (?:override|append|delete)[^']*'([^'\n]+)'")
_THERE_ALREADY = re.compile(
    r"'([^'\n]+)'[^']*(?:is|already) (?:already in|at)|already at '([^'\n]+)'|Multiple values for ([\w/]+)"
)
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^\n]+)'")
_COMPOSING = re.compile(r"In '([^']+)': (\w+) raised while composing.*\n(.+)(?:\n\s*full_key: (\S+))?")
_MISSING_OPTION = re.compile(r"In '([^']+)': Could not (?:find|load) '([^']+)'|primary config '([^']+)'")
_PATH_KEYS = (("data", "train"), ("data", "valid"), ("model", "path"), ("model", "chat_template"))


def conf_dir() -> str:
    """The folder of config.yaml, as an absolute path."""
    return str(data_dir("conf"))


def register_resolvers() -> None:
    """What `conf/` needs of Hydra: resolvers for `${...}`, and our plugins; twice changes nothing."""
    register_plugins()
    OmegaConf.register_new_resolver("bit_axon_outputs", lambda: str(outputs_dir()), replace=True)
    OmegaConf.register_new_resolver("bit_axon_slug", slug, replace=True)
    OmegaConf.register_new_resolver("bit_axon_first", _first, replace=True)


def _first(*values: Any) -> str:
    """The first that is not null, as a folder name."""
    return slug(next((str(value) for value in values if value is not None), None))


def slug(name: str | None) -> str:
    """A folder name: letters, digits, dot, underscore, hyphen."""
    if name is None:
        return "run"
    return re.sub(r"[^\w.-]+", "-", str(name)).strip("-.")[:80] or "run"


def with_free_tags(overrides: Sequence[str]) -> list[str]:
    """Tags and parts of a search's settings have no fixed names: Hydra would ask for a + before each."""
    return [f"++{override}" if override.startswith(_FREE_KEYS) else override for override in overrides]


def as_typed(override: str) -> str:
    """For a message: without the ++ that `with_free_tags` put before it, and without a password."""
    typed = override.removeprefix("++")
    return without_secrets(typed if typed.startswith(_FREE_KEYS) else override)


def plain_values(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, interpolations resolved and local paths made absolute.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise explained(error) from None
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    if isinstance(plain.get("tags"), dict):
        plain["tags"] = {key: tag_text(value) for key, value in plain["tags"].items()}
    for group, key in _PATH_KEYS:
        node = plain.get(group)
        if isinstance(node, dict) and key in node:
            node[key] = absolute(node[key])
    return plain


def tag_text(value: Any) -> Any:
    """A tag is text: `tags.fold=1` means '1'."""
    return str(value) if isinstance(value, int | float) else value


def absolute(value: Any) -> Any:
    """A local path that exists, made independent of the current folder; anything else as it is."""
    if isinstance(value, list):
        return [absolute(item) for item in value]
    if isinstance(value, Mapping) and "path" in value:
        return {**value, "path": absolute(value["path"])}
    if (
        isinstance(value, str)
        and len(value) < 1000
        and "\n" not in value
        and Path(value).expanduser().exists()
    ):
        return str(Path(value).expanduser().resolve())
    return value


def explained(error: Exception) -> ConfigError:
    """Hydra's, OmegaConf's or YAML's error as one message with a remedy."""
    if isinstance(error, yaml.YAMLError):
        return _broken_yaml(error)
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, OverrideParseException):
        got = f"'{without_secrets(str(error.override))}', which cannot be read"
        remedy = "Quote a value with special characters: key='VALUE'."
        return ConfigError(problem("overrides as key=value", got, remedy))
    text = str(error).strip()
    if (refused := refused_setting(text)) is not None:
        return refused
    if found := _COMPOSING.search(text):
        return _wrong_in_file(*found.groups())
    for pattern, explain in ((_AMBIGUOUS, _several), (_THERE_ALREADY, _there_already), (_KEY, unknown_key)):
        if found := pattern.search(text):
            return explain(next(group for group in found.groups() if group))
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause is not error:
        return explained(cause)
    key = str(error.full_key or "") if isinstance(error, OmegaConfBaseException) else ""
    remedy = "Correct the file or the override."
    first = without_secrets(text.splitlines()[0]) if text else type(error).__name__
    if key == f"{SWEEPER}storage" and isinstance(error, ValidationError):
        first = "a value that is no text"  # which may hold a password
    return ConfigError(
        problem("a config that composes", first, remedy, where=key or None), [key] if key else []
    )


def _wrong_in_file(file: str, kind: str, reason: str, key: str | None) -> ConfigError:
    """A key or a value of a file that the schema of Hydra's own keys does not know."""
    if kind == "ConfigKeyError" and key:
        return ConfigError(f"{file}.yaml: {unknown_key(key)}", [key])
    where = f"{file}.yaml, {key}" if key else f"{file}.yaml"
    return ConfigError(problem("a config that composes", reason, "Correct the file.", where=where))


def _broken_yaml(error: yaml.YAMLError) -> ConfigError:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    reason = error.problem if isinstance(error, yaml.MarkedYAMLError) and error.problem else str(error)
    where = f"{mark.name}:{mark.line + 1}" if mark else None
    return ConfigError(
        problem("YAML, keys and values as `key: value`", reason, "Correct that line.", where=where)
    )


def _several(override: str) -> ConfigError:
    remedy = "Add -m to run each of them, or quote a value that holds commas: 'key=\"a,b\"'."
    got = f"'{without_secrets(override)}', which is several"
    return ConfigError(problem("one value", got, remedy))


def _there_already(key: str) -> ConfigError:
    key = _bare(key)
    return ConfigError(
        problem("a new key behind +", f"'{key}', which is there", f"Leave out the +: {key}=VALUE.")
    )


def _unknown_option(error: MissingConfigException) -> ConfigError:
    """A file of a defaults list that is not there: asked for by an override, or by another file."""
    found = _MISSING_OPTION.search(str(error))
    parent, wanted_file, primary = found.groups() if found else (None, None, None)
    group, _, name = str(wanted_file or primary or error.missing_cfg_file).rpartition("/")
    options = [str(option) for option in error.options or ()] or _options(group)
    wanted = f"an option of '{group}'" if group else "a config"
    where = f"defaults of {parent}.yaml" if parent not in (None, "config") else f"{group}={name}".lstrip("=")
    return ConfigError(problem(wanted, f"'{name}'", nearest(name, options), where=where))


def _options(group: str) -> list[str]:
    folder = data_dir("sweeps") if group == SWEEP_GROUP else Path(conf_dir(), group)
    return sorted(path.stem for path in folder.glob("*.yaml"))


def config_groups() -> dict[str, list[str]]:
    """The groups of `conf/`, and `sweeps/` as the group `sweep`, with their options."""
    groups = [path.name for path in Path(conf_dir()).iterdir() if path.is_dir()]
    return {group: _options(group) for group in (*groups, SWEEP_GROUP)}


def unknown_key(key: str) -> ConfigError:
    """No such key here: the nearest one there is."""
    key = _bare(key)
    if key.startswith(SWEEPER):
        return unknown_setting(key)
    if key.startswith("hydra."):
        return ConfigError(
            f"unknown key '{key}'. Hydra's own keys: python -m bit_axon.run --cfg hydra", [key]
        )
    if key in config_groups():
        got, remedy = (
            f"{key} without the +",
            f"Nothing is chosen of it by default. {nearest('', _options(key))}",
        )
        return ConfigError(problem(f"+{key}=NAME", got, remedy))
    if key in known_keys():
        parent, _, leaf = key.rpartition(".")
        remedy = f"Write {parent}={{{leaf}: VALUE}}; the keys left out have their defaults."
        return ConfigError(problem(f"a value for {parent}", f"{key}, while {parent} is null", remedy))
    owners = [name for name in _options("method") if key in _method_keys(name)]
    if owners:
        return ConfigError(
            problem("a key of the chosen method", f"'{key}'", f"It belongs to method={owners[0]}.")
        )
    return ConfigError(f"unknown key '{key}'. {_nearest_key(key)}", [key])


def _bare(key: str) -> str:
    return key.strip().lstrip("+~").partition("=")[0]


def _nearest_key(key: str) -> str:
    methods = [found for name in _options("method") for found in _method_keys(name)]
    known = [*known_keys(), *methods]
    parent, _, leaf = key.rpartition(".")
    same_leaf = sorted(k for k in known if k.rpartition(".")[2] == leaf)
    if same_leaf:
        return f"Did you mean '{same_leaf[0]}'?"
    beside = [k for k in known if k.rpartition(".")[0] == parent] or [k for k in known if "." not in k]
    close = nearest(key, known)
    return close if close.startswith("Did") else nearest(key, beside)


def _method_keys(name: str) -> list[str]:
    values = yaml.safe_load(Path(conf_dir(), "method", f"{name}.yaml").read_text(encoding="utf-8"))
    return [f"method.{key}" for key in values]


def known_keys() -> list[str]:
    """Every dotted key of the schema."""
    return sorted(_keys(RunConfig, ""))


def _keys(schema: Any, prefix: str) -> list[str]:
    found: list[str] = []
    for member in fields(schema):
        found.append(prefix + member.name)
        candidates = [member.type, *getattr(member.type, "__args__", ())]
        nested = next((c for c in candidates if is_dataclass(c)), None)
        if nested is not None:
            found += _keys(nested, f"{prefix}{member.name}.")
    return found
