"""macmon, if it is installed: average temperatures of CPU and GPU, power and clocks, without root.

The Python library (the extra `macmon`) is preferred; otherwise `macmon pipe` runs as a child process. Its
HTTP server is never used: that would listen on all interfaces.
"""

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.clock import Clock, SystemClock
from bit_axon.profiling.reading import RawReading, SensorValue
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.sensors.child import Child, number

_FIRST_SECONDS: Final = 10.0  # macmon enumerates the SMC before its first sample
_WANTED: Final = "a sample of macmon"
_REMEDY: Final = "Update macmon, or choose another thermal.source."


class MacmonSource:
    """Temperatures as macmon averages them: no maximum, and 0.0 where it has no sensor.

    Args:
        interval_seconds: between samples of the child process.
        max_age_seconds: an older sample is none.
        clock: for the age of samples.
        load: imports the library; raises ImportError without it.
        which: finds the program on PATH.
    """

    name = "macmon"

    def __init__(
        self,
        *,
        interval_seconds: float = 1.0,
        max_age_seconds: float = 5.0,
        clock: Clock | None = None,
        load: Callable[[str], Any] = importlib.import_module,
        which: Callable[[str], str | None] = shutil.which,
        platform: str = sys.platform,
    ):
        self._platform = platform
        self._interval_seconds, self._max_age_seconds = interval_seconds, max_age_seconds
        self._clock = clock or SystemClock()
        self._load, self._which = load, which
        self._sampler: Any = None
        self._child: Child | None = None

    def probe(self) -> Probe:
        """Takes one sample, from the library or else from the program."""
        self.close()
        if self._platform != "darwin":
            return Probe(False, "macOS only")
        failures = []
        for how, attempt in (("library", self._open_library), ("program", self._open_program)):
            try:
                reading = attempt()
            except SensorError as error:
                failures.append(f"{how}: {error}".rstrip("."))
            else:
                if any(sensor.temp_c > 0 for sensor in reading.sensors):
                    return Probe(True, f"averages of CPU and GPU through the macmon {how}")
                failures.append(f"{how}: it answers, but has no temperature")
            self.close()
        return Probe(False, "; ".join(failures))

    def read(self) -> RawReading:
        """The newest sample.

        Raises:
            SensorError: there is none, or it is no sample.
        """
        if self._sampler is not None:
            return _sampled(self._sampler)
        if self._child is not None:
            return parse_line(self._child.latest(self._max_age_seconds))
        raise SensorError(problem(_WANTED, "neither library nor program", "Probe the source first."))

    def close(self) -> None:
        """Ends the child process, or gives back the library's handle."""
        if self._child is not None:
            self._child.close()
        if self._sampler is not None:
            self._sampler.close()
        self._child = self._sampler = None

    def _open_library(self) -> RawReading:
        try:
            self._sampler = self._load("macmon").Sampler()
        except (ImportError, OSError) as error:
            remedy = "Install it with `pip install 'bit-axon[macmon]'`."
            raise SensorError(problem("the Python library macmon", str(error), remedy)) from error
        except (AttributeError, RuntimeError) as error:  # a folder of that name; its own errors
            raise SensorError(problem(_WANTED, str(error), _REMEDY)) from error
        return _sampled(self._sampler)

    def _open_program(self) -> RawReading:
        path = self._which("macmon")
        if path is None:
            remedy = "Install it with `brew install macmon`."
            raise SensorError(problem("the program macmon", "none on PATH", remedy))
        command = (path, "pipe", "-i", f"{self._interval_seconds * 1000:.0f}")
        self._child = Child(command, clock=self._clock)
        self._child.start()
        return parse_line(self._child.first(_FIRST_SECONDS))


def parse_line(line: bytes) -> RawReading:
    """One line of `macmon pipe`, of 0.7 or 0.8.

    Raises:
        SensorError: it is not a sample.
    """
    try:
        sample = json.loads(line)
    except ValueError:
        sample = None
    temperatures = sample.get("temp") if isinstance(sample, dict) else None
    if not isinstance(sample, dict) or not isinstance(temperatures, dict):
        raise SensorError(problem(_WANTED, line[:80].decode(errors="replace"), _REMEDY))
    clock_mhz, utilisation = _gpu_work(sample)
    return RawReading(
        _sensors(number(temperatures, "cpu_temp_avg"), number(temperatures, "gpu_temp_avg")),
        # 0 W means that the Mac does not report its total; what remains is CPU, GPU and neural engine.
        sys_power_w=number(sample, "sys_power") or number(sample, "all_power") or None,
        gpu_power_w=number(sample, "gpu_power"),
        gpu_mhz=clock_mhz,
        gpu_util=utilisation,
        fan_rpm=_fastest_fan(sample.get("fans")),
    )


def _gpu_work(sample: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Clock in MHz and busy fraction; 0.7 has them as a pair, and scaled by the clock."""
    pair = sample.get("gpu_usage")
    named = dict(zip(("mhz", "ratio"), pair, strict=False)) if isinstance(pair, list) else {}
    clock_mhz = number(sample, "gpu_freq_mhz")
    utilisation = number(sample, "gpu_active_ratio")
    return (
        number(named, "mhz") if clock_mhz is None else clock_mhz,
        number(named, "ratio") if utilisation is None else utilisation,
    )


def _fastest_fan(fans: Any) -> float | None:
    speeds = (
        [number(fan, "rpm") for fan in fans if isinstance(fan, Mapping)] if isinstance(fans, list) else []
    )
    return max((speed for speed in speeds if speed is not None), default=None)


def _sampled(sampler: Any) -> RawReading:
    """One sample of the library: since its last one, so it answers at once."""
    try:
        metrics = sampler.metrics()
        gpu = metrics.gpu_usage[0] if metrics.gpu_usage else None
        return RawReading(
            _sensors(metrics.temperature.cpu_average, metrics.temperature.gpu_average),
            sys_power_w=metrics.power.board or metrics.power.package or None,
            gpu_power_w=metrics.power.gpu,
            gpu_mhz=gpu.frequency_mhz if gpu else None,
            gpu_util=gpu.usage if gpu else None,
        )
    except (AttributeError, RuntimeError) as error:  # another version; macmon's own errors
        raise SensorError(problem(_WANTED, str(error), _REMEDY)) from error


def _sensors(cpu_temp: float | None, gpu_temp: float | None) -> tuple[SensorValue, ...]:
    cpu = () if cpu_temp is None else (SensorValue("cpu average", "cpu", cpu_temp),)
    gpu = () if gpu_temp is None else (SensorValue("gpu average", "gpu", gpu_temp),)
    return cpu + gpu
