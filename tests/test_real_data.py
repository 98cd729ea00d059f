"""Real questions and answers, with the embedded model and with a model that uses a real tokenizer."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import HEADS, SHARED_DATA, SMALL, Runner
from mlx.utils import tree_flatten
from mlx_lm.models.qwen2 import Model, ModelArgs

from bit_axon.backend import mx
from bit_axon.data.loading import load_examples, parse_sources
from bit_axon.embedded import nano_path
from bit_axon.models.loading import read_model_config
from bit_axon.tokenizer import QwenTokenizerWrapper
from bit_axon.training.tensors import save_tensors

pytestmark = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real data is not here")

STEPS = [
    "data=files",
    "data.max_seq_len=160",
    "data.sample_prompts=0",
    "tracking=none",
    "training.max_steps=8",
    "training.batch_size=2",
    "training.grad_accum_steps=1",
    "training.warmup_steps=1",
    "training.learning_rate=2e-3",
    "training.eval_batches=2",
    "training.compile=false",
    "adapter.scale=4",
]


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random Qwen2 weights with the Qwen2.5 tokenizer and its full vocabulary."""
    folder = tmp_path_factory.mktemp("qwen")
    shutil.copytree(
        SHARED_DATA / "qwen2.5_tokenizer", folder, dirs_exist_ok=True, copy_function=shutil.copyfile
    )
    config = read_model_config(nano_path()) | SMALL | HEADS | {"vocab_size": 151_936}
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    weights = dict(tree_flatten(Model(ModelArgs.from_dict(config)).parameters()))
    save_tensors(folder / "model.safetensors", weights)
    return folder


def data(kind: str, rows: int, folder: Path) -> list[str]:
    """Overrides for the first rows of the real files."""
    overrides = []
    for split in ("train", "valid"):
        lines = (SHARED_DATA / f"gsm8k_{kind}_{split}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:rows]))
        overrides.append(f"data.{split}={folder / f'{split}.jsonl'}")
    return overrides


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "orpo"])
@pytest.mark.parametrize("model", ["nano", "qwen"])
def test_losses_fall(
    model: str, method: str, run: Runner, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kind = "sft" if method == "sft" else "preference"
    path = [f"model.path={request.getfixturevalue('qwen_folder')}"] if model == "qwen" else []
    done = run(*STEPS, *path, *data(kind, 48, tmp_path), f"method={method}")
    assert done.code == 0, done.err
    assert done.result["eval_loss"] < done.result["eval_loss_before"]
    lines = [json.loads(line) for line in (done.run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["metrics"]["train/loss"] for line in lines if line["kind"] == "train"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize(
    "tokenizer_folder", [SHARED_DATA / "qwen2.5_tokenizer", nano_path()], ids=["qwen", "nano"]
)
def test_masks_of_ten_rows_token_by_token(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = QwenTokenizerWrapper(tokenizer_folder)
    source = SHARED_DATA / "gsm8k_sft_train.jsonl"
    encoded = load_examples(
        parse_sources(str(source)),
        kind="tokens",
        format="auto",
        tokenizer=tokenizer,
        max_seq_len=2048,
        mask_prompt=True,
        cache_dir=tmp_path,
        seed=0,
    )
    for index, line in enumerate(source.read_text().splitlines()[:10]):
        messages = json.loads(line)["messages"]
        example = encoded.examples[index]
        trained = example.token_ids[example.loss_mask == 1].tolist()
        assert tokenizer.decode(trained) == messages[-1]["content"] + "<|im_end|>"
        rest = tokenizer.decode(example.token_ids[example.loss_mask == 0].tolist())
        assert rest.endswith("<|im_start|>assistant\n\n") and messages[0]["content"] in rest
        first = int(np.argmax(example.loss_mask))
        assert example.loss_mask[first : first + len(trained)].all()
        print(*(f"{'#' if m else ' '}{tokenizer.decode([int(t)])!r}" for t, m in zip(*example, strict=True)))
