"""Overrides of a repetition: they win over the run's values, and nothing else does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import rows_file, run_of_module, small_overrides

from bit_axon.config_files import config_files
from bit_axon.errors import ConfigError
from bit_axon.recomposed import composed
from bit_axon.reproduce import Repetition, repetition

TRAINING = {"epochs": None, "weight_decay": 0.125, "max_grad_norm": 2.0}
OWN_KEYS = ("hydra.run.dir=x", "hydra/launcher=basic", "resume=x", "trial=null", "+trial.number=1", "~resume")


class Repeated:
    """A run with config files of its own, which say something else today."""

    def __init__(self, folder: Path, model: Path):
        self.own, self.data = folder / "own", {"train": {"path": str(folder / "train.jsonl"), "weight": 0.5}}
        self.back()
        given = [each for each in small_overrides(model, folder) if not each.startswith("data.train=")]
        self.given = [*given, "training.max_steps=1", "+experiment=first", "data=mine"]
        self.given.append("tags.purpose=first")
        done = run_of_module(folder, "--config-dir", str(self.own), *self.given)
        assert done.code == 0, done.err
        self.run_dir = done.run_dir
        self.saved = yaml.safe_load((self.run_dir / "config.yaml").read_text())
        self.other = str(rows_file(folder / "other.jsonl", 40))

    def back(self) -> None:
        """The files as they were when it was trained."""
        self.say("training/mine", TRAINING, defaults=["default"])
        self.say("data/mine", self.data, defaults=["files"])
        self.experiment("first", {"tags": {"one": "1"}})

    def experiment(self, name: str, values: Mapping[str, Any], training: str = "mine") -> None:
        """Writes an experiment that brings an option of the group `training`."""
        self.say(f"experiment/{name}", values, [{"override /training": training}], package="_global_")

    def say(self, option: str, values: Mapping[str, Any], defaults: list[Any], package: str = "") -> None:
        """Writes an option's file."""
        file = self.own / f"{option}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        head = f"# @package {package}\n" if package else ""
        file.write_text(head + yaml.safe_dump({"defaults": [*defaults, "_self_"], **values}, sort_keys=False))

    def with_(self, *overrides: str) -> Repetition:
        """The repetition with overrides; nothing is trained."""
        return repetition(self.run_dir, overrides)

    def differs(self, *overrides: str) -> dict[str, Any]:
        """What the overrides change, by dotted key; a node that is not the same is one value."""
        values = self.with_(*overrides).values
        groups = [key for key, value in values.items() if isinstance(value, dict)]
        assert values.keys() == self.saved.keys()
        found = {
            key: value for key, value in values.items() if key not in groups and value != self.saved[key]
        }
        for group in groups:
            before, now = self.saved[group], values[group]
            keys = before.keys() | now.keys()
            found |= {f"{group}.{k}": now.get(k) for k in keys if before.get(k) != now.get(k)}
        return found


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Repeated:
    return Repeated(tmp_path_factory.mktemp("run"), tiny_model)


@pytest.fixture
def repeated(trained: Repeated) -> Repeated:
    trained.back()
    return trained


def test_an_override_that_says_what_the_file_says_today_wins(repeated: Repeated) -> None:
    repeated.say("training/mine", {**TRAINING, "weight_decay": 0.5, "max_grad_norm": 3.0}, ["default"])
    assert repeated.differs("seed=1") == {"seed": 1}
    assert repeated.differs("training.weight_decay=0.5") == {"training.weight_decay": 0.5}
    assert repeated.differs("training={weight_decay: 0.5}") == {"training.weight_decay": 0.5}
    lines = [
        line for line in repeated.with_("training.weight_decay=0.5").drift if line.startswith("config: ")
    ]
    assert len(lines) == 2  # it is still told


def test_an_option_that_is_chosen_again_is_todays(repeated: Repeated) -> None:
    repeated.say("training/mine", {**TRAINING, "weight_decay": 0.5, "max_grad_norm": 3.0}, ["default"])
    assert repeated.differs("training=mine") == {"training.weight_decay": 0.5, "training.max_grad_norm": 3.0}
    repeated.experiment("first", {"tags": {"one": "1"}, "training": {"weight_decay": 0.5}})
    assert repeated.differs("seed=1") == {"seed": 1}
    assert repeated.differs("experiment=first") == {"training.weight_decay": 0.5}


def test_an_option_of_another_group_is_taken_as_a_whole(repeated: Repeated) -> None:
    repeated.say("training/mine", {**TRAINING, "weight_decay": 0.5}, ["default"])
    found = repeated.with_("adapter=none", "data.sample_prompts=1")
    assert (found.values["adapter"]["name"], found.choices["adapter"]) == ("none", "none")
    assert found.choices["training"] == "mine" and found.values["training"] == repeated.saved["training"]
    assert found.values["data"] == {**repeated.saved["data"], "sample_prompts": 1}


def test_an_option_that_an_option_brings_is_taken_as_a_whole(repeated: Repeated) -> None:
    repeated.say("training/mine", {**TRAINING, "weight_decay": 0.5}, ["default"])
    repeated.say("training/other", {**TRAINING, "weight_decay": 0.5}, ["default"])
    repeated.experiment("second", {"seed": 5}, training="other")
    found = repeated.with_("experiment=second")
    assert found.values["training"]["weight_decay"] == 0.5  # of an option that the run did not have
    assert [found.choices[group] for group in ("training", "experiment")] == ["other", "second"]
    assert found.values["seed"] == 5 and found.values["tags"] == {"purpose": "first"}


def test_another_shape_in_the_file_of_today_changes_nothing(repeated: Repeated) -> None:
    repeated.say("data/mine", {"train": repeated.other}, ["files"])
    assert repeated.differs("seed=1") == {"seed": 1}
    assert repeated.differs(f"data.train={repeated.other}") == {"data.train": repeated.other}
    assert repeated.differs("data.train={path: x}")["data.train"] == {"path": "x"}


def test_keys_that_an_override_removes_are_gone(repeated: Repeated) -> None:
    found = repeated.with_("~tags.purpose", "tags.second=2").values
    assert found["tags"] == {"one": "1", "second": "2"}
    assert repeated.saved["tags"] == {"one": "1", "purpose": "first"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=7", "name=mine"],
        ["adapter=lora", "adapter.rank=3"],
        ["adapter=none"],
        ["method=orpo", "method.beta=0.3"],
        ["data=demo"],
        ["training=default", "training.epochs=null"],
        ["tags.x=1", "~tags.purpose"],
        ["model={dtype: float32}"],
    ],
)
def test_with_the_files_of_the_run_it_is_what_hydra_composes(
    overrides: list[str], repeated: Repeated
) -> None:
    found = repeated.with_(*overrides)
    wanted = composed([*repeated.given, *overrides], config_files(repeated.run_dir))
    assert found.choices == wanted.choices
    assert found.values == {**wanted.values, "name": wanted.values["name"] or repeated.saved["name"]}


@pytest.mark.parametrize("override", OWN_KEYS)
def test_what_is_each_runs_own_is_refused(override: str, repeated: Repeated) -> None:
    with pytest.raises(ConfigError, match="wanted overrides of what is trained; got") as told:
        repeated.with_(override)
    assert f"got {override}, which is each run's own. Leave it out" in str(told.value)
