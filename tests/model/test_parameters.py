"""The flat vector, its views and shards, and the distributions of the initial weights."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import NetworkConfig, rule_of
from mlpcli.model.parameters import SCHEMES, Parameters, initialize
from mlpcli.parallel.comm import SERIAL
from tests.parallel.threads import thread_of

architectures = st.lists(st.integers(1, 6), min_size=2, max_size=4)


def numbered(sizes: list[int]) -> Parameters:
    theta = Parameters(sizes, np.float64)
    theta.vector[:] = np.arange(len(theta.vector))
    return theta


def drawn(scheme, activation="sigmoid", sizes=(400, 300, 10), scale=1.0, dtype=np.float64, seed=0):
    theta = Parameters(sizes, dtype)
    initialize(theta, scheme, scale, activation, np.random.Generator(np.random.Philox(key=[seed, 3])))
    return theta


def test_views_share_the_vectors_memory_in_order():
    theta = Parameters((4, 3, 2), np.float32, np.arange(23, dtype=np.float32))
    # All weights, then all biases. Weights into a hidden unit are contiguous, as are those out of the last layer.
    assert {name: view.tolist() for name, view in theta.tensors()} == {
        "W1": [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]],
        "b1": [18, 19, 20],
        "W2": [[12, 13], [14, 15], [16, 17]],
        "b2": [21, 22],
    }
    assert theta.weights.tolist() == list(range(18))
    theta.W[1][0, 1], theta.b[0][2] = -1, -2
    assert (theta.vector[13], theta.vector[20]) == (-1, -2)
    assert all(np.shares_memory(view, theta.vector) for _, view in (*theta.tensors(), ("", theta.weights)))
    assert not Parameters((4, 3, 2), np.float32).vector.any()


@given(architectures)
def test_c_order_is_tensor_by_tensor_row_by_row(sizes: list[int]):
    theta, same = numbered(sizes), Parameters(sizes, np.float64)
    found = theta.to_c_order()
    assert found.tolist() == [number for _, tensor in theta.tensors() for number in tensor.flat]
    same.from_c_order(found)
    np.testing.assert_array_equal(same.vector, theta.vector)


@given(architectures, st.integers(1, 60), st.integers(1, 8))
def test_chunks_cover_what_each_process_owns(sizes: list[int], chunk_size: int, processes: int):
    """All chunks together are the whole vector, once; those of a process are its shard."""
    theta = Parameters(sizes, np.float64)
    counts = np.zeros(len(theta.vector))
    for rank in range(processes):
        own = Parameters(sizes, np.float64)
        for chunk in own.chunks(thread_of(rank, processes), chunk_size):
            assert 0 < chunk.stop - chunk.start <= chunk_size
            own.vector[chunk] += 1
        counts += own.vector
        *others, (W, b) = own.shard(thread_of(rank, processes))
        assert all(view.all() for layer in others for view in layer)
        assert W.all() and b.all() == (rank == 0)
        assert own.vector.sum() == sum(view.size for layer in others for view in layer) + W.size + b.size * (rank == 0)
    assert (counts == 1).all()


def test_chunks_are_as_large_as_allowed():
    assert numbered([5, 4, 3, 2]).chunks(SERIAL, 20) == [slice(0, 20), slice(20, 40), slice(40, 47)]


@given(architectures, st.integers(1, 8))
def test_shards_have_hidden_units_in_order(sizes: list[int], processes: int):
    theta = numbered(sizes)
    shards = [theta.shard(thread_of(rank, processes)) for rank in range(processes)]
    for layer, (W, b) in enumerate(zip(theta.W, theta.b, strict=True)):
        last = layer == len(theta.W) - 1
        np.testing.assert_array_equal(np.concatenate([own[layer][0] for own in shards], axis=int(not last)), W)
        biases = [own[layer][1] for own in shards]
        if last:  # each rank adds one: rank 0 the bias, all others 0
            np.testing.assert_array_equal(np.sum(biases, axis=0), b)
            assert not np.any(biases[1:])
        else:
            np.testing.assert_array_equal(np.concatenate(biases), b)
        assert all(np.shares_memory(own[layer][0], theta.vector) for own in shards if own[layer][0].size)
    assert all(np.shares_memory(b, theta.vector) for b in (each[1] for each in shards[0]) if b.size)


def test_given_vector_is_used_if_it_fits():
    vector = np.zeros(8)
    assert Parameters((3, 2), np.float64, vector).vector is vector
    with pytest.raises(ValueError, match=r"\(3, 2\) has 8 parameters, not \(9,\)"):
        Parameters((3, 2), np.float64, np.zeros(9))


def test_unpickled_parameters_are_one_vector():
    sent = pickle.loads(pickle.dumps(Parameters((3, 2, 2), np.float32, np.arange(14, dtype=np.float32))))
    assert sent.vector.tolist() == list(range(14))
    sent.W[1][...] = 7
    assert sent.vector[6:10].tolist() == [7] * 4


def test_every_scheme_is_selectable():
    assert set(rule_of(NetworkConfig, "initialization").choices) == SCHEMES.keys()


# The variance of each scheme by its formula; the sample's own has a standard error of less than 1 %.
@pytest.mark.parametrize(
    ("scheme", "activation", "variance"),
    [
        ("glorot", "tanh", 2 / 700),
        ("glorot", "relu", 2 / 700),
        ("glorot", "sigmoid", 16 * 2 / 700),
        ("he", "relu", 2 / 400),
        ("lecun", "sigmoid", 1 / 400),
        ("nielsen", "sigmoid", 1 / 400),
    ],
)
def test_variance_of_the_weights(scheme, activation, variance):
    W = drawn(scheme, activation).W[0]
    assert W.var() == pytest.approx(variance, rel=0.03)
    assert abs(W.mean()) < 5 * math.sqrt(variance / W.size)


def test_glorot_is_uniform_others_are_normal():
    limit = math.sqrt(6 / 700)
    assert limit * 0.999 < np.abs(drawn("glorot", "tanh").W[0]).max() < limit
    normal = drawn("lecun").W[0] * math.sqrt(400)
    assert (np.abs(normal) < 1).mean() == pytest.approx(0.6827, abs=0.01)


def test_output_layer_has_no_gain():
    theta = drawn("glorot", "sigmoid", (10, 400, 300))
    assert theta.W[1].var() == pytest.approx(2 / 700, rel=0.03)


def test_biases_are_zero_except_nielsens():
    for scheme in ("glorot", "he", "lecun"):
        assert not any(b.any() for b in drawn(scheme).b)
    assert drawn("nielsen").b[0].var() == pytest.approx(1.0, rel=0.3)
    np.testing.assert_array_equal(drawn("nielsen").W[0], drawn("lecun").W[0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scale_dtype_and_seed(scheme):
    theta = drawn(scheme)
    np.testing.assert_array_equal(drawn(scheme, scale=4.0).vector, 4.0 * theta.vector)
    np.testing.assert_array_equal(drawn(scheme, dtype=np.float32).vector, theta.vector.astype(np.float32))
    assert (drawn(scheme, seed=1).W[0] != theta.W[0]).all()
