"""Runs of a sweep: their state on disk, one run in a worker, and many runs in a pool."""

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlpcli import experiment
from mlpcli.config import Config
from mlpcli.errors import DataError, MlpcliError, RunError, UsageError
from mlpcli.parallel.control import LAUNCHERS
from mlpcli.runs import directory
from mlpcli.runs.environment import THREAD_VARIABLES
from mlpcli.sweep import execute
from mlpcli.sweep.execute import LocalPool, Outcome, Pool, Task, Watcher
from mlpcli.sweep.plan import Plan, Planned
from tests.run_outcome import outcome

Make = Callable[..., Config]


@pytest.fixture
def make(tiny_config: Make) -> Make:
    return lambda *overrides: tiny_config("data.test=false", *overrides)


def plan(*runs: Planned) -> Plan:
    return Plan("s", "", runs, (), len(runs), 1, 0)


class Stop(experiment.Observer):
    """An observer that interrupts a run when epoch 2 is saved."""

    def epoch(self, record: Any, best: bool) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt


def interrupted(config: Config, path: Path) -> Path:
    with pytest.raises(KeyboardInterrupt):
        experiment.train(config, out=path, observer=Stop())
    return path


# Runs on disk -------------------------------------------------------------------------------------


def test_state_of_each_run(make: Make, tmp_path: Path):
    folder = tmp_path / "runs"
    config = make()
    experiment.train(config, out=folder / "finished")
    interrupted(config, folder / "interrupted")
    diverging = make("training.learning_rate=1e30", "network.objective=linear_quadratic")
    with pytest.raises(MlpcliError, match="diverged"):
        experiment.train(diverging, out=folder / "diverged")
    (folder / "begun").mkdir()
    (folder / "begun" / ".lock").touch()
    (folder / "killed").mkdir()  # before its manifest was written
    (folder / "killed/config.yaml").write_bytes((folder / "finished/config.yaml").read_bytes())
    (folder / "bad config").mkdir()
    (folder / "bad config/config.yaml").write_text("seed: x")
    experiment.train(config, out=folder / "bad manifest")
    (folder / "bad manifest/manifest.json").write_text("{")
    experiment.train(config, out=folder / "bad metrics")
    (folder / "bad metrics/metrics.jsonl").write_text("{}\n")
    (folder / "other files").mkdir()
    (folder / "other files/notes.txt").touch()
    (folder / "file").touch()
    states = {
        "new": "new",
        "begun": "new",
        "killed": "interrupted",
        "interrupted": "interrupted",
        "finished": "finished",
        "diverged": "diverged",
        "bad config": "broken",
        "bad manifest": "broken",
        "bad metrics": "broken",
        "other files": "broken",
        "file": "broken",
    }
    planned = [Planned(name, diverging if name == "diverged" else config) for name in states]
    found = execute.tasks(folder, plan(*planned))
    assert {task.path.name: task.state for task in found} == states
    problems = {task.path.name: task.problem for task in found if task.state == "broken"}
    assert "config.yaml:1: seed: 'x' is not allowed" in problems["bad config"]
    assert "manifest.json: is damaged" in problems["bad manifest"]
    assert "metrics.jsonl:1: is damaged" in problems["bad metrics"]
    for name in ("other files", "file"):
        remedy = "move it away, or name another --out"
        assert problems[name] == f"{folder / name}: is in the place of a run, but is no run; {remedy}"
    assert [task.path.name for task in found if task.is_open] == ["new", "begun", "killed", "interrupted"]
    assert not (folder / "new").exists()
    assert execute.unplanned_runs(folder, plan(*planned[2:])) == []
    assert execute.unplanned_runs(folder, plan(*planned[5:])) == [
        folder / name for name in ("finished", "interrupted", "killed")
    ]


@pytest.mark.parametrize("ended", [True, False])
def test_run_of_another_config_is_refused_with_differences(make: Make, tmp_path: Path, ended: bool):
    path = tmp_path / "runs/a"
    if ended:
        experiment.train(make("training.l2=0.25"), out=path)
    else:
        interrupted(make("training.l2=0.25"), path)
    with pytest.raises(UsageError) as refused:
        execute.tasks(path.parent, plan(Planned("a", make("training.epochs=4", "network.hidden=[7]"))))
    changes = "network.hidden: [6] -> [7], training.epochs: 3 -> 4, training.l2: 0.25 -> 5e-05"
    assert str(refused.value) == (
        f"{path}: is a run of another config ({changes}); to keep it, name another --out, to replace it, remove it"
    )


def test_run_with_test_files_is_another_config(make: Make, tmp_path: Path):
    interrupted(make("data.test=true"), tmp_path / "runs/a")
    with pytest.raises(UsageError, match=r"data\.test: true -> false"):
        execute.tasks(tmp_path / "runs", plan(Planned("a", make())))


def test_data_location_may_change(make: Make, tmp_path: Path):
    interrupted(make("data.folder=elsewhere", "data.offline=true"), tmp_path / "runs/a")
    config = make("data.folder=/some/where", "data.sources=[b]")
    task = execute.tasks(tmp_path / "runs", plan(Planned("a", config)))[0]
    assert task.state == "interrupted"
    assert execute.train(task, 1) == Outcome("finished")
    assert outcome(task.path) == outcome(experiment.train(config, out=tmp_path / "whole").path)


def test_folder_is_locked_by_one_sweep_and_is_not_a_run(make: Make, tmp_path: Path):
    with execute.locked_folder(tmp_path / "a/b", plan()):
        with (
            pytest.raises(RunError, match="b: is in use by another mlpcli sweep; wait for it"),
            execute.locked_folder(tmp_path / "a/b", plan()),
        ):
            pass
        with pytest.raises(FileNotFoundError):  # an error of the body is not reported as one of the folder
            (tmp_path / "nothing").read_text()
    with execute.locked_folder(tmp_path / "a/b", plan()):
        pass
    interrupted(make(), tmp_path / "run")
    with pytest.raises(RunError, match="run: is a run, not a folder of runs; name another --out"):
        execute.tasks(tmp_path / "run", plan())
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match="file: cannot be written: File exists"),
        execute.locked_folder(tmp_path / "file", plan()),
    ):
        pass


@pytest.mark.parametrize("file", [".lock", "other/config.yaml", None])
def test_copy_of_the_sweep_file_never_replaces_a_config(file: str | None, tmp_path: Path):
    copy = tmp_path / "sweep.yaml"
    copy.write_text("training: {epochs: 1}\n")
    if file is not None:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    before = sorted(tmp_path.rglob("*"))
    message = r"sweep\.yaml: would be replaced by a copy of the sweep file; name another --out"
    with pytest.raises(RunError, match=message), execute.locked_folder(tmp_path, plan()):
        pass
    with pytest.raises(RunError, match=message):
        execute.tasks(tmp_path, plan())
    assert sorted(tmp_path.rglob("*")) == before


def test_copy_of_the_sweep_file_replaces_that_of_a_sweep(make: Make, tmp_path: Path):
    copy = tmp_path / "sweep.yaml"
    copy.write_text(plan().text)
    assert execute.tasks(tmp_path, plan()) == []
    copy.write_text('{"grid": {"seed": [1]}}')
    with pytest.raises(RunError, match="would be replaced"):
        execute.tasks(tmp_path, plan())  # of another sweep, whose runs are elsewhere
    interrupted(make(), tmp_path / "seed=1")
    assert execute.tasks(tmp_path, plan()) == []


def test_full_disk_in_a_run_is_no_bug(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")

    monkeypatch.setattr(experiment, "train", full)
    found = execute.train(Task(tmp_path / "a", make(), "new"), 1)
    assert found == Outcome("failed", "file: No space left on device")


def test_run_in_training_is_running_and_open(make: Make, tmp_path: Path):
    class Reader(experiment.Observer):
        def epoch(self, record: Any, best: bool) -> None:
            found.extend(execute.tasks(tmp_path, plan(Planned("a", make()))))

    found: list[Task] = []
    experiment.train(make(), out=tmp_path / "a", observer=Reader())
    assert [(task.state, task.is_open) for task in found] == [("running", True)] * 3


# One run ------------------------------------------------------------------------------------------


def test_worker_trains_the_same_run_as_train(make: Make, tmp_path: Path):
    task = Task(tmp_path / "runs/a", make(), "new")
    assert execute.train(task, 1) == Outcome("finished")
    assert outcome(task.path) == outcome(experiment.train(make(), out=tmp_path / "whole").path)


def test_errors_of_a_run_are_returned_not_raised(
    make: Make, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    diverging = make("training.learning_rate=1e30", "network.objective=linear_quadratic")
    found = execute.train(Task(tmp_path / "diverged", diverging, "new"), 1)
    assert found.state == "diverged" and "training diverged" in found.problem
    found = execute.train(Task(tmp_path / "no data", make("data.dataset=nowhere"), "new"), 1)
    assert found.state == "failed" and found.problem.startswith("nowhere: neither a data set nor a file or folder")
    broken = interrupted(make(), tmp_path / "broken")
    (broken / "checkpoints/last.npz").write_bytes(b"")
    found = execute.train(Task(broken, make(), "interrupted"), 1)
    assert found.state == "failed" and "last.npz: is damaged" in found.problem
    locked = interrupted(make(), tmp_path / "locked")
    monkeypatch.setattr(execute, "PATIENCE_SECONDS", 0.2)
    with directory.reopen(locked):
        found = execute.train(Task(locked, make(), "interrupted"), 1)
    assert found.state == "failed" and "is in use by another mlpcli" in found.problem

    def bug(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(experiment, "train", bug)
    found = execute.train(Task(tmp_path / "bug", make(), "new"), 1)
    assert (found.state, found.problem) == ("failed", "ZeroDivisionError: a bug")
    assert "Traceback" in found.messages[0] and found.messages[0].endswith("please report it with the lines above")
    monkeypatch.setattr(experiment, "train", lambda *_, **__: [0] * 2**62)
    assert execute.train(Task(tmp_path / "memory", make(), "new"), 1).problem == "does not fit in memory"


def test_worker_waits_for_a_locked_run(make: Make, tmp_path: Path):
    path = interrupted(make(), tmp_path / "locked")
    with directory.reopen(path) as run:
        threading.Timer(0.3, run.__exit__, (None, None, None)).start()
        assert execute.train(Task(path, make(), "interrupted"), 1) == Outcome("finished")


# The data -----------------------------------------------------------------------------------------


def test_unfit_data_are_reported_before_training(make: Make, tmp_path: Path):
    fits, not_ = Task(tmp_path / "a", make(), "new"), Task(tmp_path / "b", make("data.validation=70"), "new")
    messages: list[str] = []
    assert execute.fetch([fits], say=messages.append) == [fits]
    with pytest.raises(DataError, match=r"data\.validation 70 would hold out all of the 70 training images"):
        execute.fetch([fits, not_], say=messages.append)
    assert messages == []


def test_sweep_workers_do_not_refetch_after_fallback(make: Make, tmp_path: Path):
    overrides = (f"data.folder={tmp_path}", f"data.sources=[{tmp_path}/nothing]", "data.fallback=mnist-sample")
    task = Task(tmp_path / "a", make("data.dataset=mnist", *overrides), "new")
    messages: list[str] = []
    (wanted,) = execute.fetch([task], say=messages.append)
    assert wanted == replace(task, config=replace(task.config, data=replace(task.config.data, offline=True)))
    assert sum("using mnist-sample instead of mnist" in line for line in messages) == 1
    assert execute.train(wanted, 1).state == "finished"
    assert directory.read_manifest(task.path)["data"]["fallback_from"] == "mnist"
    # The config on disk still matches the plan.
    assert execute.tasks(tmp_path, plan(Planned("a", task.config)))[0].state == "finished"


# Many runs ----------------------------------------------------------------------------------------


class Seen(Watcher):
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def began(self, task: Task) -> None:
        self.events.append((task.path.name, "began"))

    def ended(self, task: Task, outcome: Outcome) -> None:
        self.events.append((task.path.name, outcome.state))


class Broken(Pool):
    """A pool with dying workers, like lost MPI ranks."""

    def submit(self, task: Task) -> Any:
        def lose() -> Outcome:
            raise RuntimeError("the worker is gone")

        return self._executor.submit(lose)


def test_every_run_begins_and_ends_once(make: Make, tmp_path: Path):
    diverging = make("training.learning_rate=1e30", "network.objective=linear_quadratic")
    tasks = [Task(tmp_path / "a", diverging, "new"), Task(tmp_path / "b", make(), "new")]
    seen = Seen()
    with LocalPool(1) as pool:
        outcomes = execute.execute(tasks, pool, seen)
    assert {path.name: found.state for path, found in outcomes.items()} == {"a": "diverged", "b": "finished"}
    assert seen.events[:2] == [("a", "began"), ("a", "diverged")] or seen.events[:2] == [("a", "began"), ("b", "began")]
    assert sorted(seen.events) == [("a", "began"), ("a", "diverged"), ("b", "began"), ("b", "finished")]
    # The worker process sets its own number of BLAS threads.
    assert directory.read_manifest(tmp_path / "b")["environment"]["threads"] == pool.threads
    assert outcome(tmp_path / "b") == outcome(experiment.train(make(), out=tmp_path / "whole").path)


def test_dead_worker_is_reported(make: Make, tmp_path: Path):
    task = Task(tmp_path / "a", make(), "new")
    with Broken(ThreadPoolExecutor(1), 1, 1) as pool:
        outcomes = execute.execute([task], pool, Watcher())
    assert outcomes == {task.path: Outcome("died", "RuntimeError: the worker is gone")}


def test_cores_are_not_oversubscribed(monkeypatch: pytest.MonkeyPatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(execute, "cores", lambda: 8)
    monkeypatch.setattr(execute, "threads", lambda: 8)
    assert [(pool.workers, pool.threads) for pool in map(LocalPool, (None, 1, 3, 8, 20))] == [
        (8, 1),
        (1, 8),
        (3, 2),
        (8, 1),
        (20, 1),
    ]
    assert LocalPool(2, 5).threads == 5  # as given
    monkeypatch.setattr(execute, "threads", lambda: 2)  # OPENBLAS_NUM_THREADS=2
    assert [LocalPool(jobs).threads for jobs in (1, 2, 8)] == [2, 2, 1]


def test_sweep_refuses_mpi_without_futures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "mpi4py.futures", raising=False)
    for name in itertools.chain(*LAUNCHERS):
        monkeypatch.delenv(name, raising=False)
    assert not execute.under_mpi()
    monkeypatch.setitem(os.environ, "PMI_RANK", "0")
    monkeypatch.setitem(os.environ, "PMI_SIZE", "1")
    assert not execute.under_mpi()
    monkeypatch.setitem(os.environ, "PMI_SIZE", "4")
    with pytest.raises(UsageError, match=r"write: mpiexec -n N python -m mpi4py\.futures -m mlpcli sweep"):
        execute.under_mpi()
