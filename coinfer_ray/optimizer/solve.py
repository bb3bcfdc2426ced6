"""Solve a batch of scenarios of an assembled problem with one of the optimizers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from coinfer_kernels import (
    Scenarios,
    Solutions,
    canonicalize,
    cheapest_feasible,
    features,
    solve_exact,
    solve_paper,
    solve_quantum,
)

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.optimizer.problem import Problem

_HEURISTICS: dict[str, Callable[..., Solutions]] = {
    "quantum": solve_quantum,
    "paper": partial(solve_paper, rule="best"),
    "paper-parent": partial(solve_paper, rule="parent"),
}
DEFAULT_OPTIMIZER = "exact"
OPTIMIZERS = (DEFAULT_OPTIMIZER, *_HEURISTICS)
EXACT_START = 50_000  # evaluations for the strategy that the exact solver starts from: more cost more than they save


def solve(
    problem: Problem,
    scenarios: Scenarios,
    optimizer: str = DEFAULT_OPTIMIZER,
    seed: int = 0,
    *,
    first_scenario: int = 0,
    confidence: np.ndarray | float | None = None,
    certify: bool = False,
    time_limit_s: float | None = None,
    **options: Any,
) -> Solutions:
    """The best strategy for each of S scenarios, the network as it is included (:mod:`coinfer_ray.optimizer.optimize`).

    ``exact`` starts from what ``quantum`` finds and goes on until no strategy can be better by more than a
    thousandth, until its node limit, or until ``time_limit_s`` seconds have been spent on a scenario, with the lower
    bound that was proven by then. With a time limit an answer that it ends depends on the machine's speed; nothing
    else does. ``quantum`` (iterated local search) and ``paper`` (the paper's Algorithm 1 as printed; ``paper-parent``:
    with the rule of the published codes, :mod:`coinfer_kernels.algorithm1`) search without a proof, within a number
    of evaluations.

    ``confidence`` is how sure the predictor must be that an answer meets ``scenarios.accuracy_floor``, one for all
    or one each (S,), NaN for those that take its predictions as they are; None: all of them.

    ``certify`` has the exact solver prove a lower bound beside another optimizer's answers, which stay as they are.

    ``first_scenario`` is the number of the first scenario in the larger grid that the batch is a part of; with
    it a scenario's answer depends on nothing but its own number and the seed. ``options`` go to the optimizer
    (:func:`coinfer_kernels.solve_quantum`, :func:`coinfer_kernels.solve_paper`, :func:`coinfer_kernels.solve_exact`).

    Raises:
        InputError: an unknown optimizer, a time limit that is not above 0, a confidence that the records cannot
            promise, or scenarios without SNR for a predictor that needs one.
    """
    check_name("optimizer", optimizer, OPTIMIZERS)
    if time_limit_s is not None and not time_limit_s > 0:
        raise InputError(f"time limit: {time_limit_s} s must be above 0")
    if problem.predictor.noisy and not np.isfinite(scenarios.snr_db).all():
        raise InputError(
            "link: the records come from a noisy channel, so every link needs a signal-to-noise ratio; "
            "give bandwidth and SNR instead of a rate"
        )
    required = scenarios._replace(accuracy_floor=problem.required_accuracy(scenarios.accuracy_floor, confidence))
    keys = np.arange(first_scenario, first_scenario + len(scenarios.accuracy_floor))
    tables = problem.space.tables, problem.delay.tables, problem.predictor.ensemble.tables
    if optimizer == "exact":
        begun = solve_quantum(*tables, required, seed=seed, keys=keys, max_evaluations=EXACT_START)
        begun = _with_known(problem, scenarios, begun)
        proven = _prove(problem, required, begun, max_seconds=time_limit_s, **options)
        seen = np.where(proven.feasible, proven.accuracy, np.maximum(begun.accuracy, proven.accuracy))
        found = proven._replace(accuracy=seen, evaluations=begun.evaluations + proven.evaluations)
        best = _with_known(problem, scenarios, found)
        return best._replace(lower_bound=np.minimum(proven.lower_bound, best.objective))
    found = _HEURISTICS[optimizer](*tables, required, seed=seed, keys=keys, **options)
    solved = _with_known(problem, scenarios, found)
    if not certify:
        return solved
    bound = _prove(problem, required, solved, max_seconds=time_limit_s).lower_bound
    return solved._replace(lower_bound=np.minimum(bound, solved.objective))


def _prove(problem: Problem, required: Scenarios, begun: Solutions, **options: Any) -> Solutions:
    """The exact solver from the answers at hand; ``required`` has the floors that predictions must meet."""
    # A strategy known to meet the floor may be predicted, or have the base's accuracy, below what is required.
    accepted = np.maximum(begun.accuracy, required.accuracy_floor)
    incumbents = begun._replace(accuracy=np.where(begun.feasible, accepted, begun.accuracy))
    tables = problem.space.tables, problem.delay.tables, problem.predictor.ensemble.tables
    return solve_exact(*tables, required, incumbents=incumbents, **options)


def best_accuracy(problem: Problem, snr_db: float = np.nan, confidence: float | None = None) -> float:
    """The best accuracy that can be had: the base network's where it is known, or the best predicted one.

    With a ``confidence`` the predicted ones count as the bounds that they reach with it.

    The latter by coordinate ascent from the untouched network at every cut: one variable at a time over all of
    its levels until nothing gains. A local optimum, near which the accuracy bound lies.
    """
    space, cut = problem.space, problem.space.cut_variable
    levels = np.zeros((int(space.tables.n_levels[cut]), len(space.variables)), dtype=np.int64)
    levels[:, cut] = np.arange(len(levels))
    best = _accuracy(problem, levels, snr_db, confidence)
    gained = True
    while gained:
        gained = False
        for variable in np.flatnonzero(np.arange(len(space.variables)) != cut):
            for level in range(int(space.tables.n_levels[variable])):
                moved = levels.copy()
                moved[:, variable] = level
                moved = canonicalize(space.tables, moved)
                accuracy = _accuracy(problem, moved, snr_db, confidence)
                better = accuracy > best
                levels[better], best[better] = moved[better], accuracy[better]
                gained |= bool(better.any())
    return float(best.max())


def _accuracy(problem: Problem, levels: np.ndarray, snr_db: float, confidence: float | None) -> np.ndarray:
    x = features(problem.space.tables, levels, snr_db if problem.predictor.noisy else None)
    predicted = problem.predictor.predict(x)
    sure = predicted if confidence is None else problem.predictor.lower_bound(predicted, confidence)
    return np.where(problem.is_known(levels), problem.base_accuracy, sure)


def _better_of(a: Solutions, b: Solutions) -> Solutions:
    """Row by row the feasible one with the lower objective; where neither is, the higher accuracy seen."""
    take = np.where(a.feasible | b.feasible, b.objective < a.objective, b.accuracy > a.accuracy)
    return Solutions(
        levels=np.where(take[:, None], b.levels, a.levels),
        objective=np.where(take, b.objective, a.objective),
        accuracy=np.where(take, b.accuracy, a.accuracy),
        evaluations=a.evaluations + b.evaluations,
        feasible=a.feasible | b.feasible,
        lower_bound=np.full(len(take), np.nan),
    )


def _with_known(problem: Problem, scenarios: Scenarios, found: Solutions) -> Solutions:
    """The optimizer's solutions, measured against the strategies whose accuracy is a fact."""
    floor = scenarios.accuracy_floor
    base = np.full(len(floor), problem.base_accuracy)
    known = found.feasible & problem.is_known(found.levels)
    feasible = found.feasible & (~known | (base >= floor))
    own = found._replace(
        objective=np.where(feasible, found.objective, np.inf),
        accuracy=np.where(known, base, found.accuracy),
        feasible=feasible,
    )
    if not len(problem.known_levels):
        return own
    accuracy = np.full(len(problem.known_levels), problem.base_accuracy)
    index, objective = cheapest_feasible(problem.known_costs, accuracy, scenarios)
    unmodified = Solutions(
        levels=problem.known_levels[index],
        objective=objective,
        accuracy=base,
        evaluations=np.full(len(floor), len(problem.known_levels)),
        feasible=index >= 0,
        lower_bound=np.full(len(floor), np.nan),
    )
    return _better_of(own, unmodified)
