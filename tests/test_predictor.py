"""The regressors' comparison, and the predictor's file."""

from __future__ import annotations

import json
import math
import os
import statistics
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from coinfer_ray.cli.collect import note_least
from coinfer_ray.errors import InputError
from coinfer_ray.predictor.fit import choose, fit, fit_predictor, record_features, regressor_of
from coinfer_ray.predictor.metrics import assign_folds, metrics, strategy_groups
from coinfer_ray.predictor.obtain import obtain_predictor
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.predictor.regressors import ORDERED, REGRESSORS, SNR_FEATURE, directions, one_thread
from coinfer_ray.records.store import pack, read_records, write_records
from tests.synthetic import BASE_TEST, BASE_VALIDATION, SETTINGS, write_synthetic_records


@pytest.fixture(scope="module")
def records_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet-64px.parquet", count=120)


@pytest.fixture(scope="module")
def predictor(records_path: Path) -> Predictor:
    return fit_predictor(records_path, folds=4)


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
    tree, chosen = figures["decision_tree"], figures[report.predictor.regressor]
    assert tree.in_sample.mse == 0 and tree.out_of_fold.mse > 1e-4
    assert chosen.out_of_fold.adjusted_r2 > 0.8
    assert report.predictor.typical_error == pytest.approx(chosen.out_of_fold.mse**0.5)
    assert report.coverage is not None and 0.9 <= report.coverage.covered <= 1
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
        regressor = regressor_of(records, name, 3)().fit(x, records.accuracy())
        ours = fit_predictor(records, regressor=name, folds=2, seed=3)
        np.testing.assert_allclose(ours.predict(x), regressor.predict(x), rtol=0, atol=1e-12)


def test_which_accuracy_is_fitted(records_path: Path) -> None:
    records = read_records(records_path)
    x, _ = record_features(records)
    validation, test = (fit_predictor(records, accuracy=which, folds=2) for which in ("validation", "test"))
    assert (validation.base_accuracy, test.base_accuracy) == (BASE_VALIDATION, BASE_TEST)
    assert np.mean(validation.predict(x) - test.predict(x)) == pytest.approx(0.01, abs=1e-3)


def test_noisy_records_add_the_snr(tmp_path: Path) -> None:
    path = write_synthetic_records(tmp_path / "alexnet-64px.parquet", noisy=True)
    predictor = fit_predictor(path, folds=2)
    assert predictor.noisy and predictor.feature_names[-1] == SNR_FEATURE
    strategy = np.array([0.0] * 7 + [3.0] + [1.0] * 8)
    quiet, loud = predictor.predict(np.array([[*strategy, 45.0], [*strategy, 2.0]]))
    assert quiet > loud + 0.05
    records = read_records(path)
    rows = [row | {"snr_db": None if row["candidate"] < 30 else row["snr_db"]} for row in records.table.to_pylist()]
    write_records(tmp_path / "some.parquet", rows, records.info)
    some = fit_predictor(tmp_path / "some.parquet", folds=2)
    # What no noise reaches is measured, and no part of what the ratio is learnt from.
    assert some.records == len(rows) - 30 and np.isnan(some.measured.snr_db).sum() == 30
    some.save(tmp_path / "some.npz")
    assert Predictor.load(tmp_path / "some.npz").measured.fingerprint == some.measured.fingerprint


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
    with pytest.raises(InputError, match=r"broken\.npz is not a predictor file"):
        Predictor.load(path)


def test_the_monotone_regressors_are_monotone(records_path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy_path = write_synthetic_records(tmp_path / "noisy.parquet", noisy=True)
    for path, name in product((records_path, noisy_path), ORDERED):
        predictor = fit_predictor(path, regressor=name, folds=2)
        signs = np.array(directions(predictor.feature_names))
        assert signs.tolist()[:16] == [-1] * 7 + [0] + [1, 0, -1] * 2 + [1, 1] and signs[16:].tolist() in ([], [1])
        x = rng.random((500, len(signs))) * np.where(signs == 0, 20, 3)
        better = x + rng.random(x.shape) * signs
        assert (predictor.predict(better) >= predictor.predict(x) - 1e-12).all()
        assert (predictor.predict(better) > predictor.predict(x)).any()


def test_which_regressor_is_chosen() -> None:
    groups, spread = np.arange(200), np.resize([0.1, -0.1], 200)  # a standard error of 0.007
    errors = {name: np.full(200, 2.0) for name in REGRESSORS} | {"monotone_boosting": np.ones(200)}
    assert choose(errors | {"bagging": 0.995 + spread}, groups) == "monotone_boosting"
    assert choose(errors | {"distilled_boosting": 0.999 + spread}, groups) == "distilled_boosting"
    assert choose(errors | {"bagging": 0.985 + spread}, groups) == "bagging"
    # Ten repeats of every strategy are no more evidence than one: of twenty strategies the standard error is 0.02.
    assert choose(errors | {"bagging": 0.985 + np.repeat(spread[:20], 10)}, groups // 10) == "monotone_boosting"


def test_repeats_give_the_noise_floor_and_stay_in_one_fold(tmp_path: Path) -> None:
    path = write_synthetic_records(tmp_path / "repeated.parquet", count=40, repeats=3)
    records = read_records(path)
    x, _ = record_features(records)
    groups = strategy_groups(x)
    trained = {number: records.accuracy()[groups == number].tolist() for number in set(groups.tolist())}
    pooled = math.sqrt(statistics.mean(statistics.variance(accuracies) for accuracies in trained.values()))
    predictor = fit_predictor(path, folds=4)
    assert (predictor.repeated, predictor.records) == (40, 120)
    assert predictor.noise_floor == pytest.approx(pooled)
    assert 0.0015 < pooled < 0.0025  # what the records were made with: 0.002
    fold = assign_folds(groups, 4, seed=1)
    assert all(len(set(fold[groups == number])) == 1 for number in trained)
    assert np.bincount(fold).tolist() == [30] * 4
    attainable = fit(path, regressor="linear_regression", folds=4).attainable_r2
    assert attainable == pytest.approx(1 - pooled**2 / np.var(records.accuracy()) * 119 / 103)
    single = fit_predictor(write_synthetic_records(tmp_path / "single.parquet", count=40), folds=4)
    assert (single.noise_floor, single.repeated) == (None, 0)


def test_a_tree_that_repeats_its_records_gains_nothing_from_repeats(tmp_path: Path) -> None:
    # Were repeats in several folds, an unpruned tree would know every record out of fold to within the noise.
    path = write_synthetic_records(tmp_path / "repeated.parquet", count=30, repeats=4)
    assert fit_predictor(path, regressor="decision_tree").typical_error > 0.01


def test_the_images_leave_an_error_of_their_own(tmp_path: Path) -> None:
    settings = SETTINGS | {"validation_images": 2000, "test_images": 500}
    path = write_synthetic_records(tmp_path / "counted.parquet", count=30, settings=settings)
    accuracies = read_records(path).accuracy("test").tolist()
    mean = statistics.mean(each * (1 - each) for each in accuracies)
    tested = fit_predictor(path, accuracy="test", folds=2)
    assert tested.binomial_error == pytest.approx(math.sqrt(mean / 500))
    assert tested.calibration.resolution == pytest.approx(math.sqrt(2 * BASE_TEST * (1 - BASE_TEST) / 500))


def test_several_records_of_one_setting_are_fitted_together(tmp_path: Path) -> None:
    first, second = (write_synthetic_records(tmp_path / f"{seed}.parquet", count=20, seed=seed) for seed in (1, 2))
    assert len(read_records([first, second])) == 40
    assert len(read_records([first, second, first])) == 40  # the same trainings once more
    assert fit([first, second], folds=4).predictor.records == 40
    other = write_synthetic_records(
        tmp_path / "other.parquet", count=20, settings=SETTINGS | {"training": {"images": 5}}
    )
    with pytest.raises(InputError, match=r"other\.parquet differs from .* in training\.images \(5 against None\)"):
        fit([first, other])
    with pytest.raises(InputError, match="none given"):
        read_records([])


def test_the_bound_travels_with_the_predictor(predictor: Predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path / "alexnet.npz")
    loaded = Predictor.load(tmp_path / "alexnet.npz")
    accuracies = np.linspace(0.1, 0.9, 9)
    for confidence in (0.5, 0.9, 0.95):
        bound = predictor.lower_bound(accuracies, confidence)
        np.testing.assert_array_equal(loaded.lower_bound(accuracies, confidence), bound)
        np.testing.assert_allclose(predictor.required_accuracy(bound, confidence), accuracies)
    np.testing.assert_array_equal(predictor.required_accuracy(accuracies, None), accuracies)
    assert (predictor.lower_bound(accuracies, 0.95) < predictor.lower_bound(accuracies, 0.5)).all()


def test_a_predictor_of_the_format_before_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "old.npz"
    predictor.save(path)
    with np.load(path, allow_pickle=False) as arrays:
        old = {name: arrays[name] for name in arrays.files if not name.startswith("calibration")}
    old["metadata"] = np.array(json.dumps(json.loads(str(old["metadata"])) | {"format": 1}))
    np.savez(path, **old)
    with pytest.raises(InputError, match=r"is of format 1, this version reads 4; fit its records again"):
        Predictor.load(path)


def test_obtaining_checks_network_and_size(records_path: Path, predictor: Predictor, tmp_path: Path) -> None:
    saved = tmp_path / "alexnet.npz"
    predictor.save(saved)
    for source in (records_path, str(records_path), [records_path], saved, predictor, read_records(records_path)):
        found = obtain_predictor(source, model="alexnet", input_px=64, regressor="decision_tree")
        assert found.records == 120
    for source in (records_path, saved, predictor, read_records(records_path)):
        with pytest.raises(InputError, match="alexnet"):
            obtain_predictor(source, model="regnet_x_400mf")
        with pytest.raises(InputError, match="64 px, not of 224"):
            obtain_predictor(source, model="alexnet", input_px=224)
    with pytest.raises(InputError, match="fitted to validation accuracy, not to test"):
        obtain_predictor(saved, model="alexnet", accuracy="test")
    assert (
        obtain_predictor(records_path, model="alexnet", regressor="decision_tree", accuracy="test").accuracy == "test"
    )
    with pytest.raises(InputError, match="did you mean alexnet"):
        obtain_predictor(None, model="alexnett")


def test_too_few_records_and_unknown_regressors(tmp_path: Path) -> None:
    path = write_synthetic_records(tmp_path / "alexnet-64px.parquet", count=17)
    with pytest.raises(InputError, match="17 usable strategies; 18"):
        fit(path)
    with pytest.raises(InputError, match="17 usable strategies; 18"):  # optimize answers from no fewer
        obtain_predictor(path, model="alexnet")
    with pytest.raises(InputError, match="did you mean gradient_boosting"):
        fit(path, regressor="gradient_boost")


@pytest.mark.parametrize(("count", "said"), [(17, "a predictor needs 18 strategies, {} holds 17"), (18, "")])
def test_a_collection_too_small_for_a_predictor_says_so(
    count: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_synthetic_records(tmp_path / "few.parquet", count=count)
    note_least(few)
    assert capsys.readouterr().err.partition(";")[0] == said.format(few)


def test_regressors_are_fitted_by_one_thread() -> None:
    from threadpoolctl import threadpool_info

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"]

    with one_thread():
        within = threads()
    assert within and set(within) == {1}
    assert threads() != within or os.cpu_count() == 1 or os.environ.get("OMP_NUM_THREADS") == "1"


def test_folds_fitted_side_by_side_give_the_same(records_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import coinfer_ray.predictor.metrics as folds

    x, _ = record_features(read_records(records_path))
    y = read_records(records_path).accuracy()
    fold = np.arange(len(y)) % 4
    build = regressor_of(read_records(records_path), "monotone_boosting", 0)
    alone = folds.out_of_fold(build, x, y, fold)
    monkeypatch.setattr(folds, "WORTH_PROCESSES", 0)
    monkeypatch.setattr(folds, "allowed_threads", lambda: 2)
    assert (folds.out_of_fold(build, x, y, fold) == alone).all()


def test_several_sources_are_packed_into_one_file(records_path: Path, tmp_path: Path) -> None:
    others = write_synthetic_records(tmp_path / "others.parquet", seed=1, count=30)
    joined = pack([records_path, others, records_path], tmp_path / "all.parquet")
    again = read_records(tmp_path / "all.parquet")
    assert len(again.table) == len(joined.table) == len(read_records(records_path).table) + 30
    with pytest.raises(InputError, match="records:"):
        pack([records_path, tmp_path / "none.parquet"], tmp_path / "more.parquet")
    assert not (tmp_path / "more.parquet").exists()
