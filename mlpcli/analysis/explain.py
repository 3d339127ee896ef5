"""One example through the equations of docs/derivation.md: forward, backward and one step of gradient descent.

The numbers are those of ``Network.forward``, ``loss``, ``backward`` and ``Gradient`` in float64. Computed here are only
quantities that training never computes, or overwrites: dC/dp and dp/dz, which the matched pairs cancel, and da, which
becomes dz in place. Gradients are compared with those of a complex step. One example: arrays have no batch dimension.

    D inputs, H hidden units, K classes; layers l = 1 .. L; h of the code is a: nothing is dropped
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import INDEPENDENT_OUTPUTS
from mlpcli.errors import RunError, UsageError
from mlpcli.gradcheck.output_layer import OUTPUT_LAYERS
from mlpcli.gradcheck.probe import COMPLEX_STEP
from mlpcli.gradcheck.subject import Problem, Subject
from mlpcli.model.activations import SATURATED
from mlpcli.model.build import Architecture
from mlpcli.model.network import Gradient, Network, WeightDecay
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.model.parameters import Parameters
from mlpcli.training.batches import INPUT_SCALE
from mlpcli.training.connections import ConnectedGradient
from mlpcli.training.targets import Targets

Array = NDArray[Any]

OUTPUT_UNITS = {
    "softmax_cross_entropy": "softmax(z{L})",
    "sigmoid_cross_entropy": "sigmoid(z{L})",
    "linear_quadratic": "z{L}",
    "sigmoid_quadratic": "sigmoid(z{L})",
    "linear_hinge": "z{L}",
    "normalized_sigmoid": "s / sum(s), s = sigmoid(z{L})",
}
LOSSES = {
    "softmax_cross_entropy": "-sum Y ln p",
    "sigmoid_cross_entropy": "-sum [Y ln p + (1 - Y) ln(1 - p)]",
    "linear_quadratic": "1/2 sum (p - Y)^2",
    "sigmoid_quadratic": "1/2 sum (p - Y)^2",
    "linear_hinge": "sum over j != y of max(0, z_j - z_y + 1)",
    "normalized_sigmoid": "-sum Y ln p",
}
DELTAS = {
    "softmax_cross_entropy": "p - Y",
    "sigmoid_cross_entropy": "p - Y",
    "linear_quadratic": "p - Y",
    "sigmoid_quadratic": "(p - Y) p (1 - p)",
    "linear_hinge": "M - Y sum(M)",
    "normalized_sigmoid": "(1 - s) (p - Y)",
}
SLOPES = {"sigmoid": "a{n} (1 - a{n})", "tanh": "1 - a{n}^2", "relu": "[a{n} > 0]"}
FACTORS = {**SLOPES, "tanh": "(1 - a{n}^2)"}
# f'(z) is below a twenty-fifth of its maximum. tanh(z) is 2 sigmoid(2 z) - 1.
SATURATION = {"sigmoid": f"|z| > {SATURATED}", "tanh": f"|z| > {SATURATED / 2}", "relu": "z <= 0"}


@dataclass(frozen=True, eq=False)
class Equation:
    """A line of the derivation, its ``number`` there if any, and its value for this example."""

    number: int | None
    name: str
    formula: str
    values: Array


@dataclass(frozen=True, eq=False)
class Step:
    """Losses and p after ``steps`` steps of theta <- theta - rate dC/dtheta; ``promised`` is the fall by the slope."""

    rate: float
    steps: int
    loss_before: float
    loss_after: float
    promised: float
    p_before: Array
    p_after: Array


@dataclass(frozen=True)
class Check:
    """One entry of a gradient, from the derivation and by a complex step; that of b is also dz's."""

    name: str
    index: tuple[int, ...]
    value: float
    complex_step: float


@dataclass(frozen=True)
class Factor:
    """A factor f'(z) of a hidden layer; ``saturated`` is the fraction of its units in ``SATURATION``."""

    layer: int
    largest: float
    median: float
    saturated: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """All intermediate values of one example.

    ``units`` (layer, unit) are the hidden units to show, and ``connections`` (D, H) the M of the first layers, if these
    are not fully connected. ``deltas`` are dz_L (K,) for the same logits, for each objective that takes these targets.
    """

    architecture: Architecture
    image: Array
    Y: Array
    equations: tuple[Equation, ...]
    checks: tuple[Check, ...]
    step: Step
    small_step: Step
    factors: tuple[Factor, ...]
    deltas: dict[str, Array]
    units: tuple[tuple[int, int], ...]
    connections: tuple[Array, ...] = ()

    def __getitem__(self, name: str) -> Array:
        return next(equation.values for equation in self.equations if equation.name == name)

    @property
    def labels(self) -> list[int]:
        """Return the true classes; for a single output unit, its target 0 or 1."""
        return [int(k) for k in (np.flatnonzero(self.Y) if len(self.Y) > 1 else self.Y)]

    def document(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return plain values for JSON: an infinite number is None."""
        architecture = self.architecture
        return {
            "network": {
                "sizes": list(architecture.sizes),
                "activation": architecture.activation.name,
                "objective": architecture.objective.name,
                "class_names": list(class_names),
            },
            "image": self.image.tolist(),
            "label": self.labels[0] if len(self.labels) == 1 else self.labels,
            "equations": [
                {
                    "number": equation.number,
                    "name": equation.name,
                    "formula": equation.formula,
                    "shape": list(equation.values.shape),
                    "values": plain(equation.values),
                }
                for equation in self.equations
            ],
            "checks": [
                {
                    "name": c.name,
                    "index": list(c.index),
                    "value": plain(c.value),
                    "complex_step": plain(c.complex_step),
                }
                for c in self.checks
            ],
            "step": _step_document(self.step),
            "small_step": _step_document(self.small_step),
            "factors": [
                {"layer": f.layer, "largest": f.largest, "median": f.median, "saturated": f.saturated}
                for f in self.factors
            ],
            "deltas": {name: plain(values) for name, values in self.deltas.items()},
        }


def plain(values: Array | float) -> Any:
    """Return ``values`` as lists, or as a number, with None for numbers that are not finite."""
    values = np.asarray(values)
    if np.isfinite(values).all():
        return values.tolist()
    found = values.astype(object)
    found[~np.isfinite(values)] = None
    return found.tolist()


def _step_document(step: Step) -> dict[str, Any]:
    return {
        "rate": step.rate,
        "steps": step.steps,
        "loss_before": plain(step.loss_before),
        "loss_after": plain(step.loss_after),
        "promised": plain(step.promised),
        "p_before": plain(step.p_before),
        "p_after": plain(step.p_after),
    }


def targets_of(labels: Sequence[int], classes: int, objective: str) -> Array:
    """Return Y (K,), 1 for the true classes ``labels``; for a single output unit Y (1,) is the label itself.

    Raises ``UsageError`` for classes that do not exist, or for more labels than ``objective`` allows.
    """
    if classes == 1:
        if list(labels) not in ([0], [1]):
            raise UsageError(f"--label {','.join(map(str, labels))}: the label of a single output unit is 0 or 1")
        return np.array(labels, np.float64)
    for k in labels:
        if not 0 <= k < classes:
            raise UsageError(f"--label {k}: the classes are 0 to {classes - 1}")
    if len(set(labels)) > 1 and objective not in INDEPENDENT_OUTPUTS:
        raise UsageError(
            f"--label {','.join(map(str, labels))}: {objective} has one true class; for several, "
            "set network.objective to sigmoid_cross_entropy"
        )
    if not labels and objective not in INDEPENDENT_OUTPUTS:
        raise UsageError(f"--label none: {objective} has one true class")
    Y = np.zeros(classes)
    Y[list(labels)] = 1.0
    return Y


def predicted(architecture: Architecture, theta: Array, pixels: Array, targets: Targets) -> Array:
    """Return the prediction for ``pixels`` (D,), bytes, as a label: () or (K,).

    Raises ``RunError`` if the outputs are not finite.
    """
    Y = np.zeros(architecture.sizes[-1])
    subject = _subject(architecture, theta, pixels, Y)
    with np.errstate(all="ignore"):
        subject.loss()
    label: Array = targets.predicted(_finite(subject.network.logits), subject.network.p)[0]
    return label


def explain(
    architecture: Architecture,
    theta: Array,
    image: Array,
    Y: Array,
    *,
    l2: float = 0.0,
    rate: float = 0.01,
    steps: int = 1,
    units: Sequence[tuple[int, int]] = (),
    connections: Sequence[Array] = (),
) -> Explanation:
    """Explain the network of parameters ``theta`` (n,) for ``image`` (rows, columns), bytes, and targets ``Y`` (K,).

    ``image`` is the network's input, preprocessed. ``units`` are (layer, unit); for a hidden layer without any, the
    most active one, the most saturated one and the one with the largest gradient are chosen. ``connections`` (D, H) are
    those of the first layers, if these are not fully connected. Raises ``UsageError`` for a unit that does not exist,
    ``RunError`` if the outputs are not finite numbers.
    """
    hidden = architecture.sizes[1:-1]
    for layer, unit in units:
        if not 1 <= layer <= len(hidden):
            count = f"{len(hidden)} hidden layer{'s' if len(hidden) != 1 else ''}" if hidden else "no hidden layer"
            raise UsageError(f"--unit {layer}:{unit}: the network has {count}")
        if not 0 <= unit < hidden[layer - 1]:
            raise UsageError(f"--unit {layer}:{unit}: the units of layer {layer} are 0 to {hidden[layer - 1] - 1}")
    with np.errstate(all="ignore"):  # an overflow shows in the numbers
        subject = _subject(architecture, theta, image.ravel(), Y)
        gradient = subject.gradient()
        _finite(subject.network.logits)
        equations = _equations(subject, gradient, Y, l2, connections)
        named = {equation.name: equation.values for equation in equations}
        asked = {layer for layer, _ in units}
        chosen = tuple(dict.fromkeys([*units, *(unit for unit in _chosen(named, len(hidden)) if unit[0] not in asked)]))
        return Explanation(
            architecture,
            image,
            Y,
            tuple(equations),
            tuple(_checks_of_p(subject, Y)) + tuple(_checks(subject, gradient, chosen, connections)),
            _step(subject, gradient, rate, steps, connections),
            _step(subject, gradient, rate / 10, 1, connections),
            tuple(_factors(named, architecture)),
            _deltas(subject.network.logits, Y),
            chosen,
            tuple(connections),
        )


# Computed by the code that trains -------------------------------------------------------------------------------------


def _subject(architecture: Architecture, theta: Array, pixels: Array, Y: Array, dtype: str = "float64") -> Subject:
    problem = Problem(architecture, pixels[np.newaxis].astype(np.float64), INPUT_SCALE, Y[np.newaxis])
    return problem.subject(theta, dtype, scaled=True)


def _slope(subject: Subject, layer: int) -> Array:
    """Return f'(z) (H,) of hidden layer ``layer``, counted from 0."""
    h = subject.network.layers[layer].h
    slope: Array = subject.network.f.derivative(h, np.empty_like(h))[0]
    return slope


def _finite(logits: Array) -> Array:
    if not np.isfinite(logits).all():
        raise RunError("the network's outputs are not finite numbers: its parameters are too large or not finite")
    return logits


# The equations, in the order of the derivation -----------------------------------------------------------------------


def _equations(
    subject: Subject, gradient: Parameters, Y: Array, l2: float, connections: Sequence[Array]
) -> list[Equation]:
    network, theta = subject.network, subject.theta
    L, f, objective = len(network.layers), network.f.name, network.objective.name
    x = subject.problem.X[0] * subject.problem.scale
    found = [Equation(None, "x", "pixels / 255", x)]
    for n, layer in enumerate(network.layers, start=1):
        below = f"a{n - 1}" if n > 1 else "x"
        found.append(Equation(1, f"z{n}", f"{below} W{n} + b{n}", layer.z[0]))
        if n < L:
            found.append(Equation(2, f"a{n}", f"{f}(z{n})", layer.h[0]))
    logits, p = network.logits[0], network.p[0]
    loss = np.array(network.loss(Y[np.newaxis]))
    dp, jacobian = output_layer(objective, logits, p, Y)
    found += [
        Equation(None, "p", OUTPUT_UNITS[objective].format(L=L), p),
        Equation(3, "loss", LOSSES[objective], loss),
        Equation(None, "dp", "dC/dp", dp),
        Equation(None, "jacobian", f"dp/dz{L}", jacobian),
        Equation(4, f"dz{L}", DELTAS[objective], network.dlogits[0]),
    ]
    for n in range(L, 0, -1):
        layer, below = network.layers[n - 1], f"a{n - 1}" if n > 1 else "x"
        if n < L:
            dz_above = network.layers[n].dz[0]
            found += [
                Equation(7, f"da{n}", f"dz{n + 1} W{n + 1}^T", dz_above @ theta.W[n].T),
                Equation(None, f"slope{n}", SLOPES[f].format(n=n), _slope(subject, n - 1)),
                Equation(8, f"dz{n}", f"da{n} * {FACTORS[f].format(n=n)}", layer.dz[0]),
            ]
        found += [
            Equation(5, f"dW{n}", f"{below}^T dz{n}", gradient.W[n - 1]),
            Equation(6, f"db{n}", f"dz{n}", gradient.b[n - 1]),
        ]
        if n <= len(connections):
            found.append(Equation(14, f"connected_dW{n}", f"M{n} * dW{n}", connections[n - 1] * gradient.W[n - 1]))
    if l2:
        penalty = subject.problem.architecture.parameters("float64")
        decay = WeightDecay(l2, theta.weights, penalty.weights)
        decay.accumulate()
        found.append(Equation(9, "penalty", "l2 sum W^2", np.array(decay.penalty())))
        found += [Equation(10, f"penalty_dW{n}", f"2 l2 W{n}", dW) for n, dW in enumerate(penalty.W, start=1)]
    return [Equation(each.number, each.name, each.formula, np.array(each.values)) for each in found]


def output_layer(objective: str, z: Array, p: Array, Y: Array) -> tuple[Array, Array]:
    """Compute dC/dp (K,) and dp/dz (K, K) by the textbook for logits ``z``, their ``p``, targets ``Y`` (K,)."""
    unit, loss = OUTPUT_LAYERS[objective]
    with np.errstate(all="ignore"):
        # A softmax is the same for z - max(z), whose exponentials do not overflow.
        _, jacobian = unit(z - z.max() if objective == "softmax_cross_entropy" else z)
        _, dp = loss(p, Y)
    # 0 / 0 where p has underflowed to the target: C does not depend on p there.
    return np.where(np.isnan(dp), 0.0, dp) + 0.0, jacobian + 0.0


def _chosen(named: dict[str, Array], hidden: int) -> tuple[tuple[int, int], ...]:
    found: dict[tuple[int, int], None] = {}
    for n in range(1, hidden + 1):
        for values in (named[f"a{n}"], np.abs(named[f"z{n}"]), np.abs(named[f"dz{n}"])):
            found[n, int(values.argmax())] = None
    return tuple(found)


def _checks_of_p(subject: Subject, Y: Array) -> list[Check]:
    """Compare dC/dp with a complex step in the textbook's loss, where both are finite.

    The hinge is left out: it has kinks.
    """
    network = subject.network
    if network.objective.name == "linear_hinge":
        return []
    p, loss = network.p[0], OUTPUT_LAYERS[network.objective.name][1]
    dp, _ = output_layer(network.objective.name, network.logits[0], p, Y)
    found = []
    for k in np.flatnonzero(np.isfinite(dp)).tolist():
        stepped = p.astype(np.complex128)
        stepped[k] += 1j * COMPLEX_STEP
        value = float(np.imag(loss(stepped, Y)[0])) / COMPLEX_STEP
        if np.isfinite(value):
            found.append(Check("dp", (k,), float(dp[k]), value))
    return found


def _checks(
    subject: Subject, gradient: Parameters, units: Sequence[tuple[int, int]], connections: Sequence[Array]
) -> list[Check]:
    """Compare db of the last layer and of ``units``, their da and largest connected dW with a complex step."""
    problem = subject.problem
    stepped = problem.subject(subject.theta.vector, np.complex128, scaled=True)

    def complex_step(tensor: Array, index: tuple[int, ...]) -> float:
        tensor[index] += 1j * COMPLEX_STEP
        value = float(np.imag(stepped.loss())) / COMPLEX_STEP
        tensor[index] = tensor[index].real
        return value

    def check(letter: str, n: int, index: tuple[int, ...]) -> Check:
        tensor, own = getattr(stepped.theta, letter)[n - 1], getattr(gradient, letter)[n - 1]
        return Check(f"d{letter}{n}", index, float(own[index]), complex_step(tensor, index))

    def check_activation(n: int, unit: int) -> Check:
        """Perturb the activation of a hidden unit, through the layers above it."""
        stepped.loss()
        network = stepped.network
        network.layers[n - 1].h[0, unit] += 1j * COMPLEX_STEP
        outputs = (network.partial_logits, network.p, network.dlogits, network.batch_size)
        above = Network(network.layers[n:], network.f, network.objective, network.comm, *outputs)
        above.forward()
        value = float(np.imag(above.loss(problem.Y))) / COMPLEX_STEP
        da = subject.network.layers[n].dz[0] @ subject.theta.W[n].T
        return Check(f"da{n}", (unit,), float(da[unit]), value)

    L = len(subject.network.layers)
    # Without hidden layers the units are the classes, and all are checked.
    found = [check("b", L, (k,)) for k in range(len(gradient.b[-1]))]
    largest = int(np.abs(gradient.b[-1]).argmax())
    for n, unit in (*units, (L, largest)):
        if n < L:
            found += [check_activation(n, unit), check("b", n, (unit,))]
        sizes = np.abs(gradient.W[n - 1][:, unit])
        if n <= len(connections):
            sizes *= connections[n - 1][:, unit]
        found.append(check("W", n, (int(sizes.argmax()), unit)))
    return found


def _step(subject: Subject, gradient: Parameters, rate: float, steps: int, connections: Sequence[Array]) -> Step:
    """Take ``steps`` steps from the parameters of ``subject``, which do not change."""
    problem = subject.problem
    first, moved = subject.network, problem.subject(subject.theta.vector, np.float64, scaled=True)
    slope = problem.architecture.parameters("float64", gradient.vector.copy())
    to_slope = ConnectedGradient(
        Gradient(moved.network, list(zip(slope.W, slope.b, strict=True))), slope.W, connections
    )
    fall = 0.0
    for taken in range(steps):
        moved.network.forward()
        moved.network.loss(problem.Y)
        moved.network.backward(problem.Y)
        to_slope.accumulate()
        if not taken:
            fall = rate * float(slope.vector @ slope.vector)
        moved.theta.vector -= rate * slope.vector
    moved.network.forward()
    after = float(moved.network.loss(problem.Y))
    before = float(first.loss(problem.Y))
    return Step(rate, steps, before, after, fall, first.p[0].copy(), moved.network.p[0].copy())


def _factors(named: dict[str, Array], architecture: Architecture) -> list[Factor]:
    found = []
    for n in range(1, len(architecture.sizes) - 1):
        slope, z = named[f"slope{n}"], named[f"z{n}"]
        flat = float(np.mean(saturated(architecture.activation.name, z)))
        found.append(Factor(n, float(slope.max()), float(np.median(slope)), flat))
    return found


def saturated(activation: str, z: Array) -> NDArray[np.bool_]:
    """Return where units with weighted inputs ``z`` are saturated, as defined by ``SATURATION``."""
    if activation == "relu":
        return z <= 0
    flat: NDArray[np.bool_] = np.abs(z) > (SATURATED / 2 if activation == "tanh" else SATURATED)
    return flat


def _takes(objective: str, Y: Array) -> bool:
    """Return whether ``objective`` can have the targets ``Y`` (K,)."""
    if objective not in INDEPENDENT_OUTPUTS:  # several outputs, of which one is right
        return len(Y) > 1 and float(Y.sum()) == 1
    return objective == "linear_quadratic" or float(Y.max()) <= 1


def _deltas(logits: Array, Y: Array) -> dict[str, Array]:
    found = {}
    for name, objective in OBJECTIVES.items():
        if not _takes(name, Y):
            continue
        p, dz = np.empty_like(logits), np.empty_like(logits)
        objective.forward(logits, Y[np.newaxis], p)
        objective.backward(logits, p, Y[np.newaxis], dz, 1)
        found[name] = dz[0]
    return found


# The output layer alone, and one neuron ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OutputLayer:
    """The output layer for one example; all arrays (K,), ``jacobian`` (K, K). ``terms`` are the summands of C."""

    objective: str
    z: Array | None
    p: Array
    Y: Array
    loss: float
    terms: tuple[tuple[str, float], ...]
    dp: Array
    jacobian: Array
    dz: Array
    note: str | None

    @property
    def output_unit(self) -> str:
        """Return the output unit as a formula."""
        return OUTPUT_UNITS[self.objective].format(L="")

    @property
    def loss_formula(self) -> str:
        """Return C as a formula."""
        return LOSSES[self.objective]

    @property
    def delta_formula(self) -> str:
        """Return the derivative dz as a formula."""
        return DELTAS[self.objective]

    def document(self) -> dict[str, Any]:
        """Return plain values for JSON: an infinite number is None."""
        arrays = {"z": self.z, "p": self.p, "Y": self.Y, "dp": self.dp, "jacobian": self.jacobian, "dz": self.dz}
        return {
            "objective": self.objective,
            **{name: None if values is None else plain(values) for name, values in arrays.items()},
            "loss": plain(self.loss),
            "terms": {name: plain(value) for name, value in self.terms},
            "note": self.note,
        }


def output_layer_alone(objective: str, values: Sequence[float], Y: Array, *, logits: bool) -> OutputLayer:
    """Explain the output layer for K logits or outputs p, and targets ``Y`` (K,).

    For logits it is computed by the code that trains; for p by the formulas in p, from logits that give these outputs.
    If the p of a softmax do not sum to 1 there are no such logits: the result's note says so, and C, dC/dp, dp/dz and
    dz still follow the formulas. Raises ``UsageError`` for p that the output unit cannot have.
    """
    given, note = np.array(values), None
    if not logits:
        bounded = objective not in ("linear_quadratic", "linear_hinge")
        if bounded and not ((given > 0).all() and (given < 1).all()):
            raise UsageError(f"--p {', '.join(map(str, values))}: p of {objective} must be above 0 and below 1")
        if objective == "normalized_sigmoid":
            raise UsageError("--p: many logits have the same normalized sigmoids; give the logits with --z")
        total = float(given.sum())
        if objective == "softmax_cross_entropy" and abs(total - 1) > 1e-9:
            note = f"these p sum to {total:.6g}, but those of a softmax to 1; the values below follow the formulas in p"
    z = given
    if not logits and objective == "softmax_cross_entropy":
        z = np.log(given)
    elif not logits and objective.startswith("sigmoid"):
        z = np.log(given) - np.log1p(-given)
    row, p, dz = z[np.newaxis], np.empty((1, len(z))), np.empty((1, len(z)))
    rules = OBJECTIVES[objective]
    with np.errstate(all="ignore"):  # an overflow shows in the numbers
        loss = float(rules.forward(row, Y[np.newaxis], p))
        if note:
            p[0] = given
            loss = -float(Y @ np.log(given))
        rules.backward(row, p, Y[np.newaxis], dz, 1)
    dp, jacobian = output_layer(objective, z, p[0], Y)
    if note:
        jacobian = np.diag(given) - np.outer(given, given)
    terms = []
    if objective in ("softmax_cross_entropy", "normalized_sigmoid"):
        positive = Y[Y > 0]  # 0 ln 0 = 0
        entropy = -float(positive @ np.log(positive))
        terms = [("entropy of Y, the lowest possible C", entropy + 0.0), ("KL(Y || p) = C - entropy", loss - entropy)]
    shown = None if note else z
    return OutputLayer(objective, shown, p[0], Y, loss, tuple(terms), dp, jacobian, dz[0], note)


@dataclass(frozen=True, eq=False)
class Curve:
    """A learning curve of one neuron trained with ``objective``: p, loss and dz after 0, 1, 2 ... steps."""

    objective: str
    p: list[float]
    loss: list[float]
    dz: list[float]

    def document(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"objective": self.objective, "p": self.p, "loss": self.loss, "dz": self.dz}


def neuron(*, rate: float, steps: int, weight: float = 2.0, bias: float = 2.0) -> tuple[Curve, Curve]:
    """Train one sigmoid unit with input 1 to the target 0, by the quadratic loss and by cross-entropy.

    Nielsen 2015, "Neural Networks and Deep Learning", chapter 3, "The cross-entropy cost function".
    """
    pixels, Y = np.array([255.0]), np.zeros(1)

    def curve(objective: str) -> Curve:
        architecture = Architecture.named((1, 1), "sigmoid", objective)
        subject = _subject(architecture, np.array([weight, bias]), pixels, Y)
        found = Curve(objective, [], [], [])
        for _ in range(steps + 1):
            gradient = subject.gradient()
            found.p.append(float(subject.network.p[0, 0]))
            found.loss.append(float(subject.network.loss(Y[np.newaxis])))
            found.dz.append(float(gradient.b[0][0]))
            subject.theta.vector -= rate * gradient.vector
        return found

    return curve("sigmoid_quadratic"), curve("sigmoid_cross_entropy")
