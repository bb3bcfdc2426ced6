"""One sample through every tree, node by node: the plain form of prediction."""

from __future__ import annotations

import numpy as np

from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.notation import EnsembleTables, FloatArray
from coinfer_kernels.trees.median import weighted_median


@inner
def _leaf_value(tables: EnsembleTables, tree: int, x: FloatArray) -> float:
    j = tables.roots[tree]
    while tables.feature[j] >= 0:
        j = tables.left[j] if x[tables.feature[j]] <= tables.threshold[j] else tables.right[j]
    value: float = tables.value[j]
    return value


@inner
def _median_row(tables: EnsembleTables, x: FloatArray, scratch: FloatArray) -> float:
    values, weights = scratch[0], scratch[1]
    for t in range(tables.roots.shape[0]):
        values[t] = _leaf_value(tables, t, x)
        weights[t] = tables.weights[t]
    return weighted_median(values, weights)


@inner
def predict_row(tables: EnsembleTables, x: FloatArray, scratch: FloatArray) -> float:
    """Prediction for one row of features (F,); ``scratch`` (2, trees) is room to work in."""
    if tables.median:
        return _median_row(tables, x, scratch)
    total = tables.intercept
    for f in range(tables.coefficients.shape[0]):
        total += tables.coefficients[f] * x[f]
    for t in range(tables.roots.shape[0]):
        total += tables.weights[t] * _leaf_value(tables, t, x)
    return total


@kernel
def _predict_rows(tables: EnsembleTables, single: bool, x: FloatArray, out: FloatArray) -> bool:
    """Predict ``x`` (n, F) row by row; False where a feature is not finite (``single``: as float32)."""
    finite = True
    scratch = np.empty((2, tables.roots.shape[0]))
    for i in range(x.shape[0]):
        for f in range(x.shape[1]):
            if not abs(np.float32(x[i, f]) if single else x[i, f]) < np.inf:
                finite = False
        out[i] = predict_row(tables, x[i], scratch)
    return finite
