"""Prediction of batches by complete trees of depth 3: the same 7 comparisons for every sample, in vector lanes.

Features are float32 where that says the same (``forest.compared_as_float32``), else float64; features that are levels
of variables are bytes, compared as such. ``lanes`` says how a block of samples goes through a tree. Sums are float64
and in the order of the trees, so that no answer depends on the batch, the block or the number of threads.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.notation import BoolArray, FloatArray, IntArray
from coinfer_kernels.trees.llvm import (
    EDGE_ROOM,
    EDGE_START,
    LANES,
    NARROW,
    NODES,
    WIDE,
    Form,
    edge_places,
    form,
    make_add_trees,
    make_rank,
    samples,
    transpose,
    tree_record,
)
from coinfer_kernels.trees.packed import ColumnArray, PackedTables

DEPTH = 3
CACHE_LINE = 64  # bytes
RANK_LEVELS = 6  # comparisons that rank a feature with up to 63 thresholds; one more is possible
ALWAYS = 255  # a byte that no level exceeds

Bytes = NDArray[np.uint8]
Records = NDArray[np.void]  # lanes.tree_record

# The sample at every place of a block.
WIDE_BYTES, WIDE_SINGLES, WIDE_DOUBLES = (samples(WIDE, bits) for bits in (8, 32, 64))
NARROW_BYTES, NARROW_SINGLES, NARROW_DOUBLES = (samples(NARROW, bits) for bits in (8, 32, 64))
_rank_few, _rank_many = make_rank(RANK_LEVELS), make_rank(RANK_LEVELS + 1)
_add_to_wide = make_add_trees(WIDE)
_add_to_narrow = make_add_trees(NARROW)


def complete_trees(packed: PackedTables) -> Records | None:
    """The same trees, complete (trees,), or None where one is deeper than 3."""
    if packed.depth.max(initial=0) > DEPTH:
        return None
    levels = [packed.root.astype(np.int64)[:, None]]
    for _ in range(DEPTH):
        nodes = levels[-1]
        leaf = packed.child[nodes] == nodes
        right = packed.child[nodes] + np.where(leaf, 0, 1)  # below a leaf, the leaf again
        levels.append(np.stack([packed.child[nodes], right], axis=2).reshape(len(nodes), 2 * nodes.shape[1]))
    node = np.concatenate(levels[:-1], axis=1)
    trees = _records(len(node), packed.threshold.dtype)
    trees["feature"], trees["threshold"] = packed.feature[node], packed.threshold[node]
    trees["value"] = packed.value[levels[-1]]
    return trees


def _records(count: int, column: np.dtype[Any]) -> Records:
    """Zeros, aligned to cache lines."""
    record = tree_record(column)
    room = np.zeros(count * record.itemsize + CACHE_LINE, np.uint8)
    first = -room.ctypes.data % CACHE_LINE
    return room[first : first + count * record.itemsize].view(record)


def as_columns(trees: Records) -> NDArray[Any]:
    """The same memory as numbers of the type of a column, as kernels take it."""
    column = trees.dtype["threshold"].base
    flat: NDArray[Any] = trees.view(np.uint8).view(column)
    return flat


def level_trees(trees: Records, values: FloatArray, snr_edges: FloatArray) -> Records | None:
    """Complete trees over bytes in place of the features ``values`` (V, M) of levels, and of the SNR behind them.

    The SNR's byte is the number of ``snr_edges`` (E,), ascending, that it exceeds. None where a byte does not hold
    the levels or that number, or where several ranges of levels lie on one side of a threshold.
    """
    variables, most = values.shape
    if max(most, len(snr_edges) + 1) > ALWAYS + 1:
        return None
    feature, threshold = trees["feature"], trees["threshold"]
    of_level = feature < variables
    left = values[np.where(of_level, feature, 0)] <= threshold[:, :, None]  # (trees, 7, M)
    changes = left[:, :, 1:] != left[:, :, :-1]
    if (of_level & (changes.sum(axis=2) > 1)).any():
        return None
    last = np.where(changes.any(axis=2), changes.argmax(axis=2) if most > 1 else 0, ALWAYS)
    behind = np.minimum(np.searchsorted(snr_edges, threshold), ALWAYS)
    coded = _records(len(trees), np.dtype(np.uint8))
    coded["feature"], coded["value"] = feature, trees["value"]
    coded["threshold"] = np.where(of_level, last, behind)
    _turn(coded, of_level & ~left[:, :, 0])
    return coded


class RankedTrees(NamedTuple):
    """Complete trees over bytes, and how float32 features become bytes: by the thresholds that they exceed."""

    trees: Bytes  # as_columns
    edges: NDArray[np.float32]  # (F * EDGE_ROOM,) each feature's thresholds in the order of a search
    many: BoolArray  # (F,) whether a search takes 7 comparisons, not 6


def ranked_trees(trees: Records, features: int) -> RankedTrees | None:
    """The trees of float32 thresholds with features ranked first.

    None where a feature has more than 127 thresholds, or the processor cannot look up so many.
    """
    feature, threshold = trees["feature"], trees["threshold"]
    real = threshold < np.inf  # below a leaf every sample goes on to the left
    coded = _records(len(trees), np.dtype(np.uint8))
    coded["feature"], coded["value"], coded["threshold"] = feature, trees["value"], ALWAYS
    edges, many = np.full((features, EDGE_ROOM), np.inf, np.float32), np.zeros(features, np.bool_)
    for f in range(features):
        here = real & (feature == f)
        own = np.unique(threshold[here])
        levels = RANK_LEVELS if len(own) < 1 << RANK_LEVELS else RANK_LEVELS + 1
        if len(own) >= 1 << levels or form() is not Form.AVX512:
            return None
        many[f] = levels > RANK_LEVELS
        padded = np.concatenate([own, np.full((1 << levels) - 1 - len(own), np.inf, np.float32)])
        for start, places in zip(EDGE_START, edge_places(levels), strict=False):
            edges[f, start : start + len(places)] = padded[places]
        coded["threshold"][here] = np.searchsorted(own, threshold[here]) << (8 - levels)
    return RankedTrees(as_columns(coded), edges.ravel(), many)


def _turn(trees: Records, turned: BoolArray) -> None:
    """Exchange the children of some nodes (trees, 7)."""
    for node in reversed(range(NODES)):
        trees_here = np.flatnonzero(turned[:, node])[:, None]
        first, second = np.array([2 * node + 1]), np.array([2 * node + 2])
        while first[0] < NODES:
            there, here = np.concatenate([first, second]), np.concatenate([second, first])
            for name in ("feature", "threshold"):
                trees[name][trees_here, there] = trees[name][trees_here, here]
            first, second = (np.stack([2 * side + 1, 2 * side + 2], axis=1).ravel() for side in (first, second))
        there, here = np.concatenate([first, second]) - NODES, np.concatenate([second, first]) - NODES
        trees["value"][trees_here, there] = trees["value"][trees_here, here]


@inner
def _block_width(left: int) -> int:
    return WIDE if left > 2 * NARROW else NARROW


@inner
def _sample_at(columns: Any, width: int, place: int) -> int:
    if columns.itemsize == 1:
        return int(WIDE_BYTES[place] if width == WIDE else NARROW_BYTES[place])
    if columns.itemsize == 4:
        return int(WIDE_SINGLES[place] if width == WIDE else NARROW_SINGLES[place])
    return int(WIDE_DOUBLES[place] if width == WIDE else NARROW_DOUBLES[place])


@inner
def _find_rows(features: int, count: int, width: int, columns: Any, rows: IntArray) -> None:
    """Where the samples of a block begin; places behind the last of ``count`` samples take that one again."""
    for place in range(width):
        rows[place] = min(_sample_at(columns, width, place), count - 1) * features


@inner
def _fill(x: NDArray[Any], begin: int, features: int, width: int, rows: IntArray, columns: Any) -> bool:
    """Put samples of the flat ``x`` into a block; False where a feature is not finite there."""
    finite = True
    if features >= LANES:
        for place in range(0, width, LANES):
            for f in range(0, features, LANES):
                finite = transpose(x, begin, min(f, features - LANES), rows, place, columns, width) and finite
        return finite
    for place in range(width):
        for f in range(features):
            columns[f * width + place] = x[begin + rows[place] + f]
            if not abs(columns[f * width + place]) < np.inf:
                finite = False
    return finite


@inner
def _add_trees(trees: Any, columns: Any, width: int, out: FloatArray, first: int, spare: FloatArray) -> None:
    """Add the trees to ``out[first:]``, by way of ``spare`` where it ends before the block."""
    count = min(width, out.shape[0] - first)
    total, begin = out, first
    if count < width:
        total, begin = spare, 0
        for i in range(count):
            spare[i] = out[first + i]
    if width == WIDE:
        _add_to_wide(columns, trees, total, begin)
    else:
        _add_to_narrow(columns, trees, total, begin)
    if count < width:
        for i in range(count):
            out[first + i] = spare[i]


@inner
def _fill_with(value: float, out: FloatArray) -> None:
    for i in range(np.uintp(out.shape[0])):
        out[i] = value


@kernel
def start_rows(intercept: float, coefficients: FloatArray, x: ColumnArray, out: FloatArray) -> None:
    """The linear part (n,) of predictions for ``x`` (n, F)."""
    for i in range(x.shape[0]):
        out[i] = intercept
        for f in range(coefficients.shape[0]):
            out[i] += coefficients[f] * x[i, f]


@kernel
def predict_complete(trees: ColumnArray, intercept: float, started: bool, x: ColumnArray, out: FloatArray) -> bool:
    """Predict ``x`` (n, F) by ``trees`` (:func:`as_columns`) into ``out`` (n,); False where one is not finite.

    Sums begin with the intercept, or where ``started`` with what ``out`` holds.
    """
    flat, features = x.ravel(), x.shape[1]
    most = _block_width(x.shape[0])
    columns = np.empty(features * most, trees.dtype)
    rows, spare = np.empty(most, np.int64), np.empty(most)
    finite, first, found = True, 0, 0
    if not started:
        _fill_with(intercept, out)
    while first < x.shape[0]:
        width = _block_width(x.shape[0] - first)
        if width != found or x.shape[0] - first < width:
            found = width
            _find_rows(features, x.shape[0] - first, width, columns, rows)
        finite = _fill(flat, first * features, features, width, rows, columns) and finite
        _add_trees(trees, columns, width, out, first, spare)
        first += width
    return finite


@kernel
def predict_ranked(
    trees: Bytes,
    edges: NDArray[np.float32],
    many: BoolArray,
    intercept: float,
    started: bool,
    x: ColumnArray,
    out: FloatArray,
) -> bool:
    """As :func:`predict_complete`, by :class:`RankedTrees`."""
    flat, features = x.ravel(), x.shape[1]
    columns, codes = np.empty(features * WIDE, np.float32), np.empty(features * WIDE, np.uint8)
    rows, spare = np.empty(WIDE, np.int64), np.empty(WIDE)
    finite = True
    if not started:
        _fill_with(intercept, out)
    for first in range(0, x.shape[0], WIDE):
        if first == 0 or x.shape[0] - first < WIDE:
            _find_rows(features, x.shape[0] - first, WIDE, codes, rows)
        finite = _fill(flat, first * features, features, WIDE, rows, columns) and finite
        for f in range(features):
            if many[f]:
                _rank_many(columns, edges, f * EDGE_ROOM, codes, f)
            else:
                _rank_few(columns, edges, f * EDGE_ROOM, codes, f)
        _add_trees(trees, codes, WIDE, out, first, spare)
    return finite


@kernel
def start_levels(
    intercept: float, linear: FloatArray, snr_coefficient: float, levels: Bytes, snr_db: FloatArray, out: FloatArray
) -> None:
    """The linear part (n,) of predictions for ``levels`` (n, V), each in the tables, and SNRs (n,) or none."""
    for i in range(levels.shape[0]):
        out[i] = intercept
        for v in range(levels.shape[1]):
            out[i] += linear[v, levels[i, v]]
        if snr_db.shape[0] > 0:
            out[i] += snr_coefficient * snr_db[i]


@inner
def _all_below(numbers: Bytes, stop: int) -> bool:
    highest = np.uint8(0)
    for i in range(np.uintp(numbers.shape[0])):
        highest = max(highest, numbers[i])
    return numbers.shape[0] == 0 or int(highest) < stop


@kernel
def predict_complete_levels(
    trees: Bytes, intercept: float, started: bool, most: int, levels: Bytes, snr_rank: Bytes, out: FloatArray
) -> bool:
    """As :func:`predict_complete`, for ``levels`` (n, V), and the number (n,) of edges that the SNRs lie beyond or
    none; False, and nothing predicted, where a level is not below ``most``.
    """
    flat, variables = levels.ravel(), levels.shape[1]
    if not _all_below(flat, most):
        return False
    columns = np.empty((variables + 1) * WIDE, np.uint8)
    rows, spare = np.empty(WIDE, np.int64), np.empty(WIDE)
    first, found = 0, 0
    if not started:
        _fill_with(intercept, out)
    while first < levels.shape[0]:
        width = _block_width(levels.shape[0] - first)
        if width != found or levels.shape[0] - first < width:
            found = width
            _find_rows(variables, levels.shape[0] - first, width, columns, rows)
        _fill(flat, first * variables, variables, width, rows, columns)
        for place in range(width if snr_rank.shape[0] > 0 else 0):
            columns[variables * width + place] = snr_rank[first + rows[place] // variables]
        _add_trees(trees, columns, width, out, first, spare)
        first += width
    return True
