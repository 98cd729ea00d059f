"""The report as Markdown."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.blocks import METRICS, Spread, spread, values_of
from benchmarks.measuring import Measured
from benchmarks.results import CaseResult, Line, contestant_json

_MEBIBYTE = 1024**2
_NOTES = (
    "Ratios are ours divided by the peer's: medians of the rounds' ratios, quartiles in brackets; the "
    "contestants of a case take turns, block by block. A step lasts from the end of the one before to its "
    "own end, building its batch included; the steps in which something was compiled for a new shape count "
    "in the last column of the second table alone. Real tokens are those of rows, padding not counted. Peak "
    "memory is the most that MLX's allocator held in a block, weights included, after warm-up; resident "
    "memory is that of the whole process, with what its allocator keeps for later. In the stream each "
    "contestant batches as it does by default: the peers take 4 rows a step and we take 4 packs of rows, so "
    "peak memory is compared on the same batch."
)


def markdown(facts: Mapping[str, str], results: Sequence[CaseResult]) -> str:
    """Header, the table of ratios, the table of contestants, and notes."""
    lines = [line for result in results for line in result.lines()]
    parts = [
        "# Beside the peers",
        header(facts),
        table(
            ("what", "model", "peer", "ours", "ratio", "target", "met"), [_comparison_cells(x) for x in lines]
        ),
        "## Every contestant",
        table(_CONTESTANT_HEADS, [cells for result in results for cells in _contestants(result)]),
        _NOTES,
    ]
    failures = [failure for result in results for failure in result.failures()]
    if failures:
        parts += ["## Failed", "\n".join(f"- {failure}" for failure in failures)]
    return "\n\n".join(parts) + "\n"


def header(facts: Mapping[str, str]) -> str:
    """A list of facts."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def value_text(metric: str, value: float) -> str:
    """A number with its unit."""
    if metric.endswith("_bytes"):
        return f"{value / _MEBIBYTE:.0f} MiB"
    if metric == "step_seconds":
        return f"{value * 1000:.0f} ms" if value < 10 else f"{value:.1f} s"
    unit = "pairs/s" if metric.startswith("examples") else "tok/s"
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def ratio_text(ratio: Spread, used: int, rounds: int) -> str:
    """Median and quartiles; and how many rounds had a steady step on both sides, where not all had."""
    text = f"{ratio.median:.2f} ({ratio.lower:.2f}-{ratio.upper:.2f})"
    return text if used == rounds else f"{text}, {used} of {rounds} rounds"


def _comparison_cells(line: Line) -> list[str]:
    target = str(line.target) if line.target else "-"
    if line.ratio is None or line.peer_value is None or line.our_value is None:
        return [line.what, line.model, f"{line.peer}: {line.problem}", "-", "-", target, "-"]
    met = {True: "yes", False: "no", None: "-"}[line.is_met]
    peer, ours = (value_text(line.metric, value.median) for value in (line.peer_value, line.our_value))
    ratio = ratio_text(line.ratio, len(line.ratios), line.rounds)
    return [line.what, line.model, f"{line.peer} {peer}", ours, ratio, target, met]


_CONTESTANT_HEADS = (
    "case",
    "model",
    "contestant",
    "step (quartiles)",
    "real tok/s",
    "supervised tok/s",
    "rows or pairs/s",
    "rows per step",
    "padding",
    "peak",
    "resident",
    "set-up",
    "first step",
    "real tok/s with compiling",
)


def _contestants(result: CaseResult) -> list[list[str]]:
    case = result.case
    return [
        [case.title, case.model, label, *_contestant_cells(found)]
        for label, found in result.measured.items()
        if not found.failure
    ]


def _contestant_cells(found: Measured) -> list[str]:
    facts = contestant_json(found)
    medians = {metric: spread(values_of(found.rounds, metric)) for metric in METRICS}
    with_compiling = facts["including_compile"]["real_tokens_per_second"]
    return [
        _step_cell(medians["step_seconds"]),
        _number(medians["real_tokens_per_second"], ".0f"),
        _number(medians["supervised_tokens_per_second"], ".0f"),
        _number(medians["examples_per_second"], ".2f"),
        f"{facts['examples_per_step']:.1f}",
        f"{facts['padding_share']:.0%}",
        _bytes_cell("peak_bytes", medians["peak_bytes"]),
        _bytes_cell("resident_peak_bytes", medians["resident_peak_bytes"]),
        f"{facts['setup_seconds']:.1f} s",
        value_text("step_seconds", facts["first_step_seconds"]),
        f"{with_compiling:.0f}",
    ]


def _step_cell(found: Spread | None) -> str:
    if found is None:
        return "-"
    middle, lower, upper = (value_text("step_seconds", v) for v in (found.median, found.lower, found.upper))
    return f"{middle} ({lower}-{upper})"


def _number(found: Spread | None, form: str) -> str:
    return "-" if found is None else format(found.median, form)


def _bytes_cell(metric: str, found: Spread | None) -> str:
    return "-" if found is None else value_text(metric, found.median)
