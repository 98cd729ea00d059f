"""A model with mlx-lm's own adapters, as `mlx_lm.lora` builds it."""

import json
from pathlib import Path
from typing import Any

import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm import load
from mlx_lm.tuner.utils import linear_to_lora_layers

from benchmarks.workers.protocol import Spec
from bit_axon.backend import mx

ENDLESS_STEPS = 10**9


def load_adapted(spec: Spec) -> tuple[nn.Module, Any]:
    """Model and tokenizer; adapters on every linear layer of every block."""
    np.random.seed(spec.seed)  # the peer draws its batches from NumPy's global generator
    mx.random.seed(spec.seed)
    model, tokenizer = load(spec.folder)
    model.freeze()
    parameters = {"rank": spec.rank, "scale": spec.scale, "dropout": 0.0}
    linear_to_lora_layers(model, len(model.layers), parameters, use_dora=spec.adapter == "dora")
    return model, tokenizer


def adamw(spec: Spec) -> optim.Optimizer:
    """The optimizer as mlx-lm's command line makes it."""
    return optim.AdamW(learning_rate=spec.learning_rate)


def rows_of(spec: Spec) -> list[dict[str, Any]]:
    """The rows of the data file."""
    with Path(spec.data).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]
