"""Show the progress of a download as a bar on stderr, if that is a terminal."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from mlpcli.datasets.download import NoProgress, Progress


class Terminal:
    """stderr, for a bar: what cannot be written is dropped, as where the terminal has gone."""

    def write(self, text: str) -> None:
        """Write ``text``, or not."""
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Write what is held back, or not."""
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def download_progress() -> Progress:
    """A bar of bytes a file, or nothing where stderr is not a terminal."""
    return _Bar() if sys.stderr.isatty() else NoProgress()


class _Bar:
    """A tqdm bar that goes when its file has come or failed to: what stays is the line that says so."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, name: str, total: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=name, total=total, unit="B", unit_scale=True, dynamic_ncols=True, leave=False, file=Terminal()
        )

    def advance(self, count: int) -> None:
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()
