"""Ten known configs on a simulated fanless laptop: heat kills good ones, but not by this product's rules."""

from pathlib import Path

import pytest

from benchmarks import hot_scores, sweep_heat
from benchmarks.hot_scores import BEST, TOP, score
from benchmarks.hot_study import BLAMING, COLD, CONFIGS, PLAIN, PLAIN_COLD, PRODUCT, UNCOOLED, Done


@pytest.fixture(scope="module")
def first() -> dict[str, Done]:
    """All studies of one order."""
    return hot_scores.run_arms(0)


def test_a_plain_pruner_kills_good_configs_because_of_heat(first: dict[str, Done]) -> None:
    """The same pruner by the same clock lets them live where every trial gets a machine that has rested."""
    best = {*BEST[:TOP]}
    assert first[PLAIN.name].pruned() & best == {BEST[0]}
    assert not first[PLAIN_COLD.name].pruned() & best
    assert first[PLAIN.name].ranking()[0] != BEST[0]
    assert first[PLAIN_COLD.name].ranking()[0] == BEST[0]


def test_later_trials_of_a_plain_study_start_hot(first: dict[str, Done]) -> None:
    starts = [tried.start_temp for tried in first[PLAIN.name].tried]
    assert starts[0] < 36 and min(starts[1:]) > 75


def assert_cold_ranking(studies: dict[str, Done]) -> None:
    """The same trials are pruned at the same updates, and every trial starts nearly as cool as the first."""
    product, cold = studies[PRODUCT.name], studies[COLD.name]
    assert product.ranking() == cold.ranking()
    assert product.pruned() == cold.pruned() and product.pruned()
    assert [tried.step for tried in product.tried] == [tried.step for tried in cold.tried]
    assert {tried.pruned_by for tried in product.tried} == {"", "median"}
    assert product.ranking()[0] == BEST[0]
    assert all(each.start_temp <= product.tried[0].start_temp + 6.0 for each in product.tried)
    assert all(each.waited_seconds <= 602 for each in product.tried)


def test_with_the_rules_the_ranking_is_the_cold_one(first: dict[str, Done]) -> None:
    assert_cold_ranking(first)
    rested = {tried.known.rank: tried.seconds for tried in first[COLD.name].tried}
    for tried in first[PRODUCT.name].tried:
        assert tried.seconds == pytest.approx(rested[tried.known.rank], rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 4, 10, 19])
def test_so_it_is_in_other_orders(seed: int) -> None:
    assert_cold_ranking(hot_scores.run_arms(seed, (COLD, PRODUCT)))


def test_heat_held_against_every_trial_would_kill_good_configs(first: dict[str, Done]) -> None:
    """Why only a trial that started cool is judged: from a cold start every config keeps the budget."""
    blamed = {t.known.rank for t in first[BLAMING.name].tried if t.pruned_by == "thermal_budget"}
    assert len(blamed) >= 2 and blamed & {*BEST[:TOP]}
    for rules in (COLD, PRODUCT, UNCOOLED):
        assert not any(tried.pruned_by == "thermal_budget" for tried in first[rules.name].tried)


def test_reports_by_updates_keep_the_ranking_even_without_a_cool_down(first: dict[str, Done]) -> None:
    """What the cool-down is for is time: without it a trial takes longer the later it comes."""
    assert first[UNCOOLED.name].ranking() == first[COLD.name].ranking()
    assert score(UNCOOLED, [first]).slowdown > 1.2 > 1.1 > score(PRODUCT, [first]).slowdown


def test_the_scores_count(first: dict[str, Done]) -> None:
    found = score(PRODUCT, [first, first])
    assert (found.studies, found.same_ranking, found.best_first, found.lost_good) == (2, 2, 2, 0)
    assert score(PLAIN, [first]).lost_good == 1
    assert score(COLD, [first]).slowdown == 1.0


def test_losses_of_two_configs_never_cross() -> None:
    for updates in range(1, 101):
        losses = [CONFIGS[rank].loss(updates) for rank in BEST]
        assert losses == sorted(losses)


def test_the_report_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: dict[str, Done]
) -> None:
    monkeypatch.setattr(sweep_heat, "run_arms", lambda seed: first)
    assert sweep_heat.main(["--orders", "1", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "sweep_heat.png").read_bytes().startswith(b"\x89PNG")
    assert PRODUCT.name in (tmp_path / "sweep_heat.md").read_text()
    assert (tmp_path / "sweep_heat.json").is_file()
