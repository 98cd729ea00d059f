"""Makes the plugins in `_plugins/` known to Hydra, in a clone, an editable install and a wheel alike."""

import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

from hydra.core.plugins import Plugins

import bit_axon
from bit_axon.errors import ConfigError, nearest, problem

SWEEPER: Final = "hydra.sweeper."
_MODULE: Final = "hydra_plugins.bit_axon_sweeps"


def register_plugins() -> None:
    """Puts the folder of our `hydra_plugins` on the path, whether Hydra has looked for plugins or not."""
    folder = str(Path(bit_axon.__file__).resolve().parent / "_plugins")
    if folder not in sys.path:
        sys.path.append(folder)
    plugins = Plugins.instance()  # looks for them, the first time
    if f"{_MODULE}.BitAxonSweeper" in plugins.class_name_to_class:
        return
    module = _module()
    for plugin in (module.BitAxonSweeper, module.BasicSweeper, module.IsolatedLauncher, module.SweepsSource):
        plugins.register(plugin)
    plugins.register(module.SweepsSearchPath)


def unknown_setting(key: str) -> ConfigError:
    """`hydra.sweeper.KEY` is not there: it is no key of any sweeper, or another sweeper is chosen."""
    known = [f"{SWEEPER}{member.name}" for member in fields(_module().SweepSettings)]
    if key in known:
        got, remedy = "another sweeper", "Choose a search with sweep=NAME, or hydra/sweeper=bit_axon."
        return ConfigError(problem(f"hydra/sweeper=bit_axon for {key}", got, remedy))
    return ConfigError(f"unknown key '{key}'. {nearest(key, known)}", [key])


def _module() -> ModuleType:
    return import_module(_MODULE)
