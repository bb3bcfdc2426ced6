"""Decision variables: from the unit cube to levels to what the predictor sees (the Parameters Generator)."""

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.notation import FloatArray, IntArray, SpaceTables


@inner
def canonical_row(space: SpaceTables, levels: IntArray) -> None:
    """Set the variables that the chosen cut makes meaningless to their canonical level, in place."""
    active = space.active[levels[space.cut_variable]]
    for v in range(levels.shape[0]):
        if not active[v]:
            levels[v] = space.canonical[v]


@inner
def decode_row(space: SpaceTables, cube: FloatArray, levels: IntArray) -> None:
    """Levels of one point of the unit cube: every level owns an interval of the same width."""
    for v in range(levels.shape[0]):
        levels[v] = min(int(cube[v] * space.n_levels[v]), space.n_levels[v] - 1)
    canonical_row(space, levels)


@inner
def feature_row(space: SpaceTables, levels: IntArray, snr_db: float, x: FloatArray) -> None:
    """What the predictor sees of one strategy; a feature after the variables is the SNR."""
    variables = levels.shape[0]
    for v in range(variables):
        x[v] = space.values[v, levels[v]]
    if x.shape[0] > variables:
        x[variables] = snr_db


@kernel
def _decode_rows(space: SpaceTables, cube: FloatArray, levels: IntArray) -> None:
    for i in range(levels.shape[0]):
        decode_row(space, cube[i], levels[i])


@kernel
def _canonical_rows(space: SpaceTables, levels: IntArray) -> None:
    for i in range(levels.shape[0]):
        canonical_row(space, levels[i])


@kernel
def _feature_rows(space: SpaceTables, levels: IntArray, snr_db: FloatArray, x: FloatArray) -> None:
    for i in range(levels.shape[0]):
        feature_row(space, levels[i], snr_db[i], x[i])


def decode(space: SpaceTables, cube: ArrayLike) -> IntArray:
    """Strategies at points of the unit cube.

    ``space``: the variables and their levels; ``cube`` (n, V) in 0..1, 1 included. Returns canonical levels (n, V).

    Raises:
        ValueError: wrong shape, or a coordinate outside 0..1.
    """
    space = checks.space_tables(space)
    points = checks.array("cube", cube, np.float64, 2)
    if points.shape[1] != len(space.n_levels):
        raise ValueError(f"cube: has {points.shape[1]} columns; the space has {len(space.n_levels)} variables")
    if not ((points >= 0) & (points <= 1)).all():
        raise ValueError("cube: holds coordinates outside 0 .. 1")
    levels = np.empty(points.shape, dtype=np.int64)
    _decode_rows(space, points, levels)
    return levels


def canonicalize(space: SpaceTables, levels: ArrayLike) -> IntArray:
    """A copy of ``levels`` (n, V) with meaningless variables at their canonical level, as ``space`` has them.

    Raises:
        ValueError: wrong shape, or a level that its variable doesn't have.
    """
    space = checks.space_tables(space)
    canonical = checks.level_rows(space, levels).copy()
    _canonical_rows(space, canonical)
    return canonical


def features(space: SpaceTables, levels: ArrayLike, snr_db: ArrayLike | None = None) -> FloatArray:
    """What the predictor sees: the values that ``space`` has for ``levels`` (n, V).

    Returns (n, V), or (n, V + 1) where ``snr_db`` (one number, or one for each strategy) is given.

    Raises:
        ValueError: wrong shape, or a level that its variable doesn't have.
    """
    space = checks.space_tables(space)
    rows = checks.level_rows(space, levels)
    n, variables = rows.shape
    try:
        snr = np.broadcast_to(np.asarray(0.0 if snr_db is None else snr_db, dtype=np.float64), (n,)).copy()
    except (TypeError, ValueError):
        raise ValueError(f"snr_db: one number, or one for each of the {n} strategies, is needed") from None
    x = np.empty((n, variables + (snr_db is not None)))
    _feature_rows(space, rows, snr, x)
    return x
