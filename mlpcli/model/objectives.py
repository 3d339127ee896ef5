r"""Objectives: an output unit and a loss, each with its value and its delta dz = dLoss/dz.

``z`` (B, K) are the logits, ``Y`` (B, K) the targets, ``p`` (B, K) the output unit's value; a loss is the mean over the
batch of the sum over the classes. For the matched pairs (softmax and log-likelihood, sigmoid and cross-entropy, linear
and quadratic) the loss is the negative log-likelihood of a distribution in its natural parameter z, and so the delta is
what was predicted less what was seen, (p - Y) / B: Bishop 2006, "Pattern Recognition and Machine Learning", section
4.3.6.

Values are computed from the logits, never as the logarithm of a clipped probability, so that value and delta agree for
logits of any size. For the complex step they are analytic: maxima and branches are decided on ``.real``.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpcli.model.activations import sigmoid

Array = NDArray[Any]


class Objective(Protocol):
    """An output unit and a loss. Every objective predicts the class whose output is largest."""

    name: str
    probabilities: bool  # whether p is between 0 and 1 and can be read as a probability

    def output(self, z: Array, p: Array) -> None:
        """Write the output unit's value of ``z`` to ``p``; both (B, K)."""

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write the output unit's value to ``p`` (B, K) and return the loss, a scalar."""

    def backward(self, z: Array, p: Array, Y: Array, dz: Array) -> None:
        """Write dLoss/dz to ``dz`` (B, K), with the ``p`` that :meth:`forward` wrote."""


class _Matched:
    """The delta of every matched pair of output unit and loss."""

    def backward(self, z: Array, p: Array, Y: Array, dz: Array) -> None:
        """dz = (p - Y) / B, all (B, K)."""
        np.subtract(p, Y, out=dz)
        dz *= 1.0 / len(Y)


class SoftmaxCrossEntropy(_Matched):
    r"""Softmax units and log-likelihood: p_k = exp(z_k) / sum_j exp(z_j), loss = - sum_k Y_k ln p_k.

    The rows of ``Y`` sum to 1, one-hot or soft. With ln p_k = z_k - logsumexp(z) the loss is
    logsumexp(z) - sum_k Y_k z_k; its derivative by z_k is exp(z_k) / sum_j exp(z_j) - Y_k = p_k - Y_k.
    Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".
    """

    name = "softmax_cross_entropy"
    probabilities = True

    def output(self, z: Array, p: Array) -> None:
        """Write softmax(z), row by row, to ``p``; both (B, K)."""
        # exp(z - m) / sum exp(z - m) is the same for every m; with the row's largest logit no exp overflows.
        np.subtract(z, z.real.max(axis=1, keepdims=True), out=p)
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write softmax(z) to ``p`` (B, K); return the mean of logsumexp(z) - sum(Y z)."""
        np.subtract(z, z.real.max(axis=1, keepdims=True), out=p)
        # The shift m drops out of the loss too, as the rows of Y sum to 1.
        likelihood = np.dot(Y.ravel(), p.ravel())
        np.exp(p, out=p)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        return (np.log(total).sum() - likelihood) / len(Y)


class SigmoidCrossEntropy(_Matched):
    r"""K logistic units, p_k = sigmoid(z_k), each with cross-entropy: loss = - sum_k [Y_k ln p_k + (1-Y_k) ln(1-p_k)].

    For one-hot and for multi-label targets; with no hidden layer it is logistic regression. With ln p = z - softplus(z)
    and ln(1 - p) = -softplus(z), softplus(z) = ln(1 + exp(z)), the loss is sum_k softplus(z_k) - Y_k z_k, and as
    softplus' is the sigmoid its derivative is p_k - Y_k. Nielsen 2015, "Neural Networks and Deep Learning", equations
    63 and 67.
    """

    name = "sigmoid_cross_entropy"
    probabilities = True

    def output(self, z: Array, p: Array) -> None:
        """Write sigmoid(z) to ``p``; both (B, K)."""
        sigmoid(z, p)

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write sigmoid(z) to ``p`` (B, K); return the mean of sum(softplus(z) - Y z)."""
        sigmoid(z, p)
        # softplus(z) = max(z, 0) + ln(1 + exp(-|z|)), where exp can't overflow; |z| by its sign, which is analytic.
        positive = z.real > 0
        softplus = np.log1p(np.exp(np.where(positive, -z, z)))
        softplus += z * positive
        return (softplus.sum() - np.dot(Y.ravel(), z.ravel())) / len(Y)


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective for objective in (SoftmaxCrossEntropy(), SigmoidCrossEntropy())
}
