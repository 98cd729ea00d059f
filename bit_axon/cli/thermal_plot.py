"""One picture of several runs' temperatures."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bit_axon.errors import ConfigError, problem
from bit_axon.files import write_atomic
from bit_axon.tracking.drawing import quieten
from bit_axon.tracking.thermal_figure import overlay_figure

_FORMATS: Final = ("png", "pdf", "svg")
_DOTS_PER_INCH: Final = 130


def write_overlay(run_dirs: Sequence[Path], out: Path) -> Path:
    """Draws the runs' traces over each other; the file's ending says in which format.

    Raises:
        ConfigError: a run has no trace, or the ending is none of a picture.
        StorageError: the picture cannot be written.
    """
    picture_format = out.suffix.lower().removeprefix(".")
    if picture_format not in _FORMATS:
        ending = f"'{out.suffix}'" if out.suffix else "none"
        raise ConfigError(
            problem("a file ending in .png, .pdf or .svg", ending, "Give another name.", where="--out")
        )
    quieten()
    buffer = io.BytesIO()
    overlay_figure(run_dirs).savefig(buffer, format=picture_format, dpi=_DOTS_PER_INCH)
    write_atomic(out, buffer.getvalue())
    return out
