"""How long a run worked and waited, and how much waiting its work still owes."""

from bit_axon.profiling.clock import Clock
from bit_axon.training.cooling.gates import Phase
from bit_axon.training.cooling.workload import Workload


class Ledger:
    """Books pieces of work as they begin and end.

    Args:
        clock: of all times.
        workload: is told of the same moments.

    Attributes:
        waited: seconds of waiting, of any kind.
        owed: seconds of waiting that the duty asks for, for work that is done.
        longest_work: seconds of the longest piece.
    """

    def __init__(self, clock: Clock, workload: Workload):
        self._clock, self._workload = clock, workload
        self._began: float | None = None
        self._share = 1.0  # of a micro-batch, the piece that is going on
        self._phase: Phase = "generate"
        self._active_in_step = 0.0
        self._unpaid = 0.0  # work that no waiting was reckoned for yet
        self._last_active: dict[Phase, float] = {}  # seconds of the newest piece of each phase
        self.waited = self.owed = self.longest_work = 0.0

    def begin(self, phase: Phase, share: float) -> None:
        """A piece of work begins."""
        self._phase, self._share = phase, share
        self._workload.begin()
        self._began = self._clock.monotonic()

    def end(self) -> None:
        """The piece that was going on is over, if there was one."""
        if self._began is None:
            return
        self._workload.end(self._share)
        active = self._clock.monotonic() - self._began
        self._began = None
        self._last_active[self._phase] = active
        self.longest_work = max(self.longest_work, active)
        self.book(active)

    def book(self, active_seconds: float) -> None:
        """More work, of the phase of the last piece."""
        if self._phase == "train":
            self._active_in_step += active_seconds
        self._unpaid += active_seconds

    def reckon(self, duty: float, coming: Phase | None = None) -> None:
        """Work is paid for at the duty that is decided on at its end.

        Where pieces of another phase come, the first of them begins as cool as its like: after the short
        pieces of an evaluation, a whole micro-batch would top its usual peak by two or three degrees.
        """
        share = 1.0 / duty - 1.0
        self.owed += self._unpaid * share
        self._unpaid = 0.0
        if coming is not None and coming != self._phase:
            self.owed = max(self.owed, self._last_active.get(coming, 0.0) * share)

    def drop_step(self) -> None:
        """What was done of the present step is void: it will be done again."""
        self._active_in_step = 0.0

    def forgive(self) -> None:
        """Nothing is owed any more: a longer wait than that has come."""
        self.owed = self._unpaid = 0.0

    def take_step(self) -> float:
        """Seconds of training since the last call, the piece that is going on included."""
        going_on = 0.0
        if self._began is not None and self._phase == "train":
            going_on = self._clock.monotonic() - self._began
        active, self._active_in_step = self._active_in_step + going_on, -going_on
        return active
