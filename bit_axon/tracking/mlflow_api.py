"""The few names of MLflow that are used. Its environment is prepared first: MLflow reads it on import."""
# ruff: noqa: E402

from bit_axon.tracking.environment import prepare_environment, silence_third_parties

prepare_environment()
silence_third_parties()

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

__all__ = [
    "Dataset",
    "DatasetInput",
    "InputTag",
    "Metric",
    "MlflowClient",
    "MlflowException",
    "Param",
    "RunTag",
]
