"""What a user names as the place of files, opened: a path, or the address of a store (``s3://bucket/prefix``)."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.address import SCHEMES, Place, as_address
from coinfer_ray.runtime.cache import cache_folder
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.runtime.object_store import ObjectStore
from coinfer_ray.runtime.stores import Folder, Store


def open_store(place: Place | Store) -> Store:
    """The store at a path or an address. Nothing is read yet, but for the region of a bucket of AWS.

    Raises:
        InputError: an address of another kind, or one whose store can't be reached.
    """
    if not isinstance(place, str | Path):
        return place
    address = as_address(place)
    if address is None:
        return Folder(place)
    parts = urlsplit(address)
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(f"{address}: no store is reached by {parts.scheme}://; known are {known} and paths")
    if parts.scheme != "file":
        return ObjectStore(address)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise InputError(f"{address}: names no folder; give file:///path/of/the/folder")
    if parts.query or parts.fragment:
        raise InputError(f"{address}: holds a ? or a #; write them as %3F and %23")
    return Folder(unquote(parts.path))


def local_copy(place: Place, what: str) -> Path:
    """The file or folder at ``place`` as one of this machine: itself, or a copy in the user's cache folder.

    A copy is kept under the address and what the store says of its files (name, bytes, time), so that a changed one
    is fetched anew. ``what`` it is ("records") begins the message where it is not there.

    Raises:
        InputError: there is nothing at that address, or its store can't be reached.
    """
    address = as_address(place)
    if address is None:
        return Path(place)
    head, query, parameters = address.partition("?")
    parent, _, base = head.rstrip("/").rpartition("/")
    store = open_store(parent + query + parameters)
    if not isinstance(store, ObjectStore):
        return Path(store.path(unquote(base)))
    files = store.below(base)
    if not files:
        raise InputError(f"{what}: {address} does not exist; check its name")
    listing = repr((head, sorted((name, seen.bytes, seen.time_s) for name, seen in files.items())))
    root = cache_folder("fetched") or _temporary_folder()
    folder = root / hashlib.sha256(listing.encode()).hexdigest()[:24]
    for name, seen in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != seen.bytes:
            content = store.read(name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, lambda temporary, content=content: temporary.write_bytes(content))  # type: ignore[misc]
            except OSError as error:
                raise InputError(
                    f"{what}: {path} cannot be written ({error.strerror}); set COINFER_CACHE_DIR"
                ) from None
    return folder / base


def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="coinfer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
