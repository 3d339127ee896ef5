"""The textbook's formulas by hand, independent of the training code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlpcli.config import OPTIMIZER_STATE, TrainingConfig
from mlpcli.gradcheck import textbook
from mlpcli.gradcheck.textbook import RULES, average, gradient_from_m, learning_rate, mask

ONE, TWO = np.array([1.0]), np.array([2.0])


def test_every_optimizer_has_a_textbook_rule():
    assert RULES.keys() == OPTIMIZER_STATE.keys()
    for name, rule in RULES.items():
        _, state = rule(ONE, {"v": ONE, "m": ONE, "s": ONE}, ONE, 0.1, 0.9, 1)
        assert tuple(state) == OPTIMIZER_STATE[name]


def test_sides_change_at_kinks_only():
    z = np.array([[-1.0, -1e-300, 0.0, 1e-300, 1.0]])
    np.testing.assert_array_equal(textbook.KINKS["relu"](z), [[0, 0, 0, 1, 1]])
    # Label 1, z_y = 2: the margin z_j - z_y + 1 is exactly 0, just above, and just below.
    z, Y = np.array([[1.0, 2.0, 1.0 + 1e-15, 1.0 - 1e-15]]), np.array([[0.0, 1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(textbook.KINKS["linear_hinge"](z, Y)[:, [0, 2, 3]], [[0, 1, 0]])


def test_sgd():
    assert textbook.sgd(ONE, {}, TWO, 0.1, 0.0, 1)[0] == pytest.approx(0.8)


def test_momentum():
    theta, state = textbook.momentum(ONE, {"v": np.array([0.5])}, TWO, 0.1, 0.9, 1)
    assert state["v"] == pytest.approx(0.25)
    assert theta == pytest.approx(1.25)


def test_nesterov_moves_phi_by_v():
    theta, state = textbook.nesterov(ONE, {"v": np.array([0.5])}, TWO, 0.1, 0.9, 1)
    phi = 1.0 - 0.9 * 0.5
    assert state["v"] == pytest.approx(0.25)
    assert theta == pytest.approx(phi + 0.25 + 0.9 * 0.25)


def test_first_step_of_adam_is_the_rate():
    theta, state = textbook.adam(ONE, {"m": 0 * ONE, "s": 0 * ONE}, np.array([-3.0]), 0.1, 0.9, 1)
    assert theta == pytest.approx(1.1, rel=1e-8)
    assert state["m"] == pytest.approx(-0.3)
    assert state["s"] == pytest.approx(0.009)
    assert gradient_from_m(0 * ONE, state["m"], 0.9) == pytest.approx(-3.0)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("step", [0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]),
        ("cosine", [0.25, 0.5, 0.75, *((1 + math.cos(math.pi * k / 9)) / 2 for k in range(9))]),
    ],
)
def test_learning_rates(schedule, rates):
    config = TrainingConfig(epochs=4, learning_rate=1.0, warmup_epochs=1, schedule=schedule)
    assert [learning_rate(config, step, 3) for step in range(12)] == pytest.approx(rates)


def test_average_is_a_plain_mean_then_decays():
    assert average(ONE, TWO, 0.5, 2, 3) is ONE
    assert average(ONE, TWO, 0.5, 2, 2) == TWO
    assert average(ONE, TWO, 0.9, 1, 2) == pytest.approx(1.5)
    assert average(ONE, TWO, 0.9, 2, 200) == pytest.approx(0.81 * 1 + 0.19 * 2)


def test_mask_drops_its_rate_and_preserves_the_mean():
    drawn = mask(0.25, (300, 200), np.random.default_rng(0))
    assert set(np.unique(drawn)) == {0.0, 4 / 3}
    assert (drawn == 0).mean() == pytest.approx(0.25, abs=0.01)
