"""What a run's folder says of the run, from outside: whether it goes on, and how far it is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.address import Place
from coinfer_ray.runtime.places import open_store
from coinfer_ray.runtime.stores import Folder


@dataclass(frozen=True)
class RunStatus:
    """``kind``: the command. ``holder``: the process that works on it now, None where none does. ``files`` are its
    results so far; ``quiet_s``: seconds since the last one, None where there is none yet."""

    kind: str
    holder: str | None
    files: int
    quiet_s: float | None


def run_status(place: Place) -> RunStatus:
    """The status of the run that ``place`` (a folder, or an address) is the output of, wherever it is seen.

    Raises:
        InputError: no run has claimed the folder.
    """
    store = open_store(place)
    if isinstance(store, Folder) and not store.folder.is_dir():
        raise InputError(f"{store}: does not exist; give the output folder of a run")
    kind = store.read_run()["kind"]
    results = store.results()
    newest = max((seen.time_s for seen in results.values()), default=None)
    return RunStatus(
        kind=kind,
        holder=store.held_by(),
        files=len(results),
        quiet_s=None if newest is None else max(0.0, time.time() - newest),
    )
