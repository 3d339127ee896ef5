"""The moving average of the parameters: a mean at first, then an exponential average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mlpcli.training.averaging import INTERVAL, MovingAverage


def averages_of(
    path: np.ndarray, decay: float, steps_per_epoch: int = 1, chunks: Sequence[slice] = (), start: float = 99.0
) -> np.ndarray:
    """Return the averages after each step of ``path`` (steps, n)."""
    average, theta = np.full(path.shape[1], start), np.empty(path.shape[1])
    moving = MovingAverage(average, theta, decay, steps_per_epoch, chunks or [slice(0, path.shape[1])])
    found = []
    for step, point in enumerate(path, start=1):
        theta[...] = point
        moving.update(step)
        found.append(average.copy())
    return np.array(found)


def test_four_steps_by_hand():
    # d = min(0.5, 0, 1/2, 2/3): 4; (4 + 8) / 2; 6 / 2 + 2 / 2; 4 / 2 + 2 / 2
    assert averages_of(np.array([[4.0], [8.0], [2.0], [2.0]]), 0.5).ravel() == pytest.approx([4, 6, 4, 3])


def test_first_averages_are_the_mean_without_the_start():
    path = np.random.default_rng(0).normal(size=(50, 3))
    means = np.cumsum(path, axis=0) / np.arange(1, 51)[:, None]
    np.testing.assert_allclose(averages_of(path, 0.999), means, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_late_average_is_the_textbook_formula(decay: float):
    """average <- d average + (1 - d) theta, with d itself, as 1 / (1 - d) updates are behind it."""
    path = np.random.default_rng(2).normal(size=(400, 3))
    found = averages_of(path, decay)
    late = int(1 / (1 - decay)) + 1
    expected = found[late]
    for step in range(late + 1, 400):
        expected = decay * expected + (1 - decay) * path[step]
        np.testing.assert_allclose(found[step], expected, rtol=1e-10, atol=1e-13)


def test_late_average_decays():
    path = np.zeros((3000, 1))
    path[:1000] = 1.0
    after = averages_of(path, 0.99).ravel()
    assert after[2999] / after[1999] == pytest.approx(0.99**1000, rel=1e-9)


def test_update_every_few_steps_uses_their_joint_decay():
    path = np.random.default_rng(1).normal(size=(INTERVAL * 30, 2))
    found = averages_of(path, 0.9, steps_per_epoch=1000)
    assert np.unique(found[:, 0]).size == 31  # one value before, and thirty times another
    few = averages_of(path[INTERVAL - 1 :: INTERVAL], 0.9**INTERVAL)
    np.testing.assert_allclose(found[INTERVAL - 1 :: INTERVAL], few, rtol=1e-12)


def test_short_epoch_ends_with_an_average():
    assert averages_of(np.arange(3.0)[:, None], 0.9, steps_per_epoch=3)[2] == 2.0


def test_other_chunks_are_unchanged():
    path = np.ones((2, 9))
    assert averages_of(path, 0.9, chunks=[slice(1, 4), slice(6, 8)])[1].tolist() == [99, 1, 1, 1, 99, 99, 1, 1, 99]
    assert (averages_of(path, 0.9, chunks=[slice(4, 4)])[1] == 99).all()


def test_average_of_equal_parameters_is_exact():
    assert (averages_of(np.full((99, 4), 0.1), 0.97, start=0.1) == 0.1).all()
