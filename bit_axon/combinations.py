"""Combinations of config values that cannot work, told before anything is loaded."""

from bit_axon.errors import ConfigError, problem
from bit_axon.schema import RunConfig
from bit_axon.training.adapters import check_adapter_name, resolve_scale


def check_combinations(config: RunConfig) -> None:
    """Raises ConfigError for the first combination that cannot work."""
    check_adapter_name(config.adapter.name)
    resolve_scale(config.adapter)
    options = config.training
    if (options.max_steps is None) == (options.epochs is None):
        got = "both" if options.epochs is not None else "neither"
        raise ConfigError(
            problem(
                "one of training.max_steps and training.epochs",
                got,
                "Set the other to null, as in training.epochs=3 training.max_steps=null.",
                where="training",
            ),
            keys=("training.max_steps", "training.epochs"),
        )
    if options.early_stop_patience is not None and config.data.valid is None:
        raise ConfigError(
            problem(
                "validation data to stop early by",
                "training.early_stop_patience without data.valid",
                "Set data.valid, or training.early_stop_patience=null.",
                where="training.early_stop_patience",
            )
        )
    if config.adapter.name == "none" and config.model.dtype in ("float16", "bfloat16"):
        raise ConfigError(
            problem(
                "float32 weights to train all of them",
                f"model.dtype={config.model.dtype} with adapter=none",
                "Small updates would vanish in 16 bits; set model.dtype=float32 or null.",
                where="model.dtype",
            )
        )
    if options.min_learning_rate > options.learning_rate:
        raise ConfigError(
            problem(
                f"training.min_learning_rate at most training.learning_rate ({options.learning_rate:g})",
                f"{options.min_learning_rate:g}",
                "Lower it.",
                where="training.min_learning_rate",
            ),
            keys=("training.min_learning_rate", "training.learning_rate"),
        )
    if config.adapter.name == "none" and config.model.quantization is not None:
        raise ConfigError(
            problem(
                "float weights to train all of them",
                "model.quantization with adapter=none",
                "Use adapter=lora or dora, or model.quantization=null.",
                where="adapter",
            ),
            keys=("adapter.name", "model.quantization"),
        )
