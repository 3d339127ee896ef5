r"""THE DERIVATION: a multilayer perceptron forward and backward, equation by equation.

Notation. Examples are rows.

    B   examples in the batch         X   (B, D)   inputs, a_0 = X
    D   inputs                        Y   (B, K)   targets, one-hot or soft
    H   units of a hidden layer       W_l (D, H)   weights from layer l-1 to layer l      l = 1 .. L
    K   classes                       b_l (H,)     biases of layer l
    L   layers with weights           z_l (B, H)   weighted inputs of layer l
    f   the hidden activation         a_l (B, H)   activations of layer l
    dv  dLoss/dv, of v's own shape    p   (B, K)   the output unit's value, softmax(z_L) for instance

Forward, l = 1 .. L:

    (1)  z_l = a_{l-1} W_l + b_l
    (2)  a_l = f(z_l)                             for l < L; the last layer's activation is the objective's output unit
    (3)  Loss = objective(z_L, Y)                 the mean over the batch

Backward, l = L .. 1:

    (4)  dz_L = (p - Y) / B                       for the matched pairs; see mlpcli.model.objectives
    (5)  dW_l = a_{l-1}^T dz_l                    since dz_l[i,j] / dW_l[k,j] = a_{l-1}[i,k]: sum over the batch i
    (6)  db_l = sum_B dz_l                        since dz_l[i,j] / db_l[j] = 1
    (7)  da_{l-1} = dz_l W_l^T                    since dz_l[i,j] / da_{l-1}[i,k] = W_l[k,j]: sum over the units j
    (8)  dz_{l-1} = da_{l-1} * f'(z_{l-1})        element by element; for the sigmoid f' = a (1 - a)

The penalty, which is no part of the data's loss:

    (9)  R = l2 sum_l sum W_l^2         (10)  dW_l += 2 l2 W_l

Dropout (:mod:`mlpcli.model.dropout`), while training alone: masks m_l multiply the inputs of a layer, which (1) and (5)
then see in place of a_{l-1}; (8) is of the a_{l-1} that f gave:

   (11)  a_{l-1} <- m_l * a_{l-1}                (12)  da_{l-1} <- m_l * da_{l-1}

docs/derivation.md derives each from the chain rule. With L = 1 this is softmax regression. The same code runs in
float32 to train, in float64 and complex128 to check itself (``mlpcli gradcheck``).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.model.activations import ACTIVATIONS
from mlpcli.model.memory import Allocate, aligned
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.model.parameters import LayerPart, Parameters, Piece

Array = NDArray[Any]


class Buffers:
    """What one pass over a batch of B examples writes to, allocated once.

    ``z`` and ``dz`` (B, H) of each layer, (B, K) of the last; ``a`` and ``scratch`` (B, H) of each hidden layer; ``p``
    (B, K). ``masks`` m (B, D) of each layer's inputs, which dropout fills before each pass, and ``kept``, those inputs
    times m; no mask, and empty, where nothing is left out.
    """

    def __init__(
        self, sizes: Sequence[int], batch_size: int, dtype: DTypeLike, rates: Sequence[float], allocate: Allocate
    ) -> None:
        def empty(layers: Sequence[int]) -> list[Array]:
            return [allocate((batch_size, units), dtype) for units in layers]

        self.z = empty(sizes[1:])
        self.a = empty(sizes[1:-1])
        self.p = empty(sizes[-1:])[0]
        self.dz = empty(sizes[1:])
        self.scratch = empty(sizes[1:-1])
        self.ones = np.ones(batch_size, dtype)
        dropped = list(zip(sizes[:-1], rates, strict=True))
        self.masks = [allocate((batch_size, units), dtype) if rate else None for units, rate in dropped]
        # Where there is no mask there is nothing kept, and nothing that asks for it.
        self.kept = [allocate((batch_size, units if rate else 0), dtype) for units, rate in dropped]

    def rows(self, own: slice) -> Buffers:
        """The same memory, of some of the examples."""
        if own == slice(0, len(self.p)):
            return self
        cut = copy(self)
        for name in ("z", "a", "dz", "scratch", "kept"):
            setattr(cut, name, [buffer[own] for buffer in getattr(self, name)])
        cut.masks = [None if mask is None else mask[own] for mask in self.masks]
        cut.p, cut.ones = self.p[own], self.ones[own]
        return cut


class Network:
    """The form of a multilayer perceptron; its numbers are in :class:`Parameters` and :class:`Buffers`.

    ``sizes`` = (D, H, ..., K); ``activation`` and ``objective`` are names from ``ACTIVATIONS`` and ``OBJECTIVES``.
    """

    def __init__(self, sizes: Sequence[int], activation: str, objective: str) -> None:
        self.sizes = tuple(sizes)
        self.activation = ACTIVATIONS[activation]
        self.objective = OBJECTIVES[objective]
        self.layers = tuple(range(len(self.sizes) - 1))

    def parameters(self, dtype: DTypeLike, vector: Array | None = None) -> Parameters:
        """Parameters of this form, zero unless ``vector`` (n,) is given."""
        return Parameters(self.sizes, dtype, vector)

    def buffers(
        self, batch_size: int, dtype: DTypeLike, rates: Sequence[float] = (), allocate: Allocate = aligned
    ) -> Buffers:
        """Buffers for batches of at most ``batch_size`` examples; ``rates`` (L,) of dropout, of each layer's inputs."""
        return Buffers(self.sizes, batch_size, dtype, rates or [0.0] * len(self.layers), allocate)

    def forward(self, theta: Parameters, X: Array, t: Buffers) -> Array:
        """The logits z_L (B, K) of the inputs X (B, D); leaves every z_l and a_l in ``t``."""
        a = X  # (B, D)
        for layer in self.layers:
            z, mask = t.z[layer], t.masks[layer]
            if mask is not None:
                a = np.multiply(mask, a, out=t.kept[layer])  # (11) (B, D)
            np.matmul(a, theta.W[layer], out=z)  # (1)  (B, H) = (B, D) (D, H)
            z += theta.b[layer]  # (1)  (B, H) + (H,)
            if z is not t.z[-1]:
                a = t.a[layer]
                self.activation.forward(z, a)  # (2)  (B, H)
        return z

    def loss(self, Y: Array, t: Buffers) -> Any:
        """The objective's mean over the batch, a scalar, of the last forward pass and the targets Y (B, K).

        Leaves the output unit's value p (B, K) in ``t``, where the backward pass takes it up.
        """
        return self.objective.forward(t.z[-1], Y, t.p)  # (3)

    def backward(self, theta: Parameters, X: Array, Y: Array, t: Buffers, gradient: Parameters) -> None:
        """Write dLoss/dtheta to ``gradient``, from what :meth:`forward` and :meth:`loss` left in ``t``."""
        self.deltas(theta, Y, t)
        self.gradients(X, t, gradient.layers())

    def deltas(self, theta: Parameters, Y: Array, t: Buffers, share: float = 1.0) -> None:
        """Write dLoss/dz_l (B, H) of every layer to ``t``, from what :meth:`forward` and :meth:`loss` left there.

        ``share`` times it, where the batch is that share of a larger one, whose mean is meant.
        """
        dz = t.dz[-1]
        self.objective.backward(t.z[-1], t.p, Y, dz)  # (4)  (B, K)
        if share != 1.0:
            dz *= share
        for layer in reversed(self.layers[1:]):
            dz, mask = t.dz[layer], t.masks[layer]
            da = t.dz[layer - 1]  # which (8) turns into dz, in place
            np.matmul(dz, theta.W[layer].T, out=da)  # (7)  (B, D) = (B, H) (H, D)
            if mask is not None:
                da *= mask  # (12) (B, D)
            self.activation.backward(t.a[layer - 1], da, t.scratch[layer - 1])  # (8)  (B, D)

    def gradients(self, X: Array, t: Buffers, gradient: Sequence[LayerPart]) -> None:
        """Write dLoss/dtheta, or a part of it, to ``gradient``, from X (B, D) and what :meth:`deltas` left in ``t``."""
        for layer in reversed(self.layers):
            rows, columns, dW, db = gradient[layer]
            a, dz = t.a[layer - 1] if layer else X, t.dz[layer]
            if t.masks[layer] is not None:
                a = t.kept[layer]  # (11) (B, D)
            np.matmul(a[:, rows].T, dz, out=dW)  # (5)  (D, H) = (D, B) (B, H)
            np.dot(t.ones, dz[:, columns], out=db)  # (6)  (H,) = (B,) (B, H): a sum over the batch

    def penalty(self, theta: Parameters, l2: float) -> Any:
        """The penalty l2 sum W^2, a scalar; biases are not penalised."""
        return l2 * sum(np.dot(W.ravel(), W.ravel()) for W in theta.W)  # (9)

    def add_penalty_gradient(self, theta: Parameters | Piece, l2: float, gradient: Parameters | Piece) -> None:
        """Add the penalty's gradient 2 l2 W to ``gradient``; of both all, or the same piece."""
        if l2:
            for W, dW in zip(theta.W, gradient.W, strict=True):
                dW += 2.0 * l2 * W  # (10)
