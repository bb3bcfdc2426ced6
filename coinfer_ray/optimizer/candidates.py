"""The strategies whose accuracy is measured, as one list: few enough to look at all of them.

What needs no predictor needs no search either. Fronts, budgets and ranges of speeds are answered by going through
these, and are exact among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from coinfer_kernels import Solutions

from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.problem.costs import objective

Source = Literal["base", "measured", "predicted"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """K strategies of a problem and what is known of them.

    ``levels`` (K, V), ``costs`` (K, 3) as of :class:`coinfer_ray.optimizer.problem.MeasuredLevels`; ``accuracy`` (K,)
    in 0..1; ``bound`` (K,) what each reaches with the confidence that was asked for, the accuracy itself without one;
    ``known`` (K,) bool, whether it is the network as it is; ``trainings`` (K,) that were measured, 0 where it was not
    trained by itself; ``gap`` (K,) by which share its objective may be above the best, NaN where nothing is proven.
    """

    levels: np.ndarray
    costs: np.ndarray
    accuracy: np.ndarray
    bound: np.ndarray
    known: np.ndarray
    trainings: np.ndarray
    gap: np.ndarray

    @classmethod
    def measured(cls, problem: Problem, confidence: float | None) -> Candidates:
        """The network as it is at every cut, then the measured strategies, each by its measured accuracy less the
        margin of a measurement (:meth:`coinfer_ray.optimizer.problem.Problem.measured_bound`).

        Raises:
            InputError: a confidence that is no probability, or a problem without records.
        """
        own, base = problem.measured, np.full(len(problem.known_levels), problem.base_accuracy)
        known = np.arange(len(base) + len(own.levels)) < len(base)
        return cls(
            levels=np.vstack([problem.known_levels, own.levels]),
            costs=np.vstack([problem.known_costs, own.costs]),
            accuracy=np.concatenate([base, own.accuracy]),
            bound=np.concatenate([base, problem.measured_bound(confidence)]),
            known=known,
            trainings=np.concatenate([np.zeros(len(base), dtype=np.int64), own.trainings]),
            gap=np.zeros(len(known)),
        )

    def __len__(self) -> int:
        return len(self.bound)

    def take(self, rows: np.ndarray) -> Candidates:
        """Those of ``rows``: positions (n,) or a mask (K,)."""
        return Candidates(*(column[rows] for column in vars(self).values()))

    def with_others(self, others: Candidates) -> Candidates:
        """These and then ``others``."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Candidates(*(np.concatenate(pair) for pair in pairs))

    def objective(self, weights: tuple[float, ...]) -> np.ndarray:
        """(K,) seconds or joules under a scenario's :meth:`~coinfer_ray.scenarios.scenario.Scenario.weights`."""
        return objective(self.costs, np.array(weights))

    def best(self, value: np.ndarray, kept: np.ndarray, otherwise: np.ndarray | None = None) -> Solutions:
        """The one of the least ``value`` (K,) among those ``kept`` (K,) bool, proven by all of them; one row, not
        feasible where none is. Of equal values the least ``otherwise`` (K,), then the first."""
        ranked = np.where(kept, value, np.inf)
        row = int(ranked.argmin() if otherwise is None else np.lexsort((otherwise, ranked))[0])
        feasible, least = bool(kept[row]), float(ranked[row])
        return Solutions(
            levels=self.levels[[row]],
            objective=np.array([least]),
            accuracy=np.array([self.accuracy[row] if feasible else self.accuracy.max()]),
            evaluations=np.array([len(self)]),
            feasible=np.array([feasible]),
            lower_bound=np.array([least]),
        )

    def source(self, row: int) -> Source:
        """What the accuracy of one of them rests on, in the words of :class:`coinfer_ray.optimizer.optimize.Answer`."""
        return "base" if self.known[row] else "measured" if self.trainings[row] else "predicted"


def unbeaten(criteria: np.ndarray) -> np.ndarray:
    """Positions (F,) of the rows of ``criteria`` (K, D) that no other beats: as low in all and lower in one.

    In lexicographic order; of rows that are equal the first. A row that beats another comes before it in that order, so
    each has to be compared with those alone that were kept before it (Kung, Luccio and Preparata, Journal of the ACM
    22(4), 1975).
    """
    kept: list[int] = []
    for row in np.lexsort(criteria.T[::-1]):
        if not (criteria[kept] <= criteria[row]).all(axis=1).any():
            kept.append(int(row))
    return np.array(kept, dtype=np.int64)
