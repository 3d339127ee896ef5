"""The parameters that training begins with: drawn by the seed, or layers of a trained network in their place."""

from __future__ import annotations

import numpy as np

from mlpcli.config import Config
from mlpcli.model.build import Architecture
from mlpcli.model.parameters import Parameters, initialize
from mlpcli.rng import keyed_rng
from mlpcli.training.connections import connections, initial_factors


def draw_parameters(
    config: Config, architecture: Architecture, image_shape: tuple[int, int], dtype: str | None = None
) -> Parameters:
    """Return the initial parameters of ``config``'s network for images of this shape, in ``dtype`` or the config's.

    Raises ``ConfigError`` if its receptive fields leave a unit without connections.
    """
    network = config.network
    theta = architecture.parameters(dtype or network.dtype)
    factors = map(initial_factors, connections(network, image_shape))
    rng = keyed_rng(config.seed, "initialization")
    # A scale too large for the dtype shows in the first loss; numpy need not warn of it too.
    with np.errstate(over="ignore"):
        initialize(theta, network.initialization, network.initial_scale, network.activation, rng, factors)
    return theta


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
