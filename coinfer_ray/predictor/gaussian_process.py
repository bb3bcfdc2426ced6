"""A Gaussian process over features of any scale: smooth where records lie dense, and sure only there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_RECORDS = 1_000  # that it sees: its cost grows with their cube
STEPS = 10  # of its length scales towards the likeliest: to the end they suit the records too well


class GaussianProcess:
    """A Gaussian process with a length scale for each of its features, which it brings to unit variance."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit(self, x: np.ndarray, y: np.ndarray) -> GaussianProcess:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if len(y) > MAX_RECORDS:
            some = np.random.default_rng(self.seed).choice(len(y), MAX_RECORDS, replace=False)
            x, y = x[some], y[some]
        scales = Matern(np.full(x.shape[1], 5.0), (1e-2, 1e5), nu=1.5)
        kernel = ConstantKernel(1.0, (1e-3, 1e4)) * scales + WhiteKernel(0.1, (1e-5, 1e1))
        process = GaussianProcessRegressor(kernel, normalize_y=True, optimizer=_few_steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound: a feature that says nothing
            self._pipeline = make_pipeline(StandardScaler(), process).fit(x, y)
        return self

    def predict(self, x: np.ndarray) -> NDArray[np.float64]:
        """(n,) the mean at features ``x`` (n, F)."""
        return np.concatenate([self._pipeline.predict(part) for part in _parts(x)])

    def predict_with_spread(self, x: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) the mean, and (n,) the standard deviation of one more record, its noise included."""
        found = [self._pipeline.predict(part, return_std=True) for part in _parts(x)]
        means, spreads = zip(*found, strict=True)
        return np.concatenate(means), np.concatenate(spreads)


def _parts(x: np.ndarray) -> list[np.ndarray]:
    """Rows in parts: a kernel of thousands of lessons at once would be tens of megabytes several times over."""
    return np.array_split(x, max(1, -(-len(x) // 2_000)))


def _few_steps(
    objective: Callable[..., Any], start: np.ndarray, bounds: np.ndarray
) -> tuple[NDArray[np.float64], float]:
    """An optimizer for scikit-learn's Gaussian process: L-BFGS-B, cut short."""
    from scipy.optimize import minimize

    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    return found.x, float(found.fun)
