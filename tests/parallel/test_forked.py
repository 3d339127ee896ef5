"""Forked processes: collectives, and how they end. Whole runs are in tests/commands/test_train_processes.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlpcli.parallel.forked import ForkedGroup
from mlpcli.training.trainer import Trainer
from tests.training.small import config_of, dataset_of


class Job:
    """Work of the processes other than rank 0."""

    job = None

    def __init__(self, work: Callable[[], Any]) -> None:
        self.run_worker = work


def test_collectives_of_shared_memory():
    with ForkedGroup(3) as group:
        comm = group.comm
        terms, out = [comm.allocate((2, 2), "float64") for _ in range(3)], comm.allocate((3, 2), "float32")
        assert (out.dtype, out.any(), comm.allocate((0, 4), "float64").shape) == (np.float32, False, (0, 4))

        def work() -> None:
            for number in range(50):
                own = slice(comm.rank, comm.rank + 1) if comm.rank < 2 else slice(0)
                terms[comm.rank][...] = comm.rank + number
                comm.reduce([term[own] for term in terms])
                vector = np.array([1.0, comm.rank])
                comm.all_reduce(vector)
                out[comm.rank] = vector
                comm.barrier()
                assert (terms[0] == 3 + 3 * number).all()
                comm.barrier()

        group.start_workers(Job(work))
        work()
        assert out.tolist() == [[3, 3]] * 3
        assert (comm.model, comm.data.size) == (comm, 1)


def test_continue_flag_is_broadcast_to_workers():
    with ForkedGroup(2) as group:
        received = group.comm.allocate((3,), "float64")

        def work() -> None:
            while group.continue_training(True):
                received[0] += 1
                group.comm.barrier()
            received[1] = 1
            group.comm.barrier()

        group.start_workers(Job(work))
        for _ in range(3):
            assert group.continue_training(True)
            group.comm.barrier()
        assert not group.continue_training(False)
        group.comm.barrier()
        assert received.tolist() == [3, 1, 0]


def test_group_trains_one_network_after_another():
    with ForkedGroup(2) as group:
        losses = []
        for _ in range(2):
            trainer = Trainer(config_of("training.epochs=1"), dataset_of(20), group=group)
            group.start_workers(trainer)
            losses += [record.train_loss for record in trainer.epochs()]
    assert losses[0] == losses[1]
