"""Who is told when the machine works and when it idles: nobody, or a simulated machine."""

from typing import Protocol


class Workload(Protocol):
    """A stretch of work between two checks of the gate."""

    def begin(self) -> None:
        """Work starts."""

    def end(self, share: float = 1.0) -> None:
        """Work is over; where time is virtual, it has passed now.

        Args:
            share: how much of a micro-batch it was.
        """


class RealWorkload:
    """A real machine knows by itself."""

    def begin(self) -> None:
        """Nothing."""

    def end(self, share: float = 1.0) -> None:
        """Nothing."""
