"""Prediction of batches: two forms of a tree ensemble that a processor likes better than the walk node by node.

*Packed trees* of any depth: a node's children are neighbours, so a step is ``child + (x > threshold)`` without a
branch, and a leaf leads to itself, so every sample takes as many steps as its tree is deep. Samples go in step,
which keeps many loads under way at once.

*Complete trees* of depth 3: 7 comparisons and 7 selects, the same for every sample, so that a block of samples
whose features lie side by side goes through in vector lanes. Offsets are unsigned: numba wraps negative indices
around, and LLVM does not vectorise the loop with that in it.

Comparisons are made in float32 and equal scikit-learn's, ``float32(x) <= threshold`` with a float64 threshold,
because thresholds are rounded down to the nearest float32. Sums are float64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.notation import EnsembleTables, FloatArray

COMPLETE_DEPTH = 3
NODES, LEAVES = 7, 8
COMPLETE_WIDTH = 256  # samples in a block; with 16 features 16 KiB, half of a first-level cache
PACKED_WIDTH = 64

SingleArray = NDArray[np.float32]
NodeArray = NDArray[np.uint32]


class PackedTables(NamedTuple):
    """Trees with neighbouring children; a leaf's threshold is infinite and its child itself."""

    feature: NodeArray  # (nodes,)
    threshold: SingleArray  # (nodes,)
    child: NodeArray  # (nodes,) the left one; the right one is next to it
    value: FloatArray  # (nodes,) weighted
    root: NodeArray  # (trees,)
    depth: NodeArray  # (trees,)


class CompleteTables(NamedTuple):
    """Complete trees of depth 3, breadth first: node i's children are 2 i + 1 and 2 i + 2."""

    feature: NodeArray  # (trees * 7,)
    threshold: SingleArray  # (trees * 7,)
    value: FloatArray  # (trees * 8,) weighted


def packed_tables(tables: EnsembleTables) -> PackedTables:
    """Renumber the nodes of every tree breadth first."""
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
    return PackedTables(
        feature=np.where(leaf, 0, feature).astype(np.uint32),
        threshold=np.where(leaf, np.float32(np.inf), round_down(tables.threshold[nodes])),
        child=np.array(child, dtype=np.uint32),
        value=np.where(leaf, value * np.array(weight), 0.0),
        root=np.array(root, dtype=np.uint32),
        depth=np.array(depth, dtype=np.uint32),
    )


def complete_tables(packed: PackedTables) -> CompleteTables | None:
    """The same trees, complete, or None where one is deeper than 3."""
    if packed.depth.max(initial=0) > COMPLETE_DEPTH:
        return None
    levels = [packed.root.astype(np.int64)[:, None]]
    for _ in range(COMPLETE_DEPTH):
        nodes = levels[-1]
        leaf = packed.child[nodes] == nodes
        right = packed.child[nodes] + np.where(leaf, 0, 1)  # below a leaf, the leaf again
        levels.append(np.stack([packed.child[nodes], right], axis=2).reshape(len(nodes), 2 * nodes.shape[1]))
    inner = np.concatenate(levels[:-1], axis=1).ravel()
    return CompleteTables(packed.feature[inner], packed.threshold[inner], packed.value[levels[-1].ravel()])


def round_down(threshold: FloatArray) -> SingleArray:
    """The largest float32 that is not above: ``x <= threshold`` stays the same for every float32 x."""
    single = threshold.astype(np.float32)
    return np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single)


@inner
def _transpose(x: FloatArray, first: int, count: int, columns: SingleArray) -> bool:
    """Put ``count`` rows from ``first`` side by side as float32; False where one is not finite there."""
    width = columns.shape[0] // x.shape[1]
    finite = True
    for i in range(count):
        for f in range(x.shape[1]):
            single = np.float32(x[first + i, f])
            if not abs(single) < np.inf:
                finite = False
            columns[f * width + i] = single
    return finite


@inner
def _start(
    x: FloatArray, first: int, count: int, intercept: float, coefficients: FloatArray, total: FloatArray
) -> None:
    """The linear part of the rows from ``first``; no coefficients at all stand for zeros."""
    for i in range(count):
        linear = intercept
        for f in range(coefficients.shape[0]):
            linear += coefficients[f] * x[first + i, f]
        total[i] = linear


@kernel
def predict_packed(
    packed: PackedTables, intercept: float, coefficients: FloatArray, x: FloatArray, width: int, out: FloatArray
) -> bool:
    """Predict ``x`` (n, F) into ``out`` (n,), ``width`` rows in step; False where a feature is not finite."""
    feature, threshold, child, value = packed.feature, packed.threshold, packed.child, packed.value
    size = np.uintp(width)
    columns = np.zeros(x.shape[1] * width, np.float32)
    total, at = np.empty(width), np.empty(width, np.uint32)
    finite = True
    for first in range(0, x.shape[0], width):
        count = min(width, x.shape[0] - first)
        finite = _transpose(x, first, count, columns) and finite
        _start(x, first, count, intercept, coefficients, total)
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


@kernel
def predict_complete(
    complete: CompleteTables, intercept: float, coefficients: FloatArray, x: FloatArray, width: int, out: FloatArray
) -> bool:
    """As :func:`predict_packed`, in blocks of ``width`` rows."""
    feature, threshold, value = complete.feature, complete.threshold, complete.value
    size = np.uintp(width)
    # Made here and nowhere else known, so that LLVM need not fear that one overlaps the other.
    columns, total = np.zeros(x.shape[1] * width, np.float32), np.zeros(width)
    finite = True
    for first in range(0, x.shape[0], width):
        count = min(width, x.shape[0] - first)
        finite = _transpose(x, first, count, columns) and finite
        _start(x, first, count, intercept, coefficients, total)
        for tree in range(feature.shape[0] // NODES):
            n, m = NODES * tree, LEAVES * tree
            x0, x1 = np.uintp(feature[n]) * size, np.uintp(feature[n + 1]) * size
            x2, x3 = np.uintp(feature[n + 2]) * size, np.uintp(feature[n + 3]) * size
            x4, x5 = np.uintp(feature[n + 4]) * size, np.uintp(feature[n + 5]) * size
            x6 = np.uintp(feature[n + 6]) * size
            t0, t1, t2, t3 = threshold[n], threshold[n + 1], threshold[n + 2], threshold[n + 3]
            t4, t5, t6 = threshold[n + 4], threshold[n + 5], threshold[n + 6]
            v0, v1, v2, v3 = value[m], value[m + 1], value[m + 2], value[m + 3]
            v4, v5, v6, v7 = value[m + 4], value[m + 5], value[m + 6], value[m + 7]
            for j in range(size):
                a = v0 if columns[x3 + j] <= t3 else v1
                b = v2 if columns[x4 + j] <= t4 else v3
                c = v4 if columns[x5 + j] <= t5 else v5
                d = v6 if columns[x6 + j] <= t6 else v7
                e = a if columns[x1 + j] <= t1 else b
                g = c if columns[x2 + j] <= t2 else d
                total[j] += e if columns[x0 + j] <= t0 else g
        for i in range(count):
            out[first + i] = total[i]
    return finite
