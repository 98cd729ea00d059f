"""`hydra.sweeper.*`, checked: what a sweep searches, how, for how long, and what its study remembers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from annotated_types import MinLen

from bit_axon.errors import ConfigError, nearest, problem
from bit_axon.schema import Count, Positive, PositiveInt, options
from bit_axon.sweep.config.fingerprint import fixed_values
from bit_axon.sweep.config.named import pick
from bit_axon.sweep.config.pruners import PRUNER_KEY, PRUNERS, build_pruner
from bit_axon.sweep.config.samplers import SAMPLER_KEY, SAMPLERS
from bit_axon.sweep.config.space import Space
from bit_axon.sweep.thermal.heat import HeatBudget, parse_budget
from bit_axon.sweep.thermal.starts import CooldownOptions
from bit_axon.validation import check

SWEEPER_KEY: Final = "hydra.sweeper"
VERSION: Final = 1
FIGURES: Final = (
    "peak_memory_bytes",
    "seconds",  # in all
    "seconds.setup",
    "seconds.train_active",
    "seconds.paused",
    "seconds.eval",
    "seconds.save",
    "trainable_parameters",
    "examples",
    "tokens",
    "epoch",
    "step",
    "grad_norm",
    "thermal.max",
    "thermal.mean",
    "thermal.overhead",
    "thermal.degree_seconds_above_pause",
)  # of result.json, where less is better


@options
class Objective:
    """A figure of result.json, and which way is better."""

    metric: Annotated[str, MinLen(1)] = "eval_loss_best"
    direction: Literal["minimize", "maximize"] = "minimize"


@options
class SweepSettings:
    """What `hydra.sweeper` holds. Made by `read_settings`, which checks what lies deeper too."""

    study_name: Annotated[str, MinLen(1)] = "study"
    storage: str | None = None  # null: a SQLite file in the sweep's folder
    n_trials: PositiveInt = 20  # in all, over every start and every worker
    timeout_minutes: Positive | None = None  # no trial starts later than this
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "tpe", "seed": 0})
    pruner: dict[str, Any] = field(default_factory=lambda: {"name": "median"})  # by quality, without heat
    objectives: Annotated[list[Objective], MinLen(1)] = field(default_factory=lambda: [Objective()])
    params: dict[str, Any] = field(default_factory=dict)  # override values by key
    constraints: dict[str, float] = field(default_factory=dict)  # the largest value of figures
    retries: Count = 1  # of a trial that was killed, lost or interrupted
    max_failures: PositiveInt = 5  # in a row, then the sweep ends
    trial_minutes: Positive | None = None  # a trial that takes longer has failed
    cooldown: CooldownOptions = field(default_factory=CooldownOptions)
    heat_budget: dict[str, Any] | None = None  # of a trial that started cool

    @property
    def budget(self) -> HeatBudget | None:
        """The heat budget, if there is one."""
        return None if self.heat_budget is None else parse_budget(self.heat_budget)

    @property
    def directions(self) -> list[str]:
        """Of the objectives, in order."""
        return [objective.direction for objective in self.objectives]

    @property
    def trial_pruner(self) -> dict[str, Any]:
        """The spec of the pruner that trials ask: `pruner`, within the heat budget where there is one."""
        if self.heat_budget is None or len(self.objectives) > 1:
            return self.pruner
        return {"name": "thermal", "wrapped": self.pruner, "budget": self.heat_budget}

    def fingerprint(self, space: Space, fixed: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
        """What may not change while a study goes on; see `study_attributes`."""
        return {
            "space": space.fingerprint(),
            "fixed": fixed_values(fixed, space.distributions, space.fixed),
            "objectives": {each.metric: each.direction for each in self.objectives},
            "constraints": dict(self.constraints),
        }

    def study_attributes(
        self, space: Space, fixed: Mapping[str, Any] | Sequence[str], *, sweep_dir: Path | str | None = None
    ) -> dict[str, Any]:
        """The study's attribute `bit_axon`: plain JSON, and never the storage, whose URL may hold a password.

        Args:
            space: what is searched.
            fixed: what all trials share: the composed config as nested or dotted keys, or overrides.
                Keys that are searched are left out, and so are those below a searched group which no
                override sets.
            sweep_dir: the sweep's folder.
        """
        attributes = {
            "version": VERSION,
            "name": self.study_name,
            "n_trials": self.n_trials,
            "retries": self.retries,
            "fingerprint": self.fingerprint(space, fixed),
            "objectives": [{"metric": o.metric, "direction": o.direction} for o in self.objectives],
            "constraints": dict(self.constraints),
            "pruner": self.trial_pruner,
            "sampler": self.sampler,
            "heat_budget": self.heat_budget,
            "sweep_dir": None if sweep_dir is None else str(sweep_dir),
        }
        plain: dict[str, Any] = json.loads(json.dumps(attributes))
        return plain


@dataclass(frozen=True)
class ReadSettings:
    """Checked settings, and what is to be said about them."""

    settings: SweepSettings
    notes: tuple[str, ...]


def read_settings(values: Mapping[str, Any], *, study_name: str = "study") -> ReadSettings:
    """Checks `hydra.sweeper`.

    Args:
        values: plain values of `hydra.sweeper.*`; Hydra's own `_target_` and such are passed over.
        study_name: where `values` have none.

    Raises:
        ConfigError: a key, value or combination is wrong; it names every such key.
    """
    given = {key: value for key, value in values.items() if not key.startswith("_")}
    if given.get("study_name") is None:
        given["study_name"] = study_name
    for name, nothing in (("sampler", "tpe"), ("pruner", "nop")):
        spec = given.get(name, {})
        if spec is None or isinstance(spec, str):
            given[name] = {"name": spec or nothing}
    settings = _without_thermal(check(SweepSettings, given, path=SWEEPER_KEY))
    _check_objectives(settings)
    _check_constraints(settings)
    pick(SAMPLERS, settings.sampler, SAMPLER_KEY)
    build_pruner(settings.pruner)
    if settings.heat_budget is not None:
        parse_budget(settings.heat_budget)
    if len(settings.objectives) == 1 or settings.pruner["name"] in ("nop", "none"):
        return ReadSettings(settings, ())
    note = (
        f"{len(settings.objectives)} objectives: trials are not pruned, pruner={settings.pruner['name']} "
        "is not used"
    )
    return ReadSettings(replace(settings, pruner={"name": "nop"}), (note,))


def _without_thermal(settings: SweepSettings) -> SweepSettings:
    """A `thermal` pruner as what it is made of: a pruner by quality, and a heat budget."""
    if settings.pruner.get("name") != "thermal":
        return settings
    if settings.heat_budget is not None:
        got = "hydra.sweeper.heat_budget beside pruner.name=thermal"
        text = problem("one heat budget", got, f"Leave out {PRUNER_KEY}.", where=PRUNER_KEY)
        raise ConfigError(text, [PRUNER_KEY])
    pick(PRUNERS, settings.pruner, PRUNER_KEY)
    wrapped = settings.pruner.get("wrapped", {"name": "median"})
    return replace(settings, pruner=wrapped or {"name": "nop"}, heat_budget=settings.pruner.get("budget", {}))


def _check_objectives(settings: SweepSettings) -> None:
    metrics = [objective.metric for objective in settings.objectives]
    twice = next((metric for metric in metrics if metrics.count(metric) > 1), None)
    if twice is not None:
        where = f"{SWEEPER_KEY}.objectives"
        text = problem("different metrics", f"'{twice}' twice", "Leave one of them out.", where=where)
        raise ConfigError(text, [where])


def _check_constraints(settings: SweepSettings) -> None:
    for name in settings.constraints:
        if name not in FIGURES:
            where = f"{SWEEPER_KEY}.constraints.{name}"
            wanted = "a figure of result.json where less is better"
            raise ConfigError(problem(wanted, f"'{name}'", nearest(name, FIGURES), where=where), [where])
