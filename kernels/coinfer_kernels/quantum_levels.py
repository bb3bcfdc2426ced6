"""The quantum-inspired optimizer on the mission's own problem: the cheapest strategy that is accurate enough.

Of Algorithm 1 (``quantum``) it keeps the population of solutions, the Gaussian proposals whose scale shrinks, and
the rule that a proposal replaces its own parent; what the problem's structure allows is added:

- *Levels, not a cube*: proposals move by whole levels, and only to levels that can be best. The predictor sees a
  level through the leaves that it reaches; of neighbouring levels that reach the same ones, the one that prunes
  most is the cheapest and the others are left out.
- *Descent to the edge of the box*: after a proposal every variable in turn goes to its cheapest level that keeps
  the strategy accurate enough, until none can go on. With all others held, a level costs one intersection of bit
  sets (``leaves``) and the few layers that the variable touches.
- *Feasibility rule*: a proposal that is not accurate enough is repaired (variables in random order go to their most
  accurate level until it is) instead of being drawn again.
- *A population for each cut*, sharing one budget: the better a cut's best solution, the more proposals it gets; a
  cut whose cheapest corner costs more than the best strategy gets none.
"""

from math import exp
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.descent import Here, SearchModel, enter_cut, improve, new_here, search_model, take_level
from coinfer_kernels.jit import check_threads, copy_row, inner, kernel, run_parts
from coinfer_kernels.latency import objective_of
from coinfer_kernels.notation import (
    CostTables,
    EnsembleTables,
    FloatArray,
    IntArray,
    Scenarios,
    Solutions,
    SpaceTables,
)
from coinfer_kernels.quantum import Problem, check_problem, empty_solutions, scenario_keys
from coinfer_kernels.rng import Stream, normal, seed_stream, uniform
from coinfer_kernels.space import feature_row
from coinfer_kernels.trees import predict_row

FIRST_SCALE, LAST_SCALE = 0.5, 0.05  # of a variable's levels, at the start and the end of the budget
MOST_MOVED = 4  # variables that a proposal moves
MIXED = 0.3  # share of the proposals that come from two solutions
# A cut whose best is so much (relatively) above the best of all gets 1 / e of the proposals; first, last.
FIRST_PATIENCE, LAST_PATIENCE = 1.0, 0.03


class LevelSettings(NamedTuple):
    """Parameters of the search."""

    solutions: int  # for each cut
    max_evaluations: int  # levels tried for one scenario
    seed: int


class _People(NamedTuple):
    """The solutions of one scenario, k for each cut."""

    at: IntArray  # (C, k, V) places among the levels that can be best
    objective: FloatArray  # (C, k) infinite where nothing feasible is known
    best: FloatArray  # (C,)
    stream: Stream  # (4,)


@inner
def _shuffle(here: Here, stream: Stream) -> None:
    order, active = here.order, here.active[0]
    for i in range(active):
        j = i + int(uniform(stream) * (active - i))
        order[i], order[j] = order[j], order[i]


@inner
def _propose(model: SearchModel, here: Here, parent: IntArray, mate: IntArray, scale: float, stream: Stream) -> int:
    """A proposal from a parent (V,): a few variables move by a Gaussian step, or come from another solution.

    Returns how many variables did not move; they come first in the order and use what the others give up.
    """
    active = here.active[0]
    _shuffle(here, stream)
    for i in range(active):
        take_level(model, here, here.order[i], parent[here.order[i]])
    if uniform(stream) < MIXED:
        share = uniform(stream)
        for i in range(active):
            if uniform(stream) < share:
                take_level(model, here, here.order[i], mate[here.order[i]])
        return int(active)
    moved = min(active, 1 + int(uniform(stream) * MOST_MOVED))
    for i in range(active - moved, active):
        v = here.order[i]
        step = scale * model.counts[v] * normal(stream)
        step += 1.0 if step > 0 else -1.0
        take_level(model, here, v, max(0, min(model.counts[v] - 1, here.at[v] + int(step))))
    return int(active - moved)


@inner
def _predicted(problem: Problem, here: Here, s: int) -> float:
    """Accuracy of the strategy in hand as the predictor says it."""
    feature_row(problem.space, here.levels, problem.scenarios.snr_db[s], here.x)
    return predict_row(problem.ensemble, here.x, here.scratch)


@inner
def _least(best: FloatArray) -> float:
    least = float(best[0])
    for cut in range(best.shape[0]):
        least = min(least, best[cut])
    return least


@inner
def _choose_cut(best: FloatArray, patience: float, stream: Stream) -> int:
    """A cut at random, the less likely the more its best costs above the best of all."""
    least = _least(best)
    while True:
        cut = int(uniform(stream) * best.shape[0])
        if best[cut] <= least or uniform(stream) < exp(-(best[cut] - least) / (least * patience)):
            return cut


@inner
def _begin(problem: Problem, model: SearchModel, here: Here, s: int, cut: int, reach: float, people: _People) -> float:
    """Start a cut's solutions with one descent, from levels up to ``reach`` of all; returns its objective."""
    stream, solutions = people.stream, people.at[cut]
    enter_cut(problem, model, cut, problem.scenarios.snr_db[s], here)
    for i in range(here.active[0]):
        v = here.order[i]
        take_level(model, here, v, int(reach * uniform(stream) * model.counts[v]))
    _shuffle(here, stream)
    value = improve(model, here, cut, here.active[0], stream)
    for i in range(solutions.shape[0]):
        copy_row(here.at, solutions[i])
    return value if _predicted(problem, here, s) >= problem.scenarios.accuracy_floor[s] else np.inf


@inner
def _visit(
    problem: Problem,
    model: SearchModel,
    here: Here,
    s: int,
    cut: int,
    scale: float,
    people: _People,
) -> None:
    """One proposal from each of a cut's solutions."""
    stream = people.stream
    enter_cut(problem, model, cut, problem.scenarios.snr_db[s], here)
    solutions = people.objective.shape[1]
    for i in range(solutions):
        elsewhere = _choose_cut(people.best, FIRST_PATIENCE, stream)
        mate = people.at[elsewhere, int(uniform(stream) * solutions)]
        free = _propose(model, here, people.at[cut, i], mate, scale, stream)
        value = improve(model, here, cut, free, stream)
        if value <= people.objective[cut, i] and _predicted(problem, here, s) >= problem.scenarios.accuracy_floor[s]:
            people.objective[cut, i] = value
            copy_row(here.at, people.at[cut, i])
            people.best[cut] = min(people.best[cut], value)


@inner
def _search(
    problem: Problem, model: SearchModel, settings: LevelSettings, s: int, key: int, here: Here, people: _People
) -> None:
    """Search scenario s, with the random stream of ``key``."""
    stream, cuts = people.stream, people.best.shape[0]
    seed_stream(stream, settings.seed, key, 0)
    for cut in range(cuts):
        corner = objective_of(here.weights, model.corner_flop[cut, 0], model.corner_flop[cut, 1], 0.0)
        if corner < _least(people.best):
            people.best[cut] = _begin(problem, model, here, s, cut, 0.0, people)
    while _least(people.best) == np.inf and here.spent[0] < settings.max_evaluations:
        cut = int(uniform(stream) * cuts)
        people.best[cut] = _begin(problem, model, here, s, cut, uniform(stream), people)
    for cut in range(cuts):
        for i in range(people.objective.shape[1]):
            people.objective[cut, i] = people.best[cut]
    while here.spent[0] < settings.max_evaluations:
        share = here.spent[0] / settings.max_evaluations
        scale = FIRST_SCALE * (LAST_SCALE / FIRST_SCALE) ** share
        patience = FIRST_PATIENCE * (LAST_PATIENCE / FIRST_PATIENCE) ** share
        _visit(problem, model, here, s, _choose_cut(people.best, patience, stream), scale, people)


@inner
def _report(problem: Problem, model: SearchModel, here: Here, s: int, people: _People, out: Solutions) -> None:
    """Write the best strategy, its accuracy as the predictor itself says it."""
    out.evaluations[s] = here.spent[0]
    out.accuracy[s] = here.most_accurate[0]
    objective, cut, row = people.objective, 0, 0
    for c in range(objective.shape[0]):
        for i in range(objective.shape[1]):
            if objective[c, i] < objective[cut, row]:
                cut, row = c, i
    if not objective[cut, row] < np.inf:
        return
    enter_cut(problem, model, cut, problem.scenarios.snr_db[s], here)
    for i in range(here.active[0]):
        take_level(model, here, here.order[i], people.at[cut, row, here.order[i]])
    out.accuracy[s] = _predicted(problem, here, s)
    out.objective[s] = objective[cut, row]
    out.feasible[s] = True
    copy_row(here.levels, out.levels[s])


@kernel
def _solve_rows(
    problem: Problem, model: SearchModel, settings: LevelSettings, keys: IntArray, start: int, stop: int, out: Solutions
) -> None:
    cuts, variables = problem.space.active.shape
    for s in range(start, stop):
        people = _People(
            at=np.zeros((cuts, settings.solutions, variables), np.int64),
            objective=np.full((cuts, settings.solutions), np.inf),
            best=np.full(cuts, np.inf),
            stream=np.empty(4, np.uint64),
        )
        here = new_here(problem, model, s)
        _search(problem, model, settings, s, keys[s], here, people)
        _report(problem, model, here, s, people, out)


def solve_quantum(
    space: SpaceTables,
    cost: CostTables,
    ensemble: EnsembleTables,
    scenarios: Scenarios,
    *,
    solutions: int = 4,
    max_evaluations: int = 100_000,
    seed: int = 0,
    keys: ArrayLike | None = None,
    threads: int | None = None,
) -> Solutions:
    """Solve a batch of scenarios by the quantum-inspired optimizer on levels.

    ``solutions``: held for each cut. ``max_evaluations``: levels tried for one scenario, each of which costs part of a
    prediction; the first descent at each cut is made in any case. ``keys``, ``threads`` and the answer are those of
    :func:`coinfer_kernels.solve_paper`; a strategy that is returned meets the floor by the predictor's own word.

    Raises:
        ValueError: tables that don't fit each other, or parameters out of range.
    """
    problem = check_problem(space, cost, ensemble, scenarios)
    settings = LevelSettings(
        solutions=checks.at_least("solutions", solutions, 1),
        max_evaluations=checks.at_least("max_evaluations", max_evaluations, 1),
        seed=checks.at_least("seed", seed, 0),
    )
    count = len(problem.scenarios.accuracy_floor)
    numbers = scenario_keys(keys, count)
    model = search_model(problem)
    out = empty_solutions(count, len(problem.space.n_levels))
    run_parts(
        lambda start, stop: _solve_rows(problem, model, settings, numbers, start, stop, out),
        count,
        1,
        check_threads(threads),
    )
    return out
