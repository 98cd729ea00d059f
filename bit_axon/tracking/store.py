"""Opens an MLflow store: makes it when it is new, finds or makes the experiment."""

from collections.abc import Callable
from dataclasses import dataclass

from bit_axon.errors import BitAxonError, problem
from bit_axon.tracking.environment import prepare_environment, silence_third_parties
from bit_axon.tracking.location import absolute_uri, artifact_root
from bit_axon.tracking.locks import opening
from bit_axon.tracking.mlflow_api import MlflowClient, MlflowException


@dataclass(frozen=True)
class Store:
    """An MLflow store and one experiment of it."""

    uri: str
    experiment: str
    experiment_id: str
    client: MlflowClient


def open_store(uri: str | None, experiment: str, say: Callable[[str], None] | None = None) -> Store:
    """Connects to the store; a SQLite file and its schema are made under a file lock.

    Raises:
        MlflowException: the store cannot be reached.
        BitAxonError: the experiment was deleted, or the store's folder cannot be written.
    """
    prepare_environment(say)
    silence_third_parties()
    address = absolute_uri(uri)
    with opening(address):
        client = MlflowClient(tracking_uri=address)
        return Store(address, experiment, _experiment_id(client, address, experiment), client)


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root(uri)))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # a server may have got it from another machine
            if found is None:
                raise error
    if found.lifecycle_stage != "active":
        raise BitAxonError(
            problem(
                f"the MLflow experiment {name!r}",
                "one that was deleted",
                f"Choose another tracking.experiment, or restore it: "
                f"mlflow experiments restore --experiment-id {found.experiment_id}",
            )
        )
    return str(found.experiment_id)
