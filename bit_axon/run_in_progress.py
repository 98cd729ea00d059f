"""A run while it goes on: what its stages share, and whom they tell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bit_axon.errors import StopRequestedError
from bit_axon.preparation import Prepared
from bit_axon.run_directory import MetricsLog, RunDirectory
from bit_axon.training.cooling.assembly import ThermalSession
from bit_axon.training.cooling.gates import Phase
from bit_axon.training.loop_state import LoopState
from bit_axon.training.records import Observer
from bit_axon.training.stepper import Stepper


class Reporter(Observer, Protocol):
    """An observer that is also told of the run as a whole."""

    def on_start(self, header: Mapping[str, Any]) -> None:
        """The run directory is ready and training is about to begin."""

    def on_samples(self, samples: list[dict[str, Any]]) -> None:
        """Answers before or after training."""

    def on_finish(self, result: Mapping[str, Any]) -> None:
        """result.json is written."""


@dataclass
class RunInProgress:
    """The parts that the stages of a run share."""

    prepared: Prepared
    directory: RunDirectory
    reporter: Reporter
    stepper: Stepper
    state: LoopState
    log: MetricsLog
    started: float
    resumed: bool
    thermal: ThermalSession
    stop_requested: Callable[[], bool]
    paused_before: float  # seconds, in earlier sessions
    pruned: Callable[[], bool]

    def between(self, phase: Phase, share: float) -> None:
        """Called before each piece of evaluation and generation.

        Raises:
            StopRequestedError: a person asked for it.
            ThermalShutdownError: it stays too hot.
        """
        if self.stop_requested():
            raise StopRequestedError(f"Stopped after step {self.state.step}.")
        self.thermal.gate.check(phase, self.state.step, share=share)
