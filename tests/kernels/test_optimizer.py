import io

import numba
import numpy as np
import pytest
from coinfer_kernels import OptimizeResult, QuantumOptimizer, minimize
from scipy.optimize import Bounds, differential_evolution


def sphere(x):
    return ((x - 0.3) ** 2).sum(axis=-1)


def rastrigin(x):
    return (10 + x**2 - 10 * np.cos(2 * np.pi * x)).sum(axis=-1)


@numba.njit
def jitted_sphere(x):
    out = np.zeros(x.shape[0])
    for i in range(x.shape[0]):
        for d in range(x.shape[1]):
            out[i] += (x[i, d] - 0.3) ** 2
    return out


@numba.njit
def jitted_limit(x):
    return 1.0 - x[:, 0]


@numba.njit
def jitted_sphere_of_one(x):
    return ((x - 0.3) ** 2).sum()


@numba.njit
def jitted_limits_of_one(x):
    return 1.0 - x[:2]


BOX = [(-5.0, 4.0)] * 5


def test_it_approaches_the_minimum():
    result = minimize(sphere, BOX, max_evaluations=6000, seed=1)
    assert result.fun < 1e-9
    assert result.fun == sphere(result.x)
    assert result.success and result.violation == 0
    assert result.nfev == 6000
    assert ((result.x >= -5) & (result.x <= 4)).all()


def test_the_default_is_no_worse_than_differential_evolution_at_equal_evaluations():
    for fun in (sphere, rastrigin):
        ours = [minimize(fun, BOX, max_evaluations=4500, seed=seed).fun for seed in range(5)]
        theirs = [
            differential_evolution(fun, BOX, maxiter=59, popsize=15, tol=0, polish=False, seed=seed).fun
            for seed in range(5)
        ]
        assert np.median(ours) <= np.median(theirs)


def test_integers_are_integers_and_found_exactly():
    def fun(x):
        return (x[:, 0] - 7) ** 2 + (x[:, 1] + 2) ** 2 + (x[:, 2] - 0.5) ** 2 + np.abs(x[:, 0] + 3 * x[:, 1] - 1)

    result = minimize(
        fun, [(-20.5, 20.5), (-20, 20), (0, 1)], integrality=[True, True, False], max_evaluations=4000, seed=2
    )
    assert result.x[:2].tolist() == [7, -2]
    assert result.fun == pytest.approx(0, abs=1e-6)
    optimizer = QuantumOptimizer([(-2, 2), (0, 1)], [1, 0])
    for _ in range(5):
        x = optimizer.ask()
        assert np.isin(x[:, 0], [-2, -1, 0, 1, 2]).all()
        optimizer.tell(x, sphere(x))


def test_constraints_are_met():
    result = minimize(
        sphere,
        [(-2, 2)] * 3,
        constraints=lambda x: np.stack([1 - x[:, 0], x[:, 1] + 0.5], axis=1),
        max_evaluations=6000,
        seed=3,
    )
    assert result.success
    assert result.x[0] >= 1 and result.x[1] <= -0.5
    best = 0.7**2 + 0.8**2
    assert result.fun == pytest.approx(best, rel=1e-4)


def test_impossible_constraints_end_with_the_least_violation():
    result = minimize(sphere, BOX, constraints=lambda x: 2 + (x[:, 0] - 1) ** 2, max_evaluations=3000)
    assert not result.success
    assert result.violation == pytest.approx(2, abs=1e-3)
    assert result.message.startswith("no feasible solution")


def test_jitted_functions_give_the_same_answer_as_python_ones():
    for fun, limits, vectorized in (
        (jitted_sphere, None, True),
        (jitted_sphere, jitted_limit, True),
        (jitted_sphere_of_one, jitted_limits_of_one, False),
    ):
        python = None if limits is None else limits.py_func
        ours = minimize(fun, BOX, None, limits, vectorized, max_evaluations=1010, seed=4)
        theirs = minimize(fun.py_func, BOX, None, python, vectorized, max_evaluations=1010, seed=4)
        assert (ours.x == theirs.x).all()
        assert (ours.fun, ours.nfev, ours.nit, ours.violation) == (theirs.fun, 1010, theirs.nit, theirs.violation)


def test_target_callback_and_budget_end_the_search():
    result = minimize(sphere, BOX, target=0.1, seed=0)
    assert result.fun <= 0.1 and result.nfev < 10_000 and "target" in result.message
    assert minimize(jitted_sphere, BOX, target=0.1, seed=0).nfev == result.nfev
    seen: list[OptimizeResult] = []

    def stop(result):
        seen.append(result)
        return len(seen) == 3

    result = minimize(sphere, BOX, callback=stop)
    assert result.nit == 3
    assert [one.fun for one in seen] == sorted((one.fun for one in seen), reverse=True)
    calls = []
    minimize(lambda x: calls.append(len(x)) or sphere(x), BOX, max_evaluations=77)
    assert sum(calls) == 77


@pytest.mark.parametrize("integral", [[False] * 4, [False, False, False, True]])
@pytest.mark.parametrize("population", [None, 20])
def test_stopped_saved_and_gone_on_asks_as_without_the_stop(integral, population):
    def run(optimizer, calls):
        asked = []
        for _ in range(calls):
            x = optimizer.ask()
            asked.append(x)
            optimizer.tell(x, rastrigin(x), np.maximum(0.0, x[:, 1] - 1))
        return asked

    box = [(-5, 5)] * 4
    straight = run(QuantumOptimizer(box, integral, population=population, seed=5), 400)
    first = QuantumOptimizer(box, integral, population=population, seed=5)
    run(first, 250)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **first.state())
    file.seek(0)
    with np.load(file, allow_pickle=False) as state:
        second = QuantumOptimizer.from_state(state)
    assert second.best_objective == first.best_objective and second.evaluations == first.evaluations
    rest = run(second, 150)
    assert all((a == b).all() for a, b in zip(straight[250:], rest, strict=True))
    assert not (QuantumOptimizer(box, integral, population=population, seed=6).ask() == straight[0]).all()


def test_fixed_variables_and_scipy_bounds():
    result = minimize(sphere, Bounds([-1, 2], [1, 2]), max_evaluations=2000)
    assert result.x == pytest.approx([0.3, 2.0], abs=1e-3)


def test_misuse_of_ask_and_tell_raises():
    optimizer = QuantumOptimizer(BOX)
    with pytest.raises(RuntimeError, match="nothing has been asked"):
        optimizer.tell(np.zeros((1, 5)), [0.0])
    x = optimizer.ask()
    with pytest.raises(RuntimeError, match="have not been told"):
        optimizer.ask()
    with pytest.raises(RuntimeError, match="not told"):
        optimizer.state()
    good = sphere(x)
    for call, message in (
        (lambda: optimizer.tell(x[::-1], good), "not the solutions of the last ask"),
        (lambda: optimizer.tell(x, good[1:]), "objective: has shape"),
        (lambda: optimizer.tell(x, np.where(good == good[3], np.nan, good)), "NaN for solution 3"),
        (lambda: optimizer.tell(x, good, -np.ones(len(x))), "violation: holds negative"),
        (lambda: optimizer.tell(x, good, np.full(len(x), np.inf)), "violation: holds"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    optimizer.tell(x, good)
    assert optimizer.best_objective == good.min()
    assert (optimizer.best_x == x[good.argmin()]).all()


def test_an_altered_state_is_named():
    state = QuantumOptimizer(BOX, seed=1).state()
    for name, value, message in (
        ("cma.free", state["cma.free"][:-1], "state: cma.free: has shape"),
        ("cma.free", state["cma.free"] + 1, "state: cma.free names other variables"),
        ("population.objective", state["population.objective"][:, None], "state: population.objective: has 2 dim"),
    ):
        with pytest.raises(ValueError, match=message):
            QuantumOptimizer.from_state(state | {name: value})


def test_bad_input_is_named():
    for call, message in (
        (lambda: minimize(sphere, []), "bounds"),
        (lambda: minimize(sphere, [(0, 1, 2)]), "bounds: has shape"),
        (lambda: minimize(sphere, [(1, 0)]), "must not exceed"),
        (lambda: minimize(sphere, [(0, np.inf)]), "bounds: holds NaN or infinite"),
        (lambda: minimize(sphere, [(0.2, 0.8)], integrality=[True]), "no integer lies between"),
        (lambda: minimize(sphere, BOX, integrality=[True, False]), "integrality"),
        (lambda: minimize(sphere, BOX, max_evaluations=0), "max_evaluations: 0"),
        (lambda: minimize(sphere, BOX, population=3), "population: 3"),
        (lambda: minimize(sphere, BOX, seed=-1), "seed: -1"),
        (lambda: minimize(lambda x: np.full(len(x), np.nan), BOX), "fun: returned NaN"),
        (lambda: minimize(lambda x: x, BOX), "fun: returned shape"),
        (lambda: minimize(lambda x: 1.0, BOX), "fun: returned shape"),
        (lambda: minimize(numba.njit(lambda x: x[:, 0] * np.nan), BOX), "fun: returned NaN"),
        (lambda: QuantumOptimizer.from_state({}), "state: 'format' is missing"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
