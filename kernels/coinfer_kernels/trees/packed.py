"""Prediction of batches by packed trees, a form that a processor likes better than the walk node by node.

In *packed trees*, of any depth, a node's children are neighbours, so a step is ``child + (x > threshold)`` without a
branch, and a leaf leads to itself, so every sample takes as many steps as its tree is deep. Samples go in step,
which keeps many loads under way at once.

Offsets are unsigned: numba wraps negative indices around, and LLVM does not vectorise a loop with that in it.
Features are compared as float32 where the thresholds say the same of a feature and of its float32, as those of
scikit-learn's trees do; else as float64. Sums are float64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.notation import EnsembleTables, FloatArray

FLOAT32_END = 2.0**128  # the first power of two that float32 does not hold
PACKED_WIDTH = 64

SingleArray = NDArray[np.float32]
ColumnArray = NDArray[np.float32] | NDArray[np.float64]
NodeArray = NDArray[np.uint32]


class PackedTables(NamedTuple):
    """Trees with neighbouring children; a leaf's threshold is infinite and its child itself."""

    feature: NodeArray  # (nodes,)
    threshold: ColumnArray  # (nodes,) of the type in which features are compared
    child: NodeArray  # (nodes,) the left one; the right one is next to it
    value: FloatArray  # (nodes,) weighted
    root: NodeArray  # (trees,)
    depth: NodeArray  # (trees,)


def packed_tables(tables: EnsembleTables, single: bool) -> PackedTables:
    """Renumber the nodes of every tree breadth first; ``single``: to be compared with features in float32."""
    order: list[int] = []
    child: list[int] = []
    root: list[int] = []
    depth: list[int] = []
    weight: list[float] = []
    for first, share in zip(tables.roots, tables.weights, strict=True):
        root.append(len(order))
        order.append(int(first))
        at, levels, level_end = root[-1], 0, len(order)
        while at < len(order):
            if at == level_end:
                levels, level_end = levels + 1, len(order)
            node = order[at]
            if tables.feature[node] < 0:
                child.append(at)
            else:
                child.append(len(order))
                order += [int(tables.left[node]), int(tables.right[node])]
            at += 1
        depth.append(levels)
        weight += [float(share)] * (at - root[-1])
    nodes = np.array(order, dtype=np.int64)
    feature, value = tables.feature[nodes], tables.value[nodes]
    leaf = feature < 0
    inner = tables.threshold[nodes]
    threshold: ColumnArray = round_down(inner) if single else inner
    return PackedTables(
        feature=np.where(leaf, 0, feature).astype(np.uint32),
        threshold=np.where(leaf, threshold.dtype.type(np.inf), threshold),
        child=np.array(child, dtype=np.uint32),
        value=np.where(leaf, value * np.array(weight), 0.0),
        root=np.array(root, dtype=np.uint32),
        depth=np.array(depth, dtype=np.uint32),
    )


def round_down(threshold: FloatArray) -> SingleArray:
    """The largest float32 that is not above: ``x <= threshold`` stays the same for every float32 x."""
    with np.errstate(over="ignore"):
        single = threshold.astype(np.float32)
        return np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single)


def widen(threshold: FloatArray) -> FloatArray:
    """The largest float64 whose float32 is not above: ``x <= widen(t)`` says what ``float32(x) <= t`` says.

    It lies halfway to the next float32, or just below if there rounding to even goes up.
    """
    below = round_down(threshold)
    with np.errstate(over="ignore"):
        above = np.nextafter(below, np.float32(np.inf)).astype(np.float64)
    above[np.isinf(above)] = FLOAT32_END
    halfway = (below.astype(np.float64) + above) / 2
    odd = below.view(np.uint32) % 2 == 1
    return np.where(odd, np.nextafter(halfway, -np.inf), halfway)


def compared_as_float32(tables: EnsembleTables) -> bool:
    """Whether every comparison says the same of a feature and of its float32."""
    threshold = tables.threshold[tables.feature >= 0]
    return bool((widen(threshold) == threshold).all())


@inner
def _transpose(x: ColumnArray, first: int, count: int, columns: ColumnArray) -> bool:
    """Put ``count`` rows from ``first`` side by side in the columns' type; False where one is not finite there."""
    width = columns.shape[0] // x.shape[1]
    finite = True
    for i in range(count):
        for f in range(x.shape[1]):
            columns[f * width + i] = x[first + i, f]
            if not abs(columns[f * width + i]) < np.inf:
                finite = False
    return finite


@kernel
def predict_packed(packed: PackedTables, intercept: float, started: bool, x: ColumnArray, out: FloatArray) -> bool:
    """Predict ``x`` (n, F) into ``out`` (n,); False where a feature is not finite.

    Sums begin with the intercept, or where ``started`` with what ``out`` holds.
    """
    feature, threshold, child, value = packed.feature, packed.threshold, packed.child, packed.value
    width = min(max(1, x.shape[0]), PACKED_WIDTH)  # rows in step
    size = np.uintp(width)
    columns = np.zeros(x.shape[1] * width, threshold.dtype)
    total, at = np.empty(width), np.empty(width, np.uint32)
    finite = True
    for first in range(0, x.shape[0], width):
        count = min(width, x.shape[0] - first)
        finite = _transpose(x, first, count, columns) and finite
        for i in range(count):
            total[i] = out[first + i] if started else intercept
        for tree in range(np.uintp(packed.root.shape[0])):
            for i in range(size):
                at[i] = packed.root[tree]
            for _ in range(packed.depth[tree]):
                for i in range(size):
                    node = np.uintp(at[i])
                    at[i] = child[node] + np.uint32(columns[np.uintp(feature[node]) * size + i] > threshold[node])
            for i in range(size):
                total[i] += value[np.uintp(at[i])]
        for i in range(count):
            out[first + i] = total[i]
    return finite
