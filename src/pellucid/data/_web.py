"""One file over http(s), with a time limit on every wait."""

import socket
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
"""A server that is slower than this for a whole time-out counts as silent."""
MOST_BYTES = 2**28
"""No file of a known data set is larger; what goes on beyond is not the file."""
OPENING_TIMEOUTS = 2
"""Looking up the name, trying its addresses and following redirects take at most so many time-outs together."""


class MirrorFailure(Exception):
    """Why one mirror did not deliver, in a few words."""


def receive(address: str, label: str, timeout: float) -> bytes:
    """What the http(s) `address` sends, whole; progress is shown under `label`, `timeout` is in seconds.

    Raises `MirrorFailure` for every way in which that can go wrong. Redirects lead to http(s) addresses only.
    """
    try:
        with _open(address, timeout) as response:
            return _read_all(response, label, timeout)
    except (OSError, HTTPException, ValueError) as error:
        raise MirrorFailure(_describe(error, timeout)) from error


def _open(address: str, timeout: float) -> HTTPResponse:
    """The server's answer, headers read.

    A socket's time-out starts anew for each address of a name and for each byte, and does not hold for looking the name
    up. So the asking is done aside and waited for: a thread that comes too late is left to end by itself.
    """
    answers: Queue[HTTPResponse | Exception] = Queue(1)

    def ask() -> None:
        try:
            answers.put(_opener().open(Request(address, headers={"User-Agent": "pellucid"}), timeout=timeout))  # noqa: S310
        except Exception as error:  # noqa: BLE001  (handed to the thread that waits)
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
    """What opens http(s) addresses, through the user's proxies, and nothing else: no file://, no ftp://."""
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
    expected = response.length
    if expected is not None and expected > MOST_BYTES:
        raise MirrorFailure(f"announces {expected:,} bytes, too many to be the file")
    content = bytearray()
    checked_at, checked_bytes = monotonic(), 0
    with track(f"{label} (kB)", None if expected is None else expected // 1000) as tracker:
        while chunk := response.read1(1 << 16):
            content += chunk
            if len(content) > MOST_BYTES:
                raise MirrorFailure(f"sent more than {MOST_BYTES:,} bytes, too many to be the file")
            tracker.update(len(content) // 1000)
            seconds = monotonic() - checked_at
            if seconds < timeout:
                continue
            if len(content) - checked_bytes < SLOWEST_BYTES_PER_SECOND * seconds:
                raise MirrorFailure(f"too slow: {len(content) - checked_bytes:,} bytes in {seconds:.1f} s")
            checked_at, checked_bytes = monotonic(), len(content)
    if expected is not None and len(content) < expected:
        raise MirrorFailure(f"truncated: got {len(content):,} of {expected:,} bytes")
    return bytes(content)


def _describe(error: Exception, timeout: float) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, HTTPError):
        error.close()
        return f"answered {error.code} {error.reason}"
    if isinstance(error, URLError):
        return _describe(error.reason, timeout) if isinstance(error.reason, Exception) else str(error.reason)
    if isinstance(error, TimeoutError):
        return f"timed out: nothing came for {timeout:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return f"the server's name could not be looked up ({error.strerror})"
    if isinstance(error, IncompleteRead):
        return "truncated: the connection ended before the file did"
    if isinstance(error, ConnectionError | HTTPException):
        return f"the connection broke ({str(error) or type(error).__name__})"
    return f"{type(error).__name__}: {error}"
