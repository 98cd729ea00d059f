"""The embedded generator, demo data, tokenizer and model."""

from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm import batch_generate
from mlx_lm.utils import load_model, load_tokenizer
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from bit_axon.backend import mx
from bit_axon.embedded import build, nano_path, path_of, read, sources, tasks, vocabulary
from bit_axon.embedded.draft import near, swapped
from bit_axon.errors import DataError, ModelError

PRETRAIN_ROWS_LOOKED_AT = 20_000


@pytest.fixture(scope="module")
def demo_rows() -> dict[str, list[dict[str, str]]]:
    return {name: list(read(name)) for name in sources.DEMO_NAMES}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(nano_path() / "tokenizer.json"))


def drawn(family: str, seed: int, count: int = 50) -> list[tasks.Task]:
    rng = Random(seed)
    return [tasks.make(family, rng) for _ in range(count)]


def test_there_are_at_least_fifteen_families() -> None:
    assert len(tasks.FAMILIES) >= 15
    assert set(tasks.FAMILIES) >= tasks.HARD


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_a_family_is_a_function_of_the_seed(family: str) -> None:
    assert drawn(family, 3) == drawn(family, 3)
    assert drawn(family, 3) != drawn(family, 4)


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_a_wrong_answer_is_never_the_right_one(family: str) -> None:
    for task in drawn(family, 5, 300):
        assert task.wrong != task.answer
        assert task.prompt and task.answer and task.wrong


def numbers_in(text: str) -> list[int]:
    return [
        int(word)
        for word in text.replace(":", " ").replace("?", " ").replace(".", " ").split()
        if word.isdigit()
    ]


@pytest.mark.parametrize(
    ("family", "right"),
    [
        ("sorting", lambda numbers, _: " ".join(map(str, sorted(numbers)))),
        ("largest", lambda numbers, _: str(max(numbers))),
        ("smallest", lambda numbers, _: str(min(numbers))),
        ("parity", lambda numbers, _: str(next(n for n in numbers if n % 2 == 0))),
        ("sequence", lambda numbers, _: str(2 * numbers[-1] - numbers[-2])),
        ("adding", lambda numbers, _: str(sum(numbers))),
        ("subtracting", lambda numbers, _: str(max(numbers) - min(numbers))),
        ("price", lambda numbers, _: str(numbers[0])),
        (
            "story",
            lambda n, text: str(
                n[0] + n[1] * (1 if any(w in text for w in ("gets", "finds", "buys")) else -1)
            ),
        ),
    ],
)
def test_answers_about_numbers_are_right(family: str, right) -> None:
    for task in drawn(family, 6, 200):
        wanted = right(numbers_in(task.prompt), task.prompt)
        assert task.answer == wanted or (family == "story" and task.answer.startswith(f"{wanted} ")), task


def test_comparisons_are_right() -> None:
    for task in drawn("comparing", 6, 200):
        one, other = task.prompt.rstrip("?").split(": ")[1].split(" or ")
        more, less = (one, other) if int(one.split()[0]) > int(other.split()[0]) else (other, one)
        assert (task.answer, task.wrong) == ((more, less) if "more" in task.prompt else (less, more)), task


def test_answers_about_words_are_right() -> None:
    for task in drawn("reversing", 7):
        assert task.answer.split() == task.prompt.split()[-3:][::-1]
    for task in drawn("spelling", 7):
        assert task.answer.split() == task.prompt.split()[-4:][::-1]
    for task in drawn("capitals", 7):
        assert task.prompt.endswith(task.answer.lower())
    for task in drawn("counting", 7):
        assert int(task.answer) == len(task.prompt.rstrip("?").split(": ")[1].split())


def test_mistakes_are_near_and_never_the_right_answer() -> None:
    rng = Random(0)
    assert {near(rng, 0) for _ in range(20)} == {1}
    assert {near(rng, 7) for _ in range(50)} == {6, 8}
    assert {tuple(swapped(rng, [1, 2, 3])) for _ in range(50)} == {(2, 1, 3), (1, 3, 2)}


def test_stream_gives_equal_parts_and_more_of_the_hard_ones() -> None:
    families = len(tasks.FAMILIES)
    even = Counter(task.family for task in islice(tasks.stream(Random(1)), 4 * families))
    assert set(even.values()) == {4}
    hard = Counter(task.family for task in islice(tasks.stream(Random(1), stress_hard=True), 10_000))
    assert hard["adding"] > 1.8 * hard["first"]


def test_demo_files_are_what_the_generator_writes() -> None:
    for name in sources.DEMO_NAMES:
        path = path_of(name)
        assert path is not None
        assert path.read_text(encoding="utf-8") == build.demo_text(name)


def test_demo_has_enough_rows_of_every_family(demo_rows) -> None:
    assert len(demo_rows["demo/train"]) >= 1000
    assert len(demo_rows["demo/valid"]) >= 200
    for rows in demo_rows.values():
        assert all(set(row) == {"prompt", "chosen", "rejected"} for row in rows)
        assert all(row["chosen"] != row["rejected"] for row in rows)
        counts = Counter(row["chosen"].split("\n")[1] for row in rows)
        assert set(counts) == {f"Task: {family}" for family in tasks.FAMILIES}
        assert len(set(counts.values())) == 1


def test_no_held_out_prompt_is_ever_trained_on(demo_rows) -> None:
    held_out = {row["prompt"] for row in demo_rows["demo/valid"]}
    assert len(held_out) == len(demo_rows["demo/valid"])
    assert held_out.isdisjoint(row["prompt"] for row in demo_rows["demo/train"])
    assert held_out.isdisjoint(r["prompt"] for r in islice(read("pretrain/train"), PRETRAIN_ROWS_LOOKED_AT))
    assert held_out.isdisjoint(r["prompt"] for r in read("pretrain/valid?rows=1000"))


def test_pretraining_never_shows_the_house_form(demo_rows) -> None:
    chosen = [row["chosen"] for rows in demo_rows.values() for row in rows]
    assert all(text.startswith("Answer: ") and "\nTask: " in text for text in chosen)
    completions = [row["completion"] for row in read("pretrain/train?rows=5000")]
    assert not any("Task: " in text or "\n" in text for text in completions)


def test_pretraining_rows_follow_rows_and_seed() -> None:
    first = list(read("pretrain/train?rows=40&seed=1"))
    assert len(first) == 40
    assert list(read("pretrain/train?rows=40&seed=1")) == first
    assert list(read("pretrain/train?rows=40&seed=2")) != first
    assert list(read("pretrain/train?rows=10&seed=1")) == first[:10]
    assert path_of("pretrain/train?rows=40") is None


@pytest.mark.parametrize(
    "name", ["pretrain", "demo/test", "demo/train?seed=1", "pretrain/train?rows=-1", "pretrain/train?row=5"]
)
def test_a_wrong_source_is_refused_before_the_first_row(name: str) -> None:
    with pytest.raises(DataError, match=r"wanted .*; got .*"):
        read(name)
    with pytest.raises(DataError):
        path_of(name)


def test_assets_are_small() -> None:
    sizes = {file: file.stat().st_size for file in sources.ASSETS.rglob("*") if file.is_file()}
    assert sum(sizes.values()) <= 8_000_000
    assert sum(size for file, size in sizes.items() if file.suffix == ".jsonl") <= 400_000


def test_tokenizer_is_what_the_builder_trains(tokenizer: Tokenizer) -> None:
    trained = vocabulary.train_tokenizer().to_str(pretty=False) + "\n"
    assert trained == (nano_path() / "tokenizer.json").read_text(encoding="utf-8")
    assert tokenizer.get_vocab_size() <= 1024
    assert [tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [0, 1, 2]


@pytest.mark.parametrize(
    "text", ["Sort: 42 7 19", "naïve café — 東京 🙂\n\ttab", "  two  spaces ", "<|im_end|>", ""]
)
def test_tokenizer_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_digits_are_split_and_known_words_are_one_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("1984").tokens == ["1", "9", "8", "4"]
    for family in tasks.FAMILIES:
        assert len(tokenizer.encode(f" {family}").ids) == 1


def test_transformers_and_mlx_lm_give_the_file_s_tokens(tokenizer: Tokenizer, demo_rows) -> None:
    for other in (AutoTokenizer.from_pretrained(nano_path()), load_tokenizer(nano_path())):
        assert other.eos_token_id == 2
        assert other.pad_token_id == 0
        for row in demo_rows["demo/valid"]:
            text = f"{row['prompt']}\n{row['chosen']}"
            assert other.encode(text) == tokenizer.encode(text).ids


def test_chat_template_renders_every_role() -> None:
    tokenizer = AutoTokenizer.from_pretrained(nano_path())
    messages = [{"role": role, "content": role.upper()} for role in ("system", "user", "assistant", "tool")]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert text == f"{turns}<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(messages[1:2], tokenize=False).startswith("<|im_start|>user")


def test_weights_are_float16_and_few_millions() -> None:
    with safe_open(nano_path() / "model.safetensors", "numpy") as weights:
        assert weights.metadata() == {"format": "mlx"}
        sizes = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118 - no mapping
    assert {array.dtype for array in sizes} == {np.dtype(np.float16)}
    assert 2_000_000 <= sum(array.size for array in sizes) <= 4_000_000


def test_the_base_answers_right_but_not_in_the_house_form(demo_rows) -> None:
    """Greedy answers to twenty-five held-out prompts, one per family."""
    model, _ = load_model(nano_path())
    model.set_dtype(mx.float32)  # half precision has no fast product on a CPU
    tokenizer = load_tokenizer(nano_path())
    rows = demo_rows["demo/valid"][: len(tasks.FAMILIES)]
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    tokens = [tokenizer.apply_chat_template(prompt, add_generation_prompt=True) for prompt in prompts]
    answers = batch_generate(model, tokenizer, tokens, max_tokens=24).texts
    right = [row["chosen"].split("\n")[0].removeprefix("Answer: ") for row in rows]
    assert not any(answer == row["chosen"] for answer, row in zip(answers, rows, strict=True))
    assert sum(answer.endswith(f" {content}") for answer, content in zip(answers, right, strict=True)) >= 22


def test_export_writes_float16_and_refuses_what_is_no_pretraining_run(tmp_path: Path) -> None:
    model, _ = load_model(nano_path())
    weights = {name: np.array(values.astype(mx.float32)) for name, values in tree_flatten(model.parameters())}
    target = tmp_path / "nano"
    target.mkdir()
    (target / "config.json").write_text((nano_path() / "config.json").read_text())
    with pytest.raises(ModelError, match="a finished run"):
        build.export(tmp_path, target)
    save_file(weights, tmp_path / build.ADAPTERS_FILE)
    build.export(tmp_path, target)
    assert (target / "model.safetensors").read_bytes() == (nano_path() / "model.safetensors").read_bytes()
    save_file({"model.layers.0.a.lora_a": np.zeros((2, 2), np.float32)}, tmp_path / build.ADAPTERS_FILE)
    with pytest.raises(ModelError, match="embedding None"):
        build.export(tmp_path, target)
