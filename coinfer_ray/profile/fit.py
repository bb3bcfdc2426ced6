"""From measured times to :class:`coinfer_ray.problem.layer_times.LayerTimes`: non-negative least squares.

What is minimised is the sum of squared *relative* errors: a layer of 20 us and one of 20 ms count alike. A sixth term,
what a call of the runtime takes whatever it computes, is fitted beside the five and is no part of the times: both
halves pay it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coinfer_ray.errors import InputError, counted
from coinfer_ray.problem.layer_times import NAMES, LayerTimes

LEAST_FITTED, LEAST_HALVES = 20, 4  # measurements, below which nothing is said
FOLDS = 5


@dataclass(frozen=True)
class Measurement:
    """One piece of work: ``terms`` (5,) of what it does, ``flops``, its median time and the spread of its times, the
    range of their middle half over the median."""

    name: str
    part: str
    terms: tuple[float, ...]
    flops: int
    seconds: float
    spread: float


@dataclass(frozen=True)
class Fitted:
    """What was fitted, and how far it is off.

    ``call_s``: a call of the runtime (s). ``flops_per_s``: the best single speed, for comparison. Errors are means of
    the amounts by which predicted over measured differs from 1: of layers and runs that were left out of the fit, of
    halves, which are in none, and of halves by the single speed.
    """

    times: LayerTimes
    call_s: float
    flops_per_s: float
    layer_error: float
    half_error: float
    half_error_of_speed: float


def fit_times(measurements: Sequence[Measurement]) -> Fitted:
    """Fit layers and runs, and judge by those left out and by halves.

    Raises:
        InputError: too few measurements.
    """
    inside = [each for each in measurements if each.part in ("layer", "run")]
    halves = [each for each in measurements if each.part == "half"]
    if len(inside) < LEAST_FITTED or len(halves) < LEAST_HALVES:
        raise InputError(
            f"profile: {counted(len(inside), 'layer')} and {counted(len(halves), 'half', 'halves')} are measured, "
            f"{LEAST_FITTED} and {LEAST_HALVES} are needed; allow more --minutes (what is measured is kept)"
        )
    x, y = _design(inside), _seconds(inside)
    coefficients = least_relative(x, y)
    fold = np.arange(len(y)) % FOLDS
    left_out = np.concatenate(
        [_errors(least_relative(x[fold != k], y[fold != k]), x[fold == k], y[fold == k]) for k in range(FOLDS)]
    )
    flops, seconds = np.array([float(each.flops) for each in halves]), _seconds(halves)
    speed = _best_speed(inside)
    return Fitted(
        times=LayerTimes(**dict(zip(NAMES, coefficients[:-1].tolist(), strict=True))),
        call_s=float(coefficients[-1]),
        flops_per_s=speed,
        layer_error=float(left_out.mean()),
        half_error=float(_errors(coefficients, _design(halves), seconds).mean()),
        half_error_of_speed=float(np.abs(flops / speed / seconds - 1).mean()),
    )


def _design(measurements: Sequence[Measurement]) -> np.ndarray:
    """(n, 6) terms, and a one for the call."""
    return np.array([[*each.terms, 1.0] for each in measurements])


def _seconds(measurements: Sequence[Measurement]) -> np.ndarray:
    return np.array([each.seconds for each in measurements])


def least_relative(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(k,) the coefficients from 0 on of x (n, k) with the least squared relative error of y (n,), all above 0."""
    from scipy.optimize import nnls

    relative = x / y[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)  # terms differ by 1e10
    found: np.ndarray = nnls(relative / scale, np.ones(len(y)))[0] / scale
    return found


def _errors(coefficients: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    errors: np.ndarray = np.abs(x @ coefficients / y - 1)
    return errors


def _best_speed(measurements: Sequence[Measurement]) -> float:
    """FLOP/s with the least squared relative error of ``flops / speed``."""
    relative = np.array([each.flops / each.seconds for each in measurements if each.flops])
    return float((relative**2).sum() / relative.sum())
