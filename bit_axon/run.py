"""`python -m bit_axon.run`: one run, or several with `-m`, composed by Hydra.

Only Hydra is imported here; the rest follows when a run starts, so `--help` is quick.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bit_axon.cli.failures import report_failure
from bit_axon.composition import (
    CONFIG_ERRORS,
    conf_dir,
    explained,
    plain_values,
    register_resolvers,
    with_free_tags,
)
from bit_axon.errors import BitAxonError, ConfigError, StorageError, problem
from bit_axon.help import asks_for_help, show_help
from bit_axon.origins import composed_files, origin
from bit_axon.stopping import EXIT_INTERRUPTED

_RESUME = "resume="


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for and returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        arguments = _in_hydras_order(given)
        if asks_for_help(arguments):
            show_help(arguments)
            return 0
        folder = _run_to_resume(arguments)
        return _compose_and_run(arguments) if folder is None else _resume(folder, arguments)
    except BrokenPipeError:  # `--help | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        return 0
    except CONFIG_ERRORS as error:
        return report_failure(explained(error))
    except (Exception, KeyboardInterrupt) as error:
        return report_failure(error)


def _in_hydras_order(given: Sequence[str]) -> list[str]:
    """Overrides first: Hydra's parser refuses an override behind a flag that follows another override."""
    overrides = [a for a in given if "=" in a and not a.startswith("-")]
    flags = [a for a in given if "=" not in a or a.startswith("-")]
    return [*with_free_tags(overrides), *flags]


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

    def job(config: DictConfig) -> Any:
        if EXIT_INTERRUPTED in exit_codes:  # a stop is meant for the whole grid
            _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            return None
        code, objective = _job(config)
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
    return max(exit_codes, default=0)


def _job(config: DictConfig) -> tuple[int, float | None]:
    """One run; whatever goes wrong in it becomes a message and an exit code, here, before Hydra sees it."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    try:
        return _run_one(config, settings, folder)
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


def _run_one(config: DictConfig, settings: Any, folder: Path) -> tuple[int, float | None]:
    from bit_axon.launch import execute
    from bit_axon.outcome import exit_code
    from bit_axon.provenance import Command

    command = Command(
        argv=tuple(sys.argv),
        choices={str(group): option for group, option in settings.runtime.choices.items()},
        overrides=tuple(_overrides(settings)),
    )
    values = plain_values(config)
    result = execute(values, folder, command, on_ready=lambda: _save_hydra_files(folder, config, settings))
    return exit_code(result), result.get("eval_loss_best")


def _with_origins(error: ConfigError, settings: Any) -> ConfigError:
    """The message, and for each key it is about the override or the line of a file that set it."""
    loader = GlobalHydra.instance().config_loader()
    overrides = _overrides(settings)
    files = composed_files(loader, settings.job.config_name, overrides)
    found = [origin(key, files, overrides, settings.runtime.choices) for key in error.keys]
    return ConfigError("\n  ".join([str(error), *(line for line in found if line)]), error.keys)


def _overrides(settings: Any) -> list[str]:
    """As they were given: a `${...}` in one is for the run's config, not for Hydra's."""
    overrides = OmegaConf.to_container(settings.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return [str(override) for override in overrides]


def _unwritable(error: OSError) -> StorageError:
    place = f"{error.filename}: " if error.filename else ""
    reason = f"{place}{(error.strerror or str(error)).lower()}"
    remedy = "Free some space, make the folder writable, or set BIT_AXON_OUTPUTS to another one."
    return StorageError(problem("a writable outputs folder", reason, remedy))


def _remove_if_empty(folder: Path) -> None:
    """Hydra made the folder before the config was checked."""
    try:
        folder.rmdir()
    except OSError:
        return


def _save_hydra_files(folder: Path, config: DictConfig, settings: Any) -> None:
    """`.hydra/`, as Hydra writes it, once the config is known to be right."""
    target = folder / ".hydra"
    target.mkdir(exist_ok=True)
    OmegaConf.save(config, target / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": settings}), target / "hydra.yaml")
    OmegaConf.save(OmegaConf.create(_overrides(settings)), target / "overrides.yaml")


if __name__ == "__main__":
    sys.exit(main())
