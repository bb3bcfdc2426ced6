"""The optimizer ``quantum``: iterated local search with a cost target, for the cheapest accurate enough strategy.

Local search is by exact moves (``moves``): coordinate descent along a line of the space, and pair moves in a plane of
two variables. A solution at a local optimum is perturbed and searched again (iterated local search; H. Lourenço,
O. Martin, T. Stützle, "Iterated Local Search", Handbook of Metaheuristics, 2003). The perturbations and their schedule
are those that name the quantum-inspired family, Algorithm 1's (``algorithm1``), in the form that the problem's
structure allows:

- *Energy-level stabilisation*: a solution settles where no move along a line of the space, and none in a plane, leads
  to a better strategy (``moves``). Algorithm 1 waits for that by sampling; here such a move is found exactly, from
  the few leaves that the variables held leave open.
- *Energy-level transition*: a settled solution is excited: a few variables take Gaussian steps, go back towards the
  most accurate strategy, or come from another cut's solution. Then a lower level is set as a budget of cost, below
  the solution's own or below the best of all, and accuracy is raised within it until the floor is met. (Descending at
  once would spend accuracy on savings that are worth nothing.) The result replaces its own parent if it is better.
- *Scale adjustment*: the Gaussian's width shrinks step by step, and so does the patience with cuts that cost more
  than the best one.

*Populations per cut share one budget.* A cut is entered in the order of its **corner**: every variable at the cheapest
level that it could take by itself, near the most accurate strategy. Where the predictor is monotone no strategy costs
less, so a cut whose corner costs more than the best strategy is left out; where it is not, that is a guess.
"""

from math import exp
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.jit import check_threads, copy_row, inner, kernel, run_parts
from coinfer_kernels.local_search.model import LevelModel, level_model
from coinfer_kernels.local_search.moves import corner_here, move_in_plane, move_on_line, take_cheaper
from coinfer_kernels.local_search.state import Here, enter_cut, look, new_here, objective_here, take_place
from coinfer_kernels.notation import (
    CostTables,
    EnsembleTables,
    FloatArray,
    IntArray,
    Scenarios,
    Solutions,
    SpaceTables,
)
from coinfer_kernels.problem import Problem, check_problem, empty_solutions, scenario_keys
from coinfer_kernels.rng import Stream, normal, seed_stream, uniform
from coinfer_kernels.space import feature_row
from coinfer_kernels.trees.walk import predict_row

EVALUATIONS = 2_000_000
EVALUATIONS_OF_A_MEDIAN = 100_000  # a median has no prefix sums: every accuracy is computed by itself
MAX_SWEEPS = 100  # a few do; gains of a rounding error must not go round in a circle
TIGHTENINGS = 20  # variables that may be moved to meet a budget


class LevelSettings(NamedTuple):
    """Parameters of the search."""

    solutions: int  # for each cut
    max_evaluations: int  # strategies whose accuracy is computed, for one scenario
    seed: int
    first_scale: float = 0.5  # width of a Gaussian step, as a share of a variable's places, at the start
    last_scale: float = 0.1  # and at the end
    first_patience: float = 1.0  # a cut so much (relatively) above the best gets 1 / e of the proposals
    last_patience: float = 0.3
    mixed: float = 0.1  # share of the proposals that come from two solutions
    eased: float = 0.3  # share that goes back towards the most accurate strategy
    moved: float = 4.0  # most variables that take a Gaussian step
    lowered: float = 0.5  # share of the proposals with a budget of cost
    planes: float = 1.0  # share of the proposals that settle in planes, not on lines alone
    corners: float = 1.0  # whether cuts are entered by their corners (1), or all of them (0)


class _People(NamedTuple):
    """The solutions of one scenario, k for each cut."""

    at: IntArray  # (C, k, V) places
    objective: FloatArray  # (C, k) infinite where nothing feasible is known
    best: FloatArray  # (C,)
    start: IntArray  # (C, V) the most accurate strategy, nearly
    corner: FloatArray  # (C,) infinite where nothing feasible is known
    stream: Stream  # (4,)


@inner
def _shuffle(here: Here, stream: Stream) -> None:
    order, active = here.order, here.active[0]
    for i in range(active):
        j = i + int(uniform(stream) * (active - i))
        order[i], order[j] = order[j], order[i]


@inner
def _lines(model: LevelModel, here: Here, budget: float, stream: Stream) -> None:
    """Move along lines, in random order, until nothing is gained."""
    for _ in range(MAX_SWEEPS):
        _shuffle(here, stream)
        settled = True
        for i in range(here.active[0]):
            if move_on_line(model, here, here.order[i], budget):
                settled = False
        if settled:
            return


@inner
def _planes(model: LevelModel, here: Here, budget: float, stop: bool, limit: int, stream: Stream) -> None:
    """Move in planes until nothing is gained or, with ``stop``, until the strategy is accurate enough.

    ``limit``: of the evaluations spent.
    """
    order, at, moved, active = here.order, here.at, here.moved, here.active[0]
    _shuffle(here, stream)
    for i in range(active):
        moved[order[i]] = 0
    for sweep in range(1, MAX_SWEEPS):
        settled = True
        for i in range(active):
            for j in range(i):
                v, w = order[i], order[j]
                # A plane is looked at again once one of its variables has moved.
                if max(moved[v], moved[w]) < sweep - 1:
                    continue
                if here.spent[0] >= limit:
                    return
                at_v, at_w = at[v], at[w]
                if move_in_plane(model, here, v, w, budget):
                    settled = False
                    moved[v] = sweep if at_v != at[v] else moved[v]
                    moved[w] = sweep if at_w != at[w] else moved[w]
                    if stop and here.accuracy[0] >= here.floor[0]:
                        return
        if settled:
            return


@inner
def _settle(model: LevelModel, here: Here, planes: bool, budget: float, limit: int, stream: Stream) -> float:
    """Energy-level stabilisation; returns the objective, infinite where the strategy isn't accurate enough."""
    look(model, here)
    _lines(model, here, budget, stream)
    if planes and here.objective[0] <= budget:
        if here.accuracy[0] < here.floor[0]:
            _planes(model, here, budget, True, limit, stream)
            if here.accuracy[0] >= here.floor[0]:
                _lines(model, here, budget, stream)
        if here.accuracy[0] >= here.floor[0]:
            _planes(model, here, budget, False, limit, stream)
    here.most_accurate[0] = max(here.most_accurate[0], here.accuracy[0])
    return objective_here(model, here) if here.accuracy[0] >= here.floor[0] else np.inf


@inner
def _tighten(model: LevelModel, here: Here, budget: float, stream: Stream) -> None:
    """Move variables at random to cheaper levels until the strategy costs no more than the budget."""
    here.objective[0] = objective_here(model, here)
    for _ in range(TIGHTENINGS):
        if here.objective[0] <= budget or here.active[0] == 0:  # at a cut with nothing to choose
            return
        take_cheaper(model, here, here.order[int(uniform(stream) * here.active[0])], budget)


@inner
def _take(model: LevelModel, here: Here, places: IntArray, share: float, stream: Stream) -> None:
    """Take a share of the variables, at random, from another strategy (V,)."""
    for i in range(here.active[0]):
        v = here.order[i]
        if share >= 1.0 or uniform(stream) < share:
            take_place(model, here, v, min(places[v], model.counts[v] - 1))


@inner
def _excite(
    model: LevelModel,
    settings: LevelSettings,
    here: Here,
    start: IntArray,
    mate: IntArray,
    scale: float,
    stream: Stream,
) -> None:
    """Energy-level transition of the strategy in hand."""
    kind = uniform(stream)
    if kind < settings.mixed:
        _take(model, here, mate, 0.999 * uniform(stream), stream)
    elif kind < settings.mixed + settings.eased:
        _take(model, here, start, 0.999 * uniform(stream), stream)
    else:
        _shuffle(here, stream)
        for i in range(min(here.active[0], 1 + int(uniform(stream) * settings.moved))):
            v = here.order[i]
            step = scale * model.counts[v] * normal(stream)
            step += 1.0 if step > 0 else -1.0
            take_place(model, here, v, max(0, min(model.counts[v] - 1, here.at[v] + int(step))))


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
def _begin(
    problem: Problem, model: LevelModel, here: Here, s: int, cut: int, reach: float, limit: int, people: _People
) -> None:
    """Find a cut's most accurate strategy, from levels up to ``reach`` of all, and the corner near it."""
    stream, floor = people.stream, here.floor[0]
    enter_cut(problem, model, cut, problem.scenarios.snr_db[s], here)
    for i in range(here.active[0]):
        v = here.order[i]
        if reach > 0.0:
            take_place(model, here, v, int(reach * uniform(stream) * model.counts[v]))
    look(model, here)
    here.floor[0] = np.inf  # nothing is accurate enough
    _lines(model, here, np.inf, stream)
    here.floor[0] = floor
    if here.accuracy[0] < floor and not model.median:
        _planes(model, here, np.inf, True, limit, stream)
    here.most_accurate[0] = max(here.most_accurate[0], here.accuracy[0])
    copy_row(here.at, people.start[cut])
    for i in range(people.at.shape[1]):
        copy_row(here.at, people.at[cut, i])
    if here.accuracy[0] >= floor:
        people.corner[cut] = corner_here(model, here)


@inner
def _visit(
    problem: Problem,
    model: LevelModel,
    settings: LevelSettings,
    here: Here,
    s: int,
    cut: int,
    share: float,
    people: _People,
) -> None:
    """One proposal from one of a cut's solutions. ``share``: of the budget of evaluations that is spent."""
    stream, budget = people.stream, np.inf
    enter_cut(problem, model, cut, problem.scenarios.snr_db[s], here)
    solutions = people.objective.shape[1]
    i = int(uniform(stream) * solutions)
    own = people.objective[cut, i]
    _take(model, here, people.at[cut, i], 1.0, stream)
    if own < np.inf:
        scale = settings.first_scale * (settings.last_scale / settings.first_scale) ** share  # scale adjustment
        mate = people.at[_choose_cut(people.best, settings.first_patience, stream), int(uniform(stream) * solutions)]
        _excite(model, settings, here, people.start[cut], mate, scale, stream)
        if uniform(stream) < settings.lowered:
            above = own if uniform(stream) < 0.5 else _least(people.best)
            budget = above * (1.0 - 0.3 * 0.01 ** uniform(stream))
            _tighten(model, here, budget, stream)
    planes = not model.median and (own == np.inf or uniform(stream) < settings.planes)
    value = _settle(model, here, planes, budget, settings.max_evaluations, stream)
    if value <= own and value < np.inf and _predicted(problem, here, s) >= problem.scenarios.accuracy_floor[s]:
        people.objective[cut, i] = value
        copy_row(here.at, people.at[cut, i])
        people.best[cut] = min(people.best[cut], value)
    elif own == np.inf:
        people.corner[cut] = np.inf  # not accurate enough by the predictor's own rounding


@inner
def _next_cut(settings: LevelSettings, people: _People) -> int:
    """The cut that has not been entered yet and has the cheapest corner below the best strategy; -1: none."""
    least, found = _least(people.best), -1
    for cut in range(people.best.shape[0]):
        if people.best[cut] == np.inf and people.corner[cut] < np.inf:
            worth = people.corner[cut] < least or settings.corners == 0.0
            if worth and (found < 0 or people.corner[cut] < people.corner[found]):
                found = cut
    return found


@inner
def _search(
    problem: Problem, model: LevelModel, settings: LevelSettings, s: int, key: int, here: Here, people: _People
) -> None:
    """Search scenario s, with the random stream of ``key``."""
    stream, cuts, limit = people.stream, people.best.shape[0], settings.max_evaluations
    seed_stream(stream, settings.seed, key, 0)
    for cut in range(cuts):
        _begin(problem, model, here, s, cut, 0.0, limit, people)
    while True:
        cut = _next_cut(settings, people)
        if cut >= 0:
            _visit(problem, model, settings, here, s, cut, 0.0, people)
        elif here.spent[0] >= limit:
            return
        elif _least(people.best) == np.inf:
            _begin(problem, model, here, s, int(uniform(stream) * cuts), uniform(stream), limit, people)
        else:
            share = here.spent[0] / limit
            patience = settings.first_patience * (settings.last_patience / settings.first_patience) ** share
            cut = _choose_cut(people.best, patience, stream)
            _visit(problem, model, settings, here, s, cut, share, people)


@inner
def _report(problem: Problem, model: LevelModel, here: Here, s: int, people: _People, out: Solutions) -> None:
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
        take_place(model, here, here.order[i], people.at[cut, row, here.order[i]])
    out.accuracy[s] = _predicted(problem, here, s)
    out.objective[s] = objective[cut, row]
    out.feasible[s] = True
    copy_row(here.levels, out.levels[s])


@kernel
def _solve_rows(
    problem: Problem, model: LevelModel, settings: LevelSettings, keys: IntArray, start: int, stop: int, out: Solutions
) -> None:
    cuts, variables = problem.space.active.shape
    for s in range(start, stop):
        people = _People(
            at=np.zeros((cuts, settings.solutions, variables), np.int64),
            objective=np.full((cuts, settings.solutions), np.inf),
            best=np.full(cuts, np.inf),
            start=np.zeros((cuts, variables), np.int64),
            corner=np.full(cuts, np.inf),
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
    solutions: int = 1,
    max_evaluations: int | None = None,
    seed: int = 0,
    keys: ArrayLike | None = None,
    threads: int | None = None,
) -> Solutions:
    """Solve a batch of scenarios by the quantum-inspired optimizer on levels.

    ``space``, ``cost`` and ``ensemble`` are the problem, ``scenarios`` the batch (:mod:`coinfer_kernels.notation`).
    ``solutions``: held for each cut; ``seed``: a whole number from 0 on. ``max_evaluations``: strategies whose accuracy
    is computed for one scenario (all points of a line or plane are counted); the first descent at each cut is made in
    any case. None: 2,000,000, or 100,000 where the predictor is a median. ``keys``, ``threads`` and the answer are
    those of :func:`coinfer_kernels.solve_paper`; a strategy that is returned meets the floor by the predictor's own
    word.

    Raises:
        ValueError: tables that don't fit each other, or parameters out of range.
    """
    if max_evaluations is None:
        max_evaluations = EVALUATIONS_OF_A_MEDIAN if ensemble.median else EVALUATIONS
    settings = LevelSettings(
        solutions=checks.at_least("solutions", solutions, 1),
        max_evaluations=checks.at_least("max_evaluations", max_evaluations, 1),
        seed=checks.at_least("seed", seed, 0),
    )
    return solve_with(check_problem(space, cost, ensemble, scenarios), settings, keys, threads)


def solve_with(
    problem: Problem, settings: LevelSettings, keys: ArrayLike | None = None, threads: int | None = None
) -> Solutions:
    """As :func:`solve_quantum`, with every parameter of the search in hand: what the benchmark's ablations vary."""
    count = len(problem.scenarios.accuracy_floor)
    numbers = scenario_keys(keys, count)
    model = level_model(problem)
    out = empty_solutions(count, len(problem.space.n_levels))
    run_parts(
        lambda start, stop: _solve_rows(problem, model, settings, numbers, start, stop, out),
        count,
        1,
        check_threads(threads),
    )
    return out
