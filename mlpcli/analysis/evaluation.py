"""Evaluation of trained networks, individually or as an ensemble: error, confusion, calibration, mistakes.

N images, K classes. ``p`` (N, K) are the values of the output unit, ``labels`` (N,) the true classes and ``predicted``
(N,) the predicted ones: the class of the largest logit. The *confidence* in a prediction is p of the predicted class,
the largest of the row.

With several labels per image, ``labels`` and ``predicted`` are (N, K): 1 for each true class, and 1 for each class
whose p is above 1/2. An image is an error unless its whole row is right. The confidence is the product of p of the
predicted classes and 1 - p of the others: the probability of the row, as the units are independent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.analysis.shifts import with_shifts
from mlpcli.config import DataConfig, held_out_by
from mlpcli.datasets.catalogue import CATALOGUE
from mlpcli.datasets.deskew import preprocessed
from mlpcli.datasets.foreign import data_of_a_run
from mlpcli.datasets.load import Part, Split, SplitName
from mlpcli.datasets.source import named_path
from mlpcli.datasets.upright import swaps
from mlpcli.errors import DataError, RunError, UsageError, shown
from mlpcli.model.build import Architecture
from mlpcli.model.objectives import OBJECTIVES, SoftmaxCrossEntropy
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.summary import Recorded, read_run
from mlpcli.state import architecture_of
from mlpcli.training import evaluate as forward
from mlpcli.training.evaluate import Evaluator
from mlpcli.training.targets import ClassNumber, MultiLabel, Targets, count_errors, targets_of

Array = NDArray[Any]

LEVEL = 0.95
BINS = 15
NOT_AN_ARRAY = "these are Outputs, not an array: take .predicted (N,) or .p (N, K)"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint, the file it was read from, and the run that the file lies in, if any.

    ``recorded`` are the run's other files if they were read with it.
    """

    path: Path
    run: Path | None
    checkpoint: Checkpoint
    recorded: Recorded | None = None


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of a network, or of an ensemble, for N images.

    ``p`` (N, K) float64; ``predicted`` (N,), or (N, K) with several labels per image. ``loss`` is the mean of the
    objective, penalty excluded; None without labels, or if an ensemble has no loss. ``probabilities`` is true if p are
    probabilities, ``log_likelihood`` if the loss is -ln p_label.
    """

    p: Array
    predicted: Array
    loss: float | None
    probabilities: bool
    log_likelihood: bool

    @property
    def confidence(self) -> Array:
        """Return p of the predicted class, (N,); with several labels that of the row, for scores the least margin."""
        confidence: Array
        if self.predicted.ndim == 1:
            confidence = self.p[np.arange(len(self.p)), self.predicted]
        elif self.probabilities:
            confidence = np.where(self.predicted, self.p, 1.0 - self.p).prod(axis=1)
        else:
            confidence = np.abs(self.p - 0.5).min(axis=1)
        return confidence

    def __array__(self, *_: Any, **__: Any) -> Array:
        # So that using the object itself as an array of labels, or of p, fails at once.
        raise TypeError(NOT_AN_ARRAY)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Outputs):
            return self is other
        raise TypeError(NOT_AN_ARRAY)  # where Python's own comparison with a number or a list is False

    __hash__ = object.__hash__


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a fraction, both ends between 0 and 1."""

    low: float
    high: float
    level: float


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, as fractions; None where the ratio is 0 / 0. ``examples`` is the number with this label."""

    label: int
    examples: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class MultiLabelScores:
    """Scores of multi-label predictions, as fractions.

    ``exact_match`` is the fraction of images whose labels are all right, ``label_error`` the fraction of all labels
    that are wrong, ``label_errors`` (K) that of each class. ``micro_f1`` is F1 over all labels, ``macro_f1`` the mean
    of the F1 of the classes that have one.
    """

    exact_match: float
    label_error: float
    label_errors: tuple[float, ...]
    micro_f1: float | None
    macro_f1: float | None


@dataclass(frozen=True)
class Bin:
    """A bin of predictions with a confidence in (low, high]: their number, mean confidence and accuracy."""

    low: float
    high: float
    examples: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """An expected calibration error, a fraction, and the bins it is computed from."""

    expected_calibration_error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Mistake:
    """A misclassified image: ``index`` in the split, from 0, in file order; several labels are lists of classes."""

    index: int
    label: int | list[int]
    predicted: int | list[int]
    confidence: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All measurements on one split. ``confusion`` (K, K): [i, j] images of label i are predicted as j.

    ``calibration`` is None if the outputs are not probabilities, ``loss`` if an ensemble has none. With several labels
    per image ``confusion`` is None, and ``multi_label`` has the scores.
    """

    examples: int
    errors: int
    error: float
    interval: Interval
    loss: float | None
    calibration: Calibration | None
    per_class: tuple[ClassScores, ...]
    confusion: Array | None
    worst: tuple[Mistake, ...]
    multi_label: MultiLabelScores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: no NaN; None for what is undefined."""
        plain = asdict(self)
        if self.multi_label is None:
            del plain["multi_label"]
        return {**plain, "confusion": None if self.confusion is None else self.confusion.tolist()}


def open_model(path: Path) -> LoadedModel:
    """Read the checkpoint in the file ``path``, or the best, else the last, of the run ``path``.

    All other files of a run are checked too. The checkpoints of a damaged run can be opened by their own paths. Raises
    ``RunError`` or ``ConfigError`` for missing or damaged files, or files of another version; the message names the
    run's other checkpoints.
    """
    recorded = read_run(path) if directory.is_folder(path) and directory.is_run(path) else None
    file = None
    try:
        file = directory.find_checkpoint(path)
        return LoadedModel(file, directory.run_of(file), checkpoints.read(file), recorded)
    except RunError as error:
        others = directory.other_checkpoints(path, file) if file not in (None, path) else []
        left = ", ".join(map(shown, others))
        raise RunError(f"{error}; other checkpoints of the run: {left}" if left else str(error)) from error


def check_average(models: Sequence[LoadedModel], shifts: int) -> None:
    """Raise ``UsageError`` unless p of ``models`` can be averaged, over all of them and over ``shifts``."""
    first = models[0].checkpoint
    for model in models[1:]:
        other = model.checkpoint
        differences: dict[str, tuple[Any, Any]] = {
            "takes images of another size": (first.image_shape, other.image_shape),
            "predicts another number of classes": (first.classes, other.classes),
            "predicts other classes": (first.names, other.names),
            "has another kind of labels": (first.multi_label, other.multi_label),
        }
        if first.hashes == other.hashes:
            orientations = swaps(first.config.data), swaps(other.config.data)
            differences["was trained on the same images in another orientation (data.transpose)"] = orientations
        _refuse_differences(models[0], model, differences)
    for model in models:
        objective = model.checkpoint.config.network.objective
        if OBJECTIVES[objective].probabilities:
            continue
        scores = f"averages probabilities, and the outputs of {objective} are not probabilities"
        if len(models) > 1:
            raise UsageError(f"no ensemble with {shown(model.path)}: it {scores}")
        if shifts:
            raise UsageError(f"no average over shifts with {shown(model.path)}: it {scores}")


def check_same_images(models: Sequence[LoadedModel], split: SplitName, dataset: str | None) -> None:
    """Raise ``UsageError`` unless ``models`` can be evaluated on the same images of ``split``.

    ``dataset`` is the data set to evaluate on, None for the one they were trained on.
    """
    first = models[0].checkpoint
    for model in models[1:]:
        other = model.checkpoint
        differences: dict[str, tuple[Any, Any]] = {}
        if dataset is None:
            differences["was trained on other images; name the data set to use with --data"] = (
                (first.dataset, first.hashes),
                (other.dataset, other.hashes),
            )
        if split != "test":
            differences["held out other images for validation; compare them on the test images"] = (
                held_out_by(first.config),
                held_out_by(other.config),
            )
        _refuse_differences(models[0], model, differences)


def _refuse_differences(first: LoadedModel, second: LoadedModel, differences: dict[str, tuple[Any, Any]]) -> None:
    for what, (a, b) in differences.items():
        if a != b:
            raise UsageError(f"no ensemble of {shown(first.path)} and {shown(second.path)}: the second {what}")


def fallback_from(checkpoint: Checkpoint) -> str | None:
    """Return the unavailable data set if the network was trained on the bundled sample instead; else None."""
    data = checkpoint.config.data
    instead = data.dataset in CATALOGUE and data.dataset != checkpoint.dataset == data.fallback
    return data.dataset if instead else None


def _exists(dataset: str) -> bool:
    from mlpcli.datasets.detect import exists  # imports the readers, which only data of the user's need

    return exists(named_path(dataset))


def data_for(
    checkpoint: Checkpoint,
    *,
    dataset: str | None = None,
    folder: str | None = None,
    sources: tuple[str, ...] = (),
    offline: bool = False,
) -> DataConfig:
    """Return the data to evaluate ``checkpoint`` on: its training data set, or ``dataset``; never a fallback.

    The arguments override the checkpoint's config, of which only harmless keys are used. Raises ``DataError`` if the
    training data are not there.
    """
    own = checkpoint.config.data
    trained_on = checkpoint.dataset if fallback_from(checkpoint) else own.dataset
    if dataset is None and trained_on not in CATALOGUE and not _exists(trained_on):
        raise DataError(f"{shown(trained_on)}: its training data are not here; say where they are with --data")
    wanted = trained_on if dataset is None else dataset
    own = replace(own, dataset=wanted, sources=own.sources if wanted == own.dataset else None)
    believed = data_of_a_run(own)
    return replace(
        believed,
        folder=believed.folder if folder is None else folder,
        sources=sources or believed.sources,
        offline=offline or (own.offline and not sources),
        fallback=None,
    )


def check_fit(checkpoint: Checkpoint, part: Part) -> None:
    """Raise ``DataError`` unless size, classes and labels of ``part`` fit the network of ``checkpoint``."""
    if part.image_shape != checkpoint.image_shape:
        raise DataError(
            f"{shown(part.name)}: its images have {_size(part.image_shape)} pixels, the network takes "
            f"{_size(checkpoint.image_shape)}"
        )
    if part.classes > checkpoint.classes:
        raise DataError(f"{shown(part.name)}: has {part.classes} classes, the network predicts {checkpoint.classes}")
    if part.split.multi_label != checkpoint.multi_label:
        several, one = "several labels per image", "one label per image"
        has, takes = (several, one) if part.split.multi_label else (one, several)
        raise DataError(f"{shown(part.name)}: has {has}, the network was trained on {takes}")


def changed_files(checkpoint: Checkpoint, part: Part) -> list[str]:
    """Return the names of the files of ``part`` whose hashes differ from those in ``checkpoint``."""
    return [name for name, digest in part.hashes.items() if checkpoint.hashes.get(name, digest) != digest]


def preprocessed_input(checkpoint: Checkpoint, images: Array) -> Array:
    """Return ``images`` (N, D), preprocessed as the training images of ``checkpoint`` were."""
    return preprocessed(images, checkpoint.image_shape, checkpoint.config.data.preprocessing)


def outputs(model: LoadedModel, split: Split) -> Outputs:
    """Return the outputs of ``model`` on ``split``, which fits it (:func:`check_fit`) and is not preprocessed yet.

    Raises ``RunError`` when they are not finite numbers.
    """
    checkpoint = model.checkpoint
    architecture = architecture_of(checkpoint.config, split.images.shape[1], checkpoint.classes)
    split = replace(split, images=preprocessed_input(checkpoint, split.images))
    evaluator = Evaluator(architecture, split, _targets(checkpoint), checkpoint.config.network.dtype)
    with np.errstate(all="ignore"):  # an overflow shows in the logits or the loss
        return _outputs(model, architecture, *evaluator.loss_and_logits(checkpoint.parameters))


def averaged_outputs(model: LoadedModel, split: Split, shifts: int) -> Outputs:
    """Return the mean of the probabilities of each image of ``split`` and of its ``shifts`` shifts, 0, 4 or 8.

    Otherwise as :func:`outputs`, and as :func:`ensemble_outputs` the loss.
    """
    moved = with_shifts(split.images, model.checkpoint.image_shape, shifts)
    return ensemble_outputs([outputs(model, replace(split, images=each)) for each in moved], split.labels)


def predictions(models: Sequence[LoadedModel], images: Array, shifts: int = 0) -> Outputs:
    """Return the outputs of ``models`` on ``images`` (N, D) without labels: bytes, or numbers from 0 to 1.

    They are means over all models and over each image and its ``shifts`` shifts; see :func:`check_average`. The images
    are not preprocessed yet. ``loss`` is None. Raises ``RunError`` when outputs are not finite numbers.
    """
    moved = with_shifts(images, models[0].checkpoint.image_shape, shifts)
    return ensemble_outputs([_predictions(model, each) for each in moved for model in models])


def _predictions(model: LoadedModel, images: Array) -> Outputs:
    checkpoint = model.checkpoint
    architecture = architecture_of(checkpoint.config, images.shape[1], checkpoint.classes)
    with np.errstate(all="ignore"):
        z = forward.logits(architecture, checkpoint.parameters, preprocessed_input(checkpoint, images))
        return _outputs(model, architecture, None, z)


def _outputs(model: LoadedModel, architecture: Architecture, loss: float | None, logits: Array) -> Outputs:
    if not (np.isfinite(logits).all() and (loss is None or math.isfinite(loss))):
        raise RunError(f"{shown(model.path)}: its outputs are not finite numbers: its parameters are too large")
    # In float64 fewer outputs round to the same number, above all to 1, so mistakes can be ranked.
    z = logits.astype(np.float64)
    p = np.empty_like(z)
    architecture.objective.output(z, p)
    targets, probabilities = _targets(model.checkpoint), architecture.objective.probabilities
    return Outputs(
        p=targets.outputs_by_class(p, probabilities) if isinstance(targets, ClassNumber) else p,
        predicted=targets.predicted(logits, p),
        loss=loss,
        probabilities=probabilities,
        log_likelihood=isinstance(architecture.objective, SoftmaxCrossEntropy),
    )


def _targets(checkpoint: Checkpoint) -> Targets:
    return targets_of(checkpoint.config, checkpoint.classes, checkpoint.multi_label)


def ensemble_outputs(models: Sequence[Outputs], labels: Array | None = None) -> Outputs:
    """Return the mean of the models' probabilities, or the outputs of a single model. ``labels`` (N,), or (N, K).

    If each model's loss is -ln p_label, the ensemble's is -ln of the mean p_label. It is then at most the mean of their
    losses, as -ln is convex. Otherwise, without labels, or if the ensemble gives a label probability 0, ``loss`` is
    None.
    """
    if len(models) == 1:
        return models[0]
    p = np.mean([model.p for model in models], axis=0)
    if models[0].predicted.ndim == 2:
        return Outputs(p, MultiLabel().predicted(p, p), None, True, False)
    log_likelihood = all(model.log_likelihood for model in models)
    loss = math.inf
    if log_likelihood and labels is not None:
        with np.errstate(divide="ignore"):
            loss = -float(np.log(p[np.arange(len(labels)), labels]).mean())
    return Outputs(p, p.argmax(axis=1), loss if math.isfinite(loss) else None, True, log_likelihood)


def evaluate(outputs: Outputs, labels: Array, worst: int = 0) -> Evaluation:
    """Compare ``outputs`` with ``labels`` (N,) or (N, K); list the ``worst`` most confident mistakes."""
    examples, errors = len(labels), count_errors(outputs.predicted, labels)
    confusion, multi_label = None, None
    if labels.ndim == 2:
        per_class = label_scores(labels, outputs.predicted)
        multi_label = multi_label_scores(labels, outputs.predicted, per_class)
    else:
        confusion = confusion_matrix(labels, outputs.predicted, outputs.p.shape[1])
        per_class = class_scores(confusion)
    right = np.asarray(outputs.predicted == labels)
    return Evaluation(
        examples=examples,
        errors=errors,
        error=errors / examples,
        interval=wilson_interval(errors, examples),
        loss=outputs.loss,
        calibration=calibration(outputs.confidence, _rows_right(right)) if outputs.probabilities else None,
        per_class=per_class,
        confusion=confusion,
        worst=mistakes(outputs, labels, worst),
        multi_label=multi_label,
    )


def evaluation_record(
    model: LoadedModel, result: Evaluation, part: Part, split: SplitName, ensemble: Evaluation | None, shifts: int
) -> dict[str, Any]:
    """Return the line of evaluations.jsonl for an evaluation of ``model`` on ``split`` of ``part``, with its UTC time.

    ``result`` is that of the model alone, ``ensemble`` that of the ensemble in which it was also evaluated; ``shifts``
    is the number of shifts that each image was averaged with.
    """
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": model.path.stem,
        "dataset": part.name,
        "split": split,
        "examples": result.examples,
        "errors": result.errors,
        "error": result.error,
        "loss": result.loss,
        "ensemble": ensemble is not None,
        "average_shifts": shifts,
    }
    if ensemble is not None:
        line |= {f"ensemble_{name}": getattr(ensemble, name) for name in ("errors", "error", "loss")}
    return line


def wilson_interval(count: int, total: int, level: float = LEVEL) -> Interval:
    """Return the score interval of a fraction, observed as ``count`` of ``total`` >= 1.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference": with q = count / total and z
    the normal quantile of (1 + level) / 2,

        (q + z^2 / 2n +- z sqrt(q (1 - q) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    from statistics import NormalDist  # imports decimal and fractions, which most commands do not need

    z = NormalDist().inv_cdf((1 + level) / 2)
    q, z2 = count / total, z * z / total
    middle, half = q + z2 / 2, math.sqrt(z2 * (q * (1 - q) + z2 / 4))
    # If count is total the upper end is exactly 1, which rounding would miss; if it is 0 the lower end comes out as 0.
    high = (middle + half) / (1 + z2) if count < total else 1.0
    return Interval((middle - half) / (1 + z2), high, level)


def confusion_matrix(labels: Array, predicted: Array, classes: int) -> Array:
    """Count the images [i, j] of label i predicted as j, (K, K). ``labels`` and ``predicted`` (N,) in 0 .. K - 1."""
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_scores(confusion: Array) -> tuple[ClassScores, ...]:
    """Compute precision C_kk / sum_i C_ik, recall C_kk / sum_j C_kj and their harmonic mean F1 from C (K, K).

    F1 = 2 C_kk / (sum_i C_ik + sum_j C_kj): van Rijsbergen 1979, "Information Retrieval", chapter 7, as 1 - E with
    alpha = 1/2. It is 0, and not undefined, where only one of the two sums is 0.
    """
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return tuple(
        ClassScores(k, int(rows), _ratio(right, columns), _ratio(right, rows), _ratio(2 * right, rows + columns))
        for k, (right, rows, columns) in enumerate(zip(confusion.diagonal(), labelled, predicted, strict=True))
    )


def label_scores(labels: Array, predicted: Array) -> tuple[ClassScores, ...]:
    """Compute precision, recall and F1 of each column of ``predicted`` (N, K), as in :func:`class_scores`."""
    right = (labels & predicted).sum(axis=0)
    counts = zip(right, labels.sum(axis=0), predicted.sum(axis=0), strict=True)
    return tuple(
        ClassScores(k, int(n), _ratio(hits, guessed), _ratio(hits, n), _ratio(2 * hits, int(n) + int(guessed)))
        for k, (hits, n, guessed) in enumerate(counts)
    )


def multi_label_scores(labels: Array, predicted: Array, per_class: Sequence[ClassScores]) -> MultiLabelScores:
    """Compute the scores over all columns of ``labels`` and ``predicted`` (N, K).

    Yang 1999, "An evaluation of statistical approaches to text categorization", section 2: micro-averaged scores are
    over all decisions, macro-averaged ones means over the classes.
    """
    wrong = labels != predicted
    f1 = [each.f1 for each in per_class if each.f1 is not None]
    hits = int((labels & predicted).sum())
    return MultiLabelScores(
        exact_match=1.0 - count_errors(predicted, labels) / len(labels),
        label_error=float(wrong.mean()),
        label_errors=tuple(wrong.mean(axis=0).tolist()),
        micro_f1=_ratio(2 * hits, int(labels.sum()) + int(predicted.sum())),
        macro_f1=sum(f1) / len(f1) if f1 else None,
    )


def calibration(confidence: Array, right: Array) -> Calibration:
    """Compare the confidence (N,) in (0, 1] with the fraction of right predictions; ``right`` (N,) of bool.

    Guo et al. 2017, "On calibration of modern neural networks", equation 3, with 15 bins of equal width:

        ECE = sum_m |B_m| / N  |accuracy(B_m) - confidence(B_m)|
    """
    edges = np.arange(BINS + 1) / BINS
    bins = np.searchsorted(edges[1:-1], confidence)
    examples = np.bincount(bins, minlength=BINS)
    total = np.bincount(bins, confidence, BINS)
    hits = np.bincount(bins, right, BINS)
    return Calibration(
        float(np.abs(hits - total).sum() / len(confidence)),
        tuple(
            Bin(float(low), float(high), int(n), _ratio(t, n), _ratio(h, n))
            for low, high, n, t, h in zip(edges, edges[1:], examples, total, hits, strict=False)
        ),
    )


def mistakes(outputs: Outputs, labels: Array, count: int) -> tuple[Mistake, ...]:
    """List the ``count`` wrong predictions of the highest confidence, highest first; equal ones in file order."""
    wrong = np.flatnonzero(~_rows_right(outputs.predicted == labels))
    confidence = outputs.confidence[wrong]
    return tuple(
        Mistake(
            int(wrong[i]), plain_label(labels[wrong[i]]), plain_label(outputs.predicted[wrong[i]]), float(confidence[i])
        )
        for i in np.argsort(-confidence, kind="stable")[:count]
    )


def plain_label(label: Array) -> int | list[int]:
    """Return ``label`` as a number; a row of 0 and 1 (K,) as the list of its classes."""
    return np.flatnonzero(label).tolist() if label.ndim else int(label)


def _rows_right(right: Array) -> Array:
    """Return for each example whether it is right; if ``right`` is (N, K), whether all of its row is."""
    return np.asarray(right.reshape(len(right), -1).all(axis=1))


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
