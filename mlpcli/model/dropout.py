"""Dropout: in each step of training some inputs and hidden units are dropped.

Each unit of a layer is dropped with probability r, anew for every example and step: its activation h is multiplied by

    m = 0 with probability r,  1 / (1 - r) otherwise

so that E[m h] = h, and the trained network is used whole, without masks. Srivastava, Hinton, Krizhevsky, Sutskever,
Salakhutdinov 2014, "Dropout: a simple way to prevent neural networks from overfitting", sections 4 and 10 (where m is 1
or 0 and the trained weights are multiplied by 1 - r instead). Given the masks m the loss is a function like any other,
whose gradient is derived in :mod:`mlpcli.model.network`, equations 11 and 12.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Each random word gives four numbers of this many values: rates are rounded to 1 / 65,536.
MASK_RESOLUTION = 1 << 16

Block = tuple[slice, slice]
ALL: Block = slice(None), slice(None)


def draw_mask(rate: float, shape: tuple[int, int], rng: np.random.Generator, mask: Array, block: Block = ALL) -> None:
    """Draw the mask m of this ``shape``, 0 with probability ``rate`` < 1 and 1 / (1 - rate) otherwise.

    Its ``block`` is written to ``mask``: which entries are dropped does not depend on how processes divide them.
    """
    dropped = round(rate * MASK_RESOLUTION)
    size = math.prod(shape)
    words = rng.bit_generator.random_raw(-(-size // 4)).astype("<u8", copy=False)
    np.greater_equal(words.view("<u2")[:size].reshape(shape)[block], dropped, out=mask)
    mask *= MASK_RESOLUTION / (MASK_RESOLUTION - dropped)
