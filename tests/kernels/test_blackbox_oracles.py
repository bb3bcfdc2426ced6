"""The optimizers of bounded problems, step by step against the same in plain Python."""

import math

import numpy as np
import pytest
from coinfer_kernels import QuantumOptimizer

from tests.reference.blackbox import AlgorithmOne, Mpss, Population
from tests.reference.random_stream import Stream


def bowl(points):
    return ((points - 0.3) ** 2).sum(axis=1)


def waves(points):
    return (points**2 - np.cos(3 * points)).sum(axis=1)


def half_plane(points):
    return np.maximum(0.0, 1.0 - points.sum(axis=1))


def nowhere(points):
    return np.zeros(len(points))


def unreachable(points):
    """Infeasible all over, alike in wide parts, so that the objective decides there."""
    return np.where(points[:, 0] > 0, 2.0, 1.0)


def half_infinite(points):
    return np.where(points[:, 1] > 1, np.inf, bowl(points))


REAL = [(-5.0, 4.0)] * 3
MIXED = [(-5.0, 4.0), (0.0, 7.0), (-2.0, 2.0), (3.0, 4.0)]
WHOLE = [False, True, True, False]
CASES = {
    "real": (REAL, None, bowl, None, 12, 60),
    "constrained": (REAL, None, waves, half_plane, 10, 80),
    "integers": (MIXED, WHOLE, waves, half_plane, 9, 120),
    "integers alone": ([(0.0, 3.0), (0.0, 1.0)], [True, True], bowl, None, 4, 150),
    "a plateau: restarts without a success": (REAL, None, nowhere, None, 5, 230),
    "infeasible everywhere": (REAL, None, half_infinite, unreachable, 6, 60),
    "one variable: collapses and restarts": ([(-1.0, 2.0)], None, bowl, None, 5, 400),
}


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_population_equals_its_oracle(case, seed):
    bounds, whole, objective, constraint, size, generations = CASES[case]
    optimizer = QuantumOptimizer(bounds, whole, population=size, seed=seed)
    low, high = (list(ends) for ends in zip(*bounds, strict=True))
    oracle = Population(low, high, whole or [False] * len(bounds), size, Stream(seed, 0, 0))
    for generation in range(generations):
        asked = optimizer.ask()
        np.testing.assert_allclose(asked, oracle.ask(), rtol=1e-12, atol=0, err_msg=f"generation {generation}")
        oracle.trials = asked.tolist()  # the last digit must not grow over hundreds of generations
        values = objective(asked)
        excess = np.zeros(size) if constraint is None else constraint(asked)
        optimizer.tell(asked, values, excess)
        oracle.tell(values.tolist(), excess.tolist())
    state = optimizer.state()
    assert state["engine.reach_history"].tolist() == pytest.approx(oracle.reach_history, rel=1e-9)
    assert state["engine.crossing_history"].tolist() == pytest.approx(oracle.crossing_history, rel=1e-9)
    assert (oracle.restarts > 0) == ("restart" in case or "alone" in case)


def plain(optimizer, oracle, objective, constraint, rounds):
    """Both asked and told in turn; the domain is the unit cube, which both work in."""
    sizes = set()
    for at in range(rounds):
        asked = optimizer.ask()
        mine = oracle.ask()
        np.testing.assert_allclose(asked, mine, rtol=1e-12, atol=1e-15, err_msg=f"round {at}")
        oracle.proposed = asked.tolist()
        values, excess = objective(asked), constraint(asked)
        optimizer.tell(asked, values, excess)
        oracle.tell(values.tolist(), excess.tolist())
        sizes.add(len(asked))
    return sizes


CUBE = [(0.0, 1.0)] * 3


@pytest.mark.parametrize("constrained", [False, True])
def test_algorithm_1_asked_and_told_equals_its_oracle(constrained):
    limit = half_plane if constrained else nowhere
    optimizer = QuantumOptimizer(CUBE, population=5, variant="paper", seed=2)
    oracle = AlgorithmOne(3, 5, np.random.default_rng(2))
    sizes = plain(optimizer, oracle, waves, limit, 600)
    assert {1, 5} <= sizes  # means and whole passes
    assert constrained == bool(sizes - {1, 5})  # and what was drawn again
    assert oracle.scale < 0.1 and math.isclose(float(optimizer.state()["engine.scale"]), oracle.scale)


@pytest.mark.parametrize("limit", [nowhere, half_plane])
def test_mpss_equals_its_oracle(limit):
    optimizer = QuantumOptimizer(CUBE, population=6, variant="mpss", seed=4)
    oracle = Mpss(3, 6, np.random.default_rng(4))
    sizes = plain(optimizer, oracle, waves, limit, 80)
    assert {1, 6} <= sizes and max(sizes) > 250
    assert oracle.scale < 0.1
