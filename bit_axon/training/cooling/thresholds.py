"""The tiers of a run: what the config says, completed by what suits the source."""

from dataclasses import asdict, replace

from bit_axon.errors import ConfigError, problem
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.schema import ThermalConfig

_KEYS = {
    "warm": "thermal.max_speed_temp",
    "target": "thermal.target_temp",
    "resume": "thermal.resume_temp",
    "pause": "thermal.pause_temp",
    "stop": "thermal.stop_temp",
}
_UNDER_PAUSE = ("warm", "target", "resume")
_RESUME_UNDER_TARGET = 5.0  # °C
_ASCENDING = (("warm", "pause"), ("resume", "pause"), ("pause", "stop"), ("target", "stop"))


def thresholds_of(config: ThermalConfig, own: Thresholds | None = None) -> Thresholds:
    """The config's thresholds; those it leaves open follow the source's own, or a fanless Mac's.

    What lies under the pause moves with it: a pause at 70 °C and no word of the rest gives a resume at
    63 °C, not at 78 °C.

    Raises:
        ConfigError: they are out of order.
    """
    base = own or Thresholds()
    if config.pause_temp is not None:
        shift = config.pause_temp - base.pause
        lower = {name: value + shift for name, value in asdict(base).items() if name in _UNDER_PAUSE}
        base = replace(base, pause=config.pause_temp, **lower)
    if config.target_temp is not None:
        base = replace(base, resume=min(base.resume, config.target_temp - _RESUME_UNDER_TARGET))
    given = {
        "warm": config.max_speed_temp,
        "target": config.target_temp,
        "resume": config.resume_temp,
        "stop": config.stop_temp,
    }
    merged = replace(base, **{name: value for name, value in given.items() if value is not None})
    _check_order(merged)
    _check_ranges(config, merged)
    return merged


def _check_order(thresholds: Thresholds) -> None:
    values = asdict(thresholds)
    for low, high in _ASCENDING:
        if values[low] >= values[high]:
            keys = (_KEYS[low], _KEYS[high])
            got = f"{values[low]:g} and {values[high]:g} °C"
            text = problem(f"{keys[0]} below {keys[1]}", got, "Lower the first or raise the second.")
            raise ConfigError(f"thermal: {text}", keys=keys)


def _check_ranges(config: ThermalConfig, thresholds: Thresholds) -> None:
    low, high = config.valid_temp
    if not low < thresholds.warm or not high > thresholds.stop:
        wanted = f"a range around {thresholds.warm:g} to {thresholds.stop:g} °C"
        text = problem(wanted, f"[{low:g}, {high:g}]", "A sensor outside of it is not believed: widen it.")
        raise ConfigError(f"thermal.valid_temp: {text}", keys=("thermal.valid_temp",))
    if config.start_duty < config.min_duty:
        got = f"{config.start_duty:g} and {config.min_duty:g}"
        text = problem("thermal.start_duty at least thermal.min_duty", got, "Raise the first.")
        raise ConfigError(f"thermal: {text}", keys=("thermal.start_duty", "thermal.min_duty"))
