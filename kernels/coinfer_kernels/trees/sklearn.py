"""From scikit-learn's fitted regressors to arrays.

Its objects are read by their attributes; nothing here imports it. scikit-learn rounds features to float32 before it
walks any tree but those of HistGradientBoosting; thresholds are widened to say the same of the unrounded features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coinfer_kernels.notation import EnsembleTables, FloatArray, IntArray
from coinfer_kernels.trees.packed import widen

# Where scikit-learn defines the ``predict`` that is read here, by what it predicts.
MEANS = {"ForestRegressor", "BaggingRegressor", "VotingRegressor"}  # its members' mean
TREES = {"BaseDecisionTree", "GradientBoostingRegressor", "HistGradientBoostingRegressor", "AdaBoostRegressor"}
LINES = {"BaseLibSVM"}  # besides all classes of ``sklearn.linear_model``
PASSES_ON = {"BaseSearchCV": "best_estimator_", "RANSACRegressor": "estimator_"}  # as another one predicts
# A subclass that has one of these of its own predicts something else.
_PREDICTING = ("predict", "_decision_function", "decision_function", "_raw_predict", "_predict", "_validate_X_predict")


@dataclass(frozen=True)
class Tree:
    """One tree's nodes, indices counted from its own root; leaves have feature -1 and point at themselves."""

    feature: IntArray
    threshold: FloatArray
    left: IntArray
    right: IntArray
    value: FloatArray


@dataclass(frozen=True)
class Model:
    """``intercept + coefficients . x`` plus the weighted sum (or median) of trees."""

    features: int
    trees: tuple[Tree, ...] = ()
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


def _sum_of(features: int, parts: list[tuple[float, Model]]) -> Model:
    """The weighted sum of models; a weighted median cannot be part of one."""
    if any(model.median for _, model in parts):
        raise ValueError("regressor: AdaBoost inside another ensemble is not supported; a sum of trees is")
    coefficients = np.zeros(features)
    for weight, model in parts:
        if model.coefficients is not None:
            coefficients += weight * model.coefficients
    return Model(
        features=features,
        trees=tuple(tree for _, model in parts for tree in model.trees),
        weights=tuple(weight * own for weight, model in parts for own in model.weights),
        intercept=float(sum(weight * model.intercept for weight, model in parts)),
        coefficients=coefficients,
    )


def read_sum(regressors: Sequence[Any]) -> Model:
    """:func:`read_regressor` of each, added up."""
    models = [read_regressor(regressor) for regressor in regressors]
    if len(models) == 1:
        return models[0]
    features = sorted({model.features for model in models})
    if len(features) > 1:
        raise ValueError(
            f"regressor: a sum of models of {' and '.join(map(str, features))} features; one number is needed"
        )
    return _sum_of(features[0], [(1.0, model) for model in models])


def read_regressor(regressor: Any) -> Model:
    """Read a fitted scikit-learn regressor whose ``predict`` is a sum of trees, or linear, by its attributes.

    Raises:
        ValueError: any other, with the reason.
    """
    kind = type(regressor).__name__
    if not hasattr(regressor, "predict"):
        raise ValueError(f"regressor: {kind} is no regressor of scikit-learn's")
    if hasattr(regressor, "classes_") or _estimates(regressor) == "classifier":
        raise ValueError(f"regressor: {kind} is a classifier; a regressor is needed")
    if _estimates(regressor) != "regressor":
        raise ValueError(
            f"regressor: {kind} is no regressor; one whose prediction is a sum of trees or linear is needed"
        )
    owner = _predicting_class(regressor)
    predicts = owner.__name__
    if not hasattr(regressor, "steps") and not any(
        name.endswith("_") and not name.startswith("__") for name in vars(regressor)
    ):
        raise ValueError(f"regressor: {kind} is not fitted; call fit() first")
    if predicts in PASSES_ON:
        return read_regressor(getattr(regressor, PASSES_ON[predicts]))
    outputs = getattr(regressor, "n_outputs_", 1)
    if outputs != 1:
        raise ValueError(f"regressor: {kind} predicts {outputs} outputs; one is needed")
    if predicts == "DummyRegressor":
        return Model(int(regressor.n_features_in_), intercept=float(np.ravel(regressor.constant_)[0]))
    if predicts in LINES or owner.__module__.startswith("sklearn.linear_model."):
        return _read_line(regressor)
    if predicts == "BaseDecisionTree":
        return _read_tree(regressor.tree_)
    if predicts == "HistGradientBoostingRegressor":
        return _read_histogram_boosting(regressor)
    if predicts in TREES | MEANS:
        features = int(regressor.n_features_in_)
        if predicts == "GradientBoostingRegressor":
            return _read_boosting(regressor, features)
        return (
            _read_adaboost(regressor, features) if predicts == "AdaBoostRegressor" else _read_mean(regressor, features)
        )
    reason = "transforms the features first" if hasattr(regressor, "steps") else "is neither a sum of trees nor linear"
    raise ValueError(f"regressor: the prediction of {kind} {reason}; one that is, of the features, is needed")


def _estimates(regressor: Any) -> str | None:
    """What scikit-learn calls the kind of an estimator."""
    tags = getattr(regressor, "__sklearn_tags__", None)
    kind: str | None = tags().estimator_type if tags is not None else getattr(regressor, "_estimator_type", None)
    return kind


def _predicting_class(regressor: Any) -> type:
    """The class of scikit-learn's that defines how it predicts; ValueError where another one does."""
    if "predict" in vars(regressor):
        raise ValueError(f"regressor: the predict() of this {type(regressor).__name__} was replaced; its own is needed")
    for owner in type(regressor).__mro__:
        defined = [name for name in _PREDICTING if name in vars(owner)]
        if defined and owner.__module__.split(".")[0] != "sklearn":
            raise ValueError(
                f"regressor: {owner.__name__} has its own {defined[0]}(), unknown here; scikit-learn's own is needed"
            )
        if "predict" in defined:
            return owner
    raise ValueError(f"regressor: {type(regressor).__name__} has no predict() of scikit-learn's")


def _read_line(regressor: Any) -> Model:
    """``coef_`` and ``intercept_`` of one output, in any of the shapes that they have."""
    kind = type(regressor).__name__
    if getattr(regressor, "kernel", "linear") != "linear":
        raise ValueError(f"regressor: {kind} with the kernel {regressor.kernel} is not linear; kernel='linear' is")
    if not hasattr(regressor, "coef_"):
        raise ValueError(f"regressor: {kind} is not fitted; call fit() first")
    _refuse_link(regressor, getattr(regressor, "_base_loss", None))
    given = regressor.coef_.toarray() if hasattr(regressor.coef_, "toarray") else regressor.coef_
    coefficients, intercept = np.asarray(given, dtype=np.float64), np.ravel(regressor.intercept_)
    outputs = 1 if coefficients.ndim == 1 else len(coefficients)
    if max(outputs, len(intercept)) != 1:
        raise ValueError(f"regressor: {kind} predicts {max(outputs, len(intercept))} outputs; one is needed")
    coefficients = coefficients.ravel()
    return Model(len(coefficients), intercept=float(intercept[0]), coefficients=coefficients)


def _read_tree(tree: Any) -> Model:
    """A ``tree_``: leaves are the nodes without children."""
    left, right = (np.asarray(side, dtype=np.int64) for side in (tree.children_left, tree.children_right))
    leaf, own = left < 0, np.arange(len(left))
    nodes = Tree(
        feature=np.where(leaf, -1, np.asarray(tree.feature, dtype=np.int64)),
        threshold=np.where(leaf, 0.0, widen(np.asarray(tree.threshold, dtype=np.float64))),
        left=np.where(leaf, own, left),
        right=np.where(leaf, own, right),
        value=np.asarray(tree.value, dtype=np.float64).reshape(len(left), -1)[:, 0],
    )
    return Model(int(tree.n_features), (nodes,), (1.0,))


def _refuse_link(regressor: Any, loss: Any) -> None:
    """Raise ValueError where the prediction is not the sum itself."""
    link = type(getattr(loss, "link", None)).__name__
    if link not in ("NoneType", "IdentityLink"):
        raise ValueError(f"regressor: {type(regressor).__name__} with a {link} predicts no sum; the identity is needed")


def _read_histogram_boosting(regressor: Any) -> Model:
    """HistGradientBoosting: the baseline plus trees whose leaves hold the learning rate; features unrounded."""
    _refuse_link(regressor, regressor._loss)
    if getattr(regressor, "_preprocessor", None) is not None:
        raise ValueError("regressor: was fitted with categorical features, which are not supported; numbers are")
    features = int(regressor.n_features_in_)
    baseline = float(np.ravel(regressor._baseline_prediction)[0])
    parts = [(1.0, Model(features, intercept=baseline))]
    for (predictor,) in regressor._predictors:
        nodes = predictor.nodes
        leaf, own = nodes["is_leaf"].astype(np.bool_), np.arange(len(nodes))
        tree = Tree(
            feature=np.where(leaf, -1, nodes["feature_idx"]),
            threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
            left=np.where(leaf, own, nodes["left"].astype(np.int64)),
            right=np.where(leaf, own, nodes["right"].astype(np.int64)),
            value=np.where(leaf, nodes["value"], 0.0),
        )
        parts.append((1.0, Model(features, (tree,), (1.0,))))
    return _sum_of(features, parts)


def _read_mean(regressor: Any, features: int) -> Model:
    """A forest, bagging or voting: the mean of its members, weighted where the user said so."""
    members = regressor.estimators_
    weights = getattr(regressor, "_weights_not_none", None)
    shares = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=np.float64)
    subsets = getattr(regressor, "estimators_features_", [None] * len(members))
    models = [_renamed(read_regressor(one), subset, features) for one, subset in zip(members, subsets, strict=True)]
    return _sum_of(features, list(zip((shares / shares.sum()).tolist(), models, strict=True)))


def _read_boosting(regressor: Any, features: int) -> Model:
    """Gradient boosting: the initial prediction plus learning rate times every tree."""
    rate = float(regressor.learning_rate)
    parts = [(rate, read_regressor(stage)) for stage in np.asarray(regressor.estimators_).ravel()]
    initial = regressor.init_
    if hasattr(initial, "constant_"):
        parts.append((1.0, Model(features, intercept=float(np.ravel(initial.constant_)[0]))))
    elif not isinstance(initial, str):  # the only name is "zero"
        raise ValueError(f"regressor: boosting on top of {type(initial).__name__} is not supported; on a constant is")
    return _sum_of(features, parts)


def _read_adaboost(regressor: Any, features: int) -> Model:
    """AdaBoost.R2 of single trees."""
    members = [read_regressor(estimator) for estimator in regressor.estimators_]
    if any(len(model.trees) != 1 or model.coefficients is not None for model in members):
        raise ValueError("regressor: AdaBoost of other models than single trees is not supported")
    weights = tuple(float(weight) for weight in regressor.estimator_weights_[: len(members)])
    return Model(features, tuple(model.trees[0] for model in members), weights, median=True)


def _renamed(model: Model, subset: ArrayLike | None, features: int) -> Model:
    """A member that saw only the features ``subset``, speaking of all of them."""
    if subset is None:
        return model
    names = np.asarray(subset, dtype=np.int64)
    coefficients = np.zeros(features)
    if model.coefficients is not None:
        np.add.at(coefficients, names, model.coefficients)
    trees = tuple(
        Tree(
            np.where(tree.feature < 0, -1, names[np.maximum(tree.feature, 0)]),
            tree.threshold,
            tree.left,
            tree.right,
            tree.value,
        )
        for tree in model.trees
    )
    return Model(features, trees, model.weights, model.intercept, coefficients, model.median)
