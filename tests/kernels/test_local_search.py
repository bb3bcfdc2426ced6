import itertools

import numpy as np
import pytest
from coinfer_kernels import (
    Scenarios,
    TreeEnsemble,
    canonicalize,
    decode,
    features,
    solve_paper,
    solve_quantum,
    strategy_costs,
)
from coinfer_kernels import problem as problems
from coinfer_kernels.jit import kernel
from coinfer_kernels.local_search.model import level_model
from coinfer_kernels.local_search.moves import move_in_plane, move_on_line
from coinfer_kernels.local_search.state import enter_cut, look, new_here, take_place
from coinfer_kernels.problem import check_problem
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingRegressor

from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.space import SearchSpace
from tests.kernels.random_tables import random_ensemble, random_scenarios, random_tables
from tests.synthetic import BASE_VALIDATION, true_accuracy

SCENARIOS = 4


def small_problem(seed, *, snr=False, median=False, share=0.3):
    """A problem with few enough strategies to look at them all, and a floor that a share of them meets."""
    rng = np.random.default_rng(seed)
    space, cost = random_tables(rng)
    n_levels = np.minimum(space.n_levels, 2)
    sets = len(cost.kept) - 1
    n_levels[:sets] = np.minimum(space.n_levels[:sets], 3)
    n_levels[space.cut_variable] = space.n_levels[space.cut_variable]
    space = space._replace(n_levels=n_levels, canonical=np.minimum(space.canonical, n_levels - 1))
    ensemble = random_ensemble(rng, len(n_levels) + snr, trees=5, depth=3, median=median)
    scenarios = random_scenarios(rng, SCENARIOS, 0.0)
    accuracy = predicted(space, ensemble, strategies(space), scenarios.snr_db[0] if snr else None)
    floor = float(np.quantile(accuracy, 1 - share)) - 1e-9
    return space, cost, ensemble, scenarios._replace(accuracy_floor=np.full(SCENARIOS, floor))


def strategies(space):
    every = np.array(list(itertools.product(*(range(n) for n in space.n_levels))))
    return np.unique(canonicalize(space, every), axis=0)


def predicted(space, ensemble, levels, snr_db):
    return TreeEnsemble(ensemble).predict(features(space, levels, snr_db))


def optimum(space, cost, ensemble, scenarios, s):
    """The least objective of all strategies that are accurate enough, infinite where there are none."""
    levels = strategies(space)
    snr = scenarios.snr_db[s] if len(ensemble.coefficients) > len(space.n_levels) else None
    enough = predicted(space, ensemble, levels, snr) >= scenarios.accuracy_floor[s]
    objective = strategy_costs(cost, space.cut_variable, levels) @ scenarios.weights[s]
    return objective[enough].min(initial=np.inf)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@example(57361686, False, False)  # a cut with nothing to choose
def test_an_answer_is_a_strategy_and_none_is_better_than_the_best(seed, snr, median):
    problem = small_problem(seed, snr=snr, median=median, share=[0.5, 0.05, 0.002][seed % 3])
    space, cost, ensemble, scenarios = problem
    answer = solve_quantum(*problem, max_evaluations=2000, seed=seed)
    for s in range(SCENARIOS):
        best = optimum(*problem, s)
        if not answer.feasible[s]:
            assert answer.objective[s] == np.inf
            assert answer.accuracy[s] < scenarios.accuracy_floor[s]
            continue
        levels = answer.levels[s : s + 1]
        assert (canonicalize(space, levels) == levels).all()
        accuracy = predicted(space, ensemble, levels, scenarios.snr_db[s] if snr else None)
        assert answer.accuracy[s] == pytest.approx(accuracy[0], rel=1e-13)
        assert answer.accuracy[s] >= scenarios.accuracy_floor[s]
        objective = strategy_costs(cost, space.cut_variable, levels) @ scenarios.weights[s]
        assert answer.objective[s] == pytest.approx(objective[0], rel=1e-12)
        assert answer.objective[s] >= best * (1 - 1e-12)


def test_small_problems_are_solved_to_the_optimum():
    found = []
    for seed in range(25):
        problem = small_problem(seed, snr=seed % 2 == 0, median=seed % 5 == 0, share=[0.4, 0.05][seed % 2])
        answer = solve_quantum(*problem, max_evaluations=20_000, seed=seed)
        found += [answer.objective[s] <= optimum(*problem, s) * (1 + 1e-9) for s in range(SCENARIOS)]
    assert np.mean(found) >= 0.98


def test_it_is_cheaper_than_algorithm_1_at_fewer_evaluations():
    space = SearchSpace(load_graph("alexnet", 64))
    tables, cost = space.tables, DelayCalculator(space).tables
    rng = np.random.default_rng(0)
    cube = rng.random((200, len(space.variables)))
    cube[:100, : space.sets] *= 0.4
    x = features(tables, decode(tables, cube))
    regressor = GradientBoostingRegressor(random_state=0).fit(x, true_accuracy(space, x))
    ensemble = TreeEnsemble.from_sklearn(regressor).tables
    rates = [(1 / device, 1e-13, 1 / link) for device in (2e8, 3e9, 3e11) for link in (1e6, 1e7, 5e7)]
    floor = np.full(len(rates), BASE_VALIDATION - 0.02)
    scenarios = Scenarios(np.array(rates), floor, np.full(len(rates), np.nan))
    paper = solve_paper(tables, cost, ensemble, scenarios, max_evaluations=50_000)
    ours = solve_quantum(tables, cost, ensemble, scenarios, max_evaluations=30_000)
    assert ours.feasible.all()
    ratio = ours.objective / paper.objective
    assert ratio.max() < 1.001
    assert np.exp(np.log(ratio[paper.feasible]).mean()) < 0.9


def test_neither_threads_nor_batches_change_an_answer():
    problem = small_problem(3)
    one = solve_quantum(*problem, seed=4, max_evaluations=500, threads=1)
    two = solve_quantum(*problem, seed=4, max_evaluations=500, threads=2)
    assert all(np.array_equal(a, b, equal_nan=a.dtype == float) for a, b in zip(one, two, strict=True))
    space, cost, ensemble, scenarios = problem
    part = Scenarios(*(array[[3, 1]] for array in scenarios))
    few = solve_quantum(space, cost, ensemble, part, seed=4, max_evaluations=500, keys=[3, 1])
    assert all(np.array_equal(a, b[[3, 1]], equal_nan=a.dtype == float) for a, b in zip(few, one, strict=True))


def test_a_floor_that_nothing_meets_ends_infeasible_near_the_best_that_can_be_had():
    space, cost, ensemble, scenarios = small_problem(3)
    hopeless = scenarios._replace(accuracy_floor=np.full(SCENARIOS, 1e9))
    answer = solve_quantum(space, cost, ensemble, hopeless, max_evaluations=2000)
    assert not answer.feasible.any()
    assert (answer.objective == np.inf).all()
    best = predicted(space, ensemble, strategies(space), None).max()
    assert answer.accuracy == pytest.approx(best, rel=1e-12)


def test_free_scenarios_and_bad_input():
    space, cost, ensemble, scenarios = small_problem(3)
    free = scenarios._replace(weights=np.zeros((SCENARIOS, 3)))
    assert (solve_quantum(space, cost, ensemble, free, max_evaluations=200).objective == 0).all()
    for call, message in (
        (lambda: solve_quantum(space, cost, ensemble, scenarios, solutions=0), "solutions: 0 is too small"),
        (lambda: solve_quantum(space, cost, ensemble, scenarios, max_evaluations=0), "max_evaluations: 0"),
        (lambda: solve_quantum(space, cost._replace(quadratic=-cost.quadratic - 1), ensemble, scenarios), "quadratic"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@kernel
def one_move(problem, model, s, cut, places, v, w, budget, out):
    """Take the places, move in the plane of v and w (or along v), and say what the strategy in hand is held for."""
    here = new_here(problem, model, s)
    enter_cut(problem, model, cut, problem.scenarios.snr_db[s], here)
    for i in range(here.active[0]):
        u = here.order[i]
        take_place(model, here, u, places[u])
    look(model, here)
    if v == w:
        move_on_line(model, here, v, budget)
    else:
        move_in_plane(model, here, v, w, budget)
    out[0], out[1] = here.accuracy[0], here.objective[0]
    look(model, here)
    out[2], out[3] = here.accuracy[0], here.objective[0]
    return here.levels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.booleans())
def test_a_move_ends_at_the_best_point_of_its_line_or_plane(seed, snr, median, bounded):
    rng = np.random.default_rng(seed)
    space, cost, ensemble, scenarios = small_problem(seed, snr=snr, median=median, share=0.3)
    problem = check_problem(space, cost, ensemble, scenarios)
    model = level_model(problem)
    cut = int(rng.integers(space.n_levels[space.cut_variable]))
    free = np.flatnonzero(space.active[cut] & (np.arange(len(space.n_levels)) != space.cut_variable))
    if not len(free):
        return
    v, w = rng.choice(free, 2)
    places = rng.integers(0, model.counts)
    before = np.where(space.active[cut], model.levels[np.arange(len(places)), places], space.canonical)
    before[space.cut_variable] = cut
    points = np.repeat(before[None], space.n_levels[v] * space.n_levels[w], axis=0)
    points[:, v] = np.repeat(np.arange(space.n_levels[v]), space.n_levels[w])
    if v != w:
        points[:, w] = np.tile(np.arange(space.n_levels[w]), space.n_levels[v])
    objective = strategy_costs(cost, space.cut_variable, points) @ scenarios.weights[0]
    accuracy = predicted(space, ensemble, points, scenarios.snr_db[0] if snr else None)
    budget = float(np.quantile(objective, 0.6)) * (1 + 1e-9) if bounded else np.inf
    out = np.empty(4)
    levels = one_move(problem, model, 0, cut, places, v, w, budget, out)
    assert out[:2] == pytest.approx(out[2:], rel=1e-12, abs=1e-12)
    held = np.arange(len(levels)) != v
    held[w] = False
    assert (levels[held] == before[held]).all()
    within, enough = objective <= budget, accuracy >= scenarios.accuracy_floor[0]
    if (within & enough).any():
        assert out[0] >= scenarios.accuracy_floor[0] - 1e-9
        assert out[1] == pytest.approx(objective[within & enough].min(), rel=1e-12)
    elif within.any():
        assert out[1] <= budget
        assert out[0] == pytest.approx(accuracy[within].max(), rel=1e-12)
    else:
        assert out[1] == pytest.approx(objective.min(), rel=1e-12)


def test_a_little_budget_is_kept_to_but_for_the_first_descents():
    space = SearchSpace(load_graph("alexnet", 64))
    tables, cost = space.tables, DelayCalculator(space).tables
    rng = np.random.default_rng(0)
    x = features(tables, decode(tables, rng.random((100, len(space.variables)))))
    regressor = GradientBoostingRegressor(random_state=0).fit(x, true_accuracy(space, x))
    ensemble = TreeEnsemble.from_sklearn(regressor).tables
    scenarios = Scenarios(np.array([[1e-9, 1e-13, 1e-7]]), np.array([0.4]), np.array([np.nan]))
    spent = solve_quantum(tables, cost, ensemble, scenarios, max_evaluations=1).evaluations[0]
    more = solve_quantum(tables, cost, ensemble, scenarios, max_evaluations=200_000).evaluations[0]
    assert spent < 100_000 and 200_000 <= more < 220_000


def test_numpy_2_0_numbers_pairs_of_layers_in_another_shape(monkeypatch):
    """There, and in no other version, an inverse along an axis has as many dimensions as the array."""
    _, cost = random_tables(np.random.default_rng(1))
    expected, unique = problems.merge_layers(cost), np.unique

    def as_in_numpy_2_0(values, **options):
        found, inverse = unique(values, **options)
        return found, inverse.reshape(1, -1)

    monkeypatch.setattr(problems.np, "unique", as_in_numpy_2_0)
    for field, wanted in zip(problems.merge_layers(cost), expected, strict=True):
        assert np.array_equal(field, wanted)
