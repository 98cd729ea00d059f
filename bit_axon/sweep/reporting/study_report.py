"""A study as a report: its trials with their states, as whoever goes on with the study would see them."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bit_axon.sweep.reporting.report import Objective, Report, Row, State
from bit_axon.sweep.studies import lease
from bit_axon.sweep.studies.counting import OVERRIDES, OWNER, REASON, RETRY_OF, RUN_DIR, SWEEPER_BEAT, tally
from bit_axon.sweep.studies.study import SETTINGS
from bit_axon.sweep.thermal.heat_report import heat_report
from bit_axon.sweep.thermal.heat_rules import START, START_TEMP

_STATES: Final[Mapping[TrialState, State]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_SILENT_SECONDS: Final = 600.0  # without a sign of life


def study_report(study: Study, folder: Path | None = None, *, now: datetime | None = None) -> Report:
    """Reads a study; see `Report`.

    Args:
        study: of this product, or of another program.
        folder: of the sweep, as it was found; it may have been moved.
        now: the time, for trials that have not ended.
    """
    moment = now or datetime.now()
    trials = [_with_its_end(trial, moment) for trial in study.get_trials(deepcopy=False)]
    settings = study.user_attrs.get(SETTINGS) or {}
    places = [Path(place) for place in (folder, settings.get("sweep_dir")) if place]
    due = {trial.number for trial in tally(trials, _retries(settings)).to_retry}
    again = due | {trial.user_attrs.get(RETRY_OF) for trial in trials}
    rows = [_row(trial, trial.number in again, places, moment) for trial in trials]
    wanted = settings.get("n_trials")
    objectives = _objectives(study, settings)
    return Report(
        name=str(settings.get("name") or study.study_name),
        kind="study",
        objectives=objectives,
        rows=tuple(replace(row, is_due=True) if row.number in due else row for row in rows),
        distributions=_distributions(trials),
        settings=settings,
        wanted=wanted if isinstance(wanted, int) else None,
        notes=tuple(heat_report(trials, objectives[0].metric).lines()),
    )


def _retries(settings: Mapping[str, Any]) -> int:
    known = settings.get("retries")
    return known if isinstance(known, int) else 1


def _with_its_end(trial: FrozenTrial, now: datetime) -> FrozenTrial:
    """A trial whose process is gone as the next worker will end it; it has no time of ending yet."""
    if trial.state is not TrialState.RUNNING or not _is_lost(trial, now):
        return trial
    lost = copy.copy(trial)
    lost.state = TrialState.FAIL
    lost.user_attrs = {**trial.user_attrs, REASON: "lost"}
    return lost


def _is_lost(trial: FrozenTrial, now: datetime) -> bool:
    owner = trial.user_attrs.get(OWNER)
    if owner is None:  # it is given one as soon as it was asked for
        began = trial.datetime_start or now
        return (now - began).total_seconds() > lease.STALE_SECONDS
    if not {"host", "pid", "started", "sweeper"} <= set(owner):
        return False
    return not lease.is_alive({**owner, "beat": _beat(trial) or 0.0}, now.timestamp())


def _beat(trial: FrozenTrial) -> float | None:
    """Unix time of the last sign of life: of the trial's process, or the sweeper that waits for it."""
    owner = trial.user_attrs.get(OWNER)
    own = owner.get("beat") if isinstance(owner, Mapping) else None
    known = [beat for beat in (own, trial.user_attrs.get(SWEEPER_BEAT)) if isinstance(beat, int | float)]
    return max(known, default=None)


def _objectives(study: Study, settings: Mapping[str, Any]) -> tuple[Objective, ...]:
    declared = settings.get("objectives")
    names = [str(one["metric"]) for one in declared or ()] or study.metric_names
    names = names or [f"value {place}" for place in range(len(study.directions))]
    maximized = [direction == StudyDirection.MAXIMIZE for direction in study.directions]
    pairs = zip(names, maximized, strict=True)
    return tuple(Objective(name, "maximize" if upward else "minimize") for name, upward in pairs)


def _distributions(trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Of each param the newest one, since a range may have been widened."""
    return {name: known for trial in trials for name, known in trial.distributions.items()}


def _row(trial: FrozenTrial, is_again: bool, places: Iterable[Path], now: datetime) -> Row:
    notes = trial.user_attrs
    state = _STATES[trial.state]
    over = [name for name, value in trial.constraints.items() if value > 0] if trial.constraints else []
    row = Row(
        number=trial.number,
        state="retried" if state == "failed" and is_again else state,
        reason=str(notes.get(REASON) or ""),
        values=tuple(trial.values) if state == "complete" else None,
        params=trial.params or trial.system_attrs.get("fixed_params", {}),
        curve=dict(trial.intermediate_values),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        run_dir=_run_dir(trial, places),
        noted_dir=Path(notes[RUN_DIR]) if notes.get(RUN_DIR) else None,
        start_temp_c=notes.get(START_TEMP),
        waited_seconds=_waited_seconds(notes.get(START)),
        retry_of=notes.get(RETRY_OF),
        is_feasible=not over,
        overrides=tuple(notes[OVERRIDES]) if OVERRIDES in notes else None,
    )
    if over:
        return replace(row, reason=f"over its limit: {', '.join(over)}")
    if state == "running" and (silent := _silence(trial, now)) is not None:
        return replace(row, reason=f"no sign of life for {silent // 60:.0f} min")
    return row


def _run_dir(trial: FrozenTrial, places: Iterable[Path]) -> Path | None:
    """Where the trial says it ran; else where a sweep puts it: the folder may have been moved.

    What is nowhere here ran on another machine, and is named as it was there.
    """
    noted = [Path(trial.user_attrs[RUN_DIR])] if trial.user_attrs.get(RUN_DIR) else []
    usual = [place / str(trial.number) for place in places]
    return next((path for path in (*noted, *usual) if path.is_dir()), next(iter(noted), None))


def _waited_seconds(start: Any) -> float:
    waited = start.get("waited_seconds") if isinstance(start, Mapping) else None
    return float(waited) if isinstance(waited, int | float) else 0.0


def _silence(trial: FrozenTrial, now: datetime) -> float | None:
    """Seconds since the last sign of life, when they are too many."""
    beat = _beat(trial)
    seconds = 0.0 if beat is None else now.timestamp() - beat
    return seconds if seconds > _SILENT_SECONDS else None
