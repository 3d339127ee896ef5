"""The moving average of the parameters: the plain mean at first, then one that forgets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mlpcli.training import averaging
from mlpcli.training.averaging import Average


def averages_of(
    path: np.ndarray, decay: float, steps_per_epoch: int = 1, stretches: Sequence[slice] = ()
) -> np.ndarray:
    """The averages after each step of ``path`` (steps, n)."""
    average, theta = np.full(path.shape[1], 99.0), np.empty(path.shape[1])
    made = Average(average, theta, decay, steps_per_epoch, stretches or [slice(0, path.shape[1])])
    seen = []
    for step, point in enumerate(path, start=1):
        theta[...] = point
        made.step(step)
        seen.append(average.copy())
    return np.array(seen)


def test_worked_by_hand():
    # d = min(0.5, 0, 1/2, 2/3): 4; (4 + 8) / 2; 6 / 2 + 2 / 2; 4 / 2 + 2 / 2
    assert averages_of(np.array([[4.0], [8.0], [2.0], [2.0]]), 0.5).ravel() == pytest.approx([4, 6, 4, 3])


def test_at_first_it_is_the_plain_mean_and_the_start_has_no_part_in_it():
    path = np.random.default_rng(0).normal(size=(50, 3))
    means = np.cumsum(path, axis=0) / np.arange(1, 51)[:, None]
    np.testing.assert_allclose(averages_of(path, 0.999), means, rtol=1e-12, atol=1e-14)


def test_later_it_forgets_with_the_decay():
    path = np.zeros((3000, 1))
    path[:1000] = 1.0
    after = averages_of(path, 0.99).ravel()
    assert after[2999] / after[1999] == pytest.approx(0.99**1000, rel=1e-9)


def test_it_is_taken_every_few_steps_with_the_decay_of_as_many():
    path = np.random.default_rng(1).normal(size=(averaging.INTERVAL * 30, 2))
    seen = averages_of(path, 0.9, steps_per_epoch=1000)
    assert np.unique(seen[:, 0]).size == 31  # what it was before, and thirty times another
    few = averages_of(path[averaging.INTERVAL - 1 :: averaging.INTERVAL], 0.9**averaging.INTERVAL)
    np.testing.assert_allclose(seen[averaging.INTERVAL - 1 :: averaging.INTERVAL], few, rtol=1e-12)


def test_an_epoch_of_few_steps_has_an_average_at_its_end():
    assert averages_of(np.arange(3.0)[:, None], 0.9, steps_per_epoch=3)[2] == 2.0


def test_only_the_stretches_asked_for_are_touched():
    path = np.ones((2, 9))
    assert averages_of(path, 0.9, stretches=[slice(1, 4), slice(6, 8)])[1].tolist() == [99, 1, 1, 1, 99, 99, 1, 1, 99]
    assert (averages_of(path, 0.9, stretches=[slice(4, 4)])[1] == 99).all()


def test_equal_parameters_stay_exactly_as_they_are():
    average, theta = np.full(4, 0.1), np.full(4, 0.1)
    made = Average(average, theta, 0.97, 1, [slice(0, 4)])
    for step in range(1, 100):
        made.step(step)
    assert (average == 0.1).all()
