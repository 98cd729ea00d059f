"""Settings MLflow reads when it is imported, and the noise it makes on the console."""

import logging
import os
import warnings
from collections.abc import Callable

# With MLflow's own settings one call to an absent server blocks for about four minutes.
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
# These print tracebacks and progress of errors and steps that bit_axon handles and reports itself.
_NOISY_LOGGERS = ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool")
_THIRD_PARTY = r"(mlflow|alembic|sqlalchemy)(\.|$)"


def prepare_environment(say: Callable[[str], None] | None = None) -> None:
    """Sets what the user left unset, before MLflow is imported; may be called many times.

    `MLFLOW_RUN_ID` is removed, because MLflow would send points to that run instead of ours; `say` is
    told about it.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    foreign_run = os.environ.pop("MLFLOW_RUN_ID", None)
    if foreign_run is not None and say is not None:
        say(f"tracking: MLFLOW_RUN_ID={foreign_run} is ignored; every run here has its own MLflow run")


def silence_third_parties() -> None:
    """Keeps MLflow's and SQLAlchemy's log lines and deprecation warnings off the console."""
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=_THIRD_PARTY)
