"""What Ray Tune's own tests of its searches demand, held of ours; most of it in Tune's own runs.

They are: values that are no numbers, points evaluated elsewhere, a state saved and restored, several objectives (which
are refused), and, by Tune's documentation, what its domains hold.
"""

import math
from copy import deepcopy

import numpy as np
import pytest
import ray
from ray import tune
from ray.tune.search import ConcurrencyLimiter

from coinfer_ray.adapters.ray_tune import QuantumSearch
from coinfer_ray.errors import InputError

SPACE = {"x": tune.uniform(0.0, 5.0), "list": [1, 2, 3], "number": 4}


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def often_no_number(config):
    x = config["x"]
    return math.inf if x > 4 else -math.inf if x > 3 else math.nan if x > 2 else x


def dummy(config):
    return {"metric": config["x"]}


def failing_once(config):
    from pathlib import Path

    mark = Path(config["marks"]) / f"{config['x']}"
    if config["x"] > 2 and not mark.exists():
        mark.touch()
        raise RuntimeError("the first time")
    return {"metric": config["x"]}


def fitted(trainable, search, space, folder, samples=12, **options):
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(search_alg=search, num_samples=samples, reuse_actors=True, **options),
        run_config=tune.RunConfig(storage_path=str(folder), name="run", verbose=0),
    )
    return tuner.fit()


@pytest.mark.slow
@pytest.mark.parametrize("limited", [False, True])
def test_values_that_are_no_numbers(cluster, tmp_path, limited):
    """A mode alone means the number that the trainable returns."""
    search = QuantumSearch(population=4)
    given = ConcurrencyLimiter(search, max_concurrent=2) if limited else search
    results = fitted(often_no_number, given, SPACE, tmp_path, mode="max", metric="_metric" if limited else None)
    told = [result.metrics["_metric"] for result in results]
    assert any(math.isinf(value) for value in told) and len(told) == 12
    assert all(result.config["list"] == [1, 2, 3] and result.config["number"] == 4 for result in results)
    assert search.optimizer.evaluations == 12
    assert -search.optimizer.best_objective == max(value for value in told if math.isfinite(value)) <= 2.0


@pytest.mark.slow
def test_trials_evaluated_elsewhere(cluster, tmp_path):
    results = fitted(dummy, QuantumSearch(population=4), SPACE, tmp_path, metric="metric", mode="max", samples=4)
    analysis = results._experiment_analysis
    fresh = QuantumSearch(SPACE, metric="metric", mode="max", population=4)
    told = [trial.last_result["metric"] for trial in analysis.trials]
    for trials, count in ((analysis, 4), (analysis.trials, 4), (analysis.trials[0], 1)):
        search = deepcopy(fresh)
        search.add_evaluated_trials(trials, "metric")
        for key in "abcd":
            assert 0 <= search.suggest(key)["x"] <= 5
            search.on_trial_complete(key, {"metric": -1.0})
        assert search.optimizer.evaluations == 4 + count
        assert -search.optimizer.best_objective == max(told[:count])


@pytest.mark.slow
def test_a_run_is_restored_with_the_trials_that_were_not_done(cluster, tmp_path):
    space = {"x": tune.uniform(0.0, 5.0), "marks": str(tmp_path)}
    results = fitted(failing_once, QuantumSearch(population=4), space, tmp_path, metric="metric", mode="max")
    failed = len(results.errors)
    assert failed
    tuner = tune.Tuner.restore(str(tmp_path / "run"), trainable=failing_once, resume_errored=True, param_space=space)
    results = tuner.fit()
    assert len(results) == 12 and not results.errors


def completed(search, *keys):
    for key in keys:
        search.on_trial_result(key, {"metric": 1.0, "training_iteration": 1})
        search.on_trial_complete(key, {"metric": 1.0, "training_iteration": 2})


def test_restored_it_needs_no_space_and_knows_the_trials_that_run(tmp_path):
    first = QuantumSearch(population=4)
    assert first.set_search_properties("metric", "max", SPACE)
    asked = {key: first.suggest(key) for key in ("1", "2", "running")}
    completed(first, "1")
    first.save(str(tmp_path / "state"))
    second = QuantumSearch()
    second.restore(str(tmp_path / "state"))
    assert (second.metric, second.mode) == ("metric", "max")
    completed(second, "2")
    assert second.suggest("running") == asked["running"]  # it starts again
    assert second.suggest("3") not in asked.values()
    assert second.suggest("4") is None
    completed(second, "running", "3")
    assert second.optimizer.evaluations == 4


def test_a_trial_that_never_ends_after_a_restore_is_given_to_another(tmp_path):
    first = QuantumSearch(SPACE, "metric", "max", population=4)
    asked = [first.suggest(key) for key in "abc"]
    first.save(str(tmp_path / "state"))
    second = QuantumSearch()
    second.restore(str(tmp_path / "state"))
    assert second.suggest("d") not in asked
    assert [second.suggest(key) for key in "efg"] == asked
    completed(second, "a")  # its answer comes late: another has its place
    completed(second, *"defg")
    assert second.optimizer.evaluations == 4


class Other:
    pass


def test_a_space_of_other_things_is_to_be_given_again(tmp_path):
    first = QuantumSearch({"x": tune.uniform(0, 1), "other": Other()}, "metric", "min")
    first.save(str(tmp_path / "state"))
    with pytest.raises(InputError, match="space was not saved"):
        QuantumSearch().restore(str(tmp_path / "state"))


def test_a_saved_space_is_the_same_space(tmp_path):
    space = {
        "a": (tune.quniform(0.25, 1.5, 0.25), tune.loguniform(1e-3, 1), [None, True, 1, "x"]),
        3: tune.choice([{"b": tune.qrandint(1, 10, 3)}, tune.lograndint(1, 100), "none"]),
        "c": {"d": tune.qloguniform(0.5, 8, 0.5), "e": tune.randint(-2, 3)},
    }
    first = QuantumSearch(space, "metric", "min", violation="excess", population=30, seed=3)
    first.save(str(tmp_path / "state"))
    second = QuantumSearch()
    second.restore(str(tmp_path / "state"))
    assert second.violation == "excess"
    assert [second.suggest(str(i)) for i in range(30)] == [first.suggest(str(i)) for i in range(30)]


def test_reports_after_the_end_are_no_error():
    search = QuantumSearch(SPACE, metric="metric", mode="max")
    search.suggest("1")
    completed(search, "1", "1")


@pytest.mark.parametrize("what", ["points", "failed", "foreign"])
def test_points_evaluated_elsewhere(what):
    space = {"x": tune.uniform(0, 5), "kind": tune.choice(["a", {"n": tune.randint(0, 9)}]), "fixed": 3}
    search = QuantumSearch(space, metric="metric", mode="max", population=4)
    if what == "points":
        search.add_evaluated_point({"x": 1.0, "kind": "a"}, 7.0, intermediate_values=[0.8, 0.9])
        search.add_evaluated_point({"x": 2.0, "kind": {"n": 8}, "fixed": 3}, 9.0)
    elif what == "failed":
        search.add_evaluated_point({"x": 1.0, "kind": "a"}, 9.0, error=True)
        search.add_evaluated_point({"x": 1.0, "kind": "a"}, 9.0, pruned=True)
        search.add_evaluated_point({"x": 1.0, "kind": "a"}, math.inf)
    else:
        for point, named in (
            ({"x": 6.0, "kind": "a"}, "x = 6.0"),
            ({"x": 1.0, "kind": {"n": 9}}, "kind = "),
            ({"x": 1.0}, "kind is missing"),
            ({"x": 1.0, "kind": "a", "fixed": 4}, "fixed = 4"),
            ({"x": 1.0, "kind": "a", "more": 4}, "they = "),
            ({"x": "?", "kind": "a"}, "x = '"),
        ):
            with pytest.raises(InputError, match=named):
                search.add_evaluated_point(point, 1.0)
    for key in "bcde":
        search.suggest(key)
        search.on_trial_complete(key, {"metric": 1.0})
    assert -search.optimizer.best_objective == (9.0 if what == "points" else 1.0)
    assert search.optimizer.evaluations == (6 if what == "points" else 4)
    with pytest.raises(InputError, match="give the space"):
        QuantumSearch().add_evaluated_point({"x": 1.0}, 1.0)


def test_several_objectives_are_refused():
    for given in (
        lambda: QuantumSearch(SPACE, ["a", "b"], ["max", "min"]),
        lambda: QuantumSearch(SPACE).set_search_properties(["a"], ["max"], {}),
    ):
        with pytest.raises(InputError, match="one of each"):
            given()


@pytest.mark.parametrize(
    "domain",
    [
        pytest.param(tune.qrandint(1, 10, 3), id="qrandint by 3"),
        pytest.param(tune.qrandint(1, 10, 1), id="qrandint by 1"),
        pytest.param(tune.qrandint(-7, 10, 5), id="qrandint below 0"),
        pytest.param(tune.quniform(0.25, 1.5, 0.25), id="quniform"),
        pytest.param(tune.quniform(-1.5, -0.5, 0.5), id="quniform below 0"),
        pytest.param(tune.randint(0, 5), id="randint"),
        pytest.param(tune.lograndint(1, 6), id="lograndint"),
        pytest.param(tune.qlograndint(3, 40, 8), id="qlograndint"),
        pytest.param(tune.qloguniform(0.5, 4, 0.5), id="qloguniform"),
        pytest.param(tune.choice([1, "1", None, True]), id="choice"),
    ],
)
def test_a_domain_holds_what_tune_draws_from_it(domain):
    values = domain.sample(size=2000, random_state=0)
    drawn = {repr(value.item() if isinstance(value, np.generic) else value) for value in values}
    search = QuantumSearch({"x": domain}, metric="metric", mode="min", population=400)
    assert {repr(search.suggest(str(i))["x"]) for i in range(400)} == drawn


def test_a_grid_without_a_value_is_refused():
    with pytest.raises(InputError, match="no multiple of 5"):
        QuantumSearch({"x": tune.qrandint(1, 4, 5)})
