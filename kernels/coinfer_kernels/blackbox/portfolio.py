"""Two optimizers of bounded problems share one budget: SHADE's population and CMA-ES.

Neither is best on all functions. The population finds the better valleys and moves integers; the Gaussian of CMA-ES
goes down one valley, however narrow and curved, in a fraction of the evaluations (kernels/README.md has the figures).

- *Real variables alone*: CMA-ES goes first, by itself, until its first run ends; then the population gets three in four
  evaluations, and runs of CMA-ES begin anew.
- *Integers among them*: the population gets 39 in 40 evaluations, and CMA-ES over the real variables, with the integers
  held, goes on from the best solution wherever that is another one than it began from before. What it finds takes the
  place of the population's worst solution.
- *Integers alone*, more variables than ``MOST_VARIABLES``, or a population whose size the caller chose: SHADE alone.
"""

from typing import NamedTuple

import numpy as np

from coinfer_kernels.blackbox.cma import AROUND, ENDED, PENDING, RUN, CmaState, ask_cma, new_cma, tell_cma
from coinfer_kernels.blackbox.shade import (
    TOLD,
    PopulationState,
    ask_population,
    better,
    keep_best,
    new_population,
    tell_population,
)
from coinfer_kernels.jit import copy_row, inner, kernel
from coinfer_kernels.notation import BoolArray, FloatArray, IntArray

MOST_VARIABLES = 200  # of CMA-ES, whose time for an evaluation grows with their square
SHARE, SHARE_MIXED = 3.0, 39.0  # evaluations of the population for one of CMA-ES

# Places in ``Portfolio.counters``, and the values of the first.
TURN, COUNT, SPENT_POPULATION, SPENT_CMA = range(4)
POPULATION, CMA = range(2)


class Portfolio(NamedTuple):
    """All there is to know of both; the population has the best solution of either, and counts all that were told."""

    population: PopulationState
    cma: CmaState  # of no variables where the population is alone
    counters: IntArray  # (4,) whose solutions were asked last, how many, and evaluations that each has had


def new_portfolio(
    low: FloatArray, high: FloatArray, integral: BoolArray, size: int, alone: bool, seed: int
) -> Portfolio:
    """Optimizers that have not been asked yet; ``alone``: the population without CMA-ES."""
    moved = np.flatnonzero((high > low) & ~integral)
    if alone or len(moved) > MOST_VARIABLES:
        moved = moved[:0]
    return Portfolio(
        population=new_population(low, high, integral, size, seed),
        cma=new_cma(low, high, moved, bool(integral.any()), seed),
        counters=np.zeros(4, dtype=np.int64),
    )


@inner
def _choose(state: Portfolio) -> int:
    """Whose turn it is."""
    population, cma, counters = state.population, state.cma, state.counters
    if cma.free.shape[0] == 0:
        return POPULATION
    share = SHARE
    if cma.counters[AROUND] == 1:
        share, running = SHARE_MIXED, cma.counters[RUN] > 0 and cma.counters[ENDED] == 0
        if population.counters[TOLD] == 0 or not (running or _differ(cma.base, population.best_x)):
            return POPULATION
    elif cma.counters[RUN] <= 1 and cma.counters[ENDED] == 0:
        return CMA
    return POPULATION if counters[SPENT_POPULATION] < share * counters[SPENT_CMA] else CMA


@inner
def _differ(x: FloatArray, other: FloatArray) -> bool:
    same = True
    for d in range(x.shape[0]):
        same = same and x[d] == other[d]
    return not same


@kernel
def ask_portfolio(state: Portfolio) -> int:
    """Have one of the two propose solutions, the first of its ``trial``; how many."""
    cma, counters = state.cma, state.counters
    counters[TURN] = _choose(state)
    if counters[TURN] == CMA:
        if cma.counters[AROUND] == 1 and (cma.counters[RUN] == 0 or cma.counters[ENDED] == 1):
            copy_row(state.population.best_x, cma.base)
        count = ask_cma(cma)
    else:
        ask_population(state.population)
        count = state.population.x.shape[0]
    counters[COUNT] = count
    return count


@kernel
def tell_portfolio(state: Portfolio, objective: FloatArray, violation: FloatArray) -> None:
    """Give the answers to the one that asked."""
    population, cma, counters = state.population, state.cma, state.counters
    if counters[TURN] == POPULATION:
        tell_population(population, objective, violation)
        counters[SPENT_POPULATION] += counters[COUNT]
        return
    best_violation, best_objective = population.best[0], population.best[1]
    for i in range(counters[COUNT]):
        keep_best(population, cma.trial[i], objective[i], violation[i])
    population.counters[TOLD] += counters[COUNT]
    counters[SPENT_CMA] += counters[COUNT]
    tell_cma(cma, objective, violation)
    if cma.counters[AROUND] == 1 and not better(best_violation, best_objective, population.best[0], population.best[1]):
        copy_row(population.best_x, cma.base)
        hold(population, population.best_x, population.best[1], population.best[0])


@kernel
def hold(population: PopulationState, x: FloatArray, objective: float, violation: float) -> None:
    """Let a solution take the place of the worst one held, if it is better."""
    worst = 0
    for i in range(1, population.x.shape[0]):
        if better(
            population.violation[worst], population.objective[worst], population.violation[i], population.objective[i]
        ):
            worst = i
    if better(population.violation[worst], population.objective[worst], violation, objective):
        return
    copy_row(x, population.x[worst])
    population.violation[worst], population.objective[worst] = violation, objective


def observe(state: Portfolio, x: FloatArray, objective: float, violation: float) -> None:
    """Take the answer to a solution that nobody asked for."""
    keep_best(state.population, x, objective, violation)
    hold(state.population, x, objective, violation)
    state.cma.pending[:] = *x, violation, objective
    state.cma.counters[PENDING] = 1
