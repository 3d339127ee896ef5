"""The trainer against a textbook reference; its records, randomness, and stopping rules."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpcli import config as config_module
from mlpcli.config import AugmentationConfig, Config, DataConfig, NetworkConfig, TrainingConfig
from mlpcli.datasets.load import Split, load_dataset
from mlpcli.errors import ConfigError, DataError, DivergedError
from mlpcli.model import blas
from mlpcli.model.parameters import Parameters
from mlpcli.state import State
from mlpcli.training import optimizers, trainer
from mlpcli.training.optimizers import OPTIMIZERS
from mlpcli.training.trainer import Trainer
from tests.conftest import NO_DEFAULTS
from tests.training import reference
from tests.training.small import (
    assert_equal_runs,
    assert_same_bytes,
    config_of,
    dataset_of,
    records_of,
    vectors_of,
    without_timing,
)

# Against a trainer that shares no code ------------------------------------------------------------


def assert_equals_reference(config: Config, *data: int) -> None:
    """Train and compare. ``data``: training images, validation images, pixels."""
    pixels = data[2] if len(data) > 2 else 4
    dataset = dataset_of(data[0], data[1], pixels=pixels, margins=pixels // 3 if pixels > 16 else 0)
    theta = Trainer(config, dataset).state.theta.to_c_order()
    records, state = records_of(config, dataset)
    expected, vectors = reference.train(config, dataset, theta)
    for record, other in zip(records, expected, strict=True):
        for name, value in other.items():
            assert getattr(record, name) == (None if value is None else pytest.approx(value, rel=1e-9)), name
    found = vectors_of(state)
    assert found.keys() == vectors.keys()
    for name, vector in vectors.items():
        np.testing.assert_allclose(found[name], vector, rtol=1e-9, atol=1e-11, err_msg=name)
    assert not np.allclose(found["theta"], theta)


# Batches of 8: none short, one of 3, one of a single image; one batch larger than the data.
@pytest.mark.parametrize("count", [40, 43, 41, 7])
@pytest.mark.parametrize("l2", ["0", "0.05"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_trainer_equals_the_reference(optimizer: str, l2: str, count: int):
    rate = {"sgd": "2", "adam": "0.01"}.get(optimizer, "0.3")
    changes = (f"training.optimizer={optimizer}", f"training.l2={l2}", f"training.learning_rate={rate}")
    assert_equals_reference(config_of(*changes), count, 13)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam"])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.99])
def test_every_momentum_equals_the_reference(optimizer: str, momentum: float):
    """With v = c u, c is rescaled every sixth step with a momentum of 0.1, and each step with 0."""
    changes = (f"training.optimizer={optimizer}", f"training.momentum={momentum}", "training.learning_rate=0.02")
    assert_equals_reference(config_of(*changes, "training.epochs=4"), 75, 9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.3])
def test_every_schedule_equals_the_reference(schedule: str, warmup: float):
    changes = (f"training.schedule={schedule}", f"training.warmup_epochs={warmup}", "training.epochs=5")
    assert_equals_reference(config_of(*changes), 43, 9)


@pytest.mark.parametrize("hidden", ["[]", "[7]", "[3, 9, 4]"])
@pytest.mark.parametrize("objective", reference.OBJECTIVES)
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_every_network_equals_the_reference(activation: str, objective: str, hidden: str):
    changes = (f"network.activation={activation}", f"network.objective={objective}", f"network.hidden={hidden}")
    assert_equals_reference(config_of(*changes, "training.learning_rate=0.02", "training.epochs=1"), 27, 5)


@pytest.mark.parametrize(
    "changes",
    [
        ["augmentation.shift=1.5", "augmentation.final_epochs=1", "augmentation.final_strength=0.1"],
        ["augmentation.elastic_alpha=3", "augmentation.elastic_sigma=0.5"],
        ["training.dropout=0.4"],
        ["training.dropout=0.3", "network.hidden=[20, 5, 11]"],
        ["training.input_dropout=0.2"],
        ["training.adversarial=0.3"],
        ["training.adversarial=1.5", "network.hidden=[]"],
        ["training.label_smoothing=0.2"],
        ["training.averaging=0.5", "training.epochs=6"],  # from the second update on it forgets
        ["training.averaging=0.97", "training.epochs=6"],
        ["training.averaging=0.99", "training.batch_size=2"],
        [
            *("training.dropout=0.4", "training.input_dropout=0.2", "training.label_smoothing=0.3"),
            *("augmentation.shear=20", "training.averaging=0.9", "training.l2=0.01", "training.epochs=4"),
            "training.adversarial=0.2",
        ],
    ],
    ids=lambda changes: ",".join(changes[:2]),
)
@pytest.mark.parametrize(("count", "seed"), [(40, 1), (43, 2**40)])
def test_every_regularization_equals_the_reference(count: int, seed: int, changes: list[str]):
    assert_equals_reference(config_of(*changes, f"seed={seed}"), count, 12)


@pytest.mark.parametrize("hidden", ["[]", "[12]", "[20, 5]"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_images_with_margins_equal_the_reference(optimizer: str, hidden: str):
    changes = (f"network.hidden={hidden}", f"training.optimizer={optimizer}", "training.l2=0.01")
    assert_equals_reference(config_of(*changes, "training.learning_rate=0.05"), 43, 9, 60)


def test_saturation_is_measured_on_a_thousand_images():
    changes = ("training.epochs=1", "training.batch_size=500", "network.initial_scale=3", "training.optimizer=sgd")
    assert_equals_reference(config_of(*changes), 1300, 0)


def test_loss_curve_of_the_bundled_sample():
    """Pin the losses from the initial weights on, to the last digits, as an earlier trainer computed them.

    With numpy 2.4 and OpenBLAS on x86-64. Other machines and threads sum in another order, which changes the fifteenth
    digit.
    """
    changes = ("network.hidden=[30]", "network.dtype=float64", "training.epochs=3", "training.batch_size=128")
    more = ("training.warmup_epochs=0.5", "training.l2=1e-4", "data.dataset=mnist-sample", "data.validation=0.1")
    config = config_module.load(None, (*NO_DEFAULTS, *changes, *more), {})
    records, _ = records_of(config, load_dataset(config.data))
    norms = [[0.211529226, 0.178459509], [0.146426355, 0.101783348], [0.211581063, 0.141586451]]
    assert [r.train_loss for r in records] == pytest.approx([1.789744973, 0.585197261, 0.421129904], rel=1e-6)
    assert [r.validation_loss for r in records] == pytest.approx([0.839966572, 0.482187049, 0.440655613], rel=1e-6)
    assert [r.gradient_norm for r in records] == [pytest.approx(each, rel=1e-6) for each in norms]


# Records ------------------------------------------------------------------------------------------


def test_average_is_evaluated_and_changes_no_parameter():
    dataset = dataset_of(40, 20)
    plain, without = records_of(config_of(), dataset)
    averaged, state = records_of(config_of("training.averaging=0.99"), dataset)
    assert (without.average, without.parameters, state.parameters) == (None, without.theta, state.average)
    assert state.theta.vector.tobytes() == without.theta.vector.tobytes()
    assert [r.raw_validation_loss for r in averaged] == [r.validation_loss for r in plain]
    assert [r.train_loss for r in averaged] == [r.train_loss for r in plain]
    assert state.best == min((r.validation_error, r.validation_loss) for r in averaged)


def test_record_is_the_mean_of_its_steps():
    losses: list[float] = []
    trained, stepwise = (Trainer(config_of(), dataset_of(43)) for _ in range(2))
    stepwise.bind_to_rank()
    for record in trained.epochs(losses.append):
        stepwise.state.epoch = record.epoch - 1
        steps = list(stepwise.steps())
        assert [step.size for step in steps] == [8] * 5 + [3]
        assert [step.loss for step in steps] == losses[-6:]
        assert [step.gradient_norm for step in steps] == [None] * 4 + [record.gradient_norm, None]
        assert record.train_loss == pytest.approx(sum(step.loss * step.size for step in steps) / 43, rel=1e-12)
        assert record.train_error == sum(step.errors for step in steps) / 43
        assert record.learning_rate == steps[-1].learning_rate
        assert record.examples_per_second * record.seconds == pytest.approx(43)
        assert len(losses) == record.step == trained.steps_per_epoch * record.epoch
    assert (trained.state.step, trained.state.epoch, trained.max_epochs) == (18, 3, 3)
    assert stepwise.state.theta.vector.tobytes() == trained.state.theta.vector.tobytes()


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_state_read_between_steps_is_the_checkpoints(optimizer: str):
    """Between two steps momentum is c u. Reading the state writes it out, without an effect on training."""
    config = config_of(f"training.optimizer={optimizer}", "training.epochs=1", "training.schedule=constant")
    dataset = dataset_of(43)
    _, state = records_of(config, dataset)
    read = Trainer(config, dataset)
    read.bind_to_rank()
    for _ in read.steps():
        last = read.optimizer_state()
    assert last.keys() == state.optimizer.keys()
    for name, vector in state.optimizer.items():
        np.testing.assert_allclose(last[name], vector, rtol=1e-13, atol=1e-300)
        assert not np.shares_memory(last[name], read.state.optimizer[name])
    assert read.state.theta.vector.tobytes() == state.theta.vector.tobytes()


def test_norm_of_large_float32_gradient_is_finite():
    config = config_of("network.dtype=float32", "network.objective=linear_quadratic", "network.hidden=[]")
    config = replace(config, training=replace(config.training, epochs=1, learning_rate=1e-30, batch_size=8))
    config = replace(config, network=replace(config.network, initial_scale=2e18))
    [record], _ = records_of(config, dataset_of(40, pixels=400))
    assert 2e19 < record.gradient_norm[0] < math.inf


# Order and randomness -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_equal_runs_are_bit_identical(optimizer: str):
    changes = ("network.dtype=float32", f"training.optimizer={optimizer}", "training.dropout=0.2")
    config, dataset = config_of(*changes, "training.averaging=0.9", "augmentation.shift=1"), dataset_of(43, 9)
    assert_same_bytes(records_of(config, dataset), records_of(config, dataset))


def test_another_seed_changes_start_and_order():
    dataset = dataset_of(43)
    one, other = (Trainer(config_of(f"seed={seed}"), dataset).state.theta for seed in (0, 1))
    assert not np.array_equal(one.vector, other.vector)
    ends = []
    for seed in (0, 1):
        start = Parameters(one.sizes, one.vector.dtype, one.vector.copy())
        trainer = Trainer(config_of(f"seed={seed}"), dataset, State(start))
        next(trainer.epochs())
        ends.append(trainer.state.theta.vector.copy())
    assert not np.array_equal(*ends)  # from the same parameters, in another order


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_resumed_trainer_is_bit_identical(optimizer: str):
    changes = (f"training.optimizer={optimizer}", "training.averaging=0.9", "training.dropout=0.2")
    config, dataset = config_of(*changes, "training.input_dropout=0.1"), dataset_of(43, 9)
    whole, end = records_of(config, dataset)
    first = Trainer(config, dataset)
    records = list(islice(first.epochs(), 1))
    second = Trainer(config, dataset, first.state)
    assert_same_bytes((records + list(second.epochs()), second.state), (whole, end))


def test_resumed_from_a_pickled_job_is_bit_identical():
    config, dataset = config_of("training.averaging=0.9"), dataset_of(43, 13)
    whole = Trainer(config, dataset)
    epochs = whole.epochs()
    next(epochs)
    config, dataset, state, _ = pickle.loads(pickle.dumps(whole.job))
    other = Trainer(config, dataset, state)
    assert list(map(without_timing, other.epochs())) == list(map(without_timing, epochs))
    assert other.state.theta.vector.tobytes() == whole.state.theta.vector.tobytes()


def test_pickled_job_has_no_test_images():
    _, sent, *_ = pickle.loads(pickle.dumps(Trainer(config_of(), dataset_of(9)).job))
    with pytest.raises(DataError, match="not here"):
        sent.test()


def test_trainer_copies_the_state_it_is_given():
    config, dataset = config_of(), dataset_of(43, 9)
    first = Trainer(config, dataset)
    next(first.epochs())
    before = vectors_of(first.state)
    list(Trainer(config, dataset, first.state).epochs())
    assert all(np.array_equal(vector, before[name]) for name, vector in vectors_of(first.state).items())
    assert first.state.epoch == 1


def test_float32_and_float64_agree():
    dataset = dataset_of(43, 9)
    double, single = (Trainer(config_of(f"network.dtype={dtype}"), dataset) for dtype in ("float64", "float32"))
    assert (double.state.theta.vector.dtype, single.state.theta.vector.dtype) == (np.float64, np.float32)
    assert np.array_equal(single.state.theta.vector, double.state.theta.vector.astype(np.float32))
    for exact, rounded in zip(double.epochs(), single.epochs(), strict=True):
        assert rounded.train_loss == pytest.approx(exact.train_loss, rel=1e-5)
        assert rounded.gradient_norm == pytest.approx(exact.gradient_norm, rel=1e-3)
    np.testing.assert_allclose(single.state.theta.vector, double.state.theta.vector, atol=1e-4)


# Stopping -----------------------------------------------------------------------------------------


def test_best_epoch_is_first_with_lowest_error_then_loss():
    """On a run that does not improve in every epoch."""
    config = config_of("training.epochs=25", "training.learning_rate=3.0", "training.schedule=constant")
    trained = Trainer(config, dataset_of(30, 20))
    scores: list[Any] = []
    since = []
    for record in trained.epochs():
        scores.append((record.validation_error, record.validation_loss))
        state = trained.state
        assert state.best == min(scores)
        assert state.best_epoch == scores.index(min(scores)) + 1
        assert state.epochs_since_best == record.epoch - state.best_epoch
        since.append(state.epochs_since_best)
    assert max(since) > 2
    assert since.count(0) > 2


def test_equal_errors_are_ordered_by_loss():
    config = config_of("training.epochs=5", "training.learning_rate=1e-7", "training.schedule=constant")
    dataset = dataset_of(30)
    records, state = records_of(config, replace(dataset, validation=dataset.train))
    assert len({record.validation_error for record in records}) == 1
    assert state.best == (records[-1].validation_error, records[-1].validation_loss)
    assert state.best_epoch == 5


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_counts_epochs_without_improvement(patience: int):
    # The rate is too small to change anything: no epoch is better than the first.
    config = config_of("training.epochs=20", f"training.patience={patience}", "training.learning_rate=1e-300")
    trained = Trainer(config, dataset_of(30, 10))
    assert not trained.finished
    assert [record.epoch for record in trained.epochs()] == list(range(1, 2 + patience))
    assert trained.finished
    assert (trained.state.best_epoch, trained.state.epochs_since_best) == (1, patience)
    assert list(trained.epochs()) == []


def test_unused_patience_has_no_effect():
    dataset = dataset_of(43, 20)
    assert_same_bytes(records_of(config_of("training.patience=100"), dataset), records_of(config_of(), dataset))


def test_no_best_epoch_without_validation_images():
    records, state = records_of(config_of("data.validation=0"), dataset_of(30))
    assert {(r.validation_loss, r.validation_error) for r in records} == {(None, None)}
    assert (state.best, state.best_epoch, state.epochs_since_best) == (None, 0, 0)
    with pytest.raises(ConfigError, match="patience: needs validation images"):
        config_of("data.validation=0", "training.patience=1")


# Divergence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinite_loss_stops_training_at_its_step(dtype: str):
    changes = ("network.activation=relu", f"network.dtype={dtype}", "training.learning_rate=1e300")
    trained = Trainer(config_of(*changes, "training.schedule=constant"), dataset_of(43, 9))
    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) at step 2, in epoch 1.* learning rate of 1e\+300.*lower"
    ):
        next(trained.epochs())
    assert trained.state.epoch == 0


def unstable(*overrides: str) -> Config:
    """Return least squares with a rate above 2 / (largest curvature): it grows a little with every step."""
    least_squares = ("network.hidden=[]", "network.objective=linear_quadratic", "training.optimizer=sgd")
    return config_of(*least_squares, "training.schedule=constant", "training.epochs=100", *overrides)


def test_slow_divergence_is_found_before_it_is_recorded():
    trained = Trainer(unstable("network.dtype=float32", "training.learning_rate=3"), dataset_of(40, 10))
    records = []
    with pytest.raises(DivergedError, match="training diverged"):
        for record in trained.epochs():
            records.append(record)
    assert 1 < len(records) < 100
    assert records[-1].train_loss > 1e6 * records[0].train_loss
    assert trained.state.epoch == len(records)
    for record in records:
        assert np.isfinite([record.train_loss, record.validation_loss, *record.gradient_norm]).all()


def test_infinite_parameters_after_finite_loss_are_found():
    """One batch an epoch: its loss is finite, and the step after it overflows."""
    config = unstable("network.dtype=float32", "training.learning_rate=1e39", "training.batch_size=40")
    with pytest.raises(DivergedError, match="no longer finite at the end of epoch 1"):
        next(Trainer(config, dataset_of(40)).epochs())


def test_infinite_validation_loss_alone_is_found():
    """Weights are huge, and only the validation images are not black."""
    config = unstable("network.dtype=float32", "network.initial_scale=1e30", "training.learning_rate=0.1")
    dataset = dataset_of(40, 10)
    black = Split(np.zeros_like(dataset.train.images), dataset.train.labels)
    with pytest.raises(DivergedError, match="no longer finite at the end of epoch 1"):
        next(Trainer(config, replace(dataset, train=black)).epochs())


def test_infinite_start_diverges_at_once():
    config = config_of("network.initial_scale=1e300", "network.dtype=float32")
    with pytest.raises(DivergedError, match="at step 1, in epoch 1"):
        next(Trainer(config, dataset_of(40)).epochs())


magnitudes = st.sampled_from([1e-300, 1e-3, 0.1, 1.0, 30.0, 1e6, 1e20, 1e39, 1e300])


@st.composite
def configs(draw: st.DrawFn) -> Config:
    def key(section: type, name: str) -> Any:
        return draw(st.sampled_from(config_module.rule_of(section, name).choices))

    optimizer = key(TrainingConfig, "optimizer")
    validation = draw(st.sampled_from([0, 5]))
    bound = draw(st.sampled_from([None, "rotation", "elastic_alpha"]))
    return Config(
        augmentation=None if bound is None else AugmentationConfig(**{bound: 20.0}),
        seed=draw(st.integers(0, 2**63 - 1)),
        data=DataConfig(validation=validation),
        network=NetworkConfig(
            hidden=tuple(draw(st.lists(st.integers(1, 4), max_size=3))),
            activation=key(NetworkConfig, "activation"),
            objective=key(NetworkConfig, "objective"),
            initialization=key(NetworkConfig, "initialization"),
            initial_scale=draw(st.just(0.0) | magnitudes),
            dtype=key(NetworkConfig, "dtype"),
        ),
        training=TrainingConfig(
            epochs=draw(st.integers(1, 3)),
            batch_size=draw(st.integers(1, 40)),
            optimizer=optimizer,
            learning_rate=draw(magnitudes),
            momentum=None if optimizer == "sgd" else draw(st.none() | st.sampled_from([0.0, 0.5, 0.9999])),
            schedule=key(TrainingConfig, "schedule"),
            warmup_epochs=draw(st.sampled_from([0.0, 0.3, 1.0])),
            l2=draw(st.just(0.0) | magnitudes),
            input_dropout=draw(st.sampled_from([0.0, 0.5])),
            adversarial=draw(st.just(0.0) | magnitudes),
            averaging=draw(st.none() | st.sampled_from([0.5, 0.999])),
            patience=draw(st.none() | st.integers(1, 3)) if validation else None,
        ),
    )


@settings(max_examples=100)
@given(configs(), st.integers(1, 30))
def test_any_config_trains_or_reports_divergence(config: Config, count: int):
    trained = Trainer(config, dataset_of(count, int(config.data.validation)))
    try:
        for record in trained.epochs():
            numbers = [v for v in vars(record).values() if isinstance(v, float)]
            assert np.isfinite([*numbers, *record.gradient_norm, *trained.state.theta.vector]).all()
            assert all(0 <= fraction <= 1 for fraction in [record.train_error, *(record.saturation or [])])
            assert min(record.gradient_norm) >= 0
    except DivergedError:
        pass


# Implementation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize(
    "changes",
    [
        [(trainer, "MIN_WORK_TO_TRIM", 10**9)],
        [(optimizers, "MIN_MOMENTUM_SCALE", 0.5)],
        [(optimizers, "FLUSH_STEPS", 1), (optimizers, "DENORMAL_MARGIN", 1e280)],
        [(optimizers.Optimizer, "_flush_denormals", lambda self, vector: None)],
        [*((each, "chunk_size", 7) for each in OPTIMIZERS.values()), (trainer, "CHUNK_SIZE", 5)],
        [(blas, "routine", lambda name, dtype: None)],
    ],
    ids=[
        "margins are not trimmed",
        "momentum is rescaled",
        "more is flushed",
        "nothing is flushed",
        "chunks",
        "numpy alone",
    ],
)
def test_technique_has_no_effect(optimizer: str, changes: list[tuple[Any, str, Any]], monkeypatch: pytest.MonkeyPatch):
    """On images with margins, with a smaller last batch, a penalty and an average."""
    dataset = dataset_of(27, 9, pixels=40, margins=9)
    config = config_of(f"training.optimizer={optimizer}", "training.averaging=0.9", "training.epochs=5")
    expected = records_of(config, dataset)
    for owner, name, value in changes:
        monkeypatch.setattr(owner, name, value)
    assert_equal_runs(records_of(config, dataset), expected)
