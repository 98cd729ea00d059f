"""The monitor: polls a source of temperature in the background and always has an honest reading."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from bit_axon.profiling.chain import Answer, FunctionSource, SourceChain
from bit_axon.profiling.clock import Clock, Repeater, SystemClock
from bit_axon.profiling.estimator import Control, Estimator, MonitorOptions
from bit_axon.profiling.interruptions import Interruptions
from bit_axon.profiling.notices import Notices
from bit_axon.profiling.reading import Event, RawReading, Reading
from bit_axon.profiling.sensors.base import Source

__all__ = ["Control", "MonitorOptions", "ThermalMonitor"]

_SYSTEM_CLOCK: Final = SystemClock()
_DEFAULTS: Final = MonitorOptions()
_STALE_POLLS: Final = 2.5  # slow polling alone makes nothing stale


class ThermalMonitor:
    """Temperatures, polled by a thread of their own, filtered, and never older than they look.

    A value that cannot be read anew is held for `stale_after_seconds` (or 2.5 polls, if that is longer).
    Then the next source takes over; after the last one, and when the polling itself dies or hangs, the
    temperatures are None: not known, and not cool.

    Args:
        poll_interval: seconds between polls.
        history_size: how many temperatures `history` keeps.
        read_fn: a temperature in °C, or None when it is not known; asked before all `sources`.
        sources: best first. The first has been probed; those that follow are probed when it is lost. They
            are the caller's to close.
        pressure: a probed source of the system's thermal pressure, read beside the others.
        clock: of everything; tests and simulations bring a virtual one.
        options: of filters and limits.
        on_reading: told each reading, by the polling thread; must not raise.
        on_event: told what a person should know; likewise.
    """

    def __init__(
        self,
        poll_interval: float = 1.0,
        history_size: int = 60,
        read_fn: Callable[[], float | None] | None = None,
        *,
        sources: Sequence[Source] = (),
        pressure: Source | None = None,
        clock: Clock = _SYSTEM_CLOCK,
        options: MonitorOptions = _DEFAULTS,
        on_reading: Callable[[Reading], None] = lambda reading: None,
        on_event: Callable[[Event], None] = lambda event: None,
    ):
        self._poll_interval, self._clock = poll_interval, clock
        self._on_reading, self._on_event = on_reading, on_event
        self._limit_seconds = max(options.stale_after_seconds, _STALE_POLLS * poll_interval)
        self._late_seconds = options.stale_after_seconds
        self._chain = SourceChain((*([FunctionSource(read_fn)] if read_fn else []), *sources))
        self._pressure = pressure
        self._estimator = Estimator(options, self._limit_seconds)
        self._estimator.begin_source(is_function=self._chain.is_function)
        self._interruptions = Interruptions(clock, poll_interval)
        self._history: deque[float] = deque(maxlen=history_size)
        expects_temperature = self._chain.name is not None or pressure is None
        self._notices = Notices(expects_temperature=expects_temperature)
        self._polling = threading.Lock()  # held while sources are read, which may take for ever
        self._state = threading.Lock()  # held for moments
        self._repeater: Repeater | None = None
        self._number = self._gaps = 0
        self._duty: float | None = None
        self._newest: tuple[Reading, float] | None = None  # and the moment of its last valid value
        self._expired: Reading | None = None
        self._pressure_failures = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def temperature(self) -> float | None:
        """The control statistic through the median, in °C; None when it is not known."""
        reading = self.latest()
        return reading.temp_ctrl_c if reading else None

    @property
    def history(self) -> list[float]:
        """The last temperatures, oldest first; polls that gave none are left out."""
        with self._state:
            return list(self._history)

    @property
    def source_name(self) -> str:
        """Of the source that is read now; "none" without any."""
        return self._chain.name or (self._pressure.name if self._pressure else "none")

    @property
    def failures(self) -> int:
        """How many times a source raised something."""
        return self._chain.failures + self._pressure_failures

    def is_rising(self, window: int = 5) -> bool:
        """Whether a straight line through the last `window` temperatures goes up."""
        recent = self.history[-window:] if window > 0 else []
        middle = (len(recent) - 1) / 2
        return sum((n - middle) * (temp - recent[0]) for n, temp in enumerate(recent)) > 0

    def start(self) -> None:
        """Polls at once, unless that was just done, and from then on in the background."""
        if self._repeater is not None and self._repeater.is_alive():
            return
        self._interruptions.restart()
        reading = self.latest()
        if reading is None or reading.quality == "stale":
            self.poll()
        self._repeater = self._clock.every(self._poll_interval, self.poll)

    def stop(self) -> None:
        """Ends the polling; the last reading grows stale."""
        if self._repeater is not None:
            self._repeater.stop()
        self._repeater = None

    def latest(self) -> Reading | None:
        """The newest reading, without a wait; None before the first.

        If its values are too old by now it is called stale and has no values.
        """
        newest = self._newest
        if newest is None:
            return None
        reading, valid_seconds = newest
        if self._clock.monotonic() - valid_seconds <= self._limit_seconds:
            return reading
        expired = self._expired
        if expired is None or expired.number != reading.number:
            expired = Reading(reading.number, reading.t_mono_s, reading.t_wall_ms, reading.source, "stale")
            self._expired = expired
        return expired

    def note_duty(self, duty: float) -> None:
        """Says for which fraction of time the machine works from now on: sensors have to notice that."""
        if duty != self._duty:
            self._duty = duty
            with self._state:
                self._estimator.note_duty(duty, self._clock.monotonic())

    def reset(self) -> None:
        """Forgets what filters, sensors and trend know, as after a gap."""
        with self._state:
            self._estimator.forget()
            self._history.clear()

    def poll(self) -> None:
        """Reads once. While another poll is going on, perhaps hanging, it does nothing."""
        if not self._polling.acquire(blocking=False):
            return
        try:
            began = self._clock.monotonic()
            is_gap = self._lost_time(began)  # first, so that a source that wakes slowly is not given up
            answer = self._ask()
            raw = self._with_pressure(answer.raw)
            took = self._clock.monotonic() - began
            if took > self._late_seconds:
                self._notices.add("late", f"Reading {self.source_name} took {took:.0f} s.")
            reading = self._record(answer, raw, is_gap)
            for event in self._notices.take_all():
                self._on_event(event)
            self._on_reading(reading)
        finally:
            self._polling.release()

    def _ask(self) -> Answer:
        """The current source's answer, or that of the next one if the current is lost."""
        answer, now = self._chain.read(), self._clock.monotonic()
        name = self._chain.name
        if answer.raw is None and name is not None:
            self._notices.complain(f"Temperature source {name} does not answer: {answer.error}", now)
        if not self._is_lost(answer, now):
            return answer
        while self._chain.advance():
            with self._state:
                self._estimator.begin_source(is_function=False)
            other = self._chain.read()
            if other.raw is not None:
                reason = answer.error or f"no valid value for {self._limit_seconds:g} s"
                self._notices.complain(f"Temperature source {name} is lost: {reason}", now, at_once=True)
                self._notices.add("source", f"Temperature from {self._chain.name} now: {self._chain.detail}")
                return other
        return answer

    def _is_lost(self, answer: Answer, now: float) -> bool:
        with self._state:
            overdue = self._estimator.is_overdue(now)
            if answer.raw is None:
                return overdue or not self._estimator.has_answered
            return overdue and not self._estimator.has_valid(answer.raw)

    def _with_pressure(self, raw: RawReading | None) -> RawReading:
        if self._pressure is None:
            return raw or RawReading()
        try:
            beside = self._pressure.read()
            return beside if raw is None else replace(raw, pressure=beside.pressure)
        except Exception:  # the column stays empty: a signal beside the others must not end the polling
            self._pressure_failures += 1
            return raw or RawReading()

    def _record(self, answer: Answer, raw: RawReading, is_gap: bool) -> Reading:
        """Makes a reading of what came, publishes it, and collects what there is to tell."""
        now = self._clock.monotonic()
        is_gap |= self._lost_time(now)
        self._number += 1
        poll = Reading(self._number, now, self._clock.wall_ms(), self.source_name, "ok", raw=raw)
        with self._state:
            if self._chain.is_function and answer.raw is not None and not raw.sensors:
                self._estimator.clear()
            reading, aggregate = self._estimator.take(poll, answered=answer.raw is not None)
            if reading.quality == "ok" and reading.temp_ctrl_c is not None:
                self._history.append(reading.temp_ctrl_c)
            overdue = self._estimator.is_overdue(now)
            valid_seconds = self._estimator.valid_seconds(now)
        for note in aggregate.notes if aggregate else ():
            self._notices.add("stuck", note)
        if reading.quality == "ok" and aggregate is not None:
            self._notices.temperature_known(self.source_name)
            for group in aggregate.lost:
                self._notices.complain(f"No sensor of the {group.upper()} gives a value any more.", now)
        elif overdue or self._chain.name is None:
            self._notices.nothing_left(self._chain.refused)
        self._gaps += is_gap
        reading = replace(reading, gaps=self._gaps, quality="gap" if is_gap else reading.quality)
        self._newest = reading, valid_seconds
        return reading

    def _lost_time(self, now: float) -> bool:
        """Looks for a gap up to now, and forgets what was known before it."""
        gap = self._interruptions.since_last(now)
        if gap is None:
            return False
        self._notices.add("gap", f"{gap}: what was known of temperatures is forgotten.")
        self.reset()
        return True
