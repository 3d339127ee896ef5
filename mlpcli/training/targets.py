"""Targets of the output units for given labels, and the labels that outputs predict.

N examples, K classes. A table has the target of each value that a label can have, so that the targets of any labels
are table[labels], (N, K), or (N, 1) of a single output unit:

    OneHot        labels (N,)          table (K, K)   a unit for each class, of which one is right
    MultiLabel    labels (N, K), 0/1   table (2,)     a unit for each class, any number of which are right
    ClassNumber   labels (N,)          table (K, 1)   one unit, whose value is the number of the class
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.config import INDEPENDENT_OUTPUTS, Config
from mlpcli.errors import ConfigError

Array = NDArray[Any]


class Targets(Protocol):
    """The targets of labels of one kind."""

    def table(self, smoothing: float, dtype: DTypeLike = np.float64) -> Array:
        """Return the target of each value of a label; ``smoothing`` is ``training.label_smoothing``."""

    def predicted(self, logits: Array, p: Array) -> Array:
        """Return the labels that ``logits`` and ``p`` (N, K) predict."""


@dataclass(frozen=True)
class OneHot:
    """A unit for each of the ``classes``."""

    classes: int

    def table(self, smoothing: float, dtype: DTypeLike = np.float64) -> Array:
        """Return the target of each class, (K, K): row k is (1 - s) [j = k] + s / K, which is one-hot for s = 0.

        Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", section 7. As the loss is
        linear in the target, it is 1 - s times that of the label plus s times that of a class drawn at random: no
        probability is driven to 0, nor a logit to infinity. dz stays (p - Y) / B.
        """
        return ((1.0 - smoothing) * np.eye(self.classes) + smoothing / self.classes).astype(dtype)

    def predicted(self, logits: Array, p: Array) -> Array:
        """Return the class of the largest logit, (N,)."""
        largest: Array = logits.argmax(axis=1)
        return largest


@dataclass(frozen=True)
class MultiLabel:
    """A unit for each class, each with a question of its own, yes or no."""

    def table(self, smoothing: float, dtype: DTypeLike = np.float64) -> Array:
        """Return the targets of no and of yes, (2,); smoothed, s / 2 and 1 - s / 2: each question has two answers."""
        return np.array([smoothing / 2, 1.0 - smoothing / 2], dtype)

    def predicted(self, logits: Array, p: Array) -> Array:
        """Return 1 for each class whose p is above 1/2, else 0: (N, K), uint8."""
        return (p > 0.5).view(np.uint8)


@dataclass(frozen=True)
class ClassNumber:
    """One unit whose target is the number of the class: for two ``classes`` a sigmoid is logistic regression."""

    classes: int

    def table(self, smoothing: float, dtype: DTypeLike = np.float64) -> Array:
        """Return 0 to K - 1, (K, 1). It has no smoothing."""
        return np.arange(self.classes, dtype=dtype)[:, np.newaxis]

    def predicted(self, logits: Array, p: Array) -> Array:
        """Return the class whose number is nearest to p, (N,)."""
        return np.clip(np.rint(p[:, 0]), 0, self.classes - 1).astype(np.int64)

    def outputs_by_class(self, p: Array, probabilities: bool) -> Array:
        """Return of ``p`` (N, 1) a number for each class, (N, K): 1 - p and p of two, else minus the distance."""
        if probabilities:
            return np.concatenate([1.0 - p, p], axis=1)
        return -np.abs(p - np.arange(self.classes))


def targets_of(config: Config, classes: int, multi_label: bool) -> Targets:
    """Return the targets of labels of ``classes`` for the network of ``config``."""
    if multi_label:
        return MultiLabel()
    return ClassNumber(classes) if config.network.single_output else OneHot(classes)


def count_errors(predicted: Array, labels: Array) -> int:
    """Return how many examples are misclassified; both arguments (N,), or (N, K), of which a whole row must agree."""
    wrong = predicted != labels
    return int(np.count_nonzero(wrong if wrong.ndim < 2 else wrong.any(axis=1)))


def check_targets(config: Config, classes: int, labels: Array, where: str) -> None:
    """Raise ``ConfigError`` where the network of ``config`` cannot have such ``labels`` of the data set ``where``."""
    network = config.network
    if labels.ndim == 2:
        shape = f"the labels of {where} are ({len(labels)}, {classes}) of 0 and 1"
        if network.objective not in INDEPENDENT_OUTPUTS:
            one_hot = bool((labels.sum(axis=1) == 1).all())
            other = "; or, as each has a single 1, save the numbers of the classes, y.argmax(axis=1)" if one_hot else ""
            raise ConfigError(
                f"network.objective: {network.objective} has one true class an image, and {shape}, several of which "
                f"may be right at once; use network.objective: sigmoid_cross_entropy{other}"
            )
        if network.single_output:
            raise ConfigError(
                f"network.single_output: true is for labels of one class each, and {shape}; allowed: false"
            )
    elif network.single_output and classes != 2 and network.objective != "linear_quadratic":
        raise ConfigError(
            f"network.single_output: the output of {network.objective} lies between 0 and 1, and {where} has {classes} "
            "classes; allowed: two classes, or network.objective: linear_quadratic"
        )
