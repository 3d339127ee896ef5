"""Images are moved along their own gradient, by the same distance each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.model.build import Architecture, allocate_arrays, build_network
from mlpcli.model.input import Input
from mlpcli.parallel.comm import SERIAL
from mlpcli.training.adversary import Adversary
from tests.model.networks import Problem, problem
from tests.parallel.threads import ModelParallel, in_threads, results

Array = np.ndarray


def moved(case: Problem, epsilon: float, scale: float = 1.0, dtype: str = "float64") -> tuple[Array, Array]:
    """Return the inputs of ``case`` after they are moved, from 0 to 1, and the loss of each row before."""
    theta = case.architecture.parameters(dtype, case.theta.vector.astype(dtype))
    arrays = allocate_arrays(theta.sizes, len(case.X), dtype, input_gradient=True)
    X = Input((case.X / scale).astype(dtype), scale)
    network = build_network(case.architecture, theta, X, arrays, SERIAL, input_gradient=True)
    Adversary(network, X, slice(None), epsilon).perturb(case.Y.astype(dtype))
    return X.array * scale, losses(case, case.X)


def losses(case: Problem, X: Array) -> Array:
    found = []
    for x, Y in zip(X, case.Y, strict=True):
        arrays = allocate_arrays(case.architecture.sizes, 1, "float64")
        network = build_network(case.architecture, case.theta, Input(x[np.newaxis].copy()), arrays, SERIAL)
        network.forward()
        found.append(network.loss(Y[np.newaxis]))
    return np.array(found)


def test_image_moves_away_from_its_label():
    """With two classes, z = (x_1, -x_1): more of pixel 1 is more of class 0, and pixel 2 means nothing."""
    architecture = Architecture.named([2, 2], "sigmoid", "softmax_cross_entropy")
    theta = architecture.parameters("float64")
    theta.W[0][...] = [[1, -1], [0, 0]]
    X, Y = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    found, _ = moved(Problem(architecture, theta, X, Y), 0.25, 1 / 255)
    np.testing.assert_allclose(found, [[0.25, 0.5], [1.15, 0.1]], rtol=1e-14)


@given(st.integers(0, 99), st.sampled_from([(), (5,), (4, 6)]), st.sampled_from([1.0, 1 / 255]))
def test_every_loss_rises_by_a_step_of_the_given_length(seed: int, hidden: tuple[int, ...], scale: float):
    case = problem((7, *hidden, 3), seed=seed)
    found, before = moved(case, 1e-4, scale)
    np.testing.assert_allclose(np.linalg.norm(found - case.X, axis=1), 1e-4, rtol=1e-8)
    rise = losses(case, found) - before
    assert (rise > 0).all()
    # In no other direction of this length does it rise more.
    others = np.random.default_rng(seed).normal(size=case.X.shape)
    others *= 1e-4 / np.linalg.norm(others, axis=1, keepdims=True)
    assert (losses(case, case.X + others) - before <= rise + 1e-9).all()


def test_gradient_of_zero_moves_nothing():
    case = problem((7, 5, 3), objective="linear_hinge")
    case.theta.W[-1][...], case.theta.b[-1][...] = 0, [9, 0, 0]  # class 0 leads by more than the margin
    case.Y[...] = [1, 0, 0]
    found, _ = moved(case, 2.0)
    assert np.array_equal(found, case.X)


@pytest.mark.parametrize("scale", [1e-3, 1e-12, 1e-25, 1e-42])
def test_tiny_gradient_moves_an_image_no_further(scale: float):
    """The squares of the last two are 0 in float32."""
    case = problem((7, 5, 3))
    case.theta.W[0][...] *= scale
    found, _ = moved(case, 2.0, dtype="float32")
    distances = np.linalg.norm(found - case.X.astype("float32"), axis=1)
    assert (distances <= 2.001).all()
    if scale >= 1e-12:
        np.testing.assert_allclose(distances, 2, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("hidden", [(), (5,), (2, 7), (1, 1)])
def test_several_processes_move_images_as_one_does(hidden: tuple[int, ...], size: int):
    """There may be fewer units or examples than processes."""
    case = problem((8, *hidden, 3), batch=4, seed=size)
    once, _ = moved(case, 0.5)
    expected, _ = moved(Problem(case.architecture, case.theta, once, case.Y), 0.5)
    arrays = allocate_arrays(case.architecture.sizes, 4, "float64", input_gradient=True, processes=size)
    X = Input(case.X)

    def work(comm: ModelParallel) -> None:
        rows = comm.shard(4)
        network = build_network(case.architecture, case.theta, X, arrays, comm, input_gradient=True)
        adversary = Adversary(network, X, rows, 0.5)
        for _ in range(2):  # the second time, all arrays hold numbers of the first
            adversary.perturb(case.Y[rows])

    results(in_threads(size, work, ModelParallel))
    np.testing.assert_allclose(case.X, expected, rtol=1e-12)


@pytest.mark.parametrize("objective", ["softmax_cross_entropy", "sigmoid_cross_entropy", "sigmoid_quadratic"])
def test_direction_keeps_its_digits_where_the_network_is_sure(objective: str):
    """1 - p is about 1e-9 for many labels: in float32, p - Y would be 0 there."""
    case = problem((7, 5, 3), objective=objective, batch=40)
    case.theta.W[-1][...] *= 20
    case.Y[...] = np.eye(3)[logits_of(case).argmax(axis=1)]
    exact, _ = moved(case, 1.0)
    found, _ = moved(case, 1.0, dtype="float32")
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_images_that_the_network_is_sure_of_are_moved():
    """p - Y is below 1e-45 in some rows, which float32 does not have."""
    case = problem((7, 5, 3), batch=40)
    case.theta.W[-1][...] *= 300
    logits = logits_of(case)
    case.Y[...] = np.eye(3)[logits.argmax(axis=1)]
    assert np.diff(np.sort(logits), axis=1)[:, 1].max() > 100
    found, _ = moved(case, 1.0, dtype="float32")
    distances = np.linalg.norm(found - case.X.astype("float32"), axis=1)
    np.testing.assert_allclose(distances, 1.0, rtol=1e-5)


def logits_of(case: Problem) -> Array:
    arrays = allocate_arrays(case.architecture.sizes, len(case.X), "float64")
    return build_network(case.architecture, case.theta, Input(case.X), arrays, SERIAL).forward()
