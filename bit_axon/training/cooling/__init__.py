"""Thermal limits: policies decide, the gate waits, and the scheduler is the Python API's way to both."""

from bit_axon.errors import ThermalShutdownError
from bit_axon.training.cooling.scheduler import CoolingScheduler, ThermalPolicy

__all__ = ["CoolingScheduler", "ThermalPolicy", "ThermalShutdownError"]
