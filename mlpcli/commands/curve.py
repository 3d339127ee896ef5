"""A run's learning curve in the terminal, after it was trained and where it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO


def learning_curve(run: Path, stream: TextIO) -> list[str]:
    """The curve of the run ``run`` in lines that ``stream`` has room and characters for; none before two epochs.

    Raises ``RunError`` when metrics.jsonl is damaged.
    """
    from shutil import get_terminal_size

    from mlpcli.analysis import curve
    from mlpcli.runs import directory

    metrics = directory.read_metrics(run)
    validation = [line["validation_error"] for line in metrics if line["validation_error"] is not None]
    return curve.learning_curve(
        [line["train_error"] for line in metrics],
        validation if len(validation) == len(metrics) else None,
        width=get_terminal_size().columns,
        braille=_has_braille(stream),
    )


def _has_braille(stream: TextIO) -> bool:
    try:
        "\u2800\u2524".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
