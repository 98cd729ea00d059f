"""From an adapter's config to a model whose adapter parameters, and nothing else, are trainable."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import mlx.nn as nn
from mlx.utils import tree_flatten

from bit_axon.backend import mx
from bit_axon.errors import ConfigError, problem
from bit_axon.quantization.linear import AnyLinear, linear_dims
from bit_axon.schema import AdapterConfig
from bit_axon.training.dora import DoRALinear
from bit_axon.training.lora import DEFAULT_LORA_TARGETS, LoRALinear, is_excluded
from bit_axon.training.targets import (
    choose_layers,
    choose_targets,
    find_block_list,
    find_linears,
    replace_at,
)
from bit_axon.validation import nearest

DEFAULT_SCALE: Final = 20.0
FULL: Final = "none"  # no adapter: every parameter is trained

AdapterLayer: TypeAlias = LoRALinear | DoRALinear
ADAPTERS: Final[Mapping[str, type[AdapterLayer]]] = {"lora": LoRALinear, "dora": DoRALinear}


@dataclass(frozen=True)
class AttachedAdapter:
    """What `attach_adapter` did to a model."""

    name: str  # lora, dora or none
    paths: tuple[str, ...]  # of the wrapped layers, block by block; empty for none
    rank: int
    scale: float
    dropout: float
    blocks: int  # transformer blocks of the model
    trainable_parameters: int


def check_adapter_name(name: str) -> None:
    """Refuses an adapter that is not there.

    Raises:
        ConfigError: with the nearest name.
    """
    known = [*ADAPTERS, FULL]
    if name not in known:
        text = problem("the name of an adapter", f"'{name}'", nearest(name, known), where="adapter.name")
        raise ConfigError(text, keys=["adapter.name"])


def resolve_scale(config: AdapterConfig) -> float:
    """`scale` itself, `alpha / rank` (`alpha / sqrt(rank)` with rslora), or 20.0 when neither is given.

    Raises:
        ConfigError: scale and alpha are both given, or rslora without alpha.
    """
    if config.scale is not None and config.alpha is not None:
        got = f"scale={config.scale:g} and alpha={config.alpha:g}"
        raise ConfigError(
            problem("adapter.scale or adapter.alpha", got, "Set one of them to null; scale = alpha / rank."),
            keys=("adapter.scale", "adapter.alpha"),
        )
    if config.alpha is not None:
        return config.alpha / (math.sqrt(config.rank) if config.rslora else config.rank)
    if config.rslora:
        raise ConfigError(
            problem(
                "adapter.alpha when adapter.rslora is true", "no alpha", "Set adapter.alpha, or rslora=false."
            ),
            keys=("adapter.rslora",),
        )
    return DEFAULT_SCALE if config.scale is None else config.scale


def attach_adapter(model: nn.Module, config: AdapterConfig, *, seed: int) -> AttachedAdapter:
    """Freezes the model and wraps the chosen layers; `none` unfreezes everything instead.

    Args:
        model: any mlx-lm model without adapters.
        config: what to attach.
        seed: the initial `A` of a layer depends on `(seed, path)` alone, not on which others are wrapped.

    Raises:
        ConfigError: an unknown adapter, targets or layers that match nothing, a rank too large, scale and
            alpha at once, or full fine-tuning of a quantized model.
    """
    check_adapter_name(config.name)
    block_list, blocks = find_block_list(model)
    if config.name == FULL:
        return _attach_full(model, blocks)
    resolve_scale(config)
    return attach_layers(model, _choose(model, config, block_list, blocks), config, seed=seed)


def attach_layers(
    model: nn.Module, chosen: Mapping[str, AnyLinear], config: AdapterConfig, *, seed: int
) -> AttachedAdapter:
    """Freezes the model and wraps exactly these layers, given by path; targets and layers are not read."""
    scale = resolve_scale(config)
    model.freeze()
    replace_at(model, {path: _wrapped(linear, config, scale, path, seed) for path, linear in chosen.items()})
    mx.eval(model.trainable_parameters())
    return AttachedAdapter(
        config.name,
        tuple(chosen),
        config.rank,
        scale,
        config.dropout,
        find_block_list(model)[1],
        trainable_count(model),
    )


def _attach_full(model: nn.Module, blocks: int) -> AttachedAdapter:
    packed = [name for name, array in tree_flatten(model.parameters()) if not _is_float(array)]
    if packed:
        raise ConfigError(
            problem(
                "float weights for adapter=none (full fine-tuning)",
                f"a quantized model ({packed[0]} and {len(packed) - 1} more)",
                "Use adapter=lora or adapter=dora, or set model.quantization=null.",
            )
        )
    find_linears(model)  # refuses a model with adapters
    model.unfreeze()
    return AttachedAdapter(FULL, (), 0, 0.0, 0.0, blocks, trainable_count(model))


def _is_float(array: mx.array) -> bool:
    return bool(mx.issubdtype(array.dtype, mx.floating))


def _choose(model: nn.Module, config: AdapterConfig, block_list: str, blocks: int) -> dict[str, AnyLinear]:
    linears = {path: linear for path, linear in find_linears(model).items() if not is_excluded(path)}
    inside = choose_layers(list(linears), "all", block_list, blocks)
    targeted = choose_targets(inside, config.targets, optional=DEFAULT_LORA_TARGETS)
    paths = choose_layers(targeted, config.layers, block_list, blocks)
    if not paths:
        raise ConfigError(
            problem(
                "adapter.targets that occur in the blocks of adapter.layers",
                f"targets={config.targets!r} and layers={config.layers!r}, which share no layer",
                f"Set adapter.layers=all: these targets occur in {targeted[0]}, for one.",
            )
        )
    chosen = {path: linears[path] for path in paths}
    _check_rank(chosen, config.rank)
    return chosen


def _check_rank(chosen: Mapping[str, AnyLinear], rank: int) -> None:
    dims = {path: linear_dims(linear) for path, linear in chosen.items()}
    too_small = {path: sizes for path, sizes in dims.items() if min(sizes) < rank}
    if not too_small:
        return
    path, (input_dims, output_dims) = min(too_small.items(), key=lambda item: min(item[1]))
    others = f" (and {len(too_small) - 1} more layers)" if len(too_small) > 1 else ""
    raise ConfigError(
        problem(
            f"adapter.rank of at most {min(input_dims, output_dims)}",
            f"{rank}, but {path} is {input_dims} to {output_dims}{others}",
            "Lower adapter.rank, or leave the layer out of adapter.targets.",
        ),
        keys=("adapter.rank",),
    )


def _wrapped(linear: AnyLinear, config: AdapterConfig, scale: float, path: str, seed: int) -> AdapterLayer:
    layer = ADAPTERS[config.name].from_base(
        linear, config.rank, config.dropout, scale, key=layer_key(seed, path)
    )
    if not config.train_magnitude:
        layer.freeze(keys=["m"], recurse=False)
    return layer


def layer_key(seed: int, path: str) -> mx.array:
    """Random key of one layer's initial factors."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return mx.random.key(int.from_bytes(digest[:8], "little"))


def trainable_count(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(array.size for _, array in tree_flatten(model.trainable_parameters()))
