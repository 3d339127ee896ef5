"""A second implementation of training, as textbooks have it: simple numpy in float64, neither fast nor in place.

Of mlpcli it uses the distorted images, which have separate tests. Parameters are one vector (n,): W1, b1, W2, b2 ...,
each in C order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from mlpcli.config import Config, TrainingConfig
from mlpcli.datasets.load import Dataset, Split
from mlpcli.training.augment import Augmentation

Array = np.ndarray

# The numbers of the random streams.
ORDER, AFFINE, ELASTIC, DROPOUT, INPUT_DROPOUT = 2, 3, 4, 5, 7


def generator(seed: int, purpose: int, epoch: int) -> np.random.Generator:
    """Return the generator of a random stream: Philox with the key (seed, 2^48 purpose + epoch)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, 2**48 * purpose + epoch], np.uint64)))


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


# Activations, and their derivatives in terms of z.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "relu": (lambda z: np.maximum(0, z), lambda z: (z > 0).astype(float)),
}


# The output of one example, p (K,), and its Jacobian dp/dz (K, K).
def softmax(z: Array) -> tuple[Array, Array]:
    p = np.exp(z) / np.exp(z).sum()
    return p, np.diag(p) - np.outer(p, p)


def sigmoids(z: Array) -> tuple[Array, Array]:
    return sigmoid(z), np.diag(sigmoid(z) * (1 - sigmoid(z)))


def linear(z: Array) -> tuple[Array, Array]:
    return z, np.eye(len(z))


def normalized_sigmoids(z: Array) -> tuple[Array, Array]:
    s, ds = sigmoids(z)
    return s / s.sum(), ds / s.sum() - np.outer(s, ds.sum(axis=0)) / s.sum() ** 2


# The loss of one example, and its gradient dC/dp (K,).
def log_likelihood(p: Array, y: Array) -> tuple[float, Array]:
    return -np.sum(y * np.log(p)), -y / p


def cross_entropy(p: Array, y: Array) -> tuple[float, Array]:
    return -np.sum(y * np.log(p) + (1 - y) * np.log(1 - p)), -y / p + (1 - y) / (1 - p)


def quadratic(p: Array, y: Array) -> tuple[float, Array]:
    return np.sum((p - y) ** 2) / 2, p - y


def hinge(p: Array, y: Array) -> tuple[float, Array]:
    label, loss, dp = y.argmax(), 0.0, np.zeros(len(p))
    for j in range(len(p)):
        margin = p[j] - p[label] + 1
        if j != label and margin > 0:
            loss += margin
            dp[j] += 1
            dp[label] -= 1
    return loss, dp


OBJECTIVES = {
    "softmax_cross_entropy": (softmax, log_likelihood),
    "sigmoid_cross_entropy": (sigmoids, cross_entropy),
    "linear_quadratic": (linear, quadratic),
    "sigmoid_quadratic": (sigmoids, quadratic),
    "linear_hinge": (linear, hinge),
    "normalized_sigmoid": (normalized_sigmoids, log_likelihood),
}


class Network:
    def __init__(self, config: Config, sizes: tuple[int, ...]) -> None:
        self.shapes = list(pairwise(sizes))
        self.f, self.f_prime = ACTIVATIONS[config.network.activation]
        self.output, self.loss = OBJECTIVES[config.network.objective]

    def tensors(self, theta: Array) -> list[tuple[Array, Array]]:
        """(W, b) of each layer."""
        pairs, start = [], 0
        for rows, columns in self.shapes:
            W, b, start = start, start + rows * columns, start + (rows + 1) * columns
            pairs.append((theta[W:b].reshape(rows, columns), theta[b:start]))
        return pairs

    def forward(self, theta: Array, X: Array, masks: list[Array]) -> tuple[list[Array], list[Array]]:
        """Return the inputs and the weighted inputs z of each layer."""
        inputs, zs = [X], []
        for layer, (W, b) in enumerate(self.tensors(theta)):
            zs.append(inputs[-1] @ W + b)
            if layer < len(masks):
                inputs.append(self.f(zs[-1]) * masks[layer])
        return inputs, zs

    def evaluate(self, theta: Array, split: Split, classes: int) -> tuple[float, float]:
        """Return the mean loss and the fraction that is misclassified."""
        no_masks = [np.ones((1, columns)) for _, columns in self.shapes[:-1]]
        z = self.forward(theta, split.images / 255, no_masks)[1][-1]
        losses = [self.loss(self.output(z[i])[0], np.eye(classes)[y])[0] for i, y in enumerate(split.labels)]
        return float(np.mean(losses)), float(np.mean(z.argmax(axis=1) != split.labels))

    def gradient(self, theta: Array, X: Array, Y: Array, masks: list[Array]) -> tuple[Array, list[float], Array]:
        """Return dLoss/dtheta, the loss of each example, and the logits."""
        return self.gradients(theta, X, Y, masks)[:3]

    def gradients(
        self, theta: Array, X: Array, Y: Array, masks: list[Array]
    ) -> tuple[Array, list[float], Array, Array]:
        """Return dLoss/dtheta, the loss of each example, the logits, and dLoss/dX."""
        inputs, zs = self.forward(theta, X, masks)
        dz, losses = np.empty_like(zs[-1]), []
        for i, z in enumerate(zs[-1]):
            p, dp_dz = self.output(z)
            loss, dC_dp = self.loss(p, Y[i])
            losses.append(loss)
            dz[i] = dC_dp @ dp_dz / len(X)
        parts: list[Array] = []
        for layer, (W, _) in reversed(list(enumerate(self.tensors(theta)))):
            parts = [(inputs[layer].T @ dz).ravel(), dz.sum(axis=0), *parts]
            if layer:
                dz = dz @ W.T * masks[layer - 1] * self.f_prime(zs[layer - 1])
        return np.concatenate(parts), losses, zs[-1], dz @ self.tensors(theta)[0][0].T


class Sgd:
    def __init__(self, theta: Array, mu: float) -> None:
        self.theta, self.mu = theta, mu
        self.v, self.m, self.s, self.t = (np.zeros_like(theta) for _ in range(4))

    @property
    def point(self) -> Array:
        """Return the point of the next gradient, which is evaluated, averaged, and stored as theta."""
        return self.theta

    def step(self, g: Array, eta: float) -> None:
        self.theta = self.theta - eta * g


class Momentum(Sgd):
    """Sutskever et al. 2013, equations 1 and 2."""

    def step(self, g: Array, eta: float) -> None:
        self.v = self.mu * self.v - eta * g
        self.theta = self.theta + self.v


class Nesterov(Momentum):
    """Sutskever et al. 2013, equations 3 and 4: ``theta`` is phi there."""

    @property
    def point(self) -> Array:
        return self.theta + self.mu * self.v


class Adam(Sgd):
    """Kingma and Ba 2015, algorithm 1."""

    def step(self, g: Array, eta: float) -> None:
        b1, b2 = self.mu, 0.999
        self.t = self.t + 1
        self.m = b1 * self.m + (1 - b1) * g
        self.s = b2 * self.s + (1 - b2) * g**2
        m_hat, s_hat = self.m / (1 - b1**self.t), self.s / (1 - b2**self.t)
        self.theta = self.theta - eta * m_hat / (np.sqrt(s_hat) + 1e-8)


OPTIMIZERS = {"sgd": Sgd, "momentum": Momentum, "nesterov": Nesterov, "adam": Adam}


def rate(training: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of ``step``, counted from 0."""
    warmup, total = training.warmup_epochs * steps_per_epoch, training.epochs * steps_per_epoch
    if step < warmup:
        return training.learning_rate * (step + 1) / (warmup + 1)
    if training.schedule == "cosine":
        return training.learning_rate / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    if training.schedule == "step":
        return training.learning_rate * 10.0 ** -(int(step >= total / 2) + int(step >= 0.75 * total))
    return training.learning_rate


def mask(fraction: float, rows: int, columns: int, rng: np.random.Generator) -> Array:
    """Return 0 for each byte, eight per word) below 256 ``fraction``, rounded at random; else 1 / (1 - fraction)."""
    if not fraction:
        return np.ones((rows, columns))
    dropped = math.floor(256 * fraction)
    dropped += rng.random() < 256 * fraction - dropped
    words = rng.bit_generator.random_raw(math.ceil(rows * columns / 8))
    numbers = [int(word) >> shift & 0xFF for word in words for shift in range(0, 64, 8)]
    mask = [number >= dropped for number in numbers[: rows * columns]]
    return np.reshape(mask, (rows, columns)) / (1 - fraction)


def train(config: Config, dataset: Dataset, theta: Array) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """Return the records of all epochs, as dicts, and the vectors of the last state, by name."""
    training, train, classes = config.training, dataset.train, dataset.classes
    sizes = (train.images.shape[1], *config.network.hidden, classes)
    network = Network(config, sizes)
    optimizer = OPTIMIZERS[training.optimizer](theta, 0.9 if training.momentum is None else training.momentum)
    N, B = len(train.labels), min(training.batch_size, len(train.labels))
    steps_per_epoch = math.ceil(N / B)
    interval, updates, average = min(8, steps_per_epoch), 0, theta
    is_weight = np.concatenate([[1] * rows * columns + [0] * columns for rows, columns in network.shapes])
    distortions = None
    if config.augmentation:
        distortions = Augmentation(
            config.augmentation, dataset.image_shape, N, training.epochs, config.seed, np.float64
        )
    records, step = [], 0
    for epoch in range(1, training.epochs + 1):
        order = generator(config.seed, ORDER, epoch).permutation(N)
        of_inputs, of_hidden = (generator(config.seed, purpose, epoch) for purpose in (INPUT_DROPOUT, DROPOUT))
        images = train.images
        if distortions:
            distortions.begin(epoch)
            images = distortions.distort(train.images, np.arange(N), np.empty(images.shape))
        losses, wrong, norms = [], 0, []
        for start in range(0, N, B):
            chosen = order[start : start + B]
            X = images[chosen] / 255 * mask(training.input_dropout, len(chosen), sizes[0], of_inputs)
            Y = (1 - training.label_smoothing) * np.eye(classes)[train.labels[chosen]]
            Y = Y + training.label_smoothing / classes
            masks = [mask(training.dropout, units, len(chosen), of_hidden).T for units in sizes[1:-1]]
            point = optimizer.point
            if training.adversarial:
                dX = network.gradients(point, X, Y, masks)[3]
                lengths = np.linalg.norm(dX, axis=1, keepdims=True)
                X = X + training.adversarial * dX / np.where(lengths, lengths, 1.0)  # 0 if all units are dropped
            gradient, of_batch, logits = network.gradient(point, X, Y, masks)
            losses += of_batch
            wrong += np.sum(logits.argmax(axis=1) != train.labels[chosen])
            gradient = gradient + 2 * training.l2 * is_weight * point
            if len(chosen) == B:
                norms = [math.hypot(np.linalg.norm(dW), np.linalg.norm(db)) for dW, db in network.tensors(gradient)]
            eta = rate(training, step, steps_per_epoch)
            optimizer.step(gradient, eta)
            step += 1
            if training.averaging and step % interval == 0:
                updates += 1
                d = min(training.averaging**interval, (updates - 1) / updates)
                average = d * average + (1 - d) * optimizer.point
        record: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "learning_rate": eta,
            "train_loss": np.mean(losses),
            "train_error": wrong / N,
            "validation_loss": None,
            "validation_error": None,
            "raw_validation_loss": None,
            "raw_validation_error": None,
            "gradient_norm": norms,
            "saturation": None,
        }
        point = average if training.averaging else optimizer.point
        if dataset.validation:
            found = network.evaluate(point, dataset.validation, classes)
            record["validation_loss"], record["validation_error"] = found
            if training.averaging:
                raw = network.evaluate(optimizer.point, dataset.validation, classes)
                record["raw_validation_loss"], record["raw_validation_error"] = raw
        if config.network.activation == "sigmoid":
            no_masks = [np.ones((1, units)) for units in sizes[1:-1]]
            zs = network.forward(point, train.images[:1000] / 255, no_masks)[1]
            record["saturation"] = [float(np.mean(np.abs(z) > 4.6)) for z in zs[:-1]]
        records.append(record)
    names = {"sgd": [], "momentum": ["v"], "nesterov": ["v"], "adam": ["m", "s"]}[training.optimizer]
    vectors = {"theta": optimizer.point, **{name: getattr(optimizer, name) for name in names}}
    return records, vectors | ({"average": average} if training.averaging else {})
