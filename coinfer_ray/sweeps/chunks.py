"""What a worker does in a sweep: solve one chunk of the grid and write its file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coinfer_ray.atlas.atlas import StrategyAtlas, solve_by_atlas
from coinfer_ray.methods.registry import METHODS
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.runtime.executors import WorkerContext
from coinfer_ray.runtime.files import read_holder, write_whole
from coinfer_ray.scenarios.grid import Grid

if TYPE_CHECKING:
    import pyarrow as pa


METADATA_KEY = b"coinfer_ray.sweep"


SWEEP_FORMAT = 2


BASELINES = ("all_local", "all_server", "neurosurgeon")


@dataclass(frozen=True)
class Chunk:
    """Scenarios ``start`` to ``stop - 1``, all of network ``model`` (an index)."""

    number: int
    model: int
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        return f"chunk-{self.number:06d}.parquet"


@dataclass(frozen=True)
class How:
    """How scenarios are solved: the arguments of :func:`coinfer_ray.optimizer.solve.solve`, or the atlases by
    network."""

    solver: str
    seed: int
    certify: bool
    options: Mapping[str, Any]
    atlases: Mapping[str, tuple[StrategyAtlas, ...]] | None = None


def split_grid(grid: Grid, size: int) -> Iterator[Chunk]:
    """The grid in chunks of at most ``size`` scenarios, none across two networks."""
    number = 0
    for model in range(len(grid.models)):
        first, end = model * grid.per_model, (model + 1) * grid.per_model
        for start in range(first, end, size):
            yield Chunk(number, model, start, min(end, start + size))
            number += 1


def start_worker(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Chunk], tuple[int, pa.Table | None]]:
    """One worker: solves a chunk and writes it, or returns its table where the folder is out of sight."""
    grid: Grid = shared["grid"]
    # Arrays from the object store are read-only, which is another type to the compiler: one copy, one compilation.
    problems: dict[str, Problem] = copy.deepcopy(shared["problems"])
    how: How = copy.deepcopy(shared["how"])
    folder = Path(shared["folder"])
    sees_folder = read_holder(folder) == shared["holder"]

    def work(chunk: Chunk) -> tuple[int, pa.Table | None]:
        table = solve_chunk(grid, problems[grid.models[chunk.model]], chunk, how)
        if not sees_folder:
            return len(table), table
        _write(table, folder / chunk.file_name)
        return len(table), None

    return work


def solve_chunk(grid: Grid, problem: Problem, chunk: Chunk, how: How) -> pa.Table:
    """The rows of one chunk. Times in seconds, ``uplink_bit`` in bits; nulls where no strategy is feasible."""
    import pyarrow as pa
    from coinfer_kernels import Scenarios

    columns = grid.columns(chunk.start, chunk.stop)
    weights = grid.weights(chunk.start, chunk.stop)
    floor = problem.base_accuracy - columns["max_loss"]
    scenarios = Scenarios(weights, floor, columns["snr_db"])
    confidence = columns["confidence"]
    if how.atlases is not None:
        found = solve_by_atlas(problem, scenarios, how.atlases[problem.graph.model], confidence)
    else:
        found = solve(
            problem,
            scenarios,
            how.solver,
            how.seed,
            first_scenario=chunk.start,
            confidence=confidence,
            certify=how.certify,
            **how.options,
        )
    sure = problem.accuracy_bound(found, confidence)

    nothing = ~found.feasible
    levels = np.where(nothing[:, None], 0, found.levels)
    costs = problem.delay.costs(levels)
    seconds = costs * weights
    points = np.array(problem.space.variables[problem.space.cut_variable].values, dtype=np.int64)
    point = points[levels[:, problem.space.cut_variable]]
    width = levels.shape[1]
    strategy = pa.ListArray.from_arrays(
        pa.array(np.arange(0, (len(levels) + 1) * width, width, dtype=np.int32)),
        pa.array(levels.astype(np.int16).ravel()),
        mask=pa.array(nothing),
    )

    def labelled(codes: np.ndarray, labels: tuple[str, ...], mask: np.ndarray | None = None) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32), mask=mask), pa.array(labels, pa.string())
        )

    names = tuple(problem.graph.cut_name(partition) for partition in range(len(problem.graph.layers) + 1))
    rows = {
        "scenario": columns["scenario"],
        "model": labelled(columns["model"], grid.models),
        "device": labelled(columns["device"], grid.device.labels),
        "server": labelled(columns["server"], grid.server.labels),
        "link": labelled(columns["link"], grid.link.labels),
        "device_flops_per_s": columns["device_flops_per_s"],
        "server_flops_per_s": columns["server_flops_per_s"],
        "rate_bps": columns["rate_bps"],
        "snr_db": pa.array(columns["snr_db"], mask=np.isnan(columns["snr_db"])),
        "max_loss": columns["max_loss"],
        "confidence": pa.array(confidence, mask=np.isnan(confidence)),
        "accuracy_floor": floor,
        "feasible": found.feasible,
        "latency_s": pa.array(seconds.sum(axis=1), mask=nothing),
        "device_s": pa.array(seconds[:, 0], mask=nothing),
        "server_s": pa.array(seconds[:, 1], mask=nothing),
        "uplink_s": pa.array(seconds[:, 2], mask=nothing),
        "uplink_bit": pa.array(costs[:, 2], mask=nothing),
        "predicted_accuracy": pa.array(found.accuracy, mask=nothing),
        "accuracy_bound": pa.array(sure, mask=nothing | np.isnan(sure)),
        "lower_bound_s": pa.array(found.lower_bound, mask=~np.isfinite(found.lower_bound)),
        "partition_point": pa.array(point, mask=nothing),
        "cut_after": labelled(point, names, nothing),
        "strategy": strategy,
        **{f"{name}_s": _baseline(name, problem, weights) for name in BASELINES},
        "evaluations": found.evaluations,
    }
    document = {"format": SWEEP_FORMAT, "solver": how.solver, "seed": how.seed, "problem": problem.provenance()}
    return pa.table(rows).replace_schema_metadata({METADATA_KEY: json.dumps(document)})


def _baseline(name: str, problem: Problem, weights: np.ndarray) -> np.ndarray:
    """Latencies (S,), summed as the answers' own are: a matrix product's last digit depends on the batch."""
    costs = METHODS[name](problem, weights, cuts=problem.space.cuts).costs
    return np.asarray((costs * weights).sum(axis=1))


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    write_whole(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
