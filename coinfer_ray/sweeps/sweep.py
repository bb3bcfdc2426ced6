"""Many scenarios: a grid solved in chunks by an executor's workers, one Parquet file each.

A chunk is a range of scenario numbers of one network, and its file's name is its number; the manifest knows the
checksum of each finished one (:mod:`coinfer_ray.sweeps.manifest`): a killed run goes on where it stopped. The answer of
a scenario depends on its number and the seed alone, not on the chunks, the executor or the threads. A worker that sees
the output folder writes its chunk itself; one that doesn't (a node without the file system) sends it back for the
driver to write.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast
from urllib.parse import quote

import numpy as np

from coinfer_ray.atlas.build import ATLASES, grid_atlases, rename_old_atlases
from coinfer_ray.errors import InputError, check_name, counted
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.source import ModelSource, resolve_model
from coinfer_ray.optimizer.problem import Problem, ProblemOptions, assemble
from coinfer_ray.optimizer.solve import DEFAULT_OPTIMIZER, OPTIMIZERS
from coinfer_ray.runtime.address import Place
from coinfer_ray.runtime.executors import Envelope, Executor, make_executor
from coinfer_ray.runtime.places import open_store
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.runtime.stores import Folder, Store
from coinfer_ray.scenarios.grid import Grid, GridObjective
from coinfer_ray.scenarios.read import parse_grid, read_yaml, round_trip_of
from coinfer_ray.scenarios.scenario import CostModel
from coinfer_ray.sweeps.chunks import Chunk, How, file_name, problem_key, split_grid, start_worker
from coinfer_ray.sweeps.estimate import sample
from coinfer_ray.sweeps.manifest import STRATEGIES_FILE, Manifest, Written
from coinfer_ray.sweeps.progress import FAILED_FILE
from coinfer_ray.sweeps.reader import open_files
from coinfer_ray.sweeps.rows import chosen_columns
from coinfer_ray.sweeps.strategies import write_strategies

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

SOLVERS = (*OPTIMIZERS, "atlas")
LARGEST_CHUNK = 64  # scenarios that are solved one by one, where nothing is known of how long they take
LARGE_GRID = 64 * LARGEST_CHUNK  # scenarios from which on it is found out
CHUNK_S = 10.0  # that a chunk should take then: a killed run loses little, and files are few
LARGEST_LOOK_UP = 1 << 20  # scenarios of an atlas: some 100 MB of a worker's memory
LEAST_LOOK_UP = 1 << 16  # below, a file costs more than its rows
SMALL_GRID_CHUNKS = 64  # a small grid still spreads over many workers
MAX_CHUNKS = 20_000  # files of one run


@dataclass(frozen=True)
class Prepared:
    """A sweep before its first scenario is solved: what is asked, of which problems, in which ``chunks``; ``settings``
    is all that decides the files."""

    grid: Grid
    problems: dict[str, Problem]
    how: How
    chunks: list[Chunk]
    settings: dict[str, Any]

    @property
    def scenarios(self) -> int:
        return sum(chunk.stop - chunk.start for chunk in self.chunks)


def sweep(
    grid: Grid | Mapping[str, Any] | str | Path,
    out: Place | None = None,
    *,
    solver: str = DEFAULT_OPTIMIZER,
    executor: Executor | str = "ray",
    address: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    confidence: float | None = None,
    round_trip_ms: float | None = None,
    server_load: float | None = None,
    cost_model: CostModel | None = None,
    objective: GridObjective | None = None,
    certify: bool = False,
    time_limit_s: float | None = None,
    solver_options: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    columns: str | Sequence[str] = "full",
    shard: tuple[int, int] | None = None,
    quiet: bool = False,
    **options: Unpack[ProblemOptions],
) -> Dataset:
    """Solve every scenario of ``grid`` and return the answers as a data set, in the order of their numbers.

    Args:
        grid: a :class:`Grid`, the mapping that a grid file holds, or the file's path. The mapping's networks may be
            whatever :func:`coinfer_ray.models.source.resolve_model` takes.
        out: folder of the answers, ``model=NAME/chunk-NNNNNN.parquet``, or the address of one in a store
            (``s3://bucket/prefix``, ``gs://``, ``hdfs://``, ``file://``); run again with the same to resume, which
            reads what is there and does again what is not as it was written. It holds answers alone besides files whose
            names begin with ``_`` or a dot: any reader of Parquet takes the folder, or ``FOLDER/*/*.parquet``.
            ``_strategies.parquet`` says what a ``strategy_id`` stands for, ``_manifest.json`` lists the files
            (:func:`coinfer_ray.open_sweep` reads all of it). None: nothing is kept, the data set is in memory.
        solver: the optimizer of :func:`coinfer_ray.optimizer.solve.solve`; ``time_limit_s`` (seconds for a scenario;
            answers that it ends depend on the machine) and ``solver_options`` go to it. Or ``atlas``: the grid's
            atlases are built first, in ``out``, and every scenario is then a look-up.
        executor: ``ray``, ``local``, or an executor that the caller has entered. ``address`` and ``workers`` are
            for the first (:class:`RayExecutor`).
        seed, confidence (0: predictions as they are): instead of the grid's own; so is ``cuts`` among the ``options``,
            and ``round_trip_ms`` (1e-3 s) of every link, and ``server_load`` of every server. ``cost_model``: ``flops``
            counts operations where times of layers are measured, too; ``layers`` and ``profile`` ask for some.
            ``objective``: ``latency`` (s), or ``energy``, the device's (J), which needs the powers of every device.
        certify: prove a lower bound beside the answers of any optimizer.
        chunk: scenarios to a chunk; None suits the grid's size.
        columns: ``full``, ``compact`` (number, strategy and latency, from which the grid and the strategies give the
            rest), or names of columns (:data:`coinfer_ray.sweeps.rows.FULL`).
        shard: (i, n) answers the i-th of n parts alone, 1 to n, for machines that share no Ray cluster; each part has
            a folder of its own, and :func:`coinfer_ray.open_sweep` opens them together.
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
    prepared = prepare(
        grid,
        out,
        solver=solver,
        seed=seed,
        confidence=confidence,
        round_trip_ms=round_trip_ms,
        server_load=server_load,
        cost_model=cost_model,
        objective=objective,
        certify=certify,
        time_limit_s=time_limit_s,
        solver_options=solver_options,
        chunk=chunk,
        columns=columns,
        shard=shard,
        **options,
    )
    grid, problems, how = prepared.grid, prepared.problems, prepared.how
    running = (
        make_executor(executor, address=address, workers=workers, in_flight=2)
        if isinstance(executor, str)
        else nullcontext(executor)
    )
    with (
        tempfile.TemporaryDirectory() if out is None else nullcontext(out) as place,
        _held(place, prepared.settings) as store,
    ):
        if isinstance(store, Folder):
            rename_old_atlases(store.folder)
        chunks = prepared.chunks
        manifest = Manifest.read(store)
        names = {each.number: file_name(grid, each) for each in chunks}
        whole = manifest.whole(names.values())
        pending = [each for each in chunks if not _finished(manifest, names[each.number], each, whole)]
        if pending:
            manifest.complete = False
            manifest.files = {name: manifest.files[name] for name in set(names.values()) & set(manifest.files)}
            for each in pending:
                manifest.files.pop(names[each.number], None)
            if solver == "atlas":
                with store.working_folder(ATLASES) as folder:
                    atlases = {
                        key: grid_atlases(
                            grid.of_times(problem.delay.times),
                            problem,
                            folder=folder,
                            quiet=quiet,
                            name=quote(key, safe=""),
                            **(solver_options or {}),
                        )
                        for key, problem in problems.items()
                    }
                how = replace(how, atlases=atlases)
            elif solver == "exact" and address is None:
                from coinfer_kernels.warm_up import compile_solvers

                compile_solvers()  # once and here, not in every worker
            try:
                with running as started:
                    shared = {"grid": grid, "problems": problems, "how": how}
                    _run(started, shared, manifest, pending, prepared.scenarios, quiet)
            except BaseException:
                with suppress(
                    InputError
                ):  # what ended the run is to be told; files that no manifest lists are done anew
                    manifest.save()
                raise
            manifest.save()
        if not (manifest.complete and manifest.whole([STRATEGIES_FILE])):
            manifest.strategies = write_strategies(store, list(names.values()), problems)
            manifest.complete = True
            manifest.save()
        return _open(store, list(names.values()), in_memory=out is None)


@contextmanager
def _held(place: Place, settings: Mapping[str, Any]) -> Iterator[Store]:
    store = open_store(place)
    with store.run("sweep", settings):
        yield store


def prepare(
    grid: Grid | Mapping[str, Any] | str | Path,
    out: Place | None,
    *,
    solver: str,
    seed: int | None,
    confidence: float | None,
    round_trip_ms: float | None,
    server_load: float | None = None,
    cost_model: CostModel | None,
    objective: GridObjective | None = None,
    certify: bool,
    time_limit_s: float | None,
    solver_options: Mapping[str, Any] | None,
    chunk: int | None,
    columns: str | Sequence[str],
    shard: tuple[int, int] | None,
    **options: Unpack[ProblemOptions],
) -> Prepared:
    """Check all that :func:`sweep` is given, and cut the grid into chunks. Nothing is written.

    Raises:
        InputError: as :func:`sweep`.
    """
    networks: dict[str, ModelSource] = {}
    if isinstance(grid, Mapping):
        grid, networks = _named(grid)
    check_name("solver", solver, SOLVERS)
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk: {chunk} scenarios; at least 1 is needed")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise InputError(f"shard: {shard[0]}/{shard[1]} is no part of a whole; give 1/4 to 4/4 for four parts")
    changed = {"cost_model": cost_model, "server_load": server_load, "objective": objective}
    grid = _changed_grid(grid, {key: value for key, value in changed.items() if value is not None})
    wanted = chosen_columns(columns, grid)
    if grid.objective == "energy" and solver == "atlas":
        grid.energy_ratios()  # what an atlas of energies cannot do ends here, not when it is built
    seed = grid.seed if seed is None else seed
    grid = grid if confidence is None else grid.asking(confidence)
    grid = grid if round_trip_ms is None else grid.with_round_trip(round_trip_of(round_trip_ms))
    records = options.get("records")
    problems = {}
    for model in grid.models:
        own = records.get(model) if isinstance(records, Mapping) else records
        of_model = {**options, "records": own, "cuts": options.get("cuts") or grid.cuts}
        for times in grid.pairs_of_times:
            key = problem_key(grid, model, times)
            problems[key] = assemble(networks.get(model, model), times=times, **cast(ProblemOptions, of_model))
    if len({problem.graph.model for problem in problems.values()}) < len(grid.models):
        raise InputError(f"grid: model: two of {', '.join(grid.models)} are the same network; name each once")
    _check_snr(grid, problems)
    for problem in problems.values():  # a confidence that records cannot promise ends here, not in every chunk
        problem.required_accuracy(np.zeros(len(grid.confidence)), grid.confidence)
    size = chunk or _chunk_size(len(grid), solver)
    chunks = _shard_of(list(split_grid(grid, size)), shard)
    settings = {
        "solver": solver,
        "certify": certify,
        "options": {**(solver_options or {}), "time_limit_s": time_limit_s},
        "seed": seed,
        "grid": grid.document,
        "chunk": size,
        "columns": list(wanted),
        "shard": None if shard is None else list(shard),
        "problems": {key: problem.provenance() for key, problem in problems.items()},
    }
    how = How(solver, seed, certify, time_limit_s, solver_options or {}, wanted)
    prepared = Prepared(grid, problems, how, chunks, settings)
    # Shards run on different machines, and must all cut the grid alike: by what it is, not by how long it takes.
    if chunk is None and shard is None and solver != "atlas" and len(grid) > LARGE_GRID:
        return _by_cost(prepared, None if out is None else open_store(out))
    return prepared


def _changed_grid(grid: Grid | Mapping[str, Any] | str | Path, changed: Mapping[str, Any]) -> Grid:
    """A grid with keys ``changed`` before it is checked: what stands in their place may be what it cannot be asked."""
    document: Any = grid.document if isinstance(grid, Grid) else grid
    where = "grid"
    if isinstance(grid, str | Path):
        document, where = read_yaml(grid), str(grid)
    if changed.get("objective") == "latency" and isinstance(document, Mapping) and "objective" not in document:
        changed = {key: value for key, value in changed.items() if key != "objective"}  # said or not, the same sweep
    return grid if isinstance(grid, Grid) and not changed else parse_grid(document, where, changed)


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
    executor: Executor, shared: Mapping[str, Any], manifest: Manifest, pending: list[Chunk], total: int, quiet: bool
) -> None:
    """Solve the ``pending`` chunks; those that fail are named when the others are done."""
    chunks: dict[Any, Chunk] = {chunk.number: chunk for chunk in pending}
    done = total - sum(chunk.stop - chunk.start for chunk in pending)
    failed: list[Envelope[tuple[Written, bytes | None]]] = []
    store = manifest.store
    shared = {**shared, "address": store.address, "holder": store.holder()}
    tasks = ((chunk.number, chunk) for chunk in pending)
    with (
        Progress("scenarios", total, done=done, quiet=quiet) as progress,
        closing(executor.run(start_worker, shared, tasks)) as envelopes,
    ):
        for envelope in envelopes:
            if envelope.value is None:
                failed.append(envelope)
                continue
            written, content = envelope.value
            name = file_name(shared["grid"], chunks[envelope.task_id])
            if content is not None:
                store.write(name, content)
            manifest.add(name, written)
            progress.advance(written.rows)
            executor.progressed("scenarios", written.rows)
    if not failed:
        store.remove(FAILED_FILE)
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
    store.write(FAILED_FILE, text.encode())
    raise RuntimeError(
        f"{len(failed)} of {counted(len(pending), 'chunk')} failed, chunk {failed[0].task_id} so: {failed[0].reason}; "
        "run again to try them again"
    )


def _chunk_size(scenarios: int, solver: str) -> int:
    """Small enough for many workers to share a small grid, large enough for a large one to have few files."""
    share = scenarios // SMALL_GRID_CHUNKS
    suited = max(LEAST_LOOK_UP, min(LARGEST_LOOK_UP, share)) if solver == "atlas" else min(LARGEST_CHUNK, share)
    return max(1, suited, -(-scenarios // MAX_CHUNKS))


def _by_cost(prepared: Prepared, store: Store | None) -> Prepared:
    """A large grid in chunks of some seconds each: those of the run that ``store`` holds, or by a sample."""
    scenarios = len(prepared.grid)
    if store is not None and store.has_run():
        size = store.read_run()["settings"].get("chunk")
        if not isinstance(size, int) or size < 1:
            return prepared  # whatever it is, it is no run of these settings: claiming the folder says so
    else:
        pace, *_ = sample(prepared)
        size = int(min(CHUNK_S / pace, LARGEST_LOOK_UP, scenarios // SMALL_GRID_CHUNKS))
        size = max(1, size, -(-scenarios // MAX_CHUNKS))
    chunks = _shard_of(list(split_grid(prepared.grid, size)), prepared.settings["shard"])
    return replace(prepared, chunks=chunks, settings={**prepared.settings, "chunk": size})


def _shard_of(chunks: list[Chunk], shard: Sequence[int] | None) -> list[Chunk]:
    if shard is None:
        return chunks
    own = chunks[shard[0] - 1 :: shard[1]]
    if not own:
        raise InputError(
            f"shard: {shard[0]}/{shard[1]} is empty, the grid has {counted(len(chunks), 'chunk')}; take fewer parts, "
            "or --chunk"
        )
    return own


def _check_snr(grid: Grid, problems: Mapping[str, Problem]) -> None:
    for model, problem in problems.items():
        unknown = np.flatnonzero(np.isnan(grid.link.columns["snr_db"]))
        if problem.predictor.noisy and len(unknown):
            raise InputError(
                f"link: {grid.link.labels[grid.link.label[unknown[0]]]} has no signal-to-noise ratio, and the records "
                f"of {model} come from a noisy channel; give bandwidth_mhz and snr_db instead of a rate"
            )


def _finished(manifest: Manifest, name: str, chunk: Chunk, whole: Set[str]) -> bool:
    """Whether a chunk's file is there, is one of those that are ``whole``, and holds its rows."""
    return name in whole and manifest.files[name].rows == chunk.stop - chunk.start


def _open(store: Store, names: list[str], *, in_memory: bool) -> Dataset:
    import pyarrow.dataset as ds

    dataset = open_files(store, names)
    return ds.dataset(dataset.to_table()) if in_memory else dataset
