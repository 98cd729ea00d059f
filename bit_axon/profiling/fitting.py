"""From a step test (idle, full load, idle) to the parameters of the heat model.

A minute of it shows the hot spot and the die: four parameters and the idle temperature, by least squares.
The case takes the better part of an hour; its two parameters, and all about the governor, stay those of a
base preset. Temperatures alone tell K/W only for a known power: without a power sensor the power is the
base preset's as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np

from bit_axon.profiling.least_squares import Vector, least_squares, standard_errors
from bit_axon.profiling.rc_model import RCParameters, ThermalModel
from bit_axon.profiling.step_tests import StepTest

FITTED: Final = ("hot_spot_k_per_w", "hot_spot_seconds", "die_k_per_w", "die_j_per_k")
_SLOWEST_FIRST: Final = ("die_k_per_w", "die_j_per_k", "hot_spot_seconds")
_LARGEST_ERROR: Final = 0.5  # relative; beyond it a parameter is not determined
_REACH: Final = 4.0  # of the search, in logarithms: a factor of 50, and 4 °C for the idle temperature
_SCALED: Final = {"hot_spot_k_per_w": 1.0, "die_k_per_w": 1.0, "die_j_per_k": -1.0}  # with the rise
_HOT_SPOT_STARTS: Final = (1.0, 0.3, 3.0)  # times the base preset's seconds

_STEADY_K_PER_S: Final = 0.05  # a slope before the load beyond this is a machine that still cools
_AIR_TEMP: Final = (5.0, 45.0)  # what people work in
_LARGEST_RESIDUAL_TEMP: Final = 1.0  # sensors have about 0.3 °C of noise


@dataclass(frozen=True)
class Fit:
    """The parameters that describe a step test best.

    Attributes:
        fitted: the relative standard error of each parameter that the temperatures determine.
        measured: the parameters that the power sensor gave.
        kept: those of the base preset.
        ambient_temp: at which the base preset's case would show the idle temperature, °C.
        residual_temp: root mean square of what the model does not explain, °C.
    """

    parameters: RCParameters
    fitted: Mapping[str, float]
    measured: tuple[str, ...]
    kept: tuple[str, ...]
    ambient_temp: float
    residual_temp: float
    idle_slope: float

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know before using it."""
        open_names = [name for name in FITTED if name not in self.fitted]
        air_is_possible = _AIR_TEMP[0] <= self.ambient_temp <= _AIR_TEMP[1]
        found = (
            (
                abs(self.idle_slope) > _STEADY_K_PER_S,
                f"Before the load the sensor moved by {self.idle_slope * 60:+.0f} °C a minute: "
                "let the machine idle for ten minutes and test again.",
            ),
            (
                bool(open_names),
                f"The test does not determine {', '.join(open_names)}: a longer one may.",
            ),
            (
                not air_is_possible,
                f"With the base preset's case and powers the air would have {self.ambient_temp:.0f} °C: "
                "another base preset is nearer to this machine.",
            ),
            (
                self.residual_temp > _LARGEST_RESIDUAL_TEMP,
                f"The model misses the measured temperatures by {self.residual_temp:.1f} °C (root mean "
                "square): another program was at work, or another base preset is nearer to this machine.",
            ),
            (
                not self.measured,
                "No power sensor: the powers are the base preset's, and K/W and J/K hold for them alone. "
                "Predicted temperatures do not depend on that.",
            ),
        )
        return tuple(text for applies, text in found if applies)


def fit(test: StepTest, base: RCParameters) -> Fit:
    """Least squares over the four fast parameters, in their logarithms, and the idle temperature.

    When the test leaves one open (a relative standard error beyond one half), the slowest of them is taken
    from `base` and the others are fitted again, until all are determined.

    Raises:
        SensorError: too few samples, or the load did not move the sensor.
    """
    test.check()
    known, measured = _with_measured_power(test, base)
    names: tuple[str, ...] = FITTED
    while True:
        search = _Search(test, known, names)
        point = search.best()
        errors = dict(zip(names, map(float, standard_errors(search.residuals, point)), strict=False))
        if max(errors.values()) <= _LARGEST_ERROR or len(names) == 1:
            break
        slowest = next(name for name in _SLOWEST_FIRST if name in names)
        names = tuple(name for name in names if name != slowest)
    return Fit(
        parameters=search.parameters(point),
        fitted=errors,
        measured=measured,
        kept=tuple(item.name for item in fields(RCParameters) if item.name not in (*names, *measured)),
        ambient_temp=search.ambient_temp(point),
        residual_temp=float(np.sqrt(np.mean(search.residuals(point) ** 2))),
        idle_slope=test.idle_slope,
    )


def predicted_temps(test: StepTest, parameters: RCParameters, ambient_temp: float) -> list[float]:
    """The sensor of the model at the moments of the test's samples, °C; idle long before the first."""
    model = ThermalModel(parameters, ambient_temp)
    temps, now = [], 0.0
    for moment in test.seconds:
        for until, load in (
            (min(moment, test.load_began_seconds), 0.0),
            (min(moment, test.load_ended_seconds), 1.0),
            (moment, 0.0),
        ):
            if until > now:
                model.advance(until - now, load)
                now = until
        temps.append(model.sensor_temp)
    return temps


def _with_measured_power(test: StepTest, base: RCParameters) -> tuple[RCParameters, tuple[str, ...]]:
    """The base with the powers that were measured, and their names."""
    idle_w, full_w = test.idle_power_w, test.full_power_w
    if idle_w is None or full_w is None or full_w <= idle_w or test.power_of is None:
        return base, ()
    if test.power_of == "chip":
        return replace(base, idle_power_w=idle_w, full_power_w=full_w), ("idle_power_w", "full_power_w")
    # Of the machine's idle power the chip's small part cannot be told; it is the base preset's.
    other_w = max(0.0, idle_w - base.idle_power_w)
    return replace(base, other_power_w=other_w, full_power_w=full_w - other_w), (
        "other_power_w",
        "full_power_w",
    )


class _Search:
    """The point is the logarithm of each named parameter, then the idle temperature in °C."""

    def __init__(self, test: StepTest, known: RCParameters, names: tuple[str, ...]):
        self._test, self._known, self._names = test, known, names
        self._temps = np.array(test.temps)

    def best(self) -> Vector:
        """The best end of several searches: the problem is not convex."""
        ends = [least_squares(self.residuals, start, _REACH) for start in self._starts()]
        return min(ends, key=lambda end: float(np.sum(self.residuals(end) ** 2)))

    def parameters(self, point: Vector) -> RCParameters:
        """Those of the point, the others as known."""
        values = (float(np.exp(value)) for value in point)
        return replace(self._known, **dict(zip(self._names, values, strict=False)))

    def ambient_temp(self, point: Vector) -> float:
        """At which the machine, long idle, shows the point's idle temperature."""
        return float(point[-1]) - ThermalModel(self.parameters(point), 0.0).sensor_temp

    def residuals(self, point: Vector) -> Vector:
        """Predicted less measured, (N,), °C."""
        predicted = predicted_temps(self._test, self.parameters(point), self.ambient_temp(point))
        return np.array(predicted) - self._temps

    def _starts(self) -> list[Vector]:
        """The base preset, scaled so that its rise is about the measured one; several hot spot's times."""
        idle_temp = self._test.idle_temp
        base = np.array([np.log(getattr(self._known, name)) for name in self._names] + [idle_temp])
        predicted = predicted_temps(self._test, self._known, self.ambient_temp(base))
        rise = float(np.max(self._temps)) - idle_temp
        scale = float(np.log(rise / max(0.1, max(predicted) - idle_temp)))
        scaled = base + scale * np.array([_SCALED.get(name, 0.0) for name in self._names] + [0.0])
        is_time = np.array([name == "hot_spot_seconds" for name in self._names] + [False])
        return [scaled + np.log(factor) * is_time for factor in _HOT_SPOT_STARTS]
