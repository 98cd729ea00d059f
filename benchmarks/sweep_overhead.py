"""What a trial costs beyond its training: `python -m benchmarks.sweep_overhead`.

Searches with the embedded model, a few steps per trial, once with a process per trial and once in one
process. The overhead of a trial is the time from its start to the next one's start, without the seconds that
its result.json counts as training, evaluation, saving and pauses; so reading the model and the data, and the
start of a process, are in it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import optuna

LAUNCHERS = {"isolated": 4.0, "basic": 0.3}  # and the most seconds that a trial may cost
_OWN = ("train_active", "eval", "save", "paused")
_SEARCH = [
    "-m",
    "sweep=learning_rate",
    "hydra.sweeper.pruner=nop",
    "tracking=none",
    "thermal=off",
    "training.max_steps=8",
    "training.eval_every=4",
    "data.accuracy_prompts=0",
    "data.sample_prompts=0",
]


@dataclass(frozen=True)
class Overheads:
    """Seconds of each trial but the first, which waits for imports, and the last, which has no next one."""

    whole: tuple[float, ...]
    setup: tuple[float, ...]  # the part of it that is reading the model and the data


def measure(launcher: str, trials: int) -> Overheads:
    """Runs a search of `trials` trials in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as outputs:
        command = [f"hydra/launcher={launcher}", f"hydra.sweeper.n_trials={trials}"]
        subprocess.run(
            [sys.executable, "-m", "bit_axon.run", *_SEARCH, *command],
            env={**os.environ, "BIT_AXON_OUTPUTS": outputs},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return _read(Path(outputs) / "sweeps" / "learning_rate")


def _read(folder: Path) -> Overheads:
    study = optuna.load_study(study_name="learning_rate", storage=f"sqlite:///{folder / 'study.db'}")
    starts = [trial.datetime_start for trial in study.trials]
    whole, setup = [], []
    for number, (start, following) in list(enumerate(pairwise(starts)))[1:]:
        assert start is not None and following is not None
        seconds = json.loads((folder / str(number) / "result.json").read_text())["seconds"]
        whole.append((following - start).total_seconds() - sum(seconds[part] for part in _OWN))
        setup.append(seconds["setup"])
    return Overheads(tuple(whole), tuple(setup))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the medians; the exit code says whether they are within the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=8, help="of each search, at least three")
    trials = max(3, parser.parse_args(arguments).trials)
    kept = True
    for launcher, most in LAUNCHERS.items():
        found = measure(launcher, trials)
        middle = median(found.whole)
        kept = kept and middle <= most
        print(
            f"{launcher}: {middle:.2f} s per trial beyond training (at most {most:g} s), "
            f"of them {median(found.setup):.2f} s model and data; "
            f"{min(found.whole):.2f} to {max(found.whole):.2f} s in {len(found.whole)} trials"
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
