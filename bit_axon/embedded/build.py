"""Rebuild what the package ships: `python -m bit_axon.embedded.build demo | tokenizer | export RUN_DIR`."""

import argparse
import json
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import load_file, save

from bit_axon.embedded import demo, vocabulary
from bit_axon.embedded.sources import ASSETS, DEMO_NAMES, nano_path
from bit_axon.errors import BitAxonError, ModelError, problem
from bit_axon.files import write_atomic

ADAPTERS_FILE: Final = "adapters.safetensors"


def demo_text(name: str) -> str:
    """The text of one demo file: a JSON object per line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in demo.rows(name))


def build_demo() -> None:
    """Write both demo files; the same bytes every time."""
    for name in DEMO_NAMES:
        write_atomic(ASSETS / f"{name}.jsonl", demo_text(name))


def build_tokenizer() -> None:
    """Train the tokenizer again and write its two files; the same bytes every time."""
    write_atomic(nano_path() / "tokenizer.json", vocabulary.train_tokenizer().to_str(pretty=False) + "\n")
    write_atomic(nano_path() / "tokenizer_config.json", vocabulary.tokenizer_config())


def export(run_dir: Path, model_folder: Path) -> None:
    """Turn the weights of a finished full run (`adapter=none`) into the float16 file of `model_folder`.

    Raises ModelError when the run holds no weights, or not those of the folder's config.
    """
    source = run_dir / ADAPTERS_FILE
    if not source.is_file():
        raise ModelError(
            problem(f"a finished run with {ADAPTERS_FILE}", str(run_dir), "Name a run directory.")
        )
    weights = {name: values.astype(np.float16) for name, values in sorted(load_file(source).items())}
    _check_layers(weights, source, model_folder)
    write_atomic(model_folder / "model.safetensors", save(weights, metadata={"format": "mlx"}))


def _check_layers(weights: dict[str, np.ndarray], source: Path, model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    embedding = weights.get("model.embed_tokens.weight")
    wanted = (config["vocab_size"], config["hidden_size"])
    layers = {name.split(".")[2] for name in weights if name.startswith("model.layers.")}
    if embedding is None or embedding.shape != wanted or len(layers) != config["num_hidden_layers"]:
        got = f"{len(layers)} layers, embedding {None if embedding is None else embedding.shape}"
        raise ModelError(
            problem(
                f"{config['num_hidden_layers']} layers, embedding {wanted}",
                got,
                "Export a run of `+experiment=pretrain_nano`.",
                where=str(source),
            )
        )


def main() -> None:
    """Run the command named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bit_axon.embedded.build", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="generate the demo rows")
    commands.add_parser("tokenizer", help="train the tokenizer")
    commands.add_parser("export", help="take the weights of a run").add_argument("run_dir", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "export":
            export(arguments.run_dir, nano_path())
        elif arguments.command == "demo":
            build_demo()
        else:
            build_tokenizer()
    except BitAxonError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
