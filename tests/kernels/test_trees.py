import io

import numpy as np
import pytest
from coinfer_kernels import TreeEnsemble
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from tests.kernels.random_tables import random_ensemble
from tests.reference import trees as reference

REGRESSORS: dict[str, BaseEstimator] = {
    "gradient boosting": GradientBoostingRegressor(n_estimators=30, random_state=0),
    "gradient boosting, absolute error": GradientBoostingRegressor(loss="absolute_error", n_estimators=9),
    "gradient boosting from zero": GradientBoostingRegressor(init="zero", n_estimators=9),
    "random forest": RandomForestRegressor(n_estimators=20, random_state=0),
    "extra trees": ExtraTreesRegressor(n_estimators=20, random_state=0),
    "bagging": BaggingRegressor(n_estimators=20, random_state=0),
    "bagging of feature subsets": BaggingRegressor(n_estimators=20, max_features=0.5, random_state=0),
    "bagging, subsets with repeats": BaggingRegressor(n_estimators=9, bootstrap_features=True, random_state=0),
    "bagging of lines": BaggingRegressor(LinearRegression(), n_estimators=9, bootstrap_features=True, random_state=0),
    "adaboost": AdaBoostRegressor(n_estimators=20, random_state=0),
    "adaboost of stumps": AdaBoostRegressor(DecisionTreeRegressor(max_depth=1), n_estimators=20, random_state=0),
    "decision tree": DecisionTreeRegressor(random_state=0),
    "a tree of one leaf": DecisionTreeRegressor(min_samples_split=10**9),
    "linear regression": LinearRegression(),
}


def training_set(seed=0, features=6):
    """Values such as 0.1 and 0.3, which float32 rounds up or down, so that thresholds fall between the two."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 11, (200, features)) / 10
    y = 0.8 - (x**2 * rng.random(features)).sum(1) * 0.1 + rng.normal(0, 0.01, len(x))
    return x, y


@pytest.fixture(scope="module", params=REGRESSORS)
def fitted(request):
    x, y = training_set()
    return REGRESSORS[request.param].fit(x, y)


def test_predict_equals_scikit_learn(fitted):
    ensemble = TreeEnsemble.from_sklearn(fitted)
    rng = np.random.default_rng(1)
    x = np.concatenate([training_set(2)[0], rng.normal(0.5, 0.5, (100, 6))])
    # Features exactly at thresholds, and one float64 step beyond: rounding to float32 decides.
    if len(ensemble.tables.threshold):
        edges = rng.choice(ensemble.tables.threshold, (100, 6))
        x = np.concatenate([x, edges, np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf)])
    assert ensemble.predict(x) == pytest.approx(fitted.predict(x), rel=1e-12, abs=1e-12)


def test_saved_and_loaded_predicts_the_same(fitted):
    ensemble = TreeEnsemble.from_sklearn(fitted)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **ensemble.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        loaded = TreeEnsemble.from_arrays(arrays)
    x = training_set(2)[0]
    assert (loaded.predict(x) == ensemble.predict(x)).all()
    assert loaded.features == 6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_predict_equals_the_oracle(seed, median):
    rng = np.random.default_rng(seed)
    tables = random_ensemble(rng, 4, median=median)
    x = rng.random((10, 4))
    x[:3] = rng.choice(tables.threshold, (3, 4))
    expected = [reference.predict(tables, row) for row in x]
    assert TreeEnsemble(tables).predict(x) == pytest.approx(np.array(expected), rel=1e-13)


def test_the_number_of_threads_changes_nothing():
    rng = np.random.default_rng(0)
    ensemble = TreeEnsemble(random_ensemble(rng, 5, trees=20))
    x = rng.random((3000, 5))
    assert (ensemble.predict(x, threads=3) == ensemble.predict(x, threads=1)).all()


def test_models_that_are_no_sum_of_trees_are_refused():
    x, y = training_set()
    two = np.stack([y, y], axis=1)
    for model, message in (
        (GradientBoostingClassifier(n_estimators=2).fit(x, y > y.mean()), "is a classifier"),
        (RandomForestRegressor(n_estimators=2).fit(x, two), "2 outputs"),
        (LinearRegression().fit(x, two), "several outputs"),
        (RandomForestRegressor(), "not fitted"),
        (AdaBoostRegressor(LinearRegression(), n_estimators=2).fit(x, y), "AdaBoost of other models"),
        (BaggingRegressor(AdaBoostRegressor(n_estimators=2), n_estimators=2).fit(x, y), "AdaBoost inside"),
        (GradientBoostingRegressor(init=LinearRegression(), n_estimators=2).fit(x, y), "on top of LinearRegression"),
        (object(), "object is not fitted"),
    ):
        with pytest.raises(ValueError, match=message):
            TreeEnsemble.from_sklearn(model)


def test_features_that_scikit_learn_refuses_are_refused():
    x, y = training_set()
    ensemble = TreeEnsemble.from_sklearn(DecisionTreeRegressor(max_depth=2).fit(x, y))
    for bad in (np.nan, np.inf, -np.inf, 1e39):
        with pytest.raises(ValueError, match="X: holds NaN, infinity"):
            ensemble.predict(np.where(np.eye(6) > 0, bad, 0.5))
    with pytest.raises(ValueError, match="X: has 5 features"):
        ensemble.predict(x[:, :5])
    with pytest.raises(ValueError, match="X: has 1 dimensions"):
        ensemble.predict(x[0])
    assert ensemble.predict(x[:0]).shape == (0,)


def test_tables_in_which_a_walk_could_go_astray_are_refused():
    tables = random_ensemble(np.random.default_rng(0), 4)
    inner = int(np.flatnonzero(tables.feature >= 0)[0])
    leaf = int(np.flatnonzero(tables.feature < 0)[0])

    def changed(name, index, value):
        array = getattr(tables, name).copy()
        array[index] = value
        return tables._replace(**{name: array})

    for bad, message in (
        (changed("feature", inner, 4), "ensemble.feature"),
        (changed("feature", inner, -2), "ensemble.feature"),
        (changed("left", inner, inner), "ensemble.left"),
        (changed("right", inner, 10**6), "ensemble.right"),
        (changed("right", leaf, 0), "ensemble.right"),
        (changed("roots", 0, -1), "ensemble.roots"),
        (changed("weights", 0, np.nan), "ensemble.weights"),
        (tables._replace(threshold=tables.threshold[1:]), "ensemble.threshold"),
    ):
        with pytest.raises(ValueError, match=message):
            TreeEnsemble(bad)
    arrays = TreeEnsemble(tables).to_arrays()
    del arrays["roots"]
    with pytest.raises(ValueError, match="the array 'roots' is missing"):
        TreeEnsemble.from_arrays(arrays)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_levels_predict_as_their_features_do(seed, median, snr):
    rng = np.random.default_rng(seed)
    tables = random_ensemble(rng, 5, trees=8, depth=int(rng.integers(1, 9)), median=median)
    values = rng.random((5 - snr, 7))
    values[0] = rng.choice(tables.threshold, 7)
    levels = rng.integers(0, 7, (20, 5 - snr))
    x = np.take_along_axis(values, levels.T, axis=1).T
    snr_db = rng.choice(np.concatenate([tables.threshold, rng.random(5)]), 20) if snr else None
    if snr_db is not None:
        x = np.column_stack([x, snr_db])
    expected = [reference.predict(tables, row) for row in x]
    coded = TreeEnsemble(tables).code_levels(values)
    assert coded.predict(levels, snr_db) == pytest.approx(np.array(expected), rel=1e-12, abs=1e-12)
    assert (coded.predict(levels.astype(np.uint8), snr_db) == coded.predict(levels, snr_db)).all()


def test_trees_of_more_leaves_than_a_word_has_bits():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 60, (3000, 4)) / 60
    forest = RandomForestRegressor(n_estimators=5, random_state=0).fit(x, rng.random(3000))
    ensemble = TreeEnsemble.from_sklearn(forest)
    levels = rng.integers(0, 60, (500, 4))
    coded = ensemble.code_levels(np.tile(np.arange(60) / 60, (4, 1)))
    assert coded.predict(levels) == pytest.approx(forest.predict(levels / 60), rel=1e-12)
    assert ensemble.predict(levels / 60) == pytest.approx(forest.predict(levels / 60), rel=1e-12)


def test_bad_levels_are_named():
    tables = random_ensemble(np.random.default_rng(0), 3)
    coded = TreeEnsemble(tables).code_levels(np.ones((2, 4)))
    levels = np.zeros((2, 2), dtype=np.int64)
    for call, message in (
        (lambda: TreeEnsemble(tables).code_levels(np.ones((4, 4))), "values: has 4 variables"),
        (lambda: TreeEnsemble(tables).code_levels(np.full((3, 4), np.nan)), "values: holds NaN"),
        (lambda: coded.predict(levels + 4, 1.0), "levels: holds values outside 0 .. 3"),
        (lambda: coded.predict(levels - 1, 1.0), "levels: holds values outside"),
        (lambda: coded.predict(levels[:, :1], 1.0), "levels: has 1 columns"),
        (lambda: coded.predict(levels), "snr_db: the regressor was fitted with it"),
        (lambda: coded.predict(levels, np.nan), "snr_db: holds NaN"),
        (lambda: coded.predict(levels, [1.0, 2.0, 3.0]), "snr_db: one number"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
