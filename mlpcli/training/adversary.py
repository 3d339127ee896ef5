"""Adversarial training: each image of a batch is moved in the direction in which its loss rises most, then trained on.

To first order that is, at a given distance, the direction of its gradient:

    (13)  X <- X + epsilon dX / ||dX||        row by row, with dX of equation (7) in the first layer

Goodfellow, Shlens and Szegedy 2015, "Explaining and harnessing adversarial examples", section 6, in the Euclidean norm:
Miyato et al. 2018, "Virtual adversarial training", section 3.1. The moved image is a constant: the parameters in dX are
not differentiated. It may have pixels below 0 and above 1, and pixels that input dropout had set to 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.model.input import Input
from mlpcli.model.network import Network

Array = NDArray[Any]


class Adversary:
    """Moves the inputs ``X`` (B, D) of ``network``, whose backward pass goes down to dX, by the distance ``epsilon``.

    ``own`` are the rows of X whose loss this process computes. Distances are Euclidean, of pixels from 0 to 1. A row
    whose dX is 0 stays.
    """

    def __init__(self, network: Network, X: Input, own: slice, epsilon: float) -> None:
        self._network, self._X, self._distance = network, X.array[own], epsilon / X.scale
        # Below, the squares in the norm underflow: an image whose gradient is shorter is moved less.
        self._shortest = float(np.sqrt(np.finfo(X.array.dtype).tiny))

    def perturb(self, Y: Array) -> None:
        """Move the inputs away from their targets ``Y`` (B, K). Collective."""
        network = self._network
        z = network.forward().astype(np.float64)
        # (4) in float64: only the direction of dz counts, and in float32 p - Y has no digit left where 1 - p < 1e-7.
        p, dz = np.empty_like(z), np.empty_like(z)
        network.objective.output(z, p)
        network.objective.backward(z, p, Y.astype(np.float64), dz, network.batch_size)
        # For a power of two, as the length does not count: p - Y of a sure network is too small for float32.
        _, exponents = np.frexp(np.abs(dz).max(axis=1, keepdims=True))
        network.dlogits[...] = np.ldexp(dz, -exponents)
        network.backward_from_logits()
        dX = network.input_gradient()
        norms = np.sqrt(np.einsum("ij,ij->i", dX, dX))[:, np.newaxis]
        dX *= self._distance / np.maximum(norms, self._shortest)
        self._X += dX  # (13)
