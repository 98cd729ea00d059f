"""What a person sees: on a terminal, in a file, in a narrow window, without colours or Unicode."""

import io
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest

from bit_axon.cli.console import ConsoleObserver
from bit_axon.cli.pace import Pace
from bit_axon.cli.reports import show_header, show_samples, show_summary
from bit_axon.cli.terminal import RunConsole, byte_size, duration, fitted, is_live, run_console, short_count
from bit_axon.training.records import EvaluationRecord, StepRecord

HEADER: dict[str, Any] = {
    "name": "nano-dora-sft",
    "run_dir": "/data/outputs/runs/" + "x" * 120,
    "model": "embedded:nano",
    "parameters": 2_600_000,
    "dtype": "float32",
    "quantization": None,
    "adapter": "dora",
    "rank": 8,
    "trainable_parameters": 131_072,
    "method": "sft",
    "packed": True,
    "train_rows": 1000,
    "max_steps": 40,
    "resumed_at": None,
    "note": "[not markup]",
}
RESULT: dict[str, Any] = {
    "state": "finished",
    "stop_reason": "max_steps",
    "step": 40,
    "eval_loss_before": None,
    "eval_loss": 0.5,
    "task_accuracy_before": 0.125,
    "task_accuracy": 0.9,
    "tokens_per_second": 12345.6,
    "examples": 160,
    "tokens": 12_000,
    "peak_memory_bytes": 1_234_000_000,
    "seconds": {"total": 3725.0},
    "thermal": {"max": 71.25},
}
SAMPLES = [
    {"when": "before", "prompt": "2+2?", "reference": "4", "answer": "\x1b[31mred [b]", "correct": False},
    {"when": "after", "prompt": "2+2?", "reference": "4", "answer": "4 ✓ 四", "correct": True},
]


def step_record(step: int, max_steps: int = 40, **changes: Any) -> StepRecord:
    values: dict[str, Any] = {
        "step": step,
        "max_steps": max_steps,
        "epoch": step / 10,
        "loss": 2.0 / step,
        "learning_rate": 1e-4,
        "grad_norm": 1.0,
        "examples": 4,
        "tokens": 300,
        "supervised_tokens": 100,
        "seconds": 0.25,
        "compiled": step == 1,
        "peak_memory_bytes": 10**8,
    }
    return StepRecord(**{**values, **changes})


def evaluation(step: int) -> EvaluationRecord:
    return EvaluationRecord(step, 1.5, 1.25, 200, 0.5, {"reward_accuracy": 0.75})


def drive(console: RunConsole, steps: int = 40) -> None:
    with ConsoleObserver(console, eval_every=20) as observer:
        observer.on_start(HEADER)
        observer.on_evaluation(evaluation(0))
        observer.on_samples(SAMPLES[:1])
        for step in range(1, steps + 1):
            observer.on_step(step_record(step, steps, thermal={"temp_c": 61.5}))
            if step % 20 == 0:
                observer.on_evaluation(evaluation(step))
        observer.on_message("a [message]")
        observer.on_samples(SAMPLES[1:])
        observer.on_finish(RESULT)


def captured(width: int = 100, **options: Any) -> RunConsole:
    return RunConsole(file=io.StringIO(), width=width, markup=False, highlight=False, **options)


def text_of(console: RunConsole) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_output_is_about_twenty_lines_of_steps_and_every_evaluation() -> None:
    console = captured()
    drive(console, steps=1000)
    lines = text_of(console).splitlines()
    steps = [line for line in lines if line.startswith("step") and "  lr " in line]
    assert len(steps) == 21
    assert steps[0].startswith("step    1/1000  loss 2.0000")
    assert steps[-1].startswith("step 1000/1000")
    assert "61.5 °C" in steps[-1]
    assert len([line for line in lines if "validation loss 1.5000 (best 1.2500)" in line]) == 51
    assert "reward accuracy 0.75" in text_of(console)
    assert "\x1b" not in text_of(console)


def test_plain_lines_are_never_folded() -> None:
    console = captured(width=40)
    drive(console)
    lines = text_of(console).splitlines()
    assert f"directory  {HEADER['run_dir']}" in lines
    assert any(line.endswith("61.5 °C") and line.startswith("step") for line in lines)


def test_a_long_silence_is_broken() -> None:
    console, now = captured(), [0.0]
    observer = ConsoleObserver(console, clock=lambda: now[0])
    for step in (1, 2, 3):
        observer.on_step(step_record(step, 10_000))
        now[0] += 200.0
    assert [line[:12] for line in text_of(console).splitlines()] == ["step     1/1", "step     3/1"]


def test_a_terminal_gets_a_bar_with_all_figures() -> None:
    console = captured(force_terminal=True, color_system=None)
    assert is_live(console)
    drive(console)
    text = text_of(console)
    last = text[text.rindex("40/40") :]
    for figure in ("epoch 4.00", "loss 0.0500", "val 1.5000", "lr 1.0e-04", "tok/s", "ETA 0:00", "61.5 °C"):
        assert figure in last
    assert "a [message]" in text


def test_a_killed_run_leaves_the_cursor_visible() -> None:
    console = captured(force_terminal=True)
    with ConsoleObserver(console) as observer:
        observer.on_step(step_record(1))
        text = text_of(console)
        assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    "options", [{"no_color": True}, {"color_system": "truecolor"}, {"color_system": None}]
)
@pytest.mark.parametrize("width", [1, 8, 30, 300])
def test_no_terminal_is_too_odd(width: int, options: dict[str, Any]) -> None:
    console = captured(width=width, force_terminal=True, **options)
    drive(console)
    assert width < 30 or "40/40" in text_of(console)


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = captured(force_terminal=True)
    assert not is_live(console)
    drive(console)
    assert "\x1b[?25l" not in text_of(console)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    console = run_console(io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    drive(console)
    text = raw.getvalue().decode("ascii")
    assert "before     x" in text
    assert "61.5 C" in text


class _GonePipe(io.StringIO):
    """A stream whose reader went away."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "I/O error")])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_outlives_its_screen(error: OSError, terminal: bool) -> None:
    drive(RunConsole(file=_GonePipe(error), width=80, force_terminal=terminal, markup=False))


def test_samples_show_both_answers_without_their_control_sequences() -> None:
    console = captured()
    show_samples(SAMPLES, console)
    text = text_of(console)
    assert "\x1b" not in text
    assert "✗ ·[31mred [b]" in text
    assert "✓ 4 ✓ 四" in text


def test_the_header_puts_together_what_belongs_together() -> None:
    console = captured()
    show_header(HEADER, console)
    lines = [line.rstrip() for line in text_of(console).splitlines()]
    assert "model      embedded:nano, 2.6 M parameters, float32" in lines
    assert "adapter    dora, rank 8, 131.1 k trainable parameters" in lines
    assert "method     sft, packed" in lines
    assert "note       [not markup]" in lines


def test_the_summary_compares_before_and_after() -> None:
    console = captured()
    show_summary(RESULT, console, run_dir="/runs/my run")
    rows = [line.split() for line in text_of(console).splitlines()]
    for row in (
        ["validation", "loss", "0.5000"],
        ["task", "accuracy", "12.5%", "90.0%"],
        ["tokens", "per", "second", "12,346"],
        ["peak", "memory", "1.2", "GB"],
        ["time", "1:02:05"],
    ):
        assert row in rows
    assert 'bit-axon reproduce "/runs/my run" --check' in text_of(console)


def test_an_interrupted_run_says_how_to_go_on() -> None:
    console = captured()
    show_summary({"state": "interrupted", "stop_reason": "interrupt", "step": 3}, console, run_dir="/r")
    assert "python -m bit_axon.run resume=/r" in text_of(console)


def paced(records: Iterable[StepRecord], eval_every: int = 0) -> Pace:
    pace = Pace(eval_every)
    for record in records:
        pace.on_step(record)
    return pace


def test_time_left_leaves_compiled_steps_out_and_counts_evaluations() -> None:
    steps = [step_record(1, seconds=60.0), step_record(2), step_record(3, seconds=60.0, compiled=True)]
    pace = paced(steps, eval_every=20)
    assert pace.remaining_seconds(3, 50) == pytest.approx(47 * 0.25)
    pace.on_evaluation(evaluation(0))  # at 20, 40 and 50: 0.5 s each
    assert pace.remaining_seconds(3, 50) == pytest.approx(47 * 0.25 + 3 * 0.5)
    assert pace.tokens_per_second == pytest.approx(1200.0)


def test_the_first_step_gives_an_estimate_though_it_compiled() -> None:
    assert Pace().remaining_seconds(0, 10) is None
    assert paced([step_record(1, seconds=2.0)]).remaining_seconds(1, 11) == pytest.approx(20.0)


def test_small_formats() -> None:
    assert [duration(value) for value in (0.4, 65, 3725, None, math.inf)] == [
        "0:00",
        "1:05",
        "1:02:05",
        "-",
        "-",
    ]
    assert [byte_size(value) for value in (0, 999, 1500, 2.5e9)] == ["0 B", "999 B", "1.5 KB", "2.5 GB"]
    assert [short_count(value) for value in (950, 12_345, 2.6e6, 3.1e9)] == [
        "950",
        "12.3 k",
        "2.6 M",
        "3.1 G",
    ]
    assert fitted(captured(), "a\udc80\x07b") == "a··b"


def test_a_reader_that_leaves_early_does_not_end_the_process() -> None:
    code = (
        "import sys\n"
        "from bit_axon.cli.console import ConsoleObserver\n"
        "observer = ConsoleObserver()\n"
        "observer.on_message('line')\n"
        "sys.stdin.read()\n"  # until the reader has left
        "for _ in range(50):\n"
        "    observer.on_message('line')\n"
        "print('reached the end', file=sys.stderr)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stdin is not None and process.stderr is not None
    process.stdin.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=300)
    assert "reached the end" in said
    assert "Error" not in said
