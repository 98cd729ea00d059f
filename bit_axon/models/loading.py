"""A base model from a local folder, a hub id or the package, quantized at load if asked."""

import importlib.util
import json
import math
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import mlx.nn as nn
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from mlx_lm.utils import MODEL_REMAPPING, load_model, quantize_model

from bit_axon.backend import detect, mx
from bit_axon.embedded import nano_path
from bit_axon.errors import ConfigError, ModelError, problem
from bit_axon.files import digest_of, sha256_file
from bit_axon.hub import hub_reason
from bit_axon.schema import ModelConfig, QuantizationConfig
from bit_axon.validation import nearest

_EMBEDDED = "embedded:"
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "tokenizer*"]


@dataclass(frozen=True)
class BaseModel:
    """A loaded base model, and what identifies it."""

    model: nn.Module
    folder: Path
    config: Mapping[str, Any]  # the folder's config.json
    digest: str  # of the files the weights and the architecture come from
    dtype: str
    parameters: int  # quantized weights counted unpacked


def find_model(path: str, revision: str | None = None) -> Path:
    """The local folder of `path`: the package's, a folder, or a hub snapshot.

    Raises:
        ModelError: no such folder, or the hub has no such model or cannot be reached.
    """
    if path.startswith(_EMBEDDED):
        if path != f"{_EMBEDDED}nano":
            raise ModelError(
                problem("an embedded model", f"'{path}'", "There is: embedded:nano.", where="model.path")
            )
        return nano_path()
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        got = f"'{path}', which is a file"
        raise ModelError(
            problem("a model folder or hub id", got, f"Give its folder: {folder.parent}.", where="model.path")
        )
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1:
        beside = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        hint = nearest(folder.name, beside) if beside else "Give a folder that holds config.json."
        raise ModelError(
            problem("a model folder or hub id", f"'{path}', which does not exist", hint, where="model.path")
        )
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            problem(
                f"to load '{path}' as a folder or from the hub",
                hub_reason(error),
                "Check the name and the network, or give a local folder.",
                where="model.path",
            )
        ) from None


def model_digest(folder: Path) -> str:
    """Digest over config.json and every weight file of the folder."""
    files = [folder / "config.json", *sorted(folder.glob("model*.safetensors"))]
    return digest_of({file.name: sha256_file(file) for file in files if file.is_file()})


def load_base(config: ModelConfig, *, seed: int) -> BaseModel:
    """Loads (or, with `init: random`, draws from `seed`) the base model in evaluation mode.

    Raises:
        ModelError: the folder, its config or a weight file cannot be used.
        ConfigError: the quantization does not fit the layers.
    """
    folder = find_model(config.path, config.revision)
    check_model_folder(config, folder)
    settings = read_model_config(folder)
    model = _random_model(folder, settings, seed) if config.init == "random" else _pretrained_model(folder)
    dtype = config.dtype or detect().default_dtype
    model.set_dtype(getattr(mx, dtype))
    if config.quantization:
        model = _quantize(model, settings, config.quantization)
    model.eval()
    mx.eval(model.parameters())
    return BaseModel(model, folder, settings, model_digest(folder), dtype, _count(model))


def check_model_folder(config: ModelConfig, folder: Path) -> None:
    """The cheap checks, before data is tokenised: config.json, its architecture, and that weights are there.

    Raises:
        ModelError: the folder cannot be loaded.
    """
    settings = read_model_config(folder)
    name = str(settings["model_type"])
    if importlib.util.find_spec(f"mlx_lm.models.{MODEL_REMAPPING.get(name, name)}") is None:
        where = str(folder / "config.json")
        raise ModelError(
            problem("an architecture of mlx-lm", f"'{name}'", "Choose another model.", where=where)
        )
    if config.init == "pretrained" and not any(folder.glob("model*.safetensors")):
        raise ModelError(
            problem("model*.safetensors", "none", "Download the weights again.", where=str(folder))
        )


def read_model_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        ModelError: it is missing, not JSON, or names no architecture.
    """
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            problem("a model folder with config.json", f"{folder} without one", "Give the folder of a model.")
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            problem("readable JSON", str(error), "Download the file again.", where=str(file))
        ) from None
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise ModelError(
            problem(
                "an object with 'model_type'", "none", "Give the folder of an mlx-lm model.", where=str(file)
            )
        )
    return settings


def _pretrained_model(folder: Path) -> nn.Module:
    try:
        return load_model(folder, lazy=True)[0]
    except FileNotFoundError:
        raise ModelError(
            problem("model*.safetensors", "none", "Download the weights again.", where=str(folder))
        ) from None
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        _refuse_damaged(folder)
        remedy = "Download config.json and the weights again: they do not belong together."
        raise _unloadable(folder, error, remedy) from None


def _refuse_damaged(folder: Path) -> None:
    """Names the weight file that is cut short, if one is."""
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            mx.load(str(file), format="safetensors")  # reads the header alone
        except (RuntimeError, ValueError) as error:
            remedy = "The file is damaged or was cut short; download it again."
            raise _unloadable(file, error, remedy) from None


def _unloadable(place: Path, error: Exception, remedy: str) -> ModelError:
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    return ModelError(problem("weights and a config that mlx-lm can load", reason, remedy, where=str(place)))


def _random_model(folder: Path, settings: Mapping[str, Any], seed: int) -> nn.Module:
    name = str(settings["model_type"])
    architecture = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(name, name)}")
    mx.random.seed(seed)
    try:
        return architecture.Model(architecture.ModelArgs.from_dict(dict(settings)))
    except (ValueError, KeyError, TypeError) as error:
        raise _unloadable(folder / "config.json", error, "Correct the file, or download it again.") from None


def _quantize(model: nn.Module, settings: dict[str, Any], wanted: QuantizationConfig) -> nn.Module:
    if "quantization" in settings:
        raise ConfigError(
            problem(
                "float weights to quantize",
                "a model that is quantized already",
                "Set model.quantization=null.",
                where="model.quantization",
            )
        )
    _check_group_size(model, wanted.group_size)
    with redirect_stdout(StringIO()):  # mlx-lm reports its progress there
        quantized, _ = quantize_model(
            model, settings, group_size=wanted.group_size, bits=wanted.bits, mode=wanted.mode
        )
    return quantized


def _check_group_size(model: nn.Module, group_size: int) -> None:
    """mlx-lm skips layers that do not divide, silently: a run would then not be what its config says."""
    widths = {
        name: module.weight.shape[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    bad = {name: width for name, width in widths.items() if width % group_size}
    if not bad:
        return
    name, width = next(iter(sorted(bad.items())))
    fits = [size for size in (128, 64, 32) if all(w % size == 0 for w in widths.values())]
    remedy = f"Use model.quantization.group_size={fits[0]}." if fits else "This model cannot be quantized."
    raise ConfigError(
        problem(
            "a group size that divides every layer's input width",
            f"{group_size} for {name} of width {width} (and {len(bad) - 1} more)",
            remedy,
            where="model.quantization.group_size",
        ),
        keys=("model.quantization.group_size",),
    )


def _count(model: nn.Module) -> int:
    total = 0
    for module in model.modules():
        own = [value for value in module.values() if isinstance(value, mx.array)]
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            total += module.weight.size * 32 // module.bits
        else:
            total += sum(math.prod(value.shape) for value in own)
    return total
