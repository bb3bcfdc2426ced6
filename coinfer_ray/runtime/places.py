"""What a user names as the place of files, opened: a path, or the address of a store (``s3://bucket/prefix``)."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from coinfer_ray.errors import InputError, call
from coinfer_ray.runtime.address import SCHEMES, Place, as_address
from coinfer_ray.runtime.cache import cache_folder
from coinfer_ray.runtime.files import LOCK_FILE, is_file_at, write_whole
from coinfer_ray.runtime.object_store import ObjectStore
from coinfer_ray.runtime.stores import Folder, Store

KEPT_BYTES = 5_000_000_000  # of all copies of what lies at addresses that no process uses
KEPT_DAYS = 90.0  # since a copy was last used
DAY_S = 86_400
COPY = re.compile(r"[0-9a-f]{24}")  # the name of a copy's folder
LEFT = re.compile(r"\.coinfer-[0-9a-f]{24}\.\d+")  # and of one that is being removed
_in_use: dict[Path, IO[str]] = {}


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
    is fetched anew; messages name the address. Of the copies that no process uses the last used are kept, each while it
    fits with those used since into :data:`KEPT_BYTES`; none that was not used for :data:`KEPT_DAYS`. ``what`` it is
    ("records") begins the message where it is not there.

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
    try:
        _use(folder)
    except OSError as error:
        raise InputError(f"{what}: {folder} cannot be written ({error.strerror}); set COINFER_CACHE_DIR") from None
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
    remove_unused(root)
    call(str(folder / base), head)
    return folder / base


def _use(folder: Path) -> None:
    """Make ``folder`` where it is not, and hold it against :func:`remove_unused` as long as this process lives."""
    import fcntl

    while folder not in _in_use:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / LOCK_FILE).open("a")
        except FileNotFoundError:
            continue  # removed between the two calls
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not is_file_at(lock.fileno(), folder / LOCK_FILE):
            lock.close()
            continue  # removed while we waited
        _in_use[folder] = lock
    os.utime(folder / LOCK_FILE)


def remove_unused(root: Path, kept_bytes: int = KEPT_BYTES, kept_days: float = KEPT_DAYS) -> None:
    """Bound the copies below ``root`` as :func:`local_copy` says, and finish what a killed process was removing.

    Copies in use are neither removed nor counted; what cannot be removed stays.
    """
    import fcntl

    copies = []
    for folder in root.iterdir():
        with suppress(OSError):
            if COPY.fullmatch(folder.name):
                files = [path.stat() for path in folder.rglob("*") if path.is_file()]
                lock = folder / LOCK_FILE
                used_s = (lock if lock.exists() else folder).stat().st_mtime
                copies.append((used_s, sum(file.st_size for file in files), folder))
            elif LEFT.fullmatch(folder.name):
                with (folder / LOCK_FILE).open("a") as held:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a remover that lives holds it
                    shutil.rmtree(folder)
    total = 0
    for used_s, size, folder in sorted(copies, reverse=True):
        lock = folder / LOCK_FILE
        begun = lock.exists()
        with suppress(OSError), lock.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_file_at(held.fileno(), lock):
                continue  # another process has removed it, and somebody may have fetched it anew
            if not begun:
                os.utime(lock, (used_s, used_s))  # a lock of ours is no use of the copy
            if total + size <= kept_bytes and time.time() - used_s <= kept_days * DAY_S:
                total += size
                continue
            # Out of the way first, whole: who wants it meanwhile makes it anew.
            shutil.rmtree(folder.rename(folder.with_name(f".coinfer-{folder.name}.{os.getpid()}")))


def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="coinfer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
