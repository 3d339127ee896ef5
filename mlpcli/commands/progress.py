"""A progress bar of downloads on stderr, if that is a terminal."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from mlpcli.datasets.download import NoProgress, Progress


class Terminal:
    """A wrapper of stderr for a bar: failures to write are ignored, for instance if the terminal is closed."""

    def write(self, text: str) -> None:
        """Write ``text``; ignore failures."""
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Write buffered data; ignore failures."""
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def download_progress() -> Progress:
    """Return a bar of bytes per file, or one that shows nothing if stderr is not a terminal."""
    return _Bar() if sys.stderr.isatty() else NoProgress()


class _Bar:
    """A tqdm bar that is removed after success or failure; a message about the result remains."""

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
