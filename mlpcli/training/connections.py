"""Receptive fields: units of the first layers that are connected to their neighbourhood only.

Pixels near each other belong to one stroke, and a fully connected layer has to learn that. A layer with a receptive
field of radius r need not. Each of its units has a place c in the image, as each pixel has, and unit j is connected to
what is at most r pixels away in the layer below:

    M_qj = 1 if |c_q - c_j| <= r, else 0        (D, H)
    (14)  dW = M * (x^T dz)                     in place of (5)

W begins as 0 where M is 0, so by (14) it stays 0 there: W = M * W. Nothing is shared between units, as it would be in a
convolution. LeCun 1989, "Generalization and network design strategies", calls such a network locally connected.

The places of a layer are spread evenly, whatever its number of units, by the additive recurrence of the plastic number
(Roberts 2018, "The unreasonable effectiveness of quasirandom sequences"). They cover the part of the image in which the
fields of the first layer do not reach beyond its border, or the middle if that is larger, and depend on nothing else:
networks of one config are connected alike, whatever the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.config import NetworkConfig
from mlpcli.datasets.catalogue import CATALOGUE, IMAGE_SHAPE
from mlpcli.errors import ConfigError
from mlpcli.training.step import Accumulable

Array = NDArray[Any]

PLASTIC_NUMBER = 1.324717957244746  # g^3 = g + 1
TIE = 1e-9  # of pixels: a distance of exactly r is within it, however it is rounded


def connections(config: NetworkConfig, image_shape: tuple[int, int], dtype: DTypeLike = np.float32) -> list[Array]:
    """Return M (D, H) of each layer that has a receptive field, from the first on, in the order of memory of W.

    Raises ``ConfigError`` if a unit is connected to nothing.
    """
    radii = config.receptive_fields or ()
    below = np.indices(image_shape).reshape(2, -1).T.astype(np.float64)
    found = []
    for layer, (radius, units) in enumerate(zip(radii, config.hidden, strict=False), start=1):
        places = spread(units, image_shape, radii[0])
        M = np.empty((units, len(below)), dtype)
        for row, place in zip(M, places, strict=True):
            row[:] = np.sqrt(np.square(below - place).sum(axis=1)) <= radius + TIE
        if not (connected := M.any(axis=1)).all():
            raise ConfigError(
                f"network.receptive_fields: {radius:g} pixels around unit {int(np.argmin(connected))} of layer {layer} "
                f"there is no unit of layer {layer - 1}; choose a larger radius, or more units"
            )
        found.append(M.T)
        below = places
    return found


def check_connections(config: NetworkConfig, dataset: str) -> None:
    """Raise ``ConfigError`` if a unit is connected to nothing; only if the shape of ``dataset``'s images is known."""
    if config.receptive_fields is not None and dataset in CATALOGUE:
        connections(config, IMAGE_SHAPE)


def spread(units: int, image_shape: tuple[int, int], margin: float) -> NDArray[np.float64]:
    """Return the places (H, 2), (row, column), of so many ``units``, ``margin`` pixels or more from the border.

    If that leaves less than half of an axis, the places are spread over the half in its middle.
    """
    steps = np.array([1 / PLASTIC_NUMBER, 1 / PLASTIC_NUMBER**2])
    fractions = (0.5 + np.arange(1, units + 1)[:, np.newaxis] * steps) % 1.0
    last = np.array(image_shape) - 1.0
    first = np.minimum(margin, last / 4)
    places: NDArray[np.float64] = first + fractions * (last - 2 * first)
    return places


def initial_factors(M: Array) -> NDArray[np.float64]:
    """Return the factors (D, H) of the drawn weights of a layer: 0, or such that the sum of the variances is kept."""
    factors: NDArray[np.float64] = np.sqrt(len(M) / M.sum(axis=0, dtype=np.float64)) * M
    return factors


def count_fixed(masks: Sequence[Array]) -> int:
    """Return the number of weights that the ``masks`` M keep at 0."""
    return sum(M.size - int(np.count_nonzero(M)) for M in masks)


def parameters_in_words(count: int, masks: Sequence[Array]) -> str:
    """Return the ``count`` of all parameters in words, and how many of them the ``masks`` M keep at 0."""
    fixed = count_fixed(masks)
    return f"{count:,} parameters" + (f", of which {fixed:,} stay 0" if fixed else "")


class ConnectedGradient:
    """A ``gradient`` of which only the connections count. ``targets`` (D, H) are where its first dW are accumulated."""

    def __init__(self, gradient: Accumulable, targets: Sequence[Array], connections: Sequence[Array]) -> None:
        self._gradient = gradient
        self._pairs = list(zip(targets, connections, strict=False))

    def accumulate(self, alpha: float = 1.0, beta: float = 0.0) -> None:
        """Compute target <- beta * target + alpha * M * dLoss/dtheta, for a target that is 0 where M is."""
        self._gradient.accumulate(alpha, beta)
        for target, M in self._pairs:
            np.multiply(target, M, out=target)  # (14)
