"""Costs that are another function on the server than on the device, and codecs priced by more than FLOPs."""

from __future__ import annotations

import numpy as np
import pytest
from coinfer_kernels import canonicalize, solve_exact, solve_quantum, strategy_costs
from coinfer_kernels.atlas.build import build_atlas
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.random_tables import random_levels, random_tables
from tests.kernels.test_atlas import RECTANGLE, problem_and_floor, random_weights
from tests.kernels.test_exact import optima, small_problem
from tests.reference import exact, latency


def in_seconds(cost, seed):
    """The tables with seconds: other coefficients on either side, none of which is a whole number."""
    rng = np.random.default_rng(seed)
    layers = len(cost.in_set)
    return cost._replace(
        quadratic=rng.random(layers) * 1e-3,
        linear=rng.random(layers) * 1e-2,
        server_quadratic=rng.random(layers) * 1e-5 * rng.integers(0, 2, layers),
        server_linear=rng.random(layers) * 1e-4,
        codec_price=rng.random((2, 2, 3)) * [1e-6, 1e-4, 1e-2],
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_costs_equal_the_oracle(seed):
    rng = np.random.default_rng(seed)
    space, cost = random_tables(rng)
    cost = in_seconds(cost, seed)
    levels = canonicalize(space, random_levels(rng, space, 30))
    costs = strategy_costs(cost, space.cut_variable, levels)
    assert costs == pytest.approx(np.array([latency.costs(cost, space.cut_variable, row) for row in levels]), rel=1e-12)


def test_sides_that_are_alike_change_no_bit():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        space, cost = random_tables(rng)
        levels = canonicalize(space, random_levels(rng, space, 30))
        flops = np.array([[[1.0, 0.0, 0.0]] * 2] * 2)
        said = cost._replace(server_quadratic=cost.quadratic, server_linear=cost.linear, codec_price=flops)
        one, other = (strategy_costs(each, space.cut_variable, levels) for each in (cost, said))
        assert (one == other).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 1e-3]))
def test_the_exact_solver_agrees_with_enumeration(seed, crossing, gap):
    tables, cost, ensemble, scenarios = small_problem(seed)
    weights = np.column_stack([np.ones((3, 2)), scenarios.weights[:, 2:] * 1e-4])
    if crossing:
        weights = np.column_stack([weights, [0.0, 0.01, 1.0]])
    problem = tables, in_seconds(cost, seed), ensemble, scenarios._replace(weights=weights)
    answer, best = solve_exact(*problem, gap=gap, threads=1), optima(problem)
    assert (answer.feasible == np.isfinite(best)).all()
    good = answer.feasible
    assert (answer.objective[good] >= best[good] * (1 - 1e-9)).all()
    assert (answer.objective[good] <= best[good] * (1 + gap + 1e-9) / (1 - gap)).all()
    assert (answer.lower_bound[good] <= best[good] * (1 + 1e-9)).all()
    quick = solve_quantum(*problem, max_evaluations=3_000, seed=1)
    assert (quick.objective[quick.feasible] >= best[quick.feasible] * (1 - 1e-9)).all()
    found = strategy_costs(problem[1], tables.cut_variable, quick.levels)
    own = [latency.objective(w, row) for w, row in zip(weights, found, strict=True)]
    assert quick.objective[quick.feasible] == pytest.approx(np.array(own)[quick.feasible], rel=1e-11)


def test_the_atlas_agrees_with_enumeration():
    for seed in range(12):
        (tables, cost, ensemble), floor, _ = problem_and_floor(seed)
        problem = tables, in_seconds(cost, seed), ensemble
        rows = exact.enumerate_all(*problem)
        atlas = build_atlas(*problem, RECTANGLE, floor, threads=1)
        weights = random_weights(np.random.default_rng(seed), RECTANGLE, 30)
        best = np.array([exact.cheapest(rows, own, floor) for own in weights])
        _, objective = atlas.lookup(weights)
        assert (objective >= best * (1 - 1e-9)).all()
        assert (objective <= best * atlas.ratio * (1 + 1e-9)).all()


def test_bad_tables_are_named():
    rng = np.random.default_rng(3)
    space, cost = random_tables(rng)
    levels = canonicalize(space, random_levels(rng, space, 2))
    for changes, message in (
        ({"server_quadratic": -np.ones(len(cost.in_set))}, r"cost\.server_quadratic: holds negative"),
        ({"server_linear": np.full(len(cost.in_set), np.nan)}, r"cost\.server_linear: holds NaN"),
        ({"server_linear": np.ones(len(cost.in_set) + 1)}, r"cost\.server_linear"),
        ({"codec_price": -np.ones((2, 2, 3))}, r"cost\.codec_price: holds negative"),
        ({"codec_price": np.ones((2, 3))}, r"cost\.codec_price"),
    ):
        with pytest.raises(ValueError, match=message):
            strategy_costs(cost._replace(**changes), space.cut_variable, levels)
