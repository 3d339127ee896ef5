"""Training on arrays of a Python program equals training on files, for any usual shape and dtype."""

from __future__ import annotations

import numpy as np
import pytest

import mlpcli
from mlpcli.config import Config
from mlpcli.datasets import idx
from mlpcli.datasets.load import load_dataset
from mlpcli.datasets.memory import ARRAYS, Arrays
from mlpcli.errors import ConfigError, DataError, MlpcliError, UsageError
from mlpcli.runs import checkpoint as checkpoints


@pytest.fixture
def data(tiny_images):
    return tiny_images[0], tiny_images[1]


@pytest.fixture
def test_data(tiny_images):
    return tiny_images[2], tiny_images[3]


def read(data, test=None, **of_data):
    config = mlpcli.load_config(None, [f"data.{key}={value}" for key, value in {"validation": 0, **of_data}.items()])
    return load_dataset(config.data, given=Arrays(data, test, config.data.image_shape))


def test_arrays_train_as_files(tiny_config, data, test_data, tmp_path):
    of_files = mlpcli.train(tiny_config(), out=tmp_path / "files")
    run = mlpcli.train(tiny_config(), data=data, test=test_data, out=tmp_path / "arrays")
    assert (run.test_error, run.validation_loss) == (of_files.test_error, of_files.validation_loss)
    one, other = (checkpoints.read(each.path / "checkpoints" / "last.npz") for each in (run, of_files))
    assert one.hashes == other.hashes
    assert np.array_equal(one.parameters.vector, other.parameters.vector)
    assert run.dataset == run.config.data.dataset == ARRAYS


@pytest.mark.parametrize(
    "form",
    [
        lambda X: X,
        lambda X: X.reshape(len(X), 5, 4, 1),
        lambda X: X.reshape(len(X), 1, 5, 4),
        lambda X: X.astype(np.int64),
        lambda X: X.astype(np.float32),
        lambda X: X / 255,
        lambda X: (X / 255).astype(np.float32),
        lambda X: X.tolist(),
        lambda X: np.asfortranarray(X),
        lambda X: X[::-1][::-1],
    ],
)
def test_every_form_of_images_gives_the_same_bytes(data, form):
    found = read((form(data[0]), data[1]))
    assert np.array_equal(found.train.images, data[0].reshape(70, 20))
    assert found.image_shape == (5, 4)
    assert not found.train.images.flags.writeable


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_whole_numbers_of_0_and_1_are_refused(data, dtype):
    binary = (data[0] > 127).astype(dtype)
    with pytest.raises(
        DataError, match=r"^data: X: whole numbers go from 0 to 255, and these are 0 and 1; give floats"
    ):
        read((binary, data[1]))
    one, other = (read((binary.astype(form), data[1])).train.images for form in (float, bool))
    np.testing.assert_array_equal(one, other)
    assert one.max() == 255


def test_rows_of_pixels_need_a_size(data):
    X = data[0].reshape(70, 20)
    assert read((X, data[1]), size="[5,4]").image_shape == (5, 4)
    with pytest.raises(DataError, match=r"^data: X: 20 pixels per image are not a square; give data\.size"):
        read((X, data[1]))


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y,
        lambda y: y.astype(np.int64).tolist(),
        lambda y: y.astype(np.float64),
        lambda y: y[:, np.newaxis],
        lambda y: np.eye(3)[y],
        lambda y: np.eye(3, dtype=bool)[y],
        lambda y: y.astype(str),
        lambda y: y.astype(str).astype(object),
        lambda y: y.astype("S1"),
        lambda y: np.array([float(label) if i % 2 else int(label) for i, label in enumerate(y)], object),
        lambda y: np.eye(3)[y].astype(object),
        lambda y: np.ma.masked_equal(y, 9),
    ],
)
def test_every_form_of_labels_gives_the_same_classes(data, form):
    found = read((data[0], form(data[1])))
    assert np.array_equal(found.train.labels, data[1])
    assert found.class_names == ("0", "1", "2")


def test_text_labels_are_class_names(data, test_data):
    words = np.array(["cat", "dog", "ant"])
    found = read((data[0], words[data[1]]), (test_data[0], words[test_data[1]]))
    assert found.class_names == ("ant", "cat", "dog")
    for split, (_, y) in ((found.train, data), (found.test(), test_data)):
        assert [found.class_names[label] for label in split.labels] == words[y].tolist()


def test_training_labels_decide_whether_test_labels_are_one_hot(data, test_data):
    one_hot = np.eye(3, dtype=np.uint8)
    several = np.concatenate([one_hot[data[1][:-1]], [[1, 1, 0]]])
    found = read((data[0], several), (test_data[0], one_hot[test_data[1]])).test()
    assert np.array_equal(found.labels, one_hot[test_data[1]])
    found = read(data, (test_data[0], one_hot[test_data[1]])).test()
    assert np.array_equal(found.labels, test_data[1])
    with pytest.raises(DataError, match="either the training or the test labels have one class each"):
        read((data[0], one_hot[data[1]]), (data[0], several)).test()


def test_class_names_are_printable(tiny_config, data, tmp_path):
    words = np.array(["a\ud800", "b\n", b"caf\xe9"], object)
    run = mlpcli.train(tiny_config(), data=(data[0], words[data[1]]), out=tmp_path / "run")
    assert mlpcli.load(run).class_names == ("a\ufffd", "b\ufffd", "caf\ufffd")


def test_no_test_result_without_a_test_set(tiny_config, data, tmp_path):
    run = mlpcli.train(tiny_config(), data=data, out=tmp_path / "run")
    assert run.test_error is None
    assert run.validation_error is not None


def test_run_on_arrays_is_resumed_with_arrays(tiny_config, data, test_data, tmp_path):
    class Stop(mlpcli.Observer):
        def epoch(self, record, best):
            raise KeyboardInterrupt

    whole = mlpcli.train(tiny_config(), data=data, test=test_data, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        mlpcli.train(tiny_config(), data=data, test=test_data, out=tmp_path / "part", observer=Stop())
    with pytest.raises(DataError, match=r"trained on arrays .* mlpcli\.resume\(run, data=\(X, y\)"):
        mlpcli.resume(tmp_path / "part")
    with pytest.raises(DataError, match="data: X or y is not what the run began with"):
        mlpcli.resume(tmp_path / "part", data=(255 - data[0], data[1]), test=test_data)
    for changed in ((255 - test_data[0], test_data[1]), (test_data[0], test_data[1][::-1])):
        with pytest.raises(DataError, match="test: X or y is not what the run began with"):
            mlpcli.resume(tmp_path / "part", data=data, test=changed)
    with pytest.raises(UsageError, match=r"data\.test: true; pass test=\(X, y\) too"):
        mlpcli.resume(tmp_path / "part", data=data)
    run = mlpcli.resume(tmp_path / "part", data=data, test=test_data)
    assert run.test_error == whole.test_error
    one, other = (checkpoints.read(each.path / "checkpoints" / "last.npz") for each in (run, whole))
    assert np.array_equal(one.parameters.vector, other.parameters.vector)


def test_test_arrays_of_a_resumed_run_follow_its_config(tiny_config, data, test_data, tmp_path):
    class Stop(mlpcli.Observer):
        def epoch(self, record, best):
            raise KeyboardInterrupt

    for name, test in (("without", None), ("with", test_data)):
        with pytest.raises(KeyboardInterrupt):
            mlpcli.train(tiny_config(), data=data, test=test, out=tmp_path / name, observer=Stop())
    with pytest.raises(UsageError, match=r"data\.test: false; leave test out"):
        mlpcli.resume(tmp_path / "without", data=data, test=test_data)
    # Interrupted again, the run keeps to the test images that it has been given.
    with pytest.raises(KeyboardInterrupt):
        mlpcli.resume(tmp_path / "without", ["data.test=true"], data=data, test=test_data, observer=Stop())
    with pytest.raises(DataError, match="test: X or y is not what the run began with"):
        mlpcli.resume(tmp_path / "without", data=data, test=(255 - test_data[0], test_data[1]))
    assert mlpcli.resume(tmp_path / "without", data=data, test=test_data).test_examples == 30
    assert mlpcli.resume(tmp_path / "with", ["data.test=false"], data=data).test_error is None


def test_finished_run_on_arrays_is_tested_later(tiny_config, data, test_data, tmp_path):
    whole = mlpcli.train(tiny_config(), data=data, test=test_data, out=tmp_path / "whole")
    run = mlpcli.train(tiny_config(), data=data, out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"data\.test: false"):
        mlpcli.resume(run, data=data, test=test_data)
    assert mlpcli.resume(run, data=data).test_error is None
    assert mlpcli.resume(run, ["data.test=true"], data=data, test=test_data).test_error == whole.test_error


class Undefined:
    """A missing value as pandas has it: comparing it gives no truth value."""

    def __ne__(self, other):
        raise TypeError("boolean value of NA is ambiguous")

    def __repr__(self):
        return "<NA>"


X, Y = np.zeros((4, 3, 3), np.uint8), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (X, "data: must be a pair (X, y), images and labels; this is an array"),
        ((X, Y, Y), "this is a tuple of 3"),
        ({"X": X}, "of type dict"),
        ((X, Y[:3]), "X has 4 images and y 3 labels"),
        ((X, None), "y: labels are (N,)"),
        ((None, Y), "data: X: images are (N, rows, columns)"),
        ((X * -1.0 - 1, Y), "data: X: pixels are numbers from 0 to 255"),
        ((X + np.nan, Y), "NaN"),
        ((X.astype(str), Y), "data: X: pixels are numbers"),
        ((np.zeros((4, 3, 3, 3)), Y), "make them grey"),
        ((X[:0], Y[:0]), "is empty"),
        (([[1, 2], [3]], Y), "data: X: not an array: setting an array element"),
        ((X, Y + 0.5), "labels are whole numbers"),
        ((X, np.array([0, 1, np.nan, 1])), "labels are whole numbers"),
        ((X, np.ones((4, 3)) * 2), "(N, K) of 0 and 1"),
        ((X, np.ones((4, 3, 2))), "of the shape (4, 3, 2)"),
        ((X, ["a", None, "b", "a"]), "image 1 has no label, but None"),
        ((X, np.arange(4)[:, None] * [[1, 0]]), "(N, K) of 0 and 1"),
        ((X, ["a", float("nan"), "b", "a"]), "image 1 has no label, but nan"),
        ((X, np.array(["a", np.nan, "b", "a"], object)), "image 1 has no label, but nan"),
        ((X, np.array([0, np.nan, 1, 1], object)), "labels are whole numbers; that of image 1 is nan"),
        ((X, [b"a", b"", b"b", b"a"]), "image 1 has no label, but b''"),
        ((X, ["a", Undefined(), "b", "a"]), "image 1 has no label, but <NA>"),
        ((X, [b"\xff", b"\xfe", b"a", b"a"]), r"y: the labels b'\xff' and b'\xfe' cannot be told apart; make all"),
        ((X, np.array(["a\1", "a\2", "b", "b"])), r"the labels 'a\x01' and 'a\x02' cannot be told apart"),
        ((X, ["1", 1, "a", "a"]), "the labels '1' and 1 cannot be told apart"),
        ((X, ["a", 1, 1.0, "a"]), "the labels 1 and 1.0 cannot be told apart"),
        ((np.ma.masked_equal(X + 1, 1), Y), "data: X: has masked elements"),
        ((list(np.ma.masked_equal(X, 0)), Y), "data: X: has masked elements"),
        ((X, np.ma.masked_equal(Y, 1)), "data: y: has masked elements"),
    ],
)
def test_invalid_arrays_are_refused_in_one_line(pair, words):
    with pytest.raises(MlpcliError) as error:
        mlpcli.train("quickstart", data=pair)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: mlpcli.train(5), ConfigError),
        (lambda: mlpcli.train(["training.epochs=3"]), ConfigError),
        (lambda: mlpcli.train("quickstart", {"training.epochs": 3}), ConfigError),
        (lambda: mlpcli.train("quickstart", 3), ConfigError),
        (lambda: mlpcli.train("quickstart", [3]), ConfigError),  # type: ignore[list-item]
        (lambda: mlpcli.train("quickstart", out=3), UsageError),
        (lambda: mlpcli.train("quickstart", observer=print), UsageError),
        (lambda: mlpcli.train("quickstart", observer=mlpcli.Observer), UsageError),
        (lambda: mlpcli.train("quickstart", observer=mlpcli.Observer(), progress=True), UsageError),
        (lambda: mlpcli.train("quickstart", test=(X, Y)), UsageError),
        (lambda: mlpcli.resume(None), UsageError),
        (lambda: mlpcli.load(None), UsageError),
        (lambda: mlpcli.load_config(5), ConfigError),
        (lambda: mlpcli.read_images(5), UsageError),
        (lambda: mlpcli.read_images("x.png", 28), UsageError),
        (lambda: mlpcli.read_images("x.png"), DataError),
        (lambda: mlpcli.read_images("x.png", transpose="yes"), UsageError),
    ],
)
def test_misuse_raises_errors_of_the_package(call, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind):
        call()
    assert list(tmp_path.iterdir()) == []


def test_load_config_takes_a_name_and_a_single_override():
    config = mlpcli.load_config("quickstart", "training.epochs=2")
    assert isinstance(config, Config)
    assert config.training.epochs == 2


def test_read_images_equals_the_input_of_predict(tmp_path, tiny_folder):
    pillow = pytest.importorskip("PIL.Image")
    page = np.full((60, 80), 255, np.uint8)
    page[10:50, 38:44] = 0
    pillow.fromarray(page).save(tmp_path / "one.png")
    found = mlpcli.read_images(tmp_path / "one.png")
    assert (found.shape, found.dtype) == ((1, 28, 28), np.uint8)
    rows = np.flatnonzero(found[0].any(axis=1))
    assert rows[-1] - rows[0] + 1 == 20
    assert mlpcli.read_images(str(tmp_path / "one.png"), (14, 14)).shape == (1, 14, 14)
    (tmp_path / "folder").mkdir()
    for name in ("b.png", "a.png"):
        pillow.fromarray(page).save(tmp_path / "folder" / name)
    assert mlpcli.read_images(tmp_path / "folder").shape == (2, 28, 28)
    assert mlpcli.read_images(tiny_folder / "t10k-images-idx3-ubyte", (5, 4)).shape == (30, 5, 4)


def write_many(path, images):
    """Write ``images`` (N, h, w) to ``path`` as its name says."""
    if path.suffix == ".npz":
        np.savez(path, images=images)
    elif path.suffix == ".csv":
        rows = images.reshape(len(images), -1).tolist()
        header = ["label", *(f"pixel{i}" for i in range(len(rows[0])))]
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in (header, *([0, *row] for row in rows))))
    else:
        path.write_bytes(idx.encode(images))
    return path


@pytest.mark.parametrize("name", ["{}-test.csv", "{}-test-images-idx3-ubyte", "{}.npz"])
def test_read_images_swaps_rows_and_columns_as_training_does(name, data, tmp_path):
    upright = data[0]
    swapped = np.ascontiguousarray(upright.transpose(0, 2, 1))
    own = write_many(tmp_path / name.format("own"), swapped)
    emnist = write_many(tmp_path / name.format("emnist-digits"), swapped)
    plain = write_many(tmp_path / name.format("plain"), upright)
    assert np.array_equal(mlpcli.read_images(own, (5, 4), transpose=True), upright)
    assert np.array_equal(mlpcli.read_images(plain, (5, 4)), upright)
    assert np.array_equal(mlpcli.read_images(emnist, (4, 5), transpose=False), swapped)
    by_name = ((5, 4), upright) if own.suffix != ".npz" else ((4, 5), swapped)
    assert np.array_equal(mlpcli.read_images(emnist, by_name[0]), by_name[1])


class Broken:
    """An object that cannot become an array, as a tensor of torch that requires a gradient."""

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy().\nUse detach() first.")


@pytest.mark.parametrize("call", ["predict", "X", "y"])
def test_object_that_cannot_become_an_array_is_refused_in_one_line(call, tiny_config, data, tmp_path):
    run = mlpcli.train(tiny_config(), data=data, out=tmp_path / "run")
    with pytest.raises(DataError, match=r"^[^\n]+: not an array: Can't call numpy\(\)\. Use detach\(\) first\.$"):
        if call == "predict":
            mlpcli.load(run).predict(Broken())
        else:
            mlpcli.train(tiny_config(), data=(Broken(), data[1]) if call == "X" else (data[0], Broken()))


def test_progress_is_a_bar(tiny_config, data, tmp_path, capsys):
    mlpcli.train(tiny_config(), data=data, out=tmp_path / "run", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
    assert "validation error" in err
