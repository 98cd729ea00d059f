"""A pruner around another one: quality decides first, and what quality lets pass may still be too hot."""

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from bit_axon.sweep.thermal.heat import HeatBudget
from bit_axon.sweep.thermal.heat_rules import judge

THERMAL_BUDGET = "thermal_budget"


class HeatPruner(BasePruner):
    """Prunes what `inner` prunes, and trials over the heat budget.

    A trial is judged by its attributes `start` (how cool it began, `Start.attributes`) and `heat` (what it
    has cost so far, `HeatWatch.facts`), which are to be there before it asks. One that did not start cool,
    shared the machine, has no sensor, or searches no parameter that changes the work is never pruned for
    heat.

    Use it where trials ask, and `inner` alone where they are sampled: samplers look for a bare
    `HyperbandPruner` in the study.

    Args:
        inner: judges quality.
        budget: of heat.
    """

    def __init__(self, inner: BasePruner, budget: HeatBudget):
        self._inner, self._budget = inner, budget
        self._reason: str | None = None

    @property
    def inner(self) -> BasePruner:
        """What judges quality."""
        return self._inner

    @property
    def reason(self) -> str | None:
        """`thermal_budget` if the last answer was yes because of heat; None otherwise."""
        return self._reason

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to end."""
        self._reason = None
        if self._inner.prune(study, trial):
            return True
        excess = judge(trial, study.get_trials(deepcopy=False), self._budget)
        if excess is not None and excess[1] > 0.0:
            self._reason = THERMAL_BUDGET
        return self._reason is not None
