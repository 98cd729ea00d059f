"""The simulated machine: driven by work, read by a sensor, in virtual and in real time."""

import dataclasses
import itertools
import statistics
import threading

import pytest
from waiting import wait_for

from bit_axon.profiling.clock import SystemClock, VirtualClock
from bit_axon.profiling.rc_model import PRESETS, ThermalModel
from bit_axon.profiling.reading import RawReading
from bit_axon.profiling.sensors.base import Source
from bit_axon.profiling.sensors.simulated import SimulatedSource
from bit_axon.profiling.simulation import NOISE_TEMP, SimulatedMachine

AIR = PRESETS["fanless_air"]


def machine(clock: VirtualClock | None = None, **options: float | None) -> SimulatedMachine:
    return SimulatedMachine(AIR, clock or VirtualClock(), **options)  # type: ignore[arg-type]


def temp(reading: RawReading, group: str) -> float:
    return next(sensor.temp_c for sensor in reading.sensors if sensor.group == group)


def test_work_takes_its_time_at_full_clock() -> None:
    clock = VirtualClock()
    cool = machine(clock, work_seconds=1.5)
    for _ in range(4):
        cool.begin()
        cool.end()
    assert clock.monotonic() == pytest.approx(6.0)


def test_work_takes_longer_when_the_governor_has_lowered_the_clock() -> None:
    clock = VirtualClock()
    hot = machine(clock, work_seconds=1.5, start_temp=100.0)
    for _ in range(400):
        hot.begin()
        hot.end()
    assert clock.monotonic() == pytest.approx(400 * 1.5 / 0.783, rel=0.01)
    assert hot.clock_fraction == pytest.approx(0.783, abs=0.005)


def test_a_share_of_the_work_takes_a_share_of_the_time() -> None:
    clock = VirtualClock()
    half = machine(clock, work_seconds=2.0)
    half.begin()
    half.end(share=0.25)
    assert clock.monotonic() == pytest.approx(0.5)


def test_timers_on_the_way_see_a_busy_machine() -> None:
    clock = VirtualClock()
    worker = machine(clock, work_seconds=10.0)
    seen: list[tuple[float, RawReading]] = []
    clock.every(1.0, lambda: seen.append((clock.monotonic(), worker.read())))
    worker.begin()
    worker.end()
    clock.sleep(3.0)
    assert [moment for moment, _ in seen] == [float(second) for second in range(1, 14)]
    temps = [temp(reading, "gpu") for _, reading in seen]
    assert all(later > earlier for earlier, later in itertools.pairwise(temps[:7]))
    assert temps[12] < temps[9] - 10.0
    assert [reading.gpu_util for _, reading in seen] == [1.0] * 10 + [0.0] * 3
    assert [reading.sys_power_w for _, reading in seen] == pytest.approx([21.0] * 10 + [3.6] * 3)


def test_a_poll_between_two_slices_of_work_sees_their_mean() -> None:
    clock = VirtualClock()
    worker = machine(clock, work_seconds=0.5)
    worker.read()
    worker.begin()
    worker.end()
    clock.sleep(1.5)
    reading = worker.read()
    assert reading.gpu_util == pytest.approx(0.25)
    assert reading.gpu_power_w == pytest.approx(0.25 * 18.0 + 0.75 * 0.6)


def test_it_is_the_model_that_is_read() -> None:
    clock = VirtualClock()
    worker, model = machine(clock, work_seconds=1.0), ThermalModel(AIR, 25.0)
    for _ in range(30):
        worker.begin()
        worker.end()
        clock.sleep(0.5)
        model.advance(1.0, 1.0)
        model.advance(0.5, 0.0)
    assert worker.sensor_temp == pytest.approx(model.sensor_temp, abs=1e-6)
    assert worker.chassis_temp == pytest.approx(model.chassis_temp, abs=1e-6)


def test_noise_has_the_stated_size_and_comes_from_the_seed() -> None:
    def temps(seed: int) -> list[float]:
        idle = SimulatedMachine(AIR, VirtualClock(), seed=seed)
        return [temp(idle.read(), "gpu") for _ in range(2000)]

    first = temps(1)
    assert first == temps(1)
    assert first != temps(2)
    assert statistics.stdev(first) == pytest.approx(NOISE_TEMP, rel=0.1)
    assert statistics.fmean(first) == pytest.approx(ThermalModel(AIR, 25.0).sensor_temp, abs=0.03)


def test_the_cpu_is_a_few_degrees_cooler_under_load_and_no_cooler_idle() -> None:
    clock = VirtualClock()
    worker = machine(clock)

    def difference() -> float:
        return statistics.fmean(
            temp(reading, "gpu") - temp(reading, "cpu") for reading in (worker.read() for _ in range(500))
        )

    assert difference() == pytest.approx(0.24, abs=0.1)
    worker.begin()
    clock.sleep(20.0)
    assert 3.0 < difference() < 10.0


def test_end_without_begin_and_begin_twice() -> None:
    clock = VirtualClock()
    worker = machine(clock, work_seconds=1.0)
    worker.end()
    assert clock.monotonic() == 0.0
    worker.begin()
    worker.begin()
    worker.end()
    worker.end()
    assert clock.monotonic() == pytest.approx(1.0)


def test_without_work_seconds_work_takes_the_time_that_passes() -> None:
    clock = VirtualClock()
    worker = machine(clock)
    cold = worker.sensor_temp
    worker.begin()
    clock.sleep(5.0)
    worker.end()
    assert clock.monotonic() == 5.0
    assert worker.sensor_temp > cold + 20.0


def test_real_time_is_not_moved_and_may_be_read_from_another_thread() -> None:
    quick = dataclasses.replace(AIR, hot_spot_seconds=0.01, die_j_per_k=0.01)
    clock = SystemClock()
    worker = SimulatedMachine(quick, clock, work_seconds=1000.0)
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                worker.read()
            except BaseException as error:
                failures.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    cold = worker.sensor_temp
    for _ in range(50):
        worker.begin()
        clock.sleep(0.002)
        hot = worker.sensor_temp
        worker.end()
    wait_for(lambda: worker.sensor_temp == pytest.approx(cold, abs=1.0), "the machine to be cold again")
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert hot > cold + 1.0


def test_the_source_is_always_there() -> None:
    clock = VirtualClock()
    source: Source = SimulatedSource(machine(clock))
    assert source.name == "simulated"
    assert source.probe().ok
    assert {sensor.group for sensor in source.read().sensors} == {"cpu", "gpu", "chassis"}
    assert source.read().pressure is None
    source.close()
    source.close()
