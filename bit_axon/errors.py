"""Every error a user of bit_axon can meet, and the exit code each one ends a command with.

    BitAxonError                  1   anything that went wrong at run time
     |- UserError                 2   the input is wrong; nothing was trained
     |   |- ConfigError               a key, a value or a combination of them
     |   |- DataError                 a data file, a row of one, or a data set as a whole
     |   |- ModelError                a model folder, a tokenizer, an adapter file
     |   `- RunDirectoryError         a run directory that is in use, or is not what it should be
     |- NonFiniteLossError        1   the loss became NaN or infinite
     |- StorageError              1   the disk is full or cannot be written
     |- StopRequestedError      130   a person asked the run to stop
     |- SensorError               1   a source of temperature gave no answer; the monitor copes with it
     `- ThermalShutdownError      3   the machine is too hot to go on

A message says what was wanted, what was got and what to do, in that order.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final

_LISTED: Final = 12  # names in a message


class BitAxonError(Exception):
    """Base of all errors raised on purpose; its text is shown to the user as it is."""

    exit_code = 1


class UserError(BitAxonError):
    """The input is wrong: the run has not started and nothing was written."""

    exit_code = 2


class ConfigError(UserError):
    """A config key, value or combination is wrong.

    Attributes:
        keys: the dotted keys it is about, so that the command can say where their values were set.
    """

    def __init__(self, text: str, keys: Sequence[str] = ()):
        super().__init__(text)
        self.keys = tuple(keys)


class DataError(UserError):
    """A data source, one of its rows, or the data set as a whole cannot be used."""


class ModelError(UserError):
    """A model folder, tokenizer or adapter file cannot be used."""


class RunDirectoryError(UserError):
    """A run directory is in use, or does not hold what the command needs."""


class NonFiniteLossError(BitAxonError):
    """The training loss became NaN or infinite; the last good checkpoint is kept."""


class StorageError(BitAxonError):
    """A file could not be written: disk full or read-only; the last good checkpoint is kept."""


class StopRequestedError(BitAxonError):
    """A person asked the run to stop; what was going on is given up."""

    exit_code = 130


class SensorError(BitAxonError):
    """A source of temperature gave no answer."""


class ThermalShutdownError(BitAxonError):
    """The machine stayed above its stop temperature; the run was checkpointed first."""

    exit_code = 3


def problem(wanted: str, got: str, remedy: str, *, where: str | None = None) -> str:
    """One message in the order a reader needs it: where, what was wanted, what was got, what to do."""
    place = f"{where}: " if where else ""
    found = got.rstrip(". \n")
    return f"{place}wanted {wanted}; got {found}. {remedy}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` or the list of what there is."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"There is: {', '.join(names[:_LISTED])}{more}."
