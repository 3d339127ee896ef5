"""docs/performance.md has the tables that the benchmarks wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "performance.md").read_text("utf-8")
RESULTS = DOCS / "performance"
WRITTEN = {path.stem: path.read_text("utf-8") for path in RESULTS.glob("*.md")}


def tables(text: str) -> list[str]:
    """Return the Markdown tables of ``text``."""
    return re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)


def test_tables_were_written_by_a_benchmark():
    before, targets = PAGE.split("## Targets", 1)
    written = [table for text in WRITTEN.values() for table in tables(text)]
    assert len(tables(before)) > 4
    assert [table for table in tables(before) if table not in written] == []
    assert len(tables(targets)) == 1


@pytest.mark.parametrize("name", WRITTEN)
def test_benchmark_results_have_command_and_samples(name: str):
    found = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    assert f"Command: `{found['command']}`" in WRITTEN[name]
    assert f"python -m benchmarks.{found['benchmark']}" in PAGE
    assert len(found.get("samples", found.get("seconds", found.get("microseconds")))) > 1
