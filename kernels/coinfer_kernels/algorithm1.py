"""The quantum-inspired optimizer: the paper's Algorithm 1, compiled, over many scenarios.

The algorithm is of the multi-scale quantum harmonic oscillator family: a few solutions, each the centre of a
Gaussian, whose common width (the scale) shrinks step by step. It works in the unit cube; ``decode`` turns a
point of the cube into a strategy. The steps of Algorithm 1, as the functions below name them:

1. *Initialisation*: k solutions uniformly at random; the scale is the width of the domain, 1.
2. *Energy-level stabilisation*: every solution X proposes X' ~ N(X, scale^2) until X' is accurate enough; X' takes
   X's place if its objective is lower than that of the best strategy so far (``rule="best"``, as the paper prints
   it) or than X's own (``rule="parent"``, as the published codes of the family do it). Repeat while the solutions'
   standard deviation changes by more than the scale.
3. *Energy-level transition*: the worst solution becomes the mean of all; back to 2 while the standard deviation
   exceeds the scale.
4. *Scale adjustment*: the scale is divided by ``shrink``; back to 2, ``scales`` times in all.

What the paper leaves open, and what is done here:

- Step 1 redraws a solution until it is feasible, too, at most ``max_tries`` times. What is infeasible after that
  counts as infinitely costly, so that its first feasible proposal replaces it; so does an infeasible mean.
- A Gaussian reaches beyond the cube. A coordinate outside is drawn again, which is the Gaussian conditioned on the
  domain. (Clipping would pile a third of all proposals onto the border, where pruning nothing lies.)
- Standard deviations are those of the population (ddof 0), the largest over the dimensions is compared.
- The best strategy ever seen is kept apart: the mean may overwrite it.
- ``max_evaluations`` ends a scenario at any step. On a piecewise constant objective it often has to: solutions on
  two plateaus with an infeasible mean between them never come closer, and step 3 never ends.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.costs import cost_row, objective_of
from coinfer_kernels.jit import check_threads, copy_row, inner, kernel, maker, run_parts
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
from coinfer_kernels.space import decode_row, feature_row
from coinfer_kernels.trees.walk import predict_row


class PaperSettings(NamedTuple):
    """Parameters of Algorithm 1 and its bounds."""

    solutions: int  # k
    scales: int
    shrink: float  # lambda
    max_evaluations: int  # per scenario
    max_tries: int  # proposals for one solution in one pass
    seed: int
    parent: bool  # a proposal is compared with its parent, not with the best strategy so far


class _Best(NamedTuple):
    """The best of a scenario, apart from the solutions."""

    levels: IntArray  # (V,)
    objective: FloatArray  # (1,)
    accuracy: FloatArray  # (1,) predicted for ``levels``
    most_accurate: FloatArray  # (1,) of all that was evaluated, feasible or not
    evaluations: IntArray  # (1,)


class _Swarm(NamedTuple):
    """The k solutions of one scenario and room to work in."""

    cube: FloatArray  # (k, V)
    objective: FloatArray  # (k,)
    streams: Stream  # (k, 4) one random stream for each solution
    sigma: FloatArray  # (V,) standard deviation of the solutions
    trial: FloatArray  # (V,) a proposal
    levels: IntArray  # (V,) its levels
    x: FloatArray  # (F,) what the predictor sees of it
    scratch: FloatArray  # (2, trees)
    best: _Best


@maker
def _new_swarm(problem: Problem, settings: PaperSettings) -> _Swarm:
    k, variables = settings.solutions, problem.space.n_levels.shape[0]
    best = _Best(
        levels=np.zeros(variables, np.int64),
        objective=np.full(1, np.inf),
        accuracy=np.full(1, -np.inf),
        most_accurate=np.full(1, -np.inf),
        evaluations=np.zeros(1, np.int64),
    )
    return _Swarm(
        cube=np.empty((k, variables)),
        objective=np.empty(k),
        streams=np.empty((k, 4), np.uint64),
        sigma=np.zeros(variables),
        trial=np.empty(variables),
        levels=np.empty(variables, np.int64),
        x=np.empty(problem.ensemble.coefficients.shape[0]),
        scratch=np.empty((2, problem.ensemble.roots.shape[0])),
        best=best,
    )


@inner
def _evaluate_trial(problem: Problem, swarm: _Swarm, s: int) -> float:
    """Objective of the trial in scenario s, infinite where its predicted accuracy is below the floor."""
    best = swarm.best
    decode_row(problem.space, swarm.trial, swarm.levels)
    feature_row(problem.space, swarm.levels, problem.scenarios.snr_db[s], swarm.x)
    accuracy = predict_row(problem.ensemble, swarm.x, swarm.scratch)
    best.evaluations[0] += 1
    best.most_accurate[0] = max(best.most_accurate[0], accuracy)
    if not accuracy >= problem.scenarios.accuracy_floor[s]:
        return np.inf
    cut = swarm.levels[problem.space.cut_variable]
    device, server, uplink = cost_row(problem.cost, cut, swarm.levels)
    objective = objective_of(problem.scenarios.weights[s], device, server, uplink)
    if objective < best.objective[0]:
        best.objective[0] = objective
        best.accuracy[0] = accuracy
        copy_row(swarm.levels, best.levels)
    return objective


@inner
def _spread(swarm: _Swarm) -> tuple[float, float]:
    """Recompute the solutions' standard deviation; returns its largest value and its largest change."""
    k, variables = swarm.cube.shape
    widest, change = 0.0, 0.0
    for v in range(variables):
        mean = 0.0
        for i in range(k):
            mean += swarm.cube[i, v]
        mean /= k
        square = 0.0
        for i in range(k):
            square += (swarm.cube[i, v] - mean) ** 2
        sigma = np.sqrt(square / k)
        widest = max(widest, sigma)
        change = max(change, abs(sigma - swarm.sigma[v]))
        swarm.sigma[v] = sigma
    return widest, change


@inner
def _initialise(problem: Problem, settings: PaperSettings, swarm: _Swarm, s: int, key: int) -> None:
    """Step 1: solutions uniformly at random, redrawn until feasible."""
    variables = swarm.trial.shape[0]
    for i in range(settings.solutions):
        seed_stream(swarm.streams[i], settings.seed, key, i)
        for _ in range(settings.max_tries):
            for v in range(variables):
                swarm.trial[v] = uniform(swarm.streams[i])
            swarm.objective[i] = _evaluate_trial(problem, swarm, s)
            if swarm.objective[i] < np.inf or swarm.best.evaluations[0] >= settings.max_evaluations:
                break
        copy_row(swarm.trial, swarm.cube[i])
    _spread(swarm)


@inner
def _propose(swarm: _Swarm, i: int, scale: float) -> None:
    """X' ~ N(X_i, scale^2), conditioned on the unit cube."""
    for v in range(swarm.trial.shape[0]):
        u = -1.0
        while not 0.0 <= u <= 1.0:
            u = swarm.cube[i, v] + scale * normal(swarm.streams[i])
        swarm.trial[v] = u


@inner
def _stabilise(problem: Problem, settings: PaperSettings, swarm: _Swarm, s: int, scale: float) -> None:
    """Step 2: passes over the solutions until their standard deviation settles."""
    while True:
        for i in range(settings.solutions):
            for _ in range(settings.max_tries):
                if swarm.best.evaluations[0] >= settings.max_evaluations:
                    return
                _propose(swarm, i, scale)
                bar = swarm.objective[i] if settings.parent else swarm.best.objective[0]
                objective = _evaluate_trial(problem, swarm, s)
                if objective < np.inf:
                    if objective < bar:
                        swarm.objective[i] = objective
                        copy_row(swarm.trial, swarm.cube[i])
                    break
        change = _spread(swarm)[1]
        if not change > scale:
            return


@inner
def _transition(problem: Problem, swarm: _Swarm, s: int) -> float:
    """Step 3: the worst solution becomes the mean of all; returns the largest standard deviation after it."""
    k, variables = swarm.cube.shape
    worst = 0
    for i in range(1, k):
        if swarm.objective[i] > swarm.objective[worst]:
            worst = i
    for v in range(variables):
        mean = 0.0
        for i in range(k):
            mean += swarm.cube[i, v]
        swarm.trial[v] = mean / k
    swarm.objective[worst] = _evaluate_trial(problem, swarm, s)
    copy_row(swarm.trial, swarm.cube[worst])
    return _spread(swarm)[0]


@maker
def _solve_paper_scenario(problem: Problem, settings: PaperSettings, s: int, key: int) -> _Best:
    """Algorithm 1 for scenario s, with the random streams of ``key``."""
    swarm = _new_swarm(problem, settings)
    _initialise(problem, settings, swarm, s, key)
    scale = 1.0
    for _ in range(settings.scales):
        while swarm.best.evaluations[0] < settings.max_evaluations:
            _stabilise(problem, settings, swarm, s, scale)
            if swarm.best.evaluations[0] >= settings.max_evaluations or not _transition(problem, swarm, s) > scale:
                break
        scale /= settings.shrink  # step 4
    return swarm.best


@kernel
def _solve_paper_rows(
    problem: Problem, settings: PaperSettings, keys: IntArray, start: int, stop: int, out: Solutions
) -> None:
    for s in range(start, stop):
        best = _solve_paper_scenario(problem, settings, s, keys[s])
        copy_row(best.levels, out.levels[s])
        out.objective[s] = best.objective[0]
        out.feasible[s] = best.objective[0] < np.inf
        out.accuracy[s] = best.accuracy[0] if out.feasible[s] else best.most_accurate[0]
        out.evaluations[s] = best.evaluations[0]


def solve_paper(
    space: SpaceTables,
    cost: CostTables,
    ensemble: EnsembleTables,
    scenarios: Scenarios,
    *,
    rule: Literal["best", "parent"] = "best",
    solutions: int = 5,
    scales: int = 20,
    shrink: float = 1.3,
    max_evaluations: int = 200_000,
    max_tries: int = 10_000,
    seed: int = 0,
    keys: ArrayLike | None = None,
    threads: int | None = None,
) -> Solutions:
    """Solve a batch of scenarios by the paper's Algorithm 1.

    ``space``, ``cost`` and ``ensemble`` are the problem, ``scenarios`` the batch (:mod:`coinfer_kernels.notation`).
    ``rule`` says what a proposal is compared with (see the module). ``solutions`` is the paper's k, ``scales`` its
    number of scale steps, ``shrink`` its lambda; ``seed`` is a whole number from 0 on. ``max_evaluations`` bounds the
    strategies evaluated for one scenario, ``max_tries`` the proposals of one solution in one pass. ``keys`` (S,) are
    the scenarios' own numbers in a larger grid, so that a scenario draws the same random numbers in whatever batch it
    comes; without them they are numbered from 0. ``threads``: None for all that numba may use. The answer depends
    neither on ``threads`` nor on the rest of the batch.

    Raises:
        ValueError: tables that don't fit each other, or parameters out of range.
    """
    problem = check_problem(space, cost, ensemble, scenarios)
    if not 1.0 < shrink < np.inf:
        raise ValueError(f"shrink: {shrink} does not shrink the scale; a number above 1 is needed")
    if rule not in ("best", "parent"):
        raise ValueError(f"rule: {rule!r} must be 'best' or 'parent'")
    settings = PaperSettings(
        solutions=checks.at_least("solutions", solutions, 2),
        scales=checks.at_least("scales", scales, 1),
        shrink=float(shrink),
        max_evaluations=checks.at_least("max_evaluations", max_evaluations, 1),
        max_tries=checks.at_least("max_tries", max_tries, 1),
        seed=checks.at_least("seed", seed, 0),
        parent=rule == "parent",
    )
    count = len(problem.scenarios.accuracy_floor)
    numbers = scenario_keys(keys, count)
    out = empty_solutions(count, len(problem.space.n_levels))
    run_parts(
        lambda start, stop: _solve_paper_rows(problem, settings, numbers, start, stop, out),
        count,
        1,
        check_threads(threads),
    )
    return out
