"""The Accuracy Predictor (the paper's Section III-B): from a strategy to the accuracy it will reach.

Fitted on records of really trained strategies by one of the regressors of :mod:`coinfer_ray.regressors`. What its
predictions are worth stands beside them: the figures out of fold (every record predicted by a regressor that has
not seen its strategy), which alone say what to expect of a new one; the spread between trainings of the same
strategy, below which no predictor can come; and a lower bound for any confidence (:mod:`coinfer_ray.calibration`).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from coinfer_kernels import TreeEnsemble
from numpy.typing import ArrayLike, NDArray

from coinfer_ray import __version__
from coinfer_ray.calibration import Calibration, Coverage, held_out_coverage, resolution_of
from coinfer_ray.distillation import DistilledBoosting
from coinfer_ray.errors import InputError
from coinfer_ray.files import write_whole
from coinfer_ray.models.layers import check_name, load_graph, shipped_graphs
from coinfer_ray.regressors import (
    DISTILLED,
    ORDERED,
    REGRESSORS,
    SNR_FEATURE,
    Metrics,
    adjusted_r2,
    assign_folds,
    binomial_error,
    build_regressor,
    metrics,
    noise_floor,
    one_thread,
    out_of_fold,
    strategy_groups,
)
from coinfer_ray.space import SearchSpace
from coinfer_ray.store import Records, Split, read_records, shipped_records

DEFAULT_REGRESSOR = DISTILLED
FOLDS = 10
COVERAGE_CONFIDENCE, COVERAGE_MAX_LOSS = 0.95, 0.02  # at which a fit reports what its bound is worth
PREDICTOR_FORMAT = 2

RecordsSource: TypeAlias = "Records | str | Path | Sequence[str | Path]"  # or the paths of several of one setting


@dataclass(frozen=True)
class Comparison:
    """One regressor's figures, in sample and out of fold."""

    regressor: str
    in_sample: Metrics
    out_of_fold: Metrics


@dataclass(frozen=True)
class Predictor:
    """A fitted regressor and what it was fitted on.

    ``feature_names`` are the columns that :meth:`predict` takes: the search space's, and ``snr_db`` behind them
    where the records were collected through a noisy channel. ``settings`` are the records' (data, pixels,
    training), ``records_hash`` is a fingerprint of their strategies and accuracies.

    Errors, all in accuracy: ``typical_error`` is the root mean square out of fold, what to expect of a strategy that
    was not trained; ``noise_floor`` the standard deviation between trainings of one strategy with several seeds,
    pooled over the ``repeated`` strategies of which the records hold some (None where there are none);
    ``binomial_error`` what the number of images alone leaves open (None where it is not recorded).
    """

    ensemble: TreeEnsemble
    calibration: Calibration
    regressor: str
    model: str
    input_px: int
    feature_names: tuple[str, ...]
    accuracy: Split
    base_accuracy: float
    typical_error: float
    noise_floor: float | None
    repeated: int
    binomial_error: float | None
    records: int
    records_hash: str
    settings_hash: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def noisy(self) -> bool:
        """Whether the prediction depends on the link's signal-to-noise ratio."""
        return self.feature_names[-1] == SNR_FEATURE

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predicted accuracies (n,) in 0..1 for features ``x`` (n, F); ValueError for other shapes."""
        return self.ensemble.predict(x)

    def lower_bound(self, predicted: ArrayLike, confidence: float) -> NDArray[np.float64]:
        """The accuracy that strategies of those predicted ones reach with that confidence, each.

        Raises:
            InputError: a confidence that is no probability, or higher than these records can promise.
        """
        return self.calibration.bound(predicted, confidence)

    def required_accuracy(self, floor: ArrayLike, confidence: float | None) -> NDArray[np.float64]:
        """The least predicted accuracy whose :meth:`lower_bound` is ``floor``; without a confidence ``floor`` itself.

        Raises:
            InputError: as :meth:`lower_bound`.
        """
        if confidence is None:
            return np.asarray(floor, dtype=np.float64)
        return self.calibration.required(floor, confidence)

    def provenance(self) -> dict[str, Any]:
        """Everything but the ensemble and the calibration's scores, as JSON can say it."""
        fields = {name: value for name, value in vars(self).items() if name not in ("ensemble", "calibration")}
        whole = {
            "feature_names": list(self.feature_names),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }
        return fields | whole

    def save(self, path: str | Path) -> None:
        """Write to ``path`` in NumPy's npz format, without pickle."""
        document = json.dumps({"format": PREDICTOR_FORMAT, **self.provenance()})
        arrays: dict[str, Any] = self.ensemble.to_arrays() | self.calibration.to_arrays()

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # savez would append .npz to a path
                np.savez_compressed(file, metadata=np.array(document), **arrays)

        write_whole(Path(path), write)

    @classmethod
    def load(cls, path: str | Path) -> Predictor:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: no such file, or one that isn't a predictor of this format.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            document = json.loads(str(arrays.pop("metadata")))
            written = document.pop("format")
            if written == PREDICTOR_FORMAT:
                document["feature_names"] = tuple(document["feature_names"])
                ensemble, calibration = TreeEnsemble.from_arrays(arrays), Calibration.from_arrays(arrays)
                return cls(ensemble=ensemble, calibration=calibration, **document)
        except FileNotFoundError:
            raise InputError(f"predictor: {path} does not exist; write one with `coinfer fit --out`") from None
        except Exception as error:  # a foreign file breaks NumPy, zipfile, zlib and json each in its own way
            reason = " ".join(str(error).split())
            raise InputError(f"predictor: {path} is none ({reason}); write it with `coinfer fit --out`") from None
        raise InputError(
            f"predictor: {path} is of format {written}, this version reads {PREDICTOR_FORMAT}; "
            "fit its records again with `coinfer fit --out`"
        )


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
    there is noise, and its order is what the search needs (:mod:`coinfer_ray.regressors`). ``accuracy`` says which
    measured accuracy is fitted. The folds and every regressor's own randomness follow ``seed``; all trainings of a
    strategy are in the same fold.

    Raises:
        InputError: unreadable records, too few of them, or an unknown regressor.
    """
    if regressor is not None:
        check_name("regressor", regressor, REGRESSORS)
    records = _opened(records)
    x, names = record_features(records)
    y, groups = records.accuracy(accuracy), strategy_groups(x)
    least, have = max(folds, len(names) + 2), int(groups.max()) + 1
    if have < least:
        raise InputError(
            f"records: {records.source} has {have} usable strategies; {least} are the least for this table"
        )
    fold = assign_folds(groups, folds, seed)
    rows, held_out = [], {}
    with one_thread():
        for name in REGRESSORS:
            build = regressor_of(records, name, seed)
            held_out[name] = out_of_fold(build, x, y, fold)
            in_sample = build().fit(x, y).predict(x)
            rows.append(Comparison(name, metrics(y, in_sample, len(names)), metrics(y, held_out[name], len(names))))
    chosen = regressor or choose({name: (y - predicted) ** 2 for name, predicted in held_out.items()}, groups)
    predictor = _fitted(records, x, names, chosen, accuracy, seed, groups, held_out[chosen])
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
    records = _opened(records)
    x, names = record_features(records)
    groups = strategy_groups(x)
    if groups.max() == 0:
        raise InputError(f"records: {records.source} holds a single strategy; a predictor needs many")
    fold = assign_folds(groups, folds, seed)
    with one_thread():
        held_out = out_of_fold(regressor_of(records, regressor, seed), x, records.accuracy(accuracy), fold)
    return _fitted(records, x, names, regressor, accuracy, seed, groups, held_out)


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
    x: np.ndarray,
    names: tuple[str, ...],
    regressor: str,
    accuracy: Split,
    seed: int,
    groups: np.ndarray,
    held_out: np.ndarray,
) -> Predictor:
    """The predictor: fitted on all records, with what its predictions ``held_out`` (n,) out of fold say of it."""
    import sklearn

    y, base_accuracy = records.accuracy(accuracy), records.base_accuracy(accuracy)
    images = records.settings.get(f"{accuracy}_images")
    repeats = noise_floor(groups, y)
    with one_thread():
        fitted = regressor_of(records, regressor, seed)().fit(x, y)
    return Predictor(
        ensemble=ensemble_of(fitted),
        calibration=Calibration.of(y, held_out, groups, base_accuracy, resolution_of(base_accuracy, images)),
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
        records_hash=hashlib.sha256(np.column_stack([x, y]).tobytes()).hexdigest()[:16],
        settings_hash=records.info.settings_hash,
        settings=dict(records.settings),
        versions={
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "coinfer-ray": __version__,
        },
    )


def obtain_predictor(
    source: Predictor | RecordsSource | None,
    *,
    model: str,
    input_px: int | None = None,
    regressor: str = DEFAULT_REGRESSOR,
    accuracy: Split = "validation",
) -> Predictor:
    """The predictor for a network: given, loaded, or fitted on the given or the shipped records.

    ``source`` is a predictor, the npz file of one, records, or paths to them; None takes the shipped records of
    that input size (by default the largest that ships). ``regressor`` is for records; a predictor has its own.

    Raises:
        InputError: an unknown model, or a source of another network, another input size or the other accuracy.
    """
    if model not in {name for name, _ in shipped_graphs()}:
        load_graph(model)  # an unknown name ends here, with the nearest ones
    if source is None:
        source = shipped_records(model, input_px)
    if isinstance(source, Predictor):
        predictor = source
    elif isinstance(source, str | Path) and Path(source).suffix == ".npz":
        predictor = Predictor.load(source)
    else:
        records = _opened(source, model)
        _check_input_px(records.source, records.input_px, input_px)
        predictor = fit_predictor(records, regressor=regressor, accuracy=accuracy)
    if predictor.model != model:
        raise InputError(f"predictor: was fitted for {predictor.model}, not for {model}; give one for {model}")
    _check_input_px("the predictor", predictor.input_px, input_px)
    if predictor.accuracy != accuracy:
        raise InputError(
            f"predictor: was fitted to {predictor.accuracy} accuracy, not to {accuracy}; "
            f"give --accuracy {predictor.accuracy}, or records"
        )
    return predictor


def record_features(records: Records) -> tuple[np.ndarray, tuple[str, ...]]:
    """What the predictor sees of the records: (n, F) float64 and the names of the columns.

    Raises:
        InputError: a strategy that the records' network does not have.
    """
    space = SearchSpace(load_graph(records.model, records.input_px))
    x = np.array([space.values(strategy) for strategy in records.strategies])
    snr_db = records.snr_db
    if snr_db is None:
        return x, space.feature_names
    return np.column_stack([x, snr_db]), (*space.feature_names, SNR_FEATURE)


def regressor_of(records: Records, name: str, seed: int) -> Callable[[], Any]:
    """Makes unfitted regressors of that name for :func:`record_features`."""
    space = SearchSpace(load_graph(records.model, records.input_px))
    return partial(build_regressor, name, seed, space, noisy=records.snr_db is not None)


def ensemble_of(fitted: Any) -> TreeEnsemble:
    """The trees of a fitted regressor, for the kernels."""
    return TreeEnsemble.from_sklearn(*(fitted.parts if isinstance(fitted, DistilledBoosting) else [fitted]))


def _opened(records: RecordsSource, model: str | None = None) -> Records:
    return records if isinstance(records, Records) else read_records(records, model=model)


def _check_input_px(what: str, have: int, wanted: int | None) -> None:
    if wanted is not None and have != wanted:
        raise InputError(
            f"records: {what} holds inputs of {have} px, not of {wanted}; give --input-px {have} or other records"
        )
