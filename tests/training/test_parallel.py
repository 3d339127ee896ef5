"""A step that processes share is the step of one. Here they are threads that meet in a sum; MPI is tested elsewhere."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import Config
from mlpcli.datasets.load import Dataset
from mlpcli.errors import DataError, DivergedError, UsageError
from mlpcli.model.parameters import Parameters
from mlpcli.training import loop
from mlpcli.training.loop import EpochRecord, State, Trainer
from mlpcli.training.measure import Measure
from mlpcli.training.optimizers import OPTIMIZERS
from mlpcli.training.parallel import ALONE, ForkedTeam, MpiTeam, Team, launched
from tests.training.test_loop import config_of, dataset_of, records_of, timeless

COUNTS = st.integers(0, 1000)


@pytest.fixture(autouse=True)
def _margins_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of networks as small as the tests'."""
    monkeypatch.setattr(loop, "LEAST_TO_CUT", 0)


class Meeting:
    """Where ``size`` threads meet."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=20)
        self.brought: list[Any] = [None] * size


class Threads(Team):
    """A team of threads of this process."""

    adds_up = True

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, len(meeting.brought), meeting

    def gathered(self, vector: np.ndarray) -> list[np.ndarray]:
        self.meeting.brought[self.rank] = vector.copy()
        self.meeting.barrier.wait()
        found = list(self.meeting.brought)
        self.meeting.barrier.wait()
        return found

    def sum(self, vector: np.ndarray) -> None:
        vector[...] = sum(self.gathered(vector))

    def equalize(self, vector: np.ndarray) -> None:
        vector[...] = self.gathered(vector)[0]


def in_threads(size: int, work: Callable[[Team], Any]) -> list[Any]:
    """What ``work`` returns or raises in each thread of a team."""
    meeting, outcomes = Meeting(size), [None] * size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = work(Threads(rank, meeting))
        except BaseException as error:
            outcomes[rank] = error
            if not isinstance(error, DivergedError):  # which they all raise
                meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def trained_by_forked(config: Config, dataset: Dataset, size: int) -> tuple[list[EpochRecord], State]:
    """What rank 0 has in the end, where the others are real processes that share its memory."""
    with ForkedTeam(size) as team:
        trainer = Trainer(config, dataset, team=team)
        team.send(None, lambda: list(trainer.epochs()))
        return list(trainer.epochs()), trainer.state


def trained_by_messages(config: Config, dataset: Dataset, size: int) -> tuple[list[EpochRecord], State]:
    """What rank 0 has in the end; all others have the same parameters, bit for bit."""

    def work(team: Team) -> tuple[list[EpochRecord], State]:
        trainer = Trainer(config, dataset, team=team)
        return list(trainer.epochs()), trainer.state

    outcomes = in_threads(size, work)
    assert [outcome for outcome in outcomes if isinstance(outcome, BaseException)] == []
    for _, state in outcomes:
        np.testing.assert_array_equal(state.theta.vector, outcomes[0][1].theta.vector)
    return outcomes[0]


Trained = Callable[[Config, Dataset, int], tuple[list[EpochRecord], State]]


@pytest.fixture(params=[trained_by_messages, trained_by_forked], ids=["messages", "memory"])
def trained(request: pytest.FixtureRequest) -> Trained:
    made: Trained = request.param
    return made


def assert_equal_curves(found: list[EpochRecord], expected: list[EpochRecord]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        for name, value in vars(timeless(other)).items():
            found_value = getattr(timeless(one), name)
            assert found_value == (None if value is None else pytest.approx(value, rel=1e-9)), (other.epoch, name)


@given(count=COUNTS, fewer=COUNTS, size=st.integers(1, 20))
def test_shares_are_the_whole_in_order_nearly_equal_and_no_larger_of_less(count: int, fewer: int, size: int):
    teams = [Threads(rank, Meeting(size)) for rank in range(size)]
    shares = [range(count)[team.share(count)] for team in teams]
    assert [number for share in shares for number in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [team.rows(count) for team in teams] == list(map(len, shares))
    assert all(team.rows(min(count, fewer)) <= team.rows(count) for team in teams)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("count", [40, 43, 41])  # batches of 8: none short, one of 3, one of a single image
def test_a_team_trains_as_one_does(count: int, size: int, trained: Trained):
    config, dataset = config_of("training.l2=0.01"), dataset_of(count, 13)
    records, state = records_of(config, dataset)
    shared, theirs = trained(config, dataset, size)
    assert_equal_curves(shared, records)
    np.testing.assert_allclose(theirs.theta.vector, state.theta.vector, rtol=1e-9, atol=1e-13)
    assert (theirs.best_epoch, theirs.patience_used) == (state.best_epoch, state.patience_used)


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.input_dropout=0.3", "training.dropout=0.4"),
        ("augmentation.rotation=20", "augmentation.shift=1"),
        ("training.averaging=0.9", "training.label_smoothing=0.1"),
        ("training.patience=1", "training.epochs=9", "training.learning_rate=3"),
        ("network.hidden=[]", "network.objective=linear_hinge"),
        ("network.hidden=[5, 4]", "network.activation=relu"),
        # More units than examples, which lie in memory the other way about; and both in one network.
        ("network.hidden=[20, 13, 9]", "training.dropout=0.4", "training.input_dropout=0.2"),
        ("network.hidden=[20, 5, 11]", "training.dropout=0.4", "training.averaging=0.9"),
        *((f"training.optimizer={name}",) for name in OPTIMIZERS),
    ],
)
def test_whatever_is_trained(overrides: tuple[str, ...], trained: Trained):
    config, dataset = config_of(*overrides), dataset_of(43, 12)
    records, _ = records_of(config, dataset)
    assert_equal_curves(trained(config, dataset, 3)[0], records)


@pytest.mark.parametrize(("batch_size", "size"), [(2, 5), (1, 3), (8, 11)])
def test_there_may_be_more_processes_than_examples_in_a_batch(batch_size: int, size: int, trained: Trained):
    # And than there are images held out.
    config, dataset = config_of(f"training.batch_size={batch_size}", "training.dropout=0.2"), dataset_of(9, 2)
    records, _ = records_of(config, dataset)
    assert_equal_curves(trained(config, dataset, size)[0], records)


def test_in_float32_it_is_the_same_but_for_rounding(trained: Trained):
    config, dataset = config_of("network.dtype=float32"), dataset_of(43, 13)
    records, _ = records_of(config, dataset)
    shared, _ = trained(config, dataset, 4)
    assert [r.train_loss for r in shared] == pytest.approx([r.train_loss for r in records], rel=1e-5)
    assert shared != records


def test_the_same_team_comes_to_the_same_bits(trained: Trained):
    config, dataset = config_of("network.dtype=float32", "training.dropout=0.2"), dataset_of(43, 13)
    first, again = (trained(config, dataset, 3) for _ in range(2))
    assert list(map(timeless, first[0])) == list(map(timeless, again[0]))
    assert first[1].theta.vector.tobytes() == again[1].theta.vector.tobytes()


def test_who_goes_on_from_a_state_that_was_sent_goes_on_as_who_sent_it():
    config, dataset = config_of("training.averaging=0.9"), dataset_of(43, 13)
    whole = Trainer(config, dataset)
    epochs = whole.epochs()
    next(epochs)
    _, sent, state = pickle.loads(pickle.dumps((config, dataset.without_test(), whole.state)))
    other = Trainer(config, sent, state)
    assert list(map(timeless, other.epochs())) == list(map(timeless, epochs))
    assert other.state.theta.vector.tobytes() == whole.state.theta.vector.tobytes()


def test_parameters_that_were_sent_are_one_vector_still():
    theta = Parameters((3, 2, 2), np.float32, np.arange(14, dtype=np.float32))
    sent = pickle.loads(pickle.dumps(theta))
    assert sent.vector.tolist() == list(range(14))
    sent.W[1][...] = 7
    assert sent.vector[8:12].tolist() == [7] * 4


def test_test_images_are_not_sent():
    with pytest.raises(DataError, match="not here"):
        pickle.loads(pickle.dumps(dataset_of(9).without_test())).test()


def test_all_see_that_training_diverges_at_the_same_step():
    config = config_of("training.optimizer=sgd", "training.learning_rate=1e300", "network.objective=linear_quadratic")
    dataset = dataset_of(40)

    def work(team: Team) -> None:
        list(Trainer(config, dataset, team=team).epochs())

    outcomes = in_threads(3, work)
    assert all(isinstance(outcome, DivergedError) for outcome in outcomes), outcomes
    assert len(set(map(str, outcomes))) == 1


@pytest.mark.parametrize("size", [1, 2, 7, 60])
def test_a_split_is_measured_together(size: int):
    config, dataset = config_of(), dataset_of(53)
    trainer = Trainer(config, replace(dataset, validation=None))
    measure = Measure(trainer.network, dataset.train, dataset.classes, "float64")
    loss, wrong = measure.loss_and_errors(trainer.state.theta)
    saturation = measure.saturation(trainer.state.theta)

    def work(team: Team) -> Any:
        own = Measure(trainer.network, dataset.train, dataset.classes, "float64")
        theta = trainer.state.theta
        return own.loss_and_errors(theta, team), own.saturation(theta, team)

    for found, share in in_threads(size, work):
        assert found == (pytest.approx(loss, rel=1e-12), wrong)
        assert share == saturation


# What launchers say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, (3, 4)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, (0, 2)),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, (5, 8)),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # a batch script's own process
        ({"PMI_SIZE": "many", "PMI_RANK": "0"}, None),
        ({"PMI_RANK": "0"}, None),
    ],
)
def test_what_a_launcher_says(environment: dict[str, str], expected: tuple[int, int] | None):
    assert launched(environment) == expected


def test_without_mpi4py_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(UsageError, match=r"pip install 'mlpcli\[mpi\]'") as refused:
        MpiTeam()
    assert "\n" not in str(refused.value)


def test_a_process_on_its_own_is_a_team_of_one():
    vector = np.arange(3.0)
    ALONE.sum(vector)
    ALONE.equalize(vector)
    ALONE.send(None, lambda: None)
    assert vector.tolist() == [0, 1, 2]
    assert (ALONE.share(7), ALONE.rank, ALONE.size, ALONE.receive()) == (slice(0, 7), 0, 1, None)
    assert [ALONE.goes_on(wanted) for wanted in (True, False)] == [True, False]
