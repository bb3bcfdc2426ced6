"""Many scenarios: a grid solved in chunks by an executor's workers, one Parquet file each.

A chunk is a range of scenario numbers of one network, and its file's name is its number, so what is done is what
is there: a killed run goes on where it stopped. The answer of a scenario depends on its number and the seed alone,
not on the chunks, the executor or the threads. A worker that sees the output folder writes its chunk itself; one
that doesn't (a node without the file system) sends it back for the driver to write.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coinfer_ray.atlas import StrategyAtlas, solve_by_atlas
from coinfer_ray.atlas_build import grid_atlases
from coinfer_ray.baselines import METHODS
from coinfer_ray.errors import InputError
from coinfer_ray.executors import Executor, WorkerContext, make_executor
from coinfer_ray.files import claim_folder, read_holder, single_writer, write_whole
from coinfer_ray.latency import INPUT_BITS
from coinfer_ray.models.layers import check_name
from coinfer_ray.progress import Progress
from coinfer_ray.scenario import Grid
from coinfer_ray.search import OPTIMIZERS, Problem, assemble, solve

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

    from coinfer_ray.space import Cuts
    from coinfer_ray.store import Split

METADATA_KEY = b"coinfer_ray.sweep"
SWEEP_FORMAT = 2
SOLVERS = (*OPTIMIZERS, "atlas")
LARGEST_CHUNK = 64  # scenarios; some seconds of the population optimizer
LARGEST_LOOK_UP = 100_000  # scenarios of an atlas
SMALL_GRID_CHUNKS = 64  # a small grid still spreads over many workers
MOST_CHUNKS = 20_000  # files of one run
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


def sweep(
    grid: Grid | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    solver: str = "quantum",
    executor: Executor | str = "ray",
    address: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    cuts: Cuts | None = None,
    confidence: float | None = None,
    certify: bool = False,
    records: Any = None,
    input_px: int | None = None,
    codec_flops: bool = True,
    input_bits: float = INPUT_BITS,
    accuracy: Split = "validation",
    chunk: int | None = None,
    quiet: bool = False,
    **options: Any,
) -> Dataset:
    """Solve every scenario of ``grid`` and return the answers as a data set, in the order of their numbers.

    Args:
        grid: a :class:`Grid`, the mapping that a grid file holds, or the file's path.
        out: folder of the chunks; run again with the same to resume. None: nothing is kept, the data set is in
            memory.
        solver: the optimizer of :func:`coinfer_ray.search.solve`; ``options`` go to it. Or ``atlas``: the grid's
            atlases are built first, in ``out``, and every scenario is then a look-up.
        executor: ``ray``, ``local``, or an executor that the caller has entered. ``address`` and ``workers`` are
            for the first (:class:`RayExecutor`).
        seed, cuts, confidence: instead of the grid's own.
        certify: prove a lower bound beside the answers of any optimizer.
        records: records or a predictor (see :func:`coinfer_ray.search.assemble`), or a mapping of them by model.
        chunk: scenarios to a chunk; None suits the grid's size.
        quiet: no progress on stderr.

    A scenario whose accuracy bound no strategy meets is a row with ``feasible`` false and no answer. Latencies of
    All_Local, All_Server and Neurosurgeon stand beside it.

    Raises:
        InputError: an unusable grid, unknown names, records that don't fit, or a folder of another run.
        RuntimeError: chunks failed; what is done stays, and running again tries them again.
    """
    grid = grid if isinstance(grid, Grid) else Grid.load(grid) if isinstance(grid, str | Path) else Grid.from_dict(grid)
    check_name("solver", solver, SOLVERS)
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk: {chunk} scenarios; at least 1 is needed")
    seed = grid.seed if seed is None else seed
    cuts = grid.cuts if cuts is None else cuts
    grid = grid if confidence is None else grid.asking(confidence)
    problems = {
        model: assemble(
            model,
            input_px,
            records.get(model) if isinstance(records, Mapping) else records,
            cuts=cuts,
            codec_flops=codec_flops,
            input_bits=input_bits,
            accuracy=accuracy,
        )
        for model in grid.models
    }
    _check_snr(grid, problems)
    for problem in problems.values():  # a confidence that records cannot promise ends here, not in every chunk
        problem.required_accuracy(np.zeros(len(grid.confidence)), grid.confidence)
    chunk = chunk or _chunk_size(len(grid), LARGEST_LOOK_UP if solver == "atlas" else LARGEST_CHUNK)
    settings = {
        "solver": solver,
        "certify": certify,
        "options": options,
        "seed": seed,
        "grid": grid.document,
        "chunk": chunk,
        "problems": {model: problem.provenance() for model, problem in problems.items()},
    }
    how = How(solver, seed, certify, options)
    running = (
        make_executor(executor, address=address, workers=workers, in_flight=2)
        if isinstance(executor, str)
        else nullcontext(executor)
    )
    with tempfile.TemporaryDirectory() if out is None else nullcontext(out) as place, single_writer(place) as folder:
        claim_folder(folder, "sweep", settings)
        chunks = list(split_grid(grid, chunk))
        pending = [each for each in chunks if not _finished(folder / each.file_name, each)]
        if pending:
            if solver == "atlas":
                atlases = {
                    model: grid_atlases(grid, problem, folder=folder, quiet=quiet, **options)
                    for model, problem in problems.items()
                }
                how = replace(how, atlases=atlases)
            with running as started:
                _run(started, {"grid": grid, "problems": problems, "how": how}, folder, pending, len(grid), quiet)
        return _open(folder, chunks, in_memory=out is None)


@dataclass(frozen=True)
class How:
    """How scenarios are solved: the arguments of :func:`coinfer_ray.search.solve`, or the atlases by network."""

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


def _run(
    executor: Executor, shared: Mapping[str, Any], folder: Path, pending: list[Chunk], total: int, quiet: bool
) -> None:
    """Solve the ``pending`` chunks; those that fail are named when the others are done."""
    names: dict[Any, str] = {chunk.number: chunk.file_name for chunk in pending}
    done = total - sum(chunk.stop - chunk.start for chunk in pending)
    failed: list[tuple[Any, str | None]] = []
    shared = {**shared, "folder": str(folder.resolve()), "holder": read_holder(folder)}
    tasks = ((chunk.number, chunk) for chunk in pending)
    with (
        Progress("scenarios", total, done=done, quiet=quiet) as progress,
        closing(executor.run(start_worker, shared, tasks)) as envelopes,
    ):
        for envelope in envelopes:
            if envelope.value is None:
                failed.append((envelope.task_id, envelope.error))
                continue
            rows, table = envelope.value
            if table is not None:
                _write(table, folder / names[envelope.task_id])
            progress.advance(rows)
    if failed:
        number, error = min(failed)
        raise RuntimeError(f"{len(failed)} of {len(pending)} chunks failed, chunk {number} so: {error}")


def _chunk_size(scenarios: int, largest: int) -> int:
    """Small enough for many workers to share a small grid, large enough for a large one to have few files."""
    return max(1, min(largest, scenarios // SMALL_GRID_CHUNKS), -(-scenarios // MOST_CHUNKS))


def _check_snr(grid: Grid, problems: Mapping[str, Problem]) -> None:
    for model, problem in problems.items():
        unknown = np.flatnonzero(np.isnan(grid.link.columns["snr_db"]))
        if problem.predictor.noisy and len(unknown):
            raise InputError(
                f"link: {grid.link.labels[grid.link.label[unknown[0]]]} has no signal-to-noise ratio, and the records "
                f"of {model} come from a noisy channel; give bandwidth_mhz and snr_db instead of a rate"
            )


def _finished(path: Path, chunk: Chunk) -> bool:
    """Whether a chunk's file is there and whole, by its footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return bool(pq.read_metadata(path).num_rows == chunk.stop - chunk.start)
    except (OSError, pa.ArrowException):
        return False


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    write_whole(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _open(folder: Path, chunks: list[Chunk], *, in_memory: bool) -> Dataset:
    import pyarrow.dataset as ds

    dataset = ds.dataset([str(folder / chunk.file_name) for chunk in chunks], format="parquet")
    return ds.dataset(dataset.to_table()) if in_memory else dataset
