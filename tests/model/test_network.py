"""The network against readable loops and identities; small trainings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpcli.config import DataConfig
from mlpcli.datasets.load import load_dataset
from mlpcli.model.activations import ACTIVATIONS
from mlpcli.model.build import Architecture
from mlpcli.model.network import Gradient, WeightDecay
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.model.parameters import initialize
from mlpcli.parallel.comm import SERIAL
from tests.model.networks import Problem, bound, complex_step_gradient, loss_and_gradient, problem


def softmax_regression_by_loops(W, b, X, y, l2):
    """Return loss and gradients, one example, class and pixel at a time, with the penalty l2 sum(W^2)."""
    B, D, K = len(X), len(W), len(b)
    loss, dW, db = 0.0, np.zeros((D, K)), np.zeros(K)
    for i in range(B):
        z = [sum(X[i, d] * W[d, k] for d in range(D)) + b[k] for k in range(K)]
        total = sum(np.exp(value) for value in z)
        for k in range(K):
            p = np.exp(z[k]) / total
            if k == y[i]:
                loss -= np.log(p) / B
            for d in range(D):
                dW[d, k] += X[i, d] * (p - (k == y[i])) / B
            db[k] += (p - (k == y[i])) / B
    for d in range(D):
        for k in range(K):
            loss += l2 * W[d, k] ** 2
            dW[d, k] += 2 * l2 * W[d, k]
    return loss, dW, db


def test_softmax_regression_equals_the_loops():
    case = problem((4, 3))
    theta = case.theta
    loss, gradient, _ = loss_and_gradient(case)
    decay = WeightDecay(0.3, theta.weights, gradient.weights)
    decay.accumulate()
    expected, dW, db = softmax_regression_by_loops(theta.W[0], theta.b[0], case.X, case.Y.argmax(axis=1), 0.3)
    assert loss + decay.penalty() == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(gradient.W[0], dW, atol=1e-15)
    np.testing.assert_allclose(gradient.b[0], db, atol=1e-15)


def test_one_hidden_layer_equals_the_derivation():
    case = problem((5, 4, 3))
    (W1, W2), (b1, b2) = case.theta.W, case.theta.b
    h1 = 1 / (1 + np.exp(-(case.X @ W1 + b1)))
    z2 = h1 @ W2 + b2
    p = np.exp(z2) / np.exp(z2).sum(axis=1, keepdims=True)
    dz2 = (p - case.Y) / len(case.X)
    dz1 = (dz2 @ W2.T) * h1 * (1 - h1)
    loss, gradient, network = loss_and_gradient(case)
    assert loss == pytest.approx(-(case.Y * np.log(p)).sum() / len(case.X), rel=1e-14)
    for found, expected in (
        (network.logits, z2),
        (network.p, p),
        (network.dlogits, dz2),
        (network.layers[0].dz, dz1),
        (gradient.W[1], h1.T @ dz2),
        (gradient.b[1], dz2.sum(axis=0)),
        (gradient.W[0], case.X.T @ dz1),
        (gradient.b[0], dz1.sum(axis=0)),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-15)


@pytest.mark.parametrize("hidden", [(), (4,), (4, 6), (3, 4, 3)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_equals_the_complex_step(activation, objective, hidden, dropout):
    case = problem((5, *hidden, 3), activation, objective, dropout=dropout if hidden else 0.0)
    _, gradient, _ = loss_and_gradient(case)
    np.testing.assert_allclose(gradient.vector, complex_step_gradient(case), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_batch_loss_is_the_mean_of_its_examples(activation, objective):
    case = problem((5, 4, 6, 3), activation, objective)
    loss, gradient, _ = loss_and_gradient(case)
    alone = [
        loss_and_gradient(Problem(case.architecture, case.theta, case.X[i : i + 1], case.Y[i : i + 1]))
        for i in range(len(case.X))
    ]
    assert loss == pytest.approx(np.mean([each[0] for each in alone]), rel=1e-14)
    np.testing.assert_allclose(gradient.vector, np.mean([each[1].vector for each in alone], axis=0), atol=1e-15)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 7)])
def test_input_scale_multiplies_the_inputs(hidden):
    case = problem((6, *hidden, 3), batch=9)
    case.X[...] = np.random.default_rng(3).integers(256, size=case.X.shape)
    scaled = Problem(case.architecture, case.theta, case.X / 255, case.Y)
    loss, gradient, _ = loss_and_gradient(case, scale=1 / 255)
    expected, same, _ = loss_and_gradient(scaled)
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient.vector, same.vector, rtol=1e-11, atol=1e-15)


def test_backward_changes_no_parameter_input_or_target():
    case = problem((5, 4, 3))
    before = case.theta.vector.copy(), case.X.copy(), case.Y.copy()
    loss_and_gradient(case)
    for one, other in zip(before, (case.theta.vector, case.X, case.Y), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3, 5)])
def test_float32_throughout(hidden):
    case = problem((5, *hidden, 3))
    expected, exact, _ = loss_and_gradient(case)
    loss, gradient, network = loss_and_gradient(case, "float32")
    assert gradient.vector.dtype == network.p.dtype == network.dlogits.dtype == np.float32
    assert all(array.dtype == np.float32 for layer in network.hidden for array in (layer.z, layer.h, layer.dz))
    assert loss == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient.vector, exact.vector, atol=1e-6)


@pytest.mark.parametrize("hidden", [(), (4, 3)])
def test_gradient_is_accumulated_with_alpha_and_beta(hidden):
    case = problem((5, *hidden, 3))
    _, expected, network = loss_and_gradient(case)
    target = case.architecture.parameters("float64")
    gradient = Gradient(network, target.shard(SERIAL))
    for alpha, beta in ((-0.5, 1.0), (2.0, 0.9), (3.0, 0.0)):
        target.vector[:] = 7.0
        gradient.accumulate(alpha, beta)
        np.testing.assert_allclose(target.vector, beta * 7 + alpha * expected.vector, rtol=1e-13, atol=1e-15)


def test_penalty_of_weights_is_added_to_the_gradient():
    theta = problem((5, 4, 3)).theta
    gradient = problem((5, 4, 3)).architecture.parameters("float64")
    gradient.vector[:] = 1.0
    decay = WeightDecay(0.25, theta.weights, gradient.weights)
    assert decay.penalty() == pytest.approx(0.25 * sum((W**2).sum() for W in theta.W), rel=1e-14)
    decay.accumulate(-2.0)
    for W, dW, db in zip(theta.W, gradient.W, gradient.b, strict=True):
        np.testing.assert_allclose(dW, 1 - 2 * 0.5 * W, rtol=1e-14)
        assert (db == 1).all()


def test_dropout_by_hand():
    # One input, two linear-ish units: with the second dropped the network is the first unit's alone, doubled.
    architecture = Architecture.named((1, 2, 1), "relu", "linear_quadratic")
    theta = architecture.parameters("float64", np.array([1.0, 5.0, 3.0, 7.0, 0.0, 0.0, 0.0]))
    case = Problem(architecture, theta, np.array([[4.0]]), np.array([[0.0]]), [np.array([[2.0, 0.0]])])
    loss, gradient, network = loss_and_gradient(case)
    assert network.logits == 4 * 2 * 3
    assert loss == 24**2 / 2
    # dz2 = 24; dW2 = (2 * 4, 0) 24; dh1 = (3, 7) 24 * (2, 0); dW1 = 4 dh1.
    assert gradient.W[1].ravel().tolist() == [192, 0]
    assert gradient.W[0].ravel().tolist() == [576, 0]
    assert gradient.b[0].tolist() == [144, 0]


def test_softmax_of_two_classes_is_logistic_regression():
    """With theta = w1 - w0 loss and probability are equal, and half of the gradient goes to each class."""
    case = problem((4, 2), batch=9)
    logistic = Architecture.named((4, 1), "sigmoid", "sigmoid_cross_entropy")
    (w0, w1), (b0, b1) = case.theta.W[0].T, case.theta.b[0]
    difference = logistic.parameters("float64", np.append(w1 - w0, b1 - b0))
    loss, gradient, network = loss_and_gradient(case)
    found, g, other = loss_and_gradient(Problem(logistic, difference, case.X, case.Y[:, 1:]))
    assert found == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(other.p[:, 0], network.p[:, 1], rtol=1e-13)
    np.testing.assert_allclose(gradient.W[0][:, 1], g.W[0][:, 0], atol=1e-15)
    np.testing.assert_allclose(gradient.W[0][:, 0], -g.W[0][:, 0], atol=1e-15)


def descend(case, steps, rate, dtype="float64"):
    """Descend the gradient and return the losses and the last logits."""
    gradient = case.architecture.parameters(dtype)
    network, Y = bound(case, dtype), case.Y.astype(dtype)
    accumulator, losses = Gradient(network, gradient.shard(SERIAL)), []
    for _ in range(steps):
        network.forward()
        losses.append(float(network.loss(Y)))
        network.backward(Y)
        accumulator.accumulate()
        case.theta.vector -= rate * gradient.vector
    return losses, network.forward()


@settings(max_examples=25)
@given(data=st.data(), objective=st.sampled_from(sorted(OBJECTIVES)), hidden=st.sampled_from([(), (5,), (5, 4)]))
def test_permuted_classes_permute_the_result(data, objective, hidden):
    classes = data.draw(st.integers(2, 6))
    order = data.draw(st.permutations(range(classes)))
    case = problem((7, *hidden, classes), objective=objective, seed=data.draw(st.integers(0, 2**32)))
    theta, renumbered = case.theta, case.architecture.parameters("float64", case.theta.vector.copy())
    renumbered.W[-1][...], renumbered.b[-1][...] = theta.W[-1][:, order], theta.b[-1][order]
    descend(case, 20, 0.1)
    descend(Problem(case.architecture, renumbered, case.X, case.Y[:, order]), 20, 0.1)
    theta.W[-1][...], theta.b[-1][...] = theta.W[-1][:, order], theta.b[-1][order]
    np.testing.assert_allclose(renumbered.vector, theta.vector, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def digits():
    train = load_dataset(DataConfig(dataset="mnist-sample", test=False)).train
    return train.images[:300] / np.float32(255), np.eye(10, dtype=np.float32)[train.labels[:300]]


def test_three_hidden_layers_of_sigmoids_train(digits):
    losses = {}
    for scheme in ("glorot", "lecun"):
        architecture = Architecture.named((784, 40, 40, 40, 10), "sigmoid", "softmax_cross_entropy")
        theta = architecture.parameters(np.float32)
        initialize(theta, scheme, 1.0, "sigmoid", np.random.Generator(np.random.Philox(key=[0, 5])))
        losses[scheme], _ = descend(Problem(architecture, theta, *digits), 120, 0.5, "float32")
    assert losses["glorot"][0] > 2.2
    assert losses["glorot"][-1] < 1.0
    # Without the gain of 4 the signal fades from layer to layer, and the network does not train.
    assert losses["lecun"][-1] > 2.2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_digits(objective, digits):
    architecture = Architecture.named((784, 10), "sigmoid", objective)
    case = Problem(architecture, architecture.parameters(np.float32), *digits)
    losses, z = descend(case, 40, 0.01 if objective == "linear_quadratic" else 0.1, "float32")
    assert losses[-1] < 0.9 * losses[0]
    assert (z.argmax(axis=1) == case.Y.argmax(axis=1)).mean() > 0.6
