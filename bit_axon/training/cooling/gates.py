"""What the loop asks of thermal limits, and the gate that has none."""

from collections.abc import Callable, Hashable, Mapping
from typing import Literal, Protocol, TypeVar

from bit_axon.errors import ThermalShutdownError

T = TypeVar("T")
Phase = Literal["train", "eval", "generate"]
Rest = Literal["save", "idle"]


def nothing() -> None:
    """Does nothing."""


class Gate(Protocol):
    """Thermal limits, as the loop asks for them."""

    @property
    def paused_seconds(self) -> float:
        """Time of this process spent waiting so far, in pauses and between micro-batches."""

    @property
    def splits_batches(self) -> bool:
        """Whether the next micro-batch is to be worked off in two parts."""

    def check(
        self, phase: Phase, step: int, drain: Callable[[], None] = nothing, *, share: float = 1.0
    ) -> None:
        """Called before each piece of work; waits while it is too hot.

        Args:
            phase: what the work is.
            step: the update it belongs to.
            drain: returns once the device has done what it was given; called before any waiting, since a
                device that still works does not cool.
            share: how much of a micro-batch the work is.

        Raises:
            ThermalShutdownError: it stays too hot.
        """

    def rest(self, phase: Rest, step: int) -> None:
        """What comes now is no work for the device; the next check ends it."""

    def after_step(
        self, step: int, tokens: int, tokens_total: int, shape: Hashable, *, compiled: bool
    ) -> Mapping[str, float]:
        """An update was made; returns what is known now, by name: `temp_c`, `duty`, ..."""

    def wait_until_cool(self) -> bool:
        """After a `ThermalShutdownError`: True once work may go on, False when the run is to end."""


class NoGate:
    """No thermal limits."""

    paused_seconds = 0.0
    splits_batches = False

    def check(
        self, phase: Phase, step: int, drain: Callable[[], None] = nothing, *, share: float = 1.0
    ) -> None:
        """Never waits."""

    def rest(self, phase: Rest, step: int) -> None:
        """Nothing to note."""

    def after_step(
        self, step: int, tokens: int, tokens_total: int, shape: Hashable, *, compiled: bool
    ) -> Mapping[str, float]:
        """Nothing is known."""
        return {}

    def wait_until_cool(self) -> bool:
        """It never was too hot."""
        return True


def until_cool(gate: Gate, work: Callable[[], T], on_stop: Callable[[ThermalShutdownError], None]) -> T:
    """Does `work`; after a thermal stop, again from its beginning once the machine has cooled down.

    Args:
        gate: says whether to wait.
        work: may be done again when it was broken off.
        on_stop: called at once, before any waiting.

    Raises:
        ThermalShutdownError: the run is to end.
    """
    while True:
        try:
            return work()
        except ThermalShutdownError as error:
            on_stop(error)
            if not gate.wait_until_cool():
                raise
