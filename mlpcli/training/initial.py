"""The parameters that training begins with: drawn by the seed, or layers of a trained network in their place.

In images, pixels near each other belong to one stroke. A unit of the first layer can be given this to begin with, by a
receptive field: a Gaussian window g of standard deviation s pixels around a place c of its own, which multiplies its
drawn weights. Pixel p = (row, column) of D:

    g(p) = exp(-|p - c|^2 / (2 s^2)) / N          N^2 the mean of the squares over all pixels: the mean of g^2 is 1

so that the sum of the weights' variances is as without. Nothing else is local: training moves all weights. Windows of
random place are those of McDonnell, Tissera, Vladusich, van Schaik, Tapson 2015, "Fast, simple and accurate handwritten
digit classification by training shallow neural network classifiers with the 'extreme learning machine' algorithm",
Gaussian ones those of Pandey, Pachitariu, Brunton, Harris 2022, "Structured random receptive fields enable informative
sensory encodings".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import Config
from mlpcli.model.build import Architecture
from mlpcli.model.parameters import Parameters, initialize
from mlpcli.training.rng import keyed_rng

Array = NDArray[Any]


def draw_parameters(
    config: Config, architecture: Architecture, image_shape: tuple[int, int], dtype: str | None = None
) -> Parameters:
    """Return the initial parameters of ``config``'s network for images of this shape, in ``dtype`` or the config's."""
    network = config.network
    theta = architecture.parameters(dtype or network.dtype)
    factors = None
    if network.receptive_field is not None:
        rng = keyed_rng(config.seed, "receptive fields")
        factors = receptive_fields(image_shape, network.hidden[0], network.receptive_field, rng)
    rng = keyed_rng(config.seed, "initialization")
    # A scale too large for the dtype shows in the first loss; numpy need not warn of it too.
    with np.errstate(over="ignore"):
        initialize(theta, network.initialization, network.initial_scale, network.activation, rng, factors)
    return theta


def receptive_fields(image_shape: tuple[int, int], units: int, sigma: float, rng: np.random.Generator) -> Array:
    """Return the windows g (D, H) of H ``units`` on images of ``image_shape``, D pixels; ``sigma`` in pixels.

    The places c are drawn uniformly from the image.
    """

    def along(size: int) -> Array:
        """Return the windows along one axis, (size, H): a Gaussian in the plane is the product of two."""
        distance = np.arange(size)[:, None] - rng.uniform(0, size - 1, units)
        window: Array = np.exp(-0.5 * (distance / sigma) ** 2)
        window /= np.sqrt(np.mean(window**2, axis=0))
        return window

    rows, columns = (along(size) for size in image_shape)
    windows: Array = rows[:, None] * columns
    return windows.reshape(-1, units)


def copy_layers(trained: Parameters, theta: Parameters, *, same_classes: bool) -> tuple[int, ...]:
    """Copy to ``theta`` the layers of ``trained`` that fit; return the numbers, from 1, of those that do not.

    A layer fits if W has the same shape, the output layer only if its units also stand for the ``same_classes``.
    """
    last, others = len(theta.W), []
    for layer, (W, b) in enumerate(zip(theta.W, theta.b, strict=True), start=1):
        fits = layer <= len(trained.W) and trained.W[layer - 1].shape == W.shape
        if fits and (same_classes or layer < last):
            W[...], b[...] = trained.W[layer - 1], trained.b[layer - 1]
        else:
            others.append(layer)
    return tuple(others)
