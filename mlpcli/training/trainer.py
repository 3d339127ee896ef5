"""Training: from a config and a data set, one record an epoch. It opens no file and prints nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import OPTIMIZER_STATE, Config
from mlpcli.datasets.load import Dataset, Split
from mlpcli.errors import DivergedError
from mlpcli.model.build import allocate_arrays, build_network
from mlpcli.model.input import Input
from mlpcli.model.network import Gradient, Network
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.control import SINGLE, ProcessGroup
from mlpcli.rng import keyed_rng
from mlpcli.state import EpochRecord, State, architecture_of
from mlpcli.training.adversary import Adversary
from mlpcli.training.augment import Augmentation
from mlpcli.training.averaging import MovingAverage
from mlpcli.training.batches import INPUT_SCALE, Batch, Batches
from mlpcli.training.connections import ConnectedGradient, connections
from mlpcli.training.diagnosis import remedy
from mlpcli.training.evaluate import Evaluator
from mlpcli.training.initial import draw_parameters
from mlpcli.training.margins import Margins
from mlpcli.training.optimizers import CHUNK_SIZE, make_optimizer
from mlpcli.training.schedule import learning_rate
from mlpcli.training.step import Accumulable, ReducedGradient, TrainingStep, gradient_norms
from mlpcli.training.targets import targets_of
from mlpcli.training.teacher import Teacher, TeacherTargets

Array = NDArray[Any]

SATURATION_IMAGES = 1000

# With fewer multiplications for each pixel, images times units, finding the margins takes longer than it saves.
MIN_WORK_TO_TRIM = 1024


class StepRecord(NamedTuple):
    """One step: the size of its batch, its learning rate, the mean loss and the number of misclassified examples.

    ``gradient_norm`` is there for the last full batch of an epoch.
    """

    size: int
    learning_rate: float
    loss: float
    errors: int
    gradient_norm: list[float] | None


class Trainer:
    """Trains the network of ``config`` on ``dataset``, from the beginning or from ``state``, which it then owns.

    Each process of ``group`` has a trainer of its own, with the same config, data and state. ``teachers`` are the
    networks of ``training.teacher``. ``connections`` are the M (D, H) of the layers with receptive fields.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        state: State | None = None,
        group: ProcessGroup = SINGLE,
        teachers: Sequence[Teacher] = (),
    ) -> None:
        if len(teachers) != len(config.training.teacher or ()):
            raise ValueError(f"{len(teachers)} teachers are given for training.teacher {config.training.teacher}")
        self._teachers = tuple(teachers)
        self._config, self._dataset, self.group, self._comm = config, dataset, group, group.comm
        dtype, training, train = config.network.dtype, config.training, dataset.train
        self.architecture = architecture_of(config, train.images.shape[1], dataset.classes)
        self.targets = targets_of(config, dataset.classes, train.multi_label)
        self.connections = connections(config.network, dataset.image_shape, dtype)
        state = state or State(draw_parameters(config, self.architecture, dataset.image_shape))
        self.state = self._in_shared_memory(state)
        self._gradient = self.architecture.parameters(dtype, self._allocate(self.state.theta.vector.shape))
        self._metrics = self._comm.allocate((self._comm.model.size, 2), "float64")
        self._batch_size = min(training.batch_size, len(train))
        self._X = [
            self._allocate((self._local_rows(self._batch_size), train.images.shape[1]))
            # Where memory is shared, one process may write the next batch while another still reads this one.
            for _ in range(2 if self._comm.model.size > 1 else 1)
        ]
        self._arrays = allocate_arrays(
            self.architecture.sizes,
            self._local_rows(self._batch_size),
            dtype,
            dropout=training.dropout > 0,
            input_gradient=training.adversarial > 0,
            allocate=self._comm.allocate,
            processes=self._comm.model.size,
        )
        self._batches = self._make_batches()
        self._validation = (
            Evaluator(self.architecture, dataset.validation, self.targets, dtype) if dataset.validation else None
        )
        first_images = Split(train.images[:SATURATION_IMAGES], train.labels[:SATURATION_IMAGES])
        self._saturation = Evaluator(self.architecture, first_images, self.targets, dtype)

    @property
    def job(self) -> tuple[Config, Dataset, State, tuple[Teacher, ...]]:
        """The config, data, state and teachers with which another process makes an equal trainer."""
        return self._config, self._dataset.without_test(), self.state, self._teachers

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return len(self._batches)

    @property
    def max_epochs(self) -> int:
        """The number of epochs, unless patience runs out before."""
        return self._config.training.epochs

    @property
    def finished(self) -> bool:
        """True if all epochs are done, or patience has run out."""
        patience = self._config.training.patience
        return self.state.epoch >= self.max_epochs or (
            patience is not None and self.state.epochs_since_best >= patience
        )

    def run_worker(self) -> None:
        """Train as a process other than rank 0, for as long as rank 0 does."""
        for _ in self.epochs():
            pass

    def epochs(self, on_step: Callable[[float], None] | None = None) -> Iterator[EpochRecord]:
        """Train; after each epoch update :attr:`state` and yield its record.

        ``on_step`` is called after each step with its loss. Raises ``DivergedError``; the state is then useless.
        """
        self.bind_to_rank()
        while self.group.continue_training(not self.finished):
            # What overflows ends in a loss that is checked.
            with self.group.collective(), np.errstate(all="ignore"):
                record = self._epoch(on_step)
            yield record

    def steps(self) -> Iterator[StepRecord]:
        """Take the steps of the epoch after ``state.epoch``, and yield a record of each. Collective.

        Raises ``DivergedError`` if a loss is not finite.
        """
        state, training = self.state, self._config.training
        epoch = state.epoch + 1
        self._broadcast_state()
        self._optimizer.begin()
        masks = keyed_rng(self._config.seed, "dropout", epoch)
        steps_per_epoch = self.steps_per_epoch
        last_full = state.step + max(1, len(self._dataset.train) // self._batch_size)
        for batch in self._batches.epoch(epoch):
            rate = learning_rate(training, state.step, steps_per_epoch)
            state.step += 1
            step = self._steps[batch.size, batch.slot]
            if training.dropout:
                step.draw_masks(training.dropout, self._config.network.hidden, batch.size, masks)
            step.propagate(batch)
            norms = self._gradient_norms(batch) if state.step == last_full else None
            loss, errors = step.update(rate, state.step)
            if self._average is not None:
                self._average.update(state.step)
            self.group.raise_if_stopped()
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss} at step {state.step}, in epoch {epoch}", rate)
            yield StepRecord(batch.size, rate, loss, errors, norms)
        self._optimizer.end()
        self._comm.barrier()  # all shards of theta are updated

    def optimizer_state(self) -> dict[str, Array]:
        """Return a copy of the optimizer's vectors (n,) by name, as a checkpoint keeps them, between two steps."""
        return self._optimizer.state_dict()

    def bind_to_rank(self) -> None:
        """Set up everything that depends on the rank. Call once in each process, before :meth:`steps`."""
        state, training, comm = self.state, self._config.training, self._comm
        theta, gradient = state.theta, self._gradient
        optimizer = self._optimizer = make_optimizer(training, theta, gradient, state.optimizer, comm.model)
        accumulator = self.architecture.parameters(theta.vector.dtype, optimizer.accumulator)
        self._steps: dict[tuple[int, int], TrainingStep] = {}
        self._to_gradient: dict[tuple[int, int], Accumulable] = {}
        for size in self._batches.sizes:
            rows = self._local_rows(size)
            for slot, array in enumerate(self._X):
                X = Input(array[:rows], INPUT_SCALE)
                arrays = self._arrays.first(rows)
                network = build_network(self.architecture, theta, X, arrays, comm.model, size)
                adversary = None
                if training.adversarial:
                    attacked = build_network(self.architecture, theta, X, arrays, comm.model, size, input_gradient=True)
                    adversary = Adversary(attacked, X, comm.model.shard(rows), training.adversarial)
                gradient_of_batch = self._gradient_of(network, accumulator)
                self._steps[size, slot] = TrainingStep(
                    network, X, gradient_of_batch, optimizer, self.targets, self._metrics, comm, adversary
                )
                self._to_gradient[size, slot] = self._gradient_of(network, gradient)
        self._average: MovingAverage | None = None
        if training.averaging is not None and state.average is not None:
            chunks = theta.chunks(comm.model, CHUNK_SIZE)
            self._average = MovingAverage(
                state.average.vector, theta.vector, training.averaging, self.steps_per_epoch, chunks
            )

    def _gradient_of(self, network: Network, target: Parameters) -> Accumulable:
        """Return the gradient of ``network``'s whole batch, to be accumulated in ``target``."""
        comm, buffer = self._comm, self._gradient
        shards = target.shard(comm.model)
        gradient: Accumulable
        if comm.data.size == 1:
            gradient = Gradient(network, shards)
        else:
            terms = Gradient(network, buffer.shard(comm.model))
            gradient = ReducedGradient(terms, buffer.vector, target.vector, comm.data)
        if not self.connections:
            return gradient
        of_units = [M[:, comm.model.shard(M.shape[1])] for M in self.connections]
        return ConnectedGradient(gradient, [W for W, _ in shards], of_units)

    def _make_batches(self) -> Batches:
        config, train, dtype = self._config, self._dataset.train, self._config.network.dtype
        augmentation = None
        if config.augmentation is not None:
            augmentation = Augmentation(
                config.augmentation,
                self._dataset.image_shape,
                len(train),
                config.training.epochs,
                config.seed,
                dtype,
            )
        teacher = None
        if self._teachers:
            rows = self._comm.shard(self._batch_size)
            teacher = TeacherTargets(self._teachers, rows.stop - rows.start, config.data.preprocessing)
        movable = augmentation is not None or config.training.adversarial > 0  # then no pixel is always 0
        trims = not movable and self._batch_size * self.architecture.sizes[1] >= MIN_WORK_TO_TRIM
        return Batches(
            train,
            self.targets.table(config.training.label_smoothing, dtype),
            self._batch_size,
            self._X,
            self._comm,
            seed=config.seed,
            dropout=config.training.input_dropout,
            augmentation=augmentation,
            margins=Margins(train.images) if trims else None,
            teacher=teacher,
        )

    def _local_rows(self, size: int) -> int:
        """Return how many examples of a batch are in the arrays of this process."""
        shard = self._comm.data.shard(size)
        return int(shard.stop - shard.start)

    def _allocate(self, shape: tuple[int, ...]) -> Array:
        return self._comm.allocate(shape, self._config.network.dtype)

    def _in_shared_memory(self, state: State) -> State:
        """Return a copy of ``state`` in shared memory, with the average and the optimizer state that are missing."""
        training, theta = self._config.training, state.theta.vector

        def copied(vector: Array) -> Array:
            copy = self._comm.allocate(vector.shape, vector.dtype)
            copy[...] = vector
            return copy

        def parameters(vector: Array) -> Parameters:
            return self.architecture.parameters(theta.dtype, copied(vector))

        average = None
        if training.averaging is not None:
            average = parameters(theta if state.average is None else state.average.vector)
        names = OPTIMIZER_STATE[training.optimizer]
        optimizer = {name: copied(state.optimizer.get(name, np.zeros_like(theta))) for name in names}
        return replace(state, theta=parameters(theta), optimizer=optimizer, average=average)

    def _broadcast_state(self) -> None:
        """Make the state that of rank 0: CPUs of different kinds may round differently."""
        for vector in self.state.vectors.values():
            self._comm.broadcast(vector)

    def _epoch(self, on_step: Callable[[float], None] | None) -> EpochRecord:
        state, examples = self.state, len(self._dataset.train)
        epoch = state.epoch + 1
        total, wrong, rate, norms = 0.0, 0, 0.0, [0.0]
        started = time.perf_counter()
        for step in self.steps():
            size, rate, loss, errors, step_norms = step
            total += loss * size
            wrong += errors
            norms = step_norms or norms
            if on_step is not None:
                on_step(loss)
        seconds = time.perf_counter() - started
        validation_loss, validation_error = self._validate(state.parameters)
        raw_loss, raw_error = (None, None) if state.average is None else self._validate(state.theta)
        if not (
            np.isfinite(state.theta.vector).all()
            and all(map(math.isfinite, (total, validation_loss or 0.0, raw_loss or 0.0, *norms)))
        ):
            what = "a parameter, a gradient or the validation loss is no longer finite"
            raise self._diverged(f"{what} at the end of epoch {epoch}", rate)
        state.epoch = epoch
        self._update_best(validation_error, validation_loss)
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
            examples_per_second=examples / seconds if seconds > 0 else 0.0,  # a clock may stand still
            seconds=seconds,
            gradient_norm=norms,
            saturation=self._saturation.saturation(state.parameters, self._comm),
        )

    def _gradient_norms(self, batch: Batch) -> list[float]:
        """Return each layer's norm of the gradient of ``batch``, penalty included, before the update. Collective."""
        self._to_gradient[batch.size, batch.slot].accumulate()
        self._comm.barrier()  # all shards of the gradient are there
        gradient = self.architecture.parameters(self._gradient.vector.dtype, self._gradient.vector.copy())
        norms = gradient_norms(gradient, self.state.theta, self._config.training.l2)
        self._comm.barrier()  # no shard of theta has been updated yet
        return norms

    def _validate(self, theta: Parameters) -> tuple[float, float] | tuple[None, None]:
        if self._validation is None:
            return None, None
        loss, wrong = self._validation.loss_and_errors(theta, self._comm)
        return loss, wrong / self._validation.examples

    def _update_best(self, error: float | None, loss: float | None) -> None:
        if error is None or loss is None:
            return
        state = self.state
        if state.best is None or (error, loss) < state.best:
            state.best, state.best_epoch, state.epochs_since_best = (error, loss), state.epoch, 0
        else:
            state.epochs_since_best += 1

    def _diverged(self, what: str, rate: float) -> DivergedError:
        how = remedy(self._config, self.state.step)
        return DivergedError(f"training diverged: {what}, with a learning rate of {rate:.3g}; {how}")
