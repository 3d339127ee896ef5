"""Processes simulated by threads: they divide examples, as with MPI, or units, as in shared memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlpcli.errors import DivergedError
from mlpcli.parallel.comm import Serial
from mlpcli.parallel.control import ProcessGroup

Array = np.ndarray
SECONDS = 20  # timeout of a thread that waits for another


def thread_of(rank: int, size: int) -> Serial:
    """Return a communicator with a rank and a size that does not communicate."""
    comm = Serial()
    comm.rank, comm.size = rank, size
    return comm


class Exchange:
    """A barrier and a slot for each thread of a group."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=SECONDS)
        self.vectors: list[Any] = [None] * size


class Thread(Serial):
    def __init__(self, rank: int, exchange: Exchange) -> None:
        self.rank, self.size, self.exchange = rank, len(exchange.vectors), exchange

    def barrier(self) -> None:
        self.exchange.barrier.wait()

    def gathered(self, vector: Array) -> list[Array]:
        self.exchange.vectors[self.rank] = vector.copy()
        self.barrier()
        found = list(self.exchange.vectors)
        self.barrier()
        return found

    def all_reduce(self, vector: Array) -> None:
        vector[...] = sum(self.gathered(vector))

    def broadcast(self, vector: Array) -> None:
        vector[...] = self.gathered(vector)[0]


class DataParallel(Thread):
    """A rank with its own arrays and its shard of the examples."""

    @property
    def data(self) -> Serial:
        return self


class ModelParallel(Thread):
    """A rank with its shard of the units, in arrays that all threads share."""

    @property
    def model(self) -> Serial:
        return self

    def gather(self) -> None:
        self.barrier()

    def reduce(self, terms: Sequence[Array]) -> None:
        if len(terms) > 1:
            self.barrier()
            for term in terms[1:]:
                terms[0][...] += term


class ThreadGroup(ProcessGroup):
    def __init__(self, comm: Serial) -> None:
        self.comm = comm


def in_threads(size: int, work: Callable[[Any], Any], kind: type[Thread] = DataParallel) -> list[Any]:
    """Return what ``work`` returns, or raises, in each of ``size`` threads, given its communicator."""
    exchange, outcomes = Exchange(size), [None] * size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = work(kind(rank, exchange))
        except BaseException as error:
            outcomes[rank] = error
            if not isinstance(error, DivergedError):  # which all of them raise
                exchange.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def results(outcomes: list[Any]) -> list[Any]:
    """Return ``outcomes``, of which none may be an exception."""
    raised = [each for each in outcomes if isinstance(each, BaseException)]
    raised = [each for each in raised if not isinstance(each, threading.BrokenBarrierError)] or raised
    if raised:
        raise raised[0]
    return outcomes
