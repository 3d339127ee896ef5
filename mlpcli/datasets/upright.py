"""Images whose rows and columns are swapped in their files, as EMNIST's are: when and how they are swapped back."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from mlpcli.config import DataConfig
from mlpcli.datasets.collection import Bytes


def is_emnist(name: str) -> bool:
    """Return True if ``name``, of an IDX file or the prefix of several, is one of EMNIST's, and not of FEMNIST's."""
    return re.search("(?<![a-z])emnist", name.lower()) is not None


def is_swapped(transpose: bool | None, emnist: bool) -> bool:
    """Return True if rows and columns are swapped in files that have EMNIST's names if ``emnist``.

    ``transpose`` is data.transpose, which decides unless it is None.
    """
    return emnist if transpose is None else transpose


def swaps(data: DataConfig) -> bool:
    """Return True if rows and columns are swapped in the files of ``data``, as far as its own name tells."""
    return is_swapped(data.transpose, is_emnist(data.dataset))


def upright(images: Bytes, name: str, transpose: bool | None, emnist: bool, say: Callable[[str], None]) -> Bytes:
    """Return ``images`` (N, h, w) of the files ``name``, read-only: (N, w, h) if they are swapped in the files.

    The arguments are those of :func:`is_swapped`. If the files' names have decided, ``say`` is told so.
    """
    if not is_swapped(transpose, emnist):
        return images
    if transpose is None:
        say(f"{name}: EMNIST's files have rows and columns swapped; they are swapped back (data.transpose)")
    images = np.ascontiguousarray(images.transpose(0, 2, 1))
    images.flags.writeable = False
    return images
