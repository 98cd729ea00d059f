"""Adapters of a model: what is trained, and the files that mlx-lm loads too.

An adapter folder holds `adapters.safetensors` (`<layer path>.lora_a`, `.lora_b`, DoRA's `.m`, or every
parameter after full fine-tuning) and `adapter_config.json`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.nn as nn
from mlx.utils import tree_flatten

from bit_axon import __version__
from bit_axon.backend import mx
from bit_axon.errors import ModelError, problem
from bit_axon.schema import AdapterConfig
from bit_axon.training.attach import (
    ADAPTERS,
    FULL,
    AdapterLayer,
    AttachedAdapter,
    attach_adapter,
    attach_layers,
    check_adapter_name,
    resolve_scale,
    trainable_count,
)
from bit_axon.training.dora import DoRALinear
from bit_axon.training.lora import LoRALinear
from bit_axon.training.targets import find_block_list, find_linears, replace_at, walk
from bit_axon.training.tensors import load_tensors, save_tensors

__all__ = [
    "ADAPTERS",
    "ADAPTER_CONFIG_FILE",
    "ADAPTER_FILE",
    "AttachedAdapter",
    "ModelReference",
    "adapter_config",
    "adapter_layers",
    "adapter_parameters",
    "attach_adapter",
    "attach_saved_adapter",
    "check_adapter_name",
    "load_adapter",
    "resolve_scale",
    "save_adapter",
    "trainable_count",
]

ADAPTER_FILE: Final = "adapters.safetensors"
ADAPTER_CONFIG_FILE: Final = "adapter_config.json"

_LEAVES: Final = ("lora_a", "lora_b", "m")
_SHOWN_PROBLEMS: Final = 8


@dataclass(frozen=True)
class ModelReference:
    """Which base model an adapter belongs to."""

    path: str  # folder or hub id
    digest: str | None = None  # of the base weights and model config
    revision: str | None = None


def adapter_layers(model: nn.Module) -> dict[str, AdapterLayer]:
    """The wrapped layers by path."""
    return {path: module for path, module in walk(model) if isinstance(module, LoRALinear | DoRALinear)}


def adapter_parameters(model: nn.Module) -> dict[str, mx.array]:
    """What an adapter file holds, by name: the adapters' arrays, or all parameters of an unwrapped model."""
    layers = adapter_layers(model)
    if not layers:
        return dict(tree_flatten(model.parameters()))
    return {
        f"{path}.{leaf}": layer[leaf] for path, layer in layers.items() for leaf in _LEAVES if leaf in layer
    }


def save_adapter(model: nn.Module, path: Path) -> None:
    """Writes `adapter_parameters` to a safetensors file, at once or not at all; equal values, equal bytes.

    Raises:
        StorageError: it could not be written; an older file is untouched.
    """
    save_tensors(path, adapter_parameters(model))


def adapter_config(attached: AttachedAdapter, model: ModelReference) -> dict[str, Any]:
    """The content of `adapter_config.json`; mlx-lm reads its first three keys."""
    return {
        "fine_tune_type": "full" if attached.name == FULL else attached.name,
        "num_layers": attached.blocks,
        "lora_parameters": {
            "rank": attached.rank,
            "scale": attached.scale,
            "dropout": attached.dropout,
            "keys": list(attached.paths),
        },
        "model": model.path,
        "bit_axon": {
            "version": __version__,
            "model_digest": model.digest,
            "model_revision": model.revision,
            "trainable_parameters": attached.trainable_parameters,
        },
    }


def load_adapter(model: nn.Module, path: Path, *, model_digest: str | None = None) -> None:
    """Puts saved values into a model whose adapters are attached already.

    A file with the base's parameters beside the adapter's (a full dump) is accepted, and restores both.

    Args:
        path: an adapter file, or a folder with one.
        model_digest: of the base model; compared with the one the adapter was trained on, if that is known.

    Raises:
        ModelError: a damaged file, or an adapter of another model or of another adapter config; names
            what is missing, unknown or of the wrong shape.
    """
    file = path / ADAPTER_FILE if path.is_dir() else path
    _check_digest(file.parent / ADAPTER_CONFIG_FILE, model_digest)
    arrays = load_tensors(file)
    known: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    _check_names(file, arrays, set(adapter_parameters(model)), known)
    replace_at(model, {name: array.astype(known[name].dtype) for name, array in arrays.items()})
    model.train(model.training)  # DoRA measures a base that came with the file


def _check_names(
    file: Path, arrays: Mapping[str, mx.array], needed: set[str], known: Mapping[str, mx.array]
) -> None:
    problems = [f"missing: {name}" for name in sorted(needed - set(arrays))]
    for name, array in sorted(arrays.items()):
        if name not in known:
            problems.append(f"unknown: {name}")
        elif array.shape != known[name].shape:
            problems.append(f"{name}: shape {array.shape}, the model's is {known[name].shape}")
    if not problems:
        return
    rest = len(problems) - _SHOWN_PROBLEMS
    shown = "\n  ".join(problems[:_SHOWN_PROBLEMS]) + (f"\n  and {rest} more" if rest > 0 else "")
    raise ModelError(
        problem(
            "the adapter's tensors to be those of this model and adapter config",
            f"{len(problems)} differences:\n  {shown}\n",
            f"Use the model and the adapter config it was trained with ({ADAPTER_CONFIG_FILE}).",
            where=str(file),
        )
    )


def _check_digest(config_file: Path, model_digest: str | None) -> None:
    if model_digest is None or not config_file.is_file():
        return
    config = _read_config(config_file)
    trained_on = config.get("bit_axon", {}).get("model_digest")
    if trained_on not in (None, model_digest):
        raise ModelError(
            problem(
                f"the adapter's base model ({config.get('model')}, digest {trained_on[:12]})",
                f"one with digest {model_digest[:12]}",
                "Set model.path (and model.revision) to that model.",
                where=str(config_file),
            )
        )


def _read_config(config_file: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(config_file.read_text())
        return {**config, "lora_parameters": dict(config.get("lora_parameters", {}))}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        remedy = "An adapter folder needs its adapter_config.json; copy it again."
        raise ModelError(problem("an adapter config", str(error), remedy, where=str(config_file))) from None


def attach_saved_adapter(
    model: nn.Module, folder: Path, *, model_digest: str | None = None
) -> AttachedAdapter:
    """Wraps a plain model as a saved adapter needs it and loads the values, for use without a run's config.

    Raises:
        ModelError: as `load_adapter`; or a layer of the adapter that is not a linear layer of the model.
    """
    config = _read_config(folder / ADAPTER_CONFIG_FILE)
    if config.get("fine_tune_type") == "full":
        load_adapter(model, folder, model_digest=model_digest)
        blocks = find_block_list(model)[1]
        return AttachedAdapter(FULL, (), 0, 0.0, 0.0, blocks, trainable_count(model))
    arrays = load_tensors(folder / ADAPTER_FILE)
    factors = {name.removesuffix(".lora_a"): a for name, a in arrays.items() if name.endswith(".lora_a")}
    linears = {path: linear for path, linear in find_linears(model).items() if path in factors}
    if not factors or len(linears) < len(factors):
        absent = sorted(set(factors) - set(linears))
        got = f"{absent[0]} and {len(absent) - 1} more" if absent else "no lora_a at all"
        remedy = "Use the model the adapter was trained on."
        raise ModelError(problem("an adapter of the model's linear layers", got, remedy, where=str(folder)))
    attached = attach_layers(model, linears, _saved_options(config, factors, folder), seed=0)
    load_adapter(model, folder, model_digest=model_digest)
    return attached


def _saved_options(config: Mapping[str, Any], factors: Mapping[str, mx.array], folder: Path) -> AdapterConfig:
    options = config["lora_parameters"]
    scale, dropout = options.get("scale"), options.get("dropout", 0.0)
    if not isinstance(scale, int | float):
        remedy = "Write the scale the adapter was trained with into adapter_config.json."
        raise ModelError(
            problem("lora_parameters.scale to be a number", repr(scale), remedy, where=str(folder))
        )
    name = "dora" if config.get("fine_tune_type") == "dora" else "lora"
    rank = next(iter(factors.values())).shape[1]
    return AdapterConfig(name=name, rank=rank, scale=float(scale), dropout=float(dropout))
