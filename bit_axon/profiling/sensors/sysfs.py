"""Which temperatures a Linux kernel shows, and which part of the machine each one is of.

hwmon: class/hwmon/hwmon*/{name,temp*_input,temp*_label,temp*_crit,fan*_input}; thermal zones:
class/thermal/thermal_zone*/{type,temp,trip_point_*_type,trip_point_*_temp}; all in thousandths of a °C.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bit_axon.profiling.reading import Group

_IGNORED: Final = frozenset({"acpitz"})  # a constant on many boards
_RYZEN: Final = frozenset({"k10temp", "zenpower"})
_GPU_CHIP: Final = re.compile(r"gpu|radeon|nouveau", re.IGNORECASE)
_CPU_CHIP: Final = re.compile(r"cpu|soc|core|x86_pkg_temp", re.IGNORECASE)
_RYZEN_LABELS: Final = ("Tdie", "Tccd", "Tctl")  # Tctl may carry an offset that drives the fans


@dataclass(frozen=True)
class Input:
    """One number that can be asked for: a file below /sys, or a key of psutil's answer."""

    label: str
    key: str
    crit_temp: float | None = None


@dataclass(frozen=True)
class Sensor:
    """One temperature; with several inputs the highest counts."""

    name: str
    group: Group
    inputs: tuple[Input, ...]

    @property
    def decides(self) -> bool:
        """Whether it is of a die, not of a drive or the board."""
        return self.group in ("cpu", "gpu")


def discovered(root: Path) -> list[Sensor]:
    """All of hwmon, and the thermal zones of a part that hwmon lacks: the two often show one sensor."""
    hwmon = numbered(sensor for folder in _chips(root) for sensor in _of_folder(folder))
    groups = {sensor.group for sensor in hwmon}
    return hwmon + [zone for zone in numbered(_zones(root)) if zone.group not in groups]


def of_chip(chip: str, inputs: Sequence[Input]) -> Iterator[Sensor]:
    """The sensors of one chip; a name is that of its chip and its label, never a number of the boot."""
    if chip in _IGNORED:
        return
    if chip not in _RYZEN:
        for each in inputs:
            yield Sensor(f"{chip} {each.label}", _group(chip, each.label), (each,))
        return
    for label in _RYZEN_LABELS:
        found = tuple(each for each in inputs if each.label.startswith(label))
        if found:
            yield Sensor(f"{chip} {label}", "cpu", found)
            return


def numbered(sensors: Iterable[Sensor]) -> list[Sensor]:
    """Names made unique, as of a second processor or drive."""
    seen: Counter[str] = Counter()
    unique = []
    for sensor in sensors:
        seen[sensor.name] += 1
        count = seen[sensor.name]
        unique.append(sensor if count == 1 else replace(sensor, name=f"{sensor.name} #{count}"))
    return unique


def fan_files(root: Path) -> tuple[Path, ...]:
    """Files of a fan's speed in revolutions per minute."""
    return tuple(root.glob("class/hwmon/hwmon*/fan*_input"))


def throttle_files(root: Path) -> tuple[Path, ...]:
    """Intel's counters of moments at which a core or package was slowed down by heat."""
    return tuple(root.glob("devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"))


def celsius(path: str | Path) -> float | None:
    """A file of thousandths of a °C; None when it is gone, does not answer or holds something else."""
    value = whole(Path(path))
    return None if value is None else value / 1000


def whole(path: Path) -> int | None:
    """A file of one whole number; None as in `celsius`."""
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _chips(root: Path) -> list[Path]:
    """In the order of their devices: the numbers of hwmon change from boot to boot."""
    return sorted(root.glob("class/hwmon/hwmon*"), key=lambda folder: str((folder / "device").resolve()))


def _of_folder(folder: Path) -> Iterator[Sensor]:
    stems = [path.name.removesuffix("_input") for path in sorted(folder.glob("temp*_input"))]
    inputs = [
        Input(
            label=_text(folder / f"{stem}_label") or stem,
            key=str(folder / f"{stem}_input"),
            crit_temp=celsius(folder / f"{stem}_crit"),
        )
        for stem in stems
    ]
    yield from of_chip(_text(folder / "name") or "unnamed", inputs)


def _zones(root: Path) -> Iterator[Sensor]:
    for folder in sorted(root.glob("class/thermal/thermal_zone*")):
        kind = _text(folder / "type")
        if kind and (folder / "temp").exists():
            yield from of_chip(kind, [Input("zone", str(folder / "temp"), _critical_trip(folder))])


def _critical_trip(folder: Path) -> float | None:
    for kind in sorted(folder.glob("trip_point_*_type")):
        if _text(kind) == "critical":
            return celsius(kind.with_name(kind.name.replace("_type", "_temp")))
    return None


def _group(chip: str, label: str) -> Group:
    if chip == "nvme":
        # "Sensor 1" and so on are parts of the drive; "Composite" speaks for all of it.
        return "other" if label.startswith("Sensor") else "chassis"
    if _GPU_CHIP.search(chip):
        return "other" if label == "mem" else "gpu"  # memory runs hotter than the die, by design
    return "cpu" if _CPU_CHIP.search(chip) else "other"
