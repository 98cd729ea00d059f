"""What a sweep leaves in its folder: `optimization_results.yaml`, and `report/` with figures and a table."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from bit_axon.files import write_atomic, write_json_atomic
from bit_axon.sweep.reporting.importance import importances
from bit_axon.sweep.reporting.plots import write_figures
from bit_axon.sweep.reporting.report import ENDED, Report, Row

RESULTS_FILE: Final = "optimization_results.yaml"
REPORT_FOLDER: Final = "report"
TABLE_FILE: Final = "trials.json"
_DIGITS: Final = 4


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes the results, the table of trials and the figures; returns the files.

    Raises:
        StorageError: the folder cannot be written.
    """
    files = [write_results(report, folder), write_table(report, folder)]
    return [*files, *write_figures(report, folder / REPORT_FOLDER)]


def write_results(report: Report, folder: Path) -> Path:
    """Writes `optimization_results.yaml`.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / RESULTS_FILE
    write_atomic(path, yaml.safe_dump(results(report), sort_keys=False, allow_unicode=True))
    return path


def results(report: Report) -> dict[str, Any]:
    """What was found, with Hydra's names for it: `best_params` and `best_value`, or `solutions`."""
    counts = Counter(row.state for row in report.rows)
    found: dict[str, Any] = {"name": "optuna" if report.kind == "study" else "grid"}
    if len(report.objectives) == 1:
        found |= {"best_params": None, "best_value": None}
        for row in report.best:
            found |= {"best_params": dict(row.params), "best_value": _values(row)[0], **_place(row)}
    else:
        found["solutions"] = [
            {"params": dict(row.params), "values": _values(row), **_place(row)} for row in report.best
        ]
    found |= {
        report.kind: report.name,
        "objectives": [{"metric": one.metric, "direction": one.direction} for one in report.objectives],
        "trials": {state: counts[state] for state in ENDED if counts[state]},
        "importance": _importance(report),
    }
    return found | ({"heat": list(report.notes)} if report.notes else {})


def _values(row: Row) -> list[float]:
    return list(row.values or ())


def _place(row: Row) -> dict[str, Any]:
    return {"trial": row.number} | ({"run_dir": str(row.run_dir)} if row.run_dir else {})


def _importance(report: Report) -> Mapping[str, Any]:
    """Rounded: the digits behind are noise."""
    found = {
        objective.metric: {name: round(share, _DIGITS) for name, share in importances(report, place).items()}
        for place, objective in enumerate(report.objectives)
    }
    return found[report.objectives[0].metric] if len(found) == 1 else found


def write_table(report: Report, folder: Path) -> Path:
    """Writes `report/trials.json`, in the form MLflow shows as a table."""
    names = list(report.distributions)
    metrics = [objective.metric for objective in report.objectives]
    columns = ["trial", "state", "reason", *metrics, *names, "seconds", "start_temp_c", "run_dir"]
    path = folder / REPORT_FOLDER / TABLE_FILE
    write_json_atomic(
        path, {"columns": columns, "data": [_cells(row, names, len(metrics)) for row in report.rows]}
    )
    return path


def _cells(row: Row, names: list[str], metrics: int) -> list[Any]:
    values = list(row.values) if row.values else [None] * metrics
    params = [row.params.get(name) for name in names]
    place = str(row.run_dir) if row.run_dir else None
    return [row.number, row.state, row.reason, *values, *params, row.seconds, row.start_temp_c, place]
