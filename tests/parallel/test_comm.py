"""Several processes train what one trains: they divide units in shared memory, or examples with MPI.

Processes that divide units are forked; those that divide examples are threads here, and real ones in
tests/commands/test_train_mpi.py.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import Config
from mlpcli.datasets.load import Dataset
from mlpcli.parallel.comm import SERIAL
from mlpcli.parallel.forked import ForkedGroup
from mlpcli.state import EpochRecord, State
from mlpcli.training.optimizers import OPTIMIZERS
from mlpcli.training.trainer import Trainer
from tests.parallel.threads import ThreadGroup, in_threads, results, thread_of
from tests.training.small import (
    assert_equal_runs,
    assert_same_bytes,
    config_of,
    dataset_of,
    records_of,
)

Outcome = tuple[list[EpochRecord], State]
Train = Callable[..., Outcome]


def train_forked(config: Config, dataset: Dataset, size: int, state: State | None = None) -> Outcome:
    """Return the final state of rank 0."""
    with ForkedGroup(size) as group:
        trainer = Trainer(config, dataset, state, group)
        group.start_workers(trainer)
        return list(trainer.epochs()), trainer.state


def train_in_threads(config: Config, dataset: Dataset, size: int, state: State | None = None) -> Outcome:
    """Return the final state of rank 0, after comparing all others' parameters with it bit for bit."""

    def work(comm) -> Outcome:
        trainer = Trainer(config, dataset, state, ThreadGroup(comm))
        return list(trainer.epochs()), trainer.state

    outcomes: list[Outcome] = results(in_threads(size, work))
    for outcome in outcomes[1:]:
        assert_same_bytes(outcome, outcomes[0])
    return outcomes[0]


@pytest.fixture(params=[train_in_threads, train_forked], ids=["examples", "units"])
def train(request: pytest.FixtureRequest) -> Train:
    made: Train = request.param
    return made


COUNTS = st.integers(0, 1000)


@given(count=COUNTS, fewer=COUNTS, size=st.integers(1, 20))
def test_shards_cover_all_in_order_in_nearly_equal_sizes(count: int, fewer: int, size: int):
    shards = [range(count)[thread_of(rank, size).shard(count)] for rank in range(size)]
    assert [number for shard in shards for number in shard] == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    for rank, shard in enumerate(shards):
        assert len(range(count)[thread_of(rank, size).shard(min(count, fewer))]) <= len(shard)


def test_one_process_owns_everything():
    vector, zeros = np.arange(3.0), SERIAL.allocate((2, 3), "float32")
    for operation in (SERIAL.all_reduce, SERIAL.broadcast):
        operation(vector)
    SERIAL.reduce([vector])
    SERIAL.barrier()
    SERIAL.gather()
    assert vector.tolist() == [0, 1, 2]
    assert (SERIAL.shard(7), SERIAL.rank, SERIAL.size) == (slice(0, 7), 0, 1)
    assert SERIAL.model is SERIAL.data is SERIAL
    assert (zeros.shape, zeros.dtype, zeros.any()) == ((2, 3), np.float32, False)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [40, 43, 41])  # batches of 8: none short, one of 3, one of a single image
def test_result_does_not_depend_on_number_of_processes(count: int, size: int, train: Train):
    """With 5 processes some have no example of the short batch, or no unit of the 4."""
    config, dataset = config_of("network.hidden=[4]", "training.l2=0.01"), dataset_of(count, 13)
    assert_equal_runs(train(config, dataset, size), records_of(config, dataset))


@pytest.mark.parametrize("l2", ["0", "0.01"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_every_optimizer_agrees_with_one_process(optimizer: str, l2: str, train: Train):
    """Also if the gradient is accumulated in momentum without a penalty."""
    changes = (f"training.optimizer={optimizer}", f"training.l2={l2}", "training.learning_rate=0.05")
    config, dataset = config_of(*changes, "training.epochs=2"), dataset_of(43, 12)
    found, expected = train(config, dataset, 3), records_of(config, dataset)
    assert_equal_runs(found, expected)
    assert not np.allclose(expected[1].theta.vector, Trainer(config, dataset).state.theta.vector)


@pytest.mark.parametrize(
    "changes",
    [
        ("training.input_dropout=0.3", "training.dropout=0.4"),
        ("augmentation.rotation=20", "augmentation.shift=1"),
        ("training.averaging=0.9", "training.label_smoothing=0.1"),
        ("training.patience=1", "training.epochs=9", "training.learning_rate=3"),
        ("network.hidden=[]", "network.objective=linear_hinge"),
        ("network.hidden=[]", "training.input_dropout=0.3", "training.optimizer=momentum"),
        ("network.hidden=[5, 4]", "network.activation=relu"),
        ("network.hidden=[1, 2]", "training.dropout=0.2", "training.input_dropout=0.2"),
        # More units than examples, in the other memory order; and both orders in one network.
        ("network.hidden=[20, 13, 9]", "training.dropout=0.4", "training.input_dropout=0.2"),
        ("network.hidden=[20, 5, 11]", "training.dropout=0.4", "training.averaging=0.9", "training.l2=0"),
    ],
    ids=",".join,
)
def test_every_config_agrees_with_one_process(changes: tuple[str, ...], train: Train):
    """With 3 processes, and with 5 if layers have fewer units than that."""
    config, dataset = config_of("training.epochs=2", *changes), dataset_of(43, 12)
    size = 5 if min(config.network.hidden, default=9) <= 2 else 3
    assert_equal_runs(train(config, dataset, size), records_of(config, dataset))


@pytest.mark.parametrize("hidden", ["[]", "[12]", "[9, 5]"])
def test_images_with_margins_agree_with_one_process(hidden: str, train: Train):
    config, dataset = config_of(f"network.hidden={hidden}"), dataset_of(43, 9, pixels=60, margins=20)
    assert_equal_runs(train(config, dataset, 3), records_of(config, dataset))


@pytest.mark.parametrize(("batch_size", "size"), [(2, 5), (1, 3), (8, 11)])
def test_more_processes_than_examples_agree(batch_size: int, size: int, train: Train):
    """Both in a batch and in the validation split."""
    changes = (f"training.batch_size={batch_size}", "training.dropout=0.2", "training.epochs=2")
    config, dataset = config_of(*changes), dataset_of(9, 2)
    assert_equal_runs(train(config, dataset, size), records_of(config, dataset))


def test_float32_differs_by_rounding_alone(train: Train):
    config, dataset = config_of("network.dtype=float32"), dataset_of(43, 13)
    (records, _), (found, _) = records_of(config, dataset), train(config, dataset, 4)
    assert [r.train_loss for r in found] == pytest.approx([r.train_loss for r in records], rel=1e-5)
    assert found != records


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_same_number_of_processes_is_bit_identical(optimizer: str, train: Train):
    changes = ("network.dtype=float32", "training.dropout=0.2", f"training.optimizer={optimizer}")
    config, dataset = config_of(*changes, "training.averaging=0.9"), dataset_of(43, 13)
    assert_same_bytes(train(config, dataset, 3), train(config, dataset, 3))


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_resume_with_another_number_of_processes(optimizer: str, train: Train):
    config, dataset = config_of(f"training.optimizer={optimizer}", "training.averaging=0.9"), dataset_of(43, 13)
    first = Trainer(config, dataset)
    epochs = first.epochs()
    next(epochs)
    found = train(config, dataset, 2, deepcopy(first.state))
    assert_equal_runs(found, (list(epochs), first.state))
