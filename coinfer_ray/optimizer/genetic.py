"""A genetic algorithm as an optimizer, for comparison: pymoo's GA on the levels of a strategy.

J. Blank and K. Deb, "pymoo: Multi-Objective Optimization in Python", IEEE Access 8 (2020). Every decision variable is
a whole number with an order (a level), so pymoo's mixed-variable algorithm comes down to its operators for whole
numbers: simulated binary crossover and polynomial mutation, rounded, with the distribution indices that pymoo's guide
gives for integers. Parents are drawn by tournaments and the next generation is the best of parents and offspring; in
both a strategy that is accurate enough comes before one that is not, and of two that are not the more accurate.

An offspring's variables that its cut makes meaningless are set to their canonical level, so that no strategy is looked
at twice in one generation under two names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coinfer_kernels import (
    CostTables,
    EnsembleTables,
    Scenarios,
    Solutions,
    SpaceTables,
    TreeEnsemble,
    canonicalize,
    features,
    latencies,
    strategy_costs,
)
from coinfer_kernels.checks import at_least
from coinfer_kernels.problem import check_problem, empty_solutions, scenario_keys
from numpy.typing import ArrayLike, NDArray
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.problems.static import StaticProblem

EVALUATIONS = 50_000  # strategies, for one scenario
POPULATION = 100
_MATINGS = 3  # tries to fill a generation with offspring that are not there already; few are needed in a large space
_ETA = 3.0  # distribution index of crossover and mutation


def solve_genetic(
    space: SpaceTables,
    cost: CostTables,
    ensemble: EnsembleTables,
    scenarios: Scenarios,
    *,
    population: int = POPULATION,
    max_evaluations: int = EVALUATIONS,
    seed: int = 0,
    keys: ArrayLike | None = None,
) -> Solutions:
    """Solve a batch of scenarios by the genetic algorithm, one after the other, a whole generation at a time.

    ``space``, ``cost`` and ``ensemble`` are the problem, ``scenarios`` the batch (:mod:`coinfer_kernels.notation`).
    ``population``: strategies of a generation; ``max_evaluations``: strategies evaluated for one scenario, which end
    it with its last whole generation, the first at the earliest; ``seed``: a whole number from 0 on; ``keys`` (S,):
    the scenarios' own numbers in a larger grid. An answer depends on seed and number, not on the rest of the batch.

    Raises:
        ValueError: tables that don't fit each other, or parameters out of range.
    """
    problem = check_problem(space, cost, ensemble, scenarios)
    at_least("population", population, 2)
    at_least("max_evaluations", max_evaluations, 1)
    at_least("seed", seed, 0)
    count = len(problem.scenarios.accuracy_floor)
    numbers, trees = scenario_keys(keys, count), TreeEnsemble(problem.ensemble)
    with_snr = trees.features > len(problem.space.n_levels)
    out = empty_solutions(count, len(problem.space.n_levels))
    for s in range(count):
        snr_db = problem.scenarios.snr_db[s] if with_snr else None
        weights, floor = problem.scenarios.weights[s : s + 1], problem.scenarios.accuracy_floor[s]
        own_seed = int(np.random.SeedSequence([seed, numbers[s]]).generate_state(1)[0])
        algorithm = _algorithm(problem.space, population, own_seed)
        for _ in range(max(1, max_evaluations // population)):
            offspring = algorithm.ask()
            if offspring is None:  # all that mating gave is there already: a space hardly larger than the population
                break
            levels = offspring.get("X")
            accuracy = trees.predict(features(problem.space, levels, snr_db))
            costs = strategy_costs(problem.cost, problem.space.cut_variable, levels)
            objective = latencies(costs, weights)[:, 0]
            static = StaticProblem(algorithm.problem, F=objective[:, None], G=(floor - accuracy)[:, None])
            Evaluator().eval(static, offspring)
            algorithm.tell(infills=offspring)
            _keep_best(out, s, levels, objective, accuracy, floor)
    return out


def _algorithm(space: SpaceTables, population: int, seed: int) -> Any:
    """pymoo's algorithm, ready to be asked."""
    rounded = {"eta": _ETA, "prob": 1.0, "vtype": float, "repair": RoundingRepair()}
    algorithm = GA(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(**rounded),
        mutation=PM(**rounded),
        repair=_Canonical(space),
        eliminate_duplicates=True,
    )
    variables = len(space.n_levels)
    bounds = {"xl": np.zeros(variables, dtype=np.int64), "xu": space.n_levels - 1}
    algorithm.mating.n_max_iterations = _MATINGS
    algorithm.setup(
        Problem(n_var=variables, n_obj=1, n_ieq_constr=1, vtype=int, **bounds),
        termination=("n_gen", np.inf),
        seed=seed,
        verbose=False,
    )
    return algorithm


class _Canonical(Repair):  # type: ignore[misc]
    """Sets the variables that a strategy's cut makes meaningless to their canonical level."""

    def __init__(self, space: SpaceTables) -> None:
        super().__init__()
        self.space = space

    def _do(self, problem: Any, levels: NDArray[Any], **_: Any) -> NDArray[np.int64]:
        return canonicalize(self.space, levels)


def _keep_best(
    out: Solutions,
    s: int,
    levels: NDArray[np.int64],
    objective: NDArray[np.float64],
    accuracy: NDArray[np.float64],
    floor: float,
) -> None:
    """Let the best of a generation take the place of the best so far of scenario ``s``."""
    out.evaluations[s] += len(levels)
    allowed = np.where(accuracy >= floor, objective, np.inf)
    best = int(allowed.argmin()) if np.isfinite(allowed).any() else int(accuracy.argmax())
    if allowed[best] < out.objective[s] or (not out.feasible[s] and accuracy[best] > out.accuracy[s]):
        out.levels[s], out.objective[s], out.accuracy[s] = levels[best], allowed[best], accuracy[best]
        out.feasible[s] = np.isfinite(allowed[best])
