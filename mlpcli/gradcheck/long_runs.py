"""What the few steps of a check do not reach: many steps of optimizer and average, and many batches, each alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from mlpcli.config import OPTIMIZER_STATE, TrainingConfig
from mlpcli.datasets.load import Split
from mlpcli.gradcheck import textbook
from mlpcli.gradcheck.rows import TOLERANCE, Row, relative_error, row
from mlpcli.model.blas import Gemm
from mlpcli.model.input import Input
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.comm import SERIAL
from mlpcli.training.averaging import INTERVAL, MovingAverage
from mlpcli.training.batches import INPUT_SCALE, Batches
from mlpcli.training.margins import MARGIN_ALIGNMENT, Margins
from mlpcli.training.optimizers import make_optimizer

MANY_STEPS = 300

# Batches are small, so that almost each has other margins, and images large, so that the batches are gathered in more
# than three groups.
IMAGES, BATCH_SIZE, PIXELS = 199, 2, 256 * MARGIN_ALIGNMENT
CLASSES, UNITS = 5, 4
# Half of the margins end at one of a few pixels, so that often one end of the columns moves and the other does not.
COMMON_ENDS = 3


def check(
    training: TrainingConfig, seed: int, rng: np.random.Generator, tolerance: Mapping[str, float] = TOLERANCE
) -> Iterator[Row]:
    """Yield a row for many steps of the optimizer, one for those of the average, and one for many batches."""
    errors = _errors_of_many_steps(training, rng)
    average = errors.pop("average")
    found = {f"{MANY_STEPS} updates": max(errors.values())}
    if training.averaging is not None:
        found[f"{MANY_STEPS} averages"] = average
    found[f"{math.ceil(IMAGES / BATCH_SIZE)} batches"] = _error_of_many_batches(seed, rng)
    for name, error in found.items():
        yield row(name, (), {"step": error}, tolerance, 1)


def _errors_of_many_steps(training: TrainingConfig, rng: np.random.Generator) -> dict[str, float]:
    """Return by name the relative error after many steps of optimizer and average alone, with random gradients.

    Long enough for momentum to be written out, and for the average to skip steps.
    """
    theta, gradient = (Parameters((2, 2), np.float64) for _ in range(2))
    # With a larger rate, a large penalty would make theta grow at every step.
    eta = min(training.learning_rate, 0.1 / max(training.l2, 1e-9))
    mu = 0.9 if training.momentum is None else training.momentum
    decay, weights = training.averaging or 0.9, len(theta.weights)
    optimizer = make_optimizer(
        training, theta, gradient, {name: np.zeros(6) for name in OPTIMIZER_STATE[training.optimizer]}, SERIAL
    )
    mean = MovingAverage(average := np.zeros(6), theta.vector, decay, MANY_STEPS, [slice(0, 6)])
    vectors = {**optimizer.state_dict(), "theta": np.zeros(6), "average": np.zeros(6)}
    optimizer.begin()
    for number in range(1, MANY_STEPS + 1):
        g = rng.normal(size=6)
        alpha, beta = optimizer.begin_step(eta, number)
        optimizer.accumulator[...] = beta * optimizer.accumulator + alpha * g
        optimizer.step()
        mean.update(number)
        g[:weights] += 2 * training.l2 * vectors["theta"][:weights]
        vectors["theta"], state = textbook.RULES[training.optimizer](vectors["theta"], vectors, g, eta, mu, number)
        vectors |= state
        vectors["average"] = textbook.average(vectors["average"], theta.vector, decay, INTERVAL, number)
    found = {**optimizer.state_dict(), "theta": theta.vector, "average": average}
    return {name: relative_error(vectors[name], found[name]) for name in vectors}


def _error_of_many_batches(seed: int, rng: np.random.Generator) -> float:
    """Return the largest relative error of what an epoch of many small batches brings to the first layer.

    Compared are labels, targets, and the products X W and X^T dz, which skip the margins. These differ between batches,
    and each end of the columns also moves alone. The error is infinite if a batch is missing, or one too many.
    """
    images = rng.integers(1, 256, (IMAGES, PIXELS), np.uint8)
    ends, few = (rng.integers(count + 1, size=(IMAGES, 2)) * (PIXELS // count) for count in (PIXELS, COMMON_ENDS))
    for image, (first, last) in zip(images, np.sort(np.where(rng.random(ends.shape) < 0.5, ends, few)), strict=True):
        image[:first] = image[last:] = 0
    seed += 1  # a seed of 0 would not show that it is ignored
    labels = rng.integers(CLASSES, size=IMAGES).astype(np.uint8)
    slots = [np.zeros((BATCH_SIZE, PIXELS)) for _ in range(2)]
    batches = Batches(
        Split(images, labels), np.eye(CLASSES), BATCH_SIZE, slots, SERIAL, seed=seed, margins=Margins(images)
    )
    W, dW, dz, z = (rng.normal(size=shape) for shape in ((PIXELS, UNITS), (PIXELS, UNITS), *[(BATCH_SIZE, UNITS)] * 2))
    inputs = {(size, slot): Input(slots[slot][:size], INPUT_SCALE) for size in batches.sizes for slot in (0, 1)}
    products = {key: (Gemm(X, W, z[: key[0]]), Gemm(X.T, dz[: key[0]], dW)) for key, X in inputs.items()}
    order = textbook.generator(seed, "order", 1).permutation(IMAGES)
    largest, start = 0.0, 0
    for batch in batches.epoch(1):
        chosen = order[start : start + BATCH_SIZE]
        if len(chosen) != batch.size:
            return np.inf
        inputs[batch.size, batch.slot].columns[:] = batch.columns
        for product in products[batch.size, batch.slot]:
            product()
        X = images[chosen] / 255.0
        pairs = [
            (X @ W, z[: batch.size]),
            (X.T @ dz[: batch.size], dW),
            (labels[chosen], batch.y),
            (labels[chosen][:, np.newaxis] == np.arange(CLASSES), batch.Y),
        ]
        largest = max(largest, *(relative_error(np.asarray(a, np.float64), np.asarray(b, float)) for a, b in pairs))
        start += batch.size
    return largest if start == IMAGES else np.inf
