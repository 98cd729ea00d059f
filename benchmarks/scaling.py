"""Measures how cost grows: `python -m benchmarks.scaling`.

Seconds, throughput and memory of a step along sequence length, model size and rank; and seconds and
memory until the first batch along the number of rows. The report goes to outputs/benchmarks/<time>/.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from benchmarks import options
from benchmarks.cases import BATCH_ROWS, texts_of
from benchmarks.curves import (
    Point,
    PointResult,
    Setting,
    length_points,
    measure_point,
    rank_points,
    size_points,
)
from benchmarks.folders import SIZES, model_folder
from benchmarks.machine import machine_facts
from benchmarks.measuring import Effort
from benchmarks.plots import plot_curves
from benchmarks.row_scaling import RowPoint, measure_rows
from benchmarks.rows import default_preferences, default_sft
from benchmarks.scaling_report import AXES, panels, scaling_markdown
from bit_axon.cli.failures import report_failure
from bit_axon.errors import BitAxonError
from bit_axon.files import write_atomic, write_json_atomic

_STEM = "scaling"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes the report; 1 when a contestant failed, 2 for a wrong option."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(_parser().parse_args(given), given)
    except (BitAxonError, KeyboardInterrupt) as error:
        return report_failure(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    add = parser.add_argument
    add("--axes", default=",".join(AXES), help="default: %(default)s")
    add("--lengths", default="128,256,512,1024,2048", help="tokens per row; default: %(default)s")
    add("--sizes", default="2m,8m,25m,47m,100m", help="models; default: %(default)s")
    add("--ranks", default="4,8,16,32,64", help="default: %(default)s")
    add("--rows", default="1000,10000,100000,1000000", help="default: %(default)s")
    add("--model", default="8m", help="along length, rank and rows; default: %(default)s")
    add("--adapter", default="lora", help="lora or dora; default: %(default)s")
    add("--peers", default="", help="mlx-lm to measure it too")
    add("--batch", type=int, default=BATCH_ROWS, help="rows in a step; default: %(default)s")
    add("--rounds", type=int, default=3, help="blocks of each contestant, and fresh processes for rows")
    add("--steps", type=int, default=3, help="steps in a block; default: %(default)s")
    add("--warm-steps", type=int, default=1, help="steps before the first block; default: %(default)s")
    add("--block-seconds", type=float, default=20.0, help="a block ends then, if one step is done")
    add("--sft", type=Path, help="JSONL of chat rows; default: GSM8K beside the project, else the demo")
    add("--output", help="folder of the report; default: outputs/benchmarks/<time>")
    add("--record", metavar="NAME", help="also copy the report to benchmarks/results/NAME.*")
    return parser


def _run(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    axes = options.known_names(given.axes, AXES, "--axes")
    row_counts = options.whole_numbers(given.rows, "--rows")
    lists = _Lists(
        lengths=options.whole_numbers(given.lengths, "--lengths"),
        sizes=options.known_names(given.sizes, SIZES, "--sizes"),
        ranks=options.whole_numbers(given.ranks, "--ranks"),
    )
    effort = _effort(given)
    setting = _setting(given)  # last: it may write a file, which a wrong option must not
    planned = _planned(lists, setting)
    folder = options.new_folder(given.output)
    points: list[PointResult] = []
    for axis, make in planned.items():
        for point in make() if axis in axes else ():
            options.say(f"{AXES[axis]}: {point.name}")
            points += measure_point(axis, point, setting, effort, folder / "logs", options.say)
    rows = list(_rows(row_counts, setting, effort.rounds)) if "rows" in axes else []
    _write(folder, machine_facts("benchmarks.scaling", arguments) | _facts(setting), points, rows)
    if given.record:
        options.say([f"Recorded {path}" for path in options.record(folder, _STEM, given.record)])
    return 1 if any(found.failure for found in points) else 0


def _setting(given: argparse.Namespace) -> Setting:
    (model,) = options.known_names(given.model, SIZES, "--model")[:1]
    (adapter,) = options.known_names(given.adapter, ("lora", "dora"), "--adapter")[:1]
    peers = options.known_names(given.peers, ("mlx-lm",), "--peers") if given.peers else ()
    batch_rows = options.at_least_one(given.batch, "--batch")
    sft = given.sft or default_sft()
    texts = tuple(texts_of(sft, default_preferences()))
    return Setting(model, adapter, peers, batch_rows, sft, texts)


def _effort(given: argparse.Namespace) -> Effort:
    counts = (("--rounds", given.rounds), ("--steps", given.steps), ("--warm-steps", given.warm_steps))
    rounds, steps, warm_steps = (options.at_least_one(value, option) for option, value in counts)
    return Effort(rounds, steps, warm_steps, given.block_seconds)


class _Lists(NamedTuple):
    """What each axis of steps goes through."""

    lengths: tuple[int, ...]
    sizes: tuple[str, ...]
    ranks: tuple[int, ...]


def _planned(lists: _Lists, setting: Setting) -> dict[str, Callable[[], Iterator[Point]]]:
    """The points of each axis of steps, made when their turn comes."""
    return {
        "length": lambda: length_points(setting, lists.lengths),
        "size": lambda: size_points(setting, lists.sizes),
        "rank": lambda: rank_points(setting, lists.ranks),
    }


def _rows(counts: Sequence[int], setting: Setting, repeats: int) -> Iterator[RowPoint]:
    folder = model_folder(setting.model, list(setting.texts))
    for count in counts:
        options.say(f"{AXES['rows']}: {count:,}")
        yield measure_rows(count, folder, repeats, options.say)


def _facts(setting: Setting) -> dict[str, str]:
    what = f"{setting.model}, {setting.adapter}, {setting.batch_rows} rows a step, {setting.sft.name}"
    return {"setting": what}


def _write(
    folder: Path, facts: dict[str, str], points: Sequence[PointResult], rows: Sequence[RowPoint]
) -> None:
    values = {
        "header": facts,
        "points": [found.to_json() for found in points],
        "rows": [asdict(found) for found in rows],
    }
    write_json_atomic(folder / f"{_STEM}.json", values)
    text = scaling_markdown(facts, points, rows)
    write_atomic(folder / f"{_STEM}.md", text)
    plot_curves(panels(points, rows), folder / f"{_STEM}.png", AXES)
    options.say(["", text, f"Written to {folder}"])


if __name__ == "__main__":
    sys.exit(main())
