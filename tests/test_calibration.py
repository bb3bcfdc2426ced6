"""The lower bound: its quantile by hand, its inverse, and its coverage on data where it can be counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinfer_ray.errors import InputError
from coinfer_ray.predictor.calibration import Calibration, held_out_coverage

BASE, RESOLUTION = 0.8, 0.01


def calibrated(scores: list[float], repeats: int = 1) -> Calibration:
    """Records that lose nothing by the prediction, so that a score is the error in units of the resolution."""
    predicted = np.full(len(scores) * repeats, BASE)
    y = BASE - RESOLUTION * np.repeat(scores, repeats)
    return Calibration.of(y, predicted, np.repeat(np.arange(len(scores)), repeats), BASE, RESOLUTION)


def quantile(scores: list[float], confidence: float) -> float:
    """By its definition: the ceil(confidence (n + 1))-th smallest score, at least 0."""
    return max(sorted(scores)[math.ceil(round(confidence * (len(scores) + 1), 9)) - 1], 0.0)


@pytest.mark.parametrize("count", [19, 40, 99])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_margin_is_the_conformal_quantile_and_repeats_count_once(
    count: int, confidence: float, repeats: int
) -> None:
    scores = np.random.default_rng(count).permutation(np.linspace(-1, 3, count)).tolist()
    ours = calibrated(scores, repeats).factor(confidence)
    assert ours == pytest.approx(quantile(scores, confidence), abs=1e-9)


def test_a_confidence_that_so_few_records_cannot_promise_is_refused() -> None:
    scores = list(map(float, range(18)))
    with pytest.raises(InputError, match=r"needs at least 19 trained strategies.*ask for 0\.9473 or less") as error:
        calibrated(scores).factor(0.95)
    assert "\n" not in str(error.value)
    assert calibrated(scores).factor(0.9473) == pytest.approx(17)
    for confidence in (0.0, 1.0, 95.0, -0.1, math.nan):
        with pytest.raises(InputError, match="is a probability"):
            calibrated(scores).factor(confidence)


def test_the_margin_grows_with_the_predicted_loss_and_is_never_a_gain() -> None:
    bound = calibrated([0.5] * 30).bound(np.array([0.85, 0.8, 0.7, 0.5]), 0.9)
    np.testing.assert_allclose(bound, [0.85 - 0.005, 0.8 - 0.005, 0.7 - 0.055, 0.5 - 0.155])
    modest = calibrated([-0.5] * 30)  # every record better than predicted
    np.testing.assert_array_equal(modest.bound(np.array([0.6, 0.9]), 0.9), [0.6, 0.9])


@given(
    q=st.floats(0, 5),
    floor=st.floats(-0.5, 1.2),
    predicted=st.floats(0, 1),
)
def test_a_confidence_is_a_stricter_floor(q: float, floor: float, predicted: float) -> None:
    calibration = calibrated([q] * 20)
    required = calibration.required(floor, 0.9)
    assert required >= floor - 1e-12
    assert calibration.bound(required, 0.9) == pytest.approx(floor, abs=1e-9)
    if abs(predicted - required) > 1e-9:
        assert (calibration.bound(predicted, 0.9) >= floor) == (predicted > required)


def test_bounds_hold_for_the_share_that_was_asked_for() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(100):
        predicted = rng.uniform(0.2, BASE, 299)
        y = predicted - rng.standard_t(3, 299) * 0.3 * (RESOLUTION + BASE - predicted)
        known, new = np.arange(299) < 99, np.arange(299) >= 99
        calibration = Calibration.of(y[known], predicted[known], np.arange(99), BASE, RESOLUTION)
        covered.append(np.mean(y[new] >= calibration.bound(predicted[new], 0.95)))
    assert 0.945 <= np.mean(covered) <= 0.955  # 95 of 100 by symmetry; the mean of the splits errs by 0.002


def test_coverage_is_counted_on_records_that_the_bound_has_not_seen() -> None:
    # Four folds; in the last one every prediction is a whole point too high, elsewhere none is.
    fold = np.repeat(np.arange(4), 25)
    predicted = np.full(100, BASE)
    y = np.where(fold == 3, BASE - 0.1, BASE)
    counted = held_out_coverage(y, predicted, np.arange(100), fold, BASE, RESOLUTION, confidence=0.9, max_loss=0.02)
    # The others' scores say nothing of the bad fold, which is not covered; its scores spoil the others' bounds.
    assert counted is not None
    assert counted.covered == 0.75
    assert counted.accepted == 0 and counted.right == 0  # only the bad fold is let through
    few = held_out_coverage(y, predicted, np.arange(100), fold, BASE, RESOLUTION, confidence=0.999, max_loss=0.02)
    assert few is None


def test_arrays_round_trip_and_broken_ones_are_refused() -> None:
    calibration = calibrated([0.1, 2.0, 1.0] * 10)
    arrays = calibration.to_arrays()
    again = Calibration.from_arrays(arrays)
    assert again.factor(0.9) == calibration.factor(0.9)
    assert again.bound(0.7, 0.9) == calibration.bound(0.7, 0.9)
    for name, broken in (
        ("calibration_scores", arrays["calibration_scores"][::-1]),
        ("calibration_scores", arrays["calibration_scores"][:-1]),
        ("calibration_shares", arrays["calibration_shares"] * 2),
        ("calibration_scale", np.array([BASE, 0.0])),
    ):
        with pytest.raises(ValueError, match="calibration"):
            Calibration.from_arrays(arrays | {name: broken})
    with pytest.raises(KeyError, match="calibration_shares"):
        Calibration.from_arrays({name: each for name, each in arrays.items() if name != "calibration_shares"})
