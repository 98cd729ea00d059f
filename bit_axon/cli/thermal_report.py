"""What `bit-axon thermal doctor` shows: sources, which of them a run takes, and a fitted machine."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bit_axon.cli.terminal import fitted
from bit_axon.profiling.doctor import VALID_TEMP, Examination, origin
from bit_axon.profiling.fitting import Fit
from bit_axon.profiling.reading import PRESSURE_NAMES, Group, RawReading
from bit_axon.profiling.step_tests import StepTest

_GROUPS: Final[tuple[tuple[Group, str], ...]] = (
    ("gpu", "GPU"),
    ("cpu", "CPU"),
    ("chassis", "case"),
    ("other", "other"),
)
_WITHOUT_SENSOR: Final = (
    "To see what thermal control does, without a sensor: bit-axon run thermal=simulated_air",
    "To go without it, and without the message: bit-axon run thermal=off",
)
_REMEDIES: Final = {
    "darwin": (
        "A sandboxed program or a virtual machine may not read the sensors: run this in Terminal.",
        "macmon reads them in its own way: brew install macmon",
    ),
    "linux": (
        "A virtual machine or a container does not see its host's sensors: run on the machine itself.",
        "On the machine itself, load the drivers of its sensors: sudo sensors-detect (package lm-sensors).",
        "With an NVIDIA GPU: pip install 'bit-axon[nvidia]'",
    ),
}


def show_sources(examinations: Sequence[Examination], console: Console) -> None:
    """A table: each source, whether it answers, what it reads or why it does not, and how long that takes."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("source", no_wrap=True)
    table.add_column("answers")
    table.add_column("reads, or why not", overflow="fold")
    table.add_column("latency", justify="right", no_wrap=True)
    for item in examinations:
        answer = Text("yes", style="green") if item.ok else Text("no", style="red")
        text = _found(item) if item.ok else (item.error or "")
        latency = "" if item.latency_ms is None else _milliseconds(item.latency_ms)
        table.add_row(item.name, answer, Text(fitted(console, text)), latency)
    console.print(table)


def _found(item: Examination) -> str:
    values = described(item.values) if item.values else ""
    return "\n".join(part for part in (item.detail, values) if part)


def described(reading: RawReading) -> str:
    """`GPU 45.2 °C (8 sensors, 43.0 to 47.1), CPU 41.7 °C, pressure nominal, 12.3 W`."""
    parts = [_group(reading, group, label) for group, label in _GROUPS]
    parts += [
        "" if reading.pressure is None else f"pressure {_pressure(reading.pressure)}",
        "" if reading.sys_power_w is None else f"machine {reading.sys_power_w:.1f} W",
        "" if reading.gpu_power_w is None else f"GPU {reading.gpu_power_w:.1f} W",
        "" if reading.gpu_mhz is None else f"GPU {reading.gpu_mhz:,.0f} MHz",
        "" if reading.gpu_util is None else f"GPU {reading.gpu_util:.0%} busy",
        "" if reading.fan_rpm is None else f"fan {reading.fan_rpm:,.0f} rpm",
        f"throttled (mask {reading.throttle_bits:#x})" if reading.throttle_bits else "",
    ]
    return ", ".join(part for part in parts if part)


def _group(reading: RawReading, group: Group, label: str) -> str:
    every = [sensor.temp_c for sensor in reading.sensors if sensor.group == group]
    temps = [temp for temp in every if VALID_TEMP[0] <= temp <= VALID_TEMP[1]]
    dropped = f", {len(every) - len(temps)} without a believable value" if len(temps) < len(every) else ""
    if not every:
        return ""
    if not temps:
        return f"{label} without a believable value ({len(every)} sensor{'s' if len(every) > 1 else ''})"
    mean = f"{label} {sum(temps) / len(temps):.1f} °C"
    if len(every) == 1:
        return mean
    return f"{mean} ({len(temps)} sensors, {min(temps):.1f} to {max(temps):.1f}{dropped})"


def _pressure(level: int) -> str:
    return PRESSURE_NAMES[level] if 0 <= level < len(PRESSURE_NAMES) else str(level)


def _milliseconds(latency: float) -> str:
    return (
        f"{latency:.2f} ms" if latency < 1 else f"{latency:.1f} ms" if latency < 100 else f"{latency:,.0f} ms"
    )


def show_choice(
    examinations: Sequence[Examination], order: Sequence[str], device: str, platform: str, console: Console
) -> None:
    """In plain words: what `thermal=auto` does here, and what would help if it finds nothing."""
    answering = {item.name for item in examinations if item.ok}
    chosen = [name for name in order if name in answering]
    lines: list[str] = []
    if chosen:
        then = f"; if it is lost, {' then '.join(chosen[1:])}" if chosen[1:] else ""
        lines.append(f"A run on the {device.upper()} with thermal=auto reads {chosen[0]}{then}.")
        others = sorted(answering - set(chosen) - {"pressure"})
        if others:
            lines.append(f"Only on request (thermal.source=NAME): {', '.join(others)}.")
        if "pressure" in answering:
            lines.append(
                "Beside it, the system's thermal pressure, which slows a run but never speeds it up."
            )
    elif "pressure" in answering:
        lines.append(
            "No temperature can be read here: a run with thermal=auto goes by the system's thermal pressure "
            "alone, which may stay nominal on a machine that is already slowed down."
        )
        lines += _bullets(_REMEDIES.get(platform, ()))
    else:
        lines.append(
            "No source of temperature answers here: a run with thermal=auto says so once and goes on at full "
            "speed, without thermal control."
        )
        if answering:
            lines.append(f"On request (thermal.source=NAME): {', '.join(sorted(answering))}.")
        lines += _bullets((*_REMEDIES.get(platform, ()), *_WITHOUT_SENSOR))
    _show_lines(lines, console)


def _bullets(remedies: Sequence[str]) -> list[str]:
    return ["What may help:", *(f"  - {remedy}" for remedy in remedies)] if remedies else []


def show_fit(test: StepTest, found: Fit, base: str, console: Console) -> None:
    """The parameters with where they come from, and what a person should know before using them."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("parameter", "value", "where from"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for name, value in asdict(found.parameters).items():
        table.add_row(name, f"{value:.4g}", origin(name, found, base))
    console.print(table)
    load_seconds = test.load_ended_seconds - test.load_began_seconds
    lines = [
        f"{test.source} showed {test.temps[0]:.1f} °C at first and {max(test.temps):.1f} °C at most in "
        f"{load_seconds:.0f} s of full load. The model misses the {len(test.temps)} readings by "
        f"{found.residual_temp:.2f} °C (root mean square).",
        *found.remarks,
    ]
    _show_lines(lines, console)


def _show_lines(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(Text(fitted(console, line)), soft_wrap=not console.is_terminal)
