"""Learning-rate schedules: pure functions of the update's number."""

import math
from typing import Literal

ScheduleName = Literal["cosine", "linear", "constant"]


def learning_rate_at(
    step: int,
    *,
    peak: float,
    minimum: float,
    warmup_steps: int,
    max_steps: int,
    schedule: ScheduleName = "cosine",
) -> float:
    """The learning rate of optimizer update `step` (1-based).

    Rises linearly from 0 (before the first update) to `peak` at update `warmup_steps`, then decays to
    `minimum`, reached exactly at update `max_steps`. `constant` stays at the peak.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant" or step == warmup_steps:
        return peak
    done = min((step - warmup_steps) / max(max_steps - warmup_steps, 1), 1.0)
    left = 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done
    return minimum + (peak - minimum) * left
