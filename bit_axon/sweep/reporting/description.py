"""What the MLflow run above a sweep says: what was searched, tags, points of the history, and a note."""

import json
from datetime import datetime
from typing import Final

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from bit_axon.sweep.reporting.labels import value_text
from bit_axon.sweep.reporting.ledger import State
from bit_axon.sweep.reporting.report import Report, Row, best_so_far, order_of_end, outcome
from bit_axon.sweep.reporting.results import REPORT_FOLDER
from bit_axon.tracking.facts import flattened
from bit_axon.tracking.points import Point

_SHOWN_TRIALS: Final = 8  # in the note


def space(report: Report) -> dict[str, str]:
    """What was searched; it cannot change while a study goes on."""
    declared = report.settings.get("fingerprint", {}).get("space", {})
    return {
        f"space.{name}": str(declared.get(name) or _range(known))
        for name, known in report.distributions.items()
    }


def _range(known: BaseDistribution) -> str:
    if isinstance(known, CategoricalDistribution):
        return ", ".join(value_text(choice) for choice in known.choices)
    if isinstance(known, FloatDistribution | IntDistribution):
        return f"{value_text(known.low)} to {value_text(known.high)}{', logarithmic' if known.log else ''}"
    return str(known)


def tags(report: Report, state: State) -> dict[str, str]:
    """How the sweep is, and its best values."""
    said = {
        "mlflow.note.content": note(report),
        "bit_axon.kind": report.kind,
        f"bit_axon.{report.kind}": report.name,
        "bit_axon.state": state,
        "bit_axon.trials": outcome(report),
        "bit_axon.objective": ", ".join(f"{one.direction} {one.metric}" for one in report.objectives),
        "mlflow.loggedArtifacts": json.dumps([{"path": f"{REPORT_FOLDER}/trials.json", "type": "table"}]),
    }
    for part in ("sampler", "pruner"):
        spec = dict(flattened(report.settings.get(part) or {}, "."))
        if spec:
            said[f"bit_axon.{part}"] = " ".join(f"{key}={value_text(value)}" for key, value in spec.items())
    if len(report.objectives) == 1 and report.best:
        row = report.best[0]
        said["best.trial"] = str(row.number)
        said |= {f"best.{name}": value_text(value) for name, value in row.params.items()}
    return said


def points(report: Report) -> list[Point]:
    """The objective of each trial, and the best so far with its numbers, by the order of ending.

    A trial that ends later changes no earlier point, so that a point is never sent with two values.
    """
    found = []
    ended = order_of_end(report)
    for place, row in enumerate(ended):
        for objective, value in zip(report.objectives, row.values or (), strict=False):
            found.append(Point(f"objective/{objective.metric}", value, time_ms(row.ended), place))
    if len(report.objectives) == 1:
        for place, row in best_so_far(report):
            numbers = {report.objectives[0].metric: (row.values or (0.0,))[0], **_numbers(row)}
            found += [
                Point(f"best/{name}", value, time_ms(ended[place].ended), place)
                for name, value in numbers.items()
            ]
    return found


def _numbers(row: Row) -> dict[str, float]:
    values = {name: value for name, value in row.params.items() if not isinstance(value, bool)}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def time_ms(moment: datetime | None) -> int:
    """Unix time in milliseconds; 0 where there is none."""
    return int(moment.timestamp() * 1000) if moment else 0


def note(report: Report) -> str:
    """Markdown: how it went, the best trials, and what to do next."""
    names, objectives = list(report.distributions), report.objectives
    columns = ["trial", *(one.metric for one in objectives), *names]
    rows = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    ranked = report.ranked
    if len(objectives) > 1:
        ranked = tuple(sorted(ranked, key=report.cost))
    for row in ranked[:_SHOWN_TRIALS]:
        cells = [str(row.number), *(f"{value:.6g}" for value in row.values or ())]
        cells += [value_text(row.params.get(name)) for name in names]
        rows.append("| " + " | ".join(cells) + " |")
    lines = [f"**{outcome(report)}**", "", *(rows if ranked else ["No trial is complete yet."]), ""]
    lines += [f"- {line}" for line in report.notes]
    commands = [f"    bit-axon sweep show {report.name}", f"    bit-axon sweep best {report.name} --run"]
    return "\n".join([*lines, "", "Look again, and train with the best:", "", *commands])
