"""The two clocks: a virtual hour, and the system's own with real threads."""

import threading
import time

import pytest
from waiting import AT_ONCE_SECONDS, LONGEST_SECONDS, wait_for

from bit_axon.profiling.clock import SystemClock, VirtualClock


def test_virtual_time_moves_only_when_told():
    clock = VirtualClock(wall_ms=1_000)
    assert (clock.monotonic(), clock.wall_ms(), clock.is_virtual) == (0.0, 1_000, True)
    clock.sleep(3600.0)
    assert (clock.monotonic(), clock.wall_ms()) == (3600.0, 3_601_000)
    clock.sleep(5.0, interrupted=lambda: True)
    clock.advance(-1.0)
    assert clock.monotonic() == 3600.0


def test_virtual_repeaters_act_at_their_moments_in_order():
    clock = VirtualClock()
    seen: list[tuple[str, float]] = []
    clock.every(1.0, lambda: seen.append(("a", clock.monotonic())))
    clock.every(1.5, lambda: seen.append(("b", clock.monotonic())))
    clock.advance(0.9)
    assert seen == []
    clock.advance(2.2)
    assert seen == [("a", 1.0), ("b", 1.5), ("a", 2.0), ("a", 3.0), ("b", 3.0)]
    assert clock.monotonic() == pytest.approx(3.1)


def test_virtual_repeater_can_be_stopped_by_its_own_action():
    clock = VirtualClock()
    calls = []

    def once() -> None:
        calls.append(clock.monotonic())
        repeater.stop()

    repeater = clock.every(1.0, once)
    clock.advance(10.0)
    assert calls == [1.0] and not repeater.is_alive()


def test_virtual_action_that_takes_time_moves_time_on():
    clock = VirtualClock()
    moments: list[float] = []

    def slow() -> None:
        moments.append(clock.monotonic())
        if len(moments) == 1:
            clock.advance(2.5)  # its own next moments pass meanwhile

    clock.every(1.0, slow)
    clock.advance(5.0)
    assert moments == [1.0, 2.0, 3.0, 4.0, 5.0] and clock.monotonic() == 5.0


def test_virtual_repeater_dies_of_its_error():
    clock = VirtualClock()

    def fail() -> None:
        raise ValueError("broken")

    repeater = clock.every(1.0, fail)
    with pytest.raises(ValueError, match="broken"):
        clock.advance(2.0)
    assert not repeater.is_alive()
    clock.advance(5.0)


def test_virtual_sleep_of_the_machine_and_wall_clock():
    clock = VirtualClock(wall_ms=0)
    clock.advance(1.0)
    clock.suspend(600.0)
    assert (clock.monotonic(), clock.suspended_seconds(), clock.wall_ms()) == (1.0, 600.0, 601_000)
    clock.set_wall(-3_600_000)
    assert (clock.monotonic(), clock.wall_ms()) == (1.0, -2_999_000)


def test_system_time_agrees_with_the_process():
    clock = SystemClock()
    wall, earlier = time.time(), time.perf_counter()
    before = clock.monotonic()
    time.sleep(0.02)
    passed = clock.monotonic() - before
    assert 0.02 <= passed <= time.perf_counter() - earlier
    assert wall - 2.0 < clock.wall_ms() / 1000 < time.time() + 2.0
    # The most of some looks: the processor may be taken away between the two clocks that each compares.
    asleep, later = (max(clock.suspended_seconds() for _ in range(9)) for _ in range(2))
    assert asleep >= -0.01 and abs(later - asleep) < 0.1
    assert not clock.is_virtual


def test_system_sleep_lasts_as_long_as_asked_or_until_interrupted():
    clock = SystemClock()
    began = time.perf_counter()
    clock.sleep(0.15)
    assert 0.15 <= time.perf_counter() - began < AT_ONCE_SECONDS
    began, stop = time.perf_counter(), threading.Event()
    threading.Timer(0.05, stop.set).start()
    clock.sleep(LONGEST_SECONDS, stop.is_set)
    assert time.perf_counter() - began < AT_ONCE_SECONDS


def test_system_repeater_repeats_until_stopped():
    calls: list[int] = []
    repeater = SystemClock().every(0.005, lambda: calls.append(threading.get_ident()))
    wait_for(lambda: len(calls) >= 3, "three calls")
    assert repeater.is_alive()
    repeater.stop()
    count = len(calls)
    time.sleep(0.03)
    assert not repeater.is_alive() and len(calls) == count
    assert threading.get_ident() not in calls


def test_system_repeater_can_be_stopped_by_its_own_action():
    stopped: list[float] = []
    named = threading.Event()

    def once() -> None:
        named.wait(LONGEST_SECONDS)
        began = time.perf_counter()
        repeater.stop()
        stopped.append(time.perf_counter() - began)

    repeater = SystemClock().every(0.02, once)
    named.set()
    wait_for(lambda: not repeater.is_alive(), "the repeater's end")
    assert len(stopped) == 1 and stopped[0] < 2.0  # for which a stop by another waits


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_system_repeater_dies_of_its_error_and_says_so():
    def fail() -> None:
        raise ValueError("broken")

    repeater = SystemClock().every(0.005, fail)
    wait_for(lambda: not repeater.is_alive(), "the repeater's end")
