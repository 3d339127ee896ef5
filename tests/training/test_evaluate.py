"""The evaluation of a whole split follows the formulas for any batch size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlpcli.datasets.load import Split
from mlpcli.model.build import Architecture
from mlpcli.model.parameters import Parameters
from mlpcli.training import evaluate
from mlpcli.training.evaluate import Evaluator, logits
from mlpcli.training.targets import OneHot
from tests.parallel.threads import in_threads, results


def architecture_of(*sizes: int, activation: str = "sigmoid", objective: str = "softmax_cross_entropy") -> Architecture:
    return Architecture.named(sizes, activation, objective)


def split_of(count: int, margins: bool = False) -> Split:
    """Return random images; with ``margins``, each seven in turn are nonzero in other columns than the seven before."""
    random = np.random.default_rng(count)
    images = random.integers(0, 256, (count, 40 if margins else 4), np.uint8)
    if margins:
        images[np.arange(count)[:, np.newaxis] // 7 % 3 != np.arange(40) // 16] = 0
    return Split(images, random.integers(0, 3, count).astype(np.uint8))


def black(*labels: int) -> Split:
    return Split(np.zeros((len(labels), 4), np.uint8), np.array(labels, np.uint8))


def drawn(architecture: Architecture, dtype: str = "float64", scale: float = 1.0) -> Parameters:
    theta = architecture.parameters(dtype)
    theta.vector[...] = scale * np.random.default_rng(5).normal(size=len(theta.vector))
    return theta


def expected_z(theta: Parameters, images: np.ndarray) -> list[np.ndarray]:
    """Return the weighted inputs of each layer."""
    h, zs = images / 255, []
    for W, b in zip(theta.W, theta.b, strict=True):
        zs.append(h @ W + b)
        h = 1 / (1 + np.exp(-zs[-1]))
    return zs


@pytest.fixture(params=[7, 1000])
def _batch_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "BATCH_SIZE", request.param)


@pytest.mark.usefixtures("_batch_size")
@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("count", [1, 6, 7, 8, 20])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 6)])
def test_loss_and_errors_of_any_number_of_images(count: int, hidden: tuple[int, ...], margins: bool):
    split = split_of(count, margins)
    architecture = architecture_of(split.images.shape[1], *hidden, 3)
    evaluator = Evaluator(architecture, split, OneHot(3), "float64")
    theta, other = drawn(architecture), drawn(architecture, scale=-0.5)
    for parameters in (theta, other, theta):  # earlier evaluations leave no trace
        before = parameters.vector.copy()
        z = expected_z(parameters, split.images)[-1]
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        loss, errors = evaluator.loss_and_errors(parameters)
        assert loss == pytest.approx(-np.log(p[np.arange(count), split.labels]).mean(), rel=1e-12)
        assert errors == np.sum(z.argmax(axis=1) != split.labels)
        again, found = evaluator.loss_and_logits(parameters)
        assert again == loss
        np.testing.assert_allclose(found, z, rtol=1e-12, atol=1e-12)
        assert np.array_equal(parameters.vector, before)
    theta.vector[:] = other.vector  # changed in place, as training does
    assert evaluator.loss_and_errors(theta) == evaluator.loss_and_errors(other)


def test_float32_agrees_with_float64():
    architecture, split = architecture_of(4, 5, 3), split_of(50)
    theta = drawn(architecture)
    single = architecture.parameters("float32", theta.vector.astype("float32"))
    exact, errors = Evaluator(architecture, split, OneHot(3), "float64").loss_and_errors(theta)
    loss, same = Evaluator(architecture, split, OneHot(3), "float32").loss_and_errors(single)
    assert loss == pytest.approx(exact, rel=1e-5)
    assert same == errors


def test_largest_logit_wins_if_outputs_round_to_the_same():
    architecture = architecture_of(4, 3, objective="sigmoid_cross_entropy")
    theta = architecture.parameters("float32")
    theta.b[0][...] = [50.0, 60.0, 55.0]  # sigmoid(50) is 1 in float32
    assert Evaluator(architecture, black(1, 0, 1), OneHot(3), "float32").loss_and_errors(theta)[1] == 1


def test_loss_of_a_label_is_minus_log_p():
    # p = 0.87 costs -ln 0.87 = 0.1393, not 0.87.
    architecture = architecture_of(4, 2)
    theta = architecture.parameters("float64")
    theta.b[0][...] = [math.log(0.87), math.log(0.13)]
    assert Evaluator(architecture, black(0), OneHot(2), "float64").loss_and_errors(theta)[0] == pytest.approx(
        0.139262067333508
    )


def test_saturation_counts_units_beyond_4_6_either_way():
    architecture = architecture_of(4, 4, 2, 3)
    theta = architecture.parameters("float64")
    theta.W[0][0] = [4.61, -4.61, 4.59, -4.59]  # by the first pixel, which is 0 in one image of two
    theta.b[1][...] = [100.0, 4.6]  # exactly 4.6 is not beyond
    split = Split(np.array([[255, 0, 0, 0], [0, 0, 0, 0]], np.uint8), np.zeros(2, np.uint8))
    assert Evaluator(architecture, split, OneHot(3), "float64").saturation(theta) == [2 / 8, 2 / 4]


@pytest.mark.usefixtures("_batch_size")
def test_saturation_over_several_batches():
    architecture, split = architecture_of(4, 5, 6, 3), split_of(17)
    theta = drawn(architecture, scale=8.0)
    expected = [float(np.mean(np.abs(z) > 4.6)) for z in expected_z(theta, split.images)[:-1]]
    assert 0 < min(expected) <= max(expected) < 1
    assert Evaluator(architecture, split, OneHot(3), "float64").saturation(theta) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("hidden", "activation", "expected"), [((5,), "tanh", None), ((5,), "relu", None), ((), "sigmoid", [])]
)
def test_only_hidden_sigmoids_saturate(hidden: tuple[int, ...], activation: str, expected: list[float] | None):
    architecture = architecture_of(4, *hidden, 3, activation=activation)
    assert Evaluator(architecture, split_of(3), OneHot(3), "float64").saturation(drawn(architecture)) == expected


@pytest.mark.parametrize("size", [1, 2, 7, 60])
def test_processes_evaluate_their_shards(size: int):
    architecture, split = architecture_of(40, 5, 3), split_of(53, margins=True)
    theta = drawn(architecture, scale=4)
    alone = Evaluator(architecture, split, OneHot(3), "float64")
    loss, errors = alone.loss_and_errors(theta)

    def work(comm):
        own = Evaluator(architecture, split, OneHot(3), "float64")
        return own.loss_and_errors(theta, comm), own.saturation(theta, comm)

    for found, saturation in results(in_threads(size, work)):
        assert found == (pytest.approx(loss, rel=1e-12), errors)
        assert saturation == alone.saturation(theta)


@pytest.mark.usefixtures("_batch_size")
@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 20])
@pytest.mark.parametrize("hidden", [(), (5, 6)])
def test_logits_do_not_depend_on_labels(count: int, hidden: tuple[int, ...]):
    architecture = architecture_of(4, *hidden, 3)
    theta, images = drawn(architecture), split_of(count).images
    for given in (images, images / 255):
        found = logits(architecture, theta, given)
        assert found.shape == (count, 3)
        np.testing.assert_allclose(found, expected_z(theta, images)[-1], rtol=1e-12, atol=1e-12)
    if count:
        evaluator = Evaluator(architecture, split_of(count), OneHot(3), "float64")
        assert np.array_equal(logits(architecture, theta, images), evaluator.loss_and_logits(theta)[1])
