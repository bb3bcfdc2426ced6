"""The Accuracy Predictor (the paper's Section V-B): from a strategy to the accuracy it will reach.

Fitted on records of really trained strategies by one of the regressors of :mod:`coinfer_ray.predictor.regressors`.
What its predictions are worth stands beside them: the figures out of fold (every record predicted by a regressor that
has not seen its strategy), which alone say what to expect of a new one; the spread between trainings of the same
strategy, below which no predictor can come; and a lower bound for any confidence
(:mod:`coinfer_ray.predictor.calibration`).
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from coinfer_kernels import TreeEnsemble

from coinfer_ray.errors import InputError, check_name, counted
from coinfer_ray.predictor.calibration import Calibration, Coverage, held_out_coverage, resolution_of
from coinfer_ray.predictor.distillation import DistilledBoosting
from coinfer_ray.predictor.measured import Measured
from coinfer_ray.predictor.metrics import (
    Metrics,
    adjusted_r2,
    assign_folds,
    binomial_error,
    metrics,
    noise_floor,
    out_of_fold,
    strategy_groups,
)
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.predictor.regressors import DISTILLED, ORDERED, REGRESSORS, SNR_FEATURE, build_regressor, one_thread
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import FLOAT_BITS
from coinfer_ray.records.store import Records, Split, read_records
from coinfer_ray.version import __version__

DEFAULT_REGRESSOR = DISTILLED
FOLDS = 10
COVERAGE_CONFIDENCE, COVERAGE_MAX_LOSS = 0.95, 0.02  # at which a fit reports what its bound is worth

RecordsSource: TypeAlias = "Records | str | Path | Sequence[str | Path]"  # or the paths of several of one setting


@dataclass(frozen=True)
class Comparison:
    """One regressor's figures, in sample and out of fold."""

    regressor: str
    in_sample: Metrics
    out_of_fold: Metrics


@dataclass(frozen=True)
class FitReport:
    """The regressors' comparison and the chosen one, fitted on all records.

    ``coverage`` says what its bound is worth on records held out of the calibration; None where they are too few.
    ``attainable_r2`` is the adjusted R^2 of a predictor that errs by the noise floor alone; None where that is unknown.
    """

    comparison: tuple[Comparison, ...]
    predictor: Predictor
    coverage: Coverage | None
    attainable_r2: float | None
    folds: int

    def to_json(self) -> dict[str, Any]:
        return {
            "predictor": self.predictor.provenance(),
            "folds": self.folds,
            "regressors": [asdict(row) for row in self.comparison],
            "coverage": None if self.coverage is None else asdict(self.coverage),
            "attainable_r2": self.attainable_r2,
        }


def fit(
    records: RecordsSource,
    *,
    regressor: str | None = None,
    accuracy: Split = "validation",
    folds: int = FOLDS,
    seed: int = 0,
) -> FitReport:
    """Compare the regressors on the records and fit one of them.

    ``regressor`` names it; without, the one with the least mean square error out of fold is taken, or the better of
    the two monotone ones where that is not worse by more than one standard error of the difference: what it gives up
    there is noise, and its order is what the search needs (:mod:`coinfer_ray.predictor.regressors`). ``accuracy`` says
    which measured accuracy is fitted. The folds and every regressor's own randomness follow ``seed``; all trainings of
    a strategy are in the same fold.

    Raises:
        InputError: unreadable records, too few of them, or an unknown regressor.
    """
    if regressor is not None:
        check_name("regressor", regressor, REGRESSORS)
    everything = opened(records)
    records = floats_of(everything)
    x, names = record_features(records)
    y, groups = _targets(records, everything, accuracy), strategy_groups(x)
    check_enough(records, folds)
    fold = assign_folds(groups, folds, seed)
    rows, held_out = [], {}
    with one_thread():
        for name in REGRESSORS:
            build = regressor_of(records, name, seed)
            held_out[name] = out_of_fold(build, x, y, fold)
            in_sample = build().fit(x, y).predict(x)
            rows.append(Comparison(name, metrics(y, in_sample, len(names)), metrics(y, held_out[name], len(names))))
    chosen = regressor or choose({name: (y - predicted) ** 2 for name, predicted in held_out.items()}, groups)
    predictor = _fitted(records, everything, x, names, chosen, accuracy, seed, groups, held_out[chosen])
    scale = predictor.calibration
    coverage = held_out_coverage(
        y,
        held_out[chosen],
        groups,
        fold,
        scale.base_accuracy,
        scale.resolution,
        confidence=COVERAGE_CONFIDENCE,
        max_loss=COVERAGE_MAX_LOSS,
    )
    noise = predictor.noise_floor
    attainable = None if noise is None else adjusted_r2(noise**2, y, len(names))
    return FitReport(tuple(rows), predictor, coverage, attainable, folds)


def fit_predictor(
    records: RecordsSource,
    *,
    regressor: str = DEFAULT_REGRESSOR,
    accuracy: Split = "validation",
    folds: int = FOLDS,
    seed: int = 0,
) -> Predictor:
    """Fit one regressor on all records, without the comparison; its errors are measured out of ``folds`` folds.

    Raises:
        InputError: unreadable records, records of a single strategy, or an unknown regressor.
    """
    check_name("regressor", regressor, REGRESSORS)
    everything = opened(records)
    records = floats_of(everything)
    x, names = record_features(records)
    groups = strategy_groups(x)
    if groups.max() == 0:
        raise InputError(f"records: {records.source} holds a single strategy; a predictor needs many")
    fold = assign_folds(groups, folds, seed)
    with one_thread():
        held_out = out_of_fold(regressor_of(records, regressor, seed), x, _targets(records, everything, accuracy), fold)
    return _fitted(records, everything, x, names, regressor, accuracy, seed, groups, held_out)


def check_enough(records: Records, folds: int = FOLDS) -> None:
    """Raise InputError unless the records hold more strategies than a line through their features has parameters."""
    have, least = usable_strategies(records, folds)
    if have < least:
        raise InputError(
            f"records: {records.source} has {counted(have, 'usable strategy', 'usable strategies')}; {least} are the "
            "least to fit a predictor to"
        )


def usable_strategies(records: Records, folds: int = FOLDS) -> tuple[int, int]:
    """How many strategies of the records a predictor can be fitted to, and how many are the least for that."""
    x, names = record_features(floats_of(records))
    return len(np.unique(x, axis=0)), max(folds, len(names) + 2)


def choose(squared_errors: Mapping[str, np.ndarray], groups: np.ndarray) -> str:
    """The regressor to take by squared errors (n,) out of fold (rule: :func:`fit`)."""
    best, ordered = [
        min(names, key=lambda name: float(squared_errors[name].mean())) for names in (squared_errors, ORDERED)
    ]
    sizes = np.bincount(groups)
    worse = np.bincount(groups, weights=squared_errors[ordered] - squared_errors[best]) / sizes
    noise = worse.std(ddof=1) / np.sqrt(len(sizes))
    return ordered if worse.mean() <= noise else best


def _fitted(
    records: Records,
    everything: Records,
    x: np.ndarray,
    names: tuple[str, ...],
    regressor: str,
    accuracy: Split,
    seed: int,
    groups: np.ndarray,
    held_out: np.ndarray,
) -> Predictor:
    """The predictor: fitted on all records of floats, with what its predictions ``held_out`` (n,) out of fold say of
    it; the strategies of ``everything`` are its measured ones."""
    import sklearn

    y, base_accuracy = _targets(records, everything, accuracy), everything.base_accuracy(accuracy)
    images = records.settings.get(f"{accuracy}_images")
    repeats = noise_floor(groups, y)
    with one_thread():
        fitted = regressor_of(records, regressor, seed)().fit(x, y)
    return Predictor(
        ensemble=ensemble_of(fitted),
        calibration=Calibration.of(y, held_out, groups, base_accuracy, resolution_of(base_accuracy, images)),
        measured=measured_of(everything, accuracy),
        regressor=regressor,
        model=records.model,
        input_px=records.input_px,
        feature_names=names,
        accuracy=accuracy,
        base_accuracy=base_accuracy,
        typical_error=float(np.sqrt(np.mean((y - held_out) ** 2))),
        noise_floor=None if repeats is None else repeats[0],
        repeated=0 if repeats is None else repeats[1],
        binomial_error=binomial_error(y, images) if images else None,
        records=len(y),
        records_hash=records_hash(x, y),
        settings_hash=records.info.settings_hash,
        settings=dict(records.settings),
        graph=records.info.graph,
        versions={
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "coinfer-ray": __version__,
        },
    )


def _targets(records: Records, everything: Records, accuracy: Split) -> np.ndarray:
    """(n,) the accuracies of some of the records, beside the base network of all of them."""
    return records.accuracy(accuracy, everything.base_accuracy(accuracy))


def measured_of(records: Records, accuracy: Split, base: float | None = None) -> Measured:
    """What the records say of the strategies that were trained, each as the mean of its trainings over such a link,
    beside a ``base`` network of that accuracy (:meth:`Records.accuracy`)."""
    x, bits = _variables(records), records.feature_bits
    snr_db = np.full(len(x), np.nan) if records.snr_db is None else records.snr_db
    groups = strategy_groups(np.column_stack([x, bits, np.nan_to_num(snr_db, nan=np.inf)]))
    _, error = records.losses(accuracy)
    return Measured.of(x, records.accuracy(accuracy, base), groups, bits, records.costs()[:, 2], snr_db, error)


def floats_of(records: Records) -> Records:
    """The records whose feature crosses as floats: those that the predictor learns from, which sees no bits.

    Of records of a noisy channel those that say its ratio; the others, whose feature crosses no link, it leaves out.

    Raises:
        InputError: there are none.
    """
    floats = records.feature_bits == FLOAT_BITS
    if records.snr_db is not None:
        floats &= ~np.isnan(records.snr_db)
    if not floats.any():
        raise InputError(f"records: {records.source} holds quantised features alone; give records of floats with them")
    return records if floats.all() else records.where(floats)


def record_features(records: Records) -> tuple[np.ndarray, tuple[str, ...]]:
    """What the predictor sees of the records: (n, F) float64 and the names of the columns.

    Raises:
        InputError: a strategy that the records' network does not have.
    """
    x, names, snr_db = _variables(records), SearchSpace(records.graph).feature_names, records.snr_db
    if snr_db is None:
        return x, names
    return np.column_stack([x, snr_db]), (*names, SNR_FEATURE)


def _variables(records: Records) -> np.ndarray:
    """(n, V) the values of the strategies' variables."""
    space = SearchSpace(records.graph)
    return np.array([space.values(strategy) for strategy in records.strategies])


def records_hash(x: np.ndarray, y: np.ndarray) -> str:
    """Fingerprint of what a predictor is fitted to: features ``x`` (n, F) and accuracies ``y`` (n,)."""
    return hashlib.sha256(np.column_stack([x, y]).tobytes()).hexdigest()[:16]


def regressor_of(records: Records, name: str, seed: int) -> Callable[[], Any]:
    """Makes unfitted regressors of that name for :func:`record_features`."""
    space = SearchSpace(records.graph)
    return partial(build_regressor, name, seed, space, noisy=records.snr_db is not None)


def ensemble_of(fitted: Any) -> TreeEnsemble:
    """The trees of a fitted regressor, for the kernels."""
    return TreeEnsemble.from_sklearn(*(fitted.parts if isinstance(fitted, DistilledBoosting) else [fitted]))


def opened(records: RecordsSource, model: str | None = None) -> Records:
    """Records as they are, or read from their path or paths (:func:`coinfer_ray.records.store.read_records`)."""
    return records if isinstance(records, Records) else read_records(records, model=model)
