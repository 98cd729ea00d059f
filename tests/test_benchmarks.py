"""The benchmark harness: folders that every contestant loads, workers that answer, and honest arithmetic."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, folders, scaling
from benchmarks.blocks import Block, ratios, spread
from benchmarks.cases import Case, Comparison, Target
from benchmarks.contestants import NOT_INSTALLED, OURS, Contestant, Worker, WorkerError, is_installed
from benchmarks.curves import exponent
from benchmarks.measuring import Effort, Measured, measure
from benchmarks.report import markdown
from benchmarks.results import CaseResult
from benchmarks.row_scaling import measure_rows, rows_file
from benchmarks.rows import chat, long_batch, median_batch, token_count, write_rows
from benchmarks.workers.protocol import Spec
from bit_axon.tokenizer import QwenTokenizerWrapper

EFFORT = Effort(rounds=2, steps=2, warm_steps=1, block_seconds=60)
ROWS = [chat(f"What is {n} times {n + 1}?", f"It is {n * (n + 1)}, of course. " * 2) for n in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [message["content"] for row in ROWS for message in row["messages"]]
    return folders.model_folder("tiny", texts, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", ROWS)


def block(seconds: list[float], *, new: int = 0, peak: int = 100) -> Block:
    """A block whose first `new` steps compile; each step has 10 tokens."""
    facts = {"real_tokens": 10, "supervised_tokens": 5, "examples": 2, "positions": 16, "loss": 1.0}
    steps = [{"seconds": s, "is_new_shape": n < new, **facts} for n, s in enumerate(seconds)]
    return Block(tuple(steps), peak, 2 * peak)


def contestant(label: str, spec: Spec) -> Contestant:
    return Contestant(label, label, sys.executable, spec)


def without_last_newline(folder: Path, copy: Path) -> Path:
    """The same model with a template that ends with the turn's end."""
    shutil.copytree(folder, copy)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    end = "'<|im_end|>' + ('' if loop.last and not add_generation_prompt else '\\n')"
    template = settings["chat_template"].replace("'<|im_end|>\\n'", end)
    assert end in template
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    return copy


def test_a_folder_is_made_once_and_loads_in_mlx_lm(folder: Path) -> None:
    from mlx.utils import tree_flatten
    from mlx_lm import load

    texts = [message["content"] for row in ROWS for message in row["messages"]]
    weights = folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert folders.model_folder("tiny", texts, folder.parent) == folder
    assert weights.stat().st_mtime_ns == before
    model, tokenizer = load(str(folder))
    assert sum(w.size for _, w in tree_flatten(model.parameters())) == folders.parameters_of("tiny")
    assert tokenizer.decode([tokenizer.eos_token_id]) == "<|im_end|>"
    assert len(tokenizer.encode("What is 3 times 4?")) < len("What is 3 times 4?")


@pytest.mark.parametrize(("name", "millions"), [("2m", 2), ("8m", 8), ("25m", 25), ("47m", 45), ("100m", 99)])
def test_sizes_are_what_they_are_called(name: str, millions: int) -> None:
    assert abs(folders.parameters_of(name) / 1e6 - millions) < 0.07 * millions


@pytest.mark.slow
def test_workers_take_turns_and_compute_the_same_loss(folder: Path, tmp_path: Path) -> None:
    """With nothing behind the end of the turn, and no padding, both train the same targets."""
    copy = without_last_newline(folder, tmp_path / "model")
    tokenizer = QwenTokenizerWrapper(copy)
    rows = median_batch(write_rows(tmp_path / "rows.jsonl", ROWS), tokenizer, 2, tmp_path / "fixed")
    (length,) = set(rows.lengths)
    spec = Spec(str(copy), str(rows.rows), batch_size=2, packing=False, max_seq_len=length)
    both = tuple(contestant(peer, replace(spec, adapter="dora")) for peer in (OURS, "mlx-lm"))
    found = measure(both, EFFORT, tmp_path / "logs", lambda text: None)
    assert [m.failure for m in found.values()] == [None, None]
    firsts = [m.all_steps[0] for m in found.values()]
    assert firsts[0]["loss"] == pytest.approx(firsts[1]["loss"], rel=1e-5)
    assert firsts[0]["loss"] > 1
    for name in ("real_tokens", "supervised_tokens", "examples"):
        assert firsts[0][name] == firsts[1][name] > 0
    for measured in found.values():
        assert [len(b.steady) for b in measured.rounds] == [2, 2]
        assert all(b.peak_bytes and b.resident_peak_bytes > b.peak_bytes for b in measured.rounds)


def test_mlx_lm_counts_what_our_data_path_counts(folder: Path, data: Path, tmp_path: Path) -> None:
    """Over rows of natural lengths; what mlx-lm trains behind the turn's end is not counted."""
    batch = long_batch(data, QwenTokenizerWrapper(folder), 96, 4, tmp_path / "long")
    rows = json.loads(batch.tokens.read_text())["rows"]
    spec = Spec(str(folder), str(batch.rows), batch_size=4)
    worker = Worker(contestant("mlx-lm", spec), tmp_path / "log")
    try:
        worker.ready()
        step = worker.block("block", 1, 60).steps[-1]
    finally:
        worker.close()
    assert step["real_tokens"] == sum(batch.lengths)
    assert step["supervised_tokens"] == sum(sum(row["loss_mask"]) for row in rows)


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    worker = Worker(contestant(OURS, Spec(str(tmp_path), str(tmp_path / "none.jsonl"))), tmp_path / "log")
    try:
        with pytest.raises(WorkerError, match=r"none\.jsonl"):
            worker.ready()
    finally:
        worker.close()


def test_fixed_batches_have_one_length(folder: Path, data: Path, tmp_path: Path) -> None:
    tokenizer = QwenTokenizerWrapper(folder)
    lengths = [token_count(row, tokenizer) for row in ROWS]
    batch = median_batch(data, tokenizer, 4, tmp_path / "median")
    assert len(set(batch.lengths)) == 1
    assert min(lengths) <= batch.lengths[0] <= max(lengths)
    long = long_batch(data, tokenizer, 200, 3, tmp_path / "long")
    assert len(long.lengths) == 3
    assert all(195 <= length <= 200 for length in long.lengths)
    rows = json.loads(long.tokens.read_text())["rows"]
    assert all(0 < sum(row["loss_mask"]) < len(row["token_ids"]) for row in rows)


def test_steps_that_compile_are_left_out_of_rates() -> None:
    measured = block([9.0, 1.0, 3.0], new=1)
    assert measured.rate("real_tokens") == pytest.approx(20 / 4)
    assert measured.step_seconds() == 2.0
    assert block([9.0], new=1).rate("examples") is None


def test_ratios_are_formed_round_by_round() -> None:
    """A machine that is twice as slow in one round slows both, and the ratio stays."""
    ours, peer = [block([1.0]), block([2.0]), block([1.0])], [block([3.0]), block([6.0]), block([4.0])]
    assert ratios(ours, peer, "real_tokens_per_second") == pytest.approx([3.0, 3.0, 4.0])
    assert ratios(ours, peer, "step_seconds") == pytest.approx([1 / 3, 1 / 3, 1 / 4])
    assert ratios([block([1.0], new=1)], [block([1.0])], "step_seconds") == []
    found = spread([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert (found.lower, found.median, found.upper) == tuple(np.percentile([1, 2, 3, 4], [25, 50, 75]))


def test_targets_bound_from_the_right_side() -> None:
    assert Target(3.0, True).is_met(3.0) and not Target(3.0, True).is_met(2.9)
    assert Target(0.5, False).is_met(0.5) and not Target(0.5, False).is_met(0.6)


def test_growth_is_the_slope_of_logarithms() -> None:
    assert exponent([(2, 3 * 2**1.5), (8, 3 * 8**1.5), (32, 3 * 32**1.5)]) == pytest.approx(1.5)
    assert exponent([(2, 1.0)]) is None


def report_of(peer: Measured | None) -> str:
    ours = Measured(contestant(OURS, Spec("", "")), {"setup_seconds": 1.0}, block([5.0], new=1))
    ours.rounds = [block([1.0]), block([1.0])]
    found = {OURS: ours} | ({"mlx-lm": peer} if peer else {})
    comparisons = (
        Comparison("SFT, tokens/s", "real_tokens_per_second", OURS, "mlx-lm", Target(3.0, True)),
        Comparison("SFT, memory", "peak_bytes", OURS, "mlx-lm", Target(0.5, False)),
    )
    case = Case("stream", "8m", "SFT", tuple(m.contestant for m in found.values()), comparisons)
    return markdown({"date": "today"}, [CaseResult(case, found)])


def test_the_report_says_what_was_met() -> None:
    peer = Measured(contestant("mlx-lm", Spec("", "")), {"setup_seconds": 1.0}, block([5.0], new=1))
    peer.rounds = [block([4.0]), block([5.0])]
    text = report_of(peer)
    peer.rounds = [block([4.0]), block([5.0], new=1)]
    assert "| 4.00 (4.00-4.00), 1 of 2 rounds | ≥ 3 | yes |" in report_of(peer)
    assert "| SFT, tokens/s | 8m | mlx-lm 2.25 tok/s | 10 tok/s | 4.50 (4.25-4.75) | ≥ 3 | yes |" in text
    assert "| SFT, memory | 8m | mlx-lm 0 MiB | 0 MiB | 1.00 (1.00-1.00) | ≤ 0.5 | no |" in text
    assert "| SFT | 8m | ours | 1000 ms (1000 ms-1000 ms) | 10 | 5 | 2.00 | 2.0 | 38% |" in text


def test_the_report_names_who_is_absent_or_failed() -> None:
    assert f"| mlx-lm: {NOT_INSTALLED} | - | - | ≥ 3 | - |" in report_of(None)
    text = report_of(Measured(contestant("mlx-lm", Spec("", "")), failure="out of memory"))
    assert "| mlx-lm: failed: out of memory | - |" in text
    assert "- 8m, SFT, mlx-lm: out of memory" in text


def test_absent_packages_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed("mlx-lm", sys.executable)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert not is_installed("peft", sys.executable)


def test_rows_are_read_in_a_fresh_process(folder: Path, outputs: Path) -> None:
    point = measure_rows(500, folder, 1, lambda text: None)
    assert point.build_seconds is not None
    assert point.rows == 500 == point.median("examples")
    assert 0 < point.median("seconds") < point.median("process_seconds")
    assert 0 < point.median("added_peak_bytes") < point.median("total_peak_bytes")
    before = rows_file(outputs / "a.jsonl", 50).read_bytes()
    assert rows_file(outputs / "b.jsonl", 50).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--models", "9m"], "--models: wanted names"),
        (["--scenarios", "strem"], "Did you mean 'stream'?"),
        (["--peers", "unsloth"], "--peers"),
        (["--rounds", "0"], "--rounds"),
        (["--sft", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--peft-python", "nowhere/python"], "--peft-python"),
    ],
)
def test_wrong_options_end_in_one_line(
    arguments: list[str], named: str, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(arguments) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1
    assert not outputs.exists()


def test_scaling_checks_its_lists(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling.main(["--rows", "10,many"]) == 2
    assert scaling.main(["--axes", "depth"]) == 2
    message = capsys.readouterr().err
    assert "--rows: wanted positive whole numbers" in message
    assert "--axes" in message
    assert not outputs.exists()
