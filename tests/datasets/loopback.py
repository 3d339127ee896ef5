"""A real HTTP server on loopback whose answers a test controls to the byte."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("localhost.pem")

Answer = Callable[["Connection"], object]


class Connection:
    """An accepted connection whose request has been read."""

    def __init__(self, sock: socket.socket, ending: threading.Event) -> None:
        self._sock = sock
        self._ending = ending

    def send(self, data: bytes) -> bool:
        """Send ``data``; return whether the client still reads."""
        with suppress(OSError):
            self._sock.sendall(data)
            return not self._ending.is_set()
        return False

    def wait(self, seconds: float = 3600) -> None:
        """Wait for some seconds, or until the test is over."""
        self._ending.wait(seconds)


class Server:
    """Answer each path as in ``answers``, 404 by default, and record ``requests``."""

    def __init__(self, *, tls: bool = False) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self._tls = tls
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"localhost:{self._listener.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.address}/"

    def __call__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock, context), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        with sock, suppress(OSError):
            sock.settimeout(30)
            if self._tls:
                sock = context.wrap_socket(sock, server_side=True)
            with sock:
                request = b""
                while b"\r\n\r\n" not in request:
                    if not (chunk := sock.recv(4096)):
                        return
                    request += chunk
                target = request.split()[1].decode()
                self.requests.append(target)
                self.answers.get(target, status("404 Not Found"))(Connection(sock, self._ending))
                # Let the client read to the end: closing with unread input would reset the connection.
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        self._ending.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@contextmanager
def serving(*, tls: bool = False) -> Iterator[Server]:
    server = Server(tls=tls)
    thread = threading.Thread(target=server, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.end()
        thread.join(10)


def raw(data: bytes) -> Answer:
    """Answer with exactly these bytes."""
    return lambda connection: connection.send(data)


def body(data: bytes, *, length: int | None = None, kind: str = "application/octet-stream") -> Answer:
    """Answer with status 200 and ``data``; announce ``length``."""
    announced = len(data) if length is None else length
    return raw(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {announced}\r\n\r\n".encode() + data)


def status(line: str, *, headers: str = "", data: bytes = b"") -> Answer:
    return raw(f"HTTP/1.1 {line}\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data)


def redirect(location: str, code: int = 302) -> Answer:
    return status(f"{code} Found", headers=f"Location: {location}\r\n")


def endless(start: bytes, again: bytes) -> Answer:
    """Answer with ``start``, then ``again`` as long as the client reads."""

    def answer(connection: Connection) -> None:
        connection.send(start)
        while connection.send(again):
            pass

    return answer


def trickle(start: bytes, again: bytes, seconds: float) -> Answer:
    """Answer with ``start``, then ``again`` at intervals, as long as the client reads."""

    def answer(connection: Connection) -> None:
        connection.send(start)
        while connection.send(again):
            connection.wait(seconds)

    return answer


def silence(start: bytes = b"") -> Answer:
    """Answer with ``start``, then send nothing on the open connection."""

    def answer(connection: Connection) -> None:
        connection.send(start)
        connection.wait()

    return answer
