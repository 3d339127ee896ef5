"""A replacement for the module ``os`` that fails, or ends the process, at one call that changes files."""

from __future__ import annotations

import os
from typing import Any

CHANGING = ("open", "write", "fsync", "close", "replace", "rename", "unlink")


class FaultyOs:
    """The module ``os``, except that call number ``at`` (from 0) of ``CHANGING`` fails.

    With an ``error`` number the call fails and does nothing, but for close, which closes and then fails, as the
    system's does. Without one the process ends there, as if killed.
    """

    def __init__(self, at: int, error: int | None) -> None:
        self.calls = 0
        self._at = at
        self._error = error

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._faulty(name, real) if name in CHANGING else real

    def _faulty(self, name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            number = self.calls
            self.calls += 1
            if number != self._at:
                return real(*arguments, **options)
            if self._error is None:
                if name == "write":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os._exit(99)
            if name == "close":
                real(*arguments)
            raise OSError(self._error, os.strerror(self._error))

        return call
