"""The atlas: the strategies that are best in some scenario, proven, and the best of them for any scenario.

Whether a strategy is accurate enough depends on no device, server or link, so all scenarios with one accuracy floor
share the set Q of feasible costs q (3,): device FLOPs, server FLOPs, bits. A scenario is a weight w (3,), its optimum
``V(w) = min of q . w over Q``: the lower convex hull of Q answers every scenario.

An atlas holds some points of Q and says how far the best of them is from V, for every w of a *region*: a convex cone of
weights, given by its corner rays. (V is homogeneous, so a ray stands for all its multiples.) With ``U(w)`` the least
``q . w`` of the atlas:

- U's *cells*, each the weights at which one point is best, are convex cones that fill the region. In a cell with the
  corners w_i, ``U(sum m_i w_i) = sum m_i U(w_i)`` for m >= 0, while ``V(sum m_i w_i) >= sum m_i V(w_i)``, for V is
  concave. So where ``U <= ratio * V`` holds at the corners of all cells, it holds in the whole region.
- Exact answers at weights w_k bound V from below everywhere: V is concave, homogeneous and does not fall, so
  ``V(w) >= sum m_k V(w_k)`` for all m >= 0 with ``sum m_k w_k <= w``; the best m is found by linear programming.

Building asks the exact solver at those corners where U is farthest above that bound. An answer either is a new point of
the hull or proves the corner (the sandwich algorithm for convex sets; Rote, Computing 48, 1992, and Bokrantz and
Forsgren, INFORMS J. Computing 25, 2013).
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.jit import check_threads, kernel, run_parts
from coinfer_kernels.notation import FloatArray, IntArray

LANES = 256  # scenarios that pass all points together: their weights stay in the nearest cache
POINTS_AT_ONCE = 4
SCENARIOS_PER_PART = 1 << 16
EDGE = 1e-9  # share by which a weight may lie beyond the region's edge: the rounding of 1 / rate and the like


class Region(NamedTuple):
    """A convex cone of weights. C: its corners."""

    corners: FloatArray  # (C, 3) rays, in order around the cone
    normals: FloatArray  # (C, 3) w lies inside where all normals . w >= 0


class Atlas(NamedTuple):
    """Proven best strategies of all scenarios in a region. K: strategies, of which each is the best somewhere."""

    levels: IntArray  # (K, V)
    costs: FloatArray  # (K, 3)
    accuracy: FloatArray  # (K,)
    region: Region
    ratio: float  # at any weight of the region, no strategy costs less than the atlas's best divided by this

    def lookup(
        self, weights: ArrayLike, *, outside: Literal["refuse", "mark"] = "refuse", threads: int | None = 1
    ) -> tuple[IntArray, FloatArray]:
        """The best strategy's row (S,) and its objective (S,) for weights (S, 3): s per FLOP, FLOP and bit.

        ``threads`` share the rows; None for all that numba may use. Of equal objectives the first row wins. A weight
        outside the region has row -1 and objective NaN where ``outside`` is ``mark``: nothing is proven there, and
        nothing is answered.

        Raises:
            ValueError: wrong shapes, or a weight outside the region that is to be refused.
        """
        rows = checks.array("weights", weights, np.float64, 2)
        if rows.shape[1] != 3:
            raise ValueError(f"weights: has {rows.shape[1]} columns; 3 are needed (device FLOP, server FLOP, bit)")
        if outside not in ("refuse", "mark"):
            raise ValueError(f"outside: {outside!r} is unknown; 'refuse' or 'mark'")
        padded = -len(self.costs) % POINTS_AT_ONCE
        costs = np.concatenate([self.costs, np.repeat(self.costs[-1:], padded, axis=0)])
        index, objective = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
        missed: list[int] = []  # by part
        run_parts(
            lambda start, stop: missed.append(
                _lookup_rows(costs, self.region.normals, rows[start:stop], index[start:stop], objective[start:stop])
            ),
            len(rows),
            SCENARIOS_PER_PART if check_threads(threads) > 1 else max(1, len(rows)),
            check_threads(threads),
        )
        if outside == "refuse" and any(missed):
            beyond = np.flatnonzero(index < 0)
            s = int(beyond[0])
            raise ValueError(
                f"weights: row {s}, {rows[s].tolist()}, lies outside the atlas's region ({len(beyond)} of {len(rows)} "
                "do); build one for a wider region, or solve them exactly"
            )
        return index, objective


@kernel
def _lookup_rows(
    costs: FloatArray, normals: FloatArray, weights: FloatArray, index: IntArray, objective: FloatArray
) -> int:
    """Fill in ``index`` and ``objective``; returns how many weights lie outside.

    Blocks of scenarios as structs of arrays, and unsigned loops: both are what lets the inner loops use vectors.
    """
    lanes, step = np.uintp(LANES), np.uintp(POINTS_AT_ONCE)
    w0, w1, w2 = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    best, at, inside = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    missed = 0
    for start in range(np.uintp(0), np.uintp(weights.shape[0]), lanes):
        size = min(lanes, np.uintp(weights.shape[0]) - start)
        for b in range(size):
            w0[b], w1[b], w2[b] = weights[start + b, 0], weights[start + b, 1], weights[start + b, 2]
            best[b], at[b], inside[b] = np.inf, 0.0, 0.0
        for e in range(np.uintp(normals.shape[0])):
            n0, n1, n2 = normals[e, 0], normals[e, 1], normals[e, 2]
            for b in range(size):
                inside[b] = min(inside[b], n0 * w0[b] + n1 * w1[b] + n2 * w2[b])
        for k in range(np.uintp(0), np.uintp(costs.shape[0]), step):
            a0, a1, a2 = costs[k, 0], costs[k, 1], costs[k, 2]
            i = k + np.uintp(1)
            b0, b1, b2 = costs[i, 0], costs[i, 1], costs[i, 2]
            i = k + np.uintp(2)
            c0, c1, c2 = costs[i, 0], costs[i, 1], costs[i, 2]
            i = k + np.uintp(3)
            d0, d1, d2 = costs[i, 0], costs[i, 1], costs[i, 2]
            number = float(k)
            for b in range(size):
                x0, x1, x2, value, row = w0[b], w1[b], w2[b], best[b], at[b]
                # objective_of: device * w[0] + server * w[1] + uplink * w[2]
                first = a0 * x0 + a1 * x1 + a2 * x2
                row = number if first < value else row
                value = first if first < value else value
                second = b0 * x0 + b1 * x1 + b2 * x2
                row = number + 1.0 if second < value else row
                value = second if second < value else value
                third = c0 * x0 + c1 * x1 + c2 * x2
                row = number + 2.0 if third < value else row
                value = third if third < value else value
                fourth = d0 * x0 + d1 * x1 + d2 * x2
                row = number + 3.0 if fourth < value else row
                value = fourth if fourth < value else value
                best[b], at[b] = value, row
        for b in range(size):
            # A NaN, or a weight of infinity, makes no comparison true; zero weights are no scenario.
            if inside[b] >= 0.0 and 0.0 < w0[b] + w1[b] + w2[b] < np.inf and best[b] < np.inf:
                index[start + b], objective[start + b] = np.int64(at[b]), best[b]
            else:
                index[start + b], objective[start + b] = -1, np.nan
                missed += 1
    return missed


def make_region(corners: ArrayLike) -> Region:
    """The cone between ``corners`` (C, 3), at least three rays in order around it, none inside the others' cone.

    Raises:
        ValueError: wrong shape, negative weights, or corners that are not those of a convex cone in their order.
    """
    rays = checks.array("corners", corners, np.float64, 2)
    if rays.shape[1] != 3 or len(rays) < 3:
        raise ValueError(f"corners: has shape {rays.shape}; at least 3 rays of 3 weights are needed")
    if not np.isfinite(rays).all() or (rays < 0).any() or not rays.any(axis=1).all():
        raise ValueError("corners: holds negative, NaN or infinite weights, or a ray of zeros")
    scale = rays.max(axis=0)
    if not scale.all():
        raise ValueError("corners: one weight is zero in all of them; the cone has no inside")
    rays = rays / scale  # of like size, so that the products below lose nothing
    rays /= rays.sum(axis=1, keepdims=True)
    normals = np.cross(rays, np.roll(rays, -1, axis=0))
    normals *= np.sign((normals @ rays.sum(axis=0)).sum())
    lengths = np.abs(normals).max(axis=1, keepdims=True)
    if not lengths.all() or not (normals @ rays.T >= -1e-7 * lengths).all():
        raise ValueError("corners: they are not those of a convex cone, one after the other around it")
    normals = normals / lengths + EDGE
    return Region(rays * scale, normals / scale)
