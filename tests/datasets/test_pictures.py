"""Folders of pictures, one per class: layouts, conversion, and errors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from mlpcli.config import DataConfig  # noqa: E402
from mlpcli.datasets import idx, images  # noqa: E402
from mlpcli.datasets.load import load_dataset  # noqa: E402
from mlpcli.errors import DataError  # noqa: E402

RANDOM = np.random.default_rng(11)
PIXELS = RANDOM.integers(0, 100, (6, 5, 4), np.uint8)


def write(folder: Path, *classes: str, suffix: str = "png") -> Path:
    """Write two pictures per class, in order."""
    for number, pixels in enumerate(PIXELS[: 2 * len(classes)]):
        place = folder / classes[number // 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.{suffix}")
    return folder


def load(path: Path, **keys: object):
    messages: list[str] = []
    data = DataConfig(dataset=str(path), **{"validation": 0.0, "test": False, **keys})
    return load_dataset(data, say=messages.append), messages


@pytest.mark.parametrize("train", ["train", "training", "Train", "."])
def test_one_folder_per_class(tmp_path: Path, train: str):
    write(tmp_path / train, "cat", "dog", "hen")
    dataset, messages = load(tmp_path)
    assert (dataset.class_names, dataset.image_shape, messages) == (("cat", "dog", "hen"), (5, 4), [])
    assert np.array_equal(dataset.train.images, PIXELS.reshape(6, 20))
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.hashes["train-images-idx3-ubyte"] == idx.digest(PIXELS)


@pytest.mark.parametrize("test", ["test", "testing"])
def test_test_pictures_are_read(tmp_path: Path, test: str):
    write(tmp_path / "train", "cat", "dog", "hen")
    write(tmp_path / test, "dog", "cat")
    dataset, _ = load(tmp_path, test=True)
    split = dataset.test()
    assert split.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(split.images, PIXELS[[2, 3, 0, 1]].reshape(4, 20))


@pytest.mark.parametrize("train", ["train", "Training"])
def test_folder_above_a_data_set_is_refused(tmp_path: Path, train: str):
    write(tmp_path / "up" / "sets" / "digits" / train, "0", "1")
    write(tmp_path / "up" / "sets" / "digits" / "testing", "0", "1")
    place = tmp_path / "up" / "sets" / "digits"
    for folder in (tmp_path, tmp_path / "up", tmp_path / "up" / "sets"):
        with pytest.raises(DataError, match=f"has no folder per class, .*; name one of {place}$"):
            load(folder)
    assert load(place)[0].class_names == ("0", "1")
    write(tmp_path / "up" / "sets" / "letters" / "test", "a", "b")
    with pytest.raises(DataError, match=f"name one of {place}, {place.parent / 'letters'}$"):
        load(tmp_path)


def test_folder_above_the_classes_is_refused(tmp_path: Path):
    write(tmp_path / "up" / "digits", "0", "1")
    for folder in (tmp_path, tmp_path / "up"):
        with pytest.raises(DataError, match=f"has no folder per class, .*; name one of {tmp_path / 'up' / 'digits'}$"):
            load(folder)
    Image.fromarray(PIXELS[0]).save(tmp_path / "up" / "digits" / "9.png")
    assert load(tmp_path / "up")[0].class_names == ("digits",), "a class with folders of its own"
    write(tmp_path / "up", "other")
    assert load(tmp_path / "up")[0].class_names == ("digits", "other")


def test_class_may_be_called_train(tmp_path: Path):
    write(tmp_path, "car", "train", "bus/train")
    assert load(tmp_path)[0].class_names == ("bus", "car", "train")


def test_numbers_are_sorted_at_any_depth(tmp_path: Path):
    write(tmp_path, "10", "9/more", "007")
    (tmp_path / "9" / ".hidden.png").write_bytes(b"")
    (tmp_path / "9" / "notes.txt").write_bytes(b"")
    dataset, _ = load(tmp_path)
    assert dataset.class_names == ("007", "9", "10")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_circular_links_are_not_followed(tmp_path: Path):
    write(tmp_path, "a", "b")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to("self")
    (tmp_path / "b" / "self.png").symlink_to("self.png")
    with pytest.raises(DataError, match=r"self\.png: cannot be read \(Too many levels"):
        load(tmp_path)
    (tmp_path / "b" / "self.png").unlink()
    assert len(load(tmp_path)[0].train) == 4


def test_class_names_may_be_any_bytes(tmp_path: Path):
    for name in (b"\xff\xfe", "日本".encode(), b"a\nb"):
        place = tmp_path / os.fsdecode(name)
        place.mkdir()
        Image.fromarray(PIXELS[0]).save(place / "1.png")
    names = load(tmp_path)[0].class_names
    assert len(set(names)) == 3
    assert all(name.isprintable() for name in names)


@pytest.mark.parametrize(
    ("mode", "value", "grey"),
    [
        ("RGB", (100, 200, 50), 153),
        ("1", 1, 255),
        ("L", 7, 7),
        ("RGBA", (200, 200, 200, 128), 100),
        ("I;16", 25700, 100),
    ],
)
def test_colours_become_grey(tmp_path: Path, mode: str, value: object, grey: int):
    (tmp_path / "a").mkdir()
    Image.new(mode, (3, 2), value).save(tmp_path / "a" / "1.png")
    assert load(tmp_path)[0].train.images.tolist() == [[grey] * 6]


def test_different_sizes_are_refused(tmp_path: Path):
    write(tmp_path, "a", "b")
    Image.new("L", (50, 40), 80).save(tmp_path / "b" / "9.png")
    with pytest.raises(DataError, match=r"9\.png: has 40 x 50 pixels, \S+0\.png 5 x 4; .* data\.size: \[28, 28\]"):
        load(tmp_path)
    dataset, _ = load(tmp_path, size=(5, 4))
    assert np.array_equal(dataset.train.images[:4], PIXELS[:4].reshape(4, 20))
    assert dataset.train.images[4].tolist() == [80] * 20


def test_centred_pictures_equal_those_of_predict(tmp_path: Path):
    paper = np.full((60, 80), 230, np.uint8)
    paper[20:50, 30:36] = 40
    for name, picture in (("dark", paper), ("light", 255 - paper), ("moved", np.roll(paper, 20, axis=1))):
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / "1.png")
    dataset, messages = load(tmp_path, size=(28,), centre=True)
    expected = images.from_file(tmp_path / "dark" / "1.png", "it", (28, 28), raw=False).pixels.reshape(784)
    assert all(np.array_equal(image, expected) for image in dataset.train.images)
    assert messages == []
    (tmp_path / "dark" / "2.png").write_bytes((tmp_path / "dark" / "1.png").read_bytes())
    Image.new("L", (50, 50), 200).save(tmp_path / "dark" / "2.png")
    with pytest.raises(DataError, match=r"2\.png: is blank: it shows no class"):
        load(tmp_path, size=(28,), centre=True)


def test_dark_ink_on_paper_is_a_remark(tmp_path: Path):
    (tmp_path / "a").mkdir()
    Image.new("L", (3, 2), 200).save(tmp_path / "a" / "1.png")
    assert load(tmp_path)[1] == [
        f"{tmp_path.name}: the pictures are mostly light, like paper; strokes should be light, as in MNIST"
    ]


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(20)])
def test_invalid_pictures_are_refused(tmp_path: Path, data: bytes):
    write(tmp_path, "a")
    (tmp_path / "a" / "zz.png").write_bytes(data)
    with pytest.raises(DataError, match=r"zz\.png: is damaged") as failure:
        load(tmp_path)
    assert "\n" not in str(failure.value)


def test_too_many_classes_are_refused(tmp_path: Path):
    for number in range(257):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="has 257 folders of pictures; at most 256 classes"):
        load(tmp_path)
