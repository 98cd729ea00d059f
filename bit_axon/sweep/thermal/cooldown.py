"""Before each trial the machine cools down to where it rests, so that trials start alike.

The base is the machine's temperature at rest: the mean of a minute in which it no longer falls. It is
measured before the first trial and once an hour, since the air warms up too; in between only a lower
minute moves it. A wait ends at the base plus a few degrees, where nothing changes any more, or after ten
minutes: the chip is cool by then, the case may not be, and the trial is marked accordingly.
"""

import math
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager

from bit_axon.profiling.clock import Clock
from bit_axon.profiling.reading import Reading
from bit_axon.sweep.thermal.baseline import Baseline, KnownBase, LastMinutes
from bit_axon.sweep.thermal.starts import CooldownOptions, Outcome, Sensing, Start

_BLIND_SECONDS = 30.0  # without a temperature, then the trial starts all the same
_NOT_KNOWN = ("busy", "unknown", "interrupted")  # outcomes after which the trial's heat says nothing of it
_LINE_SECONDS = 120.0  # between two lines while waiting


class Cooldown:
    """Waits before each trial.

    Args:
        options: how long, and down to what.
        sensing: opens the sensors for one wait; None = there are none. They are closed again, since the
            trial reads them itself.
        clock: of the waits.
        base: what is known from earlier trials on this machine.
        stop_requested: ends a wait.
        say: a line for a person.

    Attributes:
        waited_seconds: of all waits.
    """

    def __init__(
        self,
        options: CooldownOptions,
        sensing: Callable[[], AbstractContextManager[Sensing | None]],
        clock: Clock,
        *,
        base: KnownBase | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
    ):
        self._options, self._sensing, self._clock = options, sensing, clock
        self._baseline = Baseline(clock, base)
        self._stop_requested, self._say = stop_requested, say
        self.waited_seconds = 0.0

    def wait(self) -> Start:
        """Returns when the next trial may start, and what it starts from.

        Raises:
            ConfigError: a source that was asked for does not answer.
        """
        with self._sensing() as sensing:
            if sensing is None:
                return Start("unknown", host=platform.node())
            wait = _Wait(sensing, self._options, self._baseline, self._clock, self._say)
            start = wait.until_cool(self._stop_requested)
        self.waited_seconds += start.waited_seconds
        return start


class _Wait:
    """One wait on one machine."""

    def __init__(
        self,
        sensing: Sensing,
        options: CooldownOptions,
        baseline: Baseline,
        clock: Clock,
        say: Callable[[str], None],
    ):
        self._sensing, self._options, self._baseline = sensing, options, baseline
        self._clock, self._say = clock, say
        self._recent = LastMinutes()
        self._began = clock.monotonic()
        self._known = self._began  # the last moment at which there was a temperature
        self._reading: Reading | None = None
        self._next_line = self._began
        self._gaps = 0  # of the readings, so far

    def until_cool(self, stop_requested: Callable[[], bool]) -> Start:
        """Looks again and again."""
        while (outcome := self._look()) is None:
            if stop_requested():
                return self._end("interrupted")
            self._say_progress()
            self._clock.sleep(self._sensing.poll_interval, stop_requested)
        return self._end(outcome)

    @property
    def _waited(self) -> float:
        return self._clock.monotonic() - self._began

    def _look(self) -> Outcome | None:
        reading, now = self._sensing.readings.latest(), self._clock.monotonic()
        if reading is None or reading.temp_ctrl_c is None or reading.temp_filt_c is None:
            waits = self._at_once() is None and now - self._known < _BLIND_SECONDS
            return None if waits else "unknown"
        if reading.gaps != self._gaps:
            self._recent.clear()
            self._gaps = reading.gaps
        self._reading, self._known = reading, now
        self._recent.add(reading.t_mono_s, reading.temp_ctrl_c)
        return self._at_once() or self._judge(reading.temp_filt_c)

    def _at_once(self) -> Outcome | None:
        """Where there is nothing to wait for."""
        if self._sensing.is_given:
            return "given"
        if self._options.enabled is False:
            return "off"
        return "busy" if self._sensing.other is not None else None

    def _judge(self, temp: float) -> Outcome | None:
        mean, too_long = self._recent.mean, self._waited >= self._options.max_seconds
        if mean is not None:
            self._baseline.seen(mean)
        if self._baseline.is_due:
            if mean is not None and self._recent.is_steady:
                self._baseline.rested(mean)
            elif too_long:
                self._baseline.not_rested(mean)
            else:
                return None
        if self._is_cool(temp):
            return "cool"
        if too_long:
            return "timeout"
        return "settled" if self._recent.is_steady else None

    def _is_known_to_be_cool(self, temp: float | None) -> bool | None:
        return self._is_cool(temp) if temp is not None and math.isfinite(self._goal) else None

    def _is_cool(self, temp: float) -> bool:
        return temp <= self._goal and temp < self._sensing.warm_temp

    @property
    def _goal(self) -> float:
        """°C at which a trial may start."""
        base = self._sensing.rest_temp if self._sensing.is_given else self._baseline.temp
        return -math.inf if base is None else base + self._options.above_base

    def _end(self, outcome: Outcome) -> Start:
        reading, base = self._reading, self._baseline
        temp = reading.temp_filt_c if reading else None
        is_given = self._sensing.is_given
        start = Start(
            outcome,
            cool=None if outcome in _NOT_KNOWN else self._is_known_to_be_cool(temp),
            temp_c=temp,
            base_c=self._sensing.rest_temp if is_given else base.temp,
            base_wall_ms=None if is_given else base.wall_ms,
            chassis_c=reading.chassis_c if reading else None,
            waited_seconds=self._waited,
            source=self._sensing.source,
            host=platform.node(),
        )
        self._say_end(start)
        return start

    def _say_progress(self) -> None:
        now = self._clock.monotonic()
        if now < self._next_line or self._reading is None:
            return
        self._next_line = now + _LINE_SECONDS
        temp, left = self._reading.temp_filt_c, self._options.max_seconds - self._waited
        if self._baseline.is_due:
            what = f"Measuring the temperature at rest, {temp:.1f} °C now"
        else:
            what = f"Cooling down from {temp:.1f} to {self._goal:.1f} °C"
        self._say(f"{what}; the next trial starts in {left:.0f} s at the latest.")

    def _say_end(self, start: Start) -> None:
        if start.outcome == "busy":
            self._say("Another run heats this machine: the next trial does not wait for it to cool down.")
        elif start.waited_seconds >= _LINE_SECONDS or start.outcome in ("timeout", "settled", "unknown"):
            after = f"after {start.waited_seconds:.0f} s"
            if start.temp_c is None:
                self._say(f"No temperature was read {after}: the next trial starts without a cool-down.")
            else:
                warm = "" if start.cool else ", not cool: its heat will not be held against it"
                self._say(f"The next trial starts at {start.temp_c:.1f} °C {after}{warm}.")
