"""Cells of weight space: convex polygons clipped by half-planes."""

from __future__ import annotations

import numpy as np

from coinfer_kernels.atlas.lookup import Region
from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.notation import FloatArray, IntArray

SAME_RAY = 1e-9  # weights whose shares differ by less are one


@inner
def _clip(rays: FloatArray, size: int, normal: FloatArray, values: FloatArray, out: FloatArray) -> int:
    """The part of a cone of ``size`` rays on the side of ``normal``; returns the number of its rays.

    A new ray is a sum of two old ones with factors above zero, so no digits are lost (Sutherland and Hodgman, 1974).
    """
    for i in range(size):
        values[i] = rays[i, 0] * normal[0] + rays[i, 1] * normal[1] + rays[i, 2] * normal[2]
    count = 0
    for i in range(size):
        j = i + 1 if i + 1 < size else 0
        if values[i] >= 0.0:
            for d in range(3):
                out[count, d] = rays[i, d]
            count += 1
        if (values[i] > 0.0 > values[j]) or (values[i] < 0.0 < values[j]):
            total = 0.0
            for d in range(3):
                out[count, d] = abs(values[j]) * rays[i, d] + abs(values[i]) * rays[j, d]
                total += out[count, d]
            for d in range(3):
                out[count, d] /= total
            count += 1
    return count


@kernel
def _cells(costs: FloatArray, corners: FloatArray, rays: FloatArray, owner: IntArray) -> int:
    """Corner rays of the cell of every point, and whose they are, as far as there is room; returns their number."""
    points, found = costs.shape[0], 0
    here, there = np.empty((points + corners.shape[0], 3)), np.empty((points + corners.shape[0], 3))
    values, normal = np.empty(points + corners.shape[0]), np.empty(3)
    for k in range(points):
        size = corners.shape[0]
        for i in range(size):
            for d in range(3):
                here[i, d] = corners[i, d]
        for other in range(points):
            if other == k:
                continue
            for d in range(3):
                normal[d] = costs[other, d] - costs[k, d]
            size = _clip(here, size, normal, values, there)
            if size < 3:
                break
            here, there = there, here
        if size < 3:
            continue
        for i in range(size):
            if found < owner.shape[0]:
                owner[found] = k
                for d in range(3):
                    rays[found, d] = here[i, d]
            found += 1
    return found


def cells(costs: FloatArray, region: Region) -> tuple[FloatArray, IntArray]:
    """Corner rays (R, 3) of the cells of points ``costs`` (K, 3) in a region, and each ray's point (R,).

    A point that is nowhere the best has none. The rays of one cell stand together, in order around it.
    """
    scale = np.maximum(costs.max(axis=0), 1e-300)
    corners = region.corners * scale
    corners = corners / corners.sum(axis=1, keepdims=True)
    room = 16 * (len(costs) + len(corners))
    while True:
        rays, owner = np.empty((room, 3)), np.empty(room, dtype=np.int64)
        found = _cells(np.ascontiguousarray(costs / scale), corners, rays, owner)
        if found <= room:
            return rays[:found] / scale, owner[:found]
        room = found
