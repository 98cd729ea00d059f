"""A run's config composed again, out of its overrides and the config files that it was started with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bit_axon.composition import (
    CONFIG_ERRORS,
    conf_dir,
    explained,
    plain_values,
    register_resolvers,
    with_free_tags,
)
from bit_axon.errors import RunDirectoryError, problem
from bit_axon.files import write_atomic
from bit_axon.sweep.launching.command import quoted
from bit_axon.tracking.facts import read_facts

_HYDRA_FILE: Final = Path(".hydra", "hydra.yaml")
_CONFIG_NAME: Final = "config"
_CONFIG_PATH_FLAGS: Final = ("--config-path", "-cp")
_SEARCH_PATH: Final = "hydra.searchpath"


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
        return next((place for place in (self.folder, self.path) if place and not Path(place).is_dir()), None)

    @property
    def search_path(self) -> list[str]:
        """All places beside the first one, as one override: composing knows no flags."""
        places = [f"file://{self.folder}"] if self.folder else []
        for override in OverridesParser.create().parse_overrides(list(self.searched)):
            places += map(str, override.value())
        return [f"{_SEARCH_PATH}=[{','.join(map(quoted, places))}]"] if places else []

    def keep(self, run_dir: Path) -> None:
        """For a run that Hydra did not start: in the file and the form that `config_files` reads.

        Raises:
            StorageError: it cannot be written.
        """
        sources = {"command-line": self.folder, "main": self.path}
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
    given = hydra.get("overrides", {}).get("hydra") or ()
    return ConfigFiles(
        hydra.get("job", {}).get("config_name") or _CONFIG_NAME,
        folders.get("command-line"),
        folders.get("main"),
        tuple(override for override in given if override.lstrip("+").startswith(_SEARCH_PATH)),
    )


def _folders(hydra: Mapping[str, Any], argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """From what Hydra kept and not from `argv`: there a folder may be relative."""
    for source in hydra.get("runtime", {}).get("config_sources") or ():
        # Without the flag, the main one is the folder of bit_axon itself, which may have moved since.
        if source["provider"] != "main" or any(word.startswith(_CONFIG_PATH_FLAGS) for word in argv):
            yield source["provider"], source["path"]


def _hydra_settings(run_dir: Path) -> dict[str, Any]:
    """The `hydra` node as the run has kept it; empty where the file is absent or torn."""
    try:
        found = yaml.safe_load((run_dir / _HYDRA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found.get("hydra") or {} if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Composed:
    """A config as it is composed today.

    Attributes:
        choices: the option of each group.
        values: plain; the name is null unless an override gives one.
    """

    choices: dict[str, str | None]
    values: dict[str, Any]


def composed(overrides: Sequence[str], files: ConfigFiles) -> Composed:
    """What the overrides mean with the config files of today.

    Raises:
        ConfigError: it does not compose.
        RunDirectoryError: a folder of config files is gone.
    """
    if (missing := files.missing) is not None:
        wanted, got = "the folder of config files that the run was started with", f"{missing}, which is gone"
        raise RunDirectoryError(problem(wanted, got, "Put it back, or leave out the overrides."))
    register_resolvers()
    named = any(override.startswith("name=") for override in overrides)
    given = [*with_free_tags([*overrides, *([] if named else ["name=null"])]), *files.search_path]
    try:
        with initialize_config_dir(files.path or conf_dir(), version_base="1.3"):
            config = compose(files.name, given, return_hydra_config=True)
        choices = {str(group): option for group, option in config.hydra.runtime.choices.items()}
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        return Composed(choices, plain_values(own))
    except CONFIG_ERRORS as error:
        raise explained(error) from None
