"""Remarks about data that may prevent a network from learning, or make its error misleading. None is an error.

    classes    one without images in a split; very uneven ones; gaps between labels
    pixels     nearly black, all equal, dark on a light background, or different in the test images
    images     the same in two splits; fewer than classes

Each is one line with a remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlpcli.config import DataConfig
from mlpcli.datasets.classes import listed
from mlpcli.datasets.load import Bytes, Dataset, Split, held_out

UNEVEN = 10  # times as many images of one class as of another
DARK = 64  # a quarter of a byte's range: nearly black if no pixel is as bright
MIN_PER_CLASS = 5  # validation images: with fewer, a class without any does not indicate sorted files
LIGHT = 192  # three quarters: a light background if most pixels at the edge are as bright
SAMPLE = 1000  # images, spread evenly, from which the background is determined
BLOCK = 4096  # images hashed at a time

Kind = Literal["classes", "pixels", "images"]
Polarity = Literal["blank", "nearly black", "dark on light", "light on dark"]
Splits = Mapping[str, Split]


@dataclass(frozen=True)
class Remark:
    """A remark and its remedy: ``message``, one line."""

    kind: Kind
    message: str


def remarks(dataset: Dataset, validation_order: str = "file") -> list[Remark]:
    """Return the remarks about ``dataset``; this reads its test images.

    ``validation_order`` is the config's, with which its validation images were held out. Raises ``DataError``.
    """
    every = {
        "training": dataset.train,
        "validation": dataset.validation,
        "test": dataset.test() if dataset.has_test else None,
    }
    splits = {name: split for name, split in every.items() if split is not None}
    names = dataset.class_names or tuple(map(str, range(dataset.classes)))
    few = [name for name, split in splits.items() if len(split) < len(names)]
    return [
        *(Remark("images", _few(name, splits[name], names)) for name in few),
        *(Remark("classes", each) for each in _classes(splits, names, validation_order, few)),
        *(Remark("pixels", each) for each in _pixels(splits, dataset.image_shape)),
        *(Remark("images", each) for each in _duplicates(splits, dataset.image_shape)),
    ]


def with_default_validation(dataset: Dataset) -> Dataset:
    """Return ``dataset``, of which nothing is held out yet, with the validation images of a default config.

    If these would be too few, there are none.
    """
    data = DataConfig()
    if data.validation * len(dataset.train) < MIN_PER_CLASS * dataset.classes:
        return dataset
    train, validation = held_out(dataset.train, data, 0, dataset.name)
    return replace(dataset, train=train, validation=validation)


def guessing(labels: Bytes, names: Sequence[str]) -> tuple[str, float]:
    """Return the most frequent class of ``labels`` (N,), or set of classes (N, K), and the error of guessing it."""
    if labels.ndim == 2:
        sets, sizes = np.unique(labels, axis=0, return_counts=True)
        present = [names[k] for k in np.flatnonzero(sets[sizes.argmax()]).tolist()]
        return ", ".join(present) or "no class", 1 - int(sizes.max()) / len(labels)
    counts = np.bincount(labels)
    common = int(counts.argmax())
    return names[common], 1 - int(counts[common]) / len(labels)


def _few(name: str, split: Split, names: Sequence[str]) -> str:
    return f"{len(split)} {name} images of {len(names)} classes are too few to learn from or to measure by: add some"


def _classes(splits: Splits, names: Sequence[str], order: str, few: Sequence[str]) -> Iterator[str]:
    counts = {name: class_counts(split.labels, len(names)) for name, split in splits.items()}
    there = {name: [names[k] for k in np.flatnonzero(count).tolist()] for name, count in counts.items()}
    absent = {name: [each for each in names if each not in found] for name, found in there.items()}
    held = there.get("validation", [])
    lost = [name for name in absent["training"] if name in held]
    if held and (lost or (len(held) < len(names) and len(splits["validation"]) >= MIN_PER_CLASS * len(names))):
        few_of = f"only {held[0]}" if len(held) == 1 else f"only {len(held)} of the {len(names)} classes"
        shows = few_of if len(held) < len(names) else "all classes"
        unseen = f", and no training image shows {listed(lost)}" if lost else ""
        in_order = order == "file"
        yield (
            f"the {len(splits['validation']):,} validation images{', the last in file order,' if in_order else ''} "
            f"show {shows}{unseen}: "
            + ("use data.validation_order: shuffled, or stratified" if in_order else "add images, or hold out others")
        )
    if (never := [name for name in absent["training"] if name not in held]) and "training" not in few:
        yield f"there is no training image of {listed(never)}: it cannot be learned; add some to the files"
    if (unmeasured := absent.get("test")) and "test" not in few:
        yield (
            f"there is no test image of {listed(unmeasured)}: the test error does not measure its recognition; "
            "draw the test images from all classes"
        )
    train = counts["training"]
    rare, common = (int(k) for k in (np.where(train, train, train.max()).argmin(), train.argmax()))
    if train[common] >= UNEVEN * train[rare]:
        yield (
            f"the classes are very uneven, {train[common]:,} training images of {names[common]} and {train[rare]:,} of "
            f"{names[rare]}: the error hardly depends on the rare ones; see each class with mlpcli eval, or add images"
        )
    if gaps := _gaps(names):
        yield (
            f"the labels {names[0]} to {names[-1]} have gaps, {listed(gaps)}: {len(names)} classes are trained; if "
            "there should be more, their images are missing in the files"
        )


def class_counts(labels: Bytes, classes: int) -> npt.NDArray[np.intp]:
    """Return how many images have each of the ``classes``, (K,), by their ``labels``: (N,), or (N, K) of 0 and 1."""
    counts: npt.NDArray[np.intp] = (
        np.count_nonzero(labels, axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    )
    return counts


def _gaps(names: Sequence[str]) -> list[str]:
    """Return the whole numbers missing between the first and the last of ``names``, if these are numbers."""
    if not all(name.isascii() and name.isdecimal() and len(name) < 5 for name in names):
        return []
    numbers = set(map(int, names))
    return [str(number) for number in range(min(numbers), max(numbers)) if number not in numbers]


def _pixels(splits: Splits, shape: tuple[int, int]) -> Iterator[str]:
    train = splits["training"].images
    kind = _polarity(train, shape)
    if kind == "blank":
        yield "no training image has two different pixels: there is nothing to learn from; see mlpcli data show"
    elif kind == "nearly black":
        brightest = int(train.max())
        yield (
            f"the training images are nearly black, their brightest pixel being {brightest} of 255, and will teach "
            f"little: multiply their pixels by {255 // brightest}"
        )
    elif kind == "dark on light":
        yield (
            "the training images are dark on a light background, and most rates are too high for them: write them "
            "inverted, 255 - pixel, or lower training.learning_rate"
        )
    if "test" in splits and (other := _polarity(splits["test"].images, shape)) != kind:
        yield f"the test images are {other}, and the training images {kind}: make both {kind}"


def _polarity(images: Bytes, shape: tuple[int, int]) -> Polarity:
    some = images[:: max(1, len(images) // SAMPLE)]
    if (some == some[:, :1]).all() and (images == images[:, :1]).all():
        return "blank"
    if images.max() < DARK:
        return "nearly black"
    pixels = some.reshape(len(some), *shape)
    edge = np.concatenate([pixels[:, [0, -1], :].ravel(), pixels[:, :, [0, -1]].ravel()])
    return "dark on light" if np.median(edge) >= LIGHT and pixels.mean() > 127 else "light on dark"


def _duplicates(splits: Splits, shape: tuple[int, int]) -> Iterator[str]:
    if _polarity(splits["training"].images, shape) in ("blank", "nearly black"):
        return  # with so few bits images may be equal by chance
    hashes = {name: _hashes(split.images) for name, split in splits.items()}
    train = hashes.pop("training")
    if len(train) > 1 and (train == train[0]).all():
        yield f"all {len(train):,} training images are the same: there is nothing to learn from; see mlpcli data show"
        return
    for name, others in hashes.items():
        if count := int(np.isin(others, train).sum()):
            yield (
                f"{count:,} of the {len(others):,} {name} images are training images too, which makes the {name} error "
                "too low: leave them out of one"
            )


def _hashes(images: Bytes) -> npt.NDArray[np.uint64]:
    """Return a hash of each of the ``images`` (N, D): two sums of its 64-bit words, each word times a random number."""
    N, D = images.shape
    words = -(-D // 8)
    factors = np.random.default_rng(0).integers(1, 2**64, (2, words), np.uint64) | np.uint64(1)
    hashes = np.empty(N, np.uint64)
    for start in range(0, N, BLOCK):
        block = images[start : start + BLOCK]
        X = np.pad(block, ((0, 0), (0, 8 * words - D))).view(np.uint64)
        # Multiplication moves differences to higher bits only, so the higher half is added to the lower one.
        hashes[start : start + BLOCK] = X @ factors[0] + (X >> np.uint64(32)) @ factors[1]
    return hashes
