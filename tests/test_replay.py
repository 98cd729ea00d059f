"""Source `replay`: what a trace recorded is what is read, when it was read."""

import dataclasses
from pathlib import Path

import pytest
from trace_cases import NAN

from bit_axon.errors import SensorError
from bit_axon.profiling.clock import VirtualClock
from bit_axon.profiling.rc_model import PRESETS
from bit_axon.profiling.reading import RawReading, Reading, SensorValue
from bit_axon.profiling.sensors.base import Source
from bit_axon.profiling.sensors.replay import ReplaySource
from bit_axon.profiling.simulation import SimulatedMachine
from bit_axon.profiling.trace import Context, TraceWriter

CONTEXT = Context(phase="train")


def polled(number: int, seconds: float, **values: object) -> Reading:
    base = Reading(number, seconds, 1_700_000_000_000 + round(seconds * 1000), "smc", "ok")
    return dataclasses.replace(base, **values)  # type: ignore[arg-type]


def write(path: Path, *readings: Reading | str) -> Path:
    """A trace of these polls, begun at second 100; a word is an action without a reading."""
    clock = VirtualClock()
    clock.advance(100.0)
    writer = TraceWriter(path, "run", clock)
    for reading in readings:
        if isinstance(reading, str):
            writer.action(reading, None, CONTEXT)
        else:
            writer.reading(dataclasses.replace(reading, t_mono_s=100.0 + reading.t_mono_s), CONTEXT)
    writer.close()
    return path


def temps(reading: RawReading, group: str) -> list[float]:
    return [sensor.temp_c for sensor in reading.sensors if sensor.group == group]


@pytest.fixture
def clock() -> VirtualClock:
    clock = VirtualClock()
    clock.advance(7.0)
    return clock


def test_rows_come_at_their_time_from_the_first_reading_on(tmp_path: Path, clock: VirtualClock) -> None:
    rows = [polled(i, float(i), cpu_avg_c=50.0 + i, gpu_avg_c=60.0 + i) for i in range(4)]
    source: Source = ReplaySource(write(tmp_path / "thermal.csv", *rows), clock)
    assert source.name == "replay"
    probe = source.probe()
    assert probe.ok
    assert "4 readings of smc over 3 s" in probe.detail
    clock.advance(30.0)
    seen = []
    for _ in range(8):
        seen.append(temps(source.read(), "gpu")[0])
        clock.advance(0.5)
    assert seen == [60.0, 60.0, 61.0, 61.0, 62.0, 62.0, 63.0, 63.0]


def test_mean_and_maximum_of_each_group_are_those_recorded(tmp_path: Path, clock: VirtualClock) -> None:
    raw = RawReading(
        pressure=1, throttle_bits=32, sys_power_w=20.0, gpu_power_w=15.0, gpu_mhz=1200.0,
        gpu_util=0.5, fan_rpm=900.0,
    )  # fmt: skip
    row = polled(
        0, 0.0, raw=raw, cpu_avg_c=50.0, cpu_max_c=57.5, gpu_avg_c=60.0, gpu_max_c=60.0, chassis_c=31.0
    )
    source = ReplaySource(write(tmp_path / "thermal.csv", row), clock)
    assert source.probe().ok
    read = source.read()
    for group, mean, highest in (("cpu", 50.0, 57.5), ("gpu", 60.0, 60.0), ("chassis", 31.0, 31.0)):
        found = temps(read, group)
        assert sum(found) / len(found) == pytest.approx(mean)
        assert max(found) == pytest.approx(highest)
    assert dataclasses.replace(read, sensors=()) == raw


def test_what_was_not_known_is_not_made_up(tmp_path: Path, clock: VirtualClock) -> None:
    source = ReplaySource(
        write(tmp_path / "thermal.csv", polled(0, 0.0, cpu_avg_c=50.0, gpu_avg_c=NAN)), clock
    )
    assert source.probe().ok
    read = source.read()
    assert temps(read, "cpu") == [50.0, 50.0]
    assert temps(read, "gpu") == temps(read, "chassis") == []
    assert dataclasses.replace(read, sensors=()) == RawReading()


def test_the_last_row_holds_for_a_while_then_there_is_no_answer(tmp_path: Path, clock: VirtualClock) -> None:
    rows = [polled(i, float(i), cpu_avg_c=50.0 + i) for i in range(3)]
    source = ReplaySource(write(tmp_path / "thermal.csv", *rows), clock)
    assert source.probe().ok
    source.read()
    clock.advance(2.0 + 4.9)
    assert temps(source.read(), "cpu")[0] == 52.0
    clock.advance(0.2)
    with pytest.raises(SensorError, match="a recording that ends at 2 s"):
        source.read()
    source.close()
    assert source.probe().ok
    with pytest.raises(SensorError):  # trying again does not start it anew
        source.read()


def test_a_gap_in_the_recording_has_no_answer_and_ends(tmp_path: Path, clock: VirtualClock) -> None:
    rows = [polled(i, at, cpu_avg_c=50.0 + i) for i, at in enumerate((0.0, 1.0, 2.0, 3600.0, 3601.0))]
    source = ReplaySource(write(tmp_path / "thermal.csv", *rows), clock)
    assert source.probe().ok
    source.read()
    clock.advance(100.0)
    with pytest.raises(SensorError, match="none there"):
        source.read()
    clock.advance(3500.0)
    assert temps(source.read(), "cpu")[0] == 53.0


def test_a_slow_recording_is_not_a_row_of_gaps(tmp_path: Path, clock: VirtualClock) -> None:
    rows = [polled(i, 20.0 * i, cpu_avg_c=50.0 + i) for i in range(5)]
    source = ReplaySource(write(tmp_path / "thermal.csv", *rows), clock)
    assert source.probe().ok
    source.read()
    clock.advance(59.0)
    assert temps(source.read(), "cpu")[0] == 52.0


def test_polls_without_an_answer_have_none_in_the_replay(tmp_path: Path, clock: VirtualClock) -> None:
    rows = [
        polled(0, 0.0, cpu_avg_c=50.0),
        polled(1, 1.0, cpu_avg_c=50.0, quality="held"),
        polled(2, 2.0, quality="stale"),
        polled(3, 3.0, quality="invalid"),
        polled(4, 4.0, cpu_avg_c=54.0),
    ]
    source = ReplaySource(write(tmp_path / "thermal.csv", *rows), clock)
    assert source.probe().ok
    answers: list[RawReading | None] = []
    for _ in rows:
        try:
            answers.append(source.read())
        except SensorError:
            answers.append(None)
        clock.advance(1.0)
    assert [None if answer is None else temps(answer, "cpu")[:1] for answer in answers] == [
        [50.0], None, None, [], [54.0],
    ]  # fmt: skip


def test_actions_are_no_readings(tmp_path: Path, clock: VirtualClock) -> None:
    path = write(tmp_path / "thermal.csv", "pause", polled(0, 0.5, cpu_avg_c=50.0), "resume")
    source = ReplaySource(path, clock)
    assert "1 reading of smc" in source.probe().detail
    assert temps(source.read(), "cpu")[0] == 50.0


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "a thermal trace"), ("a,b\n1,2\n", "a thermal trace"), ("", "no reading of a sensor")],
)
def test_a_file_that_cannot_be_replayed_is_no_source(
    tmp_path: Path, clock: VirtualClock, text: str | None, said: str
) -> None:
    path = tmp_path / "thermal.csv"
    if text is not None:
        path.write_text(text)
    probe = ReplaySource(path, clock).probe()
    assert not probe.ok
    assert said in probe.detail


def test_a_trace_without_a_sensor_is_no_source(tmp_path: Path, clock: VirtualClock) -> None:
    path = write(tmp_path / "thermal.csv", *(polled(i, float(i), quality="invalid") for i in range(3)))
    assert not ReplaySource(path, clock).probe().ok


def test_a_simulated_run_is_replayed_to_the_last_digit_of_the_file(
    tmp_path: Path, clock: VirtualClock
) -> None:
    recorded = VirtualClock()
    machine = SimulatedMachine(PRESETS["fanless_air"], recorded, work_seconds=1.5)
    writer = TraceWriter(tmp_path / "thermal.csv", "run", recorded)
    wanted: list[float] = []

    def poll() -> None:
        raw = machine.read()
        gpu = next(sensor.temp_c for sensor in raw.sensors if sensor.group == "gpu")
        wanted.append(gpu)
        moment = recorded.monotonic()
        writer.reading(polled(len(wanted), moment, gpu_avg_c=gpu, gpu_max_c=gpu, raw=raw), CONTEXT)

    recorded.every(1.0, poll)
    for _ in range(40):
        machine.begin()
        machine.end()
    writer.close()
    source = ReplaySource(tmp_path / "thermal.csv", clock)
    assert source.probe().ok
    for temp in wanted:
        high, low = source.read().sensors
        assert (high, low) == (
            SensorValue("gpu high", "gpu", high.temp_c),
            SensorValue("gpu low", "gpu", high.temp_c),
        )
        assert high.temp_c == pytest.approx(temp, abs=5.1e-4)
        clock.advance(1.0)
