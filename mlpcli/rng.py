"""Randomness that is keyed, not carried: every generator is a pure function of seed, purpose and epoch.

So any epoch can be repeated without its history, no generator's state is stored, and no draw affects another's.
"""

from __future__ import annotations

import numpy as np

# The numbers are part of what a seed means: they are never changed or used again.
PURPOSES = {
    "initialization": 1,
    "order": 2,
    "affine": 3,
    "elastic": 4,
    "dropout": 5,
    "sweep": 6,
    "input dropout": 7,
    "validation": 8,
}


def keyed_rng(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """Return the generator for ``purpose`` in ``epoch``: Philox 4x64-10, a counter-based generator, keyed by all three.

    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3". ``seed`` is below 2^64, ``epoch``
    below 2^48.
    """
    key = np.array([seed, PURPOSES[purpose] << 48 | epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
