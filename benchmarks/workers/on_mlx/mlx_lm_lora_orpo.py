"""Trains with mlx-lm-lora's ORPO: its dataset, its batches, its loss and its loop, unchanged."""

import tempfile
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm_lora.trainer.datasets import ORPODataset
from mlx_lm_lora.trainer.orpo_trainer import ORPOTrainingArgs, train_orpo

from benchmarks.workers.on_mlx.adapted import ENDLESS_STEPS, adamw, load_adapted, rows_of
from benchmarks.workers.on_mlx.memory import MlxMemory
from benchmarks.workers.protocol import Recorder, Spec, StepFacts, serve
from bit_axon.backend import detect, mx

_WORKING_SET = "max_recommended_working_set_size"
_PAD_TO = 8  # tokens; as its batches are padded


class _Recording(ORPODataset):
    """mlx-lm-lora's data set, which remembers what was read last: a batch is read after all else."""

    def __init__(self, rows: list[dict[str, Any]], tokenizer: Any, batch_size: int):
        self.latest: deque[dict[str, Any]] = deque(maxlen=batch_size)
        super().__init__(rows, tokenizer)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item: dict[str, Any] = super().__getitem__(idx)
        self.latest.append(item)
        return item


class _Callback(TrainingCallback):
    """Is called after every step."""

    def __init__(self, recorder: Recorder, dataset: _Recording, eos_token_id: int, max_seq_len: int):
        self._recorder, self._dataset = recorder, dataset
        self._eos_token_id, self._max_seq_len = eos_token_id, max_seq_len
        self._shapes: set[int] = set()
        self._steps = 0

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """A step is over."""
        self._recorder.finished(self._facts(float(train_info["train_loss"])))

    def _facts(self, loss: float) -> StepFacts:
        """The step just made; the shape of the very first is traced again, with the optimizer's state."""
        pairs = list(self._dataset.latest)
        sides = [(pair, side) for pair in pairs for side in ("chosen", "rejected")]
        lengths = [min(len(pair[side]), self._max_seq_len) for pair, side in sides]
        width = -(-max(lengths) // _PAD_TO) * _PAD_TO
        is_new = width not in self._shapes
        if self._steps:
            self._shapes.add(width)
        self._steps += 1
        return StepFacts(
            real_tokens=sum(lengths),
            supervised_tokens=sum(self._answer_tokens(pair, side) for pair, side in sides),
            examples=len(pairs),
            positions=width * len(sides),
            loss=loss,
            is_new_shape=is_new,
        )

    def _answer_tokens(self, pair: Mapping[str, Any], side: str) -> int:
        """Tokens of an answer up to the end of the turn; the peer also trains what stands behind it."""
        answer = pair[side][pair[f"{side}_prompt_length"] : self._max_seq_len]
        ends = [place for place, token in enumerate(answer) if token == self._eos_token_id]
        return ends[-1] + 1 if ends else len(answer)


def run(spec: Spec, recorder: Recorder) -> None:
    """Steps without end."""
    _complete_device_info()
    model, tokenizer = load_adapted(spec)
    dataset = _Recording([_plain(row) for row in rows_of(spec)], tokenizer, spec.batch_size)
    recorder.begin({"mlx-lm-lora": version("mlx-lm-lora"), "blas": str(detect().blas)})
    with tempfile.TemporaryDirectory() as folder:
        train_orpo(
            model,
            adamw(spec),
            dataset,
            val_dataset=None,
            args=ORPOTrainingArgs(
                batch_size=spec.batch_size,
                iters=ENDLESS_STEPS,
                steps_per_report=1,
                steps_per_eval=ENDLESS_STEPS,
                steps_per_save=ENDLESS_STEPS,
                max_seq_length=spec.max_seq_len,
                adapter_file=str(Path(folder) / "adapters.safetensors"),
                beta=0.1,
            ),
            training_callback=_Callback(recorder, dataset, tokenizer.eos_token_id, spec.max_seq_len),
        )


def _complete_device_info() -> None:
    """Lets the peer start without a GPU.

    Release 5.10 hands `device_info()["max_recommended_working_set_size"]` to `set_wired_limit`, and the
    CPU backend has no such entry. A limit of 0 is MLX's default, so nothing that is measured changes.
    """
    known = dict(mx.device_info())

    def completed(d: mx.Device | mx.DeviceType | None = None) -> dict[str, str | int]:
        return {**known, _WORKING_SET: 0}

    if _WORKING_SET not in known:
        mx.device_info = completed


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A preference row as the peer's data set takes it: the prompt is a string."""
    prompt = row["prompt"]
    if not isinstance(prompt, str):
        prompt = prompt[-1]["content"]
    return {"prompt": prompt, "chosen": row["chosen"], "rejected": row["rejected"]}


if __name__ == "__main__":
    serve(run, MlxMemory())
