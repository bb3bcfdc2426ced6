"""The regressors that may become the predictor, and the figures by which they are compared.

The paper compares six regressors by four figures (its Table IV). With n records, F features, p = F + 1 parameters
and the residuals' mean square MSE:

    R^2 = 1 - MSE / var(y)        adjusted R^2 = 1 - (1 - R^2) (n - 1) / (n - F - 1)
    AIC = n ln(MSE) + 2 p         BIC = n ln(MSE) + p ln(n)

(The paper's own figures satisfy these with F = 16 and n = 396.) A seventh, ``monotone_boosting``, knows which way
each variable acts: more pruning, a narrower codec, a longer stride or more noise never help. That takes from the
noise of some hundred records most of what an optimizer could harvest: no strategy is predicted to be better than
one that is larger in every way, so a single lucky record cannot open a hole in the accuracy bound. An eighth,
``distilled_boosting``, is as monotone, and has learned from one that sees sums and products of the variables as well
(:mod:`coinfer_ray.distillation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coinfer_ray.distillation import DistilledBoosting
from coinfer_ray.models.layers import check_name
from coinfer_ray.space import SearchSpace

PAPER_REGRESSORS = ("gradient_boosting", "bagging", "adaboost", "random_forest", "decision_tree", "linear_regression")
MONOTONE, DISTILLED = "monotone_boosting", "distilled_boosting"
REGRESSORS = (*PAPER_REGRESSORS, MONOTONE, DISTILLED)
ORDERED = (MONOTONE, DISTILLED)  # those that never predict more for less
SNR_FEATURE = "snr_db"


@dataclass(frozen=True)
class Metrics:
    """The paper's four figures for one regressor (formulas: see the module).

    ``aic`` and ``bic`` are None for one that repeats every record exactly, as an unpruned tree does in sample:
    the logarithm of its error has no value.
    """

    mse: float
    adjusted_r2: float
    aic: float | None
    bic: float | None


def metrics(y: np.ndarray, predicted: np.ndarray, features: int) -> Metrics:
    """The four figures of a regressor that predicts ``predicted`` (n,) for ``y`` (n,) from that many features."""
    n, parameters = len(y), features + 1
    mse = float(np.mean((y - predicted) ** 2))
    exact = mse <= np.finfo(np.float64).eps ** 2  # nothing but rounding
    return Metrics(
        mse=mse,
        adjusted_r2=adjusted_r2(mse, y, features),
        aic=None if exact else n * float(np.log(mse)) + 2 * parameters,
        bic=None if exact else n * float(np.log(mse)) + parameters * float(np.log(n)),
    )


def adjusted_r2(mse: float, y: np.ndarray, features: int) -> float:
    """Adjusted R^2 of a mean square error over accuracies ``y`` (n,), seen through that many features."""
    n, variance = len(y), float(np.var(y))
    unexplained = mse / variance if variance > 0 else 1.0
    return 1 - unexplained * (n - 1) / (n - features - 1)


def directions(feature_names: Sequence[str]) -> list[int]:
    """How each feature acts on accuracy: 1 never harms, -1 never helps, 0 either.

    Cuts and kernel sizes have no direction: a later cut or a wider kernel may do either.
    """
    signs = []
    for name in feature_names:
        group, _, parameter = name.partition(".")
        if group == "sparsity" or parameter.startswith("stride"):
            signs.append(-1)
        elif name == SNR_FEATURE or parameter.startswith(("ratio", "width")):
            signs.append(1)
        else:
            signs.append(0)
    return signs


def build_regressor(name: str, seed: int, space: SearchSpace, *, noisy: bool = False) -> Any:
    """An unfitted regressor, with scikit-learn's ``fit`` and ``predict``, by its name in :data:`REGRESSORS`.

    It is for the features of ``space``, and with ``noisy`` the SNR behind them.

    The two boosted ones keep the paper's depth of 3. Gradient boosting takes more and smaller steps on random halves
    of records and features, which suits some hundred records that carry the noise of a test set; for the monotone
    one a hundred steps were as good out of fold as three or six hundred smaller ones, and every search pays for each
    tree. The others have scikit-learn's defaults.
    """
    from sklearn import ensemble, linear_model, tree

    signs = directions([*space.feature_names, SNR_FEATURE] if noisy else space.feature_names)
    if name == MONOTONE:
        return _monotone(signs, seed)
    if name == DISTILLED:
        return DistilledBoosting(space, signs, _monotone, seed)
    if name == "gradient_boosting":
        return ensemble.GradientBoostingRegressor(
            n_estimators=300, learning_rate=0.05, max_depth=3, subsample=0.5, max_features=0.5, random_state=seed
        )
    if name == "bagging":
        return ensemble.BaggingRegressor(n_estimators=100, random_state=seed)
    if name == "adaboost":
        return ensemble.AdaBoostRegressor(random_state=seed)
    if name == "random_forest":
        return ensemble.RandomForestRegressor(n_estimators=100, random_state=seed)
    if name == "decision_tree":
        return tree.DecisionTreeRegressor(random_state=seed)
    check_name("regressor", name, REGRESSORS)
    return linear_model.LinearRegression()


def _monotone(signs: list[int], seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        max_iter=100,
        learning_rate=0.1,
        max_depth=3,
        min_samples_leaf=3,
        max_features=0.5,
        early_stopping=False,
        monotonic_cst=signs,
        random_state=seed,
    )


def one_thread() -> AbstractContextManager[Any]:
    """Within, regressors are fitted by one thread: for so few records that is faster, and the same on any machine."""
    from sklearn import ensemble  # noqa: F401 (only libraries that are loaded already can be limited)
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="openmp")
    return limits


def strategy_groups(x: np.ndarray) -> NDArray[np.int64]:
    """(n,) which strategy each row of ``x`` (n, F) is, numbered from 0: rows that repeat one share its number."""
    _, groups = np.unique(x, axis=0, return_inverse=True)
    return np.asarray(groups, dtype=np.int64).reshape(-1)


def assign_folds(groups: np.ndarray, folds: int, seed: int) -> NDArray[np.int64]:
    """(n,) the fold that holds each row out: all rows of a group (n,) together, groups at random."""
    count = int(groups.max()) + 1
    fold = np.empty(count, dtype=np.int64)
    fold[np.random.default_rng(seed).permutation(count)] = np.arange(count) % folds
    assigned: NDArray[np.int64] = fold[groups]
    return assigned


def out_of_fold(build: Callable[[], Any], x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> NDArray[np.float64]:
    """(n,) predictions of every row by a regressor of ``build`` that was fitted to the other folds alone."""
    predicted = np.empty(len(y))
    for number in np.unique(fold):
        held = fold == number
        predicted[held] = build().fit(x[~held], y[~held]).predict(x[held])
    return predicted


def noise_floor(groups: np.ndarray, y: np.ndarray) -> tuple[float, int] | None:
    """Spread of accuracies ``y`` (n,) between trainings of one strategy: no predictor can err less.

    Returns the pooled standard deviation over the strategies (``groups``, n) that were trained more than once, and
    their number; None where none was.
    """
    sizes = np.bincount(groups)
    freedom = int((sizes - 1).sum())
    if not freedom:
        return None
    means = np.bincount(groups, weights=y) / sizes
    return float(np.sqrt(((y - means[groups]) ** 2).sum() / freedom)), int((sizes > 1).sum())


def binomial_error(y: np.ndarray, images: int) -> float:
    """Root mean square of the standard errors with which so many images measure the accuracies ``y`` (n,)."""
    return float(np.sqrt(np.mean(y * (1 - y)) / images))
