"""The lessons show what the commands print, and lead where they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mlpcli.commands import _run

PAGES = sorted((Path(__file__).parents[1] / "docs" / "lessons").glob("*.md"))
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown(page: Path) -> list[tuple[list[str], list[str]]]:
    """Each ``mlpcli explain`` of the page, as its arguments, with the lines of its output that are shown."""
    found: list[tuple[list[str], list[str]]] = []
    for kind, text in BLOCK.findall(page.read_text("utf-8")):
        if kind == "sh":
            found.append((shlex.split(text)[1:], []) if text.startswith("mlpcli explain") else ([], []))
        elif found:
            found[-1][1].extend(text.splitlines())
    return [(arguments, lines) for arguments, lines in found if arguments]


def test_there_are_four():
    assert [page.name[0] for page in PAGES] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("page", PAGES[:3], ids=lambda page: page.stem)
def test_explain_prints_what_the_page_shows(page, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    examples = shown(page)
    assert examples
    for arguments, lines in examples:
        assert _run(arguments) == 0
        printed = {line.rstrip() for line in capsys.readouterr().out.splitlines()}
        assert lines
        assert [line for line in lines if line not in printed] == [], arguments


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
