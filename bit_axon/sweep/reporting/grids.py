"""A grid (`-m adapter=lora,dora seed=0,1,2`) as the same report as a study: jobs are trials."""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from optuna.distributions import CategoricalDistribution

from bit_axon.sweep.reporting.grid_jobs import has_begun, job_row, number_of_run, values_of_jobs
from bit_axon.sweep.reporting.ledger import Job, read_ledger
from bit_axon.sweep.reporting.report import Objective, Report, Row, State
from bit_axon.tracking.facts import RunFacts, flattened, read_facts
from bit_axon.tracking.parent import read_parent
from bit_axon.tracking.places import is_in_use, runs_below
from bit_axon.tracking.points import METRICS_FILE, Point, all_points

OBJECTIVE: Final = Objective("eval_loss_best")
_BETWEEN_METHODS: Final = Objective("nll")  # of the answers alone: no weight of a loss is in it
_METHOD: Final = "method."
_STATES: Final[Mapping[str, State]] = {"finished": "complete", "stopped": "complete", "pruned": "pruned"}
_FAILED_AS: Final = {"interrupt": "interrupted", "thermal": "thermal_stop"}  # by the reason of a stop
_NO_RESULT: Final = "no result"
_IDLE_SECONDS: Final = 900.0  # without a new line: a run that was cut
# Where these differ, it is not what the grid is about.
_UNSEARCHED: Final = ("name", "tags", "tracking", "resume", "trial")


@dataclass(frozen=True)
class _Grid:
    """What all rows have in common."""

    objective: Objective
    is_over: bool  # no run goes on, but one whose folder is in use
    jobs: Mapping[int, Job]


def grid_report(folder: Path, *, has_ended: bool = False) -> Report:
    """Reads the runs below a folder, and what is known of jobs that left none.

    Params are the config values that are not the same in all.

    Args:
        folder: of the grid.
        has_ended: no run goes on: one without a result was cut.
    """
    ledger = read_ledger(folder)
    goes_on = ledger is not None and ledger.goes_on and not has_ended
    jobs = {job.number: job for job in (ledger.jobs if ledger else ())}
    runs = {number_of_run(path, at): read_facts(path) for at, path in enumerate(runs_below(folder))}
    absent = [job for number, job in jobs.items() if number not in runs]
    configs = {number: _config(facts) for number, facts in runs.items()}
    configs |= values_of_jobs(absent, list(jobs.values()), next(iter(configs.values()), {}))
    params = dict(zip(configs, _differing(list(configs.values())), strict=True))
    objective, notes = _objective(params.values(), runs.values())
    grid = _Grid(objective or OBJECTIVE, has_ended or (ledger is not None and not goes_on), jobs)
    rows = [_row(number, facts, params[number], grid) for number, facts in runs.items()]
    last = max([*runs, *(job.number for job in absent if has_begun(job, folder))], default=-1)
    rows += [job_row(job, folder, params[job.number], last, goes_on) for job in absent]
    # Without a process per job, jobs are known as they begin.
    are_all_known = not goes_on or any(not job.begun for job in jobs.values())
    parent = read_parent(folder)
    return Report(
        name=parent.name if parent else folder.resolve().name,
        kind="grid",
        objectives=(grid.objective,),
        rows=tuple(sorted(rows, key=lambda row: row.number)),
        distributions=_distributions(list(params.values())),
        wanted=len(rows) if jobs and are_all_known else None,
        notes=notes,
        is_open=goes_on,
        is_ranked=objective is not None,
    )


def _objective(
    params: Iterable[Mapping[str, Any]], runs: Iterable[RunFacts]
) -> tuple[Objective | None, tuple[str, ...]]:
    """What jobs are compared by, and what is to be said about it; None: they cannot be compared."""
    searched = sorted({key for one in params for key in one if key.startswith(_METHOD)})
    if not searched:
        return OBJECTIVE, ()
    why = f"jobs differ in {', '.join(searched)}, and so in what {OBJECTIVE.metric} means"
    results = [facts.result for facts in runs if facts.result.get("state") in ("finished", "stopped")]
    if all(_number(result.get(_BETWEEN_METHODS.metric)) is not None for result in results):
        return _BETWEEN_METHODS, (f"{why}: they are compared by {_BETWEEN_METHODS.metric}.",)
    return None, (f"{why}, and not every job has {_BETWEEN_METHODS.metric}: none is called the best.",)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _config(facts: RunFacts) -> dict[str, Any]:
    kept = {key: value for key, value in facts.config.items() if key not in _UNSEARCHED}
    return {key: _plain(value) for key, value in flattened(kept, ".")}


def _plain(value: Any) -> Any:
    """As it is, or as JSON text: Optuna's choices are plain values."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    keys = sorted({key for config in configs for key in config})
    varied = [key for key in keys if len({_identity(config.get(key)) for config in configs}) > 1]
    return [{key: config.get(key) for key in varied} for config in configs]


def _identity(value: Any) -> tuple[str, Any]:
    """True and 1 are not the same value."""
    return type(value).__name__, value


def _distributions(params: Sequence[Mapping[str, Any]]) -> dict[str, CategoricalDistribution]:
    found = {}
    for key in params[0] if params else ():
        values = {_identity(one[key]): one[key] for one in params}
        found[key] = CategoricalDistribution(sorted(values.values(), key=_order))
    return found


def _order(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not is_number, float(value) if is_number else 0.0, str(value))


def _row(number: int, facts: RunFacts, params: Mapping[str, Any], grid: _Grid) -> Row:
    run_dir, result = facts.run_dir, facts.result
    points = list(all_points(run_dir / METRICS_FILE))
    value = _number(result.get(grid.objective.metric))
    state, reason = _state(run_dir, result, grid.is_over)
    job = grid.jobs.get(number)
    if reason == _NO_RESULT and job is not None and job.failure:
        reason = job.failure
    if state == "complete" and value is None:
        state, reason = "failed", f"no {grid.objective.metric}"
    return Row(
        number=number,
        state=state,
        reason=reason,
        values=(value,) if state == "complete" and value is not None else None,
        params=params,
        curve={point.step: point.value for point in points if _is_of(grid.objective, point)},
        started=_moment(points[0].time_ms) if points else None,
        ended=_end(points, run_dir) if state != "running" else None,
        run_dir=run_dir,
        start_temp_c=_start_temp(result.get("thermal")),
    )


def _is_of(objective: Objective, point: Point) -> bool:
    """Whether the point is the objective on the way; `val/orpo_nll` is the `nll` of a run with orpo."""
    name = point.name
    if objective == OBJECTIVE:
        return bool(point.step) and name == "val/loss"
    return bool(point.step) and name.startswith("val/") and name.endswith(f"_{objective.metric}")


def _state(run_dir: Path, result: Mapping[str, Any], is_over: bool) -> tuple[State, str]:
    state, reason = str(result.get("state") or ""), str(result.get("stop_reason") or "")
    if state == "stopped" and reason in _FAILED_AS:
        return "failed", _FAILED_AS[reason]
    if state:
        return _STATES.get(state, "failed"), "" if state == "finished" else reason
    in_use = is_in_use(run_dir)
    if in_use or (in_use is None and not is_over and not _is_idle(run_dir)):
        return "running", ""
    return "failed", _NO_RESULT


def _is_idle(run_dir: Path) -> bool:
    file = run_dir / METRICS_FILE
    return not file.is_file() or time.time() - file.stat().st_mtime > _IDLE_SECONDS


def _end(points: Sequence[Point], run_dir: Path) -> datetime | None:
    result = run_dir / "result.json"
    if result.is_file():
        return datetime.fromtimestamp(result.stat().st_mtime)
    return _moment(points[-1].time_ms) if points else None


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000)


def _start_temp(thermal: Any) -> float | None:
    start = thermal.get("start") if isinstance(thermal, Mapping) else None
    return float(start) if isinstance(start, int | float) else None
