"""What the predictor's figures and bounds are worth: the choices of regressors.py and calibration.py, measured.

    python benchmarks/bench_predictor.py [RECORDS ...] [--splits 20] [--repetitions 3] [--confidence 0.95]

Three tables, by default of the shipped AlexNet records. First the regressors: R^2 out of fold over repeated ten-fold
cross-validations. Then the default's from growing parts of the strategies, tried on a tenth that is in none of
them: what more records would bring. Last the ways to a lower bound, over repeated random splits: fitted and
calibrated on four fifths of the strategies, tried on the rest that neither has seen. A bound should hold for
the share that was asked for, and let pass as many as it can of the strategies that really lose little:

    constant   one margin for all: the conformal quantile of the residuals
    relative   a margin that grows with the predicted loss (coinfer_ray.predictor.calibration): the one that is used
    spread     a margin in units of a second ensemble, fitted to the absolute residuals
    quantile   a monotone ensemble fitted to a low quantile, shifted by a conformal margin (CQR)
    log loss   a monotone ensemble fitted to the logarithm of the loss, shifted
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.predictor.calibration import Calibration, resolution_of
from coinfer_ray.predictor.fit import DEFAULT_REGRESSOR, record_features, regressor_of
from coinfer_ray.predictor.metrics import adjusted_r2, assign_folds, out_of_fold, strategy_groups
from coinfer_ray.predictor.regressors import MONOTONE, REGRESSORS, directions, one_thread
from coinfer_ray.records.store import Records, read_records, shipped_records

FOLDS = 10
HELD_OUT = 0.2
MAX_LOSSES = (0.02, 0.05)
PARTS = (0.25, 0.5, 0.75, 0.9)  # of the strategies


class Data(NamedTuple):
    """Records as arrays: features (n, F), accuracies (n,), the strategies' numbers (n,)."""

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    records: Records  # of which these rows are all or some
    names: tuple[str, ...]
    base: float
    resolution: float

    def take(self, rows: np.ndarray) -> Data:
        return self._replace(x=self.x[rows], y=self.y[rows], groups=strategy_groups(self.x[rows]))

    def monotone(self, seed: int, **parameters: Any) -> Callable[[], Any]:
        """Makes monotone ensembles with those parameters in place of their own."""
        build = regressor_of(self.records, MONOTONE, seed)
        return lambda: build().set_params(**parameters)


class Point(NamedTuple):
    """A regressor's predictions out of fold (n,), and of new strategies (m,) after a fit to all."""

    inside: np.ndarray
    predicted: np.ndarray


# From the calibrating records, the point predictions, the new strategies' features (m, F), the confidence and a seed
# to lower bounds (m,).
Bound = Callable[[Data, Point, np.ndarray, float, int], np.ndarray]


def read(paths: list[Path]) -> Data:
    records = read_records(paths)
    x, names = record_features(records)
    y, base = records.accuracy(), records.base_accuracy()
    resolution = resolution_of(base, records.settings.get("validation_images"))
    return Data(x, y, strategy_groups(x), records, names, base, resolution)


def quantile(scores: np.ndarray, data: Data, confidence: float) -> float:
    """The conformal quantile of scores (n,), every strategy counted once."""
    order, sizes = np.argsort(scores), np.bincount(data.groups)
    shares = np.cumsum(1 / sizes[data.groups][order]) / (len(sizes) + 1)
    return float(scores[order][min(int(np.searchsorted(shares, confidence)), len(scores) - 1)])


def growing_with_the_loss(data: Data) -> list[int]:
    """The directions of a target that is large where accuracy is small."""
    return [-sign for sign in directions(data.names)]


def predictions(build: Callable[[], Any], data: Data, target: np.ndarray, x: np.ndarray, seed: int) -> Point:
    """Predictions of ``target`` (n,) out of fold, and for ``x`` (m, F)."""
    inside = out_of_fold(build, data.x, target, assign_folds(data.groups, FOLDS, seed))
    return Point(inside, build().fit(data.x, target).predict(x))


def constant(data: Data, point: Point, x: np.ndarray, confidence: float, seed: int) -> np.ndarray:
    return point.predicted - quantile(point.inside - data.y, data, confidence)


def relative(data: Data, point: Point, x: np.ndarray, confidence: float, seed: int) -> np.ndarray:
    calibration = Calibration.of(data.y, point.inside, data.groups, data.base, data.resolution)
    return calibration.bound(point.predicted, confidence)


def spread(data: Data, point: Point, x: np.ndarray, confidence: float, seed: int) -> np.ndarray:
    regressor = data.monotone(seed, monotonic_cst=growing_with_the_loss(data))
    scale = predictions(regressor, data, np.abs(point.inside - data.y), x, seed + 1)
    known, unknown = (np.maximum(each, 0) + data.resolution for each in scale)
    bound: np.ndarray = point.predicted - quantile((point.inside - data.y) / known, data, confidence) * unknown
    return bound


def low_quantile(data: Data, point: Point, x: np.ndarray, confidence: float, seed: int) -> np.ndarray:
    regressor = data.monotone(seed, loss="quantile", quantile=1 - confidence)
    low = predictions(regressor, data, data.y, x, seed)
    return low.predicted - quantile(low.inside - data.y, data, confidence)


def log_loss(data: Data, point: Point, x: np.ndarray, confidence: float, seed: int) -> np.ndarray:
    target = np.log(np.maximum(data.base - data.y, -data.resolution / 2) + data.resolution)
    regressor = data.monotone(seed, monotonic_cst=growing_with_the_loss(data))
    loss = predictions(regressor, data, target, x, seed)
    most = np.exp(loss.predicted + quantile(target - loss.inside, data, confidence))
    bound: np.ndarray = data.base + data.resolution - most
    return bound


BOUNDS: dict[str, Bound] = {
    "constant": constant,
    "relative": relative,
    "spread": spread,
    "quantile": low_quantile,
    "log loss": log_loss,
}


def compare_regressors(data: Data, repetitions: int) -> None:
    print(
        f"\n{'regressor':20} {'R^2':>15} {'adjusted':>9} {'rmse':>8} {'rmse, predicted within 0.05':>28} {'s a fit':>8}"
    )
    for name in REGRESSORS:
        figures, seconds = [], 0.0
        for seed in range(repetitions):
            began = time.process_time()
            fold = assign_folds(data.groups, FOLDS, seed)
            predicted = out_of_fold(regressor_of(data.records, name, seed), data.x, data.y, fold)
            seconds += time.process_time() - began
            error, near = data.y - predicted, predicted >= data.base - 0.05
            mse = np.mean(error**2)
            close = np.sqrt(np.mean(error[near] ** 2)) if near.any() else np.nan  # none predicted so high
            figures.append((1 - mse / data.y.var(), adjusted_r2(float(mse), data.y, len(data.names)), mse**0.5, close))
        (r2, adjusted, rmse, close), deviation = np.mean(figures, axis=0), np.std(figures, axis=0)[0]
        each = seconds / (repetitions * FOLDS)
        print(f"{name:20} {r2:7.3f} +-{deviation:.3f} {adjusted:9.3f} {rmse:8.4f} {close:28.4f} {each:8.2f}")


def learn(data: Data, splits: int) -> None:
    """R^2 on the last tenth of the strategies, fitted to growing parts of the others; pooled over the splits."""
    count = int(data.groups.max()) + 1
    print(f"\n{'strategies':>10} {'R^2 on others':>14}")
    for part in PARTS:
        squares, spread = 0.0, 0.0
        for seed in range(splits):
            order = np.random.default_rng(seed).permutation(count)
            known = np.isin(data.groups, order[: round(part * count)])
            away = np.isin(data.groups, order[round(max(PARTS) * count) :])
            fitted = regressor_of(data.records, DEFAULT_REGRESSOR, seed)().fit(data.x[known], data.y[known])
            squares += float(np.sum((data.y[away] - fitted.predict(data.x[away])) ** 2))
            spread += float(np.sum((data.y[away] - data.y.mean()) ** 2))
        print(f"{round(part * count):10} {1 - squares / spread:14.3f}")


def compare_bounds(data: Data, splits: int, confidence: float) -> None:
    covered: dict[str, list[float]] = {name: [] for name in BOUNDS}
    margin: dict[str, list[float]] = {name: [] for name in BOUNDS}
    tally = {name: np.zeros((len(MAX_LOSSES), 3)) for name in BOUNDS}  # really good; let pass; both
    count = int(data.groups.max()) + 1
    for seed in range(splits):
        chosen = np.random.default_rng(seed).permutation(count)[: round(HELD_OUT * count)]
        away = np.isin(data.groups, chosen)
        known, x, y = data.take(~away), data.x[away], data.y[away]
        point = predictions(regressor_of(data.records, DEFAULT_REGRESSOR, seed), known, known.y, x, seed)
        for name, bound in BOUNDS.items():
            lower = bound(known, point, x, confidence, seed)
            covered[name].append(float(np.mean(y >= lower)))
            margin[name].append(float(np.mean(y - lower)))
            for row, loss in zip(tally[name], MAX_LOSSES, strict=True):
                good, passed = y >= data.base - loss, lower >= data.base - loss
                row += good.sum(), passed.sum(), (good & passed).sum()
    held = [f"{word} {loss:g}" for loss in MAX_LOSSES for word in ("passed", "right")]
    print(f"\n{'bound':10} {'covered':>16} {'mean margin':>12}" + "".join(f"{name:>13}" for name in held))
    for name in BOUNDS:
        shares = "".join(
            f"{both / good:13.1%}" + (f"{both / passed:13.1%}" if passed else f"{'-':>13}")
            for good, passed, both in tally[name]
        )
        mean, deviation = np.mean(covered[name]), np.std(covered[name])
        print(f"{name:10} {mean:8.1%} +-{deviation:5.1%} {np.mean(margin[name]):12.4f}{shares}")
    print("covered: held-out records at or above their bound, mean and spread over the splits")
    print("passed L: of those that really lose at most L, the share that the bound lets pass")
    print("right L: of those that it lets pass, the share that really lose at most L")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", type=Path)
    parser.add_argument("--splits", type=positive_int, default=20)
    parser.add_argument("--repetitions", type=positive_int, default=3)
    parser.add_argument("--confidence", type=float, default=0.95)
    arguments = parser.parse_args()
    data = read(arguments.records or [shipped_records("alexnet")])
    print(f"{len(data.y)} records of {int(data.groups.max()) + 1} strategies, base accuracy {data.base:.4f}")
    with one_thread():
        compare_regressors(data, arguments.repetitions)
        learn(data, arguments.splits)
        print(f"\n{arguments.splits} splits, confidence {arguments.confidence}")
        compare_bounds(data, arguments.splits, arguments.confidence)


if __name__ == "__main__":
    run_script(main)
