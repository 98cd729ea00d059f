"""What a thermal policy sees and decides."""

from dataclasses import dataclass
from typing import Literal, Protocol

from bit_axon.profiling.reading import PRESSURE_HEAVY, PRESSURE_NAMES, PRESSURE_TRAPPING
from bit_axon.profiling.sensors.base import Thresholds

Action = Literal["run", "pause", "stop"]
Tier = Literal["normal", "warm", "hot", "critical", "unknown"]

_COOLING = 1.0  # °C within the time a stop has to be held: more than noise
UNKNOWN_PAUSE_SECONDS = 120.0  # a die cools down in that; a sensor that is lost is no reason to stop
HEAVY_PRESSURE_DUTY = 0.5  # the system is cutting clocks already; more heat buys nothing


@dataclass(frozen=True)
class View:
    """What there is to decide on, at one check.

    Attributes:
        now: the clock's monotonic seconds.
        number: of the reading; the same number is the same reading.
        temp_ctrl_c: control statistic, spikes removed; None = unknown, which is not cool.
        temp_filt_c: its mean over some seconds.
        pressure: 0 nominal to 4 sleeping; None = there is no such signal.
        pausing_seconds: how long the present pause has lasted; None = not in a pause.
        gap: time was lost since the last decision (sleep, a stall), so what was learned of it is void.
    """

    now: float
    number: int
    temp_ctrl_c: float | None
    temp_filt_c: float | None
    pressure: int | None = None
    pausing_seconds: float | None = None
    gap: bool = False


@dataclass(frozen=True)
class Decision:
    """What is to be done until the next check.

    Attributes:
        action: go on, wait, or end the run.
        tier: where the temperature lies.
        duty: share of the time that may be work; 1 = no waiting between micro-batches.
        reduce_batch: the next micro-batches are to be split.
        reason: of a pause or a stop, for a person.
    """

    action: Action
    tier: Tier
    duty: float = 1.0
    reduce_batch: bool = False
    reason: str = ""


class Policy(Protocol):
    """Decides from readings; it keeps state, and sleeps never."""

    def decide(self, view: View) -> Decision:
        """Called at each check, and again and again within a pause."""

    def reset(self) -> None:
        """Forgets what it has learned, after a long time without work."""


def tier_of(temp: float | None, thresholds: Thresholds) -> Tier:
    """Where the control statistic lies."""
    if temp is None:
        return "unknown"
    if temp >= thresholds.stop:
        return "critical"
    if temp >= thresholds.pause:
        return "hot"
    return "warm" if temp >= thresholds.warm else "normal"


class StopRule:
    """When a run has to end: it stays too hot, or the system is about to switch itself off.

    One hot reading is no reason: the hot spot of a die rises and falls by 30 °C within seconds of load.
    Nor is a machine that was hot before the run began, as long as it cools in the pause.

    Args:
        stop_temp: °C of the control statistic.
        hold_seconds: how long it has to be reached without a break.
        samples: how many different readings have to show it.
    """

    def __init__(self, stop_temp: float, hold_seconds: float, samples: int):
        self._stop_temp, self._hold_seconds, self._samples = stop_temp, hold_seconds, samples
        self.reset()

    def reset(self) -> None:
        """Nothing was seen yet."""
        self._since: float | None = None
        self._since_temp = 0.0
        self._seen: set[int] = set()

    def reason(self, view: View) -> str | None:
        """Why the run has to end; None = it need not."""
        if view.pressure is not None and view.pressure >= PRESSURE_TRAPPING:
            name = PRESSURE_NAMES[min(view.pressure, len(PRESSURE_NAMES) - 1)]
            return f"the system reports thermal pressure '{name}'"
        if view.temp_ctrl_c is None:
            return None  # unknown: neither counts nor clears
        if view.temp_ctrl_c < self._stop_temp:
            self.reset()
            return None
        cools = view.pausing_seconds is not None and view.temp_ctrl_c <= self._since_temp - _COOLING
        if self._since is None or cools:
            self._since, self._since_temp, self._seen = view.now, view.temp_ctrl_c, set()
        self._seen.add(view.number)
        held = view.now - self._since
        if held < self._hold_seconds or len(self._seen) < self._samples:
            return None
        lasting = f" for {held:.0f} s" if held >= 1 else ""
        return f"{view.temp_ctrl_c:.1f} °C{lasting}, and {self._stop_temp:g} °C is the limit"


def pressure_duty(view: View, moderate: float) -> float:
    """The most that thermal pressure allows; nominal pressure proves nothing and allows all."""
    if not view.pressure:
        return 1.0
    return HEAVY_PRESSURE_DUTY if view.pressure >= PRESSURE_HEAVY else moderate
