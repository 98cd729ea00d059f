"""Training methods: one small final class each, chosen by `method.name`.

A method says what an example is (`kind`) and computes sums; the loop adds the sums over micro-batches
and divides once, so four micro-batches equal one batch. To add one: a file here, its class in
`METHODS`, and `conf/method/NAME.yaml`.
"""

from collections.abc import Mapping
from typing import Any

from bit_axon.errors import ConfigError, problem
from bit_axon.training.methods.base import LossSums, Method
from bit_axon.training.methods.orpo import Orpo
from bit_axon.training.methods.pretrain import Pretrain
from bit_axon.training.methods.sft import Sft
from bit_axon.validation import check, nearest

METHODS: dict[str, type[Method]] = {"sft": Sft, "orpo": Orpo, "pretrain": Pretrain}

__all__ = ["METHODS", "LossSums", "Method", "build_method"]


def build_method(values: Mapping[str, Any]) -> Method:
    """The method a config's `method` node describes.

    Raises:
        ConfigError: no such method, or a key, type or value its class does not allow.
    """
    name = values.get("name")
    if not isinstance(name, str) or name not in METHODS:
        hint = nearest(str(name), METHODS)
        raise ConfigError(problem("the name of a method", repr(name), hint, where="method.name"))
    return check(METHODS[name], values, path="method")
