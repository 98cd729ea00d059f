"""The second half of a decoder block: gated linear units written out, anything else through autodiff."""

from typing import Any, Final, Protocol, TypeAlias

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from bit_axon.backend import mx
from bit_axon.models.cpu.kernels import swiglu, swiglu_backward
from bit_axon.models.cpu.linears import Gradients, Kept, LinearPass, linear_pass
from bit_axon.models.cpu.streams import Steps

_GATED: Final = ("gate_proj", "up_proj", "down_proj")

MlpKept: TypeAlias = tuple[Kept, ...]


class MlpPass(Protocol):
    """The two passes of an MLP; arrays are `(N, hidden)`."""

    names: frozenset[str]  # of the parameters it gives gradients of
    linears: tuple[LinearPass, ...]  # that it is made of

    def forward(self, x: mx.array) -> Steps[tuple[mx.array, MlpKept]]:
        """The output, and what is kept."""

    def backward(
        self, x: mx.array, kept: MlpKept, cotangent: mx.array, gradients: Gradients
    ) -> Steps[mx.array]:
        """The input's gradient; parameters' own are put into `gradients`."""


class GatedPass:
    """`down(silu(gate(x)) * up(x))` (SwiGLU, Shazeer 2020); the product is made again going back."""

    def __init__(self, gate: LinearPass, up: LinearPass, down: LinearPass):
        self._gate, self._up, self._down = gate, up, down
        self.names = gate.names | up.names | down.names
        self.linears: tuple[LinearPass, ...] = (gate, up, down)

    def forward(self, x: mx.array) -> Steps[tuple[mx.array, MlpKept]]:
        """The output; raw products of the three layers are kept."""
        gate, up = self._gate.forward(x), self._up.forward(x)
        yield gate.raw, up.raw
        down = self._down.forward(swiglu(self._gate.output(gate.raw), self._up.output(up.raw)))
        return self._down.output(down.raw), (gate, up, down)

    def backward(
        self, x: mx.array, kept: MlpKept, cotangent: mx.array, gradients: Gradients
    ) -> Steps[mx.array]:
        """The input's gradient."""
        gate, up, down = kept
        gate_output, up_output = self._gate.output(gate.raw), self._up.output(up.raw)
        # The layer behind the product needs it for its own gradient, and gives the product's.
        product = swiglu(gate_output, up_output)
        slope = self._down.backward(product, down, cotangent, gradients)
        yield slope
        of_gate, of_up = swiglu_backward(gate_output, up_output, slope)
        yield of_gate, of_up
        through_gate = self._gate.backward(x, gate, of_gate, gradients)
        yield through_gate
        return through_gate + self._up.backward(x, up, of_up, gradients)


class ModulePass:
    """Any module, by autodiff; the forward pass is repeated going back.

    Args:
        module: maps `(1, N, hidden)` to the same.
        path: in the model.
    """

    def __init__(self, module: nn.Module, path: str):
        self._module = module
        self._parameters = [name for name, _ in tree_flatten(module.trainable_parameters())]
        self._path = path
        self.names = frozenset(f"{path}.{name}" for name in self._parameters)
        self.linears: tuple[LinearPass, ...] = ()

    def forward(self, x: mx.array) -> Steps[tuple[mx.array, MlpKept]]:
        """The output; nothing is kept."""
        output: mx.array = self._module(x[None])[0]
        yield output
        return output, ()

    def backward(
        self, x: mx.array, kept: MlpKept, cotangent: mx.array, gradients: Gradients
    ) -> Steps[mx.array]:
        """The input's gradient."""
        own = self._module.trainable_parameters()
        flat = [array for _, array in tree_flatten(own)]

        def run(x: mx.array, *parameters: mx.array) -> Any:
            self._module.update(tree_unflatten(list(zip(self._parameters, parameters, strict=True))))
            return self._module(x[None])[0]

        _, (slope, *slopes) = mx.vjp(run, [x, *flat], [cotangent])
        self._module.update(own)  # the tracers of the gradient must not stay behind
        gradients.update((f"{self._path}.{n}", g) for n, g in zip(self._parameters, slopes, strict=True))
        found: mx.array = slope
        yield found
        return found


def mlp_pass(module: nn.Module, path: str) -> MlpPass | None:
    """Written-out passes where the module holds a gated unit's three layers alone, else autodiff.

    Whether the unit's gate is a SiLU is found out by the trial of the whole block. None where autodiff would
    drop other inputs when it repeats the forward pass.
    """
    if set(module) == set(_GATED):
        gate, up, down = (linear_pass(module[name], f"{path}.{name}") for name in _GATED)
        if gate is not None and up is not None and down is not None:
            return GatedPass(gate, up, down)
    if any(isinstance(layer, nn.Dropout) and layer._p_1 < 1 for layer in module.modules()):
        return None
    return ModulePass(module, path)
