"""``mlpcli predict`` on a real run: pictures, IDX files and tables; output, warnings and errors."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

import mlpcli as api
from mlpcli import config, experiment
from mlpcli.commands import _run
from mlpcli.commands.drawing import blocks
from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.load import load_split
from mlpcli.runs import checkpoint as checkpoints

pytestmark = pytest.mark.slow

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SAMPLE = ("data.dataset=mnist-sample", "training.epochs=2", "network.hidden=[32]")


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    def json(self, status=0):
        assert self.status == status, self.err
        return json.loads(self.out)


class Stdin:
    def __init__(self, data):
        self.buffer = io.BytesIO(data)


@pytest.fixture
def mlpcli(capsys, monkeypatch):
    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", None if stdin is None else Stdin(stdin))
        status = _run(["predict", *map(str, arguments)])
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, *overrides in (
        ("softmax",),
        ("hinge", "network.hidden=[]", "network.objective=linear_hinge", "training.learning_rate=0.01"),
    ):
        experiment.train(config.load(None, (*SAMPLE, *overrides), {}), out=folder / name)
    return folder


@pytest.fixture(scope="module")
def run(trained):
    return trained / "softmax"


@pytest.fixture(scope="module")
def digits():
    split = load_split(DataConfig("mnist-sample"), "test").split
    return split.images.reshape(-1, 28, 28), split.labels


def picture(digit, kind="PNG", **options):
    """Return ``digit`` enlarged and inverted, as the bytes of a file."""
    file = io.BytesIO()
    light = 255 - np.asarray(Image.fromarray(digit).resize((100, 100), Image.Resampling.BICUBIC))
    Image.fromarray(light).save(file, kind, **options)
    return file.getvalue()


def test_pictures_are_recognized(mlpcli, run, digits, tmp_path):
    """Enlarged, inverted and written as PNG, digits are recognized as well as the originals."""
    images, labels = digits
    paths = [tmp_path / f"{i}.png" for i in range(100)]
    for path, image in zip(paths, images, strict=False):
        path.write_bytes(picture(image))
    found = mlpcli(run, *paths, "--json").json()["images"]
    assert [each["image"] for each in found] == list(map(str, paths))
    right = np.count_nonzero(np.array([each["predicted"] for each in found]) == labels[:100])
    assert right >= np.count_nonzero(api.load(run).predict(images[:100]).predicted == labels[:100]) - 3
    assert right > 80


def test_json_has_every_probability_in_full_precision(mlpcli, run, digits, tmp_path):
    (tmp_path / "digits").write_bytes(idx.encode(digits[0][:20]))
    result = mlpcli(run, tmp_path / "digits", "--json")
    document = result.json()
    expected = api.load(run).predict(digits[0][:20])
    assert (document["checkpoint"], document["objective"]) == (
        str(run / "checkpoints/best.npz"),
        "softmax_cross_entropy",
    )
    assert document["failed"] == []
    assert [each["index"] for each in document["images"]] == list(range(20))
    assert [each["p"] for each in document["images"]] == expected.p.tolist()
    assert [each["predicted"] for each in document["images"]] == expected.predicted.tolist()
    assert [each["confidence"] for each in document["images"]] == expected.confidence.tolist()
    for each in document["images"]:
        assert list(each) == ["image", "index", "predicted", "confidence", "entropy", "p", "top", "warnings"]
        assert each["top"] == [
            {"class": k, "p": each["p"][k]} for k in sorted(range(10), key=lambda k: -each["p"][k])[:3]
        ]
        assert each["entropy"] == pytest.approx(-sum(p * np.log2(p) for p in each["p"]))


def test_text_shows_the_predictions_of_json(mlpcli, run, digits, tmp_path):
    (tmp_path / "one.png").write_bytes(picture(digits[0][0]))
    (tmp_path / "two").write_bytes(idx.encode(digits[0][:2]))
    found = mlpcli(run, tmp_path / "one.png", tmp_path / "two", "--json").json()["images"]
    lines = mlpcli(run, tmp_path / "one.png", tmp_path / "two").out.splitlines()
    assert len(lines) == len(found) == 3
    for line, each, name in zip(lines, found, ("one.png", "two[0]", "two[1]"), strict=True):
        (_, first), (second, p2), (third, p3) = ((top["class"], top["p"]) for top in each["top"])
        assert line == (
            f"{tmp_path}/{name}: {each['predicted']}  {100 * first:.2f} %  ({second} {100 * p2:.2f} %, "
            f"{third} {100 * p3:.2f} %; entropy {each['entropy']:.2f} bits)"
        )


def test_scores_are_not_called_probabilities(mlpcli, trained, digits, tmp_path):
    (tmp_path / "one.png").write_bytes(picture(digits[0][0]))
    assert re.fullmatch(
        r"\S+: \d  score -?[\d.]+  \(\d score -?[\d.]+, \d score -?[\d.]+\)\n",
        mlpcli(trained / "hinge", tmp_path / "one.png").out,
    )
    assert mlpcli(trained / "hinge", tmp_path / "one.png", "--json").json()["images"][0]["entropy"] is None


def test_idx_predictions_equal_those_of_eval(mlpcli, run, digits, tmp_path):
    (tmp_path / "all.gz").write_bytes(gzip.compress(idx.encode(digits[0]), 1))
    found = mlpcli(run, tmp_path / "all.gz", "--json").json()["images"]
    errors = np.count_nonzero(np.array([each["predicted"] for each in found]) != digits[1])
    assert errors == json.loads((run / "test.json").read_text())["errors"] > 0


def test_checkpoint_file_is_accepted(mlpcli, run, digits, tmp_path):
    (tmp_path / "one.png").write_bytes(picture(digits[0][0]))
    last = run / "checkpoints/last.npz"
    assert mlpcli(last, tmp_path / "one.png", "--json").json()["checkpoint"] == str(last)


def test_averages_are_those_of_eval(mlpcli, trained, run, digits, tmp_path, capsys):
    (tmp_path / "all").write_bytes(idx.encode(digits[0]))
    other, table = trained / "softmax/checkpoints/last.npz", tmp_path / "p.csv"
    arguments = [str(run), str(other), "--average-shifts", "4", "--predictions", str(table)]
    assert _run(["eval", *arguments]) == 0
    capsys.readouterr()
    document = mlpcli(run, tmp_path / "all", "--ensemble", other, "--average-shifts", "4", "--json").json()
    assert document["ensemble"] == [str(run / "checkpoints/best.npz"), str(other)]
    assert document["average_shifts"] == 4
    expected = np.loadtxt(table, delimiter=",", skiprows=1)
    np.testing.assert_allclose([each["p"] for each in document["images"]], expected[:, 4:], rtol=1e-4, atol=1e-12)
    plain = mlpcli(run, tmp_path / "all", "--json").json()
    assert (plain["ensemble"], plain["average_shifts"]) == ([str(run / "checkpoints/best.npz")], 0)
    assert plain["images"][0]["p"] != document["images"][0]["p"]


@pytest.mark.parametrize("options", [["--ensemble", "hinge"], ["--average-shifts", "4"]])
def test_scores_are_not_averaged(mlpcli, trained, digits, tmp_path, options):
    (tmp_path / "one.png").write_bytes(picture(digits[0][0]))
    arguments = [trained / "hinge" if each == "hinge" else each for each in options]
    result = mlpcli(trained / "hinge", tmp_path / "one.png", *arguments)
    assert (result.status, result.out, len(result.err.splitlines())) == (2, "", 1)
    assert "averages probabilities, and the outputs of linear_hinge are not probabilities" in result.err


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "idx"])
def test_picture_is_read_from_stdin(mlpcli, run, digits, kind):
    data = idx.encode(digits[0][:1]) if kind == "idx" else picture(digits[0][0], kind)
    (found,) = mlpcli(run, "-", "--json", stdin=data).json()["images"]
    assert found["image"] == "stdin"
    assert found["predicted"] == api.load(run).predict(digits[0][0]).predicted[0]


def test_raw_picture_is_not_centred(mlpcli, run, digits, tmp_path):
    Image.fromarray(digits[0][3]).save(tmp_path / "it.png")
    (found,) = mlpcli(run, tmp_path / "it.png", "--raw", "--json").json()["images"]
    assert found["p"] == pytest.approx(api.load(run).predict(digits[0][3]).p[0].tolist(), rel=1e-12)
    (tmp_path / "large.png").write_bytes(picture(digits[0][3]))
    result = mlpcli(run, tmp_path / "large.png", "--raw")
    assert result.status == 3
    assert "has 100 x 100 pixels, the network takes 28 x 28; without --raw" in result.err


# Warnings -----------------------------------------------------------------------------------------


def test_blank_picture_is_no_digit(mlpcli, run, tmp_path):
    Image.new("L", (90, 60), 255).save(tmp_path / "blank.png")
    result = mlpcli(run, tmp_path / "blank.png")
    assert result == Result(
        0,
        f"{tmp_path}/blank.png: no digit\n",
        f"{tmp_path}/blank.png: is blank, or nothing on it differs enough from the paper: no digit\n",
    )
    (found,) = mlpcli(run, tmp_path / "blank.png", "--json").json()["images"]
    assert (found["predicted"], found["confidence"]) == (None, None)
    assert found["warnings"] == ["is blank, or nothing on it differs enough from the paper: no digit"]


def test_several_digits_are_a_warning(mlpcli, run, digits, tmp_path):
    two = Image.fromarray(255 - np.hstack(digits[0][:2])).resize((400, 200))
    two.save(tmp_path / "two.png")
    result = mlpcli(run, tmp_path / "two.png")
    assert result.status == 0
    assert (
        f"{tmp_path}/two.png: shows 2 digits, of which the network expects one; --many reads them as a number"
        in result.err
    )
    assert result.err.count("2 digits") == 1
    assert result.out.startswith(f"{tmp_path}/two.png: ")


def test_touching_digits_are_counted_without_many(mlpcli, run, digits, tmp_path):
    ones = [digit for digit in digits[0] if np.flatnonzero(digit.any(axis=0)).size > 14][:3]
    cut = [digit[:, np.flatnonzero(digit.any(axis=0))] for digit in ones]
    line = np.hstack(cut)
    line[13:15, 4:-4] = np.maximum(line[13:15, 4:-4], 140)  # a stroke through all of them
    Image.fromarray(255 - np.pad(line, 8)).resize((4 * (line.shape[1] + 16), 176)).save(tmp_path / "three.png")
    result = mlpcli(run, tmp_path / "three.png")
    assert result.err.count(f"{tmp_path}/three.png: shows ") == 1
    assert "--many reads them as a number" in result.err


def test_uncertain_prediction_is_a_warning(mlpcli, run, tmp_path):
    noise = np.random.default_rng(4).integers(0, 256, (20, 28, 28), np.uint8)
    (tmp_path / "noise").write_bytes(idx.encode(noise))
    found = mlpcli(run, tmp_path / "noise", "--json")
    unsure = [each for each in found.json()["images"] if each["entropy"] > 1]
    assert unsure
    assert all(each["warnings"] == ["the network is unsure: more than 1 bit of entropy"] for each in unsure)
    assert found.err == (
        f"{tmp_path}/noise: {len(unsure)} of 20 images: the network is unsure: more than 1 bit of entropy\n"
    )


def test_first_frame_of_an_animation_is_read(mlpcli, run, digits, tmp_path):
    frames = [Image.fromarray(255 - digit) for digit in digits[0][:3]]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    result = mlpcli(run, tmp_path / "moving.gif")
    assert result.status == 0
    assert f"{tmp_path}/moving.gif: has more than one frame; only the first is read\n" in result.err


# Numbers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def surest(run, digits):
    """Return for each class one test image with a confident and correct prediction."""
    result = api.load(run).predict(digits[0])
    right = np.flatnonzero(result.predicted == digits[1])
    return {k: digits[0][max(right[digits[1][right] == k], key=lambda i: result.confidence[i])] for k in range(10)}


def number(surest, text, gap=6):
    """Return a picture of a row of digits, with ``gap`` of MNIST's pixels between their boxes."""
    cut = [digit[:, digit.any(axis=0)] for digit in (surest[int(each)] for each in text)]
    row = np.hstack([np.pad(each, [(4, 4), (gap // 2, gap - gap // 2)]) for each in cut])
    return Image.fromarray(255 - np.pad(row, 6)).resize((9 * row.shape[1] + 108, 9 * row.shape[0] + 108))


@pytest.mark.parametrize("text", ["31415", "7", "20", "666", "9081726354"])
def test_many_reads_a_row_of_digits(mlpcli, run, surest, text, tmp_path):
    number(surest, text).save(tmp_path / "it.png")
    result = mlpcli(run, tmp_path / "it.png", "--many")
    assert result.status == 0
    name, _, rest = result.out.partition(": ")
    assert rest.split("  (")[0] == text
    assert rest.count(" %") == len(text)
    document = mlpcli(run, tmp_path / "it.png", "--many", "--json").json()
    assert document["numbers"] == [{"image": name, "number": text}]
    assert [each["index"] for each in document["images"]] == list(range(len(text)))


def test_many_cuts_touching_digits(mlpcli, run, surest, tmp_path):
    read = []
    for text in ("30", "58", "25", "80", "63"):
        number(surest, text, gap=0).save(tmp_path / "it.png")
        (found,) = mlpcli(run, tmp_path / "it.png", "--many", "--json").json()["numbers"]
        read.append(found["number"] == text)
    assert sum(read) >= 3


def test_digits_of_a_number_are_one_warning_without_many(mlpcli, run, surest, tmp_path):
    number(surest, "31415").save(tmp_path / "it.png")
    result = mlpcli(run, tmp_path / "it.png")
    assert result.err.splitlines()[0] == (
        f"{tmp_path}/it.png: shows 5 digits, of which the network expects one; --many reads them as a number"
    )
    assert "digits" not in "".join(result.err.splitlines()[1:])


def test_many_draws_each_digit(mlpcli, run, surest, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    number(surest, "204").save(tmp_path / "it.png")
    lines = shown(run, tmp_path / "it.png", "--many", PYTHONIOENCODING="utf-8").decode().splitlines()
    assert len(lines) == 1 + 1 + 14  # the number, an empty line, and three drawings side by side
    assert max(map(len, lines[2:])) > 2 * 28


@pytest.mark.parametrize(("names", "read"), [("abcdefghij", "daj"), (NUMERALS, "three zero nine")])
def test_many_reads_the_names_of_classes(mlpcli, run, surest, names, read, tmp_path):
    checkpoint = checkpoints.read(run / "checkpoints" / "best.npz")
    checkpoints.write(tmp_path / "named.npz", replace(checkpoint, class_names=tuple(names)))
    number(surest, "309").save(tmp_path / "it.png")
    result = mlpcli(tmp_path / "named.npz", tmp_path / "it.png", "--many")
    assert result.out.startswith(f"{tmp_path}/it.png: {read}  ({names[3]} ")
    found = mlpcli(tmp_path / "named.npz", tmp_path / "it.png", "--many", "--json").json()["numbers"]
    assert found == [{"image": f"{tmp_path}/it.png", "number": read}]


NO_PICTURE = "is no picture, and each of its images is one digit; leave out --many"


def test_many_of_blank_pictures_and_idx_images(mlpcli, run, digits, tmp_path):
    Image.new("L", (90, 60), 255).save(tmp_path / "blank.png")
    assert mlpcli(run, tmp_path / "blank.png", "--many").out == f"{tmp_path}/blank.png: no digit\n"
    (tmp_path / "idx").write_bytes(idx.encode(digits[0][:2]))
    result = mlpcli(run, tmp_path / "idx", "--many")
    assert (result.status, result.out) == (3, "")
    assert result.err == f"mlpcli: {tmp_path}/idx: {NO_PICTURE}\n"
    np.savez(tmp_path / "table.npz", images=digits[0][:2])
    result = mlpcli(run, tmp_path / "table.npz", "--many")
    assert (result.status, result.out, result.err) == (3, "", f"mlpcli: {tmp_path}/table.npz: {NO_PICTURE}\n")
    assert mlpcli(run, tmp_path / "idx", "--many", "--raw").status == 2


def test_blank_idx_image_is_classified(mlpcli, run, tmp_path):
    blank = np.zeros((2, 28, 28), np.uint8)
    (tmp_path / "idx").write_bytes(idx.encode(blank))
    found = mlpcli(run, tmp_path / "idx", "--json").json()["images"]
    assert [each["predicted"] for each in found] == api.load(run).predict(blank).predicted.tolist()


# Input of the network -----------------------------------------------------------------------------


def test_two_rows_are_one_line_of_characters():
    pixels = np.array([[0, 255, 0, 255, 110], [0, 0, 255, 255, 110], [0, 60, 200, 255, 0]], np.uint8)
    assert blocks(pixels) == [" ▀▄█▒", "  ▀▀ "]


def shown(run, path, *options, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "mlpcli", "predict", str(run), str(path), "--show", *options],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
    )
    return done.stdout


def test_show_draws_the_input_of_the_network(mlpcli, run, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "seven.png").write_bytes(picture(digits[0][0]))
    lines = shown(run, tmp_path / "seven.png", PYTHONIOENCODING="utf-8").decode().splitlines()
    assert len(lines) == 1 + 14
    assert max(map(len, lines[1:])) <= 2 + 28
    assert set("".join(lines[1:])) <= set(" ░▒▓█▀▄")
    assert "▀" in "".join(lines[1:])
    ascii_lines = shown(run, tmp_path / "seven.png", PYTHONIOENCODING="ascii").decode("ascii").splitlines()
    assert len(ascii_lines) == 15
    assert "#" in "".join(ascii_lines[1:])
    narrow = shown(run, tmp_path / "seven.png", PYTHONIOENCODING="utf-8", COLUMNS="20").decode().splitlines()
    assert max(map(len, narrow[1:])) <= 20


def test_show_and_json_do_not_go_together(mlpcli, run):
    result = mlpcli(run, "it.png", "--show", "--json")
    assert (result.status, result.out) == (2, "")
    assert "--show draws on the screen" in result.err


# Errors -------------------------------------------------------------------------------------------


def test_predict_continues_after_bad_file(mlpcli, run, digits, tmp_path):
    whole = picture(digits[0][0])
    for name, data in (("a.png", whole), ("b.png", whole[:200]), ("c.png", b""), ("d.png", whole)):
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png", "none.png", "d.png")] + [tmp_path / "empty", "-"]
    (tmp_path / "empty").mkdir()
    result = mlpcli(run, *paths)
    assert result.status == 3
    assert [line.split(":")[0] for line in result.out.splitlines()] == [f"{tmp_path}/a.png", f"{tmp_path}/d.png"]
    reasons = ("b.png: is damaged", "c.png: is empty", "none.png: cannot be read: No such file", ": is a folder")
    lines = result.err.splitlines()
    assert len(lines) == 5
    for line, reason in zip(lines, reasons, strict=False):
        assert line.startswith(f"mlpcli: {tmp_path}")
        assert reason in line
    assert lines[4] == "mlpcli: stdin: is empty"
    document = mlpcli(run, *paths, "--json").json(status=3)
    assert [each["image"] for each in document["images"]] == [f"{tmp_path}/a.png", f"{tmp_path}/d.png"]
    assert [f"mlpcli: {each['reason']}" for each in document["failed"]] == lines


def test_missing_stdin_is_an_error(mlpcli, run):
    result = mlpcli(run, "-", stdin=None)
    assert (result.status, result.out, result.err) == (3, "", "mlpcli: stdin: cannot be read: it is closed\n")


def test_images_of_another_size_are_refused(mlpcli, run):
    result = mlpcli(run, "-", stdin=idx.encode(np.zeros((2, 14, 14), np.uint8)))
    assert (result.status, result.err) == (
        3,
        "mlpcli: stdin: its images have 14 x 14 pixels, the network takes 28 x 28\n",
    )


def test_missing_run_is_an_error(mlpcli, tmp_path):
    result = mlpcli(tmp_path / "none", "it.png")
    assert (result.status, result.out, result.err.count("\n")) == (4, "", 1)


def test_missing_pillow_is_one_line_with_the_remedy(mlpcli, run, monkeypatch, tmp_path, digits):
    (tmp_path / "one.png").write_bytes(picture(digits[0][0]))
    monkeypatch.setitem(sys.modules, "PIL", None)
    result = mlpcli(run, tmp_path / "one.png")
    assert (result.status, result.out) == (2, "")
    assert result.err == f"mlpcli: {tmp_path}/one.png: reading pictures needs Pillow: pip install 'mlpcli[images]'\n"
    assert mlpcli(run, "-", stdin=idx.encode(digits[0][:1])).status == 0


def test_missing_image_is_2(mlpcli, run):
    assert mlpcli(run).status == 2


# Many images, and tables of predictions -----------------------------------------------------------


def csv_of(images, labels=None):
    header = [*(["label"] if labels is not None else []), *(f"pixel{i}" for i in range(784))]
    rows = images.reshape(len(images), -1).tolist()
    if labels is not None:
        rows = [[label, *row] for label, row in zip(labels.tolist(), rows, strict=True)]
    return "".join(",".join(map(str, row)) + "\n" for row in [header, *rows])


def test_table_of_images_gives_a_submission(mlpcli, run, digits, tmp_path):
    images, labels = digits[0][:50].copy(), digits[1][:50]
    images[7] = 0  # a blank image has a row too
    expected = api.load(run).predict(images).predicted.tolist()
    (tmp_path / "test.csv").write_text(csv_of(images))
    (tmp_path / "labelled.csv").write_text(csv_of(images, labels))
    np.savez(tmp_path / "a.npz", images=images)
    for name in ("test.csv", "labelled.csv", "a.npz"):
        out = tmp_path / "out.csv"
        result = mlpcli(run, tmp_path / name, "-o", out, "--columns", "ImageId,Label")
        assert (result.status, result.out) == (0, "")
        assert result.err.endswith(f"{out}: 50 images\n")
        rows = [f"{number},{label}" for number, label in enumerate(expected, start=1)]
        assert out.read_text() == "\n".join(["ImageId,Label", *rows, ""])


def test_table_has_every_probability(mlpcli, run, digits, tmp_path):
    (tmp_path / "one.png").write_bytes(picture(digits[0][0]))
    (tmp_path / "two").write_bytes(idx.encode(digits[0][:2]))
    document = mlpcli(run, tmp_path / "one.png", tmp_path / "two", "--json", "-o", tmp_path / "out.csv").json()
    header, *rows = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert header == ["image", "predicted", "confidence", *(f"p_{k}" for k in range(10))]
    assert [row[0] for row in rows] == [f"{tmp_path}/one.png", f"{tmp_path}/two[0]", f"{tmp_path}/two[1]"]
    assert [int(row[1]) for row in rows] == [each["predicted"] for each in document["images"]]
    assert [float(row[2]) for row in rows] == [each["confidence"] for each in document["images"]]
    assert [list(map(float, row[3:])) for row in rows] == [each["p"] for each in document["images"]]


def test_folder_is_walked(mlpcli, run, digits, tmp_path):
    for name in ("b.png", "a/c.PNG", "a/b/a.png"):
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).write_bytes(picture(digits[0][0]))
    (tmp_path / "all/readme.txt").write_text("no picture")
    (tmp_path / "all/a/up").symlink_to(tmp_path / "all")
    result = mlpcli(run, tmp_path / "all")
    assert result.status == 0
    names = [line.split(":")[0].removeprefix(f"{tmp_path}/all/") for line in result.out.splitlines()]
    assert names == ["a/b/a.png", "a/c.PNG", "b.png"]
    (tmp_path / "none").mkdir()
    result = mlpcli(run, tmp_path / "none")
    assert (result.status, result.out) == (3, "")
    assert result.err == f"mlpcli: {tmp_path}/none: is a folder without pictures, files such as 1.png or 1.jpg\n"


def test_submission_with_a_file_that_cannot_be_read_is_not_written(mlpcli, run, digits, tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, pixels in zip(files, (digits[0][0], digits[0][1], 0 * digits[0][2]), strict=True):
        file.write_bytes(picture(pixels))
    out = tmp_path / "out.csv"
    submission = ("-o", out, "--columns", "ImageId,Label")
    assert mlpcli(run, *files, *submission).status == 0
    written = out.read_text()
    assert [line.split(",")[0] for line in written.splitlines()[1:]] == ["1", "2", "3"]
    assert written.endswith("\n3,\n")  # a picture without a digit has no class
    files[1].write_bytes(b"")
    result = mlpcli(run, *files, *submission)
    assert (result.status, result.err) == (3, f"mlpcli: {files[1]}: is empty\n")
    assert out.read_text() == written


@pytest.mark.parametrize("arguments", [["--columns", "a,b"], ["-o", "x.csv", "--columns", "a"]])
def test_columns_option_needs_a_table_and_two_names(mlpcli, run, arguments):
    result = mlpcli(run, "it.png", *arguments)
    assert (result.status, result.out) == (2, "")
    assert "--columns names the two columns of the file that -o writes" in result.err


def test_tables_that_do_not_fit_are_refused(mlpcli, run, tmp_path):
    (tmp_path / "small.csv").write_text("1,2,3,4\n5,6,7,8\n")
    np.savez(tmp_path / "small.npz", images=np.zeros((2, 14, 14)))
    result = mlpcli(run, tmp_path / "small.csv", tmp_path / "small.npz")
    assert (result.status, result.out) == (3, "")
    assert "small.csv: 4 pixels per image are not a square" in result.err
    assert "small.npz: its images have 14 x 14 pixels, the network takes 28 x 28" in result.err


def test_class_names_are_shown(mlpcli, digits, tmp_path):
    names = [f"<{k}>" for k in range(10)]
    config_ = config.load(None, (*SAMPLE, "training.epochs=1", f"data.class_names={json.dumps(names)}"), {})
    experiment.train(config_, out=tmp_path / "run")
    (tmp_path / "one").write_bytes(idx.encode(digits[0][:1]))
    result = mlpcli(tmp_path / "run", tmp_path / "one")
    assert re.match(rf"{tmp_path}/one\[0\]: <\d>  [\d.]+ %  \(<\d> [\d.]+ %, <\d> ", result.out)
    assert mlpcli(tmp_path / "run", tmp_path / "one", "--json").json()["class_names"] == names
    mlpcli(tmp_path / "run", tmp_path / "one", "-o", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("image,predicted,confidence,p_<0>,p_<1>,")


@pytest.mark.parametrize("transpose", ["null", "true", "false"])
@pytest.mark.parametrize("prefix", ["emnist-digits-", ""])
def test_rows_and_columns_are_swapped_as_by_eval(mlpcli, tiny_images, tmp_path, transpose, prefix):
    images, labels = tiny_images[0], tiny_images[1].reshape(-1, 1)
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        rows = np.hstack([labels, images.reshape(70, 20)]).tolist()
        table = folder / f"{prefix}{split}.csv"
        table.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    (tmp_path / f"{prefix}images-idx3-ubyte").write_bytes(idx.encode(images))
    keys = (f"data.dataset={folder}", "data.size=[5,4]", f"data.transpose={transpose}", "training.epochs=1")
    run = experiment.train(config.load(None, (*keys, "network.hidden=[]"), {}), out=tmp_path / "run").path
    assert _run(["eval", str(run), "--predictions", str(tmp_path / "evaluated.csv")]) == 0
    evaluated = [line.split(",")[3:] for line in (tmp_path / "evaluated.csv").read_text().splitlines()[1:]]
    for file in (table, tmp_path / f"{prefix}images-idx3-ubyte"):
        result = mlpcli(run, file, "-o", tmp_path / "predicted.csv")
        predicted = [line.split(",")[2:] for line in (tmp_path / "predicted.csv").read_text().splitlines()[1:]]
        assert predicted == evaluated
        assert ("rows and columns swapped" in result.err) == (transpose == "null" and prefix != "")
    # Standard input has no name, so images (5, 4) do not fit a network of (4, 5) by their name.
    result = mlpcli(run, "-", "--json", stdin=idx.encode(images))
    assert (result.status == 0) == (transpose != "null" or not prefix)
