"""The contents of a report: the run in numbers, its weights, and selected images.

N images of D pixels, K classes. The weights travel as the bytes of the flat parameter vector, W1 b1 W2 b2 ..., little
endian, in the run's own dtype; the images as their pixels, one image after the other, with each run of n zeros, n from
1 to 255, written as the two bytes 0 n. Most of a digit is background: that is a quarter of the bytes, and nothing of an
image is lost.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli import __version__
from mlpcli import config as config_module
from mlpcli.analysis.evaluation import Evaluation, Member, evaluate, fallback_from, plain_label
from mlpcli.analysis.look import Look
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.model.parameters import Parameters
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.summary import read_run

Array = NDArray[Any]

WORST = 24
MOST_OF_A_CELL = 60
IMAGE_BYTES = 350_000
# Evenly out of the split: on these the page measures the error while one teaches the network.
SAMPLE = 300
MOST_EPOCHS = 500
MOST_WEIGHT_BYTES = 64 * 1024 * 1024
# Sides of an image that one can draw: between a grid too coarse and one too fine for a pen.
DRAWABLE = (4, 512)
# A data set that is not centred and scaled as MNIST is.
NOT_NORMALISED = ("fashion-mnist",)


@dataclass(frozen=True, eq=False)
class Contents:
    """All of a report: ``document`` has plain values; ``weights`` is None where there are too many to carry."""

    title: str
    document: dict[str, Any]
    weights: bytes | None
    images: bytes
    pictures: int


def contents(member: Member, look: Look | None, no_images: str | None = None) -> Contents:
    """What to report of the network of ``member`` and of the ``look`` that it, and no other, took at images.

    ``no_images`` says why there was no ``look``. Raises ``RunError`` or ``ConfigError`` when the run is damaged.
    """
    checkpoint = member.checkpoint
    theta = checkpoint.parameters
    result = evaluate(look.together, look.part.split.labels, WORST) if look else None
    chosen, sample = _chosen(look, result) if look and result else ([], 0)
    title = _readable(member.run.name if member.run else member.path.name)
    document = {
        "title": title,
        "version": __version__,
        "checkpoint": name_of(member),
        "dataset": checkpoint.dataset,
        "fallback_from": fallback_from(checkpoint),
        "network": {
            "sizes": theta.sizes,
            "parameters": len(theta.vector),
            "activation": checkpoint.config.network.activation,
            "objective": checkpoint.config.network.objective,
            "probabilities": OBJECTIVES[checkpoint.config.network.objective].probabilities,
            "dtype": checkpoint.config.network.dtype,
            "image_shape": checkpoint.image_shape,
            "class_names": checkpoint.names,
            "preprocessing": checkpoint.config.data.preprocessing,
            "multi_label": checkpoint.multi_label,
        },
        "board": {
            "why_not": _no_board(checkpoint, theta.vector.nbytes <= MOST_WEIGHT_BYTES),
            "normalise": checkpoint.image_shape == (28, 28) and checkpoint.dataset not in NOT_NORMALISED,
        },
        **_run(member),
        "look": _look(look, result, chosen, sample) if look and result else None,
        "no_images": no_images,
    }
    pixels = look.part.split.images[chosen] if look else np.empty(0, np.uint8)
    return Contents(title, document, weights_of(theta), squeeze(pixels), len(chosen))


def weights_of(theta: Parameters) -> bytes | None:
    """The bytes of ``theta`` as a page has them; None where they are too many to carry."""
    if theta.vector.nbytes > MOST_WEIGHT_BYTES:
        return None
    return theta.to_c_order().astype(theta.vector.dtype.newbyteorder("<")).tobytes()


def name_of(member: Member) -> dict[str, Any]:
    """Return the checkpoint's name as in a document."""
    return {"name": _readable(member.path.stem), "epoch": member.checkpoint.epoch}


def waiting(run: Path, why: str) -> Contents:
    """What to report of the run ``run`` before it has a checkpoint, in the form of :func:`contents`; ``why`` says that.

    Raises ``RunError`` or ``ConfigError`` when the run is damaged.
    """
    title = _readable(run.resolve().name)
    document = {
        "title": title,
        "version": __version__,
        "checkpoint": None,
        "dataset": None,
        "fallback_from": None,
        "network": None,
        "board": {"why_not": why, "normalise": False},
        **of_run(run),
        "look": None,
        "no_images": why,
    }
    return Contents(title, document, None, b"", 0)


def squeeze(pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of ``pixels``, each run of n zeros as 0 n."""
    return re.sub(rb"\0{1,255}", lambda zeros: bytes((0, len(zeros[0]))), pixels.tobytes())


def _run(member: Member) -> dict[str, Any]:
    """What the run's directory tells, if the checkpoint lies in one; else its config alone."""
    run = member.run
    if run is None:
        config = config_module.to_yaml(member.checkpoint.config)
        return {"run": None, "epochs": [], "test": None, "config": config, "manifest": None}
    return of_run(run)


def of_run(run: Path) -> dict[str, Any]:
    """What the files of the run ``run`` tell, checkpoints left out. Raises ``RunError`` or ``ConfigError``."""
    found = read_run(run)
    return {
        "run": {
            **{key: value for key, value in asdict(found.summary).items() if key != "path"},
            "seconds": found.metrics.seconds,
        },
        "epochs": _thinned(found.metrics.records, found.metrics.epochs, found.summary.best_epoch),
        "test": found.test,
        "config": config_module.to_yaml(found.config),
        "manifest": found.manifest or None,
    }


def _look(look: Look, result: Evaluation, chosen: list[int], sample: int) -> dict[str, Any]:
    """Return the measurements, and of each image in the page [index in the split, label, predicted, confidence].

    The first ``sample`` of them lie evenly in the split.
    """
    labels, said = look.part.split.labels, look.together
    confidence = said.confidence
    place = {index: position for position, index in enumerate(chosen)}
    measured = result.to_dict()
    return {
        "dataset": look.part.name,
        "split": look.split,
        **{key: measured[key] for key in ("examples", "errors", "error", "interval", "loss", "confusion", "per_class")},
        "calibration_error": measured["calibration"] and measured["calibration"]["expected_calibration_error"],
        "multi_label": measured.get("multi_label"),
        "images": [[i, plain_label(labels[i]), plain_label(said.predicted[i]), float(confidence[i])] for i in chosen],
        "sample": sample,
        "worst": [place[mistake.index] for mistake in result.worst if mistake.index in place],
    }


def _chosen(look: Look, result: Evaluation) -> tuple[list[int], int]:
    """Return the images to carry, as indices into the split, and how many of them, the first, are an even sample.

    After the sample come the worst mistakes, then each cell of the confusion matrix in turn gives one: its mistakes by
    falling confidence, or what is right by rising confidence, until ``IMAGE_BYTES`` are spent or every cell has given
    all, or ``MOST_OF_A_CELL``.
    """
    labels, predicted, confidence = look.part.split.labels, look.together.predicted, look.together.confidence
    right = labels == predicted
    if labels.ndim == 2:  # all that is right is a cell, and all that is wrong another
        right = right.all(axis=1)
        cell = right.astype(np.int64)
    else:
        cell = labels.astype(np.int64) * look.together.p.shape[1] + predicted
    key = np.where(right, confidence, -confidence)
    order = np.lexsort((key, cell))  # by cell, then as the cell gives them; equal ones in file order
    begins = np.searchsorted(cell[order], cell[order])
    turn = np.arange(len(order)) - begins
    in_turn = order[np.argsort(turn, kind="stable")][: int(np.count_nonzero(turn < MOST_OF_A_CELL))]
    images, pixels = look.part.split.images.shape
    # At most three quarters of the room, though no byte of an image be 0.
    size = max(1, min(SAMPLE, images, IMAGE_BYTES * 3 // 4 // pixels))
    sample = np.linspace(0, images - 1, size).astype(int).tolist()
    chosen: dict[int, None] = {}
    left = IMAGE_BYTES
    for index in (*sample, *(mistake.index for mistake in result.worst), *in_turn.tolist()):
        if index not in chosen:
            left -= len(squeeze(look.part.split.images[index]))
            if left < 0:
                break
            chosen[index] = None
    return list(chosen), min(len(sample), len(chosen))


def _thinned(records: list[dict[str, Any]], epochs: int, best: int | None) -> list[dict[str, Any]]:
    """At most about ``MOST_EPOCHS`` of the ``records``, evenly; the first, the last and the best among them."""
    step = -(-epochs // MOST_EPOCHS)
    return [line for line in records if line["epoch"] % step == 0 or line["epoch"] in (1, epochs, best)]


def _no_board(checkpoint: Checkpoint, small: bool) -> str | None:
    shape, (low, high) = checkpoint.image_shape, DRAWABLE
    if checkpoint.config.network.single_output:
        return "The network has one output unit, and the board shows one for each class."
    if not small:
        return f"The network is too large for a page: its weights take more than {MOST_WEIGHT_BYTES >> 20} MiB."
    if min(shape) < low or max(shape) > high:
        return f"Images of {shape[0]} × {shape[1]} pixels cannot be drawn: a side has to be {low} to {high} pixels."
    return None


def _readable(name: str) -> str:
    """A file's name as text, also where its bytes are none."""
    return Path(name).name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
