"""Contents of a report: metrics of the run, its weights, and selected images.

N images of D pixels, K classes. The weights are stored as the bytes of the flat parameter vector, W1 b1 W2 b2 ...,
little-endian, in the run's dtype; the images as their pixels, one image after the other, with each run of n zeros, n
from 1 to 255, written as the two bytes 0 n. Most of a digit is background: this takes a quarter of the bytes, without
loss.
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
from mlpcli.analysis.evaluate_runs import EvaluatedRuns
from mlpcli.analysis.evaluation import Evaluation, LoadedModel, evaluate, fallback_from, plain_label
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.model.parameters import Parameters
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.summary import Recorded, read_run
from mlpcli.training.connections import connections, count_fixed, spread

Array = NDArray[Any]

MAX_WORST = 24
MAX_PER_CELL = 60
IMAGE_BYTES = 350_000
# An even sample of the split: on these the page measures the error while the user trains the network in it.
SAMPLE = 300
MAX_EPOCHS = 500
MAX_WEIGHT_BYTES = 64 * 1024 * 1024
# Sides of an image that can be drawn: the grid is neither too coarse nor too fine for a pen.
DRAWABLE = (4, 512)
# Data sets that are not centred and scaled as MNIST is.
NOT_NORMALISED = ("fashion-mnist",)


@dataclass(frozen=True, eq=False)
class Contents:
    """All contents of a report: ``document`` has plain values; ``weights`` is None if there are too many for a page."""

    title: str
    document: dict[str, Any]
    weights: bytes | None
    images: bytes
    pictures: int


def contents(model: LoadedModel, evaluated: EvaluatedRuns | None, no_images: str | None = None) -> Contents:
    """Gather the contents for the network of ``model`` and ``evaluated``, its evaluation alone.

    ``no_images`` is the reason if ``evaluated`` is None. Raises ``RunError`` or ``ConfigError`` for a damaged run.
    """
    checkpoint = model.checkpoint
    theta = checkpoint.parameters
    result = evaluate(evaluated.ensemble, evaluated.part.split.labels, MAX_WORST) if evaluated else None
    chosen, sample = _chosen(evaluated, result) if evaluated and result else ([], 0)
    title = _readable(model.run.resolve().name if model.run else model.path.name)
    document = {
        "title": title,
        "version": __version__,
        "checkpoint": name_of(model),
        "dataset": checkpoint.dataset,
        "fallback_from": fallback_from(checkpoint),
        "network": {
            "sizes": theta.sizes,
            "parameters": len(theta.vector),
            "fixed": count_fixed(connections(checkpoint.config.network, checkpoint.image_shape)),
            "activation": checkpoint.config.network.activation,
            "objective": checkpoint.config.network.objective,
            "probabilities": OBJECTIVES[checkpoint.config.network.objective].probabilities,
            "dtype": checkpoint.config.network.dtype,
            "image_shape": checkpoint.image_shape,
            "class_names": checkpoint.names,
            "preprocessing": checkpoint.config.data.preprocessing,
            "multi_label": checkpoint.multi_label,
            "single_output": checkpoint.config.network.single_output,
            "receptive_fields": _receptive_fields(checkpoint),
        },
        "board": {
            "why_not": _no_board(checkpoint, theta.vector.nbytes <= MAX_WEIGHT_BYTES),
            "normalise": checkpoint.image_shape == (28, 28) and checkpoint.dataset not in NOT_NORMALISED,
        },
        **_run(model),
        "evaluation": _evaluation(evaluated, result, chosen, sample) if evaluated and result else None,
        "no_images": no_images,
    }
    pixels = evaluated.part.split.images[chosen] if evaluated else np.empty(0, np.uint8)
    return Contents(title, document, weights_of(theta), compress(pixels), len(chosen))


def _receptive_fields(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Return the radius, and the places of the units, of each layer that has receptive fields."""
    network, shape = checkpoint.config.network, checkpoint.image_shape
    radii = network.receptive_fields or ()
    places = [spread(units, shape, radii[0]).tolist() for _, units in zip(radii, network.hidden, strict=False)]
    return [{"radius": radius, "places": each} for radius, each in zip(radii, places, strict=True)]


def weights_of(theta: Parameters) -> bytes | None:
    """Return the bytes of ``theta`` as a page stores them; None if there are too many."""
    if theta.vector.nbytes > MAX_WEIGHT_BYTES:
        return None
    return theta.to_c_order().astype(theta.vector.dtype.newbyteorder("<")).tobytes()


def name_of(model: LoadedModel) -> dict[str, Any]:
    """Return the name and epoch of the checkpoint as in a document."""
    return {"name": _readable(model.path.stem), "epoch": model.checkpoint.epoch}


def waiting(run: Path, why: str) -> Contents:
    """Gather the contents for ``run`` before it has a checkpoint; ``why`` is the reason.

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
        "evaluation": None,
        "no_images": why,
    }
    return Contents(title, document, None, b"", 0)


def compress(pixels: NDArray[np.uint8]) -> bytes:
    """Return the bytes of ``pixels``, with each run of n zeros as 0 n."""
    return re.sub(rb"\0{1,255}", lambda zeros: bytes((0, len(zeros[0]))), pixels.tobytes())


def _run(model: LoadedModel) -> dict[str, Any]:
    """Return the contents of the run's directory, if the checkpoint lies in one; else its config alone."""
    run = model.run
    if run is None:
        config = config_module.to_yaml(model.checkpoint.config)
        return {"run": None, "epochs": [], "test": None, "config": config, "manifest": None}
    return _recorded(model.recorded) if model.recorded else of_run(run)


def of_run(run: Path) -> dict[str, Any]:
    """Return the contents of the files of ``run``, without checkpoints. Raises ``RunError`` or ``ConfigError``."""
    return _recorded(read_run(run))


def _recorded(found: Recorded) -> dict[str, Any]:
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


def _evaluation(evaluated: EvaluatedRuns, result: Evaluation, chosen: list[int], sample: int) -> dict[str, Any]:
    """Return the measurements, and for each image in the page [index in the split, label, predicted, confidence].

    The first ``sample`` of the images are an even sample of the split.
    """
    labels, outputs = evaluated.part.split.labels, evaluated.ensemble
    confidence = outputs.confidence
    place = {index: position for position, index in enumerate(chosen)}
    measured = result.to_dict()
    return {
        "dataset": evaluated.part.name,
        "split": evaluated.split,
        **{key: measured[key] for key in ("examples", "errors", "error", "interval", "loss", "confusion", "per_class")},
        "calibration_error": measured["calibration"] and measured["calibration"]["expected_calibration_error"],
        "multi_label": measured.get("multi_label"),
        "images": [
            [i, plain_label(labels[i]), plain_label(outputs.predicted[i]), float(confidence[i])] for i in chosen
        ],
        "sample": sample,
        "worst": [place[mistake.index] for mistake in result.worst if mistake.index in place],
    }


def _chosen(evaluated: EvaluatedRuns, result: Evaluation) -> tuple[list[int], int]:
    """Select images for the page: return their indices in the split, and the size of the even sample they begin with.

    After the sample come the worst mistakes. Then the cells of the confusion matrix give one image each in turn, its
    mistakes by falling confidence, or correct images by rising confidence, until ``IMAGE_BYTES`` are used or every cell
    is empty or has given ``MAX_PER_CELL``.
    """
    labels, predicted, confidence = (
        evaluated.part.split.labels,
        evaluated.ensemble.predicted,
        evaluated.ensemble.confidence,
    )
    right = labels == predicted
    if labels.ndim == 2:  # one cell for correct images, one for all others
        right = right.all(axis=1)
        cell = right.astype(np.int64)
    else:
        cell = labels.astype(np.int64) * evaluated.ensemble.p.shape[1] + predicted
    key = np.where(right, confidence, -confidence)
    order = np.lexsort((key, cell))  # by cell, then in the order of selection; equal ones in file order
    begins = np.searchsorted(cell[order], cell[order])
    turn = np.arange(len(order)) - begins
    in_turn = order[np.argsort(turn, kind="stable")][: int(np.count_nonzero(turn < MAX_PER_CELL))]
    images, pixels = evaluated.part.split.images.shape
    # At most three quarters of the space, even if no byte of an image is 0.
    size = max(1, min(SAMPLE, images, IMAGE_BYTES * 3 // 4 // pixels))
    sample = np.linspace(0, images - 1, size).astype(int).tolist()
    chosen: dict[int, None] = {}
    left = IMAGE_BYTES
    for index in (*sample, *(mistake.index for mistake in result.worst), *in_turn.tolist()):
        if index not in chosen:
            left -= len(compress(evaluated.part.split.images[index]))
            if left < 0:
                break
            chosen[index] = None
    return list(chosen), min(len(sample), len(chosen))


def _thinned(records: list[dict[str, Any]], epochs: int, best: int | None) -> list[dict[str, Any]]:
    """Select about ``MAX_EPOCHS`` of the ``records``, evenly, with the first, the last and the best among them."""
    step = -(-epochs // MAX_EPOCHS)
    return [line for line in records if line["epoch"] % step == 0 or line["epoch"] in (1, epochs, best)]


def _no_board(checkpoint: Checkpoint, small: bool) -> str | None:
    shape, (low, high) = checkpoint.image_shape, DRAWABLE
    if not small:
        return f"The network is too large for a page: its weights take more than {MAX_WEIGHT_BYTES >> 20} MiB."
    if min(shape) < low or max(shape) > high:
        return f"Images of {shape[0]} × {shape[1]} pixels cannot be drawn: a side has to be {low} to {high} pixels."
    return None


def _readable(name: str) -> str:
    """Return a file's name as text, also if its bytes are not valid UTF-8."""
    return Path(name).name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
