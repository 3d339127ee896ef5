"""docs/performance.md says what the benchmarks wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "performance.md").read_text("utf-8")
RESULTS = DOCS / "performance"
WRITTEN = {path.stem: path.read_text("utf-8") for path in RESULTS.glob("*.md")}
OURS = {"threads": "mlpcli", "processes": "mlpcli --processes"}
OVER = ("products", "pytorch", "scikit-learn")


def tables(text: str) -> list[str]:
    """The Markdown tables of ``text``."""
    return re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)


def test_every_table_but_that_of_the_aims_is_one_that_a_benchmark_wrote():
    before, aims = PAGE.split("## What it aimed at", 1)
    written = [table for text in WRITTEN.values() for table in tables(text)]
    assert len(tables(before)) > 4
    assert [table for table in tables(before) if table not in written] == []
    assert len(tables(aims)) == 1


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_benchmark_wrote_names_its_command_and_has_its_samples(name: str):
    found = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    assert f"Command: `{found['command']}`" in WRITTEN[name]
    assert f"python -m benchmarks.{found['benchmark']}" in PAGE
    assert len(found.get("samples", found.get("seconds", found.get("microseconds")))) > 1


def test_what_was_reached_is_the_tables():
    found = json.loads((RESULTS / "throughput.json").read_text("utf-8"))
    for row in found["summary"]:
        [line] = [line for line in tables(PAGE)[-1].splitlines() if line.startswith(f"| {row['row']} ")]
        ours, *cells = (cell.strip() for cell in line.split("|")[2:6])
        reached = [f"{row['peers'][name]['over'][OURS[ours]]['median']:.2f} of " for name in OVER]
        assert [cell[: len(own)] for cell, own in zip(cells, reached, strict=True)] == reached
