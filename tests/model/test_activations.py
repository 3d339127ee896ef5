"""The activations: values, derivatives, and nothing lost at large z."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from mlpcli.model.activations import ACTIVATIONS, SATURATED, sigmoid

TEXTBOOK = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": lambda z: (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z)),
    "relu": lambda z: np.where(z > 0, z, 0.0),
}
Z = np.array([[-3.0, -0.5, 0.25], [1.0, 2.5, 7.0]])


def value(name, z):
    a = np.empty_like(z)
    ACTIVATIONS[name].forward(z, a)
    return a


def derivative(name, z):
    a, da = value(name, z), np.ones_like(z)
    ACTIVATIONS[name].backward(a, da, np.empty_like(z))
    return da


def test_the_table_is_complete():
    assert ACTIVATIONS.keys() == TEXTBOOK.keys()
    assert all(activation.name == name for name, activation in ACTIVATIONS.items())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_are_the_textbooks(name):
    np.testing.assert_allclose(value(name, Z), TEXTBOOK[name](Z), rtol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_backward_multiplies_by_the_derivative(name):
    step = value(name, Z + 1e-20j).imag / 1e-20
    np.testing.assert_allclose(derivative(name, Z), step, rtol=1e-13, atol=1e-15)
    da, a = np.full_like(Z, 2.5), value(name, Z)
    ACTIVATIONS[name].backward(a, da, np.empty_like(Z))
    np.testing.assert_allclose(da, 2.5 * step, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(a, value(name, Z))


# The write-ups print sigmoid^-1 for the derivative. The inverse function of the sigmoid at a is ln(a / (1 - a)).
def test_the_derivative_of_the_sigmoid_is_a_times_1_minus_a():
    a = value("sigmoid", Z)
    np.testing.assert_allclose(derivative("sigmoid", Z), a * (1 - a), rtol=1e-14)
    np.testing.assert_allclose(np.log(a / (1 - a)), Z, rtol=1e-12)
    assert not np.allclose(derivative("sigmoid", Z), Z, atol=0.1)


def test_a_sigmoid_is_flat_beyond_saturation():
    inside, at, outside = derivative("sigmoid", np.array([[0.0, SATURATED, SATURATED + 0.01]]))[0]
    assert SATURATED == 4.6
    assert inside == 0.25
    assert round(float(at), 3) == 0.01
    assert outside < at < 0.01
    # a (1 - a) = 0.01 at z = ln(a / (1 - a)) for a = (1 + sqrt(1 - 0.04)) / 2, which is 4.585.
    a = (1 + math.sqrt(0.96)) / 2
    assert round(math.log(a / (1 - a)), 3) == 4.585


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_large_inputs_stay_finite_and_keep_their_dtype(name, dtype):
    z = np.array([[-1e4, -100.0, 0.0, 100.0, 1e4]], dtype)
    a, slope = value(name, z), derivative(name, z)
    assert a.dtype == slope.dtype == dtype
    assert np.isfinite(a).all()
    assert np.isfinite(slope).all()
    limits = {"sigmoid": (0, 1), "tanh": (-1, 1), "relu": (0, 1e4)}[name]
    assert (a.real[0, 0], a.real[0, -1]) == limits


def test_sigmoid_may_write_where_it_reads():
    z = Z.copy()
    sigmoid(z, z)
    np.testing.assert_array_equal(z, value("sigmoid", Z))


def test_relu_at_its_kink_takes_the_derivative_from_the_left():
    z = np.zeros((1, 1))
    assert derivative("relu", z) == 0
    assert value("relu", z + 1e-20j).imag == 0


def test_branches_change_at_kinks_and_nowhere_else():
    z = np.array([[-1.0, -1e-300, 0.0, 1e-300, 1.0]])
    sides = ACTIVATIONS["relu"].branch(z)[0]
    assert [one != other for one, other in pairwise(sides)] == [False, False, True, False]
    np.testing.assert_array_equal(sides, ACTIVATIONS["relu"].branch(z + 1e-20j)[0])
    assert ACTIVATIONS["sigmoid"].branch(z) is None
    assert ACTIVATIONS["tanh"].branch(z) is None
