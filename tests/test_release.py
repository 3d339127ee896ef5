"""What 1.x promises (docs/compatibility.md): the run and the JSON documents that 1.0.0 wrote are in tests/release.

They were written by ``python -m tests.test_release 1.0.0``, and are never written again.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml

import mlpcli
from mlpcli import config
from mlpcli.commands import cli
from mlpcli.datasets import idx
from mlpcli.state import EpochRecord

ROOT = Path(__file__).parents[1]
RELEASES = sorted((Path(__file__).parent / "release").iterdir())

SAMPLE = "data.dataset=mnist-sample"
# How the recorded run was trained.
TRAIN = (
    *("train", "quickstart", "--threads", "1", "--out", "runs/first", "--quiet", "--set", SAMPLE),
    *("--set", "network.hidden=[2]", "--set", "training.epochs=2", "--set", "training.averaging=0.99"),
)
SWEEP = """\
config: quickstart
set: {data.dataset: mnist-sample, network.hidden: [2], training.epochs: 1}
grid: {training.learning_rate: [0.1]}
seeds: [0]
"""
TABLE = "\n".join(f"{row % 2}," + ",".join(str(row * pixel % 256) for pixel in range(16)) for row in range(20))
# Every command with --json, in a folder with the recorded run runs/first, a sweep file and a table of images.
COMMANDS = {
    "train": (*TRAIN, "--out", "runs/other"),
    "eval": ("eval", "runs/first", "runs/other"),
    "predict": ("predict", "runs/first", "blank-images-idx3-ubyte"),
    "explain": ("explain", "runs/first", "--index", "0"),
    "gradcheck": ("gradcheck", "--set", "network.hidden=[2]"),
    "report": ("report", "runs/first", "-o", "report.html"),
    "export": ("export", "runs/first", "-o", "weights.safetensors"),
    "config check": ("config", "check", "quickstart"),
    "config list": ("config", "list"),
    "config show": ("config", "show", "quickstart"),
    "data fetch": ("data", "fetch", "mnist-sample", "--offline"),
    "data import": ("data", "import", "table.csv", "-o", "imported"),
    "data list": ("data", "list"),
    "data show": ("data", "show", "mnist-sample"),
    "data verify": ("data", "verify", "mnist-sample"),
    "runs compare": ("runs", "compare", "runs/", "--group-seeds"),
    "runs list": ("runs", "list"),
    "runs reproduce": ("runs", "reproduce", "runs/first", "--quiet"),
    "runs show": ("runs", "show", "runs/first"),
    "sweep": ("sweep", "sweep.yaml", "--jobs", "1", "--quiet"),
}


def test_changelog_and_citation_have_this_version() -> None:
    released = re.findall(r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version, date = released[0]
    assert version == mlpcli.__version__
    assert (citation["version"], str(citation["date-released"])) == (version, date)
    assert sorted(released, key=lambda each: each[1], reverse=True) == released
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", number) for number, _ in released)


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_config_of_a_release_loads_with_the_same_values(release: Path) -> None:
    path = release / "run" / "config.yaml"
    lines = config.to_yaml(config.load(path, (), {})).splitlines()
    assert [line for line in path.read_text().splitlines() if line not in lines] == []


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_run_of_a_release_predicts_the_same(release: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)
    expected = np.load(release / "p.npy")
    assert np.allclose(mlpcli.load(release / "run").predict(images).p, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_json_documents_keep_their_keys_and_types(release: Path, tmp_path: Path) -> None:
    recorded = json.loads((release / "documents.json").read_text())
    shutil.copytree(release / "run", tmp_path / "runs" / "first")
    found = documents(tmp_path)
    for command, keys in recorded.items():
        missing = keys.keys() - found[command].keys()
        assert not missing, f"{command}: {sorted(missing)}"
        changed = {key for key, kinds in keys.items() if not {*found[command][key]} <= {*kinds, "null"}}
        assert not changed, f"{command}: {sorted(changed)}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_is_documented(command: str) -> None:
    [*_, latest] = RELEASES
    # Keys of a config, of files and of classes are told elsewhere, or are data.
    elsewhere = re.compile(r"(^|[.])(config|hashes|sha256|states|deltas|images)[.]")
    keys = json.loads((latest / "documents.json").read_text())[command]
    names = {path.replace("[]", "").split(".")[-1] for path in keys if not elsewhere.search(path)} - {""}
    page = (ROOT / "docs" / "json.md").read_text()
    assert command == "config show" or {name for name in names if f"`{name}`" not in page} == set()


def test_every_field_of_an_epoch_is_documented() -> None:
    page = (ROOT / "docs" / "json.md").read_text()
    assert [field.name for field in fields(EpochRecord) if f"`{field.name}`" not in page] == []


def test_every_json_document_is_recorded() -> None:
    def commands(command: click.Command, context: click.Context, path: str) -> Iterator[str]:
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                yield from commands(child, context, f"{path} {name}".lstrip())
        elif any("--json" in parameter.opts for parameter in command.params):
            yield path

    assert {*commands(cli, click.Context(cli), "")} == COMMANDS.keys()


def documents(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Return the paths of all keys in the JSON document of each command, with the types of their values."""
    (folder / "sweep.yaml").write_text(SWEEP)
    (folder / "table.csv").write_text(TABLE)
    (folder / "blank-images-idx3-ubyte").write_bytes(idx.encode(np.zeros((1, 28, 28), np.uint8)))
    found = {}
    for name, arguments in COMMANDS.items():
        done = _run(folder, *arguments, "--json")
        assert done.returncode in (0, 1), f"{name}: {done.stderr}"
        kinds: dict[str, set[str]] = {}
        for key, kind in _keys(json.loads(done.stdout), ""):
            kinds.setdefault(key, set()).add(kind)
        found[name] = {key: sorted(each) for key, each in sorted(kinds.items())}
    return found


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlpcli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def _keys(value: Any, path: str) -> Iterator[tuple[str, str]]:
    names = {bool: "boolean", int: "number", float: "number", str: "string", dict: "object", list: "array"}
    yield path, "null" if value is None else names[type(value)]
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _keys(each, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            yield from _keys(each, f"{path}[]")


def record(release: Path) -> None:
    """Write the run and the documents of this version to the new folder ``release``."""
    release.mkdir(parents=True)
    scratch = release / "scratch"
    scratch.mkdir()
    _run(scratch, *TRAIN).check_returncode()
    shutil.copytree(scratch / "runs" / "first", release / "run", ignore=shutil.ignore_patterns(".lock"))
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)
    np.save(release / "p.npy", mlpcli.load(release / "run").predict(images).p)
    (release / "documents.json").write_text(json.dumps(documents(scratch), indent=1) + "\n")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    record(Path(__file__).parent / "release" / sys.argv[1])
