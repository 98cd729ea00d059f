"""A study of ten configs with known losses on a simulated fanless laptop, tried one after the other.

The machine, its clock and its sensors are simulated, and it stays as warm as the trial before left it. The
thermal limits of a trial, its trace, the cool-down and the pruners are those of a sweep.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner, MedianPruner
from optuna.trial import Trial, TrialState

from bit_axon.profiling.clock import VirtualClock
from bit_axon.profiling.rc_model import PRESETS
from bit_axon.profiling.reading import Reading
from bit_axon.profiling.sensors.registry import Choice
from bit_axon.profiling.sensors.simulated import SimulatedSource
from bit_axon.profiling.simulation import SimulatedMachine
from bit_axon.profiling.thermal import ThermalMonitor
from bit_axon.profiling.trace import TRACE_FILE, read_trace
from bit_axon.schema import ThermalConfig
from bit_axon.sweep.thermal.cooldown import Cooldown
from bit_axon.sweep.thermal.heat import HeatBudget, HeatWatch
from bit_axon.sweep.thermal.heat_pruner import HeatPruner
from bit_axon.sweep.thermal.heat_rules import HEAT, START
from bit_axon.sweep.thermal.starts import CooldownOptions, Sensing
from bit_axon.training.cooling.assembly import ThermalSetup, session
from bit_axon.training.cooling.gates import Gate
from bit_axon.training.cooling.thresholds import thresholds_of

RANK: Final = "adapter.rank"
UPDATES: Final = 100
UPDATES_PER_REPORT: Final = 10
SECONDS_PER_REPORT: Final = 60.0  # where time is counted instead
STARTUP_TRIALS: Final = 3  # complete ones, before the median prunes
EVALUATION_SECONDS = 3.0  # of work
# In hours. From a cold start every config needs less than that, and from a hot one most need more.
BUDGET: Final = HeatBudget(hours=0.14)

Temps = list[tuple[float, float]]  # seconds since the study began, °C


@dataclass(frozen=True)
class Known:
    """A config whose loss is known after any number of updates; the losses of two never cross."""

    rank: int
    final_loss: float
    update_seconds: float  # of work, at full clock

    def loss(self, updates: int) -> float:
        """After so many updates: from 2.5 down to `final_loss`."""
        return self.final_loss + (2.5 - self.final_loss) / (1.0 + updates / 12.0)


CONFIGS: Final = {
    known.rank: known
    for known in (
        Known(2, 1.24, 1.80), Known(4, 1.12, 1.84), Known(6, 1.04, 1.88), Known(8, 0.96, 1.92),
        Known(12, 0.92, 1.96), Known(16, 0.84, 2.00), Known(24, 0.80, 2.06), Known(32, 0.88, 2.12),
        Known(48, 1.00, 2.20), Known(64, 1.08, 2.26),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """How a study is run.

    Attributes:
        name: shown.
        cold: every trial gets a machine that has rested; otherwise all share one.
        cools_down: before each trial.
        counts_time: reports come by the minute, not by the update.
        budget: of heat.
        claims_cool: heat is held against every trial, however it started.
    """

    name: str
    cold: bool = False
    cools_down: bool = False
    counts_time: bool = False
    budget: HeatBudget | None = None
    claims_cool: bool = False

    def pruner(self) -> BasePruner:
        median = MedianPruner(n_startup_trials=STARTUP_TRIALS)
        return median if self.budget is None else HeatPruner(median, self.budget)


COLD: Final = Rules("rested machines, by updates", cold=True, budget=BUDGET)
PRODUCT: Final = Rules("cool-down, by updates", cools_down=True, budget=BUDGET)
PLAIN: Final = Rules("no cool-down, by the clock", counts_time=True)
PLAIN_COLD: Final = Rules("rested machines, by the clock", cold=True, counts_time=True)
UNCOOLED: Final = Rules("no cool-down, by updates", budget=BUDGET)
BLAMING: Final = Rules("no cool-down, by updates, heat held against all", budget=BUDGET, claims_cool=True)


class Machine:
    """A simulated laptop, watched between trials and worked on in them."""

    def __init__(self, seed: int):
        self.clock = VirtualClock()
        self.simulated = SimulatedMachine(PRESETS["fanless_air"], self.clock, seed=seed, work_seconds=1.0)
        self.config = ThermalConfig(source="simulated")
        self.thresholds = thresholds_of(self.config)
        self.cooldown = Cooldown(CooldownOptions(), self._sensing, self.clock)
        self.temps: Temps = []

    @contextmanager
    def run(self, folder: Path) -> Iterator[Gate]:
        """The thermal limits of one run, which leaves its trace in the folder."""
        choice = Choice((SimulatedSource(self.simulated),), detail="simulated")
        setup = ThermalSetup(self.config, self.clock, choice, self.thresholds, self.simulated)
        folder.mkdir(parents=True)
        began = self.clock.monotonic()
        with session(setup, folder, folder.name, say=lambda text: None) as found:
            yield found.gate
            found.gate.rest("idle", UPDATES)
        polls = (row for row in read_trace(folder / TRACE_FILE) if not row.action)
        self.temps += [(began + row.t_mono_s, row.temp_ctrl_c) for row in polls]

    @contextmanager
    def _sensing(self) -> Iterator[Sensing | None]:
        source = SimulatedSource(self.simulated)
        with ThermalMonitor(sources=(source,), clock=self.clock, on_reading=self._on_reading) as monitor:
            yield Sensing(monitor, "simulated", warm_temp=self.thresholds.warm)

    def _on_reading(self, reading: Reading) -> None:
        if reading.temp_ctrl_c is not None:
            self.temps.append((reading.t_mono_s, reading.temp_ctrl_c))


@dataclass(frozen=True)
class Tried:
    """One trial, as it went; times in seconds.

    Attributes:
        known: its config.
        step: of its last report: updates, or minutes.
        value: its last.
        pruned_by: median or thermal_budget; empty = it ran to its end.
        began: since the study began.
        seconds: it took.
        start_temp: the true one, °C.
        waited_seconds: before it.
    """

    known: Known
    step: int
    value: float
    pruned_by: str
    began: float
    seconds: float
    start_temp: float
    waited_seconds: float


@dataclass(frozen=True)
class Done:
    """A whole study: its trials in order, and what its machine's sensor showed."""

    tried: tuple[Tried, ...]
    temps: Temps

    def ranking(self) -> list[int]:
        """Best first: complete ones by value, then pruned ones, first those that came further."""

        def place(tried: Tried) -> tuple[bool, int, float]:
            pruned = bool(tried.pruned_by)
            return pruned, -tried.step if pruned else 0, tried.value

        return [tried.known.rank for tried in sorted(self.tried, key=place)]

    def pruned(self) -> set[int]:
        """Those that did not get to their end."""
        return {tried.known.rank for tried in self.tried if tried.pruned_by}

    @property
    def minutes(self) -> float:
        """Of everything."""
        return sum(tried.seconds + tried.waited_seconds for tried in self.tried) / 60


def run_study(rules: Rules, order: Sequence[int], folder: Path, seed: int = 0) -> Done:
    """Tries the configs in this order; `seed` is that of the sensors' noise."""
    study = optuna.create_study(pruner=rules.pruner())
    tried, machine = list[Tried](), Machine(seed)
    for number, rank in enumerate(order):
        if rules.cold and number:
            machine = Machine(seed + number)
        study.enqueue_trial({RANK: rank})
        trial = study.ask({RANK: CategoricalDistribution(sorted(CONFIGS))})
        waited = _start(trial, rules, machine)
        tried.append(_finish(study, trial, rules, machine, folder / str(number), waited))
    return Done(tuple(tried), machine.temps)


def _start(trial: Trial, rules: Rules, machine: Machine) -> float:
    """Waits, or not, and notes how the trial starts; returns seconds."""
    if rules.claims_cool:
        trial.set_user_attr(START, {"cool": True})
    if not (rules.cools_down or rules.cold):
        return 0.0
    start = machine.cooldown.wait()
    for name, value in start.attributes().items():
        trial.set_user_attr(name, value)
    return start.waited_seconds


def _finish(
    study: optuna.Study, trial: Trial, rules: Rules, machine: Machine, folder: Path, waited: float
) -> Tried:
    known = CONFIGS[trial.params[RANK]]
    began, temp = machine.clock.monotonic(), machine.simulated.sensor_temp
    with machine.run(folder) as gate:
        watch = HeatWatch(folder / TRACE_FILE, machine.thresholds.pause, UPDATES, rules.budget or BUDGET)
        pruned_by = _train(trial, known, rules, machine.clock, gate, watch)
    end = machine.clock.monotonic()
    state = TrialState.PRUNED if pruned_by else TrialState.COMPLETE
    told = study.tell(trial, None if pruned_by else known.loss(UPDATES), state)
    assert told.value is not None and told.last_step is not None
    return Tried(known, told.last_step, told.value, pruned_by, began, end - began, temp, waited)


def _train(
    trial: Trial, known: Known, rules: Rules, clock: VirtualClock, gate: Gate, watch: HeatWatch
) -> str:
    """Works, reports and asks; returns what pruned it, if anything did."""
    began, last = clock.monotonic(), 0
    for done in range(UPDATES + 1):
        minutes = int((clock.monotonic() - began) / SECONDS_PER_REPORT)
        step = minutes if rules.counts_time else done - done % UPDATES_PER_REPORT
        if step > last:
            last = step
            gate.check("eval", done, share=EVALUATION_SECONDS)
            trial.set_user_attr(HEAT, watch.facts(done))
            trial.report(known.loss(done), step)
            if trial.should_prune():
                pruner = trial.study.pruner
                return (pruner.reason if isinstance(pruner, HeatPruner) else None) or "median"
        if done < UPDATES:
            gate.check("train", done + 1, share=known.update_seconds)
            gate.after_step(done + 1, 1000, 1000 * (done + 1), "shape", compiled=False)
    return ""
