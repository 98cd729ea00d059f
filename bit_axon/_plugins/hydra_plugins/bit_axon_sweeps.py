"""What Hydra finds of bit_axon: the sweepers, the launcher, and `sweeps/` as the config group `sweep`.

Hydra imports every module of the namespace package `hydra_plugins` at every start, for `--help` and
completion too, and takes sweepers and launchers from nowhere else. So only Hydra is imported here; the
bodies are in `bit_axon.sweep`, imported when a sweep starts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from bit_axon.errors import ConfigError
from bit_axon.files import data_dir

_MODULE = "hydra_plugins.bit_axon_sweeps"
_PROVIDER = "bit_axon"
_GROUP = "sweep"
_YAML = ".yaml"


@dataclass
class SweepSettings:
    """`hydra.sweeper.*`: what is searched, how, and for how long."""

    study_name: str | None = None  # null = the sweep's name; it names the folder too
    storage: str | None = None  # null = a SQLite file in the sweep's folder
    n_trials: int = 20  # in all, over every start and every worker
    timeout_minutes: float | None = None  # no trial starts later than this
    sampler: Any = field(default_factory=lambda: {"name": "tpe", "seed": 0})
    pruner: Any = field(default_factory=lambda: {"name": "median"})
    objectives: list[Any] = field(
        default_factory=lambda: [{"metric": "eval_loss_best", "direction": "minimize"}]
    )
    params: dict[str, Any] = field(default_factory=dict)  # key: values, as an override gives them
    constraints: dict[str, Any] = field(default_factory=dict)  # figure of result.json: its largest value
    retries: int = 1  # of a trial that was killed or interrupted
    max_failures: int = 5  # in a row, then the sweep ends
    trial_minutes: float | None = None  # a trial that takes longer has failed
    cooldown: dict[str, Any] = field(
        default_factory=lambda: {"enabled": "auto", "above_base": 5.0, "max_seconds": 600.0}
    )
    heat_budget: Any = None  # what a trial that started cool may spend


@dataclass
class BitAxonSweeperConf(SweepSettings):
    """The option `hydra/sweeper=bit_axon`."""

    _target_: str = f"{_MODULE}.BitAxonSweeper"
    _convert_: str = "all"


@dataclass
class BasicSweeperConf(basic_sweeper.BasicSweeperConf):
    """The option `hydra/sweeper=basic`, in place of Hydra's."""

    _target_: str = f"{_MODULE}.BasicSweeper"


@dataclass
class IsolatedLauncherConf:
    """The option `hydra/launcher=isolated`."""

    _target_: str = f"{_MODULE}.IsolatedLauncher"
    timeout_minutes: Any = "${oc.select:hydra.sweeper.trial_minutes,null}"  # per job
    grace_seconds: float = 30.0  # that a job has to end in when it is told to stop
    show_output: bool = True


for _group, _name, _conf in (
    ("hydra/sweeper", "bit_axon", BitAxonSweeperConf),
    ("hydra/sweeper", "basic", BasicSweeperConf),
    ("hydra/launcher", "isolated", IsolatedLauncherConf),
):
    ConfigStore.instance().store(group=_group, name=_name, node=_conf, provider=_PROVIDER)


@dataclass
class BitAxonSweeper(SweepSettings, Sweeper):
    """Optuna asks for trials, the launcher runs them, each trial tells its own end."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it, once, before `sweep`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the study until it has its trials; `arguments` are the overrides of the command line."""
        from bit_axon.importing import imported_to_stay
        from bit_axon.origins import with_origins

        with imported_to_stay():
            from bit_axon.sweep.sweeper import run_sweep

        try:
            return run_sweep(self.settings(), arguments, self.launcher, self.config, self.hydra_context)
        except ConfigError as error:
            loader = self.hydra_context.config_loader
            raise with_origins(error, loader, self.config.hydra) from None

    def settings(self) -> dict[str, Any]:
        """`hydra.sweeper` as plain values; the study has a name, and a bare name stands for its options."""
        found = {member.name: getattr(self, member.name) for member in fields(SweepSettings)}
        found |= self._named({name: found[name] for name in ("sampler", "pruner")})
        choice = self.config.hydra.runtime.choices.get(_GROUP)
        return found | {
            "study_name": self.study_name or choice or "study",
            "params": {key: _override_value(value) for key, value in _flat(self.params).items()},
        }

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The sampler and the pruner, each with the options that were given for its name."""
        from bit_axon.sweep.config.chosen import chosen_options, merged_layers

        specs = {name: value for name, value in values.items() if isinstance(value, Mapping)}
        layers = tuple(merged_layers(self.hydra_context.config_loader, self.config.hydra)) if specs else ()
        found = {name: {"name": value} if isinstance(value, str) else value for name, value in values.items()}
        for name, value in specs.items():
            default = getattr(SweepSettings(), name)
            found[name] = chosen_options(f"hydra.sweeper.{name}", value, default, layers)
        return found


class BasicSweeper(basic_sweeper.BasicSweeper):
    """Hydra's own, for a grid; one that is refused leaves nothing behind."""

    def sweep(self, arguments: list[str]) -> Any:
        """Runs every combination; `arguments` are the overrides of the command line."""
        from bit_axon.sweep.unbegun import remove_unbegun

        try:
            return super().sweep(arguments)
        finally:
            assert self.config is not None
            remove_unbegun(Path(str(self.config.hydra.sweep.dir)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys with dots: on the command line `params.adapter.rank=...` nests, in a file it does not."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _override_value(value: Any) -> Any:
    """YAML reads `8`, `true` and `null` as what they are; an override is text. A list is no override."""
    words = {True: "true", False: "false", None: "null"}
    if isinstance(value, list):
        return value
    return words[value] if value is None or isinstance(value, bool) else str(value)


class IsolatedLauncher(Launcher):
    """One process per job: what a job leaks or breaks is gone with it."""

    def __init__(self, timeout_minutes: Any, grace_seconds: float, show_output: bool) -> None:
        self.timeout_minutes, self.grace_seconds, self.show_output = (
            timeout_minutes,
            grace_seconds,
            show_output,
        )

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it, once, before `launch`; a wrong option is known before anything is launched."""
        from bit_axon.sweep.launching.isolated import checked_limits

        self.hydra_context, self.config = hydra_context, config
        options = self._options()
        if self._has_sweepers_limit():
            del options["timeout_minutes"]
        checked_limits(options)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("timeout_minutes", "grace_seconds", "show_output")}

    def _has_sweepers_limit(self) -> bool:
        """The time limit is `hydra.sweeper.trial_minutes`, which is checked under that name."""
        limit = OmegaConf.select(self.config, "hydra.sweeper.trial_minutes")
        return limit is not None and limit == self.timeout_minutes

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs one after the other; see `bit_axon.sweep.launching.isolated.launch`."""
        from bit_axon.sweep.launching.isolated import checked_limits, launch

        limits = checked_limits(self._options())
        return launch(job_overrides, initial_job_idx, self.config, self.hydra_context, limits)


class SweepsSource(ConfigSource):
    """`bit_axon-sweeps://FOLDER`: the YAML files of a folder as the options of the group `sweep`."""

    @staticmethod
    def scheme() -> str:
        """The part of the URL before `://`."""
        return "bit_axon-sweeps"

    def load_config(self, config_path: str) -> ConfigResult:
        """The content of an option's file, and its header (`# @package _global_`)."""
        file = self._file(config_path)
        if file is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        header = self._get_header_dict(file.read_text(encoding="utf-8"))
        return ConfigResult(
            provider=self.provider, path=self.full_path(), config=OmegaConf.load(file), header=header
        )

    def available(self) -> bool:
        """Whether the folder is there."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """There is one group, below the root."""
        return config_path.rstrip("/") in ("", _GROUP) and self.available()

    def is_config(self, config_path: str) -> bool:
        """Whether there is a file for `sweep/NAME`."""
        return self._file(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The group in the root, the options in the group."""
        if config_path.rstrip("/") == _GROUP:
            files = sorted(Path(self.path).glob(f"*{_YAML}"))
            return [] if results_filter is ObjectType.GROUP else [file.stem for file in files]
        return [_GROUP] if self.is_group(config_path) and results_filter is not ObjectType.CONFIG else []

    def _file(self, config_path: str) -> Path | None:
        group, _, name = config_path.rpartition("/")
        file = Path(self.path, f"{name.removesuffix(_YAML)}{_YAML}")
        return file if group == _GROUP and name and file.is_file() else None


class SweepsSearchPath(SearchPathPlugin):
    """Puts `sweeps/` behind `conf/` and what the user gives with `--config-dir`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """As Hydra calls it at every start."""
        search_path.append(_PROVIDER, f"{SweepsSource.scheme()}://{data_dir('sweeps')}")
