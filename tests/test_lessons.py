"""The lessons show the output of the commands, and their links have targets."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlpcli.commands import _run

PAGES = sorted((Path(__file__).parents[1] / "docs" / "lessons").glob("*.md"))
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown(page: Path) -> list[tuple[list[str], list[str]]]:
    """Return the arguments of each ``mlpcli explain`` on the page, and its output lines shown there."""
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
def test_explain_prints_the_lines_of_the_page(page, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    examples = shown(page)
    assert examples
    for arguments, lines in examples:
        assert _run(arguments) == 0
        printed = {line.rstrip() for line in capsys.readouterr().out.splitlines()}
        assert lines
        assert [line for line in lines if line not in printed] == [], arguments


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_have_targets(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_error_of_lesson_4_is_detected(tmp_path):
    """Run its commands in a copy of the package, and compare columns and verdicts, and all that ``explain`` prints."""
    root = PAGES[3].parents[2]
    shutil.copytree(root / "mlpcli", tmp_path / "mlpcli", ignore=shutil.ignore_patterns("__pycache__"))
    (_, check), (_, checked), (_, explain), (_, explained), _ = BLOCK.findall(PAGES[3].read_text("utf-8"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "80"}

    def output(commands: str, status: int) -> list[str]:
        commands = commands.replace("python -m", f"{shlex.quote(sys.executable)} -m")
        done = subprocess.run(["sh", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return [line.rstrip() for line in done.stdout.splitlines()]

    def verdicts(lines: list[str]) -> dict[str, str]:
        rows = (re.fullmatch(r"(\w+(?: [a-z]+)?) .* (passed|failed)", line) for line in lines)
        return {row[1]: row[2] for row in rows if row}

    table, shown_lines = output(check, 1), checked.splitlines()
    assert [line for line in shown_lines if line.startswith("tensor ") and line not in table] == []  # the columns
    found, wanted = verdicts(table), verdicts(shown_lines)
    assert wanted.items() <= found.items()
    assert {*wanted.values()} == {"passed", "failed"}
    printed = output(explain, 0)
    assert [line for line in explained.splitlines() if line not in printed] == []
