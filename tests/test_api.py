"""The Python API: the examples of docs/api.md run and print the documented output."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlpcli

DOCUMENT = Path(__file__).parents[1] / "docs" / "api.md"


def examples(text):
    """Return each Python block with its documented output, the text block after it."""
    return re.findall(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```$)?", text, re.MULTILINE | re.DOTALL)


def test_examples_print_the_documented_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLPCLI_DATA", raising=False)
    found = examples(DOCUMENT.read_text("utf-8"))
    assert len(found) >= 8
    names = {}
    for code, expected in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(DOCUMENT), "exec"), names)
        lines = [line.rstrip() for line in printed.getvalue().splitlines()]
        assert lines == expected.splitlines(), code


def test_every_name_is_documented():
    rows = re.findall(r"^\| `(\w+)[(`]", DOCUMENT.read_text("utf-8").partition("## Training")[0], re.MULTILINE)
    assert sorted(rows) == sorted(mlpcli.__all__)
    assert set(mlpcli.__all__) <= set(dir(mlpcli))
    for name in mlpcli.__all__:
        assert inspect.getdoc(getattr(mlpcli, name)), name


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mlpcli' has no attribute 'tran'"):
        mlpcli.tran  # noqa: B018


PROGRAM = """
import sys
for module in ("click", "tqdm", "PIL"):
    sys.modules[module] = None  # to import it is an error
import mlpcli
run = mlpcli.train(None, ["data.dataset=mnist-sample", "training.epochs=1", "network.hidden=[]"], out="run")
print(mlpcli.load(run).predict([[0.0] * 784]).p.shape)
"""


def test_api_needs_no_click(tmp_path):
    environment = {"PYTHONPATH": str(DOCUMENT.parents[1]), "PYTHONWARNINGS": "error", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("(1, 10)\n", "")
