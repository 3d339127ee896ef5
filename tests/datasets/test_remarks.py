"""Remarks about data that teach little: one line each, with the remedy; none about good data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlpcli.config import DataConfig
from mlpcli.datasets.load import Dataset, Split, load_dataset
from mlpcli.datasets.remarks import guessing, remarks, with_default_validation

RANDOM = np.random.default_rng(0)
SHAPE = (6, 5)  # of images whose bytes are no multiple of eight


def split(count: int, classes: int = 3) -> Split:
    """Return light marks on a dark background."""
    images = np.zeros((count, *SHAPE), np.uint8)
    images[:, 1:-1, 1:-1] = RANDOM.integers(0, 256, (count, SHAPE[0] - 2, SHAPE[1] - 2))
    images[:, 2, 2] = 255
    return Split(images.reshape(count, -1), np.arange(count).astype(np.uint8) % classes)


def dataset(**changes: Any) -> Dataset:
    test = changes.pop("test", split(30))
    made = Dataset("d", SHAPE, 3, split(60), split(30), {}, None, lambda: test, ("a", "b", "c"))
    return replace(made, **changes)


def of(made: Dataset, order: str = "file") -> list[str]:
    return [remark.message for remark in remarks(made, order)]


def labelled(made: Split, *labels: int) -> Split:
    return Split(made.images, np.resize(np.array(labels, np.uint8), len(made)))


def painted(made: Split, change) -> Split:
    return Split(change(made.images).astype(np.uint8), made.labels)


def test_good_data_have_no_remark():
    assert of(dataset()) == []
    assert of(dataset(validation=None, has_test=False)) == []
    assert of(load_dataset(DataConfig(dataset="mnist-sample"))) == []


def nearly_black(images: np.ndarray) -> np.ndarray:
    return images // 255


def inverted(images: np.ndarray) -> np.ndarray:
    return 255 - images


def test_sorted_files_and_one_class_in_validation():
    made = dataset(train=labelled(split(60), 0, 1), validation=labelled(split(30), 2), test=split(30))
    (message,) = of(made)
    assert "the last in file order, show only c, and no training image shows c" in message
    assert "data.validation_order: shuffled" in message
    (drawn,) = of(made, "shuffled")
    assert "in file order" not in drawn and "hold out others" in drawn
    most = dataset(train=labelled(split(60), 0, 1), validation=labelled(split(90), 0, 1, 2))
    assert "show all classes, and no training image shows c: " in of(most)[0]
    few = dataset(validation=labelled(split(14), 0, 1))  # of this few, a class may be absent by chance
    assert of(few) == []


@pytest.mark.parametrize(
    ("changes", "kind", "expected"),
    [
        ({"train": labelled(split(60), 0, 1), "validation": None}, "classes", "no training image of c"),
        ({"test": labelled(split(30), 0, 2)}, "classes", "no test image of b"),
        ({"train": labelled(split(60), *[0] * 29, *[1] * 29, 2, 2)}, "classes", "29 training images of a and 2 of c"),
        ({"class_names": ("0", "1", "5")}, "classes", "0 to 5 have gaps, 2, 3, 4: 3 classes are trained"),
        ({"train": split(2), "validation": None}, "images", "2 training images of 3 classes are too few"),
        ({"test": split(2)}, "images", "2 test images of 3 classes are too few"),
    ],
    ids=["training lacks", "test lacks", "uneven", "gaps", "few", "few of the test"],
)
def test_remarks_about_classes(changes: dict[str, object], kind: str, expected: str):
    (remark,) = remarks(dataset(**changes))
    assert remark.kind == kind and expected in remark.message and "\n" not in remark.message


def test_labels_from_1_have_no_gap():
    assert of(dataset(class_names=("1", "2", "3"))) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (nearly_black, "their brightest pixel being 1 of 255, and will teach little: multiply their pixels by 255"),
        (inverted, "dark on a light background"),
        (np.zeros_like, "no training image has two different pixels"),
        (lambda images: images[:1].repeat(len(images), 0), "training images are the same"),
    ],
    ids=["divided by 255", "inverted", "blank", "all the same"],
)
def test_remarks_about_pixels(change, expected: str):
    made = dataset(train=painted(split(60), change), validation=None, has_test=False)
    (message,) = of(made)
    assert expected in message


def test_remark_about_a_test_set_unlike_training():
    (message,) = of(dataset(test=painted(split(30), inverted)))
    assert "the test images are dark on light, and the training images light on dark" in message


def test_duplicates_are_counted_in_each_split():
    train = split(60)
    copied = Split(np.concatenate([train.images[5:9], split(26).images]), split(30).labels)
    changed = train.images[:1].copy()
    changed[0, -1] ^= 1  # the last bit of the last, incomplete word
    near = Split(np.concatenate([changed, split(29).images]), split(30).labels)
    messages = of(dataset(train=train, validation=near, test=copied))
    assert len(messages) == 1
    assert messages[0].startswith("4 of the 30 test images are training images too")
    assert of(dataset(train=train, validation=copied))[0].startswith("4 of the 30 validation images")


@pytest.mark.parametrize("width", range(1, 20))
def test_images_that_differ_in_one_bit_are_no_duplicates(width: int):
    image = np.zeros((1, width), np.uint8)
    flipped = (np.uint8(1) << np.arange(8, dtype=np.uint8))[:, None, None] * np.eye(width, dtype=np.uint8)
    others = flipped.reshape(-1, width)
    made = dataset(
        image_shape=(1, width),
        train=Split(others, np.arange(len(others)).astype(np.uint8) % 3),
        validation=None,
        test=Split(image, np.zeros(1, np.uint8)),
    )
    assert not [message for message in of(made) if "training images too" in message]


def test_default_validation_is_the_last_tenth():
    made = with_default_validation(dataset(train=split(200), validation=None))
    assert (len(made.train), len(made.validation or ())) == (180, 20)
    few = dataset(train=split(100), validation=None)
    assert with_default_validation(few) is few


def test_guessing_is_the_error_of_the_most_frequent_class():
    assert guessing(np.array([1, 1, 1, 0], np.uint8), ("a", "b")) == ("b", 0.25)
