"""Policies on a simulated fanless laptop, an hour and a half each: what the docs' table says."""

import json
from pathlib import Path

import pytest
from conftest import Runner

from benchmarks.thermal import Outcome, pacing_like, run_on_off, run_policy
from benchmarks.thermal_cost import measure
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.profiling.trace import read_trace
from bit_axon.schema import ThermalConfig

TARGET = Thresholds().target
WARM_UP_SECONDS = 600.0


@pytest.fixture(scope="module")
def tiers() -> Outcome:
    return run_policy(ThermalConfig(policy="tiers"), step_seconds=1.5)


@pytest.fixture(scope="module")
def pacing() -> Outcome:
    return run_policy(ThermalConfig(policy="pacing"), step_seconds=1.5)


def test_pacing_holds_its_target(pacing: Outcome) -> None:
    assert pacing.filtered_low >= TARGET - 1.5 and pacing.filtered_high <= TARGET + 1.5
    assert pacing.peak <= TARGET + 6.0
    assert pacing.stops == 0
    assert pacing.mean == pytest.approx(TARGET, abs=0.5)


@pytest.mark.parametrize("target", [70.0, 76.0, 88.0])
def test_pacing_holds_other_targets(target: float) -> None:
    config = ThermalConfig(policy="pacing", target_temp=target, resume_temp=min(78.0, target))
    outcome = run_policy(config, step_seconds=1.5, seed=1)
    assert target - 1.5 <= outcome.filtered_low and outcome.filtered_high <= target + 1.5
    assert outcome.stops == 0


def test_at_equal_mean_temperature_pacing_is_no_slower_than_tiers(tiers: Outcome) -> None:
    like = pacing_like(tiers, 1.5)
    assert like.mean == pytest.approx(tiers.mean, abs=0.15)
    assert like.speed >= tiers.speed - 0.0015  # 0.8 points of speed are one degree of mean temperature
    assert like.peak < tiers.peak - 4 and like.ripple < tiers.ripple / 1.5


@pytest.mark.parametrize("seconds", [1.5, 6.0])
def test_tiers_never_stop_falsely(seconds: float) -> None:
    for seed in range(2):
        outcome = run_policy(ThermalConfig(policy="tiers"), step_seconds=seconds, seed=seed)
        assert outcome.stops == 0


def test_the_old_on_off_rule_rings_and_stops_falsely(pacing: Outcome) -> None:
    short, long = run_on_off(step_seconds=1.5), run_on_off(step_seconds=6.0)
    assert short.peak > pacing.peak + 3 and long.peak > 100
    assert long.stops > 0
    assert run_policy(ThermalConfig(policy="pacing"), step_seconds=6.0).stops == 0


def test_doing_nothing_is_faster_and_at_the_governors_limit(pacing: Outcome) -> None:
    off = run_policy(ThermalConfig(policy="off"), step_seconds=1.5)
    assert off.peak >= 100 and off.speed > 1.7 * pacing.speed


def test_the_gate_and_the_trace_cost_less_than_a_hundredth_of_a_short_step(tmp_path: Path) -> None:
    assert measure(tmp_path).share <= 0.01


@pytest.mark.slow
def test_a_default_run_of_an_hour_and_a_half(run: Runner) -> None:
    """The real thing: model, data, evaluation and answers, on the simulated machine's time."""
    options = ("training.max_steps=1360", "training.batch_size=1", "training.eval_every=300", "tracking=none")
    done = run("thermal=simulated_air", *options)
    assert done.code == 0, done.err
    rows = read_trace(done.run_dir / "thermal.csv")  # type: ignore[operator]
    assert 5000 < rows[-1].t_mono_s < 6500
    polls = [row for row in rows if not row.action and row.t_mono_s >= WARM_UP_SECONDS]
    held = [row.temp_filt_c for row in polls]
    assert min(held) >= TARGET - 1.5 and max(held) <= TARGET + 1.5
    assert max(row.temp_ctrl_c for row in rows if not row.action) <= TARGET + 6.0
    thermal = json.loads((done.run_dir / "result.json").read_text())["thermal"]  # type: ignore[operator]
    assert thermal["stops"] == 0 and thermal["pause_count"] == 0
