"""Output folders that survive a kill: files that appear whole, one driver at a time, one run per folder.

Every file of a run is written under a temporary name in its own folder and moved into place, so a reader never
sees half of one and a killed writer leaves nothing but a temporary, which the next driver removes. The names of
temporaries begin with a dot, which pyarrow's data sets ignore.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coinfer_ray.errors import InputError

RUN_FILE = "_run.json"  # pyarrow's data sets pass over names that begin with _ or a dot
LOCK_FILE = ".lock"
RUN_FORMAT = 1
_TEMPORARY = ".tmp"
_SHOWN = 60  # characters of a setting's value in an error message


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it to ``path``.

    The temporary's name is unique to this call, so that two attempts at the same file (a worker believed dead
    and its replacement) never share one; the last to finish wins whole.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(6)}{_TEMPORARY}")
    try:
        write(temporary)
        with temporary.open("rb") as written:  # a name must never reach the disk before the bytes it stands for
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def single_writer(folder: str | Path) -> Iterator[Path]:
    """Hold ``folder`` as its only driver, creating it where needed and removing what a killed run left behind.

    The lock is the kernel's (``flock``), so it ends with the process that holds it, however that ends.

    Raises:
        InputError: another process holds the folder, or it cannot be created or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a+")
    except OSError as error:
        raise InputError(f"out: {folder} cannot be written ({error.strerror}); give a folder that can") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise InputError(f"out: {folder} is in use by {holder}; wait for it, or give another folder") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename} ({secrets.token_hex(4)})")
        lock.flush()
        for orphan in folder.glob(f".*{_TEMPORARY}"):
            orphan.unlink(missing_ok=True)
        yield folder


def read_holder(folder: str | Path) -> str | None:
    """Who holds ``folder``, in words that no other run has used; None where no folder of that name is seen.

    A worker elsewhere that reads the same as its driver looks at the same folder.
    """
    try:
        return (Path(folder) / LOCK_FILE).read_text()
    except OSError:
        return None


def claim_folder(folder: str | Path, kind: str, settings: Mapping[str, Any]) -> None:
    """Mark ``folder`` as the output of one run, or check that it belongs to the same one.

    ``_run.json`` keeps ``kind`` (the command) and ``settings`` (everything that decides what the run's files hold;
    values that JSON can say). Call it while :func:`single_writer` holds the folder.

    Raises:
        InputError: the folder belongs to a run of another kind or other settings (the first difference is
            named), or holds files that no run has claimed.
    """
    folder = Path(folder)
    path = folder / RUN_FILE
    wanted = {"format": RUN_FORMAT, "kind": kind, "settings": json.loads(json.dumps(settings))}
    if not path.exists():
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise InputError(f"out: {folder} holds files but no {RUN_FILE}; give an empty or a new folder")
        text = json.dumps(wanted, indent=2) + "\n"
        write_whole(path, lambda temporary: temporary.write_text(text))
        return
    difference = _first_difference(read_run(folder), wanted)
    if difference is not None:
        key, there, here = difference
        raise InputError(
            f"out: {folder} belongs to another run: {key} is {there} there and {here} here; "
            "give another folder or the same settings"
        )


def read_run(folder: str | Path) -> dict[str, Any]:
    """The ``_run.json`` of an output folder: ``{format, kind, settings}``.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = Path(folder) / RUN_FILE
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{folder}: no {RUN_FILE} there; give the output folder of a run") from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); give another folder") from None
    if not isinstance(document, dict) or document.get("format") != RUN_FORMAT:
        raise InputError(f"{path}: not of format {RUN_FORMAT}; give another folder")
    return document


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
