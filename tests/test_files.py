"""Atomic writes: after any failure or death of a process a file is the old one or the new one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from mlpcli import files

pytestmark = pytest.mark.slow

CALLS = ("open", "write", "fsync", "replace", "unlink", "close", "fstat", "ftruncate", "pread", "mkdir")


class FaultyOs:
    """The module ``os``, except that the k-th file operation (from 1) calls ``fault`` instead."""

    def __init__(self, k: int, fault: Callable[[str, tuple[Any, ...]], Any]) -> None:
        self.k, self.fault, self.calls = k, fault, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any, **where: Any) -> Any:
            self.calls += 1
            return self.fault(name, arguments) if self.calls == self.k else real(*arguments, **where)

        return call


def half_done(name: str, arguments: tuple[Any, ...]) -> None:
    """Do the part of a call that may precede its failure."""
    if name == "write":
        os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
    elif name == "close":
        os.close(*arguments)


def failing(number: int) -> Callable[[str, tuple[Any, ...]], Any]:
    def fault(name: str, arguments: tuple[Any, ...]) -> None:
        half_done(name, arguments)
        raise OSError(number, os.strerror(number))

    return fault


def dying(name: str, arguments: tuple[Any, ...]) -> None:
    half_done(name, arguments)
    os._exit(9)


def write(path: Path) -> None:
    files.write_atomically(path, [b"new ", b"", b"content " * 100])


def append_line(path: Path, line: str) -> None:
    with files.Folder(path.parent) as folder:
        folder.append_line(path.name, line)


def append(path: Path) -> None:
    append_line(path, "new line")


OLD = b"old content\n"
DONE: dict[Callable[[Path], None], bytes] = {write: b"new " + b"content " * 100, append: OLD + b"new line\n"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def calls_of(operation: Callable[[Path], None], path: Path) -> int:
    """Return the number of file operations, and restore ``path``."""
    counter = FaultyOs(0, failing(errno.EIO))
    before = path.read_bytes() if path.exists() else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", counter)
        operation(path)
    path.unlink()
    if before is not None:
        path.write_bytes(before)
    return counter.calls


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("operation", [write, append])
@pytest.mark.parametrize("existing", [True, False], ids=["over an old file", "anew"])
def test_file_is_old_or_new_after_any_failed_call(
    operation: Callable[[Path], None], existing: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    old = OLD if existing else b""
    new = DONE[operation] if existing else DONE[operation].removeprefix(OLD)
    if existing:
        path.write_bytes(OLD)
    count = calls_of(operation, path)
    assert count >= 6
    for k in range(1, count + 1):
        path.unlink(missing_ok=True)
        if existing:
            path.write_bytes(OLD)
        monkeypatch.setattr(files, "os", FaultyOs(k, failing(number)))
        try:
            operation(path)
        except OSError as error:
            assert error.errno == number
        else:
            assert k == count  # closing the folder, which has no data
        monkeypatch.undo()
        assert (path.read_bytes() if path.exists() else b"") in (old, new), f"call {k} of {count}"
        assert names(tmp_path) in ([], ["file"]), f"call {k} of {count} leaves a temporary file"


def test_failure_leaves_no_open_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("no /proc here")
    path = tmp_path / "file"
    before = len(list(descriptors.iterdir()))
    for operation in (write, append):
        path.write_bytes(OLD)
        for k in range(1, calls_of(operation, path) + 1):
            monkeypatch.setattr(files, "os", FaultyOs(k, failing(errno.EIO)))
            with suppress(OSError):
                operation(path)
            monkeypatch.undo()
    assert len(list(descriptors.iterdir())) == before


@pytest.mark.parametrize("operation", [write, append])
def test_file_is_old_or_new_after_death_at_any_call(operation: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    count = calls_of(operation, path)
    leftovers = 0
    for k in range(1, count + 1):
        path.write_bytes(OLD)
        script = (
            "import sys; from pathlib import Path; from mlpcli import files; from tests import test_files as t\n"
            f"files.os = t.FaultyOs({k}, t.dying); t.{operation.__name__}(Path(sys.argv[1]))"
        )
        child = subprocess.run([sys.executable, "-c", script, path], cwd=Path(__file__).parents[1], check=False)
        assert child.returncode == 9
        leftovers += len(names(tmp_path)) - 1
        found = path.read_bytes()
        if operation is append:
            # A partial line cannot be prevented, but the next writer does not append to it.
            append(path)
            lines = path.read_bytes().splitlines(keepends=True)
            assert lines in ([OLD, b"new line\n"], [OLD, b"new line\n", b"new line\n"])
        else:
            assert found in (OLD, DONE[operation]), f"call {k} of {count}"
        with files.Folder(tmp_path) as folder:
            folder.remove_temporaries()
        assert names(tmp_path) == ["file"]
    assert (leftovers > 0) == (operation is write)


@pytest.mark.parametrize("most", [1, 3, 7])
def test_short_writes_are_continued(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SimpleNamespace(**{name: getattr(os, name) for name in dir(os)})
    slow.write = lambda descriptor, data: os.write(descriptor, data[:most])
    monkeypatch.setattr(files, "os", slow)
    path = tmp_path / "file"
    write(path)
    assert path.read_bytes() == DONE[write]
    append_line(path, "")
    append(path)
    assert path.read_bytes() == b"\nnew line\n"  # the file had no newline: all of it was a partial line


def test_content_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    watched = SimpleNamespace(**{name: getattr(os, name) for name in dir(os)})

    def watch(name: str) -> None:
        real = getattr(os, name)
        setattr(watched, name, lambda *arguments, **where: (order.append(name), real(*arguments, **where))[1])

    for name in ("write", "fsync", "replace"):
        watch(name)
    monkeypatch.setattr(files, "os", watched)
    files.write_atomically(tmp_path / "file", [b"content"])
    assert order == ["write", "fsync", "replace", "fsync"]


def test_new_names_are_flushed_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    watched = SimpleNamespace(**{name: getattr(os, name) for name in dir(os)})
    paths: dict[int, str] = {}

    def opened(path: Any, *arguments: Any, **where: Any) -> int:
        descriptor = os.open(path, *arguments, **where)
        paths[descriptor] = Path(path).name
        return descriptor

    watched.open = opened
    watched.fsync = lambda descriptor: (flushed.append(paths[descriptor]), os.fsync(descriptor))
    monkeypatch.setattr(files, "os", watched)
    files.make_folder(tmp_path / "folder")
    append_line(tmp_path / "folder" / "lines", "one")
    append_line(tmp_path / "folder" / "lines", "two")
    assert flushed == [tmp_path.name, "lines", "folder", "lines"]


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    assert files.read(path, len(OLD)) == OLD
    os.mkfifo(tmp_path / "pipe")
    for wrong, limit, number in (
        (path, len(OLD) - 1, errno.EFBIG),
        (tmp_path, 9, errno.EINVAL),
        (tmp_path / "pipe", 9, errno.EINVAL),
        (Path("/dev/zero"), 9, errno.EINVAL),
        (tmp_path / "none", 9, errno.ENOENT),
    ):
        with pytest.raises(OSError) as caught:
            files.read(wrong, limit)
        assert (caught.value.errno, caught.value.filename) == (number, str(wrong))


def test_file_too_large_for_memory_is_an_os_error(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 62 if os.uname().sysname == "Darwin" else 1 << 42)
    with pytest.raises(OSError, match="does not fit in memory"):
        files.read(tmp_path / "huge", 1 << 63)


def test_removing_a_missing_file_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with files.Folder(tmp_path) as folder:
        folder.remove("file")
        folder.remove("file")
    assert names(tmp_path) == []


def test_error_between_chunks_leaves_the_old_file(tmp_path: Path) -> None:
    def chunks() -> Any:
        yield b"half"
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_bytes(OLD)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, chunks())
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


LEFTOVER = ".mlpcli-0123456789abcdef.partial"


def test_next_writer_removes_leftovers_of_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / LEFTOVER).write_bytes(b"x" * 10_000)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DONE[write]
    assert names(tmp_path) == ["file"]


def test_temporary_file_of_a_running_writer_stays(tmp_path: Path) -> None:
    def chunks() -> Any:
        yield b"half"
        files.write_atomically(tmp_path / "other", [b"whole"])
        yield b"half"

    files.write_atomically(tmp_path / "file", chunks())
    assert (tmp_path / "file").read_bytes() == b"halfhalf"
    assert names(tmp_path) == ["file", "other"]


def test_only_temporary_files_are_removed(tmp_path: Path) -> None:
    others = [".a.partial", "b.partial", ".c", LEFTOVER.replace("f", "g"), LEFTOVER.replace("0", "1")]
    for name in (*others, LEFTOVER):
        (tmp_path / name).touch()
    (tmp_path / others[-1]).unlink()
    (tmp_path / others[-1]).symlink_to(tmp_path / ".c")
    with files.Folder(tmp_path) as folder:
        folder.remove_temporaries()
    assert names(tmp_path) == sorted(others)


def test_concurrent_writers_leave_a_complete_file(tmp_path: Path) -> None:
    def body(text: bytes) -> None:
        for _ in range(50):
            files.write_atomically(tmp_path / "file", [text] * 100)

    writers = [Thread(target=body, args=[bytes([65 + i])]) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(set((tmp_path / "file").read_bytes())) == 1
    assert names(tmp_path) == ["file"]


def test_longest_possible_name_is_written(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 255))
    assert (tmp_path / ("x" * 255)).read_bytes() == DONE[write]


# Untrusted folders --------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Write a file outside the folder, the target of links inside it."""
    path = tmp_path / "victim"
    path.write_bytes(b"mine\nand half a line")
    return path


@pytest.fixture
def planted(tmp_path: Path, victim: Path) -> Path:
    """Make a folder with a link, a dangling link, a pipe, and links to folders."""
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "link").symlink_to(victim)
    (folder / "dangling").symlink_to(tmp_path / "nothing")
    (folder / "above").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    return folder


USES: dict[str, Callable[[files.Folder, str], Any]] = {
    "open": lambda folder, name: folder.open(name),
    "read": lambda folder, name: folder.read(name, 1000),
    "append": lambda folder, name: folder.append_line(name, "theirs"),
    "locked": lambda folder, name: folder.locked(name, wait=False).__enter__(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["link", "dangling", "above/victim", "pipe", "above"])
def test_links_and_pipes_are_not_opened(planted: Path, victim: Path, tmp_path: Path, use: str, name: str) -> None:
    with files.Folder(planted) as folder, pytest.raises(OSError) as caught:
        USES[use](folder, name)
    assert "symbolic link" in str(caught.value) or (name == "pipe" and "not a regular file" in str(caught.value))
    assert caught.value.filename.startswith(str(planted / name.partition("/")[0]))
    assert victim.read_bytes() == b"mine\nand half a line"
    assert not (tmp_path / "nothing").exists()


def test_writing_replaces_a_link(planted: Path, victim: Path, tmp_path: Path) -> None:
    with files.Folder(planted) as folder:
        folder.write("link", [b"ours"])
        folder.write("dangling", [b"ours"])
        folder.remove("above")
        with pytest.raises(OSError):
            folder.make_folder("pipe/inside")
    assert (planted / "link").read_bytes() == (planted / "dangling").read_bytes() == b"ours"
    assert not (planted / "link").is_symlink()
    assert victim.read_bytes() == b"mine\nand half a line"
    assert not (tmp_path / "nothing").exists()


def test_hard_linked_file_is_not_changed_in_place(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.link(victim, tmp_path / "folder" / "lines")
    with pytest.raises(OSError, match="hard link"):
        append(tmp_path / "folder" / "lines")
    assert victim.read_bytes() == b"mine\nand half a line"


def test_lock_query_creates_no_file_and_follows_no_link(planted: Path, tmp_path: Path) -> None:
    before = names(planted)
    with files.Folder(planted) as folder:
        assert not any(folder.is_locked(name) for name in ("none", "link", "dangling", "pipe", "above/victim"))
    assert names(planted) == before and not (tmp_path / "nothing").exists()


def test_readers_do_not_block_the_lock_of_a_writer(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    done = []

    def ask() -> None:
        with files.Folder(tmp_path) as folder:
            while not done:
                folder.is_locked("lock")

    readers = [Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(20):
            with files.locked(tmp_path / "lock", wait=False), files.Folder(tmp_path) as folder:
                assert folder.is_locked("lock")
    finally:
        done.append(True)
        for reader in readers:
            reader.join()


def test_open_folder_stays_the_same_when_moved(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with files.Folder(tmp_path / "folder") as folder, folder.locked("lock", wait=False) as lock:
        assert folder.is_at("lock", lock)
        (tmp_path / "folder").rename(tmp_path / "moved")
        assert not folder.is_at("lock", lock)
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "lock").touch()
        assert not folder.is_at("lock", lock)
        folder.write("file", [b"content"])
    assert names(tmp_path / "moved") == ["file", "lock"]
    assert names(tmp_path / "folder") == ["lock"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_file_system_without_folder_flush_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    limited = SimpleNamespace(**{name: getattr(os, name) for name in dir(os)})

    def fsync(descriptor: int) -> None:
        if Path(f"/dev/fd/{descriptor}").is_dir():
            raise OSError(number, os.strerror(number))

    limited.fsync = fsync
    monkeypatch.setattr(files, "os", limited)
    with files.Folder(tmp_path) as folder:
        assert not folder.can_flush()
        folder.write("file", [b"content"])
        folder.append_line("lines", "one")
        folder.make_folder("inside")
    assert names(tmp_path) == ["file", "inside", "lines"]


def test_partial_last_line_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\nthr")
    append_line(path, "drei")
    assert path.read_bytes() == b"one\ntwo\ndrei\n"


def test_huge_file_without_lines_is_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with files.Folder(tmp_path) as folder, pytest.raises(OSError, match="no newline"):
        folder.append_line(path.name, "{}")
    assert path.stat().st_size == 1 << 40


def test_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    for operation in (write, append):
        with pytest.raises(FileNotFoundError):
            operation(tmp_path / "missing" / "file")


def test_two_writers_append_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(OLD)
    writer = Thread(target=append, args=[path])
    with files.locked(path, wait=False):
        writer.start()
        writer.join(0.2)
        assert path.read_bytes() == OLD
    writer.join()
    assert path.read_bytes() == DONE[append]


# Locks --------------------------------------------------------------------------------------------


def test_lock_is_exclusive_and_released(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with files.locked(lock, wait=False), pytest.raises(BlockingIOError), files.locked(lock, wait=False):
        pytest.fail("held twice")
    with pytest.raises(ZeroDivisionError), files.locked(lock, wait=False):
        raise ZeroDivisionError
    with files.locked(lock, wait=False):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from mlpcli import files
with files.locked(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(lock: Path, stdin: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock],
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def test_lock_is_released_when_its_process_dies(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with hold(lock) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), files.locked(lock, wait=False):
            pytest.fail("another process holds it")
        holder.kill()
    with files.locked(lock, wait=False):
        pass


def test_waiting_process_gets_the_released_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with files.locked(lock, wait=True):
        holder = hold(lock, stdin=subprocess.DEVNULL)  # it would end at once if it got the lock
        with pytest.raises(subprocess.TimeoutExpired):
            holder.wait(0.3)
    with holder:
        assert holder.communicate(timeout=30)[0] == "held\n"
    assert holder.returncode == 0
