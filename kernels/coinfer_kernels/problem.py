"""One optimization problem: tables of space, costs and predictor, checked once, and what solvers share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.notation import BoolArray, CostTables, EnsembleTables, IntArray, Scenarios, Solutions, SpaceTables


class Problem(NamedTuple):
    """The mission's problem: the cheapest strategy whose predicted accuracy meets a floor, for many scenarios."""

    space: SpaceTables
    cost: CostTables
    ensemble: EnsembleTables
    scenarios: Scenarios


def check_problem(space: SpaceTables, cost: CostTables, ensemble: EnsembleTables, scenarios: Scenarios) -> Problem:
    """Check that the tables fit each other.

    Raises:
        ValueError: they don't; the message names the table.
    """
    problem = Problem(
        checks.space_tables(space),
        checks.cost_tables(cost),
        checks.ensemble_tables(ensemble),
        checks.scenario_batch(scenarios),
    )
    checks.cost_of_space(problem.space, problem.cost)
    checks.ensemble_of_space(problem.space, problem.ensemble, problem.scenarios)
    return problem


def empty_solutions(scenarios: int, variables: int) -> Solutions:
    """Room for the answers of a batch."""
    feasible: BoolArray = np.zeros(scenarios, dtype=np.bool_)
    return Solutions(
        levels=np.zeros((scenarios, variables), dtype=np.int64),
        objective=np.full(scenarios, np.inf),
        accuracy=np.full(scenarios, -np.inf),
        evaluations=np.zeros(scenarios, dtype=np.int64),
        feasible=feasible,
        lower_bound=np.full(scenarios, np.nan),
    )


def scenario_keys(keys: ArrayLike | None, scenarios: int) -> IntArray:
    """The numbers that key the scenarios' random streams: their place in the batch, or ``keys`` (S,)."""
    if keys is None:
        return np.arange(scenarios, dtype=np.int64)
    checked = checks.shaped("keys", keys, np.int64, (scenarios,))
    checks.within("keys", checked, 0, np.iinfo(np.int64).max)
    return checked
