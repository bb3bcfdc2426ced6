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
from coinfer_ray.methods.registry import METHODS, PLAIN_METHODS
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.runtime.executors import WorkerContext
from coinfer_ray.runtime.files import read_holder, write_whole
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.grid import Grid

if TYPE_CHECKING:
    import pyarrow as pa


METADATA_KEY = b"coinfer_ray.sweep"
SWEEP_FORMAT = 3


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
    time_limit_s: float | None
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
    batch = ScenarioBatch.of_grid(grid, chunk.start, chunk.stop)
    weights, confidence = batch.weights, batch.confidence
    floor = problem.base_accuracy - batch.max_loss
    scenarios = Scenarios(weights, floor, batch.snr_db)
    if how.atlases is not None:
        found = solve_by_atlas(problem, scenarios, how.atlases[grid.models[chunk.model]], confidence)
    else:
        found = solve(
            problem,
            scenarios,
            how.solver,
            how.seed,
            first_scenario=chunk.start,
            confidence=confidence,
            certify=how.certify,
            time_limit_s=how.time_limit_s,
            **how.options,
        )
    answers = problem.answers(found)
    sure = problem.accuracy_bound(answers, confidence)

    nothing, costs, point, levels = ~answers.feasible, answers.costs, answers.partition_point, answers.levels
    assert levels is not None
    seconds = costs * weights
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
        "feature_bits": pa.array(problem.space.cut_bits[levels[:, problem.space.cut_variable]], mask=nothing),
        **{f"{name}_s": METHODS[name].solve(problem, batch).objective for name in PLAIN_METHODS},
        "evaluations": found.evaluations,
    }
    document = {"format": SWEEP_FORMAT, "solver": how.solver, "seed": how.seed, "problem": problem.provenance()}
    return pa.table(rows).replace_schema_metadata({METADATA_KEY: json.dumps(document)})


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    write_whole(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
