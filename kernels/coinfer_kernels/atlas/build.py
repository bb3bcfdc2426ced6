"""Building an atlas: the exact solver asked at the corners of the atlas's cells until all are proven.

What an atlas is and why this proves it: :mod:`coinfer_kernels.atlas.lookup`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.atlas.cells import SAME_RAY, cells
from coinfer_kernels.atlas.lookup import Atlas, Region, make_region
from coinfer_kernels.atlas.packing import proven_share
from coinfer_kernels.costs import strategy_costs
from coinfer_kernels.exact.solve import solve_exact
from coinfer_kernels.notation import (
    BoolArray,
    CostTables,
    EnsembleTables,
    FloatArray,
    IntArray,
    Scenarios,
    Solutions,
    SpaceTables,
)

SHARE_OF_TOLERANCE = 0.9  # what the exact solver may leave open of it; the rest is for rounding


class SolvedWeights(NamedTuple):
    """What the exact solver said at some weights: the state of a build, which can be kept and handed in again."""

    weights: FloatArray  # (k, 3)
    levels: IntArray  # (k, V) meaningless where not feasible
    accuracy: FloatArray  # (k,)
    feasible: BoolArray  # (k,)
    lower_bound: FloatArray  # (k,) of the objective
    nodes: IntArray  # (k,)


class Draft:
    """An atlas in the making: ask for weights, tell what the exact solver said there.

    ``levels`` (K, V), ``costs`` (K, 3) and ``accuracy`` (K,) are strategies known to be accurate enough. Nothing here
    depends on how many weights are solved at once or by whom, only on what was told and in which order.
    """

    def __init__(self, region: Region, levels: IntArray, costs: FloatArray, accuracy: FloatArray) -> None:
        self.region = region
        self.levels, self.costs, self.accuracy = levels, costs, accuracy
        self._weights, self._values = np.empty((0, 3)), np.empty(0)
        self._keep_best()

    def _keep_best(self) -> None:
        """Drop points that are nowhere the best, and look where the others are farthest from proven."""
        if not len(self.costs):
            self._rays = self._normalized(self.region.corners)
            self._ratios = np.full(len(self._rays), np.inf)
            return
        _, first = np.unique(self.costs, axis=0, return_index=True)
        _, owner = cells(self.costs[np.sort(first)], self.region)
        kept = np.sort(first)[np.unique(owner)]
        self.levels, self.costs, self.accuracy = self.levels[kept], self.costs[kept], self.accuracy[kept]
        rays, _ = cells(self.costs, self.region)
        self._rays = self._normalized(rays)
        above = self.objective(self._rays)
        share = proven_share(self._weights, self._values, self._rays, above)
        with np.errstate(divide="ignore"):
            self._ratios = np.where(above > 0, np.maximum(1 / share, 1.0), 1.0)

    def _normalized(self, rays: FloatArray) -> FloatArray:
        """Rays in the units in which the region's corners add up to one each."""
        scaled = rays / self.region.corners.max(axis=0)
        normalized: FloatArray = rays / scaled.sum(axis=1, keepdims=True)
        return normalized

    def objective(self, weights: FloatArray) -> FloatArray:
        """U (R,): the least objective of the draft's strategies."""
        least: FloatArray = (self.costs @ weights.T).min(axis=0)
        return least

    @property
    def ratio(self) -> float:
        """By which factor the draft may be above the optimum somewhere in the region."""
        return float(self._ratios.max())

    def ask(self, tolerance: float, most: int) -> FloatArray:
        """At most so many weights (k, 3) at which the ratio is above 1 + tolerance, the worst first.

        Weights that were solved before are left out: to solve them again would prove no more.
        """
        chosen: list[FloatArray] = []
        scale = self.region.corners.max(axis=0)
        before = self._weights / scale
        for r in np.argsort(-self._ratios, kind="stable"):
            if self._ratios[r] <= 1 + tolerance or len(chosen) == most:
                break
            ray = self._rays[r] / scale
            taken = np.concatenate([before, np.array(chosen).reshape(-1, 3) / scale])
            if not (np.abs(taken - ray) <= SAME_RAY * ray).all(axis=1).any():
                chosen.append(self._rays[r])
        return np.array(chosen).reshape(-1, 3)

    def incumbents(self, weights: FloatArray) -> Solutions:
        """The draft's best strategy at each weight (k, 3)."""
        nothing = np.zeros(len(weights), dtype=np.int64)
        if not len(self.costs):
            levels, unknown = np.zeros((len(weights), self.levels.shape[1]), dtype=np.int64), np.zeros(len(weights))
            return Solutions(levels, unknown + np.inf, unknown, nothing, nothing > 0, unknown + np.nan)
        values = self.costs @ weights.T
        best = values.argmin(axis=0)
        least = values.min(axis=0)
        return Solutions(
            self.levels[best], least, self.accuracy[best], nothing, nothing == 0, np.full_like(least, np.nan)
        )

    def tell(self, solved: SolvedWeights, costs: FloatArray) -> None:
        """Take in answers of the exact solver; ``costs`` (k, 3) are those of ``solved.levels``."""
        self._weights = np.concatenate([self._weights, solved.weights])
        self._values = np.concatenate([self._values, solved.lower_bound])
        new = solved.feasible
        self.levels = np.concatenate([self.levels, solved.levels[new]])
        self.costs = np.concatenate([self.costs, costs[new]])
        self.accuracy = np.concatenate([self.accuracy, solved.accuracy[new]])
        self._keep_best()

    def atlas(self) -> Atlas:
        return Atlas(self.levels, self.costs, self.accuracy, self.region, self.ratio)


def build_atlas(
    space: SpaceTables,
    cost: CostTables,
    ensemble: EnsembleTables,
    corners: ArrayLike,
    accuracy_floor: float,
    *,
    snr_db: float = 0.0,
    known_levels: ArrayLike | None = None,
    known_costs: ArrayLike | None = None,
    tolerance: float = 1e-3,
    batch: int = 8,
    max_solves: int = 100_000,
    max_nodes: int = 100_000,
    threads: int | None = None,
    solved: Iterable[SolvedWeights] = (),
    report: Callable[[SolvedWeights, Atlas], object] | None = None,
) -> Atlas:
    """The atlas of all strategies with at least that accuracy, for weights in the cone of ``corners`` (C, 3).

    ``space``, ``cost`` and ``ensemble`` are the problem (:mod:`coinfer_kernels.notation`); ``accuracy_floor``, in 0..1,
    is the least accuracy; ``snr_db`` is the predictor's last feature where it has one for the channel.

    ``known_levels`` (K, V) are strategies that are accurate enough whatever the predictor says; in the answer they have
    an infinite accuracy, that is, none that was predicted. ``known_costs`` (K, 3) are theirs where they are known
    better than ``cost`` counts them. ``batch`` weights are solved at a time, each with ``max_nodes`` boxes at most, and
    ``max_solves`` altogether; where a limit ends it, ``Atlas.ratio`` is above 1 + ``tolerance`` and says by how much
    the answers may be off. The atlas depends on nothing but the arguments, ``threads`` excluded.

    After each batch ``report`` gets its answers and the atlas so far. What it got, in that order, handed in again as
    ``solved``, makes the build go on where it stopped.

    Raises:
        ValueError: tables that don't fit each other, unusable corners, a tolerance not above 0, or no strategy that
            is accurate enough.
    """
    if not 0 < tolerance < np.inf:
        raise ValueError(f"tolerance: {tolerance} must be above 0; 1e-3 proves to a thousandth")
    if batch < 1 or max_solves < 1:
        raise ValueError(f"batch and max_solves: {batch} and {max_solves}; at least 1 is needed")
    region, cut = make_region(corners), space.cut_variable
    levels = np.empty((0, len(space.n_levels)), dtype=np.int64)
    if known_levels is not None:
        levels = checks.level_rows(space, known_levels)
    costs = strategy_costs(cost, cut, levels)
    if known_costs is not None:
        costs = checks.shaped("known_costs", known_costs, np.float64, costs.shape)
    draft = Draft(region, levels, costs, np.full(len(levels), np.inf))
    count = 0
    for earlier in solved:
        draft.tell(earlier, strategy_costs(cost, cut, earlier.levels))
        count += len(earlier.weights)
    while count < max_solves and len(asked := draft.ask(tolerance, min(batch, max_solves - count))):
        alike = np.ones(len(asked))
        found = solve_exact(
            space,
            cost,
            ensemble,
            Scenarios(asked, accuracy_floor * alike, snr_db * alike),
            incumbents=draft.incumbents(asked),
            gap=SHARE_OF_TOLERANCE * tolerance / (1 + tolerance),
            max_nodes=max_nodes,
            threads=threads,
        )
        answers = SolvedWeights(
            asked, found.levels, found.accuracy, found.feasible, found.lower_bound, found.evaluations
        )
        if (found.lower_bound == np.inf).any():
            raise ValueError(
                f"accuracy_floor: no strategy reaches {accuracy_floor}; the best seen has {found.accuracy.max()}"
            )
        draft.tell(answers, strategy_costs(cost, cut, found.levels))
        count += len(asked)
        if report is not None:
            report(answers, draft.atlas())
    if not len(draft.costs):
        raise ValueError(f"max_nodes: {max_nodes} boxes found no strategy that reaches {accuracy_floor}; allow more")
    return draft.atlas()
