"""metrics.jsonl, written from the loop's records."""

from bit_axon.run_directory import MetricsLog
from bit_axon.training.records import EvaluationRecord, Observer, StepRecord


class LoggingObserver:
    """Writes metrics.jsonl, then passes everything on."""

    def __init__(self, log: MetricsLog, next_observer: Observer, method_name: str):
        self._log, self._next, self._prefix = log, next_observer, method_name

    def on_step(self, record: StepRecord) -> None:
        """A `train` line; speeds are left out of steps that compiled a shape."""
        metrics = {
            "train/loss": record.loss,
            "train/grad_norm": record.grad_norm,
            "train/learning_rate": record.learning_rate,
            "train/epoch": record.epoch,
            "memory/peak_bytes": float(record.peak_memory_bytes),
        }
        if not record.compiled:
            metrics["train/tokens_per_second"] = record.tokens / record.seconds
            metrics["train/examples_per_second"] = record.examples / record.seconds
        metrics |= {f"thermal/{name}": value for name, value in record.thermal.items()}
        metrics |= {f"{self._prefix}/{name}": value for name, value in record.metrics.items()}
        self._log.append("train", record.step, metrics)
        self._next.on_step(record)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """An `eval` line."""
        metrics = {"val/loss": record.loss, "val/loss_best": record.loss_best}
        metrics |= {f"val/{self._prefix}_{name}": value for name, value in record.metrics.items()}
        self._log.append("eval", record.step, metrics)
        self._next.on_evaluation(record)

    def on_message(self, text: str) -> None:
        """Nothing is written."""
        self._next.on_message(text)
