"""Profile a training step by timing the parts of mlpcli's own Trainer while it trains.

Epochs with clocks alternate with epochs without, which give the time of the whole step. The loop's time is that of the
whole step, less that of the parts; it includes the checks after an epoch, and the cost of the clocks lowers it. A
part's time excludes the parts it calls.

``--clock cpu`` counts CPU time, which does not run while another process has the core: so more processes than cores can
be compared with the model of a step in ``mlpcli.parallel.choose``, which gives a core to each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import Mock, patch

from benchmarks import common

REST = "the loop"
PARTS = {
    "products": "matrix products, accumulated in momentum",
    "update": "update",
    "batches": "batches: gather, to floats, targets",
    "activation": "activation",
    "slope": "its slope",
    "loss": "loss",
    "forward": "biases, and the sum of the logits' terms",
    "backward": "dz, and the sums of its terms",
    "errors": "errors",
    "barrier": "waiting for the other processes",
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


class Clocks:
    """Seconds and calls by part; the seconds of ``clock`` exclude inner parts."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds, self.calls = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0)
        self._clock, self._inside = clock, 0.0

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` with its time counted as ``part``."""

        def called(*arguments: Any, **named: Any) -> Any:
            outer, self._inside = self._inside, 0.0
            started = self._clock()
            result = function(*arguments, **named)
            took = self._clock() - started
            self.seconds[part] += took - self._inside
            self.calls[part] += 1
            self._inside = outer + took
            return result

        return called

    def each(self, part: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Return the generator function ``function`` with the time of each item counted as ``part``."""

        def called(*arguments: Any) -> Iterator[Any]:
            things = function(*arguments)
            more = self.timed(part, lambda: next(things, None))
            while (thing := more()) is not None:
                yield thing

        return called


def main() -> None:
    """Profile the networks of ``--rows``."""
    options = common.parser(__doc__)
    options.add_argument("--rows", default="1,2,3,4,5", help="rows of the throughput table, by number")
    options.add_argument("--examples", type=int, default=20_000, help="train on the first N images")
    options.add_argument("--processes", type=int, default=1, help="training processes; the first one is profiled")
    options.add_argument("--clock", choices=CLOCKS, default="wall", help="wall time, or the first process's CPU time")
    given = options.parse_args()
    common.set_threads(given.threads)

    data = common.dataset(given.data, given.examples)
    profiles = {}
    for hidden, batch in (common.ROWS[int(row) - 1] for row in given.rows.split(",")):
        profiles[f"{common.form(hidden)}, {batch}"] = profile(data, hidden, batch, given)
    barriers = {network: found.pop("barriers") for network, found in profiles.items()}
    names = {**PARTS, REST: REST, "step": "whole step"}
    if given.processes == 1:
        del names["barrier"]
    rows = [[words, *(f"{found[part]:.1f}" for found in profiles.values())] for part, words in names.items()]
    if given.processes > 1:
        rows.append(["number of barriers", *(f"{count:.1f}" for count in barriers.values())])
    text = "Microseconds a step, medians.\n\n" + common.table(["part", *profiles], rows)
    common.report(given, "profile", {"microseconds": profiles, "barriers": barriers}, text)


def profile(data: Any, hidden: tuple[int, ...], batch: int, given: argparse.Namespace) -> dict[str, float]:
    """Return the microseconds per step of each part and of the whole step, and the number of barriers."""
    from benchmarks.peers import MOMENTUM, RATE  # loads numpy, so only after the threads are set
    from mlpcli.config import Config, NetworkConfig, TrainingConfig
    from mlpcli.parallel.control import SINGLE
    from mlpcli.parallel.forked import ForkedGroup
    from mlpcli.training.trainer import Trainer

    training = TrainingConfig(
        epochs=1_000_000, batch_size=batch, optimizer="momentum", momentum=MOMENTUM, learning_rate=RATE, l2=0.0
    )
    found: dict[str, list[float]] = {part: [] for part in (*PARTS, REST, "step", "barriers")}
    clock = CLOCKS[given.clock]
    with ForkedGroup(given.processes) if given.processes > 1 else SINGLE as group:
        trainer = Trainer(Config(network=NetworkConfig(hidden=hidden), training=training), data, group=group)
        # The forward pass after each epoch is not part of a step.
        trainer._saturation = Mock(**{"saturation.return_value": None})
        group.start_workers(trainer)
        epochs, steps = trainer.epochs(), trainer.steps_per_epoch
        next(epochs)  # the warm-up
        for _ in range(given.repeats):
            started = clock()
            next(epochs)
            whole = clock() - started
            clocks = Clocks(clock)
            with timed(trainer, clocks):
                next(epochs)
            own = {**clocks.seconds, REST: whole - sum(clocks.seconds.values()), "step": whole}
            for part, seconds in own.items():
                found[part].append(seconds / steps * 1e6)
            found["barriers"].append(clocks.calls["barrier"] / steps)
    return {part: statistics.median(own) for part, own in found.items()}


def timed(trainer: Any, clocks: Clocks) -> ExitStack:
    """Return a context manager that times the parts of ``trainer``."""
    from mlpcli.model.blas import Gemm
    from mlpcli.model.network import Network
    from mlpcli.training import step
    from mlpcli.training.batches import Batches

    optimizer, activation = type(trainer._optimizer), type(trainer.architecture.activation)
    places: list[tuple[str, Any, str]] = [
        ("products", Gemm, "__call__"),
        ("update", optimizer, "step"),
        ("update", optimizer, "end"),
        ("activation", activation, "forward"),
        ("slope", activation, "derivative"),
        ("loss", Network, "loss"),
        ("forward", Network, "forward"),
        ("backward", Network, "backward"),
        ("errors", step, "count_errors"),
        ("barrier", type(trainer.group.comm), "barrier"),
    ]
    patches = ExitStack()
    for part, owner, name in places:
        patches.enter_context(patch.object(owner, name, clocks.timed(part, getattr(owner, name))))
    patches.enter_context(patch.object(Batches, "epoch", clocks.each("batches", Batches.epoch)))
    return patches


if __name__ == "__main__":
    main()
