"""``mlpcli data``: list, fetch, verify, show and import."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pytest

import mlpcli
from mlpcli import commands
from mlpcli.config import DataConfig
from mlpcli.datasets import load
from mlpcli.datasets.catalogue import CATALOGUE

SAMPLE = CATALOGUE["mnist-sample"]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a folder the source of ``little``: the sample's files under another catalogue name."""
    little = replace(SAMPLE, name="little", sources=("/nowhere",), bundled=False)
    monkeypatch.setattr(load, "CATALOGUE", {**CATALOGUE, "little": little})
    for name in ("MLPCLI_DATA", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return str(load.BUNDLED)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        commands.main(["data", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_list_shows_every_data_set(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    code, out, err = run(capsys, "list", "--folder", str(tmp_path))
    assert (code, err) == (0, "")
    for entry in CATALOGUE.values():
        assert entry.name in out
        assert entry.credit in out
        assert all(source in out for source in entry.sources)
    assert out.count("not fetched yet") == 2
    assert "comes with mlpcli" in out


def test_list_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    code, out, err = run(capsys, "list", "--folder", str(tmp_path), "--json")
    assert (code, err) == (0, "")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert list(entries) == list(CATALOGUE)
    assert entries["mnist"]["here"] is False
    assert entries["mnist-sample"]["here"] is True
    assert entries["mnist"]["bytes"] == 54_950_048
    assert entries["mnist"]["sha256"]["t10k-labels-idx1-ubyte"] == CATALOGUE["mnist"].files["test_labels"].sha256


def test_fetch_then_fetch_again(capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str):
    fetch = ("fetch", "little", "--folder", str(tmp_path), "--source", source)
    code, out, err = run(capsys, *fetch)
    assert code == 0
    assert out == f"little: complete and verified in {tmp_path / 'little'}; fetched 4 of its 4 files\n"
    asked, first, *others = err.splitlines()
    assert asked == f"little: asking {source}"
    assert first == f"little: train-images-idx3-ubyte, 3.9 MB, from {source}"
    assert len(others) == 3, "without a terminal: one line a file"

    code, out, err = run(capsys, *fetch, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"name": "little", "folder": str(tmp_path / "little"), "fetched": []}

    assert run(capsys, "fetch", "little", "--folder", str(tmp_path), "--offline")[0] == 0
    assert run(capsys, "verify", "little", "--folder", str(tmp_path))[0] == 0


def test_sources_are_tried_in_turn(capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str):
    code, out, err = run(
        capsys, "fetch", "little", "--folder", str(tmp_path), "--source", "/none", "--source", source, "--json"
    )
    assert code == 0
    assert len(json.loads(out)["fetched"]) == 4
    assert err.splitlines()[:3] == ["little: asking /none", f"little: asking {source}", "/none: no such folder"]


def test_folder_from_flag_then_environment_then_default(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert f"{Path('data') / 'little'}" in run(capsys, "verify", "little")[1]
    monkeypatch.setenv("MLPCLI_DATA", "elsewhere")
    assert f"{Path('elsewhere') / 'little'}" in run(capsys, "verify", "little")[1]
    assert f"{Path('here') / 'little'}" in run(capsys, "verify", "little", "--folder", "here")[1]
    assert list(tmp_path.iterdir()) == []


def test_bundled_sample_needs_no_fetching(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    code, out, _ = run(capsys, "fetch", "mnist-sample", "--folder", str(tmp_path))
    assert (code, out) == (0, "mnist-sample: comes with mlpcli, nothing to fetch\n")
    assert run(capsys, "verify", "mnist-sample", "--folder", str(tmp_path))[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["fetch", "little"], 3, "/nowhere: no such folder"),
        (["fetch", "little", "--offline"], 3, "offline nothing is fetched"),
        (["fetch", "little", "--offline", "--source", "x"], 2, "--offline fetches nothing"),
        (["fetch", "mnits"], 3, "did you mean mnist?"),
        (["verify", "mnits"], 3, "did you mean mnist?"),
        (["fetch", "."], 2, "needs no download"),
        (["fetch"], 2, "NAME"),
        (["fetsh"], 2, "fetch"),
        (["fetch", "little", "--folder", __file__], 4, "the data folder cannot be used"),
    ],
)
def test_fetch_errors_have_their_statuses(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    words: str,
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (status, "")
    assert words in err
    assert "Traceback" not in err


def test_verify_names_the_damage(capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str):
    run(capsys, "fetch", "little", "--folder", str(tmp_path), "--source", source)
    folder = tmp_path / "little"
    (folder / "train-labels-idx1-ubyte").unlink()
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"rubbish")
    code, out, err = run(capsys, "verify", "little", "--folder", str(tmp_path))
    assert (code, err) == (1, "")
    rows = [line.removeprefix(f"{folder}/").split(maxsplit=2) for line in out.splitlines()]
    assert rows == [
        ["train-images-idx3-ubyte", "ok"],
        ["train-labels-idx1-ubyte", "missing"],
        ["t10k-images-idx3-ubyte", "ok"],
        ["t10k-labels-idx1-ubyte", "damaged", "a file of 7 bytes instead of 1008"],
    ]

    code, out, _ = run(capsys, "verify", "little", "--folder", str(tmp_path), "--json")
    assert code == 1
    report = json.loads(out)
    assert report["ok"] is False
    assert [file["state"] for file in report["files"]] == ["ok", "missing", "ok", "damaged"]


def test_verify_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    for path in load.BUNDLED.glob("*.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert run(capsys, "verify", str(tmp_path))[0] == 0
    other = load.BUNDLED / "t10k-labels-idx1-ubyte.gz"
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(gzip.decompress(other.read_bytes()), mtime=0))
    code, out, _ = run(capsys, "verify", str(tmp_path))
    assert code == 1
    assert "has 5000 images and train-labels-idx1-ubyte.gz 1000 labels" in out


def test_terminal_shows_a_progress_bar(tmp_path: Path):
    """Run on a real terminal, 100 columns wide."""
    script = f"""
import sys
from dataclasses import replace
from mlpcli import commands
from mlpcli.config import DataConfig
from mlpcli.datasets import load
from mlpcli.datasets.catalogue import CATALOGUE
little = replace(CATALOGUE["mnist-sample"], name="little", sources=({str(load.BUNDLED)!r},), bundled=False)
load.CATALOGUE = {{"little": little}}
commands.main(["data", "fetch", "little", "--folder", {str(tmp_path)!r}])
"""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(Path(mlpcli.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 10_000):
            shown += chunk
    except OSError:  # raised when the other end of the terminal is closed
        pass
    finally:
        os.close(ours)
    out = process.communicate()[0]
    assert process.returncode == 0
    assert out.startswith("little: complete and verified")
    assert b"little/train-images-idx3-ubyte:" in shown
    assert b"3.92M" in shown
    stored = (tmp_path / "little" / "train-images-idx3-ubyte").read_bytes()
    assert hashlib.sha256(stored).hexdigest() == SAMPLE.files["train_images"].sha256


# Showing images -----------------------------------------------------------------------------------

DISTORT = ("--set", "augmentation.rotation=15", "--set", "augmentation.shear=10")
SHOW = ("show", "--set", "data.dataset=mnist-sample")


@pytest.mark.parametrize("columns", [20, 80, 150])
def test_show_draws_one_row_per_image(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = run(capsys, *SHOW, *DISTORT, "--images", "2")
    assert (code, err) == (0, "")
    title, *lines = out.splitlines()
    assert title == "mnist-sample, 4,500 training images: rotation 15, shear 10"
    assert max(map(len, lines)) <= columns
    assert "\x1b" not in out
    captions = " ".join(lines).split("image ")
    for caption, beginning in zip(captions[1:], ("0: 5", "1: 0"), strict=True):
        assert caption.startswith(beginning)
        assert [caption.count(f"epoch {epoch} ") for epoch in (1, 2, 3, 20)] == [1, 1, 1, 1]
    heads = [line for line in lines if "epoch" in line or "image" in line]
    assert len(heads) == 2 * {20: 5, 80: 1, 150: 1}[columns]
    assert len(lines) == len(heads) * (1 + 1 + (14 if columns == 150 else 7))


def test_show_without_distortions_names_the_keys(capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, *SHOW)
    assert code == 0
    assert err == "this config distorts nothing; try --set augmentation.rotation=10\n"
    assert out.startswith("mnist-sample, 4,500 training images: no distortions\n")
    assert out.count("image ") == 4


def test_show_draws_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for name in ("sheet.png", "sheet.svg"):
        assert run(capsys, *SHOW, *DISTORT, "-o", name, "--class", "7", "--epoch", "20") == (0, f"{name}\n", "")
    with Image.open("sheet.png") as image:
        assert image.info["Title"] == "mnist-sample, 4,500 training images: rotation 15, shear 10"
        assert min(image.size) > 200
    assert Path("sheet.svg").read_text().rstrip().endswith("</svg>")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--index", "1", "--class", "2"), 2, "--index names the images: give it, or --class and --images, not both"),
        (("--index", "1", "--images", "4"), 2, "--index names the images"),
        (("--index", "4500"), 2, "--index 4500: mnist-sample has the training images 0 to 4499"),
        (("--class", "10"), 2, "--class 10: no training image of mnist-sample has that label"),
        (("--epoch", "1"), 2, "the config has none: --set augmentation.rotation=10"),
        ((*DISTORT, "--epoch", "21"), 2, "--epoch 21: the config trains for 20"),
        (("-o", "sheet.gif"), 2, "-o sheet.gif: name it .png or .svg"),
        (("-o", "missing/sheet.png"), 4, "missing/sheet.png: cannot be written: No such file or directory"),
        (("no-such-config",), 2, "no-such-config: no such file, and no shipped config of that name"),
        (("--set", "augmentation.rotation=400"), 2, "at most 180"),
        (("--set", "data.dataset=./nothing"), 3, "./nothing: neither a data set nor a file or folder"),
    ],
)
def test_show_refuses_missing_images(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(capsys, *SHOW, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


# Your own data ------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = ["label,a,b,c,d", *(f"{'cat' if i % 3 else 'dog'},{i},0,255,7" for i in range(12))]
    (tmp_path / "train.csv").write_text("\n".join(rows))
    (tmp_path / "test.csv").write_text("\n".join(rows[:7]))
    return tmp_path


def test_import_writes_equivalent_idx_files(capsys: pytest.CaptureFixture[str], table: Path):
    out = table / "new"
    code, printed, err = run(capsys, "import", str(table), "-o", str(out))
    assert (code, printed, err) == (0, f"{out}: 12 training and 6 test images of 2 x 2 pixels, 2 classes\n", "")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["classes.txt", *(file.name for file in SAMPLE.files.values())]
    )
    assert (out / "classes.txt").read_text() == "cat\ndog\n"
    before, after = (load.load_dataset(DataConfig(dataset=str(path), validation=0.0)) for path in (table, out))
    for one, other in ((before.train, after.train), (before.test(), after.test())):
        assert one.images.tolist() == other.images.tolist()
        assert one.labels.tolist() == other.labels.tolist()
    assert (before.class_names, before.hashes) == (after.class_names, after.hashes)
    assert run(capsys, "verify", str(out))[0] == 0
    code, printed, _ = run(capsys, "import", str(table / "train.csv"), "-o", str(table / "b"), "--json")
    assert json.loads(printed) == {
        "folder": str(table / "b"),
        "class_names": ["cat", "dog"],
        "image_shape": [2, 2],
        "train": 12,
        "test": 0,
    }


@pytest.mark.parametrize("name", ["two\nlines", " blank", "u\N{LINE SEPARATOR}2028", "x" * 300])
def test_import_refuses_names_that_are_no_lines(capsys: pytest.CaptureFixture[str], table: Path, name: str):
    names = "data.class_names=" + json.dumps([name, "other"])
    code, printed, err = run(capsys, "import", str(table / "train.csv"), "-o", str(table / "new"), "--set", names)
    assert (code, printed) == (3, "")
    message = err.splitlines()[-1]
    assert message.startswith(f"mlpcli: train.csv: the class name {name!r:.60} cannot be a line of classes.txt: ")
    assert not (table / "new").exists()


def test_import_of_the_sample_is_identical(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run(capsys, "import", "mnist-sample", "-o", str(tmp_path / "a"))[0] == 0
    for file in SAMPLE.files.values():
        assert hashlib.sha256((tmp_path / "a" / file.name).read_bytes()).hexdigest() == file.sha256


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["import", "train.csv"], 2, "-o"),
        (["import", "none.csv", "-o", "new"], 3, "neither a data set nor a file or folder"),
        (["import", "bad.csv", "-o", "new"], 3, "row 2, column 2 (a): 256 is not a pixel"),
        (["import", "train.csv", "-o", "."], 4, "exists and is not empty; name another -o"),
        (["import", "train.csv", "-o", "train.csv"], 4, "cannot be written"),
        (["import", "train.csv", "-o", "train.csv/new"], 4, "cannot be written"),
        (["import", "train.csv", "-o", "new", "--set", "data.size=[3, 3]"], 3, "data.size is 3 x 3"),
        (["show", "bad.csv"], 3, "row 2, column 2 (a): 256 is not a pixel"),
        (["show", "train.csv", "--class", "hen"], 2, "--class hen: no training image of train.csv has that label"),
    ],
)
def test_failed_import_writes_no_file(
    capsys: pytest.CaptureFixture[str],
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    words: str,
):
    monkeypatch.chdir(table)
    (table / "bad.csv").write_text("label,a,b,c,d\n1,256,0,0,0\n")
    before = sorted(table.iterdir())
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (status, "")
    assert words in err
    assert "Traceback" not in err
    assert sorted(table.iterdir()) == before


# The fixture's test images are some of its training images.
LEAK = (
    "remark: 6 of the 6 test images are training images too, which makes the test error too low: leave them out of one"
)


def test_show_detects_the_format(capsys: pytest.CaptureFixture[str], table: Path):
    for source in (table, table / "train.csv"):
        code, out, err = run(capsys, "show", str(source), "--images", "2", "--set", "data.validation=0")
        assert (code, err) == (0, f"{LEAK}\n" if source == table else "")
        assert "image 0: dog" in out
        assert "image 1: cat" in out
    code, out, _ = run(capsys, "show", str(table / "train.csv"), "--class", "cat", "--set", "data.validation=0")
    assert "image 1: cat" in out
    assert "dog" not in out


def test_verify_checks_any_format(capsys: pytest.CaptureFixture[str], table: Path):
    code, out, err = run(capsys, "verify", str(table))
    assert (code, err) == (0, "")
    assert [line.split()[1:] for line in out.splitlines()] == [
        ["ok", "12", "train", "images"],
        ["ok", "6", "test", "images"],
        LEAK.split()[1:],
    ]
    found = json.loads(run(capsys, "verify", str(table), "--json")[1])
    assert found["remarks"] == [{"kind": "images", "message": LEAK.removeprefix("remark: ")}]
    shown = json.loads(run(capsys, "show", str(table), "--json", "--set", "data.validation=0")[1])
    assert shown["remarks"] == found["remarks"]
    assert shown["images"] == {"train": [8, 4], "validation": None, "test": [4, 2]}
    (table / "train.csv").write_text("label,a,b,c,d\n1,256,0,0,0\n")
    for option in (("--class", "1"), ("--index", "0"), ("--epoch", "1"), ("--images", "4"), ("-o", "x.png")):
        code, out, err = run(capsys, "show", str(table), "--json", *option)
        words = f"mlpcli: --json counts all images and draws none, to which {option[0]} does not apply: leave it out\n"
        assert (code, out, err) == (2, "", words)
    code, out, _ = run(capsys, "verify", str(table), "--json")
    assert code == 1
    assert json.loads(out)["files"][0]["state"] == "damaged"
