"""The optimizers of bounded problems, step by step against the same in plain Python."""

import numpy as np
import pytest
from coinfer_kernels import QuantumOptimizer

from tests.reference.blackbox import Population
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
    assert state["population.reach_history"].tolist() == pytest.approx(oracle.reach_history, rel=1e-9)
    assert state["population.crossing_history"].tolist() == pytest.approx(oracle.crossing_history, rel=1e-9)
    assert (oracle.restarts > 0) == ("restart" in case or "alone" in case)
