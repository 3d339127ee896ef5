"""The contact sheet: its pixels are those that training uses."""

from __future__ import annotations

import numpy as np
import pytest

from mlpcli.analysis.sheet import sheet
from mlpcli.datasets.load import load_dataset
from mlpcli.errors import UsageError
from mlpcli.rng import keyed_rng
from mlpcli.training.step import TrainingStep
from mlpcli.training.trainer import Trainer

DISTORTED = (
    "augmentation.rotation=20",
    "augmentation.scale=0.2",
    "augmentation.elastic_alpha=6",
    "augmentation.elastic_sigma=1",
    "augmentation.final_strength=0.25",
    "augmentation.final_epochs=1",
)


def shown_in_training(config, monkeypatch):
    """Return by epoch the bytes (N, D) that the network is trained on, in file order, from one batch."""
    dataset = load_dataset(config.data)
    propagate, batches = TrainingStep.propagate, []

    def recorded(self, batch):
        batches.append(np.rint(self.X.array).astype(np.uint8))
        return propagate(self, batch)

    monkeypatch.setattr(TrainingStep, "propagate", recorded)
    shown = {}
    for record in Trainer(config, dataset).epochs():
        order = keyed_rng(config.seed, "order", record.epoch).permutation(len(dataset.train))
        shown[record.epoch] = batches.pop()[np.argsort(order)]
        assert not batches
    return shown


@pytest.mark.parametrize("overrides", [(), ("network.dtype=float64", "seed=7", "data.validation=9")])
def test_sheet_shows_the_images_of_training(tiny_config, monkeypatch, overrides):
    config = tiny_config(*DISTORTED, "training.batch_size=1000", *overrides)
    shown = shown_in_training(config, monkeypatch)
    numbers = range(len(shown[1]))
    made = sheet(config, numbers=numbers, epochs=(3, 1))
    assert made.heads == ("original", "epoch 3", "epoch 1")
    original = load_dataset(config.data).train
    assert (made.name, made.examples) == ("tiny", len(original))
    assert made.labels == tuple(map(str, original.labels.tolist()))
    columns = made.rows.transpose(1, 0, 2, 3).reshape(3, len(original), -1)
    assert np.array_equal(columns[0], original.images)
    assert np.array_equal(columns[1], shown[3])
    assert np.array_equal(columns[2], shown[1])
    assert not np.array_equal(shown[1], original.images)


def test_default_is_the_first_epochs_and_the_last(tiny_config):
    for epochs, expected in ((1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (20, [1, 2, 3, 20])):
        made = sheet(tiny_config(*DISTORTED, f"training.epochs={epochs}"))
        assert made.heads == ("original", *(f"epoch {epoch}" for epoch in expected))
    assert made.numbers == (0, 1, 2, 3)
    assert made.rows.shape == (4, 5, 5, 4)
    assert made.title == (
        "tiny, 63 training images: rotation 20, scale 0.2, elastic_alpha 6, elastic_sigma 1; "
        "times 0.25 from epoch 20 of 20 on"
    )
    assert [caption for caption, _ in made.lines[2]] == [f"image 2: {made.labels[2]}", *made.heads[1:]]


def test_sheet_without_distortions_has_originals_in_one_line(tiny_config):
    made = sheet(tiny_config())
    assert made.heads == ("original",)
    assert made.title == "tiny, 63 training images: no distortions"
    (line,) = made.lines
    assert [caption for caption, _ in line] == [f"image {i}: {label}" for i, label in enumerate(made.labels)]


def test_sheet_of_one_class(tiny_config, tiny_images):
    made = sheet(tiny_config(), label="2", images=5)
    assert made.labels == ("2",) * 5
    assert made.numbers == tuple(np.flatnonzero(tiny_images[1] == 2)[:5].tolist())
    assert np.array_equal(made.rows[:, 0], tiny_images[0][list(made.numbers)])


def test_too_many_images_means_all(tiny_config):
    assert sheet(tiny_config(), images=100).numbers == tuple(range(63))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": (0, 63)}, "--index 63: tiny has the training images 0 to 62"),
        ({"label": "3"}, "--class 3: no training image of tiny has that label"),
        ({"epochs": (1, 4)}, "--epoch 4: the config trains for 3; --set training.epochs=4"),
    ],
)
def test_missing_class_or_epoch_is_an_error(tiny_config, options, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        sheet(tiny_config(*DISTORTED), **options)


def test_epoch_without_distortions_is_marked(tiny_config):
    with pytest.raises(UsageError, match=r"the config has none: --set augmentation.rotation=10$"):
        sheet(tiny_config(), epochs=(1,))


def test_equal_sheets_are_equal_pictures(tiny_config):
    config = tiny_config(*DISTORTED)
    first, second = (sheet(config).render("png") for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG") and first.endswith(b"IEND\xaeB`\x82")
    assert sheet(config, images=5).render("png") != first
    assert b"<svg" in sheet(tiny_config()).render("svg")
