"""Small data sets, and configs that train in a moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.datasets.load import Dataset, Split
from mlpcli.state import EpochRecord, State
from mlpcli.training.trainer import Trainer
from tests.conftest import NO_DEFAULTS

CLASSES = 3


def dataset_of(train: int, validation: int = 0, pixels: int = 4, seed: int = 0, margins: int = 0) -> Dataset:
    """Return noisy images of three classes, with 0 in the first and last ``margins`` pixels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, train + validation).astype(np.uint8)
    prototypes = random.integers(0, 256, (CLASSES, pixels))
    images = np.clip(prototypes[labels] + random.normal(0, 90, (len(labels), pixels)), 0, 255).astype(np.uint8)
    images[:, :margins] = images[:, pixels - margins :] = 0
    held_out = Split(images[train:], labels[train:]) if validation else None

    def test() -> Split:
        raise AssertionError("training has read the test images")

    return Dataset("tiny", (1, pixels), CLASSES, Split(images[:train], labels[:train]), held_out, {}, None, test)


def config_of(*overrides: str) -> Config:
    few = ("network.hidden=[5]", "network.dtype=float64", "training.batch_size=8", "training.epochs=3")
    return config_module.load(None, (*few, *NO_DEFAULTS, *overrides), {})


def records_of(config: Config, dataset: Dataset) -> tuple[list[EpochRecord], State]:
    trainer = Trainer(config, dataset)
    return list(trainer.epochs()), trainer.state


def without_timing(record: EpochRecord) -> EpochRecord:
    return replace(record, seconds=0.0, examples_per_second=0.0)


def vectors_of(state: State) -> dict[str, np.ndarray]:
    """Return all vectors of a state, in C order, by name."""
    average = {} if state.average is None else {"average": state.average.to_c_order()}
    optimizer = {
        name: type(state.theta)(state.theta.sizes, vector.dtype, vector).to_c_order()
        for name, vector in state.optimizer.items()
    }
    return {"theta": state.theta.to_c_order(), **optimizer, **average}


def assert_same_bytes(one: tuple[list[EpochRecord], State], other: tuple[list[EpochRecord], State]) -> None:
    assert list(map(without_timing, one[0])) == list(map(without_timing, other[0]))
    assert {name: vector.tobytes() for name, vector in vectors_of(one[1]).items()} == {
        name: vector.tobytes() for name, vector in vectors_of(other[1]).items()
    }
    for name in ("epoch", "step", "best", "best_epoch", "epochs_since_best"):
        assert getattr(one[1], name) == getattr(other[1], name), name


def assert_equal_runs(
    found: tuple[list[EpochRecord], State], expected: tuple[list[EpochRecord], State], rel: float = 1e-9
) -> None:
    """Assert that the runs are equal except for rounding."""
    assert len(found[0]) == len(expected[0]) > 0
    for record, other in zip(map(without_timing, found[0]), map(without_timing, expected[0]), strict=True):
        for name, value in vars(other).items():
            approximate = None if value is None else pytest.approx(value, rel=rel)
            assert getattr(record, name) == approximate, (other.epoch, name)
    for name, vector in vectors_of(expected[1]).items():
        np.testing.assert_allclose(vectors_of(found[1])[name], vector, rtol=rel, atol=rel / 1000, err_msg=name)
    for name in ("best_epoch", "epochs_since_best", "epoch", "step"):
        assert getattr(found[1], name) == getattr(expected[1], name), name
