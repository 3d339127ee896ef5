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

Where X is given in multiples of a unit, X in (1) and (5) is the unit times it.

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

    Of each hidden layer's units it has the ``part`` that is told their number, with all weights that lead to them, and
    of the last layer's weights those that lead on from them (without hidden layers, from that part of the inputs). It
    alone multiplies by these, and moves them: so weights, which are the most there is to read, stay with one processor.
    What crosses is inputs, the activations of a hidden layer for the next, and what each adds to the logits, and to
    dLoss/da between two hidden layers. ``rows`` are the examples whose inputs, loss and errors it makes. Where one
    reads what another has written they ``meet``. (Shoeybi et al. 2019, "Megatron-LM", section 3, cut two layers'
    weights in this way.)
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
    times m; no mask, and empty, where nothing is left out. In ``terms`` of the logits z_L, and in ``back_terms`` of dz
    of each hidden layer but the last, is what each of ``size`` processes adds to them, the first's being z_L and dz
    themselves.

    In memory the numbers of a hidden unit lie side by side, one for each example, as its weights do; but those of an
    example where one process has more examples than units.
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
        def of_layers(layers: Sequence[int]) -> list[Array]:
            return [
                allocate((batch_size, units), dtype)
                if units < batch_size and size == 1
                else allocate((units, batch_size), dtype).T
                for units in layers
            ]

        *hidden, K = sizes[1:]
        logits = (batch_size, K)
        self.terms = [allocate(logits, dtype) for _ in range(size)]
        self.z = [*of_layers(hidden), self.terms[0]]
        self.a, self.scratch = of_layers(hidden), of_layers(hidden)
        self.p = allocate(logits, dtype)
        self.dz = [*of_layers(hidden), allocate(logits, dtype)]
        self.back_terms = [self.dz[:-2], *(of_layers(hidden[:-1]) for _ in range(1, size))]
        self.ones = np.ones(batch_size, dtype)
        # Where there is no mask there is nothing kept, and nothing that asks for it.
        pixels, *units = [units if rate else 0 for units, rate in zip(sizes[:-1], rates, strict=True)]
        masks, self.kept = ([allocate((batch_size, pixels), dtype), *of_layers(units)] for _ in range(2))
        self.masks = [mask if rate else None for mask, rate in zip(masks, rates, strict=True)]

    def rows(self, own: slice) -> Buffers:
        """The same memory, of some of the examples."""
        if own in (ALL, slice(0, len(self.p))):
            return self
        cut = copy(self)
        for name in ("z", "a", "dz", "scratch", "kept", "terms"):
            setattr(cut, name, [buffer[own] for buffer in getattr(self, name)])
        cut.masks = [None if mask is None else mask[own] for mask in self.masks]
        cut.p, cut.ones = self.p[own], self.ones[own]
        cut.back_terms = [[buffer[own] for buffer in each] for each in self.back_terms]
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

    def forward(self, theta: Parameters, X: Array, t: Buffers, unit: float = 1.0) -> Array:
        """The logits z_L (B, K) of the inputs X (B, D), in multiples of ``unit``; leaves every z_l and a_l in ``t``."""
        return Pass(self, theta, X, t, unit).forward()

    def loss(self, Y: Array, t: Buffers) -> Any:
        """The objective's mean over the batch, a scalar, of the last forward pass and the targets Y (B, K).

        Leaves the output unit's value p (B, K) in ``t``, where the backward pass takes it up.
        """
        return self.objective.forward(t.z[-1], Y, t.p)  # (3)

    def backward(
        self, theta: Parameters, X: Array, Y: Array, t: Buffers, gradient: Parameters, unit: float = 1.0
    ) -> None:
        """Write dLoss/dtheta to ``gradient``, from what :meth:`forward` and :meth:`loss` left in ``t``."""
        bound = Pass(self, theta, X, t, unit)
        bound.output_delta(Y)
        bound.deltas()
        bound.gradients(gradient.layers()).add()

    def penalty(self, theta: Parameters, l2: float) -> Any:
        """The penalty l2 sum W^2, a scalar; biases are not penalised."""
        return l2 * sum(np.dot(W, W) for W in (W.ravel(order="K") for W in theta.W))  # (9)

    def penalty_gradient(self, theta: Parameters | Piece, l2: float, gradient: Parameters | Piece) -> PenaltyGradient:
        """What adds the penalty's gradient 2 l2 W to ``gradient``; of both all, or the same piece."""
        return PenaltyGradient(theta.W, l2, gradient.W)


class PenaltyGradient:
    """2 l2 W, bound to the weights W and to what they are added to, which have no gaps."""

    def __init__(self, weights: Sequence[Array], l2: float, to: Sequence[Array]) -> None:
        self._factor = 2.0 * l2
        flat = ([W.ravel(order="K") for W in tensors] for tensors in (weights, to))
        self._addends = [Addend(W, dW) for W, dW in zip(*flat, strict=True)] if l2 else []

    def add(self, scale: float = 1.0) -> None:
        """Add ``scale`` times it."""
        for addend in self._addends:
            addend.add(scale * self._factor)  # (10) (D, H)


class Pass:
    """The way forward and back through ``network`` with the examples that come in X (B, D), one batch after the other.

    It is bound to its arrays: to the parameters ``theta``, to ``X`` and to the buffers ``t``, of as many rows as X has.
    X is in multiples of ``unit``, so that bytes need not be multiplied by 1/255: the products by X are.

    It does the ``share`` of one process: ``own`` are the buffers of its rows, ``masks`` its part of those of dropout. A
    process by itself has all rows and all units, and nobody to meet: it is best read so first.
    """

    def __init__(
        self, network: Network, theta: Parameters, X: Array, t: Buffers, unit: float = 1.0, share: Share = WHOLE
    ) -> None:
        self.network, self.t, self.unit, self.share = network, t, unit, share
        self.own = t.rows(share.rows)
        *hidden, last = network.layers
        layers = theta.layers(share.part)
        units = [layers[layer].columns for layer in hidden]
        W, self._b = [layer.W for layer in layers], [*(layer.b for layer in layers[:-1]), theta.b[last]]

        def of_units(buffers: Sequence[Array]) -> list[Array]:
            return [buffer[:, own] for buffer, own in zip(buffers, units, strict=False)]

        self._z, self._h, self._dz, self._scratch = map(of_units, (t.z, t.a, t.dz, t.scratch))
        self._back_terms = [of_units(each) for each in t.back_terms[1:]]
        # Of what goes into each layer: its own rows of the inputs, its own units of what is hidden.
        inputs = [(share.rows, ALL), *((ALL, own) for own in units)]
        self.masks = [None if mask is None else mask[own] for mask, own in zip(t.masks, inputs, strict=True)]
        self._kept = [kept[own] for kept, own in zip(t.kept, inputs, strict=True)]
        self._below = [X[share.rows], *self._h]
        # What (1) and (5) read: inputs times their masks, where there are masks.
        self._a = a = [
            below if mask is None else kept for below, mask, kept in zip([X, *t.a], t.masks, t.kept, strict=True)
        ]
        term, *back_terms = t.terms[share.rank], *t.back_terms[share.rank]
        self._term, self._pixels = term, layers[0].rows
        self._forward = [Product(a[i], W[i], self._z[i]) for i in hidden]  # (1)
        self._forward.append(Product(a[last][:, layers[last].rows], W[last], term))  # (1)
        self._back = [Product(self._dz[i], W[i].T, back_terms[i - 1]) for i in hidden[1:]]  # (7)
        if hidden:
            self._back.append(Product(t.dz[last], W[last].T, self._dz[-1]))  # (7)

    def forward(self, lit: slice = ALL) -> Array:
        """The logits z_L (B, K) of this process's rows; leaves the z_l and a_l of its units in the buffers.

        Inputs that are not ``lit`` are 0 in all examples: no z_1 is the larger for them.
        """
        last, share, meet = self.network.layers[-1], self.share, self.share.meet
        meet()  # all inputs are there, and all have done with the batch before
        for layer, product in enumerate(self._forward):
            mask = self.masks[layer]
            scale, inner = (1.0, None) if layer else (self.unit, _inside(self._pixels, lit))
            if mask is not None:
                np.multiply(mask, self._below[layer], out=self._kept[layer])  # (11) (B, D)
            read_by_others = layer < last if layer else mask is not None
            if read_by_others:
                meet()  # all of a_{l-1} is there
            if layer < last:
                z = self._z[layer]
                z[...] = self._b[layer]  # (1)  (B, H) = (H,)
                product.add(scale, 1.0, inner=inner)  # (1)  (B, H) += (B, D) (D, H)
                self.network.activation.forward(z, self._h[layer])  # (2)  (B, H)
                continue
            if share.rank == 0:
                self._term[...] = self._b[layer]  # (1)  (B, K) = (K,)
            product.add(scale, float(share.rank == 0), inner=inner)  # (1)  (B, K) += (B, H) (H, K)
            meet()  # all terms of z_L are there
            for other in self.own.terms[1:]:
                self.own.z[layer][...] += other  # (1)  (B, K)
        return self.own.z[-1]

    def loss(self, Y: Array) -> Any:
        """The objective's mean over this process's rows, a scalar, whose targets are Y (B, K); see the network's."""
        return self.network.loss(Y, self.own)

    def output_delta(self, Y: Array, weight: float = 1.0) -> None:
        """Write dLoss/dz_L (B, K) of this process's rows, from what :meth:`forward` and :meth:`loss` left there.

        ``weight`` times it: the share that these rows are of a larger batch, whose mean is meant.
        """
        t = self.own
        dz = t.dz[-1]
        if len(dz):
            self.network.objective.backward(t.z[-1], t.p, Y, dz)  # (4)  (B, K)
        if weight != 1.0:
            dz *= weight

    def deltas(self) -> None:
        """Write dLoss/dz_l (B, H) of every hidden layer's own units, once :meth:`output_delta` of all rows is there."""
        for layer in reversed(self.network.layers[1:]):
            below = layer - 1
            dz, mask = self._dz[below], self.masks[layer]
            self._back[below].add()  # (7)  (B, D) = (B, H) (H, D)
            if layer < self.network.layers[-1]:
                self.share.meet()  # all terms of da_{l-1} are there
                for others in self._back_terms:
                    dz += others[below]  # (7)  (B, D)
            if mask is not None:
                dz *= mask  # (12) (B, D)
            self.network.activation.backward(self._h[below], dz, self._scratch[below])  # (8)  (B, D), da becomes dz

    def gradients(self, gradient: Sequence[LayerPart]) -> Gradients:
        """What adds dLoss/dtheta, or a part of it, to ``gradient``: once :meth:`deltas` are there."""
        products = []
        for layer in reversed(self.network.layers):
            part = gradient[layer]
            a, dz = self._a[layer][:, part.rows], self.t.dz[layer]
            products.append(Product(self.t.ones, dz[:, part.biases], part.b))  # (6)  (H,) = (B,) (B, H): sums over B
            products.append(Product(a.T, dz[:, part.columns], part.W))  # (5)  (D, H) = (D, B) (B, H)
        return Gradients(products, gradient[0].rows, self.unit)


class Gradients:
    """The products (5) and (6) of all layers, bound to what they read and to what they are added to."""

    def __init__(self, products: Sequence[Product], rows: slice, unit: float) -> None:
        *self._products, self._of_X = products
        self._rows, self._unit = rows, unit

    def add(self, scale: float = 1.0, keep: float = 0.0, lit: slice = ALL) -> None:
        """Make of what they are added to ``keep`` times itself, plus ``scale`` times dLoss/dtheta.

        The weights of inputs that are not ``lit`` have no gradient.
        """
        for product in self._products:
            product.add(scale, keep)
        self._of_X.add(scale * self._unit, keep, rows=_inside(self._rows, lit))


def _inside(part: slice, lit: slice) -> slice | None:
    """Which of the ``part`` is ``lit``, counted from its beginning; None: all of it."""
    if lit == ALL:
        return None
    first = min(max(part.start, lit.start), part.stop)
    last = max(first, min(part.stop, lit.stop))
    return slice(first - part.start, last - part.start)
