"""A network that does not learn is diagnosed after the epoch that shows it, with the key to change."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from mlpcli import config as config_module
from mlpcli.config import Config, DataConfig
from mlpcli.datasets.load import load_dataset
from mlpcli.datasets.remarks import guessing
from mlpcli.errors import DivergedError
from mlpcli.model.parameters import Parameters
from mlpcli.state import EpochRecord
from mlpcli.training.diagnosis import Diagnosis, remedy
from mlpcli.training.trainer import Trainer


def signs(*overrides: str, invert: bool = False, divide: bool = False) -> list[list[str]]:
    """Return the signs of each epoch of a training on the bundled sample."""
    few = ("data.dataset=mnist-sample", "training.epochs=1", "network.hidden=[30]")
    config = config_module.load(None, (*few, *overrides), {})
    dataset = load_dataset(config.data, config.seed)
    if invert or divide:
        images = 255 - dataset.train.images if invert else dataset.train.images // 255
        dataset = replace(dataset, train=replace(dataset.train, images=images))
    trainer = Trainer(config, dataset)
    diagnosis = Diagnosis(config, guessing(dataset.train.labels, dataset.class_names)[1])
    return [diagnosis.epoch(record, trainer.state.theta) for record in trainer.epochs(diagnosis.losses.append)]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("network.hidden=[]", "training.learning_rate=0.01"),
        ("network.activation=relu", "training.learning_rate=0.05"),
        ("training.optimizer=adam", "training.learning_rate=0.001", "training.epochs=3"),
        ("network.objective=linear_hinge", "training.learning_rate=0.01"),
        ("training.batch_size=4000",),  # two steps are too few for a diagnosis
    ],
    ids=["defaults", "softmax regression", "relu", "adam", "hinge", "two steps"],
)
def test_learning_network_has_no_diagnosis(overrides: tuple[str, ...]):
    assert not any(signs(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("training.optimizer=adam", "training.learning_rate=4e-5"),
            "the loss has not moved, from .* raise training.learning_rate",
        ),
        (("network.initial_scale=1e4",), "units of layer 1 are saturated.*lower network.initial_scale"),
        (
            ("training.optimizer=sgd", "training.learning_rate=80"),
            "are saturated, and hardly learn: lower training.learning_rate",
        ),
        (("network.hidden=[30,30,30,30,30,30]",), "sigmoids so deep want"),
        (
            ("training.adversarial=20", "network.hidden=[100]"),
            r"the loss has grown, .*: lower training.adversarial \(20\)",
        ),
        (
            ("network.activation=relu", "training.optimizer=sgd", "training.learning_rate=70", "training.l2=0"),
            "gradient of layers? .*: their units are dead: lower training.learning_rate",
        ),
    ],
    ids=["low rate", "scale 10000", "high rate", "deep", "adversarial", "dead"],
)
def test_network_that_does_not_learn_is_diagnosed(overrides: tuple[str, ...], message: str):
    (found,) = signs(*overrides)
    assert any(re.search(message, sign) for sign in found), found


@pytest.mark.parametrize("rate", ["1e-9", "1000"], ids=["low", "high"])
def test_rate_warned_of_before_training_is_not_repeated(rate: str):
    assert not any("training.learning_rate" in sign for sign in signs(f"training.learning_rate={rate}")[0])


def test_pixels_divided_by_255_are_diagnosed():
    assert "the loss has not moved" in signs(divide=True)[0][0]


def test_growing_loss_is_diagnosed_once():
    config = Config()
    diagnosis = Diagnosis(config, 0.9)
    theta = Trainer(config, load_dataset(DataConfig(dataset="mnist-sample"))).state.theta
    found = [diagnosis.epoch(_record(epoch, loss), theta) for epoch, loss in enumerate((2.0, 2.5, 3.0, 3.5), 1)]
    assert [len(each) for each in found] == [0, 0, 1, 0]
    assert found[2][0].startswith("the loss grows with every epoch, from 2 to 3: lower training.learning_rate")
    falling = Diagnosis(config, 0.9)
    assert not any(falling.epoch(_record(epoch, loss), theta) for epoch, loss in enumerate((2.0, 2.5, 2.4), 1))


def _record(epoch: int, loss: float, error: float = 0.2, norms: tuple[float, ...] = (1.0, 1.0), saturation=(0.1,)):
    given = (None, None, None, None, 1.0, 1.0, list(norms), list(saturation))
    return EpochRecord(epoch, epoch, 0.1, loss, error, *given)


def test_loss_that_grows_after_a_resumption_is_no_sign():
    diagnosis = Diagnosis(Config(), 0.9)
    theta = Parameters((2, 2, 2), "float64")
    assert not any(diagnosis.epoch(_record(epoch, loss), theta) for epoch, loss in enumerate((2.0, 2.5, 3.0), 2))


@pytest.mark.parametrize(
    ("saturation", "sign"),
    [
        ((0.9, 0.94), None),
        ((0.96, 0.99), "96% of the units of layers 1, 2 are"),
        ((0.5, 0.97), "97% of the units of layer 2 are"),
    ],
)
def test_saturated_layers_are_named_with_the_least_fraction(saturation: tuple[float, ...], sign: str | None):
    found = Diagnosis(Config(), 0.9).epoch(_record(1, 2.0, saturation=saturation), Parameters((2, 2, 2), "float64"))
    assert found[0].startswith(sign) if sign else not found, found


@pytest.mark.parametrize(
    ("factor", "error", "scale", "sign"),
    [
        (1.005, 0.8, 1.0, "the gradient of layer 1 is 0 except for the penalty: use another"),
        (1.005, 0.8, 0.05, "the gradient of layer 1 is 0 except for the penalty: raise network.initial_scale (0.05)"),
        (1.02, 0.8, 1.0, None),
        (1.005, 0.4, 1.0, None),  # a hinge loss may have nothing left to learn
    ],
)
def test_gradient_of_the_penalty_alone_is_named(factor: float, error: float, scale: float, sign: str | None):
    config = config_module.load(None, ["training.l2=0.001", f"network.initial_scale={scale}"], {})
    theta = Parameters((2, 2, 2), "float64")
    theta.W[0][...] = 1.0
    theta.W[1][...] = 1.0
    penalty = 2 * 0.001 * 2.0  # the norm of four ones is 2
    found = Diagnosis(config, 0.9).epoch(_record(1, 2.0, error, (factor * penalty, 1.0)), theta)
    assert found[0].startswith(sign) if sign else not found, found


@pytest.mark.parametrize(
    ("epoch", "error", "l2", "sign"),
    [
        (1, 0.85, 0.0, "raise training.learning_rate"),
        (1, 0.85, 0.02, "lower training.l2 (0.02)"),
        (1, 0.7, 0.0, None),  # it learns, though the loss does not show it
        (2, 0.85, 0.0, None),
    ],
)
def test_loss_that_stays_is_a_sign_in_the_first_epoch_alone(epoch: int, error: float, l2: float, sign: str | None):
    config = config_module.load(None, [f"training.l2={l2}", "training.learning_rate=0.1"], {})
    diagnosis = Diagnosis(config, 0.9)
    diagnosis.losses += [2.3] * 40
    found = diagnosis.epoch(_record(epoch, 2.3, error), Parameters((2, 2, 2), "float64"))
    assert ("the loss has not moved" in found[0] and sign in found[0]) if sign else not found, found


@pytest.mark.parametrize(
    ("scale", "step", "key"),
    [(2, 1, "network.initial_scale"), (2, 5, "training.learning_rate"), (10, 5, "network.initial_scale")],
)
def test_initial_scale_is_blamed_at_once_or_if_large(scale: float, step: int, key: str):
    assert key in remedy(config_module.load(None, [f"network.initial_scale={scale}"], {}), step)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("training.learning_rate=1e30",), "try a lower training.learning_rate"),
        (("network.initial_scale=1e38",), r"lower network.initial_scale \(1e\+38\)"),
        (("training.l2=100",), r"lower training.l2 \(100\)"),
        (("training.adversarial=1e300",), r"lower training.adversarial \(1e\+300\)"),
    ],
    ids=["rate", "scale", "l2", "adversarial"],
)
def test_divergence_names_its_key(overrides: tuple[str, ...], message: str):
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match=message):
        signs("training.epochs=4", *overrides)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam"])
@pytest.mark.parametrize(("factor", "grows"), [(0.98, False), (1.02, True)])
def test_penalty_is_named_where_it_alone_makes_a_weight_grow(optimizer: str, factor: float, grows: bool):
    mu = {"sgd": 0.0}.get(optimizer, 0.9)
    l2, limit = 1.0, {"sgd": 1.0, "momentum": 1.9, "nesterov": 1.9 / 2.8, "adam": 1e3}[optimizer]
    rate = factor * limit / l2
    settings = [f"training.optimizer={optimizer}", f"training.learning_rate={rate}", f"training.l2={l2}"]
    named = "the penalty alone makes weights grow" in remedy(config_module.load(None, settings, {}), 5)
    if optimizer == "adam":
        assert not named
        return
    w, v = 1.0, 0.0
    for _ in range(2000):
        v = mu * v - rate * 2 * l2 * (w + mu * v * (optimizer == "nesterov"))
        w += v
    assert (abs(w) > 1, named) == (grows, grows)
