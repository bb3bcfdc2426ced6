"""What a sweep's folder holds: every finished file with its rows, its size and a checksum."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.version import __version__

MANIFEST_FILE = "_manifest.json"
STRATEGIES_FILE = "_strategies.parquet"
MANIFEST_FORMAT = 1
_EVERY_S = 1.0  # between two writings: what a kill can cost, at most, beside the chunks in hand
_PIECE = 1 << 22


@dataclass(frozen=True)
class Written:
    """A finished file: its rows, its bytes, and their CRC-32."""

    rows: int
    bytes: int
    crc32: int

    @classmethod
    def of(cls, rows: int, content: Any) -> Written:
        """Of a file with so many rows and that ``content`` (a buffer)."""
        return cls(rows, memoryview(content).nbytes, zlib.crc32(content))

    def is_at(self, path: Path) -> bool:
        """Whether the file at ``path`` is this one, to the bit."""
        try:
            if path.stat().st_size != self.bytes:
                return False
            crc32 = 0
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    crc32 = zlib.crc32(piece, crc32)
        except OSError:
            return False
        return crc32 == self.crc32


@dataclass
class Manifest:
    """The finished files of a folder by their path in it, and the table of ``strategies`` beside them.

    It is ``complete`` once no scenario is missing.
    """

    folder: Path
    files: dict[str, Written] = field(default_factory=dict)
    strategies: Written | None = None
    complete: bool = False
    _saved: float = 0.0

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """The folder's manifest; an empty one where there is none yet.

        Raises:
            InputError: it cannot be read.
        """
        path = Path(folder) / MANIFEST_FILE
        try:
            document = json.loads(path.read_text())
            if document["format"] != MANIFEST_FORMAT:
                raise ValueError(f"of format {document['format']}, not {MANIFEST_FORMAT}")
            files = {name: Written(**entry) for name, entry in document["files"].items()}
            strategies = document["strategies"] and Written(**document["strategies"])
            return cls(Path(folder), files, strategies, bool(document["complete"]))
        except FileNotFoundError:
            return cls(Path(folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: cannot be read ({reason}); remove it, and the sweep's next run writes all files anew"
            ) from None

    @property
    def rows(self) -> int:
        return sum(written.rows for written in self.files.values())

    @property
    def bytes(self) -> int:
        return sum(written.bytes for written in self.files.values())

    def add(self, name: str, written: Written) -> None:
        """Take note of a finished file; on the disk a second later, at the latest with the next one."""
        self.files[name] = written
        if time.monotonic() - self._saved >= _EVERY_S:
            self.save()

    def save(self) -> None:
        """Write it whole."""
        document = {
            "format": MANIFEST_FORMAT,
            "version": __version__,
            "rows": self.rows,
            "bytes": self.bytes,
            "complete": self.complete,
            "strategies": self.strategies and asdict(self.strategies),
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
        }
        text = json.dumps(document, indent=1) + "\n"
        write_whole(self.folder / MANIFEST_FILE, lambda temporary: temporary.write_text(text))
        self._saved = time.monotonic()

    def damaged(self) -> Iterator[str]:
        """The files that are not there as they were written, by reading all of them."""
        beside = {} if self.strategies is None else {STRATEGIES_FILE: self.strategies}
        for name, written in sorted({**self.files, **beside}.items()):
            if not written.is_at(self.folder / name):
                yield name
