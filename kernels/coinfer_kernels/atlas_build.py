"""Building an atlas: the exact solver asked at the corners of the atlas's cells until all are proven.

What an atlas is and why this proves it: :mod:`coinfer_kernels.atlas`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.atlas import Atlas, Region, make_region
from coinfer_kernels.exact import solve_exact
from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.latency import strategy_costs
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

SAME_RAY = 1e-9  # weights whose shares differ by less are one
PIVOTS = 100
NEGLIGIBLE = 1e-12  # reduced costs and pivots, in units of 1
SHARE_OF_TOLERANCE = 0.9  # what the exact solver may leave open of it; the rest is for rounding


class SolvedWeights(NamedTuple):
    """What the exact solver said at some weights: the state of a build, which can be kept and handed in again."""

    weights: FloatArray  # (k, 3)
    levels: IntArray  # (k, V) meaningless where not feasible
    accuracy: FloatArray  # (k,)
    feasible: BoolArray  # (k,)
    lower_bound: FloatArray  # (k,) of the objective
    nodes: IntArray  # (k,)


@inner
def _clip(rays: FloatArray, size: int, normal: FloatArray, values: FloatArray, out: FloatArray) -> int:
    """The part of a cone of ``size`` rays on the side of ``normal``; returns the number of its rays.

    A new ray is a sum of two old ones with factors above zero, so no digits are lost (Sutherland and Hodgman, 1974).
    """
    for i in range(size):
        values[i] = rays[i, 0] * normal[0] + rays[i, 1] * normal[1] + rays[i, 2] * normal[2]
    count = 0
    for i in range(size):
        j = i + 1 if i + 1 < size else 0
        if values[i] >= 0.0:
            for d in range(3):
                out[count, d] = rays[i, d]
            count += 1
        if (values[i] > 0.0 > values[j]) or (values[i] < 0.0 < values[j]):
            total = 0.0
            for d in range(3):
                out[count, d] = abs(values[j]) * rays[i, d] + abs(values[i]) * rays[j, d]
                total += out[count, d]
            for d in range(3):
                out[count, d] /= total
            count += 1
    return count


@kernel
def _cells(costs: FloatArray, corners: FloatArray, rays: FloatArray, owner: IntArray) -> int:
    """Corner rays of the cell of every point, and whose they are, as far as there is room; returns their number."""
    points, found = costs.shape[0], 0
    here, there = np.empty((points + corners.shape[0], 3)), np.empty((points + corners.shape[0], 3))
    values, normal = np.empty(points + corners.shape[0]), np.empty(3)
    for k in range(points):
        size = corners.shape[0]
        for i in range(size):
            for d in range(3):
                here[i, d] = corners[i, d]
        for other in range(points):
            if other == k:
                continue
            for d in range(3):
                normal[d] = costs[other, d] - costs[k, d]
            size = _clip(here, size, normal, values, there)
            if size < 3:
                break
            here, there = there, here
        if size < 3:
            continue
        for i in range(size):
            if found < owner.shape[0]:
                owner[found] = k
                for d in range(3):
                    rays[found, d] = here[i, d]
            found += 1
    return found


def cells(costs: FloatArray, region: Region) -> tuple[FloatArray, IntArray]:
    """Corner rays (R, 3) of the cells of points ``costs`` (K, 3) in a region, and each ray's point (R,).

    A point that is nowhere the best has none. The rays of one cell stand together, in order around it.
    """
    scale = np.maximum(costs.max(axis=0), 1e-300)
    corners = region.corners * scale
    corners = corners / corners.sum(axis=1, keepdims=True)
    room = 16 * (len(costs) + len(corners))
    while True:
        rays, owner = np.empty((room, 3)), np.empty(room, dtype=np.int64)
        found = _cells(np.ascontiguousarray(costs / scale), corners, rays, owner)
        if found <= room:
            return rays[:found] / scale, owner[:found]
        room = found


@inner
def _pack(columns: FloatArray, right: FloatArray, basis: IntArray, inverse: FloatArray, room: FloatArray) -> float:
    """A lower bound of ``max sum(m)`` over m (K,) >= 0 with ``sum m_k columns[k] <= right``: primal simplex method.

    ``columns`` (K, 3) >= 0 have zeros where ``right`` (3,) has. The bound belongs to an m that keeps the constraints,
    wherever the search for a better one ends. ``basis`` (3,), ``inverse`` (3, 3) and ``room`` (3, 3) are room.
    """
    point, price, step = room[0], room[1], room[2]
    for i in range(3):
        basis[i], point[i] = -1 - i, right[i]  # -1 - i stands for what is left of constraint i
        for j in range(3):
            inverse[i, j] = 1.0 if i == j else 0.0
    for _ in range(PIVOTS):
        for d in range(3):
            price[d] = 0.0
            for i in range(3):
                price[d] += inverse[i, d] if basis[i] >= 0 else 0.0
        entering, most = 0, NEGLIGIBLE
        for k in range(columns.shape[0]):
            gain = 1.0 - price[0] * columns[k, 0] - price[1] * columns[k, 1] - price[2] * columns[k, 2]
            if gain > most:
                entering, most = k, gain
        for d in range(3):
            if -price[d] > most:
                entering, most = -1 - d, -price[d]
        if most == NEGLIGIBLE:
            break
        leaving, least = -1, np.inf
        for i in range(3):
            step[i] = inverse[i, -1 - entering] if entering < 0 else 0.0
            if entering >= 0:
                for d in range(3):
                    step[i] += inverse[i, d] * columns[entering, d]
            if step[i] > NEGLIGIBLE and point[i] / step[i] < least:
                leaving, least = i, point[i] / step[i]
        if leaving < 0:
            break
        _pivot(inverse, point, step, leaving, least)
        basis[leaving] = entering
    return _kept_within(columns, right, basis, point)


@inner
def _pivot(inverse: FloatArray, point: FloatArray, step: FloatArray, leaving: int, least: float) -> None:
    for j in range(3):
        inverse[leaving, j] /= step[leaving]
    for i in range(3):
        if i != leaving:
            for j in range(3):
                inverse[i, j] -= step[i] * inverse[leaving, j]
            point[i] = max(0.0, point[i] - step[i] * least)
    point[leaving] = least


@inner
def _kept_within(columns: FloatArray, right: FloatArray, basis: IntArray, point: FloatArray) -> float:
    """The sum of a basic solution, scaled down by what rounding lets it exceed the constraints."""
    total, excess = 0.0, 1.0
    for d in range(3):
        used = 0.0
        for i in range(3):
            used += point[i] * columns[basis[i], d] if basis[i] >= 0 else 0.0
        if used > 0.0:
            excess = max(excess, used / right[d])
    for i in range(3):
        total += point[i] if basis[i] >= 0 else 0.0
    return total / excess


@inner
def _largest_alone(columns: FloatArray) -> float:
    """The same for an m with a single element above zero."""
    most = 0.0
    for k in range(columns.shape[0]):
        needed = max(columns[k, 0], columns[k, 1], columns[k, 2])
        if needed > 0.0:
            most = max(most, 1.0 / needed)
    return most


@kernel
def _bound_rows(weights: FloatArray, values: FloatArray, rays: FloatArray, above: FloatArray, out: FloatArray) -> None:
    columns, right = np.empty((weights.shape[0], 3)), np.empty(3)
    basis, inverse, room = np.empty(3, np.int64), np.empty((3, 3)), np.empty((3, 3))
    for r in range(rays.shape[0]):
        for d in range(3):
            right[d] = 1.0 if rays[r, d] > 0.0 else 0.0
        used = 0
        for k in range(weights.shape[0]):
            fits = values[k] > 0.0
            for d in range(3):
                # In units of the ray and of U there, so that 1 is the largest that the sum can be.
                if rays[r, d] > 0.0:
                    columns[used, d] = weights[k, d] / rays[r, d] * (above[r] / values[k])
                else:  # what needs a weight that the ray has none of takes no part
                    columns[used, d] = 0.0
                    fits = fits and weights[k, d] == 0.0
            used += 1 if fits else 0
        # One column alone is a packing too. Beside one that differs by rounding the simplex method may lose it.
        out[r] = max(_pack(columns[:used], right, basis, inverse, room), _largest_alone(columns[:used]))


def proven_share(weights: FloatArray, values: FloatArray, rays: FloatArray, above: FloatArray) -> FloatArray:
    """Shares (R,) of ``above`` (R,) >= V at ``rays`` (R, 3) that V reaches at least, by the bounds elsewhere.

    They follow from V >= ``values`` (k,) at ``weights`` (k, 3), and hold to the rounding of float64 sums.
    """
    out = np.empty(len(rays))
    _bound_rows(weights, values, np.ascontiguousarray(rays), above, out)
    return out


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
            return Solutions(levels, unknown + np.inf, unknown, nothing, nothing > 0)
        values = self.costs @ weights.T
        best = values.argmin(axis=0)
        return Solutions(self.levels[best], values.min(axis=0), self.accuracy[best], nothing, nothing == 0)

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
    tolerance: float = 1e-3,
    batch: int = 8,
    max_solves: int = 100_000,
    max_nodes: int = 100_000,
    threads: int | None = None,
    solved: Iterable[SolvedWeights] = (),
    report: Callable[[SolvedWeights, Atlas], object] | None = None,
) -> Atlas:
    """The atlas of all strategies with at least that accuracy, for weights in the cone of ``corners`` (C, 3).

    ``known_levels`` (K, V) are strategies that are accurate enough whatever the predictor says; in the answer they have
    an infinite accuracy, that is, none that was predicted. ``batch`` weights are solved at a time, each with
    ``max_nodes`` boxes at most, and ``max_solves`` altogether; where a limit ends it, ``Atlas.ratio`` is above
    1 + ``tolerance`` and says by how much the answers may be off. The atlas depends on nothing but the arguments,
    ``threads`` excluded.

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
    draft = Draft(region, levels, strategy_costs(cost, cut, levels), np.full(len(levels), np.inf))
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
        answers = SolvedWeights(asked, found.levels, found.accuracy, found.feasible, found.lower_bound, found.nodes)
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
