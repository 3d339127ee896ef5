"""Derivatives of a scalar function by numbers alone: the complex step and central differences."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

COMPLEX_STEP = 1e-20
# The second is for entries that have a kink within reach of the first.
CENTRAL_STEPS = (1e-3, 1e-5)
# The rounding error of a function value, in units of eps |f|: of the sums in it, not only of its last operation.
ROUNDINGS = 10.0
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Function:
    """A scalar function of ``vector`` (n,), real or complex, which may change in place between two calls of ``value``.

    ``changing(index)`` is entered for a cheaper ``value``, while only that entry changes; when it is left, the entry is
    as before. ``active_sets`` says on which side of each kink the last call was.
    """

    vector: Array
    value: Callable[[], Any]
    changing: Callable[[int], AbstractContextManager[Callable[[], Any]]]
    active_sets: Callable[[], list[Array]] = list


class Probe:
    """Derivatives of one function, given for real and for complex numbers."""

    def __init__(self, at_real: Function, at_complex: Function, steps: tuple[float, ...] = CENTRAL_STEPS) -> None:
        self._real, self._complex, self._steps = at_real, at_complex, steps
        self._value = abs(float(at_real.value()))

    def reset(self) -> None:
        """Evaluate the functions at their vectors. Call before the entries of a tensor are changed one by one."""
        self._real.value()
        self._complex.value()

    def along(self, entries: slice, v: Array) -> float:
        """Return Im f(x + itv) / t, the derivative in the direction v (m,) of these entries."""
        x = self._complex.vector[entries]
        x.imag = COMPLEX_STEP * v
        value = self._complex.value()
        x.imag = 0.0
        return float(np.imag(value)) / COMPLEX_STEP

    def complex_step(self, index: int) -> float:
        """Return Im f(x + ite) / t, e the unit vector of ``index``."""
        x = self._complex.vector
        with self._complex.changing(index) as value:
            x[index] += 1j * COMPLEX_STEP
            derivative = float(np.imag(value())) / COMPLEX_STEP
            x[index] = x[index].real
        return derivative

    def central(self, index: int, *, shorter: bool = False) -> tuple[float, float] | None:
        """Return (8 (f(x + t) - f(x - t)) - (f(x + 2t) - f(x - 2t))) / 12t and its rounding error, about eps |f| / t.

        None if with every t there is a kink in between. ``shorter``: t is the last of the steps.
        """
        with self._real.changing(index) as value:
            for t in self._steps[-1:] if shorter else self._steps:
                values, sets = zip(*(self._moved(index, times * t, value) for times in (-2, -1, 1, 2)), strict=True)
                if all(np.array_equal(a, b) for other in sets[1:] for a, b in zip(sets[0], other, strict=True)):
                    derivative = (8.0 * (values[2] - values[1]) - (values[3] - values[0])) / (12.0 * t)
                    return derivative, ROUNDINGS * EPS * self._value / t
        return None

    def _moved(self, index: int, by: float, value: Callable[[], Any]) -> tuple[float, list[Array]]:
        x = self._real.vector
        before = x[index]
        x[index] = before + by
        result = float(value()), self._real.active_sets()
        x[index] = before
        return result
