"""The rows of a sweep: which columns there are, and how a chunk's are made of what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.methods.registry import METHODS, PLAIN_METHODS
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.problem.costs import parts
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.grid import Grid, GridObjective
from coinfer_ray.sweeps.found import NOTHING, Found, measured_speeds, strategy_ids

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"coinfer_ray.sweep"
SWEEP_FORMAT = 4
COMPACT = ("scenario", "strategy_id", "latency_s")
FULL = (
    "scenario",
    "device",
    "server",
    "link",
    "device_flops_per_s",
    "server_flops_per_s",
    "rate_bps",
    "snr_db",
    "max_loss",
    "confidence",
    "accuracy_floor",
    "feasible",
    "latency_s",
    "device_s",
    "server_s",
    "uplink_s",
    "crossing_s",
    "uplink_bit",
    "predicted_accuracy",
    "accuracy_bound",
    "accuracy_source",
    "lower_bound_s",
    "partition_point",
    "cut_after",
    "strategy",
    "strategy_id",
    "feature_bits",
    *(f"{name}_s" for name in PLAIN_METHODS),
    "evaluations",
)
ENERGY = ("energy_j", "lower_bound_j")  # in full rows where they are known
SETS = {"full": FULL, "compact": COMPACT}
ROW_GROUP = 1 << 18
SOURCES = ("base", "measured", "predicted")
_NUMBERED = ("device", "server", "link", "cut_after", "accuracy_source", "strategy", "strategy_id", "feature_bits")


def chosen_columns(asked: str | Sequence[str], grid: Grid | None = None) -> tuple[str, ...]:
    """The columns that ``full``, ``compact``, or names, in a sequence or with commas between, stand for.

    ``scenario`` is always the first: without it a row says nothing. ``full`` of a ``grid`` in which the energy of any
    scenario is known has that as well, and its lower bound where it is the objective.

    Raises:
        InputError: a column that a sweep does not have.
    """
    if isinstance(asked, str) and asked in SETS:
        known = 0 if grid is None or asked != "full" else grid.knows_energy + (grid.objective == "energy")
        return (*SETS[asked], *ENERGY[:known])
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
    for name in names:
        check_name("columns", name, (*SETS, *FULL, *ENERGY))
        if name in SETS:
            raise InputError(f"columns: {name} stands for a set of columns; give it alone")
    return ("scenario", *(name for name in (*FULL, *ENERGY) if name in names and name != "scenario"))


def make_table(
    key: str,
    problem: Problem,
    grid: Grid,
    start: int,
    found: Found,
    columns: Sequence[str],
    document: Mapping[str, Any],
) -> pa.Table:
    """The ``columns`` of the scenarios from ``start`` on. Times in seconds, energies in joules, ``uplink_bit`` in bits;
    nulls where no strategy is feasible. Exactly the :data:`COMPACT` columns have their times in float32.

    ``key`` is the problem's in its sweep. The metadata holds ``document`` and the strategies that the rows name.
    """
    import pyarrow as pa

    makers = _Makers(problem, grid, start, found)
    table = {name: makers.column(name) for name in columns}
    if tuple(columns) == COMPACT:
        table["latency_s"] = table["latency_s"].cast(pa.float32())
    used, counts = found.used()
    strategies = {
        "problem": key,
        "model": grid.models[start // grid.per_model],
        "id": strategy_ids(problem, found.levels[used]).tolist(),
        "levels": found.levels[used].tolist(),
        "scenarios": counts.tolist(),
    }
    text = json.dumps({"format": SWEEP_FORMAT, **document, "strategies": strategies}, separators=(",", ":"))
    return pa.table(table).replace_schema_metadata({METADATA_KEY: text})


def encode(table: pa.Table) -> pa.Buffer:
    """The table as the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    numbered = [f"{name}.list.element" if name == "strategy" else name for name in _NUMBERED]
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=1,
        row_group_size=ROW_GROUP,
        use_dictionary=[name for name in numbered if name.partition(".")[0] in table.column_names],
        column_encoding={"scenario": "DELTA_BINARY_PACKED"},
    )
    return sink.getvalue()


class _Makers:
    """Makes the columns of a chunk one by one: what is not asked for costs nothing."""

    def __init__(self, problem: Problem, grid: Grid, start: int, found: Found) -> None:
        self.problem, self.grid, self.found = problem, grid, found
        self.start, self.stop = start, start + len(found.index)
        self.nothing = found.index == NOTHING
        self.none = bool(self.nothing.any())
        self.index = np.where(self.nothing, 0, found.index) if self.none else found.index
        # Where nothing is feasible at all there is no strategy to look up: one that no row shows stands there.
        self.levels = found.levels if len(found.levels) else np.zeros((1, len(problem.space.variables)), np.int64)
        self.accuracy = found.accuracy if len(found.levels) else np.full(1, np.nan)
        self.error = found.error if len(found.levels) else np.full(1, np.nan)
        self._kept: dict[str, Any] = {}

    def column(self, name: str) -> Any:
        """The column as Arrow takes it."""
        maker: Callable[[], Any] | None = getattr(self, f"_{name}", None)
        if maker is not None:
            return maker()
        if name.removesuffix("_s") in PLAIN_METHODS:
            return METHODS[name.removesuffix("_s")].solve(self.problem, self._once(self._batch)).objective
        return self._of_grid(name)

    def _once(self, make: Callable[[], Any]) -> Any:
        name = make.__name__
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def _entries(self) -> dict[str, np.ndarray]:
        return dict(self.grid.entries(self.start, self.stop))

    def _weights(self) -> np.ndarray:
        return self.grid.weights(self.start, self.stop)

    def _batch(self) -> ScenarioBatch:
        return ScenarioBatch.of_grid(self.grid, self.start, self.stop)

    def _costs(self) -> np.ndarray:
        """(K, 3) of the strategies: what was counted on the trained modules, where they were trained."""
        costs, place = self.problem.delay.costs(self.levels), self.problem.measured.find(self.levels)
        costs[place >= 0] = self.problem.measured.costs[place[place >= 0]]
        return costs

    def _seconds(self) -> np.ndarray:
        """(S, 4): on the device, on the server, on the link, and for crossing it."""
        return parts(self._once(self._costs)[self.index], self._once(self._weights))

    def _nullable(self, values: np.ndarray, null: np.ndarray | None = None) -> Any:
        import pyarrow as pa

        empty = self.nothing if null is None else self.nothing | null
        return pa.array(values, mask=empty if self.none or null is not None else None)

    def _of_grid(self, name: str) -> Any:
        import pyarrow as pa

        entries, grid = self._once(self._entries), self.grid
        if name in ("device", "server", "link"):
            axis = getattr(grid, name)
            return pa.DictionaryArray.from_arrays(
                pa.array(axis.label[entries[name]].astype(np.int32)), pa.array(axis.labels, pa.string())
            )
        if name in ("max_loss", "confidence"):
            values = getattr(grid, name)[entries[name]]
        else:
            axis = next(each for each in ("device", "server", "link") if name in getattr(grid, each).columns)
            values = getattr(grid, axis).numbers(name, entries["model"], entries[axis])
            if name in measured_speeds(self.problem.delay.times):
                return pa.nulls(len(values), pa.float64())
        return pa.array(values, mask=np.isnan(values)) if name in ("confidence", "snr_db") else pa.array(values)

    def _scenario(self) -> Any:
        return np.arange(self.start, self.stop, dtype=np.int64)

    def _accuracy_floor(self) -> Any:
        return self.problem.base_accuracy - self.grid.max_loss[self._once(self._entries)["max_loss"]]

    def _feasible(self) -> Any:
        return ~self.nothing

    def _latency_s(self) -> Any:
        return self._nullable(self._once(self._seconds).sum(axis=1))

    def _device_s(self) -> Any:
        return self._nullable(self._once(self._seconds)[:, 0])

    def _server_s(self) -> Any:
        return self._nullable(self._once(self._seconds)[:, 1])

    def _uplink_s(self) -> Any:
        return self._nullable(self._once(self._seconds)[:, 2])

    def _crossing_s(self) -> Any:
        return self._nullable(self._once(self._seconds)[:, 3])

    def _uplink_bit(self) -> Any:
        return self._nullable(self._once(self._costs)[self.index, 2])

    def _predicted_accuracy(self) -> Any:
        return self._nullable(self.accuracy[self.index])

    def _accuracy_bound(self) -> Any:
        """By confidence and strategy: few of each."""
        entries, grid = self._once(self._entries), self.grid
        sure = np.full((len(grid.confidence), len(self.levels)), np.nan)
        known = self.problem.is_known(self.levels)
        for row, confidence in zip(sure, grid.confidence, strict=True):
            if not np.isnan(confidence):
                row[:] = self.problem.bound_of(self.accuracy, known, self.error, float(confidence))
        values = sure[entries["confidence"], self.index]
        return self._nullable(values, np.isnan(values))

    def _accuracy_source(self) -> Any:
        known = self.problem.is_known(self.levels)
        return self._labelled(np.where(known, 0, np.where(np.isnan(self.error), 2, 1)), SOURCES)

    def _energy_j(self) -> Any:
        weights = self.grid.energy_weights(self.start, self.stop)
        joules = parts(self._once(self._costs)[self.index], weights).sum(axis=1)
        return self._nullable(joules, np.isnan(joules))

    def _lower_bound_s(self) -> Any:
        return self._bound("latency")

    def _lower_bound_j(self) -> Any:
        return self._bound("energy")

    def _bound(self, objective: GridObjective) -> Any:
        """What is proven of the objective, and nothing of the other one."""
        import pyarrow as pa

        bound = self.found.lower_bound
        return pa.array(bound, mask=~np.isfinite(bound) | (objective != self.grid.objective))

    def _points(self) -> np.ndarray:
        cut = self.problem.space.cut_variable
        points = np.array(self.problem.space.variables[cut].values, dtype=np.int64)
        return points[self.levels[:, cut]]

    def _partition_point(self) -> Any:
        return self._nullable(self._once(self._points)[self.index])

    def _cut_after(self) -> Any:
        graph = self.problem.graph
        names = tuple(graph.cut_name(partition) for partition in range(len(graph.layers) + 1))
        return self._labelled(self._once(self._points), names)

    def _strategy(self) -> Any:
        import pyarrow as pa

        width = self.levels.shape[1]
        return pa.ListArray.from_arrays(
            pa.array(np.arange(0, (len(self.index) + 1) * width, width, dtype=np.int32)),
            pa.array(self.levels.astype(np.int16)[self.index].ravel()),
            mask=pa.array(self.nothing),
        )

    def _strategy_id(self) -> Any:
        return self._nullable(strategy_ids(self.problem, self.levels)[self.index])

    def _feature_bits(self) -> Any:
        space = self.problem.space
        return self._nullable(space.cut_bits[self.levels[:, space.cut_variable]][self.index])

    def _evaluations(self) -> Any:
        return self.found.evaluations

    def _labelled(self, codes: np.ndarray, labels: Sequence[str]) -> Any:
        """A label for each scenario by its strategy's code (K,)."""
        import pyarrow as pa

        mask = self.nothing if self.none else None
        return pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32)[self.index], mask=mask), pa.array(labels, pa.string())
        )
