"""Runs side by side: their curves, their results, and the differences of their configs.

The document has plain values, the best run first. The page groups seeds, sorts and draws.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlpcli import __version__
from mlpcli.config import Config
from mlpcli.datasets.catalogue import CATALOGUE, IMAGE_SHAPE
from mlpcli.errors import ConfigError, MlpcliError
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.metrics import Metrics
from mlpcli.runs.ranking import SEED, Known, differing, group_seeds, rank
from mlpcli.runs.summary import Summary
from mlpcli.state import architecture_of
from mlpcli.training.connections import connections, count_fixed

MAX_RUNS = 200
MAX_POINTS = 200  # of a curve
DIGITS = 6
NUMBERS = ("validation_error", "validation_loss", "train_error", "train_loss")
OF_A_SUMMARY = (
    *("state", "epochs", "max_epochs", "best_epoch", "validation_error", "validation_loss", "train_error"),
    *("seconds", "examples_per_second"),
)

Describe = Callable[[Known], dict[str, Any]]


def side_by_side(runs: Sequence[Known], title: str, describe: Describe | None = None) -> dict[str, Any]:
    """Make the document of a page of ``runs`` from :func:`mlpcli.runs.ranking.collect`; the best ``MAX_RUNS``.

    ``describe`` replaces :class:`Describer`.
    """
    describe = describe or Describer()
    known = {run.summary.path: run for run in runs}
    ranked = rank(runs)[:MAX_RUNS]
    kept = [known[row.summary.path] for row in ranked]
    groups = {row.summary.path: number for number, group in enumerate(group_seeds(kept)) for row in group.rows}
    names = names_of([row.summary.path for row in ranked])
    objectives = {run.config.network.objective for run in runs if run.config is not None}
    return {
        "title": title,
        "version": __version__,
        "count": len(runs),
        "keys": [key for key in differing(runs) if key != SEED],
        "one_objective": len(objectives) <= 1,
        "runs": [
            {
                "name": name,
                "group": groups[row.summary.path],
                **describe(run),
                "settings": {key: value for key, value in row.settings.items() if key != SEED},
            }
            for row, name, run in zip(ranked, names, kept, strict=True)
        ],
    }


class Describer:
    """Returns the metrics and curves of one run among others, in plain values."""

    def __init__(self) -> None:
        # Image shape and classes, by the name of the data set and the hash of its training files.
        self._data: dict[tuple[str | None, str | None], tuple[tuple[int, int], int] | None] = {}
        self._fixed: dict[Hashable, int] = {}  # weights that stay 0, by the layers

    def __call__(self, run: Known) -> dict[str, Any]:
        """Describe ``run``."""
        summary, config = run.summary, run.config
        try:
            drawn = curve(directory.read_metrics(summary.path))
        except MlpcliError:
            drawn = {key: [] for key in ("epoch", "time", *NUMBERS)}
        return {
            **{key: getattr(summary, key) for key in OF_A_SUMMARY},
            "problem": summary.problem and "its files are damaged",
            "seed": None if config is None else config.seed,
            "parameters": self._parameters(summary, config),
            "curve": drawn,
        }

    def _parameters(self, summary: Summary, config: Config | None) -> int | None:
        """Return the number of parameters that train; None if no run of its data set gives image shape and classes."""
        if config is None:
            return None
        data = summary.dataset, summary.data_sha256
        if self._data.get(data) is None:
            self._data[data] = _data_of(summary)
        found = self._data[data]
        if found is None:
            return None
        image_shape, classes = found
        sizes = architecture_of(config, math.prod(image_shape), classes).sizes
        layers = (image_shape, config.network.hidden, config.network.receptive_fields)
        if layers not in self._fixed:
            try:
                self._fixed[layers] = count_fixed(connections(config.network, image_shape))
            except ConfigError:  # no such network can have trained
                return None
        return sum((rows + 1) * columns for rows, columns in pairwise(sizes)) - self._fixed[layers]


def curve(metrics: Metrics) -> dict[str, list[float | None]]:
    """Return the epochs in ``metrics``, thinned evenly, with the training seconds up to each."""
    records = metrics.records
    step = max(1, math.ceil(len(records) / MAX_POINTS))
    best = metrics.best["epoch"] if metrics.best else None
    seconds, kept = 0.0, []
    for number, record in enumerate(records, 1):
        # Of a long run only some lines are stored: the others took about as long.
        seconds += record["seconds"] * (record["epoch"] - (records[number - 2]["epoch"] if number > 1 else 0))
        if number % step == 0 or number in (1, len(records)) or record["epoch"] == best:
            kept.append({**record, "time": seconds})
    return {key: [_rounded(record[key]) for record in kept] for key in ("epoch", "time", *NUMBERS)}


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return distinct names of the runs ``paths``: those of their folders, or the paths where these are the same."""
    short = [_text(path.resolve().name) for path in paths]
    return [name if short.count(name) == 1 else _text(path) for name, path in zip(short, paths, strict=True)]


def title_of(paths: Sequence[Path]) -> str:
    """Return the title of a page of the runs in ``paths``, which are runs or folders of runs."""
    names = [_text(path.resolve().name) for path in paths]
    return names[0] if len(names) == 1 else f"{', '.join(names[:3])}{', …' if names[3:] else ''}"


def _rounded(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def _text(path: str | Path) -> str:
    """Return a path as text, also if its bytes are not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _data_of(summary: Summary) -> tuple[tuple[int, int], int] | None:
    if summary.dataset is not None and summary.dataset in CATALOGUE:
        return IMAGE_SHAPE, CATALOGUE[summary.dataset].classes
    try:
        checkpoint = checkpoints.read(directory.find_checkpoint(summary.path))
    except MlpcliError:
        return None
    return checkpoint.image_shape, checkpoint.classes
