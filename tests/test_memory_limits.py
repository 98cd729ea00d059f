"""Memory limits hold for a run and for that run alone."""

from collections.abc import Callable

import pytest
from conftest import Runner

from bit_axon import backend
from bit_axon.backend import Backend, memory_limits, mx

GB = 10**9


def limit(set_limit: Callable[[int], int]) -> int:
    """MLX tells a limit only when it is changed."""
    now = set_limit(0)
    set_limit(now)
    return now


def limits() -> tuple[int, int]:
    return limit(mx.set_memory_limit), limit(mx.set_cache_limit)


def test_limits_end_with_the_block() -> None:
    before = limits()
    with memory_limits(2, 0.5):
        assert limits() == (2 * GB, GB // 2)
        with memory_limits(1, None):
            assert limits() == (GB, GB // 2)
        assert limits() == (2 * GB, GB // 2)
    with pytest.raises(RuntimeError, match="in between"), memory_limits(None, 0.25):
        assert limits() == (before[0], GB // 4)
        raise RuntimeError("in between")
    assert limits() == before


@pytest.mark.parametrize(
    ("device", "facts", "expected"),
    [
        ("metal", {"max_recommended_working_set_size": 12 * GB}, 3 * GB),
        ("cuda", {"architecture": "sm_90"}, None),
        ("cpu", {"max_recommended_working_set_size": 12 * GB}, None),
    ],
)
def test_the_default_is_a_share_of_what_the_device_recommends(
    device: str, facts: dict[str, int], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "detect", lambda: Backend(device, None, compiles=True))
    monkeypatch.setattr(mx, "device_info", lambda: facts)
    before = limits()
    with memory_limits(None, None):
        assert limits() == (before[0], before[1] if expected is None else expected)
    assert limits() == before


def test_a_run_has_its_limits_and_leaves_none(
    run: Runner, small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    set_cache_limit = mx.set_cache_limit
    monkeypatch.setattr(mx, "set_cache_limit", lambda size: (seen.append(size), set_cache_limit(size))[1])
    before = limits()
    seen.clear()
    done = run(*small_run, "training.memory_limit_gb=9", "training.cache_limit_gb=0.25")
    assert done.code == 0, done.err
    assert seen[0] == GB // 4 and limits() == before
