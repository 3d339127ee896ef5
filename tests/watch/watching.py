"""A real ``mlpcli watch`` in a child process, and an HTTP client for valid and invalid requests."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # timeout of a test, for slow machines


@dataclass
class Watching:
    """A process that serves pages at ``address``."""

    process: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> int:
        return int(self.address.split(":")[2].split("/")[0])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def path(self) -> str:
        return "/" + self.address.split("/", 3)[3]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def send(self, data: bytes) -> bytes:
        """Send ``data`` and return all that comes until the server closes, or until it resets the connection."""
        with self.connect() as connection:
            answer = b""
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    answer += piece
            except OSError as error:
                # A connection that was reset before shutdown() is "not connected", which is no ConnectionError.
                if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
                    raise
            return answer

    def get(self, path: str, *headers: str, host: str | None = None, method: str = "GET") -> tuple[int, bytes]:
        """Return the status and the body of an answer; the status is 0 without an answer."""
        lines = (f"{method} {path} HTTP/1.1", f"Host: {self.host if host is None else host}", *headers, "", "")
        answer = self.send("\r\n".join(lines).encode("latin-1"))
        head, _, body = answer.partition(b"\r\n\r\n")
        return (int(head.split()[1]) if head else 0), body

    def threads(self) -> int:
        return int(self._status("Threads"))

    def memory(self) -> int:
        """Return the kilobytes in memory."""
        return int(self._status("VmRSS").split()[0])

    def _status(self, name: str) -> str:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s*(.*)$", text, re.MULTILINE)
        assert found
        return found[1]


class Events:
    """The events of a page, as they come."""

    def __init__(self, watching: Watching, path: str | None = None) -> None:
        self._connection = watching.connect()
        request = f"GET {path or watching.path}events HTTP/1.1\r\nHost: {watching.host}\r\n\r\n"
        self._connection.sendall(request.encode())
        self._file: BinaryIO = self._connection.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline().strip():
            pass

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._connection.close()

    def each(self) -> Iterator[tuple[str, Any]]:
        kind = ""
        for line in self._file:
            if line.startswith(b"event: "):
                kind = line[7:-1].decode()
            elif line.startswith(b"data: "):
                yield kind, json.loads(line[6:])

    def until(self, fits: Callable[[str, Any], bool]) -> Any:
        """Return the value of the next event that fits."""
        end = time.monotonic() + SECONDS
        for kind, value in self.each():
            if fits(kind, value):
                return value
            assert time.monotonic() < end, "no such event came"
        raise AssertionError("the events have ended")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}


@contextmanager
def watching(*arguments: str | Path, command: str = "watch", cwd: Path | None = None) -> Iterator[Watching]:
    """Run ``mlpcli COMMAND ARGUMENTS``; yield it once it has printed its address, and kill it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mlpcli", command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=cwd or ROOT,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("watch    "):
                yield Watching(process, line.split()[1])
                return
        raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def kill(run: Path) -> None:
    """Kill the process that trains ``run`` with SIGKILL."""
    os.kill(lock_holder(run), signal.SIGKILL)


def lock_holder(run: Path) -> int:
    inode = (run / ".lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and fields[-3].endswith(f":{inode}"):
            return int(fields[-4])
    raise AssertionError("nobody trains it")
