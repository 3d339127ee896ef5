"""What the README says about the config is what the dataclasses say."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest

from mlpcli import config

README = Path(__file__).parents[1] / "README.md"
HEADER = ("Key", "Default", "Allowed", "Meaning")

Row = tuple[str, ...]


def documented(text: str) -> list[Row]:
    """The rows of the tables below 'Config reference': key, default, allowed, meaning."""
    section = re.search(r"^## Config reference\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, "README.md has no section 'Config reference'"
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in section[1].splitlines()
        if line.startswith("|") and not line.startswith("| ---")
    ]
    return [row for row in rows if row != HEADER]


def declared() -> list[Row]:
    """The same of the dataclasses, in their order."""
    # The default as a user would write it is what is written for him; a section that is left out is given one key.
    given = config.Config(augmentation=config.AugmentationConfig(rotation=1.0))
    defaults = [line.partition(": ")[2] for line in config.to_yaml(given).splitlines() if line[-1] != ":"]
    rows = []
    for key, default in zip(config.flatten(given), defaults, strict=True):
        section, _, name = key.rpartition(".")
        owner = type(getattr(given, section)) if section else config.Config
        default = "0.0" if key == "augmentation.rotation" else default
        rule = config.rule_of(owner, name)
        default = "null" if rule.chosen else default
        allowed = config.allowed(typing.get_type_hints(owner)[name], rule)
        rows.append((f"`{key}`", f"`{default}`", allowed, rule.help))
    return rows


def test_the_config_reference_is_the_dataclasses() -> None:
    assert documented(README.read_text("utf-8")) == declared()


@pytest.mark.parametrize("column", range(4))
def test_a_cell_that_differs_is_seen(column: int) -> None:
    row = declared()[0]
    changed = (*row[:column], "other", *row[column + 1 :])
    for cells in (row, changed):
        rows = [f"| {' | '.join(row)} |" for row in (HEADER, ("---",) * 4, cells)]
        table = "\n".join(["## Config reference", "", *rows, "", "## Next"])
        assert (documented(table) == declared()[:1]) == (cells == row)
