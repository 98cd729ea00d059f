"""Progress of a run on the console: a live bar on a terminal, plain lines everywhere else."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bit_axon.cli.pace import Pace
from bit_axon.cli.reports import show_header, show_samples, show_summary
from bit_axon.cli.terminal import duration, fitted, is_live, run_console, short_count
from bit_axon.training.records import EvaluationRecord, StepRecord

_PLAIN_LINES = 20  # of training steps, per run
_PLAIN_SILENCE_SECONDS = 300.0  # the longest time without a line
_REDRAW_SECONDS = 0.25
_BAR_WIDTH = 30


class ConsoleObserver:
    """Shows a run as it goes; use it as a context manager, so that the live display ends with it.

    Args:
        console: where to print; standard output when None.
        eval_every: steps between evaluations, for the time left.
        clock: seconds, for the pauses between plain lines.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        eval_every: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or run_console()
        self._pace = Pace(eval_every)
        self._clock = clock
        self._last_line_seconds: float | None = None
        self._last_drawn_seconds = -math.inf
        self._last_step: StepRecord | None = None
        self._validation_loss: float | None = None
        self._run_dir: Path | None = None
        self._live: Live | None = None
        self._earlier_samples: list[Mapping[str, Any]] = []

    def __enter__(self) -> "ConsoleObserver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the live display; its last state stays on the screen. May be called twice."""
        live, self._live = self._live, None
        if live is not None:
            self._shown(live.stop)

    def on_start(self, header: Mapping[str, Any]) -> None:
        """Shows what is about to be trained; see `show_header` for the keys."""
        place = header.get("run_dir")
        self._run_dir = Path(str(place)) if place else None
        self._shown(lambda: show_header(header, self._console))

    def on_step(self, record: StepRecord) -> None:
        """Moves the bar, or prints a line when one is due."""
        self._last_step = record
        self._pace.on_step(record)
        if is_live(self._console):
            self._redraw(record)
        elif self._line_is_due(record):
            self._last_line_seconds = self._clock()
            self._line("  ".join([_position(record.step, record.max_steps), *self._figures(record)]))

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Prints a line, on every kind of console."""
        self._pace.on_evaluation(record)
        self._validation_loss = record.loss
        last = self._last_step
        parts = [
            _position(record.step, last.max_steps if last else None),
            f"validation loss {record.loss:.4f} (best {record.loss_best:.4f})",
            *(
                f"{name.rsplit('/', 1)[-1].replace('_', ' ')} {value:.4g}"
                for name, value in record.metrics.items()
            ),
            f"{record.examples:,} examples in {record.seconds:.1f} s",
        ]
        self._line("  ".join(parts))

    def on_message(self, text: str) -> None:
        """Prints the text above the bar; may be called from any thread."""
        self._line(text)

    def on_samples(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Shows answers of the model; those after training beside those before."""
        shown = [*self._earlier_samples, *samples]
        self._earlier_samples = list(samples)
        self._shown(lambda: show_samples(shown, self._console))

    def on_finish(self, result: Mapping[str, Any]) -> None:
        """Ends the bar and shows the outcome."""
        self.close()
        self._shown(lambda: show_summary(result, self._console, run_dir=self._run_dir))

    def _line(self, text: str) -> None:
        self._shown(
            lambda: self._console.print(
                Text(fitted(self._console, text)), soft_wrap=not self._console.is_terminal
            )
        )

    def _shown(self, show: Callable[[], None]) -> None:
        """Prints; a console that went away (closed terminal, full disk) ends the display, not the run."""
        try:
            show()
        except (OSError, ValueError):
            self._console.quiet = True

    def _line_is_due(self, record: StepRecord) -> bool:
        every = max(1, -(-record.max_steps // _PLAIN_LINES))
        silent_since = self._last_line_seconds
        if silent_since is None or record.step % every == 0 or record.step == record.max_steps:
            return True
        return self._clock() - silent_since >= _PLAIN_SILENCE_SECONDS

    def _figures(self, record: StepRecord) -> list[str]:
        speed = self._pace.tokens_per_second
        parts = [f"loss {record.loss:.4f}"]
        if self._validation_loss is not None:
            parts.append(f"val {self._validation_loss:.4f}")
        parts.append(f"lr {record.learning_rate:.1e}")
        parts.append(f"{short_count(speed) if speed is not None else '-'} tok/s")
        parts.append(f"ETA {duration(self._pace.remaining_seconds(record.step, record.max_steps))}")
        if record.temp_c is not None:
            duty = record.thermal.get("duty", 1.0)
            parts.append(f"{record.temp_c:.1f} °C" + (f" at {duty:.0%} duty" if duty < 1 else ""))
        return parts

    def _redraw(self, record: StepRecord) -> None:
        """Draws at most some times a second, here and not in a thread: an error ends in `_shown`."""
        now = self._clock()
        due = now - self._last_drawn_seconds >= _REDRAW_SECONDS or record.step == record.max_steps
        if self._live is None:
            self._start_live()
        elif not due:
            return
        self._last_drawn_seconds = now
        if self._live is not None:
            self._shown(self._live.refresh)

    def _start_live(self) -> None:
        live = Live(get_renderable=self._picture, console=self._console, auto_refresh=False)
        self._live = live
        self._shown(live.start)
        self._shown(self._keep_cursor)

    def _keep_cursor(self) -> None:
        # Live hides the cursor; a run that is killed would leave the terminal without one.
        self._console.show_cursor(True)

    def _picture(self) -> Group:
        record = self._last_step
        if record is None:
            return Group()
        bar = Table.grid(padding=(0, 1), expand=False)
        bar.add_row(
            ProgressBar(total=record.max_steps, completed=record.step, width=_bar_width(self._console)),
            Text(f"{record.step}/{record.max_steps}  epoch {record.epoch:.2f}", no_wrap=True),
        )
        separator = fitted(self._console, "  ·  ")
        figures = fitted(self._console, separator.join(self._figures(record)))
        return Group(bar, Text(figures, no_wrap=True, overflow="ellipsis"))


def _bar_width(console: Console) -> int:
    return max(5, min(_BAR_WIDTH, console.width // 3))


def _position(step: int, max_steps: int | None) -> str:
    if max_steps is None:
        return f"step {step}"
    return f"step {step:>{len(str(max_steps))}}/{max_steps}"
