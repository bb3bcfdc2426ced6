"""Tree ensembles and linear models: from scikit-learn to arrays, and their prediction.

scikit-learn's objects are read by their attributes; nothing here imports it. A prediction equals scikit-learn's
to the rounding of a sum (1e-12): trees are walked on features rounded to float32, as scikit-learn does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coinfer_kernels import checks
from coinfer_kernels.forest import (
    COMPLETE_WIDTH,
    PACKED_WIDTH,
    CompleteTables,
    PackedTables,
    complete_tables,
    packed_tables,
    predict_complete,
    predict_packed,
)
from coinfer_kernels.jit import check_threads, inner, kernel, run_parts
from coinfer_kernels.leaves import LeafTables, leaf_tables, predict_levels_rows
from coinfer_kernels.median import weighted_median
from coinfer_kernels.notation import EnsembleTables, FloatArray, IntArray

ROWS_PER_PART = 4096
SMALL_BATCH = 48  # below, a block of complete trees would be mostly empty


@inner
def _leaf_value(tables: EnsembleTables, tree: int, x: FloatArray) -> float:
    j = tables.roots[tree]
    while tables.feature[j] >= 0:
        j = tables.left[j] if np.float32(x[tables.feature[j]]) <= tables.threshold[j] else tables.right[j]
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
def _predict_rows(tables: EnsembleTables, x: FloatArray, out: FloatArray) -> bool:
    """Predict ``x`` (n, F) row by row; False where a feature is not finite."""
    finite = True
    scratch = np.empty((2, tables.roots.shape[0]))
    for i in range(x.shape[0]):
        for f in range(x.shape[1]):
            if not abs(np.float32(x[i, f])) < np.inf:
                finite = False
        out[i] = predict_row(tables, x[i], scratch)
    return finite


class TreeEnsemble:
    """A fitted regressor as arrays (:class:`EnsembleTables`)."""

    def __init__(self, tables: EnsembleTables) -> None:
        """Take tables from anywhere.

        Raises:
            ValueError: tables in which a walk could leave the arrays or never end.
        """
        self.tables = checks.ensemble_tables(tables)

    @classmethod
    def from_sklearn(cls, regressor: Any) -> TreeEnsemble:
        """Read a fitted regressor.

        GradientBoosting, RandomForest, ExtraTrees, Bagging (with feature subsets too), AdaBoost (weighted
        median), DecisionTree and linear models with ``coef_`` and ``intercept_``.

        Raises:
            ValueError: a classifier, several outputs, not fitted, or another kind of model.
        """
        return cls(_read(regressor).tables())

    @property
    def features(self) -> int:
        """F, the number of features that :meth:`predict` needs."""
        return len(self.tables.coefficients)

    def predict(self, x: ArrayLike, threads: int | None = 1) -> FloatArray:
        """Predictions (n,) for features ``x`` (n, F).

        Raises:
            ValueError: wrong shape, or NaN, infinite or beyond float32's range.
        """
        rows = checks.array("X", x, np.float64, 2)
        if rows.shape[1] != self.features:
            raise ValueError(f"X: has {rows.shape[1]} features; the regressor was fitted on {self.features}")
        out = np.empty(len(rows))
        count = check_threads(threads)
        if count == 1:
            finite = self._predict_part(rows, out)
        else:
            answers: list[bool] = []
            run_parts(
                lambda start, stop: answers.append(self._predict_part(rows[start:stop], out[start:stop])),
                len(rows),
                ROWS_PER_PART,
                count,
            )
            finite = all(answers)
        if not finite:  # what float32 cannot hold; scikit-learn refuses it too
            raise ValueError("X: holds NaN, infinity or a value too large for float32")
        return out

    def _predict_part(self, x: FloatArray, out: FloatArray) -> bool:
        """Predict rows in the form that is fastest for so many; False where a feature is not finite."""
        if self.tables.median:
            return _predict_rows(self.tables, x, out)
        packed, complete, coefficients = self._forms
        if complete is not None and len(x) >= SMALL_BATCH:
            return predict_complete(complete, self.tables.intercept, coefficients, x, COMPLETE_WIDTH, out)
        width = min(max(1, len(x)), PACKED_WIDTH)
        return predict_packed(packed, self.tables.intercept, coefficients, x, width, out)

    @cached_property
    def _forms(self) -> tuple[PackedTables, CompleteTables | None, FloatArray]:
        packed = packed_tables(self.tables)
        linear = self.tables.coefficients
        return packed, complete_tables(packed), linear if linear.any() else linear[:0]

    def code_levels(self, values: ArrayLike) -> LevelEnsemble:
        """The ensemble as a function of levels, for strategies of variables with features ``values`` (V, M).

        A feature after those V is the SNR. The answer is the same to the rounding of a sum.

        Raises:
            ValueError: another number of variables than the regressor was fitted on, or values not finite.
        """
        table = checks.array("values", values, np.float64, 2)
        checks.finite("values", table)
        if self.features - len(table) not in (0, 1) or table.shape[1] == 0:
            raise ValueError(
                f"values: has {len(table)} variables; the regressor sees {self.features} features, "
                "of which at most the last is no variable"
            )
        return LevelEnsemble(leaf_tables(self.tables, table), with_snr=self.features > len(table))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The tables as named arrays, for ``numpy.savez``."""
        return {name: np.asarray(value) for name, value in self.tables._asdict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike]) -> TreeEnsemble:
        """Rebuild from what :meth:`to_arrays` gave, or ``numpy.load(..., allow_pickle=False)`` of it.

        Raises:
            ValueError: an array is missing, or the tables are no ensemble.
        """
        missing = [name for name in EnsembleTables._fields if name not in arrays]
        if missing:
            raise ValueError(f"ensemble: the array {missing[0]!r} is missing; to_arrays() writes all that are needed")
        fields: dict[str, Any] = {name: np.asarray(arrays[name]) for name in EnsembleTables._fields}
        for name, kind in (("median", bool), ("intercept", float)):
            if fields[name].shape != ():
                raise ValueError(f"ensemble.{name}: has shape {fields[name].shape}; a single value is needed")
            fields[name] = kind(fields[name])
        return cls(EnsembleTables(**fields))


class LevelEnsemble:
    """A fitted regressor as a function of levels (:class:`LeafTables`); made by :meth:`TreeEnsemble.code_levels`."""

    def __init__(self, tables: LeafTables, with_snr: bool) -> None:
        self.tables = tables
        self.with_snr = with_snr

    def predict(self, levels: ArrayLike, snr_db: ArrayLike | None = None, threads: int | None = 1) -> FloatArray:
        """Predictions (n,) for strategies ``levels`` (n, V), bytes or int64, at one SNR or one each.

        Raises:
            ValueError: wrong shapes, levels that the tables don't have, or an SNR missing or not finite.
        """
        as_bytes = isinstance(levels, np.ndarray) and levels.dtype == np.uint8
        rows = checks.array("levels", levels, np.uint8 if as_bytes else np.int64, 2)
        variables, most = self.tables.linear.shape
        if rows.shape[1] != variables:
            raise ValueError(f"levels: has {rows.shape[1]} columns; there are {variables} variables")
        checks.within("levels", rows, 0, most)
        if self.with_snr and snr_db is None:
            raise ValueError("snr_db: the regressor was fitted with it; give one number or one for each strategy")
        try:
            snr = np.broadcast_to(np.asarray(0.0 if snr_db is None else snr_db, dtype=np.float64), (len(rows),)).copy()
        except (TypeError, ValueError):
            raise ValueError(f"snr_db: one number, or one for each of the {len(rows)} strategies, is needed") from None
        checks.finite("snr_db", snr)
        out = np.empty(len(rows))
        run_parts(
            lambda start, stop: predict_levels_rows(self.tables, rows[start:stop], snr[start:stop], out[start:stop]),
            len(rows),
            ROWS_PER_PART if threads != 1 else max(1, len(rows)),
            check_threads(threads),
        )
        return out


@dataclass(frozen=True)
class _Tree:
    """One tree's nodes, indices counted from its own root; leaves have feature -1 and point at themselves."""

    feature: IntArray
    threshold: FloatArray
    left: IntArray
    right: IntArray
    value: FloatArray


@dataclass(frozen=True)
class _Model:
    """``intercept + coefficients . x`` plus the weighted sum (or median) of trees."""

    features: int
    trees: tuple[_Tree, ...] = ()
    weights: tuple[float, ...] = ()
    intercept: float = 0.0
    coefficients: FloatArray | None = None
    median: bool = False

    def tables(self) -> EnsembleTables:
        sizes = np.array([len(tree.feature) for tree in self.trees], dtype=np.int64)
        roots = np.cumsum(sizes) - sizes

        def joined(name: str, dtype: type) -> NDArray[Any]:
            offset = roots if name in ("left", "right") else np.zeros_like(roots)
            parts = [getattr(tree, name) + first for tree, first in zip(self.trees, offset, strict=True)]
            return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype)

        return EnsembleTables(
            feature=joined("feature", np.int64),
            threshold=joined("threshold", np.float64),
            left=joined("left", np.int64),
            right=joined("right", np.int64),
            value=joined("value", np.float64),
            roots=roots,
            weights=np.array(self.weights, dtype=np.float64),
            median=self.median,
            intercept=self.intercept,
            coefficients=np.zeros(self.features) if self.coefficients is None else self.coefficients,
        )


def _sum_of(features: int, parts: list[tuple[float, _Model]]) -> _Model:
    """The weighted sum of models; a weighted median cannot be part of one."""
    if any(model.median for _, model in parts):
        raise ValueError("regressor: AdaBoost inside another ensemble is not supported; a sum of trees is")
    coefficients = np.zeros(features)
    for weight, model in parts:
        if model.coefficients is not None:
            coefficients += weight * model.coefficients
    return _Model(
        features=features,
        trees=tuple(tree for _, model in parts for tree in model.trees),
        weights=tuple(weight * own for weight, model in parts for own in model.weights),
        intercept=float(sum(weight * model.intercept for weight, model in parts)),
        coefficients=coefficients,
    )


def _read(regressor: Any) -> _Model:
    """Tell the kind of a fitted scikit-learn regressor by its attributes and read it."""
    kind = type(regressor).__name__
    if hasattr(regressor, "classes_"):
        raise ValueError(f"regressor: {kind} is a classifier; a regressor is needed")
    if getattr(regressor, "n_outputs_", 1) != 1:
        raise ValueError(f"regressor: {kind} predicts {regressor.n_outputs_} outputs; one is needed")
    if hasattr(regressor, "tree_"):
        return _read_tree(regressor.tree_)
    if hasattr(regressor, "estimators_"):
        features = int(regressor.n_features_in_)
        if hasattr(regressor, "init_"):
            return _read_boosting(regressor, features)
        if hasattr(regressor, "estimator_weights_"):
            return _read_adaboost(regressor, features)
        share = 1.0 / len(regressor.estimators_)
        subsets = getattr(regressor, "estimators_features_", [None] * len(regressor.estimators_))
        members = zip(regressor.estimators_, subsets, strict=True)
        return _sum_of(features, [(share, _renamed(_read(one), subset, features)) for one, subset in members])
    if hasattr(regressor, "coef_") and hasattr(regressor, "intercept_"):
        coefficients = np.asarray(regressor.coef_, dtype=np.float64)
        if coefficients.ndim != 1 or np.ndim(regressor.intercept_) != 0:
            raise ValueError(f"regressor: {kind} predicts several outputs; one is needed")
        return _Model(len(coefficients), intercept=float(regressor.intercept_), coefficients=coefficients)
    raise ValueError(f"regressor: {kind} is not fitted, or no tree ensemble or linear model of scikit-learn's")


def _read_tree(tree: Any) -> _Model:
    """A ``tree_``: leaves are the nodes without children."""
    left, right = (np.asarray(side, dtype=np.int64) for side in (tree.children_left, tree.children_right))
    leaf, own = left < 0, np.arange(len(left))
    nodes = _Tree(
        feature=np.where(leaf, -1, np.asarray(tree.feature, dtype=np.int64)),
        threshold=np.where(leaf, 0.0, np.asarray(tree.threshold, dtype=np.float64)),
        left=np.where(leaf, own, left),
        right=np.where(leaf, own, right),
        value=np.asarray(tree.value, dtype=np.float64).reshape(len(left), -1)[:, 0],
    )
    return _Model(int(tree.n_features), (nodes,), (1.0,))


def _read_boosting(regressor: Any, features: int) -> _Model:
    """Gradient boosting: the initial prediction plus learning rate times every tree."""
    rate = float(regressor.learning_rate)
    parts = [(rate, _read(stage)) for stage in np.asarray(regressor.estimators_).ravel()]
    initial = regressor.init_
    if hasattr(initial, "constant_"):
        parts.append((1.0, _Model(features, intercept=float(np.ravel(initial.constant_)[0]))))
    elif not isinstance(initial, str):  # the only name is "zero"
        raise ValueError(f"regressor: boosting on top of {type(initial).__name__} is not supported; on a constant is")
    return _sum_of(features, parts)


def _read_adaboost(regressor: Any, features: int) -> _Model:
    """AdaBoost.R2 of single trees."""
    members = [_read(estimator) for estimator in regressor.estimators_]
    if any(len(model.trees) != 1 or model.coefficients is not None for model in members):
        raise ValueError("regressor: AdaBoost of other models than single trees is not supported")
    weights = tuple(float(weight) for weight in regressor.estimator_weights_[: len(members)])
    return _Model(features, tuple(model.trees[0] for model in members), weights, median=True)


def _renamed(model: _Model, subset: ArrayLike | None, features: int) -> _Model:
    """A member that saw only the features ``subset``, speaking of all of them."""
    if subset is None:
        return model
    names = np.asarray(subset, dtype=np.int64)
    coefficients = np.zeros(features)
    if model.coefficients is not None:
        np.add.at(coefficients, names, model.coefficients)
    trees = tuple(
        _Tree(
            np.where(tree.feature < 0, -1, names[np.maximum(tree.feature, 0)]),
            tree.threshold,
            tree.left,
            tree.right,
            tree.value,
        )
        for tree in model.trees
    )
    return _Model(features, trees, model.weights, model.intercept, coefficients, model.median)
