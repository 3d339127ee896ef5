"""Dropout: each step trains a network some of whose inputs and hidden units are left out.

Each unit of a layer is left out with probability r, anew for every example and step: its activation a is multiplied by

    m = 0 with probability r,  1 / (1 - r) otherwise

so that E[m a] = a, and the whole network, nothing left out, can be used as it is once trained. Srivastava, Hinton,
Krizhevsky, Sutskever, Salakhutdinov 2014, "Dropout: a simple way to prevent neural networks from overfitting", sections
4 and 10 (where m is 1 or 0 and the trained weights are multiplied by 1 - r instead). Given the masks m the loss is a
function like any other, and its gradient is derived in :mod:`mlpcli.model.network`, equations 11 and 12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# A random word gives four numbers of so many values: rates are rounded to 1 / 65,536.
VALUES = 1 << 16

# Some rows and some columns of a mask.
Cut = tuple[slice, slice]
WHOLE: Cut = slice(None), slice(None)


def draw_masks(
    rates: Sequence[float],
    masks: Sequence[Array | None],
    rng: np.random.Generator,
    shapes: Sequence[tuple[int, int]] = (),
    cuts: Sequence[Cut] = (),
) -> None:
    """Fill the masks m (B, H) of the layers in turn; ``rates`` has r of each. A layer that drops nothing has none.

    Where they are but ``cuts`` of masks of larger ``shapes``, they are what they are in the whole.
    """
    for layer, (rate, mask) in enumerate(zip(rates, masks, strict=True)):
        if mask is not None:
            draw_mask(rate, mask, rng, shapes[layer] if shapes else mask.shape, cuts[layer] if cuts else WHOLE)


def draw_mask(
    rate: float, mask: Array, rng: np.random.Generator, shape: tuple[int, ...] | None = None, cut: Cut = WHOLE
) -> None:
    """Fill ``mask`` (B, H) with 0, for a share ``rate`` below 1 of its entries, and 1 / (1 - rate).

    Where it is but the ``cut`` of a mask of a larger ``shape``, it is what it is in the whole.
    """
    left_out = round(rate * VALUES)
    shape = mask.shape if shape is None else shape
    size = math.prod(shape)
    words = rng.bit_generator.random_raw(-(-size // 4)).astype("<u8", copy=False)
    np.greater_equal(words.view("<u2")[:size].reshape(shape)[cut], left_out, out=mask)
    mask *= VALUES / (VALUES - left_out)
