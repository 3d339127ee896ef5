from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mutation import PACKAGE, mutants_of
from tests.mutation_table import FILES, KNOWN

ROOT = Path(__file__).parents[1]
SECONDS = 1200

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="mutants run in forked processes")


def verdicts(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return the outcomes of the mutants, each run in its own process, as a developer would."""
    path = tmp_path / "mutants.json"
    command = [sys.executable, "-m", "tests.mutation", "--json", str(path), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert path.is_file(), done.stdout + done.stderr
    return json.loads(path.read_text())["mutants"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a + b", {"x = a - b"}),
        ("x = a / b ** c", {"x = a * b ** c", "x = a / (b * c)"}),
        ("x -= a", {"x += a", "pass"}),
        ("x = a < b", {"x = a <= b", "x = a >= b"}),
        ("x = a or b", {"x = a and b", "x = a", "x = b"}),
        ("x = -a", {"x = a"}),
        ("if not a:\n    f(b)", {"if a:", "pass"}),
        ("if a:\n    x = b", {"if not a:"}),
        ("x = 0", {"x = 1"}),
        ("x = f(1.0, True)", {"x = f(0.0, True)", "x = f(1.01, True)", "x = f(1.0, False)"}),
        ("x = a[b:]", {"x = a[b + 1:]", "x = a[b:-1]"}),
        ("x = slice(a, b)", {"x = slice(a + 1, b)", "x = slice(a, b - 1)"}),
        ("for i in range(n):\n    x = a[i]", {"x = a[0]"}),
        ("x = [a[i] for i in range(n)]", {"x = [a[0] for i in range(n)]"}),
        ("for i, b in enumerate(c):\n    x = a[i]", {"x = a[0]"}),
        ("x = min(a, b)", {"x = max(a, b)"}),
        ("np.add(a, b, out=c)", {"np.subtract(a, b, out=c)", "pass"}),
        ("a[...] = b", {"pass"}),
        ("def f(a: int = 3):\n    return a", {"def f(a: int=4):"}),
    ],
)
def test_mutants_of_a_statement(source: str, expected: set[str]) -> None:
    assert {mutant.after for mutant in mutants_of(FILES[0], source)} == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring of 1 line."""',
        "x: Callable[[int], None]",
        "def f(a: list[int][0]) -> Literal[1]:\n    return a",
        "if TYPE_CHECKING:\n    x = 1",
        "if a < 0:\n    raise ValueError(f'{a + 1} is below 0')",
        "assert a < 0",
        "x = zip(a, b, strict=True)",
        "x = f'{a + 1}'",
        "x = 'a' * b",
        "class A(Protocol):\n    b = 1",
        "@lru_cache(1)\ndef f():\n    return a",
    ],
)
def test_changes_without_numbers_are_no_mutants(source: str) -> None:
    assert mutants_of(FILES[0], source) == []


def test_mutants_restore_the_tree() -> None:
    first, second = (mutants_of(FILES[0], "def f(a):\n    return -a + 1") for _ in range(2))
    assert [mutant.before for mutant in first] == ["return -a + 1"] * len(first)
    assert [str(mutant) for mutant in first] == [str(mutant) for mutant in second]


@pytest.mark.slow
def test_wrong_delta_is_caught_and_speed_constant_is_not(tmp_path: Path) -> None:
    delta, speed = (
        "np.subtract(p, Y, out=dz) -> np.add(p, Y, out=dz)",
        "AXPY_MIN_THREADED = 32768 -> AXPY_MIN_THREADED = 32769",
    )
    found = verdicts(tmp_path, "--only", delta, "--only", speed)
    assert {(mutant["before"], mutant["verdict"]) for mutant in found} == {
        ("np.subtract(p, Y, out=dz)", "caught"),
        ("AXPY_MIN_THREADED = 32768", "equivalent"),
    }


@pytest.mark.skipif(sys.version_info < (3, 11), reason="ast.unparse writes tuples in another way before Python 3.11")
def test_known_mutants_exist() -> None:
    mutants = {file: mutants_of(file, (PACKAGE / file).read_text("utf-8")) for file in FILES}
    gone = [entry for entry in KNOWN if not any(entry.covers(mutant) for mutant in mutants[entry.file])]
    assert gone == []


@pytest.mark.slow
def test_gradcheck_notices_a_sample_of_mutants(tmp_path: Path) -> None:
    found = verdicts(tmp_path, "--sample", "30")
    assert [mutant for mutant in found if mutant["verdict"] == "survived" and mutant["reason"] is None] == []
