"""What every source of temperature offers."""

from dataclasses import dataclass
from typing import Protocol

from bit_axon.profiling.reading import RawReading


@dataclass(frozen=True)
class Thresholds:
    """Where the tiers begin, in °C; what suits one kind of sensor does not suit another.

    Attributes:
        warm: below this, full speed.
        target: what pacing holds.
        resume: a pause ends below this.
        pause: nothing runs at or above this.
        stop: the run ends when it stays at or above this.
    """

    warm: float = 75.0
    target: float = 83.0
    resume: float = 78.0
    pause: float = 85.0
    stop: float = 95.0


@dataclass(frozen=True)
class Probe:
    """Whether a source answers on this machine.

    Attributes:
        ok: it can be read.
        detail: what it offers ("8 GPU and 21 CPU keys"), or why it cannot be read.
        thresholds: tiers that suit it; None = the defaults, those of a fanless Mac.
    """

    ok: bool
    detail: str
    thresholds: Thresholds | None = None


class Source(Protocol):
    """One way to read temperatures: no root, no prompt, nothing that lasts after `close`."""

    @property
    def name(self) -> str:
        """As in `thermal.source`."""

    def probe(self) -> Probe:
        """Tries it, once; never raises for a machine that lacks it."""

    def read(self) -> RawReading:
        """A fresh answer; only after a probe that was ok.

        Raises:
            SensorError: there is no answer now.
        """

    def close(self) -> None:
        """Gives back what the probe took; may be called twice, and without a probe."""
