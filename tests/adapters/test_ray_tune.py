from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
from ray import tune

from coinfer_ray.adapters.ray_space import values_in
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


def test_bounds_and_steps_of_numpy_are_saved_as_any_others(tmp_path):
    path = tmp_path / "state"
    space = {
        "n": tune.randint(np.int64(0), np.int64(4)),
        "x": tune.uniform(np.float32(0.5), np.float64(2)),
        "w": tune.qrandint(np.int32(16), np.int64(64), np.int64(16)),
    }
    first = QuantumSearch(space, metric="l", mode="min", population=4)
    first.save(str(path))
    second = QuantumSearch()
    second.restore(str(path))
    assert second.suggest("a") == first.suggest("a")
    assert set(second.suggest("b")) == {"n", "x", "w"}


def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "state"
    search = QuantumSearch(SPACE, metric="loss", mode="min", population=4)
    search.save(str(path))
    before = path.read_bytes()
    search.suggest("a")

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        search.save(str(path))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["state"]
    monkeypatch.undo()
    search.save(str(path))
    assert path.read_bytes() != before


def test_bad_spaces_are_named():
    for space, message in (
        ({"x": tune.grid_search([1, 2])}, "grid_search"),
        ({"x": 3}, "nothing to search"),
        ({"x": tune.randn(0, 1)}, "x is"),
        ({"a": [{"x": tune.randn(0, 1)}]}, "a/0/x is"),
        ({"a": {"grid_search": [1, 2]}, "x": tune.uniform(0, 1)}, "a is a grid_search"),
        ({"x": tune.sample_from(lambda spec: 1)}, "x is"),
        ({"x": {"eval": "1 + 1"}}, "x is to be evaluated"),
        ({"x": tune.choice([])}, "x has no choices"),
    ):
        with pytest.raises(InputError, match=message):
            QuantumSearch(space)
    with pytest.raises(InputError, match="needs a space and a metric"):
        QuantumSearch().suggest("t")


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (tune.randint(1, 1), "randint(1, 1) is empty; the upper end must exceed the lower"),
        (tune.uniform(2, 1), "uniform(2, 1) is empty; the upper end must exceed the lower"),
        (tune.lograndint(3, 3), "lograndint(3, 3) is empty; the upper end must exceed the lower"),
        (tune.loguniform(2, 1), "loguniform(2, 1) is empty; the upper end must exceed the lower"),
        (tune.qrandint(3, 1, 2), "qrandint(3, 1, 2) is empty; the upper end must exceed the lower"),
        (tune.qrandint(1, 1, 1), "qrandint(1, 1, 1) is empty; the upper end must exceed the lower"),
        (tune.quniform(2, 1, 0.5), "quniform(2, 1, 0.5) is empty; the upper end must exceed the lower"),
        (tune.randint(0, float("inf")), "randint(0, inf) has no finite width; finite bounds are needed"),
        (tune.uniform(-1e308, 1e308), "uniform(-1e+308, 1e+308) has no finite width; finite bounds are needed"),
        (tune.randint(2.5, 4), "randint(2.5, 4) has a bound with a fraction; whole numbers are needed"),
        (tune.randint("a", "b"), "randint(a, b) has a bound that is no number; two numbers are needed"),
    ],
)
def test_ranges_that_hold_nothing_are_named(domain, message):
    for space, name in (({"x": domain}, "x"), ({"a": [{"n": tune.choice([1, domain])}]}, "a/0/n/1")):
        with pytest.raises(InputError) as caught:
            QuantumSearch(space)
        assert str(caught.value) == f"space: {name}: {message}"


def test_a_range_of_one_value_is_that_value():
    search = QuantumSearch({"x": tune.uniform(1, 1), "n": tune.randint(3, 4), "q": tune.qrandint(4, 4, 2)}, "l", "min")
    assert search.suggest("a") == {"x": 1.0, "n": 3, "q": 4}


def test_what_is_no_checkpoint_of_this_space_is_refused_and_changes_nothing(tmp_path):
    def saved(name, space):
        QuantumSearch(space, metric="l", mode="min", population=4).save(str(tmp_path / name))
        return (tmp_path / name).read_bytes()

    good = saved("good", {"x": tune.uniform(0, 3)})
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "others.npz", a=np.zeros(3))
    with np.load(tmp_path / "good") as file:
        arrays = dict(file)
    np.savez(tmp_path / "less.npz", **{name: one for name, one in arrays.items() if name != "answered"})
    files = {
        "text": b"no checkpoint",
        "empty": b"",
        "half": good[: len(good) // 2],
        **{name: (tmp_path / name).read_bytes() for name in ("array.npy", "others.npz", "less.npz")},
        "y": saved("y", {"y": tune.uniform(0, 3)}),
        "whole": saved("whole", {"x": tune.randint(0, 4)}),
        "bounds": saved("bounds", {"x": tune.uniform(0, 2)}),
        "choices": saved("choices", {"x": tune.choice([1, 2])}),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        search = QuantumSearch({"x": tune.uniform(0, 3)}, metric="l", mode="min", population=4)
        first, inside = search.suggest("a"), search.optimizer
        with pytest.raises(InputError, match=f"search: .*{name} "):
            search.restore(str(tmp_path / name))
        assert search.optimizer is inside and search.suggest("a") == first
    with pytest.raises(InputError, match="missing cannot be read"):
        QuantumSearch().restore(str(tmp_path / "missing"))
    with pytest.raises(InputError, match="another space"):
        QuantumSearch({"x": tune.choice(["a", "b"])}).restore(str(tmp_path / "choices"))
    search.restore(str(tmp_path / "good"))
    other_constants = QuantumSearch({"x": tune.uniform(0.0, 3.0), "more": 1}, metric="l", mode="min")
    other_constants.restore(str(tmp_path / "good"))
    assert other_constants.suggest("b") == {**search.suggest("b"), "more": 1}


@pytest.mark.parametrize("constant", [float("nan"), np.float32("nan"), np.array([1.0, np.nan]), np.array([np.nan])])
def test_nan_is_the_same_constant_as_nan(constant):
    space = {"x": tune.uniform(0, 1), "c": constant, "either": tune.choice([0.5, constant])}
    copied = {"x": 0.25, "c": constant + 0, "either": constant + 0}
    assert values_in(space, copied) == {("x",): 0.25, ("either",): 1}
    for other in (1.0, np.array([1.0, 2.0]), np.array([np.nan, np.nan, 1.0]), None, "nan"):
        with pytest.raises(InputError, match=r"c = .* is none of the space"):
            values_in(space, {**copied, "c": other})


def test_a_tuner_takes_it():
    search = QuantumSearch()
    assert search.set_search_properties("loss", "min", SPACE)
    assert not QuantumSearch(SPACE).set_search_properties("loss", "min", SPACE)
    assert run(search, 3)


class Pair(NamedTuple):
    first: object
    second: object


def test_a_configuration_has_the_form_of_its_space():
    marker = object()
    space = {
        "x": tune.uniform(0, 1),
        "hidden": [64, 32],
        "model/lr": tune.uniform(0, 1),
        "model": {"lr": tune.uniform(2, 3), 5: (1, tune.randint(0, 3)), "empty": {}, "none": []},
        "pair": Pair(tune.choice([1, "1"]), marker),
        "ordered": OrderedDict(b=tune.uniform(0, 1), a=1),
        "layers": tune.choice([{"kind": "conv", "width": tune.randint(8, 64)}, {"kind": "none"}, [1, 2]]),
    }
    search = QuantumSearch(space, metric="loss", mode="min", population=40)
    found = [search.suggest(str(i)) for i in range(40)]
    for config in found:
        assert list(config) == list(space)
        assert config["hidden"] == [64, 32] and config["hidden"] is not space["hidden"]
        assert 0 <= config["model/lr"] <= 1 and 2 <= config["model"]["lr"] <= 3
        assert config["model"][5][0] == 1 and config["model"][5][1] in (0, 1, 2)
        assert (config["model"]["empty"], config["model"]["none"]) == ({}, [])
        assert type(config["pair"]) is Pair and config["pair"].second is marker
        assert type(config["ordered"]) is OrderedDict and list(config["ordered"]) == ["b", "a"]
        layers = config["layers"]
        assert layers in ({"kind": "none"}, [1, 2]) or (layers["kind"] == "conv" and 8 <= layers["width"] < 64)
    assert {type(config["pair"].first) for config in found} == {int, str}
    assert {str(config["layers"])[:13] for config in found} == {"{'kind': 'con", "{'kind': 'non", "[1, 2]"}


def test_a_violation_that_is_not_reported_is_one():
    for result in ({}, {"excess": float("nan")}, {"excess": None}, {"excess": "?"}):
        search = QuantumSearch(SPACE, metric="loss", mode="min", violation="excess", population=4)
        for i in range(4):
            search.suggest(str(i))
        for i in range(3):
            search.on_trial_complete(str(i), {"loss": -9.0, **result})
        search.on_trial_complete("3", {"loss": 5.0, "excess": 0.0})
        assert search.optimizer.best_objective == 5.0 and search.optimizer.best_violation == 0


def test_a_metric_that_is_no_number_counts_as_a_failure():
    search = QuantumSearch(SPACE, metric="a/b", mode="max", population=4)
    for i in range(4):
        search.suggest(str(i))
    search.on_trial_complete("0", {"a/b": "diverged"})
    search.on_trial_complete("1", {"a/b": None})
    search.on_trial_complete("2", {"a": {"b": 2.0}})
    search.on_trial_complete("3", {"a/b": 7.0})
    assert search.optimizer.best_objective == -7.0
