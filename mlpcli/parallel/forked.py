"""Processes of this machine, forked when there is work, that share the memory they train in.

They divide the units of each layer: every process multiplies by the weights of its own units and is the only one to
read or update them, so that weights stay in one core's cache. Processes exchange inputs, activations between hidden
layers, and partial sums of the logits. A step has three barriers, two more for each hidden layer beyond the first, and
twice as many and two more with adversarial images. At a barrier a process spins until the slowest has arrived: 3 us for
784-30-10 and 41 us for 784-1024-1024-10, with two processes (docs/performance.md). What a step computes does not depend
on the number of processes, except for rounding.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from mlpcli.errors import DivergedError, RunError, UsageError
from mlpcli.parallel.comm import Serial
from mlpcli.parallel.control import EXIT_BUG, SIGNALS, ProcessGroup, Work, available_cores

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

SPINS_PER_LIVENESS_CHECK = 1000
MAX_REDUCED = 1024  # entries of a vector that is reduced: more than there are layers
yield_cpu = getattr(os, "sched_yield", lambda: time.sleep(0))


class SharedMemory(Serial):
    """One of ``size`` forked processes. What :meth:`allocate` returned before the fork is shared by all."""

    def __init__(self, size: int, check_liveness: Callable[[], None]) -> None:
        self.size = size
        self._check_liveness = check_liveness
        self._fence = threading.Lock()
        self._fence.acquire()
        # How many barriers each process has reached, each in a page of its own.
        self._arrivals = [memoryview(mmap.mmap(-1, 8)).cast("Q") for _ in range(size)]
        self._reduce_slots: NDArray[Any] | None = None

    @property
    def model(self) -> Serial:
        """These processes divide the units of each layer."""
        return self

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return zeros at the beginning of a page, shared with the processes that are forked afterwards."""
        import numpy as np

        kind, size = np.dtype(dtype), math.prod(shape)
        zeros: NDArray[Any] = np.frombuffer(mmap.mmap(-1, max(1, size * kind.itemsize)), kind, size)
        return zeros.reshape(shape)

    def prepare_fork(self) -> None:
        """Allocate what all processes must share, and forget the barriers of earlier ones."""
        for arrivals in self._arrivals:
            arrivals[0] = 0
        self._reduce_slots = self.allocate((self.size, MAX_REDUCED), "float64")

    def barrier(self) -> None:
        """Wait until every process has reached the barrier. Raises ``RunError`` if one has died."""
        self._memory_fence()
        own = self._arrivals[self.rank]
        own[0] += 1
        for arrivals in self._arrivals:
            spins = 0
            while arrivals[0] < own[0]:
                yield_cpu()
                spins += 1
                if spins % SPINS_PER_LIVENESS_CHECK == 0:
                    self._check_liveness()
        self._memory_fence()

    def gather(self) -> None:
        """Wait until an array in shared memory, of which every process writes a part, is complete."""
        self.barrier()

    def reduce(self, terms: Sequence[NDArray[Any]]) -> None:
        """Wait until every process has written its term, in shared memory, and add the others to the first."""
        if len(terms) > 1:
            self.barrier()
            for term in terms[1:]:
                terms[0][...] += term

    def all_reduce(self, vector: NDArray[Any]) -> None:
        """Replace ``vector`` (n,), n at most 1,024, by the sum of all processes' vectors."""
        assert self._reduce_slots is not None, "no process has been forked"
        slots = self._reduce_slots[:, : len(vector)]
        slots[self.rank] = vector
        self.barrier()
        vector[...] = slots.sum(axis=0)
        self.barrier()  # all have read the slots

    def _memory_fence(self) -> None:
        # Some processors reorder writes as others see them, but not across a lock.
        self._fence.release()
        self._fence.acquire()


class ForkedGroup(ProcessGroup):
    """Rank 0 and the processes it forks. These have no files and no terminal, and end when rank 0 does, however.

    Raises ``UsageError`` where processes cannot fork.
    """

    def __init__(self, size: int) -> None:
        if not hasattr(os, "fork"):
            raise UsageError("--processes needs a system whose processes can fork, such as Linux: leave it out")
        self.comm: SharedMemory = SharedMemory(size, self._check_workers)
        self.command = f"mlpcli train --processes {size}"
        self.cores = len(available_cores()) / size
        self._workers: list[tuple[int, int]] = []  # process id, and the writing end of its control pipe
        self._control_r = -1
        self._rank_0 = os.getpid()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_workers()

    def start_workers(self, work: Work) -> None:
        """Fork the other processes, each of which runs its part of ``work``. Raises ``RunError`` if one cannot fork."""
        self._kill_workers()  # of earlier work
        self.comm.prepare_fork()
        for rank in range(1, self.size):
            # A signal must not be raised in a process that is not yet listed, or does not yet know its rank.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                control_r, control_w = os.pipe()
                process = os.fork()
                if not process:
                    self._worker_main(rank, control_r, mask, work)
                self._workers.append((process, control_w))
                os.close(control_r)
            except OSError as error:
                raise RunError(f"--processes {self.size}: cannot fork another process ({error.strerror})") from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def continue_training(self, wanted: bool) -> bool:
        """Broadcast from rank 0 whether another epoch begins."""
        if self.rank:
            return os.read(self._control_r, 1) == bytes([True])  # empty if rank 0 has died
        for _, control_w in self._workers:
            with suppress(BrokenPipeError):  # a dead worker is noticed at the next barrier
                os.write(control_w, bytes([wanted]))
        return wanted

    def _kill_workers(self) -> None:
        while self._workers:
            process, control_w = self._workers.pop()
            os.close(control_w)
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)

    def _worker_main(self, rank: int, control_r: int, mask: set[int | signal.Signals], work: Work) -> NoReturn:
        status = EXIT_BUG
        try:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # rank 0 ends the workers
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self.comm.rank, self._control_r, self._workers = rank, control_r, []
            # The run's lock, and the other workers' pipes: readers see end of file when the last writing end is closed.
            for name in os.listdir("/dev/fd"):  # noqa: PTH208 - all names before the first is closed
                if int(name) > 2 and int(name) != control_r:
                    with suppress(OSError):
                        os.close(int(name))
            with suppress(DivergedError):  # rank 0 raises it too
                work.run_worker()
            os.read(control_r, 1)  # until rank 0 has finished too, or has died
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _check_workers(self) -> None:
        if self.rank and os.getppid() != self._rank_0:
            os._exit(0)
        for process, _ in self._workers:
            try:
                ended, status = os.waitpid(process, os.WNOHANG)
            except ChildProcessError:  # the system was told not to keep exit statuses
                ended, status = process, None
            if ended:
                self._worker_died(status)

    def _worker_died(self, status: int | None) -> NoReturn:
        code = None if status is None else os.waitstatus_to_exitcode(status)
        if code == EXIT_BUG:
            raise RuntimeError("one of the processes that train together has failed, as it says above")
        how = "" if code is None else f", by signal {-code}" if code < 0 else f", with status {code}"
        raise RunError(f"one of the processes that train together has ended early{how}")
