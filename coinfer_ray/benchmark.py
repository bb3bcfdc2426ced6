"""The records as a tabular benchmark: all really trained strategies of a network, to try a method without training.

What NAS-Bench is to architecture search, for split computing: a table of measured strategies of every method, with what
each costs, so that a scenario's exact optimum over what was measured is known, and so is any optimizer's regret::

    from coinfer_ray.benchmark import Benchmark

    bench = Benchmark.load("alexnet")
    scenario = bench.scenario(device="rpi3b+", server="p100", link="4g", max_loss=0.02)
    best = bench.optimum(scenario)                     # a row of the table
    bench.regret(my_row, scenario)                     # 0.0: as fast as the best; inf: it loses too much
    row, distance = bench.nearest(my_strategy)         # the measured strategy that is most like it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.problem.costs import objective
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.records.choices import Choices, choices_path, read_choices
from coinfer_ray.records.store import Records, Split, read_records, shipped_parts
from coinfer_ray.scenarios.read import ScenarioOptions, resolve
from coinfer_ray.scenarios.scenario import Scenario, refuse_times

if TYPE_CHECKING:
    import pyarrow as pa

_SPLITS: tuple[Split, ...] = ("validation", "test")
OURS = "coinfer"  # the method of strategies of the whole space


@dataclass(frozen=True, eq=False)
class Benchmark:
    """n measured strategies of one network, one row each however often it was trained.

    ``method`` (n,) names; ``strategies`` (n,) those of the whole space, None for choices of other methods, which are
    what ``asked`` (n,) JSON says; ``partition_point``, ``feature_bits``, ``trainings`` (n,) int64; ``costs`` (n, 3)
    device FLOPs, server FLOPs and uplink bits, a codec's FLOPs included; ``accuracy``: (n,) the mean over trainings, by
    split; ``base_accuracy`` of the network that all started from, by split.
    """

    space: SearchSpace
    method: np.ndarray
    strategies: tuple[Strategy | None, ...]
    asked: tuple[str, ...]
    partition_point: np.ndarray
    feature_bits: np.ndarray
    costs: np.ndarray
    accuracy: Mapping[Split, np.ndarray]
    base_accuracy: Mapping[Split, float]
    trainings: np.ndarray

    def __len__(self) -> int:
        return len(self.method)

    @classmethod
    def load(cls, model: str, input_px: int | None = None) -> Benchmark:
        """The table of what ships for a network.

        Raises:
            InputError: no records ship for it at that input size.
        """
        records = read_records(shipped_parts(model, input_px))
        base: dict[Split, float] = {split: records.base_accuracy(split) for split in _SPLITS}
        parts = [_of_records(records)]
        path = choices_path(model, input_px)
        if path.exists():
            choices = read_choices(path)
            parts += [_of_choices(choices.of(each), choices.of(each, "test"), each, base) for each in choices.methods]
        joined = {name: [value for part in parts for value in part[name]] for name in parts[0]}
        return cls(
            space=SearchSpace(records.graph),
            method=np.array(joined["method"]),
            strategies=tuple(joined["strategy"]),
            asked=tuple(joined["asked"]),
            partition_point=np.array(joined["partition_point"], dtype=np.int64),
            feature_bits=np.array(joined["feature_bits"], dtype=np.int64),
            costs=np.array(joined["costs"], dtype=np.float64).reshape(-1, 3),
            accuracy={split: np.array(joined[split], dtype=np.float64) for split in _SPLITS},
            base_accuracy=base,
            trainings=np.array(joined["trainings"], dtype=np.int64),
        )

    @staticmethod
    def scenario(**options: Unpack[ScenarioOptions]) -> Scenario:
        """A scenario by names or numbers, as :func:`coinfer_ray.optimize` takes it; its confidence plays no part.

        Raises:
            InputError: the first of them that cannot be used.
        """
        return resolve(**options)

    def latency_s(self, scenario: Scenario) -> np.ndarray:
        """(n,) seconds of every row.

        Raises:
            InputError: measured times of layers: the rows have operations.
        """
        refuse_times("benchmark", scenario.device, scenario.server)
        return objective(self.costs, np.array(scenario.weights("latency")))

    def keeps(self, max_loss: float, split: Split = "validation") -> np.ndarray:
        """(n,) bool: the rows that lose at most ``max_loss`` (a share) of the base accuracy, as measured."""
        kept: np.ndarray = self.accuracy[split] >= self.base_accuracy[split] - max_loss - 1e-12
        return kept

    def optimum(self, scenario: Scenario, *, method: str | None = None, split: Split = "validation") -> int:
        """The row of least latency among those that keep to the scenario's loss, of all methods or of one.

        Raises:
            InputError: a method that the table has no rows of, or no row keeps to the loss.
        """
        allowed = self.keeps(scenario.max_loss, split)
        if method is not None:
            check_name("method", method, tuple(dict.fromkeys(self.method.tolist())))
            allowed &= self.method == method
        if not allowed.any():
            raise InputError(f"benchmark: no measured strategy loses at most {scenario.max_loss:g}; allow more")
        return int(np.where(allowed, self.latency_s(scenario), np.inf).argmin())

    def regret(self, row: int, scenario: Scenario, *, split: Split = "validation") -> float:
        """By which share of the optimum's latency a row is slower than it; infinite where it loses too much."""
        if not self.keeps(scenario.max_loss, split)[row]:
            return np.inf
        latency = self.latency_s(scenario)
        return float(latency[row] / latency[self.optimum(scenario, split=split)] - 1)

    def nearest(self, strategy: Strategy) -> tuple[int, float]:
        """The row of the whole space that is most like ``strategy``, and how far it is; 0 where it was trained itself.

        The distance is the mean over the decision variables of the difference of their levels, each as a share of its
        range (the cut: 1 where it differs, or the bits that a value is sent by).

        Raises:
            InputError: prunable sets or a cut that the network does not have.
        """
        rows = [row for row, own in enumerate(self.strategies) if own is not None]
        levels = np.array([self.space.levels(own) for own in self.strategies if own is not None])
        bits = np.array([own.feature_bits for own in self.strategies if own is not None])
        wanted = self.space.levels(strategy)
        reach = np.maximum(self.space.tables.n_levels - 1, 1)
        differences = np.abs(levels - wanted) / reach
        cut = self.space.cut_variable
        differences[:, cut] = levels[:, cut] != wanted[cut]
        # Bits are no variable of this space: other ones count as another cut.
        differences[:, cut] = np.maximum(differences[:, cut], bits != strategy.feature_bits)
        distances = differences.mean(axis=1)
        best = int(distances.argmin())
        return rows[best], float(distances[best])

    def table(self) -> pa.Table:
        """All rows as an Arrow table, for pandas, Polars or DuckDB; ``strategy`` is JSON."""
        import pyarrow as pa

        strategies = [
            asked if own is None else json.dumps(own.to_json())
            for own, asked in zip(self.strategies, self.asked, strict=True)
        ]
        return pa.table(
            {
                "method": self.method.tolist(),
                "strategy": strategies,
                "partition_point": self.partition_point,
                "cut_after": [self.space.graph.cut_name(point) for point in self.partition_point.tolist()],
                "feature_bits": self.feature_bits,
                "device_flop": self.costs[:, 0],
                "server_flop": self.costs[:, 1],
                "uplink_bit": self.costs[:, 2],
                **{f"{split}_accuracy": self.accuracy[split] for split in _SPLITS},
                **{f"base_{split}_accuracy": np.full(len(self), self.base_accuracy[split]) for split in _SPLITS},
                "trainings": self.trainings,
            }
        )


def _of_records(records: Records) -> dict[str, list[Any]]:
    """Columns of the records' strategies, trainings of one as one."""
    groups: dict[str, list[int]] = {}
    strategies, costs = records.strategies, records.costs()
    for row, strategy in enumerate(strategies):
        groups.setdefault(json.dumps(strategy.to_json()), []).append(row)
    first = [rows[0] for rows in groups.values()]
    return {
        "method": [OURS] * len(groups),
        "strategy": [strategies[row] for row in first],
        "asked": [""] * len(groups),
        "partition_point": [strategies[row].partition_point for row in first],
        "feature_bits": [strategies[row].feature_bits for row in first],
        "costs": [costs[rows].mean(axis=0).tolist() for rows in groups.values()],
        "trainings": [len(rows) for rows in groups.values()],
        **{split: [records.accuracy(split)[rows].mean() for rows in groups.values()] for split in _SPLITS},
    }


def _of_choices(validation: Choices, test: Choices, method: str, base: Mapping[Split, float]) -> dict[str, list[Any]]:
    """Columns of one method's choices, as losses against the base network: on another kind of machine that reaches
    another accuracy by an image or two."""
    return {
        "method": [method] * len(validation),
        "strategy": [None] * len(validation),
        "asked": list(validation.asked),
        "partition_point": validation.partition_point.tolist(),
        "feature_bits": validation.feature_bits.tolist(),
        "costs": validation.costs.tolist(),
        "trainings": validation.trainings.tolist(),
        "validation": (base["validation"] - validation.loss).tolist(),
        "test": (base["test"] - test.loss).tolist(),
    }
