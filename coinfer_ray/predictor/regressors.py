"""The regressors that may become the predictor, and the figures by which they are compared.

The paper compares six regressors by four figures (its Table IV). With n records, F features, p = F + 1 parameters
and the residuals' mean square MSE:

    R^2 = 1 - MSE / var(y)        adjusted R^2 = 1 - (1 - R^2) (n - 1) / (n - F - 1)
    AIC = n ln(MSE) + 2 p         BIC = n ln(MSE) + p ln(n)

(By its Table IV gradient boosting is the best of the six: MSE 4.87e-5, adjusted R^2 0.832, AIC -3900, BIC -3830. Of
the six rows this one satisfies the formulas for AIC and BIC, with F = 16 and n = 396.) A seventh,
``monotone_boosting``, knows which way each variable acts: more pruning, a narrower codec, a longer stride or more
noise never help. That takes from the noise of some hundred records most of what an optimizer could harvest: no
strategy is predicted to be better than one that is larger in every way, so a single lucky record cannot open a hole
in the accuracy bound. An eighth, ``distilled_boosting``, is as monotone, and has learned from one that sees sums and
products of the variables as well (:mod:`coinfer_ray.predictor.distillation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from coinfer_ray.errors import check_name
from coinfer_ray.predictor.distillation import DistilledBoosting
from coinfer_ray.problem.space import SearchSpace

PAPER_REGRESSORS = ("gradient_boosting", "bagging", "adaboost", "random_forest", "decision_tree", "linear_regression")
MONOTONE, DISTILLED = "monotone_boosting", "distilled_boosting"
REGRESSORS = (*PAPER_REGRESSORS, MONOTONE, DISTILLED)
ORDERED = (MONOTONE, DISTILLED)  # those that never predict more for less
SNR_FEATURE = "snr_db"


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

    limits: AbstractContextManager[Any] = threadpool_limits(limits=1)
    return limits
