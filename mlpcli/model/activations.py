"""The activations of hidden units: each with its value and its derivative, written in terms of the value.

All work in place on buffers of any dtype. For the complex step they are analytic: no ``abs``, no conjugate, and
branches are decided on ``.real``.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpcli.model.memory import constant

Array = NDArray[Any]

# A sigmoid is flat beyond |z| = 4.6: there a (1 - a) < 0.01, less than a twenty-fifth of its greatest value, 1/4.
SATURATED = 4.6


class Activation(Protocol):
    """a = f(z), element by element."""

    name: str

    def forward(self, z: Array, a: Array) -> None:
        """Write f(z) to ``a``; both (B, H)."""

    def backward(self, a: Array, da: Array, scratch: Array) -> None:
        """Turn ``da`` into dz = da * f'(z), in place, f' written with a = f(z); all (B, H)."""

    def branch(self, z: Array) -> Array | None:
        """On which side of a kink of f each z is, (B, H); None where f has a derivative everywhere."""


def sigmoid(z: Array, a: Array) -> None:
    """Write 1 / (1 + exp(-z)) to ``a``, of z's shape, as (1 + tanh(z / 2)) / 2: no exp that overflows."""
    half, one = constant(0.5, a.dtype), constant(1.0, a.dtype)
    np.multiply(z, half, out=a)
    np.tanh(a, out=a)
    a += one
    a *= half


class _Smooth:
    """An activation that has a derivative everywhere."""

    def branch(self, z: Array) -> Array | None:
        """No kinks."""
        return None


class Sigmoid(_Smooth):
    """a = 1 / (1 + exp(-z)), da/dz = a (1 - a)."""

    name = "sigmoid"

    def forward(self, z: Array, a: Array) -> None:
        """Write sigmoid(z) to ``a``; both (B, H)."""
        sigmoid(z, a)

    def backward(self, a: Array, da: Array, scratch: Array) -> None:
        """dz = da * a * (1 - a), into ``da``; all (B, H)."""
        np.subtract(constant(1.0, a.dtype), a, out=scratch)
        scratch *= a
        da *= scratch


class Tanh(_Smooth):
    """a = tanh(z), da/dz = 1 - a^2."""

    name = "tanh"

    def forward(self, z: Array, a: Array) -> None:
        """Write tanh(z) to ``a``; both (B, H)."""
        np.tanh(z, out=a)

    def backward(self, a: Array, da: Array, scratch: Array) -> None:
        """dz = da * (1 - a^2), into ``da``; all (B, H)."""
        np.multiply(a, a, out=scratch)
        np.subtract(1.0, scratch, out=scratch)
        da *= scratch


class Relu:
    """a = max(0, z), da/dz = 1 where z > 0, else 0. At z = 0 is a kink; the derivative from the left, 0, is taken."""

    name = "relu"

    def forward(self, z: Array, a: Array) -> None:
        """Write max(0, z) to ``a``; both (B, H)."""
        np.multiply(z, z.real > 0, out=a)

    def backward(self, a: Array, da: Array, scratch: Array) -> None:
        """dz = da * [a > 0], into ``da``; all (B, H)."""
        da *= a.real > 0

    def branch(self, z: Array) -> Array | None:
        """Whether z > 0, (B, H)."""
        return z.real > 0


ACTIVATIONS: dict[str, Activation] = {f.name: f for f in (Sigmoid(), Tanh(), Relu())}
