"""Small random networks, and one pass through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlpcli.model.build import Architecture, allocate_arrays, build_network
from mlpcli.model.input import Input
from mlpcli.model.network import Gradient, Network
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.comm import SERIAL, Serial

Array = np.ndarray


@dataclass
class Problem:
    """A network's parameters, a batch, and a dropout mask (B, H) or None for each hidden layer."""

    architecture: Architecture
    theta: Parameters
    X: Array
    Y: Array
    masks: Sequence[Array] = ()


def problem(
    sizes: Sequence[int],
    activation: str = "sigmoid",
    objective: str = "softmax_cross_entropy",
    *,
    batch: int = 6,
    dropout: float = 0.0,
    seed: int = 0,
) -> Problem:
    rng = np.random.default_rng(seed)
    architecture = Architecture.named(sizes, activation, objective)
    theta = architecture.parameters("float64")
    theta.vector[:] = rng.normal(0, 0.7, theta.vector.shape)
    X, Y = rng.uniform(size=(batch, sizes[0])), np.eye(sizes[-1])[rng.integers(sizes[-1], size=batch)]
    masks = [(rng.random((batch, units)) >= dropout) / (1 - dropout) for units in sizes[1:-1]] if dropout else []
    return Problem(architecture, theta, X, Y, masks)


def bound(case: Problem, dtype: str = "float64", scale: float = 1.0, comm: Serial = SERIAL) -> Network:
    """Return the network of ``case``, bound to its parameters and inputs, or to copies in another dtype."""
    arrays = allocate_arrays(case.architecture.sizes, len(case.X), dtype, dropout=bool(case.masks))
    for own, mask in zip(arrays.masks, case.masks, strict=False):
        own[...] = mask
    vector = case.theta.vector
    theta = case.architecture.parameters(dtype, vector if vector.dtype == dtype else vector.astype(dtype))
    return build_network(case.architecture, theta, Input(case.X.astype(dtype), scale), arrays, comm)


def loss_and_gradient(case: Problem, dtype: str = "float64", scale: float = 1.0) -> tuple[Any, Parameters, Network]:
    network, gradient = bound(case, dtype, scale), case.architecture.parameters(dtype)
    network.forward()
    loss = network.loss(case.Y.astype(dtype))
    network.backward(case.Y.astype(dtype))
    Gradient(network, gradient.shard(SERIAL)).accumulate()
    return loss, gradient, network


def complex_step_gradient(case: Problem) -> Array:
    """Return dLoss/dtheta (n,) as Im Loss(theta + ih) / h, one entry at a time."""
    stepped = Problem(case.architecture, case.architecture.parameters("complex128"), case.X, case.Y, case.masks)
    vector = stepped.theta.vector
    vector[...] = case.theta.vector
    network, found = bound(stepped, "complex128"), np.empty(len(vector))
    for index in range(len(vector)):
        vector[index] += 1e-20j
        network.forward()
        found[index] = network.loss(case.Y).imag / 1e-20
        vector[index] = case.theta.vector[index]
    return found
