"""Samplers and pruners by name: the same search as Optuna's own class, and mistakes named by their key."""

import importlib.util
import json
import warnings
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from bit_axon.errors import ConfigError
from bit_axon.sweep.config.pruners import PRUNERS, build_pruner
from bit_axon.sweep.config.samplers import SAMPLERS, build_sampler
from bit_axon.sweep.config.space import Space, parse_space

SPACE = parse_space({"x": "range(0,6)", "y": "choice(0.5,1.5,2.5)", "z": "range(0,1,0.25)"}, [])
GRID = {name: SPACE.values(name) or () for name in SPACE.distributions}
STEPS = 6
NAME = "study"  # Hyperband's brackets depend on it


def is_missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


def objective(trial: optuna.Trial) -> float:
    """Deterministic; the curves of different parameters cross."""
    x = float(trial.suggest_int("x", 0, 5))
    y = float(trial.suggest_categorical("y", [0.5, 1.5, 2.5]))
    z = trial.suggest_float("z", 0.0, 0.75, step=0.25)
    last = (x - 3) ** 2 + y * (z - 0.5) ** 2
    for step in range(1, STEPS + 1):
        trial.report(last + ((x + 7 * y) % 5 - 2) / step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return last


def history(
    sampler: BaseSampler, pruner: BasePruner, trials: int = 20
) -> list[tuple[dict[str, Any], TrialState]]:
    """Parameters and states of a search by Optuna's own loop."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=NAME, sampler=sampler, pruner=pruner)
    study.optimize(objective, n_trials=trials)
    return [(trial.params, trial.state) for trial in study.trials]


def quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return make()


def tpe_fixed() -> BaseSampler:
    return optuna.samplers.PartialFixedSampler({"x": 2}, optuna.samplers.TPESampler(seed=3))


SAMPLER_CASES: list[Any] = [
    ({"name": "random", "seed": 3}, lambda: optuna.samplers.RandomSampler(seed=3)),
    ({"name": "tpe", "seed": 3}, lambda: optuna.samplers.TPESampler(seed=3)),
    (
        {
            "name": "tpe",
            "seed": 3,
            "n_startup_trials": 4,
            "n_ei_candidates": 5,
            "multivariate": True,
            "group": True,
        },
        lambda: optuna.samplers.TPESampler(
            seed=3, n_startup_trials=4, n_ei_candidates=5, multivariate=True, group=True
        ),
    ),
    ({"name": "grid", "seed": 3}, lambda: optuna.samplers.GridSampler(GRID, seed=3)),
    ({"name": "brute_force", "seed": 3}, lambda: optuna.samplers.BruteForceSampler(seed=3)),
    ({"name": "qmc", "seed": 3, "scramble": True}, lambda: optuna.samplers.QMCSampler(seed=3, scramble=True)),
    ({"name": "qmc", "qmc_type": "halton"}, lambda: optuna.samplers.QMCSampler(seed=0, qmc_type="halton")),
    (
        {"name": "nsgaii", "seed": 3, "population_size": 4},
        lambda: optuna.samplers.NSGAIISampler(seed=3, population_size=4),
    ),
    (
        {"name": "nsgaiii", "seed": 3, "population_size": 4},
        lambda: optuna.samplers.NSGAIIISampler(seed=3, population_size=4),
    ),
    ({"name": "partial_fixed", "fixed": {"x": 2}, "wrapped": {"name": "tpe", "seed": 3}}, tpe_fixed),
    pytest.param(
        {"name": "cmaes", "seed": 3},
        lambda: optuna.samplers.CmaEsSampler(seed=3, warn_independent_sampling=False),
        marks=pytest.mark.skipif(is_missing("cmaes"), reason="the package cmaes is not installed"),
    ),
    pytest.param(
        {"name": "gp", "seed": 3},
        lambda: optuna.samplers.GPSampler(seed=3),
        marks=pytest.mark.skipif(is_missing("torch"), reason="the package torch is not installed"),
    ),
]


@pytest.mark.parametrize(("spec", "theirs"), SAMPLER_CASES)
def test_a_sampler_by_name_suggests_what_optunas_does(
    spec: dict[str, Any], theirs: Callable[[], BaseSampler]
) -> None:
    median = optuna.pruners.MedianPruner(n_startup_trials=3)
    ours = history(build_sampler(spec, seed_offset=0, space=SPACE), median)
    assert ours == history(quietly(theirs), median)
    assert len({json.dumps(params) for params, _ in ours}) > 1


PRUNER_CASES: list[tuple[dict[str, Any], Callable[[], BasePruner], bool]] = [
    ({"name": "median"}, optuna.pruners.MedianPruner, True),
    (
        {
            "name": "median",
            "n_startup_trials": 2,
            "n_warmup_steps": 2,
            "interval_steps": 2,
            "n_min_trials": 2,
        },
        lambda: optuna.pruners.MedianPruner(2, 2, 2, n_min_trials=2),
        True,
    ),
    ({"name": "percentile", "percentile": 60.0}, lambda: optuna.pruners.PercentilePruner(60.0), True),
    (
        {"name": "successive_halving", "min_resource": 1, "reduction_factor": 2},
        lambda: optuna.pruners.SuccessiveHalvingPruner(1, 2),
        True,
    ),
    ({"name": "hyperband", "max_resource": STEPS}, lambda: optuna.pruners.HyperbandPruner(1, STEPS), True),
    ({"name": "hyperband"}, optuna.pruners.HyperbandPruner, True),
    ({"name": "threshold", "upper": 6.0}, lambda: optuna.pruners.ThresholdPruner(upper=6.0), True),
    (
        {"name": "patient", "patience": 1, "wrapped": {"name": "percentile", "percentile": 40}},
        lambda: optuna.pruners.PatientPruner(optuna.pruners.PercentilePruner(40), 1),
        True,
    ),
    (
        {"name": "patient", "patience": 1, "wrapped": None},
        lambda: optuna.pruners.PatientPruner(None, 1),
        True,
    ),
    (
        {"name": "wilcoxon", "p_threshold": 0.3, "n_startup_steps": 3},
        lambda: optuna.pruners.WilcoxonPruner(p_threshold=0.3, n_startup_steps=3),
        True,
    ),
    ({"name": "nop"}, optuna.pruners.NopPruner, False),
    ({"name": "none"}, optuna.pruners.NopPruner, False),
]


@pytest.mark.parametrize(
    ("spec", "theirs", "prunes"), PRUNER_CASES, ids=[str(case[0]) for case in PRUNER_CASES]
)
def test_a_pruner_by_name_ends_what_optunas_does(
    spec: dict[str, Any], theirs: Callable[[], BasePruner], prunes: bool
) -> None:
    sampler = build_sampler({"name": "tpe", "seed": 1}, seed_offset=0, space=SPACE)
    ours = history(sampler, build_pruner(spec), 30)
    assert ours == history(optuna.samplers.TPESampler(seed=1), quietly(theirs), 30)
    assert prunes == (TrialState.PRUNED in {state for _, state in ours})


def test_every_sampler_and_pruner_of_optuna_has_a_name() -> None:
    abstract = {"BaseSampler", "BaseGASampler", "nsgaii"}
    samplers = {
        name.removesuffix("Sampler").lower() for name in optuna.samplers.__all__ if name not in abstract
    }
    assert samplers == {name.replace("_", "") for name in SAMPLERS}
    pruners = {name.removesuffix("Pruner").lower() for name in optuna.pruners.__all__ if name != "BasePruner"}
    assert pruners == {name.replace("_", "") for name in PRUNERS} - {"none", "thermal"}


def test_no_pruner_is_none() -> None:
    assert isinstance(build_pruner(None), optuna.pruners.NopPruner)


@pytest.mark.parametrize("name", ["random", "tpe", "brute_force", "nsgaii", "nsgaiii"])
def test_a_later_start_suggests_other_values(name: str) -> None:
    first, later = (
        history(
            build_sampler({"name": name, "seed": 0}, seed_offset=offset, space=SPACE), build_pruner(None), 5
        )
        for offset in (0, 1)
    )
    assert first != later


@pytest.mark.parametrize("name", ["grid", "qmc", "brute_force"])
def test_a_search_in_several_starts_repeats_nothing(name: str) -> None:
    """A sampler that keeps its place in the study goes on there, after an end at any trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage)
    space = parse_space({"x": "range(0,4)", "y": "choice(a,b,c)"}, []) if name != "qmc" else _unit_square()
    for start in range(4):
        sampler = build_sampler({"name": name, "seed": 5}, seed_offset=start, space=space)
        study = optuna.load_study(study_name="s", storage=storage, sampler=sampler)
        for _ in range(3):
            trial = study.ask(space.distributions)
            optuna.load_study(study_name="s", storage=storage, sampler=optuna.samplers.RandomSampler()).tell(
                trial.number, 1.0
            )
    assert len({json.dumps(trial.params) for trial in study.trials}) == 12


def test_a_scrambled_sequence_goes_on_where_it_was() -> None:
    spec, space = {"name": "qmc", "seed": 5, "scramble": True}, _unit_square()
    whole = optuna.create_study(sampler=build_sampler(spec, seed_offset=0, space=space))
    parts = optuna.create_study()
    for start in range(4):
        parts.sampler = build_sampler(spec, seed_offset=start, space=space)
        for study in (whole, parts, whole, parts):
            study.tell(study.ask(space.distributions), 1.0)
    # The first point has no sequence yet: what is searched is known from finished trials.
    assert [trial.params for trial in parts.trials] == [trial.params for trial in whole.trials]


def _unit_square() -> Space:
    return parse_space({"x": "interval(0,1)", "y": "interval(0,1)"}, [])


def test_hyperband_rebuilt_in_each_job_agrees_with_itself() -> None:
    spec = {"name": "hyperband", "min_resource": 1, "max_resource": STEPS}
    whole = history(optuna.samplers.RandomSampler(seed=2), build_pruner(spec), 30)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=NAME, sampler=optuna.samplers.RandomSampler(seed=2))
    for _ in range(30):
        study.pruner = build_pruner(spec)
        study.optimize(objective, n_trials=1)
    assert [(trial.params, trial.state) for trial in study.trials] == whole


SAMPLER = "hydra.sweeper.sampler"
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "tpee"}, f"{SAMPLER}.name", "Did you mean 'tpe'?"),
    ({"seed": 0}, SAMPLER, "For example hydra.sweeper.sampler.name=tpe."),
    (
        {"name": "tpe", "n_startup": 3},
        f"{SAMPLER}.n_startup",
        "Did you mean 'hydra.sweeper.sampler.n_startup_trials'?",
    ),
    ({"name": "tpe", "seed": "one"}, f"{SAMPLER}.seed", "a whole number"),
    ({"name": "tpe", "group": True, "multivariate": False}, SAMPLER, "multivariate"),
    ({"name": "qmc", "qmc_type": "sobo"}, f"{SAMPLER}.qmc_type", "qmc_type=sobol"),
    ({"name": "nsgaii", "crossover_prob": 1.5}, f"{SAMPLER}.crossover_prob", "less than or equal to 1"),
    ({"name": "partial_fixed", "fixed": {"xx": 1}}, f"{SAMPLER}.fixed.xx", "Did you mean 'x'?"),
    ({"name": "partial_fixed", "fixed": {"x": 9}}, f"{SAMPLER}.fixed.x", "a value of int(interval(0,5))"),
    ({"name": "partial_fixed", "fixed": {"y": 9}}, f"{SAMPLER}.fixed.y", "choice(0.5,1.5,2.5)"),
    ({"name": "partial_fixed", "wrapped": {"name": "tp"}}, f"{SAMPLER}.wrapped.name", "Did you mean 'tpe'?"),
    ({"name": "partial_fixed", "wrapped": {"name": "grid"}}, f"{SAMPLER}.wrapped.name", "key=VALUE"),
]


@pytest.mark.parametrize(("spec", "key", "words"), MISTAKES, ids=[str(case[0]) for case in MISTAKES])
def test_a_mistake_in_a_sampler_is_named_by_its_key(spec: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_sampler(spec, seed_offset=0, space=SPACE)
    assert caught.value.keys == (key,)
    assert key in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["grid", "brute_force"])
def test_a_sampler_of_every_combination_needs_a_finite_space(name: str) -> None:
    space = parse_space({"x": "range(0,4)", "training.learning_rate": "tag(log,interval(1e-5,1e-3))"}, [])
    with pytest.raises(ConfigError, match=r"got training\.learning_rate=tag\(log,interval\(1e-05,0\.001\)\)"):
        build_sampler({"name": name}, seed_offset=0, space=space)


@pytest.mark.parametrize(("name", "package"), [("cmaes", "cmaes"), ("gp", "torch")])
def test_a_sampler_whose_package_is_missing_says_so(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bit_axon.sweep.config.named.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"wanted the package {package}; got '{name}' without it"):
        build_sampler({"name": name}, seed_offset=0, space=SPACE)


PRUNER = "hydra.sweeper.pruner"
PRUNER_MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "hyperbnd"}, f"{PRUNER}.name", "Did you mean 'hyperband'?"),
    ({"name": "median", "n_startup_trial": 1}, f"{PRUNER}.n_startup_trial", "n_startup_trials'?"),
    (
        {"name": "hyperband", "reduction_factor": 1},
        f"{PRUNER}.reduction_factor",
        "greater than or equal to 2",
    ),
    ({"name": "hyperband", "max_resource": "aut"}, f"{PRUNER}.max_resource", "max_resource=auto"),
    ({"name": "hyperband", "bootstrap_count": 1}, PRUNER, "bootstrap_count"),
    ({"name": "threshold"}, PRUNER, "neither lower nor upper"),
    ({"name": "threshold", "lower": 2.0, "upper": 1.0}, PRUNER, "lower"),
    ({"name": "patient", "wrapped": {"name": "medan"}}, f"{PRUNER}.wrapped.name", "Did you mean 'median'?"),
    ({"name": "thermal"}, "hydra.sweeper.heat_budget", "hours"),
]


@pytest.mark.parametrize(
    ("spec", "key", "words"), PRUNER_MISTAKES, ids=[str(case[0]) for case in PRUNER_MISTAKES]
)
def test_a_mistake_in_a_pruner_is_named_by_its_key(spec: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_pruner(spec)
    assert caught.value.keys == (key,)
    assert key in str(caught.value)
    assert words in str(caught.value)


def test_a_thermal_pruner_ends_what_its_wrapped_one_ends() -> None:
    plain = {"name": "percentile", "percentile": 50.0, "n_startup_trials": 3}
    thermal = {"name": "thermal", "wrapped": plain, "budget": {"hours": 2.0}}
    ours = history(optuna.samplers.RandomSampler(seed=4), build_pruner(thermal))
    assert ours == history(optuna.samplers.RandomSampler(seed=4), build_pruner(plain))
    assert TrialState.PRUNED in {state for _, state in ours}


def test_a_spec_survives_the_studys_json() -> None:
    for spec, _, _ in PRUNER_CASES:
        again: dict[str, Any] = json.loads(json.dumps(spec))
        assert type(build_pruner(again)) is type(build_pruner(spec))
