"""The activations of hidden units: each with its value and its derivative in terms of the value.

All write to arrays of any dtype. For the complex step the values are analytic: no ``abs``, no conjugate, and branches
are decided on ``.real``.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpcli.model.numerics import scalar_array

Array = NDArray[Any]

# Beyond |z| = 4.6 a sigmoid is saturated: h (1 - h) < 0.01, less than a twenty-fifth of its maximum, 1/4.
SATURATED = 4.6


class Activation(Protocol):
    """h = f(z), element by element."""

    name: str

    def forward(self, z: Array, h: Array) -> None:
        """Write f(z) to ``h``; both (B, H)."""

    def derivative(self, h: Array, slope: Array) -> Array:
        """Write f'(z), in terms of h = f(z), to ``slope``, and return it; both (B, H)."""


def sigmoid(z: Array, h: Array) -> None:
    """Write 1 / (1 + exp(-z)) to ``h``, of z's shape, as (1 + tanh(z / 2)) / 2: no exp that overflows."""
    half, one = scalar_array(0.5, h.dtype), scalar_array(1.0, h.dtype)
    np.multiply(z, half, out=h)
    np.tanh(h, out=h)
    h += one
    h *= half


class Sigmoid:
    """h = 1 / (1 + exp(-z)), dh/dz = h (1 - h)."""

    name = "sigmoid"

    def forward(self, z: Array, h: Array) -> None:
        """Write sigmoid(z) to ``h``; both (B, H)."""
        sigmoid(z, h)

    def derivative(self, h: Array, slope: Array) -> Array:
        """Write h (1 - h) to ``slope``, and return it; both (B, H)."""
        np.subtract(scalar_array(1.0, h.dtype), h, out=slope)
        slope *= h
        return slope


class Tanh:
    """h = tanh(z), dh/dz = 1 - h^2."""

    name = "tanh"

    def forward(self, z: Array, h: Array) -> None:
        """Write tanh(z) to ``h``; both (B, H)."""
        np.tanh(z, out=h)

    def derivative(self, h: Array, slope: Array) -> Array:
        """Write 1 - h^2 to ``slope``, and return it; both (B, H)."""
        np.multiply(h, h, out=slope)
        np.subtract(scalar_array(1.0, h.dtype), slope, out=slope)
        return slope


class Relu:
    """h = max(0, z), dh/dz = 1 for z > 0, else 0. At the kink z = 0 the derivative from the left, 0, is taken."""

    name = "relu"

    def forward(self, z: Array, h: Array) -> None:
        """Write max(0, z) to ``h``; both (B, H)."""
        np.multiply(z, z.real > 0, out=h)

    def derivative(self, h: Array, slope: Array) -> Array:
        """Write [h > 0] to ``slope``, and return it; both (B, H)."""
        np.greater(h.real, 0, out=slope)
        return slope


ACTIVATIONS: dict[str, Activation] = {f.name: f for f in (Sigmoid(), Tanh(), Relu())}
