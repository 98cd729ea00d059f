"""Trains with mlx-lm: its datasets, its batches, its loss, its step and its loop, unchanged."""

import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train

from benchmarks.workers.on_mlx.adapted import ENDLESS_STEPS, adamw, load_adapted, rows_of
from benchmarks.workers.on_mlx.memory import MlxMemory
from benchmarks.workers.protocol import Recorder, Spec, StepFacts, serve
from bit_axon.backend import detect, mx


class _Batches:
    """mlx-lm's batches as they come, and what the latest one held."""

    def __init__(self, eos_token_id: int):
        self._eos_token_id = eos_token_id
        self._tokens = np.zeros((1, 1), np.int32)
        self._bounds = np.zeros((1, 2), np.int32)
        self._shapes: set[tuple[int, ...]] = set()
        self._steps = 0

    def iterate(
        self,
        dataset: Any,
        batch_size: int,
        max_seq_length: int,
        loop: bool = False,
        comm_group: Any = None,
    ) -> Iterator[tuple[mx.array, mx.array]]:
        """The same iterator; each batch is remembered."""
        for tokens, bounds in iterate_batches(
            dataset, batch_size, max_seq_length, loop=loop, comm_group=comm_group
        ):
            self._tokens, self._bounds = np.array(tokens), np.array(bounds)
            yield tokens, bounds

    def facts(self, loss: float) -> StepFacts:
        """The step just made; the shape of the very first is traced again, with the optimizer's state."""
        is_new = self._tokens.shape not in self._shapes
        if self._steps:
            self._shapes.add(self._tokens.shape)
        self._steps += 1
        rows, width = self._tokens.shape
        return StepFacts(
            real_tokens=int(self._bounds[:, 1].sum()),
            supervised_tokens=self._supervised_tokens(),
            examples=rows,
            positions=rows * width,
            loss=loss,
            is_new_shape=is_new,
        )

    def _supervised_tokens(self) -> int:
        """Tokens of the answers up to the end of the turn; mlx-lm also trains what stands behind it."""
        count = 0
        for row, (start, end) in zip(self._tokens, self._bounds, strict=True):
            ends = np.flatnonzero(row[start:end] == self._eos_token_id)
            count += int(ends[-1]) + 1 if ends.size else int(max(end - start, 0))
        return count


class _Callback(TrainingCallback):
    """Is called after every step."""

    def __init__(self, recorder: Recorder, batches: _Batches):
        self._recorder, self._batches = recorder, batches

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """A step is over."""
        self._recorder.finished(self._batches.facts(float(train_info["train_loss"])))


def run(spec: Spec, recorder: Recorder) -> None:
    """Steps without end."""
    model, tokenizer = load_adapted(spec)
    batches = _Batches(tokenizer.eos_token_id)
    dataset = CacheDataset(ChatDataset(rows_of(spec), tokenizer, mask_prompt=True))
    recorder.begin({"mlx-lm": version("mlx-lm"), "blas": str(detect().blas)})
    with tempfile.TemporaryDirectory() as folder:
        train(
            model,
            adamw(spec),
            dataset,
            val_dataset=None,
            args=TrainingArgs(
                batch_size=spec.batch_size,
                iters=ENDLESS_STEPS,
                steps_per_report=1,
                steps_per_eval=ENDLESS_STEPS,
                steps_per_save=ENDLESS_STEPS,
                max_seq_length=spec.max_seq_len,
                adapter_file=str(Path(folder) / "adapters.safetensors"),
            ),
            iterate_batches=batches.iterate,
            training_callback=_Callback(recorder, batches),
        )


def main() -> None:
    """Runs the worker."""
    serve(run, MlxMemory())


if __name__ == "__main__":
    main()
