"""The search space: every form of Hydra's grammar as a distribution, and values that come back exactly."""

import math
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna import create_study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from bit_axon.errors import ConfigError
from bit_axon.sweep.config.space import Space, parse_space
from bit_axon.sweep.config.spelling import value_text

KEY = "adapter.rank"
FORMS: list[tuple[Any, BaseDistribution, str]] = [
    ("choice(4,8)", CategoricalDistribution([4, 8]), "choice(4,8)"),
    ("4, 8", CategoricalDistribution([4, 8]), "choice(4,8)"),
    ("choice(null,1)", CategoricalDistribution([None, 1]), "choice(null,1)"),
    ("1,null", CategoricalDistribution([1, None]), "choice(1,null)"),
    ("choice(true,false)", CategoricalDistribution([True, False]), "choice(true,false)"),
    (
        "choice(lora,'a,b','8',8)",
        CategoricalDistribution(["lora", "a,b", "8", 8]),
        "choice(lora,'a,b','8',8)",
    ),
    ("choice([1,2],[3])", CategoricalDistribution(["[1,2]", "[3]"]), "choice([1,2],[3])"),
    ("1e-5,1e-4", CategoricalDistribution([1e-5, 1e-4]), "choice(1e-05,0.0001)"),
    ("interval(0.0,1.0)", FloatDistribution(0.0, 1.0), "interval(0.0,1.0)"),
    ("interval(1,8)", FloatDistribution(1.0, 8.0), "interval(1.0,8.0)"),
    ("int(interval(1,8))", IntDistribution(1, 8), "int(interval(1,8))"),
    (
        "tag(log,interval(1e-5,1e-3))",
        FloatDistribution(1e-5, 1e-3, log=True),
        "tag(log,interval(1e-05,0.001))",
    ),
    ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True), "tag(log,int(interval(1,64)))"),
    ("int(tag(log,interval(1,64)))", IntDistribution(1, 64, log=True), "tag(log,int(interval(1,64)))"),
    ("range(1,5)", IntDistribution(1, 4), "int(interval(1,4))"),
    ("range(5,1,-1)", IntDistribution(2, 5), "int(interval(2,5))"),
    ("range(1,10,4)", IntDistribution(1, 9, step=4), "1 to 9 in steps of 4"),
    ("tag(log,range(1,65))", IntDistribution(1, 64, log=True), "tag(log,int(interval(1,64)))"),
    ("range(0.1,1.0,0.3)", FloatDistribution(0.1, 0.7, step=0.3), "0.1 to 0.7 in steps of 0.3"),
    ("float(range(1,4))", FloatDistribution(1.0, 3.0, step=1.0), "1.0 to 3.0 in steps of 1.0"),
]


@pytest.mark.parametrize(("text", "wanted", "words"), FORMS, ids=[str(form[0]) for form in FORMS])
def test_every_form_means_what_it_says(text: str, wanted: BaseDistribution, words: str) -> None:
    space = parse_space({KEY: text}, [])
    assert space.distributions == {KEY: wanted}
    assert space.fingerprint() == {KEY: words}
    assert parse_space({}, [f"{KEY}=" + ("1,2" if "null" in text else text)]).distributions.keys() == {KEY}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("choice(b,a)", ("b", "a")),
        ("range(5,1,-1)", (2, 3, 4, 5)),
        ("range(0.1,1.0,0.3)", (0.1, 0.4, 0.7)),
        ("range(0,0.5,0.1)", (0.0, 0.1, 0.2, 0.3, 0.4)),
        ("interval(0,1)", None),
        ("interval(2,2)", (2.0,)),
    ],
)
def test_the_values_of_a_key(text: str, values: tuple[Any, ...] | None) -> None:
    assert parse_space({KEY: text}, []).values(KEY) == values


def test_a_range_holds_what_hydra_runs_as_a_grid() -> None:
    for text in ("range(1,5)", "range(4)", "range(5,1,-2)", "range(2,9,3)", "sort(range(5,1,-1))"):
        grid = OverridesParser.create().parse_override(f"x={text}").sweep_iterator()
        assert set(parse_space({KEY: text}, []).values(KEY) or ()) == set(grid)


REFUSED = [
    ("choise(4,8)", "Did you mean 'choice'?"),
    ("choice(4,8", "key=\"'VALUE'\""),
    ("choice()", "a choice of nothing"),
    ("choice(4,4)", "4 and 4 are the same choice"),
    ("choice(1,true)", "1 and true are the same choice"),
    ("choice(1,1.0)", "1 and 1.0 are the same choice"),
    ("choice([3],'[3]')", "are the same choice"),
    ("choice(a,b),c", "no plain value"),
    ("inf,1", "no plain value"),
    ("interval(2,1)", "Write interval(1.0,2.0)."),
    ("interval(1,inf)", "not a finite number"),
    ("interval(1)", "missing a required argument"),
    ("tag(log,interval(0,1))", "Begin above 0."),
    ("tag(lgo,interval(1,2))", "Did you mean 'log'?"),
    ("tag(log,choice(1,2))", "Tags go with intervals"),
    ("tag(log,range(1,9,2))", "logarithmic scale in steps"),
    ("tag(log,float(range(1,9)))", "tag(log,interval(low,high))"),
    ("range(3,1)", "a range without values"),
    ("range(1,5,0)", "a range without values"),
    ("glob(*)", "ConfigLoader is not set"),
    ([4, 8], "choice(4,8)"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_what_cannot_be_searched_is_refused_by_its_key(text: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_space({"seed": "1,2", KEY: text}, [])
    assert caught.value.keys == (f"hydra.sweeper.params.{KEY}",)
    assert str(caught.value).startswith(f"hydra.sweeper.params.{KEY}: wanted")
    assert words in str(caught.value)
    assert "None" not in str(caught.value)


def test_a_mistake_of_the_command_line_is_named_without_the_file() -> None:
    with pytest.raises(ConfigError, match=r"^adapter\.rank: wanted") as caught:
        parse_space({KEY: "1,2"}, [f"{KEY}=interval(2,1)"])
    assert caught.value.keys == (KEY,)


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_key_that_the_command_line_fixes_leaves_the_space(prefix: str) -> None:
    space = parse_space({KEY: "choice(4,8)", "seed": "1,2"}, [f"{prefix}{KEY}=16"])
    assert list(space.distributions) == ["seed"]
    assert space.fixed == (f"{prefix}{KEY}=16",)
    assert space.dropped == (KEY,)


def test_a_deleted_key_leaves_the_space_too() -> None:
    space = parse_space({KEY: "choice(4,8)", "seed": "1,2"}, [f"~{KEY}"])
    assert list(space.distributions) == ["seed"]
    assert space.fixed == (f"~{KEY}",)


def test_several_values_of_the_command_line_replace_those_of_the_file() -> None:
    space = parse_space({KEY: "choice(4,8)", "seed": 3}, [f"{KEY}=2,16", "seed=1,2", "method=orpo"])
    assert space.fingerprint() == {KEY: "choice(2,16)", "seed": "choice(1,2)"}
    assert space.fixed == ("method=orpo",)
    assert space.dropped == ()


def test_of_one_key_the_last_override_holds() -> None:
    fixed = parse_space({KEY: "1,2"}, ["seed=1,2", "seed=3"])
    assert (list(fixed.distributions), fixed.fixed) == ([KEY], ("seed=3",))
    swept = parse_space({KEY: "1,2"}, ["seed=3", "seed=1,2"])
    assert (list(swept.distributions), swept.fixed) == ([KEY, "seed"], ())


def test_one_value_in_the_file_is_fixed_unless_the_command_line_has_another() -> None:
    params = {KEY: "1,2", "adapter": "lora", "model.revision": None, "data.packing": True, "seed": 7}
    fixed = ("adapter=lora", "model.revision=null", "data.packing=true", "seed=7")
    assert parse_space(params, []).fixed == fixed
    assert parse_space(params, ["adapter=dora"]).fixed == (*fixed[1:], "adapter=dora")


def test_prefixes_stay_and_tags_get_theirs() -> None:
    space = parse_space({"+model.init": "random,pretrained", "tags.fold": "1,2"}, ["tags.x=a"])
    params = {"model.init": "random", "tags.fold": 2}
    assert space.overrides(params) == ["+model.init=random", "++tags.fold=2"]
    assert space.fixed == ("++tags.x=a",)


def test_nested_params_of_the_command_line_come_after_the_file() -> None:
    assert parse_space({KEY: "1,2", "adapter": {"rank": "3,4"}}, []).fingerprint() == {KEY: "choice(3,4)"}


@pytest.mark.parametrize(
    ("params", "arguments", "words"),
    [
        ({}, ["seed=1"], "got none. Add hydra.sweeper.params"),
        ({KEY: "1,2"}, [f"{KEY}=1"], f"none: {KEY} fixed"),
    ],
)
def test_a_search_of_nothing_is_refused(params: dict[str, str], arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=r"wanted keys to search") as caught:
        parse_space(params, arguments)
    assert words in str(caught.value)


def test_hydras_own_keys_are_not_searched() -> None:
    with pytest.raises(ConfigError, match="which is Hydra's"):
        parse_space({"hydra.job.name": "a,b"}, [])


def test_a_glob_is_the_options_of_a_group(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    for name in ("lora", "dora", "none"):
        (tmp_path / "adapter" / f"{name}.yaml").write_text("rank: 8\n")
    loader = ConfigLoaderImpl(create_config_search_path(str(tmp_path)))
    space = parse_space({"adapter": "glob(*,exclude=none)"}, [], config_loader=loader)
    assert space.values("adapter") == ("dora", "lora")
    assert space.overrides({"adapter": "dora"}) == ["adapter=dora"]


VALUES: list[Any] = [
    *(None, True, False, 0, -3, 1e-05, 0.1 + 0.2, 3.0, 1e22, -1e-300, 5e-324),
    *("lora", "", " ", "a,b", "a b", "it's", 'say "x"', "back\\slash", "\\", "'\\'", "x=1", "q: 1"),
    *("8", "1e-3", "null", "None", "TRUE", "inf", "nan", "[1,2]", "{a:1}", "choice(1,2)", "#no", "naïve ☃"),
    *("a\nb", "tab\there", "org/model-4bit", "../up", "re:.*q_proj$", "@", "%", "~", "+", "a.b", "1.", "_x"),
]


def _read_back(space: Space, values: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """What a job's config holds, composed by Hydra itself."""
    (tmp_path / "config.yaml").write_text("".join(f"{name}: unset\n" for name in values))
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        return dict(compose("config", space.overrides(values)))


def test_hydra_gives_back_exactly_the_value_drawn(tmp_path: Path) -> None:
    values = {f"key{position}": value for position, value in enumerate(VALUES)}
    space = Space(
        {name: CategoricalDistribution([value]) for name, value in values.items()},
        fixed=(),
        elements={name: name for name in values},
        verbatim={},
    )
    found = _read_back(space, values, tmp_path)
    assert found == values
    assert [type(found[name]) for name in values] == [type(value) for value in VALUES]


def test_lists_and_dicts_come_back_as_such_and_text_that_looks_like_them_as_text(tmp_path: Path) -> None:
    params = {
        "a": "choice([q_proj,'v,w'],[null])",
        "b": "choice({x:1},{y:[2]})",
        "c": "choice('[1]','{x:1}')",
    }
    space = parse_space(params, [])
    drawn = {name: values[0] for name in params if (values := space.values(name))}
    found = _read_back(space, drawn, tmp_path)
    assert found == {"a": ["q_proj", "v,w"], "b": {"x": 1}, "c": "[1]"}
    assert space.fingerprint()["c"] == "choice('[1]','{x:1}')"


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_any_value_survives_the_grammar(value: Any) -> None:
    found = OverridesParser.create().parse_override(f"x={value_text(value)}").value()
    assert found == value
    assert type(found) is type(value)


def test_what_optuna_draws_is_written_and_kept_alike() -> None:
    params = {
        "a": "interval(0,1)",
        "b": "range(0.1,1.0,0.3)",
        "c": "tag(log,int(interval(1,64)))",
        "d": "x,null",
    }
    space = parse_space(params, [])
    study = create_study(sampler=RandomSampler(seed=1))
    for _ in range(30):
        drawn = study.ask(space.distributions).params
        parser = OverridesParser.create()
        read = {o.key_or_group: o.value() for o in parser.parse_overrides(space.overrides(drawn))}
        assert read == drawn
        assert [type(value) for value in read.values()] == [type(value) for value in drawn.values()]


def test_params_of_another_space_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"wanted values for adapter\.rank; got seed"):
        parse_space({KEY: "1,2"}, []).overrides({"seed": 1})


def test_examples_hold_every_choice_and_both_bounds() -> None:
    space = parse_space({"a": "x,y,z", "b": "interval(0,1)", "c": "range(2,9)"}, [])
    examples = space.examples()
    assert [example["a"] for example in examples] == ["x", "y", "z"]
    assert {example["b"] for example in examples} == {0.0, 1.0}
    assert {example["c"] for example in examples} == {2, 8}
    assert not any(math.isnan(example["b"]) for example in examples)
