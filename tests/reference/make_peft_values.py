"""Records what PEFT computes for LoRA and DoRA, for `tests/test_lora.py` and `tests/test_dora.py`.

Run it in an environment of its own, with PyTorch and PEFT, from this folder:

    python make_peft_values.py

It writes `peft_values.npz`: float64 inputs and outputs of four cases (`lora`, `dora`, each with and
without bias), and the versions they were made with. Factors are stored in bit_axon's layout:
`a (input_dims, rank)`, `b (rank, output_dims)`.
"""

from pathlib import Path

import numpy as np
import peft
import torch

INPUT_DIMS, OUTPUT_DIMS, RANK, ALPHA = 16, 12, 3, 7.5
OUTPUT = Path(__file__).with_name("peft_values.npz")


class OneLayer(torch.nn.Module):
    """The least that PEFT will wrap."""

    def __init__(self, bias: bool):
        super().__init__()
        self.layer = torch.nn.Linear(INPUT_DIMS, OUTPUT_DIMS, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def record(use_dora: bool, bias: bool) -> dict[str, np.ndarray]:
    """Inputs, forward, merged weight and gradients of one case."""
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["layer"], use_dora=use_dora
    )
    model = peft.get_peft_model(OneLayer(bias), config).double()
    layer = model.base_model.model.layer
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    parameters = {"a": a, "b": b}
    if use_dora:
        parameters["m"] = layer.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        layer.base_layer.weight.copy_(torch.randn(OUTPUT_DIMS, INPUT_DIMS) / 4)
        a.copy_(torch.randn_like(a) / 4)
        b.copy_(torch.randn_like(b) / 4)
        if use_dora:
            parameters["m"].copy_(torch.rand(OUTPUT_DIMS) + 0.5)
    x = torch.randn(2, 5, INPUT_DIMS, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 5, OUTPUT_DIMS, dtype=torch.float64)
    y = model(x)
    y.backward(upstream)
    values = {name: value.detach() for name, value in parameters.items()}
    values |= {f"d{name}": value.grad for name, value in parameters.items()}
    values |= {"x": x.detach(), "dx": x.grad, "upstream": upstream, "y": y.detach()}
    values["w"] = layer.base_layer.weight.detach().clone()
    if bias:
        values["bias"] = layer.base_layer.bias.detach()
    merged = model.merge_and_unload().layer
    values["merged"] = merged.weight.detach()
    return {name: _transposed(name, value.numpy()) for name, value in values.items()}


def _transposed(name: str, value: np.ndarray) -> np.ndarray:
    return value.T if name in ("a", "b", "da", "db") else value


def main() -> None:
    """Writes the file."""
    torch.manual_seed(20)
    arrays: dict[str, np.ndarray] = {
        "scale": np.array(ALPHA / RANK),
        "versions": np.array([f"torch {torch.__version__}", f"peft {peft.__version__}"]),
    }
    for use_dora in (False, True):
        for bias in (False, True):
            case = f"{'dora' if use_dora else 'lora'}_{'bias' if bias else 'plain'}"
            arrays |= {f"{case}_{name}": value for name, value in record(use_dora, bias).items()}
    np.savez_compressed(OUTPUT, **arrays)
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
