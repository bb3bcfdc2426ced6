"""Output folders that survive a kill: files that appear whole, one driver at a time, one run per folder.

Every file of a run is written under a temporary name in its own folder and moved into place, so a reader never
sees half of one and a killed writer leaves nothing but a temporary, which the next driver removes. The names of
temporaries begin with a dot, which pyarrow's data sets ignore.

Nothing of the user's is ever touched. Only names that begin with ``.coinfer`` are removed, and only in a folder that
a run of ours has claimed; a run that is refused leaves its folder as it was.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.address import refuse_address

RUN_FILE = "_run.json"  # pyarrow's data sets pass over names that begin with _ or a dot
LOCK_FILE = ".coinfer.lock"
RUN_FORMAT = 1
_ASKED_S = 0.05
TEMPORARY = re.compile(r"\.coinfer-.+\.\d+\.[0-9a-f]{12}\.tmp")  # as write_whole names them
_SHOWN = 60  # characters of a setting's value in an error message


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it to ``path``.

    The temporary's name is unique to this call, so that two attempts at the same file (a worker believed dead
    and its replacement) never share one; the last to finish wins whole. Where ``path`` is a symbolic link, the file
    that it leads to is written.

    Raises:
        OSError: it cannot be written; its ``filename`` is ``path``.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    temporary = path.with_name(f".coinfer-{path.name}.{os.getpid()}.{secrets.token_hex(6)}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as written:  # a name must never reach the disk before the bytes it stands for
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # in a folder that can be written no more it stays, for the next run
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from None  # the name that a user knows
        raise


@contextmanager
def run_folder(
    folder: str | Path, kind: str, settings: Mapping[str, Any], *, joins: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Hold ``folder`` for one run: as its only driver, claimed for it, what a killed run left behind removed.

    ``kind`` and ``settings`` as in :func:`claim_folder`. ``joins`` says of a folder that some run has claimed whether
    this one may add to it all the same; it may raise InputError to refuse in its own words.

    A run that ends with an InputError before it has written anything leaves the folder as it was: not created, not
    claimed, without a lock.

    Raises:
        InputError: another process holds the folder, it belongs to another run or to nobody of ours, or it cannot
            be written.
    """
    folder = Path(folder)
    wanted = claim_document(kind, settings)
    _check_claim(folder, wanted, joins)  # before the lock, which would be the first thing to be written there
    fresh = not (folder / RUN_FILE).exists()
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with single_writer(folder):
            try:
                claim_folder(folder, kind, settings, joins=joins)
                _remove_temporaries(folder)
                yield folder
            except InputError:
                if fresh:
                    with suppress(OSError):  # a folder that can be written no more
                        _withdraw(folder, wanted)
                raise
    except InputError:
        with suppress(OSError):  # the first that holds something ends it
            for each in created:
                each.rmdir()
        raise


@contextmanager
def single_writer(folder: str | Path) -> Iterator[Path]:
    """Hold ``folder`` as its only driver, creating it where needed.

    The lock is the kernel's (``flock``), so it ends with the process that holds it, however that ends.

    Raises:
        InputError: another process holds the folder, it cannot be created or written, or this is no POSIX system.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        raise InputError(
            f"out: {platform.system()} has no flock, by which a folder has one writer; run this on Linux or macOS "
            "(on Windows: in WSL)"
        ) from None
    folder = Path(folder)
    path, asked_s = folder / LOCK_FILE, 0.0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+")
        except OSError as error:
            raise InputError(f"out: {folder} cannot be written ({error.strerror}); give a folder that can") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if asked_s < _ASKED_S:  # who only asks whether it is held (runtime.status) holds it for a moment
                    time.sleep(_ASKED_S)
                    asked_s += _ASKED_S
                    continue
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise InputError(f"out: {folder} is in use by {holder}; wait for it, or give another folder") from None
            if not is_file_at(lock.fileno(), path):
                continue  # its holder removed it between our two calls: what we hold is nobody's any more
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {platform.node()} ({secrets.token_hex(4)})")
            lock.flush()
            yield folder
            return


def read_holder(folder: str | Path) -> str | None:
    """Who holds ``folder``, in words that no other run has used; None where no folder of that name is seen.

    A worker elsewhere that reads the same as its driver looks at the same folder.
    """
    try:
        return (Path(folder) / LOCK_FILE).read_text()
    except OSError:
        return None


def claim_folder(
    folder: str | Path, kind: str, settings: Mapping[str, Any], *, joins: Callable[[Path], bool] | None = None
) -> None:
    """Mark ``folder`` as the output of one run, or check that it belongs to the same one.

    ``_run.json`` keeps ``kind`` (the command) and ``settings`` (everything that decides what the run's files hold;
    values that JSON can say). Call it while :func:`single_writer` holds the folder; :func:`run_folder` does both.

    Raises:
        InputError: the folder belongs to a run of another kind or other settings (the first difference is
            named), or holds files that no run has claimed.
    """
    path = Path(folder) / RUN_FILE
    wanted = claim_document(kind, settings)
    _check_claim(path.parent, wanted, joins)
    if not path.exists():
        write_whole(path, lambda temporary: temporary.write_text(claim_text(wanted)))


def remove_run(folder: str | Path, own: str) -> None:
    """Remove a finished run's files, those whose whole name matches the pattern ``own``, and the folder's claim.

    The caller holds the folder. The folder itself goes too, unless there is something in it that is not ours.
    """
    folder = Path(folder)
    for path in sorted(folder.iterdir()):
        if re.fullmatch(own, path.name) and path.is_file():
            path.unlink(missing_ok=True)
    _remove_temporaries(folder)
    (folder / RUN_FILE).unlink(missing_ok=True)
    (folder / LOCK_FILE).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def read_run(folder: str | Path) -> dict[str, Any]:
    """The ``_run.json`` of an output folder: ``{format, kind, settings}``.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = Path(folder) / RUN_FILE
    try:
        return parse_run(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise InputError(f"{folder}: no {RUN_FILE} there; give the output folder of a run") from None
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); give another folder") from None


def parse_run(content: bytes, path: str) -> dict[str, Any]:
    """The document in a ``_run.json``, whose ``path`` messages name.

    Raises:
        InputError: it is none.
    """
    try:
        document = json.loads(content)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); give another folder") from None
    if not isinstance(document, dict) or document.get("format") != RUN_FORMAT:
        raise InputError(f"{path}: not of format {RUN_FORMAT}; give another folder")
    for name, kind in (("kind", str), ("settings", dict)):
        if not isinstance(document.get(name), kind):
            raise InputError(f"{path}: its {name!r} is missing or broken; give another folder")
    return document


def claim_document(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``_run.json`` holds."""
    return {"format": RUN_FORMAT, "kind": kind, "settings": json.loads(json.dumps(settings))}


def claim_text(document: Mapping[str, Any]) -> str:
    """It as it is written."""
    return json.dumps(document, indent=2) + "\n"


def _check_claim(folder: Path, wanted: Mapping[str, Any], joins: Callable[[Path], bool] | None) -> None:
    """Raise the InputError of :func:`claim_folder`, or nothing; touches nothing."""
    refuse_address(folder)
    if not (folder / RUN_FILE).exists():
        try:
            taken = any(not entry.name.startswith(".") for entry in folder.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"out: {folder} cannot be written ({error.strerror}); give a folder that can") from None
        if taken:
            raise InputError(f"out: {folder} holds files but no {RUN_FILE}; give an empty or a new folder")
        return
    there = read_run(folder)
    if joins is None or not joins(folder):
        check_same_run(there, wanted, str(folder))


def first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """``KEY is X there and Y here`` of the first leaf in which two documents differ as JSON; None where in none."""
    found = _first_difference(*(json.loads(json.dumps(each)) for each in (there, here)))
    return None if found is None else f"{found[0]} is {found[1]} there and {found[2]} here"


def check_same_run(there: Mapping[str, Any], wanted: Mapping[str, Any], place: str) -> None:
    """Raise InputError, naming the first difference, unless the claim that is ``there`` is the one ``wanted``."""
    difference = first_difference(there, wanted)
    if difference is not None:
        raise InputError(f"out: {place} belongs to another run: {difference}; give another folder or the same settings")


def _withdraw(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Take back a claim under which nothing was written."""
    for entry in folder.iterdir():
        ours_or_seen = entry.name.startswith(".coinfer") or not entry.name.startswith(".")
        if ours_or_seen and entry.name not in (RUN_FILE, LOCK_FILE):
            return
    path = folder / RUN_FILE
    if path.exists() and path.read_text() == claim_text(wanted):
        path.unlink()
    if not path.exists():
        (folder / LOCK_FILE).unlink(missing_ok=True)


def _remove_temporaries(folder: Path) -> None:
    for path in (*folder.glob(".coinfer-*"), *folder.glob("*/.coinfer-*")):  # a run may have folders of its own
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def is_file_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _first_difference(there: Any, here: Any, key: str = "") -> tuple[str, str, str] | None:
    """(key path, value there, value here) of the first leaf in which two JSON documents differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*here, *(name for name in there if name not in here)]:
            found = _first_difference(there.get(name), here.get(name), f"{key}.{name}" if key else name)
            if found is not None:
                return found
        return None
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for position, (old, new) in enumerate(zip(there, here, strict=True)):
            found = _first_difference(old, new, f"{key}[{position}]")
            if found is not None:
                return found
        return None
    if there == here:
        return None
    return key.removeprefix("settings."), _shown(there), _shown(here)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
