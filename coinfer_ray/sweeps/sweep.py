"""Many scenarios: a grid solved in chunks by an executor's workers, one Parquet file each.

A chunk is a range of scenario numbers of one network, and its file's name is its number, so what is done is what
is there: a killed run goes on where it stopped. The answer of a scenario depends on its number and the seed alone,
not on the chunks, the executor or the threads. A worker that sees the output folder writes its chunk itself; one
that doesn't (a node without the file system) sends it back for the driver to write.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from coinfer_ray.atlas.build import grid_atlases, rename_old_atlases
from coinfer_ray.errors import InputError, check_name
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.source import ModelSource, resolve_model
from coinfer_ray.optimizer.problem import Problem, ProblemOptions, assemble
from coinfer_ray.optimizer.solve import DEFAULT_OPTIMIZER, OPTIMIZERS
from coinfer_ray.runtime.executors import Envelope, Executor, make_executor
from coinfer_ray.runtime.files import read_holder, run_folder, write_whole
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.scenarios.grid import Grid
from coinfer_ray.scenarios.read import parse_grid, read_grid
from coinfer_ray.sweeps.chunks import Chunk, How, _write, split_grid, start_worker

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

SOLVERS = (*OPTIMIZERS, "atlas")
LARGEST_CHUNK = 64  # scenarios; some seconds of the population optimizer
LARGEST_LOOK_UP = 100_000  # scenarios of an atlas
SMALL_GRID_CHUNKS = 64  # a small grid still spreads over many workers
MAX_CHUNKS = 20_000  # files of one run
FAILED_FILE = "_failed.json"  # the chunks that the last run could not solve, and why


def sweep(
    grid: Grid | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    solver: str = DEFAULT_OPTIMIZER,
    executor: Executor | str = "ray",
    address: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    confidence: float | None = None,
    certify: bool = False,
    time_limit_s: float | None = None,
    solver_options: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    quiet: bool = False,
    **options: Unpack[ProblemOptions],
) -> Dataset:
    """Solve every scenario of ``grid`` and return the answers as a data set, in the order of their numbers.

    Args:
        grid: a :class:`Grid`, the mapping that a grid file holds, or the file's path. The mapping's networks may be
            whatever :func:`coinfer_ray.models.source.resolve_model` takes.
        out: folder of the chunks; run again with the same to resume. It holds answers alone besides files whose
            names begin with ``_`` or a dot: any reader of Parquet takes the folder, or ``FOLDER/*.parquet``. None:
            nothing is kept, the data set is in memory.
        solver: the optimizer of :func:`coinfer_ray.optimizer.solve.solve`; ``time_limit_s`` (seconds for a scenario;
            answers that it ends depend on the machine) and ``solver_options`` go to it. Or ``atlas``: the grid's
            atlases are built first, in ``out``, and every scenario is then a look-up.
        executor: ``ray``, ``local``, or an executor that the caller has entered. ``address`` and ``workers`` are
            for the first (:class:`RayExecutor`).
        seed, confidence: instead of the grid's own; so is ``cuts`` among the ``options``.
        certify: prove a lower bound beside the answers of any optimizer.
        chunk: scenarios to a chunk; None suits the grid's size.
        quiet: no progress on stderr.
        options: those of :class:`coinfer_ray.optimizer.problem.ProblemOptions`; ``records`` may be a mapping of them
            by network.

    A scenario whose accuracy bound no strategy meets is a row with ``feasible`` false and no answer. Latencies of
    All_Local, All_Server and Neurosurgeon stand beside it.

    Raises:
        InputError: an unusable grid, unknown names, records that don't fit, or a folder of another run.
        RuntimeError: chunks failed: their worker died or raised. They have no file, ``_failed.json`` says why; what
            is done stays, and running again tries them again.
    """
    networks: dict[str, ModelSource] = {}
    if isinstance(grid, Mapping):
        grid, networks = _named(grid)
    grid = grid if isinstance(grid, Grid) else read_grid(grid) if isinstance(grid, str | Path) else parse_grid(grid)
    check_name("solver", solver, SOLVERS)
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk: {chunk} scenarios; at least 1 is needed")
    seed = grid.seed if seed is None else seed
    grid = grid if confidence is None else grid.asking(confidence)
    records = options.get("records")
    problems = {}
    for model in grid.models:
        own = records.get(model) if isinstance(records, Mapping) else records
        of_model = {**options, "records": own, "cuts": options.get("cuts") or grid.cuts}
        problems[model] = assemble(networks.get(model, model), **cast(ProblemOptions, of_model))
    if len({problem.graph.model for problem in problems.values()}) < len(problems):
        raise InputError(f"grid: model: two of {', '.join(grid.models)} are the same network; name each once")
    _check_snr(grid, problems)
    for problem in problems.values():  # a confidence that records cannot promise ends here, not in every chunk
        problem.required_accuracy(np.zeros(len(grid.confidence)), grid.confidence)
    chunk = chunk or _chunk_size(len(grid), LARGEST_LOOK_UP if solver == "atlas" else LARGEST_CHUNK)
    settings = {
        "solver": solver,
        "certify": certify,
        "options": {**(solver_options or {}), "time_limit_s": time_limit_s},
        "seed": seed,
        "grid": grid.document,
        "chunk": chunk,
        "problems": {model: problem.provenance() for model, problem in problems.items()},
    }
    how = How(solver, seed, certify, time_limit_s, solver_options or {})
    running = (
        make_executor(executor, address=address, workers=workers, in_flight=2)
        if isinstance(executor, str)
        else nullcontext(executor)
    )
    with (
        tempfile.TemporaryDirectory() if out is None else nullcontext(out) as place,
        run_folder(place, "sweep", settings) as folder,
    ):
        rename_old_atlases(folder)
        chunks = list(split_grid(grid, chunk))
        pending = [each for each in chunks if not _finished(folder / each.file_name, each)]
        if pending:
            if solver == "atlas":
                atlases = {
                    model: grid_atlases(grid, problem, folder=folder, quiet=quiet, **(solver_options or {}))
                    for model, problem in problems.items()
                }
                how = replace(how, atlases=atlases)
            elif solver == "exact" and address is None:
                from coinfer_kernels.warm_up import compile_solvers

                compile_solvers()  # once and here, not in every worker
            with running as started:
                _run(started, {"grid": grid, "problems": problems, "how": how}, folder, pending, len(grid), quiet)
        return _open(folder, chunks, in_memory=out is None)


def _named(grid: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, ModelSource]]:
    """A grid's mapping with names in place of networks that are objects, and these by name."""
    document, given = dict(grid), grid.get("model")
    if not isinstance(given, list | tuple):
        return document, {}
    networks, names = {}, []
    for each in given:
        if callable(each) or isinstance(each, LayerGraph | ModelSource):
            source = resolve_model(each)
            networks[source.name], each = source, source.name
        names.append(each)
    document["model"] = names
    return document, networks


def _run(
    executor: Executor, shared: Mapping[str, Any], folder: Path, pending: list[Chunk], total: int, quiet: bool
) -> None:
    """Solve the ``pending`` chunks; those that fail are named when the others are done."""
    chunks: dict[Any, Chunk] = {chunk.number: chunk for chunk in pending}
    done = total - sum(chunk.stop - chunk.start for chunk in pending)
    failed: list[Envelope[tuple[int, pa.Table | None]]] = []
    shared = {**shared, "folder": str(folder.resolve()), "holder": read_holder(folder)}
    tasks = ((chunk.number, chunk) for chunk in pending)
    with (
        Progress("scenarios", total, done=done, quiet=quiet) as progress,
        closing(executor.run(start_worker, shared, tasks)) as envelopes,
    ):
        for envelope in envelopes:
            if envelope.value is None:
                failed.append(envelope)
                continue
            rows, table = envelope.value
            if table is not None:
                _write(table, folder / chunks[envelope.task_id].file_name)
            progress.advance(rows)
    if not failed:
        (folder / FAILED_FILE).unlink(missing_ok=True)
        return
    failed.sort(key=lambda envelope: chunks[envelope.task_id].number)
    document = [
        {
            "chunk": chunk.number,
            "scenarios": [chunk.start, chunk.stop],
            "attempts": envelope.attempts,
            "error": envelope.error,
        }
        for envelope in failed
        for chunk in [chunks[envelope.task_id]]
    ]
    text = json.dumps(document, indent=2) + "\n"
    write_whole(folder / FAILED_FILE, lambda temporary: temporary.write_text(text))
    raise RuntimeError(
        f"{len(failed)} of {len(pending)} chunks failed, chunk {failed[0].task_id} so: {failed[0].reason}; "
        "run again to try them again"
    )


def _chunk_size(scenarios: int, largest: int) -> int:
    """Small enough for many workers to share a small grid, large enough for a large one to have few files."""
    return max(1, min(largest, scenarios // SMALL_GRID_CHUNKS), -(-scenarios // MAX_CHUNKS))


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


def _open(folder: Path, chunks: list[Chunk], *, in_memory: bool) -> Dataset:
    import pyarrow.dataset as ds

    dataset = ds.dataset([str(folder / chunk.file_name) for chunk in chunks], format="parquet")
    return ds.dataset(dataset.to_table()) if in_memory else dataset
