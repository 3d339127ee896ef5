"""A data set of a few bytes, and a server on loopback."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import loopback
import numpy as np
import pytest

import mlpcli
from mlpcli.datasets import idx, web
from mlpcli.datasets.catalogue import FILE_NAMES, ROLES, Entry, File


@dataclass(frozen=True)
class Tiny:
    """A catalogue entry called ``tiny``, and the decoded bytes of its files by name."""

    entry: Entry
    contents: dict[str, bytes]

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.contents.items():
            (folder / name).write_bytes(data)
        return folder


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    random = np.random.default_rng(1)
    arrays = (
        random.integers(0, 256, (40, 5, 4), np.uint8),
        random.integers(0, 10, 40, np.uint8),
        random.integers(0, 256, (10, 5, 4), np.uint8),
        random.integers(0, 10, 10, np.uint8),
    )
    contents = {FILE_NAMES[role]: idx.encode(array) for role, array in zip(ROLES, arrays, strict=True)}
    files = {
        role: File(name, len(data), hashlib.sha256(data).hexdigest())
        for role, (name, data) in zip(ROLES, contents.items(), strict=True)
    }
    return Tiny(Entry("tiny", "a few bytes", files, sources=(), credit="nobody"), contents)


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set no proxy between a test and its server, and shorten the timeouts."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "MLPCLI_DATA"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(web, "STALL_SECONDS", 0.4)
    monkeypatch.setattr(web, "STALL_BYTES", 64 * 1024)


@pytest.fixture
def server() -> Iterator[loopback.Server]:
    with loopback.serving() as running:
        yield running


@pytest.fixture
def child_env() -> dict[str, str]:
    """Return the environment in which a child process imports the same mlpcli."""
    return {**os.environ, "PYTHONPATH": str(Path(mlpcli.__file__).parents[1])}
