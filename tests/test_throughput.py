"""The throughput watch: what it calls slow, and how often it says so."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bit_axon.profiling.throughput import ThroughputWatch


def feed(watch: ThroughputWatch, speed: float, steps: int, shape: object = (2, 64)) -> list[str]:
    """Steps of this many tokens per second; the warnings they bring."""
    heard = []
    for _ in range(steps):
        watch.add(shape, 100, 100 / speed)
        warning = watch.warning()
        if warning is not None:
            heard.append(warning)
    return heard


def test_there_is_no_ratio_before_a_baseline_and_a_full_window() -> None:
    watch = ThroughputWatch(baseline_steps=3, window_steps=4)
    assert [watch.add("a", 100, 0.1) for _ in range(6)] == [None] * 6
    assert watch.warning() is None
    assert watch.add("a", 100, 0.1) == pytest.approx(1.0)


def test_the_ratio_is_the_median_against_the_median_of_the_first_steps() -> None:
    watch = ThroughputWatch(baseline_steps=3, window_steps=3)
    for speed in (100.0, 1.0, 200.0):  # baseline 100: one odd step does not count
        feed(watch, speed, 1)
    for speed in (50.0, 80.0, 9999.0):
        feed(watch, speed, 1)
    assert watch.ratio == pytest.approx(0.8)
    feed(watch, 70.0, 1)  # the window is now 80, 9999, 70
    assert watch.ratio == pytest.approx(0.8)
    feed(watch, 70.0, 1)
    assert watch.ratio == pytest.approx(0.7)


def test_each_shape_is_compared_with_itself() -> None:
    watch = ThroughputWatch(baseline_steps=4, window_steps=4)
    feed(watch, 1000.0, 4, "long")
    feed(watch, 100.0, 4, "short")  # slower by nature: a baseline of its own
    assert watch.ratio is None
    feed(watch, 1000.0, 2, "long")
    assert feed(watch, 100.0, 2, "short") == []
    assert watch.ratio == pytest.approx(1.0)


def test_a_fall_is_told_once_and_again_only_after_it_was_over() -> None:
    watch = ThroughputWatch(baseline_steps=5, window_steps=5)
    assert feed(watch, 100.0, 20) == []
    assert feed(watch, 86.0, 20) == []
    (warning,) = feed(watch, 71.0, 50)
    assert warning.startswith("Training has slowed to 71% of the speed of this run's first steps (median")
    assert feed(watch, 90.0, 20) == []  # better, but not over
    assert feed(watch, 80.0, 20) == []
    assert feed(watch, 95.0, 20) == []  # over
    assert len(feed(watch, 80.0, 20)) == 1


def test_a_limit_of_its_own_has_an_end_of_its_own() -> None:
    watch = ThroughputWatch(0.97, 5, 5)
    assert feed(watch, 100.0, 10) == []
    assert len(feed(watch, 95.0, 10)) == 1
    assert feed(watch, 96.0, 10) == []


@pytest.mark.parametrize(("tokens", "seconds"), [(0, 1.0), (100, 0.0), (100, -1.0)])
def test_a_step_that_tells_nothing_counts_for_nothing(tokens: int, seconds: float) -> None:
    watch = ThroughputWatch(baseline_steps=2, window_steps=2)
    feed(watch, 100.0, 4)
    assert watch.add((2, 64), tokens, seconds) == pytest.approx(1.0)


@settings(deadline=None)
@given(speed=st.floats(1.0, 1e6), factor=st.floats(0.01, 2.0))
def test_a_change_of_speed_is_found_whatever_the_speed(speed: float, factor: float) -> None:
    watch = ThroughputWatch(baseline_steps=3, window_steps=3)
    feed(watch, speed, 3)
    heard = feed(watch, speed * factor, 3)
    assert watch.ratio == pytest.approx(factor)
    if abs(factor - 0.85) > 1e-6:
        assert len(heard) == (factor < 0.85)
