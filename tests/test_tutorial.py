"""The tutorial: its commands and its Python run on the bundled sample, and its pictures exist."""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from mlpcli.commands import _run
from mlpcli.datasets.load import BUNDLED

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
SHOWN = {"config", "gradcheck", "train", "runs", "plot", "eval", "report", "predict", "export"}

# The sample instead of MNIST, and two epochs: the same steps, faster.
SMALL = ("data.dataset=mnist-sample", "training.epochs=2", "training.warmup_epochs=0")
EPOCHS = '["training.epochs=1"]'  # as the tutorial's Python has it


def blocks(*languages):
    """Return the fenced blocks in ``languages``, in order: (language, content)."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", TUTORIAL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in languages]


def commands_of(text):
    """Return the arguments of each ``mlpcli`` command in a block."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("mlpcli ")]


def pictures():
    return {TUTORIAL.parent / name for name in re.findall(r"\]\((pictures/[^)]+)\)", TUTORIAL.read_text("utf-8"))}


@pytest.mark.slow
def test_tutorial_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLPCLI_DATA", raising=False)
    shutil.copytree(ROOT / "docs" / "pictures", tmp_path / "docs" / "pictures")
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    images = gzip.decompress((BUNDLED / "t10k-images-idx3-ubyte.gz").read_bytes())
    (tmp_path / "data" / "mnist" / "t10k-images-idx3-ubyte").write_bytes(images)
    ran = []
    for language, text in blocks("sh", "python"):
        if language == "python":
            assert EPOCHS in text
            exec(text.replace(EPOCHS, repr(SMALL)), {})
            assert "of 1000 test images wrong" in capsys.readouterr().out
        for arguments in commands_of(text):
            small = [word for override in SMALL for word in ("--set", override)] if arguments[0] == "train" else []
            status = _run([*arguments, *small])
            assert status == 0, (arguments, capsys.readouterr().err)
            ran.append(arguments[0])
    assert set(ran) >= SHOWN
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} >= {"curves.png", "report.html", "digits.onnx"}


def test_shown_config_lines_are_those_of_the_config(capsys):
    checked = 0
    shown = blocks("sh", "text")
    for (language, text), (after, output) in pairwise(shown):
        for arguments in commands_of(text) if (language, after) == ("sh", "text") else ():
            if arguments[0] == "config":
                assert _run(arguments) == 0
                printed = capsys.readouterr().out.splitlines()
                assert [line for line in printed if line in output.splitlines()] == [
                    line for line in output.splitlines() if line != "..."
                ]
                checked += 1
    assert checked == 2


def test_breaking_the_derivation_is_caught(tmp_path):
    """Run the tutorial's ``sed``: it changes the code, and the check names the wrong gradient."""
    (text,) = [text for _, text in blocks("bash")]
    for folder in ("mlpcli", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    edit = text.splitlines()[0]
    subprocess.run(edit, shell=True, cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "mlpcli", "gradcheck", "quickstart", "--set=network.hidden=[8]", "--processes=1"]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert child.returncode == 1
    assert "FAILED: W1, b1, W2, b2, theta, dz2, step v, step theta" in child.stdout


def test_pictures_exist_and_are_small():
    assert len(pictures()) >= 6
    assert all(path.stat().st_size < 100_000 for path in pictures())
    assert sum(path.stat().st_size for path in pictures()) < 600_000


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/export.md", "docs/results.md"])
def test_links_have_targets(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
