r"""The hand-derived gradients against independent ones, computed with the very functions that train.

Three methods, none of which uses the derivation's backward equations:

Complex step
    df/dx = Im f(x + it) / t, t = 1e-20 (Squire and Trapp 1998, "Using complex variables to estimate derivatives of real
    functions"). As f(x + it) = f(x) + it f'(x) - t^2 f''(x) / 2 ..., the truncation error is of order t^2 = 1e-40, and
    as nothing is subtracted no digit cancels. What is left is the rounding of the two computations, some 1e-15.
    Allowed: 1e-12, and the same for a random direction; more below saturated units, whose f' = h (1 - h) loses digits
    by hand: its absolute error is eps, so that dz = dh * f' may be wrong by eps ||dh||. If no digit is left, that is
    'not exercised'.
Central differences
    df/dx = (8 (f(x + t) - f(x - t)) - (f(x + 2t) - f(x - 2t))) / 12t, t = 1e-3. The error has two parts: t^4 f^(5) / 30
    and the rounding of f, some 1e-16, divided by t. Both are some 1e-13; a smaller or a larger t makes one of them
    worse. Allowed: 1e-7, or the error that rounding alone can cause, 10 eps |f| sqrt(s) / (t (||n|| + ||a||)) for s
    compared entries, if that is larger. This method needs no complex arithmetic.
Textbook
    The output layer by its Jacobians, dC/dp (K,), dp/dz (K, K) and dz/dW (K, D K), multiplied out one example after the
    other; and the values of the loss and of the hidden activations. Exact except for rounding. Allowed: 1e-12.

An error is the norm-wise relative error ||n - a|| / (||n|| + ||a||) of a tensor's entries, a by hand and n by the other
method: between 0 and 1, and not dominated by entries that are small beside their neighbours.

A check of 0 against 0 checks nothing, and on a handful of digits most gradients of W1 are 0, as their pixel is 0 in
all. So entries are sampled where the gradient by hand is nonzero, and only ten where it is 0; and a tensor whose
gradients are all 0 is 'not exercised', which is not a pass. No entry escapes: a random direction goes through all
entries of each tensor, and where it disagrees with the gradient, bisection finds an entry that is wrong and adds it to
the sample.

relu and hinge have kinks, without a derivative. A complex step is too small to cross one. A central difference that
would cross one is taken again with t = 1e-5, and if that crosses it too, the entry is left out, and named. If the
differences of a tensor disagree with the gradient by more than is allowed, all are taken again with t = 1e-5: the fifth
derivative may be large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.gradcheck import textbook
from mlpcli.gradcheck.output_layer import OUTPUT_LAYERS
from mlpcli.gradcheck.probe import COMPLEX_STEP, EPS, Function, Probe
from mlpcli.gradcheck.rows import (
    NEGLIGIBLE,
    TOLERANCE,
    Row,
    draw_direction,
    projection_error,
    relative_error,
    row,
    without_negligible,
)
from mlpcli.gradcheck.subject import Problem, Subject, inputs_of
from mlpcli.model.activations import SATURATED
from mlpcli.model.network import WeightDecay
from mlpcli.model.numerics import COLUMN_MAX_MIN_ROWS

Array = NDArray[Any]

# The penalty is quadratic: its differences are exact with any t, and a large one keeps more digits.
PENALTY_STEPS = (1.0,)

ENTRIES = 100
ZEROS = 10

FAR_APART = 1000.0  # a difference of logits whose exp overflows

WORDS = {"complex": "complex step", "central": "central differences"}


def check(
    problem: Problem,
    theta: Array,
    rng: np.random.Generator,
    *,
    l2: float,
    entries: int | None = ENTRIES,
    tolerance: Mapping[str, float] = TOLERANCE,
) -> Iterator[Row]:
    """Check the gradient of ``problem`` at ``theta`` (n,); yield one row for each tensor.

    First the parameters, and X if the problem's backward pass goes down to dX, then the output layer, then the penalty
    with the coefficient ``l2`` > 0. The targets are one-hot for the hinge, else one-hot or smoothed. Of a tensor with
    more entries, ``entries`` are sampled by ``rng``; None: all are checked.
    """
    checker = _Checker(problem, theta, rng, entries, tolerance)
    # What is not finite shows as an infinite error; numpy need not warn of it too.
    with np.errstate(all="ignore"):
        by_jacobians, rows = checker.output_layer()
        yield from checker.parameters(by_jacobians)
        yield from rows
        yield from checker.penalty(l2)


class _Checker:
    def __init__(
        self,
        problem: Problem,
        theta: Array,
        rng: np.random.Generator,
        entries: int | None,
        tolerance: Mapping[str, float],
    ) -> None:
        self.problem, self.rng, self.entries, self.tolerance = problem, rng, entries, tolerance
        self.architecture = problem.architecture
        self.theta = self.architecture.parameters(np.float64, theta.astype(np.float64))
        # Each tensor's entries in the vector of parameters: they are contiguous.
        counted = self.architecture.parameters(np.intp, np.arange(len(theta)))
        self.entries_of = [slice(int(t.min()), int(t.max()) + 1) for _, t in counted.tensors()]

    def parameters(self, by_jacobians: Mapping[str, float]) -> Iterator[Row]:
        """Yield a row for W1, b1, W2 ... and one for all of them as one vector."""
        subject = self.problem.subject(self.theta.vector, np.float64, scaled=True)
        gradient = subject.gradient()
        rounding = subject.rounding_of_slopes(EPS)
        probe = Probe(self._loss(np.float64), self._loss(np.complex128))
        a = gradient.vector
        size = float(np.linalg.norm(a))
        lost = [rounding[i // 2] * float(np.linalg.norm(tensor)) for i, (_, tensor) in enumerate(gradient.tensors())]
        for i, (name, tensor) in enumerate(gradient.tensors()):
            more = {"jacobian": by_jacobians[name]} if name in by_jacobians else {}
            part, whole, zero = self.entries_of[i], name.startswith("b"), EPS * size
            yield self._tensor(name, tensor, probe, part, whole=whole, more=more, lost=lost[i], zero=zero)
        error, limit, _ = self._directions(a, probe, slice(0, len(a)), float(np.linalg.norm(lost)))
        yield row("theta", a.shape, {"direction": error}, {"direction": limit}, exercised=limit < 1)
        if self.problem.input_gradient:
            dX = subject.network.input_gradient()
            probe = Probe(self._loss_of_inputs(np.float64), self._loss_of_inputs(np.complex128))
            yield self._tensor("dX", dX, probe, slice(0, dX.size), lost=rounding[0] * float(np.linalg.norm(dX)))

    def output_layer(self) -> tuple[dict[str, float], list[Row]]:
        """Multiply out the last layer's Jacobians for each example, and compare with the backward pass.

        Returns the errors of the last W and b, and the rows of dz and dp/dz.
        """
        objective, last = self.architecture.objective, len(self.architecture.sizes) - 1
        subject = self.problem.subject(self._with_moderate_logits(), np.float64, scaled=True)
        gradient = subject.gradient()
        network, Y = subject.network, self.problem.Y
        z, dz = network.logits, network.output.dz
        output, loss = OUTPUT_LAYERS[objective.name]

        p, dp_dz = (np.array(each) for each in zip(*map(output, z), strict=True))  # (B, K), (B, K, K)
        stepped = np.empty_like(dp_dz)
        for k in range(z.shape[1]):
            w, value = z.astype(np.complex128), np.empty_like(z, np.complex128)
            w[:, k] += 1j * COMPLEX_STEP
            objective.output(w, value)
            stepped[:, :, k] = value.imag / COMPLEX_STEP
        errors = {"jacobian": relative_error(stepped, dp_dz)}
        jacobian = row(f"dp/dz{last}", dp_dz.shape, errors, self.tolerance, dp_dz.size)

        # dC/dz = dC/dp dp/dz, (K,) = (K,) (K, K), for each example; the loss is the mean over the batch.
        C, dC_dp = zip(*(loss(*each) for each in zip(p, Y, strict=True)), strict=True)
        dz_textbook = np.array([gradient @ J for gradient, J in zip(dC_dp, dp_dz, strict=True)]) / len(Y)  # (B, K)
        more = {"jacobian": relative_error(dz_textbook, dz)}
        probe = Probe(self._objective(z, np.float64), self._objective(z, np.complex128))
        dz_row = self._tensor(f"dz{last}", dz, probe, slice(0, z.size), whole=True, more=more)

        x = inputs_of(network.output)
        dW = np.zeros_like(gradient.W[-1])
        identity = np.eye(len(dz_textbook.T))  # dz/db
        # dz/dW has K D K entries: computed for some of the D inputs at a time, if that is too many.
        parts = np.array_split(np.arange(len(dW)), 1 + dW.size * len(identity) // 2**22)
        for dC_dz, inputs in zip(dz_textbook, x, strict=True):
            for part in parts:
                dz_dW = np.kron(inputs[part], identity)  # (K, D K) = [x_1 I, x_2 I, ... x_D I]
                dW[part] += (dC_dz @ dz_dW).reshape(-1, len(identity))
        db = (dz_textbook @ identity).sum(axis=0)
        by_jacobians = {
            f"W{last}": relative_error(dW, gradient.W[-1]),
            f"b{last}": relative_error(db, gradient.b[-1]),
        }
        off = relative_error(np.array(sum(C) / len(Y)), np.array(network.loss(Y)))
        errors = {"jacobian": max(off, self._error_of_many_rows())}
        return by_jacobians, [dz_row, jacobian, row("loss", (), errors, self.tolerance, 1), *self._activations(subject)]

    def _error_of_many_rows(self) -> float:
        """Return the error of p for many rows, and of the loss beside that of few: other code has their maxima.

        The logits are so far apart that exp overflows unless it is shifted by the largest.
        """
        objective, K = self.architecture.objective, self.architecture.sizes[-1]
        z = FAR_APART * np.cos(np.arange(COLUMN_MAX_MIN_ROWS * K)).reshape(-1, K)
        z -= np.minimum(z.max(axis=1, keepdims=True), 0.0)  # the textbook's sigmoids are not all 0
        Y, p = np.zeros_like(z), np.empty_like(z)
        Y[:, 0] = 1.0
        C = objective.forward(z, Y, p)
        expected = np.array([OUTPUT_LAYERS[objective.name][0](each)[0] for each in z])
        halves = [slice(0, len(z) // 2), slice(len(z) // 2, len(z))]
        of_few = sum(objective.forward(z[rows], Y[rows], np.empty_like(z[rows])) for rows in halves)
        return max(relative_error(expected, p), relative_error(np.array(of_few), np.array(C)))

    def _activations(self, subject: Subject) -> Iterator[Row]:
        f = textbook.ACTIVATIONS[self.architecture.activation.name]
        for number, layer in enumerate(subject.network.hidden, start=1):
            errors = {"jacobian": relative_error(f(layer.z), layer.h)}
            yield row(f"h{number}", layer.h.shape, errors, self.tolerance, layer.h.size)

    def penalty(self, l2: float) -> Iterator[Row]:
        """Check the penalty and its gradient, which is 0 for the biases."""
        gradient = self.architecture.parameters(np.float64)
        decay = WeightDecay(l2, self.theta.weights, gradient.weights)
        errors = {"jacobian": relative_error(np.array(decay.penalty()), np.array(textbook.penalty(l2, self.theta.W)))}
        yield row("penalty", (), errors, self.tolerance, 1)
        # Added twice and halved: a gradient that overwrites what it should be added to is found out.
        for _ in range(2):
            decay.accumulate()
        gradient.vector *= 0.5

        def function(dtype: DTypeLike) -> Function:
            theta = self.architecture.parameters(dtype, self.theta.vector.astype(dtype))

            def changing(index: int) -> nullcontext[Callable[[], Any]]:
                # The penalty is a sum: what other entries add to it does not change.
                tensor = next(i for i, part in enumerate(self.entries_of) if part.start <= index < part.stop)
                parts = [] if tensor % 2 else [theta.vector[index : index + 1]]
                return nullcontext(lambda: textbook.penalty(l2, parts))

            return Function(theta.vector, lambda: textbook.penalty(l2, theta.W), changing)

        probe = Probe(function(np.float64), function(np.complex128), PENALTY_STEPS)
        for (name, tensor), part in zip(gradient.tensors(), self.entries_of, strict=True):
            yield self._tensor(f"penalty {name}", tensor, probe, part, zero_is_right=name.startswith("b"))

    def _loss(self, dtype: DTypeLike) -> Function:
        """Return the loss as a function of the parameters, by the functions that train."""
        subject = self.problem.subject(self.theta.vector, dtype)
        shapes = [tensor.shape for _, tensor in self.theta.tensors()]

        def changing(index: int) -> Any:
            tensor = next(i for i, part in enumerate(self.entries_of) if part.start <= index < part.stop)
            unit = _indices(shapes[tensor], index - self.entries_of[tensor].start, tensor == len(shapes) - 2)[-1]
            return subject.changing(tensor // 2, unit)

        return Function(subject.theta.vector, subject.loss, changing, subject.active_sets)

    def _loss_of_inputs(self, dtype: DTypeLike) -> Function:
        """Return the loss as a function of the inputs X."""
        subject = self.problem.subject(self.theta.vector, dtype)
        inputs: Any = subject.network.layers[0].x
        return Function(inputs.reshape(-1), subject.loss, lambda index: nullcontext(subject.loss), subject.active_sets)

    def _objective(self, z: Array, dtype: DTypeLike) -> Function:
        """Return the objective's mean over the batch as a function of the logits."""
        objective, Y = self.architecture.objective, self.problem.Y
        logits, p = z.astype(dtype), np.empty_like(z, dtype)

        def value() -> Any:
            return objective.forward(logits, Y, p) / len(Y)

        def active_sets() -> list[Array]:
            return [textbook.KINKS[objective.name](logits, Y)] if objective.name in textbook.KINKS else []

        return Function(logits.reshape(-1), value, lambda index: nullcontext(value), active_sets)

    def _with_moderate_logits(self) -> Array:
        """Return the parameters, the last layer's shrunk if need be until no logit is beyond 4.6.

        The explicit Jacobians contain 1 / p, and multiply it by the p (1 - p) that (4) has cancelled.
        """
        subject = self.problem.subject(self.theta.vector, np.float64)
        largest = np.abs(subject.network.forward()).max()
        if largest > SATURATED:
            subject.theta.W[-1] *= SATURATED / largest
            subject.theta.b[-1] *= SATURATED / largest
        return subject.theta.vector

    def _tensor(
        self,
        name: str,
        gradient: Array,
        probe: Probe,
        part: slice,
        *,
        whole: bool = False,
        more: Mapping[str, float] | None = None,
        zero_is_right: bool = False,
        lost: float = 0.0,
        zero: float = 0.0,
    ) -> Row:
        """Compare ``gradient``, whose entries in the order of memory are the probe's ``part``.

        ``lost`` is the norm of what rounding takes from ``gradient``, perhaps all of it from a few entries. If all of
        ``gradient`` is 0, as below units whose slope is rounded to 0, derivatives up to ``zero`` count as 0 too.
        """
        a = without_negligible(gradient.ravel(order="K"))
        negligible = NEGLIGIBLE if a.any() else max(NEGLIGIBLE, zero)
        allowed = dict(self.tolerance)
        direction, allowed["direction"], wrong = self._directions(a, probe, part, lost, negligible)
        drawn = np.arange(a.size) if whole else self._draw(a, wrong)
        probe.reset()
        slopes = np.array([probe.complex_step(part.start + int(index)) for index in drawn])
        n = without_negligible(slopes, negligible)
        by_hand, sample = a[drawn], self._sample(drawn)
        scale = float(np.linalg.norm(n) + np.linalg.norm(by_hand))
        allowed["complex"] = max(allowed["complex"], min(1.0, lost / scale) if scale else 0.0)
        for shorter in (False, True):
            differences = {int(index): probe.central(part.start + int(index), shorter=shorter) for index in sample}
            smooth = np.array([differences.get(int(index)) is not None for index in drawn], bool)
            m, rounding = np.array([found for found in differences.values() if found is not None]).reshape(-1, 2).T
            m = without_negligible(m)
            scale = float(np.linalg.norm(m) + np.linalg.norm(by_hand[smooth]))
            limit = max(allowed["central"], float(np.linalg.norm(rounding)) / scale if scale else 0.0)
            central = relative_error(m, by_hand[smooth])
            if central <= limit:
                break  # else the loss may bend too much within the longer distance
        allowed["central"] = limit
        errors = {"complex": relative_error(n, by_hand), "central": central, "direction": direction, **(more or {})}
        if allowed["central"] >= 1 or not smooth.any():
            del errors["central"]  # it has no digit left, or all entries are at kinks

        def entry(index: int) -> str:
            return f"{name}{_indices(gradient.shape, index, gradient.flags.c_contiguous)}"

        kinks = tuple(entry(int(i)) for i in drawn if differences.get(int(i), ()) is None)
        every = np.ones(len(n), bool)
        worst = [
            _worst([entry(int(i)) for i in drawn[mask]], by_hand[mask], numbers, WORDS[method])
            for method, numbers, mask in (("complex", n, every), ("central", m, smooth))
            if not errors.get(method, 0.0) <= allowed[method]
        ]
        exercised = zero_is_right or bool(
            (a.any() or n.any()) and (by_hand[smooth].any() or m.any() or not smooth.any())
        )
        for method in ("complex", "direction"):
            if errors[method] <= 1 <= allowed[method]:
                del errors[method]  # by hand it has no digit left
                exercised = False
        return row(name, gradient.shape, errors, allowed, len(drawn), exercised, kinks, *worst[:1])

    def _directions(
        self, a: Array, probe: Probe, part: slice, lost: float = 0.0, negligible: float = NEGLIGIBLE
    ) -> tuple[float, float, list[int]]:
        """Return the error in a random direction through all entries, what is allowed of it, and a wrong entry, if any.

        ``lost`` is the norm of what rounding takes from the gradient ``a``.
        """

        def project(first: int, last: int) -> tuple[float, float]:
            """Return the error in a direction through the entries, and the norm that it is relative to."""
            v, by_hand = draw_direction(self.rng, last - first), a[first:last]
            step = probe.along(slice(part.start + first, part.start + last), v)
            n, projection = step if abs(step) > negligible else 0.0, float(v @ by_hand)
            size = max(sqrt(3.0) * (abs(n) + abs(projection)), float(np.linalg.norm(by_hand)))
            return projection_error(n, projection, by_hand), size

        first, last = 0, a.size
        result, size = project(first, last)
        allowed = max(self.tolerance["direction"], min(1.0, lost / size) if size else 0.0)
        if result <= allowed:
            return result, allowed, []
        while last - first > 1:
            middle = (first + last) // 2
            if project(first, middle)[0] > project(middle, last)[0]:
                last = middle
            else:
                first = middle
        return result, allowed, [first]

    def _sample(self, drawn: Array) -> Array:
        """Return the entries for central differences, which cost four times as much: a part of a large whole tensor."""
        if self.entries is None or len(drawn) <= self.entries + ZEROS + 1:
            return drawn
        return np.sort(self.rng.choice(drawn, self.entries, replace=False))

    def _draw(self, a: Array, wrong: list[int]) -> Array:
        """Sample the entries of a tensor to check, ``wrong`` among them; ``a`` is its gradient as one vector."""
        if self.entries is None or a.size <= self.entries:
            return np.arange(a.size)
        nonzero, zero = (
            self.rng.choice(kind, min(number, len(kind)), replace=False)
            for kind, number in ((np.flatnonzero(a), self.entries), (np.flatnonzero(a == 0), ZEROS))
        )
        return np.array(sorted({*nonzero.tolist(), *zero.tolist(), *wrong}))


def _indices(shape: tuple[int, ...], index: int, c_order: bool) -> list[int]:
    """Return the indices of an entry of a tensor, given its position in the order of memory."""
    return [int(i) for i in np.unravel_index(index, shape, order="C" if c_order else "F")]


def _worst(names: Sequence[str], by_hand: Array, numbers: Array, method: str) -> str:
    at = int(np.argmax(np.abs(numbers - by_hand)))
    difference = abs(numbers[at] - by_hand[at])
    return f"{names[at]}: {by_hand[at]:.9g} by hand, {numbers[at]:.9g} by {method}; they differ by {difference:.1e}"
