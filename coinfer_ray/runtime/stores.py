"""Where the files of a run are: a folder, or a prefix of an object store; one small interface to both.

A folder is a :class:`Folder`, on the rules of :mod:`coinfer_ray.runtime.files`. Whatever else pyarrow reaches by an
address is an :class:`coinfer_ray.runtime.object_store.ObjectStore`. Names in a store are relative, with slashes;
those that begin with ``_`` or a dot are no results.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import LOCK_FILE, RUN_FILE, read_holder, read_run, run_folder, write_whole

_PIECE = 1 << 22  # bytes


@dataclass(frozen=True)
class Seen:
    """A file as its store lists it: ``bytes`` long, written at ``time_s`` (seconds since 1970, the store's clock)."""

    bytes: int
    time_s: float


class Store(Protocol):
    """The place of one run's files. ``str(store)`` is what its user called it."""

    readers: int
    """How many files are worth reading at a time."""

    @property
    def address(self) -> str:
        """What :func:`open_store` takes on another machine."""

    def path(self, name: str) -> str:
        """A file's name in messages."""

    def run(self, kind: str, settings: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Hold the store for one run, as :func:`coinfer_ray.runtime.files.run_folder`."""

    def has_run(self) -> bool:
        """Whether a run has claimed the store."""

    def read_run(self) -> dict[str, Any]:
        """As :func:`coinfer_ray.runtime.files.read_run`."""

    def holder(self) -> str | None:
        """As :func:`coinfer_ray.runtime.files.read_holder`."""

    def held_by(self) -> str | None:
        """The process that works on the store now, in words; None where none does."""

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError where it is not there."""

    def write(self, name: str, content: Any) -> None:
        """Write a buffer as a file, which appears whole. Raises InputError where the store does not take it."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """The bytes of those of the files that are there."""

    def crc32(self, name: str) -> int | None:
        """A file's CRC-32, by reading it; None where it cannot be."""

    def results(self) -> dict[str, Seen]:
        """The files of results."""

    def working_folder(self, beginning: str) -> AbstractContextManager[Path]:
        """A folder of this machine with the store's files whose names begin so; what changes there changes here."""

    @property
    def arrow(self) -> tuple[Any, str]:
        """pyarrow's file system, None for this machine's, and the path of this store in it."""


class Folder:
    """A folder that this machine sees."""

    readers = 1

    def __init__(self, path: str | Path) -> None:
        self.folder = Path(path)

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def address(self) -> str:
        return str(self.folder.resolve())

    @property
    def arrow(self) -> tuple[Any, str]:
        return None, str(self.folder)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @contextmanager
    def run(self, kind: str, settings: Mapping[str, Any]) -> Iterator[None]:
        with run_folder(self.folder, kind, settings):
            yield

    def has_run(self) -> bool:
        return (self.folder / RUN_FILE).exists()

    def read_run(self) -> dict[str, Any]:
        return read_run(self.folder)

    def holder(self) -> str | None:
        return read_holder(self.folder)

    def held_by(self) -> str | None:
        """Asked with a shared lock, which is refused while a process holds the folder."""
        import fcntl

        try:
            with (self.folder / LOCK_FILE).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self.holder()
        except OSError:
            return None
        return None

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: Any) -> None:
        path = self.folder / name

        def fill(temporary: Path) -> None:
            if "/" in name:
                path.parent.mkdir(exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)

        try:
            write_whole(path, fill)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise InputError(
                    f"out: no space is left for {self}; make room and run again, what is done stays"
                ) from None
            raise InputError(
                f"out: {path} cannot be written ({error.strerror or error}); run again when it can be, what is done "
                "stays"
            ) from None

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        paths = {name: self.folder / name for name in names}
        return {name: path.stat().st_size for name, path in paths.items() if path.is_file()}

    def crc32(self, name: str) -> int | None:
        try:
            with (self.folder / name).open("rb") as file:
                return crc32_of(file)
        except OSError:
            return None

    def results(self) -> dict[str, Seen]:
        paths = [path for pattern in ("*", "*/*") for path in self.folder.glob(pattern)]
        files = [path for path in paths if path.is_file() and not path.name.startswith((".", "_"))]
        found = [(path.relative_to(self.folder).as_posix(), path.stat()) for path in files]
        return {name: Seen(stat.st_size, stat.st_mtime) for name, stat in found}

    @contextmanager
    def working_folder(self, beginning: str) -> Iterator[Path]:
        yield self.folder


def crc32_of(file: Any) -> int:
    """The CRC-32 of an open file's bytes, a piece at a time."""
    crc32 = 0
    while piece := file.read(_PIECE):
        crc32 = zlib.crc32(piece, crc32)
    return crc32
