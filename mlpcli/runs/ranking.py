"""Runs side by side, the best first: the differences of their configs and their results, with seeds grouped."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.errors import RunError, shown
from mlpcli.runs import directory
from mlpcli.runs.spread import Spread, spread_of
from mlpcli.runs.summary import Summary, run_at, runs_in, try_to_read

SEED = "seed"
# The checkpoints that a config names, and their hashes, which tell one from another: files are moved and replaced.
HASHES = {"network.init": "network.init_sha256", "training.teacher": "training.teacher_sha256"}
# Keys without effect on training: the location of the data, and whether the test images are opened at the end.
WITHOUT_EFFECT = frozenset({"data.folder", "data.sources", "data.offline", "data.test", *HASHES.values()})


@dataclass(frozen=True)
class Row:
    """A run, and its config's values of the keys in :func:`differing`: empty if the config is damaged."""

    summary: Summary
    settings: dict[str, Any]


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in their seed, each as its ``Row``, and the spread of the results of the finished ones.

    ``settings`` are those of the rows without the seed. A spread is None if no finished run has the number.
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
    """A run to compare: its summary, and its config, None if that is damaged."""

    summary: Summary
    config: Config | None

    @cached_property
    def flat(self) -> dict[str, Any]:
        """Return its config's values by dotted key; none if its config is damaged."""
        return {} if self.config is None else config_module.flatten(self.config)

    @cached_property
    def settings(self) -> dict[str, Any] | None:
        """Return its value of every key that has an effect on training; None if its config is damaged.

        A checkpoint that it names is a path here: to compare those of several runs, see :func:`settings_of`.
        """
        if self.config is None:
            return None
        flat = dict(self.flat)
        if self.config.data.fallback is not None and self.summary.dataset == self.config.data.fallback:
            flat["data.dataset"] = self.summary.dataset  # the data set used, which may be the fallback
        return {key: value for key, value in flat.items() if key not in WITHOUT_EFFECT}

    @cached_property
    def checkpoints(self) -> dict[str, list[tuple[str, str | None]]]:
        """Return path and SHA-256 of each checkpoint its config names, by key; the hash is None if not recorded."""
        found = {}
        for key, of_hash in HASHES.items():
            if paths := _list(self.flat.get(key)):
                hashes = _list(self.flat[of_hash]) or [None] * len(paths)
                found[key] = list(zip(paths, hashes, strict=True))
        return found


def collect(paths: Iterable[Path]) -> list[Known]:
    """Return the runs ``paths``, and the runs in the folders ``paths``, each once, with their configs.

    Damaged runs are included, with config None if the config is damaged. Raises ``RunError`` for a path that is neither
    a run nor a folder of runs.
    """
    found: dict[str, Known] = {}
    for path in paths:
        holds_runs = directory.is_folder(path) and not directory.is_run(path)
        here = runs_in(path) if holds_runs else [try_to_read(run_at(path))]
        if not here:
            raise RunError(f"{shown(path)}: is not a run, and contains none; a run is a folder under runs/")
        for run in here:
            found.setdefault(os.path.realpath(run[0].path), Known(*run))
    return list(found.values())


def settings_of(runs: Sequence[Known]) -> list[dict[str, Any] | None]:
    """Return the settings of each of ``runs``, with equal names for equal checkpoints, and different ones for others.

    The name of a checkpoint is the path that the first run has for it. If the file there was replaced between two runs,
    the first digits of its SHA-256 stand before; so with data of one name that are not the same.
    """
    paths: dict[str, str] = {}
    hashes: dict[str, set[str]] = {}
    for run in runs:
        for checkpoints in run.checkpoints.values():
            for path, sha256 in checkpoints:
                if sha256 is not None:
                    path = paths.setdefault(sha256, path)
                hashes.setdefault(path, set()).add(sha256 or "")

    data: dict[Any, set[str]] = {}
    for run in runs:
        if run.settings is not None and run.summary.data_sha256 is not None:
            data.setdefault(run.settings["data.dataset"], set()).add(run.summary.data_sha256)

    def named(path: str, sha256: str | None) -> str:
        path = path if sha256 is None else paths[sha256]
        return path if len(hashes[path]) == 1 or sha256 is None else f"{sha256[:8]} {path}"

    found: list[dict[str, Any] | None] = []
    for run in runs:
        settings = run.settings
        if settings is not None:
            settings = dict(settings)
            for key, checkpoints in run.checkpoints.items():
                names = [named(*each) for each in checkpoints]
                settings[key] = names if isinstance(settings[key], list) else names[0]
            name, sha256 = settings["data.dataset"], run.summary.data_sha256
            if sha256 is not None and len(data[name]) > 1:
                settings["data.dataset"] = f"{sha256[:8]} {name}"
        found.append(settings)
    return found


def differing(runs: Sequence[Known]) -> list[str]:
    """Return the dotted keys in which the configs of ``runs`` differ, except :data:`WITHOUT_EFFECT`."""
    known = [settings for settings in settings_of(runs) if settings is not None]
    return [key for key in (known[0] if known else ()) if any(each[key] != known[0][key] for each in known)]


def rank(runs: Sequence[Known]) -> list[Row]:
    """Sort ``runs`` by (validation error, validation loss), lowest first, those without last, then by name."""
    keys = differing(runs)
    rows = [
        Row(run.summary, {key: settings[key] for key in keys} if settings else {})
        for run, settings in zip(runs, settings_of(runs), strict=True)
    ]
    return sorted(rows, key=lambda row: (*_score(row.summary), str(row.summary.path)))


def group_seeds(runs: Sequence[Known]) -> list[SeedGroup]:
    """Group the runs that differ only in their seed, and sort the groups by mean validation error, lowest first.

    A run with a damaged config is a group of its own.
    """
    configs = {run.summary.path: settings for run, settings in zip(runs, settings_of(runs), strict=True)}
    groups: dict[Any, list[Row]] = {}
    for row in rank(runs):
        path = row.summary.path
        settings = configs[path]
        key = path if settings is None else repr([item for item in settings.items() if item[0] != SEED])
        groups.setdefault(key, []).append(row)
    made = [_group(rows, [configs[row.summary.path] for row in rows]) for rows in groups.values()]
    # Stable: groups without a finished run remain in the order of their rows.
    return sorted(made, key=lambda group: group.validation_error.mean if group.validation_error else math.inf)


def _group(rows: list[Row], configs: list[dict[str, Any] | None]) -> SeedGroup:
    finished = [row.summary for row in rows if row.summary.state == "finished"]

    def spread(number: Callable[[Summary], float | None]) -> Spread | None:
        return spread_of([value for value in map(number, finished) if value is not None])

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


def _list(value: Any) -> list[Any]:
    """Return a list as it is, None as no element, and anything else as the only element."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
