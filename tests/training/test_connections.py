"""Receptive fields: what is connected, and that nothing else ever gets a weight."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpcli.config import NetworkConfig
from mlpcli.errors import ConfigError
from mlpcli.gradcheck import textbook
from mlpcli.model.parameters import Parameters
from mlpcli.state import architecture_of
from mlpcli.training import connections as module
from mlpcli.training.connections import ConnectedGradient, connections, initial_factors, parameters_in_words, spread
from mlpcli.training.initial import draw_parameters
from mlpcli.training.trainer import Trainer
from tests.parallel.threads import ThreadGroup, in_threads, results
from tests.training.small import CLASSES, config_of, dataset_of, records_of

PIXELS = 12
LOCAL = ("network.hidden=[8,6]", "network.receptive_fields=[2,3]")


def network_of(hidden, radii):
    return NetworkConfig(hidden=hidden, receptive_fields=radii)


def test_connections_worked_by_hand():
    # Seven pixels in a row, radius 1: the places are between 1 and 5, unit k at 1 + 4 frac(1/2 + k / g^2), where
    # 1 / g^2 = 0.5698: 1 + 4 (0.0698, 0.6397, 0.2095) = 1.279, 3.559, 1.838.
    first, second = connections(network_of((3, 2), (1.0, 1.0)), (1, 7))
    np.testing.assert_allclose(spread(3, (1, 7), 1.0)[:, 1], [1.279, 3.559, 1.838], atol=1e-3)
    assert first.T.tolist() == [[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0]]
    # The second layer's units are at 1.279 and 3.559. Within 1 of the first are those at 1.279 and 1.838.
    assert second.T.tolist() == [[1, 0, 1], [0, 1, 0]]


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.data())
def test_they_are_those_of_the_textbook(height, width, hidden, data):
    radii = data.draw(st.lists(st.floats(1, 20), min_size=1, max_size=len(hidden)).map(tuple))
    network = network_of(tuple(hidden), radii)
    theta = Parameters((height * width, *hidden, 2), np.float64)
    expected = textbook.connections(network, (height, width), theta)
    if any(not M.any(axis=0).all() for M in expected.W):
        with pytest.raises(ConfigError, match=r"network\.receptive_fields: .* there is no unit of layer"):
            connections(network, (height, width))
        return
    found = connections(network, (height, width))
    assert len(found) == len(radii)
    for M, W in zip(found, expected.W, strict=False):
        np.testing.assert_array_equal(M, W)
        assert M.flags.f_contiguous
    assert all((M == 1).all() for M in [*expected.W[len(radii) :], *expected.b])


@pytest.mark.parametrize("units", [64, 100, 1024])
def test_places_are_spread_evenly_over_the_inner_part(units):
    places = spread(units, (28, 24), 5)
    assert (places >= 5).all()
    assert (places <= [22, 18]).all()
    fractions = (places - 5) / [17, 13]
    counts, _, _ = np.histogram2d(*fractions.T, bins=4, range=((0, 1), (0, 1)))
    assert abs(counts - units / 16).max() <= 3


def test_places_are_spread_over_the_half_in_the_middle_if_the_field_is_large():
    places = spread(200, (41, 1), 30.0)
    assert (places[:, 1] == 0).all()
    rows = np.sort(places[:, 0])
    assert 10 <= rows[0] < 10.5 < 29.5 < rows[-1] <= 30
    assert np.diff(rows).max() < 0.5


def test_a_distance_of_exactly_the_radius_is_connected_however_it_is_rounded(monkeypatch):
    places = np.array([[0.0, 0.0], [0.0, 4.0]])
    monkeypatch.setattr(module, "spread", lambda *_: places)
    for radius in (2.0, math.nextafter(2.0, 0.0), math.nextafter(2.0, 3.0)):
        assert connections(network_of((2,), (radius,)), (1, 5))[0].T.tolist() == [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]


def test_a_unit_without_connections_is_refused():
    with pytest.raises(ConfigError, match=r"1 pixels around unit \d+ of layer 2 there is no unit of layer 1; choose a"):
        connections(network_of((2, 30), (2.0, 1.0)), (28, 28))


def test_initial_weights_keep_the_sum_of_their_variances():
    M = connections(network_of((40,), (3.0,)), (10, 10))[0]
    factors = initial_factors(M)
    np.testing.assert_array_equal(factors != 0, M != 0)
    np.testing.assert_allclose((factors**2).sum(axis=0), 100)
    few = config_of("network.hidden=[40]", "network.receptive_fields=[3]")
    full = config_of("network.hidden=[40]")
    local, drawn = (draw_parameters(c, architecture_of(c, 100, CLASSES), (10, 10)) for c in (few, full))
    np.testing.assert_allclose(local.W[0], factors * drawn.W[0])
    np.testing.assert_array_equal(local.W[1], drawn.W[1])


def test_every_dtype_begins_alike():
    config = config_of(*LOCAL)
    single, double = (draw_parameters(config, architecture_of(config, 12, CLASSES), (1, 12), d) for d in ("f4", "f8"))
    np.testing.assert_array_equal(single.vector, double.vector.astype(np.float32))


def test_parameters_are_counted_in_words():
    M = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert parameters_in_words(1234, []) == parameters_in_words(1234, [np.ones((2, 2))]) == "1,234 parameters"
    assert parameters_in_words(1234, [M, M]) == "1,234 parameters, of which 6 stay 0"


@given(st.floats(-2, 2), st.floats(0, 1), st.integers(0, 2**32))
@settings(max_examples=20)
def test_only_the_connections_are_accumulated(alpha, beta, seed):
    rng = np.random.default_rng(seed)
    M, dW, before = (rng.random((4, 3)) < 0.5).astype(float), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    target = before * M
    other = before.copy()

    class Gradient:
        def accumulate(self, alpha=1.0, beta=0.0):
            for each in (target, other):
                each[...] = beta * each + alpha * dW

    ConnectedGradient(Gradient(), [target, other], [M]).accumulate(alpha, beta)
    np.testing.assert_allclose(target, M * (beta * before + alpha * dW))
    np.testing.assert_allclose(other, beta * before + alpha * dW)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam"])
def test_weights_without_a_connection_stay_zero(optimizer):
    config = config_of(
        *LOCAL,
        f"training.optimizer={optimizer}",
        "training.averaging=0.9",
        "training.l2=0.01",
        "training.dropout=0.2",
        "training.adversarial=0.1",
        "training.learning_rate=0.05",
    )
    _, state = records_of(config, dataset_of(50, 10, pixels=PIXELS))
    masks = connections(config.network, (1, PIXELS))
    begun = draw_parameters(config, architecture_of(config, PIXELS, CLASSES), (1, PIXELS))
    for theta in (state.theta, state.average):
        for W, M, first in zip(theta.W, masks, begun.W, strict=False):
            assert not W[M == 0].any()
            assert (W[M == 1] != first[M == 1]).all()


def test_processes_that_divide_the_examples_train_the_same_network():
    config, dataset = config_of(*LOCAL), dataset_of(50, 10, pixels=PIXELS)
    _, alone = records_of(config, dataset)

    def work(comm):
        trainer = Trainer(config, dataset, group=ThreadGroup(comm))
        list(trainer.epochs())
        return trainer.state.theta.vector.copy()

    for vector in results(in_threads(2, work)):
        np.testing.assert_allclose(vector, alone.theta.vector, rtol=1e-9)


def test_a_radius_that_reaches_everything_changes_nothing():
    dataset = dataset_of(40, 8, pixels=PIXELS)
    full, wide = config_of("network.hidden=[5]"), config_of("network.hidden=[5]", "network.receptive_fields=[1000]")
    (records, state), (others, same) = records_of(full, dataset), records_of(wide, dataset)
    np.testing.assert_array_equal(state.theta.vector, same.theta.vector)
    assert [r.train_loss for r in records] == [r.train_loss for r in others]
    assert math.isfinite(records[-1].train_loss)
