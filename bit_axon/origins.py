"""Where a composed value was set: by an override, or in which line of which YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bit_axon.composition import SWEEP_GROUP, as_typed
from bit_axon.errors import ConfigError

_FILE_SCHEME = "file"
_SWEEPS_SCHEME = "bit_axon-sweeps"  # of the plugin that shows sweeps/ as a group
_GLOBAL = "_global_"


@dataclass(frozen=True)
class ConfigFile:
    """One YAML file of a composition."""

    path: Path
    package: str  # the dotted key its content is merged under; empty for the root


def with_origins(error: ConfigError, loader: ConfigLoader, hydra: DictConfig) -> ConfigError:
    """The message, and for each key it is about the override or the line of a file that set it.

    Args:
        error: what is wrong.
        loader: which composed the config.
        hydra: the composed `hydra` node.
    """
    overrides = [*given_overrides(hydra, "hydra"), *given_overrides(hydra, "task")]
    files = composed_files(loader, hydra.job.config_name, overrides)
    found = [origin(key, files, overrides, hydra.runtime.choices) for key in error.keys]
    return ConfigError("\n  ".join([str(error), *(line for line in found if line)]), error.keys)


def given_overrides(hydra: DictConfig, kind: str) -> list[str]:
    """As they were given: a `${...}` in one is for the run's config, not for Hydra's.

    Args:
        hydra: the composed `hydra` node.
        kind: `task`, or `hydra` for those of Hydra's own keys.
    """
    overrides = OmegaConf.to_container(hydra.overrides[kind], resolve=False)
    assert isinstance(overrides, list)
    return [str(override) for override in overrides]


def composed_files(loader: ConfigLoader, config_name: str, overrides: Sequence[str]) -> list[ConfigFile]:
    """The files a config is merged from, in that order; those inside Hydra itself are left out."""
    sources = [(source.scheme(), Path(source.path)) for source in loader.get_sources()]
    defaults = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN).defaults
    found: list[ConfigFile] = []
    for default in defaults:
        paths = [_file_in(scheme, folder, default.config_path) for scheme, folder in sources]
        path = next((path for path in paths if path is not None and path.is_file()), None)
        if path is not None:
            package = default.package or ""
            found.append(ConfigFile(path, "" if package == _GLOBAL else package))
    return found


def _file_in(scheme: str, folder: Path, config_path: str) -> Path | None:
    """Where a source keeps a config."""
    if scheme == _SWEEPS_SCHEME:
        group, _, name = config_path.rpartition("/")
        return folder / f"{name}.yaml" if group == SWEEP_GROUP else None
    return folder / f"{config_path}.yaml" if scheme == _FILE_SCHEME else None


def origin(
    key: str, files: Sequence[ConfigFile], overrides: Sequence[str], choices: Mapping[str, str]
) -> str | None:
    """What set `key` last, in words, or None when it is the schema's default.

    Args:
        key: dotted, as in `adapter.rank`.
        files: of the composition, in order.
        overrides: as given.
        choices: the chosen option of each group; an override that chooses one sets no value.
    """
    for override in reversed(overrides):
        name, _, value = override.lstrip("+~").partition("=")
        if choices.get(name) != value and (key == name or key.startswith(f"{name}.")):
            return f"{key} was set by the override {as_typed(override)}"
    for file in reversed(files):
        line = _line_of(key, file)
        if line is not None:
            return f"{key} was set in {file.path}:{line}"
    return None


def _line_of(key: str, file: ConfigFile) -> int | None:
    """The line of `key`, or of the value that holds it."""
    parts = key.split(".")
    package = file.package.split(".") if file.package else []
    if parts[: len(package)] != package:
        return None
    node = yaml.compose(file.path.read_text(encoding="utf-8"))
    line = 0 if package else None
    for part in parts[len(package) :]:
        if not isinstance(node, yaml.MappingNode):
            break
        entry = next(((k, v) for k, v in node.value if k.value == part), None)
        if entry is None:
            return None
        line, node = entry[0].start_mark.line, entry[1]
    return None if line is None else line + 1
