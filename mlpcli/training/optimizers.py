"""Update rules and learning-rate schedules.

An update rule moves the flat vector of parameters theta (n,) by the gradient g (n,) of the loss, at the learning rate
of the step. It works through the vectors a piece at a time, so that a piece is still in the cache at the rule's next
line.

A rule says which vector the gradient is to be added to, and how: rules with momentum keep mu times it and add -eta g,
which the matrix product that is the gradient does by itself: nothing is read or written once more for it, unless the
gradients of several processes have to be added up before.
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


# Makes the vector that a rule accumulates in (keep) times itself plus (scale) times the gradient: add(scale, keep).
AddGradient = Callable[[float, float], None]
# Adds (scale) times what is missing from the gradient of one piece, by its number: add(number, scale).
AddToPiece = Callable[[int, float], None]


class Optimizer:
    """An update rule. ``state`` has its vectors (n,) by name: what a checkpoint keeps beside the parameters.

    ``accumulator`` (n,) is the vector that takes the gradient.
    """

    memory: tuple[str, ...] = ()

    def __init__(
        self, theta: Array, gradient: Array, momentum: float, state: dict[str, Array], stretches: Sequence[slice]
    ) -> None:
        self.momentum = momentum
        self.state = state
        self.accumulator = gradient
        # With a momentum of 0.9 or more it takes over SETTLE_STEPS from here to numbers that are not normal.
        self._faded = float(np.finfo(theta.dtype).tiny) * 1e6
        vectors = (theta, *self.state.values())
        scratch = aligned((max((own.stop - own.start for own in stretches), default=0),), theta.dtype)
        self._pieces = [
            (gradient[own], *(vector[own] for vector in vectors), scratch[: own.stop - own.start]) for own in stretches
        ]

    def begin(self) -> None:
        """Take up theta and the memory as they are: to be called before each epoch's first step."""

    def weights(self, learning_rate: float) -> tuple[float, float]:
        """The factors of the gradient and of what is in the accumulator."""
        return 1.0, 0.0

    def step(self, learning_rate: float, step: int, add: AddGradient, add_to_piece: AddToPiece | None = None) -> None:
        """Move theta; ``step`` counts from 1.

        ``add`` is called once, to add the gradient to the accumulator. ``add_to_piece`` is called with the number of
        each stretch before that is moved, to add what depends on each parameter alone when it is in the cache anyway.
        """
        scale, keep = self.weights(learning_rate)
        add(scale, keep)
        for number, piece in enumerate(self._pieces):
            if add_to_piece is not None:
                add_to_piece(number, scale)
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

    def __init__(
        self, theta: Array, gradient: Array, momentum: float, state: dict[str, Array], stretches: Sequence[slice]
    ) -> None:
        super().__init__(theta, gradient, momentum, state, stretches)
        self.accumulator = state["v"]

    def weights(self, learning_rate: float) -> tuple[float, float]:
        """The factors of the gradient and of v: the whole of the first line."""
        return -learning_rate, self.momentum

    def update(self, learning_rate: float, step: int, *piece: Array) -> None:
        """The second line, on one piece."""
        _, theta, v, _ = piece
        theta += v


class Nesterov(Momentum):
    """v <- mu v - eta g(phi + mu v); phi <- phi + v. Nesterov 1983; Sutskever et al. 2013, equations 3 and 4.

    The gradient is taken at phi + mu v. That point is what theta stands for here, so that gradient and parameters
    belong together (Bengio et al. 2013, "Advances in optimizing recurrent networks", section 3.5). phi is known from
    theta and v, and kept beside them for an epoch.
    """

    def __init__(
        self, theta: Array, gradient: Array, momentum: float, state: dict[str, Array], stretches: Sequence[slice]
    ) -> None:
        super().__init__(theta, gradient, momentum, state, stretches)
        self._pieces = [(aligned(theta.shape, theta.dtype), theta, *rest) for _, theta, *rest in self._pieces]

    def begin(self) -> None:
        """phi, of theta and v as they are: continued or resumed, an epoch begins with the same."""
        for phi, theta, v, mu_v in self._pieces:
            np.multiply(v, self.momentum, out=mu_v)
            np.subtract(theta, mu_v, out=phi)

    def update(self, learning_rate: float, step: int, *piece: Array) -> None:
        """The second line, on one piece, and theta for the next step."""
        phi, theta, v, _ = piece
        phi += v
        np.multiply(v, self.momentum, out=theta)
        theta += phi


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
    """The update rule that ``config`` names, for ``theta`` (n,).

    ``gradient`` (n,) is where rules without momentum take the gradient, ``state`` the memory (n,) of each, by name,
    zeros at first. Of all three only the ``stretches`` are touched, one after
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
