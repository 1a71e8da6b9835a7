"""Download one file over http(s), with time limits on every wait and in total."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException, HTTPResponse, IncompleteRead
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from urllib.error import HTTPError, URLError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from pellucid.core.terminal import track

__all__ = ["MirrorFailure", "receive"]

SLOWEST_BYTES_PER_SECOND = 4096
"""A server that stays below this rate for a whole timeout counts as unresponsive."""
MOST_BYTES = 2**28
"""Upper bound on the size of any known data file; a longer response is not the file."""
MOST_SECONDS = 3600.0
"""Upper bound on the time for the content of one file, whatever its rate."""
OPENING_TIMEOUTS = 2
"""Total limit for name lookup, connection attempts and redirects, in timeouts."""


class MirrorFailure(Exception):
    """A short reason why one mirror failed."""


def receive(address: str, label: str, timeout: float) -> bytes:
    """Download `address` (http or https) completely; progress is shown under `label`, `timeout` is in seconds.

    Raises `MirrorFailure` for any failure. Only redirects to http(s) are followed.
    """
    try:
        with _open(address, timeout) as response:
            return _read_all(response, label, timeout)
    # URLError and timeouts are OSErrors; a malformed address raises ValueError
    except (OSError, HTTPException, ValueError) as error:
        raise MirrorFailure(_describe(error, timeout)) from error


def _open(address: str, timeout: float) -> HTTPResponse:
    """Connect, and return the response with its headers read.

    A socket timeout restarts for every address of a host and for every byte, and does not cover the name lookup. The
    request therefore runs in a daemon thread with an overall time limit; a late thread is abandoned.
    """
    # room for one answer, so that a late thread never blocks on `put`
    answers: Queue[HTTPResponse | Exception] = Queue(1)

    def ask() -> None:
        try:
            answers.put(_opener().open(Request(address, headers={"User-Agent": "pellucid"}), timeout=timeout))  # noqa: S310
        except Exception as error:  # noqa: BLE001  (raised in the waiting thread)
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=OPENING_TIMEOUTS * timeout)
    except Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _opener() -> OpenerDirector:
    """Return an opener for http(s) only, with the user's proxies: no file://, no ftp://."""
    # build_opener would add handlers for file:// and ftp://
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        HTTPRedirectHandler(),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
        UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _read_all(response: HTTPResponse, label: str, timeout: float) -> bytes:
    # None if the server does not announce a length
    expected = response.length
    if expected is not None and expected > MOST_BYTES:
        raise MirrorFailure(f"announces {expected:,} bytes, more than any file of a data set")
    content = bytearray()
    started = checked_at = monotonic()
    checked_bytes = 0
    with track(f"{label} (kB)", None if expected is None else expected // 1000) as tracker:
        for chunk in _chunks(response, timeout):
            content += chunk
            if len(content) > MOST_BYTES:
                raise MirrorFailure(f"sent more than {MOST_BYTES:,} bytes, more than any file of a data set")
            tracker.update(len(content) // 1000)
            if monotonic() - started > MOST_SECONDS:
                raise MirrorFailure(f"too slow: {len(content):,} bytes in {MOST_SECONDS:,.0f} s, the limit for a file")
            # the timeout only limits silence; this also refuses a trickle of bytes
            seconds = monotonic() - checked_at
            if seconds < timeout:
                continue
            if len(content) - checked_bytes < SLOWEST_BYTES_PER_SECOND * seconds:
                raise MirrorFailure(f"too slow: {len(content) - checked_bytes:,} bytes in {seconds:.1f} s")
            checked_at, checked_bytes = monotonic(), len(content)
    # nothing more arrives at the end and when the connection breaks
    if expected is not None and len(content) < expected:
        raise MirrorFailure(f"truncated: got {len(content):,} of {expected:,} bytes")
    return bytes(content)


def _chunks(response: HTTPResponse, timeout: float) -> Iterator[bytes]:
    """Yield the parts of the body as they arrive; raise `TimeoutError` if none does for `timeout` seconds.

    A read can take forever although the socket has a timeout: lines around the chunks of a response (their sizes with
    extensions, and the trailers) may arrive byte by byte. Reads therefore run in a daemon thread. If the caller gives
    up, the connection is shut down, which ends the thread.
    """
    arrived: Queue[bytes | Exception] = Queue()

    def read() -> None:
        try:
            # read1 returns whatever has arrived; read would wait for the full 64 kB
            while chunk := response.read1(1 << 16):
                arrived.put(chunk)
            arrived.put(b"")
        except Exception as error:  # noqa: BLE001  (raised in the waiting thread)
            arrived.put(error)

    thread = Thread(target=read, daemon=True)
    thread.start()
    try:
        while True:
            part = arrived.get(timeout=timeout)
            if isinstance(part, Exception):
                raise part
            if not part:
                return
            yield part
    except Empty:
        raise TimeoutError from None
    finally:
        if thread.is_alive():
            _shut_down(response)
            thread.join(timeout)  # closing the response while the thread reads it would block


def _shut_down(response: HTTPResponse) -> None:
    """End the connection of a response, so that a read in another thread returns."""
    with suppress(OSError, ValueError):  # it may have ended meanwhile
        connection = socket.socket(fileno=os.dup(response.fileno()))
        try:
            connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.close()


def _describe(error: Exception, timeout: float) -> str:
    """Describe the failure in a few words."""
    # subclasses come before their base classes: HTTPError is a URLError, and refused connections are ConnectionErrors
    if isinstance(error, HTTPError):
        # an HTTPError holds the open response
        error.close()
        return f"answered {error.code} {error.reason}"
    if isinstance(error, URLError):
        return _describe(error.reason, timeout) if isinstance(error.reason, Exception) else str(error.reason)
    if isinstance(error, TimeoutError):
        return f"timed out: no data for {timeout:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return f"the server's name could not be resolved ({error.strerror})"
    if isinstance(error, IncompleteRead):
        return "truncated: the connection ended before the file did"
    if isinstance(error, ConnectionError | HTTPException):
        return f"the connection broke ({str(error) or type(error).__name__})"
    return f"{type(error).__name__}: {error}"
