"""A run's state, which a checkpoint stores, and the record of an epoch.

It stands below both the training loop, which makes it, and the run directory, which stores it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from mlpcli.config import Config
from mlpcli.model.build import Architecture
from mlpcli.model.parameters import Parameters

Array = NDArray[Any]


@dataclass(frozen=True)
class EpochRecord:
    """Metrics of one epoch: a line of metrics.jsonl, with its fields in this order.

    Errors are fractions of the images. ``train_loss`` and ``train_error`` are running means over the epoch's batches as
    they are trained on: distorted, with dropout, for smoothed targets; without the penalty. ``validation_loss`` and
    ``validation_error`` are those of the run's model: the average of the parameters if there is one, in which case
    ``raw_validation_loss`` and ``raw_validation_error`` are those of the parameters themselves, else null.
    ``learning_rate`` is that of the last step. By layer: ``gradient_norm`` of the epoch's last full batch, penalty
    included, and ``saturation``, the fraction of hidden units of the run's model with |z| > 4.6 on the first thousand
    training images, null unless they are sigmoids.
    Only ``examples_per_second`` and ``seconds``, of training alone, differ between equal runs.
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
    """A training state: all that future epochs depend on except config and data.

    ``average`` is the moving average of ``theta``, if the config asks for one. ``best`` is the lowest (validation
    error, validation loss) so far, ``best_epoch`` its epoch, and ``epochs_since_best`` the number of epochs since.
    """

    theta: Parameters
    optimizer: dict[str, Array] = field(default_factory=dict)
    average: Parameters | None = None
    epoch: int = 0
    step: int = 0
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    epochs_since_best: int = 0

    @property
    def vectors(self) -> dict[str, Array]:
        """Return all vectors (n,) by name: theta, those of the optimizer, and the average, if there is one."""
        average = {} if self.average is None else {"average": self.average.vector}
        return {"theta": self.theta.vector, **self.optimizer, **average}

    @property
    def parameters(self) -> Parameters:
        """Return the parameters of the run's model: the average of theta if there is one, else theta."""
        return self.theta if self.average is None else self.average


def architecture_of(config: Config, inputs: int, classes: int) -> Architecture:
    """Return the architecture that ``config`` describes, for images of ``inputs`` pixels."""
    sizes = (inputs, *config.network.hidden, 1 if config.network.single_output else classes)
    return Architecture.named(sizes, config.network.activation, config.network.objective)
