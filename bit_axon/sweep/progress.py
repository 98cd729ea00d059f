"""A trial's end in one line of the console."""

from collections.abc import Mapping, Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bit_axon.sweep.reporting.labels import short_names, value_text
from bit_axon.sweep.studies.counting import MESSAGE, REASON

_MESSAGE_CHARACTERS = 120


def trial_line(
    trial: FrozenTrial,
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    counted: int,
    n_trials: int,
) -> str:
    """What came of a trial, the best one so far, and how far the study is."""
    names = short_names(list(trial.params))
    params = " ".join(f"{names[key]}={value_text(value)}" for key, value in trial.params.items())
    parts = [f"trial {trial.number}: {_outcome(trial)}", params]
    if len(directions) == 1 and (best := _best(trials, directions[0])) is not None:
        parts.append(f"best {best.values[0]:.4g} (trial {best.number})")
    parts.append(f"{counted} of {n_trials}")
    return "; ".join(parts)


def _outcome(trial: FrozenTrial) -> str:
    facts: Mapping[str, object] = trial.user_attrs
    if trial.state is TrialState.COMPLETE:
        return ", ".join(f"{value:.4g}" for value in trial.values)
    if trial.state is TrialState.PRUNED:
        last = trial.last_step
        seen = "" if last is None else f" at step {last} with {trial.intermediate_values[last]:.4g}"
        return f"pruned{seen} ({facts.get(REASON, 'pruned')})"
    reason, message = facts.get(REASON, "failed"), str(facts.get(MESSAGE) or "")
    return f"failed ({reason}{': ' + message[:_MESSAGE_CHARACTERS] if message else ''})"


def _best(trials: Sequence[FrozenTrial], direction: StudyDirection) -> FrozenTrial | None:
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    feasible = [trial for trial in complete if all(v <= 0 for v in trial.constraints.values())]
    sign = -1.0 if direction is StudyDirection.MAXIMIZE else 1.0
    return min(feasible, key=lambda trial: sign * trial.values[0], default=None)
