"""The activations of hidden units: each with its value and its derivative in terms of the value.

All work in place on buffers of any dtype. For the complex step they are analytic: no ``abs``, no conjugate, and
branches are decided on ``.real``.
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

    def backward(self, h: Array, dz: Array, scratch: Array) -> None:
        """Compute dz <- dz * f'(z) in place, with f' in terms of h = f(z); all (B, H). ``dz`` holds dh before."""

    def active_set(self, z: Array) -> Array | None:
        """Return on which side of a kink of f each z is, (B, H); None if f has a derivative everywhere."""


def sigmoid(z: Array, h: Array) -> None:
    """Write 1 / (1 + exp(-z)) to ``h``, of z's shape, as (1 + tanh(z / 2)) / 2: no exp that overflows."""
    half, one = scalar_array(0.5, h.dtype), scalar_array(1.0, h.dtype)
    np.multiply(z, half, out=h)
    np.tanh(h, out=h)
    h += one
    h *= half


class _Smooth:
    """An activation that has a derivative everywhere."""

    def active_set(self, z: Array) -> Array | None:
        """Return None: no kinks."""
        return None


class Sigmoid(_Smooth):
    """h = 1 / (1 + exp(-z)), dh/dz = h (1 - h)."""

    name = "sigmoid"

    def forward(self, z: Array, h: Array) -> None:
        """Write sigmoid(z) to ``h``; both (B, H)."""
        sigmoid(z, h)

    def backward(self, h: Array, dz: Array, scratch: Array) -> None:
        """Compute dz <- dz * h * (1 - h); all (B, H)."""
        np.subtract(scalar_array(1.0, h.dtype), h, out=scratch)
        scratch *= h
        dz *= scratch


class Tanh(_Smooth):
    """h = tanh(z), dh/dz = 1 - h^2."""

    name = "tanh"

    def forward(self, z: Array, h: Array) -> None:
        """Write tanh(z) to ``h``; both (B, H)."""
        np.tanh(z, out=h)

    def backward(self, h: Array, dz: Array, scratch: Array) -> None:
        """Compute dz <- dz * (1 - h^2); all (B, H)."""
        np.multiply(h, h, out=scratch)
        np.subtract(scalar_array(1.0, h.dtype), scratch, out=scratch)
        dz *= scratch


class Relu:
    """h = max(0, z), dh/dz = 1 for z > 0, else 0. At the kink z = 0 the derivative from the left, 0, is taken."""

    name = "relu"

    def forward(self, z: Array, h: Array) -> None:
        """Write max(0, z) to ``h``; both (B, H)."""
        np.multiply(z, z.real > 0, out=h)

    def backward(self, h: Array, dz: Array, scratch: Array) -> None:
        """Compute dz <- dz * [h > 0]; all (B, H)."""
        dz *= h.real > 0

    def active_set(self, z: Array) -> Array | None:
        """Return z > 0, (B, H)."""
        return z.real > 0


ACTIVATIONS: dict[str, Activation] = {f.name: f for f in (Sigmoid(), Tanh(), Relu())}
