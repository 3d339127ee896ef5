"""CONTRIBUTING.md's examples are patches: each applies to the current code, and the command below it succeeds."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"^## (Add .*?)\n.*?^```diff\n(.*?)^```\n\n```sh\nmlpcli (.*?)\n```", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    title: (patch, command) for title, patch, command in EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text())
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("git") is None, reason="no git is installed")]


def test_every_kind_has_an_example() -> None:
    kinds = ("activation", "objective", "optimizer", "data format", "command")
    assert [title.split(" ", 2)[2] for title in EXAMPLES] == list(kinds)


@pytest.mark.parametrize("title", EXAMPLES)
def test_example_works(title: str, tmp_path: Path) -> None:
    patch, command = EXAMPLES[title]
    for folder in ("mlpcli", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "images.npy", np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28))
    np.save(tmp_path / "arrays" / "labels.npy", np.arange(3))

    def run(*arguments: str, stdin: str = "") -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    mlpcli = (sys.executable, "-m", "mlpcli", *shlex.split(command))
    with pytest.raises(AssertionError):  # not known yet
        run(*mlpcli)
    run("git", "apply", "--whitespace=nowarn", "-", stdin=patch)
    assert run(*mlpcli)
