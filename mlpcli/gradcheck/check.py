"""The check of a network: its gradients, its training steps, and many updates and batches, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.gradcheck import gradients, long_runs
from mlpcli.gradcheck.rows import Row
from mlpcli.gradcheck.steps import CheckedSteps, StepChecker, random_labels, training_images
from mlpcli.gradcheck.subject import Problem
from mlpcli.model.dropout import draw_mask
from mlpcli.parallel.control import ProcessGroup
from mlpcli.state import State
from mlpcli.training.batches import INPUT_SCALE
from mlpcli.training.configured import ConfiguredNetwork
from mlpcli.training.initial import draw_parameters
from mlpcli.training.teacher import Teacher, TeacherTargets

EXAMPLES = 5
# The examples are chosen among the first images of a data set.
CANDIDATES = 1000
# The penalty is checked with this coefficient if the config has none: others train with one.
L2 = 1e-4
# Combined with the seed in the key of the generator; no other generator uses it.
STREAM = 2**63


def random_images(seed: int, inputs: int) -> NDArray[np.uint8]:
    """Return images (N, ``inputs``) for a network that no data set fits."""
    return _rng(seed, 3).integers(256, size=(CANDIDATES, inputs), dtype=np.uint8)


def _rng(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, STREAM + number], np.uint64)))


class Check:
    """A check of ``network`` on a few of ``images`` (N, D), bytes, preprocessed as for it, with random labels.

    All random numbers are drawn in a fixed order from generators keyed by ``seed``. ``teachers`` are those of the
    config. ``entries`` are compared of each tensor, None: all; ``tolerance`` is the error allowed, by method.
    """

    def __init__(
        self,
        network: ConfiguredNetwork,
        images: NDArray[np.uint8],
        seed: int,
        *,
        entries: int | None,
        tolerance: dict[str, float],
        teachers: Sequence[Teacher] = (),
    ) -> None:
        self.network, self.images, self.seed = network, images, seed
        self.entries, self.tolerance, self.teachers = entries, tolerance, tuple(teachers)
        self._rng, self._step_rng, self._long_rng = (_rng(seed, number) for number in range(3))
        self.l2 = network.config.training.l2 or L2
        self.problem = self._problem()

    @property
    def examples(self) -> int:
        """Return the number of images whose gradient is checked."""
        return len(self.problem.X)

    def _problem(self) -> Problem:
        network, training = self.network, self.network.config.training
        X = self.images[_brightest(self.images)].astype(np.float64)
        labels = random_labels(self._rng, len(X), network.classes, network.multi_label)
        Y = network.targets.table(training.label_smoothing)[labels]
        if self.teachers:
            teachers, preprocessing = [each.in_float64() for each in self.teachers], network.config.data.preprocessing
            TeacherTargets(teachers, len(X), preprocessing).write(X, Y)
        if training.input_dropout:
            X *= self._mask(training.input_dropout, X.shape)
        hidden = network.config.network.hidden if training.dropout else ()
        masks = [self._mask(training.dropout, (len(X), units)) for units in hidden]
        return Problem(network.architecture, X, INPUT_SCALE, Y, masks, training.adversarial > 0)

    def _mask(self, rate: float, shape: tuple[int, int]) -> NDArray[Any]:
        mask = np.empty(shape)
        draw_mask(rate, shape, self._rng, mask)
        return mask

    def gradients(self) -> Iterator[Row]:
        """Check the gradients."""
        theta = self.network.theta
        return gradients.check(
            self.problem, theta, self._rng, l2=self.l2, entries=self.entries, tolerance=self.tolerance
        )

    def steps(self, group: ProcessGroup) -> Iterator[Row]:
        """Check the training steps of one process, and those of ``group``."""
        network, config = self.network, self.network.config
        dataset = training_images(
            config, self.images, network.classes, network.image_shape, self.seed, network.multi_label
        )
        steps = CheckedSteps(config, dataset, network.state, teachers=self.teachers)
        state = network.state or State(draw_parameters(steps.config, network.architecture, network.image_shape))
        checker = StepChecker(steps, state.theta.vector, self._step_rng, self.tolerance)
        in_float32 = None
        if config.network.dtype == "float32":
            in_float32 = CheckedSteps(config, dataset, state, teachers=self.teachers, dtype="float32")
        yield from checker.rows(in_float32)
        if group.size > 1 and not checker.diverged:
            yield from checker.rows_of(CheckedSteps(config, dataset, state, group, self.teachers))

    def long_runs(self) -> Iterator[Row]:
        """Check many steps and many batches, of the parts alone."""
        config = self.network.config
        return long_runs.check(config.training, config.seed, self._long_rng, self.tolerance)


def _brightest(images: NDArray[np.uint8]) -> list[int]:
    """Choose images that together leave few pixels 0: each has the most nonzero pixels where all others are 0."""
    nonzero = images[:CANDIDATES] > 0
    chosen: list[int] = []
    for _ in range(min(EXAMPLES, len(nonzero))):
        chosen.append(int(nonzero.sum(axis=1).argmax()))
        nonzero = nonzero & ~nonzero[chosen[-1]]
    return chosen
