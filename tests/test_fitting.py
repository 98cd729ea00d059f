"""A step test of a simulated machine gives back what the machine was made of, or says what it does not."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from laboratory import AIR, OTHER_AIR, Fake, Laboratory, WithoutPower, reading

from bit_axon.errors import SensorError
from bit_axon.profiling.doctor import step_test
from bit_axon.profiling.fitting import FITTED, fit, predicted_temps
from bit_axon.profiling.least_squares import Vector, least_squares, standard_errors
from bit_axon.profiling.rc_model import RCParameters
from bit_axon.profiling.reading import RawReading
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.step_tests import StepTest


def test_a_step_test_is_idle_load_idle() -> None:
    laboratory = Laboratory(AIR)
    phases: list[tuple[str, float]] = []
    test = step_test(
        laboratory.source, laboratory.clock, laboratory.load, 60.0, lambda *phase: phases.append(phase)
    )
    assert phases == [("idle", 10.0), ("full load", pytest.approx(25.0)), ("idle again", pytest.approx(25.0))]
    assert (test.load_began_seconds, test.load_ended_seconds) == pytest.approx((10.0, 35.0))
    assert test.seconds == pytest.approx([0.25 * (i + 1) for i in range(240)])
    hottest = max(range(len(test.temps)), key=lambda index: test.temps[index])
    assert 34.0 < test.seconds[hottest] <= 35.5
    assert test.power_of == "machine"
    assert laboratory.clock.monotonic() == pytest.approx(60.0)


@pytest.mark.parametrize(("known", "seed"), [(AIR, 1), (OTHER_AIR, 2), (OTHER_AIR, 3)])
def test_a_noisy_minute_gives_the_fast_parameters(known: RCParameters, seed: int) -> None:
    """Within 6 % (hot spot, C_die) and 10 % (its time, R_die), from a base that is another machine.

    Idle, the higher of two noisy means lies 0.2 °C above the truth; the rest is noise, and the fit states
    its size.
    """
    found = fit(Laboratory(known, seed=seed).step_test(), AIR)
    tolerance = dict(zip(FITTED, (0.06, 0.10, 0.10, 0.06), strict=True))
    for name in FITTED:
        relative = getattr(found.parameters, name) / getattr(known, name) - 1.0
        assert abs(relative) < tolerance[name], name
        assert abs(relative) < 4.0 * found.fitted[name], name
        assert found.fitted[name] < 0.05
    assert found.parameters.full_power_w == pytest.approx(known.full_power_w)
    assert found.measured == ("other_power_w", "full_power_w")
    assert {"case_k_per_w", "case_j_per_k", "idle_power_w", "governor_temp"} <= set(found.kept)
    assert len(found.kept) + len(found.measured) + len(found.fitted) == len(dataclasses.fields(RCParameters))
    assert found.ambient_temp == pytest.approx(25.0, abs=0.5)
    assert found.residual_temp == pytest.approx(0.3, abs=0.05)
    assert found.remarks == ()


def test_without_a_power_sensor_the_power_is_the_preset_s_and_it_is_said() -> None:
    test = Laboratory(OTHER_AIR, WithoutPower, seed=4).step_test()
    found = fit(test, AIR)
    assert test.power_of is None
    assert found.measured == ()
    assert found.parameters.full_power_w == AIR.full_power_w
    assert "full_power_w" in found.kept
    assert any("No power sensor" in remark for remark in found.remarks)
    # 14 W taken for 18 W: resistances come out smaller by that, temperatures come out right.
    assert found.parameters.hot_spot_k_per_w == pytest.approx(0.8 * 14 / 18, rel=0.06)
    assert found.residual_temp < 0.35


def test_a_power_sensor_of_the_chip_alone_gives_its_two_powers() -> None:
    test = Laboratory(OTHER_AIR, seed=5).step_test()
    chip = tuple(None if watts is None else watts - OTHER_AIR.other_power_w for watts in test.powers_w)
    found = fit(dataclasses.replace(test, powers_w=chip, power_of="chip"), AIR)
    assert found.measured == ("idle_power_w", "full_power_w")
    assert found.parameters.idle_power_w == pytest.approx(OTHER_AIR.idle_power_w)
    assert found.parameters.full_power_w == pytest.approx(OTHER_AIR.full_power_w)


def test_what_the_test_leaves_open_stays_as_the_base_has_it() -> None:
    """Twenty seconds tell nothing of a die that takes minutes."""
    slow = dataclasses.replace(AIR, die_j_per_k=200.0, die_k_per_w=6.0)
    found = fit(Laboratory(slow, seed=6).step_test(20.0), AIR)
    assert found.parameters.die_k_per_w == AIR.die_k_per_w
    assert set(found.fitted) == {"hot_spot_k_per_w", "hot_spot_seconds", "die_j_per_k"}
    assert any("does not determine die_k_per_w" in remark for remark in found.remarks)
    assert found.parameters.hot_spot_k_per_w == pytest.approx(AIR.hot_spot_k_per_w, rel=0.03)


def test_a_machine_that_still_cools_is_remarked() -> None:
    laboratory = Laboratory(AIR)
    laboratory.machine.begin()
    laboratory.clock.sleep(120.0)
    laboratory.machine.end()
    laboratory.clock.sleep(20.0)
    assert any("idle for ten minutes" in remark for remark in fit(laboratory.step_test(), AIR).remarks)


def test_a_disturbed_test_is_remarked() -> None:
    laboratory = Laboratory(AIR)
    test = laboratory.step_test()
    bumped = tuple(temp + 12.0 * (45 < now < 52) for now, temp in zip(test.seconds, test.temps, strict=True))
    found = fit(dataclasses.replace(test, temps=bumped), AIR)
    assert any("another program" in remark for remark in found.remarks)


def test_a_load_that_the_sensor_does_not_see_is_an_error() -> None:
    laboratory = Laboratory(AIR)

    @contextmanager
    def no_load() -> Iterator[None]:
        yield

    test = step_test(laboratory.source, laboratory.clock, no_load, 60.0)
    with pytest.raises(SensorError, match="a rise of at least 3 °C"):
        fit(test, AIR)


def test_too_few_readings_are_an_error() -> None:
    test = Laboratory(AIR).step_test()
    short = dataclasses.replace(test, seconds=test.seconds[:10], temps=test.temps[:10], powers_w=())
    with pytest.raises(SensorError, match="at least 20 temperatures"):
        fit(short, AIR)


def test_readings_that_fail_are_left_out_and_the_source_is_closed() -> None:
    laboratory = Laboratory(AIR)

    class Moody(Fake):
        def read(self) -> RawReading:
            if int(laboratory.clock.monotonic() * 4) % 3 == 0:
                raise SensorError("not now")
            return laboratory.machine.read()

    source = Moody("moody", reading())
    test = step_test(source, laboratory.clock, laboratory.load)
    assert 150 < len(test.temps) < 170
    assert source.closed == 1
    assert fit(test, AIR).parameters.hot_spot_k_per_w == pytest.approx(1.6, rel=0.03)
    with pytest.raises(SensorError, match="macOS only"):
        step_test(Fake("absent", reading(), Probe(False, "macOS only")), laboratory.clock, laboratory.load)


def test_predictions_are_independent_of_where_the_samples_lie() -> None:
    moments = (0.3, 9.9, 10.0, 10.1, 34.97, 35.2, 59.0)
    dense = tuple(sorted({*moments, *(0.1 * i for i in range(600))}))
    sparse = StepTest("x", 10.0, 35.0, moments, ())
    every = dict(
        zip(dense, predicted_temps(dataclasses.replace(sparse, seconds=dense), AIR, 25.0), strict=True)
    )
    assert predicted_temps(sparse, AIR, 25.0) == pytest.approx(
        [every[moment] for moment in moments], abs=1e-6
    )


def test_least_squares_finds_a_known_minimum_and_its_errors() -> None:
    """A line through noisy points: the closed-form solution and its covariance."""
    generator = np.random.default_rng(0)
    x = np.linspace(0.0, 3.0, 50)
    y = 1.5 * x - 0.4 + generator.normal(0.0, 0.1, 50)
    design = np.stack([x, np.ones(50)], axis=1)
    expected, squares = np.linalg.lstsq(design, y, rcond=None)[:2]

    def residuals(point: Vector) -> Vector:
        return design @ point - y

    found = least_squares(residuals, np.zeros(2), reach=4.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    covariance = np.linalg.inv(design.T @ design) * squares[0] / 48
    np.testing.assert_allclose(standard_errors(residuals, found), np.sqrt(np.diag(covariance)), rtol=1e-4)
    assert least_squares(residuals, np.zeros(2), reach=0.5)[0] == 0.5
