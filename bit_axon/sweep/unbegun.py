"""The folder of a grid of which nothing was begun: Hydra makes it before it looks at the jobs."""

from contextlib import suppress
from pathlib import Path
from typing import Final

from bit_axon.files import outputs_dir

_HYDRAS_FILE: Final = "multirun.yaml"


def remove_unbegun(folder: Path) -> None:
    """Removes the folder if it holds Hydra's file alone, and `outputs/sweeps` if it was the only one."""
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] != [_HYDRAS_FILE]:
            return
        (folder / _HYDRAS_FILE).unlink()
        folder.rmdir()
        if folder.parent == outputs_dir() / "sweeps":
            folder.parent.rmdir()
