"""`mlflow.json`: which MLflow run mirrors a run directory, and how much of it is there."""

import json
import uuid
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from bit_axon.files import write_json_atomic

STATE_FILE = "mlflow.json"


@dataclass
class MirrorState:
    """What is mirrored. Losing it loses nothing: the run is found again by its `run_uid`."""

    uri: str
    experiment: str
    run_uid: str
    run_id: str | None = None
    synced_offset: int = 0  # bytes of metrics.jsonl
    synced_tail: str = ""  # digest of the bytes before the offset
    last_steps: dict[str, int] = field(default_factory=dict)  # per metric: steps up to it are mirrored
    last_time_ms: int | None = None
    described: str = ""  # digest of the config and repro files whose params and tags were sent
    artifacts: dict[str, str] = field(default_factory=dict)  # name -> sha256 of what was sent
    result: str = ""  # digest of the result.json that was sent
    complete: bool = False  # everything up to result.json is mirrored


def load_state(run_dir: Path, uri: str, experiment: str, run_uid: str | None) -> MirrorState:
    """The saved state when it is about this store, else a fresh one.

    `run_uid` names the run everywhere; without one the saved state's is kept, or one is drawn.
    """
    saved = saved_state(run_dir)
    uid = run_uid or str(saved.get("run_uid") or uuid.uuid4().hex)
    if (saved.get("uri"), saved.get("experiment"), saved.get("run_uid")) != (uri, experiment, uid):
        return MirrorState(uri, experiment, uid)
    known = {item.name for item in fields(MirrorState)}
    return MirrorState(**{key: value for key, value in saved.items() if key in known})


def saved_state(run_dir: Path) -> dict[str, Any]:
    """The content of `mlflow.json`; empty when it is absent or torn."""
    try:
        value = json.loads((run_dir / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def save_state(run_dir: Path, state: MirrorState) -> None:
    """Writes `mlflow.json` atomically."""
    write_json_atomic(run_dir / STATE_FILE, asdict(state))
