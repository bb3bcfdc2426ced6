"""The Accuracy Predictor (the paper's Section III-B): from a strategy to the accuracy it will reach.

The paper compares six regressors by four figures (its Table IV). With n records, F features, p = F + 1 parameters
and the residuals' mean square MSE:

    R^2 = 1 - MSE / var(y)        adjusted R^2 = 1 - (1 - R^2) (n - 1) / (n - F - 1)
    AIC = n ln(MSE) + 2 p         BIC = n ln(MSE) + p ln(n)

(The paper's own figures satisfy these with F = 16 and n = 396.) Each is given in sample, as the paper does, and
out of fold: every record predicted by a regressor that has not seen it. The figures in sample flatter a flexible
regressor; only those out of fold say what to expect of a new strategy.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coinfer_kernels import TreeEnsemble

from coinfer_ray import __version__
from coinfer_ray.errors import InputError
from coinfer_ray.files import write_whole
from coinfer_ray.models.layers import check_name, load_graph, shipped_graphs
from coinfer_ray.space import SearchSpace
from coinfer_ray.store import Records, Split, read_records, shipped_records

REGRESSORS = ("gradient_boosting", "bagging", "adaboost", "random_forest", "decision_tree", "linear_regression")
DEFAULT_REGRESSOR = "gradient_boosting"
FOLDS = 10
ERROR_FOLDS = 5  # for the typical error that every prediction carries: half the time of the table's ten
SNR_FEATURE = "snr_db"
PREDICTOR_FORMAT = 1


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
    training), ``records_hash`` is a fingerprint of their strategies and accuracies. ``typical_error`` is the root mean
    square error out of fold, in accuracy: what to expect of a strategy that was not trained.
    """

    ensemble: TreeEnsemble
    regressor: str
    model: str
    input_px: int
    feature_names: tuple[str, ...]
    accuracy: Split
    base_accuracy: float
    typical_error: float
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

    def provenance(self) -> dict[str, Any]:
        """Everything but the ensemble, as JSON can say it."""
        fields = {name: value for name, value in vars(self).items() if name != "ensemble"}
        whole = {
            "feature_names": list(self.feature_names),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }
        return fields | whole

    def save(self, path: str | Path) -> None:
        """Write to ``path`` in NumPy's npz format, without pickle."""
        document = json.dumps({"format": PREDICTOR_FORMAT, **self.provenance()})
        arrays: dict[str, Any] = self.ensemble.to_arrays()

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
            with np.load(path, allow_pickle=False) as arrays:
                document = json.loads(str(arrays["metadata"]))
                if document.pop("format") != PREDICTOR_FORMAT:
                    raise ValueError(f"not of format {PREDICTOR_FORMAT}")
                ensemble = TreeEnsemble.from_arrays({name: arrays[name] for name in arrays.files if name != "metadata"})
            document["feature_names"] = tuple(document["feature_names"])
            return cls(ensemble=ensemble, **document)
        except FileNotFoundError:
            raise InputError(f"predictor: {path} does not exist; write one with `coinfer fit --out`") from None
        except Exception as error:  # a foreign file breaks NumPy, zipfile, zlib and json each in its own way
            reason = " ".join(str(error).split())
            raise InputError(f"predictor: {path} is none ({reason}); write it with `coinfer fit --out`") from None


@dataclass(frozen=True)
class FitReport:
    """The regressors' comparison and the chosen one, fitted on all records."""

    comparison: tuple[Comparison, ...]
    predictor: Predictor
    folds: int

    def to_json(self) -> dict[str, Any]:
        return {
            "predictor": self.predictor.provenance(),
            "folds": self.folds,
            "regressors": [asdict(row) for row in self.comparison],
        }


def fit(
    records: Records | str | Path,
    *,
    regressor: str | None = None,
    accuracy: Split = "validation",
    folds: int = FOLDS,
    seed: int = 0,
) -> FitReport:
    """Compare the six regressors on the records and fit one of them.

    ``regressor`` names it; without, the one with the least mean square error out of fold is taken.
    ``accuracy`` says which measured accuracy is fitted. The folds and every regressor's own randomness follow
    ``seed``.

    Raises:
        InputError: unreadable records, too few of them, or an unknown regressor.
    """
    if regressor is not None:
        check_name("regressor", regressor, REGRESSORS)
    records = _opened(records)
    x, names = record_features(records)
    y = records.accuracy(accuracy)
    least = max(folds, len(names) + 2)
    if len(y) < least:
        raise InputError(f"records: {records.source} has {len(y)} usable rows; {least} are the least for this table")
    rows = []
    for name in REGRESSORS:
        in_sample = build_regressor(name, seed).fit(x, y).predict(x)
        rows.append(Comparison(name, metrics(y, in_sample, x.shape[1]), _out_of_fold(name, x, y, folds, seed)))
    chosen = regressor or min(rows, key=lambda row: row.out_of_fold.mse).regressor
    return FitReport(tuple(rows), fit_predictor(records, regressor=chosen, accuracy=accuracy, seed=seed), folds)


def fit_predictor(
    records: Records | str | Path, *, regressor: str = DEFAULT_REGRESSOR, accuracy: Split = "validation", seed: int = 0
) -> Predictor:
    """Fit one regressor on all records, without the comparison.

    Raises:
        InputError: unreadable records, or an unknown regressor.
    """
    import sklearn

    check_name("regressor", regressor, REGRESSORS)
    records = _opened(records)
    x, names = record_features(records)
    y = records.accuracy(accuracy)
    fitted = build_regressor(regressor, seed).fit(x, y)
    return Predictor(
        ensemble=TreeEnsemble.from_sklearn(fitted),
        regressor=regressor,
        model=records.model,
        input_px=records.input_px,
        feature_names=names,
        accuracy=accuracy,
        base_accuracy=records.base_accuracy(accuracy),
        typical_error=_out_of_fold(regressor, x, y, min(ERROR_FOLDS, len(y)), seed).mse ** 0.5,
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
    source: Predictor | Records | str | Path | None,
    *,
    model: str,
    input_px: int | None = None,
    regressor: str = DEFAULT_REGRESSOR,
    accuracy: Split = "validation",
) -> Predictor:
    """The predictor for a network: given, loaded, or fitted on the given or the shipped records.

    ``source`` is a predictor, the npz file of one, records, or a path to them; None takes the shipped records of
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


def build_regressor(name: str, seed: int) -> Any:
    """An unfitted scikit-learn regressor by its name in :data:`REGRESSORS`.

    Gradient boosting keeps the paper's depth of 3; more and smaller steps on random halves of records and
    features suit some hundred records that carry the noise of a test set. The others have scikit-learn's defaults.
    """
    from sklearn import ensemble, linear_model, tree

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


def _out_of_fold(name: str, x: np.ndarray, y: np.ndarray, folds: int, seed: int) -> Metrics:
    from sklearn.model_selection import KFold

    predicted = np.empty_like(y)
    for train, held in KFold(folds, shuffle=True, random_state=seed).split(x):
        predicted[held] = build_regressor(name, seed).fit(x[train], y[train]).predict(x[held])
    return metrics(y, predicted, x.shape[1])


def metrics(y: np.ndarray, predicted: np.ndarray, features: int) -> Metrics:
    """The four figures of a regressor that predicts ``predicted`` (n,) for ``y`` (n,) from that many features."""
    n, parameters = len(y), features + 1
    mse, variance = float(np.mean((y - predicted) ** 2)), float(np.var(y))
    unexplained = mse / variance if variance > 0 else 1.0
    exact = mse <= np.finfo(np.float64).eps ** 2  # nothing but rounding
    return Metrics(
        mse=mse,
        adjusted_r2=1 - unexplained * (n - 1) / (n - features - 1),
        aic=None if exact else n * float(np.log(mse)) + 2 * parameters,
        bic=None if exact else n * float(np.log(mse)) + parameters * float(np.log(n)),
    )


def _opened(records: Records | str | Path, model: str | None = None) -> Records:
    return records if isinstance(records, Records) else read_records(records, model=model)


def _check_input_px(what: str, have: int, wanted: int | None) -> None:
    if wanted is not None and have != wanted:
        raise InputError(
            f"records: {what} holds inputs of {have} px, not of {wanted}; give --input-px {have} or other records"
        )
