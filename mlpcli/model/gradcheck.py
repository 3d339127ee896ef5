r"""The hand-derived gradients against independent ones, computed with the very functions that train.

Three methods that have nothing of the derivation in them:

Complex step
    df/dx = Im f(x + ih) / h, h = 1e-20 (Squire and Trapp 1998, "Using complex variables to estimate derivatives of real
    functions"). As f(x + ih) = f(x) + ih f'(x) - h^2 f''(x) / 2 ..., the first error is of order h^2 = 1e-40, and as
    nothing is subtracted no digit cancels. What is left is the rounding of the two computations, some 1e-15. Allowed:
    1e-12, and the same for a random direction.
Central differences
    df/dx = (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h, h = 1e-3. The error has two parts: h^4 f^(5) / 30
    and the rounding of f, some 1e-16, divided by h, both some 1e-13; a smaller or a larger h makes one of them worse.
    Beside gradients of 1e-3 that is 1e-10, but through many layers gradients fade, and beside 1e-6 it is 1e-7. Allowed:
    1e-7. It asks nothing of complex arithmetic, which is why it is here. (The formula of two points, at its best h of
    1e-5, is a hundred times coarser, and would fail right gradients that have faded.)
Jacobians
    The output layer by the textbook's matrices, dC/dp (K,), dp/dz (K, K) and dz/dW (K, H K), multiplied out one example
    after the other. Exact but for rounding. Allowed: 1e-12.

An error is the norm-wise relative error ||n - a|| / (||n|| + ||a||) of a tensor's entries, a by hand and n by the other
method: between 0 and 1, and not spoilt by entries that are small beside their neighbours.

A check of 0 against 0 checks nothing, and on a handful of digits most gradients of W1 are 0, their pixel being dark in
all. So entries are drawn where the gradient by hand is not 0, and only ten where it is; and a tensor whose gradients
are all 0 is 'not exercised', which is no pass. No entry escapes: random directions go through all entries of each
tensor, and where they disagree with the gradient, halving finds an entry that is wrong, which is then drawn too. So an
entry that is not 0 by the complex step alone is not left out.

relu and hinge have kinks, where there is no derivative. A complex step is too small to cross one. A central difference
that would is taken again with h = 1e-5, and if that crosses it too, the entry is left out, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.model.activations import SATURATED
from mlpcli.model.dropout import draw_masks
from mlpcli.model.network import Buffers, Network, Pass
from mlpcli.model.parameters import Parameters

Array = NDArray[Any]

COMPLEX_STEP = 1e-20
# The second is for those entries that have a kink within reach of the first.
CENTRAL_STEPS = (1e-3, 1e-5)
# The penalty is quadratic: its differences are exact with any step, and a large one keeps more digits.
PENALTY_STEPS = (1.0,)

ENTRIES = 100
ZEROS = 10
DIRECTIONS = 4

TOLERANCE = {"complex": 1e-12, "central": 1e-7, "direction": 1e-12, "jacobian": 1e-12}
WORDS = {"complex": "complex step", "central": "central differences"}

PASSED, FAILED, NOT_EXERCISED = "passed", "failed", "not exercised"


@dataclass(frozen=True)
class Row:
    """What was found out about one tensor.

    ``checked`` of its entries were compared one by one; ``errors`` has the relative error by each method of
    ``TOLERANCE`` that applies. ``kinks`` names the entries left out of central differences. ``worst`` says where the
    methods differ most, if they differ by more than is allowed.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    errors: dict[str, float]
    verdict: str
    kinks: tuple[str, ...] = ()
    worst: str = ""


def relative_error(n: Array, a: Array) -> float:
    """||n - a|| / (||n|| + ||a||) of two arrays of one shape: 0 if both are 0, infinite if one is not finite."""
    scale = float(np.linalg.norm(n) + np.linalg.norm(a))
    if not isfinite(scale):
        return inf
    return float(np.linalg.norm(n - a)) / scale if scale else 0.0


def check(
    network: Network,
    theta: Parameters,
    X: Array,
    Y: Array,
    rng: np.random.Generator,
    *,
    l2: float,
    unit: float = 1.0,
    rates: Sequence[float] = (),
    entries: int | None = ENTRIES,
    tolerance: Mapping[str, float] = TOLERANCE,
) -> Iterator[Row]:
    """Check ``network`` at ``theta`` on inputs ``X`` (B, D), in multiples of ``unit``, and targets ``Y`` (B, K).

    Yields a row a tensor.

    First the parameters, then the output layer, then the penalty with the coefficient ``l2`` > 0. The targets are
    one-hot for the hinge, else one-hot or smoothed. ``rates`` (L,) are those of dropout, whose masks are drawn once, by
    ``rng``, as are ``entries`` of a tensor that has more, None for all.
    """
    checker = _Checker(network, theta, X, Y, rng, unit, rates, entries, tolerance)
    # What is not finite shows as an infinite error; numpy need not warn of it too.
    with np.errstate(all="ignore"):
        by_jacobians, rows = checker.output_layer()
        yield from checker.parameters(by_jacobians)
        yield from rows
        yield from checker.penalty(l2)


# The value of a scalar function at its vector, and on which side of each kink that vector is.
Function = Callable[[], tuple[Any, list[Array]]]


class _Probe:
    """Derivatives of a scalar function at ``vector`` (n,), by numbers alone.

    ``function`` is given a copy of the vector to keep; what it returns is called whenever the copy has been changed.
    """

    def __init__(
        self, vector: Array, function: Callable[[Array], Function], steps: tuple[float, ...] = CENTRAL_STEPS
    ) -> None:
        self._real, self._complex = vector.astype(np.float64).ravel(), vector.astype(np.complex128).ravel()
        self._at_real, self._at_complex = function(self._real), function(self._complex)
        self._steps = steps

    def along(self, indices: Array, v: Array) -> float:
        """Im f(x + ihv) / h, the derivative in the direction v (m,) of the entries ``indices`` (m,)."""
        kept = self._complex[indices]
        self._complex[indices] = kept + 1j * COMPLEX_STEP * v
        value, _ = self._at_complex()
        self._complex[indices] = kept
        return float(np.imag(value)) / COMPLEX_STEP

    def complex_step(self, index: int) -> float:
        """Im f(x + ihe) / h, e the unit vector of ``index``."""
        return self.along(np.array([index]), np.ones(1))

    def central(self, index: int) -> float | None:
        """(8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h; None if with every step a kink is in between."""
        for h in self._steps:
            values, sides = zip(*(self._moved(index, by * h) for by in (-2, -1, 1, 2)), strict=True)
            if all(np.array_equal(one, other) for some in sides[1:] for one, other in zip(sides[0], some, strict=True)):
                return float(8.0 * (values[2] - values[1]) - (values[3] - values[0])) / (12.0 * h)
        return None

    def _moved(self, index: int, by: float) -> tuple[Any, list[Array]]:
        kept = self._real[index]
        self._real[index] = kept + by
        result = self._at_real()
        self._real[index] = kept
        return result


class _Checker:
    def __init__(
        self,
        network: Network,
        theta: Parameters,
        X: Array,
        Y: Array,
        rng: np.random.Generator,
        unit: float,
        rates: Sequence[float],
        entries: int | None,
        tolerance: Mapping[str, float],
    ) -> None:
        self.network = network
        self.theta = network.parameters(np.float64, theta.vector.astype(np.float64))
        self.X, self.Y = X.astype(np.float64), Y.astype(np.float64)
        self.rng, self.unit, self.rates, self.entries, self.tolerance = rng, unit, rates, entries, tolerance
        self.masks = network.buffers(len(X), np.float64, rates).masks
        draw_masks(rates or [0.0] * len(self.masks), self.masks, rng)

    def parameters(self, by_jacobians: Mapping[str, float]) -> Iterator[Row]:
        """W1, b1, W2 ... one by one, then all of them as one vector."""
        gradient, _ = self._backward(self.theta)
        probe = _Probe(self.theta.vector, self._loss)
        for (name, tensor), places in zip(gradient.tensors(), self._places(), strict=True):
            more = {"jacobian": by_jacobians[name]} if name in by_jacobians else {}
            yield self._tensor(name, tensor, probe, places, whole=name.startswith("b"), more=more)
        error, _ = self._directions(gradient.vector, probe, np.arange(len(gradient.vector)))
        yield self._row("theta", gradient.vector, {"direction": error})

    def output_layer(self) -> tuple[dict[str, float], list[Row]]:
        """The last layer by explicit Jacobians, multiplied out example by example, beside the backward pass.

        Returns the errors of the last W and b, and the rows of dz and dp/dz.
        """
        objective, last = self.network.objective, len(self.network.layers)
        gradient, t = self._backward(self._with_moderate_logits())
        z, Y, dz = t.z[-1], self.Y, t.dz[-1]
        unit, loss = OUTPUT_LAYERS[objective.name]

        p, dp_dz = (np.array(each) for each in zip(*map(unit, z), strict=True))  # (B, K), (B, K, K)
        stepped = np.empty_like(dp_dz)
        for k in range(z.shape[1]):
            w, value = z.astype(np.complex128), np.empty_like(z, np.complex128)
            w[:, k] += 1j * COMPLEX_STEP
            objective.output(w, value)
            stepped[:, :, k] = value.imag / COMPLEX_STEP
        units = self._row(f"dp/dz{last}", dp_dz, {"jacobian": relative_error(stepped, dp_dz)}, dp_dz.size)

        # dC/dz = dC/dp dp/dz, (K,) = (K,) (K, K), of each example; the loss is the mean over the batch.
        delta = np.array([loss(*each) @ J for *each, J in zip(p, Y, dp_dz, strict=True)]) / len(Y)  # (B, K)

        def function(vector: Array) -> Function:
            logits = vector.reshape(z.shape)
            value = np.empty_like(logits)
            return lambda: (objective.forward(logits, Y, value), _kinks(objective.branch(logits, Y)))

        more = {"jacobian": relative_error(delta, dz)}
        deltas = self._tensor(f"dz{last}", dz, _Probe(z, function), np.arange(z.size), whole=True, more=more)

        a, dW = t.a[-1] if t.a else self.unit * self.X, np.zeros_like(gradient.W[-1])
        a = a if t.masks[-1] is None else a * t.masks[-1]
        identity = np.eye(len(delta.T))  # dz/db
        # The whole of dz/dW has K H K entries: parts of the H units at a time, where that is too many.
        parts = np.array_split(np.arange(len(dW)), 1 + dW.size * len(identity) // 2**22)
        for dC_dz, activations in zip(delta, a, strict=True):
            for part in parts:
                dz_dW = np.kron(activations[part], identity)  # (K, H K) = [a_1 I, a_2 I, ... a_H I]
                dW[part] += (dC_dz @ dz_dW).reshape(-1, len(identity))
        db = (delta @ identity).sum(axis=0)
        errors = {
            f"W{last}": relative_error(dW, gradient.W[-1]),
            f"b{last}": relative_error(db, gradient.b[-1]),
        }
        return errors, [deltas, units]

    def penalty(self, l2: float) -> Iterator[Row]:
        """The penalty's gradient, which is 0 for the biases."""
        network = self.network
        gradient = network.parameters(np.float64)
        # Added twice and halved: a gradient that is written where it should be added is found out.
        for _ in range(2):
            network.penalty_gradient(self.theta, l2, gradient).add()
        gradient.vector *= 0.5

        def function(vector: Array) -> Function:
            theta = network.parameters(vector.dtype, vector)
            return lambda: (network.penalty(theta, l2), [])

        probe = _Probe(self.theta.vector, function, PENALTY_STEPS)
        for (name, tensor), places in zip(gradient.tensors(), self._places(), strict=True):
            yield self._tensor(f"penalty {name}", tensor, probe, places, zero_is_right=name.startswith("b"))

    def _places(self) -> list[Array]:
        """Where the entries of each tensor, row by row, are in the vector of parameters."""
        counted = self.network.parameters(np.intp, np.arange(len(self.theta.vector)))
        return [tensor.ravel() for _, tensor in counted.tensors()]

    def _loss(self, vector: Array) -> Function:
        """The data's loss, by the functions that train."""
        network, Y, dtype = self.network, self.Y, vector.dtype
        theta, X, t = network.parameters(dtype, vector), self.X.astype(dtype), self._buffers(dtype)
        bound = Pass(network, theta, X, t, self.unit)

        def function() -> tuple[Any, list[Array]]:
            bound.forward()
            value = bound.loss(Y)
            return value, _kinks(*map(network.activation.branch, t.z[:-1]), network.objective.branch(t.z[-1], Y))

        return function

    def _backward(self, theta: Parameters) -> tuple[Parameters, Buffers]:
        """The hand-derived gradient at ``theta``, and the buffers as the backward pass left them."""
        gradient, t = self.network.parameters(np.float64), self._buffers(np.float64)
        self.network.forward(theta, self.X, t, self.unit)
        self.network.loss(self.Y, t)
        self.network.backward(theta, self.X, self.Y, t, gradient, self.unit)
        return gradient, t

    def _buffers(self, dtype: DTypeLike) -> Buffers:
        """Buffers with the masks of dropout that were drawn."""
        t = self.network.buffers(len(self.X), dtype, self.rates)
        t.masks = [None if mask is None else mask.astype(dtype) for mask in self.masks]
        return t

    def _with_moderate_logits(self) -> Parameters:
        """The parameters, the last layer's shrunk if need be until no logit is beyond 4.6.

        The explicit Jacobians have a 1 / p in them, and meet p (1 - p) where the delta has cancelled it.
        """
        theta = self.network.parameters(np.float64, self.theta.vector.copy())
        t = self._buffers(np.float64)
        largest = np.abs(self.network.forward(theta, self.X, t, self.unit)).max()
        if largest > SATURATED:
            theta.W[-1] *= SATURATED / largest
            theta.b[-1] *= SATURATED / largest
        return theta

    def _tensor(
        self,
        name: str,
        gradient: Array,
        probe: _Probe,
        places: Array,
        *,
        whole: bool = False,
        more: Mapping[str, float] | None = None,
        zero_is_right: bool = False,
    ) -> Row:
        """Compare ``gradient``, whose entries, row by row, are at these ``places`` of the probe's vector."""
        a = gradient.ravel()
        direction, wrong = self._directions(a, probe, places)
        drawn = np.arange(a.size) if whole else self._draw(a, wrong)
        n = np.array([probe.complex_step(places[index]) for index in drawn])
        central = [probe.central(places[index]) for index in drawn]
        smooth = np.array([value is not None for value in central], bool)
        m, by_hand = np.array([value for value in central if value is not None]), a[drawn]
        errors = {
            "complex": relative_error(n, by_hand),
            "central": relative_error(m, by_hand[smooth]),
            "direction": direction,
            **(more or {}),
        }
        names = [_entry(name, gradient.shape, int(index)) for index in drawn]
        kinks = tuple(each for each, kept in zip(names, smooth, strict=True) if not kept)
        every = np.ones(len(n), bool)
        worst = [
            _worst(np.array(names)[kept], by_hand[kept], numbers, WORDS[method])
            for method, numbers, kept in (("complex", n, every), ("central", m, smooth))
            if not errors[method] <= self.tolerance[method]
        ]
        exercised = zero_is_right or bool((a.any() or n.any()) and (by_hand[smooth].any() or m.any()))
        return self._row(name, gradient, errors, len(drawn), exercised, kinks, *worst[:1])

    def _directions(self, a: Array, probe: _Probe, places: Array) -> tuple[float, Array]:
        """The error in a few random directions through all entries, and an entry that is wrong if that is too large."""

        def error(indices: Array) -> float:
            steps, products = np.empty(DIRECTIONS), np.empty(DIRECTIONS)
            for k in range(DIRECTIONS):
                v = self.rng.normal(size=len(indices))
                steps[k], products[k] = probe.along(places[indices], v), v @ a[indices]
            return relative_error(steps, products)

        wrong = np.arange(a.size)
        whole = error(wrong)
        if whole <= self.tolerance["direction"]:
            return whole, wrong[:0]
        while len(wrong) > 1:
            first, second = np.array_split(wrong, 2)
            wrong = first if error(first) > error(second) else second
        return whole, wrong

    def _draw(self, a: Array, wrong: Array) -> Array:
        """Which entries of a tensor to check, ``wrong`` among them; ``a`` is its gradient as one vector."""
        if self.entries is None or a.size <= self.entries:
            return np.arange(a.size)
        some, dark = (
            self.rng.choice(kind, min(number, len(kind)), replace=False)
            for kind, number in ((np.flatnonzero(a), self.entries), (np.flatnonzero(a == 0), ZEROS))
        )
        return np.unique(np.concatenate([some, dark, wrong]))

    def _row(
        self,
        name: str,
        tensor: Array,
        errors: dict[str, float],
        checked: int = 0,
        exercised: bool = True,
        kinks: tuple[str, ...] = (),
        worst: str = "",
    ) -> Row:
        agree = all(error <= self.tolerance[method] for method, error in errors.items())
        verdict = FAILED if not agree else PASSED if exercised else NOT_EXERCISED
        return Row(name, tensor.shape, checked, errors, verdict, kinks, worst)


def _kinks(*branches: Array | None) -> list[Array]:
    return [branch for branch in branches if branch is not None]


def _entry(name: str, shape: tuple[int, ...], index: int) -> str:
    return f"{name}[{', '.join(map(str, np.unravel_index(index, shape)))}]"


def _worst(names: Array, by_hand: Array, numbers: Array, method: str) -> str:
    at = int(np.argmax(np.abs(numbers - by_hand)))
    difference = abs(numbers[at] - by_hand[at])
    return f"{names[at]}: {by_hand[at]:.9g} by hand, {numbers[at]:.9g} by {method}; they differ by {difference:.1e}"


# The output layer by the textbook, of one example, with nothing cancelled: an output unit gives p (K,) and dp/dz (K, K)
# of the logits z (K,), a loss dC/dp (K,) of p and the target y (K,).
Unit = Callable[[Array], tuple[Array, Array]]
Loss = Callable[[Array, Array], Array]


def _softmax(z: Array) -> tuple[Array, Array]:
    p = np.exp(z) / np.exp(z).sum()
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


def _likelihood(p: Array, y: Array) -> Array:
    row: Array = -y / p  # (0 .. -1/p_y .. 0)
    return row


def _cross_entropy(p: Array, y: Array) -> Array:
    row: Array = -y / p + (1 - y) / (1 - p)
    return row


def _quadratic(p: Array, y: Array) -> Array:
    row: Array = p - y
    return row


def _hinge(p: Array, y: Array) -> Array:
    right = int(np.argmax(y))
    row = np.array([1.0 if p_j - p[right] + 1 > 0 else 0.0 for p_j in p])
    row[right] = 0.0
    row[right] = -row.sum()
    return row


OUTPUT_LAYERS: dict[str, tuple[Unit, Loss]] = {
    "softmax_cross_entropy": (_softmax, _likelihood),
    "sigmoid_cross_entropy": (_sigmoid, _cross_entropy),
    "linear_quadratic": (_linear, _quadratic),
    "sigmoid_quadratic": (_sigmoid, _quadratic),
    "linear_hinge": (_linear, _hinge),
    "normalized_sigmoid": (_normalized_sigmoid, _likelihood),
}
