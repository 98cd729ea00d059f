"""How a job's process is started: its folder, its command line, its environment."""

import os
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

import bit_axon
from bit_axon.composition import conf_dir
from bit_axon.origins import given_overrides
from bit_axon.stopping import LEAVES_AT_ONCE
from bit_axon.sweep.launching.child import DEADLINE, Limits

# Of the sweep's own overrides of Hydra's keys, these say how jobs are made and are none of theirs.
_SWEEP_KEYS: Final = (
    "hydra.mode",
    "hydra.run",
    "hydra.sweep",
    "hydra.sweeper",
    "hydra.launcher",
    "hydra/sweeper",
    "hydra/launcher",
    "hydra.job.num",
    "hydra.job.id",
)


def job_folder(job_config: DictConfig) -> Path:
    """Where Hydra would have put the job."""
    with as_hydra_config(job_config):
        parts = [str(OmegaConf.select(job_config, f"hydra.sweep.{key}")) for key in ("dir", "subdir")]
    return Path(os.path.abspath(os.path.join(*parts)))


@contextmanager
def as_hydra_config(config: DictConfig) -> Iterator[None]:
    """What `${hydra:...}` reads."""
    settings = HydraConfig.instance()
    before = settings.cfg
    settings.set_config(config)
    try:
        yield
    finally:
        settings.cfg = before


def job_command(
    hydra_context: HydraContext, job_config: DictConfig, overrides: Sequence[str], run_dir: Path
) -> list[str]:
    """How this process was started, for one job: the same config files, and its own overrides.

    Args:
        hydra_context: of the sweep.
        job_config: of the job, composed.
        overrides: of the job.
        run_dir: where it writes.
    """
    number = job_config.hydra.job.num
    of_hydra = given_overrides(job_config.hydra, "hydra")
    return [
        sys.executable,
        "-m",
        "bit_axon.run",
        *(override for override in of_hydra if not _is_of_the_sweep(override)),
        *overrides,
        f"hydra.run.dir={quoted(str(run_dir))}",
        f"hydra.job.num={number}",
        f"hydra.job.id={number}",
        *_config_flags(hydra_context, job_config.hydra.job.config_name),
    ]


def _config_flags(hydra_context: HydraContext, config_name: str) -> list[str]:
    """Flags that say where the config files are, as far as they are not the usual ones."""
    sources = hydra_context.config_loader.get_sources()
    folders = {source.provider: source.path for source in sources if source.scheme() == "file"}
    flags = [f"--config-name={config_name}"] if config_name != "config" else []
    if "command-line" in folders:
        flags.append(f"--config-dir={folders['command-line']}")
    if folders.get("main", conf_dir()) != conf_dir():
        flags.append(f"--config-path={folders['main']}")
    return flags


def _is_of_the_sweep(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return any(key == own or key.startswith(f"{own}.") for own in _SWEEP_KEYS)


def quoted(text: str) -> str:
    """A value of Hydra's grammar that comes back as `text`, whatever is in it."""
    return QuotedString(text.replace("${", "\\${"), Quote.single).with_quotes()


def job_environment(limits: Limits) -> dict[str, str]:
    """This process's, so that the child finds the same package and its lines come at once."""
    package_parent = str(Path(bit_axon.__file__).resolve().parents[1])
    installed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    paths = [os.environ.get("PYTHONPATH", "")]
    if package_parent not in installed:  # never site-packages: before the standard library it would shadow it
        paths.insert(0, package_parent)
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        LEAVES_AT_ONCE: "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    if limits.timeout_seconds is not None:
        environment[DEADLINE] = str(time.monotonic() + limits.timeout_seconds)
    return environment
