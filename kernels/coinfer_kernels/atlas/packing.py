"""The small packing program that bounds how far an atlas can be from the best."""

from __future__ import annotations

import numpy as np

from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.notation import FloatArray, IntArray

PIVOTS = 100


NEGLIGIBLE = 1e-12  # reduced costs and pivots, in units of 1


@inner
def _pack(columns: FloatArray, right: FloatArray, basis: IntArray, inverse: FloatArray, room: FloatArray) -> float:
    """A lower bound of ``max sum(m)`` over m (K,) >= 0 with ``sum m_k columns[k] <= right``: primal simplex method.

    ``columns`` (K, 3) >= 0 have zeros where ``right`` (3,) has. The bound belongs to an m that keeps the constraints,
    wherever the search for a better one ends. ``basis`` (3,), ``inverse`` (3, 3) and ``room`` (3, 3) are room.
    """
    point, price, step = room[0], room[1], room[2]
    for i in range(3):
        basis[i], point[i] = -1 - i, right[i]  # -1 - i stands for what is left of constraint i
        for j in range(3):
            inverse[i, j] = 1.0 if i == j else 0.0
    for _ in range(PIVOTS):
        for d in range(3):
            price[d] = 0.0
            for i in range(3):
                price[d] += inverse[i, d] if basis[i] >= 0 else 0.0
        entering, most = 0, NEGLIGIBLE
        for k in range(columns.shape[0]):
            gain = 1.0 - price[0] * columns[k, 0] - price[1] * columns[k, 1] - price[2] * columns[k, 2]
            if gain > most:
                entering, most = k, gain
        for d in range(3):
            if -price[d] > most:
                entering, most = -1 - d, -price[d]
        if most == NEGLIGIBLE:
            break
        leaving, least = -1, np.inf
        for i in range(3):
            step[i] = inverse[i, -1 - entering] if entering < 0 else 0.0
            if entering >= 0:
                for d in range(3):
                    step[i] += inverse[i, d] * columns[entering, d]
            if step[i] > NEGLIGIBLE and point[i] / step[i] < least:
                leaving, least = i, point[i] / step[i]
        if leaving < 0:
            break
        _pivot(inverse, point, step, leaving, least)
        basis[leaving] = entering
    return _kept_within(columns, right, basis, point)


@inner
def _pivot(inverse: FloatArray, point: FloatArray, step: FloatArray, leaving: int, least: float) -> None:
    for j in range(3):
        inverse[leaving, j] /= step[leaving]
    for i in range(3):
        if i != leaving:
            for j in range(3):
                inverse[i, j] -= step[i] * inverse[leaving, j]
            point[i] = max(0.0, point[i] - step[i] * least)
    point[leaving] = least


@inner
def _kept_within(columns: FloatArray, right: FloatArray, basis: IntArray, point: FloatArray) -> float:
    """The sum of a basic solution, scaled down by what rounding lets it exceed the constraints."""
    total, excess = 0.0, 1.0
    for d in range(3):
        used = 0.0
        for i in range(3):
            used += point[i] * columns[basis[i], d] if basis[i] >= 0 else 0.0
        if used > 0.0:
            excess = max(excess, used / right[d])
    for i in range(3):
        total += point[i] if basis[i] >= 0 else 0.0
    return total / excess


@inner
def _largest_alone(columns: FloatArray) -> float:
    """The same for an m with a single element above zero."""
    most = 0.0
    for k in range(columns.shape[0]):
        needed = max(columns[k, 0], columns[k, 1], columns[k, 2])
        if needed > 0.0:
            most = max(most, 1.0 / needed)
    return most


@kernel
def _bound_rows(weights: FloatArray, values: FloatArray, rays: FloatArray, above: FloatArray, out: FloatArray) -> None:
    columns, right = np.empty((weights.shape[0], 3)), np.empty(3)
    basis, inverse, room = np.empty(3, np.int64), np.empty((3, 3)), np.empty((3, 3))
    for r in range(rays.shape[0]):
        for d in range(3):
            right[d] = 1.0 if rays[r, d] > 0.0 else 0.0
        used = 0
        for k in range(weights.shape[0]):
            fits = values[k] > 0.0
            for d in range(3):
                # In units of the ray and of U there, so that 1 is the largest that the sum can be.
                if rays[r, d] > 0.0:
                    columns[used, d] = weights[k, d] / rays[r, d] * (above[r] / values[k])
                else:  # what needs a weight that the ray has none of takes no part
                    columns[used, d] = 0.0
                    fits = fits and weights[k, d] == 0.0
            used += 1 if fits else 0
        # One column alone is a packing too. Beside one that differs by rounding the simplex method may lose it.
        out[r] = max(_pack(columns[:used], right, basis, inverse, room), _largest_alone(columns[:used]))


def proven_share(weights: FloatArray, values: FloatArray, rays: FloatArray, above: FloatArray) -> FloatArray:
    """Shares (R,) of ``above`` (R,) >= V at ``rays`` (R, 3) that V reaches at least, by the bounds elsewhere.

    They follow from V >= ``values`` (k,) at ``weights`` (k, 3), and hold to the rounding of float64 sums.
    """
    out = np.empty(len(rays))
    _bound_rows(weights, values, np.ascontiguousarray(rays), above, out)
    return out
