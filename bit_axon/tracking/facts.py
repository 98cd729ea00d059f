"""What a run directory says about its run, as MLflow's params, tags, note, inputs and final figures."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bit_axon.tracking.points import metric_name, number

MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
_MAX_DIGEST_CHARACTERS = 36
_MAX_NAME_CHARACTERS = 500
# Not part of the experiment: where it is mirrored, how it was labelled, what it continued.
_NOT_PARAMS = ("tags", "tracking", "resume", "trial")
_STAMPED = re.compile(r"(?P<stamp>\d{8}-\d{6})-\d+-(?P<name>.+)")
_LIMITS = "thermal/thresholds/"  # settings, in result.json for the figure's sake
_STATUS_OF_STATE = {
    "finished": "FINISHED",
    "pruned": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_NOTE_ROWS = (
    ("validation loss", "eval_loss_before", "eval_loss"),
    ("task accuracy", "task_accuracy_before", "task_accuracy"),
    ("reward accuracy", "reward_accuracy_before", "reward_accuracy"),
    ("tokens per second", "", "tokens_per_second"),
    ("peak memory, bytes", "", "peak_memory_bytes"),
)


@dataclass(frozen=True)
class DatasetFact:
    """One data source of the run; `context` is its role: train or valid."""

    context: str
    name: str
    digest: str
    source: str
    source_kind: str
    rows: int | None


@dataclass(frozen=True)
class RunFacts:
    """The small files of a run directory; an absent or torn one is an empty mapping."""

    run_dir: Path
    config: Mapping[str, Any]
    repro: Mapping[str, Any]
    result: Mapping[str, Any]


def read_facts(run_dir: Path) -> RunFacts:
    """Reads `config.yaml`, `repro.json` and `result.json`."""
    return RunFacts(
        run_dir=run_dir.resolve(),
        config=_mapping(_read_yaml(run_dir / "config.yaml")),
        repro=_mapping(read_json(run_dir / "repro.json")),
        result=_mapping(read_json(run_dir / "result.json")),
    )


def read_json(path: Path) -> Any:
    """The file's value; None when it is absent or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def run_name(run_dir: Path) -> str:
    """The directory's name with its stamp behind, since MLflow's table shows the beginning of a name.

    A numbered job of a sweep has the name of the sweep behind its number, for the same reason.
    """
    if run_dir.name.isdigit():
        return f"{run_dir.name} {run_dir.parent.name}"
    stamped = _STAMPED.fullmatch(run_dir.name)
    return f"{stamped['name']} {stamped['stamp']}" if stamped else run_dir.name


def mlflow_status(state: str) -> str:
    """MLflow has no state for a pruned or stopped run: those ended as they should."""
    return _STATUS_OF_STATE.get(state, "FAILED")


def params(config: Mapping[str, Any]) -> dict[str, str]:
    """The config with dotted keys and text values; null is "null", a list is JSON."""
    kept = {key: value for key, value in config.items() if key not in _NOT_PARAMS}
    return {metric_name(key): _text(value)[:MAX_PARAM_CHARACTERS] for key, value in flattened(kept, ".")}


def flattened(value: Mapping[str, Any], separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, with their path as the key."""
    for key, item in value.items():
        path = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            yield from flattened(item, separator, path + separator)
        else:
            yield path, item


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Every number of `result.json` as `result/...`, so that runs can be sorted and compared by it."""
    return {
        metric_name(f"result/{key}"): number(value)
        for key, value in flattened(result, "/")
        if isinstance(value, int | float) and not isinstance(value, bool) and _LIMITS not in key
    }


def start_tags(facts: RunFacts) -> dict[str, str]:
    """Tags that hold from the first moment of the run."""
    git = _mapping(facts.repro.get("git"))
    nodes = {key: _mapping(facts.config.get(key)) for key in ("adapter", "method")}
    trial = _mapping(facts.config.get("trial"))
    found: dict[str, Any] = {
        **{metric_name(str(key)): value for key, value in _mapping(facts.config.get("tags")).items()},
        "mlflow.runName": run_name(facts.run_dir),
        "mlflow.source.name": command_line(facts),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "bit_axon.git_dirty": git.get("dirty"),
        "bit_axon.run_dir": str(facts.run_dir),
        "bit_axon.config_digest": facts.repro.get("config_digest"),
        "bit_axon.model": _mapping(facts.config.get("model")).get("path"),
        **_thermal_tags(facts.repro),
        **{f"bit_axon.{key}": node.get("name") for key, node in nodes.items()},
        "bit_axon.study": trial.get("study"),
        "bit_axon.trial": trial.get("number"),
    }
    return {key: _text(value)[:MAX_TAG_CHARACTERS] for key, value in found.items() if value is not None}


def end_tags(facts: RunFacts) -> dict[str, str]:
    """Tags and the note that are known when the run has ended."""
    found = {
        "mlflow.note.content": note(facts),
        "bit_axon.state": facts.result.get("state"),
        "bit_axon.stop_reason": facts.result.get("stop_reason"),
        "bit_axon.adapter_sha256": facts.result.get("adapter_sha256"),
        **_thermal_tags(facts.result),
    }
    return {key: _text(value)[:MAX_TAG_CHARACTERS] for key, value in found.items() if value is not None}


def _thermal_tags(values: Mapping[str, Any]) -> dict[str, Any]:
    """Which sensor held the run, and whether its sums were rounded otherwise than those of a cool one."""
    thermal = _mapping(values.get("thermal"))
    keys = ("source", "policy", "gated", "simulated", "batches_split")
    return {f"bit_axon.thermal.{key}": thermal.get(key) for key in keys}


def command_line(facts: RunFacts) -> str:
    """The command the run was started with."""
    overrides = facts.repro.get("overrides")
    words = overrides if isinstance(overrides, list) else []
    return shlex.join(["python", "-m", "bit_axon.run", *map(str, words)])


def note(facts: RunFacts) -> str:
    """A short Markdown summary with the figures before and after and the commands to repeat the run."""
    result = facts.result
    reason = result.get("stop_reason")
    head = f"**{result.get('state', 'running')}**" + (f" ({reason})" if reason else "")
    rows = [
        f"| {label} | {_figure(result.get(before))} | {_figure(result.get(after))} |"
        for label, before, after in _NOTE_ROWS
        if isinstance(result.get(after), int | float)
    ]
    table = ["", "| | before | after |", "| --- | --- | --- |", *rows] if rows else []
    repeat = shlex.join(["bit-axon", "reproduce", str(facts.run_dir), "--check"])
    return "\n".join(
        [
            head,
            *table,
            "",
            "Started with:",
            "",
            f"    {command_line(facts)}",
            "",
            "Repeat:",
            "",
            f"    {repeat}",
        ]
    )


def _figure(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) and abs(value) < 1e4 else _large(value)


def _large(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else ""


def datasets(repro: Mapping[str, Any]) -> list[DatasetFact]:
    """The data sources with digests that `repro.json` names under `data`.

    `data` maps a role (train, valid) to one source or a list of them, each
    `{"path": ..., "sha256": ..., "rows": ...}`.
    """
    return [
        fact
        for role, sources in _mapping(repro.get("data")).items()
        for source in (sources if isinstance(sources, list) else [sources])
        if (fact := _dataset(str(role), source)) is not None
    ]


def _dataset(role: str, source: Any) -> DatasetFact | None:
    entry = _mapping(source)
    digest, path = entry.get("sha256"), entry.get("path")
    if not digest or not path:
        return None
    rows, source = entry.get("rows"), str(path)
    kind = _source_kind(source)
    return DatasetFact(
        context=role,
        name=(Path(source).stem if kind == "local" else source)[:_MAX_NAME_CHARACTERS],
        digest=str(digest)[:_MAX_DIGEST_CHARACTERS],
        source=source,
        source_kind=kind,
        rows=rows if isinstance(rows, int) else None,
    )


def _source_kind(source: str) -> str:
    """`local` is one of MLflow's own kinds: it can hand out such a file."""
    if source.startswith("embedded:"):
        return "embedded"
    return "local" if Path(source).is_absolute() or Path(source).exists() else "hub"


def samples_table(path: Path) -> dict[str, Any] | None:
    """`samples.jsonl` as columns and rows; None when there are none. Torn lines are left out."""
    if not path.is_file():
        return None
    columns = ["when", "prompt", "reference", "answer", "correct"]
    records = (_record(line) for line in path.read_text(encoding="utf-8", errors="replace").split("\n"))
    rows = [[record.get(column) for column in columns] for record in records if record]
    return {"columns": columns, "data": rows} if rows else None


def _record(line: str) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(line))
    except ValueError:
        return {}
