"""How far a sweep is, from its store alone."""

from __future__ import annotations

import json
from dataclasses import dataclass

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.address import Place
from coinfer_ray.runtime.files import RUN_FILE
from coinfer_ray.runtime.places import open_store
from coinfer_ray.scenarios.read import parse_grid
from coinfer_ray.sweeps.chunks import split_grid
from coinfer_ray.sweeps.manifest import Manifest

FAILED_FILE = "_failed.json"  # the chunks that the last run could not solve, and why


@dataclass(frozen=True)
class SweepProgress:
    """``rows`` of all ``scenarios`` (of the shard, where it is one) are written, ``bytes`` in all."""

    rows: int
    scenarios: int
    bytes: int
    complete: bool
    failed_chunks: int


def sweep_progress(place: Place) -> SweepProgress:
    """How far the sweep is that writes to ``place`` (a folder, or an address); a second behind, or what writing the
    manifest takes there twenty times.

    Raises:
        InputError: the run's own files cannot be read.
    """
    store = open_store(place)
    settings, manifest = store.read_run()["settings"], Manifest.read(store)
    try:
        grid, size, shard = parse_grid(settings["grid"]), settings["chunk"], settings["shard"]
    except KeyError as error:
        raise InputError(f"{store.path(RUN_FILE)}: does not say its {error.args[0]}; run its sweep again") from None
    scenarios = len(grid)
    if shard is not None:
        own = list(split_grid(grid, size))[shard[0] - 1 :: shard[1]]
        scenarios = sum(chunk.stop - chunk.start for chunk in own)
    try:
        failed = len(json.loads(store.read(FAILED_FILE)))
    except (OSError, ValueError):
        failed = 0
    return SweepProgress(manifest.rows, scenarios, manifest.bytes, manifest.complete, failed)
