"""The folder of compiled steps: private, bounded, and safe to share between processes.

What lies there is loaded as code. So the folder belongs to the user alone (0700), and a file that
another user owns, or that group or others may write to, is never loaded. A file is written under a
temporary name and moved into place, so that none is ever half there; its digest lies beside it, so
that a damaged one is seen, and built again. Beside the artifacts lie notes (plain data, JSON) that
say which of them belong to a field.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import atomic_path
from ..errors import IsoclineError

__all__ = ["Cache", "CacheError", "Contents", "default_folder"]

_MAX_BYTES = 512 * 2**20
_MAX_NOTES = 4096
_MAX_NOTE_BYTES = 2**20
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

_BUILDING = threading.Lock()
"""One build at a time in a process: the compiler is told by the environment where to work."""


class CacheError(IsoclineError, OSError):
    """The cache folder cannot be trusted or written to."""


def default_folder() -> Path:
    """`ISOCLINE_CACHE_DIR`, or `isocline` in the user's cache folder."""
    named = os.environ.get("ISOCLINE_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "isocline"
    except RuntimeError as error:
        raise CacheError(f"{error} Set ISOCLINE_CACHE_DIR to a folder of your own.") from error


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a cache.

    Attributes:
        folder: where it is.
        artifacts: how many there are.
        size: bytes of these and of the notes.
        headers: bytes of headers that the compiler has read already.
        entries: how many notes there are of what fields were compiled to.
    """

    folder: Path
    artifacts: int
    size: int
    headers: int
    entries: int

    def summary(self) -> dict[str, str]:
        """The same for a table."""
        return {
            "folder": str(self.folder),
            "artifacts": str(self.artifacts),
            "size": f"{self.size / 2**20:.1f} MiB",
            "precompiled headers": f"{self.headers / 2**20:.1f} MiB",
            "index entries": str(self.entries),
        }


class Cache:
    """Artifacts by key.

    Args:
        folder: where; by default `default_folder()`. It is made when something is to be kept.
        max_bytes: beyond this the artifacts that were not used for the longest time go.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = _MAX_BYTES) -> None:
        self.folder = default_folder() if folder is None else folder
        self.max_bytes = max_bytes

    def get(self, key: str, build: Callable[[Path], Path]) -> Path:
        """The artifact of `key`, built if it is not there.

        Args:
            key: letters and digits.
            build: makes it in the empty private folder that it is given, and says where it is.

        Raises:
            CacheError: if the folder or an artifact belongs to someone else, or cannot be read or
                written to.
        """
        try:
            return self._got(key, build)
        except CacheError:
            raise
        except OSError as error:
            raise CacheError(f"the cache folder {self.folder} cannot be used: {error}") from error

    def _got(self, key: str, build: Callable[[Path], Path]) -> Path:
        self._prepare()
        path = self.folder / f"{key}.so"
        if not self._whole(path):
            with _BUILDING:
                if not self._whole(path):  # no other thread has built it meanwhile
                    with self._workspace(key) as workspace:
                        self._keep(build(workspace), path)
                    self._shrink(path)
        with contextlib.suppress(OSError):  # a read-only file system may hold artifacts too
            os.utime(path)
        return path

    def find(self, key: str) -> Path | None:
        """The artifact of `key` if it is there, whole and private.

        Raises:
            CacheError: as `get`.
        """
        try:
            _demand_private(self.folder)
            path = self.folder / f"{key}.so"
            if not self._whole(path):
                return None
        except FileNotFoundError:
            return None
        except CacheError:
            raise
        except OSError as error:
            raise CacheError(f"the cache folder {self.folder} cannot be used: {error}") from error
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def headers(self) -> Path:
        """A private folder for headers that the compiler has read already."""
        return self._inner("headers")

    # --- notes ----------------------------------------------------------------------------

    def noted(self, key: str) -> Any | None:
        """The plain data that were noted under `key`; None if there are none, or damaged ones.

        Raises:
            CacheError: if the folder or the note belongs to someone else: it says what to run.
        """
        path = self.folder / "index" / f"{key}.json"
        try:
            for place in (self.folder, path.parent, path):
                _demand_private(place)
            with path.open("rb") as file:
                checksum, _, text = file.read(_MAX_NOTE_BYTES + 1).partition(b"\n")
            if hashlib.sha256(key.encode() + text).hexdigest().encode() != checksum:
                return None
            found = json.loads(text)
        except CacheError:
            raise
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    def note(self, key: str, found: Any) -> None:
        """Note plain data under `key`, for `noted`. What cannot be written is let go."""
        text = json.dumps(found).encode()
        if len(text) > _MAX_NOTE_BYTES // 2:
            return
        self._prepare()
        path = self._inner("index") / f"{key}.json"
        checksum = hashlib.sha256(key.encode() + text).hexdigest().encode()
        with contextlib.suppress(OSError):
            with atomic_path(path) as temporary:
                temporary.write_bytes(checksum + b"\n" + text)
                temporary.chmod(0o600)
            notes = _by_use(path.parent.glob("*.json"))
            for old in notes[: max(0, len(notes) - _MAX_NOTES)]:
                old.unlink(missing_ok=True)

    def contents(self) -> Contents:
        """How much there is of everything."""
        sizes = [path.stat().st_size for path in self._artifacts()]
        files = [path for path in (self.folder / "headers").rglob("*") if path.is_file()]
        headers = sum(path.stat().st_size for path in files)
        notes = [path.stat().st_size for path in (self.folder / "index").glob("*.json")]
        return Contents(self.folder, len(sizes), sum(sizes) + sum(notes), headers, len(notes))

    def clear(self) -> Contents:
        """Remove every artifact and note; what was removed."""
        found = self.contents()
        for path in self._artifacts():
            _remove(path)
        for name in ("headers", "index"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return found

    # --- the folder -----------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"the cache folder {self.folder} cannot be made: {error}") from error
        _demand_private(self.folder)

    def _inner(self, name: str) -> Path:
        """A private folder inside of the cache."""
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        _demand_private(folder)
        return folder

    @contextlib.contextmanager
    def _workspace(self, key: str) -> Iterator[Path]:
        """An empty folder inside the cache, gone afterwards."""
        made = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=self.folder))  # mode 0700
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _keep(self, built: Path, path: Path) -> None:
        """Move what was built into place, its digest first."""
        with atomic_path(_digest_path(path)) as temporary:
            temporary.write_text(_digest(built))
            temporary.chmod(0o600)
        with atomic_path(path) as temporary:
            temporary.write_bytes(built.read_bytes())
            temporary.chmod(0o700)

    def _whole(self, path: Path) -> bool:
        """Whether an artifact is there, ours, and what was written."""
        try:
            _demand_private(path)
            _demand_private(_digest_path(path))
            return _digest_path(path).read_text() == _digest(path)
        except FileNotFoundError:
            return False

    def _artifacts(self) -> list[Path]:
        """Artifacts, the one used last at the end."""
        return _by_use(self.folder.glob("*.so"))

    def _shrink(self, newest: Path) -> None:
        total = self.contents().size
        for path in self._artifacts():
            if total <= self.max_bytes:
                return
            if path != newest:
                total -= path.stat().st_size
                _remove(path)


def _demand_private(path: Path) -> None:
    """Raise unless `path` is the user's own and nobody else can write to it."""
    found = path.lstat()
    where = "Remove it, or set ISOCLINE_CACHE_DIR to a folder of your own."
    if stat.S_ISLNK(found.st_mode) and path.suffix:
        raise CacheError(f"{path} is a symbolic link, and would be run as code. {where}")
    found = path.stat()
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        raise CacheError(f"{path} belongs to another user, and would be run as code. {where}")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.filemode(found.st_mode)
        raise CacheError(
            f"{path} can be written to by others ({mode}), and would be run as code. {where}"
        )


def _by_use(paths: Iterable[Path]) -> list[Path]:
    """Files, the one used last at the end; another process may remove some meanwhile."""
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _digest_path(path).unlink(missing_ok=True)
