"""Helpers for tests that start several processes which train together, and watch them from outside."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NO_DEFAULTS
from tests.run_outcome import metrics

ROOT = Path(__file__).parents[1]
SECONDS = 60  # the timeout of anything a test waits for

KEYS = ("data.dataset=mnist-sample", "network.hidden=[8]", "training.epochs=2", *NO_DEFAULTS)
SMALL = tuple(part for key in KEYS for part in ("--set", key))
LONG = (*SMALL, "--set", "training.schedule=constant", "--set", "training.epochs=1000000")
MAIN = "from mlpcli.commands import main\nmain()\n"

# Raised by the process of rank RANK in its sixth step.
BUG = """
from mlpcli.training.step import TrainingStep
update = TrainingStep.update
def fail(self, learning_rate, number):
    if self._comm.rank == RANK and number == 6:
        raise AssertionError("a bug")
    return update(self, learning_rate, number)
TrainingStep.update = fail
"""


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **variables}


def start_process(command: Sequence[str], variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=environment() if variables is None else variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_process(command: Sequence[str], variables: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr."""
    with start_process(command, variables) as process:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


def metrics_lines(run: str) -> list[str]:
    path = Path(run, "metrics.jsonl")
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition: Any) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def wait_for_two_epochs(process: subprocess.Popen[str], run: str) -> None:
    wait_for(lambda: len(metrics_lines(run)) >= 2 or process.poll() is not None)
    assert process.poll() is None, process.communicate()


def assert_metrics_equal_except_rounding(found: Path, expected: Path) -> None:
    for line, other in zip(metrics(found), metrics(expected), strict=True):
        assert list(line) == list(other)
        for key, value in other.items():
            assert line[key] == (None if value is None else pytest.approx(value, rel=1e-9)), key
