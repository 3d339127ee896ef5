"""One network trained by several processes: each makes the gradient of its rows of a batch, and they are added up.

    B   examples in a batch          B_r   those of process r, of N: the batch in order, cut into N nearly equal shares

A mean over the batch is the mean of the shares' means, each weighted by its share:

    dLoss/dtheta = sum_r (B_r / B) dLoss_r/dtheta            Loss_r the mean over the B_r rows alone

All processes begin with the same parameters, add up this one vector in each step, and make the same update of it. What
a step is does not depend on N but for the rounding of that sum.

:class:`Team` is a process on its own, :class:`MpiTeam` one of several that talk by MPI. The first, rank 0, decides: it
alone has files, a screen, and an outcome. The others wait for its word, asleep, between epochs; within an epoch they
meet in sums alone.

Numpy is not imported here, so that its threads can be chosen when the number of processes is known.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from mlpcli.errors import DivergedError, MlpcliError, RunError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a launcher tells the processes it starts: how many they are, and which is which. By MPICH's and Intel's mpiexec,
# Open MPI's, MVAPICH's, and Slurm's srun (whose SLURM_NTASKS is also there where nothing was started by srun).
LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)

SECONDS_BETWEEN_LOOKS = 0.0005
give_way = getattr(os, "sched_yield", lambda: time.sleep(0))
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """All processes leave the epoch together, as one of them was told to stop by a signal."""


class Team:
    """The processes that train one network: here a process on its own. ``rank`` counts from 0, up to ``size``."""

    rank = 0
    size = 1
    command = "mlpcli train"

    def share(self, count: int) -> slice:
        """Which of ``count`` things in order are this process's: none, where there are fewer than processes.

        Of fewer things no process has more than of more.
        """
        each, over = divmod(count, self.size)
        start = self.rank * each + min(self.rank, over)
        return slice(start, start + each + (self.rank < over))

    def rows(self, count: int) -> int:
        """How many of ``count`` things are this process's."""
        own = self.share(count)
        return int(own.stop - own.start)

    def sum(self, vector: NDArray[Any]) -> None:
        """Make ``vector`` (n,) the sum of all processes' own, the same for all. Its last entry is the team's."""

    def equalize(self, vector: NDArray[Any]) -> None:
        """Make ``vector`` (n,) that of rank 0."""

    def goes_on(self, wanted: bool) -> bool:
        """Whether another epoch begins: rank 0 wants it. If so, :meth:`together` must follow."""
        return wanted

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all processes do alike: sums, in the same order. Signals wait, and raise what they do at a sum."""
        yield

    def send(self, job: Any) -> None:
        """Tell the others what there is to do; ``job`` can be pickled."""

    def receive(self) -> Any:
        """What rank 0 sends; None if there is nothing to do."""


ALONE = Team()


class MpiTeam(Team):
    """The processes that an MPI launcher started. Those of another rank than 0 are let go when rank 0 leaves.

    Raises ``UsageError`` where there is no mpi4py, or where its MPI is not the launcher's.
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
            from mpi4py.util import pkl5
        except (ImportError, RuntimeError) as error:  # the latter where it finds no MPI
            raise UsageError(f"--mpi needs mpi4py and an MPI: pip install 'mlpcli[mpi]' ({error})") from error
        self._MPI = MPI
        self._comm = pkl5.Intracomm(MPI.COMM_WORLD)
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        started = launched()
        if started is not None and self.size == 1 < started[1]:
            library = MPI.Get_library_version().splitlines()[0].rstrip("\0")
            raise UsageError(
                f"--mpi: {started[1]} processes were started, but mpi4py's MPI ({library}) sees one: start them with "
                "that MPI's own mpiexec, or build mpi4py for the other"
            )
        if self.size > 1:
            self.command = f"mpiexec -n {self.size} mlpcli train --mpi"
        # Processors of this machine for each of its processes. A launcher may have bound each process to some of them:
        # together they have them all.
        here = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.processors = len(set().union(*here.allgather(processors()))) / here.Get_size()
        self._let_go = False  # nothing is waited for any more
        self._busy = False  # the others wait for what only an orderly end of this brings
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> MpiTeam:
        if self.rank:
            self._note_signals()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note_signals()
        if self._busy or (self.rank and value is not None):
            # There is no orderly way to tell the others. First the reason is printed, at the very end they are stopped.
            ours = isinstance(value, Exception) and not isinstance(value, MlpcliError)
            atexit.register(self._comm.Abort, 70 if ours else 4)
        elif not self._let_go and self._word(False):
            atexit.register(self._comm.Abort, 70)  # rank 0 goes on where this one has ended
        self._mind_signals()

    def sum(self, vector: NDArray[Any]) -> None:
        """Make ``vector`` (n,) the sum of all processes' own, the same for all. Its last entry is the team's."""
        vector[-1] = self._signal is not None
        with self._in_touch():
            if self.processors >= 1:
                self._comm.Allreduce(self._MPI.IN_PLACE, vector)
            else:
                # Who waits at full speed keeps from a processor the one that is waited for.
                request = self._comm.Iallreduce(self._MPI.IN_PLACE, vector)
                while not request.Test():
                    give_way()
        if vector[-1]:
            self._busy = False
            raise Stopped

    def equalize(self, vector: NDArray[Any]) -> None:
        """Make ``vector`` (n,) that of rank 0."""
        with self._in_touch():
            self._comm.Bcast(vector)

    def goes_on(self, wanted: bool) -> bool:
        """Whether another epoch begins: rank 0 wants it. If so, :meth:`together` must follow."""
        if self.rank == 0:
            self._note_signals()
        self._busy = self._word(wanted)
        self._let_go = not self._busy
        if self._let_go:
            self._mind_signals()
        return self._busy

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all processes do alike: sums, in the same order. Signals wait, and raise what they do at a sum."""
        try:
            yield
            self._busy = False
        except DivergedError:  # as they all see it
            self._busy = False
            raise
        except Stopped:
            # Only one of the others may have been told.
            self._signal = self._signal or signal.SIGTERM
            self._mind_signals()
            raise
        finally:
            self._mind_signals()

    def send(self, job: Any) -> None:
        """Tell the others what there is to do; ``job`` can be pickled."""
        self._note_signals()
        self._busy = True
        with self._in_touch():
            self._word(True)
            self._comm.bcast(job)
        self._busy = False
        self._mind_signals()

    def receive(self) -> Any:
        """What rank 0 sends; None if there is nothing to do."""
        self._let_go = not self._word(False)
        return None if self._let_go else self._comm.bcast(None)

    def _word(self, word: bool) -> bool:
        """The word of rank 0. Nobody knows how long it takes to come, so it is not waited for at full speed."""
        carried = bytearray([word])
        with self._in_touch():
            request = self._comm.Ibcast(carried)
            while not request.Test():
                time.sleep(SECONDS_BETWEEN_LOOKS)
        return bool(carried[0])

    @contextmanager
    def _in_touch(self) -> Iterator[None]:
        try:
            yield
        except self._MPI.Exception as error:
            self._busy = True
            if self.rank:
                raise Stopped from error
            raise RunError(f"lost touch with the other processes ({error})") from error

    def _note_signals(self) -> None:
        """From here on a signal is remembered, as the others could not know of what it raises."""
        for number in SIGNALS:
            self._handlers.setdefault(number, signal.signal(number, self._note) or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _mind_signals(self) -> None:
        """From here on a signal does what it did before, and one that came in between does it now; for rank 0 alone.

        The others never act on one but by telling rank 0.
        """
        if self.rank:
            return
        while self._handlers:
            signal.signal(*self._handlers.popitem())
        if self._signal is not None:
            number, self._signal = self._signal, None
            signal.raise_signal(number)


def processors() -> set[int]:
    """The numbers of the processors that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def launched(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """This process's rank, and how many a launcher started with it; None if no launcher did that is known."""
    for size, rank in LAUNCHERS:
        numbers = environment.get(rank, ""), environment.get(size, "")
        if all(map(str.isdecimal, numbers)):
            return int(numbers[0]), int(numbers[1])
    return None
