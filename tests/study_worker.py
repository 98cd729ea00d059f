"""A sweep's worker in miniature, and a trainer that only reports numbers: real processes for tests to kill.

    study_worker.py STORAGE FOLDER N_TRIALS

opens the study and runs trials, each in a process of its own, until it is done. A trial writes
`FOLDER/trial-N.pid` when it has attached, and does not go on while there is a `FOLDER/hold`.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

STUDY = "kills"
SEED = 3
HOLD = "hold"
STEPS = 3
STEP_SECONDS = 0.02


@dataclass(frozen=True)
class Address:
    """Which trial a process runs."""

    study: str
    number: int
    sweep_dir: str


class Stopped(BaseException):
    """SIGINT or SIGTERM."""


def stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped


def space() -> dict:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        "adapter.rank": IntDistribution(1, 64, log=True),
        "method.learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "adapter.name": CategoricalDistribution(["lora", "dora"]),
    }


def settings(**changes: object) -> dict:
    """What a study is made with."""
    fingerprint = {"space": {name: str(found) for name, found in space().items()}, "fixed": {"seed": "0"}}
    return {
        "version": 1,
        "name": STUDY,
        "fingerprint": fingerprint,
        "objectives": [{"metric": "eval_loss_best", "direction": "minimize"}],
        "pruner": {"name": "median", "n_startup_trials": 2},
        "sampler": {"name": "tpe", "seed": SEED},
        **changes,
    }


def curve(params: dict, step: int) -> float:
    """A loss that falls by step; a good learning rate and a high rank make it fall further."""
    rate = params["method.learning_rate"]
    floor = abs(rate - 1e-3) * 300 + 4 / params["adapter.rank"] + (params["adapter.name"] == "lora")
    return floor + 3.0 / (1 + step)


def open_trials(storage: str, n_trials: int, **options):
    """The study and this worker's view of it, with a TPE sampler and the median pruner."""
    from optuna.samplers import TPESampler

    from bit_axon.sweep.config.pruners import build_pruner
    from bit_axon.sweep.studies.study import open_study
    from bit_axon.sweep.studies.trials import Trials

    study = open_study(
        STUDY,
        storage,
        settings(),
        lambda sessions: TPESampler(seed=SEED + sessions, n_startup_trials=3),
        build_pruner(settings()["pruner"]),
    )
    return Trials(study, storage, n_trials, **options)


def work(storage: str, folder: Path, n_trials: int) -> int:
    """The loop of a sweeper; 130 when it was interrupted."""
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    os.environ["BIT_AXON_STUDY_STORAGE"] = storage
    trials = open_trials(storage, n_trials)
    while not trials.is_done():
        trial = trials.ask(space())
        if trial is None:
            time.sleep(0.1)
            continue
        child = forked(folder, trial.number)
        try:
            code = exit_code(child)
        except Stopped:
            os.kill(child, signal.SIGTERM)
            exit_code(child)
            trials.fail(trial.number, "interrupted", "stopped by hand")
            return 130
        trials.fail(trial.number, "killed" if code < 0 else "exception", f"exit code {code}")
    return 0


def forked(folder: Path, number: int) -> int:
    """A trial in a process of its own; forked, as the imports take longer than the trial."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(train(folder, number))
        finally:
            os._exit(1)
    return child


def exit_code(child: int) -> int:
    """Of a process, when it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(folder: Path, number: int) -> int:
    """One trial."""
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    from bit_axon.sweep.studies.attach import attach

    handle = attach(Address(STUDY, number, str(folder)), beat_seconds=0.2)
    params = dict(handle.params)
    (folder / f"trial-{number}.pid").write_text(str(os.getpid()))
    try:
        for step in range(1, STEPS + 1):
            time.sleep(STEP_SECONDS)
            while (folder / HOLD).exists():
                time.sleep(STEP_SECONDS)
            if handle.report(step, curve(params, step)):
                handle.pruned()
                return 0
    except Stopped:
        handle.fail("interrupted", f"at step {step}")
        return 130
    handle.complete([curve(params, STEPS)])
    return 0


if __name__ == "__main__":
    sys.exit(work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
