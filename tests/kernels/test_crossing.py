"""A crossing that costs something by itself: every solver and the atlas against full enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from coinfer_kernels import cheapest_feasible, latencies, solve_exact, solve_paper, solve_quantum, strategy_costs
from coinfer_kernels.atlas.crossing import build_crossing_atlas
from coinfer_kernels.notation import CUT_NONE
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_atlas import RECTANGLE, problem_and_floor, random_weights
from tests.kernels.test_exact import optima, small_problem
from tests.reference import exact, latency


def with_crossings(problem, seed):
    """The problem with a crossing that costs from nothing to more than everything else."""
    tables, cost, ensemble, scenarios = problem
    rng = np.random.default_rng(seed)
    crossing = 10 ** rng.uniform(-2, 6, len(scenarios.weights)) * rng.integers(0, 2, len(scenarios.weights))
    return tables, cost, ensemble, scenarios._replace(weights=np.column_stack([scenarios.weights, crossing]))


def objectives(problem, levels):
    """By the oracle, of one strategy for each scenario."""
    tables, cost, _, scenarios = problem
    costs = strategy_costs(cost, tables.cut_variable, levels)
    return [latency.objective(own, row) for own, row in zip(scenarios.weights, costs, strict=True)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.sampled_from([0.0, 1e-3, 0.2]))
def test_the_exact_solver_agrees_with_enumeration(seed, snr, median, gap):
    problem = with_crossings(small_problem(seed, snr=snr, median=median), seed)
    answer, best = solve_exact(*problem, gap=gap, threads=1), optima(problem)
    slack = 1e-9 * np.abs(np.where(np.isfinite(best), best, 0.0)) + 1e-300
    assert (answer.feasible == np.isfinite(best)).all()
    assert (answer.lower_bound <= best + slack).all()
    assert (answer.objective >= best - slack).all()
    assert (answer.gap <= gap + 1e-12).all()
    good = answer.feasible
    found = np.array(objectives(problem, answer.levels))[good]
    assert answer.objective[good] == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("solve", [solve_quantum, solve_paper])
def test_the_searches_count_it(solve):
    hits, answered = 0, 0
    for seed in range(25):
        problem = with_crossings(small_problem(seed), seed)
        answer, best = solve(*problem, max_evaluations=5_000, seed=seed), optima(problem)
        good = answer.feasible
        assert answer.objective[good] == pytest.approx(np.array(objectives(problem, answer.levels))[good], rel=1e-12)
        assert (answer.objective[good] >= best[good] * (1 - 1e-12)).all()
        hits += int((answer.objective[good] <= best[good] * (1 + 1e-9)).sum())
        answered += int(good.sum())
    assert answered >= 40
    assert hits >= (0.95 if solve is solve_quantum else 0.3) * answered


@pytest.mark.parametrize("solve", [solve_exact, solve_quantum, solve_paper])
def test_a_crossing_that_costs_nothing_changes_no_bit(solve):
    limits = {} if solve is solve_exact else {"max_evaluations": 2_000, "seed": 3}
    for seed in (2, 7, 12):
        tables, cost, ensemble, scenarios = small_problem(seed)
        free = scenarios._replace(weights=np.column_stack([scenarios.weights, np.zeros(len(scenarios.weights))]))
        one, other = (solve(tables, cost, ensemble, each, **limits) for each in (scenarios, free))
        assert all(np.array_equal(a, b, equal_nan=a.dtype == float) for a, b in zip(one, other, strict=True))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_latencies_and_the_cheapest_count_it_where_bits_are_sent(seed):
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 4, (20, 3)).astype(float)
    accuracy, weights = rng.random(20), rng.random((30, 4)) * [1, 1, 1, 5]
    product = latencies(costs, weights)
    expected = [[latency.objective(own, row) for own in weights] for row in costs]
    assert product == pytest.approx(np.array(expected), rel=1e-14)
    _, _, _, scenarios = small_problem(0, scenarios=30)
    index, objective = cheapest_feasible(
        costs, accuracy, scenarios._replace(weights=weights, accuracy_floor=np.full(30, 0.5))
    )
    allowed = np.where(accuracy[:, None] >= 0.5, product, np.inf)
    assert (index == allowed.argmin(axis=0)).all()
    assert (objective == allowed.min(axis=0)).all()


def on_the_device(problem):
    """The problem with all layers on the device at each cut that sends nothing, as in any network."""
    tables, cost, ensemble = problem
    layers = np.where(cost.cut_kind == CUT_NONE, len(cost.in_set), cost.cut_layers)
    return tables, cost._replace(cut_layers=layers), ensemble


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1e-3, 0.1]))
def test_the_atlas_with_crossings_agrees_with_enumeration(seed, tolerance):
    problem, floor, _ = problem_and_floor(seed)
    problem = on_the_device(problem)
    tables, cost, _ = problem
    rows = exact.enumerate_all(*problem)
    none = np.empty((0, len(tables.n_levels)), dtype=np.int64), np.empty((0, 3))
    sent = [row for row in rows if row[1][2] > 0 and row[2] >= floor]
    local = [row for row in rows if row[1][2] == 0 and row[2] >= floor]
    options = {"known_levels": none[0], "known_costs": none[1], "tolerance": tolerance, "threads": 1}
    if not sent:
        with pytest.raises(ValueError, match=r"cost\.cut_kind|no strategy reaches"):
            build_crossing_atlas(*problem, RECTANGLE, floor, **options)
        return
    atlas = build_crossing_atlas(*problem, RECTANGLE, floor, **options)
    assert 1 <= atlas.ratio <= 1 + tolerance
    assert (strategy_costs(cost, tables.cut_variable, atlas.levels) == atlas.costs).all()
    assert (atlas.accuracy >= floor).all()
    crosses = atlas.costs[:, 2] > 0
    assert crosses[:-1].all()
    assert crosses[-1] == (not local)
    rng = np.random.default_rng(seed)
    weights = random_weights(rng, RECTANGLE, 40)
    crossing = 10 ** rng.uniform(-3, 7, 40) * weights.sum(axis=1)
    both = np.column_stack([weights, crossing])
    best = np.array([exact.cheapest(rows, own, floor) for own in both])
    found = latencies(atlas.costs, both).min(axis=0)
    assert (found >= best * (1 - 1e-9)).all()
    assert (found <= best * atlas.ratio * (1 + 1e-9)).all()


def test_tables_that_the_atlas_cannot_take_are_named():
    problem, floor, _ = problem_and_floor(5)
    tables, cost, ensemble = problem
    none = {"known_levels": np.empty((0, len(tables.n_levels)), dtype=np.int64), "known_costs": np.empty((0, 3))}
    nowhere = cost._replace(cut_kind=np.full_like(cost.cut_kind, CUT_NONE))
    with pytest.raises(ValueError, match=r"cost\.cut_kind: nothing is sent at any cut"):
        build_crossing_atlas(tables, nowhere, ensemble, RECTANGLE, floor, **none)
    with pytest.raises(ValueError, match="weights: has 5 columns"):
        latencies(np.ones((2, 3)), np.ones((2, 5)))
