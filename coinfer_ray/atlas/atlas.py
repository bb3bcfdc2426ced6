"""The atlas of a network: every strategy that is the best in some scenario, proven, in one small file.

Which strategies are accurate enough depends on no device, server or link. So one atlas answers all scenarios that
share the records, the accuracy bound and, for a noisy channel, an interval of signal-to-noise ratios: a latency is
then the least of a few dozen dot products (:mod:`coinfer_kernels.atlas.lookup`).

What crossing the link takes by itself, whatever is sent, is the same for all strategies but those that stay on the
device, and of those the one with the fewest FLOPs is the best in every scenario. An atlas *with crossings* therefore
holds the strategies that are best of those that cross, and that one beside them: the least of a dot product plus the
crossing, and of the device's FLOPs over its speed, is the answer for any crossing time. It is proven for the ranges of
speeds and rates that it was built for (:mod:`coinfer_ray.atlas.build`), and answers nothing beyond them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from coinfer_kernels.atlas.cells import cells
from coinfer_kernels.atlas.lookup import Atlas, make_region
from coinfer_kernels.notation import Scenarios, Solutions

from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import judged
from coinfer_ray.problem.strategy import Codec, Strategy
from coinfer_ray.runtime.outputs import check_replaceable
from coinfer_ray.runtime.places import local_copy
from coinfer_ray.runtime.sealed import read_sealed, write_sealed
from coinfer_ray.scenarios.grid import Grid, GridObjective

ATLAS_FORMAT = 2
_METADATA_KEY = b"coinfer_ray.atlas"
_WIDER = 1e-9  # by which share a range is taken wider, so that its own ends lie inside
_NARROW = 1e-5  # the same for a range of next to nothing, whose cone has edges that are known to fewer digits

Range = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """Scenarios that an atlas is proven for. Ratios of speeds alone decide which strategy is best; of energies, of what
    an operation or a bit costs (:meth:`coinfer_ray.scenarios.grid.Grid.energy_ratios`).

    ``device`` is the range of the server's speed divided by the device's, ``uplink`` that of the server's divided by
    the link's rate (FLOP per bit). ``server_flops_per_s`` is the server's speed, the geometric mean of several, for
    which ratios are told as speeds and rates.
    """

    device: Range
    uplink: Range
    server_flops_per_s: float

    @classmethod
    def of_speeds(cls, device_flops_per_s: Range, server_flops_per_s: Range, rate_bps: Range) -> Ranges:
        """All scenarios within ranges of speeds (FLOP/s) and uplink rates (bit/s).

        Raises:
            InputError: a range whose ends are not above 0, or in the wrong order.
        """
        named = (("device", device_flops_per_s), ("server", server_flops_per_s), ("rate", rate_bps))
        for name, (low, high) in named:
            if not 0 < low <= high < math.inf:
                raise InputError(f"{name}: the range {low:g}:{high:g} must rise and lie above 0")
        slow, fast = server_flops_per_s
        device = slow / device_flops_per_s[1], fast / device_flops_per_s[0]
        return cls(device, (slow / rate_bps[1], fast / rate_bps[0]), math.sqrt(slow * fast))

    @classmethod
    def of_grid(cls, grid: Grid) -> Ranges:
        """All scenarios of a grid, by what it asks for: of energies the ratios are of joules, and of no speeds.

        Raises:
            InputError: energies of devices that draw nothing while they wait.
        """
        if grid.objective == "energy":
            low, high = (float(end(grid.server.columns["server_flops_per_s"])) for end in (np.min, np.max))
            return cls(*grid.energy_ratios(), math.sqrt(low * high))
        axes = (
            grid.device.columns["device_flops_per_s"],
            grid.server.columns["server_flops_per_s"],
            grid.link.columns["rate_bps"],
        )
        device, server, rate = ((float(axis.min()), float(axis.max())) for axis in axes)
        return cls.of_speeds(device, server, rate)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Ranges:
        return cls(tuple(document["device"]), tuple(document["uplink"]), document["server_flops_per_s"])

    def corners(self) -> np.ndarray:
        """(4, 3) weights per device FLOP, server FLOP and bit: the corners of their cone, in order around it."""
        (low, high), (least, most) = (_widened(*ends) for ends in (self.device, self.uplink))
        return np.array([(low, 1.0, least), (high, 1.0, least), (high, 1.0, most), (low, 1.0, most)])

    def holds(self, other: Ranges) -> bool:
        """Whether all scenarios of ``other`` are among these."""
        pairs = ((self.device, other.device), (self.uplink, other.uplink))
        return all(low <= least and most <= high for (low, high), (least, most) in pairs)


@dataclass(frozen=True)
class AtlasInfo:
    """What an atlas was built from, and what is proven of it.

    ``accuracy_floor`` is the least predicted accuracy of its strategies, any margin for a confidence included.
    ``snr_db``: it holds for ratios above the first and up to the second; None for records without noise. ``ratio``:
    no strategy is better than the atlas's best by more than that factor, anywhere within ``ranges``. ``crossings``:
    whether that holds where crossing the link takes time by itself, however much. ``objective``: what the weights of
    its ``ranges`` are of.
    """

    model: str
    input_px: int
    max_loss: float
    confidence: float | None
    accuracy_floor: float
    base_accuracy: float
    snr_db: Range | None
    ranges: Ranges
    tolerance: float
    ratio: float
    solves: int
    nodes: int
    seconds: float
    problem: Mapping[str, Any]
    version: str
    crossings: bool = False
    objective: GridObjective = "latency"

    @property
    def measured(self) -> tuple[bool, bool]:
        """Whether the costs of the device and of the server are seconds, for their times were measured; the speed that
        is a scenario's is then 1, and less where a server has other work."""
        said = self.problem.get("layer_seconds") or {}
        return said.get("device") is not None, said.get("server") is not None

    @property
    def proven(self) -> bool:
        return self.ratio <= 1 + self.tolerance

    def to_json(self) -> dict[str, Any]:
        document = {"format": ATLAS_FORMAT, **asdict(self)}
        if not self.crossings:  # as files without them have always been
            del document["crossings"]
        if self.objective == "latency":
            del document["objective"]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> AtlasInfo:
        fields = {name: value for name, value in document.items() if name != "format"}
        snr_db = None if fields["snr_db"] is None else tuple(fields["snr_db"])
        return cls(**{**fields, "ranges": Ranges.from_json(fields["ranges"]), "snr_db": snr_db})


@dataclass(frozen=True)
class StrategyAtlas:
    """An atlas and what its rows mean.

    With crossings (:attr:`AtlasInfo.crossings`) the last row of ``table`` is the best strategy that stays on the
    device, where there is one, and those before it are the best of all that cross. ``sources`` (K) say where a
    strategy's accuracy comes from: ``base``, ``measured`` or ``predicted``, as in
    :class:`coinfer_ray.optimizer.optimize.Answer`.
    """

    table: Atlas
    sources: tuple[str, ...]
    strategies: tuple[Strategy, ...]
    cut_after: tuple[str, ...]
    info: AtlasInfo

    def __len__(self) -> int:
        return len(self.table.costs)

    @property
    def known(self) -> np.ndarray:
        """(K,) whether each strategy is the network as it is."""
        return np.array([source == "base" for source in self.sources])

    def covers(self, accuracy_floor: float, snr_db: float) -> bool:
        """Whether it is the atlas of that accuracy floor and signal-to-noise ratio (NaN where there is none)."""
        if accuracy_floor != self.info.accuracy_floor:
            return False
        return self.info.snr_db is None or _inside(self.info.snr_db, snr_db)

    @property
    def crossing(self) -> Atlas:
        """The rows that compete by their dot products: with crossings those that cross, else all."""
        own = self.table.costs[:, 2] > 0
        if not self.info.crossings or own.all():
            return self.table
        return self.table._replace(costs=self.table.costs[own])

    def lookup(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best row (S,) and its objective (S,) for weights (S, 3), or (S, 4) with what a crossing costs by itself.

        Raises:
            InputError: weights beyond the ranges that the atlas was built for, or crossings where it has none.
        """
        extra = weights[:, 3] if weights.shape[1] == 4 else np.zeros(len(weights))
        if extra.any() and not self.info.crossings:
            raise InputError(
                "atlas: was built for links whose crossing takes no time by itself; build one with --crossings, or "
                "solve such scenarios exactly"
            )
        own = self.crossing
        try:
            index, objective = own.lookup(np.ascontiguousarray(weights[:, :3]))
        except ValueError as error:
            raise InputError(f"atlas: {error}") from None
        objective += extra
        if len(own.costs) < len(self):
            device, server, uplink = self.table.costs[-1]
            local = device * weights[:, 0] + server * weights[:, 1] + uplink * weights[:, 2]
            better = local <= objective
            index[better], objective[better] = len(self) - 1, local[better]
        return index, objective

    @cached_property
    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Corner rays (R, 3) of the weights at which each row is the best, and the row of each (R,); with crossings,
        the best of those that cross."""
        return cells(self.crossing.costs, self.table.region)

    def intervals(
        self, device_flops_per_s: float, server_flops_per_s: float, crossing_s: float = 0.0
    ) -> list[tuple[int, float, float]]:
        """Which row is the best at which uplink rates, for one device and server: (row, from, to) in bit/s, rising.

        ``crossing_s`` is what crossing the link takes by itself.

        Raises:
            InputError: the atlas is not proven for that pair of speeds, or for crossings that take time.
        """
        ranges, fast = self.info.ranges, server_flops_per_s
        if not _within(ranges.device, fast / device_flops_per_s):
            raise InputError(
                f"device: {device_flops_per_s / 1e9:g} GFLOPS beside a server of {fast / 1e9:g} lie outside this "
                "atlas's ranges; build one for wider ranges"
            )
        if crossing_s and not self.info.crossings:
            raise InputError("atlas: was built for links whose crossing takes no time; build one with --crossings")
        costs = self.table.costs
        fixed = costs[:, 0] / device_flops_per_s + costs[:, 1] / server_flops_per_s
        if crossing_s:
            fixed = fixed + np.where(costs[:, 2] > 0, crossing_s, 0.0)
        weight, last = (share / fast for share in ranges.uplink)
        row = int(np.lexsort((costs[:, 2], fixed + costs[:, 2] * weight))[0])
        found: list[tuple[int, float, float]] = []
        while True:
            with np.errstate(divide="ignore", invalid="ignore"):
                meeting = (fixed - fixed[row]) / (costs[row, 2] - costs[:, 2])
            meeting = np.where(costs[:, 2] < costs[row, 2], np.maximum(meeting, weight), np.inf)
            following = int(np.lexsort((costs[:, 2], meeting))[0])
            end = min(last, float(meeting[following]))
            if end > weight or not found:
                found.append((row, 1 / end, 1 / weight))
            if meeting[following] >= last:
                return found[::-1]
            row, weight = following, end

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each strategy, as JSON can say it: the columns of the file.

        ``share`` is that of :meth:`shares`. The strategy wins at some device speed for every rate from ``rate_low_bps``
        to ``rate_high_bps``, and at some rate for every device speed of its range, the server's speed being
        ``ranges.server_flops_per_s``; with crossings, of all that cross, and these are None for the one that does not,
        as they are in an atlas of energies.
        """
        rays, owner = self.cells
        share = self.shares()
        rows = []
        for k, strategy in enumerate(self.strategies):
            device, server, uplink = (float(cost) for cost in self.table.costs[k])
            own = rays[owner == k]
            rates: tuple[float | None, float | None] = (None, None)
            devices = rates
            if len(own) and self.info.objective == "latency":
                rates, devices = self._speeds(own[:, 2], own[:, 1]), self._speeds(own[:, 0], own[:, 1])
            rows.append(
                {
                    "row": k,
                    "partition_point": strategy.partition_point,
                    "cut_after": self.cut_after[k],
                    "sparsity": dict(strategy.sparsity),
                    "codec": asdict(strategy.codec),
                    "feature_bits": strategy.feature_bits,
                    "levels": self.table.levels[k].tolist(),
                    "device_flop": device,
                    "server_flop": server,
                    "uplink_bit": uplink,
                    "predicted_accuracy": float(self.table.accuracy[k]),
                    "accuracy_source": self.sources[k],
                    "share": float(share[k]),
                    "rate_low_bps": rates[0],
                    "rate_high_bps": rates[1],
                    "device_low_flops_per_s": devices[0],
                    "device_high_flops_per_s": devices[1],
                }
            )
        return rows

    def _speeds(self, weights: np.ndarray, server: np.ndarray) -> Range:
        """Least and greatest speed that weights (n,) stand for beside the server's weights (n,)."""
        ratios = weights / server
        speed = self.info.ranges.server_flops_per_s
        return float(speed / ratios.max()), float(speed / ratios.min())

    def shares(self, points: int = 256) -> np.ndarray:
        """(K,) share of the ranges that each row wins, both logarithmic: counted on a grid of points x points, where
        crossing the link takes no time by itself."""
        ranges = self.info.ranges
        axes = [np.geomspace(*ends, points) for ends in (ranges.device, ranges.uplink)]
        device, uplink = (axis.ravel() for axis in np.meshgrid(*axes))
        index, _ = self.lookup(np.column_stack([device, np.ones(points * points), uplink]))
        return np.bincount(index, minlength=len(self)) / len(index)

    def save(self, path: str | Path) -> None:
        """Write one Parquet file: a row for each strategy, what is proven and from what in the metadata.

        Raises:
            InputError: ``path`` is there and no atlas.
        """
        check_replaceable(path, "atlas")
        import pyarrow as pa

        rows = [
            {**row, "sparsity": list(row["sparsity"].values()), "codec": list(row["codec"].values())}
            for row in self.rows()
        ]
        document = {**self.info.to_json(), "prunable_sets": list(self.strategies[0].sparsity)}
        table = pa.Table.from_pylist(rows).replace_schema_metadata({_METADATA_KEY: json.dumps(document)})
        write_sealed(path, table, compression="zstd")


def load_atlas(path: str | Path, objective: GridObjective | None = "latency") -> StrategyAtlas:
    """Read what :meth:`StrategyAtlas.save` wrote, at a path or an address (``s3://bucket/name``).

    An atlas answers one ``objective``; None takes that of whichever.

    Raises:
        InputError: no such file, none of an atlas, or that of another ``objective``.
    """
    import pyarrow as pa

    path = local_copy(path, "atlas")
    if not path.is_file():
        raise InputError(f"atlas: {path} does not exist; write one with `coinfer atlas build`")
    try:
        table = read_sealed(path)
        document = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        if document["format"] != ATLAS_FORMAT:
            raise InputError(
                f"atlas: {path} is of format {document['format']}, this version reads {ATLAS_FORMAT}; build it again "
                "with `coinfer atlas build`"
            )
        other = document.get("objective", "latency")
        if objective not in (None, other):
            raise InputError(f"atlas: {path} is of {other}, for a sweep of its own; give one of {objective}")
        names = document.pop("prunable_sets")
        info = AtlasInfo.from_json(document)
        rows = table.to_pylist()
        strategies = tuple(
            Strategy(
                dict(zip(names, row["sparsity"], strict=True)),
                row["partition_point"],
                Codec.from_values(row["codec"]),
                row["feature_bits"],
            )
            for row in rows
        )
        costs = np.array([[row[name] for name in ("device_flop", "server_flop", "uplink_bit")] for row in rows])
        levels = np.array([row["levels"] for row in rows], dtype=np.int64)
        accuracy = np.array([row["predicted_accuracy"] for row in rows])
        sources = tuple(row["accuracy_source"] for row in rows)
        after = tuple(row["cut_after"] for row in rows)
        atlas = Atlas(levels, costs, accuracy, make_region(info.ranges.corners()), info.ratio)
    except InputError:
        raise
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"atlas: {path} is not an atlas file ({reason}); write it with `coinfer atlas build`"
        ) from None
    return StrategyAtlas(atlas, sources, strategies, after, info)


def solve_by_atlas(
    problem: Problem,
    scenarios: Scenarios,
    atlases: Sequence[StrategyAtlas],
    confidence: np.ndarray | float | None = None,
) -> Solutions:
    """The best strategy for each scenario from the atlas for it, with what is proven of it.

    ``confidence`` as in :func:`coinfer_ray.optimizer.solve.solve`.

    Raises:
        InputError: a scenario for which none of the atlases is proven.
    """
    floors = problem.required_accuracy(scenarios.accuracy_floor, confidence)
    count, variables = len(floors), len(problem.space.variables)
    levels, objective = np.zeros((count, variables), dtype=np.int64), np.empty(count)
    accuracy, lower_bound = np.empty(count), np.empty(count)
    ratios = np.where(np.isnan(scenarios.snr_db), -np.inf, scenarios.snr_db)  # no NaN equals another
    for floor, snr_db in np.unique(np.column_stack([floors, ratios]), axis=0):
        same = (floors == floor) & (ratios == snr_db)
        atlas = next((one for one in atlases if one.covers(floor, snr_db)), None)
        if atlas is None:
            raise InputError(f"atlas: none was built for an accuracy of {floor:.4f} at an SNR of {snr_db:g} dB")
        index, objective[same] = atlas.lookup(scenarios.weights[same])
        levels[same], accuracy[same] = atlas.table.levels[index], atlas.table.accuracy[index]
        lower_bound[same] = objective[same] / atlas.info.ratio
    nothing = np.zeros(count, dtype=np.int64)
    found = Solutions(levels, objective, accuracy, nothing, nothing == 0, lower_bound)
    return judged(problem, found, scenarios, confidence)


def _widened(low: float, high: float) -> Range:
    share = _WIDER if high > low * (1 + _NARROW) else _NARROW
    return low * (1 - share), high * (1 + share)


def _inside(interval: Range, value: float) -> bool:
    return interval[0] < value <= interval[1]


def _within(interval: Range, value: float) -> bool:
    return interval[0] * (1 - _WIDER) <= value <= interval[1] * (1 + _WIDER)
