"""Where a composed value was set: by an override, or in which line of which YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode

_FILE_SCHEME = "file"
_GLOBAL = "_global_"


@dataclass(frozen=True)
class ConfigFile:
    """One YAML file of a composition."""

    path: Path
    package: str  # the dotted key its content is merged under; empty for the root


def composed_files(loader: ConfigLoader, config_name: str, overrides: Sequence[str]) -> list[ConfigFile]:
    """The files a config is merged from, in that order; those inside Hydra itself are left out."""
    folders = [Path(source.path) for source in loader.get_sources() if source.scheme() == _FILE_SCHEME]
    defaults = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN).defaults
    found: list[ConfigFile] = []
    for default in defaults:
        paths = [folder / f"{default.config_path}.yaml" for folder in folders]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            package = default.package or ""
            found.append(ConfigFile(path, "" if package == _GLOBAL else package))
    return found


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
        name, _, value = override.lstrip("+").partition("=")
        if choices.get(name) != value and (key == name or key.startswith(f"{name}.")):
            return f"{key} was set by the override {override}"
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
