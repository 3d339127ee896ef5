"""Whole training steps against the textbook: from bytes to updated parameters, by the very step that trains.

The trainer takes real steps in float64, with the config's own batches, margins, dropout, smoothed targets, penalty,
optimizer, schedule and average: four in the first epoch, of which the last has a shorter batch, with an average four in
the second, and four in the middle of training. The first two batches are gathered together, the third after them. If
there are too few images for four batches, the batches are smaller. Before the first step every vector must be what was
given, and between epochs nothing may change. After each step every vector is compared with what the update rule makes,
as its source prints it (:mod:`mlpcli.gradcheck.textbook`), of the vectors before and of the gradient by the complex
step. That gradient knows neither margins nor bytes: its inputs are numbers from 0 to 1, in full.

The complex step gives the gradient's projection on a random direction. sgd, momentum and Nesterov are linear, so that
projections of the vectors, through all of their entries, follow the same rule. Adam is not, but its first moment is:
that is compared by projections, and implies the gradient, from which the rule gives every entry of the others.

The same steps are then taken in float32, if that is the config's dtype, and every entry is compared with float64. An
error of 1e-4 is allowed. If the error is larger, allowed is ten times the error that another rounding of the vectors
causes in the steps in float64, plus the error of the slopes f' where units are saturated or have kinks.

With several processes the same steps are taken again by all of them, and every entry is compared with those of one.

An epoch usually has more steps. :mod:`mlpcli.gradcheck.long_runs` has rows for many of them, of the parts alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import OPTIMIZER_STATE, Config
from mlpcli.datasets.deskew import preprocessed
from mlpcli.datasets.load import Dataset, Split
from mlpcli.errors import DivergedError
from mlpcli.gradcheck import distortions, textbook
from mlpcli.gradcheck.probe import COMPLEX_STEP, ROUNDINGS
from mlpcli.gradcheck.rows import (
    NOT_EXERCISED,
    TOLERANCE,
    Row,
    draw_direction,
    projection_error,
    relative_error,
    row,
)
from mlpcli.gradcheck.subject import Problem
from mlpcli.model.activations import Activation
from mlpcli.model.network import Network
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.control import SINGLE, ProcessGroup
from mlpcli.state import State, architecture_of
from mlpcli.training import schedule
from mlpcli.training.augment import Augmentation
from mlpcli.training.averaging import INTERVAL
from mlpcli.training.optimizers import FLUSH_STEPS
from mlpcli.training.teacher import Teacher
from mlpcli.training.trainer import StepRecord, Trainer

Array = NDArray[Any]

NO_STARTS: Mapping[int, Mapping[str, Array]] = {}
TIE = 1e-9  # of the largest logit: two that are closer may be in either order
BATCHES = 3.5  # of an epoch: full ones, two of which are gathered together, and a shorter one


@dataclass(frozen=True)
class Snapshot:
    """All vectors (n,) by name before or after a step, ``record`` that of the step; ``spread`` over the processes.

    theta and the average are those that train: the next step changes them.
    """

    epoch: int
    step: int
    vectors: dict[str, Array]
    record: StepRecord | None
    spread: float


class CheckedSteps:
    """The steps that are checked, taken by the processes of ``group``, from ``state`` or the initial parameters."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        state: State | None,
        group: ProcessGroup = SINGLE,
        teachers: Sequence[Teacher] = (),
        dtype: str = "float64",
    ) -> None:
        self.config, self.epochs = checked_config(config, dataset, dtype)
        self.dataset, self.group = dataset, group
        self._given = config, dataset.without_test(), state, teachers
        self.state = None if state is None else _converted(state, dtype)
        self.teachers = [teacher.in_float64() if dtype == "float64" else teacher for teacher in teachers]
        self.trainer = Trainer(self.config, dataset, self.state, group, self.teachers)

    @property
    def job(self) -> tuple[Config, Dataset, State | None, Sequence[Teacher]]:
        """The config, data, state and teachers with which another process takes the same steps."""
        return self._given

    def run_worker(self) -> None:
        """Take the steps as a process other than rank 0."""
        for _ in self.snapshots():
            pass

    def snapshots(self, starts: Mapping[int, Mapping[str, Array]] = NO_STARTS) -> Iterator[Snapshot]:
        """Take the steps; yield a snapshot before the first of an epoch and after each. Collective.

        After its first snapshot, an epoch in ``starts``, numbered from 0, begins with those vectors, which rank 0
        gives. Raises ``DivergedError`` if a loss is not finite.
        """
        trainer, state = self.trainer, self.trainer.state
        trainer.bind_to_rank()
        self.group.continue_training(True)
        with self.group.collective(), np.errstate(all="ignore"):
            for number, epoch in enumerate(self.epochs):
                state.epoch, state.step = epoch - 1, (epoch - 1) * trainer.steps_per_epoch
                yield from self._snapshot(epoch, None)
                for name, vector in starts.get(number, {}).items():
                    state.vectors[name][...] = vector
                self.group.comm.barrier()  # none has begun the next step
                for record in trainer.steps():
                    yield from self._snapshot(epoch, record)
        self.group.continue_training(False)

    def _snapshot(self, epoch: int, record: StepRecord | None) -> Iterator[Snapshot]:
        comm, state = self.group.comm, self.trainer.state
        comm.barrier()  # all processes have taken the step
        vectors = {**state.vectors, **self.trainer.optimizer_state()}
        spread = np.zeros(1)
        for vector in vectors.values() if comm.data.size > 1 else ():
            theirs = vector.copy()
            comm.broadcast(theirs)
            spread += relative_error(theirs, vector)
        comm.data.all_reduce(spread)
        yield Snapshot(epoch, state.step, vectors, record, float(spread[0]))
        comm.barrier()  # none has begun the next step


def checked_config(config: Config, dataset: Dataset, dtype: str) -> tuple[Config, tuple[int, ...]]:
    """Return the config that is checked, and which of its epochs: the first, and one in the middle.

    With an average the second too, when it is a mean of two. The last step of the one in the middle is a multiple of
    ``FLUSH_STEPS``, and late enough for the average to have left its plain mean. The run is at least twice as long.
    Batches are as small as ``dataset`` needs for several in an epoch. The seed is another: a seed of 0 would not show
    that it is ignored.
    """
    batch_size = min(config.training.batch_size, max(1, int(len(dataset.train) / BATCHES)))
    training = replace(config.training, batch_size=batch_size)
    steps_per_epoch = -(-len(dataset.train) // batch_size)
    late = training.epochs / 2
    if training.averaging is not None:
        late = max(late, 1 / (1 - training.averaging ** min(INTERVAL, steps_per_epoch)) + 1)
    middle = math.ceil(late * steps_per_epoch / FLUSH_STEPS) * FLUSH_STEPS // steps_per_epoch
    network = replace(config.network, dtype=dtype)
    training = replace(training, epochs=max(training.epochs, 2 * middle), patience=None)
    epochs = (1, middle) if training.averaging is None else (1, 2, middle)
    seed = (config.seed + 1) % 2**63
    return replace(config, seed=seed, network=network, training=training), epochs


def random_labels(rng: np.random.Generator, count: int, classes: int, multi_label: bool) -> Array:
    """Return ``count`` labels (N,) of ``classes``, or rows of 0 and 1 (N, K)."""
    labels = rng.integers(2, size=(count, classes)) if multi_label else rng.integers(classes, size=count)
    return labels.astype(np.uint8)


def training_images(
    config: Config, images: Array, classes: int, image_shape: tuple[int, int], seed: int, multi_label: bool = False
) -> Dataset:
    """Return a data set of three and a half batches of ``images``, with random labels: gradients are then large.

    Batches are those of ``config``, or smaller if there are too few images; of less than four some are repeated.
    """
    count = math.ceil(BATCHES * min(config.training.batch_size, max(1, int(len(images) / BATCHES))))
    rng = np.random.default_rng([seed, 1])
    labels = random_labels(rng, count, classes, multi_label)
    return Dataset(
        name="gradcheck",
        train=Split(np.resize(images, (count, images.shape[1])), labels),
        validation=None,
        classes=classes,
        image_shape=image_shape,
        hashes={},
        fallback_from=None,
        _read_test=_no_test,
    )


def _no_test() -> Split:
    raise AssertionError("a check reads no test images")


def _converted(state: State, dtype: str) -> State:
    def converted(parameters: Parameters) -> Parameters:
        return Parameters(parameters.sizes, dtype, parameters.vector.astype(dtype))

    average = None if state.average is None else converted(state.average)
    optimizer = {name: vector.astype(dtype) for name, vector in state.optimizer.items()}
    return replace(state, theta=converted(state.theta), average=average, optimizer=optimizer)


class StepChecker:
    """Compares snapshots with the textbook. ``initial`` (n,) are the parameters of training from the beginning."""

    def __init__(
        self, steps: CheckedSteps, initial: Array, rng: np.random.Generator, tolerance: Mapping[str, float] = TOLERANCE
    ) -> None:
        self._steps, self._initial, self._tolerance = steps, initial, tolerance
        self._direction = draw_direction(rng, len(initial))
        self._config, self._dataset = steps.config, steps.dataset
        self._architecture = architecture_of(self._config, self._dataset.train.images.shape[1], self._dataset.classes)
        free = textbook.connections(self._config.network, self._dataset.image_shape, self._parameters(initial))
        self._fixed = free.vector == 0
        self._free_direction = free.vector * self._direction
        self._steps_per_epoch = -(-len(self._dataset.train) // self._config.training.batch_size)
        self.snapshots: list[Snapshot] = []
        self.diverged = False
        self._largest_logit = 1.0

    def rows(self, in_float32: CheckedSteps | None = None) -> list[Row]:
        """Take the steps, also those ``in_float32``, and return a row for the loss and for every vector."""
        shape = self._initial.shape
        before = self._start()
        errors = dict.fromkeys(("loss", *before), 0.0)
        errors["loss"] = self._schedule_error()
        batches: Iterator[tuple[Problem, Array]] = iter(())
        moved = {name: name == "loss" for name in errors}
        try:
            for snapshot in self._steps.snapshots():
                kept = {name: v.copy() for name, v in snapshot.vectors.items() if name in ("theta", "average")}
                snapshot = replace(snapshot, vectors=snapshot.vectors | kept)
                self.snapshots.append(snapshot)
                after = snapshot.vectors
                if snapshot.record is None:
                    errors["loss"] = max(errors["loss"], inf if next(batches, None) else 0.0)  # a batch was left out
                    batches = self._batches(snapshot.epoch)
                    number = (snapshot.epoch - 1) * self._steps_per_epoch
                    found = {name: relative_error(vector, after[name]) for name, vector in before.items()}
                else:
                    number += 1
                    found = self._errors(before, snapshot, number, *next(batches))
                for name, error in found.items():
                    errors[name] = max(errors[name], error)
                    moved[name] = moved[name] or not np.array_equal(before[name], after[name])
                before = after
        except DivergedError as error:
            self.diverged = True
            return [Row("step", shape, 0, {}, NOT_EXERCISED, {}, (), str(error))]
        errors["loss"] = max(errors["loss"], inf if next(batches, None) else 0.0)
        rounded: dict[str, float] = {}
        tolerance = dict(self._tolerance)
        rows = []
        try:
            if in_float32 is not None:
                rounded, tolerance["float32"] = self._errors_in_float32(in_float32)
                if tolerance["float32"] >= 1.0:
                    rounded = {}  # no digit is left to compare
        except DivergedError as diverged:
            rows.append(Row("step float32", shape, 0, {}, NOT_EXERCISED, {}, (), str(diverged)))
        for name, by_step in errors.items():
            own = () if name == "loss" else shape
            methods = {"step": by_step, **({"float32": rounded[name]} if rounded else {})}
            rows.append(row(f"step {name}", own, methods, tolerance, math.prod(own), moved[name]))
        config, train = self._config, self._dataset.train
        if config.augmentation is not None:
            epochs = (*self._steps.epochs, config.training.epochs)  # the last may have weaker distortions
            given = len(train), self._dataset.image_shape, config.seed, config.training.epochs, epochs
            rows.append(distortions.check(config.augmentation, *given))
        if config.data.preprocessing == "deskew":
            rows.append(distortions.check_deskewing(self._dataset.image_shape, config.seed))
        return rows

    def rows_of(self, others: CheckedSteps) -> list[Row]:
        """Take the same steps with several processes; return a row for the loss and for theta."""
        group = others.group
        group.start_workers(others)
        errors = self._differences(others)
        shape = self._initial.shape
        loss = max(errors.pop("loss"), errors.pop("counts"))
        theta = max(errors.values())
        return [
            row(f"{group.size} processes loss", (), {"step": loss}, self._tolerance, 1),
            row(f"{group.size} processes theta", shape, {"step": theta}, self._tolerance, math.prod(shape)),
        ]

    def _errors_in_float32(self, others: CheckedSteps) -> tuple[dict[str, float], float]:
        """Take the same steps in float32; return the errors of the loss and of every vector, and what is allowed.

        The errors of classification may differ, where two logits are equal but for rounding.
        """
        errors = self._differences(others)
        allowed = self._tolerance["float32"]
        if _largest(errors) > allowed:
            allowed = max(allowed, self._rounding_in_float32())
        return errors, allowed

    def _rounding_in_float32(self) -> float:
        """Return the largest relative error of these steps that rounding to float32 may cause.

        It is what the same steps in float64 make of another rounding of the vectors and of slopes f' in float32, and
        what these may lose of the gradient.
        """
        eps, slopes = float(np.finfo(np.float32).eps), 0.0
        starts = [{name: v * (1 + eps * self._direction) for name, v in start.items()} for start in self._starts()]
        config, dataset, state, teachers = self._steps.job
        others = CheckedSteps(config, dataset, state, teachers=teachers)
        others.trainer.architecture = replace(
            self._architecture, activation=_SlopesInFloat32(self._architecture.activation)
        )
        rounded = self._differences(others, dict(enumerate(starts)))
        batches: Iterator[tuple[Problem, Array]] = iter(())
        for before, after in pairwise(self.snapshots):
            if before.record is None:
                batches = self._batches(before.epoch)
            if after.record is not None:
                problem, _ = next(batches)
                theta = before.vectors["theta"]
                subject = self._moved(problem, theta)[0].subject(theta, np.float64)
                subject.gradient()
                slopes = max(slopes, *subject.rounding_of_slopes(eps))
        return slopes + ROUNDINGS * _largest(rounded)

    def _starts(self) -> list[dict[str, Array]]:
        """Return the vectors with which each epoch began."""
        return [snapshot.vectors for snapshot in self.snapshots if snapshot.record is None]

    def _differences(
        self, others: CheckedSteps, starts: Mapping[int, Mapping[str, Array]] | None = None
    ) -> dict[str, float]:
        """Return the largest errors in the same steps taken by ``others``: of the loss, the vectors and the counts.

        "counts" are those of errors of classification, and "spread" is that over the processes. ``others`` begin
        epochs with ``starts``, by number from 0; by default all but the first, so that differences in rounding do not
        grow from one to the next.
        """
        largest: dict[str, float] = {}
        if starts is None:
            starts = {number: start for number, start in enumerate(self._starts()) if number}
        for ours, theirs in zip(self.snapshots, others.snapshots(starts), strict=True):
            errors = {name: relative_error(vector, theirs.vectors[name]) for name, vector in ours.vectors.items()}
            errors["spread"] = theirs.spread
            if ours.record is not None and theirs.record is not None:
                errors["loss"] = self._error_of_loss(ours.record.loss, theirs.record.loss)
                errors["counts"] = float(ours.record.errors != theirs.record.errors)
            largest |= {name: max(error, largest.get(name, 0.0)) for name, error in errors.items()}
        return largest

    def _start(self) -> dict[str, Array]:
        """Return the vectors (n,) with which training must begin: those of the state, or the initial ones."""
        training, state = self._config.training, self._steps.state or State(self._parameters(self._initial))
        zeros = np.zeros_like(self._initial)
        vectors = {name: state.optimizer.get(name, zeros) for name in OPTIMIZER_STATE[training.optimizer]}
        vectors["theta"] = state.theta.vector
        if training.averaging is not None:
            vectors["average"] = state.parameters.vector
        return vectors

    def _parameters(self, vector: Array) -> Parameters:
        return self._architecture.parameters(np.float64, vector)

    def _errors(
        self, state: dict[str, Array], after: Snapshot, number: int, problem: Problem, y: Array
    ) -> dict[str, float]:
        """Return by name the relative error of what step ``number``, from 1, made of the vectors of ``state``."""
        training, record = self._config.training, after.record
        assert record is not None
        theta = state["theta"]
        mu = 0.9 if training.momentum is None else training.momentum
        eta = textbook.learning_rate(training, number - 1, self._steps_per_epoch)
        direction = self._direction

        def error(name: str, expected: Array) -> float:
            vector = after.vectors[name]
            return projection_error(float(direction @ vector), float(expected), vector)

        problem, error_of_dX = self._moved(problem, theta)
        # Along the direction by the complex step: the loss is the real part, its derivative the imaginary one. The
        # gradient is 0 where there is no connection, so what the direction has there does not count.
        subject = problem.subject(theta, np.complex128)
        subject.theta.vector.imag = COMPLEX_STEP * self._free_direction
        loss = subject.loss()
        penalty = textbook.penalty(training.l2, subject.theta.W)
        g = np.asarray(np.imag(loss + penalty) / COMPLEX_STEP)
        rule = textbook.RULES[training.optimizer]
        along = {name: direction @ vector for name, vector in state.items()}
        expected_theta, expected = rule(along["theta"], along, g, eta, mu, number)
        loss_error = self._loss_error(float(np.real(loss)), subject.network, y, record, eta)
        errors = {"loss": max(loss_error, error_of_dX)}
        if training.optimizer == "adam":
            errors["m"] = error("m", expected["m"])
            implied = textbook.gradient_from_m(state["m"], after.vectors["m"], mu)
            expected_theta, expected = rule(theta, state, implied, eta, mu, number)
            errors["s"] = relative_error(expected["s"], after.vectors["s"])
            errors["theta"] = relative_error(expected_theta, after.vectors["theta"])
        else:
            errors |= {name: error(name, projection) for name, projection in expected.items()}
            errors["theta"] = error("theta", expected_theta)
        if theta[self._fixed].any() or after.vectors["theta"][self._fixed].any():
            errors["theta"] = inf  # a weight that is not connected is not 0
        if record.gradient_norm is not None:
            errors["loss"] = max(errors["loss"], self._norm_error(state, after, eta, mu))
        if training.averaging is not None:
            interval = min(INTERVAL, self._steps_per_epoch)
            mean = textbook.average(state["average"], after.vectors["theta"], training.averaging, interval, number)
            errors["average"] = relative_error(mean, after.vectors["average"])
        return errors

    def _moved(self, problem: Problem, theta: Array) -> tuple[Problem, float]:
        """Return the batch of ``problem`` as adversarial training moves it, and the error of the dX that it follows."""
        epsilon = self._config.training.adversarial
        if not epsilon:
            return problem, 0.0
        subject = replace(problem, input_gradient=True).subject(theta, np.float64)
        subject.gradient()
        dX, V = subject.network.input_gradient(), np.resize(self._direction, problem.X.shape)
        stepped = replace(problem, X=problem.X + 1j * COMPLEX_STEP * V).subject(theta, np.complex128)
        along = float(np.imag(stepped.loss())) / COMPLEX_STEP
        error = projection_error(along, float(np.vdot(V, dX)), dX)
        return replace(problem, X=textbook.moved(problem.X, dX, epsilon)), error

    def _schedule_error(self) -> float:
        """Return the largest error of the learning rates of all steps of the run."""
        training, steps = self._config.training, self._steps_per_epoch
        count = range(training.epochs * steps)
        found, expected = (
            np.array([rate(training, step, steps) for step in count])
            for rate in (schedule.learning_rate, textbook.learning_rate)
        )
        return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), training.learning_rate / 1e3)))

    def _norm_error(self, state: Mapping[str, Array], after: Snapshot, eta: float, mu: float) -> float:
        """Return the error of the gradient norms that a step reports, of the gradient that its first vector implies."""
        assert after.record is not None
        rounding = 0.0
        if "m" in state:
            g = textbook.gradient_from_m(state["m"], after.vectors["m"], mu)
        else:
            # sgd is momentum of 0, whose velocity is what theta moves by.
            name, mu = ("v", mu) if "v" in state else ("theta", 1.0)
            v, next_v = state[name], after.vectors[name]
            g = (mu * v - next_v) / eta
            # A gradient that is small beside the momentum loses digits in the difference.
            rounding = float(np.finfo(np.float64).eps * (mu * np.linalg.norm(v) + np.linalg.norm(next_v)) / eta)
        gradient = self._parameters(g)
        norms = np.sqrt([np.sum(dW**2) + np.sum(db**2) for dW, db in zip(gradient.W, gradient.b, strict=True)])
        reported = np.array(after.record.gradient_norm)
        if np.linalg.norm(norms - reported) <= rounding:
            return 0.0
        return relative_error(norms, reported)

    def _loss_error(self, loss: float, network: Network, y: Array, record: StepRecord, eta: float) -> float:
        """Return the larger error of what a step reports: loss, learning rate, errors, size of the batch."""
        lead, largest_logit = self._lead(network, y), float(np.abs(network.logits).max())
        self._largest_logit = max(self._largest_logit, largest_logit)
        slack = TIE * largest_logit
        counted = np.sum(lead < -slack) <= record.errors <= np.sum(lead <= slack)
        wrong = float(not counted or len(y) != record.size)
        return max(self._error_of_loss(loss, record.loss), _relative(eta, record.learning_rate), wrong)

    def _error_of_loss(self, a: float, b: float) -> float:
        """Return the difference of two losses relative to them, or to the logits that a loss is the difference of."""
        return abs(a - b) / max(abs(a) + abs(b), self._largest_logit)

    def _lead(self, network: Network, y: Array) -> Array:
        """Return by how much each example's label (B,) is ahead of the best other one; below 0 it is misclassified."""
        p = network.p.real
        lead: Array
        if y.ndim == 2:
            lead = np.where(y > 0, p - 0.5, 0.5 - p).min(axis=1)
        else:
            classes = np.arange(self._dataset.classes)
            scores = -np.abs(p - classes) if self._config.network.single_output else network.logits.real
            of_label = classes == y[:, np.newaxis]
            lead = scores[of_label] - np.where(of_label, -inf, scores).max(axis=1)
        return lead

    def _batches(self, epoch: int) -> Iterator[tuple[Problem, Array]]:
        """Yield each batch of an epoch with its labels: inputs from 0 to 1, targets and masks, from the definitions."""
        config, train, classes = self._config, self._dataset.train, self._dataset.classes
        training, batch_size = config.training, min(config.training.batch_size, len(train))
        generator = textbook.generator
        order = generator(config.seed, "order", epoch).permutation(len(train))
        masks_rng, inputs_rng = (generator(config.seed, purpose, epoch) for purpose in ("dropout", "input dropout"))
        s = training.label_smoothing
        distorted = self._distorted(epoch)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            X = images = distorted[chosen] / 255.0
            if training.input_dropout:
                X = X * textbook.mask(training.input_dropout, X.shape, inputs_rng)
            hidden = config.network.hidden if training.dropout else ()
            masks = [textbook.mask(training.dropout, (units, len(chosen)), masks_rng).T for units in hidden]
            y = train.labels[chosen]
            if self._steps.teachers:
                Y = np.mean([self._taught(teacher, images) for teacher in self._steps.teachers], axis=0)
            elif y.ndim == 2:
                Y = (1 - s) * y + s / 2
            elif config.network.single_output:
                Y = y[:, np.newaxis].astype(np.float64)
            else:
                Y = (1 - s) * (y[:, np.newaxis] == np.arange(classes)) + s / classes
            yield Problem(self._architecture, X, 1.0, Y, masks), y

    def _taught(self, teacher: Teacher, X: Array) -> Array:
        """Return the probabilities of ``teacher`` for inputs ``X`` (B, D) from 0 to 1."""
        upright = self._config.data.preprocessing == "deskew"
        preprocessing = None if upright else teacher.config.data.preprocessing
        return textbook.probabilities(
            teacher.config.network, teacher.theta, preprocessed(X, teacher.image_shape, preprocessing)
        )

    def _distorted(self, epoch: int) -> Array:
        """Return all images (N, D) of an epoch, by the code that trains; the row of the images checks them."""
        config, images = self._config, self._dataset.train.images
        if config.augmentation is None:
            return images
        augmentation = Augmentation(
            config.augmentation,
            self._dataset.image_shape,
            len(images),
            config.training.epochs,
            config.seed,
            np.float64,
        )
        augmentation.begin(epoch)
        return augmentation.distort(images, np.arange(len(images)), np.empty(images.shape))


class _SlopesInFloat32:
    """The activation ``f`` with f' as wrong as in float32: h (1 - h) and 1 - h^2 have an absolute error of eps."""

    def __init__(self, f: Activation) -> None:
        self.name, self.forward, self._derivative = f.name, f.forward, f.derivative
        self._eps = 0.0 if f.name in textbook.KINKS else float(np.finfo(np.float32).eps)

    def derivative(self, h: Array, slope: Array) -> Array:
        self._derivative(h, slope)
        slope += self._eps * np.cos(np.arange(slope.size)).reshape(slope.shape)
        return slope


def _largest(errors: Mapping[str, float]) -> float:
    """Return the largest error of the loss and the vectors."""
    return max(error for name, error in errors.items() if name != "counts")


def _relative(a: float, b: float) -> float:
    return abs(a - b) / (abs(a) + abs(b)) if a != b else 0.0
