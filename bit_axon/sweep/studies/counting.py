"""Which trials count: one that died of no fault of its parameters is run again and takes no second place.

A *chain* is a trial and its retries, each marked `retry_of` the one before. A chain takes one of the
`n_trials` places, and counts once its last trial is COMPLETE, PRUNED, or a FAIL that is final.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from bit_axon.sweep.thermal.heat_rules import stopped_again

RETRYABLE: Final = frozenset({"killed", "lost", "storage", "interrupted", "thermal_stop"})
UNCHARGED: Final = frozenset({"interrupted", "thermal_stop"})  # retried whatever `retries` is ...
MOST_UNCHARGED: Final = 10  # ... but not for ever

RETRY_OF: Final = "retry_of"
REASON: Final = "reason"
MESSAGE: Final = "message"
OWNER: Final = "owner"
RUN_DIR: Final = "run_dir"  # of the trial, on the machine that ran it
OVERRIDES: Final = "overrides"  # that it was launched with
SWEEPER_BEAT: Final = "sweeper_beat"  # unix seconds: the sweeper waits for the trial and will tell its end


@dataclass(frozen=True)
class Tally:
    """A study, counted."""

    started: int  # chains whose first trial was begun
    queued: int  # trials put in by hand that wait for their turn
    retries: int  # retries that wait for their turn
    running: tuple[FrozenTrial, ...]
    counted: int  # chains that have ended for good
    to_retry: tuple[FrozenTrial, ...]  # trials to be run again that are not in the queue yet

    def has_place(self, n_trials: int) -> bool:
        """Whether one more trial may begin."""
        return self.counted < n_trials and (self.retries > 0 or self.started < n_trials)


def tally(trials: Sequence[FrozenTrial], retries: int) -> Tally:
    """Counts a study's trials, of which each may be run again `retries` times."""
    by_number = {trial.number: trial for trial in trials}
    followed = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    last = [trial for trial in trials if trial.number not in followed]
    ended = [trial for trial in last if trial.state.is_finished()]
    again = tuple(trial for trial in ended if _is_to_retry(trial, by_number, retries))
    first = [trial for trial in trials if RETRY_OF not in trial.user_attrs]
    waiting = [trial for trial in trials if trial.state is TrialState.WAITING]
    queued = sum(RETRY_OF not in trial.user_attrs for trial in waiting)
    return Tally(
        started=len(first) - queued,
        queued=queued,
        retries=len(waiting) - queued,
        running=tuple(trial for trial in trials if trial.state is TrialState.RUNNING),
        counted=len(ended) - len(again),
        to_retry=again,
    )


def _is_to_retry(trial: FrozenTrial, by_number: dict[int, FrozenTrial], retries: int) -> bool:
    if trial.state is not TrialState.FAIL or trial.user_attrs.get(REASON) not in RETRYABLE:
        return False
    if stopped_again(trial, by_number.values()):
        return False
    # A trial that was asked for but never had an owner has not been tried.
    reasons = [each.user_attrs.get(REASON) for each in _chain(trial, by_number) if OWNER in each.user_attrs]
    uncharged = sum(reason in UNCHARGED for reason in reasons)
    return len(reasons) - uncharged <= retries and uncharged <= MOST_UNCHARGED


def _chain(trial: FrozenTrial, by_number: dict[int, FrozenTrial]) -> Iterator[FrozenTrial]:
    """The trial, the one it repeats, and so on to the first."""
    current: FrozenTrial | None = trial
    while current is not None:
        yield current
        current = by_number.get(current.user_attrs.get(RETRY_OF, -1))
