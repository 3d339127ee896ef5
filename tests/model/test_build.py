"""Networks are bound to arrays that fit them, and the shards of all processes make up the whole."""

from __future__ import annotations

import numpy as np
import pytest

from mlpcli.model.build import Architecture, allocate_arrays, build_network
from mlpcli.model.input import Input
from mlpcli.model.network import Gradient
from mlpcli.parallel.comm import SERIAL
from tests.model.networks import complex_step_gradient, loss_and_gradient, problem
from tests.parallel.threads import ModelParallel, in_threads, results

Array = np.ndarray


def all_of(arrays) -> list[Array]:
    hidden = [*arrays.z, *arrays.h, *arrays.a, *arrays.slope, *(mask for mask in arrays.masks if mask is not None)]
    return [*hidden, *(term for terms in arrays.partial_da for term in terms), *arrays.partial_logits, arrays.p]


def test_parameters_have_the_sizes_of_the_architecture():
    architecture = Architecture.named([4, 3, 2], "tanh", "linear_hinge")
    assert architecture.sizes == (4, 3, 2)
    assert (architecture.activation.name, architecture.objective.name) == ("tanh", "linear_hinge")
    vector = np.arange(23.0)
    assert architecture.parameters("float64", vector).vector is vector
    assert architecture.parameters("float32").W[0].shape == (4, 3)


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("dropout", [False, True])
def test_first_rows_share_the_memory(dropout: bool, processes: int):
    arrays = allocate_arrays((4, 3, 9, 2), 8, "float32", dropout=dropout, processes=processes)
    first = arrays.first(3)
    assert len(all_of(first)) == len(all_of(arrays))
    for part, whole in zip(all_of(first), all_of(arrays), strict=True):
        assert np.shares_memory(part, whole)
        assert part.shape == (3, whole.shape[1])
    assert (first.masks[0] is None) == (not dropout)


def test_arrays_come_from_the_given_allocator():
    made = []

    def allocate(shape, dtype):
        made.append(np.zeros(shape, dtype))
        return made[-1]

    arrays = allocate_arrays((4, 3, 9, 2), 8, "float32", dropout=True, processes=2, allocate=allocate)
    for array in all_of(arrays):
        assert any(np.shares_memory(array, each) for each in made)
    assert len(made) == len({id(each) for each in made}) > 10


def test_smaller_batch_in_the_same_arrays_is_exact():
    case = problem((5, 4, 3), batch=6)
    _, expected, _ = loss_and_gradient(case)
    gradient, X = case.architecture.parameters("float64"), np.empty((10, 5))
    X[:6] = case.X
    arrays = allocate_arrays(case.architecture.sizes, 10, "float64").first(6)
    network = build_network(case.architecture, case.theta, Input(X[:6]), arrays, SERIAL)
    network.forward()
    network.loss(case.Y)
    network.backward(case.Y)
    Gradient(network, gradient.shard(SERIAL)).accumulate()
    np.testing.assert_allclose(gradient.vector, expected.vector, rtol=1e-14)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("hidden", [(), (5,), (2, 7), (9, 4, 6), (1, 1)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_several_processes_compute_what_one_computes(hidden: tuple[int, ...], size: int, dropout: float):
    """On an input with zero columns; there may be fewer units or examples than processes."""
    case = problem((8, *hidden, 3), batch=4, dropout=dropout if hidden else 0.0, seed=size)
    case.X[:, :2] = case.X[:, 7:] = 0
    loss, expected, whole = loss_and_gradient(case)
    arrays = allocate_arrays(case.architecture.sizes, 4, "float64", dropout=bool(case.masks), processes=size)
    for own, mask in zip(arrays.masks, case.masks, strict=False):
        own[...] = mask
    gradient = case.architecture.parameters("float64")
    gradient.vector[:] = 1.0

    def work(comm: ModelParallel) -> float:
        X, rows = Input(case.X, columns=[2, 7]), comm.shard(4)
        network = build_network(case.architecture, case.theta, X, arrays, comm)
        accumulator = Gradient(network, gradient.shard(comm))
        for _ in range(2):  # the second time, all arrays hold numbers of the first
            logits = network.forward()
            own_loss = network.loss(case.Y[rows])
            network.backward(case.Y[rows])
        accumulator.accumulate(2.0, 1.0)
        np.testing.assert_allclose(logits, whole.logits[rows], rtol=1e-12, atol=1e-13)
        return own_loss

    assert sum(results(in_threads(size, work, ModelParallel))) == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(gradient.vector, 1 + 2 * expected.vector, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(expected.vector, complex_step_gradient(case), rtol=1e-11, atol=1e-15)
