"""The report on growth as Markdown, and the lines of its figure."""

from collections.abc import Mapping, Sequence

from benchmarks.curves import PointResult, exponent
from benchmarks.report import header, table, value_text
from benchmarks.row_scaling import RowPoint

AXES = {
    "length": "tokens per row",
    "size": "parameters",
    "rank": "rank",
    "rows": "rows",
}
_MEBIBYTE = 1024**2
_HEADS = ("", "contestant", "step (quartiles)", "real tok/s", "us per token", "peak memory")
_ROW_HEADS = (
    "rows",
    "file",
    "tokenising",
    "first batch",
    "of it: tokenizer, load, plan, batch",
    "with process start",
    "memory added",
    "of it private",
    "peak added",
    "peak of the process",
)
_NOTES = (
    "A step is one optimizer update; it lasts from the end of the one before to its own end. `power` is the "
    "slope of a line through the points on logarithmic axes: 1 is growth in proportion. For rows, the cache "
    "is warm and each process is new; seconds until the first batch count from the end of the imports. "
    "Memory added is resident memory beyond that after the imports, pages of mapped files included; private "
    "memory is the part that no file backs."
)


def scaling_markdown(
    facts: Mapping[str, str], points: Sequence[PointResult], rows: Sequence[RowPoint]
) -> str:
    """Header, a table for each axis, and notes."""
    parts = ["# How cost grows", header(facts)]
    for axis in dict.fromkeys(found.axis for found in points):
        here = [found for found in points if found.axis == axis]
        parts += [f"## Along {AXES[axis]}", table(_HEADS, [_cells(found) for found in here]), _powers(here)]
    if rows:
        parts += [f"## Along {AXES['rows']}", table(_ROW_HEADS, [_row_cells(found) for found in rows])]
        parts += [_row_powers(rows)]
    return "\n\n".join([*parts, _NOTES]) + "\n"


def panels(
    points: Sequence[PointResult], rows: Sequence[RowPoint]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """For each axis its lines: seconds per step and peak memory, by contestant."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in points:
        series = found.setdefault(point.axis, {})
        for name, place in _places(point):
            series.setdefault(name, []).append(place)
    if rows:
        found["rows"] = {
            "first batch, s": [(point.rows, point.median("seconds")) for point in rows],
            "peak added, MiB": [(p.rows, max(p.median("added_peak_bytes") / _MEBIBYTE, 0.1)) for p in rows],
        }
    return found


def _places(found: PointResult) -> list[tuple[str, tuple[float, float]]]:
    places = []
    if found.step_seconds is not None:
        places.append((f"{found.peer}: step, s", (found.point.value, found.step_seconds.median)))
    if found.peak_bytes is not None:
        peak = found.peak_bytes.median / _MEBIBYTE
        places.append((f"{found.peer}: peak, MiB", (found.point.value, peak)))
    return places


def _cells(found: PointResult) -> list[str]:
    if found.step_seconds is None or found.real_tokens_per_second is None or found.peak_bytes is None:
        return [found.point.name, found.peer, found.failure or "no steady step", "-", "-", "-"]
    step = found.step_seconds
    middle, lower, upper = (value_text("step_seconds", v) for v in (step.median, step.lower, step.upper))
    tokens = found.real_tokens_per_second.median
    return [
        found.point.name,
        found.peer,
        f"{middle} ({lower}-{upper})",
        f"{tokens:.0f}",
        f"{1e6 / tokens:.0f}",
        value_text("peak_bytes", found.peak_bytes.median),
    ]


def _powers(points: Sequence[PointResult]) -> str:
    lines = []
    for name, series in panels(points, []).get(points[0].axis, {}).items():
        power = exponent(series)
        lines.append(f"- power of {name}: {'-' if power is None else f'{power:.2f}'}")
    return "\n".join(lines)


def _row_cells(found: RowPoint) -> list[str]:
    parts = ("tokenizer_seconds", "load_seconds", "plan_seconds", "batch_seconds")
    memory = ("added_bytes", "added_anonymous_bytes", "added_peak_bytes", "total_peak_bytes")
    return [
        f"{found.rows:,}",
        value_text("file_bytes", found.file_bytes),
        "-" if found.build_seconds is None else f"{found.build_seconds:.1f} s",
        f"{found.median('seconds'):.2f} s",
        ", ".join(f"{found.median(name):.2f}" for name in parts),
        f"{found.median('process_seconds'):.2f} s",
        *(value_text(name, found.median(name)) for name in memory),
    ]


def _row_powers(rows: Sequence[RowPoint]) -> str:
    lines = []
    for name, series in panels([], rows)["rows"].items():
        power = exponent(series)
        lines.append(f"- power of {name}: {'-' if power is None else f'{power:.2f}'}")
    return "\n".join(lines)
