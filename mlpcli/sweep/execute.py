"""The runs of a plan, each in a directory of its own, trained by processes of this machine or of many by MPI.

A run that is finished is not trained again, one that was interrupted goes on from its checkpoint. Nothing that becomes
of a run stops the others. numpy is not loaded with this module: a worker first says how many threads BLAS may use.
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
from mlpcli.errors import DivergedError, MlpcliError, RunError, UsageError
from mlpcli.parallel.control import available_cores, launched
from mlpcli.runs.environment import THREAD_VARIABLES, threads
from mlpcli.sweep.plan import Plan

if TYPE_CHECKING:
    from mlpcli.datasets.download import Progress, Say
    from mlpcli.experiment import Observer

SWEEP = "sweep.yaml"
LOCK = ".lock"
# What a run may have otherwise than the sweep now asks: where the data are found.
NOT_COMPARED = frozenset({"data.folder", "data.sources", "data.offline"})
# Of a run that another process holds: one of a sweep that was killed takes a moment to see that it is alone.
PATIENCE_SECONDS = 10.0
# Between two looks at how far the runs are.
TICK_SECONDS = 0.5


@dataclass(frozen=True)
class Task:
    """A run as it is on disk. ``state`` is new, interrupted, finished, diverged, or broken: then ``problem`` says how.

    A ``broken`` one is a run that cannot be gone on with as it is.
    """

    path: Path
    config: Config
    state: str
    problem: str = ""

    @property
    def is_open(self) -> bool:
        """Return True if there is anything to train."""
        return self.state in ("new", "interrupted")


@dataclass(frozen=True)
class Outcome:
    """The end of a task: finished, diverged, failed (``problem`` says why), or died with its process.

    ``said`` are messages for a person.
    """

    state: str
    problem: str = ""
    said: tuple[str, ...] = ()


class Watcher:
    """Receives the events of a sweep, to show them; this one shows nothing."""

    def began(self, task: Task) -> None:
        """A worker has taken it."""

    def ended(self, task: Task, outcome: Outcome) -> None:
        """A worker is done with it."""

    def tick(self, running: Sequence[Task]) -> None:
        """Time has passed; these are being trained."""


# What is there ------------------------------------------------------------------------------------------------------


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` if need be, and hold it, so that no other sweep writes to it. Raises ``RunError``."""
    from mlpcli.files import locked

    _refuse_a_run(folder)
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
    """The runs of ``plan``, and what there is of them in ``folder``. Changes nothing.

    Raises ``UsageError`` if one that is there was begun with another config: it is not what the plan asks for.
    """
    _refuse_a_run(folder)
    return [_task(folder / planned.name, planned.config) for planned in plan.runs]


def strangers(folder: Path, plan: Plan) -> list[Path]:
    """The runs in ``folder`` that ``plan`` does not ask for."""
    from mlpcli.runs import directory

    known = {planned.name for planned in plan.runs}
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.name not in known and directory.is_run(path))
    return []


def _refuse_a_run(folder: Path) -> None:
    from mlpcli.runs import directory

    if directory.is_run(folder):
        raise RunError(f"{folder}: is a run, not a folder of runs; name another --out")


def _task(path: Path, config: Config) -> Task:
    from mlpcli.runs import directory
    from mlpcli.runs.summary import try_to_summarize

    if not directory.is_run(path):
        return Task(path, config, "new")
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
        return Task(path, config, "interrupted")
    summary = try_to_summarize(path)
    return Task(path, config, "broken" if summary.state == "damaged" else state, summary.problem or "")


def _text(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fetch(open_tasks: Sequence[Task], *, say: Say, progress: Progress | None = None) -> list[Task]:
    """See once that the data of all of them can be had and fit, fetching what is missing; the tasks to train.

    Where they are the fallback of data that could not be had, no worker asks for those again. Raises ``DataError`` and
    ``RunError``.
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
    """Train ``task``, or go on with it; says what became of it, whatever that is."""
    if "numpy" not in sys.modules:
        for name in THREAD_VARIABLES:
            os.environ[name] = str(threads)
    from mlpcli import experiment

    class Listener(experiment.Observer):
        def say(self, message: str) -> None:
            said.append(message)

    said: list[str] = []
    try:
        _train(task, Listener())
    except DivergedError as error:
        return Outcome("diverged", str(error), tuple(said))
    except MlpcliError as error:
        return Outcome("failed", str(error), tuple(said))
    except MemoryError:
        return Outcome("failed", "does not fit in memory", tuple(said))
    except Exception as error:
        said.append(f"{traceback.format_exc()}mlpcli: this is a bug in mlpcli; please report it with the lines above")
        return Outcome("failed", f"{type(error).__name__}: {error}", tuple(said))
    return Outcome("finished", "", tuple(said))


def _train(task: Task, observer: Observer) -> None:
    from mlpcli import experiment
    from mlpcli.runs import directory

    if not directory.is_run(task.path):
        experiment.train(task.config, out=task.path, observer=observer)
        return
    until = time.monotonic() + PATIENCE_SECONDS
    while directory.is_in_use(task.path) and time.monotonic() < until:
        time.sleep(0.1)
    # JSON is YAML, except for its escapes: YAML reads a surrogate pair as two halves of a character.
    values = config_module.flatten(task.config)
    overrides = [f"{key}={json.dumps(values[key], ensure_ascii=False)}" for key in sorted(NOT_COMPARED)]
    experiment.resume(task.path, overrides, observer=observer)


# Many, by many workers ----------------------------------------------------------------------------------------------


class Pool:
    """Workers, each with ``threads`` threads of BLAS; a context manager that lets go of them."""

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
        """Have ``task`` trained by the next worker that is free."""
        return self._executor.submit(train, task, self.threads)

    def stop(self, status: int) -> None:
        """End what the workers do, now: a run survives that at any moment. May end this process with ``status``."""
        raise NotImplementedError


class LocalPool(Pool):
    """Processes of this machine, one a run, so that whatever becomes of one leaves the others alone."""

    def __init__(self, jobs: int | None = None, threads_each: int | None = None) -> None:
        jobs = jobs or cores()
        # As many as were asked for by an environment variable, but never so many that they wait for each other.
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
        """Have ``task`` trained by the next worker that is free."""
        return self._executor.submit(self._in_a_process, task)

    def stop(self, status: int = 0) -> None:
        """End what the workers do, now: a run survives that at any moment."""
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.kill()
        self._executor.shutdown(cancel_futures=True)

    def _in_a_process(self, task: Task) -> Outcome:
        context = multiprocessing.get_context("spawn")  # a fork would have this process's numpy, and its threads
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
    """The other ranks of ``mpiexec -n N python -m mpi4py.futures -m mlpcli sweep``: N - 1 workers."""

    def __init__(self, threads_each: int | None = None) -> None:
        from mpi4py import MPI
        from mpi4py.futures import MPIPoolExecutor

        ranks = MPI.COMM_WORLD.Get_size()
        if ranks < 2:
            raise UsageError("one rank is a manager with no worker: give mpiexec -n 2 or more")
        super().__init__(MPIPoolExecutor(), ranks - 1, threads_each or 1)
        self._world = MPI.COMM_WORLD

    def stop(self, status: int) -> None:
        """End all ranks, this one too, with ``status``: a rank that trains hears nothing else."""
        self._world.Abort(status)


def under_mpi() -> bool:
    """Return True on rank 0 of ``python -m mpi4py.futures``; raises ``UsageError`` for one of many equal processes."""
    if "mpi4py.futures" in sys.modules:
        return True
    started = launched()
    if started is not None and started[1] > 1:
        raise UsageError(
            "started by an MPI launcher, each process would be a sweep of its own; "
            "write: mpiexec -n N python -m mpi4py.futures -m mlpcli sweep ..."
        )
    return False


def execute(open_tasks: Sequence[Task], pool: Pool, watcher: Watcher) -> dict[Path, Outcome]:
    """Train ``open_tasks``, in their order, by the workers of ``pool``; what became of each, by its path."""
    outcomes: dict[Path, Outcome] = {}
    pending = {pool.submit(task): task for task in open_tasks}
    begun: set[Path] = set()
    while pending:
        done, _ = wait(pending, TICK_SECONDS, FIRST_COMPLETED)
        for future in done:
            task = pending.pop(future)
            if task.path not in begun:  # a short run may have come and gone since the last poll
                watcher.began(task)
            try:
                outcomes[task.path] = future.result()
            except Exception as error:  # the executor's own: the worker is gone, or what it said could not be read
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
    """The processors there are for this process."""
    return len(available_cores())


def _child(sending: connection.Connection, task: Task, threads: int) -> None:
    """The body of a worker's process: it ends with the process that began it, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    sending.send(train(task, threads))


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process begun in here is deaf to Ctrl-C, which is the sweep's to answer."""
    # Which would be begun with the first process, and would let the signal through again when it has been.
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
