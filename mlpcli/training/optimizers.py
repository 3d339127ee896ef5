"""Update rules and learning-rate schedules.

An update rule moves the flat vector of parameters theta (n,) by the gradient g (n,) of the loss, at the learning rate
of the step. A rule of several lines works through the vectors a piece at a time, so that a piece is still in the cache
at the rule's next line.

A rule says which vector the gradient is to be added to, and how: the matrix product that is the gradient then does the
rule's first line by itself, and nothing is read or written once more for it, unless the gradients of several processes
have to be added up before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import TrainingConfig
from mlpcli.model.blas import Addend
from mlpcli.model.memory import aligned

Array = NDArray[Any]

# The entries of a piece, at most: few enough to stay in the cache from line to line. Where there is but one line, a
# sum, BLAS makes it in all its threads, and they want more.
PIECE = 32_768
PIECE_OF_A_SUM = 262_144

# Momentum is written out when its unit gets smaller than this, and what is below FADED times the least normal number is
# made 0; by Adam, whose memory shrinks by itself, every so many steps. With a factor of 0.9 a step or more none of it
# has then become less than normal.
LEAST_UNIT = 1e-6
SETTLE_STEPS = 128
FADED = 1e6


# Adds (scale) times the gradient to the vector that a rule accumulates in.
AddGradient = Callable[[float], None]
# Adds (scale) times what is missing from the gradient of one piece, by its number: add(number, scale).
AddToPiece = Callable[[int, float], None]


class Optimizer:
    """An update rule. ``state`` has its vectors (n,) by name: between epochs, what a checkpoint keeps beside theta.

    ``accumulator`` (n,) is the vector that takes the gradient: the one made for it, which holds nothing else, or one of
    the rule's memory, which the gradient is added to.
    """

    memory: tuple[str, ...] = ()
    entries = PIECE  # of a piece, at most

    def __init__(
        self, theta: Array, gradient: Array, momentum: float, state: dict[str, Array], stretches: Sequence[slice]
    ) -> None:
        self.momentum = momentum
        self.state = state
        self.accumulator = gradient
        self._faded = float(np.finfo(theta.dtype).tiny) * FADED
        self._pieces: list[Any] = [self.piece(theta[own], gradient[own], own) for own in stretches]

    def piece(self, theta: Array, gradient: Array, own: slice) -> Any:
        """What :meth:`update` needs of one stretch of the vectors."""
        raise NotImplementedError

    def begin(self) -> None:
        """Take up theta and the memory as they are: to be called before each epoch's first step."""

    def end(self) -> None:
        """Leave theta and the memory as a checkpoint keeps them: to be called after each epoch's last step."""

    def begin_step(self, learning_rate: float) -> float:
        """What the gradient of this step is to be multiplied by."""
        return 1.0

    def step(self, learning_rate: float, step: int, add: AddGradient, add_to_piece: AddToPiece | None = None) -> None:
        """Move theta; ``step`` counts from 1.

        ``add`` is called once, to add the gradient to the accumulator. ``add_to_piece`` is called with the number of
        each stretch before that is moved, to add what depends on each parameter alone when it is in the cache anyway.
        """
        scale = self.begin_step(learning_rate)
        add(scale)
        for number, piece in enumerate(self._pieces):
            if add_to_piece is not None:
                add_to_piece(number, scale)
            self.update(learning_rate, step, piece)

    def update(self, learning_rate: float, step: int, piece: Any) -> None:
        """The rule, on one piece."""
        raise NotImplementedError

    def _settle(self, vector: Array) -> None:
        """Make 0 of what has faded away in a ``vector`` of the rule's memory.

        The memory of a weight whose pixel is dark shrinks, until it is too small for a normal number and too large to
        be rounded to 0; there it would stay, or stay for long, and processors take a hundred times as long for such
        numbers. It is far too small to move a parameter.
        """
        vector *= np.abs(vector) >= self._faded


class Sgd(Optimizer):
    """theta <- theta - eta g. Robbins and Monro 1951."""

    entries = PIECE_OF_A_SUM

    def piece(self, theta: Array, gradient: Array, own: slice) -> Any:
        """What adds -eta g to theta."""
        return Addend(gradient, theta)

    def begin_step(self, learning_rate: float) -> float:
        """-eta."""
        return -learning_rate

    def update(self, learning_rate: float, step: int, piece: Any) -> None:
        """The rule, on one piece."""
        piece.add()


class Momentum(Optimizer):
    """v <- mu v - eta g; theta <- theta + v. Polyak 1964; Sutskever et al. 2013, equations 1 and 2.

    In memory is not v but u, of which v = c u, so that v shrinks by making the number c smaller:

        c <- mu c;  u <- u - (eta / c) g;  theta <- theta + c u

    What has no gradient is then neither read nor written by the first line, and a product that is added to what is
    there is quicker than one that scales it too. Before c gets too small v is written out again. (Bottou 2012,
    "Stochastic Gradient Descent Tricks", section 5.1, does so with the decay of weights.)
    """

    memory = ("v",)
    entries = PIECE_OF_A_SUM

    def __init__(
        self, theta: Array, gradient: Array, momentum: float, state: dict[str, Array], stretches: Sequence[slice]
    ) -> None:
        super().__init__(theta, gradient, momentum, state, stretches)
        self.accumulator = state["v"]
        self._unit = 1.0  # c

    def piece(self, theta: Array, gradient: Array, own: slice) -> Any:
        """u, and what adds it to theta."""
        u = self.state["v"][own]
        return u, Addend(u, theta)

    def begin_step(self, learning_rate: float) -> float:
        """The smaller c, and -eta / c: with it the product that is the gradient is the whole of the first line."""
        self._unit *= self.momentum
        if self._unit < LEAST_UNIT:
            self.end()
        return -learning_rate / self._unit

    def end(self) -> None:
        """Write v in the place of u."""
        for u, *_ in self._pieces:
            u *= self._unit
            if self._unit:
                self._settle(u)
        self._unit = 1.0

    def update(self, learning_rate: float, step: int, piece: Any) -> None:
        """The second line, on one piece."""
        _, addend = piece
        addend.add(self._unit)


class Nesterov(Momentum):
    """v <- mu v - eta g(phi + mu v); phi <- phi + v. Nesterov 1983; Sutskever et al. 2013, equations 3 and 4.

    The gradient is taken at phi + mu v. That point is what theta stands for here, so that gradient and parameters
    belong together (Bengio et al. 2013, "Advances in optimizing recurrent networks", section 3.5). phi is known from
    theta and v, and kept beside them for an epoch.
    """

    entries = PIECE

    def piece(self, theta: Array, gradient: Array, own: slice) -> Any:
        """u, theta and phi, and what adds u to phi."""
        phi, u = aligned(theta.shape, theta.dtype), self.state["v"][own]
        return u, theta, phi, Addend(u, phi)

    def begin(self) -> None:
        """phi, of theta and v as they are: continued or resumed, an epoch begins with the same."""
        for v, theta, phi, _ in self._pieces:
            np.multiply(v, -self.momentum, out=phi)
            phi += theta

    def update(self, learning_rate: float, step: int, piece: Any) -> None:
        """The second line, on one piece, and theta for the next step."""
        u, theta, phi, addend = piece
        addend.add(self._unit)
        np.multiply(u, self.momentum * self._unit, out=theta)
        theta += phi


class Adam(Optimizer):
    """m <- b1 m + (1-b1) g; s <- b2 s + (1-b2) g^2; theta <- theta - eta m' / (sqrt(s') + eps), bias-corrected.

    Kingma and Ba 2015, algorithm 1, with the reordering of section 2; b1 is ``momentum``, b2 = 0.999, eps = 1e-8.
    """

    memory = ("m", "s")
    b2 = 0.999
    eps = 1e-8

    def __init__(
        self, theta: Array, gradient: Array, momentum: float, state: dict[str, Array], stretches: Sequence[slice]
    ) -> None:
        self._scratch = aligned((max((own.stop - own.start for own in stretches), default=0),), theta.dtype)
        super().__init__(theta, gradient, momentum, state, stretches)

    def piece(self, theta: Array, gradient: Array, own: slice) -> Any:
        """g, theta, m, s, and scratch space."""
        return gradient, theta, self.state["m"][own], self.state["s"][own], self._scratch[: len(theta)]

    def update(self, learning_rate: float, step: int, piece: Any) -> None:
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
        if step % SETTLE_STEPS == 0:
            self._settle(m)
            self._settle(s)


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
    zeros at first. Of all three only the ``stretches`` are touched, one after the other; they stay in the cache between
    the rule's lines if they are no longer than its ``entries``.
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
