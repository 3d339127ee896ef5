"""Processes that divide examples, simulated by threads. Real ones are in tests/commands/test_train_mpi.py."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlpcli.errors import DivergedError, RunError, UsageError
from mlpcli.parallel.control import Stopped
from mlpcli.parallel.mpi import Mpi, MpiGroup
from mlpcli.training.trainer import Trainer
from tests.parallel.threads import ThreadGroup, in_threads
from tests.training.small import config_of, dataset_of


class MpiError(Exception):
    pass


class OneProcess:
    """mpi4py's communicator of one process that reports any size. Its calls fail if ``fails``."""

    def __init__(self, rank: int = 0, size: int = 1, here: int = 1) -> None:
        self.rank, self.size, self.here, self.fails, self.calls = rank, size, here, False, []

    def Get_rank(self) -> int:
        return self.rank

    def Get_size(self) -> int:
        return self.size

    def Split_type(self, kind: Any) -> Any:
        return SimpleNamespace(allgather=lambda cores: [cores] * self.here, Get_size=lambda: self.here)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if self.fails:
                raise MpiError("the link is down")
            return SimpleNamespace(Test=lambda: True)

        return call


MPI = SimpleNamespace(COMM_TYPE_SHARED=0, IN_PLACE=None, Exception=MpiError)


@pytest.mark.parametrize(("rank", "error"), [(0, RunError), (1, Stopped)])
def test_lost_process_is_an_error_of_rank_0_alone(rank: int, error: type[BaseException]):
    mpi = Mpi(MPI, comm := OneProcess(rank, 2))
    assert not mpi.lost
    comm.fails = True
    for operation in (mpi.barrier, lambda: mpi.all_reduce(np.zeros(2)), lambda: mpi.broadcast(np.zeros(2))):
        with pytest.raises(error) as raised:
            operation()
        assert rank or str(raised.value) == "lost the connection to the other processes (the link is down)"
        assert mpi.lost
        mpi.lost = False


def test_divergence_stops_all_at_the_same_step():
    changes = ("training.optimizer=sgd", "training.learning_rate=1e300", "network.objective=linear_quadratic")
    config, dataset = config_of(*changes), dataset_of(40)
    outcomes = in_threads(3, lambda comm: list(Trainer(config, dataset, group=ThreadGroup(comm)).epochs()))
    assert all(isinstance(outcome, DivergedError) for outcome in outcomes), outcomes
    assert len(set(map(str, outcomes))) == 1


def test_initial_state_is_broadcast_from_rank_0():
    """CPUs of different kinds may round differently."""
    config, dataset = config_of("training.averaging=0.9"), dataset_of(40)

    def work(comm: Any) -> bytes:
        trainer = Trainer(config, dataset, group=ThreadGroup(comm))
        for vector in (trainer.state.theta.vector, trainer.state.optimizer["v"], trainer.state.average.vector):
            vector += 1e-3 * comm.rank
        list(trainer.epochs())
        state = trainer.state
        return b"".join(v.tobytes() for v in (state.theta.vector, state.optimizer["v"], state.average.vector))

    alone = in_threads(1, work)
    assert len(set(in_threads(3, work))) == len(set(alone)) == 1


def test_missing_mpi4py_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(UsageError, match=r"pip install 'mlpcli\[mpi\]'") as refused:
        MpiGroup()
    assert "\n" not in str(refused.value)
