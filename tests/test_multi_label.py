"""Images with several labels, and one output unit for two classes, in every command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mlpcli import config, experiment
from mlpcli.analysis.evaluation import label_scores, multi_label_scores
from mlpcli.commands import _run
from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.load import load_dataset
from mlpcli.errors import ConfigError, DataError

NAMES = ("left", "right", "top")
TRAINING = ("network.hidden=[6]", "training.epochs=30", "network.objective=sigmoid_cross_entropy", "training.l2=0")


def examples(count, seed):
    """Return 6 x 6 images, each of whose left, right and upper edges may be light, and those labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (count, 3), dtype=np.uint8)
    images = random.integers(0, 60, (count, 6, 6), dtype=np.uint8)
    images[:, :, :2] += labels[:, 0, None, None] * np.uint8(190)
    images[:, :, 4:] += labels[:, 1, None, None] * np.uint8(190)
    images[:, :2, 2:4] += labels[:, 2, None, None] * np.uint8(190)
    return images, labels


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "edges.npz"
    (x, y), (x_test, y_test) = examples(300, 0), examples(60, 1)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(scope="module")
def folder(npz, tmp_path_factory):
    made = tmp_path_factory.mktemp("idx")
    with np.load(npz) as arrays:
        for split, name in (("train", "train"), ("test", "t10k")):
            (made / f"{name}-images-idx3-ubyte").write_bytes(idx.encode(arrays[f"x_{split}"]))
            (made / f"{name}-labels-idx2-ubyte").write_bytes(idx.encode(arrays[f"y_{split}"]))
    (made / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return made


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "edges"
    experiment.train(config.load(None, (f"data.dataset={folder}", *TRAINING), {}), out=path)
    return path


def output_of(capsys, *arguments, status=0):
    assert _run([str(argument) for argument in arguments]) == status
    return capsys.readouterr()


def document_of(capsys, *arguments):
    return json.loads(output_of(capsys, *arguments, "--json").out)


def test_idx_and_npz_give_the_same_data_set(npz, folder):
    one, other = (load_dataset(DataConfig(dataset=str(path))) for path in (npz, folder))
    assert one.train.multi_label
    assert one.classes == 3
    np.testing.assert_array_equal(one.train.labels, other.train.labels)
    np.testing.assert_array_equal(one.test().labels, other.test().labels)
    assert (one.class_names, other.class_names) == (("0", "1", "2"), NAMES)


def test_table_with_other_numbers_is_classes_in_its_first_column(tmp_path):
    # as QMNIST's: class, writer, and so on
    table = np.array([[3, 0, 259, 0], [1, 1, 260, 1]], np.int64)
    images = np.zeros((2, 4, 4), np.uint8)
    data = b"\0\0\x0c\x02" + np.array(table.shape, ">u4").tobytes() + table.astype(">i4").tobytes()
    (tmp_path / "qmnist-train-labels-idx2-int").write_bytes(data)
    (tmp_path / "qmnist-train-images-idx3-ubyte").write_bytes(idx.encode(images))
    dataset = load_dataset(DataConfig(dataset=str(tmp_path), validation=0.0))
    assert not dataset.train.multi_label
    assert dataset.class_names == ("1", "3")


def test_labels_are_learnt_and_tested_by_exact_match(run, capsys):
    found = document_of(capsys, "eval", run)
    several = found["multi_label"]
    assert found["confusion"] is None
    assert several["exact_match"] == pytest.approx(1 - found["error"])
    assert found["error"] < 0.1
    assert several["label_error"] == pytest.approx(np.mean(several["label_errors"]))
    assert several["label_error"] < 0.05
    assert several["micro_f1"] > 0.9 and several["macro_f1"] > 0.9
    printed = output_of(capsys, "eval", run).out
    for words in ("exact match", "label error", "micro F1", "macro F1", *NAMES):
        assert words in printed


def test_images_of_each_class_are_counted(npz, capsys):
    found = document_of(capsys, "data", "show", npz)["images"]
    labels = examples(300, 0)[1]
    assert np.add(found["train"], found["validation"]).tolist() == labels.sum(axis=0).tolist()
    assert found["test"] == examples(60, 1)[1].sum(axis=0).tolist()


def test_scores_by_hand():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], np.uint8)
    predicted = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]], np.uint8)
    each = label_scores(labels, predicted)
    assert [(c.examples, c.precision, c.recall, c.f1) for c in each] == [
        (2, 1.0, 0.5, pytest.approx(2 / 3)),
        (1, 0.5, 1.0, pytest.approx(2 / 3)),
        (0, None, None, None),
    ]
    scores = multi_label_scores(labels, predicted, each)
    assert scores.exact_match == pytest.approx(1 / 3)
    assert scores.label_error == pytest.approx(2 / 9)
    assert scores.micro_f1 == pytest.approx(4 / 6)  # 2 hits, 3 true and 3 predicted
    assert scores.macro_f1 == pytest.approx(2 / 3)


def test_predict_lists_every_class_above_a_half(run, folder, capsys):
    images = folder / "t10k-images-idx3-ubyte"
    found = document_of(capsys, "predict", run, images)["images"]
    for image in found:
        p = np.array(image["p"])
        assert image["predicted"] == np.flatnonzero(p > 0.5).tolist()
        assert image["confidence"] == pytest.approx(np.where(p > 0.5, p, 1 - p).prod())
    labels = examples(60, 1)[1]
    right = [image["predicted"] == np.flatnonzero(row).tolist() for image, row in zip(found, labels, strict=True)]
    assert np.mean(right) > 0.9
    several = next(i for i, image in enumerate(found) if len(image["predicted"]) == 2)
    words = ", ".join(NAMES[k] for k in found[several]["predicted"])
    assert f"[{several}]: {words}  " in output_of(capsys, "predict", run, images).out


def test_picture_of_two_things_is_no_warning(run, tmp_path, capsys):
    picture = np.zeros((60, 80), np.uint8)
    picture[10:50, 8:20] = picture[10:50, 60:72] = 255
    Image.fromarray(picture).save(tmp_path / "two.png")
    assert "--many" not in output_of(capsys, "predict", run, tmp_path / "two.png").err
    assert output_of(capsys, "explain", run, "--image", tmp_path / "two.png").out


def test_explain_has_several_true_classes(run, capsys):
    found = document_of(capsys, "explain", run, "--label", "0,2")
    values = {each["name"]: np.array(each["values"]) for each in found["equations"]}
    assert found["label"] == [0, 2]
    np.testing.assert_allclose(values["dz2"], values["p"] - [1, 0, 1], atol=1e-15)
    # By default the labels of the data; 'none' means no class is right.
    assert isinstance(document_of(capsys, "explain", run)["label"], (int, list))
    assert document_of(capsys, "explain", run, "--label", "none")["label"] == []


@pytest.mark.parametrize("of", ["run", "config"])
def test_gradcheck_passes(of, run, folder, capsys):
    settings = [word for each in (f"data.dataset={folder}", *TRAINING) for word in ("--set", each)]
    what = [run] if of == "run" else settings
    assert document_of(capsys, "gradcheck", *what, "--processes", "1")["verdict"] == "passed"


def test_report_and_table_of_predictions(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    output_of(capsys, "report", run, "-o", page)
    assert '"multi_label":true' in page.read_text("utf-8").replace(" ", "")
    table = tmp_path / "table.csv"
    output_of(capsys, "eval", run, "--predictions", table)
    assert table.read_text().startswith("image,label,predicted,confidence,p_left,p_right,p_top\n")


def test_single_class_features_refuse_several_labels(npz, run, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"use network\.objective: sigmoid_cross_entropy"):
        experiment.train(config.load(None, (f"data.dataset={npz}",), {}), out=tmp_path / "no")
    with pytest.raises(DataError, match="shuffled"):
        load_dataset(DataConfig(dataset=str(npz), validation_order="stratified"))
    for arguments, words in (
        (("plot", run, "--kind", "confusion", "-o", tmp_path / "c.png"), "several labels per image"),
        (("predict", run, npz, "--many"), "--many"),
        (("eval", run, "--data", "mnist-sample"), "labels outside the classes"),
    ):
        assert _run([str(argument) for argument in arguments]) in (2, 3)
        assert words in capsys.readouterr().err


# One unit for two classes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(npz, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "left.npz"
    with np.load(npz) as arrays:
        np.savez(path, **{name: array[:, 0] if name[0] == "y" else array for name, array in arrays.items()})
    return path


def trained(two, path, *settings):
    common = (f"data.dataset={two}", "network.hidden=[]", "network.initial_scale=0", "training.optimizer=sgd")
    rest = ("training.epochs=3", "training.l2=0", "network.dtype=float64")
    return experiment.train(config.load(None, (*common, *rest, *settings), {}), out=path)


def test_logistic_regression_equals_softmax_of_two(two, tmp_path):
    """theta = w1 - w0 moves twice as fast as each w: with twice the rate both networks agree after each step."""
    from mlpcli import load

    softmax = trained(two, tmp_path / "softmax", "training.learning_rate=0.1")
    one = ("network.single_output=true", "network.objective=sigmoid_cross_entropy", "training.learning_rate=0.2")
    logistic = trained(two, tmp_path / "logistic", *one)
    assert logistic.train_loss == pytest.approx(softmax.train_loss, rel=1e-12)
    assert logistic.test_errors == softmax.test_errors
    W, theta = load(softmax).parameters.W[0], load(logistic).parameters.W[0]
    assert theta.shape == (36, 1)
    np.testing.assert_allclose(theta[:, 0], W[:, 1] - W[:, 0], atol=1e-12)
    images = examples(5, 2)[0]
    np.testing.assert_allclose(load(logistic).predict(images).p, load(softmax).predict(images).p, atol=1e-12)


def test_numbers_of_classes_as_targets(npz, tmp_path, capsys):
    path = tmp_path / "sum.npz"
    with np.load(npz) as arrays:
        np.savez(path, **{name: array.sum(1) if name[0] == "y" else array for name, array in arrays.items()})
    settings = ("network.single_output=true", "network.objective=linear_quadratic", "training.learning_rate=0.02")
    run = experiment.train(config.load(None, (f"data.dataset={path}", *settings), {}), out=tmp_path / "run")
    assert document_of(capsys, "eval", run.path)["errors"] == run.test_errors < 30
    assert document_of(capsys, "gradcheck", run.path, "--processes", "1")["verdict"] == "passed"
    sigmoid = ("network.single_output=true", "network.objective=sigmoid_cross_entropy")
    with pytest.raises(ConfigError, match="has 4 classes"):
        experiment.train(config.load(None, (f"data.dataset={path}", *sigmoid), {}), out=tmp_path / "no")


@pytest.mark.parametrize("kind", ["several", "one"])
def test_onnx_predicts_as_predict_does(kind, run, two, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from mlpcli import load

    path = run
    if kind == "one":
        one = ("network.single_output=true", "network.objective=sigmoid_cross_entropy", "training.learning_rate=0.2")
        path = trained(two, tmp_path / "one", *one).path
    assert _run(["export", str(path), "-o", str(tmp_path / "m.onnx")]) == 0
    images = examples(20, 3)[0]
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (predicted,) = session.run(["predicted"], {"images": images})
    np.testing.assert_array_equal(predicted, load(path).predict(images).predicted)


def test_student_learns_several_labels_from_a_teacher(run, folder, tmp_path, capsys):
    where = (f"data.dataset={folder}", *TRAINING)
    student = experiment.train(config.load(None, (*where, f"training.teacher=[{run}]"), {}), out=tmp_path / "student")
    assert student.validation_error < 0.2
    assert student.train_loss > 1e-3
    assert output_of(capsys, "gradcheck", student.path).out.splitlines()[-1].startswith("passed")
