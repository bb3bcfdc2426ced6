"""One optimization problem: tables of space, costs and predictor, checked once, and what solvers share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.notation import (
    BoolArray,
    CostTables,
    EnsembleTables,
    FloatArray,
    IntArray,
    Scenarios,
    Solutions,
    SpaceTables,
)


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


def with_cuts(space: SpaceTables, cost: CostTables, cuts: IntArray) -> tuple[SpaceTables, CostTables]:
    """The same problem with the cut levels ``cuts`` (c,), rising, alone: level i of its cut variable is ``cuts[i]``."""
    variable = space.cut_variable
    n_levels, values = space.n_levels.copy(), space.values.copy()
    n_levels[variable] = len(cuts)
    values[variable] = values[variable, cuts[-1]]
    values[variable, : len(cuts)] = space.values[variable, cuts]
    canonical = space.canonical.copy()
    canonical[variable] = 0
    of_cuts = ("cut_layers", "cut_kind", "cut_set", "cut_channels", "cut_height", "cut_width", "cut_bits")
    return (
        SpaceTables(n_levels, values, variable, space.active[cuts], canonical),
        cost._replace(**{name: getattr(cost, name)[cuts] for name in of_cuts}),
    )


def merge_layers(cost: CostTables) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """Layers between the same prunable sets as one: FLOPs at each cut, on the device and on the server.

    Returns ``pair_in`` and ``pair_out`` (Q,), rows of ``cost.kept``; ``pair_flop`` (C, 2, Q) FLOPs per kept input and
    output channel of a pair; ``set_flop`` (C, 2, P + 1) FLOPs per kept output channel.
    """
    cost = checks.cost_tables(cost)
    sides = (cost.quadratic, cost.linear), (cost.server_quadratic, cost.server_linear)
    pairs, inverse = np.unique(np.stack([cost.in_set, cost.out_set]), axis=1, return_inverse=True)
    pair_of = inverse.reshape(-1)  # (1, L) in NumPy 2.0, (L,) before and after
    cuts, rows = len(cost.cut_layers), len(cost.kept)
    pair_flop, set_flop = np.zeros((cuts, 2, pairs.shape[1])), np.zeros((cuts, 2, rows))
    for cut, first in enumerate(cost.cut_layers):
        for side, layers in enumerate((slice(0, first), slice(first, None))):
            quadratic, linear = sides[side]
            np.add.at(pair_flop[cut, side], pair_of[layers], quadratic[layers])
            np.add.at(set_flop[cut, side], cost.out_set[layers], linear[layers])
    return np.ascontiguousarray(pairs[0]), np.ascontiguousarray(pairs[1]), pair_flop, set_flop
