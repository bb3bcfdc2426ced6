"""What the exact solver works on: positions in place of levels, and every leaf of the ensemble as a box of them.

A variable's **positions** are its levels in the order of what the predictor sees, ordered so that costs never
increase. (One exception: a codec stage whose parameters are all 1 is left out, so it costs no FLOPs although it sends
most. The bounds look at that choice apart.) A tree's leaf then is a box: one interval of positions for every variable.
Of neighbouring positions that the predictor cannot tell apart only the cheapest can be best; the others are dropped.

N: leaves of all trees; T: trees; Q: pairs of prunable sets between which layers lie; the other letters as in
``notation``.
"""

from typing import NamedTuple

import numpy as np

from coinfer_kernels.notation import (
    CODEC_KERNEL_1,
    CODEC_KERNEL_2,
    CODEC_STRIDE_1,
    CODEC_STRIDE_2,
    CODEC_VARIABLES,
    BoolArray,
    CostTables,
    EnsembleTables,
    FloatArray,
    IntArray,
    SpaceTables,
)
from coinfer_kernels.problem import Problem, merge_layers
from coinfer_kernels.trees.intervals import leaf_intervals, thresholds_of

ROUNDING = 1e-12  # relative; what sums of the same numbers in another order may differ by


class ExactModel(NamedTuple):
    """The problem by positions."""

    positions: IntArray  # (V,) how many positions a variable has
    level: IntArray  # (V, M) the level at a position
    canonical: IntArray  # (V,) position of the canonical level
    cut_position: IntArray  # (C,) position of a cut
    kept: FloatArray  # (P + 1, M) channels kept at a position, never rising
    log_kept: FloatArray  # (P + 1, M) its natural logarithm
    one_first: IntArray  # (8,) positions at which a codec parameter is 1; none where first > last
    one_last: IntArray  # (8,)
    any_kernel: bool  # an even kernel size exists: a larger kernel may cost less, so all have to be looked at
    pair_in: IntArray  # (Q,) rows of ``kept``
    pair_out: IntArray  # (Q,)
    pair_flop: FloatArray  # (C, 2, Q) FLOPs per kept input and output channel, on the device and on the server
    set_flop: FloatArray  # (C, 2, P + 1) FLOPs per kept output channel
    rising: BoolArray  # (P + 1,) FLOPs on either side never fall where more of the set is kept, at any cut
    tree_start: IntArray  # (T + 1,) leaves of tree t: tree_start[t] .. tree_start[t + 1] - 1, the best first
    leaf_value: FloatArray  # (N,) what a leaf adds, weighted unless ``median``
    leaf_first: IntArray  # (N, V) the leaf's interval of positions
    leaf_last: IntArray  # (N, V)
    leaf_snr: FloatArray  # (N, 2) the leaf is for SNRs above the first and up to the second
    weights: FloatArray  # (T,) of the median
    linear: FloatArray  # (V, M) what a position adds by itself
    snr_coefficient: float
    intercept: float
    median: bool
    tolerance: float  # two predictions of one strategy don't differ by more


class _Leaves(NamedTuple):
    start: IntArray
    value: FloatArray
    first: IntArray
    last: IntArray
    snr: FloatArray


def exact_model(problem: Problem) -> ExactModel:
    """Order the levels, turn the leaves into boxes, and merge the layers between the same sets.

    Raises:
        ValueError: costs that don't follow the predictor's values, a layer that costs less with more input channels,
            or negative weights in a weighted median.
    """
    space, cost, ensemble = problem.space, problem.cost, problem.ensemble
    if ensemble.median and (ensemble.weights < 0).any():
        raise ValueError("ensemble.weights: holds negative values; the exact solver takes a median of others only")
    if (cost.quadratic < 0).any() or (cost.kept < 0).any():
        raise ValueError("cost: quadratic or kept holds negative values; the exact solver needs costs that don't fall")
    order, ascending = _order(space, cost)
    values = np.take_along_axis(space.values, order, axis=1)
    leaves = _best_first(_leaf_boxes(ensemble, values, space.n_levels, ascending))
    coefficients = np.zeros_like(ensemble.coefficients) if ensemble.median else ensemble.coefficients
    variables = len(space.n_levels)
    pair_in, pair_out, pair_flop, set_flop = merge_layers(cost)
    rising = _rising(cost, pair_in, pair_out, pair_flop, set_flop)
    any_kernel = bool((cost.ratio[[CODEC_KERNEL_1, CODEC_KERNEL_2]].astype(np.int64) % 2 == 0).any())
    useful = _useful(problem, order, leaves, coefficients[:variables] != 0, rising, any_kernel)
    count, level = space.n_levels.copy(), np.zeros_like(order)
    first, last = leaves.first.copy(), leaves.last.copy()
    for v in range(variables):
        places = np.flatnonzero(useful[v])
        count[v] = len(places)
        level[v, : len(places)] = order[v, places]
        first[:, v] = np.searchsorted(places, leaves.first[:, v])
        last[:, v] = np.searchsorted(places, leaves.last[:, v], side="right") - 1
    sets = len(cost.kept) - 1
    kept = np.ones((sets + 1, level.shape[1]))
    kept[:sets] = np.take_along_axis(cost.kept[:sets], level[:sets], axis=1)
    ones = np.array([_ones(cost, parameter, count, level) for parameter in range(CODEC_VARIABLES)])
    linear = coefficients[:variables, None] * np.take_along_axis(space.values, level, axis=1)
    return ExactModel(
        positions=count,
        level=level,
        canonical=np.array([_place(level[v, : count[v]], space.canonical[v]) for v in range(variables)]),
        cut_position=np.argsort(level[space.cut_variable, : count[space.cut_variable]]),
        kept=kept,
        log_kept=np.log(np.maximum(kept, 1e-300)),
        one_first=np.ascontiguousarray(ones[:, 0]),
        one_last=np.ascontiguousarray(ones[:, 1]),
        any_kernel=any_kernel,
        pair_in=pair_in,
        pair_out=pair_out,
        pair_flop=pair_flop,
        set_flop=set_flop,
        rising=rising,
        tree_start=leaves.start,
        leaf_value=leaves.value,
        leaf_first=first,
        leaf_last=last,
        leaf_snr=leaves.snr,
        weights=ensemble.weights,
        linear=linear,
        snr_coefficient=float(coefficients[variables]) if len(coefficients) > variables else 0.0,
        intercept=0.0 if ensemble.median else ensemble.intercept,
        median=ensemble.median,
        tolerance=ROUNDING * _largest(ensemble, leaves, linear, problem.scenarios.snr_db),
    )


def _place(levels: IntArray, level: int) -> int:
    return int(np.flatnonzero(levels == level)[0])


def _prices(cost: CostTables, v: int) -> tuple[FloatArray, str] | None:
    """What must not rise along the positions of variable v, and its name in messages; None where v costs nothing."""
    parameter = v - cost.codec_variable
    if v < len(cost.kept) - 1:
        return cost.kept[v], f"cost.kept: row {v}"
    if 0 <= parameter < CODEC_VARIABLES:
        sign = -1.0 if parameter in (CODEC_STRIDE_1, CODEC_STRIDE_2) else 1.0
        return sign * cost.ratio[parameter], f"cost.ratio: row {parameter}"
    return None


def _order(space: SpaceTables, cost: CostTables) -> tuple[IntArray, BoolArray]:
    """Levels (V, M) in the order of their positions; whether the predictor's values (V,) rise along them."""
    variables, most = space.values.shape
    order, ascending = np.tile(np.arange(most), (variables, 1)), np.ones(variables, dtype=np.bool_)
    for v in range(variables):
        own = int(space.n_levels[v])
        prices = _prices(cost, v)
        if prices is None:
            order[v, :own] = np.argsort(space.values[v, :own], kind="stable")
            continue
        values, price = space.values[v, :own], prices[0][:own]
        for sign in (1.0, -1.0):
            order[v, :own] = np.lexsort((-price, sign * values))
            ascending[v] = sign > 0
            if (np.diff(price[order[v, :own]]) <= 0).all():
                break
        else:
            raise ValueError(
                f"{prices[1]} neither rises nor falls with what the predictor sees of variable {v}; "
                "the exact solver needs one of the two"
            )
    return order, ascending


def _rising(
    cost: CostTables, pair_in: IntArray, pair_out: IntArray, pair_flop: FloatArray, set_flop: FloatArray
) -> BoolArray:
    """Sets (P + 1,) of which keeping more never costs less, however little of the others is kept."""
    fewest = cost.kept.min(axis=1)
    slope = set_flop.copy()
    for q, (i, o) in enumerate(zip(pair_in, pair_out, strict=True)):
        slope[:, :, i] += pair_flop[:, :, q] * fewest[o]
        if i != o:
            slope[:, :, o] += pair_flop[:, :, q] * fewest[i]
    rising: BoolArray = slope.min(axis=(0, 1)) >= 0
    return rising


def _useful(
    problem: Problem, order: IntArray, leaves: _Leaves, sloped: BoolArray, rising: BoolArray, any_kernel: bool
) -> BoolArray:
    """Positions (V, M) that can be best: the last of those that reach the same leaves, and the canonical ones."""
    space, cost = problem.space, problem.cost
    useful = np.zeros(order.shape, dtype=np.bool_)
    for v, own in enumerate(space.n_levels):
        useful[v, :own] = True
        parameter = v - cost.codec_variable
        is_set, is_codec = v < len(cost.kept) - 1, 0 <= parameter < CODEC_VARIABLES
        fixed = v == space.cut_variable or sloped[v]
        fixed = fixed or (is_set and not rising[v])
        fixed = fixed or (any_kernel and parameter in (CODEC_KERNEL_1, CODEC_KERNEL_2))
        if fixed:
            continue
        ends = np.zeros(own, dtype=np.bool_)
        ends[leaves.last[:, v]] = True
        ends[own - 1] = True
        ends[order[v, :own] == space.canonical[v]] = True
        if is_codec:
            one = cost.ratio[parameter, order[v, :own]] == 1.0
            ends[:-1] |= one[:-1] != one[1:]
        useful[v, :own] = ends
    return useful


def _ones(cost: CostTables, parameter: int, count: IntArray, level: IntArray) -> tuple[int, int]:
    """First and last position at which a codec parameter is 1; (1, 0) where it never is."""
    v = cost.codec_variable + parameter
    found = np.flatnonzero(cost.ratio[parameter, level[v, : count[v]]] == 1.0)
    return (int(found[0]), int(found[-1])) if len(found) else (1, 0)


def _largest(ensemble: EnsembleTables, leaves: _Leaves, linear: FloatArray, snr_db: FloatArray) -> float:
    """No prediction, and no part of its sum, is larger."""
    trees = sum(
        float(np.abs(leaves.value[a:b]).max()) for a, b in zip(leaves.start[:-1], leaves.start[1:], strict=True)
    )
    total = abs(ensemble.intercept) + trees + float(np.abs(linear).max(axis=1).sum())
    if len(ensemble.coefficients) > len(linear) and len(snr_db):
        total += abs(float(ensemble.coefficients[-1])) * float(np.abs(snr_db).max())
    return total


def _leaf_boxes(ensemble: EnsembleTables, values: FloatArray, n_levels: IntArray, ascending: BoolArray) -> _Leaves:
    """All leaves that some strategy reaches, tree by tree; ``values`` (V, M) are the features by position."""
    variables = len(n_levels)
    edges = thresholds_of(ensemble, variables + 1)
    leaves = leaf_intervals(ensemble, edges)
    first, last = (np.empty((len(leaves.value), variables), dtype=np.int64) for _ in range(2))
    for v, own in enumerate(n_levels):
        classes = np.searchsorted(edges[v], values[v, :own])
        if ascending[v]:
            first[:, v] = np.searchsorted(classes, leaves.low[v])
            last[:, v] = np.searchsorted(classes, leaves.high[v]) - 1
        else:  # the same from behind
            first[:, v] = own - np.searchsorted(classes[::-1], leaves.high[v])
            last[:, v] = own - 1 - np.searchsorted(classes[::-1], leaves.low[v])
    ends = np.concatenate([[-np.inf], edges[variables], [np.inf]])
    low, high = leaves.low[variables], leaves.high[variables]
    reached = (first <= last).all(axis=1) & (low < high)
    start = np.concatenate([[0], np.cumsum(reached)])[leaves.start]
    snr = np.column_stack([ends[low], ends[np.maximum(high, 0)]])
    return _Leaves(start, leaves.value[reached], first[reached], last[reached], snr[reached])


def _best_first(leaves: _Leaves) -> _Leaves:
    tree = np.repeat(np.arange(len(leaves.start) - 1), np.diff(leaves.start))
    order = np.lexsort((-leaves.value, tree))
    return _Leaves(leaves.start, leaves.value[order], leaves.first[order], leaves.last[order], leaves.snr[order])
