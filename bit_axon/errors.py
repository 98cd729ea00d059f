"""Every error a user of bit_axon can meet, and the exit code each one ends a command with.

    BitAxonError                  1   anything that went wrong at run time
     |- UserError                 2   the input is wrong; nothing was trained
     |   |- ConfigError               a key, a value or a combination of them
     |   |- DataError                 a data file, a row of one, or a data set as a whole
     |   |- ModelError                a model folder, a tokenizer, an adapter file
     |   `- RunDirectoryError         a run directory that is in use, or is not what it should be
     |- NonFiniteLossError        1   the loss became NaN or infinite
     |- StorageError              1   the disk is full or cannot be written
     `- ThermalShutdownError      3   the machine is too hot to go on

A message says what was wanted, what was got and what to do, in that order.
"""


class BitAxonError(Exception):
    """Base of all errors raised on purpose; its text is shown to the user as it is."""

    exit_code = 1


class UserError(BitAxonError):
    """The input is wrong: the run has not started and nothing was written."""

    exit_code = 2


class ConfigError(UserError):
    """A config key, value or combination is wrong."""


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


class ThermalShutdownError(BitAxonError):
    """The machine stayed above its stop temperature; the run was checkpointed first."""

    exit_code = 3


def problem(wanted: str, got: str, remedy: str, *, where: str | None = None) -> str:
    """One message in the order a reader needs it: where, what was wanted, what was got, what to do."""
    place = f"{where}: " if where else ""
    return f"{place}wanted {wanted}; got {got}. {remedy}"
