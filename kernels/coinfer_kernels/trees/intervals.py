"""Every leaf of an ensemble as a box: for each feature an interval between its thresholds.

The thresholds of a feature cut its values into **classes**: class c are the values with exactly c thresholds below
them, so that a node whose threshold is number k (from 0) sends classes 0..k to the left and the others to the right:

    class        0   |   1   |   2   |  ...
    threshold        t0      t1      t2          x <= t1  is  class <= 1
"""

from typing import NamedTuple

import numpy as np

from coinfer_kernels.jit import kernel
from coinfer_kernels.notation import EnsembleTables, FloatArray, IntArray


class LeafIntervals(NamedTuple):
    """All N leaves, tree by tree, from left to right. F: features."""

    start: IntArray  # (T + 1,) leaves of tree t: start[t] .. start[t + 1] - 1
    low: IntArray  # (F, N) the first class of the leaf's interval
    high: IntArray  # (F, N) the first class behind it; no more than ``low`` where no value leads to the leaf
    value: FloatArray  # (N,) what the leaf adds, weighted unless the ensemble takes a median


def thresholds_of(ensemble: EnsembleTables, features: int) -> list[FloatArray]:
    """The distinct thresholds of each feature, rising."""
    return [np.unique(ensemble.threshold[ensemble.feature == f]) for f in range(features)]


def leaf_intervals(ensemble: EnsembleTables, edges: list[FloatArray]) -> LeafIntervals:
    """The leaves' intervals between ``edges``, the thresholds of each feature (:func:`thresholds_of`)."""
    place = np.zeros(len(ensemble.feature), dtype=np.int64)
    for f, own in enumerate(edges):
        asks = ensemble.feature == f
        place[asks] = np.searchsorted(own, ensemble.threshold[asks])
    leaves = int((ensemble.feature < 0).sum())
    start = np.zeros(len(ensemble.roots) + 1, dtype=np.int64)
    low, high = (np.empty((len(edges), leaves), dtype=np.int64) for _ in range(2))
    out = LeafIntervals(start, low, high, np.empty(leaves))
    _walk(ensemble, place, np.array([len(own) + 1 for own in edges]), out)
    count = int(start[-1])  # of leaves that hang on a root
    return LeafIntervals(start, low[:, :count], high[:, :count], out.value[:count])


@kernel
def _walk(ensemble: EnsembleTables, place: IntArray, classes: IntArray, out: LeafIntervals) -> None:
    """Visit all trees depth first: a stack of nodes, each with the box (low, high) of those who come to it."""
    nodes, features = place.shape[0], classes.shape[0]
    depth = np.zeros(nodes, np.int64)
    for j in range(nodes):  # a child lies behind its parent
        if ensemble.feature[j] >= 0:
            depth[ensemble.left[j]] = depth[ensemble.right[j]] = depth[j] + 1
    room = depth.max() + 2 if nodes else 0
    node = np.empty(room, np.int64)
    low, high = np.empty((room, features), np.int64), np.empty((room, features), np.int64)
    leaf = 0
    for tree in range(ensemble.roots.shape[0]):
        node[0], size = ensemble.roots[tree], 1
        for f in range(features):
            low[0, f], high[0, f] = 0, classes[f]
        while size:
            size -= 1
            j = node[size]
            f = ensemble.feature[j]
            if f < 0:
                for g in range(features):
                    out.low[g, leaf], out.high[g, leaf] = low[size, g], high[size, g]
                out.value[leaf] = ensemble.value[j] * (1.0 if ensemble.median else ensemble.weights[tree])
                leaf += 1
                continue
            for g in range(features):
                low[size + 1, g], high[size + 1, g] = low[size, g], high[size, g]
            # The left child, on top of the stack, comes first.
            node[size], node[size + 1] = ensemble.right[j], ensemble.left[j]
            high[size + 1, f] = min(high[size + 1, f], place[j] + 1)
            low[size, f] = max(low[size, f], place[j] + 1)
            size += 2
        out.start[tree + 1] = leaf
