"""Checkpoints: what a run needs to go on as if it had not been cut, written whole or not at all.

step_00000050/adapters.safetensors          trained parameters
step_00000050/optimizer_state.safetensors   moments, step count
step_00000050/training_state.json           step, loss, position in the data, metrics
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from bit_axon.backend import mx
from bit_axon.errors import ModelError, problem
from bit_axon.files import storage_error, write_json_atomic
from bit_axon.training.adapters import adapter_parameters, load_adapter
from bit_axon.training.tensors import load_tensors, save_tensors

ADAPTERS = "adapters.safetensors"
OPTIMIZER = "optimizer_state.safetensors"
STATE = "training_state.json"
_NAME = re.compile(r"step_(\d{8,})")


def save_checkpoint(
    model: nn.Module,
    optimizer: optim.Optimizer,
    step: int,
    loss: float,
    output_dir: str | Path,
    *,
    state: Mapping[str, Any] | None = None,
    keep: int = 3,
) -> Path:
    """Saves a checkpoint into `output_dir/step_XXXXXXXX` and deletes the oldest beyond `keep`.

    The folder appears under its name only when it is whole.

    Raises:
        StorageError: the disk is full or not writable; older checkpoints are untouched.
    """
    folder = Path(output_dir)
    final = folder / f"step_{step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        save_tensors(temporary / ADAPTERS, adapter_parameters(model))
        save_tensors(temporary / OPTIMIZER, dict(tree_flatten(optimizer.state)))
        write_json_atomic(temporary / STATE, {"step": step, "loss": loss, **(state or {})})
        replaced = folder / f".{final.name}.{os.getpid()}.old"
        if final.is_dir():
            os.rename(final, replaced)
        os.rename(temporary, final)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise storage_error(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _rotate(folder, newest=final, keep=keep)
    return final


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    folder = Path(output_dir)
    _recover(folder)
    found = [p for p in folder.glob("step_*") if _NAME.fullmatch(p.name) and (p / STATE).is_file()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step_")))


def get_latest_checkpoint(output_dir: str | Path) -> Path | None:
    """The checkpoint with the highest step, or None."""
    found = checkpoints(output_dir)
    return found[-1] if found else None


def load_checkpoint(
    model: nn.Module, optimizer: optim.Optimizer, checkpoint: str | Path
) -> tuple[int, float]:
    """Restores trained parameters and optimizer state; returns the step and its loss.

    Raises:
        ModelError: a file is missing or damaged, or belongs to another model or adapter.
    """
    folder = Path(checkpoint)
    try:
        return _restore(model, optimizer, folder)
    except ModelError as error:
        hint = f"To go on from the checkpoint before it, delete {folder}."
        raise ModelError(f"{error}\n  {hint}") from None


def _restore(model: nn.Module, optimizer: optim.Optimizer, folder: Path) -> tuple[int, float]:
    state = read_state(folder)
    load_adapter(model, folder / ADAPTERS)
    arrays = load_tensors(folder / OPTIMIZER)
    expected = {name: array.shape for name, array in tree_flatten(optimizer.state)}
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise ModelError(
            problem(
                "the state of this run's optimizer",
                "that of another optimizer or model",
                "Resume with the config the run was started with.",
                where=str(folder / OPTIMIZER),
            )
        )
    optimizer.state = tree_unflatten(list(arrays.items()))
    mx.eval(optimizer.state)
    return int(state["step"]), float(state["loss"])


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's training_state.json."""
    file = checkpoint / STATE
    remedy = "The file is damaged; copy the checkpoint again."
    try:
        state = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(problem("a readable checkpoint", str(error), remedy, where=str(file))) from None
    if not {"step", "loss"} <= state.keys():
        got = f"keys {', '.join(state) or 'none'}"
        raise ModelError(problem("a checkpoint's step and loss", got, remedy, where=str(file)))
    return state


def save_adapter_only(model: nn.Module, path: str | Path) -> None:
    """Writes the trained parameters alone, for sharing or deployment."""
    save_tensors(Path(path), adapter_parameters(model))


def _recover(folder: Path) -> None:
    """Puts a checkpoint back that a kill caught between being replaced and its replacement."""
    for replaced in folder.glob(".step_*.old"):
        final = folder / replaced.name.removeprefix(".").partition(".")[0]
        if not final.exists():
            os.rename(replaced, final)


def _rotate(folder: Path, *, newest: Path, keep: int) -> None:
    """Deletes the oldest checkpoints, and what a killed process left half-written."""
    for torn in folder.glob(".step_*"):
        shutil.rmtree(torn, ignore_errors=True)
    others = [path for path in checkpoints(folder) if path != newest]
    for path in others[: max(len(others) - (keep - 1), 0)]:
        shutil.rmtree(path, ignore_errors=True)
