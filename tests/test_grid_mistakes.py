"""A grid that is refused leaves nothing behind; one that has run keeps everything."""

from pathlib import Path

import pytest
from conftest import Runner


@pytest.mark.parametrize("launcher", ["basic", "isolated"])
@pytest.mark.parametrize("wrong", ["adapter=lora,dorra", "training.max_stps=1,2"])
def test_a_wrong_option(wrong: str, launcher: str, run: Runner, outputs: Path) -> None:
    done = run("-m", wrong, "tracking=none", f"hydra/launcher={launcher}")
    assert done.code == 2 and "Did you mean" in done.err
    assert not list(outputs.rglob("*"))


def test_a_wrong_value(run: Runner, small_run: list[str], outputs: Path) -> None:
    done = run("-m", *small_run, "training.learning_rate=-1,-2")
    assert done.code == 2 and not list(outputs.rglob("*"))


def test_a_folder_with_something_in_it_stays(run: Runner, tmp_path: Path, outputs: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert run("-m", "adapter=lora,dorra", f"hydra.sweep.dir={folder}").code == 2
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "multirun.yaml"}


def test_one_that_has_run_keeps_hydras_file(run: Runner, small_run: list[str], outputs: Path) -> None:
    assert run("-m", *small_run, "training.max_steps=1", "seed=1,2").code == 0
    (folder,) = (outputs / "sweeps").iterdir()
    assert {"0", "1", "multirun.yaml"} <= {path.name for path in folder.iterdir()}
