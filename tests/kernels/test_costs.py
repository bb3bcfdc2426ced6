import numpy as np
import pytest
from coinfer_kernels import Scenarios, canonicalize, cheapest_feasible, latencies, strategy_costs
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.random_tables import random_levels, random_scenarios, random_tables
from tests.reference import latency as reference


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_costs_equal_the_oracle(seed):
    rng = np.random.default_rng(seed)
    space, cost = random_tables(rng)
    levels = canonicalize(space, random_levels(rng, space, 12))
    assert strategy_costs(cost, space.cut_variable, levels).tolist() == [
        reference.costs(cost, space.cut_variable, row) for row in levels
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_latencies_and_the_cheapest_equal_the_oracle(seed, threads):
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 1000, (40, 3)).astype(float)
    accuracy = rng.random(40).round(1)
    scenarios = random_scenarios(rng, 300, 0.5)._replace(accuracy_floor=rng.choice([0.0, 0.5, 0.9, 2.0], 300))
    expected = [[reference.objective(w, row) for w in scenarios.weights] for row in costs]
    product = latencies(costs, scenarios.weights, threads=threads)
    assert product == pytest.approx(np.array(expected), rel=1e-14)

    index, objective = cheapest_feasible(costs, accuracy, scenarios, threads=threads)
    for s in range(300):
        feasible = [i for i in range(40) if accuracy[i] >= scenarios.accuracy_floor[s]]
        if not feasible:
            assert (index[s], objective[s]) == (-1, np.inf)
            continue
        assert index[s] == min(feasible, key=lambda i, s=s: (product[i, s], i))
        assert objective[s] == product[index[s], s]


def test_a_tie_goes_to_the_first_row():
    scenarios = Scenarios(np.ones((1, 3)), np.zeros(1), np.zeros(1))
    index, objective = cheapest_feasible(np.ones((3, 3)), np.ones(3), scenarios)
    assert (index[0], objective[0]) == (0, 3.0)


def test_accuracy_equal_to_the_floor_is_enough_and_nan_never_is():
    scenarios = Scenarios(np.ones((1, 3)), np.full(1, 0.85), np.zeros(1))
    assert cheapest_feasible(np.ones((1, 3)), [0.85], scenarios)[0].tolist() == [0]
    assert cheapest_feasible(np.ones((1, 3)), [np.nan], scenarios)[0].tolist() == [-1]


def test_bad_input_is_named():
    rng = np.random.default_rng(1)
    space, cost = random_tables(rng)
    levels = canonicalize(space, random_levels(rng, space, 2))
    scenarios = random_scenarios(rng, 2, 0.0)
    beyond = levels.copy()
    beyond[0, space.cut_variable] = len(cost.cut_layers)
    for call, message in (
        (lambda: strategy_costs(cost, space.cut_variable, levels[:, :3]), "levels: has 3 columns"),
        (lambda: strategy_costs(cost, space.cut_variable, beyond), r"levels \(cut\)"),
        (lambda: strategy_costs(cost, space.cut_variable, levels - 10), r"levels \("),
        (lambda: strategy_costs(cost._replace(in_set=cost.in_set + 99), 0, levels), "cost.in_set"),
        (lambda: strategy_costs(cost._replace(ratio=cost.ratio[:3]), 0, levels), "cost.ratio"),
        (lambda: latencies(np.ones((2, 2)), scenarios.weights), "costs: has 2 columns"),
        (lambda: cheapest_feasible(np.ones((2, 3)), np.ones(3), scenarios), "accuracy"),
        (lambda: cheapest_feasible(np.ones((2, 3)), np.ones(2), scenarios, threads=0), "threads: 0"),
        (
            lambda: cheapest_feasible(np.ones((2, 3)), np.ones(2), scenarios._replace(weights=-scenarios.weights)),
            "scenarios.weights",
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
