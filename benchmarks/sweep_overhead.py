"""What a trial costs beyond its training: `python -m benchmarks.sweep_overhead`.

Searches with the embedded model, a few steps per trial, once with a process per trial and once in one
process. The overhead of a trial is the time from its start to the next one's start, without the seconds that
its result.json counts as training, evaluation, saving and pauses; so reading the model and the data, and the
start of a process, are in it. The report goes to outputs/benchmarks/<time>/.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import optuna

from benchmarks import options
from benchmarks.machine import machine_facts
from bit_axon.cli.failures import report_failure
from bit_axon.errors import BitAxonError, problem
from bit_axon.sweep.studies.storage import STORAGE_VARIABLE

STEM: Final = "sweep_overhead"
RECORDED: Final = "sweep-overhead"
LAUNCHERS = {"isolated": 4.0, "basic": 0.3}  # and the most seconds that a trial may cost
_LEAST_TRIALS: Final = 3  # one is left to measure
_HEADER: Final = (
    "| launcher | seconds beyond training | wanted | of them model and data | least to most | trials |\n"
    "| --- | --- | --- | --- | --- | --- |"
)
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

    def row(self, launcher: str) -> str:
        """A line of the table, of medians."""
        cells = (
            launcher,
            f"{median(self.whole):.2f}",
            f"at most {LAUNCHERS[launcher]:g}",
            f"{median(self.setup):.2f}",
            f"{min(self.whole):.2f} to {max(self.whole):.2f}",
            str(len(self.whole)),
        )
        return f"| {' | '.join(cells)} |"


def measure(launcher: str, trials: int) -> Overheads:
    """Runs a search of `trials` trials in a folder that is removed afterwards.

    Raises:
        BitAxonError: it failed.
    """
    with tempfile.TemporaryDirectory() as outputs:
        command = [f"hydra/launcher={launcher}", f"hydra.sweeper.n_trials={trials}"]
        environment = {key: value for key, value in os.environ.items() if key != STORAGE_VARIABLE}
        code = subprocess.run(
            [sys.executable, "-m", "bit_axon.run", *_SEARCH, *command],
            env={**environment, "BIT_AXON_OUTPUTS": outputs},
            stdout=subprocess.DEVNULL,
            check=False,
        ).returncode
        if code:
            raise BitAxonError(
                problem("a search that ends well", f"exit code {code}", "Its output says why.")
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


def report_text(found: Mapping[str, Overheads], arguments: Sequence[str]) -> str:
    """The report as Markdown."""
    facts = machine_facts(f"benchmarks.{STEM}", arguments)
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", _HEADER, *(each.row(launcher) for launcher, each in found.items())]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes the report and shows it; the exit code says whether all is within the limits."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{STEM}",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=8, help=f"of each search, at least {_LEAST_TRIALS}")
    parser.add_argument("--out", help="folder of the report; default: outputs/benchmarks/<time>")
    parser.add_argument(
        "--record", action="store_true", help=f"also copy the report to benchmarks/results/{RECORDED}.*"
    )
    given = parser.parse_args(arguments)
    said = list(sys.argv[1:] if arguments is None else arguments)
    try:
        folder = options.new_folder(given.out)
        trials = max(_LEAST_TRIALS, given.trials)
        found = {launcher: measure(launcher, trials) for launcher in LAUNCHERS}
        _write(found, folder, given.record, said)
    except (BitAxonError, KeyboardInterrupt) as error:
        return report_failure(error)
    return 0 if all(median(each.whole) <= LAUNCHERS[name] for name, each in found.items()) else 1


def _write(found: Mapping[str, Overheads], folder: Path, is_recorded: bool, arguments: Sequence[str]) -> None:
    values = {launcher: asdict(each) for launcher, each in found.items()}
    options.write(folder, STEM, report_text(found, arguments), values)
    if is_recorded:
        options.say([f"Recorded {path}" for path in options.record(folder, STEM, RECORDED)])


if __name__ == "__main__":
    sys.exit(main())
