"""Which options of a sampler or pruner hold: one that is named anew does not inherit those of another.

Hydra merges mappings key by key. Over a file's `{name: median, n_startup_trials: 4}` it would make of
`{name: hyperband}` a hyperband with an option of median.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial, reduce
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from bit_axon.origins import composed_files, given_overrides


def chosen_options(
    key: str, merged: Mapping[str, Any], default: Mapping[str, Any], layers: Iterable[Any]
) -> dict[str, Any]:
    """The options of `merged` that were given for its name, or for the same name before.

    Args:
        key: dotted, as in `hydra.sweeper.pruner`.
        merged: the value of `key` as Hydra composed it.
        default: what it was merged into first.
        layers: what was merged then, from `merged_layers`.
    """
    found: Any = default
    for layer in layers:
        for part in key.split("."):
            layer = layer.get(part) if isinstance(layer, Mapping) else None
        found = found if layer is None else _laid_over(found, layer)
    return _kept(merged, _spec(found))


def merged_layers(loader: ConfigLoader, hydra: DictConfig) -> Iterator[Any]:
    """The values of each file from the root, in the order they are merged, then of the command line.

    Args:
        loader: which composed the config.
        hydra: the composed `hydra` node.
    """
    of_hydra = given_overrides(hydra, "hydra")
    overrides = [*of_hydra, *given_overrides(hydra, "task")]
    for file in composed_files(loader, hydra.job.config_name, overrides):
        yield _nested(file.package, yaml.safe_load(file.path.read_text(encoding="utf-8")))
    parser = OverridesParser.create()
    given = [found for found in map(parser.parse_override, of_hydra) if not found.is_delete()]
    layers = [_nested(found.key_or_group, found.value()) for found in given]
    yield reduce(partial(_laid_over, by_name=False), layers, {})  # in any order: it is one wish


def _nested(key: str, value: Any) -> Any:
    for part in reversed(key.split(".") if key else []):
        value = {part: value}
    return value


def _spec(value: Any) -> Any:
    """A bare name stands for its options."""
    return {"name": value} if isinstance(value, str) else value


def _laid_over(below: Any, above: Any, *, by_name: bool = True) -> Any:
    """As OmegaConf merges; with `by_name`, another name replaces all that belongs to the one before."""
    if not isinstance(above, Mapping):
        return above
    below = _spec(below)
    if not isinstance(below, Mapping):
        return above
    if by_name and "name" in above and above["name"] != below.get("name"):
        return above
    merge = partial(_laid_over, by_name=by_name)
    return {**below, **{key: merge(below.get(key), value) for key, value in above.items()}}


def _kept(merged: Mapping[str, Any], found: Any) -> dict[str, Any]:
    """The values of `merged`, which are resolved, for the keys of `found`."""
    if not isinstance(found, Mapping):
        return dict(merged)
    kept = {k: _kept(v, found[k]) if isinstance(v, Mapping) else v for k, v in merged.items() if k in found}
    return {"name": found["name"], **kept} if "name" in found else kept
