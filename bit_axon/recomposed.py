"""A run's config composed again, and its saved values with new overrides on top."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from hydra import compose, initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigSource
from omegaconf import OmegaConf

from bit_axon.composition import (
    CONFIG_ERRORS,
    conf_dir,
    explained,
    plain_values,
    register_resolvers,
    with_free_tags,
    without_secrets,
)
from bit_axon.config_files import ConfigFiles
from bit_axon.errors import ConfigError, problem
from bit_axon.tracking.facts import flattened

_OWN_KEYS: Final = ("hydra", "resume", "trial")  # of each run its own: Hydra does not start this one
_GLOBAL: Final = "_global_"
_CODE: Final = "structured"  # a source without files
_NO_VALUES: Final = ("defaults", "hydra")  # in an option's file
_ABSENT: Final = object()


@dataclass(frozen=True)
class Composed:
    """A config as it is composed today.

    Attributes:
        choices: the option of each group.
        values: plain; the name is null unless an override gives one.
        named: the keys that the overrides give a value, and the groups they choose an option of.
    """

    choices: Mapping[str, str | None]
    values: dict[str, Any]
    named: tuple[str, ...] = ()

    def names(self, key: str) -> bool:
        """Whether an override speaks of the key, or of what holds it."""
        return any(key == name or key.startswith(f"{name}.") for name in self.named)


def refuse_own_keys(overrides: Sequence[str]) -> None:
    """Where a run goes, and what it goes on with, is not repeated.

    Raises:
        ConfigError: an override of it.
    """
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.replace("/", ".").partition(".")[0] in _OWN_KEYS:
            got = f"{without_secrets(override)}, which is each run's own"
            raise ConfigError(problem("overrides of what is trained", got, "Leave it out."))


def composed(overrides: Sequence[str], files: ConfigFiles, more: Sequence[str] = ()) -> Composed:
    """What the overrides mean with the config files of today.

    Args:
        overrides: of the run.
        files: where its config files are.
        more: overrides behind them, of which the keys are wanted.

    Raises:
        ConfigError: it does not compose.
        RunDirectoryError: a folder of config files is gone.
    """
    files.refuse_missing()
    register_resolvers()
    named = any(override.startswith("name=") for override in (*overrides, *more))
    given = with_free_tags([*overrides, *more, *([] if named else ["name=null"])])
    try:
        with initialize_config_dir(files.path or conf_dir(), version_base="1.3"):
            config = compose(files.name, [*given, *files.search_path], return_hydra_config=True)
        choices = {str(group): option for group, option in config.hydra.runtime.choices.items()}
        keys = tuple(_named(more, choices, config.hydra.runtime.config_sources))
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        return Composed(choices, plain_values(own), keys)
    except CONFIG_ERRORS as error:
        raise explained(error) from None


def _named(overrides: Sequence[str], choices: Mapping[str, str | None], sources: Any) -> Iterator[str]:
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if isinstance(value, Mapping) and value:  # merged into what is there: it names its leaves
            yield from (path for path, _ in flattened(value, ".", f"{key}."))
            continue
        yield key
        if key in choices and isinstance(value, str):
            yield from _set_by_option(f"{key}/{value}", sources)


def _set_by_option(option: str, sources: Any) -> list[str]:
    """What an option sets that is not in its group's node: its file says where its values go."""
    source = next((source for source in _opened(sources) if source.is_config(option)), None)
    if source is None:
        return []
    file = source.load_config(option)
    package = file.header.get("package") or option.rpartition("/")[0]
    if package != _GLOBAL:
        return [package]
    values = OmegaConf.to_container(file.config, resolve=False)
    assert isinstance(values, dict)
    kept = {str(key): value for key, value in values.items() if key not in _NO_VALUES}
    return [key for key, _ in flattened(kept, ".")]


def _opened(sources: Any) -> Iterator[ConfigSource]:
    """The places a config was composed from, as it names them itself: a loader forgets the search path."""
    for source in sources:
        if source.schema and source.schema != _CODE:
            kind = SourcesRegistry.instance().resolve(source.schema)
            yield kind(source.provider, f"{source.schema}://{source.path}")


def with_overrides(
    saved: Composed, today: Composed, old: Sequence[str], new: Sequence[str], files: ConfigFiles
) -> Composed:
    """The saved config with what the new overrides change; what the files say otherwise today plays no part.

    Args:
        saved: config and choices of the run.
        today: what is composed of `old` now.
        old: overrides of the run.
        new: overrides that win over everything.
        files: where its config files are.

    Raises:
        ConfigError, RunDirectoryError: as `composed`.
    """
    found = composed(old, files, new)
    values = _changed(deepcopy(saved.values), today.values, found.values)
    others = {
        group
        for group in today.choices.keys() | found.choices.keys()
        if group in found.named or today.choices.get(group, _ABSENT) != found.choices.get(group, _ABSENT)
    }
    for key in sorted({*others, *found.named}):
        _take(values, found.values, key.replace("/", ".").split("."))
    kept = {group: option for group, option in saved.choices.items() if group not in others}
    chosen = {group: option for group, option in found.choices.items() if group in others}
    return Composed({**kept, **chosen}, values, found.named)


def _changed(saved: Any, before: Any, after: Any) -> Any:
    """`saved`, changed as `before` was to become `after`; each may be absent."""
    if before == after:
        return saved
    if not all(isinstance(each, Mapping) for each in (saved, before, after)):
        return after
    found = {
        key: _changed(*(each.get(key, _ABSENT) for each in (saved, before, after)))
        for key in dict.fromkeys([*saved, *after])
    }
    return {key: value for key, value in found.items() if value is not _ABSENT}


def _take(values: dict[str, Any], source: Mapping[str, Any], key: Sequence[str]) -> None:
    """Takes over what `source` has at the key, or that it has nothing there."""
    first, *rest = key
    if first not in source:
        values.pop(first, None)
    elif rest and isinstance(values.get(first), dict) and isinstance(source[first], Mapping):
        _take(values[first], source[first], rest)
    else:
        values[first] = source[first]
