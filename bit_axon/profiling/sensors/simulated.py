"""Source `simulated`: the sensors of a machine that is not there."""

from bit_axon.profiling.reading import RawReading
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.simulation import SimulatedMachine


class SimulatedSource:
    """Reads a `SimulatedMachine`; always there."""

    name = "simulated"

    def __init__(self, machine: SimulatedMachine):
        self._machine = machine

    def probe(self) -> Probe:
        """Always ok; says which machine it is."""
        known = self._machine.parameters
        return Probe(
            True,
            f"simulated chip of {known.full_power_w:g} W, clocks cut at {known.governor_temp:g} °C; "
            "1 GPU, 1 CPU and 1 case sensor",
        )

    def read(self) -> RawReading:
        """The machine's present state, with noise."""
        return self._machine.read()

    def close(self) -> None:
        """There is nothing to give back."""
