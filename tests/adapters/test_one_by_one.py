import io
import pickle

import numpy as np
import pytest
from coinfer_kernels import QuantumOptimizer

from coinfer_ray.adapters.one_by_one import WORST, OneByOne, choice, excess, multiple, real, whole
from coinfer_ray.errors import InputError

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


def test_what_is_not_known_to_be_met_is_broken():
    for unknown in (None, float("nan"), [0.0, float("nan")], "?", float("inf"), [1e308, 1e308]):
        assert excess(unknown) == WORST
    assert excess(-1.0) == 0.0 and excess([0.5, -3.0, 0.25]) == 0.75 and excess(True) == 1.0


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_every_value_goes_back_to_where_it_came_from(variable):
    for x in np.linspace(variable.low, variable.high, 17):
        value = variable.decode(float(np.rint(x)) if variable.integer else x)
        back = variable.decode(variable.encode(value))
        assert back == value if isinstance(value, str | int) else back == pytest.approx(value)
        assert variable.low - 1e-12 <= variable.encode(value) <= variable.high + 1e-12


def test_an_answer_is_that_of_the_point_which_was_evaluated():
    search = OneByOne([real("x", -5.0, 5.0), choice("kind", [True, 1])], population=4, seed=0)
    first = search.suggest("a")
    search.answer("a", -7.0, found={"x": 4.5, "kind": 1})
    again = search.suggest("b")
    assert again == first
    search.answer("b", None, found={"x": again["x"]})  # failed before it asked for the rest
    third = search.suggest("c")
    assert third != first
    search.answer("c", 3.0, found={"x": third["x"]})  # says nothing of kind
    assert search.suggest("d") == third
    search.answer("d", 3.0, found=third)
    for key in "ef":
        search.answer(key, 5.0, found=search.suggest(key))
    assert search.optimizer.evaluations == 5
    assert search.optimizer.best_x.tolist() == [4.5, 1.0] and search.optimizer.best_objective == -7.0
    other = OneByOne(search.variables, population=4, seed=0)
    search.suggest("g")
    search.answer("g", -9.0, found={"x": 4.0, "kind": True})
    search.answer("nobody", -99.0, found={"x": 4.0, "kind": True})
    other.load(search.state())  # in the middle of a batch
    for key in "hijk":
        other.answer(key, 5.0, found=other.suggest(key))
    assert other.optimizer.best_x.tolist() == [4.0, 0.0]


def test_a_lost_answer_costs_its_own_place_only():
    search = OneByOne([real("x", -5.0, 5.0)], population=4, seed=0, patience=2)
    late = search.suggest("late")
    for key in "abc":
        search.answer(key, 5.0, found=search.suggest(key))
    assert search.awaited == ("late",)
    assert [search.suggest(str(i)) for i in range(8)] == [None] * 8
    assert search.suggest("next") is not None and search.awaited == ()
    assert search.optimizer.evaluations == 4 and search.optimizer.best_objective == 5.0
    search.answer("late", 1.0, found=late)
    search.answer("next", 5.0)
    for key in "def":
        search.answer(key, 5.0, found=search.suggest(key))
    assert search.optimizer.best_objective == 1.0 and search.optimizer.best_x.tolist() == [late["x"]]


def test_a_search_can_be_pickled():
    search = OneByOne(VARIABLES, population=4, seed=0)
    search.suggest("a")
    copy = pickle.loads(pickle.dumps(search))
    assert copy.suggest("b") == search.suggest("b")


def test_a_trial_that_asks_again_gets_the_same_and_loses_no_place() -> None:
    search = OneByOne([real("x", 0.0, 1.0)], seed=0, population=4, patience=1)
    first = search.suggest("a")
    assert all(search.suggest("a") == first for _ in range(200))
    asked = [key for key in map(str, range(500)) if search.suggest(key) is not None]
    assert len(asked) > 100  # batches that nobody answers are given up, one after the other


@pytest.mark.parametrize(
    ("variable", "values", "others"),
    [
        (real("x", 0.0, 1.0), [0.0, 0.44, 1, np.float32(0.5)], [-0.1, 1.1, True, np.True_, "0.5", None, float("nan")]),
        (real("x", 0.0, 0.9, step=0.3), [0.0, 0.3, 3 * 0.3, 0.1 + 0.2], [0.44, 0.31, 1.2, -0.3, "0.3", float("inf")]),
        (real("x", 1e-9, 1.0, log=True), [1e-9, 0.3, 1], [0.0, -1.0, 2.0, True, "0.5"]),
        (whole("n", 0, 10, step=5), [0, 5, 10, 5.0, np.int64(10)], [7, 5.2, 15, -5, True, False, "5", float("nan")]),
        (whole("n", 0, 10**10, step=5), [10**10, 5], [10**10 - 1, 10**400]),
        (whole("n", 1, 8, log=True), [1, 2, 8, 2.0], [2.5, 0, 9, 8.4, 0.6, True, None]),
        (multiple("n", 1, 4, 16), [16, 64], [8, 17, 80, True]),
        (multiple("x", 1, 4, 0.25, log=True), [0.25, 1.0, 1], [0.3, 1.25, True]),
        (choice("kind", ["a", 1, float("nan")]), ["a", 1, 1.0, np.float64("nan")], ["b", True, 2, None]),
        (choice("kind", [False, True]), [False, np.True_], [0, 1]),
    ],
)
def test_what_is_observed_is_a_value_of_the_space(variable, values, others):
    search = OneByOne([variable], population=4, seed=0)
    for value in values:
        assert search.observe({variable.name: value}, 1.0), value
        back = variable.decode(variable.place_of(value))
        assert back == value or back == pytest.approx(value, rel=1e-9, nan_ok=True)
    for value in others:
        assert not search.observe({variable.name: value}, 1.0), value
    assert not search.observe({}, 1.0)
    for key in "abcd":
        search.answer(key, 5.0, found=search.suggest(key))
    assert search.optimizer.evaluations == 4 + len(values) and search.optimizer.best_objective == 1.0


@pytest.mark.parametrize("objective", [float("nan"), np.float64("nan"), None])
def test_an_observed_objective_that_is_none_is_refused_at_once(objective):
    search = OneByOne([real("x", 0.0, 1.0)], population=4, seed=0)
    with pytest.raises(InputError, match=r"^objective: is (nan|None); a number is needed"):
        search.observe({"x": 0.5}, objective)
    for key in "abcd":
        search.answer(key, 5.0, found=search.suggest(key))
    assert search.optimizer.evaluations == 4


def test_a_trial_that_ran_between_two_steps_says_nothing_of_either():
    search = OneByOne([real("x", 0.0, 0.9, step=0.3)], population=4, seed=0)
    first = search.suggest("a")
    search.answer("a", -7.0, found={"x": 0.44})
    assert search.suggest("b") == first
    search.answer("b", 5.0, found=first)
    for key in "cde":
        search.answer(key, 5.0, found=search.suggest(key))
    assert search.optimizer.evaluations == 4 and search.optimizer.best_objective == 5.0
