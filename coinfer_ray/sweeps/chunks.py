"""What a worker does in a sweep: solve one chunk of the grid and write its file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from coinfer_kernels import Scenarios

from coinfer_ray.atlas.atlas import StrategyAtlas
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.problem.costs import Times
from coinfer_ray.runtime.executors import WorkerContext
from coinfer_ray.runtime.places import open_store
from coinfer_ray.runtime.stores import Store
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.grid import Grid
from coinfer_ray.sweeps.found import Found
from coinfer_ray.sweeps.manifest import Written
from coinfer_ray.sweeps.rows import encode, make_table

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Chunk:
    """Scenarios ``start`` to ``stop - 1``, all of the ``model``-th network."""

    number: int
    model: int
    start: int
    stop: int


@dataclass(frozen=True)
class How:
    """How scenarios are solved: the arguments of :func:`coinfer_ray.optimizer.solve.solve`, or the atlases by
    problem; and which ``columns`` their rows have."""

    solver: str
    seed: int
    certify: bool
    time_limit_s: float | None
    options: Mapping[str, Any]
    columns: tuple[str, ...]
    atlases: Mapping[str, tuple[StrategyAtlas, ...]] | None = None


def split_grid(grid: Grid, size: int) -> Iterator[Chunk]:
    """The grid in chunks of at most ``size`` scenarios, none across two problems (:func:`problem_key`)."""
    number = 0
    for model in range(len(grid.models)):
        for first, end in grid.stretches_of_times(model):
            for start in range(first, end, size):
                yield Chunk(number, model, start, min(end, start + size))
                number += 1


def problem_key(grid: Grid, model: str, times: Times) -> str:
    """The name of one of a sweep's problems: that of its network, and a number where times of layers are measured."""
    return model if times == (None, None) else f"{model}-measured-{grid.pairs_of_times.index(times)}"


def key_of(grid: Grid, chunk: Chunk) -> str:
    """The problem that a chunk's scenarios are of."""
    return problem_key(grid, grid.models[chunk.model], grid.times(chunk.start))


def file_name(grid: Grid, chunk: Chunk) -> str:
    """Where a chunk's rows lie in the sweep's folder: the network is a Hive partition, for no row names it."""
    return f"model={quote(grid.models[chunk.model], safe='')}/chunk-{chunk.number:06d}.parquet"


def start_worker(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Chunk], tuple[Written, bytes | None]]:
    """One worker: solves a chunk and writes its file, or returns its bytes where the store is out of sight or does not
    take them from it: the driver, which then tries, says why if it cannot either."""
    grid: Grid = shared["grid"]
    # Arrays from the object store are read-only, which is another type to the compiler: one copy, one compilation.
    problems: dict[str, Problem] = copy.deepcopy(shared["problems"])
    how: How = copy.deepcopy(shared["how"])
    store = _same_store(shared["address"], shared["holder"])

    def work(chunk: Chunk) -> tuple[Written, bytes | None]:
        content = encode(solve_chunk(grid, problems[key_of(grid, chunk)], chunk, how))
        written = Written.of(chunk.stop - chunk.start, content)
        if store is not None:
            with suppress(InputError):  # a store may refuse this worker, and take the same from the driver
                store.write(file_name(grid, chunk), content)
                return written, None
        return written, content.to_pybytes()

    return work


def _same_store(address: str, holder: str | None) -> Store | None:
    """The driver's store as this worker reaches it; None where it doesn't."""
    try:
        store = open_store(address)
    except InputError:
        return None
    return store if store.holder() == holder else None


def solve_chunk(grid: Grid, problem: Problem, chunk: Chunk, how: How) -> pa.Table:
    """The rows of one chunk (:func:`coinfer_ray.sweeps.rows.make_table`)."""
    key = key_of(grid, chunk)
    if how.atlases is not None:
        found = Found.by_atlas(problem, grid, chunk.start, chunk.stop, how.atlases[key])
    else:
        batch = ScenarioBatch.of_grid(grid, chunk.start, chunk.stop, grid.objective)
        scenarios = Scenarios(batch.weights, problem.base_accuracy - batch.max_loss, batch.snr_db)
        solutions = solve(
            problem,
            scenarios,
            how.solver,
            how.seed,
            first_scenario=chunk.start,
            confidence=batch.confidence,
            certify=how.certify,
            time_limit_s=how.time_limit_s,
            **how.options,
        )
        found = Found.of(problem, solutions, batch.snr_db)
    document = {"solver": how.solver, "seed": how.seed, "problem": problem.provenance()}
    return make_table(key, problem, grid, chunk.start, found, how.columns, document)
