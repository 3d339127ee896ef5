r"""Objectives: an output unit and a loss, each with its value and its delta dz = dLoss/dz.

``z`` (B, K) are the logits, ``Y`` (B, K) the targets, ``p`` (B, K) the output unit's value; a loss is the mean over the
batch of the sum over the classes. For the matched pairs (softmax and log-likelihood, sigmoid and cross-entropy, linear
and quadratic) the loss is the negative log-likelihood of a distribution in its natural parameter z, and so the delta is
what was predicted less what was seen, (p - Y) / B: Bishop 2006, "Pattern Recognition and Machine Learning", section
4.3.6. The other three are here to be compared with them.

Every output unit grows with its own logit, so that each objective predicts the class of its largest logit: where two
outputs are rounded to the same number, the logits still differ.

Values are computed from the logits, never as the logarithm of a clipped probability, so that value and delta agree for
logits of any size. For the complex step they are analytic: maxima and branches are decided on ``.real``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpcli.model.activations import sigmoid
from mlpcli.model.memory import constant

Array = NDArray[Any]

# So many rows are sooner turned over than looked through one by one.
MANY = 64


class Objective(Protocol):
    """An output unit and a loss."""

    name: str
    probabilities: bool  # whether p is between 0 and 1 and can be read as a probability

    def output(self, z: Array, p: Array) -> None:
        """Write the output unit's value of ``z`` to ``p``; both (B, K)."""

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write the output unit's value to ``p`` (B, K) and return the loss, a scalar."""

    def backward(self, z: Array, p: Array, Y: Array, dz: Array) -> None:
        """Write dLoss/dz to ``dz`` (B, K), with the ``p`` that :meth:`forward` wrote."""

    def branch(self, z: Array, Y: Array) -> Array | None:
        """On which side of a kink of the loss each z is, (B, K); None where it has a derivative everywhere."""


class _Smooth:
    """A loss that has a derivative everywhere."""

    def branch(self, z: Array, Y: Array) -> Array | None:
        """No kinks."""
        return None


class _Softmax(_Smooth):
    """p_k = exp(z_k) / sum_j exp(z_j). Predicts the largest p: the most probable class."""

    def output(self, z: Array, p: Array) -> None:
        """Write softmax(z), row by row, to ``p``; both (B, K)."""
        # exp(z - m) / sum exp(z - m) is the same for every m; with the row's largest logit no exp overflows.
        np.subtract(z, _largest(z), out=p)
        np.exp(p, out=p)
        p /= _sums(p)


class _Sigmoid(_Smooth):
    """p_k = sigmoid(z_k), K independent units. Predicts the largest p, or for multi-label targets every p > 1/2."""

    def output(self, z: Array, p: Array) -> None:
        """Write sigmoid(z) to ``p``; both (B, K)."""
        sigmoid(z, p)


class _Linear:
    """p = z. Predicts the largest p: the class of the highest score."""

    def output(self, z: Array, p: Array) -> None:
        """Write z to ``p``; both (B, K)."""
        np.copyto(p, z)


class _Matched:
    """The delta of every matched pair of output unit and loss."""

    def backward(self, z: Array, p: Array, Y: Array, dz: Array) -> None:
        """dz = (p - Y) / B, all (B, K)."""
        np.subtract(p, Y, out=dz)
        dz *= constant(1.0 / len(Y), dz.dtype)


class SoftmaxCrossEntropy(_Softmax, _Matched):
    r"""Softmax units and log-likelihood: p_k = exp(z_k) / sum_j exp(z_j), loss = - sum_k Y_k ln p_k.

    The rows of ``Y`` sum to 1, one-hot or soft. With ln p_k = z_k - logsumexp(z) the loss is
    logsumexp(z) - sum_k Y_k z_k; its derivative by z_k is exp(z_k) / sum_j exp(z_j) - Y_k = p_k - Y_k.
    Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".
    """

    name = "softmax_cross_entropy"
    probabilities = True

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write softmax(z) to ``p`` (B, K); return the mean of logsumexp(z) - sum(Y z)."""
        np.subtract(z, _largest(z), out=p)
        # The shift m drops out of the loss too, as the rows of Y sum to 1.
        likelihood = Y.ravel().dot(p.ravel())
        np.exp(p, out=p)
        total = _sums(p)
        p /= total
        normalizer = np.log(total[:, 0]).dot(_ones(len(Y), p.dtype))
        return (normalizer.item() - likelihood.item()) / len(Y)


class SigmoidCrossEntropy(_Sigmoid, _Matched):
    r"""K logistic units, p_k = sigmoid(z_k), each with cross-entropy: loss = - sum_k [Y_k ln p_k + (1-Y_k) ln(1-p_k)].

    For one-hot and for multi-label targets; with no hidden layer it is logistic regression. With ln p = z - softplus(z)
    and ln(1 - p) = -softplus(z), softplus(z) = ln(1 + exp(z)), the loss is sum_k softplus(z_k) - Y_k z_k, and as
    softplus' is the sigmoid its derivative is p_k - Y_k. Nielsen 2015, "Neural Networks and Deep Learning", equations
    63 and 67.
    """

    name = "sigmoid_cross_entropy"
    probabilities = True

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write sigmoid(z) to ``p`` (B, K); return the mean of sum(softplus(z) - Y z)."""
        sigmoid(z, p)
        # softplus(z) = max(z, 0) + ln(1 + exp(-|z|)), where exp can't overflow; |z| by its sign, which is analytic.
        positive = z.real > 0
        terms = np.log1p(np.exp(np.where(positive, -z, z)))
        # max(z, 0) - Y z in one product: for a large z of the right class the two would cancel after rounding.
        terms += z * (positive - Y)
        return terms.sum() / len(Y)


class LinearQuadratic(_Linear, _Matched, _Smooth):
    r"""Linear units and half the squared difference: p = z, loss = 1/2 sum_k (p_k - Y_k)^2.

    Its derivative by z_k = p_k is p_k - Y_k: the third matched pair, the log-likelihood of a normal distribution of
    variance 1 but for a constant. Bishop 2006, "Pattern Recognition and Machine Learning", section 5.2.
    """

    name = "linear_quadratic"
    probabilities = False

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write z to ``p`` (B, K); return the mean of 1/2 sum (p - Y)^2."""
        np.copyto(p, z)
        return _half_square(p, Y)


class SigmoidQuadratic(_Sigmoid):
    r"""The mismatch: p_k = sigmoid(z_k) with half the squared difference, loss = 1/2 sum_k (p_k - Y_k)^2.

    dLoss/dp_k = p_k - Y_k, and dp_k/dz_k = p_k (1 - p_k), which nothing cancels: a unit that is saturated on the wrong
    side, where p - Y is largest, learns slowest. Nielsen 2015, "Neural Networks and Deep Learning", chapter 3, "The
    cross-entropy cost function".
    """

    name = "sigmoid_quadratic"
    probabilities = True

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write sigmoid(z) to ``p`` (B, K); return the mean of 1/2 sum (p - Y)^2."""
        sigmoid(z, p)
        return _half_square(p, Y)

    def backward(self, z: Array, p: Array, Y: Array, dz: Array) -> None:
        """dz = (p - Y) * p * (1 - p) / B, all (B, K)."""
        np.subtract(p, Y, out=dz)
        dz *= p * (1.0 - p)
        dz *= 1.0 / len(Y)


class LinearHinge(_Linear):
    r"""Linear units and the multi-class hinge: p = z, loss = sum_{j != y} max(0, z_j - z_y + 1).

    The rows of ``Y`` are one-hot. With M_j = [z_j - z_y + 1 > 0] for j != y, the loss grows by 1 with each z_j whose
    margin is short and falls by 1 with z_y for each of them: dLoss/dz_j = M_j, dLoss/dz_y = - sum_j M_j. Where a margin
    is exactly 0 there is a kink; the derivative from the left, 0, is taken. Weston and Watkins 1999, "Support vector
    machines for multi-class pattern recognition", with a margin of 1.
    """

    name = "linear_hinge"
    probabilities = False

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write z to ``p`` (B, K); return the mean of sum_{j != y} max(0, z_j - z_y + 1)."""
        np.copyto(p, z)
        shortfall = self._shortfall(z, Y)
        return (shortfall * self._short(shortfall, Y)).sum() / len(Y)

    def backward(self, z: Array, p: Array, Y: Array, dz: Array) -> None:
        """dz = (M - Y sum_j M_j) / B, all (B, K)."""
        short = self._short(self._shortfall(z, Y), Y)
        np.subtract(short, Y * short.sum(axis=1, keepdims=True), out=dz)
        dz *= 1.0 / len(Y)

    def branch(self, z: Array, Y: Array) -> Array | None:
        """M (B, K): which margins are short."""
        return self._short(self._shortfall(z, Y), Y)

    def _shortfall(self, z: Array, Y: Array) -> Array:
        """z_j - z_y + 1, (B, K): by how much class j falls short of the margin; for j = y it means nothing."""
        shortfall: Array = z - (Y * z).sum(axis=1, keepdims=True) + 1.0
        return shortfall

    def _short(self, shortfall: Array, Y: Array) -> Array:
        """M (B, K), 0 for j = y."""
        short: Array = (shortfall.real > 0) * (1.0 - Y)
        return short


class NormalizedSigmoid(SoftmaxCrossEntropy):
    r"""Sigmoids divided by their sum: p_k = s_k / sum_j s_j, s = sigmoid(z), loss = - sum_k Y_k ln p_k.

    To be set beside softmax: it is the softmax of u = ln s, so that dLoss/du = (p - Y) / B, the rows of ``Y`` summing
    to 1; and du_k/dz_k = s_k' / s_k = 1 - s_k, a factor that the loss does not cancel. By ln s and not by s, which
    underflows where every class is unlikely and would leave 0 / 0.
    """

    name = "normalized_sigmoid"

    def output(self, z: Array, p: Array) -> None:
        """Write s / sum(s), row by row, to ``p``; both (B, K)."""
        super().output(_log_sigmoid(z), p)

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write s / sum(s) to ``p`` (B, K); return the mean of logsumexp(ln s) - sum(Y ln s)."""
        return super().forward(_log_sigmoid(z), Y, p)

    def backward(self, z: Array, p: Array, Y: Array, dz: Array) -> None:
        """dz = (1 - s) * (p - Y) / B, all (B, K)."""
        super().backward(z, p, Y, dz)
        slope = np.negative(z)
        sigmoid(slope, slope)  # 1 - s = sigmoid(-z)
        dz *= slope


def _largest(z: Array) -> Array:
    """The largest real part of each row of ``z`` (B, K), as (B, 1)."""
    # numpy takes several times as long for the maxima of short rows as for those of columns, or for where they are.
    real = z.real
    largest: Array = real.T.copy().max(axis=0) if len(z) >= MANY else real[_numbers(len(z)), real.argmax(axis=1)]
    return largest[:, np.newaxis]


def _sums(p: Array) -> Array:
    """The sum of each row of ``p`` (B, K), as (B, 1)."""
    # As a product with ones, which takes a fifth of the time for short rows.
    total: Array = p.dot(_ones(p.shape[1], p.dtype))
    return total[:, np.newaxis]


@lru_cache
def _numbers(count: int) -> NDArray[np.intp]:
    return np.arange(count)


@lru_cache
def _ones(count: int, dtype: np.dtype[Any]) -> Array:
    return np.ones(count, dtype)


def _half_square(p: Array, Y: Array) -> Any:
    """The mean over B of 1/2 sum_k (p_k - Y_k)^2, a scalar."""
    difference = (p - Y).ravel()
    return 0.5 * np.dot(difference, difference) / len(Y)


def _log_sigmoid(z: Array) -> Array:
    """ln sigmoid(z) = min(z, 0) - ln(1 + exp(-|z|)), of z's shape; |z| by its sign, which is analytic."""
    positive = z.real > 0
    return z * ~positive - np.log1p(np.exp(np.where(positive, -z, z)))


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        SoftmaxCrossEntropy(),
        SigmoidCrossEntropy(),
        LinearQuadratic(),
        SigmoidQuadratic(),
        LinearHinge(),
        NormalizedSigmoid(),
    )
}
