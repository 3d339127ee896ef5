"""The flat vector, its views, and the distributions the first weights are drawn from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import NetworkConfig, rule_of
from mlpcli.model.parameters import SCHEMES, Parameters, initialize


def drawn(scheme, activation="sigmoid", sizes=(400, 300, 10), scale=1.0, dtype=np.float64, seed=0):
    theta = Parameters(sizes, dtype)
    initialize(theta, scheme, scale, activation, np.random.Generator(np.random.Philox(key=[seed, 3])))
    return theta


def test_views_share_the_vectors_memory_in_order():
    theta = Parameters((4, 3, 2), np.float32)
    assert theta.vector.shape == (4 * 3 + 3 + 3 * 2 + 2,)
    assert [(name, view.shape) for name, view in theta.tensors()] == [
        ("W1", (4, 3)),
        ("b1", (3,)),
        ("W2", (3, 2)),
        ("b2", (2,)),
    ]
    theta.vector[:] = np.arange(23)
    # The weights that lead to a hidden unit lie side by side, and so do those that lead on from the last.
    assert [view.tolist() for _, view in theta.tensors()] == [
        [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]],
        [12, 13, 14],
        [[15, 16], [17, 18], [19, 20]],
        [21, 22],
    ]
    theta.W[1][0, 1] = -1
    theta.b[0][2] = -2
    assert (theta.vector[16], theta.vector[14]) == (-1, -2)
    assert all(np.shares_memory(view, theta.vector) for _, view in theta.tensors())


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_by_rows_all_tensors_are_as_they_are_written(sizes: list[int]):
    theta, same = Parameters(sizes, np.float64), Parameters(sizes, np.float64)
    theta.vector[:] = np.arange(len(theta.vector))
    found = theta.by_rows()
    assert found.tolist() == [number for _, tensor in theta.tensors() for number in tensor.flat]
    same.fill_by_rows(found)
    np.testing.assert_array_equal(same.vector, theta.vector)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(1, 60))
def test_pieces_are_all_of_it_once_and_know_weights_from_biases(sizes: list[int], entries: int):
    theta = Parameters(sizes, np.float64)
    theta.vector[:] = 1.0
    pieces = theta.pieces(theta.stretches(entries))
    assert [len(piece.vector) for piece in pieces[:-1]] == [entries] * (len(pieces) - 1)
    for piece in pieces:
        piece.vector[:] += 1.0
        for W in piece.W:
            assert np.shares_memory(W, piece.vector)
            W *= 5.0
    assert all((W == 10).all() for W in theta.W)
    assert all((b == 2).all() for b in theta.b)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(1, 60), st.integers(1, 5))
def test_parts_have_hidden_units_and_are_all_of_it_together(sizes: list[int], entries: int, parts: int):
    theta = Parameters(sizes, np.float64)
    for number in range(parts):

        def part(count: int, number: int = number) -> slice:
            return slice(count * number // parts, count * (number + 1) // parts)

        before = theta.vector.copy()
        for own in theta.stretches(entries, part):
            assert 0 < own.stop - own.start <= entries
            theta.vector[own] += 1.0
        moved = Parameters(sizes, np.float64, theta.vector - before)
        for layer, W, b in zip(moved.layers(part), moved.W, moved.b, strict=True):
            last = b is moved.b[-1]
            assert layer.rows == (part(len(W)) if last else slice(0, len(W)))
            assert layer.columns == (slice(0, len(b)) if last else part(len(b)))
            assert layer.biases == part(len(b))
            assert (layer.W.sum(), layer.b.sum()) == (layer.W.size, layer.b.size) == (W.sum(), b.sum())
    assert (theta.vector == 1.0).all()


def test_a_given_vector_is_used_and_must_fit():
    vector = np.zeros(8)
    assert Parameters((3, 2), np.float64, vector).vector is vector
    with pytest.raises(ValueError, match=r"\(3, 2\) has 8 parameters, not \(9,\)"):
        Parameters((3, 2), np.float64, np.zeros(9))


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


def test_glorot_is_uniform_and_the_others_normal():
    limit = math.sqrt(6 / 700)
    assert limit * 0.999 < np.abs(drawn("glorot", "tanh").W[0]).max() < limit
    normal = drawn("lecun").W[0] * math.sqrt(400)
    assert (np.abs(normal) < 1).mean() == pytest.approx(0.6827, abs=0.01)


def test_the_output_layer_has_no_gain():
    theta = drawn("glorot", "sigmoid", (10, 400, 300))
    assert theta.W[1].var() == pytest.approx(2 / 700, rel=0.03)


def test_biases():
    for scheme in ("glorot", "he", "lecun"):
        assert all((b == 0).all() for b in drawn(scheme).b)
    assert drawn("nielsen").b[0].var() == pytest.approx(1.0, rel=0.3)
    np.testing.assert_array_equal(drawn("nielsen").W[0], drawn("lecun").W[0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scale_dtype_and_seed(scheme):
    theta = drawn(scheme)
    np.testing.assert_array_equal(drawn(scheme, scale=4.0).vector, 4.0 * theta.vector)
    np.testing.assert_array_equal(drawn(scheme, dtype=np.float32).vector, theta.vector.astype(np.float32))
    assert (drawn(scheme, seed=1).W[0] != theta.W[0]).all()
