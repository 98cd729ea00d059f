"""The Python API's thermal limits: a policy in plain numbers, and the scheduler the trainers ask."""

from dataclasses import dataclass
from typing import Literal, Protocol

from bit_axon.errors import ConfigError, problem
from bit_axon.profiling.clock import Clock, SystemClock
from bit_axon.profiling.reading import Reading
from bit_axon.profiling.thermal import ThermalMonitor
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling.gate import ThermalGate
from bit_axon.training.cooling.policies.tiers import TiersPolicy
from bit_axon.training.cooling.thresholds import thresholds_of
from bit_axon.validation import check


class Thermometer(Protocol):
    """Anything with a temperature; `ThermalMonitor` is one."""

    @property
    def temperature(self) -> float | None:
        """°C; None = unknown."""


@dataclass(frozen=True)
class ThermalPolicy:
    """Tiers in °C.

    With the defaults a pause ends as soon as the temperature is under `pause_temp`, and the first reading
    at `stop_temp` ends the training; a run (`thermal=auto`) has hysteresis and holds its stop.

    Args:
        max_speed_temp: from here on `should_reduce_batch()`.
        pause_temp: from here on training waits.
        stop_temp: from here on training ends with `ThermalShutdownError`.
        pause_duration: seconds between two readings while waiting.
        resume_temp: a pause ends at or below it; None = just under `pause_temp`.
        min_pause_seconds: a pause lasts at least so long.
        max_pause_seconds: one that lasts longer ends the training.
        stop_hold_seconds: how long `stop_temp` has to be reached without a break.
        stop_samples: how many readings have to show it.
        warm_action: what is done in the warm tier: nothing, short waits, or smaller micro-batches.

    Raises:
        ConfigError: the temperatures are out of order, or a number is out of range.
    """

    max_speed_temp: float = 75.0
    pause_temp: float = 85.0
    stop_temp: float = 95.0
    pause_duration: float = 0.5
    resume_temp: float | None = None
    min_pause_seconds: float = 0.0
    max_pause_seconds: float = 900.0
    stop_hold_seconds: float = 0.0
    stop_samples: int = 1
    warm_action: Literal["none", "pace", "reduce_batch"] = "none"

    def __post_init__(self) -> None:
        """Checks what the composed config would check."""
        thresholds_of(self.config())

    def config(self) -> ThermalConfig:
        """The same limits as a run's config has them."""
        resume = self.resume_temp
        if resume is not None and resume >= self.pause_temp:
            got = f"{resume:g} and {self.pause_temp:g} °C"
            raise ConfigError(problem("resume_temp below pause_temp", got, "Lower the first."))
        values = {
            "policy": "tiers",
            "max_speed_temp": self.max_speed_temp,
            "pause_temp": self.pause_temp,
            "stop_temp": self.stop_temp,
            "resume_temp": self.pause_temp - 1e-6 if resume is None else resume,
            "poll_interval": self.pause_duration,
            "min_pause_seconds": self.min_pause_seconds,
            "max_pause_seconds": self.max_pause_seconds,
            "stop_hold_seconds": self.stop_hold_seconds,
            "stop_samples": self.stop_samples,
            "warm_action": self.warm_action,
        }
        return check(ThermalConfig, values, path="thermal")


class CoolingScheduler:
    """Waits while the machine is hot; given to `Trainer` and `ORPOTrainer`, or asked by hand.

    Args:
        monitor: read at each check; one that knows no temperature (None) begins no pause.
        policy: the tiers.
        clock: of the waits.
    """

    def __init__(self, monitor: Thermometer, policy: ThermalPolicy | None = None, clock: Clock | None = None):
        config = (policy or ThermalPolicy()).config()
        thresholds = thresholds_of(config)
        self._monitor = monitor
        self._thresholds = thresholds
        self.gate = ThermalGate(
            _Plain(monitor, clock or SystemClock()),
            TiersPolicy(config, thresholds),
            clock or SystemClock(),
            config,
            thresholds,
        )

    def check_before_step(self, step: int) -> None:
        """Returns when training may go on.

        Raises:
            ThermalShutdownError: the stop temperature was reached, before or within a pause.
        """
        self.gate.check("train", step)

    def should_reduce_batch(self) -> bool:
        """True in the warm tier: from `max_speed_temp` to under `pause_temp`."""
        temp = self._monitor.temperature
        return temp is not None and self._thresholds.warm <= temp < self._thresholds.pause

    @property
    def total_pause_time(self) -> float:
        """Seconds spent waiting so far."""
        return self.gate.waited_seconds


class _Plain:
    """A thermometer as the gate reads it: no filter but the monitor's own."""

    def __init__(self, monitor: Thermometer, clock: Clock):
        self._monitor, self._clock, self._count = monitor, clock, 0

    def latest(self) -> Reading:
        temp = self._monitor.temperature
        reading = self._monitor.latest() if isinstance(self._monitor, ThermalMonitor) else None
        self._count = self._count + 1 if reading is None else reading.number
        quality: Literal["ok", "invalid"] = "invalid" if temp is None else "ok"
        now, wall = self._clock.monotonic(), self._clock.wall_ms()
        return Reading(self._count, now, wall, "monitor", quality, temp, temp)

    def note_duty(self, duty: float) -> None:
        """A thermometer does not want to know."""
