"""``mpiexec -n N mlpcli train --mpi`` with real processes: equal results for any N, one output, no hang."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlpcli import commands
from mlpcli.runs.directory import read_manifest
from mlpcli.runs.environment import THREAD_VARIABLES
from tests.processes import (
    BUG,
    LONG,
    MAIN,
    SECONDS,
    SMALL,
    assert_metrics_equal_except_rounding,
    environment,
    metrics_lines,
    run_process,
    start_process,
    wait_for,
    wait_for_two_epochs,
)
from tests.run_outcome import metrics, outcome


def launcher() -> str | None:
    beside = Path(sys.executable).with_name("mpiexec")  # where pip puts it
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def with_mpi(test: Any) -> Any:
    """Run these one after the other, as each takes every processor."""
    there = importlib.util.find_spec("mpi4py") is not None and launcher() is not None
    skip = pytest.mark.skipif(not there, reason="needs mpi4py and mpiexec: pip install '.[mpi]'")
    return pytest.mark.xdist_group("mpi")(skip(test))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(processes: int, *arguments: str, program: str = MAIN, mpi: bool = True) -> list[str]:
    begin = [] if processes == 0 else [str(launcher()), "-n", str(processes)]
    return [*begin, sys.executable, "-c", program, "train", *(["--mpi"] if mpi else []), *arguments]


def ended(processes: int, *arguments: str, **options: Any) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of ``mpiexec -n PROCESSES mlpcli train --mpi``; 0: without mpiexec."""
    variables = options.pop("variables", None)
    return run_process(command(processes, *arguments, **options), variables)


def trained(processes: int, out: str, *arguments: str, **options: Any) -> Path:
    status, _, err = ended(processes, "--quiet", "--out", out, *SMALL, *arguments, **options)
    assert (status, err) == (0, "")
    return Path(out)


# Without MPI --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "mlpcli: 2 processes were started by mpiexec or a similar launcher, and would train 2 runs: with --mpi"),
        (("--no-such-option",), "mlpcli: --no-such-option: "),
        (("--mpi", "--processes", "auto"), "mlpcli: --mpi trains with the processes that mpiexec starts: leave "),
        (("--mpi",), "mlpcli: --mpi needs mpi4py and an MPI: pip install 'mlpcli[mpi]'"),
    ],
)
def test_only_rank_0_reports_usage_errors(
    arguments: tuple[str, ...],
    message: str,
    rank: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", str(rank))
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(SystemExit) as stop:
        commands.main(["train", *arguments])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    found = capsys.readouterr()
    assert (stop.value.code, found.out) == (2, "")
    assert (message in found.err) if rank == 0 else (found.err == "")
    assert not Path("runs").exists()


# Equal results ------------------------------------------------------------------------------------


@with_mpi
def test_one_mpi_process_is_bit_identical_to_none():
    alone = trained(0, "alone", "--set", "training.dropout=0.1", mpi=False)
    for processes in (0, 1):
        by_mpi = trained(processes, f"of-{processes}", "--set", "training.dropout=0.1")
        assert outcome(by_mpi) == outcome(alone)
        assert "processes" not in read_manifest(by_mpi)["environment"]


@with_mpi
def test_result_does_not_depend_on_number_of_processes():
    # 4,500 images in batches of 32: the last has 20.
    every = ("network.dtype=float64", "training.dropout=0.1", "training.averaging=0.99", "augmentation.rotation=10")
    overrides = tuple(part for key in every for part in ("--set", key))
    one, two, again, four = (
        trained(processes, out, *overrides) for processes, out in ((1, "1"), (2, "2"), (2, "2b"), (4, "4"))
    )
    assert outcome(again) == outcome(two)
    for many, processes in ((two, 2), (four, 4)):
        assert read_manifest(many)["environment"]["processes"] == f"{processes} (MPI)"
        assert_metrics_equal_except_rounding(many, one)
        tests = [json.loads((run / "test.json").read_text()) for run in (many, one)]
        assert tests[0].pop("loss") == pytest.approx(tests[1].pop("loss"), rel=1e-9)
        assert tests[0] == tests[1]
    assert metrics(four) != metrics(one)  # different last digits prove that the work was divided


@with_mpi
def test_more_processes_than_examples_in_a_batch(tiny_folder: Path):
    tiny = (
        "--set",
        f'data.dataset="{tiny_folder}"',
        "--set",
        "training.batch_size=2",
        "--set",
        "network.dtype=float64",
    )
    one, three = trained(1, "1", *tiny), trained(3, "3", *tiny)
    for line, expected in zip(metrics(three), metrics(one), strict=True):
        assert line["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-9)


@with_mpi
def test_cores_are_divided_unless_threads_are_given(tiny_folder: Path):
    tiny = ("--set", f'data.dataset="{tiny_folder}"')
    variables = {name: value for name, value in environment().items() if name not in THREAD_VARIABLES}
    shared = trained(2, "shared", *tiny, variables=variables)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert read_manifest(shared)["environment"]["threads"] == max(1, processors // 2)
    asked = trained(2, "asked", *tiny, "--threads", "3", variables=variables)
    assert read_manifest(asked)["environment"]["threads"] == 3


# One output ---------------------------------------------------------------------------------------


@with_mpi
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--set", "training.epochs=none"), 2, "'none' is not allowed"),
        (("--no-such-option",), 2, "--no-such-option: "),
        (("--resume", "nowhere"), 4, "nowhere"),
        (("--set", "data.dataset=./nowhere"), 3, "nowhere"),
        (("--out", "taken"), 4, "taken"),
        (("--set", "training.learning_rate=1e300", "--set", "training.optimizer=sgd"), 5, "diverged"),
    ],
    ids=["config", "option", "run", "data", "taken", "diverged"],
)
def test_errors_are_reported_once(arguments: tuple[str, ...], status: int, message: str):
    Path("taken").mkdir()
    Path("taken", "file").touch()
    found, out, err = ended(2, "--quiet", *SMALL, *arguments)
    assert (found, out) == (status, "")
    assert err.count(message) == 1
    assert err.count("mlpcli: ") == 1, err
    assert "Traceback" not in err and "Abort" not in err


@with_mpi
def test_mpiexec_without_mpi_option_is_refused():
    status, out, err = ended(2, "--quiet", *SMALL, mpi=False)
    assert (status, out) == (2, "")
    assert err == (
        "mlpcli: 2 processes were started by mpiexec or a similar launcher, and would train 2 runs: "
        "with --mpi they train one together\n"
    )
    assert not Path("runs").exists()


@with_mpi
def test_output_is_printed_once():
    status, out, err = ended(2, "--json", *SMALL)
    assert status == 0
    assert json.loads(out)["epochs"] == 2
    assert err.count("epoch 2/2") == 1
    assert "workers  2 processes" in err


# End of the processes -----------------------------------------------------------------------------


FULL = """
import errno
from mlpcli.files import Folder
write = Folder.write
def fail_at_the_second(folder, name, data):
    if name == "checkpoints/previous.npz":
        raise OSError(errno.ENOSPC, "No space left on device", str(folder.path / name))
    write(folder, name, data)
Folder.write = fail_at_the_second
"""


@with_mpi
def test_full_disk_ends_all():
    status, _, err = ended(2, "--quiet", "--out", "run", *LONG, program=FULL + MAIN)
    assert status == 4
    assert err.count("No space left on device") == err.count("mlpcli: ") == 1
    assert "resume with: mpiexec -n 2 mlpcli train --mpi --resume run" in err


@with_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_bug_in_one_process_ends_all(rank: int):
    status, _, err = ended(2, "--quiet", *LONG, program=BUG.replace("RANK", str(rank)) + MAIN)
    assert status == 70
    assert err.count("AssertionError: a bug") == 1


PRINTS_RANK = """
import os
from pathlib import Path
from mlpcli.parallel.control import launched
Path(f"pid-{launched()[0]}").write_text(str(os.getpid()))
"""


@contextmanager
def running(run: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start two processes that train without end, and wait for their third epoch."""
    process = start_process(command(2, "--out", run, *LONG, *arguments, program=PRINTS_RANK + MAIN))
    try:
        wait_for_two_epochs(process, run)
        yield process
    finally:
        process.kill()
        process.communicate()


def is_gone(rank: int) -> bool:
    try:
        os.kill(int(Path(f"pid-{rank}").read_text()), 0)
    except ProcessLookupError:
        return True
    return False


@with_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_job_with_killed_process_ends_and_is_resumed(rank: int):
    with running("run") as process:
        os.kill(int(Path(f"pid-{rank}").read_text()), signal.SIGKILL)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode != 0
        assert "if one is killed: mpiexec -n 2 mlpcli train --mpi --resume run" in err
        wait_for(lambda: is_gone(0) and is_gone(1))
    done = len(metrics_lines("run"))
    further = ("--resume", "run", "--set", f"training.epochs={done + 1}")
    processes, now = (3, "3 (MPI)") if rank else (0, "1")
    status, out, err = ended(processes, "--quiet", *further, mpi=bool(rank))
    assert (status, err) == (0, f"trained by 2 (MPI) processes so far, now by {now}: the numbers may differ\n")
    assert len(metrics_lines("run")) == done + 1
    assert out.startswith("validation error")


@with_mpi
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_launcher_stops_the_run(number: int):
    with running("run") as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + number
        assert err.count("stopped; resume with: mpiexec -n 2 mlpcli train --mpi --resume run") == 1
        assert "Traceback" not in err and "Abort" not in err and "BAD TERMINATION" not in err
        wait_for(lambda: is_gone(0) and is_gone(1))
    done = len(metrics_lines("run"))
    status, _, err = ended(2, "--quiet", "--resume", "run", "--set", f"training.epochs={done + 1}")
    assert (status, err) == (0, "")


@with_mpi
def test_signal_to_worker_stops_all():
    with running("run", "--quiet") as process:
        os.kill(int(Path("pid-1").read_text()), signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + signal.SIGTERM
        assert err == "stopped; resume with: mpiexec -n 2 mlpcli train --mpi --resume run\nmlpcli: terminated\n"


STEPS = """
import os
import signal
import numpy as np
from mlpcli.parallel.mpi import MpiGroup

group = MpiGroup()
assert group.continue_training(True)
with group.collective():
    for step in range(5):
        print(step, flush=True)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        group.comm.all_reduce(np.zeros(3))
        group.raise_if_stopped()
"""


@with_mpi
def test_single_process_stops_in_the_step_of_a_signal():
    done = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, timeout=SECONDS, env=environment()
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "0\n1\n2\n"), done.stderr
