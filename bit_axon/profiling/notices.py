"""What a person is told about sources: each thing once, however often it happens."""

from collections.abc import Sequence
from typing import Final, Literal

from bit_axon.profiling.reading import Event

Kind = Literal["source", "lost", "missing", "stuck", "gap", "late"]

_COMPLAINT_SECONDS: Final = 60.0  # between two events about a source that fails now and then


class Notices:
    """Events that wait to be told.

    Args:
        expects_temperature: False where there is no source of temperature to begin with, on purpose.
    """

    def __init__(self, *, expects_temperature: bool):
        self._expects_temperature = expects_temperature
        self._events: list[Event] = []
        self._is_complaining = self._is_missing = False
        self._complained_seconds: float | None = None

    def add(self, kind: Kind, text: str) -> None:
        """One event."""
        self._events.append(Event(kind, text))

    def take_all(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def complain(self, text: str, now: float, *, at_once: bool = False) -> None:
        """A source fails: told once in a row of failures, and seldom if it fails now and then."""
        last = self._complained_seconds
        recent = last is not None and now - last < _COMPLAINT_SECONDS
        if not self._is_complaining and (at_once or not recent):
            self._is_complaining, self._complained_seconds = True, now
            self.add("lost", text)

    def temperature_known(self, source: str) -> None:
        """There is a valid value again; told if it was missing."""
        self._is_complaining = False
        if self._is_missing:
            self._is_missing = False
            self.add("source", f"Temperature from {source} again.")

    def nothing_left(self, refused: Sequence[str]) -> None:
        """No source gives a temperature, and there is no other; told once until there is one again.

        Args:
            refused: why each source that was passed over did not answer.
        """
        if self._is_missing or not self._expects_temperature:
            return
        self._is_missing = True
        others = f" ({'; '.join(refused)})" if refused else ""
        self.add("missing", f"No source of temperature answers{others}: it is not known from now on.")
