"""Which of the compared runs may be called the best: those that had as many steps, and the same data."""

import json
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import make_study
from tracking_cases import RESULT, make_run

from bit_axon.cli.compare import ComparedRun, compare, ranking, read_run, results, uncompared
from bit_axon.cli.terminal import run_console
from bit_axon.tracking.compare_figure import Ranking

OTHER_DATA = (
    "They were validated on different data, or on more or less of it: "
    "no loss, and nothing else measured on it, is compared."
)
UNFINISHED = "Only finished runs are compared: the others have made fewer steps."


def run_of(state: str | None, loss: float, *valid: str, **params: Any) -> ComparedRun:
    result: dict[str, Any] = {"state": state, "eval_loss": loss, "nll": loss, "tokens_per_second": loss}
    return ComparedRun(Path("x"), "x", params, result, valid)


def stars(*runs: ComparedRun) -> dict[str, set[int]]:
    return {column.label: set(column.best) for column in results(runs) if column.best}


@pytest.mark.parametrize("state", ["pruned", "failed", "interrupted", "stopped", None])
def test_what_has_not_finished_is_never_better_than_what_has(state: str | None) -> None:
    runs = [run_of(state, 0.1), run_of("finished", 0.3), run_of("finished", 0.2)]
    assert stars(*runs) == {"validation loss": {2}, "nll": {2}, "tokens per second": {1}}
    assert uncompared(runs) == [UNFINISHED]
    assert ranking(runs) == Ranking("validation loss", [2, 1])
    assert not stars(*runs[:2]) and uncompared(runs[:2]) == [UNFINISHED]


def test_runs_of_which_none_has_finished_are_compared() -> None:
    runs = [run_of("pruned", 0.1), run_of(None, 0.3)]
    assert stars(*runs)["validation loss"] == {0} and not uncompared(runs)


def test_losses_on_different_data_are_not_compared() -> None:
    runs = [run_of("finished", 0.1, "a"), run_of("finished", 0.2, "b")]
    assert stars(*runs) == {"tokens per second": {1}}
    assert uncompared(runs) == [OTHER_DATA] and ranking(runs) is None


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("training.eval_batches", (None, 3)),
        ("training.eval_batches", (1, 3)),
        ("data.max_seq_len", (64, 128)),
    ],
)
def test_losses_on_more_or_less_of_it_are_not_compared(key: str, values: tuple[Any, Any]) -> None:
    runs = [
        run_of("finished", loss, "a", **{key: value}) for loss, value in zip((0.1, 0.2), values, strict=True)
    ]
    assert stars(*runs) == {"tokens per second": {1}} and uncompared(runs) == [OTHER_DATA]


@pytest.mark.parametrize(("eval_batches", "best"), [(None, {0}), (2, None)])
def test_a_batch_is_more_data_only_where_batches_are_counted(
    eval_batches: int | None, best: set[int] | None
) -> None:
    sizes = ({"training.batch_size": size, "training.eval_batches": eval_batches} for size in (4, 8))
    runs = [run_of("finished", loss, "a", **size) for loss, size in zip((0.1, 0.2), sizes, strict=True)]
    assert stars(*runs).get("nll") == best


def test_accuracies_of_more_or_fewer_answers_are_not_compared() -> None:
    runs = [run_of("finished", loss, "a", **{"data.accuracy_prompts": int(10 * loss)}) for loss in (0.1, 0.2)]
    for run in runs:
        run.result["task_accuracy"] = run.result["nll"]  # type: ignore[index]
    assert stars(*runs) == {"validation loss": {0}, "nll": {0}, "tokens per second": {1}}


def test_the_same_data_may_lie_elsewhere() -> None:
    runs = [run_of("finished", loss, "a", **{"data.valid": f"/{loss}.jsonl"}) for loss in (0.1, 0.2)]
    assert stars(*runs)["nll"] == {0} and not uncompared(runs)


def test_data_without_a_digest_go_by_their_name() -> None:
    runs = [run_of("finished", loss, **{"data.valid": "a.jsonl"}) for loss in (0.1, 0.2)]
    assert stars(*runs)["nll"] == {0}
    other = run_of("finished", 0.3, "digest", **{"data.valid": "b.jsonl"})
    assert uncompared([*runs, other]) == [OTHER_DATA]


def test_a_run_without_validation_compares_the_others() -> None:
    runs = [run_of("finished", loss, "a", **{"data.valid": "a"}) for loss in (0.1, 0.2)]
    without = ComparedRun(Path("x"), "x", {"data.valid": None}, {"state": "finished", "eval_loss": None})
    assert stars(*runs, without)["nll"] == {0} and not uncompared([*runs, without])


def test_what_differing_methods_leave_out_is_said() -> None:
    runs = [run_of("finished", beta, **{"method.beta": beta}) for beta in (0.1, 0.2)]
    assert stars(*runs)["nll"] == {0} and "validation loss" not in stars(*runs)
    (line,) = uncompared(runs)
    assert line.endswith("not compared are validation loss, validation loss, best, reward margin.")


def test_below_the_table(capfd: pytest.CaptureFixture[str], tmp_path: Path, outputs: Path) -> None:
    folders = [
        make_run(tmp_path / name, result={**RESULT, "eval_loss": 0.1 + len(name)}) for name in ("a", "bb")
    ]
    repro = json.loads((folders[1] / "repro.json").read_text())
    repro["data"]["valid"][0]["sha256"] = "2" * 64
    (folders[1] / "repro.json").write_text(json.dumps(repro))
    assert [read_run(folder).valid for folder in folders] == [("1" * 64,), ("2" * 64,)]
    compare([str(folder) for folder in folders], tmp_path / "c.png", console=run_console(width=60))
    table, _, below = capfd.readouterr().out.partition(OTHER_DATA)
    assert "validation loss" in table and "*" not in table and below


def test_pruned_trials_of_a_search_have_no_star(outputs: Path) -> None:
    folder = outputs / "sweeps" / "ranks"
    make_study(folder, with_runs=True)
    runs = [read_run(path) for path in sorted(folder.iterdir()) if path.name.isdigit()]
    (column,) = [column for column in results(runs) if column.label == "validation loss, best"]
    assert {runs[place].result["state"] for place in column.best} == {"finished"}
    assert "pruned" in {run.result.get("state") for run in runs} and UNFINISHED in uncompared(runs)
