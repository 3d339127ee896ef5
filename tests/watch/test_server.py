"""The server of live pages: security, and slow, many or malformed requests."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mlpcli import experiment
from mlpcli.commands import _run
from mlpcli.config import Config
from tests.watch.watching import ROOT, Events, Watching, environment, watching

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes by /proc"),
]
Make = Callable[..., Config]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two runs."""
    folder = tmp_path_factory.mktemp("runs")
    few = ("data.dataset=mnist-sample", "training.epochs=2", "network.hidden=[8]", "data.test=false")
    for name in ("one", "two"):
        experiment.train(None, few, out=folder / name)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Watching]:
    with watching(folder / "one", "--no-open") as started:
        yield started


def test_page_may_connect_only_to_its_server(server: Watching) -> None:
    answer = server.send(f"GET {server.path} HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert head.startswith(b"HTTP/1.1 200 ")
    assert int(headers["Content-Length"]) == len(body)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and policy.endswith("; frame-ancestors 'none'")
    assert "connect-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert (headers["Referrer-Policy"], headers["Cross-Origin-Resource-Policy"]) == ("no-referrer", "same-origin")
    assert not [name for name in headers if name.lower().startswith(("access-control", "server", "set-cookie"))]
    assert b'id="sheet"' in body and b"new EventSource" in body
    assert server.path.strip("/").encode() not in body


def test_events_contain_all_of_a_run(server: Watching) -> None:
    with Events(server) as events:
        seen = {}
        for kind, value in events.each():
            seen[kind] = value
            if {"run", "progress", "contents", "others"} <= seen.keys():
                break
    assert seen["progress"]["state"] == "finished"
    assert seen["progress"]["report"].startswith("mlpcli report ")
    assert len(seen["run"]["epochs"]) == 2
    assert seen["contents"]["document"]["evaluation"]["examples"] == 500
    assert seen["contents"]["document"]["checkpoint"]["name"] == "best"
    assert [other["name"] for other in seen["others"]] == ["two"]
    link = seen["others"][0]["link"]
    assert server.get(server.path + link)[0] == 200
    with Events(server, server.path + link) as others:
        assert others.until(lambda kind, _: kind == "run")["run"]["state"] == "finished"


def test_watching_does_not_write_or_record(folder: Path, server: Watching) -> None:
    with Events(server) as events:
        events.until(lambda kind, _: kind == "contents")
    assert not (folder / "one/evaluations.jsonl").exists()


# Access --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost",
        "[::1]:{port}",
        "0.0.0.0:{port}",
        "127.0.0.1:{port}.evil.example",
        "127.0.0.1:{port}@evil.example",
        "",
        "127.0.0.1:{port}, evil.example",
    ],
)
def test_other_host_is_refused(host: str, server: Watching) -> None:
    host = host.format(port=server.port)
    assert server.get(server.path, host=host)[0] == 403
    assert server.get(f"{server.path}events", host=host)[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://{host}", "http://127.0.0.1:1", ""])
def test_other_origin_is_refused(origin: str, server: Watching) -> None:
    header = f"Origin: {origin.format(host=server.host)}"
    assert server.get(server.path, header)[0] == 403
    assert server.get(server.path, f"Origin: http://{server.host}", header)[0] == 403
    assert server.get(server.path, f"Origin: http://{server.host}")[0] == 200
    assert server.get(server.path, host=f"localhost:{server.port}")[0] == 200


def test_two_hosts_or_no_host_are_refused(server: Watching) -> None:
    assert server.get(server.path, f"Host: {server.host}")[0] == 403
    assert server.send(f"GET {server.path} HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 403 ")
    assert server.send(f"GET {server.path} HTTP/1.0\r\n\r\n".encode()).startswith(b"HTTP/1.1 403 ")


def test_request_without_the_token_is_refused(server: Watching) -> None:
    token = server.path.strip("/")
    wrong = ["", "x", token[:-1], token + "x", token[:-1] + ("A" if token[-1] != "A" else "B"), token.swapcase()]
    for each in (*wrong, "%2e%2e", "é" * 10, "A" * 4000):
        for rest in ("/", "/events", "/run/1/", ""):
            status, body = server.get(f"/{each}{rest}")
            assert (status, body) == (403, b"403 Forbidden\n"), (each, rest)
    assert server.get("/favicon.ico")[0] == server.get("/")[0] == server.get("*")[0] == 403
    assert server.get(f"http://{server.host}{server.path}")[0] == 403


@pytest.mark.parametrize(
    "tail",
    [
        "../",
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2fetc/passwd",
        "/etc/passwd",
        "run/../",
        "run/1/../2/",
        "run/0/",
        "run/-1/",
        "run/01/",
        "run/999/",
        "run/99999999999999/",
        "run/one/",
        "run/1%00/",
        "events/",
        "events?x",
        "?x",
        "config.yaml",
        "checkpoints/last.npz",
        "\\..\\",
        "//",
        "\x00",
        "run/1/events/../../",
        "#",
    ],
)
def test_no_path_reaches_the_file_system(tail: str, server: Watching) -> None:
    status, body = server.get(server.path + tail)
    assert status in (403, 404) and body in (b"403 Forbidden\n", b"404 Not Found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PATCH", "BREW"])
def test_methods_other_than_get_are_refused(method: str, server: Watching) -> None:
    assert server.get(server.path, method=method)[0] == 405


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", 400),
        (b"\xff" * 1000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 20_000 + b"\r\n", 431),
        (b"G" * 1_000_000, 431),
        (b"", None),
        (b"GET / HT", None),
    ],
)
def test_garbage_is_refused(request_: bytes, status: int | None, server: Watching) -> None:
    answer = server.send(request_)
    # A client still sending when it is refused may find the connection reset before it has read.
    assert answer == b"" if status is None else not answer or int(answer.split()[1]) == status
    assert server.get(server.path)[0] == 200


@pytest.mark.slow
def test_endless_request_is_dropped(server: Watching) -> None:
    with server.connect() as slow:
        began = time.monotonic()
        with suppress(ConnectionError):
            for _ in range(300):
                slow.sendall(b"X")
                slow.settimeout(0.1)
                with suppress(socket.timeout):
                    assert slow.recv(100).startswith((b"HTTP/1.1 408", b""))
                    break
        assert 3 < time.monotonic() - began < 25


@pytest.mark.slow
def test_thousands_of_connections_are_bounded(server: Watching) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    memory, threads = server.memory(), server.threads()
    open_ones: list[socket.socket] = []
    try:
        for _ in range(10_000):
            with suppress(OSError):
                connection = socket.socket()
                connection.settimeout(2)
                connection.connect(("127.0.0.1", server.port))
                open_ones.append(connection)
            if len(open_ones) > 1500:
                open_ones.pop(0).close()
        assert server.threads() <= threads + 1
        assert server.memory() < memory + 40_000
        descriptors = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        assert descriptors < 300  # those being served, and those queued by the system
    finally:
        for connection in open_ones:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    end = time.monotonic() + 30
    while server.get(server.path)[0] != 200:
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_pages_that_do_not_read_block_no_other(server: Watching) -> None:
    memory = server.memory()
    idle = []
    for _ in range(40):
        connection = server.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.sendall(f"GET {server.path}events HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())
        idle.append(connection)
    try:
        assert server.get(server.path)[0] == 200
        assert server.get(f"{server.path}events")[0] in (200, 503)  # the number of pages is bounded, too
        assert server.memory() < memory + 60_000
    finally:
        for connection in idle:
            connection.close()
    end = time.monotonic() + 30
    while True:
        with Events(server) as events:
            if events.status == 200:
                assert events.until(lambda kind, _: kind == "progress")["state"] == "finished"
                return
        assert time.monotonic() < end
        time.sleep(0.2)


def test_server_listens_only_on_loopback(server: Watching) -> None:
    own = {entry.split()[1] for entry in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    assert f"0100007F:{server.port:04X}" in own
    assert f"00000000:{server.port:04X}" not in own
    six = Path("/proc/net/tcp6")
    assert not six.exists() or f":{server.port:04X} 0" not in "".join(
        line for line in six.read_text().splitlines() if " 0A " in line
    )


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "status", "message"),
    [
        ("none", 4, "mlpcli: none: no such run or folder of runs"),
        ("empty", 4, "mlpcli: empty: is not a run, and contains none; train one: mlpcli train --watch"),
        ("file.npz", 4, "mlpcli: file.npz: is a checkpoint; name its run"),
        ("a\0b", 4, "no such run or folder of runs"),
    ],
)
def test_watch_refuses_paths_without_runs(argument: str, status: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.npz").touch()
    program = (
        "import sys; from mlpcli.commands import _run; sys.exit(_run(['watch', sys.argv[1].replace('?', chr(0))]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, argument.replace("\0", "?")],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert message in done.stderr


@pytest.mark.parametrize("file", ["config.yaml", "manifest.json", "metrics.jsonl"])
def test_damaged_run_is_refused_and_named(file: str, folder: Path, tmp_path: Path) -> None:
    for name in ("damaged", "good"):
        shutil.copytree(folder / "one", tmp_path / name)
    (tmp_path / "damaged" / file).unlink()
    os.mkfifo(tmp_path / "damaged" / file)
    message = f"{tmp_path}/damaged/{file}: cannot be read: not a regular file\n"
    command = [sys.executable, "-m", "mlpcli", "watch", str(tmp_path / "damaged"), "--no-open"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", f"mlpcli: {message}")
    with watching(tmp_path, "--no-open") as started:
        with Events(started) as events:
            next(events.each())
        answers = dict(started.get(f"{started.path}run/{number}/") for number in (1, 2))
    assert answers.keys() == {200, 404}
    assert answers[404].decode() == message


def test_taken_port_is_reported(folder: Path, server: Watching) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlpcli", "watch", str(folder), "--port", str(server.port)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    what = "is taken by another program; leave --port out for a free one"
    assert (done.returncode, done.stderr) == (2, f"mlpcli: port {server.port} of 127.0.0.1: {what}\n")


@pytest.mark.parametrize(
    "arguments", [["train", "--port", "5000"], ["train", "--no-open"], ["sweep", "x", "--no-open"]]
)
def test_page_options_need_watch(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(arguments) == 2
    assert "has a use only with --watch" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_ends_the_server_and_its_pages(folder: Path) -> None:
    with watching(folder, "--no-open") as started, Events(started) as events:
        assert len(events.until(lambda kind, _: kind == "runs")["runs"]) == 2
        os.kill(started.process.pid, 2)
        assert events.until(lambda kind, _: kind == "bye") == {}
        assert started.process.wait(30) == 130


def test_two_addresses_differ(folder: Path, server: Watching) -> None:
    with watching(folder, "--no-open") as other:
        assert re.fullmatch(r"/[A-Za-z0-9_-]{32}/", other.path)
        assert other.path != server.path
        assert other.get(server.path)[0] == 403
