"""Optimizers: the flat vector of parameters theta (n,) is updated by the gradient g (n,) of the loss.

A step has two halves. :meth:`Optimizer.begin_step` says (alpha, beta): the gradient is to be accumulated as
accumulator <- beta * accumulator + alpha * g. So the product that makes the gradient also computes the first line of
the update, and momentum needs no pass over memory of its own. :meth:`Optimizer.step` does the rest, chunk by chunk, so
that a chunk stays in the cache from line to line; that is also where weight decay is added.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import MOMENTUM, OPTIMIZER_STATE, TrainingConfig
from mlpcli.model.blas import Axpy
from mlpcli.model.memory import aligned
from mlpcli.model.network import WeightDecay
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.comm import Serial

Array = NDArray[Any]

# Entries of a chunk: few enough to stay in the cache from line to line; more for an update of one line, which BLAS
# computes in all its threads.
CHUNK_SIZE = 32_768
CHUNK_SIZE_OF_ONE_LINE = 262_144

# v = c u is written out when c < MIN_MOMENTUM_SCALE, and what is below DENORMAL_MARGIN times the smallest normal number
# is then set to 0; by Adam every FLUSH_STEPS steps. With a decay of 0.9 or more nothing is denormal before.
MIN_MOMENTUM_SCALE = 1e-6
DENORMAL_MARGIN = 1e6
FLUSH_STEPS = 128


class Optimizer:
    """An update rule. ``state`` has its vectors (n,) by name, which checkpoints keep beside theta, zero at first.

    ``accumulator`` (n,) is the vector the gradient is accumulated in: ``gradient``, or one of the state. Only the part
    of the vectors that this process owns is read or written; ``l2`` is the coefficient of weight decay.
    """

    chunk_size = CHUNK_SIZE

    def __init__(
        self,
        theta: Parameters,
        gradient: Parameters,
        state: dict[str, Array],
        momentum: float,
        l2: float,
        comm: Serial,
    ) -> None:
        self.theta, self.gradient, self.state, self.momentum = theta.vector, gradient.vector, state, momentum
        self.accumulator = self.accumulates_in()
        self.alpha = 1.0
        self._tiny = float(np.finfo(theta.vector.dtype).tiny) * DENORMAL_MARGIN
        owned = theta.chunks(comm, self.chunk_size)
        weights = len(theta.weights)
        decays = [
            WeightDecay(l2, theta.weights[chunk], self.accumulator[:weights][chunk])
            if l2 and chunk.start < weights
            else None
            for chunk in owned
        ]
        self._plans: list[Any] = [self.plan(chunk) for chunk in owned]
        self._decays_and_plans = list(zip(decays, self._plans, strict=True))

    def accumulates_in(self) -> Array:
        """Return the vector (n,) in which the gradient is accumulated."""
        return self.gradient

    def plan(self, chunk: slice) -> Any:
        """Return what :meth:`update` needs for one chunk."""
        raise NotImplementedError

    def begin(self) -> None:
        """Read theta and the state. Call before an epoch's first step."""

    def end(self) -> None:
        """Write theta and the state as a checkpoint keeps them. Call after an epoch's last step."""

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of the state, as a checkpoint keeps it, at any moment between two steps."""
        return {name: vector.copy() for name, vector in self.state.items()}

    def begin_step(self, learning_rate: float, number: int) -> tuple[float, float]:
        """Return (alpha, beta), with which the gradient of step ``number``, from 1, is to be accumulated."""
        return self.alpha, 0.0

    def step(self) -> None:
        """Update theta by the accumulated gradient."""
        for decay, plan in self._decays_and_plans:
            if decay is not None:
                decay.accumulate(self.alpha)
            self.update(plan)

    def update(self, plan: Any) -> None:
        """Update one chunk."""
        raise NotImplementedError

    def _flush_denormals(self, vector: Array) -> None:
        """Set to 0 what is close to denormal in a vector of the state.

        The momentum of a weight whose pixel is always zero decays until it is denormal, on which processors are a
        hundred times slower. It is far too small to change a parameter.
        """
        vector *= np.abs(vector) >= self._tiny


class Sgd(Optimizer):
    """theta <- theta - eta g. Robbins and Monro 1951."""

    chunk_size = CHUNK_SIZE_OF_ONE_LINE

    def plan(self, chunk: slice) -> Axpy:
        """Return the sum theta + (-eta g)."""
        return Axpy(self.gradient[chunk], self.theta[chunk])

    def begin_step(self, learning_rate: float, number: int) -> tuple[float, float]:
        """Return (-eta, 0)."""
        self.alpha = -learning_rate
        return self.alpha, 0.0

    def update(self, plan: Axpy) -> None:
        """Update one chunk."""
        plan()


class Momentum(Optimizer):
    """v <- mu v - eta g; theta <- theta + v. Polyak 1964; Sutskever et al. 2013, equations 1 and 2.

    The state holds u, with v = c u, so that v decays by decreasing the number c:

        c <- mu c;  u <- u - (eta / c) g;  theta <- theta + c u

    Entries without a gradient are then neither read nor written by the first line, and a product that is added to what
    is there is faster than one that also scales it. v is written out before c gets too small. (Bottou 2012, "Stochastic
    Gradient Descent Tricks", section 5.1, does so with weight decay.)
    """

    chunk_size = CHUNK_SIZE_OF_ONE_LINE

    c = 1.0

    def accumulates_in(self) -> Array:
        """Return u."""
        return self.state["v"]

    def plan(self, chunk: slice) -> Any:
        """Return u, and the sum theta + c u."""
        u = self.state["v"][chunk]
        return u, Axpy(u, self.theta[chunk])

    def begin_step(self, learning_rate: float, number: int) -> tuple[float, float]:
        """Return (-eta / c, 1), with c decreased by mu."""
        self.c *= self.momentum
        if self.c < MIN_MOMENTUM_SCALE:
            self.end()
        self.alpha = -learning_rate / self.c
        return self.alpha, 1.0

    def end(self) -> None:
        """Write v in place of u."""
        for u, *_ in self._plans:
            u *= self.c
            self._flush_denormals(u)
        self.c = 1.0

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of v."""
        return {"v": self.c * self.state["v"]}

    def update(self, plan: Any) -> None:
        """Update one chunk."""
        _, add_u = plan
        add_u(self.c)


class Nesterov(Momentum):
    """v <- mu v - eta g(phi + mu v); phi <- phi + v. Nesterov 1983; Sutskever et al. 2013, equations 3 and 4.

    The gradient is taken at phi + mu v. Here theta is that point, so that gradient and parameters belong together
    (Bengio et al. 2013, "Advances in optimizing recurrent networks", section 3.5). phi follows from theta and v, and is
    stored beside them for an epoch.
    """

    chunk_size = CHUNK_SIZE

    def plan(self, chunk: slice) -> Any:
        """Return u, theta, phi, and the sum phi + c u."""
        u, theta = self.state["v"][chunk], self.theta[chunk]
        phi = aligned(theta.shape, theta.dtype)
        return u, theta, phi, Axpy(u, phi)

    def begin(self) -> None:
        """Compute phi from theta and v: continued or resumed, an epoch begins with the same."""
        for v, theta, phi, _ in self._plans:
            np.multiply(v, -self.momentum, out=phi)
            phi += theta

    def update(self, plan: Any) -> None:
        """Update one chunk, and theta = phi + mu v for the next step."""
        u, theta, phi, add_u = plan
        add_u(self.c)
        np.multiply(u, self.momentum * self.c, out=theta)
        theta += phi


class Adam(Optimizer):
    """m <- b1 m + (1-b1) g; s <- b2 s + (1-b2) g^2; theta <- theta - eta m' / (sqrt(s') + eps), bias-corrected.

    Kingma and Ba 2015, algorithm 1, with the reordering of section 2; b1 is ``momentum``, b2 = 0.999, eps = 1e-8.
    """

    b2 = 0.999
    eps = 1e-8

    def __init__(self, theta: Parameters, *others: Any) -> None:
        self._scratch = aligned((min(self.chunk_size, len(theta.vector)),), theta.vector.dtype)
        super().__init__(theta, *others)

    def plan(self, chunk: slice) -> Any:
        """Return g, theta, m, s, and scratch space."""
        g, theta, m, s = (vector[chunk] for vector in (self.gradient, self.theta, self.state["m"], self.state["s"]))
        return g, theta, m, s, self._scratch[: len(g)]

    def begin_step(self, learning_rate: float, number: int) -> tuple[float, float]:
        """Return (1, 0)."""
        self._learning_rate, self._number = learning_rate, number
        return super().begin_step(learning_rate, number)

    def update(self, plan: Any) -> None:
        """Update one chunk."""
        g, theta, m, s, scratch = plan
        b1, b2, number = self.momentum, self.b2, self._number
        correction = math.sqrt(1.0 - b2**number)
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
        scratch *= self._learning_rate * correction / (1.0 - b1**number)
        theta -= scratch
        if number % FLUSH_STEPS == 0:
            self._flush_denormals(m)
            self._flush_denormals(s)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": Sgd, "momentum": Momentum, "nesterov": Nesterov, "adam": Adam}
assert OPTIMIZERS.keys() == OPTIMIZER_STATE.keys()


def make_optimizer(
    config: TrainingConfig, theta: Parameters, gradient: Parameters, state: dict[str, Array], comm: Serial
) -> Optimizer:
    """Return the optimizer that ``config`` names, for the part of ``theta`` that this process of ``comm`` owns."""
    momentum = MOMENTUM if config.momentum is None else config.momentum
    return OPTIMIZERS[config.optimizer](theta, gradient, state, momentum, config.l2, comm)
