"""The parts of a step: reduced gradients, norms, and errors."""

from __future__ import annotations

import numpy as np
import pytest

from mlpcli.model.parameters import Parameters
from mlpcli.training.step import ReducedGradient, gradient_norms
from mlpcli.training.targets import OneHot, count_errors
from tests.parallel.threads import in_threads, results


class Partial:
    """A gradient of constant value ``g``."""

    def __init__(self, g: float, buffer: np.ndarray) -> None:
        self.g, self.buffer = g, buffer

    def accumulate(self, alpha: float = 1.0, beta: float = 0.0) -> None:
        self.buffer[...] = beta * self.buffer + alpha * self.g


@pytest.mark.parametrize("same", [False, True], ids=["another vector", "the buffer itself"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (-0.5, 1.0), (2.0, 0.25)])
def test_reduced_gradient_is_the_sum_of_all_processes(alpha: float, beta: float, same: bool):
    def work(comm):
        buffer = np.full(3, 99.0)
        target = buffer if same else np.full(3, 8.0)
        gradient = ReducedGradient(Partial(10.0**comm.rank, buffer), buffer, target, comm)
        for _ in range(2):
            gradient.accumulate(alpha, 0.0 if same else beta)
        return target.tolist()

    once = 111 * alpha
    expected = once if same else beta * (beta * 8 + once) + once
    assert results(in_threads(3, work)) == [[expected] * 3] * 3


def test_errors_are_largest_logits_of_other_classes():
    logits = np.array([[1.0, 2.0], [2.0, 1.0], [5.0, 4.9]])
    assert count_errors(OneHot(2).predicted(logits, logits), np.array([1, 1, 0])) == 1
    assert count_errors(np.empty(0), np.empty(0)) == 0


@pytest.mark.parametrize(("scale", "dtype"), [(1.0, "float64"), (1e30, "float32")])
def test_gradient_norms_include_the_penalty(scale: float, dtype: str):
    theta, gradient = Parameters((2, 2, 1), dtype), Parameters((2, 2, 1), dtype)
    theta.vector[:], gradient.vector[:] = 3 * scale, scale
    # dW = 1 + 2 * 0.5 * 3 = 4 for four weights and two, db = 1 for two biases and one.
    norms = gradient_norms(gradient, theta, 0.5)
    assert norms == pytest.approx([scale * np.sqrt(4 * 16 + 2), scale * np.sqrt(2 * 16 + 1)])
