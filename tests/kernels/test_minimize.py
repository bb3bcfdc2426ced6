"""``minimize`` keeps SciPy's conventions, and says the same of compiled functions as of plain ones."""

import numba
import numpy as np
import pytest
from coinfer_kernels import QuantumOptimizer, minimize
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint, differential_evolution

BOX = [(0.0, 5.0)] * 2


def total(x):
    return x.sum(axis=1)


def late(x):
    """Fewer answers than solutions, in the short generation at the end only."""
    return x[:, 0].copy() if len(x) == 20 else x[:1, 0].copy()


def root(x):
    return 1.0 - np.sqrt(x[:, 0] - 1.0)


def late_root(x):
    return np.where(np.full(len(x), len(x) < 20), np.sqrt(-1.0 - x[:, 0]), 0.0)


def two(x):
    return np.stack((1.0 - x[:, 0], 0.5 - x[:, 1]), axis=1)


def half_infinite(x):
    return np.where(x[:, 0] < 1.0, np.inf, 0.0)


def twice_as_many(x):
    return np.zeros(2 * len(x))


def writes(x):
    x *= 2.0
    return x.sum(axis=1)


def writes_a_limit(x):
    x -= 1.0
    return -x[:, 0]


def of_one(x):
    x[0] += 1.0
    return x[0] + x[1]


def limits_of_one(x):
    return np.array([1.5 - x[0], 0.25 - x[1]])


def limit_of_one(x):
    return 1.5 - x[0]


def answer(fun, constraints, vectorized, compiled, population):
    """A run's outcome, or its error."""
    if compiled:
        fun, constraints = numba.njit(fun), None if constraints is None else numba.njit(constraints)
    try:
        found = minimize(fun, BOX, None, constraints, vectorized, 307, seed=1, population=population)
    except ValueError as error:
        return str(error)
    return found.x.tolist(), found.fun, found.violation, found.nfev, found.nit, found.message


@pytest.mark.parametrize(
    ("fun", "constraints", "vectorized", "outcome"),
    [
        (total, root, True, "constraints: returned NaN"),
        (total, late_root, True, "constraints: returned NaN"),
        (late, None, True, "fun: returned shape (1,) for 7 solutions"),
        (total, late, True, "constraints: returned shape (1,) for 7 solutions"),
        (total, twice_as_many, True, "constraints: returned shape (40,) for 20 solutions"),
        (lambda x: 1.0, None, True, "fun: returned shape ()"),
        (lambda x: np.zeros((len(x), 1, 1)), None, True, "fun: returned shape (20, 1, 1)"),
        (lambda x: x, None, False, "fun: returned shape (20, 2)"),
        (lambda x: 1j * x[:, 0], None, True, "fun: returned ndarray that cannot be read as real numbers"),
        (total, two, True, 1.5),
        (total, half_infinite, True, 1.0),
        (writes, writes_a_limit, True, 2.0),
        (of_one, limits_of_one, False, 2.75),
        (of_one, limit_of_one, False, 2.5),
    ],
)
def test_compiled_functions_are_judged_as_plain_ones(fun, constraints, vectorized, outcome):
    # Without a population's size CMA-ES takes part, whose batches are of other sizes.
    shared, plain = (answer(fun, constraints, vectorized, False, population) for population in (None, 20))
    assert answer(fun, constraints, vectorized, True, None) == shared
    assert answer(fun, constraints, vectorized, True, 20) == plain
    if isinstance(outcome, str):
        assert isinstance(plain, str) and plain.startswith(outcome)
    else:
        assert plain[1] == pytest.approx(outcome, abs=0.1) and plain[2] == 0.0


def test_an_infinite_violation_is_the_worst_one():
    found = minimize(total, BOX, constraints=lambda x: np.full((len(x), 2), np.inf), max_evaluations=100)
    assert not found.success and found.violation == np.finfo(np.float64).max


def test_answers_that_are_no_numbers_are_one_line():
    for given in (None, "text", [[1.0], [1.0, 2.0]]):
        for vectorized in (True, False):
            with pytest.raises(ValueError, match=r"^fun: returned (.*numbers|shape)") as caught:
                minimize(lambda x, given=given: given, BOX, vectorized=vectorized)
            assert "\n" not in str(caught.value)


CONSTRAINTS = {
    "nonlinear": lambda: NonlinearConstraint(lambda x: x[0] * x[1], 1.0, 2.0),
    "nonlinear, several values": lambda: NonlinearConstraint(lambda x: [x[0], x[1]], [1.0, -np.inf], [np.inf, 2.0]),
    "linear": lambda: LinearConstraint([[1.0, 2.0], [1.0, -1.0]], [2.0, -np.inf], [np.inf, 0.5]),
    "bounds": lambda: Bounds([0.5, 0.75], [4.0, 4.0]),
    "several": lambda: (
        NonlinearConstraint(lambda x: x[0] * x[1], 1.0, np.inf),
        LinearConstraint([1.0, 0.0], 2.0, 3.0),
    ),
    "none": lambda: (),
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_scipys_constraints_mean_what_they_mean_there(kind):
    def fun(x):
        return x[0] + 1.7 * x[1]

    ours = minimize(fun, BOX, constraints=CONSTRAINTS[kind](), vectorized=False, max_evaluations=6000)
    theirs = differential_evolution(fun, BOX, constraints=CONSTRAINTS[kind](), seed=1, polish=False)
    assert ours.success and ours.fun == pytest.approx(theirs.fun, abs=5e-3)


def test_constraints_with_plain_functions_among_them_and_of_many_solutions():
    parts = [lambda x: 1.0 - x[:, 0], NonlinearConstraint(lambda x: x[:, 1], 2.0, 3.0), Bounds([0, 0], [5, 5])]
    found = minimize(total, BOX, constraints=parts, max_evaluations=3000)
    assert found.fun == pytest.approx(3.0, abs=1e-3)


def test_further_arguments_go_to_the_objective():
    def fun(x, a, b):
        return ((x - a) ** 2).sum(axis=1) + b

    found = minimize(fun, BOX, args=(2.0, 7.0), max_evaluations=3000)
    assert found.x == pytest.approx([2, 2], abs=1e-3)
    compiled = minimize(numba.njit(fun), BOX, args=(2.0, 7.0), max_evaluations=3000)
    assert compiled.fun == pytest.approx(found.fun, abs=1e-9)


def test_callbacks_are_called_as_scipy_calls_them():
    seen = []

    def stops(result):
        seen.append(result.fun)
        raise StopIteration

    def named(*, intermediate_result):
        seen.append(intermediate_result.fun)
        return True

    def with_convergence(x, convergence):
        seen.append((x, convergence))
        return len(seen) > 40

    def with_a_default(x, convergence=0.0):
        seen.append((x, convergence))
        return True

    for callback in (stops, named, with_a_default):
        seen.clear()
        found = minimize(total, BOX, callback=callback, seed=3)
        assert found.nit == len(seen) == 1 and found.message == "the callback asked to stop"
    seen.clear()
    minimize(lambda x: 1.0 + total(x), BOX, callback=with_convergence, seed=3, population=20)
    assert seen[0][0].shape == (2,)
    assert 0 < seen[0][1] < seen[-1][1]
    seen.clear()
    minimize(lambda x: 1.0 + total(x), BOX, callback=with_convergence, seed=3)  # CMA-ES first: the population waits
    assert seen[0][1] == 0.0
    seen.clear()
    minimize(numba.njit(total), BOX, callback=stops)
    assert len(seen) == 1


def test_minus_infinity_ends_the_search_and_is_said():
    found = minimize(lambda x: np.full(len(x), -np.inf), BOX, max_evaluations=3000)
    assert found.fun == -np.inf and found.nfev < 3000
    assert found.message == "the objective is minus infinity, and nothing is less"


def test_a_stop_of_the_objectives_own_is_not_taken_for_the_callbacks():
    def fun(x):
        raise StopIteration

    with pytest.raises(StopIteration):
        minimize(fun, BOX, callback=lambda result: None)


def test_seeds_of_any_kind():
    def first(seed):
        return QuantumOptimizer(BOX, seed=seed).ask().tolist()

    assert first(None) != first(None)
    assert first(7) == first(7.0) == first(np.int64(7)) != first(2**63 - 1)
    for make in (np.random.default_rng, np.random.RandomState):
        assert first(make(5)) == first(make(5))
        generator = make(5)
        assert first(generator) != first(generator)


def test_counts_are_whole_numbers_of_any_type():
    assert minimize(total, BOX, max_evaluations=1e2, population=20.0).nfev == 100
    for options, message in (
        ({"max_evaluations": 10.5}, "max_evaluations: 10.5 is not a whole number"),
        ({"max_evaluations": np.inf}, "max_evaluations: inf is not a whole number"),
        ({"max_evaluations": "many"}, "max_evaluations: 'many' is not a whole number"),
        ({"population": 20.7}, "population: 20.7 is not a whole number"),
        ({"seed": 1.5}, "seed: 1.5 is not a whole number"),
        ({"seed": 2**63}, "seed: 9223372036854775808 is too large"),
        ({"target": np.nan}, "target: is NaN"),
        ({"bounds": [(-1e308, 1e308)]}, "bounds: variable 0 has .*their distance must be finite"),
        ({"constraints": {"type": "ineq", "fun": total}}, "constraints: dict is not understood"),
        ({"constraints": Bounds([0, np.nan], [1, 1])}, "constraints: lb or ub is NaN"),
        ({"constraints": LinearConstraint([[1, 2, 3]], 0, 1)}, "constraints: A has 3 columns for 2 variables"),
        ({"constraints": NonlinearConstraint(total, [0] * 3, [1] * 3)}, "constraints: lb has shape"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            minimize(**{"fun": total, "bounds": BOX, **options})


def test_an_observed_solution_is_held_and_built_upon():
    def fun(x):
        return ((x - 3.21) ** 2).sum(axis=1)

    optimizer = QuantumOptimizer(BOX, seed=0)
    x = optimizer.ask()
    optimizer.observe([3.2, 3.2], fun(np.array([[3.2, 3.2]]))[0])
    optimizer.tell(x, fun(x))
    assert optimizer.best_x.tolist() == [3.2, 3.2] and optimizer.evaluations == len(x) + 1
    second = QuantumOptimizer.from_state(optimizer.state())
    assert second.best_objective == optimizer.best_objective
    optimizer.observe([0.0, 0.0], 1e9)
    assert optimizer.best_x.tolist() == [3.2, 3.2]
    bare = QuantumOptimizer(BOX, seed=0)
    bare.tell(bare.ask(), fun(x))
    assert not np.array_equal(bare.ask(), optimizer.ask())  # the solution that was observed is among the parents
    whole = QuantumOptimizer(BOX, [True, False])
    for bad, message in (([9, 0], "outside the bounds"), ([0.5, 0], "a fraction"), ([0], "x: has shape")):
        with pytest.raises(ValueError, match=message):
            whole.observe(bad, 0.0)
    with pytest.raises(ValueError, match="objective: is NaN"):
        whole.observe([0, 0], np.nan)
