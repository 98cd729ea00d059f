"""Tiny models of several architectures with adapters that are not zero, and batches for them."""

import copy
import importlib
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from bit_axon.backend import mx
from bit_axon.models.inputs import ArrayBatch
from bit_axon.schema import AdapterConfig
from bit_axon.training.attach import attach_adapter
from bit_axon.training.batches import Batch
from bit_axon.training.methods import Method

VOCABULARY = 96
COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
}
EXTRA: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": True, "rope_theta": 1e4},
    "qwen3": {
        "tie_word_embeddings": True,
        "rope_theta": 1e4,
        "head_dim": 16,
        "max_position_embeddings": 512,
    },
    "llama": {"tie_word_embeddings": False},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8.0, "final_logit_softcapping": 5.0},
    "qwen2_moe": {
        "num_experts_per_tok": 2,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "tie_word_embeddings": False,
    },
}


def build(kind: str, *, quantized: bool = False, adapter: str = "lora", **adapter_options: Any) -> nn.Module:
    """A random model; the second factors of its adapters are not zero, nor are biases."""
    mx.random.seed(0)
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    model = module.Model(module.ModelArgs.from_dict({"model_type": kind, **COMMON, **EXTRA[kind]}))
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and "bias" in layer:
            layer.bias = 0.3 * mx.random.normal(layer.bias.shape)
    if quantized:
        nn.quantize(model, group_size=32, bits=4)
    attach_adapter(model, AdapterConfig(name=adapter, rank=4, **adapter_options), seed=0)
    for layer in model.modules():
        if "lora_b" in layer:
            layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape)
        if "m" in layer:
            layer.m = layer.m * (1 + 0.2 * mx.random.normal(layer.m.shape))
    mx.eval(model.parameters())
    return model


def token_batch(random: np.random.Generator, rows: list[list[int]], width: int) -> Batch:
    """Rows of segments of these lengths, about half of all tokens supervised, padding behind them."""
    tokens = random.integers(0, VOCABULARY, (len(rows), width)).astype(np.int32)
    segments = np.zeros((len(rows), width), np.int32)
    mask = (random.random((len(rows), width)) < 0.5).astype(np.float32)
    for row, lengths in enumerate(rows):
        at = 0
        for number, length in enumerate(lengths, start=1):
            segments[row, at : at + length] = number
            mask[row, at] = 0
            at += length
    mask[segments == 0] = 0
    examples = sum(len(lengths) for lengths in rows)
    return Batch(tokens, mask, segments, examples, int((segments > 0).sum()), int(mask.sum()))


def pair_batch(random: np.random.Generator, pairs: list[tuple[int, int, int]], width: int) -> Batch:
    """Pairs of (prompt, chosen, rejected) tokens; the responses are supervised throughout."""
    count = len(pairs)
    tokens = random.integers(0, VOCABULARY, (2 * count, width)).astype(np.int32)
    mask, segments = np.zeros((2 * count, width), np.float32), np.zeros((2 * count, width), np.int32)
    for pair, (prompt, *responses) in enumerate(pairs):
        for side, length in enumerate(responses):
            row = pair + side * count
            tokens[row, :prompt] = tokens[pair, :prompt]
            mask[row, prompt : prompt + length] = 1
            segments[row, : prompt + length] = 1
    real = int((segments > 0).sum())
    return Batch(tokens, mask, segments, count, real, int(mask.sum()), group_size=2)


@dataclass(frozen=True, eq=False)
class Known:
    """Log-probabilities as a policy gives them."""

    logps: mx.array

    def token_logps(self, batch: ArrayBatch) -> mx.array:
        return self.logps


def plain_sums_and_gradients(
    model: nn.Module, method: Method, batch: Batch, *, wide: bool = False
) -> tuple[Any, dict[str, np.ndarray]]:
    """The loss by the model's own code: every segment alone, all logits, autodiff; in float64 if `wide`."""
    if wide:
        model = copy.deepcopy(model)
        _use_dense_experts(model)
        model.set_dtype(mx.float64)
        with mx.stream(mx.cpu):  # the only device that knows float64
            return plain_sums_and_gradients(model, method, batch)
    nothing = mx.zeros((0,))
    arrays = ArrayBatch(mx.array(batch.mask), nothing, nothing, nothing, None)

    def loss(model: nn.Module) -> Any:
        logps = mx.stack([_row_logps(model, batch, row) for row in range(len(batch.tokens))])
        return tuple(method.loss(Known(logps * arrays.mask), arrays))

    sums, gradients = nn.value_and_grad(model, loss)(model)
    return sums, {name: np.array(g) for name, g in tree_flatten(gradients)}


class DenseExperts(nn.Module):
    """All experts on all tokens, of which the routed ones are taken; MLX gathers no float64 experts."""

    def __init__(self, experts: nn.Module):
        super().__init__()
        names = ("gate_proj", "up_proj", "down_proj")
        self.gate, self.up, self.down = (experts[name].weight for name in names)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        every = []
        for gate, up, down in zip(self.gate, self.up, self.down, strict=True):
            every.append((nn.silu(x @ gate.T) * (x @ up.T)) @ down.T)
        return mx.take_along_axis(mx.stack(every, axis=-2), indices[..., None], axis=-2)


def _use_dense_experts(model: nn.Module) -> None:
    for block in model.layers:
        if "switch_mlp" in block.mlp:
            block.mlp.switch_mlp = DenseExperts(block.mlp.switch_mlp)
            block.mlp.switch_mlp.freeze()


def _logps(logits: mx.array, targets: mx.array) -> mx.array:
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return chosen - mx.logsumexp(logits, axis=-1)


def _row_logps(model: nn.Module, batch: Batch, row: int) -> mx.array:
    pieces = []
    segments = batch.segments[row]
    for segment in range(1, segments.max(initial=0) + 1):
        tokens = mx.array(batch.tokens[row][segments == segment])
        found = mx.zeros((0,)) if len(tokens) < 2 else _logps(model(tokens[None, :-1])[0], tokens[1:])
        pieces.append(mx.concatenate([mx.zeros((1,)), found]))
    pieces.append(mx.zeros((int((segments == 0).sum()),)))
    return mx.concatenate(pieces)
