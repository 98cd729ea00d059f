"""What pruning saves: `python -m benchmarks.sweep_pruning`.

Runs the search `rank_scale_beta` with its pruner and without one, in fresh folders and one after the other,
and the default config once for as many steps. Everything goes to outputs/benchmarks/<time>/.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks import options
from benchmarks.machine import machine_facts
from bit_axon.cli.failures import report_failure
from bit_axon.errors import BitAxonError, problem
from bit_axon.run_directory import RESULT
from bit_axon.sweep.job import number_of
from bit_axon.sweep.reporting.finding import find_sweep
from bit_axon.sweep.reporting.report import COUNTED
from bit_axon.sweep.studies.storage import STORAGE_VARIABLE

STEM: Final = "sweep_pruning"
RECORDED: Final = "sweep-pruning"
SEARCH: Final = ("sweep=rank_scale_beta", "method=orpo")
ARMS: Final = {"with its pruner": (), "without a pruner": ("hydra.sweeper.pruner=nop",)}
_TARGET_RATIO: Final = 1.5
_HEADER: Final = (
    "| search | wall seconds | trials | pruned | failed | updates made | best {metric} | best trial |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Searched:
    """What one search took and found."""

    arm: str
    wall_seconds: float
    trials: int
    pruned: int
    failed: int
    updates: int  # until the last evaluation of each trial
    metric: str
    best: float | None
    best_trial: str

    @property
    def row(self) -> str:
        """A line of the table."""
        best = "-" if self.best is None else f"{self.best:.4f}"
        counts = (self.trials, self.pruned, self.failed, self.updates)
        cells = (self.arm, f"{self.wall_seconds:.0f}", *map(str, counts), best, self.best_trial)
        return f"| {' | '.join(cells)} |"


def search(arm: str, trials: int, folder: Path, overrides: Sequence[str] = ()) -> Searched:
    """Runs one search in a folder that is not there yet."""
    sweep_dir = folder / arm.replace(" ", "-")
    began = time.perf_counter()
    own = (f"hydra.sweeper.n_trials={trials}", f"hydra.sweep.dir='{sweep_dir}'")
    _run(("-m", *SEARCH, *ARMS[arm], *overrides, *own), folder)
    wall_seconds = time.perf_counter() - began
    report = find_sweep(str(sweep_dir)).report(has_ended=True)
    best = report.best[0] if report.best else None
    return Searched(
        arm,
        wall_seconds,
        report.count(*COUNTED),
        report.count("pruned"),
        report.count("failed"),
        sum(max(row.curve, default=0) for row in report.rows),
        report.objectives[0].metric,
        best.values[0] if best and best.values else None,
        ", ".join(f"{key}={value:.4g}" for key, value in best.params.items()) if best else "-",
    )


def default_value(metric: str, folder: Path, overrides: Sequence[str] = ()) -> float:
    """What the config reaches that a search starts from, on the same held-out pairs and as many steps.

    Raises:
        BitAxonError: its result lacks the metric.
    """
    run_dir = folder / "default"
    _run((*SEARCH, *overrides, "hydra.mode=RUN", f"hydra.run.dir='{run_dir}'"), folder)
    value = number_of(json.loads((run_dir / RESULT).read_text(encoding="utf-8")), metric)
    if value is None:
        raise BitAxonError(problem(f"a result with {metric}", "none", f"Look at {run_dir}"))
    return value


def _run(arguments: Sequence[str], folder: Path) -> None:
    """`python -m bit_axon.run ARGUMENTS`, its runs and its MLflow store in `folder`.

    Raises:
        BitAxonError: it failed.
    """
    environment = {key: value for key, value in os.environ.items() if key != STORAGE_VARIABLE}
    environment["BIT_AXON_OUTPUTS"] = str(folder)
    command = [sys.executable, "-m", "bit_axon.run", *arguments]
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        raise BitAxonError(problem("a search that ends well", f"exit code {code}", "Its output says why."))


def report_text(found: Sequence[Searched], default: float, arguments: Sequence[str]) -> str:
    """The report as Markdown; the first search is the one with a pruner."""
    pruning, whole = found
    ratio = whole.wall_seconds / pruning.wall_seconds
    facts = machine_facts(f"benchmarks.{STEM}", arguments)
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", _HEADER.format(metric=pruning.metric), *(each.row for each in found), ""]
    lines.append(f"Without pruning the search takes {ratio:.2f} times as long (wanted: {_TARGET_RATIO:g}).")
    steps = f"The default config reaches {pruning.metric} {default:.4f} in as many steps"
    better = pruning.best is not None and pruning.best < default
    lines.append(f"{steps}; the best pruned search's trial is {'better' if better else 'no better'}.")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs both searches and the default config, writes the report and shows it."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{STEM}", description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="of each search; default: %(default)s")
    parser.add_argument("--out", help="folder of runs and report; default: outputs/benchmarks/<time>")
    parser.add_argument(
        "--record", action="store_true", help=f"also copy the report to benchmarks/results/{RECORDED}.*"
    )
    parser.add_argument("overrides", nargs="*", help="config overrides for all runs: training.max_steps=4")
    given = parser.parse_args(arguments)
    said = list(sys.argv[1:] if arguments is None else arguments)
    try:
        trials = options.at_least_one(given.trials, "--trials")
        folder = options.new_folder(given.out).resolve()
        found = [search(arm, trials, folder, given.overrides) for arm in ARMS]
        default = default_value(found[0].metric, folder, given.overrides)
        _write(found, default, folder, given.record, said)
    except (BitAxonError, KeyboardInterrupt) as error:
        return report_failure(error)
    return 0


def _write(
    found: Sequence[Searched], default: float, folder: Path, is_recorded: bool, arguments: Sequence[str]
) -> None:
    values = {"searches": [asdict(each) for each in found], "default": default}
    options.write(folder, STEM, report_text(found, default, arguments), values)
    if is_recorded:
        options.say([f"Recorded {path}" for path in options.record(folder, STEM, RECORDED)])


if __name__ == "__main__":
    sys.exit(main())
