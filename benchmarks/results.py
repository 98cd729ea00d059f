"""From measured blocks to the numbers of a report, and to JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.blocks import METRICS, Spread, rate, ratios, spread, values_of
from benchmarks.cases import Case, Comparison, Target
from benchmarks.contestants import NOT_INSTALLED, PEERS
from benchmarks.measuring import Measured

_RATES = ("real_tokens", "supervised_tokens", "examples")


@dataclass(frozen=True)
class Line:
    """One comparison's outcome; `problem` says why there are no numbers."""

    scenario: str
    model: str
    what: str
    metric: str
    peer: str
    peer_value: Spread | None
    our_value: Spread | None
    ratio: Spread | None
    ratios: tuple[float, ...]
    rounds: int
    target: Target | None
    problem: str | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one, or without numbers."""
        if self.target is None or self.ratio is None:
            return None
        return self.target.is_met(self.ratio.median)


@dataclass(frozen=True)
class CaseResult:
    """A case with what was measured; absent contestants are those that are not installed."""

    case: Case
    measured: Mapping[str, Measured]

    def lines(self) -> list[Line]:
        """One for each comparison."""
        return [self._line(comparison) for comparison in self.case.comparisons]

    def failures(self) -> list[str]:
        """What went wrong with whom."""
        found = [(label, m.failure) for label, m in self.measured.items() if m.failure]
        return [f"{self.case.model}, {self.case.title}, {label}: {reason}" for label, reason in found]

    def _line(self, comparison: Comparison) -> Line:
        ours, peer = self.measured.get(comparison.ours), self.measured.get(comparison.peer)
        trouble = _problem(ours, peer)
        our_blocks = ours.rounds if ours and not trouble else []
        peer_blocks = peer.rounds if peer and not trouble else []
        found = ratios(our_blocks, peer_blocks, comparison.metric)
        if not found and not trouble:
            trouble = "no steady step: raise --steps"
        peer_name = comparison.peer.split()[0]
        return Line(
            scenario=self.case.scenario,
            model=self.case.model,
            what=comparison.what,
            metric=comparison.metric,
            peer=PEERS[peer_name].title if peer_name in PEERS else peer_name,
            peer_value=spread(values_of(peer_blocks, comparison.metric)),
            our_value=spread(values_of(our_blocks, comparison.metric)),
            ratio=spread(found),
            ratios=tuple(found),
            rounds=min(len(our_blocks), len(peer_blocks)),
            target=comparison.target,
            problem=trouble,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, round by round."""
        return {
            "scenario": self.case.scenario,
            "model": self.case.model,
            "title": self.case.title,
            "contestants": {label: contestant_json(m) for label, m in self.measured.items()},
            "comparisons": [asdict(line) | {"met": line.is_met} for line in self.lines()],
        }


def _problem(ours: Measured | None, peer: Measured | None) -> str | None:
    if ours is None or peer is None:
        return NOT_INSTALLED
    failed = ours.failure or peer.failure
    return f"failed: {failed}" if failed else None


def contestant_json(found: Measured) -> dict[str, Any]:
    """A contestant's set-up, its first steps and every round."""
    first = found.all_steps[0]["seconds"] if found.all_steps else None
    return {
        "peer": found.contestant.peer,
        "versions": dict(found.ready.get("versions", {})),
        "setup_seconds": found.ready.get("setup_seconds"),
        "first_step_seconds": first,
        "failure": found.failure,
        "including_compile": {f"{name}_per_second": rate(found.all_steps, name) for name in _RATES},
        "rounds": [{name: measure(block) for name, measure in METRICS.items()} for block in found.rounds],
        "step_seconds": [[step["seconds"] for step in block.steps] for block in found.rounds],
        **step_facts(found),
    }


def step_facts(found: Measured) -> dict[str, float | None]:
    """Means over all steps: what a step holds, and how much of it is padding."""
    steps: Sequence[Mapping[str, Any]] = found.all_steps
    if not steps:
        return {"examples_per_step": None, "real_tokens_per_step": None, "padding_share": None}
    real = sum(step["real_tokens"] for step in steps)
    return {
        "examples_per_step": sum(step["examples"] for step in steps) / len(steps),
        "real_tokens_per_step": real / len(steps),
        "padding_share": 1 - real / sum(step["positions"] for step in steps),
    }
