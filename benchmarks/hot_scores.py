"""Studies of `hot_study` by several rules and in many orders, counted."""

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.hot_study import (
    BLAMING,
    COLD,
    CONFIGS,
    PLAIN,
    PLAIN_COLD,
    PRODUCT,
    UNCOOLED,
    Done,
    Rules,
    run_study,
)

ARMS = (COLD, PRODUCT, UNCOOLED, BLAMING, PLAIN_COLD, PLAIN)
BEST = tuple(sorted(CONFIGS, key=lambda rank: CONFIGS[rank].final_loss))
TOP = 3


@dataclass(frozen=True)
class Score:
    """How studies by the same rules went, over all orders; counts of studies.

    Attributes:
        rules: their name.
        studies: one for each order.
        same_ranking: as on machines that had rested before every trial.
        best_first: the best config was ranked first.
        lost_good: one of the three best was pruned that was not on rested machines.
        minutes: mean length.
        slowdown: mean time of a trial that ran to its end, as a multiple of its time on a rested machine.
    """

    rules: str
    studies: int
    same_ranking: int
    best_first: int
    lost_good: int
    minutes: float
    slowdown: float

    @property
    def row(self) -> str:
        """A line of the table."""
        counts = f"{self.same_ranking} | {self.best_first} | {self.lost_good}"
        return f"| {self.rules} | {counts} | {self.minutes:.0f} | {self.slowdown:.2f} |"


HEADER = (
    "| study | ranking as on rested machines | best config ranked first | a config of the best three lost to "
    "heat or clock | mean minutes | time of a trial |\n" + "| --- " * 6 + "|"
)


def order_of(seed: int) -> list[int]:
    """The configs, shuffled."""
    order = sorted(CONFIGS)
    random.Random(seed).shuffle(order)
    return order


def run_arms(seed: int, arms: Sequence[Rules] = ARMS) -> dict[str, Done]:
    """The studies of one order, by the names of their rules."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            rules.name: run_study(rules, order_of(seed), Path(folder) / str(number), seed)
            for number, rules in enumerate(arms)
        }


def score(rules: Rules, found: Sequence[Mapping[str, Done]]) -> Score:
    """How these rules did; each item holds the studies of one order, `COLD` among them."""
    studies = [(studies[rules.name], studies[COLD.name]) for studies in found]
    return Score(
        rules.name,
        len(studies),
        same_ranking=sum(study.ranking() == cold.ranking() for study, cold in studies),
        best_first=sum(study.ranking()[0] == BEST[0] for study, _ in studies),
        lost_good=sum(bool((study.pruned() - cold.pruned()) & {*BEST[:TOP]}) for study, cold in studies),
        minutes=fmean(study.minutes for study, _ in studies),
        slowdown=fmean(ratio for study, cold in studies for ratio in _slowdowns(study, cold)),
    )


def _slowdowns(study: Done, cold: Done) -> list[float]:
    rested = {tried.known.rank: tried.seconds for tried in cold.tried if not tried.pruned_by}
    whole = [tried for tried in study.tried if not tried.pruned_by and tried.known.rank in rested]
    return [tried.seconds / rested[tried.known.rank] for tried in whole]
