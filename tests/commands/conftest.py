"""A command run in this process, for the tests of several commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mlpcli.commands import _run


@dataclass(frozen=True)
class Result:
    """The outcome of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output as strict JSON."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        assert self.status == 0, self.err
        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def mlpcli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs ``mlpcli ARGUMENTS`` in this process."""
    monkeypatch.delenv("MLPCLI_DATA", raising=False)

    def run(*arguments: Any) -> Result:
        status = _run([str(argument) for argument in arguments])
        return Result(status, *capsys.readouterr())

    return run
