"""The generated pages docs/config.md and docs/cli.md are up to date."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from mlpcli import commands, config

DOCS = Path(__file__).parents[1] / "docs"


def test_config_reference_prints_the_page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    with pytest.raises(SystemExit, match="0"):
        commands.main(["config", "reference"])
    page = (DOCS / "config.md").read_text("utf-8")
    assert capsys.readouterr().out == page, "to update it, run: mlpcli config reference > docs/config.md"


def test_every_key_has_a_row_with_the_default_in_use() -> None:
    rows = [row for _, keys in config.reference().values() for row in keys]
    assert [key for key, *_ in rows] == list(config.known_keys())
    # Set to its documented default, every key has its default value.
    bounds = ["augmentation.rotation=1.0"]
    defaults = [f"{key}={default}" for key, default, *_ in rows if key != "augmentation.rotation"]
    assert config.load(None, [*bounds, *defaults], {}) == config.load(None, bounds, {})
    assert ("augmentation.rotation", "0.0") in [row[:2] for row in rows]


def test_command_line_page_has_the_help_of_every_command() -> None:
    page = runpy.run_path(str(DOCS / "cli.py"))["page"]()
    assert (DOCS / "cli.md").read_text("utf-8") == page, "to update it, run: python docs/cli.py > docs/cli.md"
    for name in (*commands.COMMANDS, "config reference", "data fetch", "runs reproduce"):
        assert f"## mlpcli {name}\n\n```text\nUsage: mlpcli {name} [OPTIONS]" in page
