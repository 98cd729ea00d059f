"""What the thermal gate and its trace cost: `python -m benchmarks.thermal_cost`.

Times the calls a training step makes, and the poll that the background thread makes once a second, with a
real clock, a real trace file and a simulated machine as the sensor.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bit_axon.profiling.clock import SystemClock
from bit_axon.profiling.rc_model import PRESETS
from bit_axon.profiling.sensors.simulated import SimulatedSource
from bit_axon.profiling.simulation import SimulatedMachine
from bit_axon.profiling.thermal import ThermalMonitor
from bit_axon.profiling.trace import TraceWriter
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling.gate import ThermalGate
from bit_axon.training.cooling.policies import build_policy
from bit_axon.training.cooling.recorder import TraceRecorder
from bit_axon.training.cooling.thresholds import thresholds_of

STEP_SECONDS = 0.020
_STEPS, _POLLS, _ROUNDS = 2000, 200, 7


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time."""

    step_seconds: float  # one check before a micro-batch and one report after the step
    poll_seconds: float  # once per poll interval

    @property
    def share(self) -> float:
        """Of a step of 20 ms with one micro-batch, polled once a second."""
        return (self.step_seconds + self.poll_seconds * STEP_SECONDS) / STEP_SECONDS


def measure(folder: Path) -> Cost:
    """Medians of some rounds; the trace is written into `folder`."""
    clock, config = SystemClock(), ThermalConfig()
    thresholds = thresholds_of(config)
    machine = SimulatedMachine(PRESETS["fanless_air"], clock)
    writer = TraceWriter(folder / "thermal.csv", "cost", clock)
    recorder = TraceRecorder(writer)
    monitor = ThermalMonitor(sources=(SimulatedSource(machine),), clock=clock, on_reading=recorder.on_reading)
    monitor.poll()
    gate = ThermalGate(
        monitor, build_policy(config, thresholds), clock, config, thresholds, recorder=recorder
    )

    def step() -> None:
        gate.check("train", 1)
        gate.after_step(1, 1000, 1000, ("shape",), compiled=False)

    def poll() -> None:
        monitor.poll()

    cost = Cost(_median_of(step, _STEPS), _median_of(poll, _POLLS))
    writer.close()
    return cost


def _median_of(call: Callable[[], None], count: int) -> float:
    rounds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for _ in range(count):
            call()
        rounds.append((time.perf_counter() - began) / count)
    return median(rounds)


def main() -> int:
    """Prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        cost = measure(Path(folder))
    print(
        f"a step: {cost.step_seconds * 1e6:.1f} us; a poll with its row: {cost.poll_seconds * 1e6:.0f} us; "
        f"{cost.share:.2%} of a step of {STEP_SECONDS * 1e3:.0f} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
