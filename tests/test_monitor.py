"""The monitor with injected readings and a virtual clock; each failure case is a test by its name.

The last tests run the real clock and a real thread.
"""

import math
import threading
import time
import timeit
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import pytest
from waiting import AT_ONCE_SECONDS, LONGEST_SECONDS, slowness, wait_for

from bit_axon.errors import SensorError
from bit_axon.profiling.clock import SystemClock, VirtualClock
from bit_axon.profiling.reading import Event, RawReading, Reading, SensorValue
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.thermal import MonitorOptions, ThermalMonitor

Step = RawReading | Exception
PLAIN = MonitorOptions(median_samples=1)


def raw(**temps: float) -> RawReading:
    """`cpu_0=70.0` is a sensor of the CPU, and so on."""
    return RawReading(tuple(SensorValue(name, name.split("_")[0], temp) for name, temp in temps.items()))


class Script:
    """A source that gives one answer after the other, the last for ever; an exception is raised."""

    def __init__(self, name: str, steps: Iterable[Step], *, there: bool = True, unprobed: bool = False):
        self.name, self._steps, self._there = name, iter(steps), there
        self._ready = not unprobed
        self._last: Step = SensorError("nothing yet")
        self.calls: list[str] = []

    def probe(self) -> Probe:
        self.calls.append("probe")
        self._ready = self._there
        return Probe(self._there, "two sensors" if self._there else "no such device")

    def read(self) -> RawReading:
        self.calls.append("read")
        if not self._ready:
            raise SensorError("it was not opened")
        self._last = next(self._steps, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        return self._last

    def close(self) -> None:
        self.calls.append("close")
        self._ready = False


class Watched:
    """A monitor on a virtual clock, with all that it said."""

    def __init__(self, *sources: Script, options: MonitorOptions = PLAIN, **more):
        self.clock = more.pop("clock", VirtualClock())
        self.readings: list[Reading] = []
        self.events: list[Event] = []
        self.monitor = ThermalMonitor(
            sources=sources,
            clock=self.clock,
            options=options,
            on_reading=self.readings.append,
            on_event=self.events.append,
            **more,
        )

    def run(self, seconds: float) -> list[Reading]:
        """Starts the monitor if need be, and returns the readings of the time that passes."""
        count = len(self.readings)
        self.monitor.start()
        self.clock.advance(seconds)
        return self.readings[count:]

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def temps(readings: list[Reading]) -> list[float | None]:
    return [reading.temp_ctrl_c for reading in readings]


def qualities(readings: list[Reading]) -> list[str]:
    return [reading.quality for reading in readings]


def in_turn(*values: float | None) -> Callable[[], float | None]:
    """A read function that returns the values, then the last for ever."""
    rest: Iterator[float | None] = iter(values)
    return lambda: next(rest, values[-1])


# What the older API promised


def test_read_fn_start_stop_temperature_and_history():
    watched = Watched(read_fn=in_turn(50.0, 60.0, None, 70.0, 80.0), history_size=3)
    monitor = watched.monitor
    assert monitor.temperature is None and monitor.history == [] and monitor.latest() is None
    monitor.start()
    assert monitor.temperature == 50.0
    watched.clock.advance(1.0)
    assert monitor.temperature == 60.0 and monitor.source_name == "read_fn"
    watched.clock.advance(1.0)
    assert monitor.temperature is None and monitor.history == [50.0, 60.0]
    watched.clock.advance(2.0)
    assert monitor.temperature == 80.0 and monitor.history == [60.0, 70.0, 80.0]
    monitor.stop()
    count = len(watched.readings)
    watched.clock.advance(60.0)
    assert len(watched.readings) == count and monitor.temperature is None, "an old value is no temperature"
    monitor.start()
    assert monitor.temperature == 80.0 and watched.readings[-1].quality == "ok", "a new start is no gap"


def test_context_manager_polls_within_the_block_only():
    watched = Watched(read_fn=lambda: 50.0, poll_interval=0.5)
    with watched.monitor as monitor:
        watched.clock.advance(2.0)
        assert monitor is watched.monitor and len(watched.readings) == 5
    watched.clock.advance(2.0)
    assert len(watched.readings) == 5


def test_start_twice_polls_once():
    watched = Watched(read_fn=lambda: 50.0)
    watched.monitor.start()
    watched.monitor.start()
    watched.clock.advance(3.0)
    assert [reading.number for reading in watched.readings] == [1, 2, 3, 4]


def test_start_after_a_poll_does_not_poll_again_at_once():
    watched = Watched(read_fn=lambda: 50.0)
    watched.monitor.poll()
    assert [reading.t_mono_s for reading in watched.run(2.0)] == [1.0, 2.0]


def test_is_rising_follows_the_trend_of_the_last_readings():
    def rising(*values: float, window: int = 5) -> bool:
        watched = Watched(read_fn=in_turn(*values))
        watched.run(len(values) - 1)
        return watched.monitor.is_rising(window)

    assert rising(50.0, 51.0, 50.5, 52.0)
    assert not rising(52.0, 51.0, 51.5, 50.0)
    assert not rising(*[20.2] * 5), "rounding is no trend"
    assert rising(90.0, 80.0, 50.0, 51.0, 52.0, window=3) and not rising(90.0, 80.0, 50.0, 51.0, 52.0)
    assert not rising(50.0) and not rising(50.0, 60.0, window=1) and not rising(50.0, 60.0, window=0)


# Readings


def test_a_reading_has_everything_the_source_said():
    answer = RawReading(raw(cpu_0=60.0, cpu_1=70.0, gpu_0=80.0, chassis_0=33.0).sensors, sys_power_w=12.0)
    watched = Watched(Script("smc", [answer]), clock=VirtualClock(wall_ms=5_000))
    first, second = watched.run(1.0)
    assert first == Reading(1, 0.0, 5_000, "smc", "ok", 80.0, 80.0, 65.0, 70.0, 80.0, 80.0, 33.0, 3, answer)
    assert (second.number, second.t_mono_s, second.t_wall_ms) == (2, 1.0, 6_000)
    assert watched.monitor.latest() is second and watched.events == []


def test_the_filtered_temperature_follows_with_its_time_constant():
    watched = Watched(read_fn=in_turn(50.0, *[80.0] * 60), options=MonitorOptions("hot", 1, 15.0))
    readings = watched.run(45.0)
    for reading in readings:
        assert reading.temp_filt_c == pytest.approx(80.0 - 30.0 * math.exp(-reading.t_mono_s / 15.0))


@pytest.mark.parametrize(
    "control, expected", [("hot", 80.0), ("max", 95.0), ("cpu_avg", 75.0), ("gpu_avg", 80.0)]
)
def test_the_control_statistic_is_the_one_asked_for(control, expected):
    source = Script("smc", [raw(cpu_0=55.0, cpu_1=95.0, gpu_0=80.0)])
    watched = Watched(source, options=MonitorOptions(control=control))
    assert temps(watched.run(0.0)) == [expected]


def test_pressure_is_merged_and_its_failure_clears_only_the_pressure():
    pressure = Script(
        "pressure", [RawReading(pressure=2), SensorError("gone"), OSError("x"), RawReading(pressure=0)]
    )
    watched = Watched(Script("smc", [raw(cpu_0=60.0)]), pressure=pressure)
    readings = watched.run(3.0)
    assert [reading.pressure for reading in readings] == [2, None, None, 0]
    assert temps(readings) == [60.0] * 4 and qualities(readings) == ["ok"] * 4
    assert watched.events == [] and watched.monitor.failures == 2


def test_pressure_alone():
    watched = Watched(pressure=Script("pressure", [RawReading(pressure=1)]))
    readings = watched.run(30.0)
    assert {(r.quality, r.temp_ctrl_c, r.pressure) for r in readings} == {("stale", None, 1)}
    assert watched.monitor.source_name == "pressure"
    assert watched.events == [], "nothing was lost"


def test_no_source_at_all_is_said_once():
    watched = Watched()
    watched.monitor.poll()
    assert watched.kinds == ["missing"]
    assert {(r.quality, r.source, r.temp_ctrl_c) for r in watched.run(30.0)} == {("stale", "none", None)}
    assert watched.kinds == ["missing"]


# Sensor vanishes mid-run


def test_sensor_vanishes_its_value_is_held_and_the_next_source_takes_over():
    smc = Script("smc", [raw(gpu_0=80.0), raw(gpu_0=82.0), SensorError("the controller is gone")])
    hid = Script("iohid", [SensorError("no device")], there=False)
    macmon = Script("macmon", [raw(cpu_avg=71.0)], unprobed=True)
    watched = Watched(smc, hid, macmon, options=MonitorOptions())
    readings = watched.run(9.0)
    assert qualities(readings) == ["ok"] * 2 + ["held"] * 5 + ["ok"] * 3
    assert temps(readings) == [80.0, 81.0] + [81.0] * 5 + [71.0] * 3, "two sources are never mixed"
    assert {reading.n_valid for reading in readings[2:7]} == {0} and readings[3].raw == RawReading()
    assert [reading.source for reading in readings] == ["smc"] * 7 + ["macmon"] * 3
    assert watched.kinds == ["lost", "source"]
    assert "smc" in watched.events[0].text and "the controller is gone" in watched.events[0].text
    assert "macmon" in watched.events[1].text and "two sensors" in watched.events[1].text
    assert hid.calls == ["probe"] and macmon.calls[:2] == ["probe", "read"] and smc.calls[-1] == "close"
    assert "probe" not in smc.calls, "the caller had done that"


def test_source_that_answers_again_in_time_is_kept():
    steps = [raw(cpu_0=80.0), SensorError("busy"), SensorError("busy"), raw(cpu_0=84.0)]
    watched = Watched(Script("smc", steps), Script("iohid", [raw(cpu_0=60.0)]))
    assert temps(watched.run(20.0))[:4] == [80.0, 80.0, 80.0, 84.0]
    assert watched.monitor.source_name == "smc" and watched.kinds == ["lost"]


def test_source_that_answers_again_at_the_last_moment_is_kept():
    steps = [raw(cpu_0=80.0), *[SensorError("busy")] * 5, raw(cpu_0=84.0)]
    watched = Watched(Script("smc", steps), Script("iohid", [raw(cpu_0=60.0)]))
    readings = watched.run(10.0)
    assert temps(readings) == [80.0] * 6 + [84.0] * 5 and readings[-1].source == "smc"
    assert watched.monitor.history == [80.0] + [84.0] * 5, "what is held was not read"


def test_source_that_fails_now_and_then_is_complained_about_seldom():
    steps = [raw(cpu_0=80.0), SensorError("busy")] * 300
    watched = Watched(Script("smc", steps))
    watched.run(599.0)
    assert watched.kinds == ["lost"] * 10


def test_loss_is_said_even_shortly_after_a_complaint():
    steps = [raw(cpu_0=80.0), SensorError("busy"), raw(cpu_0=80.0), SensorError("gone")]
    watched = Watched(Script("smc", steps), Script("linux", [raw(cpu_0=60.0)]))
    watched.run(20.0)
    assert watched.kinds == ["lost", "lost", "source"] and "gone" in watched.events[1].text


def test_source_without_a_first_answer_is_replaced_at_once():
    broken = Script("smc", [], there=False, unprobed=True)
    late = Script("linux", [raw(cpu_0=60.0)], unprobed=True)
    watched = Watched(broken, late)
    assert temps(watched.run(0.0)) == [60.0] and watched.kinds == ["lost", "source"]


def test_fallback_without_a_valid_value_is_replaced_at_once():
    first = Script("smc", [raw(cpu_0=80.0), SensorError("gone")])
    second = Script("iohid", [raw(cpu_0=0.0), SensorError("gone too")])
    watched = Watched(first, second, Script("linux", [raw(cpu_0=60.0)]))
    readings = watched.run(9.0)
    assert [reading.source for reading in readings] == ["smc"] * 6 + ["iohid"] + ["linux"] * 3
    assert temps(readings) == [80.0] * 6 + [None] + [60.0] * 3


def test_first_source_that_nobody_probed_is_probed():
    source = Script("linux", [raw(cpu_0=60.0)], unprobed=True)
    watched = Watched(source)
    assert temps(watched.run(0.0)) == [60.0]
    assert source.calls == ["read", "probe", "read"] and watched.events == []


def test_all_sources_lost_is_stale_and_said_once_with_the_pressure_going_on():
    first = Script("smc", [raw(cpu_0=80.0), SensorError("gone")])
    second = Script("iohid", [], there=False)
    watched = Watched(first, second, pressure=Script("pressure", [RawReading(pressure=2)]))
    readings = watched.run(30.0)
    assert qualities(readings) == ["ok"] + ["held"] * 5 + ["stale"] * 25
    assert temps(readings) == [80.0] * 6 + [None] * 25
    assert {(r.temp_filt_c, r.cpu_avg_c, r.cpu_max_c, r.n_valid, r.pressure) for r in readings[6:]} == {
        (None, None, None, 0, 2)
    }
    assert watched.monitor.temperature is None
    watched.run(600.0)
    assert watched.kinds == ["lost", "missing"] and "no such device" in watched.events[1].text


def test_last_source_that_answers_again_is_believed_again():
    steps: list[Step] = [raw(cpu_0=80.0), *[SensorError("gone")] * 20, raw(cpu_0=60.0)]
    watched = Watched(Script("smc", steps), options=MonitorOptions())
    last = watched.run(30.0)[-1]
    assert (last.quality, last.temp_ctrl_c, last.temp_filt_c) == ("ok", 60.0, 60.0), "the old 80 is forgotten"
    assert watched.kinds == ["lost", "missing", "source"]


BROKEN = [ValueError("broken"), ZeroDivisionError(), SensorError("no"), OSError(5, "I/O")]


@pytest.mark.parametrize("error", BROKEN)
def test_exception_in_read_fn_does_not_end_the_polling(error: Exception):
    calls: list[float] = []

    def read() -> float:
        calls.append(watched.clock.monotonic())
        if 3 <= len(calls) <= 20:
            raise error
        return 70.0

    watched = Watched(read_fn=read)
    readings = watched.run(30.0)
    assert qualities(readings) == ["ok"] * 2 + ["held"] * 5 + ["stale"] * 13 + ["ok"] * 11
    assert temps(readings) == [70.0] * 7 + [None] * 13 + [70.0] * 11
    assert watched.kinds == ["lost", "missing", "source"] and watched.monitor.failures == 18
    assert type(error).__name__ in watched.events[0].text or str(error) in watched.events[0].text


def test_exception_in_a_probe_passes_the_source_over():
    class Broken(Script):
        def probe(self) -> Probe:
            raise OSError("no such library")

    first, last = Script("smc", [SensorError("gone")]), Script("linux", [raw(cpu_0=60.0)])
    watched = Watched(first, Broken("iohid", []), last)
    assert temps(watched.run(0.0)) == [60.0]


# NaN, infinity, 0, -4 to 8.4, above 130


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf, 0.0, -4.0, 8.4, 130.5])
def test_nonsense_of_one_sensor_is_dropped(nonsense: float):
    steps = [raw(cpu_0=60.0, cpu_1=62.0), raw(cpu_0=nonsense, cpu_1=62.0)]
    readings = Watched(Script("smc", steps)).run(8.0)
    assert temps(readings) == [61.0] * 6 + [62.0] * 3 and qualities(readings) == ["ok"] * 9
    assert readings[1].n_valid == 1


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf, 0.0, -4.0, 8.4, 130.5])
def test_nonsense_of_all_sensors_is_invalid_and_holds(nonsense: float):
    for watched in (
        Watched(Script("smc", [raw(cpu_0=60.0, gpu_0=80.0), raw(cpu_0=nonsense, gpu_0=nonsense)])),
        Watched(read_fn=in_turn(80.0, nonsense)),
    ):
        readings = watched.run(8.0)
        assert qualities(readings) == ["ok"] + ["invalid"] * 5 + ["stale"] * 3
        assert temps(readings) == [80.0] * 6 + [None] * 3
        assert watched.kinds == ["missing"]


def test_source_of_nonsense_is_replaced():
    watched = Watched(Script("smc", [raw(cpu_0=80.0), raw(cpu_0=0.0)]), Script("linux", [raw(cpu_0=60.0)]))
    assert temps(watched.run(8.0)) == [80.0] * 6 + [60.0] * 3
    assert watched.kinds == ["lost", "source"] and "no valid value" in watched.events[0].text


def test_range_is_the_one_asked_for():
    watched = Watched(read_fn=in_turn(10.0, 95.0), options=MonitorOptions(valid_temp=(5.0, 90.0)))
    assert qualities(watched.run(1.0)) == ["ok", "invalid"]


def test_sensors_of_the_gpu_that_vanish_are_held_and_then_said_to_be_lost():
    steps = [raw(cpu_0=60.0, gpu_0=90.0), raw(cpu_0=60.0)]
    watched = Watched(Script("smc", steps))
    assert temps(watched.run(8.0)) == [90.0] * 6 + [60.0] * 3
    assert watched.kinds == ["lost"] and "GPU" in watched.events[0].text


# GPU gated in a pause


def test_gpu_gated_in_a_pause_never_looks_cool_at_once():
    busy = [raw(cpu_0=65.0, gpu_0=90.0, gpu_1=94.0)] * 5
    gated = [raw(cpu_0=65.0 - n, gpu_0=2.2, gpu_1=8.4) for n in range(20)]
    readings = Watched(Script("smc", [*busy, *gated])).run(24.0)
    falling = temps(readings)[4:]
    assert falling[0] == 92.0 and falling[1] == pytest.approx(65.0 + 27.0 * math.exp(-1 / 5.0))
    assert all(later < earlier for earlier, later in pairwise(falling))
    assert falling[3] > 75.0, "after three seconds the GPU is not taken for cold"
    assert falling[-1] == pytest.approx(readings[-1].cpu_avg_c, abs=5.0)
    assert set(qualities(readings)) == {"ok"}


# One-sample spike


def test_one_sample_spike_does_not_show():
    values = [70.0, 70.0, 70.0, 110.0, 70.0, 70.0, 70.0]
    readings = Watched(read_fn=in_turn(*values), options=MonitorOptions()).run(6.0)
    assert temps(readings) == [70.0] * 7
    assert {reading.temp_filt_c for reading in readings} == {70.0}
    assert [reading.cpu_avg_c for reading in readings] == values, "what was said is in the trace"


# Stuck value


def test_stuck_value_is_dropped_with_an_event_and_the_next_source_takes_over():
    watched = Watched(Script("smc", [raw(cpu_0=51.85)]), Script("iohid", [raw(cpu_0=70.0)]))
    watched.monitor.note_duty(1.0)
    watched.run(30.0)
    watched.monitor.note_duty(0.4)
    assert qualities(watched.run(29.0))[-1] == "ok"
    after = watched.run(10.0)
    assert qualities(after) == ["invalid"] * 5 + ["ok"] * 5 and temps(after)[-1] == 70.0
    assert watched.kinds == ["stuck", "lost", "source"] and "51.85" in watched.events[0].text


def test_stuck_value_among_moving_ones_is_dropped_and_returns():
    def answers() -> Iterator[RawReading]:
        for second in range(200):
            moving = {f"cpu_{n}": 60.0 + second / 10 + n for n in range(3)}
            yield raw(cpu_tcal=51.85 if second < 100 else 51.9 + second / 10, **moving)

    watched = Watched(Script("iohid", answers()))
    readings = watched.run(199.0)
    assert [reading.n_valid for reading in readings] == [4] * 60 + [3] * 40 + [4] * 100
    assert watched.kinds == ["stuck", "stuck"]


def test_constant_of_a_read_fn_is_taken_at_its_word():
    watched = Watched(read_fn=lambda: 51.85)
    for duty in (1.0, 0.0) * 5:
        watched.monitor.note_duty(duty)
        watched.run(40.0)
    assert set(qualities(watched.readings)) == {"ok"} and watched.events == []


# Sensor set changes


def test_changing_sensor_set_does_not_move_the_mean():
    true = {"cpu_0": 60.0, "cpu_1": 70.0, "cpu_2": 80.0}
    subsets = [true, *[{name: true[name]} for name in list(true) * 10]]
    readings = Watched(Script("iohid", [raw(**subset) for subset in subsets])).run(30.0)
    assert set(temps(readings)) == {70.0}


# Poll thread dies or blocks


def test_dead_poll_thread_makes_the_reading_stale():
    watched = Watched(Script("smc", [raw(cpu_0=60.0)]), pressure=Script("pressure", [RawReading(pressure=0)]))
    watched.run(3.0)
    watched.monitor.stop()
    watched.clock.advance(5.0)
    assert watched.monitor.latest() is watched.readings[-1] and watched.monitor.temperature == 60.0
    watched.clock.advance(0.1)
    stale = watched.monitor.latest()
    assert stale == Reading(4, 3.0, watched.readings[-1].t_wall_ms, "smc", "stale")
    assert stale.pressure is None, "the pressure is as old"
    assert watched.monitor.temperature is None and watched.monitor.latest() is stale
    watched.monitor.poll()
    assert watched.monitor.latest() is watched.readings[-1] and watched.readings[-1].quality == "ok"
    watched.clock.advance(6.0)
    assert watched.monitor.latest().number == 5


def test_held_values_do_not_live_longer_because_the_thread_dies():
    watched = Watched(Script("smc", [raw(cpu_0=60.0), SensorError("gone")]))
    watched.run(4.0)
    watched.monitor.stop()
    assert watched.monitor.temperature == 60.0
    watched.clock.advance(1.5)
    assert watched.monitor.latest().quality == "stale" and watched.monitor.temperature is None


def test_slow_polling_alone_makes_nothing_stale():
    steps = [raw(cpu_0=60.0), SensorError("busy"), raw(cpu_0=62.0)]
    watched = Watched(Script("smc", steps), poll_interval=20.0)
    watched.run(0.0)
    for expected in (60.0, 60.0, 60.0, 60.0, 62.0):
        watched.clock.advance(9.9)
        assert watched.monitor.temperature == expected


def test_poll_that_hangs_is_stale_meanwhile_and_late_when_it_returns():
    seen: list[Reading | None] = []

    def hang() -> float:
        if clock.monotonic() == 3.0:
            clock.advance(7.0)  # polls that are due meanwhile do nothing
            seen.append(watched.monitor.latest())
        return 60.0

    clock = VirtualClock()
    watched = Watched(read_fn=hang, clock=clock)
    readings = watched.run(12.0)
    assert seen[0] is not None and (seen[0].quality, seen[0].temp_ctrl_c) == ("stale", None)
    assert [reading.t_mono_s for reading in readings] == [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]
    assert watched.kinds == ["late"] and "7 s" in watched.events[0].text


# Sleep and wake


def test_sleep_and_wake_is_a_gap_and_starts_anew():
    source = Script("smc", [*[raw(cpu_0=90.0, cpu_1=94.0)] * 6, raw(cpu_0=40.0)])
    watched = Watched(source, options=MonitorOptions())
    watched.run(5.0)
    watched.clock.suspend(3600.0)
    readings = watched.run(3.0)
    assert qualities(readings) == ["gap", "ok", "ok"]
    assert [(r.temp_ctrl_c, r.temp_filt_c, r.cpu_avg_c) for r in readings] == [(40.0, 40.0, 40.0)] * 3
    assert watched.kinds == ["gap"] and "slept for 3600 s" in watched.events[0].text
    assert watched.monitor.history == [40.0] * 3


def test_short_sleep_is_no_gap():
    watched = Watched(read_fn=lambda: 60.0)
    for _ in range(5):
        watched.run(2.0)
        watched.clock.suspend(1.9)
    assert set(qualities(watched.readings)) == {"ok"}


def test_time_without_polls_is_one_gap():
    watched = Watched(read_fn=in_turn(80.0, 80.0, 50.0))
    watched.monitor.poll()
    for pause, quality, temp in ((10.0, "ok", 80.0), (10.1, "gap", 50.0), (1.0, "ok", 50.0)):
        watched.clock.advance(pause)
        watched.monitor.poll()
        reading = watched.readings[-1]
        assert (reading.quality, reading.temp_ctrl_c, reading.temp_filt_c) == (quality, temp, temp)
    assert watched.kinds == ["gap"]


def test_wake_without_an_answer_is_a_gap_without_a_temperature():
    watched = Watched(Script("smc", [*[raw(cpu_0=60.0)] * 3, SensorError("not awake yet"), raw(cpu_0=50.0)]))
    watched.run(2.0)
    watched.clock.suspend(60.0)
    readings = watched.run(2.0)
    assert [(r.quality, r.temp_ctrl_c) for r in readings] == [("gap", None), ("ok", 50.0)]


@pytest.mark.parametrize("is_sleep", [True, False])
def test_source_that_wakes_slowly_is_not_given_up(is_sleep: bool):
    steps = [*[raw(cpu_0=60.0)] * 3, *[SensorError("not awake yet")] * 4, raw(cpu_0=50.0)]
    watched = Watched(Script("smc", steps), Script("iohid", [raw(cpu_0=70.0)]))
    for _ in range(3):
        watched.monitor.poll()
        watched.clock.advance(1.0)
    if is_sleep:
        watched.clock.suspend(60.0)
    else:
        watched.clock.advance(60.0)
    for _ in range(6):
        watched.monitor.poll()
        watched.clock.advance(1.0)
    assert qualities(watched.readings[3:]) == ["gap", *["stale"] * 3, "ok", "ok"]
    assert {reading.source for reading in watched.readings} == {"smc"}


def test_poll_that_hangs_for_long_is_a_gap_too():
    def hang() -> float:
        if clock.monotonic() == 3.0:
            clock.advance(30.0)
            return 50.0
        return 90.0 if clock.monotonic() < 3.0 else 50.0

    clock = VirtualClock()
    watched = Watched(read_fn=hang, clock=clock, options=MonitorOptions())
    readings = watched.run(35.0)
    assert [(r.t_mono_s, r.quality, r.temp_ctrl_c) for r in readings[2:5]] == [
        (2.0, "ok", 90.0),
        (33.0, "gap", 50.0),
        (34.0, "ok", 50.0),
    ]
    assert watched.kinds == ["late", "gap"]


# Wall clock steps


def test_wall_clock_steps_change_only_the_time_stamps():
    still, stepped = (Watched(read_fn=in_turn(50.0, *[80.0] * 50)) for _ in range(2))
    for second in range(30):
        for watched in (still, stepped):
            watched.run(1.0)
        if second == 10:
            stepped.clock.set_wall(86_400_000)
        if second == 20:
            stepped.clock.set_wall(-172_800_000)
    assert stepped.kinds == []
    one, other = ([(r.t_mono_s, r.quality, r.temp_filt_c) for r in w.readings] for w in (still, stepped))
    assert one == other
    assert stepped.readings[-1].t_wall_ms - still.readings[-1].t_wall_ms == -86_400_000


# Real time and a real thread


class Ahead(SystemClock):
    """The system's time, and what a test says has passed as well."""

    passed_seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.passed_seconds


def test_real_thread_polls_filters_and_stops():
    threads: set[int] = set()

    def read() -> float:
        threads.add(threading.get_ident())
        return 60.0

    readings: list[Reading] = []
    with ThermalMonitor(0.01, read_fn=read, on_reading=readings.append) as monitor:
        assert monitor.temperature == 60.0
        wait_for(lambda: len(readings) >= 5, "five readings")
    count = len(readings)
    assert len(threads) == 2, "the first poll is the caller's, all others the thread's"
    time.sleep(0.05)
    assert len(readings) == count
    assert [reading.t_mono_s for reading in readings] == sorted({reading.t_mono_s for reading in readings})
    assert {reading.quality for reading in readings} == {"ok"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_real_thread_that_dies_makes_the_reading_stale():
    threads: list[threading.Thread] = []

    def ending() -> float:
        if threading.current_thread() is not threading.main_thread():
            threads.append(threading.current_thread())
            raise SystemExit
        return 60.0

    clock, options = Ahead(), MonitorOptions(stale_after_seconds=3600.0)
    monitor = ThermalMonitor(0.01, read_fn=ending, clock=clock, options=options)
    monitor.start()
    wait_for(lambda: threads and not threads[0].is_alive(), "the thread's death")
    assert monitor.temperature == 60.0
    clock.passed_seconds = 3700.0
    assert monitor.temperature is None and monitor.latest().quality == "stale"
    monitor.start()  # a dead thread is replaced
    assert monitor.latest().number == 2
    monitor.stop()


def test_real_thread_that_hangs_makes_the_reading_stale_and_holds_nobody_up():
    def hanging() -> float:
        if threading.current_thread() is not threading.main_thread():
            hangs.set()
            release.wait(LONGEST_SECONDS)
        return 60.0

    hangs, release, events = threading.Event(), threading.Event(), []
    clock, options = Ahead(), MonitorOptions(stale_after_seconds=3600.0)
    monitor = ThermalMonitor(0.01, read_fn=hanging, clock=clock, options=options, on_event=events.append)
    monitor.start()
    assert hangs.wait(LONGEST_SECONDS) and monitor.temperature == 60.0
    clock.passed_seconds = 3700.0
    assert monitor.temperature is None and monitor.latest().quality == "stale"
    began = time.perf_counter()
    monitor.poll()
    monitor.note_duty(0.5)
    monitor.reset()
    assert time.perf_counter() - began < AT_ONCE_SECONDS and monitor.temperature is None
    release.set()
    wait_for(lambda: monitor.temperature == 60.0, "a reading")
    wait_for(lambda: events, "an event")
    assert events[0].kind == "late"
    monitor.stop()


def test_latest_is_cheap():
    def seconds_each(monitor: ThermalMonitor) -> float:
        monitor.poll()
        return min(timeit.repeat(monitor.latest, number=2000, repeat=5)) / 2000

    fresh = ThermalMonitor(read_fn=lambda: 60.0)
    stale = ThermalMonitor(1e-9, read_fn=lambda: 60.0, options=MonitorOptions(stale_after_seconds=0.0))
    longest = 3e-6 * slowness()
    assert seconds_each(fresh) < longest and seconds_each(stale) < longest
    assert (fresh.latest().quality, stale.latest().quality) == ("ok", "stale")
