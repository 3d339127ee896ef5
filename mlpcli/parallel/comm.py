"""Communicators: which part of an array is whose, and sums over processes, in the words of mpi4py and PyTorch.

numpy is not imported here at once, so that its threads can be chosen when the number of processes is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


class Serial:
    """The communicator of one process, which owns everything: no operation has anything to do.

    ``rank`` counts from 0, up to ``size``. Two groups may share the work on a batch. The processes of ``model`` have
    their arrays in shared memory and divide the units of each layer; those of ``data`` have arrays of their own, divide
    the examples of a batch, and add up their gradients.
    """

    rank, size = 0, 1

    @property
    def model(self) -> Serial:
        """The communicator of the processes that divide the units of each layer."""
        return SERIAL

    @property
    def data(self) -> Serial:
        """The communicator of the processes that divide the examples of a batch."""
        return SERIAL

    def shard(self, count: int) -> slice:
        """Return which of ``count`` units or examples this process owns: none, if there are fewer than processes.

        Shards never grow when ``count`` shrinks.
        """
        each, over = divmod(count, self.size)
        start = self.rank * each + min(self.rank, over)
        return slice(start, start + each + (self.rank < over))

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return zeros, in memory that the processes of ``model`` share."""
        from mlpcli.model.memory import aligned

        return aligned(shape, dtype, 0.0)

    def barrier(self) -> None:
        """Wait until every process has reached the barrier."""

    def gather(self) -> None:
        """Wait until an array in shared memory, of which every process writes a part, is complete."""

    def reduce(self, terms: Sequence[NDArray[Any]]) -> None:
        """Wait until every process has written its term, in shared memory, and add the others to the first."""

    def all_reduce(self, vector: NDArray[Any]) -> None:
        """Replace ``vector`` (n,) by the sum of all processes' vectors."""

    def broadcast(self, vector: NDArray[Any]) -> None:
        """Replace ``vector`` (n,) by rank 0's."""


SERIAL = Serial()
