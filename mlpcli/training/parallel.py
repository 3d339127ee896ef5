"""One network trained by several processes, each of which has its share of every batch.

    B   examples in a batch          B_r   those of process r, of N: the batch in order, cut into N nearly equal shares

The gradients of the weights are sums over all examples, and a mean over the batch is the mean of the shares' means,
each weighted by its share:

    dLoss/dtheta = sum_r (B_r / B) dLoss_r/dtheta            Loss_r the mean over the B_r rows alone

Processes that talk by messages (:class:`MpiTeam`) each go forward and back with their own rows, add up the gradients,
one vector, and make the same update of it.

Processes with memory in common (:class:`ForkedTeam`) share each step more finely
(:class:`mlpcli.model.network.Share`): each has some of the hidden units, with their weights, which it alone multiplies
by and moves. So no weight crosses from one processor to another, which would take longer than to multiply by it, and
nothing has to be added up but the terms of the logits, of dLoss/da between hidden layers, loss and errors. What a step
is does not depend on N but for rounding.

:class:`Team` is a process on its own. The first of several, rank 0, decides: it alone has files, a screen, and an
outcome. The others wait for its word, asleep, between epochs.

Numpy is not imported here, so that its threads can be chosen when the number of processes is known.
"""

from __future__ import annotations

import atexit
import math
import mmap
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from mlpcli.errors import DivergedError, MlpcliError, RunError, UsageError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

# What a launcher tells the processes it starts: how many they are, and which is which. By MPICH's and Intel's mpiexec,
# Open MPI's, MVAPICH's, and Slurm's srun (whose SLURM_NTASKS is also there where nothing was started by srun).
LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)

SECONDS_BETWEEN_LOOKS = 0.0005
SECONDS_TO_PASS_ON = 0.2
LOOKS_BETWEEN_DOUBTS = 1000
give_way = getattr(os, "sched_yield", lambda: time.sleep(0))
MOST_PROCESSES = 64
BUG = 70  # the exit status
BOARD = 1024  # entries of a sum: more than there are layers
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """All processes leave the epoch together, as one of them was told to stop by a signal."""


class Team:
    """The processes that train one network: here a process on its own. ``rank`` counts from 0, up to ``size``."""

    rank = 0
    size = 1
    command = "mlpcli train"
    processors = 1.0  # for each, if they are several
    dies_together = False  # whether rank 0 is killed where another is
    sharers = 1  # how many have their batches and parameters in the same memory
    adds_up = False  # whether each has but the gradient of its own rows, and all are to be added up

    @property
    def label(self) -> int | str:
        """How many they are, and how they talk: teams of equal labels round alike."""
        return self.size

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

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

    def part(self, count: int) -> slice:
        """Which of ``count`` units have their weights with this process, which alone moves them: all."""
        return slice(0, count)

    def rows_held(self, count: int) -> int:
        """How many rows, of a batch of ``count``, are in the memory that this process makes the gradient from."""
        return self.rows(count)

    def own_rows(self, count: int) -> slice:
        """Which of the rows held of a batch are this process's own."""
        return slice(0, self.rows(count))

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Zeros, in memory that all have in common who work in the same."""
        from mlpcli.model.memory import aligned

        return aligned(shape, dtype, 0.0)

    def told(self, message: NDArray[Any]) -> NDArray[Any]:
        """What is added up beside the gradient: the last three entries of ``message`` (n,)."""
        return message[-3:]

    def meet(self, told: NDArray[Any] | None = None) -> None:
        """Wait for all who work in the same memory, where one writes what another reads; ``told`` (n,) is added up."""

    def goes_on(self, wanted: bool) -> bool:
        """Whether another epoch begins: rank 0 wants it. If so, :meth:`together` must follow."""
        return wanted

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all processes do alike: sums, in the same order. Signals wait, and raise what they do at a sum."""
        yield

    def send(self, job: Any, work: Callable[[], None]) -> None:
        """Have the others do ``work`` if they are copies of this process, else what ``job`` says, which is pickled."""

    def receive(self) -> Any:
        """What rank 0 sends; None if there is nothing to do."""


ALONE = Team()


class MpiTeam(Team):
    """The processes that an MPI launcher started. Those of another rank than 0 are let go when rank 0 leaves.

    Raises ``UsageError`` where there is no mpi4py, or where its MPI is not the launcher's.
    """

    dies_together = True

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
        self.adds_up = self.size > 1
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

    @property
    def label(self) -> int | str:
        """How many they are, and how they talk: teams of equal labels round alike."""
        return f"{self.size} (MPI)" if self.size > 1 else 1

    def __enter__(self) -> Team:
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
            atexit.register(self._abort, BUG if ours else 4)
        elif not self._let_go and self._word(False):
            atexit.register(self._abort, BUG)  # rank 0 goes on where this one has ended
        self._mind_signals()

    def _abort(self, status: int) -> None:
        """Stop all. The launcher stops with them, and what it has not yet passed on of the reason would be lost."""
        time.sleep(SECONDS_TO_PASS_ON)
        self._comm.Abort(status)

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

    def meet(self, told: NDArray[Any] | None = None) -> None:
        """Nobody works in the same memory. A process by itself, which adds up no gradient, minds signals here."""
        if told is not None and not self.adds_up:
            self.sum(told)

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

    def send(self, job: Any, work: Callable[[], None]) -> None:
        """Have the others do ``work`` if they are copies of this process, else what ``job`` says, which is pickled."""
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


class ForkedTeam(Team):
    """Processes of this machine, forked when there is work, which share the memory that they train in.

    Where all must have come to a point they wait at full speed, which takes a microsecond or two: three times in a
    step, twice more for each hidden layer beyond the first, and once more with input dropout. The others have no files
    and no screen, and end when rank 0 does, in whatever way. Raises ``UsageError`` where processes can't be forked.
    """

    def __init__(self, size: int) -> None:
        if not hasattr(os, "fork"):
            raise UsageError("--processes needs a system whose processes can fork, as Linux's can: leave it out")
        self.size = self.sharers = size
        self.command = f"mlpcli train --processes {size}"
        self.processors = len(processors()) / size  # for each
        self._others: list[tuple[int, int]] = []  # a process, and the pipe that brings it the word of rank 0
        self._hears = -1
        self._rank_0 = os.getpid()
        self._fence = threading.Lock()
        self._fence.acquire()
        # How often each has come to where all meet, in pages of their own.
        self._came = [memoryview(mmap.mmap(-1, 8)).cast("Q") for _ in range(size)]

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        while self._others:
            process, pipe = self._others.pop()
            os.close(pipe)
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)

    def send(self, job: Any, work: Callable[[], None]) -> None:
        """Fork the others, each of which does ``work`` and ends. Raises ``RunError`` where there can't be so many."""
        self._end()  # what they did before
        self._board = self.allocate((self.size, BOARD), "float64")
        for rank in range(1, self.size):
            # A signal in between would be raised in a process that is not yet known, or does not yet know its place.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                hears, tells = os.pipe()
                process = os.fork()
                if not process:
                    self._be_another(rank, hears, before, work)
                self._others.append((process, tells))
                os.close(hears)
            except OSError as error:
                raise RunError(f"--processes {self.size}: no further process can be made ({error.strerror})") from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _be_another(self, rank: int, hears: int, mask: set[int | signal.Signals], work: Callable[[], None]) -> NoReturn:
        status = BUG
        try:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # rank 0 ends the others
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self.rank, self._hears, self._others = rank, hears, []
            # The run's lock, and the ends of pipes by which rank 0 is heard: it is gone when the last is closed.
            for name in os.listdir("/dev/fd"):  # noqa: PTH208 - all of them before the first is closed
                if int(name) > 2 and int(name) != hears:
                    with suppress(OSError):
                        os.close(int(name))
            with suppress(DivergedError):  # as rank 0 sees it
                work()
            os.read(hears, 1)  # rank 0 has come as far, or is gone
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def part(self, count: int) -> slice:
        """Which of ``count`` units have their weights with this process, which alone moves them."""
        return self.share(count)

    def rows_held(self, count: int) -> int:
        """How many rows, of a batch of ``count``, are in the memory that this process makes the gradient from: all."""
        return count

    def own_rows(self, count: int) -> slice:
        """Which of the rows held of a batch are this process's own."""
        return self.share(count)

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Zeros that all share, if they are made before the others are forked; they begin a page."""
        import numpy as np

        kind, size = np.dtype(dtype), math.prod(shape)
        zeros: NDArray[Any] = np.frombuffer(mmap.mmap(-1, max(1, size * kind.itemsize)), kind, size)
        return zeros.reshape(shape)

    def told(self, message: NDArray[Any]) -> NDArray[Any]:
        """What is added up beside the gradient, which all write to the same ``message``: three entries of their own."""
        own: NDArray[Any] = message[-3:].copy()
        return own

    def meet(self, told: NDArray[Any] | None = None) -> None:
        """Wait for all who work in the same memory, where one writes what another reads; ``told`` (n,) is added up."""
        if told is not None:
            self._board[self.rank, : len(told)] = told
        own = self._came[self.rank]
        self._keep_order()
        own[0] += 1
        for came in self._came:
            looks = 0
            while came[0] < own[0]:
                give_way()
                looks += 1
                if looks % LOOKS_BETWEEN_DOUBTS == 0:
                    self._see_that_all_live()
        self._keep_order()
        if told is not None:
            told[...] = self._board[:, : len(told)].sum(axis=0)

    def _keep_order(self) -> None:
        # Some processors let others see what is written in another order, but not across what a lock does.
        self._fence.release()
        self._fence.acquire()

    def _see_that_all_live(self) -> None:
        if self.rank and os.getppid() != self._rank_0:
            os._exit(0)
        for process, _ in self._others:
            try:
                found, status = os.waitpid(process, os.WNOHANG)
            except ChildProcessError:  # where the system was told to forget who ends
                found, status = process, None
            if found:
                self._lost(process, status)

    def _lost(self, process: int, status: int | None) -> NoReturn:
        code = None if status is None else os.waitstatus_to_exitcode(status)
        if code == BUG:
            raise RuntimeError("one of the processes that train together has failed, as it says above")
        how = "" if code is None else f", by signal {-code}" if code < 0 else f", with status {code}"
        raise RunError(f"one of the processes that train together has ended before its time{how}")

    def sum(self, vector: NDArray[Any]) -> None:
        """Make ``vector`` (n,), short, the sum of all processes' own, the same for all."""
        self.meet(vector)
        self.meet()  # all have read it

    def goes_on(self, wanted: bool) -> bool:
        """Whether another epoch begins: rank 0 wants it."""
        if self.rank:
            return os.read(self._hears, 1) == bytes([True])  # nothing at all: rank 0 is gone
        for _, pipe in self._others:
            with suppress(BrokenPipeError):  # who is gone is missed when all meet
                os.write(pipe, bytes([wanted]))
        return wanted


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
