import io
import pickle

import numpy as np
import pytest
from coinfer_kernels import TreeEnsemble
from coinfer_kernels.trees.packed import widen
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestRegressor,
    StackingRegressor,
    VotingRegressor,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import (
    BayesianRidge,
    HuberRegressor,
    Lasso,
    LinearRegression,
    PoissonRegressor,
    RANSACRegressor,
    SGDOneClassSVM,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR, LinearSVR, OneClassSVM
from sklearn.tree import DecisionTreeRegressor

from tests.kernels.random_tables import random_ensemble
from tests.reference import trees as reference

REGRESSORS: dict[str, BaseEstimator] = {
    "gradient boosting": GradientBoostingRegressor(n_estimators=30, random_state=0),
    "gradient boosting, absolute error": GradientBoostingRegressor(loss="absolute_error", n_estimators=9),
    "gradient boosting from zero": GradientBoostingRegressor(init="zero", n_estimators=9),
    "histogram boosting": HistGradientBoostingRegressor(max_iter=30, max_depth=3, min_samples_leaf=2),
    "histogram boosting, deep, monotone": HistGradientBoostingRegressor(
        max_iter=20, min_samples_leaf=2, monotonic_cst=[-1, 0, -1, 1, 0, 0]
    ),
    "histogram boosting, absolute error": HistGradientBoostingRegressor(loss="absolute_error", max_iter=9),
    "bagging of histogram boosting": BaggingRegressor(
        HistGradientBoostingRegressor(max_iter=5), n_estimators=3, max_features=0.5, random_state=0
    ),
    "voting": VotingRegressor(
        [
            ("forest", RandomForestRegressor(n_estimators=3, random_state=0)),
            ("line", LinearRegression()),
            ("histogram boosting", HistGradientBoostingRegressor(max_iter=5)),
        ],
        weights=[1, 2, 5],
    ),
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
    "stochastic gradient descent": SGDRegressor(random_state=0),
    "linear support vectors": LinearSVR(random_state=0),
    "support vectors with a linear kernel": SVR(kernel="linear"),
    "Bayesian ridge": BayesianRidge(),
    "Huber": HuberRegressor(),
    "lasso": Lasso(alpha=1e-4),
    "RANSAC": RANSACRegressor(random_state=0),
    "Tweedie of the normal distribution": TweedieRegressor(power=0),
    "a constant": DummyRegressor(),
    "a search": GridSearchCV(DecisionTreeRegressor(random_state=0), {"max_depth": [2, 3]}),
    "bagging of stochastic gradient descent": BaggingRegressor(SGDRegressor(), n_estimators=3, random_state=0),
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
    single = x.astype(np.float32)
    # What float32 holds, so that a linear model's own float32 arithmetic stays out of it.
    expected = fitted.predict(single.astype(np.float64))
    assert ensemble.predict(single) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert ensemble.predict(x[:5]).tolist() == ensemble.predict(x)[:5].tolist()


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-3, 3), st.floats(-1, 1))
def test_a_widened_threshold_says_of_a_feature_what_the_threshold_says_of_its_float32(threshold, steps, part):
    threshold = np.array([threshold])
    wide = widen(threshold)
    near = threshold * (1 + part * 1e-7)
    for x in (wide, np.nextafter(wide, np.inf), np.nextafter(wide, -np.inf), near, wide + steps * np.spacing(wide)):
        with np.errstate(over="ignore"):
            single = x.astype(np.float32)
        if np.isfinite(single):
            assert (x <= wide) == (single <= threshold)
    assert (widen(wide) == wide).all()
    below = np.nextafter(threshold, -np.inf)  # a float64 between two float32: the lower one decides
    assert (widen(below) < wide).all()


def test_saved_and_loaded_predicts_the_same(fitted):
    ensemble = TreeEnsemble.from_sklearn(fitted)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **ensemble.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        loaded = TreeEnsemble.from_arrays(arrays)
    x = training_set(2)[0]
    assert (loaded.predict(x) == ensemble.predict(x)).all()
    assert (pickle.loads(pickle.dumps(ensemble)).predict(x) == ensemble.predict(x)).all()
    assert loaded.features == 6


def test_a_file_from_before_thresholds_were_widened_predicts_as_it_did():
    x, y = training_set()
    forest = RandomForestRegressor(n_estimators=5, random_state=0).fit(x, y)
    ensemble = TreeEnsemble.from_sklearn(forest)
    arrays = ensemble.to_arrays()
    del arrays["format"]
    leaf = ensemble.tables.feature < 0
    thresholds = np.concatenate([tree.tree_.threshold for tree in forest.estimators_])
    arrays["threshold"] = np.where(leaf, 0.0, thresholds)
    loaded = TreeEnsemble.from_arrays(arrays)
    assert (loaded.tables.threshold[~leaf] == ensemble.tables.threshold[~leaf]).all()
    assert loaded.predict(x) == pytest.approx(forest.predict(x), rel=1e-12)
    with pytest.raises(ValueError, match="is of format 3"):
        TreeEnsemble.from_arrays(arrays | {"format": np.array(3)})


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("features", [3, 8, 11])
def test_no_answer_depends_on_the_batch_or_the_threads(depth, features):
    rng = np.random.default_rng(depth)
    x = rng.random((9000, features))
    # Continuous features: some have more thresholds than a byte's search takes, some with two lengths of it.
    y = (x @ np.arange(features) ** 2) + rng.normal(size=len(x))
    boosted = GradientBoostingRegressor(n_estimators=60, max_depth=depth).fit(x[:400], y[:400])
    ensemble = TreeEnsemble.from_sklearn(boosted)
    for rows in (x, x.astype(np.float32)):
        whole = ensemble.predict(rows)
        assert whole == pytest.approx(boosted.predict(rows), rel=1e-12)
        assert (ensemble.predict(rows, threads=3) == whole).all()
        for size in (1, 5, 16, 17, 32, 33, 64, 100):
            assert (ensemble.predict(rows[70 : 70 + size]) == whole[70 : 70 + size]).all()
        assert (ensemble.predict(rows[:100][::-1]) == whole[:100][::-1]).all()


def test_what_is_not_finite_is_found_wherever_it_stands():
    x, y = training_set(features=9)
    for model in (
        GradientBoostingRegressor(n_estimators=3).fit(x, y),
        GradientBoostingRegressor(n_estimators=3, max_depth=5).fit(x, y),
        HistGradientBoostingRegressor(max_iter=3, max_depth=3).fit(x, y),
        AdaBoostRegressor(n_estimators=3).fit(x, y),
    ):
        ensemble = TreeEnsemble.from_sklearn(model)
        for size in (1, 20, 100):
            for row, column in ((0, 0), (size - 1, 8), (size // 2, 4)):
                for kind in (np.float64, np.float32):
                    bad = x[:size].astype(kind)
                    bad[row, column] = np.nan
                    with pytest.raises(ValueError, match="X: holds NaN"):
                        ensemble.predict(bad)


def test_thresholds_that_float32_does_not_hold():
    x = np.linspace(-1, 1, 100)[:, None]
    boosted = HistGradientBoostingRegressor(max_iter=5, max_depth=3, min_samples_leaf=2).fit(x * 1e300, x[:, 0])
    ensemble = TreeEnsemble.from_sklearn(boosted)
    assert ensemble.predict(x * 1e300) == pytest.approx(boosted.predict(x * 1e300), rel=1e-12)
    single = (x * 1e38).astype(np.float32)
    for rows in (single, single[:5]):
        assert ensemble.predict(rows) == pytest.approx(boosted.predict(rows), rel=1e-12)


def test_histogram_boosting_sees_features_unrounded():
    x = np.linspace(0, 1, 300)[:, None]
    boosted = HistGradientBoostingRegressor(max_iter=5, max_depth=3).fit(x, np.sin(9 * x[:, 0]))
    ensemble = TreeEnsemble.from_sklearn(boosted)
    edges = ensemble.tables.threshold[ensemble.tables.feature >= 0][:, None]
    for rows in (edges, np.nextafter(edges, 2), np.nextafter(edges, -2), edges * 1e300):
        assert ensemble.predict(rows) == pytest.approx(boosted.predict(rows), rel=1e-12)


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


class Squared(RandomForestRegressor):
    def predict(self, x):
        return super().predict(x) ** 2


class Shifted(LinearRegression):
    def _decision_function(self, x):
        return super()._decision_function(x) + 1.0


class Renamed(ExtraTreesRegressor):
    """A subclass that predicts as its parent does."""


def test_subclasses_and_single_columns_are_read():
    x, y = training_set()
    for model in (Renamed(n_estimators=3).fit(x, y), LinearRegression().fit(x, y[:, None])):
        assert TreeEnsemble.from_sklearn(model).predict(x) == pytest.approx(model.predict(x).ravel(), rel=1e-12)


def test_models_that_are_no_sum_of_trees_are_refused():
    x, y = training_set()
    two = np.stack([y, y], axis=1)
    replaced = LinearRegression().fit(x, y)
    replaced.predict = lambda rows: rows[:, 0]
    for model, message in (
        (GradientBoostingClassifier(n_estimators=2).fit(x, y > y.mean()), "is a classifier"),
        (RandomForestRegressor(n_estimators=2).fit(x, two), "2 outputs"),
        (LinearRegression().fit(x, two), "2 outputs"),
        (RandomForestRegressor(), "not fitted"),
        (AdaBoostRegressor(LinearRegression(), n_estimators=2).fit(x, y), "AdaBoost of other models"),
        (BaggingRegressor(AdaBoostRegressor(n_estimators=2), n_estimators=2).fit(x, y), "AdaBoost inside"),
        (GradientBoostingRegressor(init=LinearRegression(), n_estimators=2).fit(x, y), "on top of LinearRegression"),
        (object(), "object is no regressor"),
        (PoissonRegressor().fit(x, y), "LogLink"),
        (HistGradientBoostingRegressor(loss="poisson", max_iter=2).fit(x, y), "LogLink"),
        (HistGradientBoostingRegressor(categorical_features=[0], max_iter=2).fit(x, y), "categorical features"),
        (HistGradientBoostingRegressor(), "not fitted"),
        (LinearRegression(), "LinearRegression is not fitted"),
        (SVR(kernel="linear"), "SVR is not fitted"),
        (SVR().fit(x, y), "SVR with the kernel rbf is not linear"),
        (OneClassSVM(kernel="linear").fit(x), "OneClassSVM is no regressor"),
        (SGDOneClassSVM().fit(x), "SGDOneClassSVM is no regressor"),
        (GaussianProcessRegressor().fit(x, y), "neither a sum of trees nor linear"),
        (make_pipeline(StandardScaler(), LinearRegression()).fit(x, y), "transforms the features first"),
        (Squared().fit(x, y), "Squared has its own predict"),
        (Shifted().fit(x, y), "Shifted has its own _decision_function"),
        (BaggingRegressor(Squared(), n_estimators=2).fit(x, y), "Squared has its own predict"),
        (replaced, "of this LinearRegression was replaced"),
        (StackingRegressor([("line", LinearRegression())]).fit(x, y), "of StackingRegressor is neither a sum"),
        (IsolationForest(n_estimators=2).fit(x), "IsolationForest is no regressor"),
    ):
        with pytest.raises(ValueError, match=message):
            TreeEnsemble.from_sklearn(model)


def test_several_regressors_are_their_sum():
    x, y = np.random.default_rng(0).random((2, 60, 3)), np.random.default_rng(1).random(60)
    first = HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=2).fit(x[0], y)
    rest = LinearRegression().fit(x[0], y - first.predict(x[0]))
    ensemble = TreeEnsemble.from_sklearn(first, rest)
    np.testing.assert_allclose(ensemble.predict(x[1]), first.predict(x[1]) + rest.predict(x[1]), rtol=0, atol=1e-12)
    narrow = LinearRegression().fit(x[0][:, :2], y)
    with pytest.raises(ValueError, match="a sum of models of 2 and 3 features"):
        TreeEnsemble.from_sklearn(first, narrow)
    with pytest.raises(ValueError, match="AdaBoost inside another ensemble"):
        TreeEnsemble.from_sklearn(first, AdaBoostRegressor(n_estimators=3).fit(x[0], y))


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
        (changed("threshold", inner, np.nan), "ensemble.threshold: holds NaN"),
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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(["rising", "falling", "neither"]))
def test_shallow_trees_over_levels_that_rise_fall_or_do_neither(seed, snr, order):
    rng = np.random.default_rng(seed)
    variables, most = int(rng.integers(1, 12)), int(rng.integers(1, 12))
    tables = random_ensemble(rng, variables + snr, trees=7, depth=int(rng.integers(1, 4)))
    if rng.random() < 0.5:
        tables = tables._replace(coefficients=np.zeros(variables + snr))
    values = rng.random((variables, most))
    if order != "neither":
        values.sort(axis=1)
    if order == "falling":
        values = values[:, ::-1].copy()
    coded = TreeEnsemble(tables).code_levels(values)
    count = int(rng.integers(1, 150))
    levels = rng.integers(0, most, (count, variables)).astype(np.uint8)
    x = np.take_along_axis(values, levels.T.astype(np.int64), axis=1).T
    snr_db = rng.choice(np.concatenate([tables.threshold, rng.random(5)]), count) if snr else None
    if snr_db is not None:
        x = np.column_stack([x, snr_db])
    expected = np.array([reference.predict(tables, row) for row in x])
    found = coded.predict(levels, snr_db)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert (coded.predict(levels, snr_db, threads=3) == found).all()
    assert (pickle.loads(pickle.dumps(coded)).predict(levels, snr_db) == found).all()


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
    without_linear = tables._replace(coefficients=np.zeros(3))
    noiseless = TreeEnsemble(without_linear).code_levels(np.ones((3, 4)))
    levels = np.zeros((2, 2), dtype=np.int64)
    for call, message in (
        (lambda: TreeEnsemble(tables).code_levels(np.ones((4, 4))), "values: has 4 variables"),
        (lambda: TreeEnsemble(tables).code_levels(np.full((3, 4), np.nan)), "values: holds NaN"),
        (lambda: coded.predict(levels + 4, 1.0), "levels: holds values outside 0 .. 3"),
        (lambda: coded.predict(levels - 1, 1.0), "levels: holds values outside"),
        (lambda: coded.predict(np.full((2, 2), 4, np.uint8), 1.0), "levels: holds values outside 0 .. 3"),
        (lambda: noiseless.predict(np.full((2, 3), 4, np.uint8)), "levels: holds values outside 0 .. 3"),
        (lambda: coded.predict(levels[:, :1], 1.0), "levels: has 1 columns"),
        (lambda: coded.predict(levels), "snr_db: the regressor was fitted with it"),
        (lambda: coded.predict(levels, np.nan), "snr_db: holds NaN"),
        (lambda: coded.predict(levels, [1.0, 2.0, 3.0]), "snr_db: one number"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
