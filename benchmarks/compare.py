"""Measures bit_axon beside its peers: `python -m benchmarks.compare`.

Every contestant is a process that trains a few steps at a time, in turn with the others, on the same
model folder and the same data. The report goes to outputs/benchmarks/<time>/.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import options
from benchmarks.cases import ADAPTERS, BATCH_ROWS, SCENARIOS, Case, Selection, cases
from benchmarks.contestants import OURS, PEERS, check_python, is_installed
from benchmarks.folders import SIZES
from benchmarks.machine import machine_facts
from benchmarks.measuring import Effort, measure
from benchmarks.plots import plot_ratios
from benchmarks.report import markdown
from benchmarks.results import CaseResult
from benchmarks.rows import default_preferences, default_sft, read_rows
from bit_axon.cli.failures import report_failure
from bit_axon.errors import BitAxonError
from bit_axon.files import write_atomic, write_json_atomic

_STEM = "comparison"
_MODELS = "8m,47m"
_QUICK = Effort(rounds=2, steps=3, warm_steps=2, block_seconds=4.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes the report; 1 when a contestant failed, 2 for a wrong option."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(_parser().parse_args(given), given)
    except (BitAxonError, KeyboardInterrupt) as error:
        return report_failure(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    add = parser.add_argument
    add("--models", default=_MODELS, help=f"out of {', '.join(SIZES)}; default: %(default)s")
    add("--scenarios", default=",".join(SCENARIOS), help="stream: rows of natural lengths; same: one batch")
    add("--adapters", default=",".join(ADAPTERS), help="lora4: LoRA on a 4-bit base; default: %(default)s")
    add("--peers", default="mlx-lm,mlx-lm-lora,peft", help=f"out of {', '.join(_peer_names())}")
    add("--rounds", type=int, default=5, help="blocks of each contestant; default: %(default)s")
    add("--steps", type=int, default=8, help="steps in a block that compile nothing; default: %(default)s")
    add("--warm-steps", type=int, default=4, help="steps before the first block; default: %(default)s")
    add("--block-seconds", type=float, default=30.0, help="a block ends then, if one step is done")
    add("--our-batch", type=int, default=BATCH_ROWS, help="packs in a step of ours in the stream scenario")
    add("--sft", type=Path, help="JSONL of chat rows; default: GSM8K beside the project, else the demo")
    add("--preferences", type=Path, help="JSONL of preference rows; default: likewise")
    add("--peft-python", default=sys.executable, help="an interpreter with torch and peft")
    add("--quick", action="store_true", help="about two minutes: the small model, no 4-bit base, few steps")
    add("--output", help="folder of the report; default: outputs/benchmarks/<time>")
    add("--record", metavar="NAME", help="also copy the report to benchmarks/results/NAME.*")
    return parser


def _peer_names() -> tuple[str, ...]:
    return tuple(name for name in PEERS if name != OURS)


def _run(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    effort = _effort(given)
    chosen = _selection(given)
    folder = options.new_folder(given.output)
    results = [_measured(case, effort, folder) for case in cases(chosen)]
    facts = machine_facts("benchmarks.compare", arguments) | _worker_facts(results) | _data_facts(chosen)
    write_json_atomic(
        folder / f"{_STEM}.json", {"header": facts, "cases": [result.to_json() for result in results]}
    )
    text = markdown(facts, results)
    write_atomic(folder / f"{_STEM}.md", text)
    plot_ratios([line for result in results for line in result.lines()], folder / f"{_STEM}.png")
    options.say(["", text, f"Written to {folder}"])
    if given.record:
        options.say([f"Recorded {path}" for path in options.record(folder, _STEM, given.record)])
    return 1 if any(result.failures() for result in results) else 0


def _selection(given: argparse.Namespace) -> Selection:
    """What was asked for, checked."""
    models = "8m" if given.quick and given.models == _MODELS else given.models
    adapters = "lora,dora" if given.quick and given.adapters == ",".join(ADAPTERS) else given.adapters
    chosen = Selection(
        models=options.known_names(models, SIZES, "--models"),
        scenarios=options.known_names(given.scenarios, SCENARIOS, "--scenarios"),
        adapters=options.known_names(adapters, ADAPTERS, "--adapters"),
        peers=options.known_names(given.peers, _peer_names(), "--peers"),
        peft_python=check_python(given.peft_python),
        our_batch=options.at_least_one(given.our_batch, "--our-batch"),
        quick=given.quick,
        sft=given.sft or default_sft(),  # last: these may write a file, which a wrong option must not
        preferences=given.preferences or default_preferences(),
    )
    for path in (chosen.sft, chosen.preferences):
        read_rows(path, limit=1)
    return chosen


def _effort(given: argparse.Namespace) -> Effort:
    if given.quick:
        return _QUICK
    counts = (("--rounds", given.rounds), ("--steps", given.steps), ("--warm-steps", given.warm_steps))
    rounds, steps, warm_steps = (options.at_least_one(value, option) for option, value in counts)
    return Effort(rounds, steps, warm_steps, given.block_seconds)


def _measured(case: Case, effort: Effort, folder: Path) -> CaseResult:
    options.say(f"{case.model}: {case.title}")
    present = tuple(c for c in case.contestants if is_installed(c.peer, c.python))
    logs = folder / "logs" / f"{case.model}-{case.title}".replace(" ", "-").replace(",", "")
    return CaseResult(case, measure(present, effort, logs, options.say))


def _worker_facts(results: Sequence[CaseResult]) -> dict[str, str]:
    """What the workers said they run with."""
    found: dict[str, str] = {}
    for result in results:
        for measured in result.measured.values():
            said = measured.ready.get("versions", {})
            blas = f", BLAS {said['blas']}" if "blas" in said else ""
            names = ", ".join(f"{name} {value}" for name, value in said.items() if name != "blas")
            found[f"contestant {measured.contestant.peer}"] = f"{names}{blas}"
    return found


def _data_facts(chosen: Selection) -> dict[str, str]:
    return {"rows": f"{chosen.sft.name}, {chosen.preferences.name}"}


if __name__ == "__main__":
    sys.exit(main())
