"""A run's learning curve in the terminal, after training and in ``mlpcli runs show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from mlpcli.runs.metrics import Metrics


def learning_curve(metrics: Metrics, stream: TextIO) -> list[str]:
    """Draw the curve of ``metrics`` in lines that fit the width and encoding of ``stream``; none before two epochs."""
    from shutil import get_terminal_size

    from mlpcli.analysis import curve

    records = metrics.records
    validation = [line["validation_error"] for line in records if line["validation_error"] is not None]
    return curve.learning_curve(
        [line["train_error"] for line in records],
        validation if len(validation) == len(records) else None,
        epochs=metrics.epochs,
        width=get_terminal_size().columns,
        braille=_has_braille(stream),
    )


def _has_braille(stream: TextIO) -> bool:
    try:
        "\u2800\u2524".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
