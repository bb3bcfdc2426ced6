import io

import numpy as np
import pytest
from coinfer_kernels import QuantumOptimizer

from coinfer_ray.adapters.one_by_one import OneByOne, choice, real, whole

VARIABLES = (
    real("x", -1.0, 2.0),
    real("rate", 1e-4, 1.0, log=True),
    real("share", 0.1, 0.9, step=0.2),
    whole("layers", 1, 8),
    whole("width", 1, 1000, log=True),
    whole("even", 2, 10, step=2),
    choice("kind", ["a", "b", "c"]),
)


def worth(found):
    return (
        (found["x"] - 0.3) ** 2 + abs(found["layers"] - 3) + abs(np.log(found["rate"] / 0.01)) + (found["kind"] != "b")
    )


def test_parameters_are_within_their_ranges_and_take_all_their_values():
    search = OneByOne(VARIABLES, population=100, seed=0)
    seen = [search.suggest(str(i)) for i in range(100)]
    assert search.suggest("one more") is None
    assert all(-1 <= one["x"] <= 2 and 1e-4 <= one["rate"] <= 1 for one in seen)
    assert np.median([one["rate"] for one in seen]) == pytest.approx(0.01, rel=2)  # 0.5 without the logarithm
    assert {round(one["share"], 9) for one in seen} == {0.1, 0.3, 0.5, 0.7, 0.9}
    assert {one["layers"] for one in seen} == set(range(1, 9))
    assert {one["even"] for one in seen} == {2, 4, 6, 8, 10}
    assert {one["kind"] for one in seen} == {"a", "b", "c"}
    widths = [one["width"] for one in seen]
    assert min(widths) >= 1 and max(widths) <= 1000 and all(isinstance(width, int) for width in widths)
    assert min(widths) < 5


def test_the_order_of_the_answers_does_not_matter_and_is_that_of_ask_and_tell():
    def run(order):
        search = OneByOne(VARIABLES, population=10, seed=3)
        for _ in range(5):
            found = {key: search.suggest(key) for key in map(str, range(10))}
            for key in order:
                search.answer(key, worth(found[key]))
        return search.optimizer

    forward, backward = run(list("0123456789")), run(list("9876543210"))
    assert forward.evaluations == backward.evaluations == 50
    assert (forward.best_x == backward.best_x).all()
    bare = QuantumOptimizer([(v.low, v.high) for v in VARIABLES], [v.integer for v in VARIABLES], population=10, seed=3)
    for _ in range(5):
        x = bare.ask()
        bare.tell(x, [worth({v.name: v.decode(value) for v, value in zip(VARIABLES, row, strict=True)}) for row in x])
    assert (bare.best_x == forward.best_x).all()


def test_failures_and_violations_rank_behind():
    search = OneByOne([real("x", 0.0, 1.0)], population=4, seed=0)
    for key in "abcd":
        search.suggest(key)
    search.answer("a", None)
    search.answer("b", float("nan"))
    search.answer("c", -1e9, violation=0.5)
    search.answer("nobody", -1e99)
    search.answer("d", 7.0)
    assert search.optimizer.best_objective == 7.0
    assert search.optimizer.evaluations == 4


def test_a_stop_in_the_middle_of_a_batch_changes_nothing():
    def step(search, key):
        found = search.suggest(key)
        search.answer(key, worth(found))
        return found

    straight = OneByOne(VARIABLES, population=10, seed=3)
    asked = [step(straight, str(i)) for i in range(40)]
    first = OneByOne(VARIABLES, population=10, seed=3)
    for i in range(23):
        step(first, str(i))
    first.suggest("running")  # lost with the process
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **first.state())
    file.seek(0)
    second = OneByOne(VARIABLES, population=10, seed=9)
    with np.load(file, allow_pickle=False) as state:
        second.load(state)
        with pytest.raises(ValueError, match="other parameters"):
            OneByOne(VARIABLES[:2], population=10).load(state)
    assert [step(second, str(i)) for i in range(23, 40)] == asked[23:]
