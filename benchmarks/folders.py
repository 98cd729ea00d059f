"""Model folders to measure on: Qwen2 with random weights of a fixed seed and a tokenizer of the data."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.vocabulary import save_tokenizer
from bit_axon.errors import ModelError, problem
from bit_axon.files import digest_of, outputs_dir, project_root

FOLDER_VERSION = 1  # raise it when a folder's content changes
_STANDARD_DEVIATION = 0.02
_SEED = 0
_GROUP_SIZE = 64


@dataclass(frozen=True)
class Size:
    """A Qwen2 architecture; embedding and head are tied."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int


SIZES: dict[str, Size] = {
    "tiny": Size(64, 2, 4, 2, 128, 1024),
    "2m": Size(128, 4, 4, 2, 512, 8_000),
    "8m": Size(256, 6, 4, 2, 1024, 8_000),
    "25m": Size(384, 9, 6, 2, 1536, 16_000),
    "47m": Size(512, 8, 8, 4, 1792, 32_000),
    "100m": Size(768, 10, 12, 4, 2560, 32_000),
}


def model_folder(name: str, texts: list[str], root: Path | None = None) -> Path:
    """The folder of a size, built once for the same texts.

    Args:
        name: a key of SIZES.
        texts: what the tokenizer learns from.
        root: where folders are kept; None = the outputs folder.
    """
    root = root or outputs_dir() / "benchmarks" / "models"
    digest = digest_of({"version": FOLDER_VERSION, "size": list(vars(SIZES[name]).values()), "texts": texts})
    folder = root / f"{name}-{digest[:10]}"
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _build(SIZES[name], texts, part)
        part.rename(folder)
    return folder


def quantized_folder(folder: Path) -> Path:
    """The same model in 4 bits, groups of 64, made by mlx-lm's own command."""
    target = folder.with_name(f"{folder.name}-4bit")
    if not target.is_dir():
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", str(folder)]
        command += [
            "--mlx-path",
            str(part),
            "--quantize",
            "--q-bits",
            "4",
            "--q-group-size",
            str(_GROUP_SIZE),
        ]
        done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise ModelError(
                problem("mlx-lm to quantize a model", reason, "Update mlx-lm.", where=str(folder))
            )
        part.rename(target)
    return target


def parameters_of(name: str) -> int:
    """How many weights a size has."""
    return sum(int(np.prod(shape)) for _, shape, _ in _tensors(SIZES[name]))


def _build(size: Size, texts: list[str], folder: Path) -> None:
    ids = save_tokenizer(texts, size.vocab, folder)
    (folder / "config.json").write_text(json.dumps(_config(size, ids), indent=2) + "\n", encoding="utf-8")
    generator = np.random.default_rng(_SEED)
    weights = {name: _drawn(generator, shape, kind) for name, shape, kind in _tensors(size)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _drawn(generator: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray[Any, Any]:
    if kind == "ones":
        return np.ones(shape, np.float32)
    return generator.standard_normal(shape, np.float32) * np.float32(_STANDARD_DEVIATION)


def _tensors(size: Size) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and kind of every weight, under the names of Hugging Face."""
    yield "model.embed_tokens.weight", (size.vocab, size.hidden), "normal"
    for layer in range(size.layers):
        for name, shape, kind in _layer_tensors(size):
            yield f"model.layers.{layer}.{name}", shape, kind
    yield "model.norm.weight", (size.hidden,), "ones"


def _layer_tensors(size: Size) -> Iterator[tuple[str, tuple[int, ...], str]]:
    kv = size.hidden // size.heads * size.kv_heads
    for name, width in (("q", size.hidden), ("k", kv), ("v", kv)):
        yield f"self_attn.{name}_proj.weight", (width, size.hidden), "normal"
        yield f"self_attn.{name}_proj.bias", (width,), "normal"
    yield "self_attn.o_proj.weight", (size.hidden, size.hidden), "normal"
    for name in ("gate", "up"):
        yield f"mlp.{name}_proj.weight", (size.intermediate, size.hidden), "normal"
    yield "mlp.down_proj.weight", (size.hidden, size.intermediate), "normal"
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield f"{name}.weight", (size.hidden,), "ones"


def _config(size: Size, ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "eos_token_id": ids["end"],
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initializer_range": _STANDARD_DEVIATION,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": 4096,
        "model_type": "qwen2",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "pad_token_id": ids["pad"],
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": size.vocab,
    }
