"""Grids: which jobs there are, whether they go on, what they are compared by."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner
from sweep_cases import make_grid, rewrite_config
from tracking_cases import RESULT, make_run

from bit_axon.cli.sweep_show import _watch, summary
from bit_axon.cli.terminal import run_console
from bit_axon.run_directory import RunDirectory
from bit_axon.sweep.reporting.finding import Sweep
from bit_axon.sweep.reporting.grids import grid_report
from bit_axon.sweep.reporting.importance import importances
from bit_axon.sweep.reporting.ledger import LEDGER_FILE, Job, read_ledger, tell
from bit_axon.sweep.reporting.report import Report
from bit_axon.sweep.reporting.results import results


def states(report: Report) -> dict[int, tuple[str, str]]:
    return {row.number: (row.state, row.reason) for row in report.rows}


def jobs(count: int, **more: Any) -> list[Job]:
    return [Job(number, ("adapter=lora", f"seed={number}"), **more) for number in range(count)]


def change_result(run_dir: Path, **values: Any) -> None:
    (run_dir / "result.json").write_text(json.dumps({**RESULT, **values}))


def end_elsewhere(folder: Path) -> None:
    """The process that told of the sweep is gone."""
    values = json.loads((folder / LEDGER_FILE).read_text())
    values["process"]["started"] -= 1e6
    (folder / LEDGER_FILE).write_text(json.dumps(values))


def test_a_process_is_told_from_one_that_is_gone(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) is None
    tell(tmp_path, "running", jobs(2, begun=False))
    tell(tmp_path, "running", [Job(1, (), failure="killed: signal 9")])
    found = read_ledger(tmp_path)
    assert found is not None and (found.goes_on, found.outcome) == (True, "running")
    assert [(job.begun, job.failure) for job in found.jobs] == [(False, ""), (True, "killed: signal 9")]
    end_elsewhere(tmp_path)
    gone = read_ledger(tmp_path)
    assert gone is not None and (gone.goes_on, gone.outcome) == (False, "interrupted")
    tell(tmp_path, "failed")
    ended = read_ledger(tmp_path)
    assert ended is not None and (ended.goes_on, ended.outcome, len(ended.jobs)) == (False, "failed", 2)


def test_jobs_without_a_run_directory_are_shown(tmp_path: Path) -> None:
    """Of six jobs two have ended; one failed at once, one begins now, and two wait for their turn."""
    folder = make_grid(tmp_path / "grid", names=("lora",), seeds=(0, 1))
    tell(folder, "running", jobs(6, begun=False))
    (folder / "2.log").write_text("Traceback\n  ...\nbit_axon: wanted a seed\n\n")
    (folder / "3.log").write_text("")
    report = grid_report(folder)
    assert states(report) == {
        0: ("complete", ""),
        1: ("complete", ""),
        2: ("failed", "bit_axon: wanted a seed"),
        3: ("running", ""),
        4: ("waiting", ""),
        5: ("waiting", ""),
    }
    assert [row.params["seed"] for row in report.rows] == [0, 1, 2, 3, 4, 5]
    assert set(report.rows[4].params) == {"seed"} and not report.is_done
    assert summary(report).startswith("3 of 6 jobs: 2 complete, 1 failed; 1 running, 2 waiting.")
    tell(folder, "interrupted")
    after = states(grid_report(folder))
    assert after[3] == ("failed", "it has no run directory") and after[4] == ("waiting", "not started")
    assert grid_report(folder).is_done


def test_what_the_launcher_saw_is_the_reason(tmp_path: Path) -> None:
    folder = make_grid(tmp_path / "grid", names=("lora",), seeds=(0, 1))
    (folder / "1" / "result.json").unlink()
    tell(folder, "failed", [*jobs(2, failure="out_of_memory: killed"), Job(2, (), failure="timeout: 5 min")])
    found = states(grid_report(folder))
    assert found[0] == ("complete", "") and found[1] == ("failed", "out_of_memory: killed")
    assert found[2] == ("failed", "timeout: 5 min")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("thermal", ("failed", "thermal_stop")),
        ("interrupt", ("failed", "interrupted")),
        ("early_stopping", ("complete", "early_stopping")),
    ],
)
def test_a_job_that_was_stopped(tmp_path: Path, reason: str, expected: tuple[str, str]) -> None:
    folder = make_grid(tmp_path / "grid", names=("lora",), seeds=(0,))
    change_result(folder / "0", state="stopped", stop_reason=reason, eval_loss_best=0.1)
    report = grid_report(folder)
    assert states(report) == {0: expected} and bool(report.best) == (expected[0] == "complete")


def test_a_job_goes_on_as_long_as_its_folder_is_in_use(tmp_path: Path) -> None:
    """Whatever the sweep's process has said, and however old the last line is."""
    folder = make_grid(tmp_path / "grid", names=("lora",), seeds=(0, 1))
    (folder / "1" / "result.json").unlink()
    old = time.time() - 1e5
    os.utime(folder / "1" / "metrics.jsonl", (old, old))
    with RunDirectory(folder / "1").locked():
        assert states(grid_report(folder, has_ended=True))[1] == ("running", "")
        with RunDirectory(folder / "0").locked():
            pass
    os.utime(folder / "1" / "metrics.jsonl")
    assert states(grid_report(folder))[1] == ("failed", "no result")  # the lock ends with the process


def test_watching_waits_for_the_next_job(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_grid(tmp_path / "grid", names=("lora",), seeds=(0, 1))
    tell(folder, "running", jobs(2))  # without a process of its own per job, no more are known
    assert grid_report(folder).wanted is None

    def sleep(_: float) -> None:
        run_dir = make_run(folder / "2", steps=2, result={**RESULT, "eval_loss_best": 0.1})
        rewrite_config(run_dir, {"adapter.name": "lora", "seed": 2}, None)
        tell(folder, "finished", jobs(3))

    _watch(Sweep(folder), run_console(width=120), sleep)
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["0", "1", "2"]
    assert lines[-1].startswith("3 of 3 jobs: 3 complete. Best: trial 2")


def grid_of_methods(folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> Report:
    """A job per entry: its params, and under `result` what came of it; the loss grows with the number."""
    for number, (name, values) in enumerate(changes.items()):
        result = {**RESULT, "eval_loss_best": 0.1 * (number + 1), **values.get("result", {})}
        run_dir = make_run(folder / str(number), steps=2, result=result)
        rewrite_config(run_dir, {"method.name": name.split()[0], **values.get("params", {})}, None)
    return grid_report(folder)


def test_losses_with_another_weight_in_them_are_not_compared(tmp_path: Path) -> None:
    beta = {f"orpo {b}": {"params": {"method.beta": b}, "result": {"nll": 1.0 - b}} for b in (0.1, 0.5)}
    report = grid_of_methods(tmp_path / "grid", beta)
    assert (report.objectives[0].metric, report.best[0].number) == ("nll", 1)
    assert report.notes == (
        "jobs differ in method.beta, and so in what eval_loss_best means: they are compared by nll.",
    )


def test_without_a_figure_that_all_have_none_is_the_best(tmp_path: Path) -> None:
    methods = {"sft": {}, "orpo": {"params": {"method.beta": 0.1}, "result": {"nll": 0.5}}}
    report = grid_of_methods(tmp_path / "grid", methods)
    assert report.best == () and results(report)["best_value"] is None
    assert [row.values for row in report.rows] == [(0.1,), (0.2,)]
    assert "none is called the best" in report.notes[0] and importances(report) == {}


def test_a_folder_of_another_name_is_numbered_by_hydra(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    for number, name in ((1, "a"), (0, "b")):
        hydra = make_run(folder / name, steps=1, result=RESULT) / ".hydra"
        hydra.mkdir()
        (hydra / "hydra.yaml").write_text(f"hydra: {{job: {{num: {number}}}}}\n")
    tell(folder, "finished", jobs(2))
    rows = grid_report(folder).rows
    assert [(row.number, row.run_dir and row.run_dir.name) for row in rows] == [(0, "b"), (1, "a")]


@pytest.mark.parametrize(
    "launcher",
    [[], pytest.param(["hydra/launcher=isolated"], marks=pytest.mark.slow)],
    ids=["basic", "isolated"],
)
def test_a_job_that_fails_before_it_has_a_folder_is_told(
    run: Callable[..., Any] | Runner, small_run: list[str], outputs: Path, launcher: list[str]
) -> None:
    place = f"hydra.sweep.dir={outputs}/sweeps/grid"
    done = run("-m", *small_run, *launcher, "training.learning_rate=-1,0.001", place)
    assert done.code == 2
    report = grid_report(outputs / "sweeps" / "grid")
    first, second = report.rows
    assert (first.state, second.state) == ("failed", "complete") and report.is_done
    assert second.overrides is None and first.overrides is not None
    assert "training.learning_rate=-1" in first.overrides
    assert (first.params["training.learning_rate"], second.params["training.learning_rate"]) == (-1, 0.001)
    if launcher:
        assert first.reason.startswith("exception: ") and "learning_rate" in first.reason
    table = json.loads((outputs / "sweeps" / "grid" / "report" / "trials.json").read_text())
    assert [row[1] for row in table["data"]] == ["failed", "complete"]
