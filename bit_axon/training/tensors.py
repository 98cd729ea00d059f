"""Tensors in safetensors files whose bytes depend on names and values alone.

MLX's own writer lays tensors out in the order of a hash table; here they are sorted by name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from bit_axon.backend import mx
from bit_axon.errors import ModelError, problem
from bit_axon.files import write_atomic

_NAMES: Final = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.bool_: "BOOL",
    mx.uint8: "U8",
    mx.int8: "I8",
    mx.uint16: "U16",
    mx.int16: "I16",
    mx.uint32: "U32",
    mx.int32: "I32",
    mx.uint64: "U64",
    mx.int64: "I64",
}
_ALIGNMENT_BYTES: Final = 8


def tensor_bytes(arrays: Mapping[str, mx.array], metadata: Mapping[str, str] | None = None) -> bytes:
    """A whole safetensors file: header length, JSON header, values, in the order of the names.

    Args:
        metadata: free text values kept in the header.
    """
    header: dict[str, object] = {"__metadata__": {"format": "mlx", **(metadata or {})}}
    pieces: list[bytes] = []
    offset = 0
    for name in sorted(arrays):
        raw = _raw(arrays[name])
        header[name] = {
            "dtype": _NAMES[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        pieces.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces])


def _raw(array: mx.array) -> bytes:
    # NumPy has no bfloat16: its bits travel as uint16.
    return np.asarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array).tobytes()


def save_tensors(
    path: Path, arrays: Mapping[str, mx.array], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file at once or not at all.

    Raises:
        StorageError: it could not be written; an older file is untouched.
    """
    write_atomic(path, tensor_bytes(arrays, metadata))


def load_tensors(path: Path) -> dict[str, mx.array]:
    """All tensors of a safetensors file, read now (MLX would read them later, from whatever lies there then).

    Raises:
        ModelError: the file is missing, cut short, or not in this format.
    """
    if not path.is_file():
        raise ModelError(problem("a safetensors file", "no such file", "Check the path.", where=str(path)))
    try:
        loaded: Any = mx.load(str(path), format="safetensors")
        mx.eval(loaded)
    except (RuntimeError, ValueError) as error:
        remedy = "The file is damaged or was cut short; copy or save it again."
        raise ModelError(problem("a whole safetensors file", str(error), remedy, where=str(path))) from None
    arrays: dict[str, mx.array] = loaded
    return arrays
