"""CMA-ES and its sharing with SHADE: step by step against plain Python, and on what it is there for."""

import numpy as np
import pytest
from coinfer_kernels import QuantumOptimizer, minimize
from coinfer_kernels.blackbox.cma import ENDED, RUN, ask_cma, new_cma, tell_cma

from tests.reference.cma import Gaussian
from tests.reference.random_stream import Stream


def valley(x):
    """Rosenbrock's function, whose valley is narrow and curved."""
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(axis=1)


def bowl(x):
    return ((x - 0.3) ** 2).sum(axis=1)


def corner(x):
    return x.sum(axis=1)


def nowhere(x):
    return np.zeros(len(x))


def half_plane(x):
    return np.maximum(0.0, 1.2 - x.sum(axis=1))


CASES = {
    "a bowl": (3, bowl, None, 60),
    "in a corner": (4, corner, None, 60),
    "constrained": (2, bowl, half_plane, 60),
    "a plateau: restarts of both kinds": (2, nowhere, None, 300),
    "one variable": (1, bowl, None, 60),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gaussian_equals_its_oracle(case):
    dimensions, objective, constraint, generations = CASES[case]
    state = new_cma(np.zeros(dimensions), np.ones(dimensions), np.arange(dimensions), False, 5)
    oracle = Gaussian(dimensions, Stream(5, 0, 1))
    for generation in range(generations):
        asked = state.trial[: ask_cma(state)].copy()
        expected = np.array(oracle.ask())
        np.testing.assert_allclose(asked, expected, rtol=1e-6, atol=1e-9, err_msg=f"generation {generation}")
        violation = np.zeros(len(asked)) if constraint is None else constraint(asked)
        tell_cma(state, objective(asked), violation)
        oracle.tell(objective(asked).tolist(), violation.tolist())
        assert state.counters[ENDED] == oracle.ended
    assert state.counters[RUN] == oracle.runs
    assert (oracle.runs > 3) == ("restarts" in case)


@pytest.mark.parametrize(("around", "wait"), [(False, 100 + 100 * 4**1.5 // 8), (True, 120 + 30 * 4 // 8)])
def test_a_run_without_a_gain_ends_when_a_short_axis_would_have_been_learned(around, wait):
    dimensions, samples = 4, 8
    state = new_cma(np.zeros(dimensions), np.ones(dimensions), np.arange(dimensions), around, 3)
    generation = 0
    while generation == 0 or state.counters[ENDED] == 0:
        assert ask_cma(state) == samples
        tell_cma(state, generation + np.arange(samples) / samples, np.zeros(samples))
        generation += 1
    assert generation == next(g for g in range(1, 1000) if g - 1 > wait + g // 5)


def test_a_narrow_curved_valley_is_followed_to_its_end():
    box = [(-5.0, 5.0)] * 10
    ours = minimize(valley, box, max_evaluations=10_000, seed=1)
    assert ours.fun < 1e-6
    alone = minimize(valley, box, max_evaluations=10_000, seed=1, population=40)
    assert alone.fun > 0.01  # why it is there


def test_a_corner_is_met_exactly():
    found = minimize(corner, [(-1.0, 2.0)] * 8, max_evaluations=2000, seed=0)
    assert found.x.tolist() == [-1.0] * 8


def test_among_integers_it_ends_what_the_population_began():
    def fun(x):
        turned = x[:, 2:] @ np.array([[1.0, 30.0], [-1.0, 30.0]])
        return (x[:, 0] - 3) ** 2 + abs(x[:, 1] + 2) + ((turned - 7.0) ** 2).sum(axis=1)

    found = minimize(fun, [(-8, 8)] * 4, [True, True, False, False], max_evaluations=4000, seed=2)
    assert found.x[:2].tolist() == [3, -2] and found.fun < 1e-9
    optimizer = QuantumOptimizer([(-8, 8)] * 4, [True, True, False, False], seed=2)
    for _ in range(120):
        x = optimizer.ask()
        assert (x[:, :2] == np.rint(x[:, :2])).all() and (abs(x) <= 8).all()
        optimizer.tell(x, fun(x))


def test_a_fixed_variable_stays_and_nothing_left_to_move_is_no_trouble():
    found = minimize(bowl, [(0.0, 1.0), (0.5, 0.5), (0.0, 1.0)], max_evaluations=1500)
    assert found.x[1] == 0.5 and found.fun == pytest.approx(0.04, abs=1e-9)
    assert minimize(bowl, [(0.5, 0.5)], max_evaluations=50).x.tolist() == [0.5]


def test_an_observed_solution_moves_the_gaussian_there():
    moved, bare = (QuantumOptimizer([(0.0, 1.0)] * 3, seed=1) for _ in range(2))
    x = moved.ask()
    moved.observe([0.3, 0.3, 0.3], 0.0)
    for optimizer in (moved, bare):
        optimizer.tell(x if optimizer is moved else optimizer.ask(), bowl(x))
    assert not np.array_equal(moved.ask(), bare.ask())
