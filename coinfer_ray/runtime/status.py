"""What a run's folder says of the run, from outside: whether it goes on, and how far it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import LOCK_FILE, read_holder, read_run


@dataclass(frozen=True)
class RunStatus:
    """``kind``: the command. ``holder``: the process that works on it now, None where none does. ``files`` are its
    results so far; ``quiet_s``: seconds since the last one, None where there is none yet."""

    kind: str
    holder: str | None
    files: int
    quiet_s: float | None


def run_status(folder: str | Path) -> RunStatus:
    """The status of the run that ``folder`` is the output of, on this machine or wherever the folder is seen.

    Raises:
        InputError: no run has claimed the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: does not exist; give the output folder of a run")
    kind = read_run(folder)["kind"]
    results = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if _is_result(path)]
    newest = max((path.stat().st_mtime for path in results), default=None)
    return RunStatus(
        kind=kind,
        holder=read_holder(folder) if _is_held(folder) else None,
        files=len(results),
        quiet_s=None if newest is None else max(0.0, time.time() - newest),
    )


def _is_result(path: Path) -> bool:
    return path.is_file() and not path.name.startswith((".", "_"))


def _is_held(folder: Path) -> bool:
    """Whether a process holds the folder. A shared lock is all that asking takes: it is refused while one does."""
    import fcntl

    try:
        with (folder / LOCK_FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
