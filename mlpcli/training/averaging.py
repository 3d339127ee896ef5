"""The exponential moving average (EMA) of the parameters: better than any of them while the learning rate is high.

With a constant rate theta moves around a minimum, and the mean of many steps is closer to it (Polyak and Juditsky 1992,
"Acceleration of stochastic approximation by averaging"). Early steps were far away, so their weight decays:

    average <- d average + (1 - d) theta           with a decay d per step

It is updated every 8 steps, with d^8 for d: an eighth of the cost, and theta moves little in between. At first the
factor is smaller, (n - 1) / n in the n-th update, so that the average is the plain mean of the thetas so far, without
the initial parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INTERVAL = 8


class MovingAverage:
    """Keeps ``average`` (n,) the moving average of ``theta`` (n,), with ``decay`` per step, in this process's chunks.

    ``steps_per_epoch`` bounds the interval between updates: every epoch ends with an average to evaluate.
    """

    def __init__(
        self, average: Array, theta: Array, decay: float, steps_per_epoch: int, chunks: Sequence[slice]
    ) -> None:
        self._interval = min(INTERVAL, steps_per_epoch)
        self._decay = decay**self._interval
        scratch = np.empty(max((own.stop - own.start for own in chunks), default=0), theta.dtype)
        self._chunks = [(average[own], theta[own], scratch[: own.stop - own.start]) for own in chunks]

    def update(self, step: int) -> None:
        """Take ``theta`` after ``step`` steps, from 1, into the average, if an interval ends with it."""
        updates, between = divmod(step, self._interval)
        if between:
            return
        decay = min(self._decay, (updates - 1) / updates)
        for average, theta, difference in self._chunks:
            # average + (1 - d) (theta - average): equal parameters stay exactly as they are.
            np.subtract(theta, average, out=difference)
            difference *= 1.0 - decay
            average += difference
