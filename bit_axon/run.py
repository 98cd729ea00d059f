"""`python -m bit_axon.run`: one run, or several with `-m`, composed by Hydra.

Only Hydra is imported here; the rest follows when a run starts, so `--help` is quick.
"""

import copy
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bit_axon.cli.failures import report_failure
from bit_axon.composition import (
    CONFIG_ERRORS,
    SWEEP_GROUP,
    conf_dir,
    explained,
    plain_values,
    register_resolvers,
    with_free_tags,
    without_secrets,
)
from bit_axon.errors import BitAxonError, ConfigError, StorageError, problem
from bit_axon.files import write_atomic
from bit_axon.help import asks_for_help, show_help
from bit_axon.importing import imported_to_stay
from bit_axon.origins import given_overrides, with_origins
from bit_axon.stopping import EXIT_INTERRUPTED, leave

if TYPE_CHECKING:
    from bit_axon.sweep.reporting.ledger import State

_RESUME = "resume="
_ONE_OF_SEVERAL = ("hydra.job.num=", "hydra.mode=")  # given by a launcher, or instead of -m
_CONFIG_FLAGS = ("--config-", "-cd", "-cn", "-cp", "--run", "-r")  # the others show something, and end
_SEVERAL_RUNS = ("-m", "--multirun")
_SIGNS_OF_SEVERAL = (",", "(", "[")
_STORAGE = "sweeper.storage"  # a database's address; it may hold a password


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for and returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        arguments = _in_hydras_order(given)
        if asks_for_help(arguments):
            show_help(arguments)
            return 0
        _refuse_search_without_flag(arguments)
        _refuse_several_searches(arguments)
        folder = _run_to_resume(arguments)
        return _compose_and_run(arguments) if folder is None else _resume(folder, arguments)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        return 0 if _only_shows(given) else report_failure(_unread())  # `--help | head`
    except CONFIG_ERRORS as error:
        return report_failure(explained(error))
    except (Exception, KeyboardInterrupt) as error:
        return report_failure(error)


def _in_hydras_order(given: Sequence[str]) -> list[str]:
    """Overrides first: Hydra's parser refuses an override behind a flag that follows another override."""
    overrides = [a for a in given if a.startswith("~") or ("=" in a and not a.startswith("-"))]
    rest = [a for a in given if a not in overrides]  # flags, and what belongs to one: --config-dir DIR
    return [*with_free_tags(overrides), *rest]


def _refuse_search_without_flag(arguments: Sequence[str]) -> None:
    """`sweep=NAME` alone would run once, with the config's defaults, and look like a search."""
    named = [a for a in arguments if a.startswith(f"{SWEEP_GROUP}=") and a != f"{SWEEP_GROUP}=null"]
    flags = _flags(arguments)
    if named and not flags and not any(a.startswith(_ONE_OF_SEVERAL) for a in arguments):
        raise ConfigError(problem(f"-m with {named[-1]}", "one run", f"Search with -m {named[-1]}."))


def _flags(arguments: Sequence[str]) -> list[str]:
    """`-m`, and those that show something; not those that say where the config is."""
    return [a for a in arguments if a.startswith("-") and not a.startswith(_CONFIG_FLAGS)]


def _only_shows(arguments: Sequence[str]) -> bool:
    return any(flag not in _SEVERAL_RUNS for flag in _flags(arguments))


def _refuse_several_searches(arguments: Sequence[str]) -> None:
    """Hydra would run each of them once, with the config's defaults."""
    for override in arguments:
        key, _, value = override.lstrip("+").partition("=")
        if key == SWEEP_GROUP and any(sign in value for sign in _SIGNS_OF_SEVERAL):
            got = f"{override}, which is several"
            raise ConfigError(problem("one search", got, "Start each with a command of its own."))


def _run_to_resume(arguments: Sequence[str]) -> str | None:
    given = [a.removeprefix(_RESUME) for a in arguments if a.startswith(_RESUME)]
    return given[-1] if given and given[-1] not in ("null", "") else None


def _resume(folder: str, arguments: Sequence[str]) -> int:
    from bit_axon.resuming import resume_run

    flags = [a for a in arguments if a.startswith("-")]
    if flags:
        got = f"{' '.join(flags)} beside it"
        raise ConfigError(problem("resume=RUN_DIR on its own", got, "Leave the flag out."))
    overrides = [a for a in arguments if not a.startswith(_RESUME)]
    return resume_run(Path(folder), overrides)


def _compose_and_run(arguments: Sequence[str]) -> int:
    """Hydra parses the arguments, composes, and calls the job once per combination."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, where they become one message
    register_resolvers()
    exit_codes: list[int] = []
    grids: dict[Path, dict[str, Any]] = {}  # folder, and where its jobs are mirrored to
    begun: dict[int, list[str]] = {}  # jobs of a grid, with their overrides

    def job(config: DictConfig) -> Any:
        if EXIT_INTERRUPTED in exit_codes:  # a stop is meant for the whole grid
            _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            return None
        if (folder := _folder_of_the_grid(config)) is not None:
            grids[folder] = plain_values(config.tracking)
            settings = HydraConfig.get()
            begun[int(settings.job.num)] = given_overrides(settings, "task")
        code, objective = _job(config, begun)
        if code == EXIT_INTERRUPTED or not _is_trial_of_this_process(config):
            exit_codes.append(code)
        return objective

    entry = hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")(job)
    saved, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        entry()
    except CONFIG_ERRORS:  # some are OSErrors too
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from error
    finally:
        sys.argv = saved
        _end_grids(grids, begun, max(exit_codes, default=1))
    return max(exit_codes, default=0)


def _folder_of_the_grid(config: DictConfig) -> Path | None:
    """Of a job that `-m` started without a search, in this process."""
    settings = HydraConfig.get()
    if settings.mode is not RunMode.MULTIRUN or config.get("trial"):
        return None
    return Path(str(settings.sweep.dir)).resolve()


def _end_grids(
    grids: Mapping[Path, dict[str, Any]], begun: Mapping[int, Sequence[str]], exit_code: int
) -> None:
    """The reports; there is none before a job had a right config."""
    if not grids:
        return
    from bit_axon.sweep.reporting.grid_end import end_grid
    from bit_axon.sweep.reporting.ledger import Job

    state: State = "failed" if exit_code else "finished"
    jobs = [Job(number, tuple(overrides)) for number, overrides in begun.items()]
    for folder, tracking in grids.items():
        end_grid(folder, tracking, "interrupted" if exit_code == EXIT_INTERRUPTED else state, jobs)


def _is_trial_of_this_process(config: DictConfig) -> bool:
    """A trial run by the search itself: it may fail, and the study has been told."""
    return bool(config.get("trial")) and HydraConfig.get().mode is RunMode.MULTIRUN


def _job(config: DictConfig, begun: Mapping[int, Sequence[str]]) -> tuple[int, float | None]:
    """One run; whatever goes wrong in it becomes a message and an exit code, here, before Hydra sees it."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    try:
        return _run_one(config, settings, folder, begun)
    except CONFIG_ERRORS as error:
        failure: BaseException = _with_origins(explained(error), settings)
    except ConfigError as error:
        failure = _with_origins(error, settings)
    except BitAxonError as error:
        failure = error
    except OSError as error:
        failure = _unwritable(error)
    except (Exception, KeyboardInterrupt) as error:
        failure = error
    _remove_if_empty(folder)
    return report_failure(failure), None


def _run_one(
    config: DictConfig, settings: Any, folder: Path, begun: Mapping[int, Sequence[str]]
) -> tuple[int, float | None]:
    with imported_to_stay():
        from bit_axon.launch import execute
        from bit_axon.outcome import exit_code
        from bit_axon.provenance import Command
        from bit_axon.sweep.reporting.ledger import Job, tell
        from bit_axon.tracking.parent import declare_parent

    command = Command(
        argv=tuple(map(without_secrets, sys.argv)),
        choices={str(group): option for group, option in settings.runtime.choices.items()},
        overrides=tuple(given_overrides(settings, "task")),
    )
    values = plain_values(config)

    def on_ready() -> None:
        _save_hydra_files(folder, config, settings)
        if (grid := _folder_of_the_grid(config)) is not None:
            declare_parent(grid, grid.name, "grid")
            tell(grid, "running", [Job(number, tuple(given)) for number, given in begun.items()])

    result = execute(values, folder, command, on_ready=on_ready)
    return exit_code(result), result.get("eval_loss_best")


def _with_origins(error: ConfigError, settings: Any) -> ConfigError:
    return with_origins(error, GlobalHydra.instance().config_loader(), settings)


def _unwritable(error: OSError) -> StorageError:
    place = f"{error.filename}: " if error.filename else ""
    reason = f"{place}{(error.strerror or str(error)).lower()}"
    remedy = "Free some space, make the folder writable, or set BIT_AXON_OUTPUTS to another one."
    return StorageError(problem("a writable outputs folder", reason, remedy))


def _unread() -> BitAxonError:
    remedy = "Start it again without the pipe, or with its output in a file."
    return BitAxonError(problem("a reader of what is printed", "a pipe that was closed", remedy))


def _remove_if_empty(folder: Path) -> None:
    """Hydra made the folder before the config was checked."""
    try:
        folder.rmdir()
    except OSError:
        return


def _save_hydra_files(folder: Path, config: DictConfig, settings: Any) -> None:
    """`.hydra/`, as Hydra writes it, once the config is known to be right."""
    files = {
        "config": config,
        "hydra": _without_storage(HydraConfig.instance().cfg),
        "overrides": OmegaConf.create(given_overrides(settings, "task")),
    }
    for name, values in files.items():
        write_atomic(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(values))


def _without_storage(config: Any) -> DictConfig:
    """The config's `hydra` node as it may be kept in a file; copied only where there is something to hide."""
    storage, given = OmegaConf.select(config.hydra, _STORAGE), given_overrides(config.hydra, "hydra")
    shown = [without_secrets(override) for override in given]
    if shown == list(given) and not isinstance(storage, str):
        return config
    kept = copy.deepcopy(config)
    OmegaConf.set_readonly(kept.hydra, False)
    if isinstance(storage, str):
        OmegaConf.update(kept.hydra, _STORAGE, without_secrets(storage))
    kept.hydra.overrides.hydra = shown
    return kept


if __name__ == "__main__":
    leave(main())
