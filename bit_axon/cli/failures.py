"""How a command that failed ends: one clear message and an exit code, never a bare traceback."""

import os
import sys
import traceback
from pathlib import Path

from bit_axon.errors import BitAxonError, StorageError
from bit_axon.files import outputs_dir, write_atomic

DEBUG_VARIABLE = "BIT_AXON_DEBUG"
EXIT_INTERRUPTED = 130
EXIT_UNEXPECTED = 1


def report_failure(error: BaseException) -> int:
    """Says on the error stream what went wrong, and returns the exit code.

    An error of `bit_axon.errors` is its own message. Any other goes, with its traceback, to a log file
    in the outputs folder; with BIT_AXON_DEBUG=1 it is raised again instead.
    """
    if isinstance(error, BitAxonError):
        print(f"bit_axon: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        print("bit_axon: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    if os.environ.get(DEBUG_VARIABLE) == "1" or not isinstance(error, Exception):
        raise error
    print(_unexpected(error), file=sys.stderr)
    return EXIT_UNEXPECTED


def _unexpected(error: Exception) -> str:
    headline = str(error).strip().split("\n", 1)[0] or "no message"
    log = _write_log(error)
    place = f"The details are in {log}" if log else "The details could not be written to the outputs folder"
    return (
        f"bit_axon: unexpected error: {type(error).__name__}: {headline}\n"
        f"{place}; {DEBUG_VARIABLE}=1 shows them here. Please report it with them."
    )


def _write_log(error: Exception) -> Path | None:
    path = outputs_dir() / "bit-axon-error.log"
    try:
        write_atomic(path, "".join(traceback.format_exception(error)))
    except StorageError:
        return None
    return path
