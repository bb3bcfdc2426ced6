import numpy as np
import pytest
from coinfer_kernels import (
    CostTables,
    EnsembleTables,
    Scenarios,
    Solutions,
    SpaceTables,
    TreeEnsemble,
    canonicalize,
    features,
    solve_quantum,
    strategy_costs,
)
from coinfer_kernels.exact.solve import solve_exact
from coinfer_kernels.notation import CUT_NONE
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.random_tables import random_ensemble, random_levels, random_tables
from tests.reference import exact

MAX_STRATEGIES = 1500


def small_space(rng):
    """A random space with so few strategies that all of them can be looked at, and its costs."""
    tables, cost = random_tables(rng)
    n_levels = tables.n_levels.copy()
    free = [v for v in range(len(n_levels)) if v != tables.cut_variable]
    while np.where(tables.active, n_levels, 1).prod(axis=1).sum() > MAX_STRATEGIES * n_levels[tables.cut_variable]:
        v = int(rng.choice(free))
        n_levels[v] = max(1, n_levels[v] - 1)
    return tables._replace(n_levels=n_levels, canonical=tables.canonical % n_levels), cost


def small_problem(seed, *, snr=False, median=False, linear=True, scenarios=3):
    """Tables, and floors that few of the strategies meet, or none, never exactly a prediction."""
    rng = np.random.default_rng(seed)
    tables, cost = small_space(rng)
    trees, depth = int(rng.integers(1, 12)), int(rng.integers(1, 7))
    ensemble = random_ensemble(rng, len(tables.n_levels) + snr, trees=trees, depth=depth, median=median)
    # Half of the thresholds lie exactly on what the predictor sees of a level.
    seen = np.vstack([tables.values, np.full((1, tables.values.shape[1]), 0.5)]).astype(np.float32)
    on_level = (rng.random(len(ensemble.feature)) < 0.5) & (ensemble.feature >= 0)
    drawn = seen[ensemble.feature, rng.integers(0, seen.shape[1], len(ensemble.feature))]
    ensemble = ensemble._replace(threshold=np.where(on_level, drawn, ensemble.threshold))
    if not linear:
        ensemble = ensemble._replace(coefficients=np.zeros_like(ensemble.coefficients))
    levels = canonicalize(tables, random_levels(rng, tables, 60))
    accuracy = TreeEnsemble(ensemble).predict(features(tables, levels, 0.5 if snr else None))
    floors = np.quantile(accuracy, rng.choice([0.0, 0.5, 0.8, 0.97, 1.0], scenarios)) + 1e-9
    floors[rng.random(scenarios) < 0.15] += 100.0
    weights = rng.random((scenarios, 3)) * rng.choice([0.0, 1e-3, 1.0, 1e3], (scenarios, 3))
    return tables, cost, ensemble, Scenarios(weights, floors, rng.choice([0.5, 0.1, 0.9], scenarios))


def optima(problem):
    """The least objective of each scenario by enumeration."""
    tables, cost, ensemble, scenarios = problem
    with_snr = len(ensemble.coefficients) > len(tables.n_levels)
    rows = None if with_snr else exact.enumerate_all(tables, cost, ensemble)
    found = []
    for s, floor in enumerate(scenarios.accuracy_floor):
        own = exact.enumerate_all(tables, cost, ensemble, scenarios.snr_db[s]) if with_snr else rows
        found.append(exact.cheapest(own, scenarios.weights[s], floor))
    return np.array(found)


def check(problem, answer, best):
    """What is true of any answer, solved or stopped: bounds hold, and the strategy is what it is said to be."""
    tables, cost, ensemble, scenarios = problem
    slack = 1e-9 * np.abs(np.where(np.isfinite(best), best, 0.0)) + 1e-300
    assert (answer.lower_bound <= best + slack).all()
    assert (answer.objective >= best - slack).all()
    good = answer.feasible
    assert (np.isfinite(answer.objective) == good).all()
    levels, snr_db = answer.levels[good], scenarios.snr_db[good]
    assert (canonicalize(tables, levels) == levels).all()
    seen = len(ensemble.coefficients) > len(tables.n_levels)
    accuracy = TreeEnsemble(ensemble).predict(features(tables, levels, snr_db if seen else None))
    assert (accuracy == answer.accuracy[good]).all()
    assert (accuracy >= scenarios.accuracy_floor[good]).all()
    costs = strategy_costs(cost, tables.cut_variable, levels)
    assert answer.objective[good] == pytest.approx((costs * scenarios.weights[good]).sum(axis=1), rel=1e-12)
    gap = (answer.objective[good] - answer.lower_bound[good]) / np.maximum(np.abs(answer.objective[good]), 1e-300)
    assert answer.gap[good] == pytest.approx(gap, abs=1e-15)


def check_solved(problem, answer, gap):
    best = optima(problem)
    check(problem, answer, best)
    assert (answer.feasible == np.isfinite(best)).all()
    assert (answer.gap <= gap + 1e-12).all()
    assert (answer.lower_bound[~answer.feasible] == np.inf).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.sampled_from([0.0, 1e-3, 0.2]))
def test_enumeration_agrees(seed, snr, linear, gap):
    problem = small_problem(seed, snr=snr, linear=linear)
    check_solved(problem, solve_exact(*problem, gap=gap, threads=1), gap)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_enumeration_agrees_for_a_weighted_median(seed, snr):
    problem = small_problem(seed, snr=snr, median=True)
    check_solved(problem, solve_exact(*problem, gap=0.0, threads=1), 0.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0.0, 0.05]))
def test_a_node_limit_leaves_an_honest_gap(seed, max_nodes, gap):
    problem = small_problem(seed, scenarios=4)
    answer = solve_exact(*problem, gap=gap, max_nodes=max_nodes, threads=1)
    assert (answer.evaluations <= max_nodes).all()
    check(problem, answer, optima(problem))


def some_feasible(problem, rng):
    """A strategy for each scenario that is accurate enough, if one of a few random ones is."""
    tables, _, ensemble, scenarios = problem
    levels = canonicalize(tables, random_levels(rng, tables, 40))
    accuracy = TreeEnsemble(ensemble).predict(features(tables, levels))
    good = accuracy >= scenarios.accuracy_floor[:, None]
    chosen = good.argmax(axis=1)
    unknown = np.zeros(len(chosen))
    return Solutions(levels[chosen], unknown, accuracy[chosen], unknown.astype(int), good.any(axis=1), unknown)


def test_a_wide_gap_is_as_honest():
    rng = np.random.default_rng(0)
    for seed in range(100, 220):
        problem = small_problem(seed, scenarios=4)
        gap = float(rng.choice([0.01, 0.1, 0.3, 0.6]))
        answer = solve_exact(*problem, incumbents=some_feasible(problem, rng), gap=gap, threads=1)
        assert (answer.gap <= gap + 1e-12).all()
        check(problem, answer, optima(problem))


def test_a_search_stopped_without_a_strategy_says_so():
    stopped = 0
    for seed in range(30):
        problem = small_problem(seed)
        answer, solved = (solve_exact(*problem, max_nodes=n, threads=1) for n in (1, 10**6))
        open_ = ~answer.feasible & np.isfinite(answer.lower_bound)
        assert (answer.gap[open_] == np.inf).all()
        assert (answer.objective[open_] == np.inf).all()
        assert (answer.lower_bound <= solved.objective + 1e-9).all()
        stopped += open_.sum()
    assert stopped > 0


def test_the_clock_ends_a_search_too():
    problem = small_problem(3)
    answer = solve_exact(*problem, max_seconds=1e-9, threads=1)
    assert (answer.evaluations == 0).all()
    check(problem, answer, optima(problem))


def test_threads_don_t_change_the_answer():
    problem = small_problem(5, scenarios=9)
    one, three = (solve_exact(*problem, threads=threads) for threads in (1, 3))
    assert all((a == b).all() for a, b in zip(one, three, strict=True))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_incumbents_change_the_nodes_not_the_optimum(seed):
    problem = small_problem(seed, scenarios=4)
    found = solve_quantum(*problem, max_evaluations=300, threads=1)
    without, given_ = (solve_exact(*problem, incumbents=start, gap=0.0, threads=1) for start in (None, found))
    assert given_.objective == pytest.approx(without.objective, rel=1e-9)
    check_solved(problem, given_, 0.0)
    assert given_.evaluations.sum() <= without.evaluations.sum()


def test_an_incumbent_whose_accuracy_is_known_otherwise_counts():
    problem = small_problem(5, scenarios=1)
    hopeless = problem[3]._replace(accuracy_floor=np.full(1, 1e6))
    start = solve_exact(*problem, threads=1)
    assert start.feasible[0]
    known = solve_quantum(*problem, max_evaluations=300, threads=1)._replace(accuracy=np.full(1, 2e6))
    answer = solve_exact(*problem[:3], hopeless, incumbents=known, threads=1)
    assert answer.feasible[0]
    assert answer.objective[0] == answer.lower_bound[0]
    assert (answer.levels == known.levels).all()


def test_bad_input_is_named():
    tables, cost, ensemble, scenarios = problem = small_problem(4)
    sets = len(cost.kept) - 1
    assert sets > 0
    crossed = cost.kept.copy()
    crossed[0] = np.arange(crossed.shape[1]) % 3 + 1
    wide = tables._replace(
        n_levels=np.where(np.arange(len(tables.n_levels)) == 0, 6, tables.n_levels),
        values=np.vstack([np.arange(tables.values.shape[1]), tables.values[1:]]),
    )
    found = solve_quantum(*problem, max_evaluations=300, threads=1)
    median = small_problem(4, median=True)
    for call, message in (
        (lambda: solve_exact(*problem, gap=-1.0), "gap: -1.0"),
        (lambda: solve_exact(*problem, max_nodes=0), "max_nodes: 0"),
        (lambda: solve_exact(*problem, max_seconds=0.0), "max_seconds: 0"),
        (lambda: solve_exact(*problem, threads=0), "threads: 0"),
        (lambda: solve_exact(wide, cost._replace(kept=crossed), ensemble, scenarios), "cost.kept: row 0 neither"),
        (lambda: solve_exact(tables, cost._replace(quadratic=cost.quadratic - 1e6), ensemble, scenarios), "quadratic"),
        (
            lambda: solve_exact(*median[:2], median[2]._replace(weights=-median[2].weights), median[3]),
            "ensemble.weights: holds negative",
        ),
        (
            lambda: solve_exact(
                *problem, incumbents=found._replace(accuracy=found.accuracy - 1e3, feasible=np.ones(3, dtype=bool))
            ),
            "incumbents: row 0 has accuracy",
        ),
        (lambda: solve_exact(*problem, incumbents=found._replace(feasible=np.ones(2, dtype=bool))), "incumbents.feas"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_no_scenarios_is_a_batch_too():
    tables, cost, ensemble, _ = small_problem(3)
    empty = Scenarios(np.empty((0, 3)), np.empty(0), np.empty(0))
    assert solve_exact(tables, cost, ensemble, empty).levels.shape == (0, len(tables.n_levels))


def test_what_reduced_costs_drop_bounds_the_optimum_too():
    """Three sets, x, y and z, of which two have to be kept: the best are x and y, the incumbent keeps y and z.

    The costs are 87 and 100. The relaxation keeps y and half of z, for 78.5; with x kept it says 87, above the cutoff
    of 0.85 x 100, so that x is dropped, and what is left costs 100: no bound but that of x is at the optimum or below.
    """
    sets, variables = 3, 3 + 1 + 8
    values = np.zeros((variables, 2))
    values[:sets, 1] = 1.0
    values[sets + 1 :] = 1.0
    one, unused = np.ones(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    tables = SpaceTables(
        n_levels=np.where(np.arange(variables) < sets, 2, 1),
        values=values,
        cut_variable=sets,
        active=np.ones((1, variables), dtype=bool),
        canonical=np.zeros(variables, dtype=np.int64),
    )
    cost = CostTables(
        in_set=np.full(sets, sets),
        out_set=np.arange(sets),
        quadratic=np.zeros(sets),
        linear=np.ones(sets),
        kept=np.array([(35.0, 5.0), (47.0, 5.0), (48.0, 5.0), (1.0, 1.0)]),
        cut_layers=sets * one,
        cut_kind=CUT_NONE * one,
        cut_set=sets * one,
        cut_channels=np.ones(1),
        cut_height=one,
        cut_width=one,
        codec_variable=sets + 1,
        ratio=values[sets + 1 :].copy(),
        cut_bits=np.full(1, 32.0),
        input_bits=32.0,
        codec_flops=True,
    )
    ensemble = EnsembleTables(
        feature=unused,
        threshold=np.zeros(0),
        left=unused,
        right=unused,
        value=np.zeros(0),
        roots=unused,
        weights=np.zeros(0),
        median=False,
        intercept=5.0,
        coefficients=np.array([-1.0, -2.0, -2.0] + [0.0] * 9),
    )
    problem = tables, cost, ensemble, Scenarios(np.ones((1, 3)), np.array([2.999]), np.zeros(1))
    pruned = np.zeros((1, variables), dtype=np.int64)
    pruned[0, 0] = 1
    incumbent = Solutions(pruned, np.array([100.0]), np.array([4.0]), one, np.ones(1, dtype=bool), np.array([np.nan]))
    answer = solve_exact(*problem, incumbents=incumbent, gap=0.15, threads=1)
    assert optima(problem) == [87.0]
    assert answer.objective[0] == 100.0
    assert 85.0 <= answer.lower_bound[0] <= 87.0
    check(problem, answer, optima(problem))
