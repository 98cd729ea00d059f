"""`bit-axon compare`: what differs between runs, what came out, and their answers next to each other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from bit_axon.cli.compare_tables import Column, show_answers, show_columns
from bit_axon.cli.terminal import byte_size, duration, fitted, run_console
from bit_axon.errors import ConfigError, problem
from bit_axon.files import write_atomic
from bit_axon.tracking.compare_figure import VALID, Ranking, compare_figure, read_curves
from bit_axon.tracking.drawing import png
from bit_axon.tracking.facts import flattened, read_facts, run_name, samples_table
from bit_axon.tracking.places import find_all

# Labels of a run, not part of its experiment.
_UNCOMPARED: Final = ("name", "tags", "tracking", "resume", "trial")
_VALID_DATA: Final = "data.valid"
_EVAL_BATCHES: Final = "training.eval_batches"  # null: all of the validation data
_ANSWERED: Final = ("data.accuracy_prompts", "data.max_new_tokens")
_ABSENT: Final = "-"
_LONG_NUMBER: Final = 9  # characters


@dataclass(frozen=True)
class Figure:
    """A number of result.json: how it is called and written, and which end of it is the better one.

    One that is `scaled` has the method's own settings in it, such as ORPO's beta: it compares runs of one
    method with the same settings, and no others. One that is `validated` was measured on the validation data,
    and compares runs that had the same, and as much of it; `of` names settings that have to agree besides.
    """

    key: str
    label: str
    form: str = "{:.4f}"
    better: int = 0  # -1: less, 1: more, 0: neither
    scaled: bool = False
    validated: bool = False
    of: tuple[str, ...] = ()


_FIGURES: Final = (
    Figure("eval_loss_before", "validation loss before"),
    Figure("eval_loss", "validation loss", better=-1, scaled=True, validated=True),
    Figure("eval_loss_best", "validation loss, best", better=-1, scaled=True, validated=True),
    Figure("nll", "nll", better=-1, validated=True),
    Figure("log_odds", "log odds", better=1, validated=True),
    Figure("task_accuracy_before", "task accuracy before", "{:.1%}"),
    Figure("task_accuracy", "task accuracy", "{:.1%}", 1, validated=True, of=_ANSWERED),
    Figure("reward_accuracy", "reward accuracy", "{:.1%}", 1, validated=True),
    Figure("reward_margin", "reward margin", better=1, scaled=True, validated=True),
    Figure("loss", "training loss"),
    Figure("step", "steps", "{:,}"),
    Figure("tokens", "tokens", "{:,}"),
    Figure("tokens_per_second", "tokens per second", "{:,.0f}", 1),
    Figure("trainable_parameters", "trainable parameters", "{:,}"),
    Figure("peak_memory_bytes", "peak memory", "bytes", -1),
    Figure("seconds/total", "time", "duration"),
    Figure("thermal/max", "temperature, highest", "{:.1f} °C"),
    Figure("thermal/overhead", "time spent cooling", "{:.0%}"),
)


@dataclass(frozen=True)
class ComparedRun:
    """One run, as far as it is compared."""

    path: Path
    name: str
    params: Mapping[str, Any]  # dotted keys
    result: Mapping[str, Any]  # keys with slashes
    valid: tuple[str, ...] = ()  # digests of the validation data, where they are known

    @property
    def outcome(self) -> str:
        """How the run ended and why; one without a result goes on, or was cut."""
        state, reason = self.result.get("state"), self.result.get("stop_reason")
        if not state or not reason or reason == state:
            return str(state or "no result")
        return f"{state}: {reason}"


def compare(runs: Sequence[str], out: Path, samples: int = 3, console: Console | None = None) -> None:
    """Prints the comparison and draws the loss curves into `out`.

    Args:
        runs: folders of runs, names in the outputs folder, or sweeps (which stand for all their runs).
        out: the picture, a PNG file.
        samples: prompts whose answers are shown; 0 for none.
        console: where to print.

    Raises:
        RunDirectoryError: one of them is no run.
        ConfigError: fewer than two runs, or the picture's name is not that of a PNG file.
        StorageError: the picture cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise ConfigError(problem("a file ending in .png", f"'{out}'", "Give another name.", where="--out"))
    found = [read_run(path) for path in find_all(runs)]
    if len(found) < 2:
        raise ConfigError(problem("at least two runs", f"{len(found)}", "Name another one beside it."))
    screen = console or run_console()
    names = distinct([run.name for run in found])
    _show_runs(found, names, screen)
    show_columns("parameters that differ", names, differing(found), screen)
    show_columns("results", names, results(found), screen)
    for line in uncompared(found):
        screen.print(line, soft_wrap=True)
    answers = [samples_table(run.path / "samples.jsonl") for run in found]
    show_answers(names, answers, samples, screen)
    _draw(found, names, out, screen)


def ranking(runs: Sequence[ComparedRun]) -> Ranking | None:
    """The runs by the first validation figure that has a best one, best first; None where none has one."""
    for figure in _FIGURES:
        values = _judged([_number(run.result.get(figure.key)) for run in runs], runs)
        better = _comparable(figure, runs)
        if figure.validated and _best(values, better):
            known = [place for place, value in enumerate(values) if value is not None and value == value]
            return Ranking(figure.label, sorted(known, key=lambda place: -better * (values[place] or 0.0)))
    return None


def read_run(run_dir: Path) -> ComparedRun:
    """The config and the result of a run; of one without a result, its last validation loss."""
    facts = read_facts(run_dir)
    params = {key: value for key, value in facts.config.items() if key not in _UNCOMPARED}
    result = dict(flattened(facts.result, "/"))
    if not result and (losses := read_curves(run_dir)[VALID]):
        last = max(losses)
        result = {"step": last, "eval_loss": losses[last], "eval_loss_best": min(losses.values())}
    valid = (facts.repro.get("data") or {}).get("valid") or ()
    digests = tuple(str(source.get("sha256")) for source in valid)
    return ComparedRun(run_dir, run_name(facts.run_dir), dict(flattened(params, ".")), result, digests)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that come twice."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def differing(runs: Sequence[ComparedRun]) -> list[Column]:
    """Params that are not the same in all runs, by name."""
    keys = {key for run in runs for key in run.params}
    texts = {key: [_text(run.params, key) for run in runs] for key in sorted(keys)}
    return [Column(key, _rounded(values)) for key, values in texts.items() if len(set(values)) > 1]


def _text(params: Mapping[str, Any], key: str) -> str:
    if key not in params:
        return _ABSENT
    value = params[key]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _rounded(texts: Sequence[str]) -> Sequence[str]:
    """Drawn numbers in six digits, unless that makes two of them alike."""
    short = [_in_six_digits(text) for text in texts]
    return short if len(set(short)) == len(set(texts)) else texts


def _in_six_digits(text: str) -> str:
    try:
        return f"{float(text):.6g}" if len(text) > _LONG_NUMBER else text
    except ValueError:
        return text


def results(runs: Sequence[ComparedRun]) -> list[Column]:
    """The known figures that at least one run has; the best of each is marked."""
    columns = [Column("outcome", [run.outcome for run in runs])]
    for figure in _FIGURES:
        values = [_number(run.result.get(figure.key)) for run in runs]
        if any(value is not None for value in values):
            texts = [_ABSENT if value is None else _written(figure.form, value) for value in values]
            best = _best(_judged(values, runs), _comparable(figure, runs))
            columns.append(Column(figure.label, texts, best))
    return columns


def uncompared(runs: Sequence[ComparedRun]) -> list[str]:
    """Why some figures or runs can have no star, a line each."""
    lines = []
    if not _same_data(runs):
        lines.append(
            "They were validated on different data, or on more or less of it: "
            "no loss, and nothing else measured on it, is compared."
        )
    elif not _same_method(runs):
        labels = ", ".join(figure.label for figure in _FIGURES if figure.scaled)
        lines.append(f"Their methods or a setting of it differ: not compared are {labels}.")
    if 0 < sum(_is_finished(run) for run in runs) < len(runs):
        lines.append("Only finished runs are compared: the others have made fewer steps.")
    return lines


def _comparable(figure: Figure, runs: Sequence[ComparedRun]) -> int:
    """Which end is the better one among these runs."""
    if (figure.scaled and not _same_method(runs)) or (figure.validated and not _same_data(runs)):
        return 0
    return figure.better if len({_settings(run, figure.of) for run in runs}) == 1 else 0


def _same_method(runs: Sequence[ComparedRun]) -> bool:
    return len({json.dumps(_method(run), sort_keys=True, default=str) for run in runs}) == 1


def _same_data(runs: Sequence[ComparedRun]) -> bool:
    """By its digests, since a file may lie elsewhere; by its name where these are not known of all."""
    keys = [figure.key for figure in _FIGURES if figure.validated]
    validated = [run for run in runs if any(_number(run.result.get(key)) is not None for key in keys)]
    if len({_share(run) for run in validated}) > 1:
        return False
    if all(run.valid for run in validated):
        return len({run.valid for run in validated}) <= 1
    return len({_text(run.params, _VALID_DATA) for run in validated}) <= 1


def _share(run: ComparedRun) -> tuple[str, ...]:
    """What says how much of the validation data an evaluation takes."""
    of_batches = () if run.params.get(_EVAL_BATCHES) is None else ("training.batch_size",)
    return _settings(run, (_EVAL_BATCHES, "data.max_seq_len", *of_batches))


def _settings(run: ComparedRun, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(_text(run.params, key) for key in keys)


def _is_finished(run: ComparedRun) -> bool:
    return run.result.get("state") == "finished"


def _judged(values: Sequence[float | int | None], runs: Sequence[ComparedRun]) -> list[float | int | None]:
    """The values of finished runs: what a pruned one had at last is of fewer steps; all where none has."""
    if not any(map(_is_finished, runs)):
        return list(values)
    return [value if _is_finished(run) else None for value, run in zip(values, runs, strict=True)]


def _method(run: ComparedRun) -> dict[str, Any]:
    return {key: value for key, value in run.params.items() if key.startswith("method.")}


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _written(form: str, value: float | int) -> str:
    if form == "bytes":
        return byte_size(value)
    return duration(value) if form == "duration" else form.format(value)


def _best(values: Sequence[float | None], better: int) -> frozenset[int]:
    """Places of the best value; none when all are equal, or neither end is the better one."""
    known = [value for value in values if value is not None and value == value]
    if not better or len(set(known)) < 2:
        return frozenset()
    best = max(known, key=lambda value: better * value)
    return frozenset(place for place, value in enumerate(values) if value == best)


def _show_runs(runs: Sequence[ComparedRun], names: Sequence[str], screen: Console) -> None:
    width = max(map(len, names))
    for run, name in zip(runs, names, strict=True):
        line = Text(f"{name:<{width}}  ", style="bold")
        line.append(fitted(screen, str(run.path)), style="not bold dim")
        screen.print(line, soft_wrap=True)


def _draw(runs: Sequence[ComparedRun], names: Sequence[str], out: Path, screen: Console) -> None:
    curves = {name: read_curves(run.path) for name, run in zip(names, runs, strict=True)}
    if not any(series for found in curves.values() for series in found.values()):
        screen.print("No run has a metric yet, so there is no picture.")
        return
    write_atomic(out, png(compare_figure(curves, ranking(runs))))
    screen.print(f"loss curves: {out}", soft_wrap=True)
