"""IDX files under their common names, and class names."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.load import load_dataset, load_split
from mlpcli.errors import DataError

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.integers(0, 256, (12, 3, 2), np.uint8)
LABELS = np.array([1, 2, 3] * 4, np.uint8)


def write(folder: Path, *names: str, labels: np.ndarray = LABELS) -> Path:
    """Write the files ``names``: training images and labels, then perhaps test images and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, (IMAGES, labels, IMAGES[:6], labels[:6]), strict=False):
        data = idx.encode(array)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def names(pattern: str) -> list[str]:
    """Return MNIST's names in the form of ``pattern``, such as '{}-{}-idx{}-ubyte'."""
    roles = [("train", "images", 3), ("train", "labels", 1), ("t10k", "images", 3), ("t10k", "labels", 1)]
    return [pattern.format(*role) for role in roles]


def load(path: Path, **keys: object):
    messages: list[str] = []
    return load_dataset(DataConfig(dataset=str(path), **{"validation": 0.0, **keys}), say=messages.append), messages


@pytest.mark.parametrize(
    "pattern",
    [
        "{}-{}-idx{}-ubyte",
        "{}-{}-idx{}-ubyte.gz",
        "{}-{}.idx{}-ubyte",
        "{}-{}-idx{}-ubyte/{}-{}-idx{}-ubyte",
        "emnist-letters-{}-{}-idx{}-ubyte.gz",
        "{}_{}_idx{}_ubyte",
        "{}-{}.gz",
    ],
)
@pytest.mark.parametrize("test_is_called", ["t10k", "test"])
def test_common_names_are_found(tmp_path: Path, pattern: str, test_is_called: str):
    roles = [
        ("train", "images", 3),
        ("train", "labels", 1),
        (test_is_called, "images", 3),
        (test_is_called, "labels", 1),
    ]
    write(tmp_path, *(pattern.format(*role, *role) for role in roles))
    dataset, _ = load(tmp_path, transpose=False)
    assert np.array_equal(dataset.train.images, IMAGES.reshape(12, 6))
    assert dataset.class_names == ("1", "2", "3")
    assert np.array_equal(dataset.train.labels, LABELS - 1)
    assert np.array_equal(dataset.test().labels, LABELS[:6] - 1)


def test_case_is_ignored(tmp_path: Path):
    write(tmp_path, *(name.upper() for name in names("{}-{}-idx{}-ubyte")))
    assert len(load(tmp_path)[0].train) == 12


def test_mnist_spelling_wins_over_others(tmp_path: Path):
    write(tmp_path, *names("{}-{}.idx{}-ubyte"), labels=LABELS[::-1])
    write(tmp_path, *names("{}-{}-idx{}-ubyte"))
    assert np.array_equal(load(tmp_path)[0].train.labels, LABELS - 1)


@pytest.mark.parametrize("where", [".", "MNIST", "MNIST/raw"])
def test_torchvision_folders_are_read(tmp_path: Path, where: str):
    write(tmp_path / "MNIST" / "raw", *names("{}-{}-idx{}-ubyte"))
    dataset, _ = load(tmp_path / where)
    assert (dataset.name, len(dataset.train), len(dataset.test())) == ("MNIST", 12, 6)


def test_one_of_several_data_sets_is_chosen_by_name(tmp_path: Path):
    root = tmp_path / "data"
    for name in ("MNIST", "FashionMNIST"):
        write(root / name / "raw", *names("{}-{}-idx{}-ubyte"))
    with pytest.raises(DataError, match=r"several data sets; name one of \S+/FashionMNIST/raw, \S+/MNIST/raw$"):
        load(root)
    emnist = tmp_path / "EMNIST" / "raw"
    for name in ("letters", "digits"):
        write(emnist, *names(f"emnist-{name}-{{}}-{{}}-idx{{}}-ubyte"))
    with pytest.raises(DataError, match=r"name one of \S+/emnist-digits, \S+/emnist-letters$"):
        load(emnist)
    assert load(emnist / "emnist-letters")[0].name == "emnist-letters"


def test_emnist_is_transposed_and_has_class_names(tmp_path: Path):
    write(tmp_path, *names("emnist-letters-{}-{}-idx{}-ubyte"))
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    dataset, messages = load(tmp_path)
    assert (dataset.class_names, dataset.image_shape) == (("A", "B", "C"), (2, 3))
    assert np.array_equal(dataset.train.images.reshape(12, 2, 3), IMAGES.transpose(0, 2, 1))
    assert dataset.test().images.shape == (6, 6)
    assert [line for line in messages if "rows and columns swapped" in line] == messages[:1]
    unchanged, messages = load(tmp_path, transpose=False)
    assert (unchanged.image_shape, messages) == ((3, 2), [])
    assert unchanged.hashes.items() <= dataset.hashes.items()
    transposed, messages = load(write(tmp_path / "other", *names("{}-{}-idx{}-ubyte")), transpose=True)
    assert (transposed.image_shape, messages) == ((2, 3), [])


def test_qmnist_labels_are_read(tmp_path: Path):
    write(tmp_path, "qmnist-train-images-idx3-ubyte.gz")
    table = np.zeros((12, 8), ">i4")
    table[:, 0], table[:, 1] = LABELS, 70_000
    (tmp_path / "qmnist-train-labels-idx2-int").write_bytes(struct.pack(">HBBII", 0, 0x0C, 2, 12, 8) + table.tobytes())
    dataset, messages = load(tmp_path)
    assert np.array_equal(dataset.train.labels, LABELS - 1)
    assert not dataset.has_test
    assert messages == [line for line in messages if line.endswith("; there will be no test error")] != []


def test_classes_txt_names_the_classes(tmp_path: Path):
    write(tmp_path, *names("{}-{}-idx{}-ubyte"))
    (tmp_path / "classes.txt").write_text("none\ncat\ndog\nhen\n")
    assert load(tmp_path)[0].class_names == ("cat", "dog", "hen")
    assert load(tmp_path, class_names=("a", "b", "c"))[0].class_names == ("a", "b", "c")
    (tmp_path / "classes.txt").write_text("none\ncat\ndog\n")
    with pytest.raises(DataError, match="label 3 has no name"):
        load(tmp_path)
    (tmp_path / "classes.txt").write_text("none\ncat\ncat\ndog")
    with pytest.raises(DataError, match="two classes are called 'cat'"):
        load(tmp_path)


@pytest.mark.parametrize("text", [b"1 A\n", b"\xff\xfe", b"1 99999999999999999999\n", b"7\n"])
def test_invalid_mapping_is_refused(tmp_path: Path, text: bytes):
    write(tmp_path, *names("emnist-letters-{}-{}-idx{}-ubyte"))
    (tmp_path / "emnist-letters-mapping.txt").write_bytes(text)
    with pytest.raises(DataError, match=r"mapping\.txt: is not lines of a label and a character code"):
        load(tmp_path)


def test_wrong_number_of_class_names_is_refused(tmp_path: Path):
    write(tmp_path, *names("{}-{}-idx{}-ubyte"))
    with pytest.raises(DataError, match=r"class_names has 2 names, and there are 3 classes: 1, 2, 3"):
        load(tmp_path, class_names=("a", "b"))


def test_labels_are_indices_into_the_given_classes(tmp_path: Path):
    write(tmp_path, *names("{}-{}-idx{}-ubyte"))
    data = DataConfig(dataset=str(tmp_path))
    assert load_split(data, "test", classes=("3", "x", "1", "2")).split.labels.tolist() == [2, 3, 0] * 2
    assert (
        load_split(data, "test", classes=4).split.labels.tolist() == [1, 2, 3] * 2
    )  # of a run before class names were saved
    for other in (("0", "1", "2"), 3):
        with pytest.raises(
            DataError, match=r"labels outside the classes: the network predicts 0, 1, 2; a test label is 3"
        ):
            load_split(data, "test", classes=other)


def test_class_names_cover_labels_missing_in_the_test(tmp_path: Path):
    write(tmp_path, *names("{}-{}-idx{}-ubyte"), labels=np.array([3, 2] * 3 + [1] * 6, np.uint8))
    data = DataConfig(dataset=str(tmp_path), class_names=("one", "two", "three"))
    part = load_split(data, "test", classes=("one", "two", "three"))
    assert part.split.labels.tolist() == [2, 1] * 3


def test_similar_name_is_suggested(tmp_path: Path):
    write(tmp_path, *names("{}-{}-idx{}-ubyte"))
    (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "train-label-idx1-ubyte")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: not there, nor with .gz; is it train-label-idx1-ub"):
        load(tmp_path)


def test_folder_of_another_kind_is_described(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "sub").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(
        DataError, match=r"no data set recognized; the folder has loop, notes\.txt, sub/; docs/data\.md"
    ):
        load(tmp_path)


# Validation images -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["shuffled", "stratified"])
def test_drawn_validation_images_depend_only_on_the_seed(tmp_path: Path, order: str):
    data = DataConfig(dataset="mnist-sample", validation_order=order)
    first, again, other = (load_dataset(data, seed).validation for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
    assert np.array_equal(load_split(data, "validation", 1).split.images, first.images)
    rest = load_split(data, "train", 1).split
    assert (len(rest), len(first)) == (4500, 500)
    whole = load_dataset(DataConfig(dataset="mnist-sample", validation=0.0)).train
    assert sorted(map(bytes, [*rest.images, *first.images])) == sorted(map(bytes, whole.images))


def test_stratified_gives_each_class_its_fraction():
    whole = load_dataset(DataConfig(dataset="mnist-sample", validation=0.0)).train
    validation = load_dataset(DataConfig(dataset="mnist-sample", validation_order="stratified")).validation
    fractions = np.bincount(validation.labels) / np.bincount(whole.labels)
    assert np.all(np.abs(fractions - 0.1) < 0.002)
