"""A trained network from Python: accepted images, refused ones, and predictions equal to those of ``eval``."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.analysis import predict
from mlpcli.analysis.evaluation import LoadedModel, outputs
from mlpcli.config import Config, NetworkConfig
from mlpcli.datasets.images import BLANK, Images
from mlpcli.datasets.load import Split
from mlpcli.errors import DataError, RunError, UsageError
from mlpcli.experiment import train
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.state import State, architecture_of


def model(objective="softmax_cross_entropy", *, activation="sigmoid", hidden=(5,), pixels=(3, 2), classes=4):
    """Return a network with parameters from N(0, 1), in float64 to compare its outputs with formulas."""
    config = Config(network=NetworkConfig(hidden, activation, objective, dtype="float64"))
    theta = architecture_of(config, math.prod(pixels), classes).parameters("float64")
    theta.vector[...] = np.random.default_rng(0).normal(size=theta.vector.shape)
    return predict.Model(LoadedModel(Path("it.npz"), None, Checkpoint(config, "x", {}, pixels, classes, State(theta))))


def images_of(count, pixels=(3, 2)):
    return np.random.default_rng(1).integers(0, 256, (count, *pixels), np.uint8)


# What is predicted --------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 6, 7)])
def test_predictions_agree_with_evaluation(objective, activation, hidden):
    network, images = model(objective, activation=activation, hidden=hidden), images_of(1203)
    found = network.predict(images)
    measured = outputs(network._networks[0], Split(images.reshape(1203, 6), np.zeros(1203, np.uint8)))
    assert np.array_equal(found.p, measured.p)
    assert np.array_equal(found.predicted, measured.predicted)
    assert found.probabilities == measured.probabilities
    assert found.loss is None


def test_p_by_hand():
    network = model(hidden=(), pixels=(1, 2), classes=2)
    network.parameters.W[0][...] = [[math.log(3), 0], [0, math.log(2)]]
    network.parameters.b[0][...] = 0
    found = network.predict(np.array([[255, 0], [0, 255], [255, 255]], np.uint8))
    np.testing.assert_allclose(found.p, [[3 / 4, 1 / 4], [1 / 3, 2 / 3], [3 / 5, 2 / 5]], rtol=1e-12)
    assert found.predicted.tolist() == [0, 1, 0]
    np.testing.assert_allclose(found.confidence, [3 / 4, 2 / 3, 3 / 5])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_from_0_to_1_are_bytes_over_255(dtype):
    network, images = model(), images_of(20)
    tolerance = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(
        network.predict((images / 255).astype(dtype)).p, network.predict(images).p, atol=tolerance
    )


def test_floats_are_not_rounded_to_bytes():
    network = model()
    assert (network.predict(np.full((3, 2), 0.5)).p != network.predict(np.full((3, 2), 0.5001)).p).any()


def test_every_form_of_the_same_images_agrees():
    network, images = model(), images_of(4)
    expected = network.predict(images).p
    assert expected.shape == (4, 4)
    assert np.array_equal(network.predict(images.reshape(4, 6)).p, expected)
    assert np.array_equal(network.predict(list(images)).p, expected)
    assert np.array_equal(network.predict(np.asfortranarray(images)).p, expected)
    for one in (images[2], images[2].reshape(6), images[2:3]):
        np.testing.assert_allclose(network.predict(one).p, expected[2:3], rtol=1e-12)
    assert np.array_equal(network.predict((images / 255).tolist()).p, network.predict(images / 255).p)


def test_no_images_have_no_predictions():
    found = model().predict(np.zeros((0, 3, 2), np.uint8))
    assert (found.p.shape, found.predicted.shape, found.confidence.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (np.zeros((4, 2, 3), np.uint8), r"shape \(4, 2, 3\); allowed: \(N, 3, 2\), \(N, 6\), \(3, 2\) or \(6,\)"),
        (np.zeros((4, 3, 2, 1), np.uint8), r"shape \(4, 3, 2, 1\)"),
        (np.zeros((4, 7), np.uint8), r"shape \(4, 7\)"),
        (np.zeros(5), r"shape \(5,\)"),
        (3.0, r"shape \(\)"),
        ([], r"shape \(0,\)"),
        (np.zeros((3, 2), np.int64), r"are int64; allowed: uint8 from 0 to 255, or floats.*astype\('uint8'\)"),
        (np.zeros((3, 2), bool), "are bool"),
        (np.zeros((3, 2), complex), "are complex128"),
        ([["a", "b"]] * 3, "are <U1"),
        (np.full((3, 2), None), "are object"),
        ([[1.0], [1.0, 2.0]], "not an array: setting an array element"),
        (np.full((3, 2), 255.0), "have values from 255 to 255; allowed: floats from 0 to 1"),
        (np.array([[0, 0], [0, -0.1], [0, 0]]), "have values from -0.1 to 0"),
        (np.array([[0, 0], [0, math.nan], [0, 0]]), "have values from nan to nan"),
        (np.array([[0, 0], [0, math.inf], [0, 0]]), "have values from 0 to inf"),
    ],
)
def test_invalid_images_are_refused(images, what):
    with pytest.raises(DataError, match=f"^images: .*{what}") as error:
        model().predict(images)
    assert "\n" not in str(error.value)


def test_prediction_used_as_array_raises():
    """Refuse habits from scikit-learn and Keras, which would otherwise fail later, or silently."""
    network, images = model(), images_of(3)
    for habit in (
        lambda: np.argmax(network.predict(images), axis=1),
        lambda: np.zeros(3, int) == network.predict(images),
        lambda: network.predict(images) == 1,
        lambda: network.predict(images) != [0, 0, 0],
        lambda: 1 == network.predict(images),  # noqa: SIM300
        lambda: np.asarray(network.predict(images)),
        lambda: network.predict(network.predict(images)),
    ):
        with pytest.raises((TypeError, DataError), match=r"take \.predicted \(N,\) or \.p"):
            habit()
    one, other = network.predict(images), network.predict(images)
    assert one == one
    assert len({one, other}) == 2


def test_parameters_that_overflow_are_reported():
    network = model("linear_quadratic")
    network.parameters.vector[...] = 1e308
    with pytest.raises(RunError, match=r"it\.npz: its outputs are not finite numbers"):
        network.predict(images_of(1))


# Averages -----------------------------------------------------------------------------------------


def together(*networks, average_shifts=0):
    return predict.Model(*(network._networks[0] for network in networks), average_shifts=average_shifts)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
@pytest.mark.parametrize("shifts", [0, 4, 8])
def test_averages_by_hand(dtype, shifts):
    one, two = model(), model("normalized_sigmoid", hidden=(5, 6))
    images = images_of(7) if dtype is np.uint8 else images_of(7) / 255
    moved = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    places = [(1, 1), (0, 1), (1, 0), (1, 2), (2, 1), (0, 0), (0, 2), (2, 0), (2, 2)][: shifts + 1]
    p = np.mean([each.predict(moved[:, y : y + 3, x : x + 2]).p for y, x in places for each in (one, two)], axis=0)
    found = together(one, two, average_shifts=shifts).predict(images)
    np.testing.assert_allclose(found.p, p, rtol=1e-12)
    assert found.predicted.tolist() == p.argmax(axis=1).tolist()
    assert (found.loss, found.probabilities) == (None, True)


def test_ensemble_of_one_network_predicts_as_it_does():
    images = images_of(7)
    assert np.array_equal(together(model(), model()).predict(images).p, model().predict(images).p)


def test_scores_are_not_averaged():
    hinge = model("linear_hinge")
    with pytest.raises(
        UsageError, match=r"no ensemble with it\.npz: it averages probabilities, and the outputs of line"
    ):
        together(model(), hinge)
    with pytest.raises(
        UsageError, match=r"no average over shifts with it\.npz: it averages probabilities, and the out"
    ):
        together(hinge, average_shifts=4)
    with pytest.raises(UsageError, match="the second takes images of another size"):
        together(model(), model(pixels=(2, 2)))


# Loading ------------------------------------------------------------------------------------------


def test_run_folder_and_checkpoint_load_the_same_model(tiny_config, tiny_images, tmp_path):
    run = train(tiny_config(), out=tmp_path / "run")
    checkpoint = run.path / "checkpoints/best.npz"
    images, labels = tiny_images[2:]
    for given_ in (run, run.path, str(run.path), checkpoint, str(checkpoint)):
        network = predict.load(given_)
        assert network.path == checkpoint
        assert np.count_nonzero(network.predict(images).predicted != labels) == run.test_errors
    assert (network.image_shape, network.classes, network.config) == ((5, 4), 3, run.config)
    assert network.epoch == run.best_epoch
    assert [W.shape for W in network.parameters.W] == [(20, 6), (6, 3)]
    assert repr(network) == f"<mlpcli.Model 20-6-3, softmax_cross_entropy, epoch {run.best_epoch}: {checkpoint}>"


def test_ensemble_is_loaded(tiny_config, tiny_images, tmp_path):
    runs = [train(tiny_config(f"seed={seed}"), out=tmp_path / f"{seed}") for seed in (1, 2)]
    images, _ = tiny_images[2:]
    network = predict.load(runs[0], runs[1].path, average_shifts=4)
    files = [run.path / "checkpoints/best.npz" for run in runs]
    assert (network.paths, network.path, network.average_shifts) == (tuple(files), files[0], 4)
    assert repr(network) == f"<mlpcli.Model, an ensemble of 2: {files[0]}, {files[1]}>"
    assert np.array_equal(
        network.predict(images).p, together(*map(predict.load, files), average_shifts=4).predict(images).p
    )


@pytest.mark.parametrize("shifts", [1, -4, 4.0, True, "4", None, 10**400])
def test_other_numbers_of_shifts_are_refused(shifts):
    with pytest.raises(UsageError, match=r"^average_shifts: .* is not allowed; allowed: 0, 4 or 8$"):
        predict.load("anything", average_shifts=shifts)


def test_path_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="no such run or checkpoint"):
        predict.load(tmp_path / "none")
    for thing in (None, 3, object(), [tmp_path], Config()):
        with pytest.raises(UsageError, match="is not a run; give a Run, or the path of a run or of a checkpoint"):
            predict.load(thing)


# Entropy ------------------------------------------------------------------------------------------


def test_entropy_by_hand():
    p = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4, [0.5, 0.25, 0.125, 0.125], [0.9, 0.9, 0, 0], [0] * 4])
    found = predict.entropy(p)
    assert found[:5].tolist() == [0, 1, 2, 1.75, 1]
    assert math.copysign(1, found[0]) == 1
    assert math.isnan(found[5])


@given(st.integers(0, 2**32), st.integers(2, 12))
def test_entropy_is_between_0_and_that_of_equal_classes(seed, classes):
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(classes, 10.0 ** random.uniform(-3, 3)), 20)
    found = predict.entropy(p)
    assert (found >= 0).all()
    assert (found <= math.log2(classes) + 1e-12).all()
    np.testing.assert_allclose(predict.entropy(p[:, ::-1]), found, atol=1e-12)


# Answers ------------------------------------------------------------------------------------------


def answers(network, pixels, **changes):
    blank = np.ptp(pixels, axis=(1, 2)) == 0
    return list(predict.answers(network, replace(Images("it", pixels, blank, numbered=True), **changes)))


def test_answers_equal_the_predictions_one_by_one():
    network, pixels = model(hidden=()), images_of(50)
    network.parameters.vector[...] *= 2  # more confident of some
    predictions = network.predict(pixels)
    found = answers(network, pixels)
    assert [answer.index for answer in found] == list(range(50))
    assert [answer.predicted for answer in found] == predictions.predicted.tolist()
    assert [answer.p.tolist() for answer in found] == predictions.p.tolist()
    assert [answer.entropy for answer in found] == predict.entropy(predictions.p).tolist()
    for answer in found:
        assert answer.warnings == ((predict.UNSURE,) if answer.entropy > 1 else ())
        assert [k for k, _ in answer.top()] == np.argsort(-answer.p)[:3].tolist()
    assert len({answer.warnings for answer in found}) == 2


def test_blank_image_is_no_digit():
    pixels = images_of(3)
    pixels[1] = 7
    found = answers(model(), pixels, numbered=False, remarks=("is odd",))
    assert [answer.index for answer in found] == [None] * 3
    assert found[1].predicted is None
    assert found[1].warnings == ("is odd", BLANK)
    assert found[0].predicted is not None
    assert BLANK not in found[0].warnings
    assert len(found[1].top()) == 3


def test_scores_have_no_entropy():
    assert {answer.entropy for answer in answers(model("linear_hinge"), images_of(9))} == {None}


def test_predicted_class_is_first_among_equal_outputs():
    network = model("sigmoid_cross_entropy", hidden=(), classes=2)
    network.parameters.vector[...] = 0
    network.parameters.b[0][...] = 800, 900
    (answer,) = answers(network, images_of(1))
    assert answer.top() == [(1, 1.0), (0, 1.0)]


def test_entropy_is_none_if_all_sigmoids_are_0():
    network = model("sigmoid_cross_entropy", hidden=())
    network.parameters.vector[...] = 0
    network.parameters.b[0][...] = -800
    (answer,) = answers(network, images_of(1))
    assert (answer.entropy, answer.warnings) == (None, ())
