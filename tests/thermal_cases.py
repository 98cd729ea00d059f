"""Readings by hand, for the tests of policies and the gate."""

from collections.abc import Callable

from bit_axon.profiling.clock import VirtualClock
from bit_axon.profiling.reading import Quality, RawReading, Reading
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling.gate import ThermalGate
from bit_axon.training.cooling.policies import View, build_policy
from bit_axon.training.cooling.thresholds import thresholds_of


def view(
    temp: float | None,
    *,
    now: float = 0.0,
    number: int | None = None,
    filtered: float | None = None,
    pressure: int | None = None,
    pausing: float | None = None,
    gap: bool = False,
) -> View:
    """What a policy sees; a new reading each second."""
    mean = temp if filtered is None else filtered
    return View(now, round(now) if number is None else number, temp, mean, pressure, pausing, gap)


class Curve:
    """A sensor whose temperature is a function of time, without noise or filter."""

    def __init__(self, clock: VirtualClock, temp: Callable[[float], float | None]):
        self._clock, self._temp = clock, temp
        self.pressure: int | None = None
        self.duties: list[float] = []

    def latest(self) -> Reading:
        now = self._clock.monotonic()
        temp = self._temp(now)
        quality: Quality = "ok" if temp is not None else "stale"
        raw = RawReading(pressure=self.pressure)
        return Reading(int(now) + 1, now, self._clock.wall_ms(), "curve", quality, temp, temp, raw=raw)

    def note_duty(self, duty: float) -> None:
        self.duties.append(duty)


class Worker:
    """A workload whose pieces take as long as they are told to."""

    def __init__(self, clock: VirtualClock, seconds: float):
        self._clock, self.seconds = clock, seconds
        self._busy = False

    def begin(self) -> None:
        self._busy = True

    def end(self, share: float = 1.0) -> None:
        if self._busy:
            self._clock.advance(self.seconds * share)
        self._busy = False


class Bench:
    """A gate over a curve, with everything it says."""

    def __init__(
        self,
        temp: Callable[[float], float | None],
        *,
        work_seconds: float = 1.0,
        stop_requested: Callable[[], bool] = lambda: False,
        **options: object,
    ):
        self.clock = VirtualClock()
        self.curve = Curve(self.clock, temp)
        self.config = ThermalConfig(**options)  # type: ignore[arg-type]
        self.thresholds: Thresholds = thresholds_of(self.config)
        self.said: list[str] = []
        self.gate = ThermalGate(
            self.curve,
            build_policy(self.config, self.thresholds),
            self.clock,
            self.config,
            self.thresholds,
            workload=Worker(self.clock, work_seconds),
            stop_requested=stop_requested,
            say=self.said.append,
        )

    def work(self, pieces: int, step: int = 1) -> list[float]:
        """The moments at which pieces of work began."""
        moments = []
        for _ in range(pieces):
            self.gate.check("train", step)
            moments.append(self.clock.monotonic())
        return moments
