"""The flat config of the Python API, and its one mapping to the keys of the composed config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bit_axon.errors import ConfigError, problem
from bit_axon.schema import AdapterConfig, TrainingOptions
from bit_axon.validation import check

# The guide's layers; matched as the end of a layer's name.
DEFAULT_LORA_TARGETS: Final = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "in_proj",
    "out_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "input_proj",
    "output_proj",
)


@dataclass
class TrainingConfig:
    """Every hyper-parameter of `Trainer` and `ORPOTrainer`. A step is one optimizer update."""

    learning_rate: float = 1e-4  # peak, after warm-up
    weight_decay: float = 0.01  # on matrices alone
    warmup_steps: int = 100
    max_steps: int = 10_000
    max_grad_norm: float = 1.0
    grad_accum_steps: int = 4
    lora_rank: int = 8
    lora_dropout: float = 0.0
    lora_scale: float = 20.0
    lora_targets: tuple[str, ...] = DEFAULT_LORA_TARGETS
    use_dora: bool = True
    beta: float = 0.1  # ORPO's preference strength
    training_mode: str = "sft"  # "sft" or "orpo"
    quantize_bits: int = 4
    quantize_group_size: int = 64
    batch_size: int = 1
    max_seq_len: int = 2048
    save_every: int = 500
    eval_every: int = 500
    output_dir: str = "checkpoints"
    temp_max_speed: float = 75.0  # °C
    temp_pause: float = 85.0
    temp_stop: float = 95.0
    temp_poll_interval: float = 1.0  # seconds
    seed: int = 42

    def __post_init__(self) -> None:
        """Checks what the composed config would check.

        Raises:
            ConfigError: a value out of its range, by the key of the composed config.
        """
        values = to_run_values(self)
        check(TrainingOptions, values["training"], path="training")
        check(AdapterConfig, values["adapter"], path="adapter")
        if self.training_mode not in ("sft", "orpo"):
            raise ConfigError(problem("training_mode sft or orpo", repr(self.training_mode), "Change it."))
        if not self.beta > 0:
            raise ConfigError(problem("beta above 0", repr(self.beta), "Change it; the default is 0.1."))


# The only place that knows both names. A dotted key is a path in the composed config.
FIELD_TO_KEY: Final[Mapping[str, str]] = {
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "warmup_steps": "training.warmup_steps",
    "max_steps": "training.max_steps",
    "max_grad_norm": "training.max_grad_norm",
    "grad_accum_steps": "training.grad_accum_steps",
    "batch_size": "training.batch_size",
    "save_every": "training.save_every",
    "eval_every": "training.eval_every",
    "lora_rank": "adapter.rank",
    "lora_dropout": "adapter.dropout",
    "lora_scale": "adapter.scale",
    "lora_targets": "adapter.targets",
    "use_dora": "adapter.name",
    "beta": "method.beta",
    "training_mode": "method.name",
    "quantize_bits": "model.quantization.bits",
    "quantize_group_size": "model.quantization.group_size",
    "max_seq_len": "data.max_seq_len",
    "temp_max_speed": "thermal.max_speed_temp",
    "temp_pause": "thermal.pause_temp",
    "temp_stop": "thermal.stop_temp",
    "temp_poll_interval": "thermal.poll_interval",
    "seed": "seed",
}


def to_run_values(config: TrainingConfig) -> dict[str, Any]:
    """The config as a nested mapping with the composed config's keys; `output_dir` has none."""
    values: dict[str, Any] = {}
    for name, key in FIELD_TO_KEY.items():
        value = vars(config)[name]
        if name == "use_dora":
            value = "dora" if value else "lora"
        elif name == "lora_targets":
            value = list(value)
        *parents, leaf = key.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    if config.training_mode != "orpo":
        values["method"].pop("beta")
    return values


def from_run_values(values: Mapping[str, Any], *, output_dir: str = "checkpoints") -> TrainingConfig:
    """The flat config of a composed one; keys it has no field for are left out, absent ones default.

    Raises:
        ConfigError: an adapter that the flat config cannot express: none, alpha, or targets by preset.
    """
    found: dict[str, Any] = {}
    adapter = values.get("adapter", {})
    wanted = {"name": adapter.get("name", "dora") in ("lora", "dora"), "alpha": adapter.get("alpha") is None}
    wanted["targets"] = adapter.get("targets", "all") == "all" or isinstance(adapter["targets"], list)
    for key in (key for key, expressible in wanted.items() if not expressible):
        raise ConfigError(
            problem(
                "an adapter with lora or dora, a scale, and named targets",
                f"adapter.{key}={adapter[key]!r}",
                "Set scale in place of alpha, and a list in place of a preset.",
            )
        )
    for name, key in FIELD_TO_KEY.items():
        node: Any = values
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is None:
            continue
        if name == "use_dora":
            node = node == "dora"
        elif name == "lora_targets":
            node = tuple(node) if isinstance(node, list) else DEFAULT_LORA_TARGETS
        found[name] = node
    return TrainingConfig(**found, output_dir=output_dir)
