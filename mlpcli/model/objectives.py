r"""Objectives: an output unit and a loss, each with its value and its derivative dz = dLoss/dz.

``z`` (B, K) are the logits, ``Y`` (B, K) the targets, ``p`` (B, K) the output unit's value. The loss is the mean over
the batch of C, a sum over the classes: ``forward`` returns the sum over the examples, and ``backward`` divides by the
size of the batch, which may be larger than B if several processes share one. For the matched pairs (softmax and
log-likelihood, sigmoid and cross-entropy, linear and quadratic) C is the negative log-likelihood of a distribution
with natural parameter z, so that dz is prediction minus target, (p - Y) / batch size: Bishop 2006, "Pattern Recognition
and Machine Learning", section 4.3.6. The other three are here to be compared with them.

Every output unit increases with its own logit, so that each objective predicts the class of its largest logit, also
where two outputs are rounded to the same number.

Values are computed from the logits, never as the logarithm of a clipped probability, so that value and derivative agree
for logits of any size. For the complex step they are analytic: maxima and branches are decided on ``.real``.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpcli.model.activations import sigmoid
from mlpcli.model.numerics import row_max, row_sum, scalar_array, sum_of_products, total

Array = NDArray[Any]


class Objective(Protocol):
    """An output unit and a loss."""

    name: str
    probabilities: bool  # whether p is between 0 and 1 and can be read as a probability

    def output(self, z: Array, p: Array) -> None:
        """Write the output unit's value of ``z`` to ``p``; both (B, K)."""

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write the output unit's value to ``p`` (B, K) and return the sum of C over the examples, a scalar."""

    def backward(self, z: Array, p: Array, Y: Array, dz: Array, batch_size: int) -> None:
        """Write dLoss/dz to ``dz`` (B, K), with the ``p`` that :meth:`forward` wrote."""


class _Softmax:
    """p_k = exp(z_k) / sum_j exp(z_j)."""

    def output(self, z: Array, p: Array) -> None:
        """Write softmax(z), row by row, to ``p``; both (B, K)."""
        # exp(z - m) / sum exp(z - m) is the same for every m; with the row's largest logit no exp overflows.
        np.subtract(z, row_max(z), out=p)
        np.exp(p, out=p)
        p /= row_sum(p)


class _Sigmoid:
    """p_k = sigmoid(z_k), K independent units."""

    def output(self, z: Array, p: Array) -> None:
        """Write sigmoid(z) to ``p``; both (B, K)."""
        sigmoid(z, p)


class _Linear:
    """p = z."""

    def output(self, z: Array, p: Array) -> None:
        """Write z to ``p``; both (B, K)."""
        np.copyto(p, z)


class _Matched:
    """The derivative that all matched pairs of output unit and loss have."""

    def backward(self, z: Array, p: Array, Y: Array, dz: Array, batch_size: int) -> None:
        """Compute dz = (p - Y) / batch size, all (B, K): equation (4) of the derivation."""
        np.subtract(p, Y, out=dz)
        dz *= scalar_array(1.0 / batch_size, dz.dtype)


class SoftmaxCrossEntropy(_Softmax, _Matched):
    r"""Softmax units and log-likelihood: p_k = exp(z_k) / sum_j exp(z_j), C = - sum_k Y_k ln p_k.

    The rows of ``Y`` sum to 1, one-hot or soft. With ln p_k = z_k - logsumexp(z), C is logsumexp(z) - sum_k Y_k z_k;
    its derivative with respect to z_k is exp(z_k) / sum_j exp(z_j) - Y_k = p_k - Y_k.
    Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".
    """

    name = "softmax_cross_entropy"
    probabilities = True

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write softmax(z) to ``p`` (B, K); return the sum of logsumexp(z) - sum(Y z)."""
        np.subtract(z, row_max(z), out=p)
        # The shift by the maximum cancels in C too, as the rows of Y sum to 1.
        Y_z = sum_of_products(Y, p)
        np.exp(p, out=p)
        exp_sum = row_sum(p)
        p /= exp_sum
        return total(np.log(exp_sum[:, 0])).item() - Y_z.item()


class SigmoidCrossEntropy(_Sigmoid, _Matched):
    r"""K logistic units, p_k = sigmoid(z_k), each with cross-entropy: C = - sum_k [Y_k ln p_k + (1-Y_k) ln(1-p_k)].

    For one-hot and for multi-label targets; without a hidden layer it is logistic regression. With ln p = z -
    softplus(z) and ln(1 - p) = -softplus(z), softplus(z) = ln(1 + exp(z)), C is sum_k [softplus(z_k) - Y_k z_k], and as
    softplus' is the sigmoid its derivative is p_k - Y_k. Nielsen 2015, "Neural Networks and Deep Learning", equations
    63 and 67.
    """

    name = "sigmoid_cross_entropy"
    probabilities = True

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write sigmoid(z) to ``p`` (B, K); return the sum of softplus(z) - Y z."""
        sigmoid(z, p)
        # softplus(z) = max(z, 0) + ln(1 + exp(-|z|)), where exp can't overflow; |z| by its sign, which is analytic.
        positive = z.real > 0
        terms = np.log1p(np.exp(np.where(positive, -z, z)))
        # max(z, 0) - Y z in one product: for a large z of the right class the two would cancel after rounding.
        terms += z * (positive - Y)
        return terms.sum()


class LinearQuadratic(_Linear, _Matched):
    r"""Linear units and half the squared difference: p = z, C = 1/2 sum_k (p_k - Y_k)^2.

    Its derivative with respect to z_k = p_k is p_k - Y_k: the third matched pair, up to a constant the negative
    log-likelihood of a normal distribution of variance 1. Bishop 2006, section 5.2.
    """

    name = "linear_quadratic"
    probabilities = False

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write z to ``p`` (B, K); return the sum of 1/2 (p - Y)^2."""
        np.copyto(p, z)
        return _half_squares(p, Y)


class SigmoidQuadratic(_Sigmoid):
    r"""The mismatch: p_k = sigmoid(z_k) with half the squared difference, C = 1/2 sum_k (p_k - Y_k)^2.

    dC/dp_k = p_k - Y_k, and dp_k/dz_k = p_k (1 - p_k), which nothing cancels: a unit that is saturated on the wrong
    side, where p - Y is largest, learns slowest. Nielsen 2015, chapter 3, "The cross-entropy cost function".
    """

    name = "sigmoid_quadratic"
    probabilities = True

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write sigmoid(z) to ``p`` (B, K); return the sum of 1/2 (p - Y)^2."""
        sigmoid(z, p)
        return _half_squares(p, Y)

    def backward(self, z: Array, p: Array, Y: Array, dz: Array, batch_size: int) -> None:
        """Compute dz = (p - Y) * p * (1 - p) / batch size, all (B, K)."""
        np.subtract(p, Y, out=dz)
        dz *= p * (1.0 - p)
        dz *= 1.0 / batch_size


class LinearHinge(_Linear):
    r"""Linear units and the multi-class hinge: p = z, C = sum_{j != y} max(0, z_j - z_y + 1).

    The rows of ``Y`` are one-hot. With M_j = [z_j - z_y + 1 > 0] for j != y, C grows by 1 with each z_j whose margin is
    violated and falls by 1 with z_y for each of them: dC/dz_j = M_j, dC/dz_y = - sum_j M_j. At the kink, a margin of
    exactly 0, the derivative from the left, 0, is taken. Weston and Watkins 1999, "Support vector machines for
    multi-class pattern recognition", with a margin of 1.
    """

    name = "linear_hinge"
    probabilities = False

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write z to ``p`` (B, K); return the sum of max(0, z_j - z_y + 1) over j != y."""
        np.copyto(p, z)
        margins = self._margins(z, Y)
        return (margins * self._violated(margins, Y)).sum()

    def backward(self, z: Array, p: Array, Y: Array, dz: Array, batch_size: int) -> None:
        """Compute dz = (M - Y sum_j M_j) / batch size, all (B, K)."""
        violated = self._violated(self._margins(z, Y), Y)
        np.subtract(violated, Y * violated.sum(axis=1, keepdims=True), out=dz)
        dz *= 1.0 / batch_size

    def _margins(self, z: Array, Y: Array) -> Array:
        """Return z_j - z_y + 1, (B, K): by how much class j violates the margin; meaningless for j = y."""
        margins: Array = z - (Y * z).sum(axis=1, keepdims=True) + 1.0
        return margins

    def _violated(self, margins: Array, Y: Array) -> Array:
        """Return M (B, K), 0 for j = y."""
        violated: Array = (margins.real > 0) * (1.0 - Y)
        return violated


class NormalizedSigmoid(SoftmaxCrossEntropy):
    r"""Sigmoids divided by their sum: p_k = s_k / sum_j s_j, s = sigmoid(z), C = - sum_k Y_k ln p_k.

    To be compared with softmax: it is the softmax of u = ln s, so that dC/du = p - Y, the rows of ``Y`` summing to 1;
    and du_k/dz_k = s_k' / s_k = 1 - s_k, a factor that the loss does not cancel. Computed from ln s, as s underflows
    where every class is unlikely and would leave 0 / 0.
    """

    name = "normalized_sigmoid"

    def output(self, z: Array, p: Array) -> None:
        """Write s / sum(s), row by row, to ``p``; both (B, K)."""
        super().output(_log_sigmoid(z), p)

    def forward(self, z: Array, Y: Array, p: Array) -> Any:
        """Write s / sum(s) to ``p`` (B, K); return the sum of logsumexp(ln s) - sum(Y ln s)."""
        return super().forward(_log_sigmoid(z), Y, p)

    def backward(self, z: Array, p: Array, Y: Array, dz: Array, batch_size: int) -> None:
        """Compute dz = (1 - s) * (p - Y) / batch size, all (B, K)."""
        super().backward(z, p, Y, dz, batch_size)
        slope = np.negative(z)
        sigmoid(slope, slope)  # 1 - s = sigmoid(-z)
        dz *= slope


def _half_squares(p: Array, Y: Array) -> Any:
    """Return the sum of 1/2 (p - Y)^2, a scalar."""
    difference = (p - Y).ravel()
    return 0.5 * np.dot(difference, difference)


def _log_sigmoid(z: Array) -> Array:
    """Return ln sigmoid(z) = min(z, 0) - ln(1 + exp(-|z|)), of z's shape; |z| by its sign, which is analytic."""
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
