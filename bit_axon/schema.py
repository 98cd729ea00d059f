"""The config's schema: every key of a run, with its type, range, unit and default.

The dataclasses are the single list of keys. YAML files under `conf/` give values, the command line
overrides them, and `bit_axon.validation.check` turns the composed mapping into a `RunConfig` or into
one message that names every wrong key. The `method` node is checked against the dataclass of the
method it names (`bit_axon/training/methods/`), so a method's keys live in the method's own file.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from annotated_types import Ge, Gt, Le, Lt, MinLen

Count = Annotated[int, Ge(0)]
PositiveInt = Annotated[int, Gt(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Celsius = Annotated[float, Ge(0), Le(130)]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def options(cls: type[T]) -> type[T]:
    """A frozen dataclass that `validation.check` fills strictly: no unknown key, no converted type."""
    made = dataclass(frozen=True)(cls)
    made.__pydantic_config__ = {"strict": True, "extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return made


@options
class QuantizationConfig:
    """How the base weights are quantized at load; MLX's `affine` mode (scale and bias per group)."""

    mode: Literal["affine"] = "affine"
    bits: Literal[2, 3, 4, 5, 6, 8] = 4
    group_size: Literal[32, 64, 128] = 64


@options
class ModelConfig:
    """Which language model is tuned."""

    path: Annotated[str, MinLen(1)] = "embedded:nano"  # folder, hub id, or embedded:nano
    revision: str | None = None  # hub revision; null = the newest
    init: Literal["pretrained", "random"] = "pretrained"  # random: weights drawn from the seed
    dtype: Literal["float32", "float16", "bfloat16"] | None = None  # null: float32 on CPU, else bfloat16
    quantization: QuantizationConfig | None = None
    chat_template: str | None = None  # a Jinja template or a file of one; null = the model's own


@options
class AdapterConfig:
    """What is trained: low-rank adapters on the named layers, or everything (`none`)."""

    name: str = "dora"
    rank: PositiveInt = 8
    scale: Positive | None = None  # multiplies the low-rank product; null = 20.0, or alpha / rank
    alpha: Positive | None = None  # scale = alpha / rank (alpha / sqrt(rank) with rslora)
    rslora: bool = False
    dropout: Fraction = 0.0
    targets: str | list[str] = "all"  # preset attn, attn_mlp, all; names; or one regex `re:...`
    layers: Literal["all"] | int | list[int] = "all"  # all, the last N blocks, or a list of indices
    train_magnitude: bool = True  # DoRA's m


@options
class DataConfig:
    """Where examples come from and how they become tokens."""

    train: Any = None  # path, hub id, or a list of {path, weight}
    valid: Any = None
    format: str = "auto"
    max_seq_len: Annotated[int, Ge(8)] = 2048  # tokens
    packing: bool = True  # used by methods that train on single sequences
    pack_length: PositiveInt | None = None  # tokens; null = a length that suits the data
    mask_prompt: bool = True
    accuracy_prompts: Count = 0  # held-out prompts answered greedily and compared exactly
    sample_prompts: Count = 3  # answers shown before and after
    max_new_tokens: PositiveInt = 64


@options
class TrainingOptions:
    """The optimization. A step is one optimizer update, everywhere."""

    max_steps: PositiveInt | None = 1000
    epochs: Positive | None = None  # instead of max_steps
    batch_size: PositiveInt = 1  # sequences (packs, pairs) per micro-batch
    grad_accum_steps: PositiveInt = 4  # micro-batches per step
    learning_rate: Positive = 1e-4  # peak
    min_learning_rate: NonNegative = 0.0
    warmup_steps: Count = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    optimizer: Literal["adamw", "adam", "sgd", "lion"] = "adamw"
    weight_decay: NonNegative = 0.01
    max_grad_norm: NonNegative = 1.0  # 0 switches clipping off
    eval_every: Count = 500  # steps; 0 = only before and after
    eval_batches: PositiveInt | None = None  # null = the whole validation set
    save_every: Count = 500  # steps; 0 = only at the end
    keep_checkpoints: PositiveInt = 3
    max_minutes: Positive | None = None
    early_stop_patience: PositiveInt | None = None  # evaluations without a better val/loss
    early_stop_min_delta: NonNegative = 0.0
    compile: bool | None = None  # mx.compile the step; null = as suits the device
    gradient_checkpointing: bool = False  # less memory: blocks run again in the backward pass
    memory_limit_gb: Positive | None = None  # 10^9 bytes; null = MLX's own
    cache_limit_gb: Positive | None = None  # of freed memory; null = as suits the device


@options
class SimulationConfig:
    """The machine that `thermal.source=simulated` pretends to be."""

    preset: str = "fanless_air"  # a preset's name, or a file that `bit-axon thermal doctor` wrote
    clock: Literal["virtual", "real"] = "virtual"  # virtual: pauses take no time
    work_seconds: Positive = 1.5  # virtual: of each micro-batch at full clock
    ambient_temp: Celsius = 25.0
    start_temp: Celsius | None = None  # null = as cool as after a long idle time
    seed: Count = 0  # of the sensor's noise


@options
class ThermalConfig:
    """Thermal limits in °C. A null threshold is the source's own (`bit_axon.profiling.sensors`)."""

    source: Literal[
        "auto",
        "smc",
        "iohid",
        "macmon",
        "powermetrics",
        "pressure",
        "linux",
        "nvml",
        "simulated",
        "replay",
        "none",
    ] = "auto"
    policy: str = "pacing"  # bit_axon/training/cooling/policies: off, tiers, pacing
    max_speed_temp: Celsius | None = None  # full speed below
    target_temp: Celsius | None = None  # what pacing holds
    resume_temp: Celsius | None = None  # a pause ends below
    pause_temp: Celsius | None = None
    stop_temp: Celsius | None = None
    control: Literal["hot", "max", "cpu_avg", "gpu_avg"] = "hot"  # hot: the higher of the two averages
    poll_interval: Positive = 1.0  # seconds
    median_samples: PositiveInt = 3
    filter_seconds: Positive = 15.0
    valid_temp: tuple[float, float] = (15.0, 130.0)  # a sensor outside is not believed
    stale_after_seconds: Positive = 5.0
    on_missing: Literal["pressure", "warn", "error"] = "pressure"
    warm_action: Literal["pace", "reduce_batch", "none"] = "pace"  # of tiers, above max_speed_temp
    warm_duty: Annotated[float, Gt(0), Le(1)] = 0.7
    min_duty: Annotated[float, Gt(0), Le(1)] = 0.05
    start_duty: Annotated[float, Gt(0), Le(1)] = 0.5  # pacing, when it begins to act
    proportional_gain: Positive = 0.03  # duty per °C
    integral_seconds: Positive = 60.0
    min_pause_seconds: NonNegative = 3.0
    max_pause_seconds: Positive = 900.0
    stop_hold_seconds: NonNegative = 5.0
    stop_samples: PositiveInt = 3
    on_stop: Literal["stop", "wait"] = "stop"
    replay_file: str | None = None  # a thermal.csv, for source=replay
    simulation: SimulationConfig = field(default_factory=SimulationConfig)


@options
class TrackingConfig:
    """MLflow. `uri: null` is a SQLite file in the project's outputs folder."""

    enabled: bool = True
    uri: str | None = None
    experiment: Annotated[str, MinLen(1)] = "bit_axon"


@options
class TrialConfig:
    """Which trial of which study this run is; filled in by the sweeper, no part of the experiment."""

    study: Annotated[str, MinLen(1)]
    number: Count
    sweep_dir: Annotated[str, MinLen(1)]


@options
class RunConfig:
    """One run. `method` is checked against the dataclass of the method it names."""

    method: dict[str, Any]
    seed: Annotated[int, Ge(0), Lt(2**32)] = 42
    name: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    resume: str | None = None
    trial: TrialConfig | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    thermal: ThermalConfig = field(default_factory=ThermalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
