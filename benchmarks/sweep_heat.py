"""What heat does to a study, and what this product's rules do about it: `python -m benchmarks.sweep_heat`.

Ten configs with known losses are tried in many orders on a simulated fanless laptop (`hot_study`). Hours
pass in seconds. The report goes to outputs/benchmarks/<time>/.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import optuna

from benchmarks import options
from benchmarks.hot_scores import ARMS, HEADER, order_of, run_arms, score
from benchmarks.sweep_heat_figure import plot_studies
from bit_axon.cli.failures import report_failure
from bit_axon.errors import BitAxonError
from bit_axon.files import write_atomic, write_json_atomic

STEM = "sweep_heat"


def quieten() -> None:
    """Optuna tells of each trial otherwise."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the studies, writes the report and shows its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_heat", description=__doc__)
    parser.add_argument("--orders", type=int, default=20, help="of the configs; default: %(default)s")
    parser.add_argument("--out", help="folder of the report; default: outputs/benchmarks/<time>")
    parser.add_argument("--record", metavar="NAME", help="also copy the report to benchmarks/results/NAME.*")
    given = parser.parse_args(arguments)
    quieten()
    try:
        _report(options.at_least_one(given.orders, "--orders"), options.new_folder(given.out), given.record)
    except (BitAxonError, KeyboardInterrupt) as error:
        return report_failure(error)
    return 0


def _report(orders: int, folder: Path, record: str | None) -> None:
    found = []
    for seed in range(orders):
        found.append(run_arms(seed))
        options.say(f"order {seed + 1} of {orders}: {order_of(seed)}")
    scores = [score(rules, found) for rules in ARMS]
    table = "\n".join([f"{orders} orders of ten configs.\n", HEADER, *(each.row for each in scores)])
    options.say(table)
    write_atomic(folder / f"{STEM}.md", table + "\n")
    write_json_atomic(folder / f"{STEM}.json", {"scores": [asdict(each) for each in scores]})
    plot_studies(found[0], scores, folder / f"{STEM}.png")
    if record:
        options.say([f"Recorded {path}" for path in options.record(folder, STEM, record)])


if __name__ == "__main__":
    sys.exit(main())
