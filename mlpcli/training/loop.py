"""The training loop: from a config and a data set, one record an epoch. It knows neither files nor screens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import Config
from mlpcli.datasets.load import Dataset, Split
from mlpcli.errors import DivergedError
from mlpcli.model.blas import Addend
from mlpcli.model.dropout import Cut, draw_masks
from mlpcli.model.network import Gradients, Network, Pass, Share
from mlpcli.model.parameters import Parameters, initialize
from mlpcli.training.augment import Augmentation
from mlpcli.training.averaging import Average
from mlpcli.training.batches import UNIT, Batch, Batches
from mlpcli.training.measure import Measure, errors
from mlpcli.training.optimizers import OPTIMIZERS, PIECE, learning_rate, make_optimizer
from mlpcli.training.parallel import ALONE, Team
from mlpcli.training.streams import stream

Array = NDArray[Any]

SATURATION_IMAGES = 1000

# Where a pixel takes part in fewer multiplications, images times units, to cut the margins takes longer than it saves.
LEAST_TO_CUT = 1024


@dataclass(frozen=True)
class EpochRecord:
    """What is known of one epoch: a line of metrics.jsonl, its fields in this order.

    Errors are shares of the images. ``train_loss`` and ``train_error`` are running means over the epoch's batches, as
    they are trained on: distorted, units left out, against smoothed targets; penalty excluded. ``validation_loss`` and
    ``validation_error`` are those of the parameters that stand for the run: their average, where there is one, beside
    which ``raw_validation_loss`` and ``raw_validation_error`` are those of the parameters themselves, else null.
    ``learning_rate`` is that of the last step. By layer: ``gradient_norm`` of the epoch's last full
    batch, penalty included, and ``saturation``, the share of hidden units with |z| > 4.6 on the first thousand training
    images. Only ``examples_per_second`` and ``seconds``, of training alone, differ between equal runs.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_error: float
    validation_loss: float | None
    validation_error: float | None
    raw_validation_loss: float | None
    raw_validation_error: float | None
    examples_per_second: float
    seconds: float
    gradient_norm: list[float]
    saturation: list[float] | None


@dataclass
class State:
    """All that the epochs to come depend on, beside config and data: what a checkpoint keeps.

    ``average`` is the moving average of ``theta``, if the config asks for one. ``best`` is the lowest (validation
    error, validation loss) so far and ``best_epoch`` its epoch; ``patience_used`` counts the epochs since.
    """

    theta: Parameters
    optimizer: dict[str, Array] = field(default_factory=dict)
    average: Parameters | None = None
    epoch: int = 0
    step: int = 0
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    patience_used: int = 0

    @property
    def parameters(self) -> Parameters:
        """What stands for the run: the average of theta, if there is one."""
        return self.theta if self.average is None else self.average


def network_for(config: Config, inputs: int, classes: int) -> Network:
    """The network that ``config`` describes, for images of ``inputs`` pixels."""
    sizes = (inputs, *config.network.hidden, classes)
    return Network(sizes, config.network.activation, config.network.objective)


def dropout_rates(config: Config) -> list[float]:
    """The share left out of each layer's inputs, (L,)."""
    return [config.training.input_dropout, *(config.training.dropout for _ in config.network.hidden)]


class _Place(NamedTuple):
    """One of the places where batches come: the pass from there, and what adds its gradient to two vectors.

    Dropout's ``masks`` lie as they are drawn: ``cuts`` of masks of these ``shapes``.
    """

    bound: Pass
    masks: list[Array | None]
    shapes: list[tuple[int, int]]
    cuts: list[Cut]
    to_gradient: Gradients
    to_accumulator: Gradients


class Trainer:
    """Trains the network of ``config`` on ``dataset``, from its beginning or on from ``state``, which it then owns.

    Each process of ``team`` has a trainer of its own, of the same config, data and state.
    """

    def __init__(self, config: Config, dataset: Dataset, state: State | None = None, team: Team = ALONE) -> None:
        self._config = config
        self.team = team
        self._train = dataset.train
        dtype, training = config.network.dtype, config.training
        inputs = dataset.train.images.shape[1]
        self.network = network_for(config, inputs, dataset.classes)
        self.state = state or State(self._initial_parameters())
        self._bring_state_within_reach()
        # What the processes add up in a step: the gradient, the loss, the errors, and an entry that is the team's.
        self._message = team.allocate((len(self.state.theta.vector) + 3,), dtype)
        self._told = team.told(self._message)
        self._gradient = self.network.parameters(dtype, self._message[:-3])
        batch_size = min(training.batch_size, len(dataset.train))
        self._augmentation = (
            Augmentation(
                config.augmentation, dataset.image_shape, len(dataset.train), training.epochs, config.seed, dtype
            )
            if config.augmentation
            else None
        )
        self._batches = Batches(
            dataset.train,
            dataset.classes,
            batch_size,
            dtype,
            smoothing=training.label_smoothing,
            augmentation=self._augmentation,
            find_lit=batch_size * self.network.sizes[1] >= LEAST_TO_CUT,
            team=team,
        )
        self._rates = dropout_rates(config)
        self._drops = any(self._rates)
        self._batch_size = batch_size
        held = team.rows_held(batch_size)
        self._most = self.network.buffers(held, dtype, self._rates, team.allocate, team.sharers)
        self._validation = (
            Measure(self.network, dataset.validation, dataset.classes, dtype) if dataset.validation else None
        )
        some = Split(dataset.train.images[:SATURATION_IMAGES], dataset.train.labels[:SATURATION_IMAGES])
        self._saturation = Measure(self.network, some, dataset.classes, dtype)

    @property
    def steps_per_epoch(self) -> int:
        """Mini-batches in an epoch."""
        return len(self._batches)

    @property
    def epochs_wanted(self) -> int:
        """Epochs in all, unless patience runs out before."""
        return self._config.training.epochs

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or patience has run out."""
        patience = self._config.training.patience
        return self.state.epoch >= self._config.training.epochs or (
            patience is not None and self.state.patience_used >= patience
        )

    def epochs(self, on_step: Callable[[float], None] | None = None) -> Iterator[EpochRecord]:
        """Train; after each epoch bring :attr:`state` up to date and yield its record.

        ``on_step`` is called after each mini-batch with its loss. Raises ``DivergedError``; the state is then useless.
        """
        self._take_part()
        while self.team.goes_on(not self.finished):
            # What overflows ends in a loss that is checked, as below.
            with self.team.together(), np.errstate(all="ignore"):
                record = self._epoch(self.state.epoch + 1, on_step)
            yield record

    def _bring_state_within_reach(self) -> None:
        """Copy the state to where all processes that share memory see it; what it does not have yet, it has then."""
        state, training = self.state, self._config.training

        def reached(vector: Array) -> Array:
            copy = self.team.allocate(vector.shape, vector.dtype)
            copy[...] = vector
            return copy

        theta = state.theta.vector
        if training.averaging is not None:
            average = theta if state.average is None else state.average.vector
            state.average = self.network.parameters(theta.dtype, reached(average))
        names = OPTIMIZERS[training.optimizer].memory
        state.optimizer = {name: reached(state.optimizer.get(name, np.zeros_like(theta))) for name in names}
        state.theta = self.network.parameters(theta.dtype, reached(theta))

    def _take_part(self) -> None:
        """Make what depends on which process of the team this is."""
        state, training, team, network = self.state, self._config.training, self.team, self.network
        self._piecewise = bool(training.l2 or team.adds_up)
        stretches = state.theta.stretches(OPTIMIZERS[training.optimizer].entries, team.part)
        theta, gradient = state.theta.vector, self._gradient.vector
        self._optimizer = make_optimizer(training, theta, gradient, state.optimizer, stretches)
        accumulator = network.parameters(theta.dtype, self._optimizer.accumulator)
        self._accumulates = accumulator.vector is not gradient
        parts = (vectors.pieces(stretches) for vectors in (state.theta, accumulator, self._gradient))
        apart = team.adds_up and self._accumulates
        self._pieces = [
            (Addend(more.vector, to.vector) if apart else None, network.penalty_gradient(own, training.l2, to))
            for own, to, more in zip(*parts, strict=True)
        ]
        self._average = None
        if training.averaging is not None and state.average is not None:
            decay = training.averaging
            pieces = state.theta.stretches(PIECE, team.part)
            self._average = Average(state.average.vector, theta, decay, self.steps_per_epoch, pieces)
        last = len(self._train) % self._batch_size or self._batch_size
        self._places: dict[int, list[_Place]] = {}
        for size in {self._batch_size, last}:
            t = self._most.rows(slice(0, team.rows_held(size)))
            rank = team.rank if team.sharers > 1 else 0
            share = Share(team.own_rows(size), team.part, rank, team.meet)
            self._places[size] = []
            for X in self._batches.places(size):
                bound = Pass(network, state.theta, X, t, UNIT, share)
                adds = [bound.gradients(of.layers(team.part)) for of in (self._gradient, accumulator)]
                self._places[size].append(_Place(bound, *self._as_drawn(bound.masks, size), *adds))

    def _as_drawn(
        self, masks: list[Array | None], size: int
    ) -> tuple[list[Array | None], list[tuple[int, int]], list[Cut]]:
        """Dropout's masks of a batch of ``size`` images, the shapes of the whole ones, and where these are in them.

        Whole masks are those of a process by itself, drawn in the order of its memory.
        """
        found, shapes, cuts = [], [], []
        for layer, (mask, units) in enumerate(zip(masks, self.network.sizes[:-1], strict=True)):
            # Of hidden layers a process that shares memory has some units, else some examples, as of the inputs.
            shares = layer > 0 and self.team.sharers > 1
            cut = (slice(None), self.team.part(units)) if shares else (self.team.share(size), slice(None))
            shape = size, units
            if layer > 0 and units >= self._batch_size:
                mask, shape, cut = None if mask is None else mask.T, shape[::-1], cut[::-1]
            found.append(mask)
            shapes.append(shape)
            cuts.append(cut)
        return found, shapes, cuts

    def _initial_parameters(self) -> Parameters:
        network = self._config.network
        theta = self.network.parameters(network.dtype)
        rng = stream(self._config.seed, "initialization")
        # A scale too large for the dtype shows in the first loss; numpy need not warn of it too.
        with np.errstate(over="ignore"):
            initialize(theta, network.initialization, network.initial_scale, network.activation, rng)
        return theta

    def _epoch(self, epoch: int, on_step: Callable[[float], None] | None) -> EpochRecord:
        state, training = self.state, self._config.training
        theta, examples, steps = state.theta, len(self._train), self.steps_per_epoch
        # Processors of different kinds may round differently.
        for vector in (theta.vector, *state.optimizer.values(), *([state.average.vector] if state.average else [])):
            self.team.equalize(vector)
        self._optimizer.begin()
        last_full = state.step + max(1, examples // self._batch_size)
        order = stream(self._config.seed, "order", epoch).permutation(examples)
        total, wrong, rate, norms = 0.0, 0, 0.0, [0.0]
        masks = stream(self._config.seed, "dropout", epoch)
        started = time.perf_counter()
        if self._augmentation is not None:
            self._augmentation.begin(epoch)
        for number, own in enumerate(self._batches.in_order(order)):
            size = min(self._batch_size, examples - number * self._batch_size)
            rate = learning_rate(training, state.step, steps)
            place = self._places[size][own.place]
            self._propagate(place, own, size, masks)
            state.step += 1
            if state.step == last_full:
                norms = self._gradient_norms(place, own.lit)
            add = partial(self._add_gradient, place, own.lit)
            self._optimizer.step(rate, state.step, add, self._add_to_piece if self._piecewise else None)
            loss, mistakes = float(self._told[0]), int(self._told[1])
            if self._average is not None:
                self._average.step(state.step)
            if not math.isfinite(loss):
                raise _diverged(f"the loss is {loss} at step {state.step}, in epoch {epoch}", rate)
            total += loss * size
            wrong += mistakes
            if on_step is not None:
                on_step(loss)
        self._optimizer.end()
        self.team.meet()  # all parts of theta have moved
        seconds = time.perf_counter() - started
        validation_loss, validation_error = self._validate(state.parameters)
        raw_loss, raw_error = (None, None) if state.average is None else self._validate(theta)
        if not (
            np.isfinite(theta.vector).all()
            and all(map(math.isfinite, (total, validation_loss or 0.0, raw_loss or 0.0, *norms)))
        ):
            what = "a parameter, a gradient or the validation loss is no longer finite"
            raise _diverged(f"{what} at the end of epoch {epoch}", rate)
        state.epoch = epoch
        self._remember_best(validation_error, validation_loss)
        return EpochRecord(
            epoch=epoch,
            step=state.step,
            learning_rate=rate,
            train_loss=total / examples,
            train_error=wrong / examples,
            validation_loss=validation_loss,
            validation_error=validation_error,
            raw_validation_loss=raw_loss,
            raw_validation_error=raw_error,
            examples_per_second=examples / seconds,
            seconds=seconds,
            gradient_norm=norms,
            saturation=self._saturation.saturation(state.parameters, self.team),
        )

    def _propagate(self, place: _Place, own: Batch, size: int, masks: np.random.Generator) -> None:
        """Forward, and backward to dLoss/dz: its loss and errors are told, of a batch of ``size`` images.

        ``own`` are those of them that are this process's.
        """
        bound, told, rows = place.bound, self._told, len(own.y)
        if self._drops:
            draw_masks(self._rates, place.masks, masks, place.shapes, place.cuts)
        bound.forward(own.lit)
        if rows:
            told[0] = rows / size * bound.loss(own.Y)
            told[1] = errors(bound.own, own)
        else:
            told[:2] = 0.0
        bound.output_delta(own.Y, rows / size)
        self.team.meet(told)  # dz_L is there, of all rows
        bound.deltas()

    def _add_gradient(self, place: _Place, lit: slice, scale: float) -> None:
        """Add ``scale`` times the batch's gradient to what the update rule accumulates in.

        Where the processes' gradients have to be added up first, the sum is left to :meth:`_add_to_piece`.
        """
        if self.team.adds_up:
            place.to_gradient.add(scale, lit=lit)
            self.team.sum(self._message)
        else:
            place.to_accumulator.add(scale, float(self._accumulates), lit)

    def _add_to_piece(self, number: int, scale: float) -> None:
        """Add ``scale`` times what is missing to one piece of what the update rule accumulates in.

        That is the penalty's gradient; and that of the batch, where it had to be added up before.
        """
        gradient, penalty = self._pieces[number]
        if gradient is not None:
            gradient.add()
        penalty.add(scale)

    def _gradient_norms(self, place: _Place, lit: slice) -> list[float]:
        """By layer, the Euclidean norm of the gradient of a full batch, penalty included, of weights and biases."""
        place.to_gradient.add(lit=lit)
        if self.team.adds_up:
            told = self._told.copy()
            self.team.sum(self._message)
            self._told[...] = told
        self.team.meet()  # all parts of the gradient are there
        gradient = self.network.parameters(self._gradient.vector.dtype, self._gradient.vector.copy())
        self.network.penalty_gradient(self.state.theta, self._config.training.l2, gradient).add()
        self.team.meet()  # no part of it, or of theta, has been changed

        # In float64: a large float32 has a square that is none.
        def square(array: Array) -> float:
            return float(np.square(array, dtype=np.float64).sum())

        return [math.sqrt(square(dW) + square(db)) for dW, db in zip(gradient.W, gradient.b, strict=True)]

    def _validate(self, theta: Parameters) -> tuple[float, float] | tuple[None, None]:
        if self._validation is None:
            return None, None
        loss, wrong = self._validation.loss_and_errors(theta, self.team)
        return loss, wrong / self._validation.examples

    def _remember_best(self, error: float | None, loss: float | None) -> None:
        if error is None or loss is None:
            return
        if self.state.best is None or (error, loss) < self.state.best:
            self.state.best, self.state.best_epoch, self.state.patience_used = (error, loss), self.state.epoch, 0
        else:
            self.state.patience_used += 1


def _diverged(what: str, rate: float) -> DivergedError:
    return DivergedError(
        f"training diverged: {what}, with a learning rate of {rate:.3g}; "
        "try a lower training.learning_rate, or training.warmup_epochs"
    )
