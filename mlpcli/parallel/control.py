"""Starting, stopping and watching the processes that train one network: here a process alone.

Rank 0 decides: only it writes files and prints. Between epochs the others block until it broadcasts whether to go on.
numpy is not imported here at once, so that its threads can be chosen when the number of processes is known.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

from mlpcli.parallel.comm import SERIAL, Serial

# Variables that launchers set, size and rank: MPICH's and Intel's mpiexec, Open MPI's, MVAPICH's, and
# Slurm's srun (SLURM_NTASKS is also set where srun has started nothing).
LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)

MAX_PROCESSES = 64
EXIT_BUG = 70
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(BaseException):
    """All processes leave an epoch together, because a signal asked one of them to stop."""


class Work(Protocol):
    """Work that the processes of a group do together: all call the same collective operations in the same order."""

    @property
    def job(self) -> tuple[Any, ...]:
        """The arguments with which another process makes an equal object; they are pickled."""

    def run_worker(self) -> None:
        """Do the part of a process other than rank 0."""


class ProcessGroup:
    """The processes that train one network: here one alone."""

    comm: Serial = SERIAL
    command = "mlpcli train"
    cores = 1.0  # CPU cores for each process
    aborts_as_one = False  # whether rank 0 is killed when another process is

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self.comm.rank

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.comm.size

    @property
    def label(self) -> int | str:
        """The number of processes, and how they communicate; groups of equal labels round alike."""
        return self.size

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def start_workers(self, work: Work) -> None:
        """Have all other processes do their part of ``work``. Called by rank 0."""

    def wait_for_job(self) -> tuple[Any, ...] | None:
        """Return the job of the work that rank 0 starts; None if there is none. Called by the others."""
        return None

    def continue_training(self, wanted: bool) -> bool:
        """Broadcast from rank 0 whether another epoch begins. If so, :meth:`collective` must follow."""
        return wanted

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Enclose collective operations. Signals that would raise in one process alone are deferred."""
        yield

    def raise_if_stopped(self) -> None:
        """Raise ``Stopped`` in all processes if a signal has asked one of them to stop. Collective."""


SINGLE = ProcessGroup()


def available_cores() -> set[int]:
    """Return the numbers of the CPU cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def launched(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Return this process's rank and the number of processes that a launcher started; None if no known one did."""
    for size, rank in LAUNCHERS:
        numbers = environment.get(rank, ""), environment.get(size, "")
        if all(map(str.isdecimal, numbers)):
            return int(numbers[0]), int(numbers[1])
    return None
