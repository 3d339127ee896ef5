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

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.model.activations import ACTIVATIONS
from mlpcli.model.blas import Addend, Product
from mlpcli.model.memory import Allocate, aligned
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.model.parameters import LayerPart, Parameters, Part, Piece, every

Array = NDArray[Any]

ALL = slice(None)


def nobody() -> None:
    """Wait for nobody."""


class Share(NamedTuple):
    """What one process does of the work on a batch that several have in memory, of which it is the ``rank``-th.

    ``rows`` are the examples whose activations, loss and errors it makes. Of each layer's weights, and of the units
    below them, it has the ``part`` that is told their number: it alone multiplies by these, and moves them. Hidden
    layers' weighted inputs are then sums of what all contribute, and weights, which are the most there is to read, stay
    with one processor. (The last layer has few: there each takes all of them for its own rows.) Where one reads what
    another has written they ``meet``.
    """

    rows: slice = ALL
    part: Part = every
    rank: int = 0
    meet: Callable[[], None] = nobody


WHOLE = Share()


class Buffers:
    """What one pass over a batch of B examples writes to, allocated once.

    ``z`` and ``dz`` (B, H) of each layer, (B, K) of the last; ``a`` and ``scratch`` (B, H) of each hidden layer; ``p``
    (B, K). ``masks`` m (B, D) of each layer's inputs, which dropout fills before each pass, and ``kept``, those inputs
    times m; no mask, and empty, where nothing is left out. ``sums`` are what each of ``size`` processes adds to z
    (B, H) of each hidden layer, the first's being z itself.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int,
        dtype: DTypeLike,
        rates: Sequence[float],
        allocate: Allocate,
        size: int,
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
        self.sums = [self.z[:-1], *(empty(sizes[1:-1]) for _ in range(1, size))]

    def rows(self, own: slice) -> Buffers:
        """The same memory, of some of the examples."""
        if own in (ALL, slice(0, len(self.p))):
            return self
        cut = copy(self)
        for name in ("z", "a", "dz", "scratch", "kept"):
            setattr(cut, name, [buffer[own] for buffer in getattr(self, name)])
        cut.masks = [None if mask is None else mask[own] for mask in self.masks]
        cut.p, cut.ones = self.p[own], self.ones[own]
        cut.sums = [cut.z[:-1], *([buffer[own] for buffer in each] for each in self.sums[1:])]
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
        self,
        batch_size: int,
        dtype: DTypeLike,
        rates: Sequence[float] = (),
        allocate: Allocate = aligned,
        size: int = 1,
    ) -> Buffers:
        """Buffers for batches of at most ``batch_size`` examples, and for ``size`` processes that share them.

        ``rates`` (L,) are those of dropout, of each layer's inputs.
        """
        return Buffers(self.sizes, batch_size, dtype, rates or [0.0] * len(self.layers), allocate, size)

    def forward(self, theta: Parameters, X: Array, t: Buffers) -> Array:
        """The logits z_L (B, K) of the inputs X (B, D); leaves every z_l and a_l in ``t``."""
        return Pass(self, theta, X, t).forward()

    def loss(self, Y: Array, t: Buffers) -> Any:
        """The objective's mean over the batch, a scalar, of the last forward pass and the targets Y (B, K).

        Leaves the output unit's value p (B, K) in ``t``, where the backward pass takes it up.
        """
        return self.objective.forward(t.z[-1], Y, t.p)  # (3)

    def backward(self, theta: Parameters, X: Array, Y: Array, t: Buffers, gradient: Parameters) -> None:
        """Write dLoss/dtheta to ``gradient``, from what :meth:`forward` and :meth:`loss` left in ``t``."""
        bound = Pass(self, theta, X, t)
        bound.deltas(Y)
        bound.gradients(gradient.layers()).add()

    def penalty(self, theta: Parameters, l2: float) -> Any:
        """The penalty l2 sum W^2, a scalar; biases are not penalised."""
        return l2 * sum(np.dot(W.ravel(), W.ravel()) for W in theta.W)  # (9)

    def penalty_gradient(self, theta: Parameters | Piece, l2: float, gradient: Parameters | Piece) -> PenaltyGradient:
        """What adds the penalty's gradient 2 l2 W to ``gradient``; of both all, or the same piece."""
        return PenaltyGradient(theta.W, l2, gradient.W)


class PenaltyGradient:
    """2 l2 W, bound to the weights W and to what they are added to, which have no gaps."""

    def __init__(self, weights: Sequence[Array], l2: float, to: Sequence[Array]) -> None:
        self._factor = 2.0 * l2
        self._addends = [Addend(W, dW) for W, dW in zip(weights, to, strict=True)] if l2 else []

    def add(self, scale: float = 1.0) -> None:
        """Add ``scale`` times it."""
        for addend in self._addends:
            addend.add(scale * self._factor)  # (10) (D, H)


class Pass:
    """The way forward and back through ``network`` with the examples that come in X (B, D), one batch after the other.

    It is bound to its arrays: to the parameters ``theta``, to ``X`` and to the buffers ``t``, of as many rows as X has.
    It does the ``share`` of one process; ``own`` are the buffers of its rows. A process by itself has all rows and all
    parts, and nobody to meet: it is best read so first.
    """

    def __init__(self, network: Network, theta: Parameters, X: Array, t: Buffers, share: Share = WHOLE) -> None:
        self.network, self.theta, self.t, self.share = network, theta, t, share
        self.own = own = t.rows(share.rows)
        *hidden, last = network.layers
        self._inputs = [X[share.rows], *own.a]
        # What (1) and (5) read: inputs times their masks, where there are masks.
        a = [below if mask is None else kept for below, mask, kept in zip([X, *t.a], t.masks, t.kept, strict=True)]
        part = [share.part(units) for units in network.sizes[:-1]]
        W, z, dz = theta.W, t.sums[share.rank], t.dz
        self._forward = [Product(a[i][:, part[i]], W[i][part[i]], z[i]) for i in hidden]  # (1)
        self._forward.append(Product(a[last][share.rows], W[last], own.z[last]))  # (1)
        self._back = [Product(dz[i], W[i][part[i]].T, dz[i - 1][:, part[i]]) for i in hidden[1:]]  # (7)
        if hidden:
            self._back.append(Product(own.dz[last], W[last].T, own.dz[last - 1]))  # (7)
        self._hidden, self._a = hidden, a
        self._columns = part[0] if hidden else every(network.sizes[0])  # of X, that (1) reads

    def forward(self, lit: slice = ALL) -> Array:
        """The logits z_L (B, K); leaves every z_l and a_l in the buffers, of this process's rows.

        Inputs that are not ``lit`` are 0 in all examples: no z_1 is the larger for them.
        """
        t, b, share, meet = self.own, self.theta.b, self.share, self.share.meet
        columns = _inside(self._columns, lit)
        meet()  # all parameters and inputs are there, and all have done with the batch before
        for layer, product in enumerate(self._forward):
            z, mask, inner = t.z[layer], t.masks[layer], None if layer else columns
            if mask is not None:
                np.multiply(mask, self._inputs[layer], out=t.kept[layer])  # (11) (B, D)
            if layer not in self._hidden:
                z[...] = b[layer]  # (1)  (B, K) = (K,)
                product.add(keep=1.0, inner=inner)  # (1)  (B, K) += (B, H) (H, K)
                break
            if layer or mask is not None:
                meet()  # all rows of a_{l-1} are there
            if share.rank == 0:
                self.t.z[layer][...] = b[layer]  # (1)  (B, H) = (H,)
            product.add(keep=float(share.rank == 0), inner=inner)  # (1)  (B, H) += (B, D) (D, H)
            meet()  # so are all terms of z_l
            for other in t.sums[1:]:
                z += other[layer]  # (1)  (B, H)
            self.network.activation.forward(z, t.a[layer])  # (2)  (B, H)
        return z

    def loss(self, Y: Array) -> Any:
        """The objective's mean over this process's rows, a scalar, whose targets are Y (B, K); see the network's."""
        return self.network.loss(Y, self.own)

    def deltas(self, Y: Array, weight: float = 1.0) -> None:
        """Write dLoss/dz_l (B, H) of every layer to the buffers, from what :meth:`forward` and :meth:`loss` left there.

        ``weight`` times it: the share that this process's rows are of a larger batch, whose mean is meant.
        """
        t, meet = self.own, self.share.meet
        dz = t.dz[-1]
        if len(dz):
            self.network.objective.backward(t.z[-1], t.p, Y, dz)  # (4)  (B, K)
        if weight != 1.0:
            dz *= weight
        for layer in reversed(self.network.layers[1:]):
            da, mask = t.dz[layer - 1], t.masks[layer]
            if layer in self._hidden:
                meet()  # all rows of dz_l are there
            self._back[layer - 1].add()  # (7)  (B, D) = (B, H) (H, D)
            if layer in self._hidden:
                meet()  # so are all columns of da_{l-1}
            if mask is not None:
                da *= mask  # (12) (B, D)
            self.network.activation.backward(t.a[layer - 1], da, t.scratch[layer - 1])  # (8)  (B, D), da becomes dz

    def gradients(self, gradient: Sequence[LayerPart]) -> Gradients:
        """What adds dLoss/dtheta, or a part of it, to ``gradient``: once :meth:`deltas` of all rows are there."""
        products = []
        for layer in reversed(self.network.layers):
            rows, columns, dW, db = gradient[layer]
            a, dz = self._a[layer], self.t.dz[layer]
            products.append(Product(self.t.ones, dz[:, columns], db))  # (6)  (H,) = (B,) (B, H): a sum over the batch
            products.append(Product(a[:, rows].T, dz, dW))  # (5)  (D, H) = (D, B) (B, H)
        return Gradients(products, gradient[0].rows)


class Gradients:
    """The products (5) and (6) of all layers, bound to what they read and to what they are added to."""

    def __init__(self, products: Sequence[Product], rows: slice) -> None:
        *self._products, self._of_X = products
        self._rows = rows

    def add(self, scale: float = 1.0, keep: float = 0.0, lit: slice = ALL) -> None:
        """Make of what they are added to ``keep`` times itself, plus ``scale`` times dLoss/dtheta.

        The weights of inputs that are not ``lit`` have no gradient.
        """
        for product in self._products:
            product.add(scale, keep)
        self._of_X.add(scale, keep, rows=_inside(self._rows, lit))


def _inside(part: slice, lit: slice) -> slice | None:
    """Which of the ``part`` is ``lit``, counted from its beginning; None: all of it."""
    if lit == ALL:
        return None
    first = min(max(part.start, lit.start), part.stop)
    last = max(first, min(part.stop, lit.stop))
    return slice(first - part.start, last - part.start)
