"""Activations: values, derivatives, and precision at large z."""

from __future__ import annotations

import math

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
    h = np.empty_like(z)
    ACTIVATIONS[name].forward(z, h)
    return h


def derivative(name, z):
    h, slope = value(name, z), np.empty_like(z)
    assert ACTIVATIONS[name].derivative(h, slope) is slope
    np.testing.assert_array_equal(h, value(name, z))
    return slope


def test_activations_are_found_by_name():
    assert ACTIVATIONS.keys() == TEXTBOOK.keys()
    assert all(activation.name == name for name, activation in ACTIVATIONS.items())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_match_the_textbook(name):
    np.testing.assert_allclose(value(name, Z), TEXTBOOK[name](Z), rtol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_matches_the_complex_step(name):
    step = value(name, Z + 1e-20j).imag / 1e-20
    np.testing.assert_allclose(derivative(name, Z), step, rtol=1e-13, atol=1e-15)


# Some texts print sigmoid^-1 for the derivative. The inverse function of the sigmoid at h is ln(h / (1 - h)).
def test_sigmoid_derivative_is_not_its_inverse():
    h = value("sigmoid", Z)
    np.testing.assert_allclose(derivative("sigmoid", Z), h * (1 - h), rtol=1e-14)
    np.testing.assert_allclose(np.log(h / (1 - h)), Z, rtol=1e-12)
    assert not np.allclose(derivative("sigmoid", Z), Z, atol=0.1)


def test_sigmoid_is_flat_beyond_saturation():
    inside, at, outside = derivative("sigmoid", np.array([[0.0, SATURATED, SATURATED + 0.01]]))[0]
    assert SATURATED == 4.6
    assert inside == 0.25
    assert round(float(at), 3) == 0.01
    assert outside < at < 0.01
    # h (1 - h) = 0.01 at z = ln(h / (1 - h)) for h = (1 + sqrt(1 - 0.04)) / 2, which is 4.585.
    h = (1 + math.sqrt(0.96)) / 2
    assert round(math.log(h / (1 - h)), 3) == 4.585


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_large_inputs_stay_finite_in_every_dtype(name, dtype):
    z = np.array([[-1e4, -100.0, 0.0, 100.0, 1e4]], dtype)
    h, slope = value(name, z), derivative(name, z)
    assert h.dtype == slope.dtype == dtype
    assert np.isfinite([h, slope]).all()
    limits = {"sigmoid": (0, 1), "tanh": (-1, 1), "relu": (0, 1e4)}[name]
    assert (h.real[0, 0], h.real[0, -1]) == limits


def test_sigmoid_works_in_place():
    z = Z.copy()
    sigmoid(z, z)
    np.testing.assert_array_equal(z, value("sigmoid", Z))


def test_relu_has_its_kink_at_zero():
    z = np.array([[-1.0, -1e-300, 0.0, 1e-300, 1e-8, 0.005, 0.5]])
    np.testing.assert_array_equal(value("relu", z), np.maximum(z, 0))
    # At the kink: the derivative from the left.
    np.testing.assert_array_equal(derivative("relu", z), [[0, 0, 0, 1, 1, 1, 1]])
    np.testing.assert_array_equal(value("relu", z + 1e-20j).imag / 1e-20, [[0, 0, 0, 1, 1, 1, 1]])
