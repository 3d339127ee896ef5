from __future__ import annotations

import pytest

from mlpcli.training import trainer


@pytest.fixture(autouse=True)
def _margins_are_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trim margins of networks as small as the tests' too."""
    monkeypatch.setattr(trainer, "MIN_WORK_TO_TRIM", 0)
