"""Where the config files of a run were: read from what it has kept, kept again for a repetition."""

import os
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from bit_axon.composition import without_secrets
from bit_axon.errors import ConfigError, RunDirectoryError, problem
from bit_axon.files import write_atomic
from bit_axon.sweep.launching.command import quoted
from bit_axon.tracking.facts import read_facts

_HYDRA_FILE: Final = Path(".hydra", "hydra.yaml")
_CONFIG_NAME: Final = "config"
_CONFIG_PATH_FLAGS: Final = ("--config-path", "-cp")
_CONFIG_DIR_FLAGS: Final = ("--config-dir", "-cd")
_SEARCH_PATH: Final = "hydra.searchpath"
_FILE: Final = "file://"
# Where Hydra says that a folder comes from; the last is ours, for a run that Hydra did not start.
_FROM_FLAG: Final = "command-line"
_FROM_MAIN: Final = "main"
_INSTEAD_OF_MAIN: Final = "config-path"


@dataclass(frozen=True)
class ConfigFiles:
    """Where a run's config files are; with nothing given, those of bit_axon alone.

    Attributes:
        name: of the file that composing begins with.
        folder: `--config-dir`, beside bit_axon's own files.
        path: `--config-path`, instead of them.
        searched: overrides of `hydra.searchpath`.
    """

    name: str = _CONFIG_NAME
    folder: str | None = None
    path: str | None = None
    searched: tuple[str, ...] = ()

    @property
    def flags(self) -> list[str]:
        """As the command line has them."""
        given = {
            "--config-name": None if self.name == _CONFIG_NAME else self.name,
            "--config-dir": self.folder,
            "--config-path": self.path,
        }
        return [*(f"{flag}={value}" for flag, value in given.items() if value is not None), *self.searched]

    @property
    def missing(self) -> str | None:
        """The first folder that is not there any more."""
        searched = (_folder_of(place) for override in self.searched for place in _places(override) or ())
        places = (self.folder, self.path, *searched)
        return next((place for place in places if place and not Path(place).is_dir()), None)

    def refuse_missing(self) -> None:
        """Nothing can be composed without a folder of config files that was there.

        Raises:
            RunDirectoryError: one is gone.
        """
        if (missing := self.missing) is None:
            return
        wanted, got = "the folder of config files that the run was started with", f"{missing}, which is gone"
        another = f"name another with {_CONFIG_DIR_FLAGS[0]} DIR, " if missing == self.folder else ""
        raise RunDirectoryError(problem(wanted, got, f"Put it back, {another}or leave out the overrides."))

    @property
    def search_path(self) -> list[str]:
        """All places beside the first one, as one override: composing knows no flags."""
        places = [f"{_FILE}{self.folder}"] if self.folder else []
        for override in self.searched:
            places += _places(override) or []
        return [_search_path(_SEARCH_PATH, places)] if places else []

    def keep(self, run_dir: Path) -> None:
        """For a run that Hydra did not start: in the file and the form that `config_files` reads.

        Raises:
            StorageError: it cannot be written.
        """
        sources = {_FROM_FLAG: self.folder, _INSTEAD_OF_MAIN: self.path}
        kept = {
            "job": {"config_name": self.name},
            "overrides": {"hydra": list(self.searched)},
            "runtime": {"config_sources": [_source(*each) for each in sources.items() if each[1]]},
        }
        write_atomic(run_dir / _HYDRA_FILE, yaml.safe_dump({"hydra": kept}))


def _source(provider: str, path: str | None) -> dict[str, str | None]:
    return {"provider": provider, "schema": "file", "path": path}


def config_files(run_dir: Path) -> ConfigFiles:
    """Where the config files of a run were; only bit_axon's own where its directory says nothing."""
    hydra = _hydra_settings(run_dir)
    folders = dict(_folders(hydra, read_facts(run_dir).repro.get("argv") or ()))
    name, cwd = _at(hydra, "job", "config_name"), _at(hydra, "runtime", "cwd")
    return ConfigFiles(
        name if isinstance(name, str) else _CONFIG_NAME,
        folders.get(_FROM_FLAG),
        folders.get(_INSTEAD_OF_MAIN, folders.get(_FROM_MAIN)),
        tuple(_searched(hydra, cwd if isinstance(cwd, str) else None)),
    )


def _folders(hydra: Mapping[str, Any], argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """From what Hydra kept and not from `argv`: there a folder may be relative."""
    sources = _at(hydra, "runtime", "config_sources")
    for source in sources if isinstance(sources, list) else ():
        provider, path = _at(source, "provider"), _at(source, "path")
        # Without the flag, the main one is the folder of bit_axon itself, which may have moved since.
        is_own = provider == _FROM_MAIN and not any(word.startswith(_CONFIG_PATH_FLAGS) for word in argv)
        if isinstance(provider, str) and isinstance(path, str) and not is_own:
            yield provider, path


def _searched(hydra: Mapping[str, Any], cwd: str | None) -> Iterator[str]:
    """Overrides of the search path, with folders that are found from anywhere."""
    given = _at(hydra, "overrides", "hydra")
    for override in map(str, given if isinstance(given, list) else ()):
        places = _places(override) if override.lstrip("+").startswith(_SEARCH_PATH) else None
        if places is None:
            continue
        found = [_from_anywhere(place, cwd) for place in places]
        yield override if found == places else _search_path(override.partition("=")[0], found)


def _search_path(key: str, places: Sequence[str]) -> str:
    return f"{key}=[{','.join(map(quoted, places))}]"


def _places(override: str) -> list[str] | None:
    """The entries of a search path; None where it is no list, or cannot be read."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException:
        return None
    value = parsed.value()
    return list(map(str, value)) if isinstance(value, list) else None


def _folder_of(place: str) -> str | None:
    """The folder of an entry of a search path; None where it is none, or named by an interpolation."""
    folder = place.removeprefix(_FILE)
    return None if "://" in folder or "${" in folder else folder


def _from_anywhere(place: str, cwd: str | None) -> str:
    folder = _folder_of(place)
    if folder is None or cwd is None or os.path.isabs(folder):
        return place
    return _FILE + os.path.normpath(os.path.join(cwd, folder))


def _hydra_settings(run_dir: Path) -> Any:
    """The `hydra` node as the run has kept it; None where the file is absent or torn."""
    try:
        found = yaml.safe_load((run_dir / _HYDRA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return _at(found, "hydra")


def _at(value: Any, *keys: str) -> Any:
    """What is below the keys; None where one of them is not there, as in a file that was cut."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def without_folder(words: Sequence[str], command: str) -> tuple[list[str], str | None]:
    """The overrides of a command line, and the folder behind its `--config-dir`.

    Args:
        words: behind the command.
        command: what they are overrides of, for messages.

    Raises:
        ConfigError: another flag, or no folder.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(*_CONFIG_DIR_FLAGS)
    wanted = f"a folder of config files behind {_CONFIG_DIR_FLAGS[0]}"
    try:
        given, rest = parser.parse_known_args(words)
    except ArgumentError:
        raise ConfigError(problem(wanted, "nothing", f"Write {_CONFIG_DIR_FLAGS[0]} DIR.")) from None
    if flags := [word for word in rest if word.startswith("-")]:
        remedy = f"Leave it out; {_CONFIG_DIR_FLAGS[0]} DIR is the only one."
        raise ConfigError(problem(f"overrides behind {command}", without_secrets(flags[0]), remedy))
    if given.config_dir is None:
        return rest, None
    if not given.config_dir or not Path(given.config_dir).is_dir():
        got = f"'{given.config_dir}', which is no folder"
        raise ConfigError(problem(wanted, got, "Correct it, or leave it out."))
    return rest, str(Path(given.config_dir).resolve())
