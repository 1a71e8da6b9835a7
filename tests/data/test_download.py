"""Files come from the first working mirror, and only verified content is returned or stored."""

import hashlib
import os
import socket
import threading
from pathlib import Path
from time import monotonic, sleep

import pytest

from pellucid.core.errors import DownloadError, SaveError
from pellucid.data._download import MirrorsFailed, fetch

NAME = "small.gz"
FAULTS = {
    "truncated": "truncated: got 150,000 of 300,000 bytes",
    "chunked": "truncated: the connection ended before the file did",
    "missing": "answered 404 Not Found",
    "failing": "answered 500 Internal Server Error",
    "wrong": "wrong checksum (300,000 bytes with MD5 ",
    "page": "wrong checksum: received a web page instead",
    "silent": "timed out: no data for 0.5 s",
    "stalling": "timed out: no data for 0.5 s",
    "trickling": "too slow: ",
    "slow_header": "timed out: ",
    "extending": "timed out: no data for 0.5 s",
    "trailing": "timed out: no data for 0.5 s",
    "hanging_up": "the connection broke (",
    "garbage": "the connection broke (",
    "huge": "announces 1,099,511,627,776 bytes",
    "to_disk": "answered 302 Found - Redirection to url 'file:///etc/small.gz' is not allowed",
    "to_ftp": "unknown url type: ftp",
}


@pytest.fixture
def content(mirror) -> bytes:
    return mirror.files[NAME]


@pytest.fixture
def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.mark.parametrize("kind", ["healthy", "unsized", "moved"])
def test_a_healthy_mirror_delivers(mirror, content, md5, tmp_path: Path, kind: str) -> None:
    assert fetch(NAME, md5, tmp_path / "new" / "folder", [mirror / kind]) == content
    assert (tmp_path / "new" / "folder" / NAME).read_bytes() == content
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [NAME]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_mirror_is_skipped(mirror, content, md5, tmp_path: Path, fault: str) -> None:
    assert fetch(NAME, md5, tmp_path, [mirror / fault, mirror / "healthy"], timeout=0.5) == content
    assert mirror.requests == [f"/{fault}/{NAME}", f"/healthy/{NAME}"]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).read_bytes() == content


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_reported_and_leaves_no_files(mirror, md5, tmp_path: Path, fault: str) -> None:
    started = monotonic()
    with pytest.raises(DownloadError) as caught:
        fetch(NAME, md5, tmp_path, [mirror / fault], timeout=0.5)
    assert monotonic() - started < 3
    assert f"\n  {mirror / fault}: {FAULTS[fault]}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_error_lists_all_mirrors_and_explains_how_to_continue(mirror, dead_address, md5, tmp_path: Path) -> None:
    mirrors = [
        mirror / "missing",
        dead_address,
        str(tmp_path / "nowhere"),
        "ftp://example.org",
        "http://",
        tmp_path.as_uri(),
    ]
    with pytest.raises(MirrorsFailed) as caught:
        fetch(NAME, md5, tmp_path / "data", mirrors)
    lines = str(caught.value).splitlines()
    assert lines == [
        "no mirror delivered small.gz:",
        f"  {mirrors[0]}: answered 404 Not Found",
        f"  {mirrors[1]}: connection refused",
        f"  {mirrors[2]}: no such folder",
        "  ftp://example.org: ftp:// is not supported; give an http(s) or file:// URL, or a folder",
        f"  http://: {lines[5].partition(': ')[2]}",
        f"  {mirrors[5]}: small.gz is missing in this folder",
        (
            f"To continue offline, put the data set's files into {tmp_path / 'data'}, or name a folder that has them "
            "with --mirror FOLDER or the environment variable PELLUCID_MIRROR, or use --dataset digits."
        ),
    ]
    assert [f"  {reason}" for reason in caught.value.reasons] == lines[1:-1]


@pytest.mark.parametrize("form", ["folder", "file URL"])
def test_a_folder_is_a_mirror(tmp_path: Path, content, md5, form: str) -> None:
    there = tmp_path / "with space and %"
    there.mkdir()
    (there / NAME).write_bytes(content)
    assert fetch(NAME, md5, tmp_path / "data", [str(there) if form == "folder" else there.as_uri()]) == content


def test_a_valid_file_is_used_without_network_access(mirror, content, md5, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert fetch(NAME, md5, tmp_path, [mirror / "healthy"]) == content
    assert mirror.requests == []


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_damaged_file_is_downloaded_again(mirror, content, md5, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / NAME).write_bytes(damage)
    assert fetch(NAME, md5, tmp_path, [mirror / "wrong", mirror / "healthy"]) == content
    assert (tmp_path / NAME).read_bytes() == content


def test_a_damaged_file_is_never_used_and_replaced_only_by_a_valid_one(mirror, md5, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"half")
    with pytest.raises(DownloadError, match=r"small\.gz: damaged \(wrong checksum\)"):
        fetch(NAME, md5, tmp_path, [mirror / "wrong"])
    assert (tmp_path / NAME).read_bytes() == b"half"


def test_a_disk_failure_is_not_a_mirror_failure(mirror, md5, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(SaveError, match=r"cannot write .*--data-dir"):
        fetch(NAME, md5, tmp_path / "taken" / "data", [mirror / "healthy", mirror / "healthy"])
    assert mirror.requests == [f"/healthy/{NAME}"]


def test_a_folder_instead_of_the_file_is_refused(content, md5, tmp_path: Path) -> None:
    (tmp_path / "data" / NAME).mkdir(parents=True)
    with pytest.raises(SaveError, match=r"cannot read .*small\.gz"):
        fetch(NAME, md5, tmp_path / "data", [])
    with pytest.raises(DownloadError, match="cannot be read: Is a directory"):
        fetch(NAME, md5, tmp_path / "other", [str(tmp_path / "data")])


def test_an_unresolvable_host_name_is_reported(md5, tmp_path: Path, monkeypatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DownloadError, match=r"the server's name could not be resolved \(Name or service not known\)"):
        fetch(NAME, md5, tmp_path, ["http://mirror.invalid"])


def test_a_slow_but_steady_mirror_is_not_cut_off(mirror, content, md5, tmp_path: Path) -> None:
    started = monotonic()
    assert fetch(NAME, md5, tmp_path, [mirror / "slow"], timeout=0.2) == content
    assert monotonic() - started > 0.2


def test_a_steady_mirror_is_cut_off_after_the_total_time(mirror, md5, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pellucid.data._web.MOST_SECONDS", 0.1)
    with pytest.raises(DownloadError, match=r"too slow: [\d,]+ bytes in 0 s, the limit for a file"):
        fetch(NAME, md5, tmp_path, [mirror / "slow"], timeout=0.5)


def test_no_thread_reads_on_after_a_failure(mirror, md5, tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(DownloadError):
        fetch(NAME, md5, tmp_path, [mirror / "trickling", mirror / "extending"], timeout=0.3)
    mirror.released.set()  # ends the threads of the server
    ends = monotonic() + 5
    while threading.active_count() > before and monotonic() < ends:
        sleep(0.02)
    assert threading.active_count() <= before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("place", ["mirror", "target"])
def test_a_pipe_is_not_waited_for(content, md5, tmp_path: Path, place: str) -> None:
    folders = {name: tmp_path / name for name in ("mirror", "target")}
    for folder in folders.values():
        folder.mkdir()
    (folders["mirror"] / NAME).write_bytes(content)
    (folders[place] / NAME).unlink(missing_ok=True)
    os.mkfifo(folders[place] / NAME)
    with pytest.raises(DownloadError if place == "mirror" else SaveError, match="it is not a regular file"):
        fetch(NAME, md5, folders["target"], [str(folders["mirror"])])


@pytest.mark.parametrize(
    ("error", "expected"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "full"), SaveError)]
)
def test_no_partial_files_remain(mirror, md5, tmp_path: Path, monkeypatch, error, expected) -> None:
    def interrupted(self: Path, target: Path) -> None:
        assert self.exists()
        raise error

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(expected):
        fetch(NAME, md5, tmp_path, [mirror / "healthy"])
    assert list(tmp_path.iterdir()) == []


def test_an_endless_response_is_cut_off(mirror, md5, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pellucid.data._web.MOST_BYTES", 200_000)
    with pytest.raises(DownloadError, match="sent more than 200,000 bytes"):
        fetch(NAME, md5, tmp_path, [mirror / "unsized"])
