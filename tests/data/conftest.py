"""A loopback server that can simulate every mirror failure, and a small file for it to serve."""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

SMALL_FILE = random.Random(0).randbytes(300_000)
SMALL_MD5 = hashlib.md5(SMALL_FILE).hexdigest()


@dataclass
class Mirror:
    """A test server; `mirror / fault` is the URL of a mirror with that fault."""

    address: str
    files: dict[str, bytes]
    released: Event
    requests: list[str] = field(default_factory=list)

    def __truediv__(self, fault: str) -> str:
        return f"{self.address}/{fault}"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # clients disconnect on purpose in these tests
    state = Mirror(f"http://127.0.0.1:{server.server_port}", {"small.gz": SMALL_FILE}, Event())
    server.state = state
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    state.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def dead_address() -> str:
    """An http URL where nothing listens: its port was bound and released."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, dead_address: str) -> None:
    """Disable the public mirrors and the mirror in the environment."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("PELLUCID_MIRROR", raising=False)
    monkeypatch.setattr("pellucid.data.mnist.PUBLIC_MIRRORS", (dead_address,))


class Handler(BaseHTTPRequestHandler):
    """Serve a file; the first part of the path selects the fault, the last is the file name."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        state = self.server.state
        state.requests.append(self.path)
        fault, name = Path(self.path).parts[1], Path(self.path).name
        content = state.files[name]
        self.close_connection = True
        getattr(self, f"do_{fault}")(content, name)

    def start(self, code: int = 200, **headers: object) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def do_healthy(self, content: bytes, name: str) -> None:
        self.start(Content_Length=len(content))
        self.wfile.write(content)

    def do_unsized(self, content: bytes, name: str) -> None:
        self.start(Connection="close")
        self.wfile.write(content)

    def do_truncated(self, content: bytes, name: str) -> None:
        self.start(Content_Length=len(content))
        self.wfile.write(content[: len(content) // 2])

    def do_chunked(self, content: bytes, name: str) -> None:
        """Send one chunk and disconnect without the terminating chunk."""
        self.start(Transfer_Encoding="chunked")
        self.wfile.write(b"3e8\r\n" + content[:1000] + b"\r\n")

    def do_missing(self, content: bytes, name: str) -> None:
        self.start(404, Content_Length=0)

    def do_failing(self, content: bytes, name: str) -> None:
        self.start(500, Content_Length=0)

    def do_wrong(self, content: bytes, name: str) -> None:
        self.do_healthy(content[:-1] + bytes([content[-1] ^ 1]), name)

    def do_page(self, content: bytes, name: str) -> None:
        self.do_healthy(b"<!DOCTYPE html><title>Please log in</title>", name)

    def do_silent(self, content: bytes, name: str) -> None:
        self.server.state.released.wait(20)

    def do_stalling(self, content: bytes, name: str) -> None:
        self.start(Content_Length=len(content))
        self.wfile.write(content[:1000])
        self.wfile.flush()
        self.server.state.released.wait(20)

    def do_trickling(self, content: bytes, name: str) -> None:
        self.start(Content_Length=len(content))
        for byte in content:
            self.wfile.write(bytes([byte]))
            if self.server.state.released.wait(0.05):
                return

    def do_extending(self, content: bytes, name: str) -> None:
        """Send an endless extension after the size of a chunk, byte by byte."""
        self.start(Transfer_Encoding="chunked")
        self.wfile.write(b"3e8\r\n" + content[:1000] + b"\r\n3e8;")
        self.trickle()

    def do_trailing(self, content: bytes, name: str) -> None:
        """Send the whole content and then an endless trailer, byte by byte."""
        self.start(Transfer_Encoding="chunked")
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n0\r\nX-Long: ")
        self.trickle()

    def trickle(self) -> None:
        with contextlib.suppress(OSError):  # the client hangs up
            while not self.server.state.released.wait(0.05):
                self.wfile.write(b"x")

    def do_slow(self, content: bytes, name: str) -> None:
        self.start(Content_Length=len(content))
        for start in range(0, len(content), 60_000):
            self.wfile.write(content[start : start + 60_000])
            self.server.state.released.wait(0.06)

    def do_slow_header(self, content: bytes, name: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not self.server.state.released.wait(0.05):
            self.wfile.write(b"x")

    def do_hanging_up(self, content: bytes, name: str) -> None:
        self.connection.close()

    def do_garbage(self, content: bytes, name: str) -> None:
        self.wfile.write(b"this is no http\r\n\r\n")

    def do_huge(self, content: bytes, name: str) -> None:
        self.start(Content_Length=2**40)

    def do_moved(self, content: bytes, name: str) -> None:
        self.start(302, Location=f"/healthy/{name}", Content_Length=0)

    def do_to_disk(self, content: bytes, name: str) -> None:
        self.start(302, Location=f"file:///etc/{name}", Content_Length=0)

    def do_to_ftp(self, content: bytes, name: str) -> None:
        self.start(302, Location=f"ftp://127.0.0.1:1/{name}", Content_Length=0)

    def log_message(self, *arguments: object) -> None:
        pass
