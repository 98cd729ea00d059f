"""What Hydra finds of a search: the sweeper and its keys, the group `sweep`, folders, messages."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Runner
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from waiting import LONGEST_SECONDS

from bit_axon.composition import conf_dir, explained, register_resolvers, with_free_tags, without_secrets
from bit_axon.errors import ConfigError
from bit_axon.origins import with_origins

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
URL = "postgresql+psycopg://someone:s3cr@t@host:5432/studies"


def compose(*overrides: str) -> DictConfig:
    """The config of `-m OVERRIDES`, with Hydra's own node."""
    register_resolvers()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return loader.load_configuration("config", with_free_tags(overrides), RunMode.MULTIRUN)


@pytest.fixture
def composed(outputs: Path) -> Callable[..., DictConfig]:
    """`compose`, for an outputs folder of the test's own."""
    return compose


def sweeper_of(config: DictConfig) -> Any:
    """As Hydra makes it, with its launcher."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    return Plugins.instance().instantiate_sweeper(
        config=config, hydra_context=context, task_function=lambda config: None
    )


def test_a_search_has_its_sweeper_and_its_launcher(composed: Callable[..., DictConfig]) -> None:
    sweeper = sweeper_of(composed("sweep=learning_rate", "hydra.sweeper.trial_minutes=2"))
    assert (
        type(sweeper).__name__ == "BitAxonSweeper" and type(sweeper.launcher).__name__ == "IsolatedLauncher"
    )
    assert (sweeper.launcher.timeout_minutes, sweeper.launcher.grace_seconds) == (2, 30)
    settings = sweeper.settings()
    assert json.loads(json.dumps(settings)) == settings  # plain values, through and through
    assert settings["study_name"] == "learning_rate" and settings["n_trials"] == 20
    assert settings["objectives"] == [{"metric": "eval_loss_best", "direction": "minimize"}]
    assert settings["params"]["training.learning_rate"].startswith("tag(log")
    assert settings["pruner"] == {"name": "median", "n_startup_trials": 4}
    assert settings["storage"] is None and settings["cooldown"]["enabled"] == "auto"


def test_settings_on_the_command_line(composed: Callable[..., DictConfig]) -> None:
    config = composed(
        "sweep=learning_rate",
        "hydra.sweeper.study_name=second try",
        "hydra.sweeper.n_trials=48",
        "hydra.sweeper.sampler.n_startup_trials=3",
        "hydra.sweeper.pruner=nop",
        "hydra.sweeper.constraints.peak_memory_bytes=4e9",
        "hydra.sweeper.objectives=[{metric: reward_accuracy, direction: maximize}]",
        "hydra.sweeper.params.adapter.rank='choice(4,8)'",
        "hydra.sweeper.params.seed=3",
        "hydra.sweeper.params.adapter.rslora=true",
        "hydra.sweeper.params.training.max_minutes=null",
    )
    settings = sweeper_of(config).settings()
    assert settings["study_name"] == "second try" and settings["n_trials"] == 48
    assert settings["sampler"] == {"name": "tpe", "seed": 0, "n_startup_trials": 3}
    assert settings["pruner"] == {"name": "nop"}
    assert settings["constraints"] == {"peak_memory_bytes": 4e9}
    assert settings["objectives"] == [{"metric": "reward_accuracy", "direction": "maximize"}]
    params = settings["params"]
    assert {
        key: params[key] for key in ("adapter.rank", "seed", "adapter.rslora", "training.max_minutes")
    } == {
        "adapter.rank": "choice(4,8)",
        "seed": "3",
        "adapter.rslora": "true",
        "training.max_minutes": "null",
    }


def test_other_launchers_and_grids_are_as_they_were(composed: Callable[..., DictConfig]) -> None:
    search = sweeper_of(composed("sweep=learning_rate", "hydra/launcher=basic"))
    assert type(search.launcher).__name__ == "BasicLauncher"
    grid = sweeper_of(composed("hydra/launcher=isolated"))
    assert type(grid).__name__ == "BasicSweeper" and grid.launcher.timeout_minutes is None


def test_folders(composed: Callable[..., DictConfig], outputs: Path) -> None:
    assert composed("sweep=learning_rate").hydra.sweep.dir == f"{outputs}/sweeps/learning_rate"
    named = composed("sweep=learning_rate", "hydra.sweeper.study_name='second try/1'")
    assert named.hydra.sweep.dir == f"{outputs}/sweeps/second-try-1"
    stamps = [composed().hydra.sweep.dir for _ in range(2)]
    assert all(Path(stamp).name.startswith("20") for stamp in stamps)


def test_the_group_holds_the_files_of_sweeps(composed: Callable[..., DictConfig]) -> None:
    register_resolvers()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert loader.get_group_options("sweep") == SWEEPS
        assert "sweep" in loader.list_groups("")
        assert "README" not in loader.get_group_options("")
        (source,) = [source for source in loader.get_sources() if source.scheme() == "bit_axon-sweeps"]
    assert (
        source.available() and source.list("", None) == ["sweep"] and source.is_config("sweep/learning_rate")
    )
    absent = ("sweep/README", "sweep/x/learning_rate", "learning_rate", "sweep", "config")
    assert not any(source.is_config(name) for name in absent)
    assert not source.is_group("sweep/learning_rate") and not source.is_group("adapter")


@pytest.mark.parametrize("name", SWEEPS)
def test_every_search_composes(name: str, composed: Callable[..., DictConfig]) -> None:
    settings = sweeper_of(composed(f"sweep={name}")).settings()
    assert settings["study_name"] == name and settings["params"]
    written = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())["hydra"]["sweeper"]
    assert {"objectives", "n_trials"} <= set(written)


def test_a_search_of_ones_own(run: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "sweep"
    folder.mkdir(parents=True)
    text = (ROOT / "sweeps" / "learning_rate.yaml").read_text()
    (folder / "mine.yaml").write_text(text.replace("n_trials: 20", "n_trials: 7"))
    shown = run("--config-dir", str(folder.parent), "--cfg", "hydra", "sweep=mine")
    assert shown.code == 0 and "n_trials: 7" in shown.out
    (folder / "mine.yaml").write_text(text.replace("n_trials", "n_trails"))
    wrong = run("--config-dir", str(folder.parent), "-m", "sweep=mine")
    assert wrong.code == 2
    expected = "sweep/mine.yaml: unknown key 'hydra.sweeper.n_trails'. Did you mean 'hydra.sweeper.n_trials'?"
    assert wrong.err == f"bit_axon: {expected}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-m sweep=learning_rat", "an option of 'sweep'; got 'learning_rat'. Did you mean 'learning_rate'?"),
        ("-m sweep=zzz", f"wanted an option of 'sweep'; got 'zzz'. There is: {', '.join(SWEEPS)}."),
        ("S", "wanted -m with sweep=learning_rate; got one run. Search with -m sweep=learning_rate."),
        ("S --config-dir=conf", "wanted -m with sweep=learning_rate; got one run."),
        ("-m S K.n_trails=2", "unknown key 'hydra.sweeper.n_trails'. Did you mean 'hydra.sweeper.n_trials'?"),
        ("-m seed=1,2 K.n_trials=2", "Choose a search with sweep=NAME, or hydra/sweeper=bit_axon."),
        ("-m S K.n_trials=two", "hydra.sweeper.n_trials: wanted a config that composes; got Value 'two'"),
    ],
)  # fmt: skip
def test_mistakes(arguments: str, said: str, run: Runner, outputs: Path) -> None:
    done = run(*arguments.replace("S", "sweep=learning_rate").replace("K", "hydra.sweeper").split())
    assert done.code == 2 and done.err.count("\n") == 1
    assert done.err.startswith("bit_axon: ") and said in done.err
    assert not outputs.exists()


def test_what_is_shown_needs_no_flag(run: Runner) -> None:
    shown = run("--cfg", "job", "sweep=learning_rate")
    assert shown.code == 0 and "seed: 42" in shown.out
    helped = run("--help", "sweep=learning_rate")
    assert f"\nsweep: {', '.join(SWEEPS)}\n" in helped.out and "-m sweep=" in helped.out


def test_an_error_names_the_line_that_set_the_key() -> None:
    register_resolvers()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        overrides = ["sweep=learning_rate", "hydra.sweeper.pruner.name=medan"]
        hydra = loader.load_configuration("config", overrides, RunMode.MULTIRUN).hydra
        keys = ["hydra.sweeper.sampler.name", "hydra.sweeper.pruner.name"]
        error = with_origins(ConfigError("no such name.", keys), loader, hydra)
    file = ROOT / "sweeps" / "learning_rate.yaml"
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "sampler:" in text)
    assert str(error).splitlines() == [
        "no such name.",
        f"  hydra.sweeper.sampler.name was set in {file}:{line}",
        "  hydra.sweeper.pruner.name was set by the override hydra.sweeper.pruner.name=medan",
    ]


def test_hydras_message_about_a_file_keeps_its_reason() -> None:
    heading = "In 'sweep/x': ValidationError raised while composing config:"
    assert str(explained(HydraException(f"{heading}\nValue 'a' is none\n    full_key: hydra.b"))) == (
        "sweep/x.yaml, hydra.b: wanted a config that composes; got Value 'a' is none. Correct the file."
    )


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (URL, "postgresql+psycopg://***@host:5432/studies"),
        (
            f"hydra.sweeper.storage='{URL}'",
            "hydra.sweeper.storage='postgresql+psycopg://***@host:5432/studies'",
        ),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
        ("tags.x=a@b", "tags.x=a@b"),
        ("http://host/path@1", "http://host/path@1"),
    ],
)
def test_a_password_is_blotted_out(text: str, kept: str) -> None:
    assert without_secrets(text) == kept


def test_a_password_is_in_no_file_of_a_run(run: Runner, small_run: list[str]) -> None:
    storage = ["hydra/sweeper=bit_axon", f"hydra.sweeper.storage='{URL}'"]
    done = run(*small_run, *storage, "training.max_steps=1")
    assert done.code == 0, done.err
    saved = (done.run_dir / ".hydra" / "hydra.yaml").read_text()
    assert "postgresql+psycopg://***@host" in saved
    assert "postgresql+psycopg://***@host" in (done.run_dir / "repro.json").read_text()
    holding = [path for path in done.run_dir.rglob("*") if path.is_file() and b"s3cr" in path.read_bytes()]
    assert not holding and "s3cr" not in done.out + done.err


def test_a_trial_that_fails_in_process_is_the_studys_concern(run: Runner, small_run: list[str]) -> None:
    """The sweeper decides what the search ends with; without a study, a job's failure is the command's."""
    wrong = [*small_run, "training.learning_rate=-1"]
    assert run("-m", *wrong).code == 2
    assert run("-m", *wrong, "++trial.study=s", "++trial.number=0", "++trial.sweep_dir=/x").code == 0


def python(code: str) -> Any:
    """What a new process prints as JSON, the last line of it."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_composing_a_search_imports_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from bit_axon.run import main\n"
        "main(['--cfg', 'hydra', 'sweep=learning_rate'])\n"
        "print(json.dumps([n for n in ('mlx', 'mlflow', 'optuna', 'psutil') if n in sys.modules]))"
    )
    assert python(code) == []


def test_plugins_are_found_after_hydra_has_looked_for_them() -> None:
    code = (
        "import json\n"
        "from hydra.core.plugins import Plugins\n"
        "before = len(Plugins.instance().discover())\n"
        "from bit_axon.run import main\n"
        "code = main(['--help', 'sweep=learning_rate'])\n"
        "print(json.dumps([code, len(Plugins.instance().discover()) - before]))"
    )
    assert python(code) == [0, 5]
