"""The gradient checker: sampling, exclusions, and what it does not count as a pass."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from mlpcli.gradcheck import gradients
from mlpcli.gradcheck.gradients import check
from mlpcli.gradcheck.output_layer import OUTPUT_LAYERS
from mlpcli.gradcheck.probe import Probe
from mlpcli.gradcheck.rows import TOLERANCE, relative_error
from mlpcli.gradcheck.subject import Problem
from mlpcli.model import objectives
from mlpcli.model.activations import ACTIVATIONS
from mlpcli.model.build import Architecture
from mlpcli.model.network import Gradient
from mlpcli.model.objectives import OBJECTIVES, LinearHinge
from mlpcli.model.parameters import initialize

B, D, K = 4, 9, 3


def generator(seed=0):
    return np.random.Generator(np.random.Philox(key=[seed, 7]))


def rows(hidden=(5,), activation="sigmoid", objective="softmax_cross_entropy", *, change=None, rng=None, **options):
    """Return the rows by name, for inputs of which the last two are 0 in every example."""
    rng = rng or generator()
    architecture = Architecture.named((D, *hidden, K), activation, objective)
    theta = architecture.parameters(np.float64)
    initialize(theta, "glorot", 1.0, activation, rng)
    X = rng.uniform(size=(B, D))
    X[:, -2:] = 0.0
    if change is not None:
        change(theta, X)
    problem = Problem(architecture, X, 1.0, np.eye(K)[[0, 2, 1, 1]])
    return {row.name: row for row in check(problem, theta.vector, rng, **{"l2": 0.1, **options})}


def test_relative_error():
    a = np.array([3.0, 4.0])
    assert relative_error(a, a) == 0
    assert relative_error(a, -a) == 1
    assert relative_error(a, 0 * a) == 1
    assert relative_error(0 * a, 0 * a) == 0
    assert relative_error(1.1 * a, a) == pytest.approx(0.1 / 2.1)
    assert relative_error(a, np.array([3.0, math.nan])) == math.inf
    assert relative_error(np.array([math.inf, 0]), a) == math.inf


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (5,), (5, 4), (5, 4, 6)])
def test_every_network_passes(hidden, activation, objective):
    found = rows(hidden, activation, objective)
    assert {row.verdict for row in found.values()} == {"passed"}
    layers = range(1, len(hidden) + 2)
    tensors = [f"{kind}{layer}" for layer in layers for kind in "Wb"]
    last = len(hidden) + 1
    output = (f"dz{last}", f"dp/dz{last}", "loss", *(f"h{layer}" for layer in range(1, last)))
    assert list(found) == [*tensors, "theta", *output, "penalty", *(f"penalty {name}" for name in tensors)]
    for name in tensors:
        by_jacobians = {"jacobian"} if name.endswith(str(last)) else set()
        assert found[name].errors.keys() == {"complex", "central", "direction"} | by_jacobians
    assert all(error <= 1e-14 for row in found.values() for how, error in row.errors.items() if how != "central")


def test_every_objective_has_its_jacobians():
    assert OUTPUT_LAYERS.keys() == OBJECTIVES.keys()


def test_large_tensors_are_sampled_and_biases_whole():
    found = rows((7,), entries=6)
    assert found["W1"].shape == (D, 7)
    # Six that are nonzero, and ten of the 14 whose inputs are 0.
    assert found["W1"].checked == 6 + gradients.ZEROS
    assert found["W2"].checked == 6
    assert found["b1"].checked == 7
    assert found["b2"].checked == K
    every = rows((7,), entries=None)
    assert all(row.checked == math.prod(row.shape) for row in every.values() if row.name != "theta")
    assert rows((7,), entries=63)["W1"].checked == 63


def test_sampled_entries_are_mostly_nonzero(monkeypatch):
    seen = []
    step = Probe.complex_step

    def spy(probe, index):
        seen.append(index)
        return step(probe, index)

    monkeypatch.setattr(Probe, "complex_step", spy)
    found = rows((7,), entries=20)
    drawn = np.array(seen[found["dz2"].checked :][: found["W1"].checked])
    assert len(drawn) == 30
    assert (drawn % D < D - 2).sum() == 20


def test_samples_depend_only_on_the_generator():
    assert rows((7,), entries=6) == rows((7,), entries=6)


def test_gradients_that_are_all_zero_are_not_exercised():
    def dark(theta, X):
        X[:] = 0.0

    found = rows(change=dark)
    assert found["W1"].verdict == "not exercised"
    assert found["W1"].errors == {"complex": 0, "central": 0, "direction": 0}
    assert found["b1"].verdict == found["W2"].verdict == "passed"


def test_zero_weights_do_not_exercise_the_penalty():
    def zero(theta, X):
        theta.vector[:] = 0.0

    found = rows(change=zero)
    assert found["penalty W1"].verdict == "not exercised"
    assert found["penalty b1"].verdict == "passed"


def test_dead_units_do_not_exercise_layers_below():
    def dead(theta, X):
        theta.b[0][:] = -100.0

    found = rows(activation="relu", change=dead)
    assert found["W1"].verdict == found["b1"].verdict == found["W2"].verdict == "not exercised"
    assert found["b2"].verdict == "passed"


def at_a_distance(distance):
    """Put unit 2 of the hidden layer that far from its kink, for the first example."""

    def change(theta, X):
        theta.b[0][:] = 0.5
        theta.b[0][2] = distance - X[0] @ theta.W[0][:, 2]

    return change


def test_differences_across_a_kink_are_skipped_by_name():
    found = rows(activation="relu", change=at_a_distance(1e-6))
    assert "b1[2]" in found["b1"].kinks
    assert set(found["W1"].kinks) <= {f"W1[{i}, 2]" for i in range(D)}
    assert len(found["W1"].kinks) == D - 2
    assert found["W2"].kinks == ()
    assert {row.verdict for row in found.values()} == {"passed"}


def test_kink_within_the_longer_step_is_avoided():
    found = rows(activation="relu", change=at_a_distance(1e-4))
    assert all(row.kinks == () and row.verdict == "passed" for row in found.values())
    assert found["b1"].errors["central"] < 1e-7


def test_tensor_at_kinks_has_no_central_differences():
    def change(theta, X):
        X[:] = 0.5
        theta.b[0][:] = 1e-7 - X[0] @ theta.W[0]

    found = rows(activation="relu", change=change)
    assert found["b1"].kinks == tuple(f"b1[{j}]" for j in range(5))
    assert set(found["b1"].errors) == {"complex", "direction"}
    assert found["b1"].verdict == "passed"


def test_hinge_kinks_are_found():
    def change(theta, X):
        theta.W[0][:] = 0.0
        theta.b[0][:] = 0.0, 1.0 + 1e-7, -5.0  # for label 0 the margin of class 1 is 2, of label 1 that of class 0 is 0

    found = rows((), objective="linear_hinge", change=change)
    assert {"b1[0]", "b1[1]"} <= set(found["b1"].kinks)
    assert "b1[2]" not in found["b1"].kinks
    assert found["b1"].verdict == "passed"


def test_unsampled_wrong_entry_is_found_by_bisection(monkeypatch):
    init, accumulate = Gradient.__init__, Gradient.accumulate

    def remember(self, network, targets):
        init(self, network, targets)
        self.targets = targets

    def corrupted(self, alpha=1.0, beta=0.0):
        accumulate(self, alpha, beta)
        self.targets[0][0][3, 4] *= 1.0001

    monkeypatch.setattr(Gradient, "__init__", remember)
    monkeypatch.setattr(Gradient, "accumulate", corrupted)
    for seed in range(5):
        found = rows((40,), entries=1, rng=generator(seed))
        assert found["W1"].verdict == "failed"
        assert found["W1"].worst.startswith("W1[3, 4]: ")
        assert found["W1"].errors["complex"] > 1e-12
        assert found["theta"].verdict == "failed"
        assert {row.name for row in found.values() if row.verdict == "failed"} == {"W1", "theta"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_jacobians_are_compared_at_moderate_logits(objective):
    def change(theta, X):
        theta.W[-1][:] *= 1000.0

    found = rows(objective=objective, change=change)
    assert found["dz2"].verdict == found["dp/dz2"].verdict == "passed"
    assert all(found[name].errors["jacobian"] < 1e-14 for name in ("W2", "b2", "dz2", "dp/dz2"))


def test_tolerances_are_by_method():
    found = rows(tolerance={**TOLERANCE, "jacobian": -1.0})  # below an error of exactly 0 too
    assert {row.name for row in found.values() if row.verdict == "failed"} == {
        *("W2", "b2", "dz2", "dp/dz2", "loss", "h1", "penalty")
    }


def test_numbers_that_are_not_finite_fail():
    def change(theta, X):
        theta.b[1][0] = math.nan

    found = rows(change=change)
    assert found["W1"].verdict == found["theta"].verdict == found["dz2"].verdict == "failed"
    assert found["W1"].errors["complex"] == math.inf


@pytest.mark.parametrize("name", OUTPUT_LAYERS)
def test_explicit_jacobians_equal_the_textbook(name):
    """Entry by entry, by the formulas of docs/derivation.md, at p of its worked example if possible."""
    unit, loss = OUTPUT_LAYERS[name]
    z, y = np.array([0.3, -1.2, 2.0]), np.array([0.0, 1.0, 0.0])
    p, dp_dz = unit(z)
    s = 1 / (1 + np.exp(-z))
    for i in range(3):
        for j in range(3):
            same = float(i == j)
            expected = {
                "softmax_cross_entropy": p[i] * (same - p[j]),
                "sigmoid_cross_entropy": same * p[i] * (1 - p[i]),
                "sigmoid_quadratic": same * p[i] * (1 - p[i]),
                "linear_quadratic": same,
                "linear_hinge": same,
                "normalized_sigmoid": s[j] * (1 - s[j]) * (same - p[i]) / s.sum(),
            }[name]
            assert dp_dz[i, j] == pytest.approx(expected, abs=1e-16)
    value, dC_dp = loss(p, y)
    dz, C = by_objective(name, z, y)
    assert dC_dp @ dp_dz == pytest.approx(dz, abs=1e-15)
    assert value == pytest.approx(C, abs=1e-15)


def by_objective(name, z, y):
    p, dz = np.empty((1, 3)), np.empty((1, 3))
    C = OBJECTIVES[name].forward(z[None], y[None], p)
    OBJECTIVES[name].backward(z[None], p, y[None], dz, 1)
    return dz[0], C


def test_derivatives_below_1e_30_count_as_zero():
    def dead(theta, X):
        theta.b[0][:] = -100.0
        theta.W[0][:] = 0.0

    found = rows(change=dead)
    assert found["W1"].verdict == found["b1"].verdict == "not exercised"
    assert found["b2"].verdict == "passed"


def test_small_gradients_allow_for_rounding_of_the_loss():
    def faint(theta, X):
        for W in theta.W[1:]:
            W[:] *= 0.05

    found = rows((4, 4, 4, 4), change=faint)
    assert {row.verdict for row in found.values()} == {"passed"}
    assert found["W1"].allowed["central"] > TOLERANCE["central"] == found["b5"].allowed["central"]
    assert found["W1"].allowed["complex"] == TOLERANCE["complex"]


def test_saturated_units_allow_for_lost_digits():
    def saturated(theta, X):
        theta.b[0][:] = 30.0  # 1 - h is 1e-13: three digits are left of it

    found = rows(change=saturated)
    assert found["W1"].verdict == found["b1"].verdict == "passed"
    assert TOLERANCE["complex"] < found["b1"].errors["complex"] < found["b1"].allowed["complex"]
    assert found["W2"].allowed["complex"] == TOLERANCE["complex"]


def test_saturated_outputs_allow_for_lost_digits():
    def saturated(theta, X):
        theta.b[-1][:] = 30.0  # 1 - p is 1e-13

    found = rows(objective="sigmoid_quadratic", change=saturated)
    assert {row.verdict for row in found.values()} == {"passed"}
    for name in ("W1", "b1", "W2", "b2", "theta"):
        method = "direction" if name == "theta" else "complex"
        assert TOLERANCE[method] < found[name].errors[method] < found[name].allowed[method]


def test_sample_below_saturated_units_allows_for_the_digits_lost_in_the_tensor():
    def saturated(theta, X):
        theta.b[0][1:] = 34.0  # 1 - h is 1e-15; one unit of five is not saturated

    found = [rows(change=saturated, entries=3, rng=np.random.default_rng(seed)) for seed in range(10)]
    assert {each["b1"].verdict for each in found} == {"passed"}
    verdicts = [each["W1"].verdict for each in found]
    assert "failed" not in verdicts and verdicts.count("passed") >= 5  # else all of the sample is below saturated units
    assert max(each["W1"].allowed.get("complex", 1.0) for each in found) > TOLERANCE["complex"]


def test_units_at_the_kink_over_black_pixels_are_exercised():
    def dark(theta, X):
        X[:, :-3] = 0.0
        theta.W[0][-3:, 1:] = 0.0  # z is 0 in every unit but the first

    found = rows(activation="relu", change=dark)
    assert found["b1"].verdict == found["W1"].verdict == "passed"
    assert found["W1"].allowed["complex"] == TOLERANCE["complex"]


@pytest.mark.parametrize("slope", [0.0, 1e-20])
def test_slopes_that_are_rounded_to_0_are_no_reason_for_a_wrong_slope(slope: float, monkeypatch: pytest.MonkeyPatch):
    def saturated(theta, X):
        theta.b[0][:] = 40.0  # 1 - h is 4e-18, and h is rounded to 1

    assert rows(change=saturated)["W1"].verdict == "not exercised"
    sigmoid = type(ACTIVATIONS["sigmoid"])
    derivative = sigmoid.derivative
    monkeypatch.setattr(
        sigmoid, "derivative", lambda self, h, out: np.multiply(derivative(self, h, out), slope, out=out)
    )
    assert rows()["W1"].verdict == "failed"


def test_wrong_values_with_right_derivatives_are_caught(monkeypatch):
    relu, hinge = type(ACTIVATIONS["relu"]), LinearHinge
    monkeypatch.setattr(relu, "forward", lambda self, z, h: np.multiply(z, z.real > 0.3, out=h))
    margins = hinge._margins
    monkeypatch.setattr(hinge, "_margins", lambda self, z, Y: margins(self, z, Y) + 0.01)
    found = rows((6,), "relu", "linear_hinge")
    assert found["h1"].verdict == found["loss"].verdict == "failed"


@pytest.mark.parametrize(
    ("objective", "shift"),
    [
        ("softmax_cross_entropy", lambda z: np.zeros(len(z))),
        *product(["softmax_cross_entropy", "normalized_sigmoid"], [lambda z: z.min(axis=1), lambda z: z[:, 0]]),
    ],
)
def test_softmax_of_many_rows_shifted_wrongly_is_caught(objective, shift, monkeypatch):
    right = objectives.row_max
    monkeypatch.setattr(objectives, "row_max", lambda z: right(z) if len(z) < 64 else shift(z.real)[:, np.newaxis])
    assert rows(objective=objective)["loss"].verdict == "failed"


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("classes", [1, 2, 10])
def test_logits_far_apart_pass(objective, classes):
    architecture = Architecture.named((D, classes), "sigmoid", objective)
    theta = architecture.parameters(np.float64)
    initialize(theta, "glorot", 1.0, "sigmoid", generator())
    problem = Problem(architecture, generator().uniform(size=(B, D)), 1.0, np.eye(classes)[np.arange(B) % classes])
    found = {row.name: row for row in check(problem, theta.vector, generator(), l2=0.1)}
    assert found["loss"].verdict == "passed"
