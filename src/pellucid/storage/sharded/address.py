"""Address of a store: a folder, or anything that fsspec understands, such as `s3://bucket/maps.zarr`."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from pellucid.core.errors import SaveError

__all__ = ["Address"]

CONTINUE = " Finished shards are intact; repeat the call to continue."


@dataclass(frozen=True)
class Address:
    """The root of a store, and the files below it, each named by its key: a relative path with `/`."""

    text: str

    @classmethod
    def of(cls, path: "str | os.PathLike[str] | Address") -> "Address":
        """Return the address of a path; `~` is expanded, and a local path becomes absolute.

        >>> Address.of("s3://bucket/maps.zarr/").text
        's3://bucket/maps.zarr'
        """
        if isinstance(path, Address):
            return path
        text = os.fspath(path)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        if "://" in text:
            return cls(text.rstrip("/"))
        return cls(str(Path(text).expanduser().absolute()))

    def __str__(self) -> str:
        return self.text

    @property
    def folder(self) -> Path | None:
        """The local folder; None for an address elsewhere."""
        return None if "://" in self.text else Path(self.text)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.text.rsplit("/", 1)[-1] if self.folder is None else self.folder.name

    def sibling(self, name: str) -> "Address":
        """Return the address of `name` beside this one."""
        if self.folder is not None:
            return Address(str(self.folder.with_name(name)))
        return Address(f"{self.text.rsplit('/', 1)[0]}/{name}")

    def zarr_store(self, *, read_only: bool = False) -> Any:
        """Open the address for the zarr library."""
        from zarr.storage import FsspecStore, LocalStore

        if self.folder is not None:
            return LocalStore(self.folder, read_only=read_only)
        with self.reporting("opened"):
            return FsspecStore.from_url(self.text, read_only=read_only)

    def read(self, key: str = "") -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        try:
            if self.folder is not None:
                return (self.folder / key).read_bytes()
            return bytes(self._remote[0].cat_file(self._path(key)))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except Exception as error:
            if isinstance(error, SaveError):
                raise
            raise self._failed("read", key, error) from error

    def names(self, key: str = "") -> Iterable[str]:
        """Return the names in a folder, in any order; none if it does not exist."""
        try:
            if self.folder is not None:
                with os.scandir(self.folder / key) as entries:
                    return [entry.name for entry in entries]
            self._remote[0].invalidate_cache()
            found = self._remote[0].ls(self._path(key), detail=False)
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in found]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as error:
            if isinstance(error, SaveError):
                raise
            raise self._failed("listed", key, error) from error

    def write(self, key: str, content: bytes) -> None:
        """Replace a file by `content`; readers see the old or the new content."""
        with self.reporting("written", key):
            if self.folder is None:
                self._remote[0].pipe_file(self._path(key), content)
                return
            self._temporary(key, content).replace(self.folder / key)
            self._sync_folder(key)

    def create(self, key: str, content: bytes) -> bool:
        """Write a new file and return True; leave an existing one as it is and return False."""
        with self.reporting("written", key):
            if self.folder is None:
                return self._create_remote(key, content)
            temporary = self._temporary(key, content)
            try:
                # unlike a rename, a link fails if the name is taken, by however many processes at once
                os.link(temporary, self.folder / key)
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                if (self.folder / key).exists():
                    return False
                temporary.replace(self.folder / key)
            finally:
                temporary.unlink(missing_ok=True)
            self._sync_folder(key)
        return True

    def _create_remote(self, key: str, content: bytes) -> bool:
        files, path = self._remote[0], self._path(key)
        if files.exists(path):
            return False
        try:
            files.pipe_file(path, content, mode="create")
        except (TypeError, NotImplementedError, ValueError):  # a file system without conditional writes
            files.pipe_file(path, content)
        except Exception:
            # each storage reports in its own way that another process was faster
            files.invalidate_cache()
            if not files.exists(path):
                raise
            return False
        return True

    def sync(self, keys: Iterable[str]) -> None:
        """Flush local files to disk, so that a power failure can't leave a mark without its data."""
        if self.folder is None:
            return
        with self.reporting("written"):
            for key in keys:
                descriptor = os.open(self.folder / key, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    @contextmanager
    def reporting(self, done: str, key: str = "") -> Iterator[None]:
        """Turn any failure of the storage into a `SaveError` with its reason; `done` names what failed."""
        try:
            yield
        except SaveError:
            raise
        except OSError as error:
            raise self._failed(done, key, error) from error
        except Exception as error:
            # the errors of object stores have no common base class
            if self.folder is not None:
                raise
            raise self._failed(done, key, error) from error

    def _failed(self, done: str, key: str, error: Exception) -> SaveError:
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, ImportError):
            return SaveError(f"{self.text} needs a library that is not installed: {error}")
        reason = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is exceeded; free some space",
            errno.EROFS: "the disk is read-only",
            errno.EACCES: "permission denied",
        }.get(number or 0, (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}")
        where = f"{self.text}/{key}" if key else self.text
        return SaveError(f"{where} cannot be {done}: {reason.rstrip('.')}.{CONTINUE if done == 'written' else ''}")

    def _temporary(self, key: str, content: bytes) -> Path:
        """Write a new file beside the one named by `key`, and return its path."""
        assert self.folder is not None
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        # the suffix of the zarr library's own temporary files
        temporary = path.with_name(f"{path.name}.{uuid4().hex}.partial")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _sync_folder(self, key: str) -> None:
        assert self.folder is not None
        if os.name == "posix":
            descriptor = os.open((self.folder / key).parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _path(self, key: str) -> str:
        root: str = self._remote[1]
        return f"{root}/{key}" if key else root

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        import fsspec

        with self.reporting("opened"):
            files, path = fsspec.url_to_fs(self.text, use_listings_cache=False)
        return files, path.rstrip("/")
