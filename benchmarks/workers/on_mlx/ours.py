"""Trains with bit_axon, as a run does: its data path, batching, policy and stepper."""

from typing import Any

from benchmarks.workers.on_mlx.memory import MlxMemory
from benchmarks.workers.protocol import Recorder, Spec, StepFacts, serve
from bit_axon import __version__
from bit_axon.backend import detect
from bit_axon.preparation import Prepared, prepare
from bit_axon.schema import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainingOptions
from bit_axon.training.optimizers import build_optimizer
from bit_axon.training.position import Position
from bit_axon.training.stepper import Stepper

# The peer's form of the preference term, so that both compute the same loss.
_METHODS: dict[str, dict[str, Any]] = {
    "sft": {"name": "sft"},
    "orpo": {"name": "orpo", "beta": 0.1, "odds_ratio": "weighted"},
}


def run_config(spec: Spec) -> RunConfig:
    """The run this spec stands for; what it does not name is the product's default."""
    return RunConfig(
        method=_METHODS[spec.method],
        seed=spec.seed,
        model=ModelConfig(path=spec.folder),
        adapter=AdapterConfig(name=spec.adapter, rank=spec.rank, scale=spec.scale, targets="all"),
        data=DataConfig(
            train=spec.data, max_seq_len=spec.max_seq_len, packing=spec.packing, sample_prompts=0
        ),
        training=TrainingOptions(
            batch_size=spec.batch_size,
            grad_accum_steps=1,
            learning_rate=spec.learning_rate,
            warmup_steps=0,
            schedule="constant",
        ),
    )


def train(spec: Spec, recorder: Recorder) -> None:
    """Steps without end."""
    prepared = prepare(run_config(spec))
    stepper = _stepper(prepared)
    position = Position(prepared.train_plan)
    recorder.begin({"bit_axon": __version__, "blas": str(detect().blas)})
    micro_batch = 0
    while True:
        batch = prepared.train_plan.batch(*position.find(micro_batch))
        is_new = stepper.add(batch, micro_batch)
        result = stepper.apply(spec.learning_rate)
        recorder.finished(
            StepFacts(
                real_tokens=batch.real_tokens,
                supervised_tokens=batch.supervised_tokens,
                examples=batch.examples,
                positions=int(batch.tokens.size),
                loss=result.loss,
                is_new_shape=is_new or micro_batch == 0,  # the update is compiled in the first step
            )
        )
        micro_batch += 1


def _stepper(prepared: Prepared) -> Stepper:
    options = prepared.config.training
    return Stepper(
        prepared.policy,
        prepared.method,
        build_optimizer(options, prepared.base.model),
        max_grad_norm=options.max_grad_norm,
        seed=prepared.config.seed,
        compilation=detect().compilation(options.compile),
    )


if __name__ == "__main__":
    serve(train, MlxMemory())
