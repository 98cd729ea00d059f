"""Linux: temperatures that the kernel shows in /sys, else those that psutil finds.

A cloud machine, a container or a CI runner usually shows none.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.reading import RawReading, SensorValue
from bit_axon.profiling.sensors import sysfs
from bit_axon.profiling.sensors.base import Probe, Thresholds

_SANE_CRIT: Final = (80.0, 125.0)  # °C; firmware also reports 0 and 65261
_LISTED: Final = 4  # names in a message; a server has a sensor for each core


def thresholds_around(pause_temp: float, stop_temp: float) -> Thresholds:
    """Tiers of a chip that names its own limits: all but the stop follow the pause temperature."""
    return Thresholds(
        warm=pause_temp - 10,
        target=pause_temp - 2,
        resume=pause_temp - 7,
        pause=pause_temp,
        stop=stop_temp,
    )


class LinuxSource:
    """Temperatures of CPU and GPU dies and drives, fans, and Intel's counters of throttling.

    `throttle_bits` is 1 when a throttle counter rose since the last read, else 0; None without counters.

    Args:
        root: of the tree that the kernel mounts at /sys.
        psutil_module: asked for `sensors_temperatures()` where the tree shows no die.
    """

    name = "linux"

    def __init__(self, root: Path = Path("/sys"), psutil_module: Any = psutil):
        self._root, self._psutil = root, psutil_module
        self._sensors: tuple[sysfs.Sensor, ...] = ()
        self._uses_psutil = False
        self._fans: tuple[Path, ...] = ()
        self._counters: dict[Path, int] = {}

    def probe(self) -> Probe:
        """Finds the sensors, once, and reads them; `read` looks for no others."""
        self.close()
        self._sensors = tuple(sysfs.discovered(self._root))
        self._uses_psutil = not any(sensor.decides for sensor in self._sensors)
        if self._uses_psutil:
            self._sensors = tuple(sysfs.numbered(_psutil_sensors(self._psutil)))
        self._fans = sysfs.fan_files(self._root)
        self._counters = _counts(sysfs.throttle_files(self._root))
        try:
            answering = {sensor.name for sensor in self.read().sensors}
        except SensorError:
            self.close()
            return Probe(False, self._looked_for())
        deciding = [sensor for sensor in self._sensors if sensor.decides and sensor.name in answering]
        return Probe(True, _listed([sensor.name for sensor in deciding]), _thresholds(deciding))

    def read(self) -> RawReading:
        """Asks every sensor the probe found; one that does not answer is left out.

        Raises:
            SensorError: no sensor of a die answers.
        """
        ask: Callable[[str], float | None] = sysfs.celsius
        if self._uses_psutil:
            ask = {each.key: temp for _, each, temp in _psutil_answers(self._psutil)}.get
        found = [(sensor, _hottest(sensor, ask)) for sensor in self._sensors]
        values = [(sensor, temp) for sensor, temp in found if temp is not None]
        if not any(sensor.decides for sensor, _ in values):
            names = _listed([sensor.name for sensor in self._sensors]) or "any sensor"
            remedy = "See what there is with `bit-axon thermal doctor`."
            raise SensorError(problem("a temperature of CPU or GPU", f"no answer from {names}", remedy))
        speeds = [speed for speed in map(sysfs.whole, self._fans) if speed is not None]
        return RawReading(
            sensors=tuple(SensorValue(sensor.name, sensor.group, temp) for sensor, temp in values),
            throttle_bits=self._throttled(),
            fan_rpm=max(speeds, default=None),
        )

    def close(self) -> None:
        """Forgets the sensors."""
        self._sensors, self._fans, self._counters = (), (), {}
        self._uses_psutil = False

    def _throttled(self) -> int | None:
        if not self._counters:
            return None
        counts = _counts(self._counters)
        rose = any(count > self._counters[path] for path, count in counts.items())
        self._counters |= counts
        return int(rose)

    def _looked_for(self) -> str:
        return (
            f"no temperature of CPU or GPU: looked for {self._root}/class/hwmon/hwmon*/temp*_input, "
            f"{self._root}/class/thermal/thermal_zone*/temp and psutil.sensors_temperatures(); "
            "virtual machines and containers usually have none of them"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _thresholds(sensors: Iterable[sysfs.Sensor]) -> Thresholds | None:
    """From the lowest critical temperature that can be true; None where no chip gives one."""
    crits = [each.crit_temp for sensor in sensors for each in sensor.inputs if each.crit_temp is not None]
    sane = [crit for crit in crits if _SANE_CRIT[0] <= crit <= _SANE_CRIT[1]]
    return thresholds_around(min(sane) - 15, min(sane) - 5) if sane else None


def _hottest(sensor: sysfs.Sensor, ask: Callable[[str], float | None]) -> float | None:
    temps = [ask(each.key) for each in sensor.inputs]
    return max((temp for temp in temps if temp is not None), default=None)


def _counts(paths: Iterable[Path]) -> dict[Path, int]:
    return {path: count for path in paths if (count := sysfs.whole(path)) is not None}


def _psutil_sensors(module: Any) -> Iterator[sysfs.Sensor]:
    chips: dict[str, list[sysfs.Input]] = {}
    for chip, each, _ in _psutil_answers(module):
        chips.setdefault(chip, []).append(each)
    for chip, inputs in chips.items():
        yield from sysfs.of_chip(chip, inputs)


def _psutil_answers(module: Any) -> Iterator[tuple[str, sysfs.Input, float]]:
    """Chip, input and temperature. A key is chip, label and a number among equal labels, for psutil leaves
    out what does not answer: a place in its list is not the same sensor each time.
    """
    try:
        answer = module.sensors_temperatures()
    except (AttributeError, OSError):  # macOS and Windows have no such function
        return
    for chip, entries in answer.items():
        seen: Counter[str] = Counter()
        for entry in entries:
            seen[entry.label] += 1
            label = entry.label or f"temp{seen[entry.label]}"
            key = f"{chip} {entry.label} {seen[entry.label]}"
            yield chip, sysfs.Input(label, key, entry.critical), entry.current
