r"""THE DERIVATION: forward and backward through a multilayer perceptron, docs/derivation.md in code.

B examples in the batch, K classes, layers l = 1 .. L. Examples are rows. dv is dLoss/dv and has the shape of v. A layer
has D inputs x and H units. In the first layer x is X, in the others it is a of the layer below:

    (1)  z = x W + b            (5)  dW = x^T dz             (9)   R = l2 sum W^2
    (2)  h = f(z)               (6)  db = sum over B of dz   (10)  dW += 2 l2 W
    (3)  Loss = sum C(z_L, Y) / B                            (11)  a = m * h     with dropout; a = h without
    (4)  dz_L = (p - Y) / B     (7)  dx = dz W^T             (12)  dh = m * da   da is dx of the layer above
                                (8)  dz = dh * f'(z)

(4) is that of the matched pairs; see mlpcli.model.objectives. (9) and (10) are the penalty, and l2 is its lambda: with
it dW is the derivative of Loss + R, while the loss that is reported is without R. With L = 1 this is softmax
regression. The same code runs in float32 to train and in float64 and complex128 to be checked (``mlpcli gradcheck``);
it writes into arrays allocated once, by mlpcli.model.build. A ``Gemm`` is a matrix product planned for fixed arrays:
calling it writes alpha times the product, plus beta times what was there.

Several processes may run this code on one batch. Each owns some units of every hidden layer, and its arrays are the
columns of those: a process's part of a layer is itself a layer (Shoeybi et al. 2019, "Megatron-LM", section 3).
``comm.gather`` waits until an array that all of them write is complete, ``comm.reduce`` adds up the terms that they
computed of a sum. In one process both do nothing: read the code for one process first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpcli.model.activations import Activation
from mlpcli.model.blas import Axpy, Gemm
from mlpcli.model.input import Input
from mlpcli.model.objectives import Objective

Array = NDArray[Any]


class Communicator(Protocol):
    """The processes that share a network, as far as the derivation depends on them."""

    def gather(self) -> None:
        """Wait until an array of which every process writes a part is complete."""

    def reduce(self, terms: Sequence[Array]) -> None:
        """Wait until every process has written its term, and add the others to the first."""


@dataclass
class Layer:
    """The arrays of a layer, or of the units in it that this process owns. The last layer has no h, a or mask."""

    x: Array | Input  # (B, D)
    W: Array  # (D, H)
    b: Array  # (H,)
    z: Array  # (B, H)
    dz: Array  # (B, H)
    dx: Array | None = None  # (B, D)  this process's term of da of the layer below, or of dX; None if not asked for
    h: Any = None  # (B, H)
    a: Any = None  # (B, H)  the same array as h without dropout
    mask: Array | None = None  # (B, H)
    slope: Any = None  # (B, H)  f'(z)
    partial_da: Sequence[Array] = field(default_factory=list)  # (B, H): every process's term of da; the first is da

    def __post_init__(self) -> None:
        self.da = self.dh = self.dz  # one array: (12) and (8) write over what they read
        self._xW = Gemm(self.x, self.W, self.z)
        self._dzWT = None if self.dx is None else Gemm(self.dz, self.W.T, self.dx)

    def forward(self) -> None:
        """Compute z (B, H)."""
        self.z[...] = self.b
        self._xW(beta=1.0)  # (1)  (B, H) = (B, D) (D, H) + (H,)

    def backward(self) -> None:
        """Compute dx (B, D), if it is asked for."""
        if self._dzWT is not None:
            self._dzWT()  # (7)  (B, D) = (B, H) (H, D)


class Network:
    """A multilayer perceptron, bound to its arrays.

    ``partial_logits`` are every process's terms of the logits, ``p`` and ``dlogits`` the arrays of the output unit's
    value and of dLoss/dz_L: (B, K) each, of the examples whose loss this process computes. ``batch_size`` is the number
    of examples that the loss is the mean over. ``partial_dX`` are every process's terms of dX (B, D), of the same
    examples, if the first layer has a dx.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        activation: Activation,
        objective: Objective,
        comm: Communicator,
        partial_logits: Sequence[Array],
        p: Array,
        dlogits: Array,
        batch_size: int,
        partial_dX: Sequence[Array] = (),
    ) -> None:
        self.layers, self.hidden, self.output = layers, layers[:-1], layers[-1]
        self.f, self.objective, self.comm, self.batch_size = activation, objective, comm, batch_size
        self.partial_logits, self.logits, self.p, self.dlogits = partial_logits, partial_logits[0], p, dlogits
        self.partial_dX = partial_dX

    def forward(self) -> Array:
        """Return the logits z_L (B, K)."""
        self.comm.gather()  # X
        for layer in self.hidden:
            layer.forward()
            self.f.forward(layer.z, layer.h)  # (2)  (B, H)
            if layer.mask is not None:
                np.multiply(layer.mask, layer.h, out=layer.a)  # (11) (B, H)
            if layer is not self.hidden[-1]:
                self.comm.gather()  # a
        self.output.forward()
        self.comm.reduce(self.partial_logits)
        return self.logits

    def loss(self, Y: Array) -> Any:
        """Return the loss of the last forward pass for the targets ``Y`` (B, K), a scalar; write p (B, K)."""
        return self.objective.forward(self.logits, Y, self.p) / self.batch_size  # (3)

    def backward(self, Y: Array) -> None:
        """Compute dz (B, H) of every layer from what :meth:`forward` and :meth:`loss` have left in the arrays."""
        self.objective.backward(self.logits, self.p, Y, self.dlogits, self.batch_size)  # (4)  (B, K)
        self.backward_from_logits()

    def backward_from_logits(self) -> None:
        """Compute dz (B, H) of every hidden layer from dz_L, which is in the arrays."""
        self.comm.gather()  # dz_L
        self.output.backward()
        for layer in reversed(self.hidden):
            self.comm.reduce(layer.partial_da)
            if layer.mask is not None:
                np.multiply(layer.mask, layer.da, out=layer.dh)  # (12) (B, H)
            np.multiply(layer.dh, self.f.derivative(layer.h, layer.slope), out=layer.dz)  # (8)  (B, H)
            layer.backward()

    def input_gradient(self) -> Array:
        """Return dX (B, D), of the examples whose loss this process computes. Call after :meth:`backward`."""
        self.comm.gather()  # dX, if it is not a sum
        self.comm.reduce(self.partial_dX)
        return self.partial_dX[0]


class Gradient:
    """dLoss/dW and dLoss/db of every layer, accumulated in ``targets``: a pair of arrays (D, H) and (H,) for each."""

    def __init__(self, network: Network, targets: Sequence[tuple[Array, Array]]) -> None:
        ones = np.ones((1, len(network.output.dz)), network.output.dz.dtype)
        self._products = [
            (Gemm(ones, layer.dz, b_target[np.newaxis]), Gemm(layer.x.T, layer.dz, W_target))
            for layer, (W_target, b_target) in zip(network.layers, targets, strict=True)
        ]

    def accumulate(self, alpha: float = 1.0, beta: float = 0.0) -> None:
        """Compute target <- beta * target + alpha * dLoss/dtheta. Call after :meth:`Network.backward`."""
        for ones_dz, xT_dz in reversed(self._products):
            ones_dz(alpha, beta)  # (6)  (H,) = sum over B of (B, H)
            xT_dz(alpha, beta)  # (5)  (D, H) = (D, B) (B, H)


class WeightDecay:
    """The penalty on weights ``W`` (n,), and its gradient, accumulated in ``target`` (n,), where dLoss/dW is.

    Biases are not penalized.
    """

    def __init__(self, l2: float, W: Array, target: Array) -> None:
        self.l2, self.W = l2, W
        self._add_W = Axpy(W, target)

    def penalty(self) -> Any:
        """Return the penalty, a scalar."""
        return self.l2 * np.dot(self.W, self.W)  # (9)

    def accumulate(self, alpha: float = 1.0) -> None:
        """Compute target <- target + alpha * dR/dW."""
        self._add_W(alpha * 2.0 * self.l2)  # (10) (n,)
