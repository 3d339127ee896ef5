"""After any failure of the system the last good checkpoint survives, and the run can be resumed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlpcli import experiment, files
from mlpcli.config import Config
from mlpcli.errors import RunError
from mlpcli.experiment import Observer
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.summary import read_run
from mlpcli.training import trainer
from tests.fork_server import ForkServer, fast_folder
from tests.run_outcome import outcome
from tests.test_files import FaultyOs, failing

Make = Callable[..., Config]


@pytest.fixture
def folder() -> Iterator[Path]:
    with fast_folder() as path:
        yield path


class At(Observer):
    """An observer that calls ``action`` when an epoch is saved."""

    def __init__(self, epoch: int, action: Callable[[], Any]) -> None:
        self._epoch, self._action = epoch, action

    def epoch(self, record: Any, best: bool) -> None:
        if record.epoch == self._epoch:
            self._action()


def stop() -> None:
    raise KeyboardInterrupt


def resume_or_train(config: Config, run: Path) -> None:
    """Resume the run if it exists, else train it again, as a user would."""
    if (run / "config.yaml").exists():
        experiment.resume(run)
    else:
        experiment.train(config, out=run)


def check_last_good(run: Path) -> int:
    """Check the last checkpoint and return its epoch, or 0 without one."""
    path = run / "checkpoints/last.npz"
    return checkpoints.read(path).epoch if path.exists() else 0


# Every file operation in turn ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_run_resumes_after_any_failed_file_operation(
    tiny_config: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    config = tiny_config("training.epochs=2")
    counter = FaultyOs(0, failing(number))
    monkeypatch.setattr(files, "os", counter)
    experiment.train(config, out=folder / "whole")
    whole = outcome(folder / "whole")
    assert counter.calls > 60
    refused = 0
    for k in range(1, counter.calls + 1):
        run = folder / str(k)
        monkeypatch.setattr(files, "os", FaultyOs(k, failing(number)))
        try:
            experiment.train(config, out=run)
        except RunError as error:
            where = rf"{run}\S*: cannot be (written|read): {os.strerror(number)}"
            assert re.match(rf"{where}(; the last good state is kept; resume with: .* --resume {run})?$", str(error))
            refused += 1
        monkeypatch.undo()
        assert 0 <= check_last_good(run) <= 2
        resume_or_train(config, run)
        assert outcome(run) == whole, f"call {k} of {counter.calls}"
        shutil.rmtree(run)
    assert refused > 0.9 * counter.calls  # the rest close locks and the like


@pytest.mark.slow
def test_run_resumes_after_kill_at_any_file_operation(tiny_config: Make, folder: Path):
    config = tiny_config("training.epochs=2")
    experiment.train(config, out=folder / "whole")
    whole = outcome(folder / "whole")
    found = set()
    with ForkServer(folder) as fork_server:
        for k in range(1, 1000):
            run = folder / f"run-{k}"
            train = ("train", folder / "whole/config.yaml", "--quiet", "--out", run)
            status = fork_server.run(*train, k=k, number=signal.SIGKILL).status
            if status == 0:
                break
            assert status == -signal.SIGKILL
            found.add(check_last_good(run))
            resume_or_train(config, run)
            assert outcome(run) == whole, f"call {k}"
            shutil.rmtree(run)
    assert k > 60 and found == {0, 1, 2}


@pytest.mark.slow
def test_resume_from_previous_survives_any_failed_operation(
    tiny_config: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    config = tiny_config("training.epochs=4")
    experiment.train(config, out=folder / "whole")
    whole = outcome(folder / "whole")
    for k in range(1, 1000):
        run = folder / str(k)
        shutil.copytree(folder / "whole", run)
        faulty = FaultyOs(k, failing(errno.EIO))
        monkeypatch.setattr(files, "os", faulty)
        with suppress(RunError):
            experiment.resume(run / "checkpoints/previous.npz")
        monkeypatch.undo()
        if faulty.calls < k:
            break
        assert check_last_good(run) in (3, 4)
        experiment.resume(run)
        assert outcome(run) == whole, f"call {k}"
        shutil.rmtree(run)
    assert k > 40


# Disks and folders --------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str = "48k") -> Iterator[Path]:
    """Mount a file system of ``size``, as only root can."""
    disk = folder / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_run_resumes_after_full_disk(tiny_config: Make, folder: Path):
    config = tiny_config("training.epochs=6")
    experiment.train(config, out=folder / "whole")
    with small_disk(folder) as disk:
        run = disk / "run"
        ballast = disk / "ballast"

        def fill() -> None:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))

        with pytest.raises(RunError, match=rf"^{run}\S*: cannot be written: No space left on device; .* resume with: "):
            experiment.train(config, out=run, observer=At(2, fill))
        assert check_last_good(run) == 2
        with pytest.raises(RunError, match="No space left on device"):
            experiment.resume(run)
        assert check_last_good(run) == 2
        ballast.unlink()
        experiment.resume(run)
        assert outcome(run) == outcome(folder / "whole")


def test_run_resumes_after_file_size_limit(tiny_config: Make, folder: Path):
    config = tiny_config("training.epochs=3")
    experiment.train(config, out=folder / "whole")
    run = folder / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(RunError, match=r"best\.npz: cannot be written: File too large|File too large"):
            experiment.train(
                config, out=run, observer=At(1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1])))
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert check_last_good(run) == 1
    experiment.resume(run)
    assert outcome(run) == outcome(folder / "whole")


def test_run_on_read_only_disk_is_not_touched(tiny_config: Make, folder: Path):
    config = tiny_config()
    experiment.train(config, out=folder / "whole")
    with small_disk(folder, "1m") as disk:
        run = disk / "run"
        with pytest.raises(KeyboardInterrupt):
            experiment.train(config, out=run, observer=At(1, stop))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for begin in (lambda: experiment.resume(run), lambda: experiment.train(config, out=disk / "other")):
            with pytest.raises(RunError, match=r"cannot be written: Read-only file system$"):
                begin()
        assert check_last_good(run) == 1
        assert read_run(run).summary.state == "interrupted"
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        experiment.resume(run)
        assert outcome(run) == outcome(folder / "whole")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_folder_without_permission_is_refused(tiny_config: Make, folder: Path):
    (folder / "theirs").mkdir(mode=0o555)
    with pytest.raises(RunError, match=r"theirs.*: cannot be written: Permission denied"):
        experiment.train(tiny_config(), out=folder / "theirs")


def test_error_names_folder_removed_during_run(tiny_config: Make, folder: Path):
    run = folder / "run"
    with pytest.raises(
        RunError, match=f"^{run}: was removed, moved away or replaced .* nothing more is written to it$"
    ):
        experiment.train(tiny_config(), out=run, observer=At(1, lambda: shutil.rmtree(run)))
    assert not run.exists()
    with pytest.raises(RunError, match=r"checkpoints/\S*: cannot be written: No such file or directory$"):
        experiment.train(tiny_config(), out=run, observer=At(1, lambda: shutil.rmtree(run / "checkpoints")))


# Other programs-----------------------------------------------------------------------------------------


def test_second_process_in_a_run_is_refused(tiny_config: Make, folder: Path):
    config = tiny_config("training.epochs=4")
    run = folder / "run"
    refused = []

    def interfere() -> None:
        for arguments in (["--resume", str(run)], [str(run / "config.yaml"), "--out", str(run)]):
            refused.append(
                subprocess.run(
                    [sys.executable, "-m", "mlpcli", "train", *arguments],
                    cwd=Path(__file__).parents[1],
                    capture_output=True,
                    text=True,
                    check=False,
                )
            )

    experiment.train(config, out=run, observer=At(2, interfere))
    assert [child.returncode for child in refused] == [4, 4]
    assert refused[0].stderr == f"mlpcli: {run}: is in use by another mlpcli; wait for it to end\n"
    assert "is a run already" in refused[1].stderr
    experiment.train(config, out=folder / "whole")
    assert outcome(run) == outcome(folder / "whole")


def test_locked_run_directory_is_refused(tiny_config: Make, folder: Path):
    run = folder / "run"
    run.mkdir()
    with files.locked(run / directory.LOCK, wait=False), pytest.raises(RunError, match="is in use by another mlpcli"):
        experiment.train(tiny_config(), out=run)
    experiment.train(tiny_config(), out=run)


def test_two_runs_at_one_path_do_not_mix(tiny_config: Make, folder: Path):
    """Move the folder away and begin another run at its path: the first ends, and both survive."""
    config = tiny_config("training.epochs=4")
    experiment.train(config, out=folder / "whole")
    run, moved = folder / "run", folder / "moved"

    def replace() -> None:
        run.rename(moved)
        with pytest.raises(KeyboardInterrupt):
            experiment.train(config, out=run, observer=At(1, stop))

    with pytest.raises(
        RunError, match=f"^{run}: was removed, moved away or replaced [^;]*; nothing more is written to it$"
    ):
        experiment.train(config, out=run, observer=At(2, replace))
    assert (check_last_good(moved), check_last_good(run)) == (2, 1)
    for each in (moved, run):
        assert read_run(each).summary.state == "interrupted"
        experiment.resume(each)
        assert outcome(each) == outcome(folder / "whole")


@pytest.mark.parametrize("file", ["checkpoints", "metrics.jsonl", ".lock", "manifest.json", "config.yaml"])
def test_run_with_a_linked_file_is_not_resumed(tiny_config: Make, folder: Path, file: str):
    run, elsewhere = folder / "run", folder / "elsewhere"
    with pytest.raises(KeyboardInterrupt):
        experiment.train(tiny_config(), out=run, observer=At(1, stop))
    (run / file).rename(elsewhere)
    (run / file).symlink_to(elsewhere)
    before = outcome_of_all(elsewhere)
    with pytest.raises(RunError, match=rf"{run}/{file}\S*: cannot be (read|written): is a symbolic link"):
        experiment.resume(run)
    assert outcome_of_all(elsewhere) == before


def test_dangling_link_is_no_missing_checkpoint(tiny_config: Make, folder: Path):
    run = folder / "run"
    experiment.train(tiny_config(), out=run)
    for name, use in (("last", experiment.resume), ("best", experiment.reproduce)):
        checkpoint = run / "checkpoints" / f"{name}.npz"
        before = checkpoint.read_bytes()
        checkpoint.unlink()
        checkpoint.symlink_to(folder / "nowhere")
        with pytest.raises(RunError, match=rf"{name}.npz: cannot be read: is a symbolic link"):
            use(run)
        checkpoint.unlink()
        checkpoint.write_bytes(before)


def outcome_of_all(path: Path) -> dict[str, bytes]:
    files = path.rglob("*") if path.is_dir() else [path]
    return {each.name: each.read_bytes() for each in files}


def test_file_system_without_locks_is_named(tiny_config: Make, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files, "fcntl", SimpleNamespace(**{**vars(fcntl), "flock": flock}))
    with pytest.raises(RunError, match=r"/\.lock: cannot be locked .* its file system has no locks.* name an --out"):
        experiment.train(tiny_config(), out=folder / "run")


def test_resume_with_a_clock_set_back(tiny_config: Make, folder: Path, monkeypatch: pytest.MonkeyPatch):
    config = tiny_config()
    experiment.train(config, out=folder / "whole")
    now = [2_000_000_000.0]

    def earlier() -> float:
        now[0] -= 3600.0
        return now[0]

    clock = SimpleNamespace(
        gmtime=lambda: time.gmtime(earlier()),
        strftime=lambda form, *when: time.strftime(form, *(when or (time.gmtime(earlier()),))),
    )
    for module in (experiment, directory):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.chdir(folder)
    with pytest.raises(KeyboardInterrupt):
        experiment.train(config, observer=At(1, stop))
    (run,) = Path("runs").iterdir()
    experiment.resume(run)
    assert outcome(run) == outcome(folder / "whole")


def test_training_with_a_stopped_clock(tiny_config: Make, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: 1.0))
    run = experiment.train(tiny_config(), out=folder / "run")
    assert run.seconds == 0
    assert read_run(run.path).summary.examples_per_second is None


def test_runs_of_one_second_get_distinct_directories(tiny_config: Make, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(directory, "time", SimpleNamespace(strftime=lambda form: "20250101-120000"))
    monkeypatch.chdir(folder)
    paths = [str(experiment.train(tiny_config("training.epochs=1")).path) for _ in range(3)]
    assert paths == [f"runs/mnist-20250101-120000{suffix}" for suffix in ("", "-2", "-3")]
