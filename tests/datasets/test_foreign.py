"""Evaluating someone else's run contacts no address and creates no folder that the run names."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlpcli.config import DataConfig
from mlpcli.datasets.foreign import announcement, data_of_a_run

THEIRS = ("http://192.0.2.1/collect?who=", "npm:theirs@1.0.0", "file:///theirs")


def test_addresses_of_a_run_are_not_asked() -> None:
    assert data_of_a_run(DataConfig(sources=THEIRS)).sources is None
    assert data_of_a_run(DataConfig("./a-folder", sources=THEIRS)).sources is None


def test_folders_of_a_run_are_read() -> None:
    assert data_of_a_run(DataConfig(sources=(*THEIRS, "/copies/mnist"))).sources == ("/copies/mnist",)


def test_folder_of_a_run_is_not_created(tmp_path: Path) -> None:
    own = DataConfig(folder=str(tmp_path))
    assert data_of_a_run(own).folder == "data"
    (tmp_path / "mnist").mkdir()
    assert data_of_a_run(own).folder == str(tmp_path)


def test_command_line_sources_are_used(tmp_path: Path) -> None:
    own = DataConfig(folder="theirs", sources=THEIRS)
    given = DataConfig(folder=str(tmp_path), sources=("https://mine.example/",), offline=True)
    assert data_of_a_run(own, given) == given


def test_sources_are_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = announcement(DataConfig(folder="here", sources=("https://a.example/", "x\x1b[2J")))
    assert message == "mnist: incomplete, fetched into here/mnist from https://a.example/, 'x\\x1b[2J'"
    assert announcement(DataConfig(offline=True)) is None
    assert announcement(DataConfig("mnist-sample")) is None
    assert announcement(DataConfig(".")) is None
    assert not Path("here").exists()
