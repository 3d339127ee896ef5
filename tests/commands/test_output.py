"""Output files of all commands: where they may be, and what they never replace."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpcli import experiment
from mlpcli.datasets import idx

OUTPUTS = [
    ("eval", "run", "--predictions"),
    ("predict", "run", "table.csv", "-o"),
    ("plot", "run", "-o"),
    ("plot", "run", "--kind", "confusion", "-o"),
    ("report", "run", "-o"),
    ("export", "run", "-o"),
    ("export", "run", "--to", "csv", "-o"),
    ("data", "show", "table.csv", "-o"),
]


@pytest.fixture
def folder(tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    experiment.train(tiny_config(), out=Path("run"))
    images = np.arange(60 * 20).reshape(60, 20) % 256
    Path("table.csv").write_text("".join(f"{i % 3},{','.join(map(str, row))}\n" for i, row in enumerate(images)))
    return tmp_path


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("arguments", OUTPUTS)
@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "metrics.jsonl", "checkpoints/best.npz"])
def test_no_output_replaces_a_file_of_a_run(folder: Path, mlpcli: Any, arguments: tuple[str, ...], name: str):
    # Plots have the format of their suffix, and would refuse the name alone.
    path = Path("run", name)
    if arguments[0] in ("plot", "data"):
        path = Path("run/checkpoints/plot.png")
    if arguments[0] == "export" and name.endswith(".npz"):
        path = path.with_suffix("")
    if arguments == ("export", "run", "-o"):
        arguments = ("export", "run", "--to", "safetensors", "-o")
    before = everything_in(folder)
    result = mlpcli(*arguments, path)
    assert (result.status, result.out) == (2, "")
    assert f"{path}: is a file of the run" in result.err and result.err.count("\n") == 1
    assert everything_in(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "run", "--data", "table.csv", "--predictions", "./table.csv"),
        ("eval", "run", "--data", "tiny", "--predictions", "tiny/train-labels-idx1-ubyte"),
        ("eval", "run", "--predictions", "tiny/train-labels-idx1-ubyte"),
        ("plot", "run", "--kind", "confusion", "-o", "tiny/train.png"),
        ("predict", "run", "pictures", "-o", "pictures/1.png"),
        ("predict", "run", "table.csv", "-o", "link.csv"),
        ("report", "run", "--data", "table.csv", "-o", "table.csv"),
        ("predict", "last.npz", "table.csv", "-o", "last.npz"),
        ("report", "last.npz", "--no-images", "-o", "last.npz"),
    ],
)
def test_no_output_replaces_an_input(folder: Path, mlpcli: Any, arguments: tuple[str, ...]):
    Path("link.csv").symlink_to("table.csv")
    Path("pictures").mkdir()
    Path("tiny/train.png").write_bytes(b"a picture")
    Path("pictures/1.png").write_bytes(b"a picture")
    shutil.copy("run/checkpoints/last.npz", "last.npz")
    before = everything_in(folder)
    result = mlpcli(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err == f"mlpcli: {Path(arguments[-1])}: is read by this command, and would be replaced; " + (
        "name another file\n"
    )
    assert everything_in(folder) == before


@pytest.mark.parametrize("arguments", [each for each in OUTPUTS if "csv" not in each])
@pytest.mark.parametrize("place", ["missing/out", "table.csv/out", "folder"])
def test_impossible_output_is_reported_before_the_work(
    folder: Path, mlpcli: Any, arguments: tuple[str, ...], place: str
):
    suffix = {"eval": ".csv", "predict": ".csv", "report": ".html", "export": ".safetensors"}.get(arguments[0], ".png")
    path = f"{place}{suffix}"
    if place == "folder":
        Path(path).mkdir()
    before = everything_in(folder)
    result = mlpcli(*arguments, path)
    assert (result.status, result.out) == (4, "")
    assert result.err.startswith(f"mlpcli: {path}: cannot be written: ") and result.err.count("\n") == 1
    assert everything_in(folder) == before  # not even evaluations.jsonl has changed


def test_report_may_be_beside_the_files_of_its_run(folder: Path, mlpcli: Any):
    assert mlpcli("report", "run", "-o", "run/report.html").status == 0
    assert mlpcli("report", "run", "-o", "run/report.html").status == 0  # an existing output is replaced


def test_names_that_are_no_text_do_not_stop_an_output(folder: Path, mlpcli: Any):
    odd = Path(os.fsdecode(b"odd\xff"))
    Path("run").rename(odd)
    assert mlpcli("export", odd, "-o", "curves.csv").status == 0
    with Path("curves.csv").open(newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"odd\N{REPLACEMENT CHARACTER}"}


def test_control_characters_of_a_name_are_not_printed(folder: Path, mlpcli: Any):
    name = "a\n\x1b[31mb"
    Path(name).write_bytes(idx.encode(np.full((2, 5, 4), 200, np.uint8)))
    found = mlpcli("predict", "run", name)
    assert found.status == 0 and found.out.count("\n") == 2 and "\x1b" not in found.out
    assert [each["image"] for each in mlpcli("predict", "run", name, "--json").json["images"]] == [name, name]
    refused = mlpcli("predict", "run", f"{name}.png")
    assert refused.status == 3 and refused.err.count("\n") == 1 and "\x1b" not in refused.err
