"""Compares thermal policies on a simulated fanless laptop: `python -m benchmarks.thermal`.

Hours pass in seconds: the machine, its clock and its sensor are simulated, while the monitor, the policies
and the gate are those of a run. The report goes to outputs/benchmarks/<time>/.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks import options
from bit_axon.cli.failures import report_failure
from bit_axon.errors import BitAxonError, ThermalShutdownError
from bit_axon.files import write_atomic
from bit_axon.profiling.clock import VirtualClock
from bit_axon.profiling.rc_model import PRESETS
from bit_axon.profiling.reading import Reading
from bit_axon.profiling.sensors.simulated import SimulatedSource
from bit_axon.profiling.simulation import SimulatedMachine
from bit_axon.profiling.thermal import MonitorOptions, ThermalMonitor
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling import CoolingScheduler, ThermalPolicy
from bit_axon.training.cooling.gate import ThermalGate
from bit_axon.training.cooling.policies import build_policy
from bit_axon.training.cooling.thresholds import thresholds_of

HOUR = 3600.0
WARM_UP_SECONDS = 600.0  # what ripple and deviation leave out
STEP_SECONDS = (0.5, 1.5, 6.0)


@dataclass(frozen=True)
class Outcome:
    """How one policy did; temperatures in °C: true ones, at the readings, unless it says otherwise."""

    policy: str
    step_seconds: float
    speed: float  # of the cold machine's
    mean: float  # over the whole time
    peak: float
    work_peak: float  # at the ends of micro-batches, between the readings
    ripple: float  # between the 2.5 % and the 97.5 % of the temperatures at the readings after the warm-up
    hot_share: float  # of the time at 85 °C or more
    filtered_low: float  # after the warm-up
    filtered_high: float
    stops: int

    @property
    def row(self) -> str:
        """A line of the table."""
        figures = (
            f"{self.step_seconds:g}",
            f"{self.speed:.3f}",
            *(f"{value:.1f}" for value in (self.mean, self.peak, self.work_peak, self.ripple)),
            f"{self.hot_share:.2f}",
            f"{self.filtered_low:.1f} to {self.filtered_high:.1f}",
            str(self.stops),
        )
        return f"| {self.policy} | {' | '.join(figures)} |"


HEADER = (
    "| policy | micro-batch, s | speed | mean °C | peak °C | peak between readings °C | ripple °C | "
    "time at 85 °C or more | filtered °C after 10 min | stops |\n" + "| --- " * 10 + "|"
)


class _Rig:
    """A machine, its monitor and what was read; the workload of a gate."""

    def __init__(self, step_seconds: float, seed: int, options: MonitorOptions, preset: str = "fanless_air"):
        self.clock = VirtualClock()
        self.machine = SimulatedMachine(PRESETS[preset], self.clock, seed=seed, work_seconds=step_seconds)
        self.readings: list[Reading] = []
        self.temps: list[float] = []  # the true ones, at each reading
        self.peak = 0.0
        self.monitor = ThermalMonitor(
            1.0,
            sources=(SimulatedSource(self.machine),),
            clock=self.clock,
            options=options,
            on_reading=self._on_reading,
        )

    def begin(self) -> None:
        self.machine.begin()

    def end(self, share: float = 1.0) -> None:
        self.machine.end(share)
        self.peak = max(self.peak, self.machine.sensor_temp)

    def _on_reading(self, reading: Reading) -> None:
        self.readings.append(reading)
        self.temps.append(self.machine.sensor_temp)

    def outcome(self, name: str, step_seconds: float, steps: int, stops: int) -> Outcome:
        temps = self.temps
        later = [i for i, r in enumerate(self.readings) if r.t_mono_s >= WARM_UP_SECONDS]
        spread = statistics.quantiles([temps[i] for i in later], n=40)
        filtered = [r.temp_filt_c for r in (self.readings[i] for i in later) if r.temp_filt_c is not None]
        return Outcome(
            name,
            step_seconds,
            steps * step_seconds / self.clock.monotonic(),
            statistics.fmean(temps),
            max(temps),
            self.peak,
            spread[-1] - spread[0],
            sum(temp >= 85.0 for temp in temps) / len(temps),
            min(filtered),
            max(filtered),
            stops,
        )


def run_policy(
    config: ThermalConfig, *, step_seconds: float, hours: float = 1.5, seed: int = 0, name: str | None = None
) -> Outcome:
    """One of the product's policies on a cold machine; after a stop it goes on, and the stop is counted."""
    rig = _Rig(
        step_seconds,
        seed,
        MonitorOptions(median_samples=config.median_samples, filter_seconds=config.filter_seconds),
    )
    thresholds = thresholds_of(config)
    gate = ThermalGate(
        rig.monitor, build_policy(config, thresholds), rig.clock, config, thresholds, workload=rig
    )
    return _drive(rig, lambda step: gate.check("train", step), name or config.policy, step_seconds, hours)


def run_on_off(*, step_seconds: float, hours: float = 1.5, seed: int = 0) -> Outcome:
    """The guide's tiers as older implementations have them: sleeps of half a second from 85 °C, no filter."""
    rig = _Rig(step_seconds, seed, MonitorOptions(median_samples=1, filter_seconds=0.001))
    cooling = CoolingScheduler(rig.monitor, ThermalPolicy(), rig.clock)

    def check(step: int) -> None:
        rig.end()
        cooling.check_before_step(step)
        rig.begin()

    return _drive(rig, check, "on/off", step_seconds, hours)


def _drive(rig: _Rig, check: Callable[[int], None], name: str, step_seconds: float, hours: float) -> Outcome:
    steps = stops = 0
    rig.monitor.poll()
    with rig.monitor:
        while rig.clock.monotonic() < hours * HOUR:
            try:
                check(steps)
                steps += 1
            except ThermalShutdownError:
                stops += 1
                rig.clock.advance(1.0)
    return rig.outcome(name, step_seconds, steps, stops)


def comparison(hours: float = 1.5, seed: int = 0) -> list[Outcome]:
    """Every policy with every length of a micro-batch, and pacing at the mean temperature of tiers."""
    found: list[Outcome] = []
    for seconds in STEP_SECONDS:
        tiers = run_policy(ThermalConfig(policy="tiers"), step_seconds=seconds, hours=hours, seed=seed)
        found += [
            run_policy(ThermalConfig(policy="off"), step_seconds=seconds, hours=hours, seed=seed),
            run_on_off(step_seconds=seconds, hours=hours, seed=seed),
            tiers,
            run_policy(ThermalConfig(policy="pacing"), step_seconds=seconds, hours=hours, seed=seed),
            pacing_like(tiers, seconds, hours=hours, seed=seed),
        ]
    return found


def pacing_like(tiers: Outcome, step_seconds: float, *, hours: float = 1.5, seed: int = 0) -> Outcome:
    """Pacing at the mean temperature that tiers had: the fair comparison of their speeds."""
    target = tiers.mean
    for _ in range(4):
        config = ThermalConfig(policy="pacing", target_temp=target, resume_temp=min(78.0, target))
        outcome = run_policy(config, step_seconds=step_seconds, hours=hours, seed=seed)
        target += tiers.mean - outcome.mean
    return replace(outcome, policy=f"pacing to {target:.1f} °C, the mean of tiers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table and shows it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thermal", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.5, help="simulated; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the sensor's noise; default: %(default)s")
    parser.add_argument("--out", help="folder of the report; default: outputs/benchmarks/<time>")
    try:
        given = parser.parse_args(arguments)
        table = "\n".join([HEADER, *(outcome.row for outcome in comparison(given.hours, given.seed))])
        print(table)
        write_atomic(options.new_folder(given.out) / "thermal.md", table + "\n")
    except (BitAxonError, KeyboardInterrupt) as error:
        return report_failure(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
