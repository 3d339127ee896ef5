"""The network against loops that a reader can check, the identities it has to obey, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpcli.config import DataConfig
from mlpcli.datasets.load import load_dataset
from mlpcli.model.activations import ACTIVATIONS
from mlpcli.model.network import Network
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.model.parameters import initialize


def generator(seed=0):
    return np.random.Generator(np.random.Philox(key=[seed, 5]))


def random_network(sizes, activation="sigmoid", objective="softmax_cross_entropy", batch=6, seed=0):
    rng = generator(seed)
    network = Network(sizes, activation, objective)
    theta = network.parameters(np.float64, rng.normal(0, 0.7, network.parameters(np.float64).vector.size))
    X, Y = rng.uniform(size=(batch, sizes[0])), np.eye(sizes[-1])[rng.integers(sizes[-1], size=batch)]
    return network, theta, X, Y


def loss_and_gradient(network, theta, X, Y):
    t, gradient = network.buffers(len(X), theta.vector.dtype), network.parameters(theta.vector.dtype)
    network.forward(theta, X, t)
    loss = network.loss(Y, t)
    network.backward(theta, X, Y, t, gradient)
    return loss, gradient, t


def softmax_regression_by_loops(W, b, X, y, l2):
    """Loss and gradients, an example, a class and a pixel at a time; the penalty l2 sum(W^2) is in them."""
    B, D, K = len(X), len(W), len(b)
    loss, dW, db = 0.0, np.zeros((D, K)), np.zeros(K)
    for i in range(B):
        z = [sum(X[i, d] * W[d, k] for d in range(D)) + b[k] for k in range(K)]
        largest = max(z)
        total = sum(np.exp(value - largest) for value in z)
        for k in range(K):
            p = np.exp(z[k] - largest) / total
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


def test_softmax_regression_is_the_loop_over_examples_and_classes():
    network, theta, X, Y = random_network((4, 3))
    loss, gradient, _ = loss_and_gradient(network, theta, X, Y)
    network.penalty_gradient(theta, 0.3, gradient).add()
    expected, dW, db = softmax_regression_by_loops(theta.W[0], theta.b[0], X, Y.argmax(axis=1), 0.3)
    assert loss + network.penalty(theta, 0.3) == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(gradient.W[0], dW, atol=1e-15)
    np.testing.assert_allclose(gradient.b[0], db, atol=1e-15)


def test_the_three_layer_network_is_the_derivation_written_out():
    network, theta, X, Y = random_network((5, 4, 3))
    (W1, W2), (b1, b2) = theta.W, theta.b
    a1 = 1 / (1 + np.exp(-(X @ W1 + b1)))
    z2 = a1 @ W2 + b2
    p = np.exp(z2) / np.exp(z2).sum(axis=1, keepdims=True)
    dz2 = (p - Y) / len(X)
    dz1 = (dz2 @ W2.T) * a1 * (1 - a1)
    loss, gradient, t = loss_and_gradient(network, theta, X, Y)
    assert loss == pytest.approx(-(Y * np.log(p)).sum() / len(X), rel=1e-14)
    for found, expected in (
        (t.p, p),
        (t.dz[1], dz2),
        (t.dz[0], dz1),
        (gradient.W[1], a1.T @ dz2),
        (gradient.b[1], dz2.sum(axis=0)),
        (gradient.W[0], X.T @ dz1),
        (gradient.b[0], dz1.sum(axis=0)),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-15)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_batch_is_the_mean_of_its_examples(activation, objective):
    network, theta, X, Y = random_network((5, 4, 6, 3), activation, objective)
    loss, gradient, _ = loss_and_gradient(network, theta, X, Y)
    alone = [loss_and_gradient(network, theta, X[i : i + 1], Y[i : i + 1]) for i in range(len(X))]
    assert loss == pytest.approx(np.mean([each[0] for each in alone]), rel=1e-14)
    np.testing.assert_allclose(gradient.vector, np.mean([each[1].vector for each in alone], axis=0), atol=1e-15)


def test_buffers_cut_to_fewer_examples_give_the_same():
    network, theta, X, Y = random_network((5, 4, 3))
    _, expected, _ = loss_and_gradient(network, theta, X, Y)
    large, gradient = network.buffers(10, np.float64), network.parameters(np.float64)
    cut = large.rows(slice(0, 6))
    network.forward(theta, X, cut)
    network.loss(Y, cut)
    network.backward(theta, X, Y, cut, gradient)
    np.testing.assert_allclose(gradient.vector, expected.vector, rtol=1e-14)
    assert np.shares_memory(cut.z[0], large.z[0])
    assert large.rows(slice(0, 10)) is large


@pytest.mark.parametrize("hidden", [(), (5,), (5, 7)])
def test_inputs_may_be_multiples_of_a_unit(hidden):
    network = Network((6, *hidden, 3), "sigmoid", "softmax_cross_entropy")
    rng = np.random.default_rng(3)
    theta = network.parameters(np.float64, rng.normal(size=len(network.parameters(np.float64).vector)))
    X, Y = rng.integers(256, size=(9, 6)).astype(float), np.eye(3)[rng.integers(3, size=9)]
    found = []
    for inputs, unit in ((X, 1 / 255), (X / 255, 1.0)):
        t, gradient = network.buffers(9, np.float64), network.parameters(np.float64)
        network.forward(theta, inputs, t, unit)
        loss = network.loss(Y, t)
        network.backward(theta, inputs, Y, t, gradient, unit)
        found.append([loss, *gradient.vector])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_backward_leaves_parameters_inputs_and_targets_alone():
    network, theta, X, Y = random_network((5, 4, 3))
    before = theta.vector.copy(), X.copy(), Y.copy()
    loss_and_gradient(network, theta, X, Y)
    for one, other in zip(before, (theta.vector, X, Y), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3, 5)])
def test_float32_throughout(hidden):
    network, theta, X, Y = random_network((5, *hidden, 3))
    expected, exact, _ = loss_and_gradient(network, theta, X, Y)
    single = network.parameters(np.float32, theta.vector.astype(np.float32))
    loss, gradient, t = loss_and_gradient(network, single, X.astype(np.float32), Y.astype(np.float32))
    assert all(array.dtype == np.float32 for array in (gradient.vector, t.p, *t.z, *t.a, *t.dz))
    assert loss == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient.vector, exact.vector, atol=1e-6)


def test_the_penalty_is_of_weights_alone_and_is_added():
    network, theta, _, _ = random_network((5, 4, 3))
    assert network.penalty(theta, 0.25) == pytest.approx(0.25 * sum((W**2).sum() for W in theta.W), rel=1e-14)
    gradient = network.parameters(np.float64)
    gradient.vector[:] = 1.0
    network.penalty_gradient(theta, 0.25, gradient).add()
    for W, b, dW, db in zip(theta.W, theta.b, gradient.W, gradient.b, strict=True):
        np.testing.assert_allclose(dW, 1 + 0.5 * W, rtol=1e-15)
        np.testing.assert_array_equal(db, np.ones_like(b))


@pytest.mark.parametrize("entries", [1, 2, 7, 20, 24, 38, 39, 1000])
def test_the_penalty_added_piece_by_piece_is_the_same_to_the_bit(entries: int):
    network, theta, _, _ = random_network((5, 4, 3))
    whole, pieced = network.parameters(np.float64), network.parameters(np.float64)
    network.penalty_gradient(theta, 0.3, whole).add()
    stretches = theta.stretches(entries)
    for piece in zip(theta.pieces(stretches), pieced.pieces(stretches), strict=True):
        network.penalty_gradient(piece[0], 0.3, piece[1]).add()
    assert whole.vector.any()
    np.testing.assert_array_equal(pieced.vector, whole.vector)


def test_logistic_regression_and_its_gradient():
    """-[y ln h + (1 - y) ln(1 - h)] with the gradient X^T (h - y) / m."""
    network, theta, X, _ = random_network((4, 1), objective="sigmoid_cross_entropy", batch=9)
    y = generator(1).integers(2, size=(9, 1)).astype(float)
    loss, gradient, _ = loss_and_gradient(network, theta, X, y)
    h = 1 / (1 + np.exp(-(X @ theta.W[0] + theta.b[0])))
    assert loss == pytest.approx(-(y * np.log(h) + (1 - y) * np.log(1 - h)).mean(), rel=1e-14)
    np.testing.assert_allclose(gradient.W[0], X.T @ (h - y) / 9, atol=1e-16)


def test_softmax_with_two_classes_is_logistic_regression_of_the_difference():
    """theta = w1 - w0: the same loss, the same probability; half of each step's gradient goes to either class."""
    softmax, theta, X, Y = random_network((4, 2), batch=9)
    logistic = Network((4, 1), "sigmoid", "sigmoid_cross_entropy")
    (w0, w1), (b0, b1) = theta.W[0].T, theta.b[0]
    difference = logistic.parameters(np.float64, np.append(w1 - w0, b1 - b0))
    loss, gradient, t = loss_and_gradient(softmax, theta, X, Y)
    found, g, s = loss_and_gradient(logistic, difference, X, Y[:, 1:])
    assert found == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(s.p[:, 0], t.p[:, 1], rtol=1e-13)
    np.testing.assert_allclose(gradient.W[0][:, 1], g.W[0][:, 0], atol=1e-15)
    np.testing.assert_allclose(gradient.W[0][:, 0], -g.W[0][:, 0], atol=1e-15)


def descend(network, theta, X, Y, steps, rate):
    losses = []
    for _ in range(steps):
        loss, gradient, _ = loss_and_gradient(network, theta, X, Y)
        theta.vector -= rate * gradient.vector
        losses.append(float(loss))
    return losses


@settings(max_examples=25)
@given(data=st.data(), objective=st.sampled_from(sorted(OBJECTIVES)), hidden=st.sampled_from([(), (5,), (5, 4)]))
def test_training_does_not_see_the_numbering_of_the_classes(data, objective, hidden):
    """Renumber the classes, and the last layer's columns alike: after 20 steps they are still renumbered alike."""
    classes = data.draw(st.integers(2, 6))
    order = data.draw(st.permutations(range(classes)))
    seed = data.draw(st.integers(0, 2**32))
    network, theta, X, Y = random_network((7, *hidden, classes), objective=objective, seed=seed)
    renumbered = network.parameters(np.float64, theta.vector.copy())
    renumbered.W[-1][...], renumbered.b[-1][...] = theta.W[-1][:, order], theta.b[-1][order]
    descend(network, theta, X, Y, 20, 0.1)
    descend(network, renumbered, X, Y[:, order], 20, 0.1)
    np.testing.assert_allclose(renumbered.W[-1], theta.W[-1][:, order], rtol=0, atol=1e-10)
    np.testing.assert_allclose(renumbered.b[-1], theta.b[-1][order], rtol=0, atol=1e-10)
    for W, other in zip(theta.W[:-1], renumbered.W[:-1], strict=True):
        np.testing.assert_allclose(W, other, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def digits():
    train = load_dataset(DataConfig(dataset="mnist-sample", test=False)).train
    return train.images[:300] / np.float32(255), np.eye(10, dtype=np.float32)[train.labels[:300]]


def test_three_hidden_layers_of_sigmoids_train(digits):
    X, Y = digits
    losses = {}
    for scheme in ("glorot", "lecun"):
        network = Network((784, 40, 40, 40, 10), "sigmoid", "softmax_cross_entropy")
        theta = network.parameters(np.float32)
        initialize(theta, scheme, 1.0, "sigmoid", generator())
        losses[scheme] = descend(network, theta, X, Y, 120, 0.5)
    assert losses["glorot"][0] > 2.2
    assert losses["glorot"][-1] < 1.0
    # Without the gain of 4 the signal fades on its way up: the network stays where it began.
    assert losses["lecun"][-1] > 2.2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_digits(objective, digits):
    X, Y = digits
    network = Network((784, 10), "sigmoid", objective)
    theta = network.parameters(np.float32)
    losses = descend(network, theta, X, Y, 40, 0.01 if objective == "linear_quadratic" else 0.1)
    z = network.forward(theta, X, network.buffers(len(X), np.float32))
    assert losses[-1] < 0.9 * losses[0]
    assert (z.argmax(axis=1) == Y.argmax(axis=1)).mean() > 0.6
