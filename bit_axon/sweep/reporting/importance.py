"""How much each parameter mattered, from a report alone: the same for a study and for a grid."""

import optuna
from optuna.importance import get_param_importances
from optuna.trial import TrialState, create_trial

from bit_axon.sweep.reporting.report import Report, Row

_FEWEST_TRIALS = 4


def importances(report: Report, objective: int = 0) -> dict[str, float]:
    """Share of each parameter in the spread of an objective, largest first; empty when too little is known.

    Optuna's default measure (PED-ANOVA; Watanabe, Bansal and Hutter, arXiv:2304.10255).
    """
    if not report.is_ranked:
        return {}
    rows = [row for row in report.rows if row.state == "complete" and row.values and _is_whole(report, row)]
    values = {row.values[objective] for row in rows if row.values}
    if len(rows) < _FEWEST_TRIALS or len(values) < 2:
        return {}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction=report.objectives[objective].direction)
        study.add_trials([_trial(report, row, objective) for row in rows])
        return {name: float(share) for name, share in get_param_importances(study).items()}
    except (ValueError, RuntimeError, ZeroDivisionError):
        return {}  # all trials alike in their params
    finally:
        optuna.logging.set_verbosity(verbosity)


def _is_whole(report: Report, row: Row) -> bool:
    """Whether the trial has every param: one may have been added to the study by hand."""
    return set(row.params) == set(report.distributions)


def _trial(report: Report, row: Row, objective: int) -> optuna.trial.FrozenTrial:
    assert row.values is not None
    return create_trial(
        state=TrialState.COMPLETE,
        value=row.values[objective],
        params=dict(row.params),
        distributions=dict(report.distributions),
    )
