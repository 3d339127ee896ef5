"""Objectives: worked numbers, identities, extreme logits, and each delta against the complex step."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlpcli.config import NetworkConfig, rule_of
from mlpcli.model.objectives import OBJECTIVES

NAMES = list(OBJECTIVES)
SUM_TO_ONE = ("softmax_cross_entropy", "normalized_sigmoid")


def value_and_delta(name, z, Y):
    """Return the mean loss of a batch, its derivative, and the outputs."""
    p, dz = np.empty_like(z), np.empty_like(z)
    value = OBJECTIVES[name].forward(z, Y, p) / len(z)
    OBJECTIVES[name].backward(z, p, Y, dz, len(z))
    return value, dz, p


def one_hot(labels, classes, dtype=np.float64):
    return np.eye(classes, dtype=dtype)[labels]


@pytest.fixture
def rng():
    return np.random.Generator(np.random.Philox(key=[0, 0]))


def test_every_objective_is_selectable():
    assert rule_of(NetworkConfig, "objective").choices == tuple(OBJECTIVES)


@pytest.mark.parametrize("name", NAMES)
def test_delta_equals_the_complex_step(name, rng):
    z, Y = rng.normal(0, 2, (5, 4)), one_hot([0, 3, 1, 1, 2], 4)
    _, dz, _ = value_and_delta(name, z, Y)
    for index in np.ndindex(z.shape):
        w = z.astype(complex)
        w[index] += 1e-20j
        assert value_and_delta(name, w, Y)[0].imag / 1e-20 == pytest.approx(dz[index], abs=1e-15)


# A label with p_y = 0.87 costs -ln 0.87, not 0.87.
def test_cross_entropy_of_a_label_is_minus_log_p():
    z = np.log([[0.87, 0.1, 0.03]])
    value, _, p = value_and_delta("softmax_cross_entropy", z, one_hot([0], 3))
    assert p[0, 0] == pytest.approx(0.87)
    assert round(float(value), 4) == 0.1393


def test_worked_example_of_the_jacobian():
    p = np.full(10, 0.01)
    p[[1, 2, 3, 4, 8]] = 0.11, 0.31, 0.11, 0.21, 0.21
    Y = one_hot([2], 10)
    value, dz, _ = value_and_delta("softmax_cross_entropy", np.log(p)[None], Y)
    dC_dp = -Y[0] / p  # the row (0 .. -1/p_y .. 0)
    dp_dz = np.diag(p) - np.outer(p, p)
    assert round(float(value), 6) == 1.171183
    assert round(float(dC_dp[2]), 6) == -3.225806
    assert np.count_nonzero(dC_dp) == 1
    np.testing.assert_allclose(dC_dp @ dp_dz, p - Y[0], rtol=1e-14)
    np.testing.assert_allclose(dz[0], p - Y[0], atol=1e-16)


@pytest.mark.parametrize(
    ("name", "value", "delta"),
    [
        # z = (1, -1), label 0. With e = exp(-2): p = 1 / (1 + e); s = sigmoid(1), sigmoid(-1) = 1 - s.
        ("softmax_cross_entropy", math.log1p(math.exp(-2)), [1 / (1 + math.exp(-2)) - 1, 1 - 1 / (1 + math.exp(-2))]),
        ("sigmoid_cross_entropy", 2 * math.log1p(math.exp(-1)), [-0.2689414213699951, 0.2689414213699951]),
        ("linear_quadratic", 0.5, [0.0, -1.0]),
        ("sigmoid_quadratic", 0.2689414213699951**2, [-0.05287709210909544, 0.05287709210909544]),
        ("linear_hinge", 0.0, [0.0, 0.0]),
        (
            "normalized_sigmoid",
            -math.log(0.7310585786300049),
            [-(0.2689414213699951**2), 0.2689414213699951 * 0.7310585786300049],
        ),
    ],
)
def test_two_classes_by_hand(name, value, delta):
    found, dz, _ = value_and_delta(name, np.array([[1.0, -1.0]]), one_hot([0], 2))
    assert found == pytest.approx(value, abs=1e-15)
    np.testing.assert_allclose(dz[0], delta, atol=1e-15)


def test_hinge_counts_each_violated_margin():
    # Label 1, z_y = 2: margins 1.5 - 2 + 1 = 0.5 and 3 - 2 + 1 = 2 are violated, -4 - 2 + 1 = -5 is not.
    value, dz, _ = value_and_delta("linear_hinge", np.array([[1.5, 2.0, 3.0, -4.0]]), one_hot([1], 4))
    assert value == 2.5
    np.testing.assert_array_equal(dz, [[1.0, -2.0, 1.0, 0.0]])


def test_hinge_has_its_kink_at_a_margin_of_zero():
    # z_j - z_y + 1 is exactly 0, just above, and just below. At the kink: the derivative from the left.
    z, Y = np.array([[1.0, 2.0, 1.0 + 1e-15, 1.0 - 1e-15]]), one_hot([1], 4)
    value, dz, _ = value_and_delta("linear_hinge", z, Y)
    assert 0 < value < 1e-14
    np.testing.assert_array_equal(dz, [[0.0, -1.0, 1.0, 0.0]])


@pytest.mark.parametrize("name", NAMES)
def test_part_of_a_batch_is_divided_by_the_whole_batch(name, rng):
    z, Y = rng.normal(0, 2, (6, 5)), one_hot([0, 1, 2, 3, 4, 0], 5)
    loss, delta, p = value_and_delta(name, z, Y)
    for own in (slice(0, 2), slice(2, 6), slice(6, 6)):
        part, dz = np.empty_like(z[own]), np.empty_like(z[own])
        loss -= OBJECTIVES[name].forward(z[own], Y[own], part) / 6
        OBJECTIVES[name].backward(z[own], part, Y[own], dz, 6)
        np.testing.assert_allclose(part, p[own], rtol=1e-14)
        np.testing.assert_allclose(dz, delta[own], rtol=1e-13, atol=1e-16)
    assert loss == pytest.approx(0, abs=1e-13)


def test_quadratic_delta_vanishes_for_confident_mistakes():
    Y = np.array([[0.0]])
    deltas = [value_and_delta("sigmoid_quadratic", np.array([[z]]), Y)[1][0, 0] for z in (2.0, 4.6, 9.2)]
    assert deltas[0] > 8 * deltas[1] > 80 * deltas[2]
    matched = [value_and_delta("sigmoid_cross_entropy", np.array([[z]]), Y)[1][0, 0] for z in (2.0, 4.6, 9.2)]
    assert matched == sorted(matched)


def test_cross_entropy_is_entropy_plus_divergence(rng):
    p = rng.dirichlet(np.ones(6), 8)
    z = rng.normal(0, 1, (8, 6))
    loss, _, q = value_and_delta("softmax_cross_entropy", z, p)
    entropy = -(p * np.log(p)).sum() / len(p)
    divergence = (p * np.log(p / q)).sum() / len(p)
    assert loss == pytest.approx(entropy + divergence, rel=1e-14)
    least, delta, _ = value_and_delta("softmax_cross_entropy", np.log(p), p)
    assert least == pytest.approx(entropy, rel=1e-14)
    assert divergence > 0.1 < entropy
    np.testing.assert_allclose(delta, 0, atol=1e-16)


def test_sigmoid_cross_entropy_takes_multi_label_targets(rng):
    z, Y = rng.normal(0, 2, (4, 3)), np.array([[1.0, 1, 0], [0, 0, 0], [1, 1, 1], [0.5, 0, 1]])
    value, dz, p = value_and_delta("sigmoid_cross_entropy", z, Y)
    h = 1 / (1 + np.exp(-z))
    assert value == pytest.approx(-(Y * np.log(h) + (1 - Y) * np.log(1 - h)).sum() / 4, rel=1e-13)
    np.testing.assert_allclose(dz, (h - Y) / 4, atol=1e-16)
    np.testing.assert_allclose(p, h, rtol=1e-14)


def test_normalized_sigmoids_equal_the_quotient(rng):
    z, Y = rng.normal(0, 3, (6, 5)), one_hot([0, 1, 2, 3, 4, 0], 5)
    s = 1 / (1 + np.exp(-z))
    quotient = s / s.sum(axis=1, keepdims=True)
    value, dz, p = value_and_delta("normalized_sigmoid", z, Y)
    np.testing.assert_allclose(p, quotient, rtol=1e-13)
    assert value == pytest.approx(-(Y * np.log(quotient)).sum() / 6, rel=1e-13)
    np.testing.assert_allclose(dz, (1 - s) * (quotient - Y) / 6, atol=1e-16)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_p_of_forward(name, rng):
    z, Y = rng.normal(0, 3, (6, 5)), one_hot([0, 1, 2, 3, 4, 0], 5)
    p = np.empty_like(z)
    OBJECTIVES[name].output(z, p)
    np.testing.assert_array_equal(p, value_and_delta(name, z, Y)[2])
    np.testing.assert_array_equal(p.argmax(axis=1), z.argmax(axis=1))
    if OBJECTIVES[name].probabilities:
        assert 0 < p.min() < p.max() < 1
    if name in SUM_TO_ONE:
        np.testing.assert_allclose(p.sum(axis=1), 1)


EXTREME = [
    [1e4, -1e4, 0, 3],
    [-1e4, 1e4, 0, 3],
    [1e4, 1e4, 1e4, 1e4],
    [-1e4, -1e4, -1e4, -1e4],
    [-1e4, -1e4, -9.999e3, -1e4],
    [120, -120, 90, -90],
    [0, 0, 0, 0],
]


@pytest.mark.parametrize("row", EXTREME)
@pytest.mark.parametrize("label", range(4))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 64])
def test_extreme_logits_agree_in_float32_and_float64(name, label, row, rows):
    def by(dtype):
        return value_and_delta(name, np.array([row] * rows, dtype), one_hot([label] * rows, 4, dtype))

    (value, dz, p), (exact, exact_dz, exact_p) = by(np.float32), by(np.float64)
    assert dz.dtype == p.dtype == np.float32
    assert np.isfinite([value, exact]).all()
    assert np.isfinite(dz).all()
    assert value == pytest.approx(exact, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(dz, exact_dz, rtol=1e-6, atol=2e-7)
    np.testing.assert_allclose(p, exact_p, rtol=1e-6, atol=2e-7)


def test_small_loss_of_a_confident_hit_in_float32():
    z, Y = np.array([[20, -20]], np.float32), one_hot([0], 2, np.float32)
    assert value_and_delta("sigmoid_cross_entropy", z, Y)[0] == pytest.approx(2 * math.log1p(math.exp(-20)), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 63, 64, 200])
@pytest.mark.parametrize("name", SUM_TO_ONE)
def test_softmax_of_logits_far_apart(name, rows, dtype):
    """Shifted by anything but a row's largest logit, exp would overflow: logits are 200 and 2,000 apart."""
    z = np.array([[0, 200, -200], [200, 0, 0], [-1e3, -1e3, 1e3]] * rows, dtype)[:rows]
    labels = np.array([1, 0, 2] * rows)[:rows]
    Y = one_hot(labels, 3, dtype)
    with np.errstate(over="raise", invalid="raise"):
        value, dz, p = value_and_delta(name, z, Y)
        wrong, _, _ = value_and_delta(name, z, np.roll(Y, 1, axis=1))
    assert value == pytest.approx(0 if name == "softmax_cross_entropy" else value, abs=1e-6)
    assert np.isfinite(value)
    assert wrong > 50
    assert np.isfinite(dz).all()
    np.testing.assert_array_equal(p.argmax(axis=1), labels)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)


# float64 itself is compared with a value known exactly.
@pytest.mark.parametrize(
    ("name", "value", "delta"),
    [
        ("softmax_cross_entropy", 2e4, [1, -1, 0, 0]),
        ("sigmoid_cross_entropy", 2e4 + 2 * math.log(2), [1, -1, 0.5, 0.5]),
        ("linear_quadratic", (1e8 + (1e4 + 1) ** 2) / 2, [1e4, -1e4 - 1, 0, 0]),
        ("sigmoid_quadratic", 1.25, [0, 0, 0.125, 0.125]),
        ("linear_hinge", (2e4 + 1) + 2 * (1e4 + 1), [1, -3, 1, 1]),
        ("normalized_sigmoid", 1e4 + math.log(2), [0, -1, 0.125, 0.125]),
    ],
)
def test_loss_of_a_logit_of_ten_thousand(name, value, delta):
    found, dz, _ = value_and_delta(name, np.array([[1e4, -1e4, 0, 0]]), one_hot([1], 4))
    assert found == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(dz[0], delta, atol=1e-15)
