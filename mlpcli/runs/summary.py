"""What a run comes to at a glance, whatever state it is in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mlpcli import config as config_module
from mlpcli.errors import MlpcliError, RunError
from mlpcli.runs import directory


@dataclass(frozen=True)
class Summary:
    """A run in a line. ``state`` is running, finished, interrupted, diverged, or damaged: then ``problem`` says how.

    ``best_epoch`` is the one with the lowest (validation error, validation loss); errors are shares of the images.
    ``seconds`` of training alone, validation and all else left out, and ``examples_per_second`` over all of them. What
    is not known is None.
    """

    path: Path
    state: str
    started: str | None = None
    dataset: str | None = None
    epochs: int | None = None
    epochs_wanted: int | None = None
    best_epoch: int | None = None
    validation_error: float | None = None
    validation_loss: float | None = None
    train_error: float | None = None
    test_error: float | None = None
    seconds: float | None = None
    examples_per_second: float | None = None
    problem: str | None = None


def run_at(path: Path) -> Path:
    """The run that ``path`` is. Raises ``RunError`` when it is none, also for a checkpoint inside one."""
    where, at = directory.locate(path)
    if at is not None:
        raise RunError(f"{path}: is a checkpoint; name its run: {where}")
    return where


def summarize(path: Path) -> Summary:
    """The summary of the run ``path``. Raises ``RunError`` or ``ConfigError`` when it is damaged."""
    config = config_module.load(path / directory.CONFIG, (), {})
    there = (path / directory.MANIFEST).exists()  # not if the process died before it wrote one
    manifest = directory.read_manifest(path) if there else {}
    metrics = directory.read_metrics(path)
    test = directory.read_test(path)
    state = manifest.get("state", "running")
    if state == "running" and not directory.is_in_use(path):
        state = "interrupted"
    scores = [
        (line["validation_error"], line["validation_loss"], line["epoch"])
        for line in metrics
        if line["validation_error"] is not None and line["validation_loss"] is not None
    ]
    best = min(scores, default=None)
    seconds = sum(line["seconds"] for line in metrics)
    examples = sum(line["seconds"] * line["examples_per_second"] for line in metrics)
    return Summary(
        path=path,
        state=state,
        started=manifest.get("started"),
        dataset=manifest["data"]["dataset"] if manifest else config.data.dataset,
        epochs=len(metrics),
        epochs_wanted=config.training.epochs,
        best_epoch=best[2] if best else None,
        validation_error=best[0] if best else None,
        validation_loss=best[1] if best else None,
        train_error=metrics[-1]["train_error"] if metrics else None,
        test_error=test["error"] if test else None,
        seconds=seconds if metrics and math.isfinite(seconds) else None,
        examples_per_second=examples / seconds if seconds > 0 and math.isfinite(examples) else None,
    )


def try_to_summarize(path: Path) -> Summary:
    """The summary of the run ``path``, of state damaged where there can be none."""
    try:
        return summarize(path)
    except MlpcliError as error:
        return Summary(path, "damaged", problem=str(error))


def summaries(folder: Path) -> list[Summary]:
    """The runs in ``folder``, newest first, the damaged ones among them. Raises ``RunError`` if it can't be read."""
    try:
        paths = sorted(path for path in folder.iterdir() if (path / directory.CONFIG).is_file())
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror}") from error
    return sorted(map(try_to_summarize, paths), key=lambda summary: summary.started or "", reverse=True)
