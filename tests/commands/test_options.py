"""Options of several commands: threads are set before numpy is loaded, or refused; overrides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

# A command that prints whether numpy was loaded before its body, and the variables.
SCRIPT = """
import click, json, os, sys
from mlpcli.commands.options import set_option, threads_option

@click.command()
@set_option
@threads_option
def command(overrides):
    print(json.dumps({"overrides": overrides, "numpy": "numpy" in sys.modules, "variables": dict(os.environ)}))

command()
"""


def ended(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    without_threads = {name: value for name, value in os.environ.items() if name not in THREADS}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**without_threads, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def reported(*arguments: str, **environment: str) -> dict[str, Any]:
    process = ended(SCRIPT, *arguments, **environment)
    assert process.returncode == 0, process.stderr
    found: dict[str, Any] = json.loads(process.stdout)
    return found


def test_threads_are_set_before_numpy_is_loaded():
    found = reported("--threads", "3", OMP_NUM_THREADS="7")
    assert found["numpy"] is False
    assert {found["variables"][name] for name in THREADS} == {"3"}


def test_environment_is_unchanged_without_the_option():
    variables = reported(OMP_NUM_THREADS="7")["variables"]
    assert {name: variables[name] for name in THREADS if name in variables} == {"OMP_NUM_THREADS": "7"}


@pytest.mark.parametrize("threads", ["0", "-1", "1025", "two", ""])
def test_invalid_number_of_threads_is_refused(threads: str):
    process = ended(SCRIPT, "--threads", threads)
    assert (process.returncode, process.stdout) == (2, "")
    assert "'--threads'" in process.stderr


def test_threads_after_numpy_is_an_error():
    process = ended(f"import numpy\n{SCRIPT}", "--threads", "2")
    assert process.returncode == 1
    assert "RuntimeError: numpy was imported before --threads could be set" in process.stderr


def test_overrides_are_passed_on_in_order():
    assert reported("--set", "b=1", "--set", "a=x y", "--set", "b=2")["overrides"] == ["b=1", "a=x y", "b=2"]


@pytest.mark.parametrize("threads", [1, 2])
def test_run_uses_the_requested_threads(threads: int, tmp_path: Path):
    few = ("--set", "data.dataset=mnist-sample", "--set", "network.hidden=[]", "--set", "training.epochs=1")
    arguments = ("train", *few, "--quiet", "--threads", str(threads), "--out", str(tmp_path / "run"))
    script = """
import os, sys
from mlpcli import commands
try:
    commands.main(sys.argv[1:])
finally:
    print(len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0)
"""
    process = ended(script, *arguments, OPENBLAS_NUM_THREADS="5")
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "run/manifest.json").read_text())["environment"]["threads"] == threads
    # If the system counts threads: with one thread, no BLAS starts another.
    if threads == 1:
        assert process.stdout.splitlines()[-1] in ("0", "1")
