"""Activations, update rules, schedules and masks by their definitions: training is checked against these.

Nothing here is used to train. Each rule maps theta, the optimizer's state and the gradient g, arrays of one shape, to
the new theta and state; ``t`` counts the steps from 1. A rule that is linear maps the projections of vectors on a
direction as it maps the vectors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import NetworkConfig, TrainingConfig
from mlpcli.gradcheck.output_layer import OUTPUT_LAYERS
from mlpcli.model.parameters import Parameters

Array = NDArray[Any]
Vectors = dict[str, Array]
Rule = Callable[[Array, Vectors, Array, float, float, int], tuple[Array, Vectors]]


def sgd(theta: Array, state: Vectors, g: Array, eta: float, mu: float, t: int) -> tuple[Array, Vectors]:
    """Robbins and Monro 1951."""
    return theta - eta * g, {}


def momentum(theta: Array, state: Vectors, g: Array, eta: float, mu: float, t: int) -> tuple[Array, Vectors]:
    """Sutskever et al. 2013, equations 1 and 2."""
    v = mu * state["v"] - eta * g
    return theta + v, {"v": v}


def nesterov(theta: Array, state: Vectors, g: Array, eta: float, mu: float, t: int) -> tuple[Array, Vectors]:
    """Sutskever et al. 2013, equations 3 and 4; theta is where the gradient is taken, phi + mu v."""
    phi = theta - mu * state["v"]
    v = mu * state["v"] - eta * g
    return phi + v + mu * v, {"v": v}


def adam(theta: Array, state: Vectors, g: Array, eta: float, mu: float, t: int) -> tuple[Array, Vectors]:
    """Kingma and Ba 2015, algorithm 1, with eps as reordered in section 2."""
    b1, b2, eps = mu, 0.999, 1e-8
    m = b1 * state["m"] + (1 - b1) * g
    s = b2 * state["s"] + (1 - b2) * g**2
    rate = eta * math.sqrt(1 - b2**t) / (1 - b1**t)
    return theta - rate * m / (np.sqrt(s) + eps * math.sqrt(1 - b2**t)), {"m": m, "s": s}


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": lambda z: -np.sign(z) * np.expm1(-2 * np.abs(z)) / (1 + np.exp(-2 * np.abs(z))),
    "relu": lambda z: np.where(z > 0, z, 0.0),
}

# On which side of a kink, where there is no derivative, each argument is: of the functions that have kinks.
KINKS: dict[str, Callable[..., Array]] = {
    "relu": lambda z: z > 0,
    "linear_hinge": lambda z, Y: z - (Y * z).sum(axis=1, keepdims=True) + 1 > 0,
}

# The numbers of the random streams of an epoch.
STREAMS = {"order": 2, "affine": 3, "elastic": 4, "dropout": 5, "input dropout": 7}

RULES: dict[str, Rule] = {"sgd": sgd, "momentum": momentum, "nesterov": nesterov, "adam": adam}


def gradient_from_m(before: Array, after: Array, mu: float) -> Array:
    """Return the gradient of a step of Adam, from its first moment ``before`` and ``after`` it."""
    return (after - mu * before) / (1 - mu)


def connections(config: NetworkConfig, image_shape: tuple[int, int], theta: Parameters) -> Parameters:
    """Return 1 for the parameters (n,) that may change, those of like shape as ``theta``, and 0 for the others.

    The place of unit j, from 1, is that of the fractions 1/2 + j / g and 1/2 + j / g^2, without their whole parts, of
    the way across the image, less at each border the first layer's radius, or a quarter of the way if that is less; g
    is the real root of g^3 = g + 1.
    """
    free = Parameters(theta.sizes, np.float64, np.ones(len(theta.vector)))
    radii = config.receptive_fields or ()
    g = max(np.roots([1, 0, -1, -1]), key=np.real).real
    below = [complex(row, column) for row in range(image_shape[0]) for column in range(image_shape[1])]
    for radius, M in zip(radii, free.W, strict=False):
        axes = []
        for power, size in enumerate(image_shape, start=1):
            border = min(radii[0], (size - 1) / 4)
            fraction = np.mod(0.5 + np.arange(1, M.shape[1] + 1) / g**power, 1)
            axes.append(border * (1 - fraction) + (size - 1 - border) * fraction)
        places = [complex(row, column) for row, column in zip(*axes, strict=True)]
        M[...] = np.abs(np.subtract.outer(below, places)) <= radius + 1e-9
        below = places
    return free


def penalty(l2: float, W: Sequence[Array]) -> Any:
    """Return l2 times the sum of the squares of all weights, a scalar."""
    vectors = (weights.ravel(order="K") for weights in W)
    return l2 * sum((w @ w for w in vectors), 0.0)


def probabilities(config: NetworkConfig, theta: Parameters, X: Array) -> Array:
    """Return the outputs of a network for inputs ``X`` (B, D) from 0 to 1: two, (1 - p, p), of a single one."""
    *hidden, (W_L, b_L) = zip(theta.W, theta.b, strict=True)
    a = X
    for W, b in hidden:
        a = ACTIVATIONS[config.activation](a @ W + b)
    unit, _ = OUTPUT_LAYERS[config.objective]
    p = np.array([unit(z)[0] for z in a @ W_L + b_L])
    return np.concatenate([1 - p, p], axis=1) if config.single_output else p


def moved(X: Array, dX: Array, epsilon: float) -> Array:
    """Return X (B, D), each row moved by the distance ``epsilon`` along its gradient; by less if squares underflow."""
    shortest = math.sqrt(np.finfo(np.float64).tiny)
    return np.array([x + epsilon * g / max(np.linalg.norm(g), shortest) for x, g in zip(X, dX, strict=True)])


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Return the rate of ``step``, from 0: linear warm-up, then the schedule over the rest of all epochs."""
    warmup, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    fraction = (step - warmup) / (total - warmup)
    factors = {
        "constant": 1.0,
        "cosine": (1 + math.cos(math.pi * fraction)) / 2,
        "step": 0.1 ** ((2 * step >= total) + (4 * step >= 3 * total)),
    }
    return config.learning_rate * factors[config.schedule]


def average(before: Array, theta: Array, decay: float, interval: int, step: int) -> Array:
    """Return the moving average after ``step``: at first the plain mean of every ``interval``-th theta."""
    if step % interval:
        return before
    n = step // interval
    d = min(decay**interval, (n - 1) / n)
    return d * before + (1 - d) * theta


def generator(seed: int, purpose: str, epoch: int) -> np.random.Generator:
    """Return Philox 4x64-10 with the key (seed, 2^48 times the purpose's number + epoch)."""
    key = np.array([seed, STREAMS[purpose] * 2**48 + epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def mask(rate: float, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Return the dropout mask that the next random words give: one byte per entry, in C order, below 256 rate dropped.

    256 rate is rounded up with the probability of its fraction, down otherwise.
    """
    lower = math.floor(256 * rate)
    limit = lower + 1 if rng.random() < 256 * rate - lower else lower
    count = math.prod(shape)
    words = rng.bit_generator.random_raw(math.ceil(count / 8)).astype("<u8")
    u = words.view(np.uint8)[:count].reshape(shape)
    return np.where(u >= limit, 1 / (1 - rate), 0.0)
