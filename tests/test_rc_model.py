"""The heat model against a matrix exponential, published figures, and what a preset file may hold."""

import dataclasses
import math
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from waiting import slowness

from bit_axon.errors import ConfigError
from bit_axon.profiling.rc_model import PRESETS, RCParameters, ThermalModel, load_preset

AIR = PRESETS["fanless_air"]
NO_GOVERNOR = dataclasses.replace(AIR, governor_gain=0.0)


def reference(
    known: RCParameters, ambient: float, state: NDArray[np.float64], watts: float, seconds: float
) -> NDArray[np.float64]:
    """Hot spot, die and case after `seconds` at constant power: x_end + exp(A t) (x - x_end)."""
    r1, c1, r2, c2 = known.die_k_per_w, known.die_j_per_k, known.case_k_per_w, known.case_j_per_k
    matrix = np.array(
        [
            [-1 / known.hot_spot_seconds, 0, 0],
            [0, -1 / (r1 * c1), 1 / (r1 * c1)],
            [0, 1 / (r1 * c2), -1 / (r1 * c2) - 1 / (r2 * c2)],
        ]
    )
    heat = np.array(
        [
            known.hot_spot_k_per_w * watts / known.hot_spot_seconds,
            watts / c1,
            (known.other_power_w + ambient / r2) / c2,
        ]
    )
    end = np.linalg.solve(matrix, -heat)
    values, vectors = np.linalg.eig(matrix)
    exponential = (vectors * np.exp(values * seconds)) @ np.linalg.inv(vectors)
    moved: NDArray[np.float64] = end + exponential @ (state - end)
    return moved


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("step_seconds", [0.03, 0.1, 0.7, 45.0])
def test_nodes_follow_the_matrix_exponential(preset: str, step_seconds: float) -> None:
    known = dataclasses.replace(PRESETS[preset], governor_gain=0.0)
    model = ThermalModel(known, 22.0)
    state = np.array([model.sensor_temp - model.die_temp, model.die_temp, model.chassis_temp])
    for load, least_seconds in ((1.0, 2.0), (0.3, 90.0), (0.0, 1.0)):
        watts = known.idle_power_w + load * (known.full_power_w - known.idle_power_w)
        passed = 0.0
        while passed < least_seconds - 1e-9:
            model.advance(step_seconds, load)
            passed += step_seconds
        state = reference(known, 22.0, state, watts, passed)
        assert model.sensor_temp == pytest.approx(state[0] + state[1], abs=1e-8)
        assert model.die_temp == pytest.approx(state[1], abs=1e-8)
        assert model.chassis_temp == pytest.approx(state[2], abs=1e-8)


def test_long_idle_is_an_equilibrium() -> None:
    model = ThermalModel(AIR, 25.0)
    assert model.sensor_temp == pytest.approx(25 + (0.6 + 3.0) * 1.75 + 0.6 * (3.6 + 1.6))
    before = model.sensor_temp, model.chassis_temp
    model.advance(3600.0, 0.0)
    assert (model.sensor_temp, model.chassis_temp) == pytest.approx(before, abs=1e-9)


def test_without_other_policy_the_governor_holds_its_limit() -> None:
    """Speed .78, mean 100 °C, peak 100.7 °C over an hour and a half, once warm (after ten minutes)."""
    model = ThermalModel(AIR, 25.0)
    temps, clocks = [], []
    for _ in range(54_000):
        model.advance(0.1, 1.0)
        temps.append(model.sensor_temp)
        clocks.append(model.clock_fraction)
    assert np.mean(clocks[6_000:]) == pytest.approx(0.78, abs=0.01)
    assert np.mean(clocks) == pytest.approx(0.80, abs=0.01)  # the cold start was faster
    assert np.mean(temps[6_000:]) == pytest.approx(100.0, abs=0.1)
    assert max(temps) == pytest.approx(100.7, abs=0.1)
    reaches_limit = next(i for i, temp in enumerate(temps) if temp >= 100.0) * 0.1
    assert 60.0 < reaches_limit < 90.0


def test_on_off_pauses_overshoot_the_governor_when_steps_are_long() -> None:
    """Stock on/off control, 6 s steps, 0.5 s sleeps above 85 °C by a 1 s poll: peak 105.4 °C."""
    model = ThermalModel(AIR, 25.0)
    now = peak = polled_temp = 0.0
    next_poll = 1.0
    while now < 1800.0:
        work = 0.0
        while work < 6.0:
            model.advance(0.1, 1.0)
            now, work = now + 0.1, work + 0.1 * model.clock_fraction
            peak = max(peak, model.sensor_temp)
            if now >= next_poll:
                polled_temp, next_poll = model.sensor_temp, next_poll + 1.0
        while polled_temp >= 85.0:
            model.advance(0.5, 0.0)
            now += 0.5
            if now >= next_poll:
                polled_temp, next_poll = model.sensor_temp, next_poll + 1.0
    assert peak == pytest.approx(105.4, abs=0.7)


@pytest.mark.parametrize(
    ("idle_seconds", "sensor_temp", "chassis_temp"),
    [(5, 85, 48), (30, 74, 48), (120, 58, 47), (300, 49, 44), (600, 44, 40), (1200, 39, 36), (3000, 35, 32)],
)
def test_the_die_cools_in_minutes_and_the_case_in_the_better_part_of_an_hour(
    idle_seconds: float, sensor_temp: float, chassis_temp: float
) -> None:
    model = ThermalModel(AIR, 25.0)
    model.advance(3600.0, 1.0)
    model.advance(idle_seconds, 0.0)
    assert model.sensor_temp == pytest.approx(sensor_temp, abs=0.5)
    assert model.chassis_temp == pytest.approx(chassis_temp, abs=0.5)


def test_a_hot_start_is_a_machine_after_long_work() -> None:
    worked, started = ThermalModel(AIR, 25.0), ThermalModel(AIR, 25.0, start_temp=100.0)
    worked.advance(4 * 3600.0, 1.0)
    assert started.sensor_temp == pytest.approx(100.0, abs=1e-9)
    assert started.chassis_temp == pytest.approx(worked.chassis_temp, abs=0.01)
    assert started.clock_fraction == pytest.approx(worked.clock_fraction, abs=1e-3)
    assert ThermalModel(AIR, 25.0, start_temp=80.0).clock_fraction == 1.0


@pytest.mark.parametrize("start_temp", [18.0, 25.0, 30.0])
def test_a_cold_start_lies_between_ambient_and_idle(start_temp: float) -> None:
    model = ThermalModel(AIR, 25.0, start_temp=start_temp)
    assert model.sensor_temp == pytest.approx(start_temp)
    assert abs(model.chassis_temp - 25.0) <= abs(start_temp - 25.0)
    model.advance(2 * 3600.0, 0.0)
    assert model.sensor_temp == pytest.approx(ThermalModel(AIR, 25.0).sensor_temp, abs=0.05)


def test_energy_is_the_integral_of_the_power() -> None:
    model = ThermalModel(NO_GOVERNOR, 25.0)
    model.advance(10.0, 1.0)
    model.advance(20.03, 0.0)
    model.advance(4.0, 0.5)
    assert model.energy_j == pytest.approx(10 * 18 + 20.03 * 0.6 + 4 * 9.3)


def test_the_clock_stays_within_its_range() -> None:
    oven = ThermalModel(AIR, 90.0)
    oven.advance(600.0, 1.0)
    assert oven.clock_fraction == AIR.governor_floor
    oven = ThermalModel(AIR, 10.0)
    oven.advance(600.0, 0.0)
    assert oven.clock_fraction == 1.0


def test_no_time_changes_nothing() -> None:
    model = ThermalModel(AIR, 25.0, start_temp=60.0)
    for seconds in (0.0, -1.0):
        model.advance(seconds, 1.0)
    assert model.sensor_temp == pytest.approx(60.0, abs=1e-9)
    assert model.energy_j == 0.0


def test_ninety_minutes_take_less_than_half_a_second() -> None:
    model = ThermalModel(AIR, 25.0)
    begin = time.process_time()
    for _ in range(54_000):
        model.advance(0.1, 1.0)
    assert time.process_time() - begin < 0.5 * slowness()


def test_presets_are_different_machines() -> None:
    warmest = {}
    for name, known in PRESETS.items():
        model = ThermalModel(known, 25.0)
        model.advance(4 * 3600.0, 1.0)
        warmest[name] = model.sensor_temp, model.clock_fraction
    assert warmest["fanless_air"][1] < 0.8
    assert 90.0 < warmest["fanned_laptop"][0] < 100.0
    assert warmest["desktop"][0] < 85.0
    assert all(clock == 1.0 for name, (_, clock) in warmest.items() if name != "fanless_air")


def test_a_preset_by_name_or_from_a_file(tmp_path: Path) -> None:
    assert load_preset("desktop") is PRESETS["desktop"]
    path = tmp_path / "mine.yaml"
    path.write_text("# a comment\nhot_spot_k_per_w: 0.9\nfull_power_w: 22\n")
    assert load_preset(str(path)) == dataclasses.replace(AIR, hot_spot_k_per_w=0.9, full_power_w=22.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hot_spot_k_per_wat: 1.0\n", "hot_spot_k_per_w"),
        ("die_j_per_k: -3\n", "greater than 0"),
        ("die_j_per_k: .nan\n", "number"),
        ("full_power_w: 0.5\n", "above idle_power_w"),
        ("- 1\n- 2\n", "names and numbers"),
        ("a: [1\n", "in YAML"),
        ("\x00", "in YAML"),
    ],
)
def test_a_wrong_preset_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_preset(str(path))
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fanles_air", "Did you mean 'fanless_air'?"),
        ("zzz", "There is: desktop, fanless_air, fanned_laptop."),
        ("gone/mine.yaml", "no such file"),
    ],
)
def test_an_unknown_preset(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_preset(name)
    assert said in str(caught.value)
    assert caught.value.keys == ("thermal.simulation.preset",)


def test_every_preset_is_finite() -> None:
    for known in PRESETS.values():
        assert all(math.isfinite(value) and value > 0 for value in dataclasses.astuple(known))
