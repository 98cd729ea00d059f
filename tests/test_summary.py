"""The summary of a trace, against numbers worked out by hand and what must hold for any trace."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_cases import NAN, row
from waiting import slowness

from bit_axon.profiling.summary import summarize
from bit_axon.profiling.trace import TraceRow


def test_temperatures_are_weighted_by_time() -> None:
    rows = [row(0, 50.0), row(1, 80.0, tier="warm"), row(4, 90.0, tier="pause"), row(4.5, 60.0)]
    found = summarize(rows, pause_temp=85.0)
    assert found["mean"] == pytest.approx((1 * 50 + 3 * 80 + 0.5 * 90) / 4.5)
    assert (found["max"], found["min"], found["start"], found["end"]) == (90.0, 50.0, 50.0, 60.0)
    assert found["p95"] == 90.0  # 80 °C or less for 4 of 4.5 s only
    assert found["degree_seconds_above_pause"] == pytest.approx(0.5 * 5.0)
    assert found["tier_seconds"] == {"unknown": 1.0, "warm": 3.0, "pause": 0.5}
    assert found["tier_fraction"]["warm"] == pytest.approx(3 / 4.5)
    assert (found["seconds"], found["coverage"]) == (4.5, 1.0)
    assert summarize(rows)["degree_seconds_above_pause"] is None


def test_the_95th_percentile_leaves_out_a_twentieth_of_the_time() -> None:
    rows = [row(second, 60.0 if second < 95 else 99.0) for second in range(101)]
    assert summarize(rows)["p95"] == 60.0
    rows = [row(second, 60.0 if second < 94 else 99.0) for second in range(101)]
    assert summarize(rows)["p95"] == 99.0


def test_what_is_not_known_counts_in_no_temperature() -> None:
    rows = [
        row(0, 60.0),
        row(1, 60.0, quality="held"),
        row(2, 200.0, quality="stale"),
        row(3, 200.0, quality="invalid"),
        row(4, NAN),
        row(5, 70.0),
        row(6, 70.0),
        row(8, 70.0, quality="gap"),  # the machine slept somewhere in these two seconds
        row(9, 70.0),
        row(10, 70.0),
    ]
    found = summarize(rows)
    assert found["max"] == 70.0
    assert found["mean"] == pytest.approx((2 * 60 + 2 * 70) / 4)
    assert found["coverage"] == pytest.approx(4 / 10)
    assert found["invalid_count"] == 1
    assert sum(found["tier_seconds"].values()) == 4.0


def test_polls_that_are_missing_are_a_gap() -> None:
    found = summarize([row(0, 60.0), row(1, 90.0), row(31, 60.0), row(32, 60.0)])
    assert found["mean"] == pytest.approx(60.0)
    assert found["seconds"] == 32.0
    assert found["coverage"] == pytest.approx(2 / 32)
    slow = [row(10.0 * poll, 60.0, action="split" if poll % 2 else "") for poll in range(11)]
    assert summarize(slow)["coverage"] == 1.0  # polls are twenty seconds apart: nothing is missing


def test_the_time_between_the_parts_of_a_resumed_run_counts_nowhere() -> None:
    power = {"sys_power_w": 10.0}
    rows = [
        row(0, 60.0, **power),
        row(1, 60.0, **power),
        row(2, 60.0, action="pause", phase="pause", **power),
        row(3, 60.0, phase="pause", **power),  # killed in a pause
        row(3603, action="resume_run", phase="idle", quality=""),
        row(3603, 40.0, phase="idle", **power),
        row(3604, 40.0, **power),
        row(3605, 40.0, **power),
    ]
    found = summarize(rows)
    assert (found["seconds"], found["coverage"]) == (5.0, 1.0)
    assert (found["paused_seconds"], found["pause_count"]) == (1.0, 1)
    assert found["energy_wh"] == pytest.approx(10.0 * 5 / 3600, abs=1e-6)
    assert found["mean"] == pytest.approx((3 * 60 + 2 * 40) / 5)


def test_pauses_and_pacing() -> None:
    rows = [
        row(0, 80.0, duty=1.0, phase="idle"),
        row(10, 80.0, duty=1.0),
        row(11, 80.0, duty=0.5, sleep_s=0.4),
        row(12, 86.0, duty=0.5, sleep_s=0.6, action="pause"),
        row(13, 84.0, duty=0.0, phase="pause"),
        row(15, 77.0, duty=0.5, action="resume"),
        row(15, 77.0, duty=0.5, phase="pause"),  # a poll that began in the pause and was written after it
        row(16, 77.0, duty=0.5),
        row(17, 88.0, duty=0.5, action="pause"),
        row(18, 95.0, duty=0.0, action="stop"),
        row(20, 94.0, duty=0.0),
    ]
    found = summarize(rows)
    assert found["pause_count"] == 2
    assert (found["paused_seconds"], found["longest_pause_seconds"]) == (4.0, 3.0)
    assert found["paced_seconds"] == 1.0
    assert found["overhead"] == pytest.approx((4.0 + 1.0) / 10)
    assert found["duty_mean"] == pytest.approx(
        (1 * 1.0 + 1 * 0.5 + 3 * 0.0 + 2 * 0.5 + 1 * 0.0 + 2 * 0.0) / 10
    )
    assert found["stops"] == 1


def test_an_action_without_a_reading_takes_nothing_away() -> None:
    power = {"sys_power_w": 36.0, "pressure": 2}
    rows = [row(0, 60.0, **power), row(0.5, action="source", quality="", source=""), row(1, 60.0, **power)]
    found = summarize(rows)
    assert (found["coverage"], found["energy_wh"], found["pressure_heavy_seconds"]) == (1.0, 0.01, 1.0)
    found = summarize([row(0, 60.0), row(1, action="resume_run", quality=""), row(2, 60.0)])
    assert (found["seconds"], found["coverage"]) == (1.0, 0.0)  # nothing is known of its first second


def test_pauses_without_their_actions_are_known_by_their_phase() -> None:
    phases = ["train", "pause", "pause", "train", "cooldown", "train"]
    found = summarize([row(second, 80.0, phase=phase) for second, phase in enumerate(phases)])
    assert (found["pause_count"], found["paused_seconds"], found["longest_pause_seconds"]) == (2, 3.0, 2.0)


def test_the_speed_at_the_end_is_compared_with_the_first_steps() -> None:
    speeds = [100.0] * 20 + [110.0] * 30 + [40.0] * 10 + [80.0] * 40
    rows = [row(0, 60.0, opt_step=0)]  # compiled: no speed
    for step, speed in enumerate(speeds, start=1):
        rows += [row(2 * step + poll, 60.0, opt_step=step, tok_s_active=speed) for poll in (0, 1)]
    found = summarize(rows)
    assert found["throttled_throughput"] == pytest.approx(0.8)
    assert found["throttled_throughput_min"] == pytest.approx(0.4)
    assert summarize(rows, baseline_steps=60)["throttled_throughput"] == pytest.approx(80 / 110)
    assert summarize(rows[:19])["throttled_throughput"] is None


def test_pressure_and_throttling_are_counted_where_they_are_known() -> None:
    levels = [0, 1, 2, 3, None, 0, 0]
    rows = [row(n, 60.0, pressure=level, throttle_bits=level and 32) for n, level in enumerate(levels)]
    found = summarize(rows)
    assert (found["pressure_moderate_seconds"], found["pressure_heavy_seconds"]) == (3.0, 2.0)
    assert found["throttled_seconds"] == 3.0
    found = summarize([row(n, 60.0) for n in range(3)])
    assert found["pressure_moderate_seconds"] is found["throttled_seconds"] is None


def test_energy_is_that_of_the_system_where_it_is_known() -> None:
    rows = [
        row(0, 60.0, sys_power_w=20.0, gpu_power_w=9.0, tokens_total=0),
        row(2, 60.0, sys_power_w=30.0, tokens_total=100),
        row(3, 60.0, tokens_total=400),  # not known: neither its energy nor its tokens count
        row(4, 60.0, sys_power_w=10.0, tokens_total=900),
        row(5, 60.0, sys_power_w=10.0, tokens_total=800),  # resumed from a checkpoint
        row(6, 60.0, sys_power_w=10.0, tokens_total=900),
    ]
    found = summarize(rows)
    joules = 2 * 20 + 1 * 30 + 1 * 10 + 1 * 10
    assert found["energy_of"] == "system"
    assert found["energy_wh"] == pytest.approx(joules / 3600, abs=1e-6)
    assert found["joules_per_token"] == pytest.approx(joules / (100 + 300 + 100))
    rows = [row(second, 60.0, sys_power_w=36.0) for second in (0, 50, 100, 1000, 1050, 1100)]
    assert summarize(rows)["energy_wh"] == pytest.approx(36.0 * 200 / 3600)  # not that of what was missed
    found = summarize([row(n, 60.0, gpu_power_w=18.0) for n in range(3)])
    assert (found["energy_of"], found["energy_wh"]) == ("gpu", 0.01)
    assert found["joules_per_token"] is None
    assert summarize([row(0, 60.0), row(1, 60.0)])["energy_wh"] is None


def test_the_source_is_the_one_that_lasted() -> None:
    rows = [row(0, 60.0, source="smc"), row(1, 60.0, source="iohid"), row(3, 60.0, source="iohid")]
    found = summarize(rows)
    assert (found["source"], found["sources"]) == ("iohid", ["smc", "iohid"])


@pytest.mark.parametrize("rows", [[], [row(0)], [row(0, source=""), row(1, action="stop", source="")]])
def test_a_trace_that_tells_nothing_has_the_same_keys(rows: list[TraceRow]) -> None:
    found = summarize(rows, pause_temp=85.0, dropped_rows=4)
    assert found.keys() == summarize([row(0, 60.0), row(1, 60.0)]).keys()
    assert found["max"] is found["mean"] is found["degree_seconds_above_pause"] is None
    assert found["dropped_rows"] == 4
    assert summarize([row(0, 61.0)])["mean"] == 61.0


ROWS = st.lists(
    st.builds(
        lambda wait, temp, tier, quality, phase, action, sleep, duty, speed, step: (
            wait,
            dict(
                tier=tier, quality=quality, phase=phase, action=action, sleep_s=sleep, duty=duty,
                tok_s_active=speed, opt_step=step, temp_c=temp,
            ),
        ),
        st.floats(0.0, 20.0),
        st.floats(15.0, 130.0) | st.just(NAN),
        st.sampled_from(["", "full", "warm", "pause", "stop"]),
        st.sampled_from(["ok", "ok", "ok", "held", "stale", "invalid", "gap", ""]),
        st.sampled_from(["train", "eval", "pause", "cooldown", "idle"]),
        st.sampled_from(["", "", "", "pause", "resume", "stop", "split", "resume_run"]),
        st.floats(0.0, 2.0),
        st.floats(0.0, 1.0) | st.just(NAN),
        st.floats(1.0, 1e5) | st.just(NAN),
        st.integers(0, 50),
    ),
    max_size=40,
)  # fmt: skip


@settings(deadline=None)
@given(ROWS)
def test_what_holds_for_every_trace(specification: list[tuple[float, dict]]) -> None:
    rows, at_seconds = [], 0.0
    for wait_seconds, values in specification:
        at_seconds += wait_seconds
        rows.append(row(at_seconds, **values))
    found = summarize(rows, pause_temp=85.0)
    json.dumps(found, allow_nan=False)
    covered = (found["coverage"] or 0.0) * found["seconds"]
    assert sum(found["tier_seconds"].values()) == pytest.approx(covered, abs=1e-3)
    assert sum(found["tier_fraction"].values()) == pytest.approx(
        1.0 if found["tier_seconds"] else 0.0, abs=1e-4
    )
    if found["max"] is not None:
        assert found["min"] <= found["p95"] <= found["max"]
        assert found["min"] - 1e-5 <= found["mean"] <= found["max"] + 1e-5
        most_seconds = covered + 1e-6 * found["seconds"]  # the coverage is rounded
        assert found["degree_seconds_above_pause"] <= max(0, found["max"] - 85.0) * most_seconds + 1e-3
    assert 0.0 <= found["longest_pause_seconds"] <= found["paused_seconds"] <= found["seconds"] + 1e-5
    assert found["overhead"] is None or 0.0 <= found["overhead"] <= 1.0
    assert found["duty_mean"] is None or 0.0 <= found["duty_mean"] <= 1.0
    assert found["coverage"] is None or 0.0 <= found["coverage"] <= 1.0 + 1e-6


def test_a_long_trace_takes_less_than_a_second() -> None:
    """100,000 rows, the same objects again and again: what is made of them takes as long."""
    values = dict(tier="warm", tok_s_active=100.0, sys_power_w=9.0)
    rows = [row(second, 60.0 + second % 30, opt_step=second, **values) for second in range(1000)] * 100
    started = time.perf_counter()
    found = summarize(rows, pause_temp=85.0)
    assert time.perf_counter() - started < 1.0 * slowness()
    assert found["max"] == 89.0
