"""Trains with PyTorch and PEFT, on the tokens of one fixed batch. Needs no MLX in its environment."""

import json
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from benchmarks.workers.protocol import Recorder, Spec, StepFacts, serve

_IGNORED = -100


def run(spec: Spec, recorder: Recorder) -> None:
    """Steps without end on the same batch."""
    torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.seed)
    model = _adapted(spec)
    batch, facts = _batch(spec)
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=spec.learning_rate, weight_decay=0.01
    )
    recorder.begin({"torch": torch.__version__, "peft": peft.__version__})
    is_first = True
    while True:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recorder.finished(StepFacts(loss=loss.item(), is_new_shape=is_first, **facts))
        is_first = False


def _adapted(spec: Spec) -> torch.nn.Module:
    """Adapters on every linear layer but the head; PEFT's alpha is scale times rank."""
    base = transformers.AutoModelForCausalLM.from_pretrained(spec.folder, dtype=torch.float32)
    config = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.scale * spec.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        use_dora=spec.adapter == "dora",
        task_type="CAUSAL_LM",
    )
    base.config.use_cache = False
    model: torch.nn.Module = peft.get_peft_model(base, config)
    return model.train()


def _batch(spec: Spec) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Rows padded on the right to the longest, labels on the answers alone; and what is in them."""
    assert spec.tokens is not None
    rows: list[dict[str, Any]] = json.loads(Path(spec.tokens).read_text(encoding="utf-8"))["rows"]
    width = max(len(row["token_ids"]) for row in rows)
    tokens = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), _IGNORED)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids, mask = torch.tensor(row["token_ids"]), torch.tensor(row["loss_mask"])
        tokens[number, : len(ids)] = ids
        attention[number, : len(ids)] = 1
        labels[number, : len(ids)] = torch.where(mask > 0, ids, _IGNORED)
    facts = {
        "real_tokens": int(attention.sum()),
        "supervised_tokens": int((labels != _IGNORED).sum()),
        "examples": len(rows),
        "positions": tokens.numel(),
    }
    return {"input_ids": tokens, "attention_mask": attention, "labels": labels}, facts


if __name__ == "__main__":
    serve(run, None)
