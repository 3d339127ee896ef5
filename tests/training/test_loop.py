"""The training loop does what the derivation says, records it as it was, and knows when to stop."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpcli import config as config_module
from mlpcli.config import AugmentationConfig, Config, DataConfig, NetworkConfig, TrainingConfig
from mlpcli.datasets.load import Dataset, Split, load_dataset
from mlpcli.errors import ConfigError, DivergedError
from mlpcli.model import blas
from mlpcli.model.dropout import draw_mask
from mlpcli.training import loop, optimizers
from mlpcli.training.augment import Augmentation
from mlpcli.training.loop import EpochRecord, State, Trainer
from mlpcli.training.optimizers import OPTIMIZERS, learning_rate
from mlpcli.training.streams import stream
from tests.conftest import NO_DEFAULTS

Array = np.ndarray
CLASSES = 3


@pytest.fixture(autouse=True)
def _margins_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of networks as small as the tests'."""
    monkeypatch.setattr(loop, "LEAST_TO_CUT", 0)


def dataset_of(train: int, validation: int = 0, pixels: int = 4, seed: int = 0) -> Dataset:
    """Noisy images of three classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, train + validation).astype(np.uint8)
    prototypes = random.integers(0, 256, (CLASSES, pixels))
    images = np.clip(prototypes[labels] + random.normal(0, 90, (len(labels), pixels)), 0, 255).astype(np.uint8)
    held_out = Split(images[train:], labels[train:]) if validation else None

    def test() -> Split:
        raise AssertionError("training looked at the test images")

    return Dataset("tiny", (1, pixels), CLASSES, Split(images[:train], labels[:train]), held_out, {}, None, test)


def config_of(*overrides: str) -> Config:
    few = ("network.hidden=[5]", "network.dtype=float64", "training.batch_size=8", "training.epochs=3")
    return config_module.load(None, (*few, *NO_DEFAULTS, *overrides), {})


def records_of(config: Config, dataset: Dataset) -> tuple[list[EpochRecord], State]:
    trainer = Trainer(config, dataset)
    return list(trainer.epochs()), trainer.state


def timeless(record: EpochRecord) -> EpochRecord:
    return replace(record, seconds=0.0, examples_per_second=0.0)


# Against a plain copy of the mathematics -----------------------------------------------------------------------------


def plainly(config: Config, dataset: Dataset, theta: list[Array]) -> list[dict[str, Any]]:
    """Gradient descent on a network with one hidden sigmoid layer and softmax, equation by equation; float64."""
    images, labels = dataset.train.images / 255, dataset.train.labels
    training = config.training
    keep_input, keep_hidden = 1 - training.input_dropout, 1 - training.dropout
    everything, distorted = np.arange(len(labels)), None
    if config.augmentation:
        distorted = Augmentation(
            config.augmentation, dataset.image_shape, len(labels), training.epochs, config.seed, "float64"
        )
    size, steps = training.batch_size, math.ceil(len(labels) / training.batch_size)
    epochs, step = [], 0
    for epoch in range(1, training.epochs + 1):
        order = stream(config.seed, "order", epoch).permutation(len(labels))
        dropout = stream(config.seed, "dropout", epoch)
        if distorted:
            distorted.begin(epoch)
            shown = distorted.distort(dataset.train.images, everything, np.empty(images.shape)) / 255
        else:
            shown = images
        losses, wrong = [], 0
        for start in range(0, len(order), size):
            W1, b1, W2, b2 = theta
            chosen = order[start : start + size]
            X, y = shown[chosen], labels[chosen]
            Y = (1 - training.label_smoothing) * np.eye(CLASSES)[y] + training.label_smoothing / CLASSES
            m1, m2 = np.ones(X.shape), np.ones((len(X), len(b1)))
            if keep_input < 1:
                draw_mask(training.input_dropout, m1, dropout)
            if keep_hidden < 1:
                draw_mask(training.dropout, m2, dropout)
            X = X * m1
            a1 = 1 / (1 + np.exp(-(X @ W1 + b1)))
            z2 = a1 * m2 @ W2 + b2
            p = np.exp(z2) / np.exp(z2).sum(axis=1, keepdims=True)
            losses += list(-np.sum(Y * np.log(p), axis=1))
            wrong += np.sum(z2.argmax(axis=1) != y)
            dz2 = (p - Y) / len(y)
            dz1 = dz2 @ W2.T * m2 * a1 * (1 - a1)
            gradient = [X.T @ dz1, dz1.sum(axis=0), (a1 * m2).T @ dz2, dz2.sum(axis=0)]
            gradient[0] += 2 * training.l2 * W1
            gradient[2] += 2 * training.l2 * W2
            if len(y) == size:
                last_full = gradient
            eta = learning_rate(training, step, steps)
            theta[:] = [value - eta * slope for value, slope in zip(theta, gradient, strict=True)]
            step += 1
        dW1, db1, dW2, db2 = last_full
        epochs.append(
            {
                "epoch": epoch,
                "step": step,
                "learning_rate": eta,
                "train_loss": np.mean(losses),
                "train_error": wrong / len(labels),
                "gradient_norm": [
                    np.hypot(np.linalg.norm(dW), np.linalg.norm(db)) for dW, db in ((dW1, db1), (dW2, db2))
                ],
                "saturation": [np.mean(np.abs(images[:1000] @ theta[0] + theta[1]) > 4.6)],
            }
        )
    return epochs


@pytest.mark.parametrize("l2", ["0", "0.05"])
@pytest.mark.parametrize("count", [40, 43, 41])  # batches of 8: none short, one of 3, one of a single image
def test_training_is_the_derivation_step_by_step(count: int, l2: str):
    config, dataset = config_of("training.optimizer=sgd", "training.learning_rate=2.0", f"training.l2={l2}"), None
    dataset = dataset_of(count)
    theta = [array.copy() for _, array in Trainer(config, dataset).state.theta.tensors()]
    records, state = records_of(config, dataset)
    for record, expected in zip(records, plainly(config, dataset, theta), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(record, name), value, rtol=1e-11, err_msg=name)
    for (name, found), value in zip(state.theta.tensors(), theta, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-11, err_msg=name)


@pytest.mark.parametrize(
    "overrides",
    [
        ["augmentation.shift=1.5", "augmentation.final_epochs=1", "augmentation.final_strength=0.1"],
        ["augmentation.elastic_alpha=3", "augmentation.elastic_sigma=0.5"],
        ["training.dropout=0.4"],
        ["training.input_dropout=0.2"],
        ["training.label_smoothing=0.2"],
        ["training.dropout=0.4", "training.input_dropout=0.2", "training.label_smoothing=0.3", "augmentation.shear=20"],
    ],
)
@pytest.mark.parametrize("count", [40, 43])
def test_distortions_dropout_and_smoothing_are_what_they_say(count: int, overrides: list[str]):
    config = config_of("training.optimizer=sgd", "training.learning_rate=2.0", *overrides)
    dataset = dataset_of(count)
    theta = [array.copy() for _, array in Trainer(config, dataset).state.theta.tensors()]
    plain, _ = records_of(config_of("training.optimizer=sgd", "training.learning_rate=2.0"), dataset)
    records, state = records_of(config, dataset)
    for record, expected in zip(records, plainly(config, dataset, theta), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(record, name), value, rtol=1e-10, err_msg=name)
    for (name, found), value in zip(state.theta.tensors(), theta, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-10, err_msg=name)
    assert records[0].train_loss != plain[0].train_loss


def test_validation_images_are_seen_as_they_are():
    still = ["training.learning_rate=1e-300", "training.epochs=1"]
    changes = ["augmentation.shift=2", "training.dropout=0.5", "training.input_dropout=0.5"]
    dataset = dataset_of(40, 20)
    [plain], _ = records_of(config_of(*still), dataset)
    [changed], _ = records_of(config_of(*still, *changes, "training.label_smoothing=0.5"), dataset)
    assert changed.train_loss != plain.train_loss
    assert (changed.validation_loss, changed.validation_error) == (plain.validation_loss, plain.validation_error)


def test_the_average_is_validated_beside_the_parameters_and_stands_for_the_run():
    dataset = dataset_of(40, 20)
    plain, without = records_of(config_of(), dataset)
    averaged, state = records_of(config_of("training.averaging=0.99"), dataset)
    assert without.average is None
    assert without.parameters is without.theta
    assert all(record.raw_validation_loss is None and record.raw_validation_error is None for record in plain)
    # The average looks on: the parameters are those of a run without it.
    assert state.theta.vector.tobytes() == without.theta.vector.tobytes()
    assert [record.raw_validation_loss for record in averaged] == [record.validation_loss for record in plain]
    assert [record.raw_validation_error for record in averaged] == [record.validation_error for record in plain]
    assert [record.train_loss for record in averaged] == [record.train_loss for record in plain]
    assert state.parameters is state.average
    assert state.average is not None
    # Five steps an epoch are its interval: of three epochs the average is their ends' mean.
    ends = [ended(epochs, dataset) for epochs in (1, 2, 3)]
    np.testing.assert_allclose(state.average.vector, np.mean(ends, axis=0), rtol=1e-12, atol=1e-15)
    trainer = Trainer(config_of("training.averaging=0.99"), dataset, State(state.average))
    assert trainer._validation is not None
    loss, wrong = trainer._validation.loss_and_errors(state.average)
    assert (averaged[-1].validation_loss, averaged[-1].validation_error) == (loss, wrong / 20)
    best = min((r.validation_error, r.validation_loss) for r in averaged if r.validation_error is not None)
    assert state.best == best


def ended(epochs: int, dataset: Dataset) -> Array:
    """The parameters after so many epochs of the three."""
    trainer = Trainer(config_of(), dataset)
    list(islice(trainer.epochs(), epochs))
    return trainer.state.theta.vector.copy()


def test_saturation_is_measured_on_the_first_thousand_training_images():
    config = config_of(
        "training.epochs=1", "training.batch_size=500", "network.initial_scale=3", "training.optimizer=sgd"
    )
    dataset = dataset_of(1300)
    [record], state = records_of(config, dataset)
    z = dataset.train.images[:1000] / 255 @ state.theta.W[0] + state.theta.b[0]
    assert record.saturation is not None
    assert 0 < record.saturation[0] == np.count_nonzero(np.abs(z) > 4.6) / z.size < 1


def test_the_penalty_is_no_part_of_the_recorded_losses():
    # With a learning rate this small the parameters stay where they are: only the losses' definition can differ.
    still = ("training.learning_rate=1e-300", "training.epochs=1")
    dataset = dataset_of(40, 10)
    [plain], _ = records_of(config_of(*still), dataset)
    [penalised], _ = records_of(config_of(*still, "training.l2=1"), dataset)
    assert penalised.train_loss == plain.train_loss
    assert penalised.validation_loss == plain.validation_loss
    assert penalised.gradient_norm != plain.gradient_norm


def test_the_penalty_pulls_at_weights_and_not_at_biases():
    """Without a batch's own gradient, as where p = Y, a step of rate eta leaves W (1 - 2 eta l2) and b."""
    config = config_of("network.hidden=[]", "training.optimizer=sgd", "training.learning_rate=0.5", "training.l2=0.1")
    config = replace(config, training=replace(config.training, epochs=1, batch_size=100, schedule="constant"))
    black = Split(np.zeros((10, 4), np.uint8), np.arange(10, dtype=np.uint8) % 2)
    dataset = replace(dataset_of(10), train=black, classes=2)  # two classes, as often the one as the other
    trainer = Trainer(config, dataset)
    W, b = trainer.state.theta.W[0].copy(), trainer.state.theta.b[0].copy()
    list(trainer.epochs())
    np.testing.assert_allclose(trainer.state.theta.W[0], W * (1 - 2 * 0.5 * 0.1), rtol=1e-15)
    np.testing.assert_allclose(trainer.state.theta.b[0], b, atol=1e-16)


# What is recorded ----------------------------------------------------------------------------------------------------


def test_the_fields_of_a_record_and_their_order():
    names = """epoch step learning_rate train_loss train_error validation_loss validation_error
        raw_validation_loss raw_validation_error examples_per_second seconds gradient_norm saturation"""
    assert [field.name for field in fields(EpochRecord)] == names.split()


@pytest.mark.parametrize(("hidden", "layers"), [("[]", 0), ("[4]", 1), ("[4, 3, 5]", 3)])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_lists_have_a_number_a_layer(hidden: str, layers: int, activation: str):
    config = config_of(f"network.hidden={hidden}", f"network.activation={activation}", "training.epochs=1")
    [record], _ = records_of(config, dataset_of(20, 5))
    assert len(record.gradient_norm) == layers + 1
    assert all(norm > 0 for norm in record.gradient_norm)
    if activation == "sigmoid":
        assert record.saturation is not None
        assert len(record.saturation) == layers
    else:
        assert record.saturation is None


def test_validation_numbers_are_those_of_the_epochs_end():
    dataset = dataset_of(40, 12)
    trainer = Trainer(config_of(), dataset)
    for record in trainer.epochs():
        theta, held_out = trainer.state.theta, dataset.validation
        assert held_out is not None
        a1 = 1 / (1 + np.exp(-(held_out.images / 255 @ theta.W[0] + theta.b[0])))
        z2 = a1 @ theta.W[1] + theta.b[1]
        loss = np.mean(np.log(np.exp(z2).sum(axis=1)) - z2[np.arange(12), held_out.labels])
        assert record.validation_loss == pytest.approx(loss, rel=1e-12)
        assert record.validation_error == np.mean(z2.argmax(axis=1) != held_out.labels)


def test_every_batch_is_told_with_its_loss_and_time_is_of_training_alone():
    losses: list[float] = []
    trainer = Trainer(config_of(), dataset_of(43))
    for record in trainer.epochs(losses.append):
        assert record.examples_per_second * record.seconds == pytest.approx(43)
        assert len(losses) == record.step == 6 * record.epoch == trainer.steps_per_epoch * record.epoch
        own = np.average(losses[-6:], weights=[8] * 5 + [3])
        assert record.train_loss == pytest.approx(own, rel=1e-12)
    assert trainer.state.step == 18
    assert trainer.state.epoch == trainer.epochs_wanted == 3


def test_a_large_float32_gradient_has_a_norm_though_its_square_is_none():
    config = config_of("network.dtype=float32", "network.objective=linear_quadratic", "network.hidden=[]")
    config = replace(config, training=replace(config.training, epochs=1, learning_rate=1e-30, batch_size=8))
    config = replace(config, network=replace(config.network, initial_scale=2e18))
    [record], _ = records_of(config, dataset_of(40, pixels=400))
    assert 2e19 < record.gradient_norm[0] < math.inf


# Order and randomness ------------------------------------------------------------------------------------------------


def test_equal_runs_are_equal_bit_for_bit():
    one, state = records_of(config_of("network.dtype=float32"), dataset_of(43, 9))
    other, same = records_of(config_of("network.dtype=float32"), dataset_of(43, 9))
    assert [timeless(r) for r in one] == [timeless(r) for r in other]
    assert state.theta.vector.tobytes() == same.theta.vector.tobytes()


def test_another_seed_starts_elsewhere_and_shuffles_otherwise():
    dataset = dataset_of(43)
    assert not np.array_equal(
        Trainer(config_of(), dataset).state.theta.vector, Trainer(config_of("seed=1"), dataset).state.theta.vector
    )


@pytest.mark.parametrize("done", [1, 2])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_an_epoch_does_not_depend_on_the_history_of_the_process(done: int, optimizer: str):
    config, dataset = config_of(f"training.optimizer={optimizer}"), dataset_of(43, 9)
    whole, end = records_of(config, dataset)
    first = Trainer(config, dataset)
    assert [timeless(r) for r in islice(first.epochs(), done)] == [timeless(r) for r in whole[:done]]
    second = Trainer(config, dataset, first.state)
    assert [timeless(r) for r in second.epochs()] == [timeless(r) for r in whole[done:]]
    assert second.state.theta.vector.tobytes() == end.theta.vector.tobytes()
    assert second.state.best == end.best
    assert all(vector.tobytes() == end.optimizer[name].tobytes() for name, vector in second.state.optimizer.items())


def test_epochs_see_the_images_in_orders_of_their_own():
    """All batches but one hold one image each, and nothing moves: the losses are the images, in their order."""
    config = config_of("training.batch_size=1", "training.learning_rate=1e-300")
    losses: list[float] = []
    list(Trainer(config, dataset_of(43)).epochs(losses.append))
    orders = [tuple(losses[start : start + 43]) for start in (0, 43, 86)]
    assert len({*orders}) == 3
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])


def test_the_first_epoch_is_the_same_however_many_follow():
    one, _ = records_of(config_of("training.epochs=1", "training.schedule=constant"), dataset_of(43, 9))
    many, _ = records_of(config_of("training.epochs=4", "training.schedule=constant"), dataset_of(43, 9))
    assert timeless(one[0]) == timeless(many[0])


def test_a_batch_larger_than_the_data_is_the_whole_of_it():
    large, state = records_of(config_of("training.batch_size=1000"), dataset_of(10))
    exact, same = records_of(config_of("training.batch_size=10"), dataset_of(10))
    assert [timeless(r) for r in large] == [timeless(r) for r in exact]
    assert state.theta.vector.tobytes() == same.theta.vector.tobytes()


def test_float32_and_float64_start_from_the_same_numbers_and_learn_alike():
    dataset = dataset_of(43, 9)
    double, single = (Trainer(config_of(f"network.dtype={dtype}"), dataset) for dtype in ("float64", "float32"))
    assert double.state.theta.vector.dtype == np.float64
    assert single.state.theta.vector.dtype == np.float32
    assert np.array_equal(single.state.theta.vector, double.state.theta.vector.astype(np.float32))
    for exact, rounded in zip(double.epochs(), single.epochs(), strict=True):
        assert rounded.train_loss == pytest.approx(exact.train_loss, rel=1e-5)
        assert rounded.gradient_norm == pytest.approx(exact.gradient_norm, rel=1e-3)
    np.testing.assert_allclose(single.state.theta.vector, double.state.theta.vector, atol=1e-4)


# When it stops -------------------------------------------------------------------------------------------------------


def test_the_best_epoch_is_the_first_with_the_lowest_error_then_loss():
    """Held against the records, on a run that does not only get better."""
    config = config_of("training.epochs=25", "training.learning_rate=3.0", "training.schedule=constant")
    trainer = Trainer(config, dataset_of(30, 20))
    scores: list[tuple[float, float]] = []
    used = []
    for record in trainer.epochs():
        assert record.validation_error is not None
        assert record.validation_loss is not None
        scores.append((record.validation_error, record.validation_loss))
        state = trainer.state
        assert state.best == min(scores)
        assert state.best_epoch == scores.index(min(scores)) + 1
        assert state.patience_used == record.epoch - state.best_epoch
        used.append(state.patience_used)
    assert max(used) > 2
    assert used.count(0) > 2


def test_of_equal_errors_the_lower_loss_is_better():
    config = config_of("training.epochs=5", "training.learning_rate=1e-7", "training.schedule=constant")
    dataset = dataset_of(30)
    trainer = Trainer(config, replace(dataset, validation=dataset.train))
    records = list(trainer.epochs())
    assert len({record.validation_error for record in records}) == 1
    assert trainer.state.best == (records[-1].validation_error, records[-1].validation_loss)
    assert trainer.state.best_epoch == 5


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_runs_out_after_that_many_epochs_that_are_no_better(patience: int):
    # Nothing moves, so that no epoch is better than the first.
    config = config_of("training.epochs=20", f"training.patience={patience}", "training.learning_rate=1e-300")
    trainer = Trainer(config, dataset_of(30, 10))
    assert not trainer.finished
    assert [record.epoch for record in trainer.epochs()] == list(range(1, 2 + patience))
    assert trainer.finished
    assert (trainer.state.best_epoch, trainer.state.patience_used) == (1, patience)
    assert list(trainer.epochs()) == []


def test_patience_that_is_never_used_up_changes_nothing():
    dataset = dataset_of(43, 20)
    patient, _ = records_of(config_of("training.patience=100"), dataset)
    plain, _ = records_of(config_of(), dataset)
    assert [timeless(r) for r in patient] == [timeless(r) for r in plain]


def test_without_validation_images_there_is_no_best_and_no_patience():
    records, state = records_of(config_of("data.validation=0"), dataset_of(30))
    assert {(r.validation_loss, r.validation_error) for r in records} == {(None, None)}
    assert (state.best, state.best_epoch, state.patience_used) == (None, 0, 0)
    with pytest.raises(ConfigError, match="patience: needs validation images"):
        config_of("data.validation=0", "training.patience=1")


# Divergence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_that_is_no_number_stops_training_at_its_step(dtype: str):
    overrides = (
        "network.activation=relu",
        f"network.dtype={dtype}",
        "training.learning_rate=1e300",
        "training.schedule=constant",
    )
    trainer = Trainer(config_of(*overrides), dataset_of(43, 9))
    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) at step 2, in epoch 1.* learning rate of 1e\+300.*lower"
    ):
        next(trainer.epochs())
    assert trainer.state.epoch == 0


def unstable(*overrides: str) -> Config:
    """Least squares, which a rate above 2 over the greatest curvature blows up a little more with every step."""
    least_squares = ("network.hidden=[]", "network.objective=linear_quadratic", "training.optimizer=sgd")
    return config_of(*least_squares, "training.schedule=constant", "training.epochs=100", *overrides)


def test_slow_divergence_is_found_epochs_later_and_nothing_infinite_is_recorded():
    trainer = Trainer(unstable("network.dtype=float32", "training.learning_rate=3"), dataset_of(40, 10))
    records = []
    with pytest.raises(DivergedError, match="training diverged"):
        for record in trainer.epochs():
            records.append(record)
    assert 1 < len(records) < 100
    assert records[-1].train_loss > 1e6 * records[0].train_loss
    assert trainer.state.epoch == len(records)
    for record in records:
        assert np.isfinite([record.train_loss, record.validation_loss, *record.gradient_norm]).all()


def test_parameters_that_are_no_numbers_are_found_though_the_loss_before_was_one():
    """One batch an epoch: its loss is finite, and the step that follows leaves the numbers."""
    config = unstable("network.dtype=float32", "training.learning_rate=1e39", "training.batch_size=40")
    with pytest.raises(DivergedError, match="no longer finite at the end of epoch 1"):
        next(Trainer(config, dataset_of(40)).epochs())


def test_a_validation_loss_that_is_no_number_is_found_though_training_sees_nothing_of_it():
    """The weights are huge, and only the validation images are not black."""
    config = unstable("network.dtype=float32", "network.initial_scale=1e30", "training.learning_rate=0.1")
    dataset = dataset_of(40, 10)
    black = Split(np.zeros_like(dataset.train.images), dataset.train.labels)
    with pytest.raises(DivergedError, match="no longer finite at the end of epoch 1"):
        next(Trainer(config, replace(dataset, train=black)).epochs())


def test_a_start_that_is_no_number_diverges_at_once():
    config = config_of("network.initial_scale=1e300", "network.dtype=float32")
    with pytest.raises(DivergedError, match="at step 1, in epoch 1"):
        next(Trainer(config, dataset_of(40)).epochs())


# Any config ----------------------------------------------------------------------------------------------------------

magnitudes = st.sampled_from([1e-300, 1e-3, 0.1, 1.0, 30.0, 1e6, 1e20, 1e39, 1e300])


@st.composite
def configs(draw: st.DrawFn) -> Config:
    def key(section: type, name: str) -> Any:
        return draw(st.sampled_from(config_module.rule_of(section, name).choices))

    optimizer = key(TrainingConfig, "optimizer")
    validation = draw(st.sampled_from([0, 5]))
    epochs = draw(st.integers(1, 3))
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
            epochs=epochs,
            batch_size=draw(st.integers(1, 40)),
            optimizer=optimizer,
            learning_rate=draw(magnitudes),
            momentum=None if optimizer == "sgd" else draw(st.none() | st.sampled_from([0.0, 0.5, 0.9999])),
            schedule=key(TrainingConfig, "schedule"),
            warmup_epochs=draw(st.sampled_from([0.0, 0.3, 1.0])),
            l2=draw(st.just(0.0) | magnitudes),
            input_dropout=draw(st.sampled_from([0.0, 0.5])),
            averaging=draw(st.none() | st.sampled_from([0.5, 0.999])),
            patience=draw(st.none() | st.integers(1, 3)) if validation else None,
        ),
    )


@settings(max_examples=300)
@given(configs(), st.integers(1, 30))
def test_any_config_trains_or_says_that_it_diverged(config: Config, count: int):
    trainer = Trainer(config, dataset_of(count, int(config.data.validation)))
    try:
        for record in trainer.epochs():
            numbers = [v for v in vars(record).values() if isinstance(v, float)]
            assert np.isfinite([*numbers, *record.gradient_norm]).all()
            assert all(0 <= share <= 1 for share in [record.train_error, *(record.saturation or [])])
            assert min(record.gradient_norm) >= 0
            assert np.isfinite(trainer.state.theta.vector).all()
    except DivergedError:
        pass


# The whole, pinned ---------------------------------------------------------------------------------------------------


TRAIN_LOSS = [1.789744973, 0.585197261, 0.421129904]
VALIDATION_LOSS = [0.839966572, 0.482187049, 0.440655613]
GRADIENT_NORM = [[0.211529226, 0.178459509], [0.146426355, 0.101783348], [0.211581063, 0.141586451]]


def test_the_loss_curve_of_the_bundled_sample():
    """A change of the mathematics anywhere, from the shuffle to the last digit of an update, shows here.

    Made by ``mlpcli train`` with this config, numpy 2.4 and OpenBLAS on x86-64, and copied from its metrics.jsonl.
    Other machines and threads sum in another order, which shows in the fifteenth digit.
    """
    config = Config(
        seed=0,
        data=DataConfig(dataset="mnist-sample", validation=0.1),
        network=NetworkConfig(
            hidden=(30,),
            activation="sigmoid",
            objective="softmax_cross_entropy",
            initialization="glorot",
            initial_scale=1.0,
            dtype="float64",
        ),
        training=TrainingConfig(
            epochs=3,
            batch_size=128,
            optimizer="nesterov",
            learning_rate=0.2,
            momentum=0.9,
            schedule="cosine",
            warmup_epochs=0.5,
            l2=1e-4,
        ),
    )
    records, _ = records_of(config, load_dataset(config.data))
    assert [r.train_loss for r in records] == pytest.approx(TRAIN_LOSS, rel=1e-6)
    assert [r.validation_loss for r in records] == pytest.approx(VALIDATION_LOSS, rel=1e-6)
    assert [r.gradient_norm for r in records] == [pytest.approx(norms, rel=1e-6) for norms in GRADIENT_NORM]


# How the work is done ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", sorted(OPTIMIZERS))
@pytest.mark.parametrize(
    "changes",
    [
        [(loop, "LEAST_TO_CUT", 10**9)],
        [(optimizers, "LEAST_UNIT", 0.5)],
        [*((rule, "entries", 7) for rule in OPTIMIZERS.values()), (loop, "PIECE", 5)],
        [(blas, "routine", lambda name, dtype: None)],
    ],
    ids=["nothing left out", "momentum written out every seventh step", "small pieces", "numpy alone"],
)
def test_how_it_is_done_does_not_show(rule: str, changes: list[tuple[Any, str, Any]], monkeypatch: pytest.MonkeyPatch):
    """On images with dark margins, the last batch smaller, with a penalty and an average."""
    dataset = dataset_of(27, 9, pixels=40)
    for split in (dataset.train, dataset.validation):
        assert split is not None
        split.images[:, :9] = split.images[:, 30:] = 0
    config = config_of(f"training.optimizer={rule}", "training.averaging=0.9", "training.epochs=5")
    records, state = records_of(config, dataset)
    for owner, name, value in changes:
        monkeypatch.setattr(owner, name, value)
    same, changed = records_of(config, dataset)
    for record, other in zip(records, same, strict=True):
        assert record.train_loss == pytest.approx(other.train_loss, rel=1e-11)
        assert record.validation_loss == pytest.approx(other.validation_loss, rel=1e-11)
        assert record.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-11)
    np.testing.assert_allclose(changed.theta.vector, state.theta.vector, rtol=1e-9, atol=1e-12)
    for name, vector in state.optimizer.items():
        np.testing.assert_allclose(changed.optimizer[name], vector, rtol=1e-8, atol=1e-13)
