"""What Hydra refuses of `hydra.sweeper.*` on the command line, in words that say what to write."""

import re
from typing import Final

from bit_axon.errors import ConfigError, problem
from bit_axon.sweep.plugins import SWEEPER, unknown_setting
from bit_axon.tracking.redaction import without_secrets

_SEVERAL: Final = re.compile(r"Sweeping over Hydra's configuration is not supported : '\+*([^=]+)=(.*)'")
_WRONG_SHAPE: Final = re.compile(r"Error merging override \+*(hydra\.sweeper\.(\w+))=(.*)")
_NO_SETTING: Final = re.compile(r"(?:Basic|BitAxon)Sweeper.*unexpected keyword argument '(\w+)'", re.DOTALL)
_SHAPES: Final = {
    "objectives": ("a list of metrics", "[{metric: eval_loss_best, direction: minimize}]"),
    "params": ("values by key", "{adapter.rank: 'choice(4,8)'}"),
    "constraints": ("limits by figure", "{seconds: 600}"),
    "cooldown": ("options", "{enabled: false}"),
}


def refused_setting(text: str) -> ConfigError | None:
    """Hydra's message about one of its keys as ours; None when it is about something else."""
    if found := _SEVERAL.search(text):
        return _several(*found.groups())
    if (found := _WRONG_SHAPE.search(text)) and found[2] in _SHAPES:
        key, name, value = found.groups()
        wanted, example = _SHAPES[name]
        remedy = f"For example '{key}={example}'."
        return ConfigError(problem(wanted, f"'{value}'", remedy, where=key), [key])
    if found := _NO_SETTING.search(text):
        return unknown_setting(f"{SWEEPER}{found[1]}")
    return None


def _several(key: str, values: str) -> ConfigError:
    values = without_secrets(f"{key}={values}").removeprefix(f"{key}=")  # a password with a comma
    params = f"{SWEEPER}params."
    if key.startswith(params):
        remedy = f"Write the key itself: '{key.removeprefix(params)}={values}'."
    else:
        remedy = f"Choose one, or quote a value that holds commas: \"{key}='{values}'\"."
    return ConfigError(problem(f"one value for {key}", f"'{values}', which is several", remedy), [key])
