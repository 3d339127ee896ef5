"""Train the runs of a plan, each in its own directory, with processes of this machine or with MPI ranks.

A finished run is not trained again; an interrupted one resumes from its checkpoint. A run that fails does not stop the
others. This module does not load numpy: a worker first sets the number of BLAS threads.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.errors import ConfigError, DivergedError, MlpcliError, RunError, UsageError, of_the_machine, shown
from mlpcli.parallel.control import available_cores, launched
from mlpcli.runs.environment import THREAD_VARIABLES, threads
from mlpcli.sweep.plan import WAYS, Plan

if TYPE_CHECKING:
    from mlpcli.datasets.download import Progress, Say
    from mlpcli.experiment import Observer

Named = str | tuple[str, ...] | None  # a value of a key that names checkpoints

SWEEP = "sweep.yaml"
LOCK = ".lock"
# Keys that may differ between an existing run and the sweep: the location of the data.
NOT_COMPARED = frozenset({"data.folder", "data.sources", "data.offline"})
# Wait for a run locked by another process: a worker of a killed sweep takes a moment to notice and exit.
PATIENCE_SECONDS = 10.0
# Interval between two polls of the workers.
TICK_SECONDS = 0.5


@dataclass(frozen=True)
class Task:
    """A run as it is on disk. ``state`` is new, running, interrupted, finished, diverged or broken.

    A ``running`` one is trained by another process. A ``broken`` one cannot be resumed; ``problem`` gives the reason.
    """

    path: Path
    config: Config
    state: str
    problem: str = ""

    @property
    def is_open(self) -> bool:
        """Return True if the run is still to be trained or resumed; a killed sweep's worker may just be ending."""
        return self.state in ("new", "running", "interrupted")


@dataclass(frozen=True)
class Outcome:
    """The result of a task: finished, diverged, failed (``problem`` gives the reason), or died with its process.

    ``messages`` are for the user.
    """

    state: str
    problem: str = ""
    messages: tuple[str, ...] = ()


class Watcher:
    """An observer of a sweep. This base class shows nothing."""

    def began(self, task: Task) -> None:
        """Note that a worker has started ``task``."""

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Note that a worker has finished ``task``."""

    def tick(self, running: Sequence[Task]) -> None:
        """Update at regular intervals; ``running`` are the tasks in training."""


# Runs on disk ------------------------------------------------------------------------------------------------------


@contextmanager
def locked_folder(folder: Path, plan: Plan) -> Iterator[None]:
    """Create ``folder`` for ``plan`` if needed and lock it against other sweeps. Raises ``RunError``."""
    from mlpcli.files import locked

    _check_folder(folder, plan)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / LOCK, wait=False))
        except BlockingIOError as error:
            raise RunError(
                f"{folder}: is in use by another mlpcli sweep; wait for it to end, or name another --out"
            ) from error
        except OSError as error:
            raise RunError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from error
        yield


def tasks(folder: Path, plan: Plan) -> list[Task]:
    """Return the runs of ``plan`` with their state in ``folder``. Changes nothing.

    Raises ``UsageError`` if an existing run has another config than the plan, ``RunError`` if the folder is a run, or
    has a file that the copy of the sweep file would replace.
    """
    from mlpcli.runs.initial import pinned

    _check_folder(folder, plan)
    found: dict[tuple[Named, ...], Config] = {}  # configs with the same checkpoints read them once
    made = []
    for planned in plan.runs:
        config = planned.config
        network, training = config.network, config.training
        named = (network.init, network.init_sha256, training.teacher, training.teacher_sha256)
        if named not in found:
            found[named] = pinned(config)
        pins = found[named]
        network = replace(network, init=pins.network.init, init_sha256=pins.network.init_sha256)
        training = replace(training, teacher=pins.training.teacher, teacher_sha256=pins.training.teacher_sha256)
        made.append(_task(folder / planned.name, replace(config, network=network, training=training)))
    return made


def unplanned_runs(folder: Path, plan: Plan) -> list[Path]:
    """Return the runs in ``folder`` that are not in ``plan``."""
    from mlpcli.runs import directory

    known = {planned.name for planned in plan.runs}
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.name not in known and directory.is_run(path))
    return []


def _check_folder(folder: Path, plan: Plan) -> None:
    """Raise ``RunError`` if ``folder`` is a run, or its sweep.yaml is not that of ``plan`` or of an earlier sweep."""
    from mlpcli.runs import directory

    if directory.is_run(folder):
        raise RunError(f"{folder}: is a run, not a folder of runs; name another --out")
    copy = folder / SWEEP
    if not directory.is_there(copy):
        return
    try:
        there = config_module.read_document(copy)
        is_sweep = isinstance(there.value, dict) and any(way in there.value for way in WAYS)
        replaceable = there.text == plan.text or (is_sweep and any(map(directory.is_run, folder.iterdir())))
    except (ConfigError, OSError):
        replaceable = False
    if not replaceable:
        raise RunError(f"{shown(copy)}: would be replaced by a copy of the sweep file; name another --out")


def _task(path: Path, config: Config) -> Task:
    from mlpcli.runs import directory
    from mlpcli.runs.summary import try_to_summarize

    if not directory.is_run(path):
        if directory.is_vacant(path):
            return Task(path, config, "new")
        problem = f"{shown(path)}: is in the place of a run, but is no run; move it away, or name another --out"
        return Task(path, config, "broken", problem)
    try:
        there = directory.read_config(path)
        manifest = directory.read_manifest(path) if directory.has_manifest(path) else {}
    except MlpcliError as error:
        return Task(path, config, "broken", str(error))
    before, after = config_module.flatten(there), config_module.flatten(config)
    changed = [key for key in after if before[key] != after[key] and key not in NOT_COMPARED]
    if changed:
        changes = ", ".join(f"{key}: {_text(before[key])} -> {_text(after[key])}" for key in changed)
        raise UsageError(
            f"{path}: is a run of another config ({changes}); to keep it, name another --out, to replace it, remove it"
        )
    state = manifest.get("state", "running")
    if state == "running":
        return Task(path, config, "running" if directory.is_in_use(path) else "interrupted")
    summary = try_to_summarize(path)
    return Task(path, config, "broken" if summary.state == "damaged" else state, summary.problem or "")


def _text(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fetch(open_tasks: Sequence[Task], *, say: Say, progress: Progress | None = None) -> list[Task]:
    """Load the data of all tasks once, to fetch and check them, and return the tasks to train.

    If data could not be fetched and their fallback is used, the task is set offline so that no worker tries to fetch
    them again. Raises ``DataError`` and ``RunError``.
    """
    from mlpcli.datasets.load import load_dataset

    fell_back = {}
    for data in dict.fromkeys(task.config.data for task in open_tasks):
        fell_back[data] = load_dataset(data, say=say, progress=progress).fallback_from is not None
    return [
        replace(task, config=replace(task.config, data=replace(task.config.data, offline=True)))
        if fell_back[task.config.data]
        else task
        for task in open_tasks
    ]


# One run, in the process of a worker --------------------------------------------------------------------------------


def train(task: Task, threads: int) -> Outcome:
    """Train or resume ``task`` and return its outcome. Errors of the run are returned, not raised."""
    if "numpy" not in sys.modules:
        for name in THREAD_VARIABLES:
            os.environ[name] = str(threads)
    from mlpcli import experiment

    class Listener(experiment.Observer):
        def say(self, message: str) -> None:
            messages.append(message)

        def remark(self, message: str) -> None:
            """Ignore it: all runs of a sweep have similar remarks, and the table shows which of them learn."""

    messages: list[str] = []
    try:
        _train(task, Listener())
    except DivergedError as error:
        return Outcome("diverged", str(error), tuple(messages))
    except MlpcliError as error:
        return Outcome("failed", str(error), tuple(messages))
    except MemoryError:
        return Outcome("failed", "does not fit in memory", tuple(messages))
    except Exception as error:
        if found := of_the_machine(error):
            return Outcome("failed", found, tuple(messages))
        messages.append(
            f"{traceback.format_exc()}mlpcli: this is a bug in mlpcli; please report it with the lines above"
        )
        return Outcome("failed", f"{type(error).__name__}: {error}", tuple(messages))
    return Outcome("finished", "", tuple(messages))


def _train(task: Task, observer: Observer) -> None:
    from mlpcli import experiment
    from mlpcli.runs import directory

    if not directory.is_run(task.path):
        experiment.train(task.config, out=task.path, observer=observer)
        return
    until = time.monotonic() + PATIENCE_SECONDS
    while directory.is_in_use(task.path) and time.monotonic() < until:
        time.sleep(0.1)
    # JSON is YAML except for its escapes: YAML reads a surrogate pair as two characters.
    values = config_module.flatten(task.config)
    overrides = [f"{key}={json.dumps(values[key], ensure_ascii=False)}" for key in sorted(NOT_COMPARED)]
    experiment.resume(task.path, overrides, observer=observer)


# Many runs, by many workers -----------------------------------------------------------------------------------------


class Pool:
    """A pool of workers with ``threads`` BLAS threads each; a context manager that shuts them down."""

    def __init__(self, executor: Executor, workers: int, threads: int) -> None:
        self.workers = workers
        self.threads = threads
        self._executor = executor

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def submit(self, task: Task) -> Future[Outcome]:
        """Queue ``task`` for the next free worker."""
        return self._executor.submit(train, task, self.threads)

    def stop(self, status: int) -> None:
        """Kill the workers now; runs can be resumed. May end this process with ``status``."""
        raise NotImplementedError


class LocalPool(Pool):
    """Worker processes on this machine, one per run, so that a failing one does not affect the others."""

    def __init__(self, jobs: int | None = None, threads_each: int | None = None) -> None:
        jobs = jobs or cores()
        # No more threads than an environment variable sets, and no more in all than there are cores.
        super().__init__(ThreadPoolExecutor(jobs), jobs, threads_each or max(1, min(threads(), cores() // jobs)))
        self._processes: set[BaseProcess] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.stop()
        super().__exit__(kind, value, trace)

    def submit(self, task: Task) -> Future[Outcome]:
        """Queue ``task`` for the next free worker."""
        return self._executor.submit(self._in_a_process, task)

    def stop(self, status: int = 0) -> None:
        """Kill the workers now; runs can be resumed afterwards."""
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.kill()
        self._executor.shutdown(cancel_futures=True)

    def _in_a_process(self, task: Task) -> Outcome:
        context = multiprocessing.get_context("spawn")  # a fork would inherit this process's numpy and its threads
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(sending, task, self.threads), daemon=True)
        with self._lock:
            if self._stopping:
                return Outcome("died", "was stopped before it began")
            with _without_interrupts():
                process.start()
            self._processes.add(process)
        sending.close()
        try:
            outcome: Outcome = receiving.recv()
        except (EOFError, OSError):
            outcome = Outcome("died")
        finally:
            receiving.close()
        process.join()
        with self._lock:
            self._processes.discard(process)
        if outcome.state == "died":
            return Outcome("died", _how_it_ended(process.exitcode))
        return outcome


class MpiPool(Pool):
    """The N - 1 worker ranks of ``mpiexec -n N python -m mpi4py.futures -m mlpcli sweep``."""

    def __init__(self, threads_each: int | None = None) -> None:
        from mpi4py import MPI
        from mpi4py.futures import MPIPoolExecutor

        ranks = MPI.COMM_WORLD.Get_size()
        if ranks < 2:
            raise UsageError("one rank is a manager with no worker: give mpiexec -n 2 or more")
        super().__init__(MPIPoolExecutor(), ranks - 1, threads_each or 1)
        self._world = MPI.COMM_WORLD

    def stop(self, status: int) -> None:
        """Abort all ranks, this one too, with ``status``: a rank that trains reads no messages."""
        self._world.Abort(status)


def under_mpi() -> bool:
    """Return True on rank 0 of ``python -m mpi4py.futures``.

    Raises ``UsageError`` if an MPI launcher started several processes without it.
    """
    if "mpi4py.futures" in sys.modules:
        return True
    started = launched()
    if started is not None and started[1] > 1:
        raise UsageError(
            "started by an MPI launcher, each process would run its own sweep; "
            "write: mpiexec -n N python -m mpi4py.futures -m mlpcli sweep ..."
        )
    return False


def execute(open_tasks: Sequence[Task], pool: Pool, watcher: Watcher) -> dict[Path, Outcome]:
    """Train ``open_tasks``, in order, with the workers of ``pool``; return the outcomes by path."""
    outcomes: dict[Path, Outcome] = {}
    pending = {pool.submit(task): task for task in open_tasks}
    begun: set[Path] = set()
    while pending:
        done, _ = wait(pending, TICK_SECONDS, FIRST_COMPLETED)
        for future in done:
            task = pending.pop(future)
            if task.path not in begun:  # a short run may begin and end between two polls
                watcher.began(task)
            try:
                outcomes[task.path] = future.result()
            except Exception as error:  # of the executor: the worker died, or its result could not be read
                outcomes[task.path] = Outcome("died", f"{type(error).__name__}: {error}")
            watcher.ended(task, outcomes[task.path])
        running = [task for future, task in pending.items() if future.running()]
        for task in running:
            if task.path not in begun:
                begun.add(task.path)
                watcher.began(task)
        watcher.tick(running)
    return outcomes


def cores() -> int:
    """Return the number of cores available to this process."""
    return len(available_cores())


def _child(sending: connection.Connection, task: Task, threads: int) -> None:
    """Run ``task`` in a worker process, which exits when its parent process ends for any reason."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    sending.send(train(task, threads))


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C in processes started here; the sweep handles it."""
    # Started with the first process, the tracker would unblock the signal. So start it before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with status {code}"
