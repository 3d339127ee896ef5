"""Dropout: in each step of training some inputs and hidden units are dropped.

Each unit of a layer is dropped with probability rho, anew for every example and step: its activation h is multiplied by

    m = 0 with probability rho,  1 / (1 - rho) otherwise

so that E[m h] = h, and the trained network is used whole, without masks. Srivastava, Hinton, Krizhevsky, Sutskever,
Salakhutdinov 2014, "Dropout: a simple way to prevent neural networks from overfitting", sections 4 and 10 (where m is 1
or 0 and the trained weights are multiplied by 1 - rho instead). Given the masks m the loss is a function like any
other, whose gradient is derived in :mod:`mlpcli.model.network`, equations 11 and 12.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Block = tuple[slice, slice]
ALL: Block = slice(None), slice(None)


def draw_mask(rate: float, shape: tuple[int, int], rng: np.random.Generator, mask: Array, block: Block = ALL) -> None:
    """Draw the mask m of this ``shape``, 0 with probability ``rate`` < 1 and 1 / (1 - rate) otherwise.

    Its ``block`` is written to ``mask``: which entries are dropped does not depend on how processes divide them.
    """
    # A byte of a random word for each entry. It is compared with 256 rate, rounded up or down at random for the whole
    # mask, so that each entry is dropped with the probability ``rate``.
    whole, rest = divmod(256 * rate, 1)
    dropped = int(whole) + (rng.random() < rest)
    size = math.prod(shape)
    words = rng.bit_generator.random_raw(-(-size // 8)).astype("<u8", copy=False)
    np.greater_equal(words.view("<u1")[:size].reshape(shape)[block], dropped, out=mask)
    mask *= 1 / (1 - rate)
