"""A small server of live pages, for browsers on this machine only.

It listens on 127.0.0.1, and answers GET. It refuses a request whose Host, or Origin if present, is not its own (another
site may have pointed a name to 127.0.0.1), or whose path does not begin with the token of the printed address, which is
compared in constant time. The rest of the path is an index of pages: no path of a request reaches the file system.

One thread serves all connections. At most ``MOST_CONNECTIONS`` may be waiting to send a request, and ``MOST_PAGES`` may
receive events; a connection that is slow to send or to receive is dropped. A page gets the newest event of each kind: a
slow page skips the events between and delays no other. Two more threads read run directories, see
:mod:`mlpcli.watch.feed`.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from mlpcli.analysis.report.page import policy_of
from mlpcli.errors import MlpcliError, UsageError
from mlpcli.watch.feed import CPU_FRACTION, Events, OneOfMany, RunFeed, RunsFeed

HOST = "127.0.0.1"
MOST_CONNECTIONS = 64
MOST_PAGES = 32
MOST_RUNS = 8  # with an open page of their own
MOST_HEAD = 16 * 1024  # bytes of a request
PIECE = 64 * 1024
ASK_SECONDS = 5.0  # to send a request
TAKE_SECONDS = 10.0  # to receive a piece of an answer
QUIET_SECONDS = 10.0  # then a comment is sent, to detect a closed connection
TICK_SECONDS = 0.5
UNLOCK_SECONDS = 2.0
LAST_SECONDS = 10.0  # to send the last events
NICE = 10  # of the thread that reads checkpoints

_TARGET = re.compile(r"/([A-Za-z0-9_-]{1,100})/(?:run/([1-9][0-9]{0,6})/)?(events)?")
_REASONS = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
_HEADERS = (
    "Cache-Control: no-store",
    "Connection: close",
    "Cross-Origin-Opener-Policy: same-origin",
    "Cross-Origin-Resource-Policy: same-origin",
    "Referrer-Policy: no-referrer",
    "X-Content-Type-Options: nosniff",
    "X-Frame-Options: DENY",
)


class Feed(Protocol):
    """A source of a page: its HTML, and JSON by kind of event."""

    def html(self) -> bytes:
        """Return the page."""

    def light(self) -> Events:
        """Return the newest events that are cheap to read."""

    def state_may_differ(self) -> bool:
        """Return True if a light read would show another state. Cheap enough for every tick."""


class Event(NamedTuple):
    """An event as it is sent, and its number in the order of arrival."""

    number: int
    kind: str
    text: str
    data: bytes


class Refused(Exception):
    """A refused request, and the HTTP status of the answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Channel:
    """What a page shows: its source, and the newest event of each kind for the browsers that have it open."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.run = feed.run if isinstance(feed, OneOfMany) else None
        self.pages = 0
        self.events: dict[str, Event] = {}
        self.number = 0
        self.ended = False
        self.changed = asyncio.Event()
        self.reading: asyncio.Task[None] | None = None

    def put(self, events: Events) -> None:
        """Send those of ``events`` that are new to the open pages."""
        for kind, text in events.items():
            if kind not in self.events or self.events[kind].text != text:
                self.number += 1
                self.events[kind] = Event(self.number, kind, text, f"event: {kind}\ndata: {text}\n\n".encode())
        self.wake()

    def wake(self) -> None:
        """Wake every page to check for new events."""
        self.changed.set()
        self.changed = asyncio.Event()

    def newer_than(self, number: int) -> list[Event]:
        """Return the events after number ``number``, in order."""
        return sorted(event for event in self.events.values() if event.number > number)


class Server:
    """A server of the run or the folder of runs ``path``.

    ``say`` receives messages for the user. ``opened`` is called with the address once there is one.
    """

    def __init__(
        self,
        path: Path,
        is_run: bool,
        cores: int,
        *,
        port: int,
        say: Callable[[str], None],
        opened: Callable[[str], None],
    ) -> None:
        self._path, self._cores, self._port = path, cores, port
        self._say, self._opened = say, opened
        self._runs = RunsFeed(Path(os.path.abspath(path)).parent if is_run else path)  # noqa: PTH100
        self._token = secrets.token_urlsafe(24)
        self._channels: dict[int, Channel] = {}
        self._main = is_run
        self._light = ThreadPoolExecutor(1, "light")
        self._heavy = ThreadPoolExecutor(1, "heavy", _lower_priority)
        self._asking = 0
        self._pages = 0
        self._hosts: frozenset[str] = frozenset()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, until: asyncio.Event, *, trainer_ends: bool) -> None:
        """Serve until ``until`` is set, then until every page has been sent the last events.

        With ``trainer_ends``, ``until`` is set when the training process ends or is killed. Raises ``UsageError`` if
        the port is taken.
        """
        try:
            server = await asyncio.start_server(self._connected, HOST, self._port, limit=MOST_HEAD, backlog=64)
        except OSError as error:
            what = "is taken by another program; leave --port out for a free one"
            if not self._port:
                what = error.strerror or str(error)
            raise UsageError(f"port {self._port} of {HOST}: {what}") from error
        port = server.sockets[0].getsockname()[1]
        self._hosts = frozenset((f"{HOST}:{port}", f"localhost:{port}"))
        self._channels[0] = self._channel(self._path) if self._main else Channel(self._runs)
        follow = asyncio.create_task(self._follow(self._channels[0]))
        self._opened(f"http://{HOST}:{port}/{self._token}/")
        try:
            await until.wait()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._send_last(trainer_ends), LAST_SECONDS)
        finally:
            server.close()
            for task in (follow, *self._tasks):
                task.cancel()
            await asyncio.gather(follow, *self._tasks, return_exceptions=True)
            self._light.shutdown(wait=False, cancel_futures=True)
            self._heavy.shutdown(wait=False, cancel_futures=True)

    async def _send_last(self, trainer_ends: bool) -> None:
        # When a process is killed, its pipe may close before its lock is released.
        until = time.monotonic() + (UNLOCK_SECONDS if trainer_ends else 0)
        for channel in self._channels.values():
            if channel.pages:
                await self._read(channel)
                while channel.run is not None and channel.run.state == "running" and time.monotonic() < until:
                    await asyncio.sleep(0.1)
                    await self._read(channel)
                if channel.run is not None:
                    if channel.reading is not None:
                        await asyncio.wait([channel.reading])
                    if channel.run.heavy_is_due():
                        await self._read_heavy(channel, channel.run)
            channel.ended = True
            channel.wake()
        while self._pages:
            await asyncio.sleep(0.05)

    # Reading --------------------------------------------------------------------------------------------------------

    def _channel(self, run: Path) -> Channel:
        return Channel(OneOfMany(RunFeed(run, self._cores), self._runs, self._cores))

    async def _follow(self, channel: Channel) -> None:
        """Read the source of ``channel`` repeatedly; except for the first one, only while a page of it is open."""
        removed = False
        left = time.monotonic()
        while channel is self._channels[0] or channel.pages or time.monotonic() - left < 5:
            if channel.pages:
                left = time.monotonic()
            used = await self._read(channel)
            if channel.run is not None:
                if channel.run.state == "removed" and not removed:
                    self._say(f"{channel.run.path}: was removed or moved away; its page shows the last state")
                removed = channel.run.state == "removed"
                if channel.pages and channel.reading is None and channel.run.heavy_is_due():
                    channel.reading = asyncio.create_task(self._read_heavy(channel, channel.run))
            await self._until_due(channel, used)
        self._channels = {number: each for number, each in self._channels.items() if each is not channel}

    async def _until_due(self, channel: Channel, used: float) -> None:
        """Sleep until a light read is due: its CPU time ``used`` is on a budget, but a new state shows at once."""
        due = time.monotonic() + used / CPU_FRACTION / self._cores
        await asyncio.sleep(TICK_SECONDS)
        while time.monotonic() < due:
            if await asyncio.get_running_loop().run_in_executor(self._light, channel.feed.state_may_differ):
                return
            await asyncio.sleep(TICK_SECONDS)

    async def _read(self, channel: Channel) -> float:
        """Send the events of a light reading to the pages of ``channel``; return the CPU seconds used."""

        def read() -> tuple[Events, float]:
            began = time.thread_time()
            return channel.feed.light(), time.thread_time() - began

        try:
            events, used = await asyncio.get_running_loop().run_in_executor(self._light, read)
        except (MlpcliError, OSError, MemoryError) as error:
            self._say(f"mlpcli: {error}")
            return 1.0
        channel.put(events)
        return used

    async def _read_heavy(self, channel: Channel, run: RunFeed) -> None:
        try:
            events = await asyncio.get_running_loop().run_in_executor(self._heavy, run.heavy)
            if "contents" in events:
                channel.events.pop("weights", None)  # of an older epoch
            channel.put(events)
        except (MlpcliError, OSError, MemoryError) as error:
            self._say(f"mlpcli: {error}")
        finally:
            channel.reading = None

    # Answering ------------------------------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._asking >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._asking += 1
        asking = True
        try:
            writer.transport.set_write_buffer_limits(PIECE)
            try:
                channel, streams = await self._request(reader)
                if not streams:
                    html = await asyncio.get_running_loop().run_in_executor(self._light, channel.feed.html)
                    policy = f"{policy_of(html)}; frame-ancestors 'none'"
                    kind = ("Content-Type: text/html; charset=utf-8", f"Content-Security-Policy: {policy}")
                    await _send(writer, _head(200, *kind, f"Content-Length: {len(html)}"), html)
                    return
                if self._pages >= MOST_PAGES:
                    raise Refused(503)
                self._asking -= 1
                asking = False
                await self._stream(channel, reader, writer)
            except Refused as refused:
                await _send_text(writer, refused.status, f"{refused.status} {_REASONS[refused.status]}")
            except MlpcliError as error:  # the run was removed, or is damaged
                await _send_text(writer, 404, str(error))
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._asking -= asking
            self._tasks.discard(task)
            with suppress(OSError, RuntimeError):
                writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> tuple[Channel, bool]:
        """Return the channel requested, and True for its events. Raises ``Refused``."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ASK_SECONDS)
        except asyncio.TimeoutError:
            raise Refused(408) from None
        except asyncio.LimitOverrunError:
            raise Refused(431) from None
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("the request is not whole") from error
        first, *lines = head.decode("latin-1")[:-4].split("\r\n")
        method, _, rest = first.partition(" ")
        target, _, version = rest.rpartition(" ")
        if version not in ("HTTP/1.0", "HTTP/1.1") or not re.fullmatch(r"[A-Z]{1,20}", method):
            raise Refused(400)
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                raise Refused(400)
            headers.setdefault(name.lower(), []).append(value.strip(" \t"))
        if method != "GET":
            raise Refused(405)
        if headers.keys() & {"content-length", "transfer-encoding"}:
            raise Refused(400)
        if len(headers.get("host", ())) != 1 or headers["host"][0] not in self._hosts:
            raise Refused(403)
        if any(origin not in {f"http://{host}" for host in self._hosts} for origin in headers.get("origin", ())):
            raise Refused(403)
        found = _TARGET.fullmatch(target)
        token = found[1] if found else target[:200]
        if not hmac.compare_digest(token.encode("latin-1"), self._token.encode()):
            raise Refused(403)
        assert found is not None
        return self._find(int(found[2] or 0)), found[3] is not None

    def _find(self, number: int) -> Channel:
        channel = self._channels.get(number)
        if channel is None:
            run = self._runs.run_at(number)
            if run is None:
                raise Refused(404)
            if len(self._channels) > MOST_RUNS:
                raise Refused(503)
            channel = self._channels[number] = self._channel(run)
            task = asyncio.create_task(self._follow(channel))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return channel

    async def _stream(self, channel: Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the events of ``channel`` as they come, until the page is closed or there are no more."""
        self._pages += 1
        channel.pages += 1
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await _send(writer, _head(200, "Content-Type: text/event-stream; charset=utf-8"), b"retry: 1000\n\n")
            number = 0
            while True:
                changed = asyncio.ensure_future(channel.changed.wait())
                for event in channel.newer_than(number):
                    if channel.events.get(event.kind) is event:  # not outdated meanwhile
                        await _send(writer, event.data)
                    number = event.number
                if channel.ended and not channel.newer_than(number):
                    changed.cancel()
                    await _send(writer, b"event: bye\ndata: {}\n\n")
                    return
                await asyncio.wait((changed, gone), timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    changed.cancel()
                    return
                if not changed.done():
                    changed.cancel()
                    await _send(writer, b":\n\n")
        finally:
            gone.cancel()
            self._pages -= 1
            channel.pages -= 1


def _head(status: int, *headers: str) -> bytes:
    reason = _REASONS.get(status, "OK")
    return "\r\n".join((f"HTTP/1.1 {status} {reason}", *_HEADERS, *headers, "", "")).encode()


async def _send(writer: asyncio.StreamWriter, *data: bytes) -> None:
    """Send ``data`` piece by piece; raises ``OSError`` or ``TimeoutError`` if the other side does not receive."""
    for each in data:
        for start in range(0, len(each), PIECE):
            writer.write(each[start : start + PIECE])
            await asyncio.wait_for(writer.drain(), TAKE_SECONDS)


async def _send_text(writer: asyncio.StreamWriter, status: int, message: str) -> None:
    text = f"{message}\n".encode(errors="replace")
    await _send(writer, _head(status, "Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(text)}"), text)


def _lower_priority() -> None:
    """Lower the priority of this thread, if the system has priorities of threads."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
