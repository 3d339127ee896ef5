"""Build networks from an architecture: allocate their arrays, choose the layout, and cut out what a process owns.

Hidden arrays are column-major, as the weights are: a unit's numbers are contiguous, one for each example, and so are
those of the units that a process owns. Exception: a process that owns all units has them row-major if the batch has
more examples than the layer has units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import DTypeLike, NDArray

from mlpcli.model.activations import ACTIVATIONS, Activation
from mlpcli.model.input import Input
from mlpcli.model.memory import Allocate, aligned
from mlpcli.model.network import Communicator, Layer, Network
from mlpcli.model.objectives import OBJECTIVES, Objective
from mlpcli.model.parameters import Parameters, Sharding

Array = NDArray[Any]


class LayerCommunicator(Communicator, Sharding, Protocol):
    """The processes that share the units of each layer."""

    size: int


@dataclass(frozen=True)
class Architecture:
    """The units of each layer, (D, H, ..., K), the hidden activation and the objective: a network without numbers."""

    sizes: tuple[int, ...]
    activation: Activation
    objective: Objective

    @classmethod
    def named(cls, sizes: Sequence[int], activation: str, objective: str) -> Architecture:
        """Return the architecture with an activation of ``ACTIVATIONS`` and an objective of ``OBJECTIVES``."""
        return cls(tuple(sizes), ACTIVATIONS[activation], OBJECTIVES[objective])

    def parameters(self, dtype: DTypeLike, vector: Array | None = None) -> Parameters:
        """Return parameters of this architecture, zero unless ``vector`` (n,) is given."""
        return Parameters(self.sizes, dtype, vector)


@dataclass
class Arrays:
    """The arrays that forward and backward write, of all units and B examples.

    For each hidden layer ``z``, ``h``, ``a``, ``slope`` and, with dropout, ``masks`` (B, H); ``partial_da`` are the
    processes' terms of its da, the first of which becomes its dz. ``partial_logits``, ``p`` and ``dlogits`` are (B, K).
    ``partial_dX`` (B, D) are the processes' terms of dX; there are none unless they were asked for.
    """

    z: list[Array]
    h: list[Array]
    a: list[Array]
    slope: list[Array]
    masks: list[Array | None]
    partial_da: list[list[Array]]
    partial_logits: list[Array]
    p: Array
    dlogits: Array
    partial_dX: list[Array]

    def first(self, rows: int) -> Arrays:
        """Return the same memory for the first ``rows`` examples: the arrays of a smaller batch."""

        def cut(arrays: Sequence[Array]) -> list[Array]:
            return [array[:rows] for array in arrays]

        return Arrays(
            z=cut(self.z),
            h=cut(self.h),
            a=cut(self.a),
            slope=cut(self.slope),
            masks=[None if mask is None else mask[:rows] for mask in self.masks],
            partial_da=[cut(terms) for terms in self.partial_da],
            partial_logits=cut(self.partial_logits),
            p=self.p[:rows],
            dlogits=self.dlogits[:rows],
            partial_dX=cut(self.partial_dX),
        )


def allocate_arrays(
    sizes: Sequence[int],
    batch_size: int,
    dtype: DTypeLike,
    *,
    dropout: bool = False,
    input_gradient: bool = False,
    allocate: Allocate = aligned,
    processes: int = 1,
) -> Arrays:
    """Allocate the arrays of a network of ``sizes`` for ``batch_size`` examples and this number of ``processes``.

    ``input_gradient``: with those of dX, which :func:`build_network` then can compute.
    """
    D, *hidden, K = sizes

    def hidden_array(units: int) -> Array:
        row_major = processes == 1 and units < batch_size
        array: Array = allocate((batch_size, units), dtype) if row_major else allocate((units, batch_size), dtype).T
        return array

    z, h, slope = ([hidden_array(units) for units in hidden] for _ in range(3))
    a = [hidden_array(units) for units in hidden] if dropout else h
    masks: list[Array | None] = [hidden_array(units) if dropout else None for units in hidden]
    # The last hidden layer's da is no sum over processes: each has all of dz_L, and the rows of W_L for its units.
    counts = [processes] * (len(hidden) - 1) + [1]
    partial_da = [[hidden_array(units) for _ in range(count)] for units, count in zip(hidden, counts, strict=False)]
    partial_logits = [allocate((batch_size, K), dtype) for _ in range(processes)]
    p, dlogits = (allocate((batch_size, K), dtype) for _ in range(2))
    # Without a hidden layer each process writes the columns of its inputs: they are parts, not terms.
    terms_of_dX = (processes if hidden else 1) if input_gradient else 0
    partial_dX = [allocate((batch_size, D), dtype) for _ in range(terms_of_dX)]
    return Arrays(z, h, a, slope, masks, partial_da, partial_logits, p, dlogits, partial_dX)


def build_layers(
    theta: Parameters, X: Input | Array, arrays: Arrays, comm: LayerCommunicator, input_gradient: bool = False
) -> list[Layer]:
    """Return the layers as far as this process owns them: views of ``theta`` and ``arrays``."""
    layers: list[Layer] = []
    x, dx = X, _own_term(arrays.partial_dX, comm) if input_gradient else None
    *hidden, (W_L, b_L) = theta.shard(comm)
    for i, (W, b) in enumerate(hidden):
        units, terms, mask = comm.shard(theta.sizes[i + 1]), arrays.partial_da[i], arrays.masks[i]
        z, h, a, slope, *partial_da = (
            array[:, units] for array in (arrays.z[i], arrays.h[i], arrays.a[i], arrays.slope[i], *terms)
        )
        mask = None if mask is None else mask[:, units]
        layers.append(Layer(x, W, b, z, partial_da[0], dx, h, a, mask, slope, partial_da))
        x, dx = arrays.a[i], _own_term(terms, comm)
    units = comm.shard(theta.sizes[-2])
    x = x.block(units) if isinstance(x, Input) else x[:, units]
    dx = None if dx is None else dx[:, units]
    return [*layers, Layer(x, W_L, b_L, arrays.partial_logits[comm.rank], arrays.dlogits, dx)]


def _own_term(terms: Sequence[Array], comm: LayerCommunicator) -> Array:
    return terms[comm.rank if len(terms) > 1 else 0]


def build_network(
    architecture: Architecture,
    theta: Parameters,
    X: Input | Array,
    arrays: Arrays,
    comm: LayerCommunicator,
    batch_size: int | None = None,
    *,
    input_gradient: bool = False,
) -> Network:
    """Return the network with parameters ``theta``, for batches in ``X`` (B, D); this process's part of it.

    ``batch_size`` is what the loss is divided by: B, unless the rest of the batch is elsewhere. With ``input_gradient``
    its backward pass goes down to dX.
    """
    rows = comm.shard(len(arrays.p))
    return Network(
        build_layers(theta, X, arrays, comm, input_gradient),
        architecture.activation,
        architecture.objective,
        comm,
        [term[rows] for term in arrays.partial_logits],
        arrays.p[rows],
        arrays.dlogits[rows],
        len(arrays.p) if batch_size is None else batch_size,
        [term[rows] for term in arrays.partial_dX],
    )
