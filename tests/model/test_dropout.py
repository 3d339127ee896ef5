"""Dropout: masks that keep the mean, and gradients that are right given the masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.model import gradcheck
from mlpcli.model.dropout import draw_mask, draw_masks
from mlpcli.model.network import Network


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@given(st.floats(1e-5, 0.95), st.integers(1, 9), st.integers(1, 9))
def test_a_mask_is_0_or_one_value_above_1(rate, B, H):
    mask = np.full((B, H), np.nan, np.float32)
    draw_mask(rate, mask, generator())
    assert set(np.unique(mask)) <= {0.0, np.float32(65536 / (65536 - round(65536 * rate)))}


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_the_mean_is_kept(rate):
    mask = np.empty((1000, 999))
    draw_mask(rate, mask, generator())
    assert (mask == 0).mean() == pytest.approx(rate, abs=0.003)
    assert mask.mean() == pytest.approx(1, rel=0.01)
    assert mask.max() == pytest.approx(1 / (1 - rate), rel=2e-4)


def test_masks_are_drawn_anew_each_time_and_differ_by_layer():
    masks = [np.empty((50, 40)), None, np.empty((50, 40))]
    rng = generator()
    draw_masks([0.5, 0.0, 0.5], masks, rng)
    first = masks[0].copy()
    assert not np.array_equal(first, masks[2])
    draw_masks([0.5, 0.0, 0.5], masks, rng)
    assert not np.array_equal(first, masks[0])


def test_worked_by_hand():
    # One input, two linear-ish units: with the second unit left out the network is the first unit's alone, doubled.
    network = Network((1, 2, 1), "relu", "linear_quadratic")
    theta = network.parameters(np.float64, np.array([1.0, 5.0, 0.0, 0.0, 3.0, 7.0, 0.0]))
    t = network.buffers(1, np.float64, [0.0, 0.5])
    assert t.masks[0] is None
    t.masks[1][:] = [[2.0, 0.0]]
    X, Y = np.array([[4.0]]), np.array([[0.0]])
    assert network.forward(theta, X, t) == 4 * 2 * 3
    assert network.loss(Y, t) == 24**2 / 2
    gradient = network.parameters(np.float64)
    network.backward(theta, X, Y, t, gradient)
    # dz2 = 24; dW2 = (2 * 4, 0) 24; da1 = (3, 7) 24 * (2, 0); dW1 = 4 da1.
    assert gradient.W[1].ravel() == pytest.approx([192, 0])
    assert gradient.W[0].ravel() == pytest.approx([576, 0])
    assert gradient.b[0] == pytest.approx([144, 0])


def test_units_left_out_are_not_there():
    network = Network((5, 6, 4, 3), "sigmoid", "softmax_cross_entropy")
    rng = np.random.default_rng(3)
    theta = network.parameters(np.float64, rng.normal(size=len(network.parameters(np.float64).vector)))
    t = network.buffers(1, np.float64, [0.5, 0.5, 0.5])
    draw_masks([0.5] * 3, t.masks, generator(4))
    X = rng.uniform(size=(1, 5))
    z = network.forward(theta, X, t).copy()
    a = X
    for W, b, mask in zip(theta.W, theta.b, t.masks, strict=True):
        kept = np.flatnonzero(mask[0])
        assert 0 < len(kept) < mask.shape[1]
        logits = 2 * a[:, kept] @ W[kept] + b
        a = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(z, logits, rtol=1e-12)


@pytest.mark.parametrize("rates", [[0.3, 0.5, 0.5], [0.0, 0.5, 0.5], [0.3, 0.0, 0.0]])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_the_gradients_are_right_given_the_masks(activation, rates):
    network = Network((6, 7, 5, 3), activation, "softmax_cross_entropy")
    rng = np.random.default_rng(1)
    theta = network.parameters(np.float64, rng.normal(size=len(network.parameters(np.float64).vector)))
    X, Y = rng.uniform(size=(9, 6)), np.eye(3)[rng.integers(3, size=9)]
    rows = list(gradcheck.check(network, theta, X, Y, generator(), l2=0.1, rates=rates, entries=None))
    assert [row.verdict for row in rows] == ["passed"] * len(rows)


@pytest.mark.parametrize("corrupted", [0, 1, 2])
def test_a_mask_forgotten_on_the_way_back_is_caught(corrupted, monkeypatch):
    network = Network((6, 7, 5, 3), "sigmoid", "softmax_cross_entropy")
    right = network.backward

    def forgetful(theta, X, Y, t, gradient, unit):
        kept, t.masks[corrupted] = t.masks[corrupted], None
        right(theta, X, Y, t, gradient, unit)
        t.masks[corrupted] = kept

    monkeypatch.setattr(network, "backward", forgetful)
    rng = np.random.default_rng(1)
    theta = network.parameters(np.float64, rng.normal(size=len(network.parameters(np.float64).vector)))
    X, Y = rng.uniform(size=(9, 6)), np.eye(3)[rng.integers(3, size=9)]
    rows = gradcheck.check(network, theta, X, Y, generator(), l2=0.1, rates=[0.5] * 3)
    failed = {row.name for row in rows if row.verdict == "failed"}
    assert f"W{corrupted + 1}" in failed
    assert f"W{corrupted + 2}" not in failed


def test_buffers_cut_to_fewer_examples_have_their_masks_cut():
    t = Network((4, 3, 2), "sigmoid", "softmax_cross_entropy").buffers(8, np.float32, [0.5, 0.0])
    cut = t.rows(slice(0, 3))
    assert cut.masks[0].shape == cut.kept[0].shape == (3, 4)
    assert cut.masks[1] is None
    assert np.shares_memory(cut.masks[0], t.masks[0])
