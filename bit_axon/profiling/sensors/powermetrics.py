"""Apple's powermetrics: thermal pressure and power, for root only.

On Apple silicon it has no temperature at all: the sampler that older tools ask it for does not exist there.
So this source knows pressure, and a run with it is gated by pressure alone. It is chosen explicitly, never
automatically: it needs sudo without a prompt, and a sample costs half a second of a core.
"""

import plistlib
import subprocess
import sys
from typing import Any, Final
from xml.parsers.expat import ExpatError

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.clock import Clock, SystemClock
from bit_axon.profiling.reading import PRESSURE_NAMES, RawReading
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.sensors.child import Child, number

_TERMINATOR: Final = b"</plist>"  # the NUL between documents comes before or after one, by version
_SUDO_SECONDS: Final = 10.0  # a directory service may be asked
_FIRST_SECONDS: Final = 15.0
_HIGHEST_MHZ: Final = 1e5
_WANTED: Final = "a sample of powermetrics"
_REMEDY: Final = "Choose another thermal.source: smc and pressure need no root."


class PowermetricsSource:
    """Thermal pressure and power from one long-lived `sudo -n powermetrics`.

    sudo is asked once, in the probe: credentials that expire later do not matter to a child that runs.

    Args:
        interval_seconds: between samples.
        max_age_seconds: an older sample is none.
        clock: for the age of samples.
        platform: as in `sys.platform`.
    """

    name = "powermetrics"

    def __init__(
        self,
        *,
        interval_seconds: float = 1.0,
        max_age_seconds: float = 5.0,
        clock: Clock | None = None,
        platform: str = sys.platform,
    ):
        self._interval_seconds, self._max_age_seconds = interval_seconds, max_age_seconds
        self._clock, self._platform = clock or SystemClock(), platform
        self._child: Child | None = None

    def probe(self) -> Probe:
        """Checks that sudo asks nothing, then starts the child and waits for its first sample."""
        self.close()
        if self._platform != "darwin":
            return Probe(False, "powermetrics is a program of macOS")
        refusal = _sudo_refusal()
        if refusal is not None:
            remedy = "Run `sudo -v` in this terminal first, or choose thermal.source=auto: it needs no root."
            return Probe(False, problem("sudo without a password", refusal, remedy))
        milliseconds = f"{self._interval_seconds * 1000:.0f}"
        samplers = ("-s", "cpu_power,gpu_power,thermal", "-i", milliseconds, "-f", "plist")
        self._child = Child(
            ("sudo", "-n", "powermetrics", *samplers), clock=self._clock, terminator=_TERMINATOR
        )
        try:
            self._child.start()
            parse_document(self._child.first(_FIRST_SECONDS + self._interval_seconds) + _TERMINATOR)
        except SensorError as error:
            self.close()
            return Probe(False, str(error))
        return Probe(True, "thermal pressure and power; no temperature")

    def read(self) -> RawReading:
        """The newest sample: pressure, power and the GPU's clock; no sensors.

        Raises:
            SensorError: there is none, or it is no sample.
        """
        if self._child is None:
            raise SensorError(problem(_WANTED, "no process", "Probe the source first."))
        return parse_document(self._child.latest(self._max_age_seconds) + _TERMINATOR)

    def close(self) -> None:
        """Ends the child process."""
        if self._child is not None:
            self._child.close()
            self._child = None


def parse_document(document: bytes) -> RawReading:
    """One property list of powermetrics; NULs around it do not matter.

    `sys_power_w` is its combined power: CPU, GPU and neural engine, without display and memory.

    Raises:
        SensorError: it is none, or has a thermal pressure of another name.
    """
    try:
        sample = plistlib.loads(document.strip(b"\0 \t\r\n"))
    except (ValueError, ExpatError, plistlib.InvalidFileException) as error:
        raise SensorError(problem(_WANTED, f"text that is no property list ({error})", _REMEDY)) from error
    if not isinstance(sample, dict):
        raise SensorError(problem(_WANTED, "a property list without keys", _REMEDY))
    processor, gpu = _part(sample, "processor"), _part(sample, "gpu")
    idle = number(gpu, "idle_ratio")
    return RawReading(
        pressure=_pressure(sample.get("thermal_pressure")),
        sys_power_w=_watts(number(processor, "combined_power")),
        gpu_power_w=_watts(number(processor, "gpu_power")),
        gpu_mhz=_megahertz(number(gpu, "freq_hz")),
        gpu_util=None if idle is None else 1 - idle,
    )


def _part(sample: dict[str, Any], key: str) -> dict[str, Any]:
    part = sample.get(key)
    return part if isinstance(part, dict) else {}


def _pressure(name: Any) -> int:
    """The level of that name; a name that is not known may be a serious one, so it is an error."""
    if isinstance(name, str) and name.lower() in PRESSURE_NAMES:
        return PRESSURE_NAMES.index(name.lower())
    wanted = f"a thermal_pressure of {', '.join(PRESSURE_NAMES)}"
    raise SensorError(problem(wanted, f"{name!r} from powermetrics", _REMEDY))


def _watts(milliwatts: float | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _megahertz(value: float | None) -> float | None:
    """The GPU's "freq_hz" is in MHz already; a version that mends it is understood too."""
    return value / 1e6 if value is not None and value > _HIGHEST_MHZ else value


def _sudo_refusal() -> str | None:
    """Why sudo would ask for a password; None when it would not. Nothing is ever asked."""
    try:
        done = subprocess.run(
            ("sudo", "-n", "true"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SUDO_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
