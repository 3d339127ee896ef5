"""Runs side by side, the best first: what differs in their configs, and what came out; several seeds as one."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.errors import RunError, shown
from mlpcli.runs import directory
from mlpcli.runs.summary import Summary, run_at, runs_in, try_to_read

SEED = "seed"
# Where the data are found, and whether the test images are opened in the end, is nothing to the training; a hash only
# says which checkpoint it was that network.init names.
WITHOUT_EFFECT = frozenset({"data.folder", "data.sources", "data.offline", "data.test", "network.init_sha256"})


@dataclass(frozen=True)
class Row:
    """A run, and what its config says of the keys that are :func:`differing`: nothing where the config is unknown."""

    summary: Summary
    settings: dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """The mean, the least and the greatest of several numbers."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in their seed alone, each as its ``Row``, and the spread of what came out of the finished ones.

    ``settings`` are those of the rows without the seed. A spread is None where no finished run has the number.
    """

    rows: tuple[Row, ...]
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    states: dict[str, int]
    validation_error: Spread | None
    validation_loss: Spread | None
    test_error: Spread | None
    epochs: Spread | None
    seconds: Spread | None
    examples_per_second: Spread | None


@dataclass(frozen=True)
class Known:
    """A run to be compared: its summary, and its config, None where that is damaged."""

    summary: Summary
    config: Config | None

    @cached_property
    def settings(self) -> dict[str, Any] | None:
        """Its config's value of every key that has an effect on training; None where it is unknown."""
        if self.config is None:
            return None
        flat = config_module.flatten(self.config)
        if self.config.data.fallback is not None and self.summary.dataset == self.config.data.fallback:
            flat["data.dataset"] = self.summary.dataset  # and not what could not be had
        return {key: value for key, value in flat.items() if key not in WITHOUT_EFFECT}


def collect(paths: Iterable[Path]) -> list[Known]:
    """The runs that ``paths`` are, or that lie in the folders that they are, each once, with their configs.

    A damaged run is among them, its config None where that is what is damaged. Raises ``RunError`` for a path that is
    no run and holds none.
    """
    found: dict[str, Known] = {}
    for path in paths:
        holds_runs = directory.is_folder(path) and not directory.is_run(path)
        here = runs_in(path) if holds_runs else [try_to_read(run_at(path))]
        if not here:
            raise RunError(f"{shown(path)}: is no run, and holds none; a run is a folder under runs/")
        for run in here:
            found.setdefault(os.path.realpath(run[0].path), Known(*run))
    return list(found.values())


def differing(runs: Sequence[Known]) -> list[str]:
    """The dotted keys of which the configs of ``runs`` have different values, :data:`WITHOUT_EFFECT` left out."""
    known = [run.settings for run in runs if run.settings is not None]
    return [key for key in (known[0] if known else ()) if any(each[key] != known[0][key] for each in known)]


def rank(runs: Sequence[Known]) -> list[Row]:
    """``runs`` from the lowest (validation error, validation loss) up, those that have none last, then by name."""
    keys = differing(runs)
    rows = [Row(run.summary, {key: run.settings[key] for key in keys} if run.settings else {}) for run in runs]
    return sorted(rows, key=lambda row: (*_score(row.summary), str(row.summary.path)))


def group_seeds(runs: Sequence[Known]) -> list[SeedGroup]:
    """:func:`rank`, with the runs that differ in their seed alone as one; from the lowest mean validation error up.

    A run whose config is unknown is a group of its own.
    """
    configs = {run.summary.path: run.settings for run in runs}
    groups: dict[Any, list[Row]] = {}
    for row in rank(runs):
        path = row.summary.path
        settings = configs[path]
        key = path if settings is None else repr([item for item in settings.items() if item[0] != SEED])
        groups.setdefault(key, []).append(row)
    made = [_group(rows, [configs[row.summary.path] for row in rows]) for rows in groups.values()]
    # Stable: groups without a finished run stay in the order of their rows.
    return sorted(made, key=lambda group: group.validation_error.mean if group.validation_error else math.inf)


def _group(rows: list[Row], configs: list[dict[str, Any] | None]) -> SeedGroup:
    finished = [row.summary for row in rows if row.summary.state == "finished"]

    def spread(number: Callable[[Summary], float | None]) -> Spread | None:
        numbers = [value for value in map(number, finished) if value is not None]
        return Spread(mean(numbers), min(numbers), max(numbers)) if numbers else None

    return SeedGroup(
        rows=tuple(rows),
        settings={key: value for key, value in rows[0].settings.items() if key != SEED},
        seeds=tuple(sorted(config[SEED] for config in configs if config is not None)),
        states=dict(Counter(row.summary.state for row in rows)),
        validation_error=spread(lambda summary: summary.validation_error),
        validation_loss=spread(lambda summary: summary.validation_loss),
        test_error=spread(lambda summary: summary.test_error),
        epochs=spread(lambda summary: summary.epochs),
        seconds=spread(lambda summary: summary.seconds),
        examples_per_second=spread(lambda summary: summary.examples_per_second),
    )


def _score(summary: Summary) -> tuple[float, float]:
    if summary.validation_error is None or summary.validation_loss is None:
        return math.inf, math.inf
    return summary.validation_error, summary.validation_loss
