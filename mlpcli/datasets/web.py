"""Download of files from an http:// or https:// address, from an untrusted server.

It may be silent, send a byte now and then, never stop, or redirect forever. So every wait is bounded, and so are the
bytes of headers and body. TLS is verified, and https never becomes http. The bytes are not verified here.
"""

from __future__ import annotations

import http.client
import io
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Generator
from functools import partial
from typing import Any

from mlpcli import __version__
from mlpcli.datasets.source import SourceError, UnreachableError, bounded_size, shown_source

CONNECT_SECONDS = 10.0  # to connect, and again for the TLS handshake
MIN_SPEED = 16 * 1024  # bytes per second: a file of n bytes may take n / MIN_SPEED seconds, and STALL_SECONDS more
STALL_SECONDS = 30.0  # the longest wait for each STALL_BYTES, the headers included
STALL_BYTES = int(MIN_SPEED * STALL_SECONDS)
TOO_SLOW = f"timed out: less than {MIN_SPEED // 1024} KiB/s for {STALL_SECONDS:g} s"
BUSY = (429, 503)  # statuses that may have a Retry-After, which is followed once
MAX_RETRY_SECONDS = 30
HEADER_BYTES = 256 * 1024  # allowed to headers and to the framing of a chunked body
MAX_REDIRECTS = 5
CHUNK_BYTES = 64 * 1024


class Web:
    """A base URL with the files below it, as ``NAME.gz`` or else as ``NAME``; uses the proxies of the environment."""

    suffixes: tuple[str, ...] = (".gz", "")

    def __init__(self, base: str) -> None:
        self._base, self._authorization = _without_user(base if base.endswith("/") else f"{base}/")

    def read(self, name: str, size: int) -> Generator[bytes, None, None]:
        """See :meth:`mlpcli.datasets.source.Source.read`."""
        limit = bounded_size(size)
        with _open(self._base + name, limit, self._authorization) as response:
            if response.status != 200:
                words = http.client.responses.get(response.status, "")
                raise SourceError(f"status {response.status} {words}".strip())
            announced = response.length
            received = 0
            while chunk := _read(response):
                received += len(chunk)
                if received > limit:
                    raise SourceError(f"more than {limit} bytes, too many for this file")
                yield chunk
            if announced is not None and received < announced:
                raise SourceError(f"cut short after {received} of {announced} bytes")


def _open(url: str, limit: int, authorization: str | None = None) -> http.client.HTTPResponse:
    """Return the response at ``url`` after all redirects. Raises ``SourceError``."""
    for _ in range(MAX_REDIRECTS + 1):
        response = _request(url, limit, authorization)
        if response.status in BUSY and (seconds := _retry_after(response)) is not None:
            response.close()
            time.sleep(seconds)
            response = _request(url, limit, authorization)
        if response.status not in (301, 302, 303, 307, 308):
            return response
        response.close()
        url, authorization = _redirected(url, response.headers.get("Location", "")), None
    raise SourceError(f"more than {MAX_REDIRECTS} redirects")


def _retry_after(response: http.client.HTTPResponse) -> int | None:
    """Return the seconds in a server's Retry-After, if they are few enough to wait."""
    text = response.headers.get("Retry-After", "")
    return int(text) if re.fullmatch("[0-9]{1,4}", text) and int(text) <= MAX_RETRY_SECONDS else None


def _without_user(url: str) -> tuple[str, str | None]:
    """Return ``url`` without user and password, and the header that has them instead."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    if not at:
        return url, None
    return f"{scheme}://{host}{slash}{path}", f"Basic {b64encode(urllib.parse.unquote_to_bytes(user)).decode()}"


def _request(url: str, limit: int, authorization: str | None) -> http.client.HTTPResponse:
    # Only these handlers: a stock opener also opens file:// and ftp://, and reads a redirect's body to its end.
    opener = urllib.request.OpenerDirector()
    proxies = _proxies()
    for handler in (urllib.request.ProxyHandler(proxies), _Http(limit), _Https(limit), urllib.request.UnknownHandler()):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", f"mlpcli/{__version__}")]
    if authorization is not None:
        opener.addheaders.append(("Authorization", authorization))
    try:
        response: http.client.HTTPResponse = opener.open(url, timeout=CONNECT_SECONDS)
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
        raise UnreachableError(f"cannot be reached{_through(url, proxies)} ({_reason(error)})") from None
    return response


def _proxies() -> dict[str, str]:
    """Return the proxies of the environment, by scheme; ALL_PROXY is for the schemes without one."""
    proxies = dict(urllib.request.getproxies())
    everything = proxies.pop("all", "")
    if everything.startswith(("http://", "https://")):  # not socks, which is often meant for others
        proxies = {"http": everything, "https": everything, **proxies}
    return proxies


def _through(url: str, proxies: dict[str, str]) -> str:
    """Return words for the proxy used for ``url``, if there is one."""
    try:
        parts = urllib.parse.urlsplit(url)
        proxy = proxies.get(parts.scheme)
        if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
            return ""
    except ValueError:
        return ""
    return f" through the proxy {shown_source(proxy)}, which the environment names"


def _redirected(url: str, location: str) -> str:
    """Return the URL of ``location`` relative to ``url``, if it may be followed. Raises ``SourceError``."""
    allowed = {"https"} | {urllib.parse.urlsplit(url).scheme}
    try:
        target = urllib.parse.urljoin(url, location)
        scheme = urllib.parse.urlsplit(target).scheme
    except ValueError:
        raise SourceError("redirects to something that is not a URL") from None
    if not location or scheme not in allowed:
        raise SourceError(f"redirects to {_shown(shown_source(location))}, which is not followed")
    return target


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(f"broke off ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """Return the reason of ``error`` in one line, whatever the server sent."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return TOO_SLOW if error.args == (TOO_SLOW,) else "timed out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"certificate verify failed: {_shown(error.verify_message)}; SSL_CERT_FILE can name a file of further "
            "certificates to trust"
        )
    if isinstance(error, http.client.HTTPException):
        return f"invalid HTTP: {_shown(str(error) or type(error).__name__)}"
    return _shown(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _shown(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= 100 else f"{printable[:100]}..."


class _Paced(io.RawIOBase):
    """The bytes of a socket, ended when they come too slowly or are too many.

    Only waiting counts against ``STALL_SECONDS``, not the time that the reader spends otherwise.
    """

    def __init__(self, raw: io.RawIOBase, sock: Any, limit: int) -> None:
        self._raw = raw
        self._sock = sock
        self._left = limit
        self._waited = 0.0
        self._came = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._came >= STALL_BYTES:
            self._waited, self._came = 0.0, 0
        patience = STALL_SECONDS - self._waited
        if patience <= 0:
            raise TimeoutError(TOO_SLOW)
        self._sock.settimeout(patience)
        begun = time.monotonic()
        try:
            count = self._raw.readinto(buffer) or 0
        except TimeoutError:
            raise TimeoutError(TOO_SLOW) from None
        self._waited += time.monotonic() - begun
        self._came += count
        self._left -= count
        if self._left < 0:
            raise OSError("sends without end")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedSocket:
    """A socket with only the method that ``HTTPResponse`` uses."""

    def __init__(self, sock: Any, limit: int) -> None:
        self._sock = sock
        self._limit = limit

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Paced(self._sock.makefile(mode, buffering=0), self._sock, self._limit))


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, limit: int, **options: Any) -> None:
        super().__init__(_PacedSocket(sock, limit), *arguments, **options)  # type: ignore[arg-type]


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, *, limit: int, **options: Any) -> None:
        super().__init__(host, **options)
        # Responses of a proxy to CONNECT use it too.
        self.response_class = partial(_Response, limit=limit)  # type: ignore[assignment]


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, host: str, *, limit: int, **options: Any) -> None:
        super().__init__(host, **options)
        self.response_class = partial(_Response, limit=limit)  # type: ignore[assignment]


class _Http(urllib.request.HTTPHandler):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit + HEADER_BYTES

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request, limit=self._limit)  # type: ignore[arg-type]


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit + HEADER_BYTES

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        context = ssl.create_default_context()
        # Newer Pythons refuse slightly invalid certificates, such as those of many companies' proxies. The downloaded
        # bytes are verified by the catalogue's hashes.
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        return self.do_open(_SecureConnection, request, limit=self._limit, context=context)  # type: ignore[arg-type]
