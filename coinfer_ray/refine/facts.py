"""What has been measured of the strategies of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.problem.costs import objective
from coinfer_ray.problem.strategy import FLOAT_BITS, Strategy
from coinfer_ray.records.paired import accuracy_beside
from coinfer_ray.records.store import Records, Split
from coinfer_ray.refine.cases import Case

Source = Literal["base", "records", "verified"]


@dataclass(frozen=True)
class Fact:
    """A strategy whose accuracy is measured. ``accuracy`` and ``test_accuracy`` are None where training failed.

    ``trainings`` are all that are known of, ``own`` those that the loop asked for.
    """

    levels: tuple[int, ...]
    snr_db: float | None
    accuracy: float | None
    test_accuracy: float | None
    trainings: int
    own: int
    source: Source


class Facts:
    """Strategies whose accuracy is measured, with their costs, for the search space of ``problem``."""

    def __init__(self, problem: Problem, start: Records, split: Split) -> None:
        self.problem = problem
        self.facts: list[Fact] = []
        self._position: dict[tuple[tuple[int, ...], float | None], int] = {}
        self._costs: list[np.ndarray] = []
        self._rows: dict[tuple[tuple[int, ...], float | None], dict[int, Mapping[str, Any]]] = {}
        self._split: Split = split
        self._base = {each: start.base_accuracy(each) for each in (split, "test")}
        for levels in problem.known_levels:
            base = self._base[split], self._base["test"]
            self._put(Fact(_key(levels), None, *base, trainings=0, own=0, source="base"))
        rows: dict[tuple[tuple[int, ...], float | None], list[Mapping[str, Any]]] = {}
        for row, strategy in zip(start.table.to_pylist(), start.strategies, strict=True):
            levels = _levels_in(problem, strategy)
            if levels is not None:
                rows.setdefault((levels, row["snr_db"]), []).append(row)
        for (levels, snr_db), measured in rows.items():
            self._measured(levels, snr_db, measured, own=0, source="records")

    def add(self, levels: tuple[int, ...], snr_db: float | None, rows: Sequence[Mapping[str, Any]]) -> Fact:
        """Take in trainings that the loop asked for, of a new strategy or of one that is known."""
        known = self._position.get((levels, snr_db))
        before = None if known is None else self.facts[known]
        source: Source = "verified" if before is None else before.source
        own = len(rows) + (0 if before is None else before.own)
        return self._measured(levels, snr_db, rows, own=own, source=source)

    def _measured(
        self,
        levels: tuple[int, ...],
        snr_db: float | None,
        rows: Sequence[Mapping[str, Any]],
        *,
        own: int,
        source: Source,
    ) -> Fact:
        trainings = self._rows.setdefault((levels, snr_db), {})
        trainings |= {row["seed"]: row for row in rows}  # records may hold what the loop asks for: no second training
        ended_well = [row for row in trainings.values() if row["status"] == "ok"]
        fact = Fact(
            levels,
            snr_db,
            accuracy=self._accuracy(ended_well, self._split),
            test_accuracy=self._accuracy(ended_well, "test"),
            trainings=len(trainings),
            own=own,
            source=source,
        )
        self._put(fact, sent=float(np.mean([row["uplink_bit"] for row in ended_well])) if ended_well else None)
        return fact

    def _accuracy(self, rows: Sequence[Mapping[str, Any]], split: Split) -> float | None:
        return float(np.mean([accuracy_beside(row, split, self._base[split]) for row in rows])) if rows else None

    def of(self, levels: tuple[int, ...], snr_db: float | None) -> Fact | None:
        """What is known of a strategy over that channel; what was measured without noise holds on every one."""
        position = self._position.get((levels, snr_db), self._position.get((levels, None)))
        return None if position is None else self.facts[position]

    def best(self, case: Case, floor: float, trainings: int = 1) -> tuple[Fact | None, float]:
        """The cheapest fact that keeps to the floor, and its latency; (None, infinity) where there is none.

        What was measured through noise holds where there is less of it. Facts of fewer than ``trainings`` don't count;
        the network as it is needs none.
        """
        latency = objective(np.array(self._costs), np.array(case.weights))
        for position, fact in enumerate(self.facts):
            heard = fact.snr_db is None or (case.snr_db is not None and fact.snr_db <= case.snr_db)
            known = fact.source == "base" or fact.trainings >= trainings
            if not (heard and known) or fact.accuracy is None or fact.accuracy < floor:
                latency[position] = np.inf
        cheapest = int(latency.argmin())
        found = self.facts[cheapest] if np.isfinite(latency[cheapest]) else None
        return found, float(latency[cheapest])

    def _put(self, fact: Fact, sent: float | None = None) -> None:
        """``sent``: bits of an image on the link, in the mean; those of a quantised feature are known by it alone."""
        space = self.problem.space
        costs = self.problem.delay.costs(np.array(fact.levels))[0]
        if sent is not None and space.cut_bits[fact.levels[space.cut_variable]] != FLOAT_BITS:
            costs[2] = min(costs[2], sent)
        known = self._position.setdefault((fact.levels, fact.snr_db), len(self.facts))
        if known < len(self.facts):
            self.facts[known], self._costs[known] = fact, costs
            return
        self.facts.append(fact)
        self._costs.append(costs)


def _levels_in(problem: Problem, strategy: Strategy) -> tuple[int, ...] | None:
    """A strategy's levels; None where it does not lie on the levels of the problem's space."""
    space = problem.space
    levels = space.levels(strategy)
    there = space.strategy(levels)
    same = np.allclose(space.values(there), space.values(strategy), rtol=0, atol=1e-9)
    same &= there.feature_bits == strategy.feature_bits
    return _key(levels) if same else None


def _key(levels: np.ndarray) -> tuple[int, ...]:
    return tuple(int(level) for level in levels)
