"""``explain``: its numbers against a second implementation in NumPy, and against complex steps."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from mlpcli.analysis import explain
from mlpcli.analysis.explain import DELTAS, neuron, output_layer_alone, targets_of
from mlpcli.config import INDEPENDENT_OUTPUTS, NetworkConfig
from mlpcli.errors import RunError, UsageError
from mlpcli.model.build import Architecture
from mlpcli.training.connections import connections

SOFTMAX = "softmax_cross_entropy"
HIDDEN = ((), (6,), (6, 5), (7, 6, 5))


def explained(hidden=(6,), activation="sigmoid", objective="softmax_cross_entropy", labels=(1,), scale=0.5, **options):
    """Return an explanation for a random image of 5 x 4 pixels, random parameters and 3 classes."""
    random = np.random.default_rng(3)
    architecture = Architecture.named((20, *hidden, 3), activation, objective)
    theta = random.normal(0, scale, len(architecture.parameters("float64").vector))
    image = random.integers(0, 256, (5, 4), dtype=np.uint8)
    Y = targets_of(labels, 3, objective)
    return explain.explain(architecture, theta, image, Y, **options), architecture, theta, image


@pytest.mark.parametrize(("hidden", "activation"), [*product(HIDDEN, ["sigmoid"]), ((6, 5), "tanh"), ((6, 5), "relu")])
def test_equations_equal_the_textbook(hidden, activation):
    found, architecture, theta, image = explained(hidden, activation)
    parameters = architecture.parameters("float64", theta)
    f: Any = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[
        activation
    ]
    x = image.ravel() / 255
    a = [x]
    for n, (W, b) in enumerate(zip(parameters.W, parameters.b, strict=True), start=1):
        z = a[-1] @ W + b
        np.testing.assert_allclose(found[f"z{n}"], z, rtol=1e-12)
        a.append(f(z))
    p = np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(found["p"], p, rtol=1e-12)
    assert found["loss"] == pytest.approx(-math.log(p[1]), rel=1e-12)
    np.testing.assert_allclose(found["dp"], [0, -1 / p[1], 0])
    np.testing.assert_allclose(found["jacobian"], np.diag(p) - np.outer(p, p), rtol=1e-12)
    L = len(parameters.W)
    dz = p - [0, 1, 0]
    for n in range(L, 0, -1):
        np.testing.assert_allclose(found[f"dz{n}"], dz, rtol=1e-9, atol=1e-16)
        np.testing.assert_allclose(found[f"dW{n}"], np.outer(a[n - 1], dz), rtol=1e-9, atol=1e-16)
        np.testing.assert_allclose(found[f"db{n}"], dz, rtol=1e-9, atol=1e-16)
        if n > 1:
            da = parameters.W[n - 1] @ dz
            np.testing.assert_allclose(found[f"da{n - 1}"], da, rtol=1e-9, atol=1e-16)
            np.testing.assert_allclose(found[f"da{n - 1}"] * found[f"slope{n - 1}"], found[f"dz{n - 1}"], atol=1e-15)
            dz = found[f"dz{n - 1}"]


@pytest.mark.parametrize("objective", DELTAS)
def test_product_of_jacobians_and_complex_steps_are_dz(objective):
    for hidden in HIDDEN[:3]:
        found, *_ = explained(hidden, objective=objective)
        np.testing.assert_allclose(found["dp"] @ found["jacobian"], found[f"dz{len(hidden) + 1}"], atol=1e-12)
        assert len(found.checks) > 3
        for check in found.checks:
            assert check.value == pytest.approx(check.complex_step, rel=1e-12, abs=1e-15), check
            assert check.value == found[check.name][check.index]


def test_equations_come_in_order_with_their_numbers():
    found, *_ = explained((6, 5), l2=0.01)
    names = [(equation.number, equation.name) for equation in found.equations]
    assert names == [
        (None, "x"),
        *[(1, "z1"), (2, "a1"), (1, "z2"), (2, "a2"), (1, "z3"), (None, "p"), (3, "loss")],
        *[(None, "dp"), (None, "jacobian"), (4, "dz3"), (5, "dW3"), (6, "db3")],
        *[(7, "da2"), (None, "slope2"), (8, "dz2"), (5, "dW2"), (6, "db2")],
        *[(7, "da1"), (None, "slope1"), (8, "dz1"), (5, "dW1"), (6, "db1")],
        *[(9, "penalty"), (10, "penalty_dW1"), (10, "penalty_dW2"), (10, "penalty_dW3")],
    ]


def test_penalty_is_separate_from_the_gradient():
    with_it, architecture, theta, _ = explained(l2=0.01)
    without, *_ = explained()
    parameters = architecture.parameters("float64", theta)
    np.testing.assert_array_equal(with_it["dW1"], without["dW1"])
    assert with_it["penalty"] == pytest.approx(0.01 * sum((W**2).sum() for W in parameters.W))
    np.testing.assert_allclose(with_it["penalty_dW2"], 0.02 * parameters.W[1])
    with pytest.raises(StopIteration):
        without["penalty"]


def test_a_locally_connected_network_takes_its_step_along_its_connections():
    network = NetworkConfig(hidden=(6, 5), receptive_fields=(1.5,))
    M, architecture = connections(network, (5, 4))[0], Architecture.named((20, 6, 5, 3), "sigmoid", SOFTMAX)
    theta = architecture.parameters("float64")
    theta.vector[:] = np.random.default_rng(3).normal(0, 0.5, len(theta.vector))
    theta.W[0][...] *= M
    image = np.random.default_rng(3).integers(0, 256, (5, 4), dtype=np.uint8)
    found = explain.explain(architecture, theta.vector, image, targets_of((1,), 3, SOFTMAX), connections=[M], rate=1e-4)
    assert [e.name for e in found.equations if e.number == 14] == ["connected_dW1"]
    np.testing.assert_array_equal(found["connected_dW1"], M * found["dW1"])
    assert found["dW1"][M == 0].any()
    tensors = ["connected_dW1", "dW2", "dW3", "db1", "db2", "db3"]
    assert found.step.promised == pytest.approx(1e-4 * sum((found[name] ** 2).sum() for name in tensors))
    assert found.step.loss_before - found.step.loss_after == pytest.approx(found.step.promised, rel=1e-3)


def test_small_step_reduces_the_loss_by_its_slope():
    found, architecture, theta, image = explained(rate=1e-4)
    square = sum((found[f"d{letter}{n}"] ** 2).sum() for letter in "Wb" for n in (1, 2))
    assert found.step.promised == pytest.approx(1e-4 * square)
    assert found.step.loss_before - found.step.loss_after == pytest.approx(found.step.promised, rel=1e-3)
    assert found.small_step.rate == 1e-5
    assert found.step.p_after[1] > found.step.p_before[1]
    # The gradient is of the given parameters, which do not change.
    again, *_ = explained(rate=1e-4)
    np.testing.assert_array_equal(found["dW1"], again["dW1"])
    # Ten steps are ten times one.
    ten, *_ = explained(rate=0.1, steps=10)
    for _ in range(10):
        one = explain.explain(architecture, theta, image, found.Y, rate=0.1)
        gradient = architecture.parameters("float64")
        for n, (dW, db) in enumerate(zip(gradient.W, gradient.b, strict=True), start=1):
            dW[...], db[...] = one[f"dW{n}"], one[f"db{n}"]
        theta = theta - 0.1 * gradient.vector
    assert ten.step.loss_after == pytest.approx(one.step.loss_after, rel=1e-12)
    np.testing.assert_allclose(ten.step.p_after, one.step.p_after, rtol=1e-12)


def test_saturated_layers_and_delta_of_every_objective():
    found, *_ = explained((6, 5), scale=40.0)
    assert [factor.layer for factor in found.factors] == [1, 2]
    for factor in found.factors:
        slope = found[f"slope{factor.layer}"]
        assert (factor.largest, factor.median) == (slope.max(), np.median(slope))
        assert factor.saturated == np.mean(np.abs(found[f"z{factor.layer}"]) > 4.6)
    assert found.factors[0].saturated > 0.9
    for activation, flat in (("tanh", lambda z: np.abs(z) > 2.3), ("relu", lambda z: z <= 0)):
        found, *_ = explained(scale=4.0, activation=activation)
        assert found.factors[0].saturated == np.mean(flat(found["z1"]))
    moderate, *_ = explained()
    z = moderate["z2"]
    s = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(moderate.deltas["sigmoid_quadratic"], (s - moderate.Y) * s * (1 - s), atol=1e-15)
    np.testing.assert_allclose(moderate.deltas["sigmoid_cross_entropy"], s - moderate.Y, atol=1e-15)
    np.testing.assert_array_equal(moderate.deltas["softmax_cross_entropy"], moderate["dz2"])
    assert set(moderate.deltas) == set(DELTAS)


def test_shown_units_are_chosen_or_given():
    found, *_ = explained((6, 5))
    for n in (1, 2):
        wanted = {int(found[f"a{n}"].argmax()), int(np.abs(found[f"z{n}"]).argmax())}
        wanted.add(int(np.abs(found[f"dz{n}"]).argmax()))
        assert {unit for layer, unit in found.units if layer == n} == wanted
    usual = tuple(unit for unit in found.units if unit[0] == 1)
    assert explained((6, 5), units=[(2, 4)])[0].units == ((2, 4), *usual)
    assert explained((6, 5), units=[(2, 4), (1, 0), (2, 4)])[0].units == ((2, 4), (1, 0))
    for layer, unit in ((1, 6), (2, 5), (3, 0), (0, 0), (1, -1)):
        with pytest.raises(UsageError, match=f"--unit {layer}:{unit}"):
            explained((6, 5), units=[(layer, unit)])
    with pytest.raises(UsageError, match="no hidden layer"):
        explained((), units=[(1, 0)])


def test_several_true_classes():
    for objective in INDEPENDENT_OUTPUTS:
        found, *_ = explained(objective=objective, labels=(0, 2))
        assert found.document("abc")["label"] == [0, 2]
        assert set(found.deltas) == set(INDEPENDENT_OUTPUTS)
        np.testing.assert_allclose(found["dp"] @ found["jacobian"], found["dz2"], atol=1e-12)
    with pytest.raises(UsageError, match="sigmoid_cross_entropy"):
        targets_of([0, 2], 3, "softmax_cross_entropy")
    for label in (3, -1):
        with pytest.raises(UsageError, match=f"--label {label}: the classes are 0 to 2"):
            targets_of([label], 3, "softmax_cross_entropy")


def test_document_has_every_array_in_full():
    found, *_ = explained(l2=1e-4)
    document = json.loads(json.dumps(found.document("abc"), allow_nan=False))
    assert document["network"] == {
        "sizes": [20, 6, 3],
        "activation": "sigmoid",
        "objective": "softmax_cross_entropy",
        "class_names": ["a", "b", "c"],
    }
    assert np.shape(document["image"]) == (5, 4)
    assert document["label"] == 1
    for equation in document["equations"]:
        assert list(np.shape(equation["values"])) == equation["shape"]
        np.testing.assert_array_equal(equation["values"], found[equation["name"]])
    assert set(document["step"]) >= {"rate", "loss_before", "loss_after", "promised", "p_before", "p_after"}


def test_nonfinite_numbers_are_null():
    # p underflows to 0 for the true class: dC/dp has no number, dz has.
    found, *_ = explained((), scale=800.0, labels=(1,))
    assert found["p"][1] == 0
    document = json.loads(json.dumps(found.document("abc"), allow_nan=False))
    values = {equation["name"]: equation["values"] for equation in document["equations"]}
    assert values["dp"] == [0.0, None, 0.0]
    assert values["dz1"][1] == -1.0
    with pytest.raises(RunError, match="not finite"):
        explained(scale=1e308)


# The output layer alone, and one neuron -----------------------------------------------------------

P = [0.01, 0.11, 0.31, 0.11, 0.21, 0.01, 0.01, 0.01, 0.21, 0.01]


def test_worked_example_of_the_derivation():
    layer = output_layer_alone("softmax_cross_entropy", P, np.eye(10)[2], logits=False)
    assert layer.loss == pytest.approx(1.171183, abs=5e-7)
    np.testing.assert_allclose(layer.dp, -3.225806 * np.eye(10)[2], atol=5e-7)
    np.testing.assert_allclose(layer.jacobian[2, [2, 1]], [0.2139, -0.0341])
    np.testing.assert_allclose(layer.dp @ layer.jacobian, np.array(P) - np.eye(10)[2], atol=1e-12)
    np.testing.assert_allclose(layer.dz, np.array(P) - np.eye(10)[2], atol=1e-12)
    assert layer.note is None


def test_outputs_that_do_not_sum_to_1_are_noted():
    layer = output_layer_alone("softmax_cross_entropy", [0.5, 0.2], np.eye(2)[0], logits=False)
    assert "sum to 0.7" in layer.note
    assert layer.loss == pytest.approx(math.log(2))
    np.testing.assert_allclose(layer.jacobian, [[0.25, -0.1], [-0.1, 0.16]])
    np.testing.assert_allclose(layer.dz, [-0.5, 0.2])


@pytest.mark.parametrize("objective", DELTAS)
def test_output_layer_of_logits(objective):
    z = [0.5, -1.0, 2.0]
    layer = output_layer_alone(objective, z, np.eye(3)[0], logits=True)
    np.testing.assert_allclose(layer.dp @ layer.jacobian, layer.dz, atol=1e-12)
    if objective != "normalized_sigmoid":  # whose p does not determine the logits
        again = output_layer_alone(objective, layer.p.tolist(), np.eye(3)[0], logits=False)
        np.testing.assert_allclose(again.dz, layer.dz, atol=1e-12)


def test_least_loss_of_soft_targets_is_their_entropy():
    Y = np.array([0.8, 0.1, 0.1])
    layer = output_layer_alone("softmax_cross_entropy", Y.tolist(), Y, logits=False)
    (_, entropy), (_, divergence) = layer.terms
    assert layer.loss == pytest.approx(entropy)
    assert entropy == pytest.approx(-(Y * np.log(Y)).sum())
    assert divergence == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(layer.dz, 0, atol=1e-12)
    worse = output_layer_alone("softmax_cross_entropy", [0.2, 0.4, 0.4], Y, logits=False)
    assert worse.terms[1][1] > 0


@pytest.mark.parametrize(("objective", "p"), [("softmax_cross_entropy", [0.0, 1.0]), ("sigmoid_quadratic", [1.5, 0.2])])
def test_p_outside_the_range_of_the_unit_is_refused(objective, p):
    with pytest.raises(UsageError, match="must be above 0 and below 1"):
        output_layer_alone(objective, p, np.eye(2)[0], logits=False)


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_integral_of_the_delta_is_cross_entropy(target):
    # The integral of (p - Y) / (p (1 - p)) from 1/2, by Simpson's rule, beside the loss as it is trained.
    p = np.linspace(0.5, 0.93, 2001)
    slope = (p - target) / (p * (1 - p))
    h = p[1] - p[0]
    integral = h / 3 * (slope[0] + 4 * slope[1:-1:2].sum() + 2 * slope[2:-1:2].sum() + slope[-1])

    def loss(value):
        return output_layer_alone("sigmoid_cross_entropy", [value], np.array([target]), logits=False).loss

    assert loss(0.93) - loss(0.5) == pytest.approx(integral, abs=1e-10)


def test_least_cross_entropy_is_where_p_is_the_target():
    p = np.linspace(0.01, 0.99, 99)
    for target in (0.2, 0.5, 0.9):
        losses = [
            output_layer_alone("sigmoid_cross_entropy", [value], np.array([target]), logits=False).loss for value in p
        ]
        assert p[int(np.argmin(losses))] == pytest.approx(target)


def test_one_neuron_stalls_with_the_quadratic_loss():
    quadratic, entropy = neuron(rate=0.15, steps=300)
    assert len(quadratic.p) == len(entropy.p) == 301
    assert quadratic.p[0] == entropy.p[0] == pytest.approx(1 / (1 + math.exp(-4)))
    assert quadratic.dz[0] == pytest.approx(quadratic.p[0] ** 2 * (1 - quadratic.p[0]))
    assert entropy.dz[0] == pytest.approx(entropy.p[0])
    # After a hundred steps the first has hardly moved, and the second has converged.
    assert quadratic.p[100] > 0.96
    assert entropy.p[100] < 0.05
    # By hand: two steps of w and b, both of which have the input 1.
    w = b = 2.0
    for n in range(2):
        p = 1 / (1 + math.exp(-w - b))
        assert quadratic.p[n] == pytest.approx(p)
        w, b = (value - 0.15 * p * p * (1 - p) for value in (w, b))
