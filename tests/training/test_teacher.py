"""The targets that trained networks give: their mean probabilities, whatever their dtype, images and outputs."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlpcli.datasets.deskew import deskewed
from mlpcli.errors import ConfigError
from mlpcli.parallel.forked import ForkedGroup
from mlpcli.rng import keyed_rng
from mlpcli.state import architecture_of
from mlpcli.training.initial import draw_parameters
from mlpcli.training.teacher import Teacher, TeacherTargets, check_teacher
from mlpcli.training.trainer import Trainer
from tests.parallel.threads import ThreadGroup, in_threads, results
from tests.training.small import CLASSES, assert_equal_runs, assert_same_bytes, config_of, dataset_of

SHAPE = (4, 5)
NAMES = ("0", "1", "2")
SOFTMAX = "network.objective=softmax_cross_entropy"


def teacher_of(*overrides: str, shape: tuple[int, int] = SHAPE, names: tuple[str, ...] = NAMES, **more: Any) -> Teacher:
    config = config_of("network.initial_scale=3", *overrides)
    theta = draw_parameters(config, architecture_of(config, shape[0] * shape[1], len(names)), shape)
    return Teacher("teacher", config, theta, shape, names, **{"multi_label": False, **more})


def images_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (count, 20))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def logits_of(teacher: Teacher, images: np.ndarray) -> np.ndarray:
    (W1, W2), (b1, b2) = teacher.theta.W, teacher.theta.b
    return sigmoid(images / 255 @ W1 + b1) @ W2 + b2


def targets(teachers: list[Teacher], images: np.ndarray, preprocessing: str | None = None, rows: int = 0) -> np.ndarray:
    Y = np.full((len(images), CLASSES), np.nan, images.dtype)
    TeacherTargets(teachers, max(rows, len(images)), preprocessing).write(images, Y)
    return Y


def test_targets_are_the_mean_probabilities():
    teachers = [teacher_of(SOFTMAX, f"seed={seed}", f"network.hidden=[{4 + seed}]") for seed in range(3)]
    images = images_of(7)
    expected = np.mean([softmax(logits_of(teacher, images)) for teacher in teachers], axis=0)
    np.testing.assert_allclose(targets(teachers, images), expected, rtol=1e-12)


def test_fewer_images_than_rows_and_none():
    teacher, images = teacher_of(), images_of(9)
    source, whole = TeacherTargets([teacher], 9, None), targets([teacher], images)
    for count in (9, 4, 0, 4, 9):
        Y = np.empty((count, CLASSES))
        source.write(images[:count], Y)
        np.testing.assert_allclose(Y, whole[:count], rtol=1e-12)


@pytest.mark.parametrize(("theirs", "ours"), [("float32", "float64"), ("float64", "float32")])
def test_teacher_may_have_another_dtype(theirs: str, ours: str):
    teacher, images = teacher_of(f"network.dtype={theirs}"), images_of(5)
    found = targets([teacher], images.astype(ours))
    assert found.dtype == ours
    np.testing.assert_allclose(found, targets([teacher.in_float64()], images), atol=1e-6)


def test_teacher_deskews_images_that_are_slanted():
    teacher, images = teacher_of("data.preprocessing=deskew"), images_of(5)
    plain = replace(teacher, config=config_of())
    upright = deskewed(images, SHAPE)
    assert not np.allclose(upright, images)
    assert np.array_equal(targets([teacher], images), targets([plain], upright))


def test_no_image_is_deskewed_twice():
    teacher, images = teacher_of("data.preprocessing=deskew"), images_of(5)
    plain = replace(teacher, config=config_of())
    assert np.array_equal(targets([teacher], images, "deskew"), targets([plain], images))


def test_single_output_of_two_classes_gives_both():
    teacher = teacher_of("network.single_output=true", "network.objective=sigmoid_cross_entropy", names=NAMES[:2])
    images = images_of(5)
    Y = np.empty((5, 2))
    TeacherTargets([teacher], 5, None).write(images, Y)
    p = sigmoid(logits_of(teacher, images))
    np.testing.assert_allclose(Y, np.concatenate([1 - p, p], axis=1), rtol=1e-12)
    check_teacher(teacher, config_of(), SHAPE, NAMES[:2], multi_label=False)  # its two probabilities sum to 1


@pytest.mark.parametrize(
    ("teacher", "of", "what"),
    [
        (teacher_of(shape=(5, 4)), {}, "takes images of 5 x 4 pixels, and the training images have 4 x 5"),
        (teacher_of(names=("0", "1")), {}, "predicts 2 classes, and the training images have 3"),
        (teacher_of(names=("a", "b", "c")), {}, "predicts other classes"),
        (teacher_of("network.objective=linear_quadratic"), {}, "outputs of linear_quadratic are not probabilities"),
        (teacher_of("network.objective=sigmoid_cross_entropy"), {}, "do not sum to 1"),
        (teacher_of(multi_label=True), {}, "several labels per image, and the training images have one label"),
        (teacher_of(), {"multi_label": True}, "one label per image, and the training images have several labels"),
    ],
)
def test_teacher_that_does_not_fit_is_refused(teacher: Teacher, of: dict[str, Any], what: str):
    given = {"image_shape": SHAPE, "class_names": NAMES, "multi_label": False, **of}
    with pytest.raises(ConfigError, match=r"^training\.teacher: teacher: ") as error:
        check_teacher(teacher, config_of(), **given)
    assert what in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("softmax_cross_entropy", "sigmoid_cross_entropy"),
        ("normalized_sigmoid", "softmax_cross_entropy"),
        ("sigmoid_quadratic", "linear_quadratic"),
    ],
)
def test_teacher_may_have_another_objective(theirs: str, ours: str):
    teacher = teacher_of(f"network.objective={theirs}")
    check_teacher(teacher, config_of(f"network.objective={ours}"), SHAPE, NAMES, multi_label=False)


# Training ---------------------------------------------------------------------------------------------------------

STUDENT = ("training.teacher=[a, b]", "training.epochs=2", "network.objective=softmax_cross_entropy")
EVERYTHING = ("augmentation.rotation=20", "augmentation.shift=1", "training.input_dropout=0.3", "training.dropout=0.4")


def small_teachers(dtype: str = "float64") -> list[Teacher]:
    objective = "network.objective=softmax_cross_entropy"
    return [teacher_of(objective, f"seed={seed}", f"network.dtype={dtype}", shape=(1, 4)) for seed in (1, 2)]


def test_trainer_needs_the_teachers_of_its_config():
    with pytest.raises(ValueError, match="1 teachers are given"):
        Trainer(config_of(*STUDENT), dataset_of(20), teachers=small_teachers()[:1])
    with pytest.raises(ValueError, match="0 teachers are given"):
        Trainer(config_of(*STUDENT), dataset_of(20))


def test_targets_are_of_the_distorted_images_before_dropout():
    """A student that is its own teacher has no gradient at all, except that of its dropped inputs."""
    config, dataset = config_of(*STUDENT[:2], "augmentation.rotation=20", "training.l2=0"), dataset_of(40)
    config = replace(config, training=replace(config.training, teacher=("itself",)))
    theta = Trainer(replace(config, training=replace(config.training, teacher=None)), dataset).state.theta
    itself = Teacher("itself", config, theta, (1, 4), NAMES, multi_label=False)
    trainer = Trainer(config, dataset, teachers=[itself])
    list(trainer.epochs())
    np.testing.assert_allclose(trainer.state.theta.vector, theta.vector, atol=1e-12)
    dropped = replace(config, training=replace(config.training, input_dropout=0.5))
    trainer = Trainer(dropped, dataset, teachers=[itself])
    list(trainer.epochs())
    assert not np.allclose(trainer.state.theta.vector, theta.vector, atol=1e-3)


@pytest.mark.parametrize("changes", [(), EVERYTHING, ("network.hidden=[20, 13, 9]",)], ids=["plain", "all", "deep"])
@pytest.mark.parametrize("share", ["examples", "units"])
@pytest.mark.parametrize("size", [2, 5])
def test_result_does_not_depend_on_number_of_processes(changes: tuple[str, ...], share: str, size: int):
    """Batches of 8, the last of 3: of 5 processes, some have none of its examples."""
    config, dataset, teachers = config_of(*STUDENT, *changes), dataset_of(43, 12), small_teachers()
    one = Trainer(config, dataset, teachers=teachers)
    expected = list(one.epochs()), one.state
    if share == "units":
        with ForkedGroup(size) as group:
            trainer = Trainer(config, dataset, None, group, teachers)
            group.start_workers(trainer)
            found = list(trainer.epochs()), trainer.state
    else:

        def work(comm):
            trainer = Trainer(config, dataset, None, ThreadGroup(comm), teachers)
            return list(trainer.epochs()), trainer.state

        found, *others = results(in_threads(size, work))
        for other in others:
            assert_same_bytes(other, found)
    assert_equal_runs(found, expected)


def test_job_sends_the_teachers():
    config, dataset = config_of(*STUDENT), dataset_of(20)
    here = Trainer(config, dataset, teachers=small_teachers("float32"))
    config, dataset, state, teachers = pickle.loads(pickle.dumps(here.job))
    there = Trainer(config, dataset, state, teachers=teachers)
    assert_same_bytes((list(here.epochs()), here.state), (list(there.epochs()), there.state))


def test_loss_is_that_of_the_soft_targets():
    """For one batch and no learning to speak of: the cross-entropy with the teachers' mean probabilities."""
    config = config_of(*STUDENT, "training.batch_size=20", "training.learning_rate=1e-9", "training.epochs=1")
    dataset, teachers = dataset_of(20), small_teachers()
    trainer = Trainer(config, dataset, teachers=teachers)
    theta = trainer.state.theta
    student = replace(teachers[0], theta=type(theta)(theta.sizes, np.float64, theta.vector.copy()))
    X = dataset.train.images[keyed_rng(0, "order", 1).permutation(20)]
    Y = np.mean([softmax(logits_of(teacher, X)) for teacher in teachers], axis=0)
    (record,) = trainer.epochs()
    assert record.train_loss == pytest.approx(-(Y * np.log(softmax(logits_of(student, X)))).sum(axis=1).mean())
