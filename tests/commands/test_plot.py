"""``mlpcli plot`` on real runs: every kind, the images it evaluates and records, and errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlpcli import experiment
from mlpcli.commands import _run
from mlpcli.config import Config, load
from mlpcli.experiment import Observer
from mlpcli.runs import directory
from tests.conftest import NO_DEFAULTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Ending = tuple[int, str, str]
Plot = Callable[..., Ending]


class Stop(Observer):
    def epoch(self, record: Any, best: bool) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_images: tuple[np.ndarray, ...]) -> Path:
    """Train on the tiny data set: one, deep, softmax, no-validation, interrupted, and new, which has no epoch."""
    from mlpcli.datasets import idx
    from mlpcli.datasets.catalogue import FILE_NAMES, ROLES

    folder = tmp_path_factory.mktemp("plot")
    (folder / "tiny").mkdir()
    for role, array in zip(ROLES, tiny_images, strict=True):
        (folder / "tiny" / FILE_NAMES[role]).write_bytes(idx.encode(array))
    few = ("network.hidden=[6]", "training.epochs=3", "training.batch_size=16", f'data.dataset="{folder / "tiny"}"')

    def config(*overrides: str) -> Config:
        return load(None, (*few, *NO_DEFAULTS, *overrides), {})

    experiment.train(config(), out=folder / "one")
    experiment.train(config("network.hidden=[5, 4, 3]", "network.activation=relu"), out=folder / "deep")
    experiment.train(config("network.hidden=[]", "network.objective=linear_hinge"), out=folder / "softmax")
    experiment.train(config("data.validation=0", "training.epochs=1"), out=folder / "no-validation")
    with pytest.raises(KeyboardInterrupt):
        experiment.train(config(), out=folder / "interrupted", observer=Stop())
    (folder / "new").mkdir()
    shutil.copy(folder / "one" / "config.yaml", folder / "new")
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the runs, and change to that folder."""
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "runs"))
    monkeypatch.delenv("MLPCLI_DATA", raising=False)
    return tmp_path / "runs"


@pytest.fixture
def plot(capsys: pytest.CaptureFixture[str]) -> Plot:
    def plot(*arguments: Any) -> Ending:
        status = _run(["plot", *map(str, arguments)])
        return (status, *capsys.readouterr())

    return plot


def evaluations(run: Path) -> list[dict[str, Any]]:
    path = run / directory.EVALUATIONS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def title(path: Path) -> str:
    """Return the title in the picture's metadata."""
    assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 200
        assert len(np.unique(np.asarray(image.convert("L")))) > 2
        return str(image.info["Title"])


# Kinds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("one",), "curves: one"),
        (("no-validation",), "curves: no-validation"),
        (("one", "./deep/", "interrupted"), "curves: one, deep, interrupted (interrupted, 2 of 3 epochs)"),
        (("one", "--kind", "layers"), "layers: one"),
        (("deep", "--kind", "layers"), "layers: deep"),
        (("deep", "--kind", "weights"), "weights: deep, best checkpoint, epoch {deep}\nweights into the 5 units of "),
        (("softmax", "--kind", "weights"), "\nweights into the 3 classes"),
        (("one", "--kind", "weights", "--images", 2), "\nweights into the first 2 of 6 units of the first layer"),
        (("interrupted/checkpoints/last.npz", "--kind", "weights"), "weights: interrupted, last checkpoint, epoch 2\n"),
    ],
)
def test_every_kind_is_drawn(arguments: tuple[Any, ...], expected: str, runs: Path, plot: Plot):
    assert plot(*arguments, "-o", "p.png") == (0, "p.png\n", "")
    best = {"deep": min(lines(runs / "deep"), key=lambda line: (line["validation_error"], line["validation_loss"]))}
    found = title(Path("p.png"))
    assert expected.format(deep=best["deep"]["epoch"]) in found
    assert not list(runs.glob("*/evaluations.jsonl"))


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_default_is_curves_in_the_format_of_the_suffix(runs: Path, plot: Plot):
    assert plot("one", "-o", "a.SVG")[0] == plot("one", "--kind", "curves", "-o", "b.svg")[0] == 0
    assert Path("a.SVG").read_bytes() == Path("b.svg").read_bytes()
    assert Path("a.SVG").read_text().startswith("<?xml")


def test_layers_of_several_runs_are_drawn(runs: Path, plot: Plot):
    assert plot("one", "deep", "--kind", "layers", "-o", "p.png") == (0, "p.png\n", "")
    assert title(Path("p.png")) == "layers: one, deep"


def test_runs_of_one_name_are_labelled_by_path(runs: Path, plot: Plot):
    shutil.copytree("one", "other/one")
    plot("one", "other/one", "deep", "-o", "p.png")
    assert title(Path("p.png")) == "curves: one, other/one, deep"


def test_run_without_an_epoch_is_reported_and_skipped(runs: Path, plot: Plot):
    assert plot("new", "one", "-o", "p.png") == (0, "p.png\n", "new: has no epoch to draw yet\n")
    assert title(Path("p.png")) == "curves: one"


# Evaluated images ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "run", "options", "split", "examples"),
    [
        ("confusion", "one", (), "validation", 7),
        ("mistakes", "one", (), "validation", 7),
        ("confusion", "no-validation", (), "train", 70),
        ("mistakes", "one", ("--split", "test"), "test", 30),
        ("confusion", "one", ("--split", "train"), "train", 63),
    ],
)
def test_plot_records_evaluation_of_test_images(
    kind: str, run: str, options: tuple[str, ...], split: str, examples: int, runs: Path, plot: Plot
):
    assert plot(run, "--kind", kind, *options, "-o", "p.png")[0] == 0
    (record,) = evaluations(runs / run)
    assert (record["split"], record["examples"], record["ensemble"]) == (split, examples, False)
    assert f"{record['error']:.2%} error, {record['errors']} of {examples} {split} images of tiny" in title(
        Path("p.png")
    )


def test_missing_validation_images_are_an_error(runs: Path, plot: Plot):
    status, _, err = plot("no-validation", "--kind", "confusion", "--split", "validation", "-o", "p.png")
    assert (status, Path("p.png").exists()) == (3, False) and "data.validation is 0" in err


def test_other_data_are_drawn(runs: Path, trained: Path, plot: Plot):
    shutil.copytree(trained / "tiny", "mine")
    status, _, err = plot("one", "--kind", "mistakes", "--data", "./mine", "--images", 3, "-o", "p.png")
    assert (status, err) == (0, "") and "images of mine" in title(Path("p.png"))
    assert plot("one", "--kind", "mistakes", "--data", "./none", "-o", "q.png")[0] == 3


def test_more_images_give_a_larger_picture(runs: Path, plot: Plot):
    sizes = []
    for number in (1, 30):
        assert plot("softmax", "--kind", "mistakes", "--split", "train", "--images", number, "-o", "p.png")[0] == 0
        with Image.open("p.png") as image:
            sizes.append(image.size)
    assert sizes[0][1] < sizes[1][1]


# Output files -------------------------------------------------------------------------------------


def test_existing_file_is_replaced_atomically(runs: Path, plot: Plot, monkeypatch: pytest.MonkeyPatch):
    Path("p.svg").write_text("what was there before")
    assert plot("new", "-o", "p.svg")[0] == 4
    assert Path("p.svg").read_text() == "what was there before"
    assert plot("one", "-o", "p.svg")[0] == 0
    whole = Path("p.svg").read_bytes()
    assert whole.endswith(b"</svg>\n")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mlpcli.files.os.fsync", fail)
        assert plot("deep", "-o", "p.svg") == (4, "", "mlpcli: p.svg: cannot be written: No space left on device\n")
    assert Path("p.svg").read_bytes() == whole
    assert not [path for path in runs.iterdir() if "partial" in path.name]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("one",), 2, "'-o' / '--output'"),
        (("-o", "p.png"), 2, "'RUN...'"),
        (("one", "-o", "p.pdf"), 2, "-o p.pdf: name it .png or .svg"),
        (("one", "-o", "p"), 2, "-o p: name it .png or .svg"),
        (("one", "-o", "-"), 2, "-o -: name it .png or .svg"),
        (("one", "-o", ".png"), 2, "-o .png: name it .png or .svg"),
        (("one", "-o", "p.png", "--kind", "curve"), 2, "'curve' is not one of"),
        ((*["one"] * 9, "-o", "p.png", "--kind", "layers"), 2, "9 runs do not fit one picture; at most 8 do"),
        (("one", "deep", "-o", "p.png", "--kind", "mistakes"), 2, "--kind mistakes draws one run, and 2 are named"),
        (("one", "-o", "p.png", "--split", "test"), 2, "--split does not apply to --kind curves, only to confusion"),
        (("one", "-o", "p.png", "--kind", "weights", "--data", "x"), 2, "--data does not apply to --kind weights"),
        (("one", "-o", "p.png", "--kind", "layers", "--offline"), 2, "--offline does not apply to --kind layers"),
        (("one", "-o", "p.png", "--kind", "layers", "--folder", "x"), 2, "--folder does not apply to --kind layers"),
        (
            ("one", "-o", "p.png", "--kind", "confusion", "--images", 3),
            2,
            "--images does not apply",
        ),
        (("one", "-o", "p.png", "--kind", "mistakes", "--images", 0), 2, "--images"),
        ((*["one"] * 41, "-o", "p.png"), 2, "41 runs do not fit one picture; at most 40 do"),
        (
            ("one", "-o", "p.png", "--kind", "mistakes", "--offline", "--source", "x"),
            2,
            "--offline fetches nothing",
        ),
        (("none", "-o", "p.png"), 4, "none: no such run"),
        ((".", "-o", "p.png"), 4, ".: is not a run: it has no config.yaml"),
        (("one/checkpoints/last.npz", "-o", "p.png"), 4, "is a checkpoint; name its run: "),
        (("new", "-o", "p.png"), 4, "new: nothing to draw: no epoch was completed"),
        (("new", "-o", "p.png", "--kind", "layers"), 4, "new: nothing to draw: no epoch was completed"),
        (("new", "-o", "p.png", "--kind", "weights"), 4, "new: has no checkpoint yet"),
        (("none", "-o", "p.png", "--kind", "confusion"), 4, "none: no such run"),
        (("one", "-o", "nowhere/p.png"), 4, "nowhere/p.png: cannot be written: No such file or directory"),
        (("one", "-o", "folder.png"), 4, "folder.png: cannot be written: is not a regular file"),
        (("one", "-o", "a\0b.png"), 4, "cannot be written"),
    ],
)
def test_errors_are_one_line_without_a_file(
    arguments: tuple[Any, ...], status: int, message: str, runs: Path, plot: Plot
):
    Path("folder.png").mkdir()
    Path("new/.lock").touch()  # made when a command asks whether the run is in use
    before = sorted(runs.rglob("*"))
    found, out, err = plot(*arguments)
    assert (found, out) == (status, "")
    assert message in err.splitlines()[-1] and "Traceback" not in err
    assert sorted(runs.rglob("*")) == before


@pytest.mark.parametrize("kind", ["curves", "layers"])
def test_damaged_run_is_reported(kind: str, runs: Path, plot: Plot):
    path = Path("one/metrics.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"train_loss"', b'"lost"', 1))
    status, _, err = plot("one", "-o", "p.png", "--kind", kind)
    assert status == 4 and "one/metrics.jsonl:1: is damaged" in err
    path.write_bytes(whole[:-5])  # its last line is cut
    status, _, err = plot("one", "-o", "p.png", "--kind", kind)
    assert status == 4 and re.search(r"one/metrics.jsonl: is damaged: it has \d+ of the \d+ lines", err)
    path.write_bytes(whole.replace(b'"gradient_norm": [', b'"gradient_norm": [1.0, ', 1))
    assert plot("one", "-o", "p.png", "--kind", kind)[0] == 4


# matplotlib ---------------------------------------------------------------------------------------


def test_missing_matplotlib_is_an_error_before_evaluation(runs: Path, plot: Plot, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, err = plot("one", "--kind", "confusion", "--split", "test", "-o", "p.png")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("mlpcli: pictures need matplotlib: pip install 'mlpcli[plots]'")
    assert evaluations(runs / "one") == [] and not Path("p.png").exists()


MATPLOTLIBRC = """
text.usetex: True
axes.prop_cycle: cycler('color', ['yellow'])
backend: TkAgg
font.size: 40
savefig.dpi: 10
savefig.bbox: tight
svg.hashsalt: mine
svg.fonttype: none
axes.grid: True
"""


def test_plot_ignores_user_settings_of_matplotlib(runs: Path, plot: Plot):
    plot("one", "deep", "-o", "a.svg")
    Path("matplotlibrc").write_text(MATPLOTLIBRC)
    program = """
import sys
from mlpcli.commands import _run
status = _run(["plot", "one", "deep", "-o", "b.svg"])
import matplotlib
assert matplotlib.rcParams["text.usetex"], "the settings were not read: nothing is tested"
assert "matplotlib.pyplot" not in sys.modules
sys.exit(status)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "b.svg\n", "")
    assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()


def test_notebook_backend_is_ignored(runs: Path):
    environment = {**os.environ, "MPLBACKEND": "module://no_such_backend"}
    command = [sys.executable, "-m", "mlpcli", "plot", "one", "-o", "one.svg"]
    subprocess.run(command, cwd=runs, env={**environment, "PYTHONPATH": str(ROOT)}, check=True)
    assert (runs / "one.svg").exists()
