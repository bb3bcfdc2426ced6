"""What a sweep will take, before it is run: a few of its scenarios are really solved and written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from coinfer_ray.atlas.build import grid_atlases
from coinfer_ray.sweeps.chunks import Chunk, key_of, solve_chunk
from coinfer_ray.sweeps.rows import encode

if TYPE_CHECKING:
    from coinfer_ray.sweeps.sweep import Prepared

SAMPLES = 6  # places of the grid at which some scenarios are solved
GROWTH = 8  # of so many times as many, while they take
ENOUGH_S = 0.1  # less than this


@dataclass(frozen=True)
class Estimate:
    """``scenarios`` in ``files``; ``bytes`` and ``seconds`` as the sample has them: of one worker, without what starts
    it. ``first_s``: the seconds before the first scenario, in which atlases are built."""

    scenarios: int
    files: int
    bytes: int
    seconds: float
    first_s: float
    sampled: int


def estimate(prepared: Prepared) -> Estimate:
    """Solve some scenarios of a prepared sweep and say what all of them will take. Nothing is kept.

    Raises:
        InputError: as solving them does.
    """
    began = time.perf_counter()
    if prepared.how.solver == "atlas":
        atlases = {
            key: grid_atlases(prepared.grid.of_times(problem.delay.times), problem, quiet=True, **prepared.how.options)
            for key, problem in prepared.problems.items()
        }
        prepared = replace(prepared, how=replace(prepared.how, atlases=atlases))
    first_s = time.perf_counter() - began
    pace, a_file, a_row, sampled = sample(prepared)
    files = len(prepared.chunks)
    size = files * a_file + prepared.scenarios * a_row
    return Estimate(prepared.scenarios, files, round(size), pace * prepared.scenarios, first_s, sampled)


def sample(prepared: Prepared) -> tuple[float, float, float, int]:
    """Seconds for a scenario, bytes for a file, bytes for a row, by solving some scenarios here and there in the grid;
    and how many these were."""
    places = np.unique(np.linspace(0, len(prepared.chunks) - 1, SAMPLES).round().astype(int))
    paces, sizes, solved = [], [], 0
    _solve(prepared, prepared.chunks[0], 1, 0.0)  # what comes first pays for compiling
    for number, place in enumerate(places):
        chunk, count = prepared.chunks[place], 1
        while True:
            # Not always the first of a chunk: with a few devices those may all be of one.
            began = time.perf_counter()
            table = _solve(prepared, chunk, count, number / len(places))
            content = encode(table)
            seconds = time.perf_counter() - began
            solved += len(table)
            if seconds > ENOUGH_S or len(table) < count or len(table) == chunk.stop - chunk.start:
                break
            count *= GROWTH
        paces.append(seconds / len(table))
        one = encode(table.slice(0, 1)).size
        a_row = (content.size - one) / (len(table) - 1) if len(table) > 1 else 0.0
        sizes.append((one - a_row, a_row))
    a_file, a_row = (float(each) for each in np.mean(sizes, axis=0))
    return float(np.mean(paces)), a_file, a_row, solved


def _solve(prepared: Prepared, chunk: Chunk, count: int, share: float) -> Any:
    """The rows of at most ``count`` scenarios of the chunk, from that share of it on."""
    size = chunk.stop - chunk.start
    start = chunk.start + min(int(size * share), max(0, size - count))
    part = replace(chunk, start=start, stop=min(chunk.stop, start + count))
    return solve_chunk(prepared.grid, prepared.problems[key_of(prepared.grid, chunk)], part, prepared.how)
