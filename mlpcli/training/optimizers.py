"""Update rules and learning-rate schedules.

An update rule moves the flat vector of parameters theta (n,) by the gradient g (n,) of the loss, at the learning rate
of the step. It works through the vectors a piece at a time, so that a piece is still in the cache at the rule's next
line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import TrainingConfig
from mlpcli.model.memory import aligned

Array = NDArray[Any]

PIECE = 32_768

SETTLE_STEPS = 128


class Optimizer:
    """An update rule. ``state`` has its vectors (n,) by name: what a checkpoint keeps beside the parameters."""

    memory: tuple[str, ...] = ()

    def __init__(
        self, theta: Array, gradient: Array, momentum: float, state: dict[str, Array], stretches: Sequence[slice]
    ) -> None:
        self.momentum = momentum
        self.state = state
        # With a momentum of 0.9 or more it takes over SETTLE_STEPS from here to numbers that are not normal.
        self._faded = float(np.finfo(theta.dtype).tiny) * 1e6
        vectors = (gradient, theta, *self.state.values())
        scratch = aligned((max((own.stop - own.start for own in stretches), default=0),), theta.dtype)
        self._pieces = [(*(vector[own] for vector in vectors), scratch[: own.stop - own.start]) for own in stretches]

    def step(self, learning_rate: float, step: int, complete: Callable[[int], None] | None = None) -> None:
        """Move theta by the gradient (n,), which may be spent in the process; ``step`` counts from 1.

        ``complete`` is called with the number of each stretch before it is moved: the last chance to add to its
        gradient, when it is brought into the cache anyway.
        """
        for number, piece in enumerate(self._pieces):
            if complete is not None:
                complete(number)
            self.update(learning_rate, step, *piece)
        if step % SETTLE_STEPS == 0:
            self._settle()

    def _settle(self) -> None:
        """Make 0 of what has faded away in the rule's memory.

        The memory of a weight whose pixel is dark shrinks by a factor a step, until it is too small for a normal number
        and too large to be rounded to 0; there it would stay, and processors take a hundred times as long for such
        numbers. It is far too small to move a parameter.
        """
        for _, _, *memory, _ in self._pieces:
            for vector in memory:
                vector *= np.abs(vector) >= self._faded

    def update(self, learning_rate: float, step: int, *piece: Array) -> None:
        """The rule, on one piece of g, theta, the rule's memory, and scratch space."""
        raise NotImplementedError


class Sgd(Optimizer):
    """theta <- theta - eta g. Robbins and Monro 1951."""

    def update(self, learning_rate: float, step: int, *piece: Array) -> None:
        """The rule, on one piece."""
        g, theta, change = piece
        np.multiply(g, learning_rate, out=change)
        theta -= change


class Momentum(Optimizer):
    """v <- mu v - eta g; theta <- theta + v. Polyak 1964; Sutskever et al. 2013, equations 1 and 2."""

    memory = ("v",)

    def update(self, learning_rate: float, step: int, *piece: Array) -> None:
        """The rule, on one piece."""
        g, theta, v, change = piece
        v *= self.momentum
        np.multiply(g, learning_rate, out=change)
        v -= change
        theta += v


class Nesterov(Optimizer):
    """v <- mu v - eta g; theta <- theta + mu v - eta g. Nesterov 1983; Sutskever et al. 2013, equations 3 and 4.

    There the gradient is taken at theta + mu v. Here theta stands for that point itself, so that gradient and
    parameters belong together, and the step is written for it: Bengio et al. 2013, "Advances in optimizing recurrent
    networks", section 3.5.
    """

    memory = ("v",)

    def update(self, learning_rate: float, step: int, *piece: Array) -> None:
        """The rule, on one piece."""
        g, theta, v, change = piece
        v *= self.momentum
        np.multiply(g, learning_rate, out=change)
        v -= change
        theta -= change
        np.multiply(v, self.momentum, out=change)
        theta += change


class Adam(Optimizer):
    """m <- b1 m + (1-b1) g; s <- b2 s + (1-b2) g^2; theta <- theta - eta m' / (sqrt(s') + eps), bias-corrected.

    Kingma and Ba 2015, algorithm 1, with the reordering of section 2; b1 is ``momentum``, b2 = 0.999, eps = 1e-8.
    """

    memory = ("m", "s")
    b2 = 0.999
    eps = 1e-8

    def update(self, learning_rate: float, step: int, *piece: Array) -> None:
        """The rule, on one piece."""
        g, theta, m, s, scratch = piece
        b1, b2 = self.momentum, self.b2
        correction = math.sqrt(1.0 - b2**step)
        m *= b1
        np.multiply(g, 1.0 - b1, out=scratch)
        m += scratch
        s *= b2
        g *= g
        g *= 1.0 - b2
        s += g
        np.sqrt(s, out=scratch)
        scratch += self.eps * correction
        np.divide(m, scratch, out=scratch)
        scratch *= learning_rate * correction / (1.0 - b1**step)
        theta -= scratch


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": Sgd, "momentum": Momentum, "nesterov": Nesterov, "adam": Adam}


def make_optimizer(
    config: TrainingConfig,
    theta: Array,
    gradient: Array,
    state: dict[str, Array],
    stretches: Sequence[slice],
) -> Optimizer:
    """The update rule that ``config`` names, moving ``theta`` (n,) by what is in ``gradient`` (n,).

    ``state`` is its memory (n,), by name, zeros at first. Of all three only the ``stretches`` are touched, one after
    the other; they stay in the cache between the rule's lines if they are of ``PIECE`` entries at most.
    """
    momentum = 0.9 if config.momentum is None else config.momentum
    return OPTIMIZERS[config.optimizer](theta, gradient, momentum, state, stretches)


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate eta of ``step`` (from 0), by the schedule over all ``config.epochs``.

    First a rise, linear in the step, over ``warmup_epochs``. Then ``constant``; or ``cosine``, eta/2 (1 + cos pi t) for
    the share t of the rest that is done (Loshchilov and Hutter 2017, equation 5, one cycle); or ``step``, a tenth of it
    once half of all epochs are done, a hundredth after three quarters (He et al. 2016, section 4.2).
    """
    eta = config.learning_rate
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return eta * ((step + 1) / (warmup + 1))
    total = config.epochs * steps_per_epoch
    if config.schedule == "cosine":
        return eta / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    if config.schedule == "step":
        return eta * (1.0 if step < total / 2 else 0.1 if step < total * 3 / 4 else 0.01)
    return eta
