"""What a sweep's store holds: every finished file with its rows, its size and a checksum."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.address import Place
from coinfer_ray.runtime.places import open_store
from coinfer_ray.runtime.stores import Store
from coinfer_ray.version import __version__

MANIFEST_FILE = "_manifest.json"
STRATEGIES_FILE = "_strategies.parquet"
MANIFEST_FORMAT = 1
_EVERY_S = 1.0  # between two writings: what a kill can cost, at most, beside the chunks in hand
_SHARE = 0.05  # of the time that writing it may take, where the store is slow


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


@dataclass
class Manifest:
    """The finished files of a store by their names in it, and the table of ``strategies`` beside them.

    It is ``complete`` once no scenario is missing.
    """

    store: Store
    files: dict[str, Written] = field(default_factory=dict)
    strategies: Written | None = None
    complete: bool = False
    _saved: float = 0.0
    _every_s: float = _EVERY_S

    @classmethod
    def read(cls, place: Place | Store) -> Manifest:
        """The manifest of a folder, an address or a store; an empty one where there is none yet.

        Raises:
            InputError: it cannot be read.
        """
        store = open_store(place)
        try:
            document = json.loads(store.read(MANIFEST_FILE))
            if document["format"] != MANIFEST_FORMAT:
                raise ValueError(f"of format {document['format']}, not {MANIFEST_FORMAT}")
            files = {name: Written(**entry) for name, entry in document["files"].items()}
            strategies = document["strategies"] and Written(**document["strategies"])
            return cls(store, files, strategies, bool(document["complete"]))
        except FileNotFoundError:
            return cls(store)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{store.path(MANIFEST_FILE)}: cannot be read ({reason}); remove it, and the sweep's next run writes "
                "all files anew"
            ) from None

    @property
    def rows(self) -> int:
        return sum(written.rows for written in self.files.values())

    @property
    def bytes(self) -> int:
        return sum(written.bytes for written in self.files.values())

    def add(self, name: str, written: Written) -> None:
        """Take note of a finished file; in the store a second later, at the latest with the next one."""
        self.files[name] = written
        if time.monotonic() - self._saved >= self._every_s:
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
        began = time.monotonic()
        self.store.write(MANIFEST_FILE, text.encode())
        self._saved = time.monotonic()
        self._every_s = max(_EVERY_S, (self._saved - began) / _SHARE)

    def whole(self, names: Iterable[str]) -> set[str]:
        """Those of ``names`` (:data:`STRATEGIES_FILE` may be one) whose files are there as they were written, to the
        bit: first by their sizes, then by reading them."""
        listed = {**self.files, **({} if self.strategies is None else {STRATEGIES_FILE: self.strategies})}
        known = [name for name in names if name in listed]
        sizes = self.store.sizes(known)
        likely = [name for name in known if sizes.get(name) == listed[name].bytes]
        if self.store.readers == 1 or len(likely) < 2:
            found = [self.store.crc32(name) for name in likely]
        else:
            with ThreadPoolExecutor(self.store.readers) as readers:
                found = list(readers.map(self.store.crc32, likely))
        return {name for name, crc32 in zip(likely, found, strict=True) if crc32 == listed[name].crc32}

    def damaged(self) -> Iterator[str]:
        """The files that are not there as they were written, by reading all of them."""
        names = [*self.files, *([] if self.strategies is None else [STRATEGIES_FILE])]
        yield from sorted(set(names) - self.whole(names))
