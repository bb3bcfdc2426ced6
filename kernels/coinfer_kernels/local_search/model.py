"""The mission's problem as the optimizer on levels sees it: without what cannot matter, and quick to look up.

Of levels that the predictor cannot tell apart only the cheapest can be best. The levels of a variable that are left,
in the order of their values, are its **places**. A leaf of a tree is a box: one interval of every variable's places.
All leaves are numbered, and a set of leaves is a set of bits: the leaves that a strategy reaches are the intersection
of those that its places reach, one for each tree (Lucchese et al., QuickScorer, 2015).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coinfer_kernels.jit import kernel
from coinfer_kernels.notation import (
    CODEC_RATIO_1,
    CODEC_RATIO_2,
    CODEC_STRIDE_1,
    CODEC_STRIDE_2,
    CODEC_VARIABLES,
    CODEC_WIDTH_1,
    CODEC_WIDTH_2,
    CostTables,
    FloatArray,
    IntArray,
)
from coinfer_kernels.problem import Problem, merge_layers
from coinfer_kernels.trees.intervals import leaf_intervals, thresholds_of
from coinfer_kernels.trees.leaf_sets import WORD, Words

PlaceArray = NDArray[np.int16]


class LevelModel(NamedTuple):
    """What all scenarios share. K: most places of a variable; B: words of a set of leaves; Q: pairs of sets."""

    cost: CostTables
    levels: IntArray  # (V, K) the level at each place
    counts: IntArray  # (V,) how many places
    place_of: IntArray  # (V, M) a place that the predictor cannot tell from the level, but for what it adds linearly
    identity: IntArray  # (V,) the place of level 0, or the nearest
    reach: Words  # (V * K * B,) leaves reachable at each place of each variable
    always: Words  # (V, B) leaves reachable at every place of a variable
    low: PlaceArray  # (V, B * 64) first place of a leaf
    high: PlaceArray  # (V, B * 64) first place behind it
    value: FloatArray  # (B * 64,) what a leaf adds, weighted unless ``median``
    snr_edges: FloatArray  # (E,) thresholds of the SNR, ascending
    snr_reach: Words  # (E + 1, B)
    linear: FloatArray  # (V, M) what a level adds by itself
    snr_coefficient: float
    intercept: float
    median: bool
    weights: FloatArray  # (trees,) of the median
    channels: FloatArray  # (V, K) channels kept at each place; 0 where the variable is no sparsity ratio
    pair_in: IntArray  # (Q,) rows of ``kept``
    pair_out: IntArray  # (Q,)
    pair_flop: FloatArray  # (C, 2, Q) FLOPs per kept input and output channel, on the device and on the server
    set_flop: FloatArray  # (C, 2, P + 1) FLOPs per kept output channel
    touching: IntArray  # (P + 1, Q) pairs that a set belongs to, -1 behind the last


def level_model(problem: Problem) -> LevelModel:
    """Number the leaves, merge layers between the same sets, and drop levels that never are the best."""
    space, cost, ensemble = problem.space, problem.cost, problem.ensemble
    variables, most = space.values.shape
    coefficients = np.zeros_like(ensemble.coefficients) if ensemble.median else ensemble.coefficients
    linear = coefficients[:variables, None] * space.values
    edges = thresholds_of(ensemble, variables + 1)
    leaves = leaf_intervals(ensemble, edges)
    count = len(leaves.value)
    words = max(1, -(-count // WORD))
    places = []
    place_of = np.zeros((variables, most), dtype=np.int64)
    counts = np.empty(variables + 1, dtype=np.int64)
    low = np.zeros((variables + 1, words * WORD), dtype=np.int16)
    high = np.zeros((variables + 1, words * WORD), dtype=np.int16)
    for v in range(variables):
        own = np.searchsorted(edges[v], space.values[v, : space.n_levels[v]])  # thresholds below each level
        useful = _useful_levels(problem, v, own, linear[v])
        useful = useful[np.argsort(space.values[v, useful], kind="stable")]
        places.append(useful)
        counts[v] = len(useful)
        low[v, :count] = np.searchsorted(own[useful], leaves.low[v])
        high[v, :count] = np.searchsorted(own[useful], leaves.high[v])
        place_of[v, : len(own)] = np.searchsorted(own[useful], own)
        place_of[v, useful] = np.arange(len(useful))
    counts[-1] = len(edges[-1]) + 1
    low[-1, :count], high[-1, :count] = leaves.low[-1], leaves.high[-1]
    np.maximum(high, low, out=high)  # leaves that no place reaches
    reach = np.zeros((variables + 1, int(counts.max()), words), dtype=np.uint64)
    _fill_reach(low, high, counts, reach)
    widest = int(counts[:-1].max())
    levels, channels = np.zeros((variables, widest), dtype=np.int64), np.zeros((variables, widest))
    for v, useful in enumerate(places):
        levels[v, : len(useful)] = useful
        if v < len(cost.kept) - 1:
            channels[v, : len(useful)] = cost.kept[v, useful]
    value = np.zeros(words * WORD)
    value[:count] = leaves.value
    pair_in, pair_out, pair_flop, set_flop = merge_layers(cost)
    touching = _touching(pair_in, pair_out, len(cost.kept))
    return LevelModel(
        cost=cost,
        levels=levels,
        counts=counts[:-1].copy(),
        place_of=place_of,
        identity=place_of[:, 0].copy(),
        reach=np.ascontiguousarray(reach[:-1, :widest]).ravel(),
        always=np.stack([np.bitwise_and.reduce(reach[v, : counts[v]], axis=0) for v in range(variables)]),
        low=low[:-1].copy(),
        high=high[:-1].copy(),
        value=value,
        snr_edges=edges[-1],
        snr_reach=reach[-1, : counts[-1]].copy(),
        linear=linear,
        snr_coefficient=float(coefficients[variables]) if len(coefficients) > variables else 0.0,
        intercept=0.0 if ensemble.median else float(ensemble.intercept),
        median=bool(ensemble.median),
        weights=np.array(ensemble.weights, dtype=np.float64),
        channels=channels,
        pair_in=pair_in,
        pair_out=pair_out,
        pair_flop=pair_flop,
        set_flop=set_flop,
        touching=touching,
    )


@kernel
def _fill_reach(low: PlaceArray, high: PlaceArray, counts: IntArray, reach: Words) -> None:
    """Set the bit of every leaf at the places of its interval: the bits of a place from those of the one before."""
    one = np.uint64(1)
    for v in range(low.shape[0]):
        for leaf in range(low.shape[1]):
            first, behind = low[v, leaf], high[v, leaf]
            if first < behind:
                bit = one << np.uint64(leaf % 64)
                reach[v, first, leaf // 64] ^= bit
                if behind < counts[v]:
                    reach[v, behind, leaf // 64] ^= bit
        for k in range(1, counts[v]):
            for b in range(reach.shape[2]):
                reach[v, k, b] ^= reach[v, k - 1, b]


def _touching(pair_in: IntArray, pair_out: IntArray, rows: int) -> IntArray:
    """(rows, Q) the pairs that each set belongs to, -1 behind the last."""
    touching = np.full((rows, len(pair_in)), -1, dtype=np.int64)
    for row in range(rows):
        found = np.flatnonzero((pair_in == row) | (pair_out == row))
        touching[row, : len(found)] = found
    return touching


def _useful_levels(problem: Problem, v: int, classes: IntArray, linear: FloatArray) -> IntArray:
    """Levels of variable v that can be best: of neighbours that the predictor cannot tell apart, the cheapest.

    ``classes``: a number for each level, the same for those that no threshold parts; ``linear`` (M,) what a level adds
    by itself.
    """
    cost, own = problem.cost, np.arange(problem.space.n_levels[v])
    if v < len(cost.kept) - 1:
        fewest, outputs = cost.kept.min(axis=1)[cost.in_set], cost.out_set == v
        sides = (cost.quadratic, cost.linear), (cost.server_quadratic, cost.server_linear)
        # Where a layer costs less than nothing per output channel, nothing is known.
        falls = any((quadratic * fewest + linear)[outputs].min(initial=0.0) < 0 for quadratic, linear in sides)
        if (np.diff(cost.kept[v, own]) > 0).any() or falls:
            return own
        first = 0
    elif 0 <= v - cost.codec_variable < CODEC_VARIABLES:
        # Level 0 may leave a stage out; from level 1 on, less width and more stride cost less.
        ratio = cost.ratio[v - cost.codec_variable, own[1:]]
        steps = np.diff(ratio)
        shrinks = v - cost.codec_variable in (CODEC_RATIO_1, CODEC_RATIO_2, CODEC_WIDTH_1, CODEC_WIDTH_2)
        grows = v - cost.codec_variable in (CODEC_STRIDE_1, CODEC_STRIDE_2)
        if (ratio == 1).any() or not ((shrinks and (steps <= 0).all()) or (grows and (steps >= 0).all())):
            return own
        first = 1
    else:
        return own
    rest = own[first:]
    if len(rest):
        differs = (classes[rest[:-1]] != classes[rest[1:]]) | (linear[rest[:-1]] != linear[rest[1:]])
        rest = rest[np.append(differs, True)]
    return np.append(own[:first], rest)
