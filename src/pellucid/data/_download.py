"""A small downloader: try mirrors in order, and verify the checksum before every use."""

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pellucid.core.errors import DownloadError, SaveError
from pellucid.core.files import read_regular
from pellucid.data._web import MirrorFailure, receive

__all__ = ["MirrorsFailed", "fetch"]


class MirrorsFailed(DownloadError):
    """No mirror delivered the file; `reasons` has one line per mirror."""

    def __init__(self, message: str, reasons: tuple[str, ...]) -> None:
        super().__init__(message)
        self.reasons = reasons


def fetch(file_name: str, md5: str, folder: Path, mirrors: Sequence[str], *, timeout: float = 10.0) -> bytes:
    """Return the content of `folder / file_name`, downloading it from the first working mirror if necessary.

    A mirror is an http(s) URL, a `file://` URL or a plain folder that contains a file of this name. `timeout`, in
    seconds, limits connecting and every wait for more bytes. Only content with the right `md5` is ever returned or
    stored: a damaged file in the folder is downloaded again, and replaced only by a valid one.

    Raises `MirrorsFailed` (a `DownloadError`) if no mirror delivers, and `SaveError` if the disk fails.

    >>> import hashlib, tempfile
    >>> with tempfile.TemporaryDirectory() as there, tempfile.TemporaryDirectory() as here:
    ...     _ = (Path(there) / "note.txt").write_bytes(b"hello")
    ...     fetch("note.txt", hashlib.md5(b"hello").hexdigest(), Path(here), ["/nowhere", there])
    b'hello'
    """
    target = folder / file_name
    present = _read_present(target)
    # verified at every use, since a file can be damaged after the download
    if present is not None and _checksum(present) == md5:
        return present
    reasons = [f"{target}: damaged (wrong checksum)"] if present is not None else []
    for mirror in mirrors:
        try:
            content = _verified(_read(mirror, file_name, timeout), md5)
        except MirrorFailure as failure:
            reasons.append(f"{mirror}: {failure}")
        else:
            _keep(content, target)
            return content
    raise MirrorsFailed(_all_failed(file_name, folder, reasons), tuple(reasons))


def _read_present(target: Path) -> bytes | None:
    """Return the file's content; None if there is no file."""
    try:
        return read_regular(target)
    # if a parent of the target is a file, `_keep` reports it
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SaveError(f"cannot read {target}: {error}; remove it, or choose another folder (--data-dir).") from error


def _read(mirror: str, file_name: str, timeout: float) -> bytes:
    """Read `file_name` from a mirror; raise `MirrorFailure` with the reason if that fails."""
    # a plain path may contain a colon, as on Windows
    scheme = mirror.partition("://")[0].lower() if "://" in mirror else ""
    if scheme in ("http", "https"):
        return receive(f"{mirror.rstrip('/')}/{file_name}", file_name, timeout)
    if scheme not in ("", "file"):
        raise MirrorFailure(f"{scheme}:// is not supported; give an http(s) or file:// URL, or a folder")
    # url2pathname decodes percent escapes and, on Windows, drive letters
    folder = Path(url2pathname(urlsplit(mirror).path)) if scheme else Path(mirror).expanduser()
    try:
        return read_regular(folder / file_name)
    except FileNotFoundError:
        raise MirrorFailure(f"{file_name} is missing in this folder" if folder.is_dir() else "no such folder") from None
    except OSError as error:
        raise MirrorFailure(f"cannot be read: {error.strerror or error}") from error


def _verified(content: bytes, md5: str) -> bytes:
    """Return the content; raise `MirrorFailure` if its checksum is wrong."""
    received = _checksum(content)
    if received == md5:
        return content
    start = content[:200].lstrip().lower()  # captive portals and expired links answer with an HTML page
    hint = ": received a web page instead" if start.startswith((b"<!doctype", b"<html")) else ""
    raise MirrorFailure(f"wrong checksum{hint} ({len(content):,} bytes with MD5 {received}, expected {md5})")


def _checksum(content: bytes) -> str:
    # MD5 is what the mirrors publish; it detects damage, not attacks
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _keep(content: bytes, target: Path) -> None:
    """Write the file atomically: a temporary file in the same folder, renamed when complete."""
    # a random suffix, so that concurrent runs do not write to the same temporary file
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(target)
        finally:
            # after a successful rename there is nothing left to remove
            part.unlink(missing_ok=True)
    except OSError as error:
        raise SaveError(
            f"cannot write {target}: {error.strerror or error}; free some space, or choose another folder (--data-dir)."
        ) from error


def _all_failed(file_name: str, folder: Path, reasons: list[str]) -> str:
    lines = "".join(f"  {reason}\n" for reason in reasons) or "  (no mirrors were given)\n"
    return (
        f"no mirror delivered {file_name}:\n{lines}"
        f"To continue offline, put the data set's files into {folder}, or name a folder that has them with "
        "--mirror FOLDER or the environment variable PELLUCID_MIRROR, or use --dataset digits."
    )
