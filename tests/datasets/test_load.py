"""Loading a data set from a name or a folder: splits, verification, fetching, fallback."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import DataConfig
from mlpcli.datasets import check, idx, load
from mlpcli.datasets.catalogue import CATALOGUE, FILE_NAMES, ROLES, Entry
from mlpcli.datasets.load import Split, load_dataset, load_split
from mlpcli.errors import DataError, RunError, UnavailableError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILE_NAMES.values()


@pytest.fixture
def known(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Entry]:
    """The catalogue with ``tiny`` in it."""
    catalogue = {**CATALOGUE, "tiny": tiny.entry}
    monkeypatch.setattr(load, "CATALOGUE", catalogue)
    return catalogue


@pytest.fixture
def data(tiny: Tiny, tmp_path: Path, known: object) -> DataConfig:
    source = str(tiny.write(tmp_path / "good"))
    return DataConfig(dataset="tiny", folder=str(tmp_path / "data"), sources=(source,), validation=0.25)


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """Return a user's folder, not in the catalogue."""
    return tiny.write(tmp_path / "letters")


def of(folder: Path, **keys: object) -> DataConfig:
    return DataConfig(dataset=str(folder), validation=0.0, **keys)


def write(folder: Path, name: str, array: object) -> None:
    (folder / name).write_bytes(idx.encode(np.asarray(array, np.uint8)))


def opened_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the names of files as they are read."""
    names: list[str] = []
    real = idx.read

    def read(path: Path, dimensions: int):
        names.append(path.name)
        return real(path, dimensions)

    monkeypatch.setattr(idx, "read", read)
    return names


class TestSample:
    def test_loads_without_data_folder(self):
        dataset = load_dataset(DataConfig(dataset="mnist-sample", folder="/nowhere", offline=True))
        assert (dataset.name, dataset.image_shape, dataset.classes) == ("mnist-sample", (28, 28), 10)
        assert (len(dataset.train), len(dataset.validation), len(dataset.test())) == (4500, 500, 1000)
        # MNIST opens with a 5, a 0, a 4; its test images with a 7, a 2, a 1.
        assert dataset.train.labels[:3].tolist() == [5, 0, 4]
        assert dataset.test().labels[:3].tolist() == [7, 2, 1]
        assert dataset.fallback_from is None

    def test_damaged_is_an_error_without_fetching(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        for path in load.BUNDLED.glob("*.gz"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        packed = gzip.compress(gzip.decompress((tmp_path / f"{TRAIN_LABELS}.gz").read_bytes())[:-1] + b"\x01")
        (tmp_path / f"{TRAIN_LABELS}.gz").write_bytes(packed)
        monkeypatch.setattr(load, "BUNDLED", tmp_path)
        with pytest.raises(DataError, match="its SHA-256 is not that of mnist-sample"):
            load_dataset(DataConfig(dataset="mnist-sample", fallback="mnist-sample"))


class TestArrays:
    def test_equal_those_of_the_files(self, data: DataConfig, tiny: Tiny):
        dataset = load_dataset(data)
        images = idx.decode(tiny.contents[TRAIN_IMAGES], "", 3).reshape(40, 20)
        labels = idx.decode(tiny.contents[TRAIN_LABELS], "", 1)
        assert np.array_equal(dataset.train.images, images[:30])
        assert np.array_equal(dataset.train.labels, labels[:30])
        assert np.array_equal(dataset.validation.images, images[30:])
        assert np.array_equal(dataset.validation.labels, labels[30:])
        assert np.array_equal(dataset.test().images, idx.decode(tiny.contents[TEST_IMAGES], "", 3).reshape(10, 20))
        assert (dataset.image_shape, dataset.classes) == ((5, 4), 10)

    def test_have_the_size_of_the_config(self, data: DataConfig):
        assert load_dataset(replace(data, size=(5, 4))).image_shape == (5, 4)
        with pytest.raises(DataError, match=r": the images have 5 x 4 pixels, and data\.size is 4 x 5; leave it out"):
            load_dataset(replace(data, size=(4, 5)))
        with pytest.raises(DataError, match=r"data\.centre is for pictures, and these images are none; leave it out"):
            load_dataset(replace(data, size=(5, 4), centre=True))

    def test_are_read_only_views_on_bytes_read_once(self, data: DataConfig, monkeypatch: pytest.MonkeyPatch):
        names = opened_names(monkeypatch)
        dataset = load_dataset(data)
        assert names == [TRAIN_IMAGES, TRAIN_LABELS]
        base = dataset.train.images.base
        assert base is not None
        assert dataset.validation.images.base is base
        for split in (dataset.train, dataset.validation, dataset.test()):
            for array in (split.images, split.labels):
                assert array.dtype == np.uint8
                assert array.flags.c_contiguous
                assert not array.flags.writeable
                with pytest.raises(ValueError, match="read-only"):
                    array[0] = 1

    def test_compressed_files_are_as_good(self, folder: Path, tiny: Tiny):
        plain = load_dataset(of(folder))
        plain.test()
        for name, content in tiny.contents.items():
            (folder / name).unlink()
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        packed = load_dataset(of(folder))
        assert np.array_equal(plain.train.images, packed.train.images)
        packed.test()
        assert len(plain.hashes) == 4
        assert plain.hashes == packed.hashes


class TestTestFiles:
    def test_are_read_only_on_demand(self, data: DataConfig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
        load_dataset(data)
        names = opened_names(monkeypatch)
        really_open = os.open

        def open_no_test_file(path: object, *arguments: object, **options: object) -> int:
            assert "t10k" not in str(path)
            return really_open(path, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", open_no_test_file)
            dataset = load_dataset(data)
            with pytest.raises(AssertionError):
                dataset.test()
        names.clear()
        dataset = load_dataset(data)
        assert set(dataset.hashes) == {TRAIN_IMAGES, TRAIN_LABELS}
        assert names == [TRAIN_IMAGES, TRAIN_LABELS]
        dataset.test()
        assert names[2:] == [TEST_IMAGES, TEST_LABELS]
        assert dataset.hashes == {name: hashlib.sha256(content).hexdigest() for name, content in tiny.contents.items()}

    def test_are_fetched_at_the_start(self, data: DataConfig):
        load_dataset(data)
        assert (Path(data.folder) / "tiny" / TEST_IMAGES).exists()

    def test_are_not_opened_without_a_test(self, data: DataConfig):
        load_dataset(replace(data, test=False))
        assert not (Path(data.folder) / "tiny" / TEST_IMAGES).exists()

    def test_of_the_wrong_size_are_fetched_at_the_start(self, data: DataConfig, tiny: Tiny):
        load_dataset(data)
        path = Path(data.folder) / "tiny" / TEST_IMAGES
        path.write_bytes(b"short")
        load_dataset(data)
        assert path.read_bytes() == tiny.contents[TEST_IMAGES]

    def test_damage_of_the_same_size_is_found_when_read(self, data: DataConfig, tiny: Tiny):
        messages: list[str] = []
        load_dataset(data)
        path = Path(data.folder) / "tiny" / TEST_LABELS
        path.write_bytes(bytes(path.stat().st_size))
        dataset = load_dataset(data, say=messages.append)
        assert messages == []
        assert np.array_equal(dataset.test().labels, idx.decode(tiny.contents[TEST_LABELS], "", 1))
        assert "renamed to t10k-labels-idx1-ubyte.damaged" in messages[0]

    def test_damaged_and_offline_are_an_error(self, data: DataConfig):
        load_dataset(data)
        path = Path(data.folder) / "tiny" / TEST_LABELS
        path.write_bytes(bytes(path.stat().st_size))
        dataset = load_dataset(replace(data, offline=True))
        with pytest.raises(DataError, match="is not replaced"):
            dataset.test()

    def test_that_vanish_during_training_are_fetched_again(self, data: DataConfig):
        dataset = load_dataset(data)
        (Path(data.folder) / "tiny" / TEST_LABELS).unlink()
        assert len(dataset.test()) == 10


class TestFetching:
    def test_verified_cache_is_silent_and_not_fetched(self, data: DataConfig):
        messages: list[str] = []
        load_dataset(data, say=messages.append)
        assert len(messages) == 5
        messages.clear()
        load_dataset(replace(data, sources=()), say=messages.append)
        load_dataset(replace(data, offline=True), say=messages.append)
        assert messages == []

    def test_damaged_training_files_are_fetched_again(self, data: DataConfig, tiny: Tiny):
        load_dataset(data)
        path = Path(data.folder) / "tiny" / TRAIN_IMAGES
        path.write_bytes(tiny.contents[TRAIN_IMAGES][:-1] + b"\0")
        assert load_dataset(data).hashes[TRAIN_IMAGES] == tiny.entry.files["train_images"].sha256
        assert path.with_name(f"{TRAIN_IMAGES}.damaged").exists()

    def test_missing_source_is_an_error(self, data: DataConfig):
        with pytest.raises(UnavailableError, match="no source delivers"):
            load_dataset(replace(data, sources=("/nowhere",)))
        with pytest.raises(UnavailableError, match="offline nothing is fetched"):
            load_dataset(replace(data, offline=True))

    @pytest.mark.parametrize("folder", ["x" * 300, "~nobody-of-this-name"])
    def test_impossible_data_folders_are_refused(self, data: DataConfig, folder: str, tmp_path: Path):
        (tmp_path / "~nobody-of-this-name").write_text("")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            with pytest.raises((DataError, RunError), match=folder):
                load_dataset(replace(data, folder=folder))

    def test_file_in_place_of_the_folder_is_an_error(self, data: DataConfig, tmp_path: Path):
        (tmp_path / "data").write_text("")
        with pytest.raises(RunError, match="the data folder cannot be used"):
            load_dataset(data)


class TestFallback:
    def test_is_used_if_no_source_delivers(self, data: DataConfig):
        messages: list[str] = []
        dataset = load_dataset(replace(data, sources=("/nowhere",), fallback="mnist-sample"), say=messages.append)
        assert (dataset.name, dataset.fallback_from) == ("mnist-sample", "tiny")
        assert messages[0] == "tiny: asking /nowhere"
        assert "".join(messages).count("/nowhere: no such folder") == 1
        assert messages[-1].endswith("using mnist-sample instead of tiny, as data.fallback requests")
        assert len(dataset.test()) == 1000

    def test_is_not_used_if_the_data_exist(self, data: DataConfig):
        assert load_dataset(replace(data, fallback="mnist-sample")).fallback_from is None

    def test_is_not_used_for_damaged_data(self, data: DataConfig):
        load_dataset(data)
        (Path(data.folder) / "tiny" / TRAIN_LABELS).write_bytes(b"rubbish")
        with pytest.raises(DataError, match="is not replaced"):
            load_dataset(replace(data, fallback="mnist-sample", offline=True))

    def test_is_used_for_one_split(self, data: DataConfig):
        part = load_split(replace(data, sources=(), fallback="mnist-sample"), "test")
        assert (part.name, part.fallback_from, len(part.split)) == ("mnist-sample", "tiny", 1000)


class TestValidation:
    @pytest.mark.parametrize(
        ("validation", "train", "size"),
        [(0.0, 40, None), (0.25, 30, 10), (0.1, 36, 4), (1.0, 39, 1), (39.0, 1, 39)],
    )
    def test_counts(self, data: DataConfig, validation: float, train: int, size: int | None):
        dataset = load_dataset(replace(data, validation=validation))
        assert len(dataset.train) == train
        assert (dataset.validation and len(dataset.validation)) == size

    @pytest.mark.parametrize("validation", [40.0, 41.0, 0.99, 0.01, 1e9])
    def test_too_many_or_too_few_are_refused(self, data: DataConfig, validation: float):
        with pytest.raises(DataError, match=r"data\.validation .* would hold out (all|none) of the 40 training images"):
            load_dataset(replace(data, validation=validation))

    @given(st.floats(0, 60).map(lambda v: v if v < 1 else float(int(v))), st.integers(1, 50))
    def test_every_image_is_in_exactly_one_part_and_in_order(self, validation: float, count: int):
        whole = Split(np.arange(count, dtype=np.uint8).reshape(count, 1), np.arange(count, dtype=np.uint8))
        for order in ("file", "shuffled", "stratified"):
            try:
                train, held = load.held_out(whole, DataConfig(validation=validation, validation_order=order), 3, "any")
            except DataError:
                return
            parts = [train] if held is None else [train, held]
            assert all(len(part) > 0 for part in parts)
            labels = np.concatenate([part.labels for part in parts]).tolist()
            assert (labels if order == "file" else sorted(labels)) == list(range(count))
            assert all(np.array_equal(part.images[:, 0], np.sort(part.labels)) for part in parts)


class TestOneSplit:
    def test_each_split(self, data: DataConfig, monkeypatch: pytest.MonkeyPatch):
        dataset = load_dataset(data)
        names = opened_names(monkeypatch)
        for split, expected, read in (
            ("train", dataset.train, [TRAIN_IMAGES, TRAIN_LABELS]),
            ("validation", dataset.validation, [TRAIN_IMAGES, TRAIN_LABELS]),
            ("test", dataset.test(), [TEST_IMAGES, TEST_LABELS]),
        ):
            names.clear()
            part = load_split(data, split)
            assert names == read
            assert np.array_equal(part.split.images, expected.images)
            assert np.array_equal(part.split.labels, expected.labels)
            assert (part.name, part.image_shape, part.classes) == ("tiny", (5, 4), 10)
            assert list(part.hashes) == read

    def test_only_test_files_are_fetched_for_the_test_split(self, data: DataConfig):
        load_split(replace(data, test=False), "test")
        assert {path.name for path in (Path(data.folder) / "tiny").iterdir()} == {".lock", TEST_IMAGES, TEST_LABELS}

    def test_missing_validation_images_are_an_error(self, data: DataConfig):
        with pytest.raises(DataError, match=r"data\.validation is 0"):
            load_split(replace(data, validation=0.0), "validation")

    def test_folder_without_training_files(self, folder: Path):
        (folder / TRAIN_IMAGES).unlink()
        assert len(load_split(of(folder), "test").split) == 10


class TestFolders:
    def test_any_image_size_and_class_count_that_fit_a_byte(self, tmp_path: Path):
        write(tmp_path, TRAIN_IMAGES, np.zeros((3, 1, 70)))
        write(tmp_path, TRAIN_LABELS, [0, 255, 7])
        write(tmp_path, TEST_IMAGES, np.zeros((1, 1, 70)))
        write(tmp_path, TEST_LABELS, [255])
        dataset = load_dataset(of(tmp_path))
        assert (dataset.name, dataset.image_shape, dataset.classes) == (tmp_path.name, (1, 70), 3)
        assert dataset.class_names == ("0", "7", "255")
        assert dataset.train.labels.tolist() == [0, 2, 1]
        assert dataset.test().images.shape == (1, 70)
        assert dataset.test().labels.tolist() == [2]

    def test_have_the_name_of_their_last_part(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(folder)
        assert load_dataset(of(Path())).name == "letters"
        assert load_dataset(of(Path("../letters"))).name == "letters"

    def test_of_a_catalogue_name_need_a_path(self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        tiny.write(tmp_path / "mnist-sample")
        assert len(load_dataset(DataConfig(dataset="mnist-sample", validation=0.0)).train) == 5000
        assert len(load_dataset(DataConfig(dataset="./mnist-sample", validation=0.0)).train) == 40

    @pytest.mark.parametrize("missing", FILE_NAMES.values())
    def test_missing_file_is_named_at_the_start(self, folder: Path, missing: str):
        (folder / missing).unlink()
        with pytest.raises(DataError, match=f"{missing}: not there, nor with .gz"):
            load_dataset(of(folder))

    def test_load_without_test_files_if_not_wanted(self, folder: Path):
        (folder / TEST_IMAGES).unlink()
        (folder / TEST_LABELS).unlink()
        assert len(load_dataset(of(folder, test=False)).train) == 40

    def test_different_counts_are_refused(self, folder: Path):
        write(folder, TRAIN_LABELS, [1, 2, 3])
        with pytest.raises(DataError, match=f"{TRAIN_IMAGES} has 40 images and {TRAIN_LABELS} 3 labels"):
            load_dataset(of(folder))

    def test_test_images_of_another_size_are_refused(self, folder: Path):
        write(folder, TEST_IMAGES, np.zeros((10, 4, 5)))
        with pytest.raises(DataError, match="the test images have 4 x 5 pixels, the training images 5 x 4"):
            load_dataset(of(folder)).test()

    def test_test_labels_outside_the_classes_are_refused(self, folder: Path):
        write(folder, TEST_LABELS, [0] * 9 + [99])
        with pytest.raises(DataError, match="99 in the test images, but not in the training images"):
            load_dataset(of(folder))

    def test_swapped_files_are_refused(self, folder: Path):
        (folder / TRAIN_IMAGES).rename(folder / "x")
        (folder / TRAIN_LABELS).rename(folder / TRAIN_IMAGES)
        (folder / "x").rename(folder / TRAIN_LABELS)
        with pytest.raises(DataError, match="are two files swapped"):
            load_dataset(of(folder))

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("mnits", "did you mean mnist?"),
            ("fashion", "did you mean fashion-mnist?"),
            ("/no/such/folder", "the data sets are mnist, fashion-mnist, mnist-sample"),
            (__file__, "has an unknown format"),
            ("~nobody-of-this-name/digits", "neither a data set nor a file or folder"),
            ("x" * 5000, "neither a data set nor a file or folder"),
        ],
    )
    def test_invalid_folders_are_refused(self, name: str, words: str):
        with pytest.raises(DataError) as failure:
            load_dataset(DataConfig(dataset=name))
        assert words in str(failure.value)
        assert "\n" not in str(failure.value)


class TestCheck:
    def test_complete_data_set(self, data: DataConfig, folder: Path):
        load_dataset(data)
        assert check.check("tiny", data.folder).ok
        assert check.check("mnist-sample", "/nowhere").ok
        assert check.check(str(folder), "/nowhere").ok

    def test_missing_and_damaged_files(self, data: DataConfig):
        load_dataset(data)
        place = Path(data.folder) / "tiny"
        (place / TRAIN_LABELS).unlink()
        (place / TEST_LABELS).write_bytes(bytes((place / TEST_LABELS).stat().st_size))
        (place / TEST_IMAGES).unlink()
        (place / TEST_IMAGES).mkdir()
        before = sorted(place.iterdir())
        report = check.check("tiny", data.folder)
        assert not report.ok
        assert [file.state for file in report.files] == ["ok", "missing", "damaged", "damaged"]
        assert "not a regular file" in report.files[2].detail
        assert "the wrong bytes" in report.files[3].detail
        assert sorted(place.iterdir()) == before

    def test_folder_of_the_user(self, folder: Path):
        (folder / TRAIN_IMAGES).write_bytes(b"rubbish")
        report = check.check(str(folder), "/nowhere")
        assert [file.state for file in report.files] == ["damaged", "ok", "ok", "ok"]
        assert report.files[0].detail.startswith("not an IDX file")

    def test_folder_of_files_that_do_not_fit(self, folder: Path):
        write(folder, TEST_LABELS, [0])
        report = check.check(str(folder), "/nowhere")
        assert all(file.state == "ok" for file in report.files)
        assert not report.ok
        assert "10 images" in report.mismatch


def test_differing_test_classes_are_found_before_training(tmp_path):
    folder = tmp_path / "letters"
    folder.mkdir()
    pixels = np.zeros((6, 2, 2), np.uint8)
    for role, array in zip(ROLES, (pixels, [0, 1, 2, 0, 1, 2], pixels[:2], [0, 2]), strict=True):
        (folder / FILE_NAMES[role]).write_bytes(idx.encode(np.array(array, np.uint8)))
    messages = []
    load_dataset(DataConfig(str(folder)), say=messages.append)
    assert "letters: 1 in the training images, but not in the test images" in messages
    (folder / FILE_NAMES["test_labels"]).write_bytes(idx.encode(np.array([0, 7], np.uint8)))
    with pytest.raises(DataError, match=r"7 in the test images, but not in the training images; .*data\.test: false"):
        load_dataset(DataConfig(str(folder)))
    assert len(load_dataset(DataConfig(str(folder), test=False)).class_names) == 3
