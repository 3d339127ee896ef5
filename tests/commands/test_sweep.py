"""``mlpcli sweep``: output, resuming after interruptions, exit statuses, and MPI."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlpcli import commands
from mlpcli.runs import directory
from tests.fork_server import fast_folder
from tests.run_outcome import outcome

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
try:
    import mpi4py
except ImportError:
    mpi4py = None  # type: ignore[assignment]
needs_mpi = pytest.mark.skipif(
    mpi4py is None or MPIEXEC is None, reason="needs mpi4py and an mpiexec: pip install 'mlpcli[mpi]'"
)

# Runs of a second or so, most of it spent writing files: long enough to be interrupted.
LONG = """
set:
  data.dataset: ./tiny
  network.hidden: [6]
  training: {epochs: 250, batch_size: 32, warmup_epochs: 0, schedule: constant}
seeds: 2
grid: {training.learning_rate: [0.05, 0.1]}
"""
SHORT = LONG.replace("epochs: 250", "epochs: 2")
RUNS = [f"learning_rate={rate},seed={seed}" for rate in ("0.05", "0.1") for seed in (0, 1)]


@pytest.fixture(scope="module")
def home(tiny_images: Any) -> Iterator[Path]:
    """Return a folder with the tiny data set and the sweep files."""
    from mlpcli.datasets import idx
    from mlpcli.datasets.catalogue import FILE_NAMES, ROLES

    with fast_folder() as folder:
        (folder / "tiny").mkdir()
        for role, array in zip(ROLES[:2], tiny_images[:2], strict=True):
            (folder / "tiny" / FILE_NAMES[role]).write_bytes(idx.encode(array))
        # There are no test files: a sweep that opened them would fail.
        (folder / "long.yaml").write_text(LONG)
        (folder / "short.yaml").write_text(SHORT)
        yield folder


@pytest.fixture
def mlpcli(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a command in this process: exit status, stdout, stderr."""
    monkeypatch.chdir(home)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capfd.readouterr()
        status = commands._run([str(argument) for argument in arguments])
        return (status, *capfd.readouterr())

    return run


def started(home: Path, *arguments: str, launcher: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[str]:
    """Start the command in its own process and process group, as a shell does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (*(launcher or (sys.executable, "-m")), "mlpcli", "sweep", *arguments)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=home, env=environment, text=True, start_new_session=True, **pipes)


def outcomes(folder: Path) -> dict[str, Any]:
    return {name: outcome(folder / name) for name in RUNS}


@pytest.fixture(scope="module")
def whole(home: Path) -> dict[str, Any]:
    """Return the outcomes of uninterrupted runs."""
    process = started(home, "long.yaml", "--jobs", "2", "--threads", "1", "--out", "whole", "--quiet")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[0].startswith("run  ")
    return outcomes(home / "whole")


# Output -------------------------------------------------------------------------------------------


def test_second_sweep_trains_nothing_and_prints_comparison(home: Path, mlpcli: Any):
    status, out, err = mlpcli("sweep", "short.yaml", "--dry-run")
    assert (status, out) == (0, "".join(f"runs/short/{name:<25}  to train\n" for name in RUNS))
    assert err == "2 combinations x 2 seeds = 4 runs of training.learning_rate: 4 to train\n"
    assert not (home / "runs/short").exists()
    status, out, err = mlpcli("sweep", "short.yaml", "--jobs", "2")
    assert status == 0
    assert (0, out, "") == mlpcli("runs", "compare", "runs/short", "--group-seeds")
    assert out.splitlines()[0].split()[-2:] == ["images/s", "learning_rate"] and len(out.splitlines()) == 3
    lines = err.splitlines()
    assert lines[0].startswith("sweep    2 combinations x 2 seeds = 4 runs of training.learning_rate in runs/short: 4 ")
    assert re.fullmatch(r"workers  2 at a time, \d+ threads? each", lines[1])
    assert sorted(line.split()[-1] for line in lines if " begins " in line) == RUNS
    ended = [line for line in lines if " finished " in line]
    assert [line[:5] for line in ended] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert all(re.search(r"validation +[\d.]+%  2/2 epochs, [\d.]+ s$", line) for line in ended)
    assert len(lines) == 10
    for name in RUNS:
        run = home / "runs/short" / name
        assert not (run / "test.json").exists() and "  test: false\n" in (run / "config.yaml").read_text()
    assert (home / "runs/short/sweep.yaml").read_text() == SHORT
    before = {path: path.stat().st_mtime_ns for path in home.rglob("runs/short/*/*") if path.name != ".lock"}
    again, printed = mlpcli("sweep", "short.yaml", "--jobs", "2")[1:]
    assert again == out and "4 finished\n" in printed and " begins " not in printed
    assert before == {path: path.stat().st_mtime_ns for path in before}
    status, out, err = mlpcli("sweep", "short.yaml", "--json", "--quiet")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert {key: document[key] for key in ("folder", "finished", "diverged", "broken", "not_of_the_sweep")} == {
        "folder": "runs/short",
        "finished": 4,
        "diverged": 0,
        "broken": [],
        "not_of_the_sweep": [],
    }
    compared = json.loads(mlpcli("runs", "compare", "runs/short", "--group-seeds", "--json")[1])
    assert {key: document[key] for key in compared} == compared
    assert [group["seeds"] for group in document["groups"]] == [[0, 1]] * 2
    assert document["groups"][0]["validation_error"]["mean"] <= document["groups"][1]["validation_error"]["mean"]


def test_changed_sweep_file_trains_new_and_reports_removed(home: Path, mlpcli: Any):
    (home / "grow.yaml").write_text("set: {data.dataset: ./tiny, training.epochs: 2}\ngrid: {network.hidden: [[2]]}")
    assert mlpcli("sweep", "grow.yaml")[0] == 0
    (home / "grow.yaml").write_text("set: {data.dataset: ./tiny, training.epochs: 2}\ngrid: {network.hidden: [[3]]}")
    status, out, err = mlpcli("sweep", "grow.yaml")
    assert status == 0 and len(out.splitlines()) == 3
    assert out == mlpcli("runs", "compare", "runs/grow")[1]
    assert "runs/grow: has 1 more that are not in the sweep (any more): hidden=2,seed=0\n" in err
    document = json.loads(mlpcli("sweep", "grow.yaml", "--json")[1])
    assert document["not_of_the_sweep"] == ["runs/grow/hidden=2,seed=0"]
    (home / "grow.yaml").write_text("set: {data.dataset: ./tiny, training.epochs: 3}\ngrid: {network.hidden: [[3]]}")
    status, out, err = mlpcli("sweep", "grow.yaml", "--quiet")
    assert (status, out) == (2, "")
    assert err == (
        "mlpcli: runs/grow/hidden=3,seed=0: is a run of another config (training.epochs: 2 -> 3); "
        "to keep it, name another --out, to replace it, remove it\n"
    )


def test_diverged_or_broken_run_does_not_stop_the_others(home: Path, mlpcli: Any):
    text = "set: {data.dataset: ./tiny, training.epochs: 2, network.objective: linear_quadratic}\n"
    (home / "wild.yaml").write_text(f"{text}grid: {{training.learning_rate: [1e30, 0.01]}}")
    status, out, err = mlpcli("sweep", "wild.yaml", "--jobs", "1")
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()] == ["state", "finished", "diverged"]
    assert "[1/2]  diverged  learning_rate=1e+30,seed=0" in err and "training diverged: the loss is" in err
    status, out, err = mlpcli("sweep", "wild.yaml")
    assert status == 0 and " begins " not in err and "1 diverged, 1 finished" in err
    shutil.rmtree(home / "runs/wild/learning_rate=0.01,seed=0")
    (home / "runs/wild/learning_rate=1e+30,seed=0/config.yaml").write_text("seed: x")
    status, out, err = mlpcli("sweep", "wild.yaml", "--json")
    document = json.loads(out)
    assert (status, document["finished"], len(document["broken"])) == (4, 1, 1)
    assert document["broken"][0]["problem"].startswith("runs/wild/learning_rate=1e+30,seed=0/config.yaml:1: seed: 'x'")
    assert err.endswith("mlpcli: runs/wild: 1 of 2 runs are not finished; see above\n")
    assert err.count("config.yaml:1: seed: 'x'") == 1
    (home / "wild.yaml").write_text(f"{text}grid: {{training.learning_rate: [1e30, 1e31]}}")
    status, out, err = mlpcli("sweep", "wild.yaml", "--out", "wilder", "--quiet")
    assert (status, err) == (5, "mlpcli: wilder: every run diverged; try lower learning rates\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("nothing.yaml",), 2, "mlpcli: nothing.yaml: cannot be read: No such file or directory\n"),
        (("typo.yaml",), 2, "mlpcli: typo.yaml:1: grid: training.epochs: 0 is not"),
        (("data.yaml",), 3, "mlpcli: nowhere: neither a data set nor a file or folder"),
        (("short.yaml", "--out", "tiny/train-labels-idx1-ubyte"), 4, "cannot be written: File exists\n"),
        (("short.yaml", "--jobs", "0"), 2, "mlpcli: --jobs: 0 is"),
        ((), 2, "'SWEEP.yaml'"),
    ],
)
def test_error_statuses(home: Path, mlpcli: Any, arguments: tuple[str, ...], status: int, message: str):
    (home / "typo.yaml").write_text("grid: {training.epochs: [0]}")
    (home / "data.yaml").write_text("set: {data.dataset: nowhere}\nlist: [{}]")
    found, out, err = mlpcli("sweep", *arguments)
    assert (found, out) == (status, "")
    assert message.replace("grid: training", "training") in err and "Traceback" not in err
    assert not [path for path in home.rglob("config.yaml") if "data" in path.parts]


def test_folder_in_use_is_refused(home: Path, mlpcli: Any):
    from mlpcli.sweep import execute, plan

    with execute.locked_folder(home / "held", plan.read(home / "short.yaml")):
        status, out, err = mlpcli("sweep", "short.yaml", "--out", "held")
    assert (status, out) == (4, "")
    assert err == "mlpcli: held: is in use by another mlpcli sweep; wait for it to end, or name another --out\n"


def test_terminal_shows_live_table(home: Path):
    controller, terminal = pty.openpty()
    process = started(home, "short.yaml", "--jobs", "1", "--out", "seen", stderr=terminal)
    os.close(terminal)
    printed = b""
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # the other end of the terminal is closed
            break
        printed += piece
    os.close(controller)
    process.communicate()
    text = printed.decode().replace("\r\n", "\n")
    assert process.returncode == 0
    drawn = re.findall(r"^  epoch \d/2(?:  validation +[\d.]+%)?  (learning_rate=\S+)$", text, re.MULTILINE)
    assert drawn and set(drawn) <= set(RUNS)
    assert re.search(r"^\d of 4 runs done, \d running", text, re.MULTILINE) and "\x1b[2F\x1b[J" in text
    assert " begins " not in text
    # Replay the escape codes: every table drawn has been erased in the end.
    shown: list[str] = []
    for part in re.split(r"(\x1b\[\d+F\x1b\[J)", text):
        if wiped := re.fullmatch(r"\x1b\[(\d+)F\x1b\[J", part):
            del shown[len(shown) - int(wiped[1]) :]
        else:
            shown += part.splitlines()
    assert [line.split()[1] for line in shown[2:]] == ["finished"] * 4


# Interrupted --------------------------------------------------------------------------------------


def lines_of(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_text().count("\n")
    except OSError:
        return 0


def let_it_train(process: subprocess.Popen[str], folder: Path, epochs: int = 5) -> None:
    """Wait until some run has trained ``epochs`` more epochs."""
    before = {name: lines_of(folder / name) for name in RUNS}
    until = time.monotonic() + 60
    while all(lines_of(folder / name) < before[name] + epochs for name in RUNS):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def processes(text: bytes) -> list[int]:
    """Return the ids of processes with ``text`` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has ended
            if text in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def children(pid: int) -> list[int]:
    """Return the ids of the worker processes of ``pid``."""
    found = []
    for child in processes(b"spawn_main"):
        with contextlib.suppress(OSError):
            if int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(child)
    return found


@pytest.mark.xdist_group("long sweep")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")
def test_interrupted_sweep_resumes_to_identical_runs(home: Path, whole: dict[str, Any]):
    folder = home / "stopped"
    arguments = ("long.yaml", "--jobs", "2", "--threads", "1", "--out", "stopped")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = started(home, *arguments)
        let_it_train(process, folder)
        trained = children(process.pid)
        assert 1 <= len(trained) <= 2
        # Ctrl-C reaches the whole process group, the other signals only the manager.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (-9 if number == signal.SIGKILL else 128 + number, ""), err
        assert "Traceback" not in err
        if number != signal.SIGKILL:
            assert re.search(r"^stopped, with \d of 4 runs done; the same command resumes$", err, re.MULTILINE)
        until = time.monotonic() + 10
        while set(trained) & set(processes(b"spawn_main")):
            assert time.monotonic() < until, "a worker outlives the sweep"
            time.sleep(0.01)
    # One worker killed: its run is reported, the others are trained.
    process = started(home, *arguments)
    let_it_train(process, folder)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert len(re.findall(r"^\[\d/4\]  resumes   learning_rate=\S+$", err, re.MULTILINE)) >= 1
    assert re.search(r"^mlpcli: stopped/(learning_rate=\S+): its process was ended by SIGKILL$", err, re.MULTILINE)
    assert err.endswith("mlpcli: stopped: 1 of 4 runs are not finished; the same command tries them again\n")
    assert len(out.splitlines()) == 3 and "2 finished" in out and "1 interrupted" in out
    process = started(home, *arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert outcomes(folder) == whole
    assert all(directory.read_manifest(folder / name)["resumed"] for name in RUNS[:1])


# MPI ----------------------------------------------------------------------------------------------


def mpi(ranks: int) -> tuple[str, ...]:
    return (str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "mpi4py.futures", "-m")


@pytest.mark.xdist_group("long sweep")
@needs_mpi
def test_mpi_sweep_is_identical_and_resumes_after_lost_rank(home: Path, whole: dict[str, Any]):
    arguments = ("long.yaml", "--out", "by-mpi")
    process = started(home, *arguments, launcher=mpi(3))
    let_it_train(process, home / "by-mpi")
    mine = [pid for pid in processes(b"by-mpi") if b"PMI_RANK=2\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    assert len(mine) == 1
    os.kill(mine[0], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "learning_rate" not in out
    process = started(home, *arguments, launcher=mpi(3))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "workers  2 at a time, 1 thread each\n" in err
    assert outcomes(home / "by-mpi") == whole
    assert len(out.splitlines()) == 3


@needs_mpi
def test_mpi_needs_a_worker_and_refuses_jobs(home: Path):
    for ranks, extra, message in (
        (1, (), "mlpcli: one rank is a manager with no worker: give mpiexec -n 2 or more\n"),
        (2, ("--jobs", "2"), "mlpcli: with MPI the ranks are the workers: give no --jobs\n"),
    ):
        process = started(home, "short.yaml", "--out", "refused", *extra, launcher=mpi(ranks))
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert err.startswith(message)


# docs/sweep.md ------------------------------------------------------------------------------------


def test_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    page = (ROOT / "docs/sweep.md").read_text("utf-8")
    sweeps = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [text.split(":")[0].splitlines()[-1] for text in sweeps] == ["config", "list", "random"]
    monkeypatch.chdir(tmp_path)
    counts = []
    for text in sweeps:
        Path("rates.yaml").write_text(text)
        for line in re.findall("^mlpcli sweep .*--dry-run", page, re.MULTILINE):
            assert commands._run(line.split()[1:]) == 0
            printed = capsys.readouterr().out.splitlines()
            counts.append(len(printed))
            named = [name for name in re.findall("`(runs/rates/[^`]+=[^`]+)`", page) if text is sweeps[0]]
            assert [line.split()[0] for line in printed if line.split()[0] in named] == named
    assert counts == [18, 3, 20]
    links = re.findall(r"\]\(([^)#:\s]+)\)", page)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    assert "(docs/sweep.md)" in (ROOT / "README.md").read_text("utf-8")


def test_sweep_file_from_stdin_is_saved(home: Path):
    process = started(home, "/dev/stdin", "--out", "piped", "--quiet", "--json", stdin=subprocess.PIPE)
    text = "set: {data.dataset: ./tiny, training.epochs: 1, training.warmup_epochs: 0}\nlist: [{}]\n"
    out, err = process.communicate(text, timeout=60)
    assert (process.returncode, err) == (0, "") and json.loads(out)["finished"] == 1
    assert (home / "piped/sweep.yaml").read_text() == text
