"""Whether the trials of a search will have the numbers that it goes by: known before any is trained."""

from typing import Final

from bit_axon.errors import ConfigError, nearest, problem
from bit_axon.schema import RunConfig
from bit_axon.sweep.config.settings import FIGURES, SWEEPER_KEY, SweepSettings
from bit_axon.training.methods import METHODS, build_method
from bit_axon.training.methods.base import Method

_OF_VALIDATION: Final = ("eval_loss_best", "eval_loss")
_OF_ANSWERS: Final = "task_accuracy"
_OF_A_SENSOR: Final = ("thermal.max", "thermal.mean", "thermal.p95", "thermal.degree_seconds_above_pause")
_OF_ANY_RUN: Final = (
    *FIGURES,
    "loss",
    "supervised_tokens",
    "examples_per_second",
    "tokens_per_second",
    "seconds.total",
    "thermal.p95",
    "thermal.energy_wh",
    "thermal.joules_per_token",
    "thermal.paused_seconds",
    "thermal.throttled_throughput",
)


def known_metrics(method: Method) -> tuple[str, ...]:
    """The numbers of result.json that differ from trial to trial."""
    return (*_OF_VALIDATION, _OF_ANSWERS, *_OF_ANY_RUN, *method.metrics)


def check_objectives(settings: SweepSettings, config: RunConfig) -> None:
    """Refuses an objective that the result of this config will not have.

    Args:
        settings: of the search.
        config: of a trial.

    Raises:
        ConfigError: there is no such number, or this method, data or setting does not give it.
    """
    method = build_method(config.method)
    for objective in settings.objectives:
        found = _missing(objective.metric, method, config)
        if found is not None:
            where = f"{SWEEPER_KEY}.objectives"
            raise ConfigError(problem("a number of result.json", *found, where=where), [where])


def _missing(metric: str, method: Method, config: RunConfig) -> tuple[str, str] | None:
    """What was got and what to do; None where the result will have the number."""
    if metric in _OF_VALIDATION and config.data.valid is None:
        return f"'{metric}' without validation data", "Set data.valid."
    if metric == _OF_ANSWERS and not _has_answers(config):
        remedy = "Set data.valid and the number of prompts to answer: data.accuracy_prompts=32."
        return f"'{metric}' without prompts to answer", remedy
    if metric in _OF_A_SENSOR and config.thermal.source == "none":
        return f"'{metric}' with thermal.source=none", "Choose another source."
    if metric in known_metrics(method):
        return None
    owner = next((name for name, other in METHODS.items() if metric in other.metrics), None)
    if owner is not None:
        return f"'{metric}' with method={method.name}", f"It belongs to method={owner}."
    return f"'{metric}'", nearest(metric, known_metrics(method))


def _has_answers(config: RunConfig) -> bool:
    data = config.data
    return bool(data.accuracy_prompts) and data.valid is not None and data.format != "text"
