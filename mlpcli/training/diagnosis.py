"""Signs in an epoch's record that a network learns nothing, and the key to change. None of them is an error."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from mlpcli.config import LEARNING_RATES, MOMENTUM, Config, TrainingConfig, remark_on_rate
from mlpcli.model.parameters import Parameters
from mlpcli.state import EpochRecord

MIN_STEPS = 20  # with fewer, a loss may well stay where it was
MOVED = 0.97  # what is left of a loss that has moved
SATURATED_FRACTION = 0.95  # fraction of a layer's units
GROWING_EPOCHS = 3
LARGE_L2 = 0.01
LARGE_ADVERSARIAL = 4.0  # images of digits are some 10 apart


class Diagnosis:
    """Watches the epochs of one run of ``config``; ``guessing`` is the training error of always giving one answer.

    ``losses`` are those of the first epoch's steps: append them before its record.
    """

    def __init__(self, config: Config, guessing: float) -> None:
        self._config = config
        self._guessing = guessing
        self.losses: list[float] = []
        self._records: list[EpochRecord] = []
        self._said: set[str] = set()

    def epoch(self, record: EpochRecord, theta: Parameters) -> list[str]:
        """Return the signs seen in ``record``, after which the parameters are ``theta``; each sign once per run."""
        self._records.append(record)
        signs = {
            "saturated": self._saturated(record),
            "gradient": self._no_gradient(record, theta),
            "stuck": self._stuck(record),
            "growing": self._growing(),
        }
        seen = {name: sign for name, sign in signs.items() if sign is not None and name not in self._said}
        self._said |= seen.keys()
        if remark_on_rate(self._config.training):  # said before training: the rate is not named twice
            return [sign for sign in seen.values() if _rate(self._config) not in sign]
        return list(seen.values())

    def _saturated(self, record: EpochRecord) -> str | None:
        layers = [layer for layer, fraction in enumerate(record.saturation or (), 1) if fraction >= SATURATED_FRACTION]
        if not layers:
            return None
        fraction = min((record.saturation or [])[layer - 1] for layer in layers)
        scale = self._config.network.initial_scale
        key = f"network.initial_scale ({scale:g})" if scale > 1 else _rate(self._config)
        return f"{fraction:.0%} of the units of {_layers(layers)} are saturated, and hardly learn: lower {key}"

    def _no_gradient(self, record: EpochRecord, theta: Parameters) -> str | None:
        if record.train_error < self._guessing / 2:
            return None  # a hinge loss may have nothing left to learn
        l2, network = self._config.training.l2, self._config.network
        layers = []
        for layer, (norm, W) in enumerate(zip(record.gradient_norm, theta.W, strict=True), 1):
            penalty = 2 * l2 * float(np.linalg.norm(W.astype(np.float64)))
            if abs(norm - penalty) <= 0.01 * penalty:
                layers.append(layer)
        if not layers:
            return None
        what = "is 0" + (" except for the penalty" if l2 else "")
        if network.initial_scale < 0.1:
            key = f"raise network.initial_scale ({network.initial_scale:g})"
        elif network.activation == "relu":
            key = f"their units are dead: lower {_rate(self._config)}, or use another network.activation"
        else:
            key = "use another network.activation or network.initialization, or fewer layers"
        return f"the gradient of {_layers(layers)} {what}: {key}"

    def _stuck(self, record: EpochRecord) -> str | None:
        if record.epoch > 1 or len(self.losses) < MIN_STEPS or record.train_error < 0.9 * self._guessing:
            return None
        tenth = len(self.losses) // 10
        before, after = float(np.mean(self.losses[:tenth])), float(np.mean(self.losses[-tenth:]))
        if after <= MOVED * before:
            return None
        if after > 1.03 * before:
            return f"the loss has grown, from {before:.4g} to {after:.4g}: lower {_too_large(self._config)}"
        network = self._config.network
        if network.initial_scale < 0.1:
            key = f"raise network.initial_scale ({network.initial_scale:g})"
        elif network.activation == "sigmoid" and len(network.hidden) > 2:
            key = "sigmoids so deep want network.initialization: glorot, another network.activation, or fewer layers"
        elif self._config.training.adversarial >= LARGE_ADVERSARIAL:
            key = f"lower {_too_large(self._config)}"
        elif self._config.training.l2 >= LARGE_L2:
            key = f"lower training.l2 ({self._config.training.l2:g})"
        else:
            key = f"{'raise' if self._rate_is_low() else 'lower'} {_rate(self._config)}, and look at the images"
        return f"the loss has not moved, from {before:.4g} to {after:.4g}: {key}"

    def _growing(self) -> str | None:
        losses = [each.train_loss for each in self._records]
        first = self._records[0].epoch == 1 and len(losses) == GROWING_EPOCHS
        if not first or not all(before < after for before, after in pairwise(losses)):
            return None
        key = _too_large(self._config)
        return f"the loss grows with every epoch, from {losses[0]:.4g} to {losses[-1]:.4g}: lower {key}"

    def _rate_is_low(self) -> bool:
        training = self._config.training
        return training.learning_rate < LEARNING_RATES[training.optimizer]


def remedy(config: Config, step: int) -> str:
    """Return what to change in ``config``, with which training diverged in ``step``, counted from 1."""
    network, training = config.network, config.training
    if training.l2 >= LARGE_L2 and training.learning_rate * training.l2 > _steepest_penalty(training):
        return f"lower training.l2 ({training.l2:g}): at this rate the penalty alone makes weights grow"
    if training.adversarial >= LARGE_ADVERSARIAL:
        return f"lower {_too_large(config)}"
    if network.initial_scale > 1 and (step == 1 or network.initial_scale >= 10):
        return f"lower network.initial_scale ({network.initial_scale:g})"
    return "try a lower training.learning_rate, or training.warmup_epochs"


def _steepest_penalty(training: TrainingConfig) -> float:
    """Return the largest rate l2 at which the penalty alone, of curvature 2 l2, does not make a weight grow.

    Then both roots of the recurrence of the steps lie in the unit circle. Sutskever et al. 2013, equations 1 to 4, with
    a gradient of 2 l2 w: with momentum mu, rate l2 <= 1 + mu, and for nesterov (1 + mu) / (1 + 2 mu). A step of adam
    does not grow with the gradient.
    """
    mu = MOMENTUM if training.momentum is None else training.momentum
    return {"sgd": 1.0, "momentum": 1.0 + mu, "nesterov": (1.0 + mu) / (1.0 + 2.0 * mu), "adam": math.inf}[
        training.optimizer
    ]


def _rate(config: Config) -> str:
    return f"training.learning_rate ({config.training.learning_rate:g})"


def _too_large(config: Config) -> str:
    if config.training.adversarial >= LARGE_ADVERSARIAL:
        return f"training.adversarial ({config.training.adversarial:g})"
    return _rate(config)


def _layers(layers: list[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
