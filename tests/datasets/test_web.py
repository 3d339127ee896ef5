"""Files from real web servers on loopback, good and bad."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loopback import (
    CERTIFICATE,
    Answer,
    Connection,
    Server,
    body,
    endless,
    raw,
    redirect,
    serving,
    silence,
    status,
    trickle,
)

from mlpcli.datasets import web
from mlpcli.datasets.source import SourceError, UnreachableError, bounded_size

pytestmark = pytest.mark.slow

DATA = bytes(range(256)) * 4
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def secure_server() -> Iterator[Server]:
    with serving(tls=True) as running:
        yield running


def get(base: str, size: int = len(DATA)) -> bytes:
    return b"".join(web.Web(base).read("file", size))


def refusal(server: Server, answer: Answer, kind: type[SourceError] = SourceError) -> str:
    server.answers["/file"] = answer
    with pytest.raises(SourceError) as refused:
        get(server.url)
    assert type(refused.value) is kind
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("slash", ["", "/"])
def test_base_address_with_or_without_a_slash(server: Server, slash: str):
    server.answers["/deep/file"] = body(DATA)
    assert get(f"{server.url}deep{slash}") == DATA
    assert server.requests == ["/deep/file"]


@pytest.mark.parametrize(
    "answer",
    [
        body(DATA),
        raw(b"HTTP/1.1 200 OK\r\n\r\n" + DATA),
        raw(b"HTTP/1.0 200 OK\r\n\r\n" + DATA),
        raw(CHUNKED + b"400\r\n" + DATA + b"\r\n0\r\n\r\n"),
        raw(CHUNKED + b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in DATA) + b"0\r\nTrailer: t\r\n\r\n"),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + DATA),
        raw(HEAD + DATA + b"and more than was announced"),
    ],
    ids=["length", "no length", "http 1.0", "chunked", "chunks of a byte", "100 first", "more than announced"],
)
def test_every_valid_transfer_is_read(server: Server, answer: Answer):
    server.answers["/file"] = answer
    assert get(server.url) == DATA


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("403 Forbidden", "status 403 Forbidden"),
        ("404 Gone Fishing", "status 404 Not Found"),
        ("500 \x1b[31mRed", "status 500 Internal Server Error"),
        ("206 Partial Content", "status 206 Partial Content"),
        ("304 Not Modified", "status 304 Not Modified"),
        ("777 Never Heard Of", "status 777"),
    ],
)
def test_status_other_than_200_is_refused(server: Server, code: str, message: str):
    assert refusal(server, status(code, data=b"sorry")) == message


def test_truncated_body_is_refused(server: Server):
    assert refusal(server, body(DATA[:1000], length=1024)) == "cut short after 1000 of 1024 bytes"
    assert "broke off" in refusal(server, raw(CHUNKED + b"400\r\n" + DATA[:1000]), UnreachableError)


def test_endless_body_is_refused_in_time(server: Server):
    piece = bytes(10_000)
    limit = bounded_size(len(DATA))
    for start, again in ((b"HTTP/1.1 200 OK\r\n\r\n", piece), (CHUNKED, b"2710\r\n" + piece + b"\r\n")):
        assert refusal(server, endless(start, again)) == f"more than {limit} bytes, too many for this file"


@pytest.mark.parametrize(
    ("start", "again", "message"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Again: and again\r\n", "invalid HTTP: got more than 100 headers"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 1000, "invalid HTTP: got more than 65536 bytes"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "sends without end"),
        (b"HTTP/1.1 ", b"2" * 1000, "invalid HTTP"),
    ],
    ids=["headers", "one header", "continue", "status line"],
)
def test_endless_headers_are_refused(server: Server, start: bytes, again: bytes, message: str):
    assert message in refusal(server, endless(start, again), UnreachableError)


def test_endless_trailers_are_refused(server: Server):
    answer = endless(CHUNKED + b"400\r\n" + DATA + b"\r\n0\r\n", b"X-Again: and again\r\n")
    assert refusal(server, answer, UnreachableError) == "broke off (sends without end)"


@pytest.mark.parametrize(
    "answer",
    [
        silence(),
        silence(b"HTTP/1.1 200 OK\r\n"),
        trickle(b"", b"H", 0.05),
        trickle(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x", 0.05),
        trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    ],
    ids=["nothing", "half a header", "trickle", "trickled header", "trickled continue"],
)
def test_stalled_headers_are_refused(server: Server, answer: Answer):
    assert refusal(server, answer, UnreachableError) == f"cannot be reached ({web.TOO_SLOW})"


@pytest.mark.parametrize(
    "answer",
    [silence(HEAD + DATA[:500]), trickle(HEAD, b"x", 0.05), trickle(CHUNKED, b"1\r\nx\r\n", 0.05)],
    ids=["stall", "trickle", "trickled chunks"],
)
def test_stalled_body_is_refused(server: Server, answer: Answer):
    assert refusal(server, answer, UnreachableError) == f"broke off ({web.TOO_SLOW})"


def test_slow_server_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(web, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(web, "STALL_BYTES", 100)

    def slowly(connection: Connection) -> None:
        connection.send(HEAD)
        for start in range(0, 1024, 256):
            connection.wait(0.4)
            connection.send(DATA[start : start + 256])

    server.answers["/file"] = slowly
    assert get(server.url) == DATA


def test_time_of_the_reader_is_no_stall(server: Server, monkeypatch: pytest.MonkeyPatch):
    server.answers["/file"] = body(bytes(300_000))
    clock = iter(range(0, 10**9, 1000))
    chunks = web.Web(server.url).read("file", 300_000)
    next(chunks)
    # Let a thousand seconds pass between two readings of the clock, except while waiting for the server.
    times = (tick for tick in clock for _ in range(2))
    monkeypatch.setattr(web.time, "monotonic", lambda: float(next(times)))
    assert sum(map(len, chunks)) == 300_000 - web.CHUNK_BYTES


def test_closed_port_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"^cannot be reached \(Connection refused\)$"):
        get(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("answer", [raw(b""), raw(b"\r\n"), raw(b"220 ftp ready\r\n"), raw(b"\x16\x03\x01" * 9)])
def test_server_of_another_protocol_is_refused(server: Server, answer: Answer):
    assert refusal(server, answer, UnreachableError).startswith("cannot be reached (invalid HTTP: ")


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://a b/", "http://localhost:x/", "http://\u2028/", "https://"]
)
def test_invalid_addresses_are_refused(url: str):
    with pytest.raises(UnreachableError, match="cannot be reached"):
        get(url)


class TestRedirects:
    def test_are_followed(self, server: Server):
        server.answers["/file"] = redirect("/a", 301)
        server.answers["/a"] = redirect(f"{server.url}b", 302)
        server.answers["/b"] = redirect("c", 303)
        server.answers["/c"] = redirect("//" + server.address + "/d", 307)
        server.answers["/d"] = redirect("/e", 308)
        server.answers["/e"] = body(DATA)
        assert get(server.url) == DATA
        assert server.requests == ["/file", "/a", "/b", "/c", "/d", "/e"]

    def test_are_bounded(self, server: Server):
        server.answers["/file"] = redirect("/file")
        assert refusal(server, redirect("/file")) == "more than 5 redirects"
        assert len(server.requests) == 6

    @pytest.mark.parametrize(
        "location", ["file:///etc/passwd", "ftp://localhost/file", "data:,x", "gopher:x", "npm:x@1"]
    )
    def test_to_another_scheme_are_refused(self, server: Server, location: str):
        assert refusal(server, redirect(location)) == f"redirects to {location}, which is not followed"

    def test_without_a_target_are_refused(self, server: Server):
        assert "redirects to '', which is not followed" in refusal(server, status("302 Found"))
        assert "not a URL" in refusal(server, redirect("http://[x"))

    def test_with_an_endless_body_are_followed(self, server: Server):
        server.answers["/end"] = body(DATA)
        server.answers["/file"] = endless(b"HTTP/1.1 302 Found\r\nLocation: /end\r\n\r\n", bytes(1000))
        assert get(server.url) == DATA

    def test_with_control_characters_are_shown_without(self, server: Server):
        assert "\x1b" not in refusal(server, redirect("ftp://\x1b[31m"))

    def test_from_http_to_https(self, server: Server, secure_server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        server.answers["/file"] = redirect(f"{secure_server.url}file")
        secure_server.answers["/file"] = body(DATA)
        assert get(server.url) == DATA

    def test_from_https_to_http_are_refused(
        self, server: Server, secure_server: Server, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        server.answers["/file"] = body(DATA)
        location = f"{server.url}file"
        assert refusal(secure_server, redirect(location)) == f"redirects to {location}, which is not followed"
        assert server.requests == []

    def test_to_http_through_https_are_refused(
        self, server: Server, secure_server: Server, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        secure_server.answers["/there"] = redirect(f"{server.url}back")
        server.answers["/back"] = body(DATA)
        assert "is not followed" in refusal(server, redirect(f"{secure_server.url}there"))
        assert server.requests == ["/file"]


class TestTls:
    def test_with_a_trusted_certificate(self, secure_server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        secure_server.answers["/file"] = body(DATA)
        assert get(secure_server.url) == DATA

    def test_is_verified(self, secure_server: Server):
        assert "certificate verify failed" in refusal(secure_server, body(DATA), UnreachableError)
        assert secure_server.requests == []

    def test_host_name_is_verified(self, secure_server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            get(secure_server.url.replace("localhost", "127.0.0.1"))

    def test_with_a_server_without_tls(self, server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(web, "CONNECT_SECONDS", 0.3)
        with pytest.raises(UnreachableError, match="cannot be reached"):
            get(server.url.replace("http:", "https:"))

    def test_with_a_silent_server(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(web, "CONNECT_SECONDS", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(UnreachableError, match="timed out"):
            get(f"https://localhost:{listener.getsockname()[1]}/")

    def test_with_a_stalled_server(self, secure_server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert refusal(secure_server, silence(HEAD + DATA[:9]), UnreachableError) == f"broke off ({web.TOO_SLOW})"
        assert refusal(secure_server, trickle(HEAD, b"x", 0.05), UnreachableError) == f"broke off ({web.TOO_SLOW})"


class TestProxies:
    def test_of_the_environment_are_used(self, server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("http_proxy", server.url)
        server.answers["http://digits.invalid/file"] = body(DATA)
        assert get("http://digits.invalid/") == DATA

    def test_are_asked_for_a_tunnel_with_a_timeout(self, server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("https_proxy", server.url)
        for answer, message in (
            (silence(), "timed out"),
            (trickle(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05), "timed out"),
            (endless(b"HTTP/1.1 200 OK\r\n", b"X-Again: and again\r\n"), "cannot be reached"),
            (status("403 Forbidden"), "Tunnel connection failed"),
        ):
            server.answers["digits.invalid:443"] = answer
            with pytest.raises(UnreachableError, match=message):
                get("https://digits.invalid/")
        # A library that another test has loaded may ask the proxy too.
        assert {asked for asked in server.requests if "digits" in asked} == {"digits.invalid:443"}

    def test_are_bypassed_if_the_environment_says_so(self, server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("http_proxy", "http://proxy.invalid:1/")
        monkeypatch.setenv("no_proxy", "localhost")
        server.answers["/file"] = body(DATA)
        assert get(server.url) == DATA


def test_missing_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "ALL_PROXY"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "http://me:secret@127.0.0.1:9/")
            with pytest.raises(UnreachableError) as caught:
                list(web.Web("http://example.org/").read("file", 9))
        proxy = "through the proxy http://***@127.0.0.1:9/, which the environment names"
        assert str(caught.value) == f"cannot be reached {proxy} (Connection refused)"


@pytest.mark.parametrize("port", ["99999", "-1", "x", "4294967296"])
def test_impossible_port_is_refused(server: Server, port: str):
    assert refusal(server, redirect(f"http://127.0.0.1:{port}/"), UnreachableError).startswith("cannot be reached (")


def test_busy_server_is_asked_once_more(server: Server, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr(web.time, "sleep", slept.append)
    assert refusal(server, status("503 Busy", headers="Retry-After: 7\r\n")).startswith("status 503")
    assert slept == [7]
    for wait in ("31", "Wed, 21 Oct 2015 07:28:00 GMT", "-1", "9" * 5000):
        assert refusal(server, status("429 No", headers=f"Retry-After: {wait}\r\n"), SourceError).startswith(
            "status 429"
        )
    assert slept == [7]


def test_user_in_the_address_is_sent_as_a_header():
    assert web._without_user("https://me:se%40cret@host/a@b/") == ("https://host/a@b/", "Basic bWU6c2VAY3JldA==")
    assert web._without_user("https://host/") == ("https://host/", None)


def test_headers_of_the_request():
    asked: list[bytes] = []

    def accept(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            asked.append(sock.recv(10_000))
            sock.sendall(HEAD + DATA)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        assert get(f"http://127.0.0.1:{listener.getsockname()[1]}/") == DATA
        thread.join()
    assert b"User-Agent: mlpcli/" in asked[0]
    assert b"Accept-Encoding: identity" in asked[0]


lines = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 302 Found",
        b"HTTP/1.1 100 Continue",
        b"HTTP/0.9 200",
        b"Location: /file",
        b"Location: http://localhost:1/",
        b"Location: \xff\x00",
        b"Content-Length: 1024",
        b"Content-Length: -5",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length: x",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Content-Encoding: gzip",
        b"Content-Type: multipart/mixed; boundary=x",
        b"Set-Cookie: a=b",
        b": no name",
        b" folded",
        b"",
        b"",
        b"400",
        b"-1",
        b"0",
        b"ffffffffffffffffffff",
        b"\xff\xfe\x00",
        gzip.compress(DATA),
        DATA,
    ]
)
responses = st.lists(lines | st.binary(max_size=50), max_size=12).map(b"\r\n".join) | st.binary(max_size=200)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(responses)
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx")
def test_any_bytes_from_a_server_are_data_or_refused(server: Server, response: bytes):
    server.answers["/file"] = raw(response)
    try:
        received = get(server.url)
    except SourceError as error:
        assert str(error).isprintable()
    else:
        assert len(received) <= bounded_size(len(DATA))


def test_test_server_speaks_valid_tls():
    """Without this the refusals above would prove nothing."""
    with serving(tls=True) as server:
        context = ssl.create_default_context(cafile=str(CERTIFICATE))
        host, _, port = server.address.partition(":")
        with (
            socket.create_connection((host, int(port))) as sock,
            context.wrap_socket(sock, server_hostname=host) as tls,
        ):
            assert tls.version()
