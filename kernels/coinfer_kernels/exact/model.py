"""What the exact solver works on: positions in place of levels, and every leaf of the ensemble as a box of them.

A variable's **positions** are its levels in the order of what the predictor sees, turned so that the costs never rise
from one to the next. (One exception: a codec stage whose parameters are all 1 is left out, so it costs no FLOPs
although it sends most. The bounds look at that choice apart.) A tree's leaf then is a box: one interval of positions
for every variable. Of neighbouring positions that the predictor cannot tell apart only the cheapest can be best; the
others are dropped.

N: leaves of all trees; T: trees; Q: pairs of prunable sets between which layers lie; the other letters as in
``notation``.
"""

from typing import NamedTuple

import numpy as np

from coinfer_kernels.jit import inner, kernel
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
from coinfer_kernels.problem import Problem

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
    pair_in, pair_out, pair_flop, set_flop = _pairs(cost)
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


def _pairs(cost: CostTables) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """Merge layers between the same sets: FLOPs at each cut on either side, per channel pair and per channel."""
    pairs, pair_of = np.unique(np.stack([cost.in_set, cost.out_set]), axis=1, return_inverse=True)
    cuts, rows = len(cost.cut_layers), len(cost.kept)
    pair_flop, set_flop = np.zeros((cuts, 2, pairs.shape[1])), np.zeros((cuts, 2, rows))
    for cut, first in enumerate(cost.cut_layers):
        for side, layers in enumerate((slice(0, first), slice(first, None))):
            np.add.at(pair_flop[cut, side], pair_of.ravel()[layers], cost.quadratic[layers])
            np.add.at(set_flop[cut, side], cost.out_set[layers], cost.linear[layers])
    return np.ascontiguousarray(pairs[0]), np.ascontiguousarray(pairs[1]), pair_flop, set_flop


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
    start = np.zeros(len(ensemble.roots) + 1, dtype=np.int64)
    empty = _Leaves(start, np.empty(0), *(np.empty((0, len(n_levels)), dtype=np.int64),) * 2, np.empty((0, 2)))
    leaves = _walk(ensemble, values, n_levels, ascending, empty)
    room = _Leaves(
        start,
        np.empty(leaves),
        np.empty((leaves, len(n_levels)), dtype=np.int64),
        np.empty((leaves, len(n_levels)), dtype=np.int64),
        np.empty((leaves, 2)),
    )
    _walk(ensemble, values, n_levels, ascending, room)
    return room


def _best_first(leaves: _Leaves) -> _Leaves:
    tree = np.repeat(np.arange(len(leaves.start) - 1), np.diff(leaves.start))
    order = np.lexsort((-leaves.value, tree))
    return _Leaves(leaves.start, leaves.value[order], leaves.first[order], leaves.last[order], leaves.snr[order])


@inner
def _split(values: FloatArray, first: int, last: int, threshold: float, ascending: bool) -> int:
    """First position of ``first`` .. ``last`` on the other side of the threshold than those before it."""
    at = first
    while at <= last and (values[at] <= threshold) == ascending:
        at += 1
    return at


@kernel
def _walk(ensemble: EnsembleTables, values: FloatArray, n_levels: IntArray, ascending: BoolArray, out: _Leaves) -> int:
    """Visit all leaves depth first and write their boxes, as far as there is room; returns how many they are."""
    variables, most_depth = n_levels.shape[0], ensemble.feature.shape[0] + 1
    node = np.empty(most_depth, np.int64)
    first, last = np.empty((most_depth, variables), np.int64), np.empty((most_depth, variables), np.int64)
    snr = np.empty((most_depth, 2))
    leaves, room = 0, out.value.shape[0]
    for t in range(ensemble.roots.shape[0]):
        out.start[t] = leaves
        depth = 1
        node[0], snr[0, 0], snr[0, 1] = ensemble.roots[t], -np.inf, np.inf
        for v in range(variables):
            first[0, v], last[0, v] = 0, n_levels[v] - 1
        while depth > 0:
            depth -= 1
            j = node[depth]
            v = ensemble.feature[j]
            if v < 0:
                if leaves < room:
                    out.value[leaves] = ensemble.value[j] * (1.0 if ensemble.median else ensemble.weights[t])
                    for i in range(variables):
                        out.first[leaves, i], out.last[leaves, i] = first[depth, i], last[depth, i]
                    out.snr[leaves, 0], out.snr[leaves, 1] = snr[depth, 0], snr[depth, 1]
                leaves += 1
                continue
            # The place of the node in hand becomes the right child's, the next one the left child's.
            for i in range(variables):
                first[depth + 1, i], last[depth + 1, i] = first[depth, i], last[depth, i]
            snr[depth + 1, 0], snr[depth + 1, 1] = snr[depth, 0], snr[depth, 1]
            node[depth], node[depth + 1] = ensemble.right[j], ensemble.left[j]
            if v == variables:
                edge = ensemble.threshold[j]
                snr[depth, 0], snr[depth + 1, 1] = max(snr[depth, 0], edge), min(snr[depth + 1, 1], edge)
                left_open, right_open = snr[depth + 1, 0] < snr[depth + 1, 1], snr[depth, 0] < snr[depth, 1]
            else:
                front, back = (depth + 1, depth) if ascending[v] else (depth, depth + 1)
                at = _split(values[v], first[depth, v], last[depth, v], ensemble.threshold[j], ascending[v])
                last[front, v], first[back, v] = at - 1, at
                left_open = first[depth + 1, v] <= last[depth + 1, v]
                right_open = first[depth, v] <= last[depth, v]
            if left_open:
                if not right_open:  # the left child takes the place of the right one
                    node[depth] = node[depth + 1]
                    for i in range(variables):
                        first[depth, i], last[depth, i] = first[depth + 1, i], last[depth + 1, i]
                    snr[depth, 0], snr[depth, 1] = snr[depth + 1, 0], snr[depth + 1, 1]
                    depth += 1
                else:
                    depth += 2
            elif right_open:
                depth += 1
    out.start[ensemble.roots.shape[0]] = leaves
    return leaves
