"""Summaries of runs in any state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from mlpcli.config import Config
from mlpcli.errors import MlpcliError, RunError, shown
from mlpcli.runs import directory
from mlpcli.runs.layout import reading
from mlpcli.runs.metrics import Metrics


@dataclass(frozen=True)
class Summary:
    """A run in one line.

    ``state`` is running, finished, interrupted, diverged or damaged; ``problem`` describes the damage. ``best_epoch``
    is the one with the lowest (validation error, validation loss); errors are fractions of the images. ``seconds`` is
    the time of training alone, without validation; ``examples_per_second`` is the rate over that time;
    ``data_sha256`` tells the training images and labels apart from others. Unknown values are None.
    """

    path: Path
    state: str
    started: str | None = None
    dataset: str | None = None
    data_sha256: str | None = None
    epochs: int | None = None
    max_epochs: int | None = None
    best_epoch: int | None = None
    validation_error: float | None = None
    validation_loss: float | None = None
    train_error: float | None = None
    test_error: float | None = None
    seconds: float | None = None
    examples_per_second: float | None = None
    problem: str | None = None


def run_at(path: Path) -> Path:
    """Return ``path`` if it is a run. Raises ``RunError`` if it is not, or is a checkpoint inside one."""
    where, at = directory.locate(path)
    if at is not None:
        raise RunError(f"{shown(path)}: is a checkpoint; name its run: {shown(where)}")
    return where


@dataclass(frozen=True)
class Recorded:
    """All files of a run except its checkpoints, checked alone and against each other; ``manifest`` may be empty."""

    config: Config
    manifest: dict[str, Any]
    metrics: Metrics
    test: dict[str, Any] | None
    summary: Summary


def read_run(path: Path) -> Recorded:
    """Read all files of the run ``path`` except its checkpoints. Raises ``RunError`` or ``ConfigError``."""
    with directory.opened(path) as folder:
        config = directory.read_config(folder)
        manifest = directory.read_manifest(folder) if directory.has_manifest(folder) else {}
        metrics = directory.read_metrics(folder, manifest.get("epochs", 0))
        test = directory.read_test(folder)
        state = manifest.get("state", "running")
        if state == "running" and not directory.is_in_use(folder):
            state = "interrupted"
    wanted, patience = config.training.epochs, config.training.patience
    if state == "finished" and metrics.epochs != wanted and (patience is None or metrics.epochs > wanted):
        what = f"training.epochs is {wanted}, but the run finished with {metrics.epochs}"
        raise RunError(f"{shown(path / directory.CONFIG)}: {what}; write what it was trained with")
    best, last, seconds = metrics.best, metrics.last, metrics.seconds
    summary = Summary(
        path=path,
        state=state,
        started=manifest.get("started"),
        dataset=manifest["data"]["dataset"] if manifest else config.data.dataset,
        data_sha256=_data_sha256(manifest),
        epochs=metrics.epochs,
        max_epochs=config.training.epochs,
        best_epoch=best["epoch"] if best else None,
        validation_error=best["validation_error"] if best else None,
        validation_loss=best["validation_loss"] if best else None,
        train_error=last["train_error"] if last else None,
        test_error=test["error"] if test else None,
        seconds=seconds if last and math.isfinite(seconds) else None,
        examples_per_second=metrics.examples / seconds if seconds > 0 and math.isfinite(metrics.examples) else None,
    )
    return Recorded(config, manifest, metrics, test, summary)


def _data_sha256(manifest: dict[str, Any]) -> str | None:
    """Return a SHA-256 over those of the training files; None if the manifest does not have them."""
    hashes = manifest["data"].get("hashes") if manifest else None
    lines = [f"{name} {digest}\n" for name, digest in sorted((hashes or {}).items()) if name.startswith("train")]
    return sha256("".join(lines).encode()).hexdigest() if lines else None


def try_to_read(path: Path) -> tuple[Summary, Config | None]:
    """Return the summary of the run ``path``, also if it is damaged, and its config, if that is valid."""
    try:
        run = read_run(path)
    except MlpcliError as error:
        try:
            config = directory.read_config(path)
        except MlpcliError:
            config = None
        return Summary(path, "damaged", problem=str(error)), config
    return run.summary, run.config


def try_to_summarize(path: Path) -> Summary:
    """Return the summary of the run ``path``, also if it is damaged."""
    return try_to_read(path)[0]


def summaries(folder: Path) -> list[Summary]:
    """Return summaries of the runs in ``folder``, newest first, damaged ones included. Raises ``RunError``."""
    return [summary for summary, _ in runs_in(folder)]


def runs_in(folder: Path) -> list[tuple[Summary, Config | None]]:
    """Return :func:`summaries`, each with the run's config, None if that is damaged."""
    with reading(folder):
        paths = sorted(path for path in folder.iterdir() if directory.is_run(path))
    return sorted(map(try_to_read, paths), key=lambda run: run[0].started or "", reverse=True)
