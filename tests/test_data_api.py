"""The data sets of the Python API."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import chat, nano, trained_texts, write_rows

from bit_axon.data.examples import Example
from bit_axon.data.loading import load_examples, parse_sources
from bit_axon.errors import DataError
from bit_axon.training.data import AlpacaDataset, CacheDataset, ORPODataset, SFTDataset

NANO = nano()
TALK = list(chat(("system", "S"), ("user", "Hi"), ("assistant", "Yes")))
SFT_ROWS: list[dict[str, Any]] = [
    {"messages": TALK},
    {"messages": list(chat(("user", "a"), ("assistant", "b")))},
]
PAIR: dict[str, Any] = {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}


def test_chat_rows_from_a_list_a_file_and_an_array(tmp_path: Path) -> None:
    array = tmp_path / "data.json"
    array.write_text(json.dumps(SFT_ROWS))
    lines = write_rows(tmp_path / "data.jsonl", SFT_ROWS)
    for data in (SFT_ROWS, str(array), lines):
        dataset = SFTDataset(data, NANO)
        assert len(dataset) == 2
        token_ids, loss_mask = dataset[0]
        assert NANO.decode(token_ids.tolist()) == NANO.render(TALK)
        assert trained_texts(NANO, Example(token_ids, loss_mask)) == ["Yes<|im_end|>"]
        assert [trained_texts(NANO, item) for item in dataset][1] == ["b<|im_end|>"]
        assert np.array_equal(dataset[-1].token_ids, dataset[0:][1].token_ids)
        with pytest.raises(IndexError):
            dataset[2]


def test_a_data_set_is_what_a_run_loads(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", SFT_ROWS)
    loaded = load_examples(
        parse_sources(str(path)),
        kind="tokens",
        format="auto",
        tokenizer=NANO,
        max_seq_len=12,
        mask_prompt=False,
        cache_dir=None,
        seed=0,
    )
    dataset = SFTDataset(path, NANO, max_seq_len=12, mask_prompt=False)
    for item, expected in zip(dataset, loaded.examples, strict=True):
        assert item.token_ids.tolist() == np.asarray(expected[0]).tolist()
        assert item.loss_mask.tolist() == np.asarray(expected[1]).tolist()


def test_alpaca_rows() -> None:
    dataset = AlpacaDataset([{"instruction": "Do", "input": "x", "output": "done"}], NANO)
    question = chat(("user", "Do\n\nx"), ("assistant", "done"))
    assert NANO.decode(dataset[0].token_ids.tolist()) == NANO.render(question)
    assert trained_texts(NANO, dataset[:][0]) == ["done<|im_end|>"]
    with pytest.raises(DataError, match=r"rows:1: wanted keys instruction, output"):
        AlpacaDataset(SFT_ROWS, NANO)


def test_preference_rows() -> None:
    lists = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Yes"}],
        "rejected": [{"role": "assistant", "content": "No"}],
    }
    for row in (PAIR, lists):
        chosen_ids, chosen_mask, rejected_ids, rejected_mask = ORPODataset([row], NANO)[0]
        assert trained_texts(NANO, Example(chosen_ids, chosen_mask)) == ["Yes<|im_end|>"]
        assert trained_texts(NANO, Example(rejected_ids, rejected_mask)) == ["No<|im_end|>"]
    assert len(ORPODataset([PAIR, PAIR], NANO, max_seq_len=4)[1:][0].chosen_ids) == 4
    with pytest.raises(DataError, match=r"rows:1: wanted keys prompt, chosen, rejected"):
        ORPODataset(SFT_ROWS, NANO)


def test_wrong_rows_are_found_when_the_set_is_made() -> None:
    with pytest.raises(DataError, match=r"rows:2: .*role"):
        SFTDataset([SFT_ROWS[0], {"messages": [{"role": "boss", "content": "x"}]}], NANO)
    with pytest.raises(DataError, match=r"at least one row; got an empty list"):
        SFTDataset([], NANO)


def test_cache_makes_each_item_once() -> None:
    raw = SFTDataset(SFT_ROWS, NANO)
    cached = CacheDataset(raw)
    assert len(cached) == 2
    assert cached[0] is cached[0] is cached[-2] and raw[0] is not raw[0]
    assert [item.token_ids.tolist() for item in cached] == [item.token_ids.tolist() for item in raw]
    assert cached[:1][0] is cached[0]
    with pytest.raises(IndexError):
        cached[2]
