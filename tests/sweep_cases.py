"""Studies and grids made by hand, as a sweep leaves them: a database, and a run directory for each trial."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import MedianPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from tracking_cases import RESULT, START_MS, append_lines, make_run

METRIC = "eval_loss_best"
STEPS = (10, 20, 30, 40)
SPACE: dict[str, BaseDistribution] = {
    "adapter.rank": IntDistribution(2, 64, log=True),
    "adapter.scale": FloatDistribution(1.0, 32.0),
    "adapter.name": CategoricalDistribution(["dora", "lora"]),
}


def objective(params: Mapping[str, Any]) -> float:
    """Least at rank 16 and scale 10, and a little less with DoRA."""
    far = abs(math.log(params["adapter.rank"] / 16)) + abs(params["adapter.scale"] - 10) / 20
    return 0.1 + 0.2 * far + (0.02 if params["adapter.name"] == "lora" else 0.0)


def make_study(
    folder: Path, trials: int = 12, *, wanted: int = 12, with_runs: bool = False, name: str = "ranks"
) -> optuna.Study:
    """A study in `folder`: trial 2 was killed and is run again as a later one, trial 5 ended in NaN."""
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{folder}/study.db",
        sampler=RandomSampler(seed=3),
        pruner=MedianPruner(n_startup_trials=3),
    )
    study.set_user_attr("bit_axon", settings(name, folder, wanted))
    for _ in range(trials):
        run_trial(study, folder, with_runs=with_runs)
    return study


def settings(name: str, folder: Path, wanted: int) -> dict[str, Any]:
    return {
        "version": 1,
        "name": name,
        "n_trials": wanted,
        "objectives": [{"metric": METRIC, "direction": "minimize"}],
        "sampler": {"name": "random", "seed": 3},
        "pruner": {"name": "median", "n_startup_trials": 3},
        "fingerprint": {"space": {"adapter.rank": "tag(log, int(interval(2, 64)))"}},
        "sweep_dir": str(folder.resolve()),
    }


def run_trial(study: optuna.Study, folder: Path, *, with_runs: bool = False) -> None:
    """Asks for a trial and ends it as its number says."""
    trial = study.ask(SPACE)
    value, number = objective(trial.params), trial.number
    run_dir = folder / str(number)
    trial.set_user_attr("run_dir", str(run_dir))
    if number in (2, 5):
        reason = "killed" if number == 2 else "nan"
        end_trial(study, trial, TrialState.FAIL, reason)
        if number == 2:
            study.enqueue_trial(trial.params, user_attrs={"retry_of": 2})
    else:
        curve = {step: value + 2.0 * math.exp(-step / 8) for step in STEPS}
        pruned_at = _report(trial, curve)
        if pruned_at is None:
            study.tell(trial, value)
        else:
            end_trial(study, trial, TrialState.PRUNED, "pruned:median")
    if with_runs:
        trial_run(run_dir, study.study_name, study.trials[number])


def _report(trial: optuna.Trial, curve: Mapping[int, float]) -> int | None:
    for step, value in curve.items():
        trial.report(value, step)
        if step < STEPS[-1] and trial.should_prune():
            return step
    return None


def end_trial(study: optuna.Study, trial: optuna.Trial, state: TrialState, reason: str) -> None:
    """Tells the state and keeps the reason."""
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=state)


def trial_run(run_dir: Path, study: str, trial: optuna.trial.FrozenTrial) -> None:
    """The run directory of a trial; a killed one has no result."""
    result: dict[str, Any] | None = None
    if trial.state is TrialState.COMPLETE:
        result = {**RESULT, "eval_loss_best": trial.value, "step": STEPS[-1]}
    elif trial.state is TrialState.PRUNED:
        result = {"state": "pruned", "stop_reason": "pruned", "step": trial.last_step}
    make_run(run_dir, steps=10, result=result)
    rewrite_config(
        run_dir, trial.params, {"study": study, "number": trial.number, "sweep_dir": str(run_dir.parent)}
    )
    lines = [
        {"time": START_MS + step, "step": step, "kind": "eval", "metrics": {"val/loss": value}}
        for step, value in trial.intermediate_values.items()
    ]
    append_lines(run_dir, lines)


def rewrite_config(run_dir: Path, params: Mapping[str, Any], trial: Mapping[str, Any] | None) -> None:
    """Puts params into the run's config, by their dotted keys, and says how it was started."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    for key, value in params.items():
        group, _, leaf = key.rpartition(".")
        (config.setdefault(group, {}) if group else config)[leaf] = value
    config["trial"] = trial
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    repro = json.loads((run_dir / "repro.json").read_text())
    overrides = [f"{key}={value}" for key, value in params.items()]
    overrides += [f"trial.{key}={value}" for key, value in (trial or {}).items()]
    repro |= {
        "overrides": overrides,
        "choices": {"adapter": "lora", "model": "nano", "hydra/launcher": "basic"},
    }
    (run_dir / "repro.json").write_text(json.dumps(repro))


def make_grid(
    folder: Path, names: Sequence[str] = ("lora", "dora"), seeds: Sequence[int] = (0, 1, 2)
) -> Path:
    """The jobs of `-m adapter=lora,dora seed=0,1,2`."""
    folder.mkdir(parents=True)
    for number, (name, seed) in enumerate((name, seed) for name in names for seed in seeds):
        value = 0.5 - 0.1 * (name == "dora") + 0.01 * seed
        run_dir = make_run(folder / str(number), steps=5, result={**RESULT, "eval_loss_best": value})
        rewrite_config(run_dir, {"adapter.name": name, "seed": seed}, None)
    return folder
