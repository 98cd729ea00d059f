"""Which run directories a person means: a path, a name in the outputs folder, or a whole sweep."""

import fcntl
from collections.abc import Sequence
from pathlib import Path

from bit_axon.errors import RunDirectoryError, nearest, problem
from bit_axon.files import outputs_dir
from bit_axon.tracking.parent import PARENT_FILE
from bit_axon.tracking.points import METRICS_FILE

_CONFIG = "config.yaml"
_LOCK = ".lock"  # a run's process holds it as long as it runs; see `RunDirectory.locked`


def is_run(folder: Path) -> bool:
    """Whether the folder holds what a run writes first."""
    return (folder / _CONFIG).is_file() or (folder / METRICS_FILE).is_file()


def is_in_use(run_dir: Path) -> bool | None:
    """Whether a process runs the run of this folder now; None where none has ever held its lock."""
    try:
        with open(run_dir / _LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def is_sweep(folder: Path) -> bool:
    """Whether the folder holds a study or is the parent of runs, and is no run itself."""
    return not is_run(folder) and any((folder / name).is_file() for name in ("study.db", PARENT_FILE))


def runs_below(folder: Path) -> list[Path]:
    """Run directories one or two levels below, jobs of a sweep in the order of their numbers."""
    found = {path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{_CONFIG}")}
    return sorted((path for path in found if path.name != ".hydra"), key=_by_number)


def with_runs_of_sweeps(folders: Sequence[Path]) -> list[Path]:
    """The folders, each sweep's replaced by those of its runs."""
    return [path for folder in folders for path in (runs_below(folder) if is_sweep(folder) else [folder])]


def _by_number(path: Path) -> tuple[str, int, str]:
    number = int(path.name) if path.name.isdigit() else -1
    return (str(path.parent), number, path.name)


def find_runs(text: str) -> list[Path]:
    """The run directories that `text` stands for: one, or those of a sweep.

    Raises:
        RunDirectoryError: there is none.
    """
    for folder in (Path(text).expanduser(), outputs_dir() / "runs" / text, outputs_dir() / "sweeps" / text):
        if folder.is_dir():
            found = [folder] if is_run(folder) else runs_below(folder)
            if found:
                return found
    raise RunDirectoryError(problem("a run directory, or a folder of some", text, _remedy(text)))


def find_all(texts: Sequence[str]) -> list[Path]:
    """The run directories of all of them, each once, in the order given."""
    found = [path for text in texts for path in find_runs(text)]
    return list({path.resolve(): path for path in found}.values())


def _remedy(text: str) -> str:
    name = Path(text).name
    known = [path.name for folder in ("runs", "sweeps") for path in (outputs_dir() / folder).glob("*/")]
    return nearest(name, known) if known else f"There are no runs in {outputs_dir()} yet."
