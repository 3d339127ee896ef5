"""The output layer by the textbook, for one example, with nothing cancelled: the matrices that are multiplied out.

An output unit gives p (K,) and dp/dz (K, K) for the logits z (K,), a loss C and dC/dp (K,) for p and the target y (K,).
These are partial derivatives of p and of one example's C, not of the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Unit = Callable[[Array], tuple[Array, Array]]
Loss = Callable[[Array, Array], tuple[Any, Array]]


def _softmax(z: Array) -> tuple[Array, Array]:
    e = np.exp(z - z.max())  # the same p; exp(z) may overflow
    p = e / e.sum()
    return p, np.diag(p) - np.outer(p, p)  # p_i (1 - p_i) on the diagonal, -p_i p_j off it


def _sigmoid(z: Array) -> tuple[Array, Array]:
    p = 1 / (1 + np.exp(-z))
    return p, np.diag(p * (1 - p))


def _linear(z: Array) -> tuple[Array, Array]:
    return z, np.eye(len(z))


def _normalized_sigmoid(z: Array) -> tuple[Array, Array]:
    s, ds_dz = _sigmoid(z)
    p = s / s.sum()
    dp_ds = (np.eye(len(z)) - p[:, None]) / s.sum()  # dp_i/ds_j = ([i = j] - p_i) / sum(s)
    return p, dp_ds @ ds_dz


def _likelihood(p: Array, y: Array) -> tuple[Any, Array]:
    return -np.sum(y * np.log(p)), -y / p  # (0 .. -1/p_y .. 0)


def _cross_entropy(p: Array, y: Array) -> tuple[Any, Array]:
    return -np.sum(y * np.log(p) + (1 - y) * np.log(1 - p)), -y / p + (1 - y) / (1 - p)


def _quadratic(p: Array, y: Array) -> tuple[Any, Array]:
    return np.sum((p - y) ** 2) / 2, p - y


def _hinge(p: Array, y: Array) -> tuple[Any, Array]:
    label = int(np.argmax(y))
    others = [j for j in range(len(p)) if j != label]
    row = np.zeros(len(p))
    row[others] = [1.0 if p[j] - p[label] + 1 > 0 else 0.0 for j in others]
    row[label] = -row.sum()
    return sum(max(0.0, p[j] - p[label] + 1) for j in others), row


OUTPUT_LAYERS: dict[str, tuple[Unit, Loss]] = {
    "softmax_cross_entropy": (_softmax, _likelihood),
    "sigmoid_cross_entropy": (_sigmoid, _cross_entropy),
    "linear_quadratic": (_linear, _quadratic),
    "sigmoid_quadratic": (_sigmoid, _quadratic),
    "linear_hinge": (_linear, _hinge),
    "normalized_sigmoid": (_normalized_sigmoid, _likelihood),
}
