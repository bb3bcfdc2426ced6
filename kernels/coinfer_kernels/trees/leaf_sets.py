"""Prediction of strategies: reachable leaves as bit sets.

All leaves of an ensemble are numbered, and every level of every variable has the set of leaves that a strategy
with that level can reach. The sets of a strategy's levels have one leaf of each tree in common: a prediction is
V intersections of a few machine words and the sum of the values whose bits are left (Lucchese et al., QuickScorer,
2015, with levels in place of thresholds). Trees of any depth, in any batch, without a branch on a feature.

A tree's leaves share a word where they fit, so the number of bits left in a word is known to the processor.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.notation import BoolArray, EnsembleTables, FloatArray, IntArray
from coinfer_kernels.trees.median import weighted_median

WORD = 64
Words = NDArray[np.uint64]


class LeafTables(NamedTuple):
    """An ensemble over the levels of V variables, and over the SNR where it sees one more feature.

    B: words of a set of leaves; E: thresholds of the SNR, in ascending order.
    """

    reach: Words  # (V * M * B,) leaves reachable at each level of each variable
    snr_edges: FloatArray  # (E,) the SNR lies beyond those edges that it exceeds
    snr_reach: Words  # (E + 1, B) leaves reachable there
    value: FloatArray  # (B * 64,) what a leaf adds, weighted unless ``median``
    weights: FloatArray  # (trees,) of the median
    linear: FloatArray  # (V, M) what the level adds by itself
    snr_coefficient: float
    has_linear: bool
    median: bool
    intercept: float


def _lowest_bit_code(_context: Any, _word: Any) -> Any:
    def generate(target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], target.get_constant(types.boolean, 1))

    return types.uint64(types.uint64), generate


# Number (uint64) of the lowest bit that is set in a word other than zero: one machine instruction.
lowest_bit: Any = intrinsic(_lowest_bit_code)


@inner
def snr_words(tables: LeafTables, snr_db: float, words: Words) -> None:
    """The leaves that an SNR leaves open: where every prediction at that SNR starts."""
    behind = 0
    while behind < tables.snr_edges.shape[0] and snr_db > tables.snr_edges[behind]:
        behind += 1
    for b in range(words.shape[0]):
        words[b] = tables.snr_reach[behind, b]


@inner
def sum_of_leaves(value: FloatArray, words: Words) -> float:
    """Sum of the values whose bits are set."""
    total = 0.0
    for b in range(np.uintp(words.shape[0])):
        word, part = words[b], 0.0  # one sum for each word, so that the additions of several words overlap
        while word:
            part += value[b * np.uintp(WORD) + lowest_bit(word)]
            word &= word - np.uint64(1)
        total += part
    return total


@inner
def _median_of_leaves(tables: LeafTables, words: Words, scratch: FloatArray) -> float:
    """The trees' weighted median; bits are in the order of the trees."""
    values, weights = scratch[0], scratch[1]
    tree = 0
    for b in range(np.uintp(words.shape[0])):
        word = words[b]
        while word:
            values[tree] = tables.value[b * np.uintp(WORD) + lowest_bit(word)]
            weights[tree] = tables.weights[tree]
            tree += 1
            word &= word - np.uint64(1)
    return weighted_median(values, weights)


@inner
def value_of_leaves(tables: LeafTables, words: Words, scratch: FloatArray) -> float:
    """What the trees add for a set with one leaf of each; ``scratch`` (2, trees) is room to work in."""
    if tables.median:
        return _median_of_leaves(tables, words, scratch)
    return sum_of_leaves(tables.value, words)


@inner
def predict_levels_row(
    tables: LeafTables, start: Words, snr_db: float, levels: NDArray[Any], words: Words, scratch: FloatArray
) -> float:
    """Prediction for one strategy (V,).

    ``start`` (B,) from :func:`snr_words`; ``words`` (B,) and ``scratch`` (2, trees) are room to work in.
    """
    count = np.uintp(start.shape[0])
    most = np.uintp(tables.linear.shape[1])
    reach = tables.reach
    for b in range(count):
        words[b] = start[b]
    for v in range(np.uintp(tables.linear.shape[0])):
        first = (v * most + np.uintp(levels[v])) * count
        for b in range(count):
            words[b] &= reach[first + b]
    total = tables.intercept + value_of_leaves(tables, words, scratch)
    if tables.has_linear:
        for v in range(np.uintp(tables.linear.shape[0])):
            total += tables.linear[v, np.uintp(levels[v])]
        total += tables.snr_coefficient * snr_db
    return total


@kernel
def predict_levels_rows(tables: LeafTables, levels: NDArray[Any], snr_db: FloatArray, out: FloatArray) -> None:
    """Predictions (n,) of strategies (n, V) at SNRs (n,), or none."""
    start, words = np.empty_like(tables.snr_reach[0]), np.empty_like(tables.snr_reach[0])
    scratch = np.empty((2, tables.weights.shape[0]))
    snr = 0.0
    for i in range(out.shape[0]):
        if i == 0 or (snr_db.shape[0] > 0 and snr_db[i] != snr):
            snr = snr_db[i] if snr_db.shape[0] > 0 else 0.0
            snr_words(tables, snr, start)
        out[i] = predict_levels_row(tables, start, snr, levels[i], words, scratch)


def leaf_tables(tables: EnsembleTables, values: FloatArray) -> LeafTables:
    """Tables over the levels whose features are ``values`` (V, M); a feature after those is the SNR."""
    variables, most = values.shape
    edges = np.unique(tables.threshold[tables.feature == variables])
    number, words = _leaf_numbers(tables)
    reach = np.zeros((words * WORD, variables, most), dtype=np.bool_)
    snr_reach = np.zeros((words * WORD, len(edges) + 1), dtype=np.bool_)
    value = np.zeros(words * WORD)
    for root, weight in zip(tables.roots, tables.weights, strict=True):
        everything = (np.ones((variables, most), dtype=np.bool_), np.ones(len(edges) + 1, dtype=np.bool_))
        pending: list[tuple[int, BoolArray, BoolArray]] = [(int(root), *everything)]
        while pending:
            node, allowed, snr_allowed = pending.pop()
            feature = tables.feature[node]
            if feature < 0:
                reach[number[node]], snr_reach[number[node]] = allowed, snr_allowed
                value[number[node]] = tables.value[node] * (1.0 if tables.median else weight)
                continue
            for child, left in ((tables.left[node], True), (tables.right[node], False)):
                below, snr_below = allowed.copy(), snr_allowed.copy()
                if feature < variables:
                    below[feature] &= (values[feature] <= tables.threshold[node]) == left
                else:  # interval i lies beyond edges 0 .. i - 1
                    snr_below &= (np.arange(len(edges) + 1) <= np.searchsorted(edges, tables.threshold[node])) == left
                pending.append((int(child), below, snr_below))
    coefficients = np.zeros_like(tables.coefficients) if tables.median else tables.coefficients
    by_level = _packed(np.moveaxis(reach, 0, -1))
    return LeafTables(
        reach=by_level.ravel(),
        snr_edges=edges,
        snr_reach=_packed(snr_reach.T),
        value=value,
        weights=np.array(tables.weights, dtype=np.float64),
        linear=coefficients[:variables, None] * values,
        snr_coefficient=float(coefficients[variables]) if len(coefficients) > variables else 0.0,
        has_linear=bool(coefficients.any()),
        median=bool(tables.median),
        intercept=0.0 if tables.median else float(tables.intercept),
    )


def _leaf_numbers(tables: EnsembleTables) -> tuple[IntArray, int]:
    """A number for every leaf (-1 for other nodes), in the order of the trees, and how many words that takes."""
    number = np.full(len(tables.feature), -1, dtype=np.int64)
    free = 0
    for root in tables.roots:
        leaves, pending = [], [int(root)]
        while pending:
            node = pending.pop()
            if tables.feature[node] < 0:
                leaves.append(node)
            else:
                pending += [int(tables.right[node]), int(tables.left[node])]
        if len(leaves) <= WORD < free % WORD + len(leaves):
            free += -free % WORD
        number[leaves] = np.arange(free, free + len(leaves))
        free += len(leaves)
    return number, -(-free // WORD)


def _packed(bits: BoolArray) -> Words:
    """(..., B * 64) truth values to (..., B) words, the lowest bit first."""
    words: Words = np.packbits(np.ascontiguousarray(bits), axis=-1, bitorder="little").view("<u8").astype(np.uint64)
    return words
