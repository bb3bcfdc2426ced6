import pytest
from ray import tune

from coinfer_ray.adapters.ray_tune import QuantumSearch
from coinfer_ray.errors import InputError

SPACE = {
    "x": tune.uniform(-10, 10),
    "deep": {"rate": tune.loguniform(1e-5, 1), "layers": tune.randint(1, 9), "fixed": 3},
    "width": tune.qrandint(16, 64, 16),
    "share": tune.quniform(0.0, 1.0, 0.25),
    "kind": tune.choice(["relu", "gelu"]),
}


def loss(config):
    assert config["deep"]["fixed"] == 3
    return (
        (config["x"] - 2) ** 2
        + abs(config["deep"]["layers"] - 3)
        + abs(config["width"] - 48)
        + abs(config["share"] - 0.75)
        + (config["kind"] != "gelu")
    )


def run(search, trials, sign=1.0):
    asked = []
    for i in range(trials):
        config = search.suggest(f"t{i}")
        asked.append(config)
        search.on_trial_complete(f"t{i}", {"loss": sign * loss(config), "training_iteration": 1})
    return asked


def test_configurations_follow_the_space_and_get_better():
    asked = run(QuantumSearch(SPACE, metric="loss", mode="min", seed=0), 600)
    assert {config["deep"]["layers"] for config in asked} == set(range(1, 9))
    assert {config["width"] for config in asked} == {16, 32, 48, 64}
    assert {config["share"] for config in asked} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert all(1e-5 <= config["deep"]["rate"] <= 1 for config in asked)
    assert min(map(loss, asked)) < 0.01
    other = run(QuantumSearch(SPACE, metric="loss", mode="max", seed=0), 600, sign=-1.0)
    assert other == asked


def test_answers_are_awaited_and_failures_count_as_the_worst():
    search = QuantumSearch(SPACE, metric="loss", mode="min", population=5)
    for i in range(5):
        assert search.suggest(str(i)) is not None
    assert search.suggest("5") is None
    for i in range(4):
        search.on_trial_complete(str(i), {"other": 1.0}, error=i == 0)
    search.on_trial_complete("4", {"loss": 3.0})
    assert search.suggest("5") is not None
    assert search.optimizer.best_objective == 3.0


def test_saved_and_restored_it_goes_on(tmp_path):
    asked = run(QuantumSearch(SPACE, metric="loss", mode="min", population=6, seed=2), 40)
    first = QuantumSearch(SPACE, metric="loss", mode="min", population=6, seed=2)
    run(first, 20)
    first.save(str(tmp_path / "state"))
    second = QuantumSearch(SPACE, metric="loss", mode="min")
    second.restore(str(tmp_path / "state"))
    assert run(second, 20) == asked[20:]


def test_bad_spaces_are_named():
    for space, message in (
        ({"x": tune.grid_search([1, 2])}, "grid_search"),
        ({"x": 3}, "nothing to search"),
        ({"x": tune.randn(0, 1)}, "x is"),
    ):
        with pytest.raises(InputError, match=message):
            QuantumSearch(space)
    with pytest.raises(InputError, match="needs a space and a metric"):
        QuantumSearch().suggest("t")


def test_a_tuner_takes_it():
    search = QuantumSearch()
    assert search.set_search_properties("loss", "min", SPACE)
    assert not QuantumSearch(SPACE).set_search_properties("loss", "min", SPACE)
    assert run(search, 3)
