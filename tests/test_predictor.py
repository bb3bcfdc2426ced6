"""The regressors' comparison, and the predictor's file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from coinfer_ray.errors import InputError
from coinfer_ray.predictor import (
    REGRESSORS,
    SNR_FEATURE,
    Predictor,
    build_regressor,
    fit,
    fit_predictor,
    metrics,
    obtain_predictor,
    record_features,
)
from coinfer_ray.store import read_records
from tests.synthetic import BASE_TEST, BASE_VALIDATION, write_synthetic_records


@pytest.fixture(scope="module")
def records_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet-64px.parquet", count=120)


@pytest.fixture(scope="module")
def predictor(records_path: Path) -> Predictor:
    return fit_predictor(records_path)


def test_metrics_give_the_papers_own_figures() -> None:
    # Its Table IV: MSE 4.87e-5, adjusted R^2 0.832, AIC -3900, BIC -3830; 16 variables and 396 records fit them.
    n, features, mse, adjusted = 396, 16, 4.87e-5, 0.832
    unexplained = (1 - adjusted) * (n - features - 1) / (n - 1)
    signs = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    y = math.sqrt(mse / unexplained) * signs
    figures = metrics(y, y - math.sqrt(mse) * np.roll(signs, 1), features)
    assert figures.mse == pytest.approx(mse)
    assert figures.adjusted_r2 == pytest.approx(adjusted)
    assert figures.aic == pytest.approx(-3900, abs=2)
    assert figures.bic == pytest.approx(-3830, abs=2)


def test_exact_repetition_has_no_information_criterion() -> None:
    y = np.linspace(0.5, 0.8, 40)
    figures = metrics(y, y, 3)
    assert (figures.mse, figures.adjusted_r2, figures.aic, figures.bic) == (0.0, 1.0, None, None)


def test_comparison_tells_memory_from_prediction(records_path: Path) -> None:
    report = fit(records_path, folds=4)
    assert tuple(row.regressor for row in report.comparison) == REGRESSORS
    figures = {row.regressor: row for row in report.comparison}
    tree = figures["decision_tree"]
    assert tree.in_sample.mse == 0 and tree.out_of_fold.mse > 1e-4
    best = min(report.comparison, key=lambda row: row.out_of_fold.mse)
    assert report.predictor.regressor == best.regressor
    assert best.out_of_fold.adjusted_r2 > 0.8
    assert report.to_json() == json.loads(json.dumps(report.to_json(), allow_nan=False))


def test_out_of_fold_rows_are_predicted_by_regressors_that_never_saw_them(tmp_path: Path) -> None:
    # One record far off the others: seen, a tree repeats it; unseen, no tree can reach it.
    path = write_synthetic_records(tmp_path / "alexnet-64px.parquet", count=60)
    records = read_records(path)
    accuracies = records.accuracy().copy()
    accuracies[7] = 40.0
    column = records.table.schema.get_field_index("validation_accuracy")
    table = records.table.set_column(column, "validation_accuracy", [accuracies.tolist()])
    report = fit(type(records)(records.info, table, 0, records.source), folds=4)
    tree = next(row for row in report.comparison if row.regressor == "decision_tree")
    assert tree.in_sample.mse < 1e-12
    assert tree.out_of_fold.mse > 39**2 / 60


def test_predictor_equals_the_regressor_it_was_read_from(records_path: Path) -> None:
    records = read_records(records_path)
    x, names = record_features(records)
    assert len(names) == x.shape[1] == 16
    for name in REGRESSORS:
        regressor = build_regressor(name, 3).fit(x, records.accuracy())
        ours = fit_predictor(records, regressor=name, seed=3)
        np.testing.assert_allclose(ours.predict(x), regressor.predict(x), rtol=0, atol=1e-12)


def test_which_accuracy_is_fitted(records_path: Path) -> None:
    records = read_records(records_path)
    x, _ = record_features(records)
    validation, test = (fit_predictor(records, accuracy=which) for which in ("validation", "test"))
    assert (validation.base_accuracy, test.base_accuracy) == (BASE_VALIDATION, BASE_TEST)
    assert np.mean(validation.predict(x) - test.predict(x)) == pytest.approx(0.01, abs=1e-3)


def test_noisy_records_add_the_snr(tmp_path: Path) -> None:
    path = write_synthetic_records(tmp_path / "alexnet-64px.parquet", noisy=True)
    predictor = fit_predictor(path)
    assert predictor.noisy and predictor.feature_names[-1] == SNR_FEATURE
    strategy = np.array([0.0] * 7 + [3.0] + [1.0] * 8)
    quiet, loud = predictor.predict(np.array([[*strategy, 45.0], [*strategy, 2.0]]))
    assert quiet > loud + 0.05


def test_saved_predictor_is_the_same_and_holds_no_pickle(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "alexnet.npz"
    predictor.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)
    loaded = Predictor.load(path)
    assert loaded.provenance() == predictor.provenance()
    x = np.random.default_rng(0).random((50, 16))
    np.testing.assert_array_equal(loaded.predict(x), predictor.predict(x))


def test_foreign_predictor_files_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    text, foreign, truncated = tmp_path / "text.npz", tmp_path / "foreign.npz", tmp_path / "truncated.npz"
    text.write_text("no predictor")
    np.savez(foreign, something=np.arange(3))
    predictor.save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:-200])
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, metadata=np.array({"format": 1}, dtype=object))
    for path in (text, foreign, truncated, pickled, tmp_path / "missing.npz", tmp_path):
        with pytest.raises(InputError, match="coinfer fit") as error:
            Predictor.load(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_tables_that_are_no_ensemble_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "broken.npz"
    predictor.save(path)
    with np.load(path, allow_pickle=False) as arrays:
        broken = dict(arrays) | {"left": np.zeros_like(arrays["left"])}
    np.savez(path, **broken)
    with pytest.raises(InputError, match=r"broken\.npz is none"):
        Predictor.load(path)


def test_obtaining_checks_network_and_size(records_path: Path, predictor: Predictor, tmp_path: Path) -> None:
    saved = tmp_path / "alexnet.npz"
    predictor.save(saved)
    for source in (records_path, str(records_path), saved, predictor, read_records(records_path)):
        assert obtain_predictor(source, model="alexnet", input_px=64).records == 120
    for source in (records_path, saved, predictor, read_records(records_path)):
        with pytest.raises(InputError, match="alexnet"):
            obtain_predictor(source, model="regnet_x_400mf")
        with pytest.raises(InputError, match="64 px, not of 224"):
            obtain_predictor(source, model="alexnet", input_px=224)
    with pytest.raises(InputError, match="fitted to validation accuracy, not to test"):
        obtain_predictor(saved, model="alexnet", accuracy="test")
    assert obtain_predictor(records_path, model="alexnet", accuracy="test").accuracy == "test"
    with pytest.raises(InputError, match="did you mean alexnet"):
        obtain_predictor(None, model="alexnett")


def test_too_few_records_and_unknown_regressors(tmp_path: Path) -> None:
    path = write_synthetic_records(tmp_path / "alexnet-64px.parquet", count=17)
    with pytest.raises(InputError, match="17 usable rows; 18"):
        fit(path)
    with pytest.raises(InputError, match="did you mean gradient_boosting"):
        fit(path, regressor="gradient_boost")
