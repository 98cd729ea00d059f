"""The files of sweeps/: each composes, its space is read, its objective is reported and is in result.json."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Runner
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bit_axon.backend import mx
from bit_axon.composition import conf_dir, plain_values, register_resolvers
from bit_axon.models.inputs import ArrayBatch
from bit_axon.schema import RunConfig
from bit_axon.sweep.config.pruners import build_pruner
from bit_axon.sweep.config.samplers import build_sampler
from bit_axon.sweep.config.settings import SweepSettings, read_settings
from bit_axon.sweep.config.space import Space, parse_space
from bit_axon.sweep.job import number_of
from bit_axon.sweep.launching.command import as_hydra_config
from bit_axon.training.methods import METHODS
from bit_axon.training.methods.orpo import Orpo
from bit_axon.validation import check

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
REPORTED = ("eval_loss", "eval_loss_best")  # at every evaluation, of any method
SHORT = ("training.max_steps=2", "training.eval_every=1", "training.eval_batches=1", "training.batch_size=2")


@dataclass(frozen=True)
class Searched:
    """A file of sweeps/ as a search reads it."""

    loader: ConfigLoader
    config: DictConfig
    settings: SweepSettings
    space: Space

    def trials(self) -> Iterator[RunConfig]:
        """Configs with every choice and both ends of every range."""
        for example in self.space.examples():
            overrides = [*self.space.fixed, *self.space.overrides(example)]
            composed = self.loader.load_sweep_config(self.config, overrides)
            job = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
            with as_hydra_config(composed):
                yield check(RunConfig, plain_values(job))


@pytest.fixture(params=SWEEPS)
def searched(request: pytest.FixtureRequest, outputs: Path) -> Iterator[Searched]:
    """Each file in turn."""
    register_resolvers()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        arguments = [f"sweep={request.param}"]
        config = loader.load_configuration("config", arguments, RunMode.MULTIRUN)
        node: Any = OmegaConf.to_container(config.hydra.sweeper)
        settings = read_settings(node, study_name=request.param).settings
        space = parse_space(settings.params, arguments, config_loader=loader)
        yield Searched(loader, config, settings, space)


def test_there_are_searches() -> None:
    assert {"rank_scale_beta", "dora_rank", "learning_rate"} <= set(SWEEPS)


def test_it_composes_at_every_end_of_its_space(searched: Searched) -> None:
    trials = list(searched.trials())
    assert len(trials) >= 2
    for trial in trials:
        assert trial.training.max_steps is not None and trial.training.eval_every > 0
        assert trial.training.max_steps // trial.training.eval_every >= 5  # chances to be pruned
        assert trial.data.accuracy_prompts == trial.data.sample_prompts == 0


def test_its_objective_is_reported_and_can_be_pruned_by(searched: Searched) -> None:
    (objective,) = searched.settings.objectives
    methods = {str(trial.method["name"]) for trial in searched.trials()}
    for name in methods:
        assert objective.metric in (*REPORTED, *METHODS[name].metrics)


def test_its_sampler_and_its_pruner_are_built(searched: Searched) -> None:
    build_sampler(searched.settings.sampler, seed_offset=0, space=searched.space)
    build_pruner(searched.settings.pruner)
    assert searched.settings.pruner["name"] in ("median", "hyperband")
    assert searched.settings.n_trials == 20


@pytest.mark.parametrize("name", SWEEPS)
def test_what_is_searched_and_why_is_in_the_file(name: str) -> None:
    text = (ROOT / "sweeps" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"-m sweep={name}" in text
    assert "# Objective: " in text and "# Budget: 20 trials of " in text
    assert "minimized" in text or "maximized" in text


@pytest.mark.parametrize("name", SWEEPS)
def test_a_run_of_it_has_the_objective_and_keeps_to_the_limits(name: str, run: Runner) -> None:
    done = run(f"sweep={name}", "hydra.mode=RUN", "tracking=none", "thermal=off", *SHORT)
    assert done.code == 0, done.err
    shown = run("--cfg", "hydra", f"sweep={name}")
    node = OmegaConf.create(shown.out).hydra.sweeper
    values = [number_of(done.result, str(each.metric)) for each in node.objectives]
    assert None not in values
    for figure, limit in node.constraints.items():  # what the search starts from is allowed
        value = number_of(done.result, str(figure))
        assert value is not None and value <= float(limit)


def test_the_objective_of_rank_scale_beta_does_not_move_with_beta() -> None:
    class Policy:
        def token_logps(self, batch: ArrayBatch) -> mx.array:
            return mx.array([[0.0, -0.5, -1.0], [0.0, -0.2, -2.0], [0.0, -1.5, -1.0], [0.0, -0.7, -0.1]])

    mask = mx.array([[0.0, 1.0, 1.0]] * 4)
    nothing = mx.zeros((0,))
    batch = ArrayBatch(mask, nothing, nothing, nothing, None)
    metric = "nll"
    text = (ROOT / "sweeps" / "rank_scale_beta.yaml").read_text(encoding="utf-8")
    assert f"objectives: [{{metric: {metric}, direction: minimize}}]" in text
    low, high = (Orpo(beta=beta).loss(Policy(), batch) for beta in (0.03, 3.0))
    same = {name: low.metrics[name].item() == high.metrics[name].item() for name in low.metrics}
    assert same[metric]
    assert not same["reward_margin"] and low.loss.item() != high.loss.item()
    unmoved = {name for name, is_same in same.items() if is_same}
    assert unmoved == {"log_odds", "nll", "reward_accuracy"}
