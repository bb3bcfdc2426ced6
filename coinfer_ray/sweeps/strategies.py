"""The strategies that a sweep's rows name by their ids, once each: ``_strategies.parquet``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.runtime.stores import Store
from coinfer_ray.sweeps.manifest import STRATEGIES_FILE, Written
from coinfer_ray.sweeps.rows import METADATA_KEY, SOURCES

if TYPE_CHECKING:
    import pyarrow as pa


def write_strategies(store: Store, names: Sequence[str], problems: Mapping[str, Problem]) -> Written:
    """Collect what the chunks' files (their ``names`` in the store) say of their strategies and write one row for each.

    ``device_cost`` and ``server_cost`` are FLOPs, or seconds on a side whose layers' times are measured. Over noise an
    accuracy and what it rests on differ by link: null, and the trainings 0, where noise reaches the strategy.

    Raises:
        RuntimeError: two strategies share an id.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[str, dict[int, tuple[tuple[int, ...], int]]] = {key: {} for key in problems}
    models = {key: problem.graph.model for key, problem in problems.items()}  # or what the grid calls them
    for own in _said(store, names):
        of_problem, models[own["problem"]] = found[own["problem"]], own["model"]
        for number, levels, scenarios in zip(own["id"], own["levels"], own["scenarios"], strict=True):
            there, before = of_problem.get(number, (tuple(levels), 0))
            if there != tuple(levels):
                raise RuntimeError(f"strategies {there} and {tuple(levels)} share the id {number}")
            of_problem[number] = there, before + scenarios
    tables = [_table(models[key], problems[key], own) for key, own in found.items() if own]
    if not tables:  # nothing is feasible anywhere: a table without rows, with the usual columns
        key, problem = next(iter(problems.items()))
        none = (0,) * len(problem.space.variables)
        tables = [_table(models[key], problem, {0: (none, 0)}).slice(0, 0)]
    table = pa.concat_tables(tables).sort_by([("model", "ascending"), ("scenarios", "descending"), ("id", "ascending")])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    store.write(STRATEGIES_FILE, content)
    return Written.of(len(table), content)


def _said(store: Store, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """What each file's metadata says of its strategies."""
    import pyarrow.parquet as pq

    system, base = store.arrow

    def read(name: str) -> Mapping[str, Any]:
        metadata = pq.read_metadata(f"{base}/{name}", filesystem=system)
        own: Mapping[str, Any] = json.loads(metadata.metadata[METADATA_KEY])["strategies"]
        return own

    if store.readers == 1:
        yield from map(read, names)
        return
    with ThreadPoolExecutor(store.readers) as readers:
        yield from readers.map(read, names)


def _table(model: str, problem: Problem, found: Mapping[int, tuple[tuple[int, ...], int]]) -> pa.Table:
    import pyarrow as pa

    levels = np.array([levels for levels, _ in found.values()], dtype=np.int64)
    costs, place, known = problem.delay.costs(levels), problem.measured.find(levels), problem.is_known(levels)
    costs[place >= 0] = problem.measured.costs[place[place >= 0]]
    accuracy: np.ndarray | None = None
    noisy = problem.predictor.noisy
    if not noisy:
        accuracy = problem.predictor.predict(problem.space.tables.values[np.arange(levels.shape[1]), levels])
        accuracy[place >= 0] = problem.measured.accuracy[place[place >= 0]]
        accuracy[known] = problem.base_accuracy
    source = np.where(known, 0, np.where(place >= 0, 1, 2))
    strategies = [problem.space.strategy(row) for row in levels]
    columns: dict[str, Any] = {
        "id": pa.array(list(found), pa.int64()),
        "model": pa.array([model] * len(found), pa.string()),
        "scenarios": pa.array([scenarios for _, scenarios in found.values()], pa.int64()),
        "partition_point": pa.array([strategy.partition_point for strategy in strategies], pa.int64()),
        "cut_after": [problem.graph.cut_name(strategy.partition_point) for strategy in strategies],
        "feature_bits": pa.array([strategy.feature_bits for strategy in strategies], pa.int64()),
        "sparsity": pa.array([list(strategy.sparsity.values()) for strategy in strategies], pa.list_(pa.float64())),
        "codec": pa.array([list(asdict(strategy.codec).values()) for strategy in strategies], pa.list_(pa.float64())),
        "levels": pa.array(levels.tolist(), pa.list_(pa.int16())),
        "device_cost": costs[:, 0],
        "server_cost": costs[:, 1],
        "uplink_bit": costs[:, 2],
        "predicted_accuracy": pa.nulls(len(found), pa.float64()) if accuracy is None else accuracy,
        "accuracy_source": pa.array([SOURCES[each] for each in source], mask=(source == 2) & noisy),
        "trainings": np.where(place >= 0, np.append(problem.measured.trainings, 0)[place], 0),
    }
    return pa.table(columns)
