"""How far a prediction can be trusted: a one-sided bound by split-conformal calibration.

Asked for a confidence of 0.95, a predicted accuracy mu becomes a lower bound g(mu) with P(true accuracy >= g(mu)) >=
0.95 for a strategy drawn as the records were. Errors grow with the loss - a tenth of a point for a strategy that
hardly touches the network, twenty points for a ruined one - so the margin does as well:

    scale(mu) = r + max(base - mu, 0)        score = (mu_out_of_fold - accuracy) / scale(mu_out_of_fold)
    g(mu)     = mu - q scale(mu)             q: the ceil(confidence (n + 1))-th smallest score, at least 0

with r the standard error of a difference of two accuracies near the base's, each measured on so many images: a loss
below that cannot be told from none. This is the locally weighted score of J. Lei et al., "Distribution-Free
Predictive Inference for Regression", JASA 113 (2018), section 5.2, with the predicted loss in place of a second
regressor: ``benchmarks/bench_predictor.py`` has that one beside it, and others that need more records than there are.
Scores are taken out of fold, as by V. Vovk, "Cross-conformal predictors" (2015), and the predictor is then fitted to
all records. The theorem is about the regressors of the folds; that the whole one keeps to the bound too is measured
(same script). A strategy that was trained several times counts once.

g grows with mu. So "the bound is at least the floor" is "the prediction is at least g^-1(floor)": a confidence is a
stricter floor for the same ensemble, and every solver and every proof works with it unchanged.

The promise is about strategies drawn as the records were. An optimizer's answers are not: it looks for the
strategies whose prediction flatters them most, and few of those keep to the bound. So where a confidence is asked of
an answer, predictions count only if the scores are those of answers (:mod:`coinfer_ray.refine.calibrate`) instead of
records; else the answer is a strategy that was trained, whose measured accuracy, less the margin of a measurement,
keeps to the floor.

What a measured loss errs by is known: network and strategy are measured on the same images, and the records count those
that only one of them gets right (:meth:`coinfer_ray.records.store.Records.losses`). Its normal quantile alone would be
too little: of many measured strategies the cheapest that just holds is the answer, which is often one that was lucky,
and it is shipped as another training and sees other images. By random scenarios and simulated luck :data:`SELECTED`
times the quantile is enough for both (``studies/margin.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coinfer_ray.errors import InputError
from coinfer_ray.scenarios.scenario import check_confidence

RestsOn = Literal["records", "answers"]

SELECTED = 1.75  # times the normal quantile: a measured strategy that is an answer was selected
MEASURED = 0.65  # of r is what a measured loss errs by where the records do not say
UNKNOWN_RESOLUTION = 0.01  # where the records don't say how many images measured an accuracy


def resolution_of(base_accuracy: float, images: int | None) -> float:
    """r, for accuracies measured on so many images (None: not known)."""
    return math.sqrt(2 * base_accuracy * (1 - base_accuracy) / images) if images else UNKNOWN_RESOLUTION


@dataclass(frozen=True, eq=False)
class Calibration:
    """The scores of a predictor's own records (see the module).

    ``rests_on`` says of what: of strategies drawn as the records were, or of an optimizer's answers in scenarios
    drawn at random. ``scores`` (n,) in ascending order; ``shares`` (n,) the share of all strategies or scenarios, one
    unseen among them, whose score is at most that.
    """

    scores: NDArray[np.float64]
    shares: NDArray[np.float64]
    base_accuracy: float
    resolution: float
    rests_on: RestsOn = "records"

    @classmethod
    def of_answers(cls, scores: np.ndarray, base_accuracy: float, resolution: float) -> Calibration:
        """Calibrate on the scores (n,) of random scenarios' answers: the least q from which on each was kept."""
        order = np.sort(np.asarray(scores, dtype=np.float64))
        shares = np.arange(1, len(order) + 1) / (len(order) + 1)
        return cls(order, shares, base_accuracy, resolution, "answers")

    @classmethod
    def of(
        cls, y: np.ndarray, predicted: np.ndarray, groups: np.ndarray, base_accuracy: float, resolution: float
    ) -> Calibration:
        """Calibrate on accuracies ``y`` (n,) and their predictions out of fold; ``groups`` (n,) number strategies."""
        scores = (predicted - y) / _scale(predicted, base_accuracy, resolution)
        _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        order = np.argsort(scores, kind="stable")
        shares = np.cumsum(1 / sizes[number.reshape(-1)][order]) / (len(sizes) + 1)
        return cls(scores[order], shares, base_accuracy, resolution)

    @property
    def highest_confidence(self) -> float:
        """No higher confidence can be had from so many strategies."""
        return float(self.shares[-1])

    def factor(self, confidence: float) -> float:
        """q, the margin in units of the scale.

        Raises:
            InputError: no probability, or more than so few records can promise.
        """
        check_confidence(confidence)
        # A sum of shares may fall short of the very confidence that it stands for by the rounding of its terms.
        position = int(np.searchsorted(self.shares, confidence * (1 - 1e-12)))
        if position == len(self.scores):
            needed = math.ceil(confidence / (1 - confidence) * (1 - 1e-12))
            highest = math.floor(self.highest_confidence * 1e4) / 1e4
            what = "trained strategies" if self.rests_on == "records" else "scenarios whose answers were trained"
            raise InputError(
                f"confidence: {confidence} needs at least {needed} {what}, more than these records hold; "
                f"ask for {highest} or less, or collect more"
            )
        factor = max(float(self.scores[position]), 0.0)
        if not math.isfinite(factor):
            raise InputError(f"confidence: {confidence} was not reached by any margin; ask for less, or for none")
        return factor

    def bound(self, predicted: ArrayLike, confidence: float) -> NDArray[np.float64]:
        """g: the accuracy that is reached with that confidence, for predicted accuracies of any shape."""
        mu = np.asarray(predicted, dtype=np.float64)
        return mu - self.factor(confidence) * _scale(mu, self.base_accuracy, self.resolution)

    def margin(self, error: ArrayLike, confidence: float) -> NDArray[np.float64]:
        """What an accuracy that was measured with a standard ``error`` counts less with that confidence, for errors of
        any shape: the errors times q where it is calibrated on answers, else times :data:`SELECTED` quantiles of the
        normal distribution.

        Raises:
            InputError: a confidence that is no probability, or as :meth:`factor`.
        """
        check_confidence(confidence)
        answers = self.rests_on == "answers"
        q = self.factor(confidence) if answers else SELECTED * max(NormalDist().inv_cdf(confidence), 0.0)
        return q * np.asarray(error, dtype=np.float64)

    @property
    def usual_error(self) -> float:
        """What the loss of a trained strategy errs by (standard deviation) where its records do not say."""
        return MEASURED * self.resolution

    def required(self, floor: ArrayLike, confidence: float) -> NDArray[np.float64]:
        """g^-1: the predicted accuracy whose bound is ``floor``, for floors of any shape."""
        target, q = np.asarray(floor, dtype=np.float64), self.factor(confidence)
        above = target + q * self.resolution
        below = (target + q * (self.resolution + self.base_accuracy)) / (1 + q)
        return np.where(above >= self.base_accuracy, above, below)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "calibration_scores": self.scores,
            "calibration_shares": self.shares,
            "calibration_scale": np.array([self.base_accuracy, self.resolution]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], rests_on: RestsOn = "records") -> Calibration:
        """Rebuild from what :meth:`to_arrays` gave.

        Raises:
            ValueError: arrays that are no calibration.
            KeyError: an array is missing.
        """
        scores, shares = arrays["calibration_scores"], arrays["calibration_shares"]
        base_accuracy, resolution = (float(value) for value in arrays["calibration_scale"])
        if scores.shape != shares.shape or scores.ndim != 1 or not len(scores) or not resolution > 0:
            raise ValueError("its calibration is broken")
        ascending = (scores[1:] >= scores[:-1]).all() and (shares[1:] >= shares[:-1]).all()
        if np.isnan(scores).any() or not ascending or not 0 < shares[-1] < 1:
            raise ValueError("its calibration is not in ascending order")
        return cls(scores, shares, base_accuracy, resolution, rests_on)


@dataclass(frozen=True)
class Coverage:
    """What a bound was worth on records that it had not been calibrated on.

    ``covered``: share of the records whose accuracy is at least the bound. ``accepted``: of the records that really
    lose at most ``max_loss``, the share that the bound lets pass; ``right``: of those that it lets pass, the share
    that really lose no more (None where it lets none pass).
    """

    confidence: float
    covered: float
    max_loss: float
    accepted: float | None
    right: float | None


def held_out_coverage(
    y: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    fold: np.ndarray,
    base_accuracy: float,
    resolution: float,
    confidence: float,
    max_loss: float,
) -> Coverage | None:
    """Each fold bounded by the scores of the others; None where those are too few for the confidence.

    All arrays (n,); ``predicted`` is out of the same folds.
    """
    bound = np.empty(len(y))
    for number in np.unique(fold):
        held = fold == number
        others = Calibration.of(y[~held], predicted[~held], groups[~held], base_accuracy, resolution)
        if others.highest_confidence < confidence:
            return None
        bound[held] = others.bound(predicted[held], confidence)
    good, passed = y >= base_accuracy - max_loss, bound >= base_accuracy - max_loss
    return Coverage(
        confidence=confidence,
        covered=float(np.mean(y >= bound)),
        max_loss=max_loss,
        accepted=float(np.mean(passed[good])) if good.any() else None,
        right=float(np.mean(good[passed])) if passed.any() else None,
    )


def _scale(predicted: NDArray[np.float64], base_accuracy: float, resolution: float) -> NDArray[np.float64]:
    scale: NDArray[np.float64] = resolution + np.maximum(base_accuracy - predicted, 0.0)
    return scale
