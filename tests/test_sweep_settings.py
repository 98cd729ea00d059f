"""`hydra.sweeper.*` checked, what a study remembers of it, and what two searches differ in."""

import json
from typing import Any

import pytest

from bit_axon.errors import ConfigError
from bit_axon.outcome import result_of
from bit_axon.sweep.config.fingerprint import differences
from bit_axon.sweep.config.pruners import build_pruner
from bit_axon.sweep.config.settings import FIGURES, SweepSettings, read_settings
from bit_axon.sweep.config.space import parse_space
from bit_axon.sweep.thermal.heat_pruner import HeatPruner

SPACE = parse_space({"adapter.rank": "choice(4,8)", "training.learning_rate": "interval(1e-5,1e-3)"}, [])
TWO = [
    {"metric": "eval_loss_best", "direction": "minimize"},
    {"metric": "tokens_per_second", "direction": "maximize"},
]


def settings_of(**values: Any) -> SweepSettings:
    return read_settings(values).settings


def test_nothing_given_is_a_whole_sweep() -> None:
    settings = settings_of()
    assert settings == SweepSettings()
    assert settings.directions == ["minimize"]
    assert settings.sampler == {"name": "tpe", "seed": 0}
    assert settings.trial_pruner == {"name": "median"}
    assert settings.budget is None


def test_hydras_own_keys_are_passed_over_and_the_study_gets_a_name() -> None:
    read = read_settings({"_target_": "x.Y", "_convert_": "all", "study_name": None}, study_name="dora_rank")
    assert read.settings.study_name == "dora_rank"
    assert settings_of(study_name="mine").study_name == "mine"


def test_a_bare_name_is_a_sampler_or_pruner_with_its_defaults() -> None:
    settings = settings_of(sampler="random", pruner="hyperband")
    assert (settings.sampler, settings.pruner) == ({"name": "random"}, {"name": "hyperband"})
    assert settings_of(pruner=None).pruner == {"name": "nop"}


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"n_trial": 3}, "n_trial", "Did you mean 'hydra.sweeper.n_trials'?"),
    ({"n_trials": 0}, "n_trials", "greater than 0"),
    ({"n_trials": 2.5}, "n_trials", "a whole number"),
    ({"objectives": []}, "objectives", "at least 1 item"),
    (
        {"objectives": [{"metric": "nll", "direction": "down"}]},
        "objectives.0.direction",
        "'minimize' or 'maximize'",
    ),
    ({"objectives": [{"metric": ""}]}, "objectives.0.metric", "at least 1 character"),
    ({"objectives": [TWO[0], TWO[0]]}, "objectives", "'eval_loss_best' twice"),
    ({"sampler": {"name": "tpee"}}, "sampler.name", "Did you mean 'tpe'?"),
    ({"sampler": {"name": "tpe", "seeds": 1}}, "sampler.seeds", "Did you mean 'hydra.sweeper.sampler.seed'?"),
    ({"pruner": {"name": "medan"}}, "pruner.name", "Did you mean 'median'?"),
    ({"pruner": {"name": "threshold"}}, "pruner", "neither lower nor upper"),
    ({"constraints": {"peak_memory": 4e9}}, "constraints.peak_memory", "Did you mean 'peak_memory_bytes'?"),
    ({"constraints": {"seconds": "long"}}, "constraints.seconds", "a number"),
    ({"cooldown": {"max_seconds": 0}}, "cooldown.max_seconds", "0"),
    ({"cooldown": {"enabled": "yes"}}, "cooldown.enabled", "'auto'"),
    ({"cooldown": {"above": 3.0}}, "cooldown.above", "Did you mean 'hydra.sweeper.cooldown.above_base'?"),
    ({"heat_budget": {"hour": 1.0}}, "heat_budget.hour", "Did you mean 'hydra.sweeper.heat_budget.hours'?"),
    ({"heat_budget": {}}, "heat_budget", "hours"),
    ({"heat_budget": {"hours": 1.0}, "pruner": {"name": "thermal"}}, "pruner", "one heat budget"),
]


@pytest.mark.parametrize(("values", "key", "words"), MISTAKES, ids=[str(case[0]) for case in MISTAKES])
def test_a_mistake_is_named_by_its_key(values: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(values)
    assert caught.value.keys == (f"hydra.sweeper.{key}",)
    assert words in str(caught.value)


def test_several_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({"n_trials": 0, "retries": -1, "studyname": "x"})
    assert {key.rpartition(".")[2] for key in caught.value.keys} == {"n_trials", "retries", "studyname"}


def test_with_several_objectives_nothing_is_pruned_and_it_says_so() -> None:
    read = read_settings({"objectives": TWO, "pruner": {"name": "hyperband"}})
    assert read.settings.pruner == {"name": "nop"}
    assert read.notes == ("2 objectives: trials are not pruned, pruner=hyperband is not used",)
    assert read.settings.directions == ["minimize", "maximize"]
    assert read_settings({"objectives": TWO, "pruner": "nop"}).notes == ()
    assert settings_of(objectives=TWO, heat_budget={"hours": 1.0}).trial_pruner == {"name": "nop"}
    assert read_settings({}).notes == ()


def test_a_heat_budget_is_around_the_pruner_that_trials_ask() -> None:
    budget = {"hours": 2.0}
    settings = settings_of(heat_budget=budget, pruner={"name": "hyperband"})
    assert settings.budget is not None
    assert settings.budget.limits == budget
    pruner = build_pruner(settings.study_attributes(SPACE, [])["pruner"])
    assert isinstance(pruner, HeatPruner)
    assert type(pruner.inner) is type(build_pruner({"name": "hyperband"}))


def test_a_thermal_pruner_is_the_same_as_a_heat_budget() -> None:
    wrapped = {"name": "percentile", "percentile": 40.0}
    one = settings_of(pruner={"name": "thermal", "wrapped": wrapped, "budget": {"paused_fraction": 0.5}})
    other = settings_of(pruner=wrapped, heat_budget={"paused_fraction": 0.5})
    assert one == other
    assert (
        settings_of(pruner={"name": "thermal", "wrapped": None, "budget": {"hours": 1.0}}).pruner["name"]
        == "nop"
    )


def test_the_study_remembers_everything_but_the_storage() -> None:
    settings = settings_of(
        study_name="s",
        storage="postgresql+psycopg://me:secret@host/db",
        constraints={"seconds": 600.0},
        heat_budget={"hours": 1.0},
    )
    attributes = settings.study_attributes(SPACE, {"method": {"name": "orpo"}, "seed": 1}, sweep_dir="/a/b")
    assert json.loads(json.dumps(attributes)) == attributes
    assert "secret" not in json.dumps(attributes)
    assert attributes == {
        "version": 1,
        "name": "s",
        "n_trials": 20,
        "retries": 1,
        "fingerprint": {
            "space": {"adapter.rank": "choice(4,8)", "training.learning_rate": "interval(1e-05,0.001)"},
            "fixed": {"method.name": "orpo", "seed": 1},
            "objectives": {"eval_loss_best": "minimize"},
            "constraints": {"seconds": 600.0},
        },
        "objectives": [{"metric": "eval_loss_best", "direction": "minimize"}],
        "constraints": {"seconds": 600.0},
        "pruner": {"name": "thermal", "wrapped": {"name": "median"}, "budget": {"hours": 1.0}},
        "sampler": {"name": "tpe", "seed": 0},
        "heat_budget": {"hours": 1.0},
        "sweep_dir": "/a/b",
    }


def test_what_is_searched_is_not_fixed() -> None:
    space = parse_space({"adapter": "lora,dora", "seed": "1,2"}, [])
    fixed = {"adapter": {"name": "lora", "rank": 8}, "adapters": 1, "seed": 3, "tags": {}}
    assert settings_of().fingerprint(space, fixed)["fixed"] == {"adapters": 1, "tags": {}}
    assert settings_of().fingerprint(space, ["++method=orpo", "seed=3"])["fixed"] == {"method": "orpo"}


def fingerprint_of(
    params: dict[str, Any], fixed: dict[str, Any] | None = None, **values: Any
) -> dict[str, Any]:
    made = settings_of(**values).fingerprint(parse_space(params, []), fixed or {})
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


def test_the_same_search_written_otherwise_is_no_difference() -> None:
    one = fingerprint_of({"a": "1,2", "b": "range(1,5)"}, {"x": {"y": 1}})
    other = fingerprint_of({"b": "int(interval(1,4))", "a": "choice( 1, 2 )"}, {"x.y": 1}, n_trials=99)
    assert one == other
    assert differences(one, other) == []


AS_OLD = {"a": "4,8", "b": "interval(0,1)"}
OLD = fingerprint_of(AS_OLD, {"training": {"max_steps": 100}, "adapter": {"name": "lora"}})


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (
            fingerprint_of({"a": "4,8,16", "b": "interval(0,1)"}, OLD["fixed"]),
            ["a: choice(4,8) before, choice(4,8,16) now"],
        ),
        (
            fingerprint_of({"a": "8,4", "b": "interval(0,1)"}, OLD["fixed"]),
            ["a: choice(4,8) before, choice(8,4) now"],
        ),
        (fingerprint_of({"a": "4,8"}, OLD["fixed"]), ["b: interval(0.0,1.0) before, nothing now"]),
        (fingerprint_of({"a": "4,8"}, {**OLD["fixed"], "b": 0.5}), ["b: interval(0.0,1.0) before, 0.5 now"]),
        (
            fingerprint_of(AS_OLD, {"training.max_steps": 200, "adapter.name": "dora"}),
            ["training.max_steps: 100 before, 200 now", "adapter.name: lora before, dora now"],
        ),
        (
            fingerprint_of(AS_OLD, OLD["fixed"], constraints={"peak_memory_bytes": 4e9}),
            ["constraint peak_memory_bytes: nothing before, at most 4e+09 now"],
        ),
        (
            fingerprint_of(AS_OLD, OLD["fixed"], objectives=TWO),
            [
                "objective: minimize eval_loss_best before, "
                "minimize eval_loss_best and maximize tokens_per_second now"
            ],
        ),
    ],
)
def test_differences_in_plain_words(new: dict[str, Any], lines: list[str]) -> None:
    assert sorted(differences(OLD, new)) == sorted(lines)


def test_figures_that_a_constraint_may_limit_are_in_a_result() -> None:
    names = {constant for constant in result_of.__code__.co_consts if isinstance(constant, str | tuple)}
    known = {
        name for constant in names for name in (constant if isinstance(constant, tuple) else (constant,))
    }
    assert {name.partition(".")[0] for name in FIGURES} <= known
    assert {name.partition(".")[2] for name in FIGURES if name.startswith("seconds.")} <= known
