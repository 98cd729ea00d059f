"""The numbers of the heat model (`rc_model`): presets, and files of them.

The presets are estimates, drawn from published curves and not from measurements of ours;
`bit-axon thermal doctor --step-test` fits the fast part to the machine it runs on.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import yaml
from annotated_types import Gt, Le

from bit_axon.errors import ConfigError, nearest, problem
from bit_axon.schema import Celsius, NonNegative, Positive, options
from bit_axon.validation import check

PRESET_KEY: Final = "thermal.simulation.preset"


@options
class RCParameters:
    """A machine, as far as heat goes. The defaults are the estimate for a fanless M4-class laptop.

    Attributes:
        hot_spot_k_per_w: R_hot; how far the sensor runs ahead of the die's mean.
        hot_spot_seconds: t_hot.
        die_k_per_w: R_die, from the die to the case.
        die_j_per_k: C_die.
        case_k_per_w: R_case, from the case to the air.
        case_j_per_k: C_case.
        full_power_w: P_full, the chip's power under full load at full clock.
        idle_power_w: P_idle, the chip's power without work.
        other_power_w: P_other, what the rest of the machine turns into heat, always.
        power_exponent: of the clock fraction.
        governor_temp: the operating system holds the sensor here by lowering the clock.
        governor_floor: the lowest clock fraction.
        governor_gain: clock fraction per second and K.
    """

    hot_spot_k_per_w: Positive = 1.6
    hot_spot_seconds: Positive = 2.4
    die_k_per_w: Positive = 3.6
    die_j_per_k: Positive = 22.0
    case_k_per_w: Positive = 1.75
    case_j_per_k: Positive = 450.0
    full_power_w: Positive = 18.0
    idle_power_w: NonNegative = 0.6
    other_power_w: NonNegative = 3.0
    power_exponent: Positive = 2.5
    governor_temp: Celsius = 100.0
    governor_floor: Annotated[float, Gt(0), Le(1)] = 0.25
    governor_gain: NonNegative = 0.01


PRESETS: Final[Mapping[str, RCParameters]] = MappingProxyType(
    {
        "fanless_air": RCParameters(),
        # A 14-inch class machine: near the governor's limit after minutes of full load, at full clock.
        "fanned_laptop": RCParameters(
            hot_spot_k_per_w=0.55,
            die_k_per_w=0.6,
            die_j_per_k=90.0,
            case_k_per_w=0.5,
            case_j_per_k=700.0,
            full_power_w=40.0,
            idle_power_w=1.0,
            other_power_w=6.0,
        ),
        # A small desktop with a large cooler: the governor never acts.
        "desktop": RCParameters(
            hot_spot_k_per_w=0.22,
            die_k_per_w=0.12,
            die_j_per_k=300.0,
            case_k_per_w=0.25,
            case_j_per_k=1800.0,
            full_power_w=90.0,
            idle_power_w=6.0,
            other_power_w=12.0,
        ),
    }
)


def load_preset(name_or_path: str, where: str = PRESET_KEY) -> RCParameters:
    """A preset by its name, or from a YAML file as `bit-axon thermal doctor` writes it.

    Args:
        name_or_path: as a user gave it.
        where: the config key or option it was given in, for messages.

    Raises:
        ConfigError: there is no such preset, or the file is none.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(_unknown(name_or_path, where), keys=(where,))
    values = _yaml_mapping(path, where)
    parameters = check(RCParameters, values, source=name_or_path)
    if parameters.full_power_w <= parameters.idle_power_w:
        raise ConfigError(
            problem(
                "full_power_w above idle_power_w",
                f"{parameters.full_power_w:g} and {parameters.idle_power_w:g}",
                "Change one of them.",
                where=name_or_path,
            ),
            keys=(where,),
        )
    return parameters


def _unknown(name: str, where: str) -> str:
    looks_like_a_file = name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name
    if looks_like_a_file and not get_close_matches(name, PRESETS, n=1):
        remedy = "`bit-axon thermal doctor --step-test --write FILE.yaml` writes one; or name a preset: "
        return problem(
            f"a preset file {name}", "no such file", remedy + ", ".join(PRESETS) + ".", where=where
        )
    return problem("a preset's name or file", f"'{name}'", nearest(name, PRESETS), where=where)


def _yaml_mapping(path: Path, where: str) -> dict[str, float]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(
            problem("a preset file in YAML", reason, "Write it anew or correct it.", where=str(path)),
            keys=(where,),
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(
            problem("names and numbers, one per line", "something else", "Write it anew.", where=str(path)),
            keys=(where,),
        )
    return values
