"""The network that is checked, in any dtype, and the parts of it that a changed parameter reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.gradcheck.textbook import KINKS
from mlpcli.model.build import Architecture, allocate_arrays, build_network
from mlpcli.model.input import Input
from mlpcli.model.network import Gradient, Layer, Network
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.comm import SERIAL

Array = NDArray[Any]

# The rounding error of f', or of z where f has a kink, in units of eps and of the sum of |x W| and |b|.
SLOPE_ROUNDINGS = 10.0


@dataclass(frozen=True)
class Problem:
    """A network, inputs scale * X (B, D), targets Y (B, K), and the hidden layers' dropout masks (B, H), if any.

    With ``input_gradient`` the backward pass goes down to dX.
    """

    architecture: Architecture
    X: Array
    scale: float
    Y: Array
    masks: Sequence[Array] = ()
    input_gradient: bool = False

    def subject(self, theta: Array, dtype: DTypeLike, *, scaled: bool = False) -> Subject:
        """Return the network with a copy of the parameters ``theta`` (n,) in this dtype.

        ``scaled``: its inputs are ``X`` and the products by them apply ``scale``, as in training; else scale * X.
        """
        parameters = self.architecture.parameters(dtype, theta.astype(dtype).ravel())
        dropout, down_to_X = bool(self.masks), self.input_gradient
        arrays = allocate_arrays(self.architecture.sizes, len(self.X), dtype, dropout=dropout, input_gradient=down_to_X)
        for mask, values in zip(arrays.masks, self.masks, strict=False):
            if mask is not None:
                mask[...] = values
        X: Any = Input(self.X.astype(dtype), self.scale) if scaled else (self.scale * self.X).astype(dtype)
        network = build_network(self.architecture, parameters, X, arrays, SERIAL, input_gradient=down_to_X)
        return Subject(self, parameters, network)


@dataclass(frozen=True)
class Subject:
    """A network bound to parameters ``theta`` that may be changed between two calls of :meth:`loss`."""

    problem: Problem
    theta: Parameters
    network: Network

    def loss(self) -> Any:
        """Return the loss at ``theta``, a scalar."""
        self.network.forward()
        return self.network.loss(self.problem.Y)

    def gradient(self) -> Parameters:
        """Return the gradient at ``theta``, derived by hand; the arrays are left as the backward pass wrote them."""
        gradient = self.problem.architecture.parameters(self.theta.vector.dtype)
        self.loss()
        self.network.backward(self.problem.Y)
        Gradient(self.network, gradient.shard(SERIAL)).accumulate()
        return gradient

    def active_sets(self) -> list[Array]:
        """Return on which side of each kink the last forward pass was."""
        network, f, C = self.network, self.network.f.name, self.network.objective.name
        sides = [KINKS[f](layer.z) for layer in network.hidden] if f in KINKS else []
        return [*sides, KINKS[C](network.logits, self.problem.Y)] if C in KINKS else sides

    def rounding_of_slopes(self, eps: float) -> list[float]:
        """Return by layer the relative error of the gradient, due to that of slopes, after a backward pass.

        h (1 - h) and 1 - h^2 have an absolute error of ``eps``, whatever their size, and so has p (1 - p), if the
        objective does not cancel it; the error of relu's derivative is 1 where rounding may take z across the kink. An
        error of 1 and more leaves no digit.
        """
        total = 0.0
        if self.network.objective.name == "sigmoid_quadratic":
            p, Y = self.network.p, self.problem.Y
            total = _ratio(SLOPE_ROUNDINGS * eps * (p - Y) / len(Y), self.network.output.dz)
        errors = [total]
        layers, kink = self.network.layers, KINKS.get(self.network.f.name)
        for layer, above in zip(reversed(layers[:-1]), reversed(layers), strict=False):
            dh = above.dz @ above.W.T
            dh = dh if layer.mask is None else layer.mask * dh
            if kink is None:
                lost = SLOPE_ROUNDINGS * eps * dh
            else:
                sums = np.abs(inputs_of(layer)) @ np.abs(layer.W) + np.abs(layer.b)
                reach = SLOPE_ROUNDINGS * eps * sums
                lost = (kink(layer.z + reach) != kink(layer.z - reach)) * dh
            total += _ratio(lost, layer.dz)
            errors.append(total)
        return errors[::-1]

    @contextmanager
    def changing(self, layer: int, unit: int) -> Iterator[Callable[[], Any]]:
        """Enter the network of one ``unit`` of a ``layer``, from 0, and of all layers above it; yield its loss.

        It computes what a change of the unit's weights or bias changes, and nothing else: a part of a layer is itself a
        layer. All else must be as a forward pass of the whole network left it, which is restored in the end.
        """
        network = self.network
        first, *above = network.layers[layer:]
        part = first if first is network.output else _one_unit(first, slice(unit, unit + 1))
        outputs = (network.partial_logits, network.p, network.dlogits, network.batch_size)
        subnetwork = Network([part, *above], network.f, network.objective, network.comm, *outputs)
        written = [array for array in (part.z, part.h, part.a) if array is not None]
        before = [array.copy() for array in written]
        yield Subject(self.problem, self.theta, subnetwork).loss
        for array, values in zip(written, before, strict=True):
            array[...] = values


def inputs_of(layer: Layer) -> Array:
    """Return what ``layer`` multiplies by its weights, (B, D), as an array; of the first layer the scaled images."""
    x: Any = layer.x
    return x if isinstance(x, np.ndarray) else np.asarray(x.scale * x.array)


def _ratio(lost: Array, dz: Array) -> float:
    """Return ||lost|| / ||dz||; 0 if dz is 0."""
    size = float(np.linalg.norm(dz))
    return float(np.linalg.norm(lost)) / size if size else 0.0


def _one_unit(layer: Layer, unit: slice) -> Layer:
    return Layer(
        x=layer.x,
        W=layer.W[:, unit],
        b=layer.b[unit],
        z=layer.z[:, unit],
        dz=layer.dz[:, unit],
        h=layer.h[:, unit],
        a=layer.a[:, unit],
        mask=None if layer.mask is None else layer.mask[:, unit],
        slope=layer.slope[:, unit],
    )
