"""A finished sweep, opened: its rows as they lie in the files, and joined with what the grid and the strategies say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coinfer_ray.errors import InputError, check_name, counted
from coinfer_ray.problem.costs import parts
from coinfer_ray.runtime.address import Place
from coinfer_ray.runtime.places import open_store
from coinfer_ray.runtime.stores import Store
from coinfer_ray.scenarios.grid import AXES, Grid
from coinfer_ray.scenarios.read import parse_grid
from coinfer_ray.sweeps.found import measured_speeds
from coinfer_ray.sweeps.manifest import STRATEGIES_FILE, Manifest

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

_PARTS = ("device_s", "server_s", "uplink_s", "crossing_s")  # latency, by the order of costs and weights
_COSTS = ("device_cost", "server_cost", "uplink_bit")


@dataclass(frozen=True, eq=False)
class Sweep:
    """The answers in a sweep's folder, or in those of its shards.

    ``dataset``: the rows with the columns that were written, ``model`` among them. ``strategies``: one row for each
    strategy, ``id`` being what rows call ``strategy_id``. ``grid``: what was asked; ``settings``: how.
    """

    dataset: Dataset
    strategies: pa.Table
    grid: Grid
    settings: dict[str, Any]

    def __len__(self) -> int:
        """Rows: the scenarios of the grid, or of the shards that were opened."""
        return int(self.dataset.count_rows())

    @property
    def columns(self) -> tuple[str, ...]:
        """All that :meth:`tables` can give: what is written, and what the grid and the strategies add to it."""
        own = tuple(self.dataset.schema.names)
        joined = (*self._of_grid(), *self._of_strategies())
        return (*own, *(name for name in joined if name not in own))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, a file's at a time in the order of the scenarios, with the ``columns`` that are asked for (all).

        What a file does not hold is joined: the scenario's own numbers from the grid, what its strategy is from
        :attr:`strategies`, the parts of its latency from both.

        Raises:
            InputError: a column that there is not.
        """
        wanted = self.columns if columns is None else tuple(columns)
        for name in wanted:
            check_name("columns", name, self.columns)
        for fragment in sorted(self.dataset.get_fragments(), key=lambda fragment: _number(fragment.path)):
            yield self._joined(fragment, wanted)

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of :meth:`tables` at once."""
        import pyarrow as pa

        return pa.concat_tables(self.tables(columns), promote_options="default")

    def _of_grid(self) -> tuple[str, ...]:
        axes = (self.grid.device, self.grid.server, self.grid.link)
        return (*AXES, *(name for axis in axes for name in axis.columns))

    def _of_strategies(self) -> tuple[str, ...]:
        if "strategy_id" not in self.dataset.schema.names:
            return ()
        return (*(name for name in self.strategies.column_names if name not in ("id", "model", "scenarios")), *_PARTS)

    def _joined(self, fragment: Any, wanted: tuple[str, ...]) -> pa.Table:
        import pyarrow as pa

        own = [name for name in self.dataset.schema.names if name in wanted or name in ("scenario", "strategy_id")]
        table = fragment.to_table(schema=self.dataset.schema, columns=own)
        if not len(table):
            return table.select([name for name in wanted if name in own])
        start = table["scenario"][0].as_py()
        asked: dict[str, Any] = {}
        place: np.ndarray | None = None
        if set(wanted) & set(self._of_strategies()) - set(own):
            place = self._place(table["strategy_id"])
        for name in wanted:
            if name in own:
                asked[name] = table[name]
            elif name in self._of_grid():
                asked[name] = self._grid_column(name, start, start + len(table))
            elif place is None:
                raise AssertionError(name)  # what is no column of the rows or the grid is one of the strategies
            elif name in _PARTS:
                which = _PARTS.index(name)
                costs = np.column_stack([np.append(self.strategies[each].to_numpy(), np.nan) for each in _COSTS])
                seconds = parts(costs[place], self.grid.weights(start, start + len(table)))[:, which]
                asked[name] = pa.array(seconds, mask=place < 0)
            else:
                asked[name] = self.strategies[name].take(pa.array(place, mask=place < 0))
        return pa.table(asked)

    def _place(self, ids: pa.ChunkedArray) -> np.ndarray:
        """(n,) the row of :attr:`strategies` of each id, -1 where there is none."""
        known = self.strategies["id"].to_numpy()
        values = ids.fill_null(-1).to_numpy()
        if not len(known):
            return np.full(len(values), -1)
        order = np.argsort(known)
        place: np.ndarray = order[np.minimum(np.searchsorted(known[order], values), len(known) - 1)]
        return np.where(values == -1, -1, place)

    def _grid_column(self, name: str, start: int, stop: int) -> Any:
        import pyarrow as pa

        if name in measured_speeds(self.grid.times(start)):
            return pa.nulls(stop - start, pa.float64())
        values = self.grid.columns(start, stop)[name]
        if name == "model":
            return pa.DictionaryArray.from_arrays(pa.array(values), pa.array(self.grid.models, pa.string()))
        if name in ("device", "server", "link"):
            labels = getattr(self.grid, name).labels
            return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int32)), pa.array(labels, pa.string()))
        return pa.array(values, mask=np.isnan(values))


def open_sweep(folder: Place | Sequence[Place], *, check: bool = False) -> Sweep:
    """Open the folder of a finished sweep, or those of its shards together; ``s3://bucket/prefix`` is a folder, too.

    ``check`` reads every file and compares it with what was written.

    Raises:
        InputError: no folder of a sweep, one that is not finished, folders that are not all the shards of one sweep, or
            a file that is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    folders = [open_store(each) for each in ([folder] if isinstance(folder, Place) else folder)]
    opened = [_open_folder(each, check) for each in folders]
    settings = check_one_sweep(folders, [each[2] for each in opened])
    if len(opened) == 1:
        dataset, strategies = opened[0][:2]
    else:
        dataset = ds.dataset([each[0] for each in opened])
        strategies = _merged(pa.concat_tables([each[1] for each in opened]))
    return Sweep(dataset, strategies, parse_grid(settings["grid"]), settings)


def check_one_sweep(stores: Sequence[Store], settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of the one sweep that ``stores`` hold: its folder, or those of all its shards.

    Raises:
        InputError: none is given, they are of different sweeps, or not all the shards.
    """
    if not stores:
        raise InputError("sweep: no folder is given; give that of `coinfer sweep --out`")
    for store, other in zip(stores, settings, strict=True):
        if {**other, "shard": None} != {**settings[0], "shard": None}:
            raise InputError(f"sweep: {store} and {stores[0]} are of different sweeps; open them one by one")
    if len(stores) > 1:
        check_shards([each.get("shard") for each in settings])
    return dict(settings[0])


def check_shards(shards: Sequence[Sequence[int] | None]) -> None:
    """Raise InputError unless ``shards``, (i, n) each, are n of n parts."""
    whole = {None if each is None else each[1] for each in shards}
    parts = sorted(each[0] for each in shards if each is not None)
    count = next(iter(whole))
    if len(whole) > 1 or count is None:
        raise InputError(
            "sweep: several folders must be the shards of one sweep, cut into equally many; open them apart"
        )
    if parts != list(range(1, count + 1)):
        lacking = sorted(set(range(1, count + 1)) - set(parts))
        wrong = f"{lacking[0]}/{count} is missing" if lacking else "one is given twice"
        raise InputError(f"sweep: of the {count} shards {wrong}; give each once")


def _open_folder(store: Store, check: bool) -> tuple[Dataset, pa.Table, dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = finished_manifest(store)
    if check:
        check_files(manifest)
    wanted = (*manifest.files, STRATEGIES_FILE)
    there = store.sizes(wanted)
    missing = [name for name in wanted if name not in there]
    if missing:
        raise InputError(f"sweep: {store.path(missing[0])} is missing; run its sweep again")
    try:
        dataset = open_files(store, sorted(manifest.files, key=_number))
        strategies = pq.ParquetFile(pa.BufferReader(store.read(STRATEGIES_FILE))).read()
        return dataset, strategies, store.read_run()["settings"]
    except (pa.ArrowException, OSError):
        check_files(manifest)  # names what is damaged
        raise


def _number(path: str) -> int:
    """The number of the chunk whose file it is."""
    return int(path.rpartition("-")[2].partition(".")[0])


def _merged(strategies: pa.Table) -> pa.Table:
    """Each strategy once, answering as many scenarios as in all rows together."""
    counts = strategies.group_by("id", use_threads=False).aggregate([("scenarios", "sum")])
    first = dict[int, int]()
    for row, number in enumerate(strategies["id"].to_pylist()):
        first.setdefault(number, row)
    distinct = strategies.take([first[number] for number in counts["id"].to_pylist()])
    place = distinct.schema.get_field_index("scenarios")
    return distinct.set_column(place, "scenarios", counts["scenarios_sum"])


def finished_manifest(place: Place | Store) -> Manifest:
    """The manifest of a finished sweep, by its folder or address.

    Raises:
        InputError: no folder of a sweep, or one that is not finished.
    """
    store = open_store(place)
    run = store.read_run()
    if run["kind"] != "sweep":
        raise InputError(f"sweep: {store} was written by `coinfer {run['kind']}`; give the folder of a sweep")
    manifest = Manifest.read(store)
    if not manifest.complete:
        raise InputError(
            f"sweep: {store} is not finished ({counted(manifest.rows, 'row')} so far); run its sweep again"
        )
    return manifest


def check_files(manifest: Manifest) -> None:
    """Raise InputError, naming them, where files are not as they were written."""
    bad = list(manifest.damaged())
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise InputError(
            f"sweep: {manifest.store.path(bad[0])}{more} is not as it was written (of "
            f"{counted(len(manifest.files), 'file')}); run its sweep again, which does the damaged ones anew"
        )


def open_files(store: Store, names: Sequence[str]) -> Dataset:
    """The data set of a sweep's files, ``model`` from their folders' names."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    hive = ds.partitioning(pa.schema([("model", pa.string())]), flavor="hive")
    system, base = store.arrow
    paths = [f"{base}/{name}" for name in names]
    return ds.dataset(paths, format="parquet", partitioning=hive, partition_base_dir=base, filesystem=system)
