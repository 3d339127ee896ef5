"""``mlpcli train --processes N``: equal results for any N except rounding, and no process left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlpcli.runs.directory import read_manifest
from tests.processes import (
    BUG,
    LONG,
    MAIN,
    SECONDS,
    SMALL,
    assert_metrics_equal_except_rounding,
    metrics_lines,
    run_process,
    start_process,
    wait_for,
    wait_for_two_epochs,
)
from tests.run_outcome import metrics, outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork"),
    pytest.mark.xdist_group("processes"),  # one after the other, as each of them takes every processor
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(*arguments: str, program: str = MAIN) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def ended(*arguments: str, program: str = MAIN) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of ``mlpcli ARGUMENTS``."""
    return run_process(command(*arguments, program=program))


def trained(processes: int, out: str, *arguments: str) -> Path:
    how = ("--processes", str(processes), "--quiet", "--out", out)
    status, _, err = ended("train", *how, *SMALL, *arguments)
    assert (status, err) == (0, "")
    return Path(out)


# Equal results ------------------------------------------------------------------------------------


def test_result_does_not_depend_on_number_of_processes():
    # 4,500 images in batches of 32: the last has 20.
    every = ("network.dtype=float64", "training.dropout=0.1", "training.averaging=0.99", "augmentation.rotation=10")
    overrides = tuple(part for key in every for part in ("--set", key))
    one, two, again, four = (
        trained(processes, out, *overrides) for processes, out in ((1, "1"), (2, "2"), (2, "2b"), (4, "4"))
    )
    assert outcome(again) == outcome(two)
    for many, processes in ((two, 2), (four, 4)):
        assert read_manifest(many)["environment"]["processes"] == processes
        assert_metrics_equal_except_rounding(many, one)
    assert metrics(four) != metrics(one)  # different last digits prove that the work was divided
    assert "processes" not in read_manifest(one)["environment"]


def test_resume_and_reproduce_are_bit_identical():
    whole = trained(3, "whole")
    part = trained(3, "part", "--set", "training.schedule=constant", "--set", "training.epochs=1")
    status, _, err = ended("train", "--processes", "3", "--quiet", "--resume", "part", "--set", "training.epochs=2")
    assert (status, err) == (0, "")
    constant = trained(3, "constant", "--set", "training.schedule=constant")
    assert outcome(part) == outcome(constant)
    status, out, _ = ended("runs", "reproduce", str(whole))
    assert (status, "bit for bit" in out) == (0, True)


def test_output_is_printed_once():
    status, out, err = ended("train", "--processes", "2", "--json", *SMALL)
    assert status == 0
    assert json.loads(out)["epochs"] == 2
    assert err.count("epoch 2/2") == 1
    assert "workers  2 processes" in err


def test_auto_prints_its_number_of_processes():
    status, out, err = ended("train", "--processes", "auto", "--json", *SMALL)
    assert status == 0
    assert json.loads(out)["epochs"] == 2
    taken = re.search(r"^processes  (\d+): \S", err, re.MULTILINE)
    assert taken
    processes = int(taken[1])
    assert read_manifest(Path(json.loads(out)["path"]))["environment"].get("processes", 1) == processes
    assert processes == 1  # the step of a network this small is too short to divide


@pytest.mark.parametrize("value", ["0", "-1", "two", "65", "AUTO"])
def test_wrong_number_of_processes_is_one_line(value):
    status, out, err = ended("train", "--processes", value, *SMALL)
    assert (status, out) == (2, "")
    assert "--processes" in err.splitlines()[-1]


def test_auto_is_for_new_runs():
    trained(1, "run")
    status, out, err = ended("train", "--processes", "auto", "--resume", "run")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("mlpcli: --processes auto is for new runs")


# End of the processes -----------------------------------------------------------------------------


@contextmanager
def running(run: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start three processes that train without end; return rank 0 and the ids of the others in their third epoch."""
    with start_process(command("train", "--processes", "3", "--out", run, *LONG)) as process:
        try:
            wait_for_two_epochs(process, run)
            others = children(process.pid)
            assert len(others) == 2
            yield process, others
        finally:
            process.kill()
            process.communicate(timeout=SECONDS)


def children(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split("\n")
    return [int(pid) for pid, of in (line.split() for line in listed if line) if int(of) == parent]


def are_gone(processes: list[int]) -> bool:
    return all(subprocess.run(["ps", "-p", str(each)], capture_output=True).returncode for each in processes)


def resumed_epoch(run: str, *arguments: str) -> str:
    """Resume for one more epoch and return stderr."""
    done = len(metrics_lines(run))
    further = ("train", "--quiet", "--resume", run, "--set", f"training.epochs={done + 1}", *arguments)
    status, _, err = ended(*further)
    assert (status, len(metrics_lines(run))) == (0, done + 1)
    return err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_all_processes(number: int):
    with running("run") as (process, others):
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + number
        assert err.count("stopped; resume with: mlpcli train --processes 3 --resume run") == 1
        assert "Traceback" not in err
        assert are_gone(others)
    assert resumed_epoch("run", "--processes", "3") == ""


def test_workers_ignore_signals():
    with running("run") as (process, others):
        for other in others:
            os.kill(other, signal.SIGINT)
        before = len(metrics_lines("run"))
        wait_for(lambda: len(metrics_lines("run")) > before + 1)
        assert process.poll() is None


def test_killed_worker_ends_all_and_run_is_resumed():
    with running("run") as (process, others):
        os.kill(others[1], signal.SIGKILL)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 4
        message = "mlpcli: one of the processes that train together has ended early, by signal 9; the last good"
        assert message in err and "resume with: mlpcli train --processes 3 --resume run" in err
        assert "Traceback" not in err
        assert are_gone(others)
    assert resumed_epoch("run") == "trained by 3 processes so far, now by 1: the numbers may differ\n"


def test_workers_end_when_rank_0_is_killed():
    with running("run") as (process, others):
        process.kill()
        process.wait()
        wait_for(lambda: are_gone(others))
    assert resumed_epoch("run", "--processes", "3") == ""


def test_divergence_ends_all_with_one_line():
    diverges = ("training.learning_rate=1e30", "network.activation=relu", "training.optimizer=sgd")
    overrides = tuple(part for key in diverges for part in ("--set", key))
    status, out, err = ended("train", "--processes", "2", "--quiet", *SMALL, *overrides)
    remark, line = err.splitlines()
    assert (status, out) == (5, "")
    assert remark.startswith("remark ")
    assert line.startswith("mlpcli: training diverged")


@pytest.mark.parametrize("rank", [0, 1])
def test_bug_in_one_process_ends_all(rank: int):
    status, _, err = ended("train", "--processes", "2", "--quiet", *LONG, program=BUG.replace("RANK", str(rank)) + MAIN)
    assert status == 70
    assert err.count("AssertionError: a bug") == 1


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--processes", "2", "--mpi"), "leave --processes out"),
        (("--processes", "0"), "0 is not in the range 1<=x<=64"),
        (("--processes", "many"), "'many' is not a valid integer"),
    ],
)
def test_invalid_options_are_refused(arguments: tuple[str, ...], message: str):
    status, out, err = ended("train", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert not Path("runs").exists()


NO_FORK = """
import errno, os
def fork():
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
os.fork = fork
"""


def test_failed_fork_is_reported():
    status, _, err = ended("train", "--processes", "2", "--quiet", "--out", "run", *SMALL, program=NO_FORK + MAIN)
    assert (status, err.count("\n")) == (4, 1)
    assert err.startswith("mlpcli: --processes 2: cannot fork another process (Resource temporarily unavailable)")


def test_system_without_fork_is_reported():
    status, _, err = ended("train", "--processes", "2", *SMALL, program=f"import os\ndel os.fork\n{MAIN}")
    assert (status, err.count("\n")) == (2, 1)
    assert "--processes needs a system whose processes can fork" in err
