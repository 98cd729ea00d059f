"""From `thermal` in the config to a gate: source, clock, monitor, policy and trace put together."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bit_axon.errors import ConfigError, UserError
from bit_axon.profiling.clock import Clock, SystemClock, VirtualClock
from bit_axon.profiling.rc_model import load_preset
from bit_axon.profiling.reading import Event
from bit_axon.profiling.sensors.base import Source, Thresholds
from bit_axon.profiling.sensors.registry import Choice, choose
from bit_axon.profiling.sensors.simulated import SimulatedSource
from bit_axon.profiling.simulation import SimulatedMachine
from bit_axon.profiling.summary import summarize
from bit_axon.profiling.thermal import MonitorOptions, ThermalMonitor
from bit_axon.profiling.trace import TRACE_FILE, TraceWriter, read_trace
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling.gate import ThermalGate
from bit_axon.training.cooling.gates import Gate, NoGate
from bit_axon.training.cooling.policies import build_policy, check_policy_name
from bit_axon.training.cooling.presence import presence
from bit_axon.training.cooling.recorder import TraceRecorder
from bit_axon.training.cooling.thresholds import thresholds_of


@dataclass(frozen=True)
class ThermalSetup:
    """What a run will be held by; the source has answered.

    Attributes:
        config: of the run.
        clock: of all waits and readings.
        choice: the sources.
        thresholds: the tiers.
        machine: the simulated one, if there is one.
    """

    config: ThermalConfig
    clock: Clock
    choice: Choice
    thresholds: Thresholds
    machine: SimulatedMachine | None = None

    @property
    def has_sensor(self) -> bool:
        """Whether anything is read."""
        return self.choice.name != "none"

    @property
    def is_gated(self) -> bool:
        """Whether anything is done about what is read."""
        return self.has_sensor and self.config.policy != "off"

    @property
    def facts(self) -> dict[str, Any]:
        """For result.json and the tags of the run."""
        return {
            "source": self.choice.name,
            "policy": self.config.policy,
            "control": self.config.control,
            "gated": self.is_gated,
            "simulated": self.machine is not None,
            "thresholds": asdict(self.thresholds) if self.has_sensor else None,
        }

    def notes(self) -> tuple[str, ...]:
        """What a person should know before the run starts."""
        if self.config.source == "none":
            return ()
        if not self.has_sensor:
            tried = ", ".join(refusal.partition(":")[0] for refusal in self.choice.refused) or "none known"
            why = f"(tried: {tried}; `bit-axon thermal doctor` says more)"
            return (f"No temperature sensor answers {why}: this run has no thermal limits.",)
        what = "Temperature" if self.choice.has_temperature else "Thermal pressure alone"
        found = f"{what} from {self.choice.name}: {self.choice.detail}"
        better = f" (not {'; '.join(self.choice.refused)})" if self.choice.refused else ""
        return (f"{found}{better}. {self._limits()}",)

    def _limits(self) -> str:
        t = self.thresholds
        if self.config.policy == "off":
            return "It is recorded; nothing is done about it (thermal.policy=off)."
        if not self.choice.has_temperature:
            return "The run goes slower at moderate and heavy pressure and is stopped at trapping."
        held = f"held at {t.target:g} °C" if self.config.policy == "pacing" else f"paused at {t.pause:g} °C"
        clock = " Time is simulated." if self.clock.is_virtual else ""
        return f"The run is {held} and stopped at {t.stop:g} °C.{clock}"


def set_up(config: ThermalConfig, *, device: str) -> ThermalSetup:
    """Finds the source and checks the limits, before anything is loaded.

    Args:
        config: `thermal` of the run.
        device: "cpu" or "gpu": what the model runs on.

    Raises:
        ConfigError: no such policy, thresholds out of order, or a source that does not answer.
    """
    check_policy_name(config)
    clock: Clock = SystemClock()
    machine: SimulatedMachine | None = None
    simulated: Source | None = None
    if config.source == "simulated":
        clock, machine = _simulation(config)
        simulated = SimulatedSource(machine)
    choice = choose(config, clock, device=device, simulated=simulated)
    try:
        thresholds = thresholds_of(config, choice.thresholds)
    except ConfigError:
        choice.close()
        raise
    return ThermalSetup(config, clock, choice, thresholds, machine)


def _simulation(config: ThermalConfig) -> tuple[Clock, SimulatedMachine]:
    options = config.simulation
    virtual = options.clock == "virtual"
    clock: Clock = VirtualClock(time.time_ns() // 1_000_000) if virtual else SystemClock()
    machine = SimulatedMachine(
        load_preset(options.preset),
        clock,
        ambient_temp=options.ambient_temp,
        start_temp=options.start_temp,
        seed=options.seed,
        work_seconds=options.work_seconds if virtual else None,
    )
    return clock, machine


class ThermalSession:
    """The gate of one run, and what it leaves behind.

    Attributes:
        gate: for the loop, evaluation and generation.
    """

    def __init__(
        self, setup: ThermalSetup, gate: ThermalGate | NoGate, trace: Path, writer: TraceWriter | None
    ):
        self.setup, self._gate = setup, gate
        self.gate: Gate = gate
        self._trace, self._writer = trace, writer

    def summary(self) -> dict[str, Any]:
        """`thermal` of result.json, from the whole trace: that of earlier sessions too."""
        facts = self.setup.facts
        if self._writer is None or isinstance(self._gate, NoGate):
            return facts
        facts |= {
            "longest_work_seconds": self._gate.longest_work_seconds,
            "throughput_ratio": self._gate.throughput_ratio,
        }
        try:
            rows = read_trace(self._trace)
        except UserError as error:  # a full disk may have left less than a trace: the run itself is whole
            return {**facts, "trace_error": str(error), "dropped_rows": self._writer.dropped}
        found = summarize(rows, pause_temp=self.setup.thresholds.pause, dropped_rows=self._writer.dropped)
        split = {"batches_split": True} if any(row.action == "split" for row in rows) else {}
        return {**found, **facts, **split}


@contextmanager
def session(
    setup: ThermalSetup,
    run_dir: Path,
    run_id: str,
    *,
    say: Callable[[str], None],
    stop_requested: Callable[[], bool] = lambda: False,
    resumed: bool = False,
) -> Iterator[ThermalSession]:
    """Reads and records as long as it is entered."""
    trace = run_dir / TRACE_FILE
    with ExitStack() as stack:
        if not setup.has_sensor:
            yield ThermalSession(setup, _without_sensor(setup), trace, None)
            return
        heats = setup.config.source not in ("simulated", "replay")
        other = stack.enter_context(presence()) if heats else None
        if other is not None:
            say(f"Another run (process {other or 'unknown'}) is heating this machine: both go slower.")
        stack.callback(setup.choice.close)
        writer = TraceWriter(trace, run_id, setup.clock)
        stack.callback(writer.close)
        recorder = TraceRecorder(writer, setup.thresholds)
        monitor = _monitor(setup, recorder, say)
        gate = ThermalGate(
            monitor,
            build_policy(setup.config, setup.thresholds),
            setup.clock,
            setup.config,
            setup.thresholds,
            workload=setup.machine,
            recorder=recorder,
            stop_requested=stop_requested,
            say=say,
        )
        recorder.action("resume_run" if resumed else "start", None)
        monitor.poll()  # the first check has something to decide on
        stack.enter_context(monitor)
        yield ThermalSession(setup, gate, trace, writer)


def _without_sensor(setup: ThermalSetup) -> ThermalGate | NoGate:
    """Speed is measured all the same, unless nothing was to be."""
    if setup.config.source == "none":
        return NoGate()
    policy = build_policy(setup.config, setup.thresholds)
    return ThermalGate(None, policy, setup.clock, setup.config, setup.thresholds)


def _monitor(setup: ThermalSetup, recorder: TraceRecorder, say: Callable[[str], None]) -> ThermalMonitor:
    config = setup.config

    def on_event(event: Event) -> None:
        recorder.on_event(event, None)
        say(event.text)

    return ThermalMonitor(
        config.poll_interval,
        sources=setup.choice.sources,
        pressure=setup.choice.pressure,
        clock=setup.clock,
        options=monitor_options(config),
        on_reading=recorder.on_reading,
        on_event=on_event,
    )


def monitor_options(config: ThermalConfig) -> MonitorOptions:
    """How a config wants its readings filtered."""
    return MonitorOptions(
        control=config.control,
        median_samples=config.median_samples,
        filter_seconds=config.filter_seconds,
        valid_temp=config.valid_temp,
        stale_after_seconds=config.stale_after_seconds,
    )
