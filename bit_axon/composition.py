"""From Hydra's composed config to the run's checked config, and Hydra's errors in plain words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bit_axon.errors import ConfigError, problem
from bit_axon.files import data_dir, outputs_dir
from bit_axon.schema import RunConfig

CONFIG_ERRORS = (HydraException, OmegaConfBaseException)
_KEY = re.compile(r"Could not (?:override|append to|delete) (?:config)?\.? ?'?([^'\n]+)'?")
_PATH_KEYS = (("data", "train"), ("data", "valid"), ("model", "path"), ("model", "chat_template"))


def conf_dir() -> str:
    """The folder of config.yaml, as an absolute path."""
    return str(data_dir("conf"))


def register_resolvers() -> None:
    """What `conf/` may use in `${...}`; registering twice changes nothing."""
    OmegaConf.register_new_resolver("bit_axon_outputs", lambda: str(outputs_dir()), replace=True)
    OmegaConf.register_new_resolver("bit_axon_slug", _slug, replace=True)


def _slug(name: str) -> str:
    """A folder name: letters, digits, dot, underscore, hyphen."""
    return re.sub(r"[^\w.-]+", "-", str(name)).strip("-.")[:80] or "run"


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
    for group, key in _PATH_KEYS:
        node = plain.get(group)
        if isinstance(node, dict) and key in node:
            node[key] = _absolute(node[key])
    return plain


def _absolute(value: Any) -> Any:
    """A local path that exists, made independent of the current folder; anything else as it is."""
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if isinstance(value, Mapping) and "path" in value:
        return {**value, "path": _absolute(value["path"])}
    if (
        isinstance(value, str)
        and len(value) < 1000
        and "\n" not in value
        and Path(value).expanduser().exists()
    ):
        return str(Path(value).expanduser().resolve())
    return value


def explained(error: Exception) -> ConfigError:
    """Hydra's or OmegaConf's error as one message with a remedy."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        return _unknown_option(error)
    if isinstance(error, OverrideParseException):
        got = f"'{error.override}', which cannot be read"
        return ConfigError(problem("overrides as key=value", got, "Quote values with commas or spaces."))
    text = str(error).strip()
    key = _KEY.search(text)
    if key:
        return unknown_key(key.group(1).strip().lstrip("+~").partition("=")[0])
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause is not error:
        return explained(cause)
    return ConfigError(
        problem("a config that composes", text.splitlines()[0], "Correct the file or override.")
    )


def _unknown_option(error: MissingConfigException) -> ConfigError:
    from_file = str(error.missing_cfg_file)
    group, _, name = from_file.rpartition("/")
    options = [str(option) for option in error.options or ()]
    wanted = f"an option of '{group}'" if group else "a config"
    return ConfigError(problem(wanted, f"'{name}'", nearest_of(name, options), where=f"{group}={name}"))


def unknown_key(key: str) -> ConfigError:
    """No such key in the schema: the nearest one there is."""
    known = known_keys()
    last = key.rpartition(".")[2]
    same_leaf = sorted(k for k in known if k.rpartition(".")[2] == last)
    hint = f"Did you mean '{same_leaf[0]}'?" if same_leaf else nearest_of(key, known)
    return ConfigError(f"unknown key '{key}'. {hint}")


def nearest_of(name: str, known: Sequence[str]) -> str:
    """The nearest name, or the list of a few."""
    from bit_axon.validation import nearest

    return nearest(name, known)


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
