"""Gradient checkpointing: blocks run again in the backward pass, instead of keeping all they computed.

No class and no model is changed. A view of the body shares all its layers, but makes each block a function
with a gradient of its own, of which only inputs and outputs are kept. Whatever a gradient goes to is an
input of it, as nothing else gets one: the block's trained parameters, the hidden states, and keys and
values that caches hold.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from bit_axon.backend import mx
from bit_axon.errors import ConfigError, problem
from bit_axon.models.modes import evaluating
from bit_axon.models.padded import logits_of

_PROBE_TOKENS: Final = 12
_TOLERANCES: Final = {mx.float32: 1e-5, mx.float16: 5e-3, mx.bfloat16: 4e-2}  # of the largest value
_Function: TypeAlias = Callable[[list[mx.array]], list[mx.array]]
_KEY: Final = "training.gradient_checkpointing"


@runtime_checkable
class Cache(Protocol):
    """A layer's key-value cache, as models of mlx-lm use it."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        """Keys and values to attend to."""


def checkpointed(body: nn.Module, vocab_size: int) -> Callable[..., Any]:
    """The body, or a whole model, with blocks that are run again in the backward pass.

    Args:
        body: its `layers`, or those of its `model`, are the blocks.
        vocab_size: ids that may be tried out.

    Raises:
        ConfigError: the blocks cannot be told apart, or the values are others.
    """
    view = _view(body)
    tokens = mx.random.randint(0, vocab_size, (1, _PROBE_TOKENS), key=mx.random.key(4))
    with evaluating(body):
        expected = logits_of(body(tokens))
        try:
            found = logits_of(view(tokens))
        except (TypeError, ValueError, AttributeError) as error:
            raise _refusal(f"one that fails with them: {error}") from error
    if found.shape != expected.shape:
        raise _refusal("one that gives other values with them")
    error_size, size = mx.max(mx.abs(found - expected)), mx.max(mx.abs(expected))
    if (error_size > _TOLERANCES[expected.dtype] * size).item():
        raise _refusal("one that gives other values with them")
    return view


def _view(module: nn.Module) -> Any:
    own = {name: value for name, value in module.items() if name != "layers"}
    leaves = tree_flatten(own, is_leaf=lambda value: isinstance(value, nn.Module))
    arrays = [name for name, leaf in leaves if isinstance(leaf, mx.array)]
    if arrays:
        raise _refusal(f"one with arrays beside them ({', '.join(arrays)})")
    view: Any = copy.copy(module)
    blocks, inner = module.get("layers"), module.get("model")
    if isinstance(blocks, list) and all(isinstance(block, nn.Module) for block in blocks):
        view["layers"] = [_Block(block) for block in blocks]
    elif isinstance(inner, nn.Module):
        view["model"] = _view(inner)
    else:
        raise _refusal("one without a list of layers")
    return view


def _refusal(got: str) -> ConfigError:
    wanted = f"{_KEY}: a model whose blocks can be run again"
    return ConfigError(problem(wanted, got, f"Set {_KEY}=false.", where=_KEY), keys=(_KEY,))


class _Dropout(NamedTuple):
    """A dropout layer's place."""

    owner: nn.Module
    name: str
    layer: nn.Dropout


class _Block:
    """Stands in for a block, which is run again for its gradients."""

    def __init__(self, block: nn.Module):
        self._block = block
        self._dropouts = [
            _Dropout(owner, name, layer)
            for owner in block.modules()
            for name, layer in owner.items()
            if isinstance(layer, nn.Dropout)
        ]

    def __getattr__(self, name: str) -> Any:
        """Bodies ask blocks for what they are, such as whether their attention is a window."""
        return getattr(self._block, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The block's output; every model has its own arguments, so they are taken as they come."""
        block, keys = self._block, self._keys()
        parameters = tree_flatten(block.trainable_parameters())
        names, before = [name for name, _ in parameters], [value for _, value in parameters]
        arrays = _arrays((arguments, options))
        given = _with_arrays((arguments, options), iter(arrays))  # caches as they are now, for both runs
        seen: list[Any] = []  # the output of the first run, and by number the caches that it wrote to

        def run(inputs: list[mx.array]) -> list[mx.array]:
            own_arguments, own_options = _with_arrays(given, iter(inputs[len(names) :]))
            _update(block, names, inputs[: len(names)])
            try:
                with _drawing(keys):
                    output = block(*own_arguments, **own_options)
            finally:
                _update(block, names, before)
            caches = enumerate(_caches((own_arguments, own_options)))
            result = output, {number: cache for number, cache in caches if _is_written(cache, inputs)}
            if not seen:
                seen.append(result)
            return _arrays(result)

        found = iter(_run_again(run, len(names))(before + arrays))
        output, written = seen[0]
        seen[0] = None  # the function outlives this call, and these arrays should not
        output = _with_arrays(output, found)
        caches = _caches((arguments, options))
        for number, used in written.items():
            vars(caches[number]).update(_with_arrays(vars(used), found))
        return output

    def _keys(self) -> list[tuple[_Dropout, mx.array]]:
        """Random keys for the dropout layers at work: drawn here, so that both runs drop the same."""
        active = [place for place in self._dropouts if place.layer.training and place.layer._p_1 < 1]
        if not active:
            return []
        keys = mx.random.randint(0, 2**31 - 1, (len(active), 2)).astype(mx.uint32)
        return list(zip(active, keys, strict=True))


def _update(block: nn.Module, names: list[str], values: list[mx.array]) -> None:
    block.update(tree_unflatten(list(zip(names, values, strict=True))))


def _run_again(run: _Function, parameters: int) -> _Function:
    """The function, run again for its gradients; of its inputs, the first are parameters.

    `mx.checkpoint` would leave it open when the parameters' gradients are computed, and all that they
    need of every block would be kept until then. Here what goes back to the block before waits for them.
    """
    function: Any = mx.custom_function(run)

    @function.vjp
    def backward(
        inputs: list[mx.array], cotangents: list[mx.array], outputs: list[mx.array]
    ) -> list[mx.array]:
        _, slopes = mx.vjp(lambda *again: run(list(again)), mx.depends(inputs, cotangents), cotangents)
        own, passed_on = slopes[:parameters], slopes[parameters:]
        return own + (mx.depends(passed_on, own) if own and passed_on else passed_on)

    wrapped: _Function = function
    return wrapped


class _KeyedDropout(nn.Module):
    """Dropout of what a key says."""

    def __init__(self, layer: nn.Dropout, key: mx.array):
        super().__init__()
        self._kept_share, self._key = layer._p_1, key

    def __call__(self, x: mx.array) -> mx.array:
        kept = mx.random.bernoulli(self._kept_share, x.shape, key=self._key)
        return (kept * x) * (1 / self._kept_share)


@contextmanager
def _drawing(keys: list[tuple[_Dropout, mx.array]]) -> Iterator[None]:
    """Dropout layers draw from these keys within the block."""
    for place, key in keys:
        place.owner[place.name] = _KeyedDropout(place.layer, key)
    try:
        yield
    finally:
        for place, _ in keys:
            place.owner[place.name] = place.layer


def _arrays(tree: Any) -> list[mx.array]:
    """The floating-point arrays of arguments, those that caches hold included."""
    if isinstance(tree, mx.array):
        return [tree] if mx.issubdtype(tree.dtype, mx.floating) else []
    return [array for part in _parts(tree) for array in _arrays(part)]


def _caches(tree: Any) -> list[Any]:
    """The caches among arguments."""
    if isinstance(tree, Cache):
        return [tree]
    return [] if isinstance(tree, mx.array) else [cache for part in _parts(tree) for cache in _caches(part)]


def _is_written(cache: Any, inputs: list[mx.array]) -> bool:
    """Whether a run has put arrays of its own into a cache."""
    return any(all(array is not given for given in inputs) for array in _arrays(cache))


def _parts(tree: Any) -> list[Any]:
    if isinstance(tree, Cache):
        return list(vars(tree).values())
    if isinstance(tree, dict):
        return list(tree.values())
    return list(tree) if isinstance(tree, list | tuple) else []


def _with_arrays(tree: Any, arrays: Iterator[mx.array]) -> Any:
    """The same with other arrays in the places that `_arrays` finds; caches are copies."""
    if isinstance(tree, mx.array):
        return next(arrays) if mx.issubdtype(tree.dtype, mx.floating) else tree
    if isinstance(tree, Cache):
        made = copy.copy(tree)
        vars(made).update(_with_arrays(vars(tree), arrays))
        return made
    if isinstance(tree, dict):
        return {name: _with_arrays(value, arrays) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([_with_arrays(value, arrays) for value in tree])
    return tree
