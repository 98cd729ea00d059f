"""Which layers of a model get an adapter: finding, choosing and replacing linear layers by path."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import mlx.nn as nn

from bit_axon.backend import mx
from bit_axon.errors import ConfigError, problem
from bit_axon.quantization.linear import AnyLinear

PRESETS = ("attn", "attn_mlp", "all")
REGEX_PREFIX = "re:"

_ATTENTION_PARTS = ("attn", "attention")
_MLP_PARTS = ("mlp", "ffn", "feed_forward", "feedforward")
_ATTENTION_NAMES = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "Wqkv", "wq", "wk", "wv", "wo"}
)
_MLP_NAMES = frozenset(
    {"gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc", "w1", "w2", "w3"}
)
_SHOWN = 12  # names in an error message


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module below `model` with its dotted path, through dicts and lists, parents first."""
    yield from _walk(model, "")


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in _children(node):
        path = f"{prefix}{name}"
        if isinstance(child, nn.Module):
            yield path, child
        if isinstance(child, dict | list | tuple):  # a module is a dict of its children
            yield from _walk(child, f"{path}.")


def _children(node: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(node, dict):
        return [(str(key), child) for key, child in node.items()]
    return [(str(index), child) for index, child in enumerate(node)]


def find_linears(model: nn.Module) -> dict[str, AnyLinear]:
    """Every linear layer by path, block 2 before block 10; layers inside an adapter are its own affair.

    Raises:
        ConfigError: the model has adapters already.
    """
    found: dict[str, AnyLinear] = {}
    for path, module in walk(model):
        if "lora_a" in module:
            raise ConfigError(
                problem(
                    "a model without adapters", f"one at {path}", "Load the base model again, then attach."
                )
            )
        if isinstance(module, nn.Linear | nn.QuantizedLinear):
            found[path] = module
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(path: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.split(".")]


def replace_at(model: nn.Module, replacements: Mapping[str, nn.Module | mx.array]) -> None:
    """Puts each module or array at its dotted path, in place."""
    for path, value in replacements.items():
        *parents, name = path.split(".")
        node: Any = model
        for part in parents:
            node = _child(node, part)
        node[int(name) if isinstance(node, list) else name] = value


def _child(node: Any, name: str) -> Any:
    return node[int(name) if isinstance(node, list | tuple) else name]


def matching_suffix(path: str, suffixes: Sequence[str]) -> bool:
    """Whether the layer's own name ends with one of the suffixes."""
    return path.rpartition(".")[2].endswith(tuple(suffixes))


def block_index(path: str, block_list: str) -> int | None:
    """The block a path lies in, when blocks are the list at `block_list`; None outside of it."""
    if not path.startswith(f"{block_list}."):
        return None
    return int(path[len(block_list) + 1 :].split(".")[0])


def find_block_list(model: nn.Module) -> tuple[str, int]:
    """Path and length of the longest list of modules: the transformer blocks. `("", 0)` without a list."""
    lengths: dict[str, int] = {}
    for path, _ in walk(model):
        parent, _, name = path.rpartition(".")
        if name.isdigit():
            lengths[parent] = max(lengths.get(parent, 0), int(name) + 1)
    return max(lengths.items(), key=lambda item: item[1], default=("", 0))


def choose_targets(
    paths: Sequence[str], targets: str | Sequence[str], optional: Container[str] = ()
) -> list[str]:
    """The paths that `targets` names, in their order.

    Args:
        paths: candidates.
        targets: a preset of `PRESETS`, `re:` and a pattern searched in the path, or layer names: each
            is a layer's own name (`q_proj`) or the end of its path (`self_attn.q_proj`).
        optional: names that need not be in this model.

    Raises:
        ConfigError: a name or the whole choice matches nothing, or the pattern is not a valid one.
    """
    if isinstance(targets, str) and targets in PRESETS:
        chosen = [path for path in paths if _in_preset(path, targets)]
    elif isinstance(targets, str) and targets.startswith(REGEX_PREFIX):
        pattern = _compiled(targets.removeprefix(REGEX_PREFIX))
        chosen = [path for path in paths if pattern.search(path)]
    else:
        names = [targets] if isinstance(targets, str) else list(targets)
        absent = [
            name for name in names if name not in optional and not any(_named(path, name) for path in paths)
        ]
        if absent:
            require_matches([], absent, paths)
        chosen = [path for path in paths if any(_named(path, name) for name in names)]
    require_matches(chosen, targets, paths)
    return chosen


def _named(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _in_preset(path: str, preset: str) -> bool:
    *parents, name = path.split(".")
    attention = name in _ATTENTION_NAMES or any(
        part in parent for parent in parents for part in _ATTENTION_PARTS
    )
    mlp = name in _MLP_NAMES or any(part in parent for parent in parents for part in _MLP_PARTS)
    return preset == "all" or attention or (preset == "attn_mlp" and mlp)


def _any_contains(parents: Sequence[str], parts: Sequence[str]) -> bool:
    return any(part in parent for parent in parents for part in parts)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        remedy = "Correct the pattern after 're:'."
        raise ConfigError(
            problem("adapter.targets to be a regular expression", f"'{pattern}' ({error})", remedy)
        ) from None


def require_matches(chosen: Iterable[str], targets: str | Iterable[str], known: Iterable[str]) -> None:
    """Checks that something was chosen.

    Raises:
        ConfigError: names the targets, the nearest layer name and the names there are.
    """
    if any(True for _ in chosen):
        return
    wanted = [targets] if isinstance(targets, str) else list(targets)
    names = sorted({path.rpartition(".")[2] for path in known})
    close = get_close_matches(wanted[0], [*names, *PRESETS], n=1) if wanted else []
    guess = f" Did you mean '{close[0]}'?" if close else f" Presets are: {', '.join(PRESETS)}."
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    raise ConfigError(
        problem(
            "adapter.targets that name a layer of the model",
            f"{', '.join(repr(name) for name in wanted) or 'no name'}, which matches none",
            f"The model's linear layers are: {shown or 'none at all'}.{guess}",
        ),
        keys=("adapter.targets",),
    )


def choose_layers(
    paths: Sequence[str], layers: Literal["all"] | int | Sequence[int], block_list: str, blocks: int
) -> list[str]:
    """The paths inside the wanted transformer blocks; without any list of blocks, `all` is every path.

    Args:
        layers: `all`, the number of last blocks, or block indices.
        block_list: path of the list of blocks, from `find_block_list`.
        blocks: its length.

    Raises:
        ConfigError: a count or an index is out of range.
    """
    if layers == "all":
        return [path for path in paths if not blocks or block_index(path, block_list) is not None]
    if isinstance(layers, int):
        valid, wanted = 1 <= layers <= blocks, set(range(blocks - layers, blocks))
    else:
        valid, wanted = bool(layers) and all(0 <= index < blocks for index in layers), set(layers)
    if not valid:
        raise ConfigError(
            problem(
                f"adapter.layers to be all, a count from 1 to {blocks}, or indices from 0 to {blocks - 1}",
                repr(layers),
                f"The model has {blocks} blocks.",
            ),
            keys=("adapter.layers",),
        )
    return [path for path in paths if block_index(path, block_list) in wanted]
