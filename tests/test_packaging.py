"""The wheel, built from what git has: what is in it, and that it runs from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("hatchling", reason="the build backend is not installed")

MAX_WHEEL_BYTES = 8 * 1024**2
QUICK = ["training.max_steps=1", "training.eval_batches=1", "training.compile=false", "tracking=none"]
NO_ANSWERS = ["data.accuracy_prompts=0", "data.sample_prompts=0"]


def call(command: Sequence[str], folder: Path, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Runs a command that has to succeed; a variable that is None is removed."""
    changed = {**os.environ, **variables}
    environment = {name: value for name, value in changed.items() if value is not None}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fresh clone would hold: tracked files, and new ones that are not ignored; no empty folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if listed.returncode:
        return ROOT
    folder = tmp_path_factory.mktemp("source")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with the installed backend, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    call([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)], source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's own files in a folder; its dependencies are those of this environment."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call([*pip, "--no-deps", "--no-index", "--target", str(target), str(wheel)], target)
    return target


def test_the_wheel_holds_configs_and_assets(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assets = source / "bit_axon" / "embedded" / "assets"
    wanted = {str(path.relative_to(source)) for path in assets.rglob("*") if path.is_file()}
    for group in ("conf", "sweeps"):
        files = [path for path in (source / group).rglob("*") if path.is_file()]
        assert files, f"{group} holds no file that git knows"
        wanted |= {f"bit_axon/_data/{path.relative_to(source)}" for path in files}
    assert len(wanted) > 20
    assert not wanted - names


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"bit_axon"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".tmp")]
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES


def test_an_installed_package_composes_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    code = "import bit_axon; print(bit_axon.__file__)"
    variables = {"PYTHONPATH": str(installed), "BIT_AXON_OUTPUTS": None}
    found = call([sys.executable, "-c", code], tmp_path, **variables).stdout.strip()
    assert Path(found).is_relative_to(installed)
    shown = call([sys.executable, "-m", "bit_axon.run", "--cfg", "job"], tmp_path, **variables).stdout
    assert "path: embedded:nano" in shown
    search = [sys.executable, "-m", "bit_axon.run", "--cfg", "hydra", "sweep=learning_rate"]
    assert "hydra_plugins.bit_axon_sweeps.BitAxonSweeper" in call(search, tmp_path, **variables).stdout
    assert not list(tmp_path.iterdir())


def test_an_installed_package_runs_into_the_current_folder(installed: Path, tmp_path: Path) -> None:
    variables = {"PYTHONPATH": str(installed), "BIT_AXON_OUTPUTS": None}
    call([sys.executable, "-m", "bit_axon.run", *QUICK, *NO_ANSWERS], tmp_path, **variables)
    (result,) = tmp_path.glob("outputs/runs/*/result.json")
    assert json.loads(result.read_text())["state"] == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert not (installed / "outputs").exists()
