"""The training loop: from a config and a data set, one record an epoch. It knows neither files nor screens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import Config
from mlpcli.datasets.load import Dataset, Split
from mlpcli.errors import DivergedError
from mlpcli.model.dropout import draw_masks
from mlpcli.model.network import Network
from mlpcli.model.parameters import Parameters, initialize
from mlpcli.training.augment import Augmentation
from mlpcli.training.averaging import Average
from mlpcli.training.batches import Batches
from mlpcli.training.measure import Measure, errors
from mlpcli.training.optimizers import PIECE, learning_rate, make_optimizer
from mlpcli.training.streams import stream

Array = NDArray[Any]

SATURATION_IMAGES = 1000


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


class Trainer:
    """Trains the network of ``config`` on ``dataset``, from its beginning or on from ``state``, which it then owns."""

    def __init__(self, config: Config, dataset: Dataset, state: State | None = None) -> None:
        self._config = config
        self._train = dataset.train
        dtype, training = config.network.dtype, config.training
        inputs = dataset.train.images.shape[1]
        self.network = network_for(config, inputs, dataset.classes)
        self.state = state or State(self._initial_parameters())
        self._gradient = self.network.parameters(dtype)
        self._optimizer = make_optimizer(training, self.state.theta.vector, self._gradient.vector)
        for name, vector in self.state.optimizer.items():
            self._optimizer.state[name][...] = vector
        self.state.optimizer = self._optimizer.state
        self._pieces = list(zip(self.state.theta.pieces(PIECE), self._gradient.pieces(PIECE), strict=True))
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
        )
        self._rates = dropout_rates(config)
        self._full = self.network.buffers(batch_size, dtype, self._rates)
        self._last = self._full.rows(len(dataset.train) % batch_size or batch_size)
        self._average = self._average_of(training.averaging)
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
        while not self.finished:
            # What overflows ends in a loss that is checked, as below.
            with np.errstate(all="ignore"):
                record = self._epoch(self.state.epoch + 1, on_step)
            yield record

    def _initial_parameters(self) -> Parameters:
        network = self._config.network
        theta = self.network.parameters(network.dtype)
        rng = stream(self._config.seed, "initialization")
        # A scale too large for the dtype shows in the first loss; numpy need not warn of it too.
        with np.errstate(over="ignore"):
            initialize(theta, network.initialization, network.initial_scale, network.activation, rng)
        return theta

    def _epoch(self, epoch: int, on_step: Callable[[float], None] | None) -> EpochRecord:
        network, state, training = self.network, self.state, self._config.training
        theta, gradient, examples, steps = state.theta, self._gradient, len(self._train), self.steps_per_epoch
        last_full = state.step + max(1, examples // len(self._full.p))
        order = stream(self._config.seed, "order", epoch).permutation(examples)
        total, wrong, rate, norms = 0.0, 0, 0.0, [0.0]
        masks = stream(self._config.seed, "dropout", epoch)
        started = time.perf_counter()
        if self._augmentation is not None:
            self._augmentation.begin(epoch)
        for batch in self._batches.in_order(order):
            t = self._full if len(batch.y) == len(self._full.p) else self._last
            rate = learning_rate(training, state.step, steps)
            draw_masks(self._rates, t.masks, masks)
            network.forward(theta, batch.X, t)
            loss = float(network.loss(batch.Y, t))
            network.backward(theta, batch.X, batch.Y, t, gradient)
            state.step += 1
            if state.step == last_full:
                norms = self._gradient_norms()
            self._optimizer.step(rate, state.step, self._penalise if training.l2 else None)
            if self._average is not None:
                self._average.step(state.step)
            if not math.isfinite(loss):
                raise _diverged(f"the loss is {loss} at step {state.step}, in epoch {epoch}", rate)
            total += loss * len(batch.y)
            wrong += errors(t, batch)
            if on_step is not None:
                on_step(loss)
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
            saturation=self._saturation.saturation(state.parameters),
        )

    def _penalise(self, number: int) -> None:
        """Add the penalty's gradient to one piece of the gradient."""
        theta, gradient = self._pieces[number]
        self.network.add_penalty_gradient(theta, self._config.training.l2, gradient)

    def _gradient_norms(self) -> list[float]:
        """By layer, the Euclidean norm of the gradient, penalty included, of its weights and biases together."""
        gradient = self.network.parameters(self._gradient.vector.dtype, self._gradient.vector.copy())
        self.network.add_penalty_gradient(self.state.theta, self._config.training.l2, gradient)

        # In float64: a large float32 has a square that is none.
        def square(array: Array) -> float:
            return float(np.square(array, dtype=np.float64).sum())

        return [math.sqrt(square(dW) + square(db)) for dW, db in zip(gradient.W, gradient.b, strict=True)]

    def _average_of(self, decay: float | None) -> Average | None:
        if decay is None:
            return None
        state = self.state
        if state.average is None:
            state.average = self.network.parameters(state.theta.vector.dtype, state.theta.vector.copy())
        return Average(state.average.vector, state.theta.vector, decay, self.steps_per_epoch)

    def _validate(self, theta: Parameters) -> tuple[float, float] | tuple[None, None]:
        if self._validation is None:
            return None, None
        loss, wrong = self._validation.loss_and_errors(theta)
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
