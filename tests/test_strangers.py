"""Untrusted runs: every command on them is safe and changes no file."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlpcli import commands, experiment
from mlpcli.config import Config
from mlpcli.runs import directory
from tests.fork_server import fast_folder

pytestmark = pytest.mark.slow

Ending = tuple[int, str, str]
Run = Callable[..., Ending]

READING = [
    ("runs", "list", "."),
    ("runs", "list", ".", "--json"),
    ("runs", "show", "theirs"),
    ("runs", "show", "theirs", "--json"),
    ("runs", "compare", "."),
    ("predict", "theirs", "tiny/t10k-images-idx3-ubyte", "--raw"),
    ("export", "theirs", "-o", "out/n.safetensors"),
    ("plot", "theirs", "-o", "out/p.png"),
    ("report", "theirs", "--no-images", "-o", "out/r.html"),
]
FILES = ["config.yaml", "manifest.json", "metrics.jsonl", "test.json", "checkpoints/best.npz", ".lock"]


@pytest.fixture(scope="module")
def made(tiny_images: Any) -> Iterator[Path]:
    from mlpcli import config
    from mlpcli.datasets import idx
    from mlpcli.datasets.catalogue import FILE_NAMES, ROLES

    with fast_folder() as folder:
        (folder / "tiny").mkdir()
        for role, array in zip(ROLES, tiny_images, strict=True):
            (folder / "tiny" / FILE_NAMES[role]).write_bytes(idx.encode(array))
        settings = ["network.hidden=[4]", "training.epochs=2", f'data.dataset="{folder}/tiny"']
        experiment.train(config.load(None, settings, {}), out=folder / "theirs")
        (folder / "out").mkdir()
        yield folder


@pytest.fixture
def theirs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working directory with the run ``theirs``, the data ``tiny``, and ``out`` for output."""
    for name in ("theirs", "tiny", "out"):
        shutil.copytree(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "theirs"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Ending:
        with pytest.raises(SystemExit) as stop:
            commands.main(list(arguments))
        assert isinstance(stop.value.code, int)
        return (stop.value.code, *capsys.readouterr())

    return run


def everything(folder: Path) -> dict[str, Any]:
    """Return every file and link below ``folder`` except requested output."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if "out" not in path.relative_to(folder).parts
    }


def assert_clean_ending(ending: Ending) -> None:
    status, out, err = ending
    assert status in (0, 3, 4) and "Traceback" not in err
    for text in (out, err):
        assert all(character in "\n" or character.isprintable() for character in text)


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_commands_do_not_change_a_run(theirs: Path, run: Run, arguments: tuple[str, ...]):
    (theirs / ".lock").unlink()
    before = everything(theirs.parent)
    assert run(*arguments)[0] == 0
    assert everything(theirs.parent) == before


@pytest.mark.parametrize("file", FILES)
def test_links_in_a_run_are_not_followed(theirs: Path, run: Run, file: str, tmp_path: Path):
    (theirs / file).rename(tmp_path / "elsewhere")
    (theirs / file).symlink_to(tmp_path / "elsewhere")
    before = everything(theirs.parent)
    for arguments in READING:
        assert_clean_ending(run(*arguments))
    status, _, err = run("runs", "show", "theirs")
    if file.endswith((".yaml", ".json", ".jsonl")):
        what = "cannot be read: is a symbolic link, which is not followed here"
        assert (status, err) == (4, f"mlpcli: theirs/{file}: {what}\n")
    (theirs / file).unlink()
    (theirs / file).symlink_to(tmp_path / "nothing")
    for arguments in READING:
        assert_clean_ending(run(*arguments))
    assert not (tmp_path / "nothing").exists()
    (theirs / file).unlink()
    before.pop(f"theirs/{file}")
    assert everything(theirs.parent) == before


def test_evaluation_is_not_written_through_a_link(theirs: Path, run: Run, tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine\nand half a line")
    (theirs / "evaluations.jsonl").symlink_to(victim)
    status, out, err = run("eval", "theirs")
    assert status == 0 and "error" in out
    assert "this evaluation is not recorded: theirs/evaluations.jsonl: cannot be written: is a symbolic link" in err
    assert victim.read_bytes() == b"mine\nand half a line"


@pytest.mark.parametrize("what", ["/dev/zero", "fifo", "folder", "a file without end"])
@pytest.mark.parametrize("file", FILES)
def test_pipes_and_devices_in_a_run_are_not_read(theirs: Path, run: Run, file: str, what: str):
    path = theirs / file
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "/dev/zero":
        path.symlink_to(what)
    else:
        path.touch()
        os.truncate(path, 1 << 42)
    begun = time.monotonic()
    for arguments in [*READING[:5], ("runs", "reproduce", "theirs", "--quiet")]:
        assert_clean_ending(run(*arguments))
    assert time.monotonic() - begun < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2**20  # 1 GB, in kB


def test_many_invalid_lines_take_little_memory(theirs: Path, run: Run):
    (theirs / "metrics.jsonl").write_bytes(b"{}\n" * 10_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, out, err = run("runs", "list", ".")
    assert status == 0 and "damaged" in out and "metrics.jsonl:1: is damaged" in err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_control_characters_of_a_run_are_escaped(theirs: Path, run: Run):
    hostile = "x\x1b]0;title\x07\r\n\x9b2J\u202e"
    document = json.loads((theirs / "manifest.json").read_text())
    document["environment"] |= {hostile: hostile, "python": hostile}
    document["started"] = document["data"]["dataset"] = hostile
    document["data"]["hashes"][hostile] = hostile
    (theirs / "manifest.json").write_text(json.dumps(document))
    name = "y\x1b[8m\nmlpcli: all is well"
    shutil.copytree(theirs, theirs.parent / name)
    (theirs.parent / name / "test.json").write_text("{")
    for arguments in READING:
        assert_clean_ending(run(*arguments))
    for arguments in (("runs", "list", "."), ("runs", "compare", "."), ("runs", "show", name), ("eval", name)):
        _, out, err = run(*arguments)
        assert "\nmlpcli: all is well" not in out + err


def test_unreadable_folder_hides_no_other_run(theirs: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    real = directory.is_run
    (theirs.parent / "secret").mkdir()

    def is_run(path: Path) -> bool:
        return path.name == "secret" or real(path)  # as with permissions 0, which root ignores

    monkeypatch.setattr(directory, "is_run", is_run)
    status, out, _ = run("runs", "list", ".")
    assert status == 0
    assert "theirs" in out and "secret" in out


GIVEN_A_RUN = [
    ("runs", "show", "theirs"),
    ("runs", "reproduce", "theirs", "--quiet"),
    ("eval", "theirs"),
    ("predict", "theirs", "tiny/t10k-images-idx3-ubyte", "--raw"),
    ("explain", "theirs"),
    ("export", "theirs", "-o", "out/n.safetensors"),
    ("export", "theirs", "-o", "out/n.csv"),
    *(("plot", "theirs", "-o", "out/p.png", "--kind", kind) for kind in ("curves", "layers", "confusion", "weights")),
    ("report", "theirs", "-o", "out/r.html"),
    ("train", "--resume", "theirs"),
    ("train", "--init", "theirs", "--set", "data.dataset=tiny", "--out", "out/n"),
]


@pytest.mark.parametrize("file", ["config.yaml", "manifest.json", "metrics.jsonl", "test.json"])
@pytest.mark.parametrize("arguments", GIVEN_A_RUN, ids=" ".join)
def test_damaged_run_has_one_answer(theirs: Path, run: Run, arguments: tuple[str, ...], file: str):
    (theirs / file).unlink()
    os.mkfifo(theirs / file)
    status, out, err = run(*arguments)
    assert (status, out) == (4, "")
    prefix = "network.init: " if "--init" in arguments else ""
    assert err == f"mlpcli: {prefix}theirs/{file}: cannot be read: not a regular file\n"
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize("cut", [None, -5, 1])
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--resume", "theirs"),
        ("runs", "show", "theirs"),
        ("plot", "theirs", "-o", "out/p.png"),
        ("report", "theirs", "--no-images", "-o", "out/r.html"),
        ("runs", "reproduce", "theirs", "--quiet"),
    ],
    ids=" ".join,
)
def test_truncated_or_missing_metrics_are_reported_alike(
    theirs: Path, run: Run, arguments: tuple[str, ...], cut: int | None
):
    path = theirs / "metrics.jsonl"
    if cut is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:cut])
    status, out, err = run(*arguments)
    assert (status, out) == (4, "") and "Traceback" not in err
    what = "it is missing" if cut is None else f"it has {int(cut < 0)} of the 2 lines that were written"
    assert err == f"mlpcli: theirs/metrics.jsonl: is damaged: {what}; train it again: mlpcli train theirs/config.yaml\n"


def test_moved_data_are_recognized_by_hash(theirs: Path, run: Run, made: Path):
    config = (theirs / "config.yaml").read_text()
    (theirs / "config.yaml").write_text(config.replace(str(made), "/nowhere"))
    for name in ("last", "best", "previous"):
        (theirs / f"checkpoints/{name}.npz").read_bytes()
    assert run("runs", "reproduce", "theirs", "--quiet")[0] == 3
    status, out, _ = run("runs", "reproduce", "theirs", "--quiet", "--data", "tiny")
    assert status == 0 and "reproduced" in out
    other = Path("other")
    shutil.copytree("tiny", other)
    data = bytearray((other / "train-images-idx3-ubyte").read_bytes())
    data[-1] ^= 1
    (other / "train-images-idx3-ubyte").write_bytes(data)
    status, _, err = run("runs", "reproduce", "theirs", "--quiet", "--data", "other")
    assert status == 3 and "its SHA-256 differs" in err


# A closed terminal ------------------------------------------------------------------------------


def test_training_continues_without_its_terminal(tiny_config: Callable[..., Config], tmp_path: Path):
    from mlpcli.config import to_yaml

    (tmp_path / "c.yaml").write_text(to_yaml(tiny_config("training.epochs=60")))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mlpcli", "train", "c.yaml", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    options: dict[str, Any] = {"stdout": theirs, "stderr": theirs, "start_new_session": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **options) as process:
        os.close(theirs)
        while b"epoch" not in os.read(ours, 4096):
            pass
        os.close(ours)
        assert process.wait(60) in (0, 4)  # 4: the result itself could not be written
    assert directory.read_manifest(tmp_path / "run")["state"] == "finished"
