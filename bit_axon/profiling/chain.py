"""The sources of a monitor, one after the other: the best first, the next when that is lost."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bit_axon.errors import SensorError
from bit_axon.profiling.reading import RawReading, SensorValue
from bit_axon.profiling.sensors.base import Probe, Source


class FunctionSource:
    """A function of the caller's that returns °C, or None for "not known now".

    What it returns is the temperature of one sensor of the CPU.
    """

    name = "read_fn"

    def __init__(self, read_fn: Callable[[], float | None]):
        self._read_fn = read_fn

    def probe(self) -> Probe:
        """Always ok: whether there is a value is known only by asking."""
        return Probe(True, "a function of the caller's")

    def read(self) -> RawReading:
        """One sensor; none at all for None."""
        temp = self._read_fn()
        return RawReading() if temp is None else RawReading((SensorValue(self.name, "cpu", float(temp)),))

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True)
class Answer:
    """What came of asking the current source: a reading, or why there is none."""

    raw: RawReading | None
    error: str = ""


class SourceChain:
    """The current source, and those to fall back to.

    The first is expected to have been probed; should it not answer at first, it is probed here. The others
    are probed when their turn comes. A source that is left is closed; all others are the caller's to close.

    Args:
        sources: best first; may be empty.

    Attributes:
        detail: what the current source offers, where it was probed here.
        failures: how many times a source raised something.
    """

    def __init__(self, sources: Sequence[Source]):
        self._waiting = deque(sources)
        self._current: Source | None = self._waiting.popleft() if self._waiting else None
        self._is_probed = False
        self._refused: list[str] = []
        self.detail = ""
        self.failures = 0

    @property
    def name(self) -> str | None:
        """Of the current source; None when there never was one."""
        return self._current.name if self._current else None

    @property
    def is_function(self) -> bool:
        """Whether the current source is a function of the caller's."""
        return isinstance(self._current, FunctionSource)

    @property
    def refused(self) -> tuple[str, ...]:
        """Why each source that was passed over did not answer."""
        return tuple(self._refused)

    def read(self) -> Answer:
        """Asks the current source. Whatever it raises becomes the answer: no source may end the polling."""
        source = self._current
        if source is None:
            return Answer(None, "there is no source")
        answer = self._ask(source)
        if answer.raw is None and not self._is_probed:
            self._is_probed = True
            probe = _probed(source)
            answer = self._ask(source) if probe.ok else Answer(None, probe.detail)
        return answer

    def advance(self) -> bool:
        """Goes on to the next source that is there; False, and no change, when there is none."""
        while self._waiting:
            candidate = self._waiting.popleft()
            probe = _probed(candidate)
            if probe.ok:
                self._leave()
                self._current, self._is_probed, self.detail = candidate, True, probe.detail
                return True
            self._refused.append(f"{candidate.name}: {probe.detail}")
        return False

    def _ask(self, source: Source) -> Answer:
        try:
            raw = source.read()
        except Exception as error:
            self.failures += 1
            return Answer(None, describe(error))
        self._is_probed = True
        return Answer(raw)

    def _leave(self) -> None:
        """Closes the current source; it is lost already, so that its complaints are only counted."""
        try:
            if self._current is not None:
                self._current.close()
        except Exception:
            self.failures += 1


def describe(error: Exception) -> str:
    """An error as one would say it."""
    return str(error) if isinstance(error, SensorError) else f"{type(error).__name__}: {error}"


def _probed(source: Source) -> Probe:
    try:
        return source.probe()
    except Exception as error:
        return Probe(False, describe(error))
