"""The atlas of scenarios in which crossing the link costs something by itself, a round trip above all.

With weights w (3,) and the crossing's cost r >= 0, the optimum is the smaller of two:

- ``V(w) + r``, V the optimum of the strategies that send something: an atlas of these alone answers it for every r,
  for where its best U keeps ``U <= ratio * V``, ``U + r <= ratio * (V + r)``;
- the least device FLOPs of the strategies that send nothing, times w[0]: one strategy, the best of them at any w.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels.atlas.build import SHARE_OF_TOLERANCE, build_atlas
from coinfer_kernels.atlas.lookup import Atlas
from coinfer_kernels.costs import strategy_costs
from coinfer_kernels.exact.solve import solve_exact
from coinfer_kernels.notation import (
    CUT_NONE,
    CostTables,
    EnsembleTables,
    FloatArray,
    IntArray,
    Scenarios,
    SpaceTables,
)
from coinfer_kernels.problem import empty_solutions, with_cuts


def build_crossing_atlas(
    space: SpaceTables,
    cost: CostTables,
    ensemble: EnsembleTables,
    corners: ArrayLike,
    accuracy_floor: float,
    *,
    snr_db: float = 0.0,
    known_levels: IntArray,
    known_costs: FloatArray,
    tolerance: float = 1e-3,
    max_nodes: int = 100_000,
    threads: int | None = None,
    **options: Any,
) -> Atlas:
    """The atlas of all strategies that send something, and behind its rows the best one that sends nothing.

    The arguments are those of :func:`coinfer_kernels.atlas.build.build_atlas`. Where no cut sends nothing there is no
    such row; where every cut sends nothing there is no atlas. ``ratio`` holds for both parts.

    Raises:
        ValueError: as there, or no strategy of either part is accurate enough.
    """
    problem, cut = (space, cost, ensemble), space.cut_variable
    sends = cost.cut_kind != CUT_NONE
    crossing, local = np.flatnonzero(sends), np.flatnonzero(~sends)
    if not len(crossing):
        raise ValueError("cost.cut_kind: nothing is sent at any cut; an atlas with crossings needs one that sends")
    if (cost.cut_layers[local] < len(cost.in_set)).any():
        raise ValueError("cost.cut_layers: a cut that sends nothing must leave all layers on the device")
    own = sends[known_levels[:, cut]]
    place = np.cumsum(sends) - 1
    inside = known_levels[own].copy()
    inside[:, cut] = place[inside[:, cut]]
    atlas = build_atlas(
        *with_cuts(space, cost, crossing),
        ensemble,
        corners,
        accuracy_floor,
        snr_db=snr_db,
        known_levels=inside,
        known_costs=known_costs[own],
        tolerance=tolerance,
        max_nodes=max_nodes,
        threads=threads,
        **options,
    )
    levels = atlas.levels.copy()
    levels[:, cut] = crossing[levels[:, cut]]
    atlas = atlas._replace(levels=levels)
    if not len(local):
        return atlas
    known = known_levels[~own], known_costs[~own]
    return _with_local(atlas, problem, local, known, accuracy_floor, snr_db, tolerance, max_nodes)


def _with_local(
    atlas: Atlas,
    problem: tuple[SpaceTables, CostTables, EnsembleTables],
    local: IntArray,
    known: tuple[IntArray, FloatArray],
    accuracy_floor: float,
    snr_db: float,
    tolerance: float,
    max_nodes: int,
) -> Atlas:
    """``atlas`` with the strategy of the cuts ``local`` that has the fewest device FLOPs as its last row."""
    space, cost, ensemble = problem
    cut = space.cut_variable
    levels, costs = known
    begun = empty_solutions(1, len(space.n_levels))
    if len(levels):
        best = int(costs[:, 0].argmin())
        own = levels[best : best + 1].copy()
        own[:, cut] = np.searchsorted(local, own[:, cut])
        begun = begun._replace(levels=own, accuracy=np.full(1, np.inf), feasible=np.ones(1, dtype=np.bool_))
    found = solve_exact(
        *with_cuts(space, cost, local),
        ensemble,
        Scenarios(np.ones((1, 3)), np.full(1, accuracy_floor), np.full(1, snr_db)),
        incumbents=begun,
        gap=SHARE_OF_TOLERANCE * tolerance / (1 + tolerance),
        max_nodes=max_nodes,
        threads=1,
    )
    if not found.feasible[0]:
        if np.isposinf(found.lower_bound[0]):
            return atlas
        raise ValueError(f"max_nodes: {max_nodes} boxes settle no strategy that sends nothing; allow more")
    own = found.levels.copy()
    own[:, cut] = local[own[:, cut]]
    objective, bound = float(found.objective[0]), float(found.lower_bound[0])
    return Atlas(
        np.concatenate([atlas.levels, own]),
        np.concatenate([atlas.costs, strategy_costs(cost, cut, own)]),
        np.concatenate([atlas.accuracy, found.accuracy]),
        atlas.region,
        max(atlas.ratio, objective / bound if bound > 0 else np.inf if objective > 0 else 1.0),
    )
