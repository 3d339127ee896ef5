"""The recorded environment: versions, processor and threads, and no user, host or path."""

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
from mlpcli.runs.environment import MAX_THREADS, THREAD_VARIABLES, environment, recorded_threads, threads


def test_environment_has_versions_processor_and_threads():
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


def test_environment_has_no_path_host_or_user():
    written = json.dumps(environment())
    assert os.sep not in written.replace("\\/", "")
    for name in (socket.gethostname(), getpass.getuser(), str(Path.home())):
        assert len(name) < 3 or name not in written


def test_threads_are_those_of_blas(monkeypatch: pytest.MonkeyPatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert 1 <= threads() <= (os.cpu_count() or 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert 1 <= threads() <= (os.cpu_count() or 1)
    for number, name in enumerate(reversed(THREAD_VARIABLES), start=100):
        monkeypatch.setenv(name, str(number))
        assert threads() == number


def test_threads_of_a_run_are_read(tmp_path: Path):
    (tmp_path / "manifest.json").write_text(json.dumps({"environment": environment()}))
    assert recorded_threads(tmp_path) == threads()


@pytest.mark.parametrize("number", [0, -1, MAX_THREADS + 1, 2.0, "2", True, None, [2]])
def test_missing_number_of_threads_is_none(tmp_path: Path, number: object):
    (tmp_path / "manifest.json").write_text(json.dumps({"environment": {"threads": number}}))
    assert recorded_threads(tmp_path) is None


@pytest.mark.parametrize("manifest", [b"", b"\xff", b"[]", b"{}", b'{"environment": 2}', b"[" * 100_000])
def test_invalid_manifest_has_no_threads(tmp_path: Path, manifest: bytes):
    assert recorded_threads(tmp_path) is None
    (tmp_path / "manifest.json").write_bytes(manifest)
    assert recorded_threads(tmp_path) is None
