"""``mlpcli eval`` on real runs: options, output, records and errors."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mlpcli import config, experiment
from mlpcli.analysis.predict import load
from mlpcli.commands.drawing import shades
from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.load import BUNDLED, load_split
from mlpcli.runs import checkpoint, directory

SAMPLE = ("data.dataset=mnist-sample", "training.epochs=1", "network.hidden=[16]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train four runs: two networks for an ensemble, one without probabilities, one that fell back on the sample."""
    folder = tmp_path_factory.mktemp("runs")
    for name, *overrides in (
        ("one", *SAMPLE),
        ("two", *SAMPLE, "network.hidden=[]", "network.objective=sigmoid_cross_entropy"),
        ("hinge", *SAMPLE, "network.hidden=[]", "network.objective=linear_hinge", "training.learning_rate=0.01"),
        ("fell", *SAMPLE, "data.dataset=mnist", f"data.sources=[{folder / 'nowhere'}]", "data.fallback=mnist-sample"),
    ):
        overrides.append(f"data.folder={folder / 'data'}")
        experiment.train(config.load(None, overrides, {}), out=folder / name)
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """Copy the runs, for one test to write to."""
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture(scope="module")
def test_split():
    return load_split(DataConfig("mnist-sample"), "test").split


def recorded(run):
    return [json.loads(line) for line in (run / directory.EVALUATIONS).read_text().splitlines()]


def read_csv(path):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    columns = np.array(rows[1:], float)
    assert np.array_equal(columns[:, 3], columns[:, 4:].max(axis=1))
    return rows[0], columns[:, 0], columns[:, 1].astype(int), columns[:, 2].astype(int), columns[:, 4:]


def write_data(folder, images, labels):
    folder.mkdir()
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx.encode(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx.encode(labels))
    return folder


def write_digits(folder, examples=20, pixels=(28, 28), classes=10):
    images = np.full((examples, *pixels), 100, np.uint8)
    return write_data(folder, images, (np.arange(examples) % classes).astype(np.uint8))


# One checkpoint -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one", "two", "hinge"])
def test_test_set_result_equals_that_of_the_run(mlpcli, runs, name):
    found, own = mlpcli("eval", runs / name, "--json").json, directory.read_test(runs / name)
    assert {key: found[key] for key in ("examples", "errors", "error", "loss")} == {
        key: own[key] for key in ("examples", "errors", "error", "loss")
    }
    assert (found["dataset"], found["split"], found["ensemble"]) == ("mnist-sample", "test", False)


def test_validation_result_equals_that_of_the_run(mlpcli, runs):
    found = mlpcli("eval", runs / "one", "--split", "validation", "--json").json
    own = directory.read_last_record(runs / "one")
    assert (found["examples"], found["error"], found["loss"]) == (500, own["validation_error"], own["validation_loss"])


def test_training_images_exclude_the_validation_images(mlpcli, runs):
    assert mlpcli("eval", runs / "one", "--split", "train", "--json").json["examples"] == 4500


def test_json_has_every_figure(mlpcli, runs, test_split):
    result = mlpcli("eval", runs / "one", "--json", "--worst", "7")
    assert result.err == ""
    found = result.json
    confusion = np.array(found["confusion"])
    assert confusion.sum(axis=1).tolist() == np.bincount(test_split.labels, minlength=10).tolist()
    assert found["errors"] == 1000 - confusion.trace()
    assert found["interval"]["low"] < found["error"] < found["interval"]["high"]
    assert [score["label"] for score in found["per_class"]] == list(range(10))
    assert found["per_class"][3]["recall"] == confusion[3, 3] / confusion[3].sum()
    assert found["per_class"][3]["precision"] == confusion[3, 3] / confusion[:, 3].sum()
    assert sum(each["examples"] for each in found["calibration"]["bins"]) == 1000
    assert len(found["worst"]) == 7
    assert found["fallback_from"] is None
    (alone,) = found["checkpoints"]
    assert {key: alone[key] for key in ("errors", "error", "interval", "loss")} == {
        key: found[key] for key in ("errors", "error", "interval", "loss")
    }
    assert alone["expected_calibration_error"] == found["calibration"]["expected_calibration_error"]
    assert alone["path"] == str(runs / "one/checkpoints/best.npz")
    assert (alone["trained_on"], alone["epoch"], alone["hidden"]) == ("mnist-sample", 1, [16])


def test_scores_are_not_called_probabilities(mlpcli, runs):
    assert mlpcli("eval", runs / "hinge", "--json").json["calibration"] is None
    screen = mlpcli("eval", runs / "hinge").out
    assert "no output is a probability" in screen
    assert not re.search(r"^ *\d+ +\d +\d +.*%", screen, re.MULTILINE)


def test_text_shows_the_figures_of_json(mlpcli, runs):
    found = mlpcli("eval", runs / "one", "--json").json
    result = mlpcli("eval", runs / "one")
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[:2] == [
        f"{runs}/one/checkpoints/best.npz: 784-16-10, softmax_cross_entropy, epoch 1",
        "mnist-sample, test: 1,000 images",
    ]
    low, high = 100 * found["interval"]["low"], 100 * found["interval"]["high"]
    error, ece = 100 * found["error"], 100 * found["calibration"]["expected_calibration_error"]
    assert re.split("  +", lines[4]) == [
        f"{error:.2f} %",
        f"{low:.2f} - {high:.2f} %",
        f"{found['errors']}",
        f"{found['loss']:.4f}",
        f"{ece:.2f} %",
    ]
    start = lines.index("Confusion: a row per label, a column per prediction")
    table = lines[start + 1 : start + 12]
    assert len({len(line) for line in table}) == 1
    assert [line.replace(" . ", " 0 ").replace(" .", " 0").split() for line in table[1:]] == [
        [str(number) for number in (label, *row)] for label, row in enumerate(found["confusion"])
    ]
    assert not any(re.search(" 0( |$)", line) for line in table[1:])
    start = lines.index(f"Most confidently wrong, of {found['errors']}")
    assert [line.split()[:3] for line in lines[start + 2 :]] == [
        [str(each[key]) for key in ("index", "label", "predicted")] for each in found["worst"]
    ]


def test_absent_class_has_null_and_a_dash(mlpcli, runs, tmp_path):
    digits = write_digits(tmp_path / "digits", classes=5)
    found = mlpcli("eval", runs / "one", "--data", digits, "--json").json
    assert found["per_class"][9]["recall"] is None
    screen = mlpcli("eval", runs / "one", "--data", digits).out
    assert re.search(r"^ +9 +0 +\S+( %)? +- ", screen, re.MULTILINE)


# Worst mistakes -----------------------------------------------------------------------------------


def test_worst_mistakes_agree_with_the_predictions(mlpcli, runs, tmp_path):
    found = mlpcli("eval", runs / "one", "--worst", "3", "--json", "--predictions", tmp_path / "p.csv").json
    _, _, labels, predicted, p = read_csv(tmp_path / "p.csv")
    wrong = np.flatnonzero(labels != predicted)
    worst = wrong[np.argsort(-p.max(axis=1)[wrong])][:3]
    assert [each["index"] for each in found["worst"]] == worst.tolist()
    assert [each["confidence"] for each in found["worst"]] == p.max(axis=1)[worst].tolist()
    assert [each["label"] for each in found["worst"]] == labels[worst].tolist()


@pytest.mark.parametrize(("columns", "abreast"), [(40, 1), (100, 3)])
def test_worst_mistakes_are_drawn_side_by_side(mlpcli, runs, test_split, monkeypatch, columns, abreast):
    monkeypatch.setenv("COLUMNS", str(columns))
    worst = mlpcli("eval", runs / "one", "--worst", "4", "--json").json["worst"]
    lines = mlpcli("eval", runs / "one", "--worst", "4", "--show").out.splitlines()
    drawn = lines[lines.index("", lines.index(next(line for line in lines if line.startswith("Most")))) :]
    assert len(drawn) == math.ceil(4 / abreast) * (1 + 1 + 14)
    assert max(map(len, drawn)) <= columns
    first = shades(test_split.images[worst[0]["index"]].reshape(28, 28), 28)
    assert drawn[1].startswith(f"{worst[0]['index']}: {worst[0]['label']} predicted as {worst[0]['predicted']}")
    assert [f"{line:<28}"[:28].rstrip() for line in drawn[2:16]] == [line.rstrip() for line in first]
    assert "\x1b" not in "".join(drawn)


def test_picture_has_half_as_many_lines():
    image = np.array([[0, 255, 128], [0, 255, 128], [255, 52, 0]], np.uint8)
    # An odd last row is averaged with a dark one.
    assert shades(image, 80) == [" @+", "=. "]


def test_picture_wider_than_the_screen_is_reduced():
    assert shades(np.full((100, 200), 255, np.uint8), 50) == ["@" * 50] * 12 + ["=" * 50]


# Predictions --------------------------------------------------------------------------------------


def test_predictions_have_a_row_per_image(mlpcli, runs, tmp_path, test_split):
    path = tmp_path / "p.csv"
    path.write_text("what was there before")
    found = mlpcli("eval", runs / "one", "--predictions", path, "--json").json
    header, index, labels, predicted, p = read_csv(path)
    assert header == ["image", "label", "predicted", "confidence", *(f"p_{k}" for k in range(10))]
    assert index.tolist() == list(range(1000))
    assert labels.tolist() == test_split.labels.tolist()
    assert np.count_nonzero(labels != predicted) == found["errors"]
    assert predicted.tolist() == p.argmax(axis=1).tolist()
    assert p.sum(axis=1) == pytest.approx(np.ones(1000), abs=1e-12)
    assert -np.log(p[index.astype(int), labels]).mean() == pytest.approx(found["loss"], rel=1e-5)


def test_unwritable_predictions_are_an_error(mlpcli, runs, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    not_regular = "not a regular file"
    for path, reason in (("folder", not_regular), ("pipe", not_regular), ("none/p.csv", "No such file")):
        result = mlpcli("eval", runs / "one", "--predictions", tmp_path / path)
        assert (result.status, result.out) == (4, "")
        assert result.err.count("\n") == 1
        assert str(tmp_path / path) in result.err
        assert reason in result.err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "pipe", "runs"]


# Ensembles ----------------------------------------------------------------------------------------


def test_ensemble_is_the_mean_of_its_models(mlpcli, runs, tmp_path):
    for name, models in (("one", ["one"]), ("two", ["two"]), ("both", ["one", "two"])):
        assert mlpcli("eval", *(runs / m for m in models), "--predictions", tmp_path / f"{name}.csv").status == 0
    p = {name: read_csv(tmp_path / f"{name}.csv")[4] for name in ("one", "two", "both")}
    assert p["both"].tolist() == ((p["one"] + p["two"]) / 2).tolist()


def test_ensemble_is_printed_with_its_models(mlpcli, runs):
    alone = [mlpcli("eval", runs / name, "--json").json for name in ("one", "two")]
    found = mlpcli("eval", runs / "one", runs / "two", "--json").json
    assert found["ensemble"]
    assert [each["errors"] for each in found["checkpoints"]] == [each["errors"] for each in alone]
    assert found["errors"] not in [each["errors"] for each in alone]
    assert found["loss"] is None
    rows = [line.split() for line in mlpcli("eval", runs / "one", runs / "two").out.splitlines()[5:8]]
    assert [row[0] for row in rows] == [*(each["path"] for each in found["checkpoints"]), "ensemble"]
    assert [row[1] for row in rows] == [f"{100 * each['error']:.2f}" for each in (*alone, found)]


def test_each_run_of_an_ensemble_records_it(mlpcli, runs):
    found = mlpcli("eval", runs / "one", runs / "two", "--json").json
    for name, alone in zip(("one", "two"), found["checkpoints"], strict=True):
        line = recorded(runs / name)[-1]
        assert (line["ensemble"], line["errors"]) == (True, alone["errors"])
        assert [line[f"ensemble_{key}"] for key in ("errors", "error", "loss")] == [
            found[key] for key in ("errors", "error", "loss")
        ]


def test_ensemble_of_one_run_twice_equals_that_run(mlpcli, runs):
    once, twice = (mlpcli("eval", *[runs / "one"] * times, "--json").json for times in (1, 2))
    assert twice["loss"] == pytest.approx(once["loss"], rel=1e-5)
    assert all(twice[key] == once[key] for key in ("confusion", "worst", "calibration", "per_class"))


def test_incompatible_ensemble_is_refused(mlpcli, runs):
    result = mlpcli("eval", runs / "one", runs / "hinge")
    assert (result.status, result.out) == (2, "")
    assert "outputs of linear_hinge are not probabilities" in result.err
    assert not (runs / "one" / directory.EVALUATIONS).exists()


# Other data ---------------------------------------------------------------------------------------


def test_data_set_of_the_same_shape_is_evaluated(mlpcli, runs, tmp_path, test_split):
    digits = write_data(tmp_path / "digits", test_split.images[:50].reshape(50, 28, 28), test_split.labels[:50])
    mlpcli("eval", runs / "one", "--predictions", tmp_path / "p.csv")
    _, _, labels, predicted, _ = read_csv(tmp_path / "p.csv")
    found = mlpcli("eval", runs / "one", "--data", digits, "--json").json
    assert (found["dataset"], found["examples"]) == ("digits", 50)
    assert found["errors"] == np.count_nonzero(labels[:50] != predicted[:50])


def test_data_that_do_not_fit_are_refused(mlpcli, runs, tmp_path):
    for folder, reason in (
        (write_digits(tmp_path / "small", pixels=(14, 14)), "have 14 x 14 pixels, the network takes 28 x 28"),
        (
            write_digits(tmp_path / "many", classes=11),
            "3, 4, 5, 6, 7, 8, 9; a test label is 10",
        ),
        (tmp_path / "none", "neither a data set nor a file or folder"),
    ):
        result = mlpcli("eval", runs / "one", "--data", folder)
        assert (result.status, result.out, result.err.count("\n")) == (3, "", 1)
        assert reason in result.err
    assert not (runs / "one" / directory.EVALUATIONS).exists()


def test_other_training_images_are_named(mlpcli, runs, tmp_path):
    folder = shutil.copytree(BUNDLED, tmp_path / "sample")
    assert mlpcli("eval", runs / "one", "--data", folder, "--split", "validation").err == ""
    digits = write_digits(tmp_path / "digits")
    result = mlpcli("eval", runs / "one", "--data", digits, "--split", "validation")
    assert result.status == 0
    assert "digits: not the files it was trained on" in result.err
    assert "train-images-idx3-ubyte, train-labels-idx1-ubyte" in result.err
    assert mlpcli("eval", runs / "one", "--data", digits).err == ""


def test_run_on_fallback_is_evaluated_on_the_sample(mlpcli, runs):
    result = mlpcli("eval", runs / "fell")
    assert result.status == 0
    assert "mnist-sample, test: 1,000 images" in result.out
    assert "mnist was not available: these are not mnist results" in result.out
    found = mlpcli("eval", runs / "fell", "--json").json
    assert (found["dataset"], found["fallback_from"], found["errors"]) == (
        "mnist-sample",
        "mnist",
        directory.read_test(runs / "fell")["errors"],
    )
    assert "no mnist results" not in mlpcli("eval", runs / "one").out


def test_data_are_found_in_documented_order(mlpcli, trained, runs, tmp_path, monkeypatch):
    def complaint(*options):
        result = mlpcli("eval", runs / "fell", "--data", "mnist", *options)
        assert result.status == 3
        return result.err

    # The source and folder of the run, then those of the variable, then those of the flags.
    assert f"{trained}/nowhere" in complaint()
    assert "data/mnist" in complaint()
    monkeypatch.setenv("MLPCLI_DATA", str(tmp_path / "variable"))
    assert f"{tmp_path}/variable/mnist" in complaint()
    assert f"{tmp_path}/flag/mnist" in complaint("--folder", tmp_path / "flag")
    assert f"{tmp_path}/source" in complaint("--source", tmp_path / "source")
    assert "offline" in complaint("--offline")


# Averages over shifts -----------------------------------------------------------------------------


def by_hand(run, test_split, shifts):
    """Return the mean probabilities over the images moved by hand, by predict alone."""
    images = np.pad(test_split.images.reshape(-1, 28, 28), ((0, 0), (1, 1), (1, 1)))
    places = [(1, 1), (0, 1), (1, 0), (1, 2), (2, 1), (0, 0), (0, 2), (2, 0), (2, 2)][: shifts + 1]
    model = load(run)
    return np.mean([model.predict(images[:, y : y + 28, x : x + 28]).p for y, x in places], axis=0)


@pytest.mark.parametrize("shifts", [4, 8])
def test_average_over_shifts_is_that_by_hand(mlpcli, runs, tmp_path, test_split, shifts):
    file = tmp_path / "p.csv"
    found = mlpcli("eval", runs / "one", "--average-shifts", shifts, "--predictions", file, "--json").json
    p = by_hand(runs / "one", test_split, shifts)
    assert found["average_shifts"] == shifts
    assert found["errors"] == np.count_nonzero(p.argmax(axis=1) != test_split.labels)
    assert found["loss"] == pytest.approx(-np.log(p[np.arange(1000), test_split.labels]).mean(), rel=1e-5)
    np.testing.assert_allclose(read_csv(file)[-1], p, atol=1e-6)
    plain = mlpcli("eval", runs / "one", "--json").json
    assert (plain["average_shifts"], plain["loss"] != found["loss"]) == (0, True)
    assert [line["average_shifts"] for line in recorded(runs / "one")] == [shifts, 0]


def test_average_over_shifts_is_named_on_the_screen(mlpcli, runs):
    named = "test-time augmentation: the probabilities are means over each image and its 4 shifts"
    assert named in mlpcli("eval", runs / "one", "--average-shifts", 4).out
    assert "test-time augmentation" not in mlpcli("eval", runs / "one").out


def test_ensemble_is_averaged_over_shifts(mlpcli, runs, test_split):
    found = mlpcli("eval", runs / "one", runs / "two", "--average-shifts", 4, "--json").json
    p = [by_hand(runs / name, test_split, 4) for name in ("one", "two")]
    wrong = [np.count_nonzero(each.argmax(axis=1) != test_split.labels) for each in (*p, np.mean(p, axis=0))]
    assert [*(each["errors"] for each in found["checkpoints"]), found["errors"]] == wrong


def test_scores_are_not_averaged_over_shifts(mlpcli, runs):
    result = mlpcli("eval", runs / "hinge", "--average-shifts", 4)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "the outputs of linear_hinge are not probabilities" in result.err


# Record of evaluations ----------------------------------------------------------------------------


def test_each_evaluation_is_recorded(mlpcli, runs):
    one, two = (mlpcli("eval", runs / name, "--json").json for name in ("one", "two"))
    mlpcli("eval", runs / "one/checkpoints/last.npz", runs / "two")
    mlpcli("eval", runs / "one", "--split", "train")
    lines = recorded(runs / "one")
    time = lines[0].pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time)
    assert lines[0] == {
        "checkpoint": "best",
        "dataset": "mnist-sample",
        "split": "test",
        "examples": 1000,
        "errors": one["errors"],
        "error": one["error"],
        "loss": one["loss"],
        "ensemble": False,
        "average_shifts": 0,
    }
    assert [(line["checkpoint"], line["split"], line["ensemble"]) for line in lines[1:]] == [
        ("last", "test", True),
        ("best", "train", False),
    ]
    assert [(line["errors"], line["ensemble"]) for line in recorded(runs / "two")] == [
        (two["errors"], False),
        (two["errors"], True),
    ]


def test_unrecorded_evaluation_is_a_warning(mlpcli, runs):
    (runs / "one" / directory.EVALUATIONS).mkdir()
    result = mlpcli("eval", runs / "one", "--json")
    assert result.json["examples"] == 1000
    assert re.fullmatch(
        r"mlpcli: this evaluation is not recorded: .*evaluations\.jsonl: cannot be written: .*\n", result.err
    )


def test_checkpoint_outside_a_run_is_not_recorded(mlpcli, runs, tmp_path):
    shutil.copy(runs / "one/checkpoints/best.npz", tmp_path / "mine.npz")
    assert mlpcli("eval", tmp_path / "mine.npz").status == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine.npz", "runs"]


# Errors -------------------------------------------------------------------------------------------


# Ways to damage a run, and the exit status of every command given it.
DAMAGE = {
    "metrics.jsonl": lambda data: data[: data.rindex(b"{")],
    "manifest.json": lambda data: data.replace(b"finished", b"perished"),
    "test.json": lambda data: data[:-3],
    "config.yaml": lambda data: data.replace(b"seed: ", b"seeds: "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_command_reports_a_damaged_run_alike(name, mlpcli, runs, tmp_path):
    run = runs / "one"
    whole = (run / name).read_bytes()
    (run / name).write_bytes(DAMAGE[name](whole))
    assert (run / name).read_bytes() != whole
    out = tmp_path / "out.svg"
    commands = [
        ("runs", "show", run),
        ("eval", run),
        ("plot", run, "-o", out),
        ("plot", run, "--kind", "weights", "-o", out),
        ("plot", run, "--kind", "mistakes", "-o", out),
        ("report", run, "-o", out.with_suffix(".html")),
        ("export", run, "-o", out.with_suffix(".csv")),
        ("export", run, "-o", out.with_suffix(".safetensors")),
        ("gradcheck", run),
        ("train", "--resume", run),
    ]
    result = {arguments: mlpcli(*arguments) for arguments in commands}
    assert {(each.status, each.out) for each in result.values()} == {(2 if name == "config.yaml" else 4, "")}
    assert len({each.err for each in result.values()}) == 1, result
    compared = mlpcli("runs", "compare", run)
    assert "damaged" in compared.out and compared.err == result[commands[0]].err
    assert mlpcli("eval", run / "checkpoints/best.npz").status == 0


def test_damaged_checkpoint_is_not_replaced_silently(mlpcli, runs):
    best, last = (runs / "one/checkpoints" / name for name in ("best.npz", "last.npz"))
    best.write_bytes(best.read_bytes()[:-1])
    result = mlpcli("eval", runs / "one")
    assert (result.status, result.out, result.err.count("\n")) == (4, "", 1)
    assert f"{best}: is damaged" in result.err
    assert result.err.endswith(f"; other checkpoints of the run: {last}\n")
    assert mlpcli("eval", last).status == 0
    best.unlink()
    result = mlpcli("eval", runs / "one")
    assert (result.status, result.out, result.err.count("\n")) == (4, "", 1)
    assert f"{best}: is missing; name another checkpoint, such as {last}" in result.err


def test_missing_checkpoint_is_an_error(mlpcli, runs, tmp_path):
    shutil.rmtree(runs / "one/checkpoints")
    for path in (tmp_path / "none", tmp_path, runs / "one", "x" * 5000):
        result = mlpcli("eval", path)
        assert (result.status, result.out, result.err.count("\n")) == (4, "", 1)
        assert "other checkpoints" not in result.err


def test_parameters_that_overflow_are_reported(mlpcli, runs):
    path = runs / "one/checkpoints/best.npz"
    known = checkpoint.read(path)
    known.parameters.vector[...] = 3e38
    checkpoint.write(path, known)
    result = mlpcli("eval", runs / "one")
    assert (result.status, result.out, result.err.count("\n")) == (4, "", 1)
    assert f"{path}: its outputs are not finite numbers" in result.err


def test_missing_validation_images_are_an_error(mlpcli, runs):
    path = runs / "one/checkpoints/best.npz"
    known = checkpoint.read(path)
    data = replace(known.config.data, validation=0)
    checkpoint.write(path, replace(known, config=replace(known.config, data=data)))
    result = mlpcli("eval", runs / "one", "--split", "validation")
    assert result.status == 3
    assert "data.validation is 0" in result.err


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--offline", "--source", "x"], "--offline fetches nothing"),
        (["--show", "--json"], "--show draws on the screen"),
        (["--show", "--worst", "0"], "--worst 0 lists none"),
        (["--worst", "-1"], "--worst"),
        (["--split", "valid"], "validation"),
        (["--average-shifts", "1"], "--average-shifts"),
        (["--average-shifts"], "--average-shifts"),
        (["--data", ""], "dataset"),
        (["--prediction", "x.csv"], "--predictions"),
    ],
)
def test_wrong_usage_is_2(mlpcli, trained, options, what):
    result = mlpcli("eval", trained / "one", *options)
    assert (result.status, result.out) == (2, "")
    assert what in result.err


def test_missing_argument_is_2(mlpcli):
    assert mlpcli("eval").status == 2


# Class names --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Write a table of two letters, and train a run on it."""
    folder = tmp_path_factory.mktemp("letters")
    rows = [f"{'AB'[i % 2]},{200 * (i % 2)},{i},0,{200 * (1 - i % 2)}" for i in range(60)]
    for name, part in (("train", rows), ("test", rows[:20])):
        (folder / f"{name}.csv").write_text("\n".join(["label,a,b,c,d", *part]))
    settings = (f'data.dataset="{folder}"', "network.hidden=[]", "training.epochs=2", "training.batch_size=8")
    experiment.train(config.load(None, settings, {}), out=folder / "run")
    return folder


def test_class_names_are_shown(mlpcli, letters, tmp_path):
    result = mlpcli("eval", letters / "run", "--predictions", tmp_path / "p.csv")
    assert re.search(r"^ +A +10 ", result.out, re.MULTILINE)
    assert (tmp_path / "p.csv").read_text().startswith("image,label,predicted,confidence,p_A,p_B\n0,A,")
    assert mlpcli("eval", letters / "run", "--json").json["class_names"] == ["A", "B"]


def test_data_of_other_classes_are_refused(mlpcli, letters):
    table = letters / "other.csv"
    table.write_text("label,a,b,c,d\nA,1,2,3,4\nQ,1,2,3,4\n")
    result = mlpcli("eval", letters / "run", "--data", table)
    assert result.status == 3
    assert "labels outside the classes: the network predicts A, B; a test label is Q" in result.err


def test_whole_table_is_evaluated_if_given(mlpcli, letters):
    table = letters / "one.csv"
    table.write_text("label,a,b,c,d\nB,200,2,0,0\nB,200,7,0,0\n")
    result = mlpcli("eval", letters / "run", "--data", table, "--json")
    assert result.json["examples"] == 2
    assert result.json["errors"] == 0
    assert "has no separate test images: all of its images are used" in result.err


def test_training_table_is_no_test_set(mlpcli, letters, tmp_path):
    settings = (f'data.dataset="{letters / "train.csv"}"', "network.hidden=[]", "training.epochs=1")
    experiment.train(config.load(None, settings, {}), out=tmp_path / "run")
    assert not (tmp_path / "run" / "test.json").exists()
    result = mlpcli("eval", tmp_path / "run")
    assert result.status == 3
    assert "has no test images" in result.err
    assert mlpcli("eval", tmp_path / "run", "--split", "validation", "--json").json["examples"] == 6


def test_names_of_the_config_belong_to_the_labels_of_the_training_images(mlpcli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def table(name, labels):
        rows = (f"{label},{','.join(str(20 * label + 9 * pixel) for pixel in range(16))}" for label in labels)
        (tmp_path / name).write_text("".join(f"{row}\n" for row in rows))

    table("train.csv", [0, 1, 2] * 20)
    overrides = ("data.dataset=train.csv", "data.class_names=[zero, one, two]", "network.hidden=[4]")
    experiment.train(config.load(None, (*overrides, "data.test=false", "training.epochs=1"), {}), out="run")
    table("some.csv", [1, 2, 2])
    found = mlpcli("eval", "run", "--data", "some.csv", "--json").json
    examples = {each["label"]: each["examples"] for each in found["per_class"]}
    assert (found["class_names"], examples) == (["zero", "one", "two"], {0: 0, 1: 1, 2: 2})
    table("named.csv", [1])
    (tmp_path / "named.csv").write_text((tmp_path / "named.csv").read_text().replace("1,", "one,", 1))
    assert mlpcli("eval", "run", "--data", "named.csv", "--json").json["per_class"][1]["examples"] == 1
    for others in ([1, 2, 3], [0, 1, 5]):
        table("others.csv", others)
        result = mlpcli("eval", "run", "--data", "others.csv")
        assert (result.status, result.out) == (3, "")
        assert f"the network predicts zero, one, two; a test label is {others[2]}" in result.err
