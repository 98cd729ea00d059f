"""thermal.csv: what is written is what is read, and neither a full disk nor a kill breaks a run or a file."""

import math
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import slowness

from bit_axon.errors import ConfigError
from bit_axon.profiling.clock import Clock, SystemClock, VirtualClock
from bit_axon.profiling.reading import RawReading, Reading
from bit_axon.profiling.trace import COLUMNS, Context, TraceWriter, read_trace

START_MS = 1_700_000_000_000
TRAINING = Context("train", opt_step=7, micro_step=2, tokens_total=4096, tier="warm", duty=0.71, sleep_s=0.25)
WHOLE = Reading(
    number=3,
    t_mono_s=2.5,
    t_wall_ms=START_MS + 2500,
    source="smc",
    quality="ok",
    temp_ctrl_c=84.25,
    temp_filt_c=82.5,
    cpu_avg_c=70.0,
    cpu_max_c=75.5,
    gpu_avg_c=84.25,
    gpu_max_c=91.0,
    chassis_c=36.5,
    n_valid=29,
    raw=RawReading((), 1, 4, 21.5, 12.25, 1380.0, 0.98, 1200.0),
)


def polled(clock: Clock, temp_c: float = 60.0) -> Reading:
    return Reading(0, clock.monotonic(), clock.wall_ms(), "smc", "ok", temp_ctrl_c=temp_c, n_valid=1)


Opener = Callable[..., TraceWriter]


@pytest.fixture
def open_trace(tmp_path: Path) -> Iterator[Opener]:
    """Opens `thermal.csv` in the test's folder, or the path given, and closes it at the end."""
    opened: list[TraceWriter] = []

    def call(
        clock: Clock | None = None, path: Path = tmp_path / "thermal.csv", run_id: str = "run"
    ) -> TraceWriter:
        opened.append(TraceWriter(path, run_id, clock or VirtualClock(START_MS)))
        return opened[-1]

    yield call
    for writer in opened:
        writer.close()


@contextmanager
def disk_of(size_bytes: int) -> Iterator[None]:
    """No file can grow beyond this; what does not fit is refused as by a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_columns_are_those_of_the_format_in_its_order(tmp_path: Path, open_trace: Opener) -> None:
    writer = open_trace()
    writer.reading(WHOLE, TRAINING)
    writer.close()
    header = (tmp_path / "thermal.csv").read_text().splitlines()[0]
    assert header == (
        "t_mono_s,t_wall_utc_ms,run_id,phase,opt_step,micro_step,tokens_total,source,temp_ctrl_c,"
        "temp_filt_c,cpu_avg_c,cpu_max_c,gpu_avg_c,gpu_max_c,n_valid,chassis_c,pressure,throttle_bits,"
        "sys_power_w,gpu_power_w,gpu_mhz,gpu_util,fan_rpm,tier,duty,action,sleep_s,tok_s_active,quality,"
        "schema_version"
    )
    assert tuple(header.split(",")) == COLUMNS


def test_a_row_is_read_as_it_was_written(tmp_path: Path, open_trace: Opener) -> None:
    writer = open_trace(run_id="20260101-name")
    writer.reading(WHOLE, TRAINING)
    (row,) = read_trace(tmp_path / "thermal.csv")
    assert (row.t_mono_s, row.t_wall_utc_ms, row.run_id) == (2.5, START_MS + 2500, "20260101-name")
    assert (row.phase, row.opt_step, row.micro_step, row.tokens_total) == ("train", 7, 2, 4096)
    assert (row.source, row.temp_ctrl_c, row.temp_filt_c) == ("smc", 84.25, 82.5)
    assert (row.cpu_avg_c, row.cpu_max_c, row.gpu_avg_c, row.gpu_max_c) == (70.0, 75.5, 84.25, 91.0)
    assert (row.n_valid, row.chassis_c, row.pressure, row.throttle_bits) == (29, 36.5, 1, 4)
    assert (row.sys_power_w, row.gpu_power_w, row.gpu_mhz, row.gpu_util) == (21.5, 12.25, 1380.0, 0.98)
    assert (row.fan_rpm, row.tier, row.duty, row.action, row.sleep_s) == (1200.0, "warm", 0.71, "", 0.25)
    assert math.isnan(row.tok_s_active)
    assert (row.quality, row.schema_version) == ("ok", 1)


def test_what_is_unknown_is_an_empty_cell_and_never_a_zero(tmp_path: Path, open_trace: Opener) -> None:
    clock = VirtualClock(START_MS)
    writer = open_trace(clock)
    nothing = Reading(1, 0.0, START_MS, "none", "invalid", temp_ctrl_c=math.nan, temp_filt_c=math.inf)
    writer.reading(nothing, Context("idle"))
    writer.action("stop", None, Context("train"))
    lines = (tmp_path / "thermal.csv").read_text().splitlines()
    assert lines[1] == f"0.000,{START_MS},run,idle,0,0,0,none,,,,,,,0,,,,,,,,,,,,0.000,,invalid,1"
    assert lines[2] == f"0.000,{START_MS},run,train,0,0,0,,,,,,,,,,,,,,,,,,,stop,0.000,,,1"
    first, second = read_trace(tmp_path / "thermal.csv")
    for row in (first, second):
        assert math.isnan(row.temp_ctrl_c) and math.isnan(row.temp_filt_c) and math.isnan(row.duty)
        assert row.pressure is None and row.throttle_bits is None
    assert (first.n_valid, second.n_valid) == (0, None)
    assert (second.action, second.quality, second.source) == ("stop", "", "")


KNOWN = st.floats(-50.0, 5000.0)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(temp_c=KNOWN | st.none(), power_w=KNOWN | st.none(), pressure=st.integers(0, 4) | st.none())
def test_any_reading_comes_back_to_a_thousandth(
    tmp_path: Path, temp_c: float | None, power_w: float | None, pressure: int | None
) -> None:
    path = tmp_path / "any.csv"
    path.unlink(missing_ok=True)
    raw = RawReading(pressure=pressure, sys_power_w=power_w)
    writer = TraceWriter(path, "run", VirtualClock())
    writer.reading(Reading(1, 0.0, START_MS, "smc", "ok", temp_ctrl_c=temp_c, raw=raw), TRAINING)
    writer.close()
    (row,) = read_trace(path)
    for value, read in ((temp_c, row.temp_ctrl_c), (power_w, row.sys_power_w)):
        assert math.isnan(read) if value is None else abs(read - value) <= 0.0005001
    assert row.pressure == pressure


def test_words_cannot_break_a_row(tmp_path: Path, open_trace: Opener) -> None:
    writer = open_trace(run_id='a,"b"\nc')
    writer.action("lost, again\r\n", None, Context("train", tier="x,y"))
    (row,) = read_trace(tmp_path / "thermal.csv")
    assert (row.run_id, row.action, row.tier) == ("a  b  c", "lost  again  ", "x y")


def test_time_counts_from_the_start_of_the_trace(tmp_path: Path, open_trace: Opener) -> None:
    clock = VirtualClock()
    clock.advance(500.0)
    writer = open_trace(clock)
    clock.advance(1.5)
    writer.reading(polled(clock), TRAINING)
    clock.advance(2.0)
    late = polled(clock)
    clock.advance(0.5)
    writer.action("pause", late, Context("pause"))
    writer.reading(late, TRAINING)  # taken before the pause, written after it: time does not go back
    assert [row.t_mono_s for row in read_trace(tmp_path / "thermal.csv")] == [1.5, 4.0, 4.0]


@pytest.mark.parametrize(("passed_seconds", "wanted"), [(3600.0, 3610.0), (-50.0, 10.0)])
def test_a_resumed_trace_goes_on_by_the_wall_time_that_passed(
    tmp_path: Path, open_trace: Opener, passed_seconds: float, wanted: float
) -> None:
    path = tmp_path / "thermal.csv"
    clock = VirtualClock(START_MS)
    writer = open_trace(clock, path)
    clock.advance(10.0)
    writer.reading(polled(clock), TRAINING)
    writer.close()
    clock = VirtualClock(START_MS + 10_000 + round(passed_seconds * 1000))
    writer = open_trace(clock, path)
    writer.action("resume", None, Context("idle"))
    clock.advance(1.0)
    writer.reading(polled(clock), TRAINING)
    assert [row.t_mono_s for row in read_trace(path)] == [10.0, wanted, wanted + 1.0]
    assert path.read_text().count("t_mono_s") == 1


def test_a_trace_with_a_torn_last_line_is_read_and_gone_on_with(tmp_path: Path, open_trace: Opener) -> None:
    path = tmp_path / "thermal.csv"
    clock = VirtualClock(START_MS)
    writer = open_trace(clock, path)
    for _ in range(3):
        clock.advance(1.0)
        writer.reading(polled(clock), TRAINING)
    writer.close()
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        path.write_bytes(whole[:-cut])
        assert [row.t_mono_s for row in read_trace(path)] == [1.0, 2.0]
        writer = open_trace(VirtualClock(START_MS + 10_000))
        writer.action("resume", None, Context("idle"))
        writer.close()
        times = [row.t_mono_s for row in read_trace(path)]
        assert times in ([1.0, 2.0, 10.0], [1.0, 2.0, 3.0, 10.0])  # the second: only the newline was cut


def test_a_torn_header_is_completed(tmp_path: Path, open_trace: Opener) -> None:
    path = tmp_path / "thermal.csv"
    path.write_text("t_mono_s,t_wall_")
    assert read_trace(path) == []
    open_trace().action("resume", None, Context("idle"))
    assert [row.action for row in read_trace(path)] == ["resume"]


@pytest.mark.parametrize("room", [0, 10, 400, 500, 520, 700, 1000])
def test_a_full_disk_drops_rows_and_later_ones_are_whole(
    tmp_path: Path, open_trace: Opener, room: int
) -> None:
    path = tmp_path / "thermal.csv"
    clock = VirtualClock()
    with disk_of(room):
        writer = open_trace(clock, path)
        for _ in range(20):
            clock.advance(1.0)
            writer.reading(polled(clock), TRAINING)
        kept = [row.t_mono_s for row in read_trace(path)]
        assert kept == [1.0 * n for n in range(1, len(kept) + 1)]
        assert writer.dropped == 20 - len(kept) > 0
    clock.advance(1.0)
    writer.reading(polled(clock), TRAINING)  # there is room again
    writer.close()
    assert [row.t_mono_s for row in read_trace(path)] == [*kept, 21.0]
    assert writer.dropped == 20 - len(kept)


def test_a_place_that_cannot_be_written_drops_every_row(tmp_path: Path, open_trace: Opener) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "absent" / "thermal.csv"):
        writer = open_trace(path=path)
        writer.action("stop", None, TRAINING)
        writer.reading(WHOLE, TRAINING)
        writer.close()
        assert writer.dropped == 2


def test_rows_after_the_end_are_left_out(tmp_path: Path, open_trace: Opener) -> None:
    writer = open_trace()
    writer.action("stop", None, TRAINING)
    writer.close()
    writer.action("late", None, TRAINING)
    writer.close()
    assert [row.action for row in read_trace(tmp_path / "thermal.csv")] == ["stop"]
    assert writer.dropped == 0


def test_rows_of_several_threads_do_not_mix(tmp_path: Path, open_trace: Opener) -> None:
    clock = SystemClock()
    writer = open_trace(clock)

    def write(name: str) -> None:
        for number in range(200):
            writer.action(name, polled(clock), Context("train", opt_step=number))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = read_trace(tmp_path / "thermal.csv")
    assert writer.dropped == 0
    for name in "abcd":
        assert [row.opt_step for row in rows if row.action == name] == list(range(200))
    times = [row.t_mono_s for row in rows]
    assert times == sorted(times)


def test_a_row_costs_less_than_fifty_microseconds(tmp_path: Path, open_trace: Opener) -> None:
    writer = open_trace(SystemClock())
    costs = []
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(200):
            writer.reading(WHOLE, TRAINING)
        costs.append((time.perf_counter() - started) / 200)
    assert min(costs) < 50e-6 * slowness()


def altered(path: Path, line: int, old: str, new: str) -> Path:
    writer = TraceWriter(path, "run", VirtualClock(START_MS))
    for _ in range(3):
        writer.reading(WHOLE, TRAINING)
    writer.close()
    lines = path.read_text().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize(
    ("line", "old", "new", "message"),
    [
        (1, "duty", "dutty", ":1: wanted a thermal trace, .*; got one without 'duty'. Give the thermal.csv"),
        (1, "t_mono_s,t_wall_utc_ms", "t_wall_utc_ms,t_mono_s", ":1: .* in another order"),
        (3, "84.250", "hot", ":3: wanted a row of a thermal trace, 30 columns; got 'hot' in column 'temp_"),
        (3, "2.500", "", ":3: .* got nothing in column 't_mono_s'"),
        (4, "4096", "4096.5", ":4: .* got '4096.5' in column 'tokens_total'"),
        (2, ",ok,", ",ok,,", ":2: .* got 31 columns. Put the file back"),
        (4, ",1\n", ",2\n", ":4: .* schema version 1 or older; got version 2, which a newer bit_axon wrote"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_its_line(
    tmp_path: Path, line: int, old: str, new: str, message: str
) -> None:
    path = altered(tmp_path / "thermal.csv", line, old, new)
    with pytest.raises(ConfigError, match=message):
        read_trace(path)


def test_a_newer_trace_with_other_columns_is_said_to_be_newer(tmp_path: Path) -> None:
    path = tmp_path / "thermal.csv"
    path.write_text("t_mono_s,colour,schema_version\n1.0,red,2\n")
    for attempt in (lambda: read_trace(path), lambda: TraceWriter(path, "run", VirtualClock())):
        with pytest.raises(ConfigError, match="got version 2, which a newer bit_axon wrote"):
            attempt()


def test_any_other_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("bread\nmilk\n")
    with pytest.raises(ConfigError, match=r"notes.txt:1: .* got 'bread'\. .* move this file away"):
        read_trace(path)
    with pytest.raises(ConfigError, match="got 'bread'"):
        TraceWriter(path, "run", VirtualClock())
    assert path.read_text() == "bread\nmilk\n"
    with pytest.raises(ConfigError, match=r"absent.csv: wanted a thermal trace; got no such file"):
        read_trace(tmp_path / "absent.csv")


def test_a_trace_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    path = altered(tmp_path / "thermal.csv", 1, "t_mono_s", "t_mono_s")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [row.temp_ctrl_c for row in read_trace(path)] == [84.25] * 3
