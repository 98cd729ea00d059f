"""How a computer warms up: heat flows from the chip to the case to the air, and a governor cuts clocks.

Two nodes and a hot spot, all temperatures in °C, with P the chip's power:

    C_die  dT_die/dt  = P - (T_die - T_case) / R_die
    C_case dT_case/dt = (T_die - T_case) / R_die + P_other - (T_case - T_ambient) / R_case
    t_hot  dh/dt      = R_hot P - h
    T_sensor          = T_die + h
    P                 = P_idle + (P_full - P_idle) load clock^2.5
    dclock/dt         = gain (T_governor - T_sensor),  floor <= clock <= 1

The hot spot follows the power within seconds, the die within minutes, the case within the better part of
an hour.
"""

import math
from typing import Final, NamedTuple

from bit_axon.profiling.rc_parameters import PRESETS, RCParameters, load_preset

__all__ = ["PRESETS", "RCParameters", "ThermalModel", "load_preset"]

_SUBSTEP_SECONDS: Final = 0.1


class _Propagator(NamedTuple):
    """What one sub-step of a fixed length does, exactly, at constant power.

    Attributes:
        hot_spot: the part of the hot spot's distance from its limit that is left.
        die_die: and of the die's; `die_case` is the share that the case's distance adds, and so on.
    """

    hot_spot: float
    die_die: float
    die_case: float
    case_die: float
    case_case: float


def _propagator(parameters: RCParameters, seconds: float) -> _Propagator:
    """exp(A t) of the two nodes, by the two (real, distinct, negative) eigenvalues of A."""
    die_rate = 1.0 / (parameters.die_k_per_w * parameters.die_j_per_k)
    case_rate = 1.0 / (parameters.die_k_per_w * parameters.case_j_per_k)
    air_rate = 1.0 / (parameters.case_k_per_w * parameters.case_j_per_k)
    mean = -0.5 * (die_rate + case_rate + air_rate)
    spread = math.sqrt(mean * mean - die_rate * air_rate)
    fast, slow = math.exp((mean - spread) * seconds), math.exp((mean + spread) * seconds)
    slope = (slow - fast) / (2.0 * spread)
    level = 0.5 * (slow + fast) - slope * mean
    return _Propagator(
        math.exp(-seconds / parameters.hot_spot_seconds),
        level - slope * die_rate,
        slope * die_rate,
        slope * case_rate,
        level - slope * (case_rate + air_rate),
    )


class ThermalModel:
    """One machine whose temperature follows its load.

    Exact for a constant clock, whatever the length of a step; the governor moves every 0.1 s.

    Args:
        parameters: the machine.
        ambient_temp: of the air, °C.
        start_temp: what the sensor shows at first, °C. Above the idle temperature the machine is as warm as
            after long work at that temperature; below, it is on its way from ambient. None = long idle.
    """

    def __init__(self, parameters: RCParameters, ambient_temp: float, start_temp: float | None = None):
        self._parameters = parameters
        self._ambient = ambient_temp
        self._regular = _propagator(parameters, _SUBSTEP_SECONDS)
        self._clock = 1.0
        self._energy_j = 0.0
        self._hot_spot, self._die, self._case = self._settled(parameters.idle_power_w)
        if start_temp is not None:
            self._start_at(start_temp)

    @property
    def parameters(self) -> RCParameters:
        """The machine."""
        return self._parameters

    @property
    def sensor_temp(self) -> float:
        """What the hottest sensor of the chip would show without noise, °C."""
        return self._die + self._hot_spot

    @property
    def die_temp(self) -> float:
        """The chip's mean, without its hot spot, °C."""
        return self._die

    @property
    def chassis_temp(self) -> float:
        """The case, °C."""
        return self._case

    @property
    def clock_fraction(self) -> float:
        """The clock that the governor allows; 1 = full."""
        return self._clock

    @property
    def energy_j(self) -> float:
        """What the chip has turned into heat since the beginning; `other_power_w` is not in it."""
        return self._energy_j

    def advance(self, seconds: float, load: float) -> None:
        """Moves time on with the given load, 0 (idle) to 1 (full)."""
        if seconds <= 0.0:
            return
        steps = int(seconds / _SUBSTEP_SECONDS)
        self._steps(steps, _SUBSTEP_SECONDS, load, self._regular)
        rest = seconds - steps * _SUBSTEP_SECONDS
        if rest > 0.0:
            self._steps(1, rest, load, _propagator(self._parameters, rest))

    def _steps(self, steps: int, seconds: float, load: float, propagator: _Propagator) -> None:
        """Equal sub-steps; all that the loop touches is local, an hour and a half takes well under 0.5 s."""
        known = self._parameters
        idle, span, exponent = (
            known.idle_power_w,
            load * (known.full_power_w - known.idle_power_w),
            known.power_exponent,
        )
        hot_r, die_r, case_r = known.hot_spot_k_per_w, known.die_k_per_w, known.case_k_per_w
        air = self._ambient + case_r * known.other_power_w
        limit, floor, gain = known.governor_temp, known.governor_floor, known.governor_gain * seconds
        hot, die_die, die_case, case_die, case_case = propagator
        hot_spot, die, case, clock, watts = self._hot_spot, self._die, self._case, self._clock, 0.0
        for _ in range(steps):
            power = idle + span * clock**exponent
            watts += power
            hot_end = hot_r * power
            case_end = air + case_r * power
            die_end = case_end + die_r * power
            hot_spot = hot_end + hot * (hot_spot - hot_end)
            die_off, case_off = die - die_end, case - case_end
            die = die_end + die_die * die_off + die_case * case_off
            case = case_end + case_die * die_off + case_case * case_off
            clock += gain * (limit - die - hot_spot)
            clock = 1.0 if clock > 1.0 else floor if clock < floor else clock
        self._hot_spot, self._die, self._case, self._clock = hot_spot, die, case, clock
        self._energy_j += watts * seconds

    def _settled(self, power_w: float) -> tuple[float, float, float]:
        """Hot spot, die and case after a long time at this power."""
        known = self._parameters
        case = self._ambient + known.case_k_per_w * (power_w + known.other_power_w)
        return known.hot_spot_k_per_w * power_w, case + known.die_k_per_w * power_w, case

    def _start_at(self, sensor_temp: float) -> None:
        known = self._parameters
        above_idle = sensor_temp - self.sensor_temp
        if above_idle >= 0.0:
            per_watt = known.hot_spot_k_per_w + known.die_k_per_w + known.case_k_per_w
            power = known.idle_power_w + above_idle / per_watt
            self._hot_spot, self._die, self._case = self._settled(power)
            if sensor_temp >= known.governor_temp:
                self._clock = self._clock_at(power)
        else:
            part = (sensor_temp - self._ambient) / (self.sensor_temp - self._ambient)
            self._die = self._ambient + part * (self._die - self._ambient)
            self._case = self._ambient + part * (self._case - self._ambient)
            self._hot_spot = sensor_temp - self._die

    def _clock_at(self, power_w: float) -> float:
        """The clock fraction at which full load takes this power, within the governor's range."""
        known = self._parameters
        part = max(0.0, power_w - known.idle_power_w) / (known.full_power_w - known.idle_power_w)
        return min(1.0, max(known.governor_floor, part ** (1.0 / known.power_exponent)))
