"""`python -m benchmarks.sweep_overhead`: its report, and where it goes."""

import json
from pathlib import Path

import pytest

from benchmarks import options, sweep_overhead
from benchmarks.sweep_overhead import Overheads, main

QUICK = {"isolated": Overheads((2.0, 3.0, 2.5), (1.0, 1.25, 1.5)), "basic": Overheads((0.25,), (0.125,))}


def measured(found: dict[str, Overheads], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Searches that are not run: what they would have been asked for."""
    asked: list[tuple[str, int]] = []

    def measure(launcher: str, trials: int) -> Overheads:
        asked.append((launcher, trials))
        return found[launcher]

    monkeypatch.setattr(sweep_overhead, "measure", measure)
    return asked


def test_it_is_recorded_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = measured(QUICK, monkeypatch)
    monkeypatch.setattr(options, "RESULTS", tmp_path / "results")
    assert main(["--trials", "1", "--out", str(tmp_path / "out")]) == 0
    assert asked == [("isolated", 3), ("basic", 3)] and not (tmp_path / "results").exists()
    assert main(["--record", "--out", str(tmp_path / "out")]) == 0
    kept = {path.name: path.read_text() for path in (tmp_path / "results").iterdir()}
    assert kept["sweep-overhead.md"] == (tmp_path / "out" / "sweep_overhead.md").read_text()
    lines = kept["sweep-overhead.md"].splitlines()
    assert lines[0].startswith("- date: ")
    assert "- command: python -m benchmarks.sweep_overhead --record --out out" in lines
    assert lines[-2:] == [
        "| isolated | 2.50 | at most 4 | 1.25 | 2.00 to 3.00 | 3 |",
        "| basic | 0.25 | at most 0.3 | 0.12 | 0.25 to 0.25 | 1 |",
    ]
    assert json.loads(kept["sweep-overhead.json"])["basic"] == {"whole": [0.25], "setup": [0.125]}
    assert kept["sweep-overhead.md"] in capsys.readouterr().out


def test_what_is_over_the_limit_is_told_by_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured({**QUICK, "basic": Overheads((0.5,), (0.125,))}, monkeypatch)
    assert main(["--out", str(tmp_path)]) == 1
