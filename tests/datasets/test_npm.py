"""Files from npm packages: the archive reader, and a failing npm."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpcli.datasets import npm
from mlpcli.datasets.source import SourceError, UnreachableError

DATA = bytes(range(256)) * 5
PACKAGE = "digits@1.2.3"


def archive(*members: tuple[str, bytes], kind: int = tarfile.USTAR_FORMAT, typeflag: bytes = tarfile.REGTYPE) -> bytes:
    """Return a package's .tgz as Python's tarfile writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = typeflag
            info.size = len(data)
            info.linkname = "/etc/passwd" if typeflag in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.pax_headers = {"comment": "x" * 2000} if kind == tarfile.PAX_FORMAT else {}
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def take(tgz: bytes, name: str = "package/data/file", size: int = len(DATA)) -> bytes:
    return b"".join(npm.member(tgz, name, size))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_named_member_is_found(kind: int):
    tgz = archive(
        ("package/package.json", b"{}"),
        ("package/data/file.txt", b"x" * 513),
        ("package/data/file", DATA),
        ("package/data/" + "long" * 50, b"no"),
        kind=tarfile.GNU_FORMAT if kind == tarfile.USTAR_FORMAT else kind,
    )
    assert take(tgz) == DATA
    assert take(tgz, "package/package.json", 2) == b"{}"


def test_name_with_a_prefix_field():
    folder = "package/" + "folder/" * 15
    tgz = archive((f"{folder}{'n' * 90}", DATA))
    assert take(tgz, f"{folder}{'n' * 90}") == DATA


def test_first_of_two_members_of_one_name_is_read():
    assert take(archive(("package/data/file", DATA), ("package/data/file", DATA[::-1]))) == DATA


@pytest.mark.parametrize(
    ("tgz", "message"),
    [
        (archive(), "the package has no such file"),
        (archive(("package/data/File", DATA), ("/package/data/file", DATA)), "has no such file"),
        (archive(("../package/data/file", DATA)), "has no such file"),
        (archive(("package/data/file", b""), typeflag=tarfile.SYMTYPE), "has no such file"),
        (archive(("package/data/file", b""), typeflag=tarfile.LNKTYPE), "has no such file"),
        (archive(("package/data/file", b""), typeflag=tarfile.FIFOTYPE), "has no such file"),
        (archive(("package/data/file", DATA[1:])), "a file of 1279 bytes instead of 1280"),
        (archive(("package/data/file", DATA + b"x")), "a file of 1281 bytes instead of 1280"),
        (b"", "cut short"),
        (b"<html>" * 200, "damaged, or not an archive"),
        (gzip.compress(b"x" * 2000), "damaged, or not an archive"),
        (archive(("package/data/file", DATA))[:100], "gzip cut short"),
        (gzip.compress(gzip.decompress(archive(("package/data/file", DATA)))[:1000]), "cut short"),
    ],
    ids=[
        "empty",
        "other names",
        "path-like name",
        "symbolic link",
        "hard link",
        "pipe",
        "too short",
        "too long",
        "no bytes",
        "web page",
        "no tar",
        "cut gzip",
        "cut tar",
    ],
)
def test_archives_without_the_file_are_refused(tgz: bytes, message: str):
    with pytest.raises(SourceError) as refused:
        take(tgz)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "size", [b"-0000000001\0", b"\x80" + bytes(10) + b"\x01", b"9" * 12, b"\0" * 12, b"1_0" + bytes(9)]
)
def test_invalid_sizes_are_refused(size: bytes):
    header = bytearray(gzip.decompress(archive(("package/data/file", DATA)))[:512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(SourceError, match="damaged"):
        take(gzip.compress(bytes(header) + bytes(5000)))


def test_changed_header_is_refused():
    tar = bytearray(gzip.decompress(archive(("package/data/file", DATA))))
    tar[300] ^= 1
    with pytest.raises(SourceError, match="damaged"):
        take(gzip.compress(tar))


def test_endless_archive_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(npm, "MAX_DECODED_BYTES", 10_000_000)
    tgz = archive(("package/bomb", bytes(20_000_000)), ("package/data/file", DATA))
    with pytest.raises(SourceError, match="has more than 10000000 bytes"):
        take(tgz)


def test_thousands_of_extension_headers_are_refused():
    """Each would make a full tar reader recurse once more."""
    block = tarfile.TarInfo("././@LongLink")
    block.type = tarfile.GNUTYPE_LONGNAME
    tgz = gzip.compress(
        block.tobuf(tarfile.GNU_FORMAT) * 20_000 + gzip.decompress(archive(("package/data/file", DATA)))
    )
    assert take(tgz) == DATA


whole = gzip.decompress(archive(("package/a", b"aa"), ("package/data/file", DATA)))


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=1500)
    | st.binary(max_size=1500).map(gzip.compress)
    | st.builds(
        lambda position, byte: gzip.compress(whole[:position] + byte + whole[position + len(byte) :]),
        st.integers(0, len(whole)),
        st.binary(max_size=20),
    )
    | st.integers(0, len(whole)).map(lambda length: gzip.compress(whole[:length]))
)
def test_any_bytes_give_a_file_of_the_right_size_or_a_refusal(tgz: bytes):
    try:
        assert len(take(tgz)) == len(DATA)
    except SourceError as error:
        assert str(error).isprintable()


# In the tests below, npm is a script of the test's.


@pytest.fixture
def npm_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(script: str) -> Path:
        path = folder / "npm"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


def test_npm_pack_gets_its_arguments(npm_script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inputs: list[object] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments, stdin=None, **options):
            inputs.append(stdin)
            super().__init__(*arguments, stdin=stdin, **options)

    monkeypatch.setattr(npm.subprocess, "Popen", Popen)
    (tmp_path / "package.tgz").write_bytes(archive(("package/data/file", DATA), ("package/data/more", DATA[:7])))
    npm_script(f'echo "$@" >> {tmp_path}/asked; pwd >> {tmp_path}/asked; cat; cp {tmp_path}/package.tgz .')
    source = npm.Npm(f"npm:{PACKAGE}")
    assert b"".join(source.read("file", len(DATA))) == DATA
    assert b"".join(source.read("more", 7)) == DATA[:7]
    arguments, folder = (tmp_path / "asked").read_text().splitlines()
    assert arguments.startswith(f"pack {PACKAGE} --ignore-scripts --fetch-retries=0 ")
    assert "--fetch-timeout=30000" in arguments
    assert f"--cache={folder}/cache" in arguments
    assert not Path(folder).exists()
    assert inputs == [subprocess.DEVNULL]


def test_missing_npm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreachableError, match=r"^npm is not installed$"):
        npm.pack(PACKAGE)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 1", "npm pack failed"),
        ("exit 0", "npm pack failed"),
        ("kill -9 $$", "npm pack failed"),
        (
            "printf 'npm warn old\\nnpm error code E404\\nnpm error 404 Not Found - digits\\n' >&2; exit 1",
            "npm pack failed: 404 Not Found - digits",
        ),
        ("printf 'npm ERR! code ENOTFOUND\\nnpm ERR! network down\\n' >&2; exit 1", "npm pack failed: network down"),
        ("head -c 100000 /dev/zero >&2; printf '\\033[31m' >&2; exit 1", "npm pack failed: [31m"),
    ],
)
def test_failing_npm_is_reported(npm_script, script: str, reason: str):
    npm_script(script)
    with pytest.raises(UnreachableError) as refused:
        npm.pack(PACKAGE)
    assert str(refused.value) == reason


def test_npm_that_cannot_start_is_reported(npm_script):
    npm_script("").write_bytes(b"\x7fELF no program")
    with pytest.raises(UnreachableError, match="npm does not start"):
        npm.pack(PACKAGE)


def test_npm_and_its_children_end_at_the_timeout(npm_script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(npm, "NPM_SECONDS", 0.5)
    npm_script(f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(UnreachableError, match=r"npm pack did not end in 0\.5 s"):
        npm.pack(PACKAGE)
    child = int((tmp_path / "child").read_text())
    for _ in range(500):
        if not is_running(child):
            break
        time.sleep(0.01)
    assert not is_running(child)


def is_running(process: int) -> bool:
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
    ).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_too_large_archive_is_refused(npm_script, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(npm, "MAX_ARCHIVE_BYTES", 1000)
    npm_script("head -c 1001 /dev/zero > x.tgz")
    with pytest.raises(UnreachableError, match="larger than 1000 bytes"):
        npm.pack(PACKAGE)


def test_archive_that_is_a_link_is_refused(npm_script):
    npm_script("ln -s /etc/passwd x.tgz")
    with pytest.raises(SourceError):
        b"".join(npm.Npm(f"npm:{PACKAGE}").read("file", 3))


@pytest.mark.parametrize(
    "text",
    ["npm:", "npm:digits", "npm:digits@", "npm:--help@1", "npm:../x@1", "npm:git+ssh://x@1", "npm:digits@latest",
     "npm:a/b@1", "npm:digits@1 --force", "npm:digits@1\n"],
)  # fmt: skip
def test_invalid_package_names_are_refused(text: str):
    with pytest.raises(UnreachableError, match="an npm source is npm:NAME@VERSION"):
        npm.Npm(text)


def test_packages_may_have_a_scope():
    npm.Npm("npm:@scope/digits@1.0.0-beta.1+build")


def test_temporary_folder_is_empty_afterwards(npm_script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(npm.tempfile, "tempdir", str(tmp_path))
    npm_script("mkdir -p cache/deep; touch cache/deep/file; exit 1")
    with pytest.raises(UnreachableError):
        npm.pack(PACKAGE)
    assert os.listdir(tmp_path) == ["bin"]  # noqa: PTH208
