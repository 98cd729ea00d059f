"""Sets from sources: counts, cache, weights, prompts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import DEFAULT_SYSTEM, SHARED, nano, trained_texts, without_template, write_rows

from bit_axon.data import building, encoding, loading
from bit_axon.data.building import ExampleKind
from bit_axon.data.loading import EncodedSet, Source, load_examples, load_prompts, parse_sources, prompt_ids
from bit_axon.errors import ConfigError, DataError, ModelError
from bit_axon.tokenizer import QwenTokenizerWrapper

NANO = nano()
ROWS = [{"prompt": f"Count to {n}.", "chosen": "1 " * n, "rejected": "no"} for n in range(1, 11)]


def load(path: Any, kind: ExampleKind = "tokens", **changes: Any) -> EncodedSet:
    settings: dict[str, Any] = {
        "format": "auto",
        "tokenizer": NANO,
        "max_seq_len": 512,
        "mask_prompt": True,
        "cache_dir": None,
        "seed": 0,
    }
    return load_examples(parse_sources(path), kind=kind, **(settings | changes))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def first_tokens(found: EncodedSet) -> list[list[int]]:
    return [np.asarray(example[0]).tolist() for example in found.examples]


def test_a_set_of_single_sequences(file: Path) -> None:
    found = load(file)
    assert (found.rows, len(found.examples), found.truncated) == (10, 10, 0)
    assert (found.dropped_too_long, found.dropped_masked) == (0, 0)
    assert found.files[0].path == str(file) and found.files[0].rows == 10
    assert trained_texts(NANO, found.examples[1]) == ["1 1 <|im_end|>"]


def test_a_set_of_pairs(file: Path) -> None:
    found = load(file, kind="pairs", mask_prompt=False)
    chosen, rejected = found.examples[1]
    assert trained_texts(NANO, chosen) == ["1 1 <|im_end|>"]
    assert trained_texts(NANO, rejected) == ["no<|im_end|>"]
    prompt = int(np.argmax(chosen.loss_mask))
    assert chosen.token_ids[:prompt].tolist() == rejected.token_ids[:prompt].tolist()


def test_formats_agree(tmp_path: Path) -> None:
    layouts = [
        {"prompt": "Hi", "completion": "Yes"},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]},
        {"instruction": "Hi", "input": "", "output": "Yes"},
        {"prompt": "Hi", "chosen": "Yes", "rejected": "No"},
    ]
    tokens = [first_tokens(load(write_rows(tmp_path / f"{i}.jsonl", [row]))) for i, row in enumerate(layouts)]
    assert all(found == tokens[0] for found in tokens)


def test_truncation_and_drops_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "completion": "Yes"},
        {"prompt": "Hi", "completion": "yes " * 100},
        {"prompt": "why " * 100, "completion": "Yes"},
    ]
    found = load(write_rows(tmp_path / "a.jsonl", rows), max_seq_len=40)
    assert (found.rows, len(found.examples)) == (3, 2)
    assert (found.truncated, found.dropped_too_long, found.dropped_masked) == (1, 1, 0)
    assert max(len(ids) for ids in first_tokens(found)) == 40


def test_a_pair_is_dropped_when_one_side_has_no_target(tmp_path: Path) -> None:
    late = [{"role": "user", "content": "why " * 100}, {"role": "assistant", "content": "No"}]
    rows = [*ROWS[:2], {"prompt": "Hi", "chosen": "Yes", "rejected": late}]
    found = load(write_rows(tmp_path / "a.jsonl", rows), kind="pairs", max_seq_len=40)
    assert (len(found.examples), found.dropped_too_long) == (2, 1)


def test_all_too_long(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": "why " * 100, "completion": "Yes"}])
    with pytest.raises(
        DataError, match=r"1 rows, none of which fits 16 tokens: all too long\. Raise data\.max_seq"
    ):
        load(path, max_seq_len=16)


def test_all_masked(tmp_path: Path) -> None:
    """Without anything between turns the answer's letters share a token with the question's."""
    joined = nano("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert len(joined.encode("The")) == 1
    turns = [("user", "T"), ("assistant", "he"), ("user", " end")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    with pytest.raises(DataError, match=r"wanted a row with a token to learn; got 1 rows, all masked"):
        load(write_rows(tmp_path / "a.jsonl", [row]), tokenizer=joined)


def test_a_template_that_hides_answers(file: Path) -> None:
    hides = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(ModelError, match=r"rows\.jsonl:1: wanted a chat template that shows each answer"):
        load(file, tokenizer=nano(hides))


def test_cache_is_used_and_rebuilt(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    first = load(file, cache_dir=cache)
    tokens = first_tokens(first)
    entry = cache / first.digest
    assert sorted(p.name for p in cache.iterdir()) == [first.digest]
    with monkeypatch.context() as patch:
        patch.setattr(building, "_cut_rows", None)  # encoding again would fail
        patch.setattr(loading, "build_entry", None)
        again = load(file, cache_dir=cache)
    assert first_tokens(again) == tokens == first_tokens(load(file))
    assert again.files == first.files and again.rows == 10
    (entry / "tokens.ids.npy").write_bytes(b"broken")
    assert first_tokens(load(file, cache_dir=cache)) == tokens


def test_digest_covers_all_that_decides_the_tokens(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [
        load(file).digest,
        load(file, kind="pairs").digest,
        load(file, format="preference").digest,
        load(file, max_seq_len=511).digest,
        load(file, mask_prompt=False).digest,
        load(file, tokenizer=nano(DEFAULT_SYSTEM)).digest,
    ]
    with monkeypatch.context() as patch:
        patch.setattr(loading, "ENCODING_VERSION", encoding.ENCODING_VERSION + 1)
        digests.append(load(file).digest)
    moved = file.rename(file.with_name("moved.jsonl"))
    assert load(moved, seed=5).digest == digests[0]
    moved.write_text(moved.read_text().replace("Count to 1.", "Count to 2."))
    digests.append(load(moved).digest)
    assert len(set(digests)) == len(digests)


def test_weights_repeat_and_halve(file: Path, tmp_path: Path) -> None:
    other = write_rows(tmp_path / "other.jsonl", [{"text": "x"}, {"text": "y"}])
    sources = [{"path": str(file), "weight": 0.5}, {"path": str(other), "weight": 2}]
    found = load(sources)
    plain = first_tokens(load([str(file), str(other)]))
    tokens = first_tokens(found)
    assert len(tokens) == 9 and tokens[5:] == [*plain[10:], *plain[10:]]
    assert [t for t in plain[:10] if t in tokens[:5]] == tokens[:5]
    assert tokens == first_tokens(load(sources))
    assert any(first_tokens(load(sources, seed=seed)) != tokens for seed in (1, 2, 3))
    assert found.digest == load([str(file), str(other)]).digest


def test_batches_do_not_matter(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = first_tokens(load(file))
    monkeypatch.setattr(building, "_BATCH_ROWS", 3)
    assert first_tokens(load(file)) == whole


def test_a_wrong_row_leaves_no_half_written_entry(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [*ROWS, {"text": "x"}])
    with pytest.raises(DataError, match=r"a\.jsonl:11: wanted keys prompt, chosen, rejected"):
        load(path, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_unknown_format_is_found_before_any_file_is_read() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'messages'"):
        load("nowhere.jsonl", format="mesages")


def test_no_chat_template(file: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    bare = without_template(tmp_path / "bare")
    assert trained_texts(bare, load(file, tokenizer=bare).examples[0]) == ["1 <|im_end|>"]
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}
    with pytest.raises(ModelError, match=r"b\.jsonl:1: wanted a chat template.*model\.chat_template="):
        load(write_rows(tmp_path / "b.jsonl", [row]), tokenizer=bare)


def test_prompts(file: Path, tmp_path: Path) -> None:
    prompts = load_prompts(parse_sources(str(file)), format="auto", limit=2)
    assert [p.reference for p in prompts] == ["1 ", "1 1 "]
    assert prompts[0].messages == [{"role": "user", "content": "Count to 1."}]
    assert len(load_prompts(parse_sources(str(file)), format="auto", limit=None)) == 10
    start = prompt_ids(NANO, prompts[1])
    example = load(file).examples[1]
    assert example[0][: len(start)].tolist() == start and int(np.argmax(example[1])) == len(start)
    texts = write_rows(tmp_path / "t.jsonl", [{"text": "x"}])
    assert load_prompts([Source(str(texts))], format="auto", limit=3) == []


@pytest.fixture(scope="module")
def qwen() -> QwenTokenizerWrapper:
    return QwenTokenizerWrapper(SHARED / "qwen2.5_tokenizer")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gsm8k_sft_valid", "tokens"),
        ("gsm8k_alpaca", "tokens"),
        ("gsm8k_preference_valid", "pairs"),
        ("gsm8k_preference_strings", "pairs"),
    ],
)
def test_real_files(name: str, kind: ExampleKind, request: pytest.FixtureRequest) -> None:
    tokenizer: QwenTokenizerWrapper = request.getfixturevalue("qwen")
    path = SHARED / f"{name}.jsonl"
    found = load(path, kind=kind, tokenizer=tokenizer, max_seq_len=2048)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found.examples) == len(rows)
    row: dict[str, Any] = rows[-1]
    last: Any = found.examples[-1]
    if kind == "pairs":
        for side, key in zip(last, ("chosen", "rejected"), strict=True):
            answer = row[key] if isinstance(row[key], str) else row[key][-1]["content"]
            assert trained_texts(tokenizer, side) == [answer + "<|im_end|>"]
    else:
        answer = row["messages"][-1]["content"] if "messages" in row else row["output"]
        assert trained_texts(tokenizer, last) == [answer + "<|im_end|>"]
