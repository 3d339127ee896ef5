"""The exponential moving average of the parameters, which is better than any of them while the rate is high.

Steps of a constant size do not come to rest in a minimum but wander around it. Their mean lies nearer to it: Polyak and
Juditsky 1992, "Acceleration of stochastic approximation by averaging". Here the older steps fade, as theta once was
far away:

    average <- d average + (1 - d) theta           a decay d a step

What this is the mean of has an age of 1 / (1 - d) steps. It is taken every few steps with the decay of as many, which
differs by less than theta moves in between and costs as much less. At first d is smaller, (n - 1) / n the nth time, so
that the average is the plain mean of what there has been and not of the initial parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INTERVAL = 8


class Average:
    """Keeps ``average`` (n,) the moving average of ``theta`` (n,), with the decay of one step.

    ``steps_per_epoch`` bounds the interval: after each epoch there is something to validate. Only the ``stretches`` of
    both are touched, one after the other.
    """

    def __init__(
        self, average: Array, theta: Array, decay: float, steps_per_epoch: int, stretches: Sequence[slice]
    ) -> None:
        self._interval = min(INTERVAL, steps_per_epoch)
        self._decay = decay**self._interval
        scratch = np.empty(max((own.stop - own.start for own in stretches), default=0), theta.dtype)
        self._pieces = [(average[own], theta[own], scratch[: own.stop - own.start]) for own in stretches]

    def step(self, step: int) -> None:
        """Take ``theta`` after ``step`` steps, from 1, into the average, if it is its turn."""
        times, between = divmod(step, self._interval)
        if between:
            return
        decay = min(self._decay, (times - 1) / times)
        for average, theta, difference in self._pieces:
            # average + (1 - d) (theta - average): equal parameters stay exactly as they are.
            np.subtract(theta, average, out=difference)
            difference *= 1.0 - decay
            average += difference
