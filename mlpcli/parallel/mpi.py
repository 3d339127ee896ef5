"""Processes that an MPI launcher started. Each computes the gradient of its own examples; the gradients are added up.

    B   examples in a batch          B_r   those of process r: the batch in order, divided into nearly equal shards

The loss is the mean over the batch, so each process divides by B, and the gradient is the sum of the processes':

    dLoss/dtheta = sum_r (B_r / B) dLoss_r/dtheta            Loss_r the mean over the B_r examples alone
"""

from __future__ import annotations

import atexit
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from mlpcli.errors import DivergedError, MlpcliError, RunError, UsageError
from mlpcli.parallel.comm import Serial
from mlpcli.parallel.control import EXIT_BUG, SIGNALS, ProcessGroup, Stopped, Work, available_cores, launched
from mlpcli.parallel.forked import yield_cpu

if TYPE_CHECKING:
    from numpy.typing import NDArray

SECONDS_BETWEEN_POLLS = 0.0005
SECONDS_TO_FLUSH_OUTPUT = 0.2


class Mpi(Serial):
    """One of the processes of an MPI communicator, each with arrays of its own."""

    def __init__(self, MPI: Any, comm: Any) -> None:
        self._MPI, self.mpi = MPI, comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        # CPU cores of this machine for each of its processes. A launcher may have bound each process to some of them.
        here = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.cores = len(set().union(*here.allgather(available_cores()))) / here.Get_size()
        self.lost = False

    @property
    def data(self) -> Serial:
        """These processes divide the examples of a batch."""
        return self

    def barrier(self) -> None:
        """Wait until every process has reached the barrier."""
        with self.translate_errors():
            self.mpi.Barrier()

    def all_reduce(self, vector: NDArray[Any]) -> None:
        """Replace ``vector`` (n,) by the sum of all processes' vectors. Raises ``RunError`` if one has died."""
        with self.translate_errors():
            if self.cores >= 1:
                self.mpi.Allreduce(self._MPI.IN_PLACE, vector)
            else:
                # Busy-waiting would take the CPU from the process we wait for.
                request = self.mpi.Iallreduce(self._MPI.IN_PLACE, vector)
                while not request.Test():
                    yield_cpu()

    def broadcast(self, vector: NDArray[Any]) -> None:
        """Replace ``vector`` (n,) by rank 0's."""
        with self.translate_errors():
            self.mpi.Bcast(vector)

    def broadcast_flag(self, flag: bool) -> bool:
        """Return rank 0's flag. Sleeps between polls, as the wait may be long."""
        buffer = bytearray([flag])
        with self.translate_errors():
            request = self.mpi.Ibcast(buffer)
            while not request.Test():
                time.sleep(SECONDS_BETWEEN_POLLS)
        return bool(buffer[0])

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise an error of MPI as ``RunError`` in rank 0, and as ``Stopped`` in the others."""
        try:
            yield
        except self._MPI.Exception as error:
            self.lost = True
            if self.rank:
                raise Stopped from error
            raise RunError(f"lost the connection to the other processes ({error})") from error


class MpiGroup(ProcessGroup):
    """The processes that an MPI launcher started. Those other than rank 0 are released when rank 0 leaves.

    Raises ``UsageError`` if there is no mpi4py, or if its MPI is not the launcher's.
    """

    aborts_as_one = True

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
            from mpi4py.util import pkl5
        except (ImportError, RuntimeError) as error:  # the latter if it finds no MPI
            raise UsageError(f"--mpi needs mpi4py and an MPI: pip install 'mlpcli[mpi]' ({error})") from error
        self.comm: Mpi = Mpi(MPI, pkl5.Intracomm(MPI.COMM_WORLD))
        self.cores = self.comm.cores
        started = launched()
        if started is not None and self.size == 1 < started[1]:
            library = MPI.Get_library_version().splitlines()[0].rstrip("\0")
            raise UsageError(
                f"--mpi: {started[1]} processes were started, but mpi4py's MPI ({library}) sees one: start them with "
                "that MPI's own mpiexec, or build mpi4py for the other"
            )
        if self.size > 1:
            self.command = f"mpiexec -n {self.size} mlpcli train --mpi"
        self._released = False  # the other processes wait for nothing any more
        self._in_collective = False  # the others wait for what only an orderly end of this brings
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def label(self) -> int | str:
        """The number of processes, and how they communicate; groups of equal labels round alike."""
        return f"{self.size} (MPI)" if self.size > 1 else 1

    def __enter__(self) -> ProcessGroup:
        if self.rank:
            self._defer_signals()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._defer_signals()
        if self._in_collective or self.comm.lost or (self.rank and value is not None):
            # There is no orderly way to tell the others. First the reason is printed, at the very end they are stopped.
            ours = isinstance(value, Exception) and not isinstance(value, MlpcliError)
            atexit.register(self._abort, EXIT_BUG if ours else 4)
        elif not self._released and self.comm.broadcast_flag(False):
            atexit.register(self._abort, EXIT_BUG)  # rank 0 continues after this one has ended
        self._restore_signals()

    def _abort(self, status: int) -> None:
        """Stop all processes, after a pause: the launcher stops too, and would lose output it has not yet passed on."""
        time.sleep(SECONDS_TO_FLUSH_OUTPUT)
        self.comm.mpi.Abort(status)

    def start_workers(self, work: Work) -> None:
        """Send the job of ``work`` to the other processes."""
        self._defer_signals()
        self._in_collective = True
        with self.comm.translate_errors():
            self.comm.broadcast_flag(True)
            self.comm.mpi.bcast(work.job)
        self._in_collective = False
        self._restore_signals()

    def wait_for_job(self) -> tuple[Any, ...] | None:
        """Return the job that rank 0 sends; None if there is none."""
        self._released = not self.comm.broadcast_flag(False)
        job: tuple[Any, ...] | None = None if self._released else self.comm.mpi.bcast(None)
        return job

    def continue_training(self, wanted: bool) -> bool:
        """Broadcast from rank 0 whether another epoch begins. If so, :meth:`collective` must follow."""
        if self.rank == 0:
            self._defer_signals()
        self._in_collective = self.comm.broadcast_flag(wanted)
        self._released = not self._in_collective
        if self._released:
            self._restore_signals()
        return self._in_collective

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Enclose collective operations. Signals are deferred, until :meth:`raise_if_stopped` or the end."""
        try:
            yield
            self._in_collective = False
        except DivergedError:  # all processes raise it
            self._in_collective = False
            raise
        except Stopped:
            # The signal may have come to another process.
            self._signal = self._signal or signal.SIGTERM
            raise
        finally:
            self._restore_signals()

    def raise_if_stopped(self) -> None:
        """Raise ``Stopped`` in all processes if a signal has asked one of them to stop. Collective."""
        import numpy as np

        stop = np.array([self._signal is not None], np.float64)
        if self.size > 1:
            self.comm.all_reduce(stop)
        if stop[0]:
            self._in_collective = False
            raise Stopped

    def _defer_signals(self) -> None:
        """Record a signal from here on, as the other processes could not know of what it raises."""
        for number in (each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN):
            self._handlers.setdefault(number, signal.signal(number, self._record_signal) or signal.SIG_DFL)

    def _record_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _restore_signals(self) -> None:
        """Restore the signal handlers and raise a deferred signal. Rank 0 only: it stops the others."""
        if self.rank:
            return
        while self._handlers:
            signal.signal(*self._handlers.popitem())
        if self._signal is not None:
            number, self._signal = self._signal, None
            signal.raise_signal(number)
