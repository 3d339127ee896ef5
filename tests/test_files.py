"""Whatever fails, and wherever a process dies, a file is the old one or the new one."""

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
    """The module ``os``, whose k-th call of a file operation (from 1) does ``fault`` instead."""

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
    """What a call may have done before it failed."""
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
    """How many file operations there are to fail; ``path`` is as before afterwards."""
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
def test_whichever_call_fails_the_file_is_the_old_one_or_the_new(
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
            assert k == count  # the closing of the folder, which holds no data
        monkeypatch.undo()
        assert (path.read_bytes() if path.exists() else b"") in (old, new), f"call {k} of {count}"
        assert names(tmp_path) in ([], ["file"]), f"call {k} of {count} leaves a temporary file"


def test_no_descriptor_is_left_open_by_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_wherever_the_process_dies_the_file_is_the_old_one_or_the_new(
    operation: Callable[[Path], None], tmp_path: Path
) -> None:
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
            # A half line cannot be prevented here, but the next writer does not append to it.
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
def test_a_system_that_writes_a_few_bytes_at_a_time_writes_them_all(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SimpleNamespace(**{name: getattr(os, name) for name in dir(os)})
    slow.write = lambda descriptor, data: os.write(descriptor, data[:most])
    monkeypatch.setattr(files, "os", slow)
    path = tmp_path / "file"
    write(path)
    assert path.read_bytes() == DONE[write]
    append_line(path, "")
    append(path)
    assert path.read_bytes() == b"\nnew line\n"  # the file had no newline: all of it was half a line


def test_the_new_content_reaches_the_disk_before_its_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_names_of_new_files_and_folders_reach_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_is_read_whole_if_it_is_one_and_not_too_large(tmp_path: Path) -> None:
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


def test_a_file_that_does_not_fit_in_memory_is_an_os_error(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 62 if os.uname().sysname == "Darwin" else 1 << 42)
    with pytest.raises(OSError, match="does not fit in memory"):
        files.read(tmp_path / "huge", 1 << 63)


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with files.Folder(tmp_path) as folder:
        folder.remove("file")
        folder.remove("file")
    assert names(tmp_path) == []


def test_an_error_in_the_middle_of_the_chunks_leaves_the_old_file(tmp_path: Path) -> None:
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


def test_the_leftover_of_a_killed_writer_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / LEFTOVER).write_bytes(b"x" * 10_000)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DONE[write]
    assert names(tmp_path) == ["file"]


def test_the_temporary_file_of_a_living_writer_stays(tmp_path: Path) -> None:
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


def test_many_writers_of_one_file_leave_it_whole(tmp_path: Path) -> None:
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


def test_a_name_as_long_as_a_name_can_be_is_written(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 255))
    assert (tmp_path / ("x" * 255)).read_bytes() == DONE[write]


# What somebody else has put there ------------------------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file outside the folder, to which links inside it lead."""
    path = tmp_path / "victim"
    path.write_bytes(b"mine\nand half a line")
    return path


@pytest.fixture
def planted(tmp_path: Path, victim: Path) -> Path:
    """A folder with a link, a link that leads nowhere, a pipe, and links to folders."""
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
def test_nothing_is_opened_through_a_link_and_no_pipe(
    planted: Path, victim: Path, tmp_path: Path, use: str, name: str
) -> None:
    with files.Folder(planted) as folder, pytest.raises(OSError) as caught:
        USES[use](folder, name)
    assert "symbolic link" in str(caught.value) or (name == "pipe" and "not a regular file" in str(caught.value))
    assert caught.value.filename.startswith(str(planted / name.partition("/")[0]))
    assert victim.read_bytes() == b"mine\nand half a line"
    assert not (tmp_path / "nothing").exists()


def test_what_is_written_takes_the_place_of_a_link(planted: Path, victim: Path, tmp_path: Path) -> None:
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


def test_a_file_of_two_names_is_not_changed_in_place(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.link(victim, tmp_path / "folder" / "lines")
    with pytest.raises(OSError, match="hard link"):
        append(tmp_path / "folder" / "lines")
    assert victim.read_bytes() == b"mine\nand half a line"


def test_asking_for_a_lock_makes_no_file_and_follows_no_link(planted: Path, tmp_path: Path) -> None:
    before = names(planted)
    with files.Folder(planted) as folder:
        assert not any(folder.is_locked(name) for name in ("none", "link", "dangling", "pipe", "above/victim"))
    assert names(planted) == before and not (tmp_path / "nothing").exists()


def test_readers_do_not_keep_a_writer_from_its_lock(tmp_path: Path) -> None:
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


def test_an_open_folder_stays_the_same_where_it_is_moved(tmp_path: Path) -> None:
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
def test_a_file_system_that_cannot_flush_a_folder_is_put_up_with(
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


def test_half_a_line_is_cut_off_and_whole_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\nthr")
    append_line(path, "drei")
    assert path.read_bytes() == b"one\ntwo\ndrei\n"


def test_a_huge_file_without_lines_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with files.Folder(tmp_path) as folder, pytest.raises(OSError, match="no newline"):
        folder.append_line(path.name, "{}")
    assert path.stat().st_size == 1 << 40


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    for operation in (write, append):
        with pytest.raises(FileNotFoundError):
            operation(tmp_path / "missing" / "file")


def test_two_writers_append_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(OLD)
    writer = Thread(target=append, args=[path])
    with files.locked(path, wait=False):
        writer.start()
        writer.join(0.2)
        assert path.read_bytes() == OLD
    writer.join()
    assert path.read_bytes() == DONE[append]


# Locks -------------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_once_and_free_again_afterwards(tmp_path: Path) -> None:
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


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with hold(lock) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), files.locked(lock, wait=False):
            pytest.fail("another process holds it")
        holder.kill()
    with files.locked(lock, wait=False):
        pass


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with files.locked(lock, wait=True):
        holder = hold(lock, stdin=subprocess.DEVNULL)  # it would end at once if it got the lock
        with pytest.raises(subprocess.TimeoutExpired):
            holder.wait(0.3)
    with holder:
        assert holder.communicate(timeout=30)[0] == "held\n"
    assert holder.returncode == 0
