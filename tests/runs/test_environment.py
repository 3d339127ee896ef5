"""What a run was made with is written down, and nothing that tells who made it and where."""

from __future__ import annotations

import getpass
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from mlpcli import __version__
from mlpcli.model import blas
from mlpcli.runs.environment import MOST_THREADS, THREAD_VARIABLES, environment, recorded_threads, threads


def test_it_names_versions_processor_and_threads():
    found = environment()
    assert list(found) == ["mlpcli", "python", "numpy", "blas", "threads", "system", "machine", "processor"]
    assert (found["mlpcli"], found["numpy"], found["threads"]) == (__version__, np.__version__, threads())
    assert all(value for value in found.values())
    assert environment() == json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("missing", ["gemm", "axpy"])
def test_environment_reports_products_by_numpy_alone(missing: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blas, "routine", lambda name, dtype: None if name == missing else print)
    assert environment()["blas"].endswith(", by numpy alone")
    monkeypatch.setattr(blas, "routine", lambda name, dtype: print)
    assert "numpy" not in environment()["blas"]


def test_it_has_no_path_host_or_user():
    written = json.dumps(environment())
    assert os.sep not in written.replace("\\/", "")
    for name in (socket.gethostname(), getpass.getuser(), str(Path.home())):
        assert len(name) < 3 or name not in written


def test_the_threads_are_those_blas_was_told_to_use(monkeypatch: pytest.MonkeyPatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert 1 <= threads() <= (os.cpu_count() or 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert 1 <= threads() <= (os.cpu_count() or 1)
    for number, name in enumerate(reversed(THREAD_VARIABLES), start=100):
        monkeypatch.setenv(name, str(number))
        assert threads() == number


def test_the_threads_that_a_run_says_it_had(tmp_path: Path):
    (tmp_path / "manifest.json").write_text(json.dumps({"environment": environment()}))
    assert recorded_threads(tmp_path) == threads()


@pytest.mark.parametrize("number", [0, -1, MOST_THREADS + 1, 2.0, "2", True, None, [2]])
def test_no_number_of_threads_is_no_answer(tmp_path: Path, number: object):
    (tmp_path / "manifest.json").write_text(json.dumps({"environment": {"threads": number}}))
    assert recorded_threads(tmp_path) is None


@pytest.mark.parametrize("manifest", [b"", b"\xff", b"[]", b"{}", b'{"environment": 2}', b"[" * 100_000])
def test_a_manifest_that_is_none_is_no_answer(tmp_path: Path, manifest: bytes):
    assert recorded_threads(tmp_path) is None
    (tmp_path / "manifest.json").write_bytes(manifest)
    assert recorded_threads(tmp_path) is None
