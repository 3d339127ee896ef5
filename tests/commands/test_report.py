"""``mlpcli report`` on real runs: pages, records and errors."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from mlpcli import config, experiment
from mlpcli.runs import directory

SAMPLE = ("data.dataset=mnist-sample", "training.epochs=1", "network.hidden=[8]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "one"
    experiment.train(config.load(None, SAMPLE, {}), out=path)
    return path


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """Copy the run to the working directory."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def without_data(tiny_config, tiny_folder, tmp_path, monkeypatch):
    """Train a run and delete its data."""
    monkeypatch.chdir(tmp_path)
    experiment.train(tiny_config(), out=tmp_path / "tiny-run")
    shutil.rmtree(tiny_folder)
    return tmp_path / "tiny-run"


def document(path):
    text = path.read_text("utf-8")
    return json.loads(re.search(r'<script type="application/json" id="document">(.*?)</script>', text, re.DOTALL)[1])


def recorded(run):
    path = run / directory.EVALUATIONS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def refused(result, status):
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith("mlpcli: ") and result.err.count("\n") == 1
    assert "Traceback" not in result.err
    return result.err


def test_report_html_has_the_validation_images(mlpcli, run, tmp_path):
    result = mlpcli("report", run)
    assert (result.status, result.err) == (0, "")
    assert re.fullmatch(r"report\.html: 0\.\d MB, \d+ images; open it in a browser\n", result.out)
    evaluation = document(tmp_path / "report.html")["evaluation"]
    assert (evaluation["split"], evaluation["examples"], evaluation["dataset"]) == ("validation", 500, "mnist-sample")
    # The test images were not evaluated.
    assert [line["split"] for line in recorded(run)] == ["validation"]


def test_report_records_evaluation_of_test_images(mlpcli, run, tmp_path):
    assert mlpcli("report", run, "--split", "test", "-o", tmp_path / "r.html").status == 0
    assert document(tmp_path / "r.html")["evaluation"]["error"] == directory.read_test(run)["error"]
    assert mlpcli("eval", run, "--split", "test").status == 0
    own, of_eval = ({**line, "time": ""} for line in recorded(run))
    assert own == of_eval


def test_json_describes_the_page(mlpcli, run, tmp_path):
    result = json.loads(mlpcli("report", run, "--json", "-o", "other.html").out)
    size = (tmp_path / "other.html").stat().st_size
    images = len(document(tmp_path / "other.html")["evaluation"]["images"])
    assert result == {"path": "other.html", "bytes": size, "images": images, "split": "validation", "board": True}
    assert mlpcli("report", run / "checkpoints" / "last.npz", "-o", "last.html").status == 0
    assert document(tmp_path / "last.html")["checkpoint"]["name"] == "last"


def test_report_replaces_only_a_report(mlpcli, run, tmp_path):
    (tmp_path / "report.html").write_text("old")
    assert mlpcli("report", run).status == 0
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    for path in (tmp_path, "/dev/null", tmp_path / "nowhere" / "report.html"):
        assert "cannot be written" in refused(mlpcli("report", run, "-o", path), 4)


def test_no_images_evaluates_none(mlpcli, run, tmp_path):
    assert mlpcli("report", run, "--no-images").out.endswith("0 images; open it in a browser\n")
    found = document(tmp_path / "report.html")
    assert (found["evaluation"], found["no_images"]) == (None, "This page was made without images.")
    assert recorded(run) == []
    for option, value in (("--split", "test"), ("--data", "mnist"), ("--source", "x")):
        assert option in refused(mlpcli("report", run, "--no-images", option, value), 2)


def test_report_without_data_has_no_images(mlpcli, without_data, tmp_path):
    result = mlpcli("report", without_data)
    assert result.status == 0
    assert "its training data are not here" in result.err
    assert result.err.endswith("the page is made without images\n")
    found = document(tmp_path / "report.html")
    assert found["evaluation"] is None
    # A page may be passed on: it has no paths of this machine.
    assert found["no_images"] == "The images were not available when this page was made."
    (tmp_path / "report.html").unlink()
    refused(mlpcli("report", without_data, "--split", "validation"), 3)
    assert not (tmp_path / "report.html").exists()


def test_report_without_validation_shows_training_images(mlpcli, tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment.train(tiny_config("data.validation=0", "data.test=false"), out=tmp_path / "run")
    assert mlpcli("report", "run").status == 0
    found = document(tmp_path / "report.html")
    assert (found["evaluation"]["split"], found["evaluation"]["examples"]) == ("train", 70)
    assert found["run"]["validation_error"] is None


def test_missing_or_damaged_run_is_an_error(mlpcli, run, tmp_path):
    assert "no such run" in refused(mlpcli("report", tmp_path / "none"), 4)
    with (run / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    assert "is damaged" in refused(mlpcli("report", run), 4)
    (run / "checkpoints" / "best.npz").write_bytes(b"junk")
    assert "is damaged" in refused(mlpcli("report", run), 4)
    assert not (tmp_path / "report.html").exists()


def test_source_with_offline_is_refused(mlpcli, run):
    refused(mlpcli("report", run, "--offline", "--source", "x"), 2)
