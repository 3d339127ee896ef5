"""Targets for labels of each kind, and predictions from outputs."""

from __future__ import annotations

import numpy as np
import pytest

from mlpcli.config import Config, NetworkConfig
from mlpcli.errors import ConfigError
from mlpcli.training.targets import ClassNumber, MultiLabel, OneHot, check_targets, count_errors, targets_of


def config_of(**network):
    return Config(network=NetworkConfig(**network))


def test_targets_of_labels_are_rows_of_the_table():
    labels = np.array([2, 0], np.uint8)
    np.testing.assert_array_equal(OneHot(3).table(0.0)[labels], [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(OneHot(3).table(0.3)[labels], [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])
    np.testing.assert_array_equal(ClassNumber(3).table(0.0)[labels], [[2], [0]])
    rows = np.array([[0, 1, 1], [0, 0, 0]], np.uint8)
    np.testing.assert_array_equal(MultiLabel().table(0.0)[rows], rows)
    np.testing.assert_allclose(MultiLabel().table(0.2)[rows], [[0.1, 0.9, 0.9], [0.1, 0.1, 0.1]])


def test_predictions_of_each_kind_of_target():
    z = np.array([[0.4, 0.6], [0.9, 0.2]])
    assert OneHot(2).predicted(z, z).tolist() == [1, 0]
    assert MultiLabel().predicted(z, z).tolist() == [[0, 1], [1, 0]]
    p = np.array([[-3.0], [0.4], [0.6], [1.4], [9.0]])
    assert ClassNumber(3).predicted(p, p).tolist() == [0, 0, 1, 1, 2]


def test_one_output_unit_gives_both_classes():
    p = np.array([[0.2], [0.9]])
    np.testing.assert_allclose(ClassNumber(2).outputs_by_class(p, probabilities=True), [[0.8, 0.2], [0.1, 0.9]])
    np.testing.assert_allclose(ClassNumber(3).outputs_by_class(p, probabilities=False)[1], [-0.9, -0.1, -1.1])


def test_image_with_any_wrong_label_is_an_error():
    labels = np.array([[1, 0], [1, 1], [0, 0]], np.uint8)
    assert count_errors(labels, labels) == 0
    assert count_errors(np.array([[1, 1], [1, 1], [1, 1]], np.uint8), labels) == 2


def test_kind_of_targets_follows_labels_and_config():
    assert targets_of(Config(), 10, False) == OneHot(10)
    assert targets_of(config_of(objective="sigmoid_cross_entropy"), 10, True) == MultiLabel()
    one = config_of(objective="sigmoid_cross_entropy", single_output=True)
    assert targets_of(one, 2, False) == ClassNumber(2)


def test_labels_outside_the_network_are_refused():
    rows = np.array([[0, 1, 1]], np.uint8)
    check_targets(config_of(objective="sigmoid_quadratic"), 3, rows, "x")
    with pytest.raises(ConfigError, match=r"use network.objective: sigmoid_cross_entropy$"):
        check_targets(Config(), 3, rows, "x")
    with pytest.raises(ConfigError, match="argmax"):
        check_targets(Config(), 3, np.eye(3, dtype=np.uint8), "x")
    one = {"objective": "sigmoid_cross_entropy", "single_output": True}
    with pytest.raises(ConfigError, match="allowed: false"):
        check_targets(config_of(**one), 3, rows, "x")
    with pytest.raises(ConfigError, match="two classes"):
        check_targets(config_of(**one), 3, np.array([2], np.uint8), "x")
    check_targets(config_of(**one), 2, np.array([1], np.uint8), "x")
    check_targets(config_of(objective="linear_quadratic", single_output=True), 10, np.array([9], np.uint8), "x")
    with pytest.raises(ConfigError, match="single_output"):
        config_of(single_output=True)
