""".npz files: names of Keras and others, types, shapes, and forged archives."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import DataConfig
from mlpcli.datasets import idx, npz
from mlpcli.datasets.load import load_dataset
from mlpcli.errors import DataError

RANDOM = np.random.default_rng(9)
IMAGES = RANDOM.integers(0, 256, (12, 3, 2), np.uint8)
LABELS = np.array([4, 5, 9] * 4, np.uint8)


def saved(path: Path, compressed: bool = True, **arrays: object) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[arg-type]
    return path


def load(path: Path, **keys: object):
    return load_dataset(DataConfig(dataset=str(path), **{"validation": 0.0, "test": False, **keys}))


@pytest.mark.parametrize("compressed", [False, True])
def test_keras_names_are_read(tmp_path: Path, compressed: bool):
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:3], "y_test": LABELS[:3]}
    path = saved(tmp_path / "mnist.npz", compressed, **arrays)
    for where in (path, tmp_path):
        dataset = load(where, test=True)
        assert np.array_equal(dataset.train.images, IMAGES.reshape(12, 6))
        assert np.array_equal(dataset.train.labels, [0, 1, 2] * 4)
        assert (dataset.class_names, dataset.image_shape, dataset.has_test) == (("4", "5", "9"), (3, 2), True)
        assert not dataset.train.images.flags.writeable
        assert np.array_equal(dataset.test().images, IMAGES[:3].reshape(3, 6))


def test_hashes_equal_those_of_idx_files(tmp_path: Path):
    """So it is recognized as the same data as the IDX files that it was made from."""
    dataset = load(saved(tmp_path / "a.npz", images=IMAGES, labels=LABELS.astype(np.int64)))
    assert dataset.hashes == {
        "train-images-idx3-ubyte": idx.digest(IMAGES),
        "train-labels-idx1-ubyte": idx.digest(LABELS),
    }


@pytest.mark.parametrize(
    "images",
    [
        IMAGES[..., np.newaxis],
        IMAGES[:, np.newaxis],
        IMAGES.astype(np.int64),
        IMAGES.astype(">f4"),
        IMAGES / 255,
        (IMAGES / 255).astype(np.float32),
        np.asfortranarray(IMAGES),
    ],
    ids=["channels last", "channels first", "int64", "big-endian float", "0..1", "0..1 float32", "fortran"],
)
@pytest.mark.parametrize("labels", [LABELS.astype(float), LABELS[:, np.newaxis], LABELS.astype(">i4")])
@pytest.mark.parametrize(
    "names", [("images", "labels"), ("X", "Y"), ("train_images", "train_labels"), ("data", "target")]
)
def test_types_shapes_and_names_are_read(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, names: tuple[str, str]
):
    dataset = load(saved(tmp_path / "a.npz", **dict(zip(names, (images, labels), strict=True)), extra=np.zeros(1)))
    assert np.array_equal(dataset.train.images, IMAGES.reshape(12, 6))
    assert np.array_equal(dataset.train.labels, [0, 1, 2] * 4)


@pytest.mark.parametrize("names", [("val_images", "val_labels"), ("x_val", "y_val")])
def test_unused_validation_arrays_are_reported_once(tmp_path: Path, names: tuple[str, str]):
    arrays = {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES, "test_labels": LABELS}
    for extra, count in (({}, 0), (dict(zip(names, (IMAGES, LABELS), strict=True)), 1)):
        messages: list[str] = []
        path = saved(tmp_path / "a.npz", **arrays, **extra)
        dataset = load_dataset(DataConfig(dataset=str(path), validation=0.0), say=messages.append)
        assert len(dataset.train) == len(dataset.test()) == 12
        assert len(messages) == count
        assert all("\n" not in line and names[0] in line and "data.validation" in line for line in messages)


@pytest.mark.parametrize("divisor", [255, 256])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_divided_pixels_are_read_exactly(tmp_path: Path, divisor: int, dtype: type):
    images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    path = saved(tmp_path / "a.npz", images=(images / divisor).astype(dtype), labels=LABELS[:4])
    assert np.array_equal(load(path).train.images.reshape(4, 8, 8), images)


def test_rows_of_pixels_are_square_images(tmp_path: Path):
    path = saved(tmp_path / "a.npz", images=IMAGES.reshape(12, 6), labels=LABELS)
    assert load(path, size=(3, 2)).image_shape == (3, 2)
    with pytest.raises(DataError, match=r"a\.npz: images: 6 pixels per image are not a square"):
        load(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"W1": np.zeros(3)}, "has the arrays W1; for train images it needs x_train and y_train"),
        ({}, "is not a zip archive|has the arrays none|without .csv or .npy"),
        ({"images": IMAGES, "labels": LABELS[:-1]}, "12 images and 11 labels"),
        ({"images": IMAGES.astype(int) + 200, "labels": LABELS}, "images: pixels are numbers from 0 to 255, .* to 4"),
        ({"images": IMAGES.astype(object), "labels": LABELS}, "images: has pickled objects, which are not read"),
        ({"images": IMAGES.astype(str), "labels": LABELS}, "images: is an array of <U3"),
        ({"images": IMAGES.astype(complex), "labels": LABELS}, "images: is an array of complex128"),
        ({"images": np.full((2, 3, 2), np.nan), "labels": LABELS[:2]}, "there is a NaN"),
        ({"images": np.zeros((2, 5, 5, 3)), "labels": LABELS[:2]}, "2 x 5 x 5 x 3; make them grey"),
        ({"images": np.zeros((0, 5, 5)), "labels": LABELS[:0]}, "is empty|labels are"),
        ({"images": IMAGES, "labels": 2 * np.eye(12)}, "labels: labels are .* these are 12 x 12"),
        ({"images": IMAGES, "labels": LABELS + 0.5}, "labels: labels are whole numbers; that of image 0 is 4.5"),
        ({"images": np.zeros(()), "labels": LABELS}, "images are"),
    ],
)
def test_invalid_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str):
    with pytest.raises(DataError, match=message) as failure:
        load(saved(tmp_path / "a.npz", **arrays))
    assert "\n" not in str(failure.value)


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def npy(shape: str, dtype: str = "|u1", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy("(1000000000, 28, 28)"), "its header promises 784000000000 bytes"),
        (npy("(4, 28, 28)", data=bytes(3135)), "does not have the 3136 bytes its header promises"),
        (npy("(4, 28, 28)", data=bytes(3137)), "does not have the 3136 bytes its header promises"),
        (npy("(-1, 28, 28)"), "is an array of|is not an array"),
        (npy("(4, 28, 28)", "|O", pickle.dumps(print)), "has pickled objects"),
        (npy("[" * 3000), "is not an array as numpy saves it"),
        (b"", "is not an array as numpy saves it"),
        (b"\x93NUMPY\7\0", "is not an array as numpy saves it"),
        (pickle.dumps([1]), "is not an array as numpy saves it"),
    ],
)
def test_forged_members_are_refused(tmp_path: Path, member: bytes, message: str):
    (tmp_path / "a.npz").write_bytes(archive(("images.npy", member), ("labels.npy", npy("(4,)", data=bytes(4)))))
    with pytest.raises(DataError, match=f"a.npz: images: .*({message})"):
        load(tmp_path / "a.npz")


def test_other_compression_and_damage_are_refused(tmp_path: Path):
    good = archive(("images.npy", npy("(2, 1, 2)", data=b"abcd")), ("labels.npy", npy("(2,)", data=b"ab")))
    path = tmp_path / "a.npz"
    for data, message in (
        (archive(("images.npy", b"x"), ("labels.npy", b"x"), method=zipfile.ZIP_BZIP2), "in an unsupported way"),
        (good[:-30], "is not a zip archive, or is damaged"),
        (good[:60] + bytes(20) + good[80:], "is damaged|is not an array"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            load(path)


@given(st.integers(0, 400), st.integers(0, 255), st.integers(0, 400))
def test_any_change_gives_arrays_or_a_data_error(tmp_path_factory, place: int, byte: int, cut: int):
    data = bytearray(archive(("images.npy", npy("(2, 1, 2)", data=b"abcd")), ("labels.npy", npy("(2,)", data=b"ab"))))
    data[place % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "any.npz"
    path.write_bytes(bytes(data[: len(data) - cut] if cut < 50 else data))
    try:
        npz.NpzFile(path, None).read("train")
    except DataError as error:
        assert "\n" not in str(error)
