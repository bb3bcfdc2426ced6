"""How good a regressor is: in sample and out of fold, and the noise that no regressor can see through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coinfer_ray.predictor.regressors import one_thread
from coinfer_ray.runtime.executors.local import allowed_threads

WORTH_PROCESSES = 200  # rows from which the folds are fitted side by side: other processes take seconds to start


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
    """(n,) predictions of every row by a regressor of ``build`` that was fitted to the other folds alone.

    The folds are shared out among this machine's cores where there are rows enough to be worth that; each is fitted by
    one thread, so what comes out is the same.
    """
    from joblib import Parallel, delayed

    numbers = np.unique(fold)
    jobs = min(allowed_threads(), len(numbers)) if len(y) >= WORTH_PROCESSES else 1
    predicted = np.empty(len(y))
    fits = (delayed(_held_out)(build, x, y, fold == number) for number in numbers)
    for number, held_out in zip(numbers, Parallel(n_jobs=jobs)(fits), strict=True):
        predicted[fold == number] = held_out
    return predicted


def _held_out(build: Callable[[], Any], x: np.ndarray, y: np.ndarray, held: np.ndarray) -> NDArray[np.float64]:
    with one_thread():
        predicted: NDArray[np.float64] = build().fit(x[~held], y[~held]).predict(x[held])
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
