"""Choice of the training images held out for validation: the last ones, or a draw by the seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlpcli.errors import DataError
from mlpcli.rng import keyed_rng

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]


def how_many(validation: float, images: int, name: str) -> int:
    """Return the number of ``images`` to hold out: ``validation`` is a fraction, or from 1 up a number.

    Raises ``DataError`` if none would be left, or none held out.
    """
    if validation == 0:
        return 0
    count = round(validation * images) if validation < 1 else int(validation)
    if not 0 < count < images:
        raise DataError(
            f"{name}: data.validation {validation:g} would hold out {'all' if count else 'none'} of the {images} "
            f"training images; at least one must be held out (or data.validation be 0) and at least one be left"
        )
    return count


def drawn(labels: Bytes, count: int, order: str, seed: int) -> Indices:
    """Draw the ``count`` images to hold out by ``labels`` (N,), in file order; ``order`` is shuffled or stratified.

    Stratified: of a class with n of the N images, count * n / N are drawn, rounded so that the sum is right. Raises
    ``DataError`` for several labels per image.
    """
    shuffled = keyed_rng(seed, "validation").permutation(len(labels))
    if order == "stratified" and labels.ndim == 2:
        raise DataError("data.validation_order: stratified needs one label per image; use shuffled")
    if order == "stratified":
        # The i-th of n images of a class gets the position (i + 1/2) / n: the first ones in this order have the classes
        # in proportion.
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        sizes = np.bincount(labels)
        begins = np.cumsum(sizes) - sizes
        of = labels[by_class]
        middle = (np.arange(len(labels)) - begins[of] + 0.5) / sizes[of]
        shuffled = by_class[np.argsort(middle, kind="stable")]
    return np.sort(shuffled[:count])
