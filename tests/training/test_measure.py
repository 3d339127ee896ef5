"""A measure of a whole split is what the formulas say, however the split is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlpcli.datasets.load import Split
from mlpcli.model.network import Network
from mlpcli.model.parameters import Parameters
from mlpcli.training import measure
from mlpcli.training.measure import Measure


def split_of(count: int) -> Split:
    random = np.random.default_rng(count)
    return Split(random.integers(0, 256, (count, 4), np.uint8), random.integers(0, 3, count).astype(np.uint8))


def drawn(network: Network, dtype: str = "float64", scale: float = 1.0) -> Parameters:
    theta = network.parameters(dtype)
    theta.vector[...] = scale * np.random.default_rng(5).normal(size=len(theta.vector))
    return theta


def logits(theta: Parameters, images: np.ndarray) -> np.ndarray:
    a = images / 255
    for W, b in zip(theta.W[:-1], theta.b[:-1], strict=True):
        a = 1 / (1 + np.exp(-(a @ W + b)))
    return a @ theta.W[-1] + theta.b[-1]


@pytest.mark.parametrize("count", [1, 6, 7, 8, 20])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 6)])
def test_loss_and_errors_of_any_number_of_images(count: int, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "BATCH_SIZE", 7)
    network, split = Network((4, *hidden, 3), "sigmoid", "softmax_cross_entropy"), split_of(count)
    theta = drawn(network)
    before = theta.vector.copy()
    z = logits(theta, split.images)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(count), split.labels]).mean()

    measured = Measure(network, split, 3, "float64")
    loss, errors = measured.loss_and_errors(theta)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert errors == np.sum(z.argmax(axis=1) != split.labels)
    again, found = measured.loss_and_logits(theta)
    assert again == loss
    np.testing.assert_allclose(found, z, rtol=1e-12, atol=1e-12)
    assert np.array_equal(theta.vector, before)


def test_float32_measures_the_same_but_for_rounding():
    network, split = Network((4, 5, 3), "sigmoid", "softmax_cross_entropy"), split_of(50)
    theta = drawn(network)
    single = network.parameters("float32", theta.vector.astype("float32"))
    exact, errors = Measure(network, split, 3, "float64").loss_and_errors(theta)
    loss, same = Measure(network, split, 3, "float32").loss_and_errors(single)
    assert loss == pytest.approx(exact, rel=1e-5)
    assert same == errors


def test_the_answer_is_the_largest_logit_even_where_both_outputs_round_to_one():
    network = Network((4, 3), "sigmoid", "sigmoid_cross_entropy")
    theta = network.parameters("float32")
    theta.b[0][...] = [50.0, 60.0, 55.0]  # sigmoid(50) is 1 in float32
    split = Split(np.zeros((3, 4), np.uint8), np.array([1, 0, 1], np.uint8))
    assert Measure(network, split, 3, "float32").loss_and_errors(theta)[1] == 1


def test_the_cost_of_a_label_is_its_negative_logarithm():
    # p = 0.87 costs -ln 0.87 = 0.1393, not 0.87.
    network = Network((4, 2), "sigmoid", "softmax_cross_entropy")
    theta = network.parameters("float64")
    theta.b[0][...] = [math.log(0.87), math.log(0.13)]
    split = Split(np.zeros((1, 4), np.uint8), np.zeros(1, np.uint8))
    assert Measure(network, split, 2, "float64").loss_and_errors(theta)[0] == pytest.approx(0.13926206733350766)


def test_saturation_counts_units_beyond_4_6_on_either_side():
    network = Network((4, 4, 2, 3), "sigmoid", "softmax_cross_entropy")
    theta = network.parameters("float64")
    theta.W[0][0] = [4.61, -4.61, 4.59, -4.59]  # by the first pixel, which is dark in one image of two
    theta.b[1][...] = [100.0, 0.0]
    split = Split(np.array([[255, 0, 0, 0], [0, 0, 0, 0]], np.uint8), np.zeros(2, np.uint8))
    assert Measure(network, split, 3, "float64").saturation(theta) == [2 / 8, 2 / 4]


def test_exactly_4_6_is_not_beyond():
    network = Network((1, 1, 2), "sigmoid", "softmax_cross_entropy")
    theta = network.parameters("float64")
    theta.b[0][...] = 4.6
    assert Measure(network, Split(np.zeros((1, 1), np.uint8), np.zeros(1, np.uint8)), 2, "float64").saturation(
        theta
    ) == [0.0]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_only_sigmoids_saturate(activation: str):
    network = Network((4, 5, 3), activation, "softmax_cross_entropy")
    assert Measure(network, split_of(3), 3, "float64").saturation(drawn(network)) is None


def test_without_hidden_layers_nothing_saturates():
    network = Network((4, 3), "sigmoid", "softmax_cross_entropy")
    assert Measure(network, split_of(3), 3, "float64").saturation(drawn(network)) == []


def test_saturation_over_several_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "BATCH_SIZE", 7)
    network, split = Network((4, 5, 6, 3), "sigmoid", "softmax_cross_entropy"), split_of(17)
    theta = drawn(network, scale=8.0)
    z1 = split.images / 255 @ theta.W[0] + theta.b[0]
    z2 = 1 / (1 + np.exp(-z1)) @ theta.W[1] + theta.b[1]
    expected = [float(np.mean(np.abs(z) > 4.6)) for z in (z1, z2)]
    assert 0 < min(expected) <= max(expected) < 1
    assert Measure(network, split, 3, "float64").saturation(theta) == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 20])
@pytest.mark.parametrize("hidden", [(), (5, 6)])
def test_logits_without_labels_are_the_same(count: int, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "BATCH_SIZE", 7)
    network = Network((4, *hidden, 3), "sigmoid", "softmax_cross_entropy")
    theta, images = drawn(network), split_of(count).images
    for given in (images, images / 255):
        found = measure.logits(network, theta, given)
        assert found.shape == (count, 3)
        np.testing.assert_allclose(found, logits(theta, images), rtol=1e-12, atol=1e-12)
    if count:
        assert np.array_equal(
            measure.logits(network, theta, images),
            Measure(network, split_of(count), 3, "float64").loss_and_logits(theta)[1],
        )
