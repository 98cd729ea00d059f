"""Heat in a search: what a run costs, when that may be held against a trial, and what it did to a study."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, ThresholdPruner
from optuna.trial import FrozenTrial, TrialState, create_trial
from trace_cases import row

from benchmarks.hot_study import Machine
from bit_axon.errors import ConfigError
from bit_axon.profiling.trace import TRACE_FILE, TraceRow
from bit_axon.sweep.thermal.heat import Heat, HeatBudget, HeatWatch, heat_from, measure_heat, parse_budget
from bit_axon.sweep.thermal.heat_pruner import HeatPruner
from bit_axon.sweep.thermal.heat_report import correlation, heat_report
from bit_axon.sweep.thermal.heat_rules import constraint, had_company, is_caused, judge, stopped_again

RANK = CategoricalDistribution([4, 8, 16, 32])
COOL: Mapping[str, Any] = {"start": {"cool": True}}
NOON = datetime(2026, 1, 1, 12)


def rows_of(
    seconds: int, *, seconds_per_update: int = 4, temp: float = 80.0, sleep: float = 0.0, **changes: Any
) -> list[TraceRow]:
    """A poll a second of a run that trains evenly."""
    return [
        row(float(at), temp, opt_step=1 + at // seconds_per_update, sleep_s=sleep, **changes)
        for at in range(seconds + 1)
    ]


def measured(rows: Sequence[TraceRow], step: int, max_steps: int = 1000, warmup: float = 300.0) -> Heat:
    return measure_heat(rows, step=step, max_steps=max_steps, pause_temp=85.0, warmup_seconds=warmup)


# --- what a run costs ---


def test_a_run_is_projected_from_the_time_after_its_warm_up() -> None:
    fast = rows_of(300, seconds_per_update=2)  # 150 updates while it is still cold
    slow = [row(300.0 + at, 87.0, opt_step=151 + at // 5, sleep_s=0.4 if at else 0.0) for at in range(1, 301)]
    found = measured([*fast, *slow], step=210)
    whole = 300.0 + (1000 - 150) * 5.0
    assert found.state == "known"
    assert found.hours == pytest.approx(whole / 3600, rel=0.01)
    assert found.degree_seconds == pytest.approx(2.0 * whole, rel=0.01)
    assert found.paused_fraction == pytest.approx(0.4, abs=0.01)


def test_the_first_peak_does_not_count() -> None:
    rows = [replace(each, temp_ctrl_c=100.0 if each.t_mono_s < 200 else 82.0) for each in rows_of(600)]
    assert measured(rows, step=150).degree_seconds == 0.0


@pytest.mark.parametrize(
    ("seconds", "step", "state"), [(100, 25, "early"), (340, 85, "early"), (600, 150, "known")]
)
def test_too_little_time_is_early(seconds: int, step: int, state: str) -> None:
    assert measured(rows_of(seconds), step).state == state


def test_without_updates_after_the_warm_up_it_is_early() -> None:
    assert measured(rows_of(600, seconds_per_update=1000), step=0).state == "early"


def test_without_a_sensor_it_is_unknown() -> None:
    assert measured([], 10) == Heat("unknown", 10)
    blind = rows_of(600, temp=math.nan, quality="invalid")
    assert measured(blind, 150).state == "unknown"


def test_a_sensor_lost_on_the_way_makes_it_unknown() -> None:
    rows = rows_of(600)
    lost = [*rows[:560], *(replace(each, quality="stale", temp_ctrl_c=math.nan) for each in rows[560:])]
    assert measured(lost, 150).state == "unknown"
    just_now = [*rows[:-3], *lost[-3:]]
    assert measured(just_now, 150).state == "unknown"
    holes = [replace(e, quality="stale", temp_ctrl_c=math.nan) if 400 < e.t_mono_s < 450 else e for e in rows]
    assert measured(holes, 150).state == "unknown"


def test_a_trace_that_ended_while_the_run_goes_on_makes_it_unknown() -> None:
    assert measured(rows_of(600), step=150 + 20).state == "unknown"
    assert measured(rows_of(600), step=150 + 2).state == "known"


def test_the_projection_of_a_simulated_run_is_near_its_end(tmp_path: Path) -> None:
    machine, updates = Machine(0), 400
    watch = HeatWatch(tmp_path / "run" / TRACE_FILE, machine.thresholds.pause, updates, HeatBudget(hours=1.0))
    heats = []
    with machine.run(tmp_path / "run") as gate:
        for done in range(updates + 1):
            if done in (150, 400):
                heats.append(heat_from(watch.facts(done)))
            if done < updates:
                gate.check("train", done + 1, share=3.0)
                gate.after_step(done + 1, 100, 100 * (done + 1), "shape", compiled=False)
    early, late = heats
    assert early is not None and late is not None and early.hours is not None
    assert early.hours == pytest.approx(machine.clock.monotonic() / 3600, rel=0.1)
    assert late.hours == pytest.approx(machine.clock.monotonic() / 3600, rel=0.02)
    assert early.paused_fraction == pytest.approx(late.paused_fraction, abs=0.05)
    assert late.paused_fraction is not None and 0.4 < late.paused_fraction < 0.7


def test_a_watch_without_a_trace_knows_nothing(tmp_path: Path) -> None:
    watch = HeatWatch(tmp_path / "none.csv", 85.0, 100, HeatBudget(hours=1.0))
    assert watch.facts(7) == asdict(Heat("unknown", 7))


def test_heat_survives_its_attribute() -> None:
    heat = Heat("known", 5, 1.5, None, 0.25)
    assert heat_from(asdict(heat)) == heat
    assert heat_from(None) is None and heat_from({"state": "known"}) is None


# --- the budget ---


def test_the_limit_that_is_missed_most_counts() -> None:
    heat = Heat("known", 5, degree_seconds=50.0, paused_fraction=0.6, hours=3.0)
    assert heat.excess(HeatBudget(degree_seconds=100.0, paused_fraction=0.5, hours=2.0)) == ("hours", 0.5)
    assert heat.excess(HeatBudget(degree_seconds=100.0)) == ("degree_seconds", -0.5)
    assert replace(heat, state="early").excess(HeatBudget(hours=2.0)) is None
    assert replace(heat, hours=None).excess(HeatBudget(hours=2.0)) is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "a limit in hydra.sweeper.heat_budget"),
        ({"hour": 2.0}, "hydra.sweeper.heat_budget.hours"),
        ({"paused_fraction": 1.5}, "hydra.sweeper.heat_budget.paused_fraction"),
    ],
)
def test_a_wrong_budget_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_budget(values)


def test_a_budget_of_the_config() -> None:
    assert parse_budget({"hours": 2}).limits == {"hours": 2.0}


@pytest.mark.parametrize(
    ("name", "causes"),
    [
        ("adapter.rank", True),
        ("+adapter.layers", True),
        ("training.batch_size", True),
        ("model.quantization.bits", True),
        ("data.max_seq_len", True),
        ("training.learning_rate", False),
        ("method.beta", False),
        ("seed", False),
        ("adapter.scale", False),
    ],
)
def test_only_some_parameters_change_the_work(name: str, causes: bool) -> None:
    assert is_caused(["seed", name], HeatBudget(hours=1.0).causes) is causes


# --- when it may be held against a trial ---


def hot_heat(hours: float = 3.0) -> dict[str, Any]:
    return asdict(Heat("known", 10, degree_seconds=0.0, paused_fraction=0.5, hours=hours))


def trial_of(
    attributes: Mapping[str, Any], *, number: int = 0, params: Mapping[str, Any] | None = None, **changes: Any
) -> FrozenTrial:
    names = {"adapter.rank": 8} if params is None else dict(params)
    made = create_trial(
        state=TrialState.RUNNING,
        params=names,
        distributions={
            name: RANK if name == "adapter.rank" else CategoricalDistribution([value])
            for name, value in names.items()
        },
        user_attrs=dict(attributes),
    )
    made.number = number
    for name, value in changes.items():
        setattr(made, name, value)
    return made


BUDGET = HeatBudget(hours=2.0)


def test_a_cool_trial_over_its_budget_is_judged() -> None:
    trial = trial_of({**COOL, "heat": hot_heat()})
    assert judge(trial, [trial], BUDGET) == ("hours", 0.5)
    assert constraint(trial, [trial], BUDGET) == {"heat": 0.5}


@pytest.mark.parametrize(
    "attributes",
    [
        {"heat": hot_heat()},
        {"start": {"cool": False}, "heat": hot_heat()},
        {"start": {"cool": None}, "heat": hot_heat()},
        {"start": "nonsense", "heat": hot_heat()},
        COOL,
        {**COOL, "heat": asdict(Heat("unknown", 10, hours=9.0))},
        {**COOL, "heat": asdict(Heat("early", 10, hours=9.0))},
        {**COOL, "heat": "nonsense"},
    ],
)
def test_weather_is_not_held_against_it(attributes: dict[str, Any]) -> None:
    trial = trial_of(attributes)
    assert judge(trial, [trial], BUDGET) is None
    assert constraint(trial, [trial], BUDGET) == {"heat": 0.0}


def test_parameters_that_change_no_work_are_not_blamed() -> None:
    trial = trial_of({**COOL, "heat": hot_heat()}, params={"training.learning_rate": 1e-4})
    assert judge(trial, [trial], BUDGET) is None
    assert judge(trial, [trial], replace(BUDGET, causes=["training.*"])) == ("hours", 0.5)


@pytest.mark.parametrize(
    ("host", "began", "ended", "company"),
    [
        ("here", -10, None, True),
        ("here", -10, 5, True),
        ("here", 5, 20, True),
        ("here", -10, -1, False),
        ("here", 61, None, False),
        ("elsewhere", -10, None, False),
    ],
)
def test_one_that_shared_the_machine_is_not_judged(
    host: str, began: int, ended: int | None, company: bool
) -> None:
    one = trial_of(
        {**COOL, "heat": hot_heat(), "owner": {"host": "here"}},
        datetime_start=NOON,
        datetime_complete=NOON + timedelta(minutes=60),
    )
    other = trial_of(
        {"owner": {"host": host}},
        number=1,
        datetime_start=NOON + timedelta(minutes=began),
        datetime_complete=None if ended is None else NOON + timedelta(minutes=ended),
    )
    assert had_company(one, [one, other]) is company
    assert (judge(one, [one, other], BUDGET) is None) is company


def test_a_second_thermal_stop_from_a_cool_start_is_the_parameters_own() -> None:
    stop = {**COOL, "reason": "thermal_stop"}
    first = trial_of(stop)
    lost = trial_of({"reason": "lost", "retry_of": 0}, number=1)
    second = trial_of({**stop, "retry_of": 1}, number=2)
    assert not stopped_again(first, [first])
    assert stopped_again(second, [first, lost, second])
    assert not stopped_again(lost, [first, lost])
    warm = trial_of({"start": {"cool": False}, "reason": "thermal_stop", "retry_of": 0}, number=1)
    assert not stopped_again(warm, [first, warm])
    after_warm = trial_of({**stop, "retry_of": 0}, number=1)
    assert not stopped_again(after_warm, [replace_start(first, cool=False), after_warm])


def replace_start(trial: FrozenTrial, *, cool: bool) -> FrozenTrial:
    return trial_of({**trial.user_attrs, "start": {"cool": cool}}, number=trial.number)


# --- the pruner ---


def asked(pruner: BasePruner, value: float, attributes: Mapping[str, Any]) -> bool:
    """Whether a trial of a study with this pruner is told to stop, through Optuna's public way."""
    study = optuna.create_study(pruner=pruner)
    trial = study.ask({"adapter.rank": RANK})
    for name, given in attributes.items():
        trial.set_user_attr(name, given)
    trial.report(value, 10)
    return trial.should_prune()


TOO_HOT: Mapping[str, Any] = {**COOL, "heat": hot_heat()}


@pytest.mark.parametrize(
    ("value", "attributes", "pruned", "reason"),
    [
        (1.0, {}, False, None),
        (1.0, TOO_HOT, True, "thermal_budget"),
        (1.0, {**COOL, "heat": hot_heat(1.9)}, False, None),
        (1.0, {"start": {"cool": False}, "heat": hot_heat()}, False, None),
        (9.0, {}, True, None),
        (9.0, TOO_HOT, True, None),  # quality first
    ],
)
def test_quality_decides_first_and_heat_second(
    value: float, attributes: Mapping[str, Any], pruned: bool, reason: str | None
) -> None:
    pruner = HeatPruner(ThresholdPruner(upper=5.0), BUDGET)
    assert asked(pruner, value, attributes) is pruned
    assert pruner.reason == reason


@pytest.mark.parametrize(
    "inner", [NopPruner(), MedianPruner(), HyperbandPruner(min_resource=1, max_resource=50)]
)
def test_any_pruner_can_be_wrapped(inner: BasePruner) -> None:
    pruner = HeatPruner(inner, BUDGET)
    assert pruner.inner is inner
    assert asked(pruner, 1.0, {}) is False and pruner.reason is None
    assert asked(pruner, 1.0, TOO_HOT) is True and pruner.reason == "thermal_budget"


def test_a_wrapped_pruner_decides_as_it_does_alone() -> None:
    def states(pruner: BasePruner) -> list[TrialState]:
        study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=1))

        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", 0, 1)
            for step in range(5):
                trial.report(x / (step + 1), step)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return x

        study.optimize(objective, n_trials=25)
        return [trial.state for trial in study.trials]

    alone = states(MedianPruner())
    assert TrialState.PRUNED in alone
    assert states(HeatPruner(MedianPruner(), BUDGET)) == alone


def test_the_sampler_learns_what_is_too_hot() -> None:
    """The best value lies where the budget is broken; TPE leaves that part alone, and so does the best."""

    def late_ranks(*, constrained: bool) -> tuple[float, float]:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=8))
        ranks = []
        for _ in range(50):
            trial = study.ask()
            ranks.append(trial.suggest_float("adapter.rank", 0.0, 1.0))
            trial.set_user_attr("start", {"cool": True})
            trial.set_user_attr("heat", hot_heat(4.0 * ranks[-1]))
            trials = study.get_trials(deepcopy=False)
            if constrained:
                trial.set_constraint(*constraint(trials[-1], trials, BUDGET).popitem())
            study.tell(trial, 1.0 - ranks[-1])
        return float(np.median(ranks[-20:])), study.best_trial.params["adapter.rank"]

    free, best_free = late_ranks(constrained=False)
    held, best_held = late_ranks(constrained=True)
    assert free > 0.8 and best_free > 0.95
    assert held < 0.6 and 0.4 < best_held <= 0.5


# --- the report ---


def finished(
    number: int, value: float, temp: float | None, state: TrialState = TrialState.COMPLETE, **attributes: Any
) -> FrozenTrial:
    start = {"cool": temp is not None and temp < 40, "waited_seconds": 60.0}
    known = {} if temp is None else {"start_temp_c": temp, "start": start}
    made = create_trial(state=state, value=value, user_attrs={**known, **attributes})
    made.number = number
    return made


def test_the_rank_correlation_is_spearmans() -> None:
    source = np.random.default_rng(3)
    temps, noise = source.uniform(34, 44, 20).round(0), source.normal(size=20)  # with ties
    values = 0.2 * temps + noise
    found = correlation([finished(n, v, t) for n, (v, t) in enumerate(zip(values, temps, strict=True))])
    assert found is not None

    def ranks(column: np.ndarray) -> list[float]:
        return [float(np.mean(np.flatnonzero(np.sort(column) == value))) for value in column]

    assert found.rho == pytest.approx(np.corrcoef(ranks(temps), ranks(values))[0, 1])
    assert found.trials == 20 and found.chance < 0.2


def test_heat_that_moves_the_objective_is_found() -> None:
    temps = np.random.default_rng(0).uniform(34, 60, 16)
    found = correlation([finished(n, 1.0 + 0.01 * t, t) for n, t in enumerate(temps)])
    assert found is not None and found.rho == pytest.approx(1.0)
    assert found.rho_given_number > 0.9 and found.chance < 0.01


def test_a_search_that_improves_while_the_machine_warms_up_is_no_sign() -> None:
    source = np.random.default_rng(1)
    trials = [
        finished(n, 2.0 - 0.05 * n + source.normal() * 0.05, 34 + n / 2 + source.normal()) for n in range(24)
    ]
    found = correlation(trials)
    assert found is not None
    assert found.rho < -0.8 and abs(found.rho_given_number) < 0.4 and found.is_likely_chance


def test_what_cannot_be_said_is_not_said() -> None:
    alike = [finished(n, float(n), 35.0) for n in range(10)]
    assert correlation(alike) is None
    assert correlation([finished(n, float(n), 34.0 + n) for n in range(5)]) is None
    pruned = [finished(n, float(n), 34.0 + n, TrialState.PRUNED) for n in range(10)]
    assert correlation(pruned) is None
    in_order = [finished(n, float(n), 34.0 + n) for n in range(10)]
    assert correlation(in_order) is None  # order explains all of it


def test_the_report_of_a_study() -> None:
    temps = [34.4, 39.0, 39.5, 38.2, 44.1, 36.9, 39.3, 35.8]
    trials = [finished(n, (n * 7) % 5 / 10, temp) for n, temp in enumerate(temps)]
    trials += [
        finished(8, 0.9, 36.0, TrialState.PRUNED, reason="pruned:thermal_budget"),
        finished(9, 0.9, 37.0, TrialState.PRUNED, reason="pruned:median"),
        finished(11, 0.5, None, thermal={"batches_split": True}),
        create_trial(state=TrialState.WAITING),
    ]
    stopped = create_trial(state=TrialState.FAIL, user_attrs={"reason": "thermal_stop"})
    stopped.number = 10
    report = heat_report([*trials, stopped], "eval_loss_best")
    assert (report.known, report.trials, report.cool) == (10, 12, 9)
    assert (report.lowest_start, report.highest_start) == (34.4, 44.1)
    assert report.waited_seconds == 600.0
    assert (report.pruned, report.stopped, report.split) == ((8,), (10,), (11,))
    assert report.correlation is not None and report.correlation.trials == 8
    text = "\n".join(report.lines())
    assert "34.4 to 44.1 °C; 9 started cool. Cooling down took 10 min in all." in text
    assert "rank correlation" in text and "Pruned for heat: trial 8." in text
    assert report.to_dict()["correlation"]["trials"] == 8


def test_a_speed_needs_even_starts() -> None:
    uneven = [finished(n, float(n % 3), 34.0 + n) for n in range(8)]
    assert any("compare even starts" in line for line in heat_report(uneven, "tokens_per_second").lines())
    assert not any("compare even starts" in line for line in heat_report(uneven, "eval_loss").lines())


def test_without_temperatures_the_report_is_silent() -> None:
    assert not list(heat_report([finished(n, 1.0, None) for n in range(9)], "eval_loss").lines())
