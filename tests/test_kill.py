"""A run that is killed at any moment, or stopped by a signal, is resumed with the identical result."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlpcli.runs.directory import read_manifest
from tests.fork_server import Ended, ForkServer, fast_folder
from tests.run_outcome import outcome

KILLS = 30
TRAIN = ("train", "--quiet", "--set", "training.epochs=6", "--set", "network.hidden=[8]", "--set")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with fast_folder() as path:
        yield path


@pytest.fixture(scope="module")
def fork_server(folder: Path) -> Iterator[ForkServer]:
    with ForkServer(folder) as running:
        yield running


@pytest.fixture(scope="module")
def train(folder: Path, tiny_images: Any) -> tuple[Any, ...]:
    """Return the command that trains on the tiny data set, without --out."""
    from mlpcli.datasets import idx
    from mlpcli.datasets.catalogue import FILE_NAMES, ROLES

    (folder / "tiny").mkdir()
    for role, array in zip(ROLES, tiny_images, strict=True):
        (folder / "tiny" / FILE_NAMES[role]).write_bytes(idx.encode(array))
    return (*TRAIN, "training.batch_size=16", "--set", "data.dataset=./tiny", "--out")


@pytest.fixture(scope="module")
def whole(folder: Path, fork_server: ForkServer, train: tuple[Any, ...]) -> dict[str, Any]:
    """Train without interruption; return the outcome and the duration."""
    assert fork_server.run(*train, "warm").status == 0
    begun = time.monotonic()
    assert fork_server.run(*train, "whole").status == 0
    return {"outcome": outcome(folder / "whole"), "seconds": time.monotonic() - begun}


def file_operations(fork_server: ForkServer, train: tuple[Any, ...]) -> int:
    """Return the number of file operations of a run: the first k without a signal."""
    low, high = 1, 2000
    while low < high:
        middle = (low + high) // 2
        if fork_server.run(*train, f"counted-{middle}", k=middle, number=signal.SIGKILL).status == 0:
            high = middle
        else:
            low = middle + 1
    return low - 1


def resume_or_train(fork_server: ForkServer, train: tuple[Any, ...], run: Path, **interruption: Any) -> Ended:
    """Resume the run if it exists, else train it again, as a user would."""
    command = ("train", "--quiet", "--resume") if (run / "config.yaml").exists() else train
    return fork_server.run(*command, run.name, **interruption)


@pytest.mark.slow
def test_resume_after_kill_at_random_moments_is_identical(
    folder: Path, fork_server: ForkServer, train: tuple[Any, ...], whole: dict[str, Any]
):
    chance = random.Random(20250101)
    count = file_operations(fork_server, train)
    assert count > 150
    killed = 0
    for number in range(KILLS):
        run = folder / f"killed-{number}"
        moment = {"k": chance.randint(1, count)} if number % 3 else {"after": chance.uniform(0.0, whole["seconds"])}
        for _ in range(1 + number % 2):  # some are killed again in their second attempt
            ended = resume_or_train(fork_server, train, run, number=signal.SIGKILL, **moment)
            assert ended.status in (0, -signal.SIGKILL), ended
            killed += ended.status != 0
        assert resume_or_train(fork_server, train, run).status == 0, moment
        assert outcome(run) == whole["outcome"], moment
    assert killed >= 20


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_at_any_moment_stops_run_with_resume_command(
    folder: Path, fork_server: ForkServer, train: tuple[Any, ...], whole: dict[str, Any], number: int
):
    chance = random.Random(int(number))
    for attempt in range(12):
        run = folder / f"stopped-{number}-{attempt}"
        moment = {"k": chance.randint(1, 180)} if attempt % 2 else {"after": chance.uniform(0.0, whole["seconds"])}
        ended = fork_server.run(*train, run.name, number=number, **moment)
        if ended.status == 0:
            continue  # it had ended already
        assert ended.status == 128 + number, (moment, ended)
        assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr, ended.stderr
        # A finished run cannot be resumed: the signal came while its process was exiting.
        unfinished = (run / "manifest.json").exists() and read_manifest(run)["state"] != "finished"
        if unfinished and (run / "metrics.jsonl").exists():
            assert f"mlpcli train --resume {run.name}\n" in ended.stderr
        assert resume_or_train(fork_server, train, run).status == 0
        assert outcome(run) == whole["outcome"], moment


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_run_at_once(
    folder: Path, fork_server: ForkServer, train: tuple[Any, ...], whole: dict[str, Any], number: int
):
    run = folder / f"twice-{number}"
    ended = fork_server.run(*train, run.name, k=100, number=number, twice=True)
    assert (ended.status, ended.stderr) == (-number, "")
    assert resume_or_train(fork_server, train, run).status == 0
    assert outcome(run) == whole["outcome"]
