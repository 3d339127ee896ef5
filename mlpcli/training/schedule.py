"""Learning-rate schedules."""

from __future__ import annotations

import math

from mlpcli.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate eta of ``step`` (from 0), by the schedule over all ``config.epochs``.

    First it rises linearly over ``warmup_epochs``. Then it is ``constant``; or ``cosine``, eta/2 (1 + cos pi t) at the
    fraction t of the remaining steps (Loshchilov and Hutter 2017, equation 5, one cycle); or ``step``, a tenth once
    half of all epochs are done, a hundredth after three quarters (He et al. 2016, section 4.2).
    """
    eta = config.learning_rate
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return eta * ((step + 1) / (warmup + 1))
    total = config.epochs * steps_per_epoch
    if config.schedule == "cosine":
        return eta / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    if config.schedule == "step":
        return eta * (1.0 if step < total / 2 else 0.1 if step < total * 3 / 4 else 0.01)
    return eta
