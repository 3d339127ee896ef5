"""Targets from trained networks, the teachers: their mean probabilities for the images of a batch.

Q teachers with outputs p_t (B, K) give the targets

    Y = 1/Q sum_t p_t(X)               (B, K)

of the very images X of the batch, distorted as they are: there is no end of images on which to imitate the teachers.
Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", section 2, at temperature 1 and with no
weight on the labels. dLoss/dz is the objective's own, as for any other targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import INDEPENDENT_OUTPUTS, Config
from mlpcli.datasets.deskew import preprocessed
from mlpcli.errors import ConfigError
from mlpcli.model.build import allocate_arrays, build_network
from mlpcli.model.input import Input
from mlpcli.model.memory import aligned
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.comm import SERIAL
from mlpcli.state import architecture_of
from mlpcli.training.batches import INPUT_SCALE
from mlpcli.training.targets import ClassNumber, targets_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Teacher:
    """A trained network ``name``: its ``theta``, the ``config`` it was trained by, and its images and classes."""

    name: str
    config: Config
    theta: Parameters
    image_shape: tuple[int, int]
    class_names: tuple[str, ...]
    multi_label: bool

    def in_float64(self) -> Teacher:
        """Return it with all of its numbers in float64, to check a training step: its rows of p sum to 1 there too."""
        theta = Parameters(self.theta.sizes, np.float64, self.theta.vector.astype(np.float64))
        return replace(self, theta=theta)

    def deskews(self, preprocessing: str | None) -> bool:
        """Return True if it deskews images that come with ``preprocessing``: no image is deskewed twice."""
        return self.config.data.preprocessing == "deskew" and preprocessing != "deskew"


def check_teacher(
    teacher: Teacher, config: Config, image_shape: tuple[int, int], class_names: tuple[str, ...], multi_label: bool
) -> None:
    """Raise ``ConfigError`` unless ``teacher`` gives targets for the network of ``config`` on images of this kind."""

    def refuse(what: str) -> NoReturn:
        raise ConfigError(f"training.teacher: {teacher.name}: {what}")

    if teacher.image_shape != image_shape:
        theirs, ours = (" x ".join(map(str, shape)) for shape in (teacher.image_shape, image_shape))
        refuse(f"takes images of {theirs} pixels, and the training images have {ours}")
    if teacher.multi_label != multi_label:
        kinds = ("one label per image", "several labels per image")
        refuse(f"predicts {kinds[teacher.multi_label]}, and the training images have {kinds[multi_label]}")
    if len(teacher.class_names) != len(class_names):
        refuse(f"predicts {len(teacher.class_names)} classes, and the training images have {len(class_names)}")
    if teacher.class_names != class_names:
        refuse("predicts other classes than those of the training images")
    network, objective = teacher.config.network, config.network.objective
    if not OBJECTIVES[network.objective].probabilities:
        refuse(f"the outputs of {network.objective} are not probabilities, which targets are")
    if objective not in INDEPENDENT_OUTPUTS and network.objective in INDEPENDENT_OUTPUTS and not network.single_output:
        refuse(f"the outputs of {network.objective} do not sum to 1, as the targets of {objective} must")


class TeacherTargets:
    """The targets that ``teachers`` give, for at most ``rows`` images at a time; their memory is allocated once.

    ``preprocessing`` is what has been done to the images.
    """

    def __init__(self, teachers: Sequence[Teacher], rows: int, preprocessing: str | None) -> None:
        self._networks = [_TeacherNetwork(teacher, rows, preprocessing) for teacher in teachers]

    def write(self, images: Array, Y: Array) -> None:
        """Write the targets (B, K) of ``images`` (B, D), numbers from 0 to 255, to ``Y``."""
        Y[...] = 0.0
        for network in self._networks:
            Y += network.probabilities(images)
        Y /= len(self._networks)


class _TeacherNetwork:
    """The forward pass of one teacher."""

    def __init__(self, teacher: Teacher, rows: int, preprocessing: str | None) -> None:
        self._teacher, self._theta = teacher, teacher.theta
        self._preprocessing = "deskew" if teacher.deskews(preprocessing) else None
        inputs, dtype = self._theta.sizes[0], self._theta.vector.dtype
        self._architecture = architecture_of(teacher.config, inputs, len(teacher.class_names))
        self._targets = targets_of(teacher.config, len(teacher.class_names), teacher.multi_label)
        self._X = aligned((rows, inputs), dtype)
        self._arrays = allocate_arrays(self._architecture.sizes, rows, dtype)
        self._networks: dict[int, Any] = {}  # by the number of images

    def probabilities(self, images: Array) -> Array:
        """Return p (B, K) of ``images`` (B, D)."""
        size = len(images)
        if size not in self._networks:
            X, arrays = Input(self._X[:size], INPUT_SCALE), self._arrays.first(size)
            self._networks[size] = build_network(self._architecture, self._theta, X, arrays, SERIAL)
        network = self._networks[size]
        np.copyto(self._X[:size], preprocessed(images, self._teacher.image_shape, self._preprocessing))
        self._architecture.objective.output(network.forward(), network.p)
        if isinstance(self._targets, ClassNumber):
            return self._targets.outputs_by_class(network.p, probabilities=True)
        return np.asarray(network.p)
