"""Evaluation: hand-computed and published figures, and properties of any outputs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.analysis import evaluation as ev
from mlpcli.config import Config, DataConfig, NetworkConfig
from mlpcli.datasets.load import Part, Split
from mlpcli.errors import DataError, RunError, UsageError
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.state import State, architecture_of
from mlpcli.training.evaluate import Evaluator
from mlpcli.training.targets import OneHot

HASHES = {"train-images-idx3-ubyte": "a", "train-labels-idx1-ubyte": "b"}


def outputs(p, *, probabilities=True, log_likelihood=True, loss=1.0):
    p = np.array(p, float)
    return ev.Outputs(p, p.argmax(axis=1), loss, probabilities, log_likelihood)


def model(objective="softmax_cross_entropy", *, pixels=(2, 3), classes=3, dataset="digits", hashes=HASHES, **data):
    """A checkpoint of a network with no hidden layer and parameters drawn from N(0, 1)."""
    config = Config(data=DataConfig(**{"dataset": dataset, **data}), network=NetworkConfig((), objective=objective))
    theta = architecture_of(config, math.prod(pixels), classes).parameters("float32")
    theta.vector[...] = np.random.default_rng(0).normal(size=theta.vector.shape)
    checkpoint = Checkpoint(config, dataset, dict(hashes), pixels, classes, State(theta))
    return ev.LoadedModel(Path(f"{objective}.npz"), None, checkpoint)


def random_split(examples, pixels=(2, 3), classes=3):
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (examples, math.prod(pixels)), np.uint8)
    return Split(images, random.integers(0, classes, examples, np.uint8))


def part_of(split, pixels=(2, 3), classes=3, hashes=HASHES):
    return Part("digits", pixels, classes, split, dict(hashes), None)


# The interval -------------------------------------------------------------------------------------


# The first four from Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 10, 0.0000, 0.2775),
    ],
)
def test_wilson_interval_equals_published_values(count, total, low, high):
    interval = ev.wilson_interval(count, total)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert interval.level == 0.95


def test_wilson_interval_of_another_level():
    # None of n: z^2 / (n + z^2), and z = 1 leaves 15.866 % on either side.
    assert ev.wilson_interval(0, 9, level=0.682689492137).high == pytest.approx(0.1)


COUNTS = st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@given(COUNTS, st.floats(0.5, 0.999))
def test_wilson_interval_contains_fraction_and_is_symmetric(counts, level):
    count, total = counts
    interval, mirrored = ev.wilson_interval(count, total, level), ev.wilson_interval(total - count, total, level)
    assert 0 <= interval.low <= count / total <= interval.high <= 1
    assert interval.low < interval.high
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-12)


# Confusion, precision, recall, F1 -----------------------------------------------------------------


def test_confusion_and_class_scores_by_hand():
    confusion = ev.confusion_matrix(np.array([0, 0, 0, 1, 1, 2], np.uint8), np.array([0, 0, 1, 1, 0, 1]), 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert ev.class_scores(confusion) == (
        ev.ClassScores(0, 3, precision=2 / 3, recall=2 / 3, f1=2 / 3),
        ev.ClassScores(1, 2, precision=1 / 3, recall=1 / 2, f1=2 / 5),
        ev.ClassScores(2, 1, precision=None, recall=0.0, f1=0.0),
        ev.ClassScores(3, 0, precision=None, recall=None, f1=None),
    )


PAIRS = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=60)


@given(PAIRS)
def test_confusion_sums_and_f1_harmonic_mean(pairs):
    labels, predicted = np.array(pairs, np.uint8).T
    confusion = ev.confusion_matrix(labels, predicted, 256)
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=256).tolist()
    assert confusion.sum(axis=0).tolist() == np.bincount(predicted, minlength=256).tolist()
    for score in ev.class_scores(confusion):
        if score.precision and score.recall:
            assert score.f1 == pytest.approx(2 / (1 / score.precision + 1 / score.recall))


# Calibration --------------------------------------------------------------------------------------


def test_expected_calibration_error_by_hand():
    # (7/15, 8/15] holds 0.5 twice, half right: no error. (13/15, 14/15] holds 0.9 twice, none right: 2 * 0.9.
    # (14/15, 1] holds 1.0, right.
    found = ev.calibration(np.array([0.5, 0.9, 0.5, 0.9, 1.0]), np.array([True, False, False, False, True]))
    assert found.expected_calibration_error == pytest.approx(1.8 / 5)
    assert [(i, b.examples, b.confidence, b.accuracy) for i, b in enumerate(found.bins) if b.examples] == [
        (7, 2, 0.5, 0.5),
        (13, 2, 0.9, 0.0),
        (14, 1, 1.0, 1.0),
    ]
    assert (found.bins[0].confidence, found.bins[0].accuracy) == (None, None)
    assert (found.bins[0].low, found.bins[7].low, found.bins[14].high) == (0.0, 7 / 15, 1.0)


def test_confidence_on_an_edge_is_in_the_bin_below():
    found = ev.calibration(np.array([1 / 15, 3 / 15, 1.0]), np.array([True, True, True]))
    assert [i for i, b in enumerate(found.bins) if b.examples] == [0, 2, 14]


@given(st.lists(st.tuples(st.floats(1e-9, 1.0), st.booleans()), min_size=1, max_size=50))
def test_expected_calibration_error_equals_its_definition(pairs):
    total = 0.0
    for m in range(15):
        inside = [(c, r) for c, r in pairs if m / 15 < c <= (m + 1) / 15]
        total += abs(sum(r for _, r in inside) - sum(c for c, _ in inside)) / len(pairs)
    confidence, right = map(np.array, zip(*pairs, strict=True))
    found = ev.calibration(confidence, right)
    assert found.expected_calibration_error == pytest.approx(total, abs=1e-12)
    assert sum(b.examples for b in found.bins) == len(pairs)


# Mistakes -----------------------------------------------------------------------------------------


def test_worst_mistakes_by_confidence_then_file_order():
    p = [[0.6, 0.4], [0.9, 0.1], [0.99, 0.01], [0.4, 0.6], [0.1, 0.9]]
    labels = np.array([1, 1, 0, 0, 0], np.uint8)
    worst = ev.evaluate(outputs(p), labels, 3).worst
    assert worst == (ev.Mistake(1, 1, 0, 0.9), ev.Mistake(4, 0, 1, 0.9), ev.Mistake(0, 1, 0, 0.6))
    assert len(ev.evaluate(outputs(p), labels, 100).worst) == 4
    assert ev.evaluate(outputs(p), labels).worst == ()


# The whole ----------------------------------------------------------------------------------------


def test_evaluation_by_hand():
    result = ev.evaluate(
        outputs([[0.75, 0.25], [0.25, 0.75], [0.75, 0.25]], loss=0.5), np.array([0, 1, 1], np.uint8), 1
    )
    assert (result.examples, result.errors, result.error, result.loss) == (3, 1, 1 / 3, 0.5)
    assert result.confusion.tolist() == [[1, 0], [1, 1]]
    assert result.interval == ev.wilson_interval(1, 3)
    assert result.calibration.expected_calibration_error == pytest.approx(0.75 - 2 / 3)


def test_scores_have_no_calibration():
    assert ev.evaluate(outputs([[7.0, -3.0]], probabilities=False), np.array([0])).calibration is None


# Ensembles ----------------------------------------------------------------------------------------


def test_ensemble_of_one_is_its_model():
    one = outputs([[0.2, 0.8]])
    assert ev.ensemble_outputs([one], np.array([0])) is one


def test_ensemble_predicts_by_the_mean():
    # Two of three predict class 0, the third is more confident of class 1.
    models = [outputs([[0.6, 0.4]]), outputs([[0.6, 0.4]]), outputs([[0.05, 0.95]])]
    together = ev.ensemble_outputs(models, np.array([1], np.uint8))
    assert together.p.tolist() == [pytest.approx([1.25 / 3, 1.75 / 3])]
    assert together.predicted.tolist() == [1]
    assert together.confidence.tolist() == [pytest.approx(1.75 / 3)]
    assert together.loss == pytest.approx(-math.log(1.75 / 3))
    assert together.probabilities
    unlabelled = ev.ensemble_outputs(models)
    assert (unlabelled.p.tolist(), unlabelled.loss) == (together.p.tolist(), None)


def test_ensemble_loss_is_none_unless_finite():
    labels = np.array([0])
    mixed = [outputs([[0.5, 0.5]]), outputs([[0.5, 0.5]], log_likelihood=False)]
    assert ev.ensemble_outputs(mixed, labels).loss is None
    assert ev.ensemble_outputs([outputs([[0.0, 1.0]])] * 2, labels).loss is None


@given(st.integers(0, 2**32), st.integers(2, 5))
def test_ensemble_loss_is_at_most_mean_of_models(seed, size):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, 20)
    ps = random.dirichlet(np.full(4, 0.3), (size, 20)) + 1e-9
    models = [outputs(p, loss=-np.log(p[np.arange(20), labels]).mean()) for p in ps]
    together = ev.ensemble_outputs(models, labels)
    assert together.loss <= np.mean([one.loss for one in models]) + 1e-12
    assert ev.ensemble_outputs(models[::-1], labels).p == pytest.approx(together.p)
    assert ev.ensemble_outputs([models[0]] * size, labels).loss == pytest.approx(models[0].loss)


@pytest.mark.parametrize(
    ("other", "split", "dataset", "what"),
    [
        (model(pixels=(3, 2)), "test", None, "takes images of another size"),
        (model(classes=4), "test", None, "predicts another number of classes"),
        (model(hashes={**HASHES, "train-images-idx3-ubyte": "c"}), "test", None, "was trained on other images"),
        (model(dataset="mnist"), "test", None, "was trained on other images"),
        (model(transpose=True), "test", "digits", "was trained on the same images in another orientation"),
        (model(validation=0.2), "validation", "digits", "held out other images"),
        (model("linear_hinge"), "test", None, "the outputs of linear_hinge are not probabilities"),
    ],
)
def test_incompatible_ensemble_is_refused(other, split, dataset, what):
    with pytest.raises(UsageError, match=what):
        check(split, dataset, model(), other)


def check(split, dataset, *models, shifts=0):
    ev.check_average(models, shifts)
    ev.check_same_images(models, split, dataset)


def test_ensemble_may_mix_objectives_and_splits():
    check("validation", None, model(), model("sigmoid_quadratic"), shifts=4)
    check("test", None, model(), model(validation=0.2))
    check("test", "mnist", model(), model(dataset="mnist", hashes={}))
    check("test", None, model("linear_hinge"))
    check("test", None, model(transpose=False), model())
    check("test", "digits", model(transpose=True), model(hashes={}))


# From a checkpoint to outputs ---------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_outputs_agree_with_the_evaluation_in_training(objective):
    one, split = model(objective), random_split(1203)
    architecture = architecture_of(one.checkpoint.config, 6, 3)
    loss, errors = Evaluator(architecture, split, OneHot(3), "float32").loss_and_errors(one.checkpoint.parameters)
    found = ev.outputs(one, split)
    assert (found.loss, ev.evaluate(found, split.labels).errors) == (loss, errors)
    X = split.images / 255
    z = X @ one.checkpoint.parameters.W[0].astype(float) + one.checkpoint.parameters.b[0]
    p = np.empty_like(z)
    OBJECTIVES[objective].output(z, p)
    np.testing.assert_allclose(found.p, p, atol=1e-5)
    assert found.probabilities == OBJECTIVES[objective].probabilities
    picked = found.p[np.arange(1203), split.labels]
    assert found.log_likelihood == (pytest.approx(-np.log(np.abs(picked)).mean(), rel=1e-5) == loss)


def test_largest_logit_decides_if_p_are_equal():
    one = model("sigmoid_cross_entropy")
    one.checkpoint.parameters.W[0][...] = 0
    one.checkpoint.parameters.b[0][...] = [800, 900, 0]
    found = ev.outputs(one, random_split(2))
    assert found.p[0, 0] == found.p[0, 1] == 1.0
    assert found.predicted.tolist() == [1, 1]


def test_confidence_near_one_is_not_rounded_to_one():
    one = model()
    one.checkpoint.parameters.W[0][...] = 0
    one.checkpoint.parameters.b[0][...] = [20, 0, 0]
    assert ev.outputs(one, random_split(1)).confidence[0] == pytest.approx(1 / (1 + 2 * math.exp(-20)), rel=1e-15)


@pytest.mark.parametrize(
    ("objective", "size"), [("softmax_cross_entropy", 3e38), ("linear_quadratic", 1e25), ("sigmoid_quadratic", 3e38)]
)
def test_nonfinite_outputs_are_refused(objective, size):
    one = model(objective)
    one.checkpoint.parameters.vector[...] = size
    with pytest.raises(RunError, match="not finite"):
        ev.outputs(one, random_split(3))


# Data ---------------------------------------------------------------------------------------------


def test_data_are_those_of_the_config_by_default(tmp_path):
    (tmp_path / "mnist").mkdir()
    config = Config(data=DataConfig(folder=str(tmp_path), sources=("https://example.org/",), validation=0.25))
    own = replace(model().checkpoint, config=config, dataset="mnist")
    assert ev.data_for(own) == replace(config.data, sources=None)
    assert ev.data_for(own, folder="here").folder == "here"
    assert ev.data_for(own, sources=("x",)).sources == ("x",)
    assert ev.data_for(own, offline=True).offline
    other = ev.data_for(own, dataset=str(tmp_path))
    assert (other.dataset, other.sources, other.validation) == (str(tmp_path), None, 0.25)


def test_source_overrides_an_offline_config():
    own = model(dataset="mnist", offline=True).checkpoint
    assert ev.data_for(own).offline
    assert not ev.data_for(own, sources=("x",)).offline


def test_model_of_fallback_is_evaluated_on_the_sample():
    config = Config(data=DataConfig("mnist", fallback="mnist-sample"))
    fell = replace(model().checkpoint, config=config, dataset="mnist-sample")
    assert ev.fallback_from(fell) == "mnist"
    assert (ev.data_for(fell).dataset, ev.data_for(fell).fallback) == ("mnist-sample", None)
    assert ev.data_for(fell, dataset="mnist").dataset == "mnist"


def test_unused_fallback_is_not_evaluated():
    own = replace(model().checkpoint, config=Config(data=DataConfig("mnist", fallback="mnist-sample")), dataset="mnist")
    assert ev.fallback_from(own) is None
    assert (ev.data_for(own).dataset, ev.data_for(own).fallback) == ("mnist", None)


def test_sample_named_by_config_is_no_fallback():
    config = Config(data=DataConfig("mnist-sample", fallback="mnist-sample"))
    assert ev.fallback_from(replace(model().checkpoint, config=config, dataset="mnist-sample")) is None


def test_folder_named_like_the_sample_is_no_fallback(tmp_path):
    folder = tmp_path / "mnist-sample"
    folder.mkdir()
    config = Config(data=DataConfig(str(folder), fallback="mnist-sample"))
    own = replace(model().checkpoint, config=config, dataset="mnist-sample")
    assert ev.fallback_from(own) is None
    assert ev.data_for(own).dataset == str(folder)


def test_moved_folder_can_be_given(tmp_path):
    own = model(dataset=str(tmp_path / "gone")).checkpoint
    with pytest.raises(DataError, match="--data"):
        ev.data_for(own)
    assert ev.data_for(own, dataset="mnist").dataset == "mnist"


def test_wrong_image_size_or_classes_are_refused():
    one, split = model().checkpoint, random_split(2)
    ev.check_fit(one, part_of(split))
    ev.check_fit(one, part_of(split, classes=2))
    with pytest.raises(DataError, match="3 x 2 pixels, the network takes 2 x 3"):
        ev.check_fit(one, part_of(split, pixels=(3, 2)))
    with pytest.raises(DataError, match="has 4 classes, the network predicts 3"):
        ev.check_fit(one, part_of(split, classes=4))


def test_files_other_than_those_of_training_are_named():
    one, split = model().checkpoint, random_split(2)
    assert ev.changed_files(one, part_of(split)) == []
    assert ev.changed_files(one, part_of(split, hashes={"t10k-labels-idx1-ubyte": "z"})) == []
    other = {**HASHES, "train-labels-idx1-ubyte": "z"}
    assert ev.changed_files(one, part_of(split, hashes=other)) == ["train-labels-idx1-ubyte"]
