"""Thermal policies, one small file each; the registry is the one place that knows them all."""

from collections.abc import Callable, Mapping

from bit_axon.errors import ConfigError, nearest, problem
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling.policies.base import Decision, Policy, View
from bit_axon.training.cooling.policies.off import OffPolicy
from bit_axon.training.cooling.policies.pacing import PacingPolicy
from bit_axon.training.cooling.policies.tiers import TiersPolicy

__all__ = ["POLICIES", "Decision", "Policy", "View", "build_policy", "check_policy_name"]

POLICIES: Mapping[str, Callable[[ThermalConfig, Thresholds], Policy]] = {
    "off": OffPolicy,
    "tiers": TiersPolicy,
    "pacing": PacingPolicy,
}


def build_policy(config: ThermalConfig, thresholds: Thresholds) -> Policy:
    """The policy of `thermal.policy`.

    Raises:
        ConfigError: there is none of that name.
    """
    check_policy_name(config)
    return POLICIES[config.policy](config, thresholds)


def check_policy_name(config: ThermalConfig) -> None:
    """Raises ConfigError, with the nearest name, for a policy that there is not."""
    if config.policy not in POLICIES:
        remedy = nearest(config.policy, POLICIES)
        text = problem("a thermal policy", f"'{config.policy}'", remedy, where="thermal.policy")
        raise ConfigError(text, keys=("thermal.policy",))
