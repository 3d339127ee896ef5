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
from mlpcli.runs.environment import THREAD_VARIABLES, environment, threads


def test_it_names_versions_processor_and_threads():
    found = environment()
    assert list(found) == ["mlpcli", "python", "numpy", "blas", "threads", "system", "machine", "processor"]
    assert (found["mlpcli"], found["numpy"], found["threads"]) == (__version__, np.__version__, threads())
    assert all(value for value in found.values())
    assert environment() == json.loads(json.dumps(found)) == found


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
