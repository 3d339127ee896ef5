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


def _record(epoch: int, loss: float):
    return EpochRecord(epoch, epoch, 0.1, loss, 0.2, None, None, None, None, 1.0, 1.0, [1.0, 1.0], [0.1])


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
