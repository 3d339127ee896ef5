"""Holds trained networks, alone or as a committee, against labelled images: error, confusion, calibration, mistakes.

N images, K classes. ``p`` (N, K) are the values of the output unit, ``labels`` (N,) what the images show and
``predicted`` (N,) what the network takes them for: the class of the largest logit. The *confidence* in a prediction is
p of the predicted class, the largest of the row.

Where several classes may be right at once ``labels`` and ``predicted`` are (N, K), 1 for each that is: for each whose p
is above 1/2. An image is an error unless the whole row is right, and the confidence is the product of p of each class
that is predicted and 1 - p of each that is not: the probability of the row, as the units are independent.
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

from mlpcli.config import Config, DataConfig
from mlpcli.datasets.catalogue import CATALOGUE
from mlpcli.datasets.deskew import preprocessed
from mlpcli.datasets.foreign import data_of_a_run
from mlpcli.datasets.load import Part, Split, SplitName
from mlpcli.datasets.source import named_path
from mlpcli.errors import DataError, RunError, UsageError, shown
from mlpcli.model.build import Architecture
from mlpcli.model.objectives import OBJECTIVES, SoftmaxCrossEntropy
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.summary import read_run
from mlpcli.state import architecture_of
from mlpcli.training import evaluate as forward
from mlpcli.training.evaluate import Evaluator
from mlpcli.training.targets import ClassNumber, MultiLabel, Targets, count_errors, targets_of

Array = NDArray[Any]

LEVEL = 0.95
BINS = 15


@dataclass(frozen=True, eq=False)
class Member:
    """A checkpoint, the file it was read from, and the run that the file lies in, if in one."""

    path: Path
    run: Path | None
    checkpoint: Checkpoint


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs of a network, or of an ensemble, for N images.

    ``p`` (N, K) float64; ``predicted`` (N,), or (N, K) where several classes may be right; ``loss`` its objective's
    mean, penalty excluded, None for a committee that has none and where there are no labels; ``probabilities``: whether
    p can be read as such; ``log_likelihood``: whether the loss is -ln p_label.
    """

    p: Array
    predicted: Array
    loss: float | None
    probabilities: bool
    log_likelihood: bool

    @property
    def confidence(self) -> Array:
        """p of the predicted class, (N,); of several classes that of the row, and if p are none their least margin."""
        confidence: Array
        if self.predicted.ndim == 1:
            confidence = self.p[np.arange(len(self.p)), self.predicted]
        elif self.probabilities:
            confidence = np.where(self.predicted, self.p, 1.0 - self.p).prod(axis=1)
        else:
            confidence = np.abs(self.p - 0.5).min(axis=1)
        return confidence

    def __array__(self, *_: Any, **__: Any) -> Array:
        # So that taking it for an array of labels, or of p, fails where it is done.
        raise TypeError("these are Outputs, not an array: take .predicted (N,) or .p (N, K)")


@dataclass(frozen=True)
class Interval:
    """A confidence interval for a share, both ends between 0 and 1."""

    low: float
    high: float
    level: float


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class, as fractions; None where the ratio is 0 / 0. ``examples`` have it as their label."""

    label: int
    examples: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class MultiLabelScores:
    """The scores of multi-label predictions, as fractions.

    ``exact_match`` is the share of images all of whose labels are right, ``label_error`` that of all labels that are
    wrong, ``label_errors`` (K) that of each class. ``micro_f1`` is F1 of all labels together, ``macro_f1`` the mean of
    the classes' F1, those that have one.
    """

    exact_match: float
    label_error: float
    label_errors: tuple[float, ...]
    micro_f1: float | None
    macro_f1: float | None


@dataclass(frozen=True)
class Bin:
    """The predictions with a confidence in (low, high]: how many, their mean confidence, the share that is right."""

    low: float
    high: float
    examples: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, a share, and the bins it is computed from."""

    expected_calibration_error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Mistake:
    """A wrongly classified image: its index in the split, from 0 in file order; of several labels lists of classes."""

    index: int
    label: int | list[int]
    predicted: int | list[int]
    confidence: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that is measured on one split. ``confusion`` (K, K): [i, j] images of label i are predicted as j.

    ``calibration`` is None where the outputs are no probabilities, ``loss`` where a committee has none. Where several
    classes may be right ``confusion`` is None, as no class is taken for another, and there is ``multi_label``.
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
        """Plain values, ready for JSON: no NaN, None where something is undefined."""
        plain = asdict(self)
        if self.multi_label is None:
            del plain["multi_label"]
        return {**plain, "confusion": None if self.confusion is None else self.confusion.tolist()}


def open_member(path: Path) -> Member:
    """The checkpoint in the file ``path``, or of the run ``path``: its best, else its last.

    Of a run all other files are checked too, as every command that is given the run does; a damaged run's checkpoints
    can be named one by one. Raises ``RunError`` or ``ConfigError`` when anything is missing, damaged or of another
    version; nothing is taken instead, but of a run's other checkpoints the message says the names.
    """
    if directory.is_folder(path) and directory.is_run(path):
        read_run(path)
    file = None
    try:
        file = directory.find_checkpoint(path)
        return Member(file, directory.run_of(file), checkpoints.read(file))
    except RunError as error:
        others = directory.other_checkpoints(path, file) if file not in (None, path) else []
        left = ", ".join(map(shown, others))
        raise RunError(f"{error}; other checkpoints of the run: {left}" if left else str(error)) from error


def check_committee(members: Sequence[Member], split: SplitName, dataset: str | None) -> None:
    """Raise ``UsageError`` unless ``members`` can be held against the same images, and their p be averaged.

    ``dataset`` is what they are to be held against, None for what they were trained on.
    """
    first = members[0].checkpoint
    for member in members[1:]:
        other = member.checkpoint
        differences: dict[str, tuple[Any, Any]] = {
            "takes images of another size": (first.image_shape, other.image_shape),
            "tells another number of classes": (first.classes, other.classes),
            "tells other classes": (first.names, other.names),
            "has another kind of labels": (first.multi_label, other.multi_label),
        }
        if dataset is None:
            differences["was trained on other images; name the data set to use with --data"] = (
                (first.dataset, first.hashes),
                (other.dataset, other.hashes),
            )
        if split != "test":
            differences["held out other images for validation; compare them on the test images"] = (
                _held_out_by(first.config),
                _held_out_by(other.config),
            )
        for what, (a, b) in differences.items():
            if a != b:
                raise UsageError(
                    f"no committee of {shown(members[0].path)} and {shown(member.path)}: the second {what}"
                )
    for member in members if len(members) > 1 else ():
        objective = member.checkpoint.config.network.objective
        if not OBJECTIVES[objective].probabilities:
            raise UsageError(
                f"no committee with {shown(member.path)}: it averages probabilities, and the outputs of {objective} "
                "are none"
            )


def _held_out_by(config: Config) -> tuple[Any, ...]:
    """Return the settings that decide which images are held out for validation."""
    data = config.data
    return data.validation, data.validation_order, config.seed if data.validation_order != "file" else None


def fallback_from(checkpoint: Checkpoint) -> str | None:
    """The data set that could not be had, where the network was trained on the bundled sample instead; else None."""
    data = checkpoint.config.data
    instead = data.dataset in CATALOGUE and data.dataset != checkpoint.dataset == data.fallback
    return data.dataset if instead else None


def _exists(dataset: str) -> bool:
    from mlpcli.datasets.detect import exists  # its readers are imported for data of the user's alone

    return exists(named_path(dataset))


def data_for(
    checkpoint: Checkpoint,
    *,
    dataset: str | None = None,
    folder: str | None = None,
    sources: tuple[str, ...] = (),
    offline: bool = False,
) -> DataConfig:
    """Return the data to evaluate ``checkpoint`` on: what it was trained on, or ``dataset``; never a fallback.

    What is given overrides the checkpoint's config, of which only what is harmless is used. Raises ``DataError`` if
    what it was trained on is not there.
    """
    own = checkpoint.config.data
    trained_on = checkpoint.dataset if fallback_from(checkpoint) else own.dataset
    if dataset is None and trained_on not in CATALOGUE and not _exists(trained_on):
        raise DataError(f"{shown(trained_on)}: what it was trained on is not here; say where it is with --data")
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
    """Raise ``DataError`` unless the network of ``checkpoint`` can take the images and tell the classes of ``part``."""
    if part.image_shape != checkpoint.image_shape:
        raise DataError(
            f"{shown(part.name)}: its images are of {_size(part.image_shape)} pixels, the network takes "
            f"{_size(checkpoint.image_shape)}"
        )
    if part.classes > checkpoint.classes:
        raise DataError(f"{shown(part.name)}: has {part.classes} classes, the network tells {checkpoint.classes}")
    if part.split.multi_label != checkpoint.multi_label:
        several, one = "several labels an image", "one label an image"
        has, takes = (several, one) if part.split.multi_label else (one, several)
        raise DataError(f"{shown(part.name)}: has {has}, the network was trained on {takes}")


def changed_files(checkpoint: Checkpoint, part: Part) -> list[str]:
    """The files of ``part`` that are not those the network was trained on, by their hashes."""
    return [name for name, digest in part.hashes.items() if checkpoint.hashes.get(name, digest) != digest]


def seen(checkpoint: Checkpoint, images: Array) -> Array:
    """What the network of ``checkpoint`` is given of ``images`` (N, D): preprocessed as those it was trained on."""
    return preprocessed(images, checkpoint.image_shape, checkpoint.config.data.preprocessing)


def outputs(member: Member, split: Split) -> Outputs:
    """The outputs of the network of ``member`` on ``split``, images as in the files, which fits it (:func:`check_fit`).

    Raises ``RunError`` when they are no finite numbers.
    """
    checkpoint = member.checkpoint
    architecture = architecture_of(checkpoint.config, split.images.shape[1], checkpoint.classes)
    split = replace(split, images=seen(checkpoint, split.images))
    evaluator = Evaluator(architecture, split, _targets(checkpoint), checkpoint.config.network.dtype)
    with np.errstate(all="ignore"):  # what overflows is seen in the logits or the loss
        return _said(member, architecture, *evaluator.loss_and_logits(checkpoint.parameters))


def predictions(member: Member, images: Array) -> Outputs:
    """The outputs of the network of ``member`` on ``images`` (N, D) without labels: bytes, or numbers from 0 to 1.

    The images are not preprocessed yet. Their ``loss`` is None. Raises ``RunError`` when they are no finite numbers.
    """
    checkpoint = member.checkpoint
    architecture = architecture_of(checkpoint.config, images.shape[1], checkpoint.classes)
    with np.errstate(all="ignore"):
        z = forward.logits(architecture, checkpoint.parameters, seen(checkpoint, images))
        return _said(member, architecture, None, z)


def _said(member: Member, architecture: Architecture, loss: float | None, logits: Array) -> Outputs:
    if not (np.isfinite(logits).all() and (loss is None or math.isfinite(loss))):
        raise RunError(f"{shown(member.path)}: its outputs are not finite numbers: its parameters are too large")
    # In float64 fewer outputs are rounded to the same number, to 1 above all, and mistakes can be ranked.
    z = logits.astype(np.float64)
    p = np.empty_like(z)
    architecture.objective.output(z, p)
    targets, probabilities = _targets(member.checkpoint), architecture.objective.probabilities
    return Outputs(
        p=targets.outputs_by_class(p, probabilities) if isinstance(targets, ClassNumber) else p,
        predicted=targets.predicted(logits, p),
        loss=loss,
        probabilities=probabilities,
        log_likelihood=isinstance(architecture.objective, SoftmaxCrossEntropy),
    )


def _targets(checkpoint: Checkpoint) -> Targets:
    return targets_of(checkpoint.config, checkpoint.classes, checkpoint.multi_label)


def committee(members: Sequence[Outputs], labels: Array) -> Outputs:
    """The mean of the members' probabilities; a single member as it is. ``labels`` (N,), or (N, K).

    Where each member's loss is its -ln p_label, so is the committee's, of the mean; it is then at most the mean of
    their losses, as -ln is convex. A committee of others, or one that gives a label no chance at all, has none: None.
    """
    if len(members) == 1:
        return members[0]
    p = np.mean([member.p for member in members], axis=0)
    if labels.ndim == 2:
        return Outputs(p, MultiLabel().predicted(p, p), None, True, False)
    log_likelihood = all(member.log_likelihood for member in members)
    with np.errstate(divide="ignore"):
        loss = -float(np.log(p[np.arange(len(labels)), labels]).mean()) if log_likelihood else math.inf
    return Outputs(p, p.argmax(axis=1), loss if math.isfinite(loss) else None, True, log_likelihood)


def evaluate(said: Outputs, labels: Array, worst: int = 0) -> Evaluation:
    """Hold ``said`` against ``labels`` (N,) or (N, K); the ``worst`` most confident mistakes are listed."""
    examples, errors = len(labels), count_errors(said.predicted, labels)
    confusion, multi_label = None, None
    if labels.ndim == 2:
        per_class = label_scores(labels, said.predicted)
        multi_label = multi_label_scores(labels, said.predicted, per_class)
    else:
        confusion = confusion_matrix(labels, said.predicted, said.p.shape[1])
        per_class = class_scores(confusion)
    right = np.asarray(said.predicted == labels)
    return Evaluation(
        examples=examples,
        errors=errors,
        error=errors / examples,
        interval=wilson_interval(errors, examples),
        loss=said.loss,
        calibration=calibration(said.confidence, _of_rows(right)) if said.probabilities else None,
        per_class=per_class,
        confusion=confusion,
        worst=mistakes(said, labels, worst),
        multi_label=multi_label,
    )


def record_of(member: Member, result: Evaluation, part: Part, split: SplitName, in_committee: bool) -> dict[str, Any]:
    """The line of evaluations.jsonl that says that ``member`` was held against ``split`` of ``part``, and when (UTC).

    ``result`` is that of the member alone; ``in_committee``: whether it was also heard with others.
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": member.path.stem,
        "dataset": part.name,
        "split": split,
        "examples": result.examples,
        "errors": result.errors,
        "error": result.error,
        "loss": result.loss,
        "committee": in_committee,
    }


def wilson_interval(count: int, total: int, level: float = LEVEL) -> Interval:
    """The score interval for a share of which ``count`` of ``total`` >= 1 were seen.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference": with q = count / total and z
    the normal quantile of (1 + level) / 2,

        (q + z^2 / 2n +- z sqrt(q (1 - q) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    from statistics import NormalDist  # with decimal and fractions: not for every command

    z = NormalDist().inv_cdf((1 + level) / 2)
    q, z2 = count / total, z * z / total
    middle, half = q + z2 / 2, math.sqrt(z2 * (q * (1 - q) + z2 / 4))
    # For all of them the upper end is exactly 1, which rounding would miss; for none the lower comes out as 0.
    high = (middle + half) / (1 + z2) if count < total else 1.0
    return Interval((middle - half) / (1 + z2), high, level)


def confusion_matrix(labels: Array, predicted: Array, classes: int) -> Array:
    """(K, K) counts: [i, j] images of label i are predicted as j. ``labels`` and ``predicted`` (N,) in 0 .. K - 1."""
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_scores(confusion: Array) -> tuple[ClassScores, ...]:
    """Precision C_kk / sum_i C_ik, recall C_kk / sum_j C_kj and their harmonic mean F1, of ``confusion`` (K, K).

    F1 = 2 C_kk / (sum_i C_ik + sum_j C_kj): van Rijsbergen 1979, "Information Retrieval", chapter 7, as 1 - E with
    alpha = 1/2. It is 0, and not undefined, where only one of the two sums is 0.
    """
    seen, guessed = confusion.sum(axis=1), confusion.sum(axis=0)
    return tuple(
        ClassScores(k, int(rows), _ratio(right, columns), _ratio(right, rows), _ratio(2 * right, rows + columns))
        for k, (right, rows, columns) in enumerate(zip(confusion.diagonal(), seen, guessed, strict=True))
    )


def label_scores(labels: Array, predicted: Array) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of each column of ``predicted`` (N, K), as :func:`class_scores` defines them."""
    right = (labels & predicted).sum(axis=0)
    counts = zip(right, labels.sum(axis=0), predicted.sum(axis=0), strict=True)
    return tuple(
        ClassScores(k, int(n), _ratio(hits, guessed), _ratio(hits, n), _ratio(2 * hits, int(n) + int(guessed)))
        for k, (hits, n, guessed) in enumerate(counts)
    )


def multi_label_scores(labels: Array, predicted: Array, per_class: Sequence[ClassScores]) -> MultiLabelScores:
    """The scores over all columns of ``labels`` and ``predicted`` (N, K).

    Yang 1999, "An evaluation of statistical approaches to text categorization", section 2: micro-averaged scores are of
    all decisions together, macro-averaged ones means over the classes.
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


def mistakes(said: Outputs, labels: Array, count: int) -> tuple[Mistake, ...]:
    """The ``count`` wrong predictions of the highest confidence, in falling order; equal ones in file order."""
    wrong = np.flatnonzero(~_of_rows(said.predicted == labels))
    confidence = said.confidence[wrong]
    return tuple(
        Mistake(
            int(wrong[i]), plain_label(labels[wrong[i]]), plain_label(said.predicted[wrong[i]]), float(confidence[i])
        )
        for i in np.argsort(-confidence, kind="stable")[:count]
    )


def plain_label(label: Array) -> int | list[int]:
    """Return ``label`` as a number; a row of 0 and 1 (K,) as the list of the classes that are right."""
    return np.flatnonzero(label).tolist() if label.ndim else int(label)


def _of_rows(right: Array) -> Array:
    """Return for each example whether it is right: all of its row, where ``right`` is (N, K)."""
    return np.asarray(right.reshape(len(right), -1).all(axis=1))


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
