"""The console and the text on it: safe for every terminal, encoding and width."""

import math
from typing import IO

from rich.console import Console

_UNITS = ("B", "KB", "MB", "GB", "TB")
_ASCII = str.maketrans({"°": "", "✓": "+", "✗": "x", "·": "|", "…": "..."})


class RunConsole(Console):
    """A rich console that goes quiet when its reader goes away; the run matters more than its picture."""

    def on_broken_pipe(self) -> None:
        """The reader of the pipe has ended: nothing is printed from here on."""
        self.quiet = True


def run_console(file: IO[str] | None = None, *, width: int | None = None) -> RunConsole:
    """A console for standard output (or `file`) that prints text as it is: no markup, no highlighting."""
    return RunConsole(file=file, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def is_live(console: Console) -> bool:
    """Whether lines can be redrawn: a terminal that understands more than plain text."""
    return console.is_terminal and not console.is_dumb_terminal and not console.quiet


def fitted(console: Console, text: str) -> str:
    """The text with what the terminal cannot show replaced, and without control sequences."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else "\N{MIDDLE DOT}" for letter in text)
    encoding = console.encoding
    if encoding.lower().startswith("utf"):
        return shown
    return shown.translate(_ASCII).encode(encoding, "replace").decode(encoding)


def duration(seconds: float | None) -> str:
    """`3:05`, `1:02:03`; `-` when it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def byte_size(size_bytes: float) -> str:
    """`1.2 GB`, in powers of 1000."""
    exponent = min(len(_UNITS) - 1, max(0, int(math.log10(size_bytes) // 3))) if size_bytes >= 1 else 0
    value = size_bytes / 1000**exponent
    return f"{value:.0f} {_UNITS[exponent]}" if exponent == 0 else f"{value:.1f} {_UNITS[exponent]}"


def short_count(count: float) -> str:
    """`950`, `12.3 k`, `2.6 M`, `3.1 G`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(count) >= limit:
            return f"{count / (1e3 if unit == 'k' else limit):.1f} {unit}"
    return f"{count:,.0f}"
