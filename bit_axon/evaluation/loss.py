"""The loss on a fixed validation set."""

from collections.abc import Callable

from bit_axon.training.position import Plan
from bit_axon.training.prefetch import Prefetch
from bit_axon.training.records import Evaluation
from bit_axon.training.stepper import Stepper


def evaluate_loss(
    stepper: Stepper,
    plan: Plan,
    max_batches: int | None = None,
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Weighted means over the same batches every time, without touching the training's randomness.

    Args:
        stepper: evaluates one batch.
        plan: an unshuffled plan of the validation set.
        max_batches: only the first so many; None = all.
        between: called before each batch, when the device is at rest; it may raise.
    """
    count = plan.batches_in_epoch(0)
    count = count if max_batches is None else min(count, max_batches)
    loss = weight = 0.0
    examples = 0
    metrics = dict.fromkeys(stepper.method.metrics, 0.0)
    with Prefetch(plan) as prefetch:
        for index in range(count):
            between()
            batch = prefetch.batch(index, ahead=index + 1 < count)
            batch_loss, batch_weight, batch_metrics = stepper.evaluate(batch)
            loss, weight, examples = loss + batch_loss, weight + batch_weight, examples + batch.examples
            metrics = {name: total + batch_metrics[name] for name, total in metrics.items()}
    return Evaluation(loss / weight, {name: total / weight for name, total in metrics.items()}, examples)
