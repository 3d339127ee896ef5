"""``mlpcli export`` on real runs; onnxruntime on a whole test set; the examples of docs/export.md."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy

from mlpcli import config, experiment
from mlpcli.analysis.evaluation import open_model, outputs
from mlpcli.config import DataConfig
from mlpcli.datasets.load import BUNDLED, load_split
from mlpcli.errors import DivergedError

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
SAMPLE = ("data.dataset=mnist-sample", "training.epochs=1", "network.hidden=[16]", "data.validation=0.02")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "one"
    experiment.train(config.load(None, SAMPLE, {}), out=path)
    return path


@pytest.fixture(scope="module")
def test_split():
    return load_split(DataConfig("mnist-sample"), "test").split


def refused(result, status):
    assert (result.status, result.out) == (status, "")
    assert result.err.count("\n") == 1
    return result.err


# Written files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("input_type", ["uint8", "float32"])
def test_onnxruntime_agrees_on_the_whole_test_set(mlpcli, run, tmp_path, test_split, input_type):
    assert mlpcli("export", run, "-o", tmp_path / "x.onnx", "--input", input_type).status == 0
    images = test_split.images.reshape(-1, 28, 28)
    images = images if input_type == "uint8" else (images / 255).astype(np.float32)
    p, predicted = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(["p", "predicted"], {"images": images})
    own = outputs(open_model(run), test_split)
    assert len(p) == 1000
    assert np.abs(p - own.p).max() < 1e-5
    assert predicted.tolist() == own.predicted.tolist()
    # The predictions are not all equal.
    assert np.mean(predicted == test_split.labels) > 0.8


def test_bytes_are_the_default(mlpcli, run, tmp_path):
    for name, *options in (("one",), ("two", "--input", "uint8"), ("three", "--input", "float32")):
        assert mlpcli("export", run, "-o", tmp_path / f"{name}.onnx", *options).status == 0
    one, two, three = ((tmp_path / f"{name}.onnx").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_export_of_run_takes_best_or_named_checkpoint(mlpcli, tmp_path, tiny_config):
    experiment.train(tiny_config(), out=tmp_path / "run")
    names = ("best", "last", "previous")
    checkpoints = {name: tmp_path / "run" / "checkpoints" / f"{name}.npz" for name in names}
    for name, source in (("run", tmp_path / "run"), *checkpoints.items()):
        assert mlpcli("export", source, "-o", tmp_path / f"{name}.safetensors").status == 0
    files = {name: (tmp_path / f"{name}.safetensors").read_bytes() for name in ("run", *names)}
    assert files["run"] == files["best"]
    assert files["last"] != files["previous"]
    for name in names:
        W1 = safetensors.numpy.load(files[name])["W1"]
        assert W1.tolist() == open_model(checkpoints[name]).checkpoint.parameters.W[0].tolist()


@pytest.mark.parametrize("suffix", ["onnx", "safetensors"])
def test_json_describes_the_written_file(mlpcli, run, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    result = mlpcli("export", run, "-o", path, "--json")
    assert result.err == ""
    document = json.loads(result.out)
    data = path.read_bytes()
    tensors = [("W1", [784, 16]), ("b1", [16]), ("W2", [16, 10]), ("b2", [10])]
    images = [{"name": "images", "dtype": "uint8", "shape": ["N", 28, 28]}]
    p = {"name": "p", "dtype": "float32", "shape": ["N", 10]}
    predicted = {"name": "predicted", "dtype": "int64", "shape": ["N"]}
    assert document == {
        "path": str(path),
        "format": suffix,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "inputs": images if suffix == "onnx" else [],
        "outputs": [p, predicted] if suffix == "onnx" else [],
        "tensors": [{"name": name, "dtype": "float32", "shape": shape} for name, shape in tensors],
        "preprocessing": None,
    }


def test_text_shows_the_facts_of_json(mlpcli, run, tmp_path):
    for suffix, kinds in (("onnx", ["input", "output", "output"]), ("safetensors", ["tensor"] * 4)):
        path = tmp_path / f"x.{suffix}"
        document = json.loads(mlpcli("export", run, "-o", path, "--json").out)
        head, *lines = mlpcli("export", run, "-o", path).out.splitlines()
        assert head == f"{path}: {suffix}, {document['bytes']:,} bytes, sha256 {document['sha256']}"
        assert [line.split()[0] for line in lines] == kinds
    assert lines[0].split(maxsplit=3) == ["tensor", "W1", "float32", "(784, 16)"]
    assert lines[1].split(maxsplit=3) == ["tensor", "b1", "float32", "(16,)"]


# Formats and files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "starts"),
    [
        ("x.onnx", [], b"\x08\x07"),
        ("X.ONNX", [], b"\x08\x07"),
        ("x.SafeTensors", [], None),
        ("x.bin", ["--to", "onnx"], b"\x08\x07"),
        ("x", ["--to", "safetensors"], None),
        ("x.onnx", ["--to", "onnx"], b"\x08\x07"),
    ],
)
def test_format_is_given_by_suffix_or_option(mlpcli, run, tmp_path, name, options, starts):
    assert mlpcli("export", run, "-o", tmp_path / name, *options).status == 0
    data = (tmp_path / name).read_bytes()
    assert data.startswith(starts) if starts else data[8:9] == b"{"


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("x.bin", [], "say --to onnx, safetensors, csv or tensorboard"),
        ("x", [], "say --to onnx, safetensors, csv or tensorboard"),
        ("x.onnx", ["--to", "safetensors"], "suffix of a onnx file, but --to is safetensors"),
        ("x.safetensors", ["--to", "onnx"], "suffix of a safetensors file, but --to is onnx"),
        ("x.npz", ["--to", "onnx"], "suffix of a checkpoint file"),
        ("x.safetensors", ["--input", "uint8"], "--input is for ONNX models"),
    ],
)
def test_contradicting_options_are_refused(mlpcli, run, tmp_path, name, options, what):
    assert what in refused(mlpcli("export", run, "-o", tmp_path / name, *options), 2)
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_2(mlpcli, run):
    for arguments in ([], [run], ["-o", "x.onnx"], [run, "-o", "x.onnx", "--to", "pickle"], [run, run, "-o", "x.onnx"]):
        result = mlpcli("export", *arguments)
        assert (result.status, result.out) == (2, "")


def test_existing_file_is_replaced(mlpcli, run, tmp_path):
    (tmp_path / "x.onnx").write_text("what was there before")
    document = json.loads(mlpcli("export", run, "-o", tmp_path / "x.onnx", "--json").out)
    assert hashlib.sha256((tmp_path / "x.onnx").read_bytes()).hexdigest() == document["sha256"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.onnx"]


def test_unwritable_output_is_an_error(mlpcli, run, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "file").write_text("")
    for path in ("folder.onnx", "pipe.onnx", "none/x.onnx", "file/x.onnx", f"{'x' * 300}.onnx"):
        message = refused(mlpcli("export", run, "-o", tmp_path / path), 4)
        assert f"{tmp_path / path}: cannot be written: " in message
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.onnx", "pipe.onnx"]


def test_missing_or_damaged_run_is_an_error(mlpcli, run, tmp_path):
    assert "no such run" in refused(mlpcli("export", tmp_path / "none", "-o", tmp_path / "x.onnx"), 4)
    assert "is not a run" in refused(mlpcli("export", tmp_path, "-o", tmp_path / "x.onnx"), 4)
    data = (run / "checkpoints" / "best.npz").read_bytes()
    for damaged in (b"", data[:-1], data[:1000] + b"x" + data[1001:]):
        (tmp_path / "x.npz").write_bytes(damaged)
        assert "is damaged" in refused(mlpcli("export", tmp_path / "x.npz", "-o", tmp_path / "x.onnx"), 4)
    assert not (tmp_path / "x.onnx").exists()


def test_missing_onnx_is_one_line_with_the_remedy(run, tmp_path):
    program = (
        "import sys; sys.modules['onnx'] = None; from mlpcli.commands import main;"
        f"main(['export', {str(run)!r}, '-o', {str(tmp_path / 'x.onnx')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mlpcli: an ONNX model needs the package onnx: pip install 'mlpcli[export]'\n"


# The examples of docs/export.md -------------------------------------------------------------------


def example(library):
    """Return the Python block of docs/export.md that uses ``library``."""
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if re.search(rf"^import {library}$", block, re.MULTILINE)]
    return found


def output_units():
    """Return the table of docs/export.md: objective -> code of the last module."""
    rows = re.findall(r"^\| (`.*`) \| `(torch\..*)` \|$", DOCS.read_text("utf-8"), re.MULTILINE)
    return {name: code for names, code in rows for name in re.findall(r"`(\w+)`", names)}


def test_example_for_onnxruntime(mlpcli, run, tmp_path, monkeypatch, test_split):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    images = gzip.decompress((BUNDLED / "t10k-images-idx3-ubyte.gz").read_bytes())
    (folder / "t10k-images-idx3-ubyte").write_bytes(images)
    mlpcli("export", run, "-o", tmp_path / "digits.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, np.ndarray] = {}
    exec(example("onnxruntime"), names)
    assert np.abs(names["p"] - outputs(open_model(run), test_split).p).max() < 1e-5
    assert names["p"].shape == (1000, 10)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", [("sigmoid", [16]), ("tanh", [9, 8]), ("relu", [9, 8, 7]), ("sigmoid", [])])
def test_example_for_torch(mlpcli, tmp_path, monkeypatch, test_split, network, dtype):
    torch = pytest.importorskip("torch")
    activation, hidden = network
    overrides = (*SAMPLE, f"network.activation={activation}", f"network.hidden={hidden}", f"network.dtype={dtype}")
    experiment.train(config.load(None, (*overrides, "training.learning_rate=0.05"), {}), out=tmp_path / "run")
    mlpcli("export", tmp_path / "run", "-o", tmp_path / "digits.safetensors")
    monkeypatch.chdir(tmp_path)
    code, names = example("torch"), {}
    exec(code, names)
    images = torch.tensor(test_split.images.reshape(-1, 28, 28))
    assert "`model(images / 255)`" in DOCS.read_text("utf-8")
    assert "`model(images.double() / 255)`" in DOCS.read_text("utf-8")
    with torch.no_grad():
        p = names["model"](images / 255 if dtype == "float32" else images.double() / 255).numpy()
    own = outputs(open_model(tmp_path / "run"), test_split)
    assert p.shape == (1000, 10)
    assert np.abs(p - own.p).max() < (1e-5 if dtype == "float32" else 1e-12)
    assert len(set(own.predicted)) > 5


@pytest.mark.torch
def test_output_units_of_the_other_objectives():
    torch = pytest.importorskip("torch")
    from mlpcli.model.objectives import OBJECTIVES

    z = np.random.default_rng(0).normal(size=(50, 10)) * 20
    units = {**output_units(), "softmax_cross_entropy": "torch.nn.Softmax(dim=1)"}
    assert units.keys() == OBJECTIVES.keys()
    assert units["softmax_cross_entropy"] in example("torch")
    for name, objective in OBJECTIVES.items():
        p = np.empty_like(z)
        objective.output(z, p)
        module = eval(units[name], {"torch": torch})
        assert np.abs(module(torch.tensor(z)).numpy() - p).max() < 1e-12, name


# Curves -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_runs(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("others") / "two"
    experiment.train(config.load(None, (*SAMPLE, "training.epochs=2", "network.hidden=[]"), {}), out=other)
    return run, other


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_curves_as_one_table(mlpcli, two_runs, tmp_path):
    result = mlpcli("export", *two_runs, "-o", tmp_path / "curves.csv")
    assert (result.status, result.out, result.err) == (0, f"{tmp_path}/curves.csv\n", "")
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["epoch"]) for row in rows] == [("one", "1"), ("two", "1"), ("two", "2")]
    for row, line in zip(rows, [line for run in two_runs for line in lines_of(run)], strict=True):
        assert float(row["train_loss"]) == line["train_loss"]
        assert float(row["gradient_norm_1"]) == line["gradient_norm"][0]


def test_curves_for_tensorboard(mlpcli, two_runs, tmp_path):
    record_reader = pytest.importorskip("tensorboard.compat.tensorflow_stub.pywrap_tensorflow").PyRecordReader_New
    from tensorboard.compat.proto.event_pb2 import Event

    result = mlpcli("export", *two_runs, "--to", "tensorboard", "-o", tmp_path / "logs", "--json")
    files = json.loads(result.out)["files"]
    assert [Path(file).parent for file in files] == [tmp_path / "logs" / "one", tmp_path / "logs" / "two"]
    for file, run in zip(files, two_runs, strict=True):
        reader, events = record_reader(file), []
        with suppress(Exception):  # exceptions at its exit do not matter here
            while True:
                reader.GetNext()
                events.append(Event.FromString(reader.record()))
        assert events[0].file_version == "brain.Event:2"
        assert len(events) == 1 + len(lines_of(run))
        for event, line in zip(events[1:], lines_of(run), strict=True):
            values = {value.tag: value.simple_value for value in event.summary.value}
            assert event.step == line["epoch"]
            assert values["loss/train"] == pytest.approx(line["train_loss"])
            assert values["error/validation"] == pytest.approx(line["validation_error"])
            assert values["gradient_norm/layer 1"] == pytest.approx(line["gradient_norm"][0])
    before = {file: Path(file).read_bytes() for file in files}
    mlpcli("export", *two_runs, "--to", "tensorboard", "-o", tmp_path / "logs")
    assert {file: Path(file).read_bytes() for file in files} == before


def test_runs_of_one_name_are_distinguished(mlpcli, two_runs, tmp_path):
    shutil.copytree(two_runs[0], tmp_path / "one")
    mlpcli("export", two_runs[0], tmp_path / "one", "-o", tmp_path / "curves.csv")
    with (tmp_path / "curves.csv").open(newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == [str(two_runs[0]), f"{tmp_path}/one"]


def test_curves_of_a_folder_are_those_of_its_runs(mlpcli, two_runs, tmp_path):
    (tmp_path / "runs").mkdir()
    for run in two_runs:
        shutil.copytree(run, tmp_path / "runs" / run.name)
    result = mlpcli("export", tmp_path / "runs", "-o", tmp_path / "curves.csv", "--json")
    assert result.json["runs"] == 2
    with (tmp_path / "curves.csv").open(newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {run.name for run in two_runs}
    damaged = tmp_path / "runs" / two_runs[0].name
    (damaged / "metrics.jsonl").write_text("{}\n")
    result = mlpcli("export", tmp_path / "runs", "-o", tmp_path / "curves.csv", "--json")
    assert (result.json["runs"], result.err.count("\n")) == (1, 1)
    assert "metrics.jsonl:1: is damaged" in result.err and result.err.endswith("; left out\n")
    assert "metrics.jsonl:1: is damaged" in refused(mlpcli("export", damaged, "-o", tmp_path / "curves.csv"), 4)


def test_runs_without_an_epoch_are_left_out(mlpcli, two_runs, tmp_path):
    runs = [shutil.copytree(run, tmp_path / "runs" / run.name) for run in two_runs]
    shutil.rmtree(runs[0])
    with pytest.raises(DivergedError):
        settings = ("data.dataset=mnist-sample", "network.hidden=[]", "network.objective=linear_quadratic")
        experiment.train(config.load(None, (*settings, "training.learning_rate=1e30"), {}), out=runs[0])
    for given in ([tmp_path / "runs"], runs):
        result = mlpcli("export", *given, "-o", tmp_path / "curves.csv", "--json")
        assert result.json["runs"] == 1
        assert result.err == f"mlpcli: {runs[0]}: has no epoch to export yet; left out\n"
    alone = refused(mlpcli("export", runs[0], "-o", tmp_path / "x.csv"), 4)
    assert alone == f"mlpcli: {runs[0]}: has no epoch to export yet\n"


def test_event_files_do_not_replace_each_other(mlpcli, two_runs, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    names = ("a/b/first", "a-b/first", "z/first")
    for name in names:
        shutil.copytree(two_runs[0], name)
    message = refused(mlpcli("export", *names, "--to", "tensorboard", "-o", "logs"), 2)
    assert message == "mlpcli: a/b/first and a-b/first would both be the run a-b-first; export them one by one\n"
    assert not (tmp_path / "logs").exists()


def test_missing_curves_are_an_error(mlpcli, two_runs, tmp_path, monkeypatch):
    assert "csv takes several" in refused(mlpcli("export", *two_runs, "-o", tmp_path / "x.onnx"), 2)
    assert "no such run" in refused(mlpcli("export", tmp_path / "none", "-o", tmp_path / "x.csv"), 4)
    (tmp_path / "file").write_text("")
    to_file = mlpcli("export", *two_runs, "--to", "tensorboard", "-o", tmp_path / "file")
    assert "cannot be written" in refused(to_file, 4)
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    without = mlpcli("export", *two_runs, "--to", "tensorboard", "-o", tmp_path / "logs")
    assert "pip install 'mlpcli[tensorboard]'" in refused(without, 2)
