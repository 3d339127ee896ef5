"""Comparison of two runs that should be bit-identical, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mlpcli.files import Folder
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory, metrics
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.layout import reading

TIMES = ("examples_per_second", "seconds")


@dataclass(frozen=True)
class Difference:
    """One difference: its name, and the values in the first and the second run."""

    what: str
    recorded: str
    again: str


def differences(recorded: Path, again: Path, epochs: int) -> list[Difference]:
    """Return how the first ``epochs`` epochs of two runs differ: metrics except times, last and best checkpoint.

    ``epochs`` is the epoch of both runs' last checkpoint. Raises ``RunError`` when a file of either is damaged.
    """
    found = [*_of_metrics(recorded, again, epochs)]
    for name in ("last", "best"):
        before, after = _checkpoint(recorded, name), _checkpoint(again, name)
        if before is not None and before.epoch > epochs:
            continue  # the process was killed between writing best.npz and last.npz
        if before is None or after is None:
            if before is not after:
                found.append(
                    Difference(f"{name}.npz", *("missing" if one is None else "there" for one in (before, after)))
                )
            continue
        found += _of_checkpoints(name, before, after)
    return found


def _checkpoint(run: Path, name: str) -> Checkpoint | None:
    path = run / directory.CHECKPOINTS / f"{name}{checkpoints.SUFFIX}"
    return checkpoints.read(path) if directory.is_there(path) else None


def _of_metrics(recorded: Path, again: Path, epochs: int) -> Iterator[Difference]:
    with reading(recorded), Folder(recorded) as one, Folder(again) as other:
        for folder in (one, other):
            metrics.length_of(folder, epochs)  # raises if there are fewer
        for before, after in islice(zip(metrics.each(one), metrics.each(other), strict=False), epochs):
            for key in before:
                if key not in TIMES and before[key] != after[key]:
                    yield Difference(f"epoch {before['epoch']} {key}", repr(before[key]), repr(after[key]))


def _of_checkpoints(name: str, recorded: Checkpoint, again: Checkpoint) -> Iterator[Difference]:
    for key in ("epoch", "step", "best", "best_epoch", "epochs_since_best"):
        before, after = getattr(recorded.state, key), getattr(again.state, key)
        if before != after:
            yield Difference(f"{name}.npz {key}", repr(before), repr(after))
    arrays = checkpoints.arrays_of(again.state)
    for key, before in checkpoints.arrays_of(recorded.state).items():
        after = arrays[key]
        if before.tobytes() != after.tobytes():
            count = np.count_nonzero(before != after)
            with np.errstate(invalid="ignore"):  # a squared gradient in adam's state may be infinite
                furthest = np.argmax(np.abs(before.astype(np.float64) - after))
            what = f"{name}.npz {key}: {count} of {before.size} numbers, furthest apart"
            yield Difference(what, repr(before.flat[furthest].item()), repr(after.flat[furthest].item()))
