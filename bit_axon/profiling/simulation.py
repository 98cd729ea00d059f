"""A computer that is not there: it warms up with the work it is told of, in virtual or real time."""

import random
import threading
from typing import Final

from bit_axon.profiling.clock import Clock
from bit_axon.profiling.rc_model import RCParameters, ThermalModel
from bit_axon.profiling.reading import Group, RawReading, SensorValue

NOISE_TEMP: Final = 0.3  # standard deviation of each sensor, °C
_CPU_SHARE: Final = 0.75  # of the hot spot, as the CPU's sensor sees it
_FULL_CLOCK_MHZ: Final = 1470.0  # of the GPU; nothing depends on it but what is shown
_BUSY_SLICE_SECONDS: Final = 0.25


class SimulatedMachine:
    """A `ThermalModel` that is driven by work and read by a sensor; safe to read from another thread.

    Args:
        parameters: what it is made of.
        clock: its time. With a virtual clock `end` moves it on.
        ambient_temp: of the air, °C.
        start_temp: what its sensor shows at first, °C; None = as after a long idle time.
        seed: of the sensors' noise.
        work_seconds: how long one stretch of work takes at full clock. None, or a clock that is not
            virtual: as long as it takes.
    """

    def __init__(
        self,
        parameters: RCParameters,
        clock: Clock,
        *,
        ambient_temp: float = 25.0,
        start_temp: float | None = None,
        seed: int = 0,
        work_seconds: float | None = None,
    ):
        self._clock = clock
        self._model = ThermalModel(parameters, ambient_temp, start_temp)
        self._noise = random.Random(seed)
        self._work_seconds = work_seconds if clock.is_virtual else None
        self._lock = threading.Lock()
        self._load = 0.0
        self._seen_seconds = self._read_seconds = clock.monotonic()
        self._read_energy_j = self._busy_seconds = 0.0

    @property
    def parameters(self) -> RCParameters:
        """What it is made of."""
        return self._model.parameters

    @property
    def sensor_temp(self) -> float:
        """The true temperature at the chip's hot spot, without noise, °C."""
        with self._lock:
            self._catch_up()
            return self._model.sensor_temp

    @property
    def chassis_temp(self) -> float:
        """The true temperature of the case, °C."""
        with self._lock:
            self._catch_up()
            return self._model.chassis_temp

    @property
    def clock_fraction(self) -> float:
        """The clock that its governor allows; 1 = full."""
        with self._lock:
            self._catch_up()
            return self._model.clock_fraction

    def begin(self) -> None:
        """Work starts."""
        self._set_load(1.0)

    def end(self, share: float = 1.0) -> None:
        """Work is over; without a `begin` before it nothing happens.

        Args:
            share: how much of `work_seconds` this stretch was (half a micro-batch: 0.5).
        """
        if self._load == 0.0:
            return
        if self._work_seconds is not None:
            self._pass_time(self._work_seconds * share)
        self._set_load(0.0)

    def read(self) -> RawReading:
        """What its sensors show now; power, clock and use of the GPU are means since the last reading.

        The GPU's sensor lies at the hot spot. The CPU's sees the die and three quarters of the hot spot:
        under load it shows a few degrees less.
        """
        with self._lock:
            self._catch_up()
            model = self._model
            hot_spot = model.sensor_temp - model.die_temp
            sensors = (
                self._sensor("gpu", "gpu", model.sensor_temp),
                self._sensor("cpu", "cpu", model.die_temp + _CPU_SHARE * hot_spot),
                self._sensor("case", "chassis", model.chassis_temp),
            )
            power_w, busy = self._since_last_reading()
            return RawReading(
                sensors=sensors,
                sys_power_w=power_w + model.parameters.other_power_w,
                gpu_power_w=power_w,
                gpu_mhz=model.clock_fraction * _FULL_CLOCK_MHZ,
                gpu_util=busy,
            )

    def _sensor(self, name: str, group: Group, temp: float) -> SensorValue:
        return SensorValue(name, group, temp + self._noise.gauss(0.0, NOISE_TEMP))

    def _since_last_reading(self) -> tuple[float, float]:
        """Mean power of the chip, W, and the busy part of the time, since the last call."""
        seconds = self._seen_seconds - self._read_seconds
        energy_j, busy_seconds = self._model.energy_j - self._read_energy_j, self._busy_seconds
        if seconds <= 0.0:
            return self._present_power(), self._load
        self._read_seconds, self._read_energy_j = self._seen_seconds, self._model.energy_j
        self._busy_seconds = 0.0
        return energy_j / seconds, busy_seconds / seconds

    def _present_power(self) -> float:
        known, clock = self._model.parameters, self._model.clock_fraction
        return (
            known.idle_power_w
            + self._load * (known.full_power_w - known.idle_power_w) * clock**known.power_exponent
        )

    def _pass_time(self, work_seconds: float) -> None:
        """Work at the clock that the governor allows, in slices: timers on the way see a busy machine."""
        rest = work_seconds
        while rest > 1e-9:
            clock_fraction = self.clock_fraction
            slice_seconds = min(_BUSY_SLICE_SECONDS, rest / clock_fraction)
            rest -= slice_seconds * clock_fraction
            self._clock.sleep(slice_seconds)

    def _set_load(self, load: float) -> None:
        with self._lock:
            self._catch_up()
            self._load = load

    def _catch_up(self) -> None:
        """Lets the model follow the clock; called with the lock held."""
        now = self._clock.monotonic()
        seconds = now - self._seen_seconds
        if seconds > 0.0:
            self._model.advance(seconds, self._load)
            self._busy_seconds += self._load * seconds
            self._seen_seconds = now
