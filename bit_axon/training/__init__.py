"""Training: adapters, losses, batches, methods, the one loop, and the Python API over it.

The names of the Python API are imported when they are first asked for, so that a module of this
package can be imported without all the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bit_axon import backend  # noqa: F401 - chooses the BLAS before anything imports mlx

if TYPE_CHECKING:
    from bit_axon.training.config import TrainingConfig
    from bit_axon.training.data import AlpacaDataset, CacheDataset, ORPODataset, SFTDataset
    from bit_axon.training.dora import DoRALinear
    from bit_axon.training.lora import LoRALinear, apply_lora_to_model
    from bit_axon.training.orpo_trainer import ORPOTrainer
    from bit_axon.training.trainer import Trainer

_HOMES = {
    "AlpacaDataset": "data",
    "CacheDataset": "data",
    "DoRALinear": "dora",
    "LoRALinear": "lora",
    "ORPODataset": "data",
    "ORPOTrainer": "orpo_trainer",
    "SFTDataset": "data",
    "Trainer": "trainer",
    "TrainingConfig": "config",
    "apply_lora_to_model": "lora",
}

__all__ = [
    "AlpacaDataset",
    "CacheDataset",
    "DoRALinear",
    "LoRALinear",
    "ORPODataset",
    "ORPOTrainer",
    "SFTDataset",
    "Trainer",
    "TrainingConfig",
    "apply_lora_to_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
