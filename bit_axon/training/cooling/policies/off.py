"""No thermal limits: readings are recorded and nothing is done about them."""

from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling.policies.base import Decision, View, tier_of


class OffPolicy:
    """Always goes on."""

    def __init__(self, config: ThermalConfig, thresholds: Thresholds):
        self._thresholds = thresholds

    def decide(self, view: View) -> Decision:
        """Full speed at any temperature."""
        return Decision("run", tier_of(view.temp_ctrl_c, self._thresholds))

    def reset(self) -> None:
        """Nothing to forget."""
