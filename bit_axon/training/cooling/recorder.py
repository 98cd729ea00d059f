"""The trace of a run: a row for each reading, with what the run was doing, and one for each action."""

import threading
from dataclasses import replace

from bit_axon.profiling.reading import Event, Reading
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.profiling.trace import Context, Phase, TraceWriter
from bit_axon.training.cooling.policies import Decision
from bit_axon.training.cooling.policies.base import tier_of


class TraceRecorder:
    """Joins what the poll thread reads with what the training thread does.

    Args:
        writer: of `thermal.csv`; None = nothing is kept.
        thresholds: of the tiers in it.
    """

    def __init__(self, writer: TraceWriter | None, thresholds: Thresholds | None = None):
        self._writer, self._thresholds = writer, thresholds or Thresholds()
        self._context = Context("idle")
        self._slept = 0.0  # since the last row
        self._lock = threading.Lock()

    def doing(self, phase: Phase, step: int) -> None:
        """What the run does from now on."""
        if (phase, step) != (self._context.phase, self._context.opt_step):
            self._context = replace(self._context, phase=phase, opt_step=step, micro_step=0)

    def decided(self, decision: Decision) -> None:
        """What the policy said last."""
        if decision.duty != self._context.duty:
            self._context = replace(self._context, duty=decision.duty)

    def micro_batch(self) -> None:
        """One more within the step."""
        self._context = replace(self._context, micro_step=self._context.micro_step + 1)

    def step_done(self, tokens_total: int, tokens_per_second: float) -> None:
        """The speed of the last update, while it was at work."""
        self._context = replace(self._context, tokens_total=tokens_total, tok_s_active=tokens_per_second)

    def slept(self, seconds: float) -> None:
        """Time spent waiting between micro-batches."""
        with self._lock:
            self._slept += seconds

    def on_reading(self, reading: Reading) -> None:
        """A row; called by the poll thread."""
        if self._writer is not None:
            self._writer.reading(reading, self._now(reading))

    def action(self, name: str, reading: Reading | None) -> None:
        """A row for something that was done."""
        if self._writer is not None:
            self._writer.action(name, reading, self._now(reading))

    def on_event(self, event: Event, reading: Reading | None) -> None:
        """A row for something about the sensors."""
        self.action(event.kind, reading)

    def _now(self, reading: Reading | None) -> Context:
        with self._lock:
            slept, self._slept = self._slept, 0.0
        tier = "" if reading is None else tier_of(reading.temp_ctrl_c, self._thresholds)
        return replace(self._context, tier=tier, sleep_s=slept)
