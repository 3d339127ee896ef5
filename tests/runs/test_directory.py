"""The run directory: files, privacy, summaries, and safe reading."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlpcli import config as config_module
from mlpcli import experiment
from mlpcli.config import Config
from mlpcli.errors import MlpcliError, RunError
from mlpcli.files import locked
from mlpcli.runs import directory
from mlpcli.runs.metrics import Metrics
from mlpcli.runs.summary import Summary, read_run, summaries
from tests.fork_server import fast_folder

Make = Callable[..., Config]


@pytest.fixture
def folder() -> Iterator[Path]:
    with fast_folder() as path:
        yield path


@pytest.fixture
def run(tiny_config: Make, folder: Path) -> Path:
    return experiment.train(tiny_config(), out=folder / "run").path


def test_run_has_exactly_the_documented_files(run: Path):
    found = {str(path.relative_to(run)) for path in run.rglob("*")} - {"steps.jsonl"}  # if it took long enough
    assert sorted(found) == [
        ".lock",
        "checkpoints",
        "checkpoints/best.npz",
        "checkpoints/last.npz",
        "checkpoints/previous.npz",
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "test.json",
    ]


def test_config_of_a_run_is_complete(tiny_config: Make, run: Path):
    assert config_module.load(run / "config.yaml", (), {}) == tiny_config()


def test_manifest_has_no_absolute_path_host_or_user(run: Path, tiny_folder: Path):
    text = (run / "manifest.json").read_text()
    for name in (str(run), str(tiny_folder), str(Path.home()), socket.gethostname(), getpass.getuser()):
        assert len(name) < 3 or name not in text
    values: list[Any] = [json.loads(text)]
    while values:
        value = values.pop()
        values += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        assert not (isinstance(value, str) and value.startswith(os.sep))
    assert directory.read_manifest(run)["data"]["dataset"] == "tiny"


def test_metrics_have_a_line_per_epoch(run: Path):
    found = directory.read_metrics(run)
    assert [line["epoch"] for line in found.records] == [1, 2, 3]
    assert found.last == found.records[-1] == directory.read_last_record(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4')
    assert directory.read_metrics(run) == found
    assert directory.read_last_record(run) == found.last
    (run / "metrics.jsonl").unlink()
    assert directory.read_metrics(run) == Metrics(run / "metrics.jsonl")
    assert directory.read_last_record(run) is None


def test_run_path_means_last_checkpoint_without_validation(tiny_config: Make, folder: Path):
    run = experiment.train(tiny_config("data.validation=0"), out=folder / "run").path
    assert directory.find_checkpoint(run) == run / "checkpoints/last.npz"


def test_run_path_means_best_checkpoint(run: Path):
    checkpoints = run / "checkpoints"
    assert directory.find_checkpoint(run) == checkpoints / "best.npz"
    (checkpoints / "best.npz").unlink()
    with pytest.raises(RunError, match=r"best\.npz: is missing; name another checkpoint, such as .*last\.npz"):
        directory.find_checkpoint(run)  # validation images were held out, so there was one
    assert directory.find_checkpoint(checkpoints / "previous.npz") == checkpoints / "previous.npz"
    (checkpoints / "last.npz").unlink()
    with pytest.raises(RunError, match="has no checkpoint yet"):
        directory.find_checkpoint(run)
    for name, what in (
        ("checkpoints", "is not a run"),
        ("none", "no such run"),
        ("x" * 5000, "no such run"),
        ("\0", "no such run"),
    ):
        with pytest.raises(RunError, match=what):
            directory.find_checkpoint(run / name)


def test_run_of_a_checkpoint_is_found(run: Path, monkeypatch: pytest.MonkeyPatch):
    assert directory.run_of(run / "checkpoints/last.npz") == run
    assert directory.run_of(run / "last.npz") is None
    monkeypatch.chdir(run / "checkpoints")
    assert directory.run_of(Path("last.npz")) == run


def test_leftovers_of_a_dead_process_are_no_obstacle(tiny_config: Make, folder: Path):
    run = folder / "run"
    run.mkdir()
    for name in (".lock", ".mlpcli-0123456789abcdef.partial"):
        (run / name).write_text("half")
    experiment.train(tiny_config(), out=run)
    assert read_run(run).summary.state == "finished"


# Summaries -----------------------------------------------------------------------------


def test_summary_agrees_with_the_run(run: Path):
    lines = directory.read_metrics(run).records
    test = directory.read_test(run)
    hashes = directory.read_manifest(run)["data"]["hashes"]
    best = min(lines, key=lambda line: (line["validation_error"], line["validation_loss"]))
    assert test is not None
    assert read_run(run).summary == Summary(
        path=run,
        state="finished",
        started=directory.read_manifest(run)["started"],
        dataset="tiny",
        data_sha256=hashlib.sha256(
            "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes) if "train" in name).encode()
        ).hexdigest(),
        epochs=3,
        max_epochs=3,
        best_epoch=best["epoch"],
        validation_error=best["validation_error"],
        validation_loss=best["validation_loss"],
        train_error=lines[-1]["train_error"],
        test_error=test["error"],
        seconds=sum(line["seconds"] for line in lines),
        examples_per_second=pytest.approx(3 * 63 / sum(line["seconds"] for line in lines)),
    )


def test_unfinished_run_is_running_only_while_locked(run: Path):
    path = run / "manifest.json"
    path.write_text(path.read_text().replace('"finished"', '"running"'))
    assert read_run(run).summary.state == "interrupted"
    with locked(run / directory.LOCK, wait=False):
        assert read_run(run).summary.state == "running"
    path.unlink()
    assert read_run(run).summary.state == "interrupted"


def test_runs_are_listed_newest_first(tiny_config: Make, folder: Path, run: Path):
    for name, started in (("a", "2020"), ("b", "2030"), ("c", "2025")):
        path = experiment.train(tiny_config("training.epochs=1"), out=folder / name).path / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "started": started}))
    (run / "manifest.json").write_text("{")
    (folder / "no run").mkdir()
    (folder / "file").touch()
    found = summaries(folder)
    assert [(each.path.name, each.state) for each in found] == [
        ("b", "finished"),
        ("c", "finished"),
        ("a", "finished"),
        ("run", "damaged"),
    ]
    assert found[-1].problem == f"{run}/manifest.json: is damaged: not a JSON object"
    with pytest.raises(RunError, match="none: cannot be read"):
        summaries(folder / "none")


# Untrusted files ------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], Any]] = {
    "manifest.json": directory.read_manifest,
    "metrics.jsonl": directory.read_metrics,
    "test.json": directory.read_test,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def fuzzed(tiny_images: Any) -> Iterator[Path]:
    """Return a run whose files a test overwrites, with copies in ``.original``."""
    from mlpcli.datasets import idx
    from mlpcli.datasets.catalogue import FILE_NAMES, ROLES

    with fast_folder() as folder:
        for role, array in zip(ROLES, tiny_images, strict=True):
            (folder / FILE_NAMES[role]).write_bytes(idx.encode(array))
        settings = ["network.hidden=[2]", "training.epochs=1", f"data.dataset={folder}"]
        run = experiment.train(config_module.load(None, settings, {}), out=folder / "run").path
        for name in READERS:
            (folder / f"{name}.original").write_bytes((run / name).read_bytes())
        yield run


def check(run: Path, name: str, data: bytes) -> None:
    """Assert that ``name``, and the whole run, are read or give an error of one line."""
    path = run / name
    path.write_bytes(data)
    for read in (READERS[name], read_run):
        try:
            read(run)
        except MlpcliError as error:
            assert str(error).startswith(str(run)) and "\n" not in str(error)
    path.write_bytes((run.parent / f"{name}.original").read_bytes())


@pytest.mark.parametrize("name", READERS)
@given(data=st.binary(max_size=60))
@example(data=b"[" * 100_000)
@example(data=b"1" * 10_000 + b"\n")
@example(data=b"NaN\n")
@example(data=b'"\\ud800"\n')
@example(data=b"\xff\n")
def test_any_bytes_are_a_value_or_an_error(fuzzed: Path, name: str, data: bytes):
    check(fuzzed, name, data)


@pytest.mark.parametrize("name", READERS)
@given(choice=st.data(), value=JSON)
def test_any_value_anywhere_is_a_value_or_an_error(fuzzed: Path, name: str, choice: st.DataObject, value: Any):
    document = json.loads((fuzzed / name).read_bytes())
    place = document
    key = choice.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict) and place[key] and choice.draw(st.booleans()):
        place = place[key]
        key = choice.draw(st.sampled_from(sorted(place)))
    place[key] = value
    check(fuzzed, name, json.dumps(document).encode() + b"\n")
    del place[key]
    check(fuzzed, name, json.dumps(document).encode() + b"\n")


def test_special_and_too_large_files_are_refused(run: Path):
    for name, read in READERS.items():
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises(RunError, match=f"{name}: cannot be read: not a regular file"):
            read(run)
        (run / name).unlink()
        with (run / name).open("wb") as file:
            file.truncate(1 << 40)
        what = r":1: is damaged" if name == "metrics.jsonl" else ": cannot be read: larger than"
        with pytest.raises(RunError, match=name + what):
            read(run)
