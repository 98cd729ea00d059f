"""Sources with given answers, and a simulated machine on a bench: clock, load and source."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from bit_axon.profiling.clock import VirtualClock
from bit_axon.profiling.doctor import step_test
from bit_axon.profiling.rc_model import PRESETS, RCParameters
from bit_axon.profiling.reading import Group, RawReading, SensorValue
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.sensors.simulated import SimulatedSource
from bit_axon.profiling.simulation import SimulatedMachine
from bit_axon.profiling.step_tests import StepTest

AIR = PRESETS["fanless_air"]
OTHER_AIR = dataclasses.replace(
    AIR, hot_spot_k_per_w=0.8, hot_spot_seconds=4.0, die_k_per_w=5.0, die_j_per_k=15.0, full_power_w=14.0
)


class Fake:
    """A source whose answers are given."""

    def __init__(self, name: str, reading: RawReading | Exception, probe: Probe | Exception | None = None):
        self.name, self._reading, self._probe = name, reading, probe or Probe(True, "what it offers")
        self.closed = 0

    def probe(self) -> Probe:
        if isinstance(self._probe, Exception):
            raise self._probe
        return self._probe

    def read(self) -> RawReading:
        if isinstance(self._reading, Exception):
            raise self._reading
        return self._reading

    def close(self) -> None:
        self.closed += 1


class WithoutPower(SimulatedSource):
    """A machine without a power sensor."""

    def read(self) -> RawReading:
        return dataclasses.replace(super().read(), sys_power_w=None, gpu_power_w=None)


def reading(*temps: tuple[Group, float], pressure: int | None = None) -> RawReading:
    sensors = tuple(SensorValue(f"{group}{i}", group, temp) for i, (group, temp) in enumerate(temps))
    return RawReading(sensors=sensors, pressure=pressure)


class Laboratory:
    """A simulated machine with its clock, its load and its source."""

    def __init__(self, known: RCParameters, kind: type[SimulatedSource] = SimulatedSource, seed: int = 0):
        self.clock = VirtualClock()
        self.machine = SimulatedMachine(known, self.clock, seed=seed)
        self.source = kind(self.machine)

    @contextmanager
    def load(self) -> Iterator[None]:
        self.machine.begin()
        yield
        self.machine.end()

    def step_test(self, seconds: float = 60.0) -> StepTest:
        return step_test(self.source, self.clock, self.load, seconds)
