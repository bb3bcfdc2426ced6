"""What a report shows of a sweep: its rows, grouped and labelled by what varies in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coinfer_ray.errors import InputError
from coinfer_ray.methods.proposed import Proposed
from coinfer_ray.methods.registry import METHODS, PLAIN_METHODS
from coinfer_ray.runtime.address import Place
from coinfer_ray.runtime.files import RUN_FILE
from coinfer_ray.runtime.places import open_store
from coinfer_ray.runtime.stores import Store
from coinfer_ray.sweeps.manifest import Manifest
from coinfer_ray.sweeps.reader import check_files, check_one_sweep, open_files

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

MAX_SCENARIOS = 1_000_000
METHOD_COLUMNS = {METHODS[name].title: f"{name}_s" for name in PLAIN_METHODS}
PROPOSED = Proposed.name
_AXES = ("model", "device", "server", "max_loss", "confidence")
_COLUMNS = (
    "scenario",
    "model",
    "device",
    "server",
    "link",
    "device_flops_per_s",
    "server_flops_per_s",
    "rate_bps",
    "max_loss",
    "confidence",
    "feasible",
    "latency_s",
    "device_s",
    "server_s",
    "uplink_s",
    "predicted_accuracy",
    "accuracy_bound",
    "lower_bound_s",
    "cut_after",
    *METHOD_COLUMNS.values(),
)
_OF_ANSWER = ("latency_s", "device_s", "uplink_s", "server_s", "predicted_accuracy", "accuracy_bound", "cut_after")


@dataclass(frozen=True)
class Row:
    """One scenario and its answer; the answer's fields are None where no strategy was feasible.

    ``confidence`` and ``accuracy_bound`` are None where no confidence was asked for.
    """

    model: str
    device: str
    server: str
    link: str
    rate_bps: float
    max_loss: float
    confidence: float | None
    latency_s: float | None
    device_s: float | None
    uplink_s: float | None
    server_s: float | None
    predicted_accuracy: float | None
    accuracy_bound: float | None
    lower_bound_s: float | None
    cut_after: str | None
    others_s: Mapping[str, float]

    @property
    def gain(self) -> float | None:
        """How many times faster the answer is than the best of the other methods."""
        return None if self.latency_s is None else min(self.others_s.values()) / self.latency_s

    def label(self, *axes: str) -> str:
        """The scenario's place on those axes, in words."""
        sure = "best guess" if self.confidence is None else f"confidence {self.confidence:g}"
        parts = {"max_loss": f"max loss {self.max_loss:g}", "confidence": sure}
        return ", ".join(parts.get(axis) or str(getattr(self, axis)) for axis in axes)

    def place(self, axis: str) -> str:
        """The scenario's place on one axis, as short as it goes."""
        value = getattr(self, axis)
        return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"others_s": dict(self.others_s), "gain": self.gain}


@dataclass(frozen=True)
class SweepResults:
    """The rows of a sweep in the order of their scenarios, and what they rest on.

    ``problems`` holds each network's provenance (:meth:`coinfer_ray.optimizer.problem.Problem.provenance`);
    ``scenarios`` is the size of the whole grid, more than there are rows while a sweep is unfinished.
    """

    rows: tuple[Row, ...]
    problems: Mapping[str, Mapping[str, Any]]
    solver: str
    scenarios: int

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """The axes, the link left out, on which the scenarios differ."""
        return tuple(axis for axis in _AXES if len({getattr(row, axis) for row in self.rows}) > 1)

    @cached_property
    def panels(self) -> dict[str, list[Row]]:
        """Scenarios that differ by their link alone, sorted by its rate, under what the others differ in."""
        groups: dict[str, list[Row]] = {}
        axes = self.varying or ("device",)
        for row in self.rows:
            groups.setdefault(row.label(*axes), []).append(row)
        return {label: sorted(rows, key=lambda row: row.rate_bps) for label, rows in groups.items()}


def read_sweep(folder: Place | Sequence[Place]) -> SweepResults:
    """The answers in an output folder of ``coinfer sweep``, or at the address that it wrote to; or in those of all
    shards of one sweep.

    Raises:
        InputError: another kind of folder, no answers in it, columns left out, a damaged file, more scenarios than
            a page holds, or folders that are not all the shards of one sweep.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    from coinfer_ray.scenarios.read import parse_grid

    folders = [folder] if isinstance(folder, Place) else list(folder)
    stores = [open_store(each) for each in folders]
    run_settings = [_settings(store) for store in stores]
    settings = check_one_sweep(stores, run_settings)
    manifests = [Manifest.read(store) for store in stores]
    for store, manifest in zip(stores, manifests, strict=True):
        if not manifest.files:
            raise InputError(f"report: {store} holds no answers yet; run its sweep first")
        check_files(manifest)
    try:
        parts = [open_files(manifest.store, sorted(manifest.files)) for manifest in manifests]
        return open_results(
            parts[0] if len(parts) == 1 else ds.dataset(parts),
            settings["problems"],
            settings["solver"],
            scenarios=len(parse_grid(settings["grid"])),
        )
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        named = ", ".join(map(str, stores))
        raise InputError(f"report: {named}: a file cannot be read ({reason}); run its sweep again") from None


def _settings(store: Store) -> Mapping[str, Any]:
    """How the sweep of a store was run, which has to be one that a report can be made of."""
    run = store.read_run()
    if run["kind"] != "sweep":
        raise InputError(f"report: {store} was written by `coinfer {run['kind']}`; give the folder of a sweep")
    settings: dict[str, Any] = run["settings"]
    missing = [name for name in ("grid", "problems", "solver", "columns") if name not in settings]
    if missing:
        raise InputError(f"report: {store.path(RUN_FILE)} does not say its {missing[0]}; run its sweep again")
    lacking = [name for name in _COLUMNS if name not in (*settings["columns"], "model")]
    if lacking:
        raise InputError(f"report: {store} has no column {lacking[0]}; run its sweep with --columns full")
    return settings


def open_results(
    dataset: Dataset, problems: Mapping[str, Mapping[str, Any]], solver: str, *, scenarios: int | None = None
) -> SweepResults:
    """The answers of a data set that :func:`coinfer_ray.sweep` returned.

    Raises:
        InputError: more scenarios than a page holds.
    """
    count = dataset.count_rows()
    if count > MAX_SCENARIOS:
        raise InputError(
            f"report: {count:,} scenarios are more than a page shows ({MAX_SCENARIOS:,}); sweep a smaller grid, "
            "or read the Parquet files"
        )
    table = dataset.to_table(columns=list(_COLUMNS)).sort_by("scenario")
    columns = {name: table[name].to_pylist() for name in _COLUMNS}
    devices = _names(columns["device"], columns["device_flops_per_s"], lambda speed: f"{speed / 1e9:.4g} GFLOPS")
    servers = _names(columns["server"], columns["server_flops_per_s"], lambda speed: f"{speed / 1e9:.4g} GFLOPS")
    links = _names(columns["link"], columns["rate_bps"], lambda rate: f"{rate / 1e6:.4g} Mb/s")
    rows = tuple(
        Row(
            model=columns["model"][i],
            device=devices[i],
            server=servers[i],
            link=links[i],
            rate_bps=columns["rate_bps"][i],
            max_loss=columns["max_loss"][i],
            confidence=columns["confidence"][i],
            **{name: columns[name][i] if columns["feasible"][i] else None for name in _OF_ANSWER},
            lower_bound_s=columns["lower_bound_s"][i],
            others_s={method: columns[name][i] for method, name in METHOD_COLUMNS.items()},
        )
        for i in range(table.num_rows)
    )
    return SweepResults(rows, problems, solver, scenarios or len(rows))


def _names(labels: list[str], numbers: list[float | None], describe: Callable[[float], str]) -> list[str]:
    """Each entry's label; with its number where entries of different numbers share the label."""
    numbers_of: dict[str, set[float | None]] = {}
    for label, number in zip(labels, numbers, strict=True):
        numbers_of.setdefault(label, set()).add(number)
    names = []
    for label, number in zip(labels, numbers, strict=True):
        described = "measured" if number is None else describe(number)
        unnamed = label.endswith(described.rpartition(" ")[2])  # the grid's own "0.1 to 1000 GFLOPS"
        names.append(label if len(numbers_of[label]) == 1 else described if unnamed else f"{label}, {described}")
    return names


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 .. count - 1, both ends among them, without the beat of a fixed step."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
