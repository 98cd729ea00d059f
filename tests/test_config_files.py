"""Where the config files of a run were: read, kept for the next repetition, told when they are gone."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Runner

from bit_axon import files as files_module
from bit_axon.composition import conf_dir
from bit_axon.config_files import ConfigFiles, config_files, without_folder
from bit_axon.errors import BitAxonError, ConfigError, RunDirectoryError
from bit_axon.recomposed import composed
from bit_axon.reproduce import repetition, reproduce

HYDRA_FILE = Path(".hydra", "hydra.yaml")
WIDE = "defaults: [lora]\nrank: 3\n"


def hydra_file(run_dir: Path, argv: list[str], **settings: Any) -> ConfigFiles:
    """What a run directory says that has what Hydra kept."""
    (run_dir / ".hydra").mkdir(parents=True)
    (run_dir / HYDRA_FILE).write_text(yaml.safe_dump({"hydra": settings}, sort_keys=False))
    (run_dir / "repro.json").write_text(json.dumps({"argv": argv}))
    return config_files(run_dir)


def source(provider: str, path: str) -> dict[str, str]:
    return {"provider": provider, "schema": "file", "path": path}


def kept_by_hydra(*searched: str) -> dict[str, Any]:
    """The parts of hydra.yaml that are read, in Hydra's order."""
    usual = source("hydra", "hydra.conf")
    return {
        "overrides": {"hydra": ["hydra.mode=MULTIRUN", *searched, "hydra.sweeper.n_trials=3"]},
        "job": {"config_name": "mine"},
        "runtime": {
            "cwd": "/where/it/ran",
            "config_sources": [usual, source("main", "/a/conf"), source("command-line", "/b")],
        },
    }


def test_flags_are_those_that_say_where_the_config_files_are(tmp_path: Path) -> None:
    usual = {"config_sources": [source("hydra", "hydra.conf"), source("main", "/old/place/conf")]}
    moved = hydra_file(tmp_path / "0", ["-m"], runtime=usual, job={"config_name": "config"})
    assert moved.flags == []  # bit_axon itself has moved
    settings = kept_by_hydra("hydra.searchpath=[file:///c]")
    other = hydra_file(tmp_path / "1", ["--config-path=/a/conf"], **settings)
    assert other.flags == [
        "--config-name=mine", "--config-dir=/b", "--config-path=/a/conf", "hydra.searchpath=[file:///c]",
    ]  # fmt: skip
    assert config_files(tmp_path / "gone") == ConfigFiles()


def test_a_search_path_is_found_from_anywhere(tmp_path: Path) -> None:
    settings = kept_by_hydra("+hydra.searchpath=[file://c,'d e',../f,pkg://g,/h,file:///i]")
    (searched,) = hydra_file(tmp_path, [], **settings).searched
    places = [
        "file:///where/it/ran/c",
        "file:///where/it/ran/d e",
        "file:///where/it/f",
        "pkg://g",
        "/h",
        "file:///i",
    ]
    assert searched == f"+hydra.searchpath=[{','.join(repr(place) for place in places)}]"


def test_a_file_that_was_cut_anywhere_is_no_trouble(tmp_path: Path) -> None:
    whole = hydra_file(tmp_path, ["-cp", "/a/conf"], **kept_by_hydra("hydra.searchpath=[file://c]"))
    assert (whole.folder, whole.path, whole.name) == ("/b", "/a/conf", "mine")
    text = (tmp_path / HYDRA_FILE).read_text()
    for length in range(len(text)):
        (tmp_path / HYDRA_FILE).write_text(text[:length])
        found = config_files(tmp_path)
        assert isinstance(found.flags, list) and isinstance(found.search_path, list), text[:length]


@pytest.mark.parametrize("text", ["hydra: 1", "hydra: [1]", "- 1", "hydra: {job: a, overrides: {hydra: 1}}"])
def test_a_file_of_another_shape_is_no_trouble(text: str, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / HYDRA_FILE).write_text(text)
    assert config_files(tmp_path) == ConfigFiles()


def test_the_files_of_hydra_are_written_whole(
    run: Runner, small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[str] = []
    replace = os.replace
    monkeypatch.setattr(
        files_module.os, "replace", lambda old, new: (replaced.append(Path(new).name), replace(old, new))
    )
    folder = run(*small_run, "training.max_steps=1", "hydra.job.name=mine").run_dir
    found = {path.name for path in (folder / ".hydra").iterdir()}
    assert found == {"config.yaml", "hydra.yaml", "overrides.yaml"} and found <= set(replaced)
    assert yaml.safe_load((folder / HYDRA_FILE).read_text())["hydra"]["job"]["name"] == "mine"
    assert yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text())[-1] == "training.max_steps=1"


def test_a_repetition_of_a_repetition_has_the_files_that_stand_for_bit_axons_own(
    run: Runner, small_run: list[str], tmp_path: Path, outputs: Path
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(conf_dir(), conf)
    (conf / "adapter" / "wide.yaml").write_text(WIDE)
    done = run("--config-path", str(conf), *small_run, "training.max_steps=1", "adapter=wide")
    assert done.code == 0, done.err
    assert reproduce(done.run_dir, False, []) == 0
    (second,) = outputs.glob("runs/*repeat-of*")
    assert reproduce(second, False, ["seed=7"]) == 0
    (third,) = outputs.glob("runs/*repeat-of*repeat-of*")
    again = repetition(third, ["adapter.dropout=0.5"])
    assert config_files(third).path == str(conf) and again.values["seed"] == 7
    assert (again.values["adapter"]["rank"], again.values["adapter"]["dropout"]) == (3, 0.5)
    assert not [line for line in again.drift if line.startswith("config: ")]


def test_a_folder_of_the_search_path_is_found_again_and_told_when_gone(
    run: Runner, small_run: list[str], tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = tmp_path / "there" / "own" / "adapter" / "wide.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(WIDE)
    monkeypatch.chdir(tmp_path / "there")
    words = [*small_run, "training.max_steps=1", "adapter=wide", "hydra.searchpath=[file://own]"]
    folder = run(*words).run_dir
    monkeypatch.chdir(tmp_path)
    assert repetition(folder, ["adapter.dropout=0.5"]).values["adapter"]["rank"] == 3
    assert reproduce(folder, False, ["seed=7"]) == 0
    (second,) = outputs.glob("runs/*repeat-of*")
    own = tmp_path / "there" / "own"
    shutil.rmtree(own)
    for gone in (folder, second):
        with pytest.raises(RunDirectoryError, match=f"got {own}, which is gone. Put it back, or leave out"):
            repetition(gone, ["seed=1"])
        assert f"its config files were in {own}, which is gone" in repetition(gone, []).drift[0]


def test_a_folder_that_is_gone_is_named_with_what_helps(tmp_path: Path) -> None:
    for files, remedy in (
        (ConfigFiles(folder=str(tmp_path / "a")), "Put it back, name another with --config-dir DIR, or"),
        (ConfigFiles(path=str(tmp_path / "a")), "Put it back, or leave out the overrides"),
    ):
        with pytest.raises(BitAxonError) as told:
            composed([], files)
        assert f"got {tmp_path / 'a'}, which is gone. {remedy}" in str(told.value)


@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
def test_the_folder_is_parted_from_the_overrides(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    assert without_folder(["a=1", flag, "own", "~b"], "x") == (["a=1", "~b"], str(tmp_path / "own"))
    assert without_folder(["a=1"], "x") == (["a=1"], None)
    with pytest.raises(ConfigError, match="behind --config-dir; got nothing"):
        without_folder(["a=1", flag], "x")
    with pytest.raises(ConfigError, match="overrides behind x; got --cfg"):
        without_folder(["--cfg", "job"], "x")
