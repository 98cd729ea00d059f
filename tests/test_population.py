"""Filters, and what is made of many sensors: each case with values a machine has given or could give."""

import math
import statistics

import numpy as np
import pytest

from bit_axon.errors import ConfigError
from bit_axon.profiling.estimator import control_temp
from bit_axon.profiling.filters import ExponentialMean, RunningMedian
from bit_axon.profiling.population import GATED_SECONDS, Aggregate, Population
from bit_axon.profiling.reading import SensorValue
from bit_axon.profiling.stuck import Course, StuckJudge

VALID = (15.0, 130.0)


def sensors(**temps: float) -> list[SensorValue]:
    """`cpu_0=70.0` is a sensor of the CPU, and so on."""
    return [SensorValue(name, name.split("_")[0], temp) for name, temp in temps.items()]


def population(judge: StuckJudge | None = None) -> Population:
    return Population(VALID, hold_seconds=5.0, judge=judge)


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5])
def test_median_of_the_last_values(samples: int):
    values = np.random.default_rng(samples).normal(70, 5, 40).tolist()
    running = RunningMedian(samples)
    for n, value in enumerate(values):
        assert running.add(value) == np.median(values[max(0, n + 1 - samples) : n + 1])
    running.reset()
    assert running.add(1.0) == 1.0


def test_one_outlier_never_passes_an_odd_median():
    running = RunningMedian(3)
    assert [running.add(value) for value in (70.0, 71.0, 110.0, 70.0, 71.0)] == [70.0, 70.5, 71.0, 71.0, 71.0]


def test_exponential_mean_depends_on_time_and_not_on_the_number_of_samples():
    random = np.random.default_rng(0)
    moments = np.concatenate([[0.0], np.cumsum(random.uniform(0.01, 3.0, 30))])
    mean = ExponentialMean(15.0)
    assert mean.add(20.0, 0.0) == 20.0
    for moment in moments[1:]:
        got = mean.add(100.0, float(moment))
        assert got == pytest.approx(100.0 - 80.0 * math.exp(-moment / 15.0), rel=1e-12)
    assert mean.add(0.0, float(moments[-1])) == got  # no time, no weight
    mean.reset()
    assert mean.add(50.0, 1000.0) == 50.0


def test_filters_refuse_nonsense():
    with pytest.raises(ConfigError, match="one sample or more"):
        RunningMedian(0)
    for seconds in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="above 0 s"):
            ExponentialMean(seconds)


def test_aggregates_of_groups():
    die = sensors(cpu_0=60.0, cpu_1=70.0, gpu_0=80.0, gpu_1=90.0)
    rest = sensors(chassis_0=30.0, chassis_1=34.0, other_0=99.0)
    found = population().update([*die, *rest], 0.0)
    assert found == Aggregate(65.0, 70.0, 85.0, 90.0, 32.0, n_valid=4)


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf, 0.0, -4.0, 2.2, 8.4, 14.99, 130.01])
def test_a_sensor_out_of_range_is_not_believed(nonsense: float):
    pool = population()
    assert pool.has_valid(sensors(cpu_0=nonsense)) is False
    assert pool.update(sensors(cpu_0=nonsense, cpu_1=70.0), 0.0) == Aggregate(70.0, 70.0, None, None, None, 1)
    for edge in VALID:
        assert population().update(sensors(cpu_0=edge), 0.0).cpu_avg_c == edge


def test_a_missing_sensor_is_held_and_then_left_out():
    pool = population()
    pool.update(sensors(cpu_0=60.0, cpu_1=80.0), 0.0)
    held = [pool.update(sensors(cpu_0=60.0), float(second)) for second in range(1, 8)]
    assert [(a.cpu_avg_c, a.n_valid) for a in held] == [(70.0, 1)] * 5 + [(60.0, 1)] * 2


def test_the_mean_does_not_saw_tooth_when_a_rotating_subset_is_read():
    pool = population()
    true = {f"cpu_{n}": 60.0 + 5.0 * n for n in range(8)}
    names = list(true)
    means = []
    for second in range(40):
        first = 2 * (second % 4)
        means.append(pool.update(sensors(**{n: true[n] for n in names[first : first + 2]}), second).cpu_avg_c)
    assert set(means[4:]) == {statistics.fmean(true.values())}


def test_equal_names_count_as_the_hottest_of_them():
    twice = [SensorValue("battery", "chassis", temp) for temp in (31.0, math.nan, 33.0, 32.0)]
    assert population().update(twice, 0.0).chassis_c == 33.0


def test_gpu_gated_in_a_pause_approaches_the_cpu_die():
    pool = population()
    pool.update(sensors(cpu_0=60.0, gpu_0=90.0, gpu_1=100.0), 0.0)
    for second in range(1, 41):
        found = pool.update(sensors(cpu_0=60.0, gpu_0=2.2, gpu_1=-4.0), float(second))
        left = math.exp(-second / GATED_SECONDS)
        assert found.gpu_avg_c == pytest.approx(60.0 + 35.0 * left)
        assert found.gpu_max_c == pytest.approx(60.0 + 40.0 * left)
        assert found.n_valid == 1
    woken = pool.update(sensors(cpu_0=60.0, gpu_0=71.0, gpu_1=73.0), 41.0)
    assert (woken.gpu_avg_c, woken.gpu_max_c) == (72.0, 73.0)


def test_gpu_gated_from_the_beginning_is_not_known():
    found = population().update(sensors(cpu_0=60.0, gpu_0=2.2), 0.0)
    assert (found.gpu_avg_c, found.gpu_max_c, found.n_valid) == (None, None, 1)


def test_gpu_that_vanishes_while_gated_is_held_from_then_on():
    pool = population()
    pool.update(sensors(cpu_0=60.0, gpu_0=90.0), 0.0)
    for second in range(1, 21):
        gated = pool.update(sensors(cpu_0=60.0, gpu_0=2.2), float(second))
    gone = [pool.update(sensors(cpu_0=60.0), 20.0 + second) for second in range(1, 8)]
    assert [found.gpu_avg_c for found in gone] == [gated.gpu_avg_c] * 5 + [None] * 2
    assert [found.lost for found in gone] == [()] * 5 + [("gpu",), ()]


@pytest.mark.parametrize("gone", [{}, {"gpu_0": math.nan}, {"gpu_0": 140.0}])
def test_gpu_that_is_broken_is_held_and_then_not_known(gone: dict[str, float]):
    pool = population()
    pool.update(sensors(cpu_0=60.0, gpu_0=90.0), 0.0)
    found = [pool.update(sensors(cpu_0=60.0, **gone), float(second)).gpu_avg_c for second in range(1, 8)]
    assert found == [90.0] * 5 + [None] * 2


def test_a_course_is_that_of_the_last_minute():
    course = Course()
    for moment, value in ((0.0, 10.0), (30.0, 30.0), (50.0, 20.0)):
        course.add(value, moment)
    assert [course.span(now) for now in (20.0, 40.0, 60.0, 89.0, 90.0, 111.0)] == [
        0.0,
        20.0,
        20.0,
        20.0,
        10.0,
        0.0,
    ]
    assert course.span(60.0, until=49.0) == 20.0 and course.unchanged_seconds(111.0) == 61.0
    for second in range(1000):
        course.add(float(second % 2), 200.0 + second)
    assert len(course) <= 62


def noisy(second: int, rise: float = 0.0) -> dict[str, float]:
    """Four sensors of a die with noise of 0.3 °C."""
    noise = np.random.default_rng(second).normal(0.0, 0.3, 4)
    return {f"cpu_{n}": 60.0 + rise + float(value) for n, value in enumerate(noise)}


def test_stuck_while_all_others_moved_is_dropped_and_returns_when_it_moves():
    pool, notes = population(StuckJudge()), []
    for second in range(70):
        found = pool.update(sensors(cpu_tcal=51.85, **noisy(second, rise=second * 0.1)), float(second))
        notes += [(second, note) for note in found.notes]
        assert found.n_valid == (5 if second < 60 else 4)
        expected = statistics.fmean([*noisy(second, second * 0.1).values(), *([51.85] * (second < 60))])
        assert found.cpu_avg_c == pytest.approx(expected)
    assert len(notes) == 1 and notes[0][0] == 60 and "cpu_tcal (51.85 °C)" in notes[0][1]
    pool.reset()
    assert pool.update(sensors(cpu_tcal=51.85, **noisy(71)), 71.0).n_valid == 4, "a gap does not redeem it"
    assert pool.has_valid(sensors(cpu_tcal=51.85)) is False
    assert pool.has_valid(sensors(cpu_tcal=51.9)) is True
    moved = pool.update(sensors(cpu_tcal=51.9, **noisy(72)), 72.0)
    assert moved.n_valid == 5 and "cpu_tcal moved again" in moved.notes[0]


def test_stuck_while_the_duty_changed_is_dropped():
    judge = StuckJudge()
    pool = population(judge)
    judge.note_duty(1.0, 0.0)
    for second in range(100):
        if second == 40:
            judge.note_duty(0.5, 40.0)
        found = pool.update(sensors(cpu_0=63.7), float(second))
        assert found.n_valid == (1 if second < 60 else 0)


def test_a_change_of_duty_gives_the_sensor_time_to_respond():
    judge = StuckJudge()
    pool = population(judge)
    judge.note_duty(0.0, 0.0)
    for second in range(100):
        pool.update(sensors(cpu_0=35.5), float(second))
    judge.note_duty(1.0, 99.5)
    assert [pool.update(sensors(cpu_0=35.5), 99.5 + n).n_valid for n in range(1, 10)] == [1] * 9
    assert pool.update(sensors(cpu_0=71.2), 109.0).n_valid == 1


def test_steady_values_in_whole_degrees_are_not_taken_for_stuck():
    judge = StuckJudge()
    pool = population(judge)
    for second in range(300):  # a fan holds the chip, a policy trims the duty
        judge.note_duty(0.8 if second % 40 < 20 else 1.0, float(second))
        assert pool.update(sensors(gpu_0=83.0), float(second)).n_valid == 1
    judge.note_duty(0.0, 300.0)  # no work at all, and still not a degree less
    assert [pool.update(sensors(gpu_0=83.0), 300.0 + n).n_valid for n in (9, 11)] == [1, 0]


def test_two_constants_do_not_vouch_for_each_other_nor_outvote_the_rest():
    pool = population(StuckJudge())
    for second in range(62):
        values = noisy(second, rise=second * 0.1)
        found = pool.update(sensors(cpu_tcal=51.85, cpu_tcal2=51.7, **values), float(second))
    assert found.n_valid == 4
    pool = population(StuckJudge())
    for second in range(120):  # one moves, two are steady: no proof
        found = pool.update(sensors(cpu_0=40.1, cpu_1=41.3, cpu_2=50.0 + second / 2), float(second))
    assert found.n_valid == 3


def test_slow_sensors_of_the_case_are_never_stuck():
    judge = StuckJudge()
    pool = population(judge)
    for second in range(200):
        judge.note_duty(float(second % 2), float(second))
        found = pool.update(sensors(chassis_0=31.3, **noisy(second)), float(second))
    assert found.chassis_c == 31.3 and not found.notes


@pytest.mark.parametrize(
    "control, expected", [("hot", 85.0), ("max", 95.0), ("cpu_avg", 65.0), ("gpu_avg", 85.0)]
)
def test_control_statistics(control: str, expected: float):
    both = Aggregate(65.0, 95.0, 85.0, 90.0, 30.0, 4)
    assert control_temp(both, control) == expected
    cpu, gpu = Aggregate(65.0, 70.0, None, None, None, 2), Aggregate(None, None, 85.0, 90.0, None, 2)
    assert control_temp(cpu, control) == (70.0 if control == "max" else 65.0)
    assert control_temp(gpu, control) == (90.0 if control == "max" else 85.0)
    assert control_temp(Aggregate(None, None, None, None, 30.0, 0), control) is None
