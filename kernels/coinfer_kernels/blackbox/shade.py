"""The population optimizer on any bounded problem: SHADE, a differential evolution that learns its own parameters.

The mutation is current-to-pbest/1 with an archive, the crossover binomial: with F the scale factor (``reach``), CR the
crossover rate (``crossing``), p one of the best, r and s two others (s possibly one of the archive's replaced parents),

    trial = x + F (p - x) + F (r - s)    in each coordinate with the probability CR, and in one at least

F and CR are drawn around a history of those that succeeded (R. Tanabe and A. Fukunaga, "Success-History Based
Parameter Adaptation for Differential Evolution", CEC 2013). A trial replaces its own parent if it is no worse. In the
terms of the quantum-inspired family every solution is the centre of a wave packet whose shape is the population's own.
Beyond SHADE:

- *Integers as such*: a coordinate between two integers goes to either at random, the nearer the likelier, so that
  small differences still move; a proposal that equals its parent takes a step in one integer variable.
- *Feasibility rule*: less violation beats more, and only among equals the objective decides (Deb, 2000).
- *Restarts*: a population that has collapsed starts anew; the best is kept apart.

N: solutions; D: variables; H: length of the history.
"""

from math import pi, tan
from typing import NamedTuple

import numpy as np

from coinfer_kernels.jit import copy_row, inner, kernel
from coinfer_kernels.notation import BoolArray, FloatArray, IntArray
from coinfer_kernels.rng import Stream, normal, seed_stream, uniform

HISTORY = 6
TOURNAMENT = 6  # a proposal drifts to the best of so many
COLLAPSED = 1e-10  # of the domain's width
PATIENCE = 100  # generations without any success, after which a population starts anew

# Places in ``PopulationState.counters``.
TOLD, HISTORY_AT, ARCHIVED, IDLE, STARTED = range(5)


class PopulationState(NamedTuple):
    """All there is to know: copy it, and the run goes on from there."""

    low: FloatArray  # (D,)
    high: FloatArray  # (D,)
    integral: BoolArray  # (D,)
    x: FloatArray  # (N, D)
    objective: FloatArray  # (N,)
    violation: FloatArray  # (N,) infinite where the solution has not been told yet
    trial: FloatArray  # (N, D)
    reach: FloatArray  # (N,) F of the trial
    crossing: FloatArray  # (N,) CR of the trial
    reach_history: FloatArray  # (H,) means of F that succeeded
    crossing_history: FloatArray  # (H,) means of CR
    archive: FloatArray  # (N, D) parents that were replaced
    counters: IntArray  # (5,)
    best_x: FloatArray  # (D,)
    best: FloatArray  # (2,) violation and objective
    stream: Stream  # (4,)


def new_population(low: FloatArray, high: FloatArray, integral: BoolArray, size: int, seed: int) -> PopulationState:
    """A population that has not been asked yet."""
    dimensions = len(low)
    stream = np.empty(4, dtype=np.uint64)
    seed_stream(stream, seed, 0, 0)
    return PopulationState(
        low=low.copy(),
        high=high.copy(),
        integral=integral.copy(),
        x=np.zeros((size, dimensions)),
        objective=np.full(size, np.inf),
        violation=np.full(size, np.inf),
        trial=np.zeros((size, dimensions)),
        reach=np.zeros(size),
        crossing=np.zeros(size),
        reach_history=np.zeros(HISTORY),
        crossing_history=np.zeros(HISTORY),
        archive=np.zeros((size, dimensions)),
        counters=np.zeros(5, dtype=np.int64),
        best_x=np.full(dimensions, np.nan),
        best=np.full(2, np.inf),
        stream=stream,
    )


@inner
def better(violation: float, objective: float, other_violation: float, other_objective: float) -> bool:
    """Whether the first is at least as good: less violation, or as much and no higher an objective."""
    if violation != other_violation:
        return violation < other_violation
    return objective <= other_objective


@inner
def to_domain(value: float, parent: float, low: float, high: float, integral: bool, stream: Stream) -> float:
    """Bring a coordinate into the domain: half way to the border from a parent inside, integers at random."""
    if integral:
        below = np.floor(value)
        value = below + (1.0 if uniform(stream) < value - below else 0.0)
        return min(max(value, low), high)
    if value < low:
        return 0.5 * (low + parent)
    if value > high:
        return 0.5 * (high + parent)
    return value


@inner
def _scatter(state: PopulationState) -> None:
    """Propose solutions uniformly at random."""
    for i in range(state.x.shape[0]):
        for d in range(state.x.shape[1]):
            width = state.high[d] - state.low[d]
            value = state.low[d] + uniform(state.stream) * (width + 1.0 if state.integral[d] else width)
            if state.integral[d]:
                value = min(np.floor(value), state.high[d])
            state.trial[i, d] = value
        state.violation[i], state.objective[i] = np.inf, np.inf


@inner
def _one_of_the_best(state: PopulationState) -> int:
    """The best of a few solutions drawn at random."""
    best = int(uniform(state.stream) * state.x.shape[0])
    for _ in range(TOURNAMENT - 1):
        i = int(uniform(state.stream) * state.x.shape[0])
        if better(state.violation[i], state.objective[i], state.violation[best], state.objective[best]):
            best = i
    return best


@inner
def _step(state: PopulationState, i: int) -> None:
    """One trial: x_i + F (x_best - x_i) + F (x_a - x_b), crossed with x_i."""
    stream, solutions, dimensions = state.stream, state.x.shape[0], state.x.shape[1]
    memory = int(uniform(stream) * HISTORY)
    crossing = min(1.0, max(0.0, state.crossing_history[memory] + 0.1 * normal(stream)))
    reach = 0.0
    while reach <= 0.0:
        reach = state.reach_history[memory] + 0.1 * tan(pi * (uniform(stream) - 0.5))
    reach = min(1.0, reach)
    state.reach[i], state.crossing[i] = reach, crossing
    drift = _one_of_the_best(state)
    a, b = i, i
    while a == i:
        a = int(uniform(stream) * solutions)
    while b in (i, a):
        b = int(uniform(stream) * (solutions + state.counters[ARCHIVED]))
    always = int(uniform(stream) * dimensions)
    same = True
    for d in range(dimensions):
        value = state.x[i, d]
        if d == always or uniform(stream) < crossing:
            other = state.x[b, d] if b < solutions else state.archive[b - solutions, d]
            value += reach * (state.x[drift, d] - value) + reach * (state.x[a, d] - other)
            value = to_domain(value, state.x[i, d], state.low[d], state.high[d], state.integral[d], stream)
        state.trial[i, d] = value
        same = same and value == state.x[i, d]
    if same and state.integral[always]:
        step = 1.0 if uniform(stream) < 0.5 else -1.0
        value = state.x[i, always] + step
        if not state.low[always] <= value <= state.high[always]:
            value -= 2.0 * step
        state.trial[i, always] = min(max(value, state.low[always]), state.high[always])


@inner
def _collapsed(state: PopulationState) -> bool:
    if state.counters[IDLE] > PATIENCE:
        return True
    for d in range(state.x.shape[1]):
        low, high = state.x[0, d], state.x[0, d]
        for i in range(state.x.shape[0]):
            low, high = min(low, state.x[i, d]), max(high, state.x[i, d])
        if high - low > COLLAPSED * (state.high[d] - state.low[d]):
            return False
    return True


@kernel
def ask_population(state: PopulationState) -> None:
    """Put the next proposals into ``state.trial``."""
    if state.counters[STARTED] == 0 or _collapsed(state):
        for h in range(HISTORY):
            state.reach_history[h] = state.crossing_history[h] = 0.5
        state.counters[HISTORY_AT] = state.counters[ARCHIVED] = state.counters[IDLE] = 0
        state.counters[STARTED] = 1
        _scatter(state)
        return
    for i in range(state.x.shape[0]):
        _step(state, i)


@kernel
def keep_best(state: PopulationState, x: FloatArray, objective: float, violation: float) -> None:
    """Remember a solution that is better than the best so far."""
    if not better(state.best[0], state.best[1], violation, objective):
        state.best[0], state.best[1] = violation, objective
        copy_row(x, state.best_x)


@kernel
def tell_population(state: PopulationState, objective: FloatArray, violation: FloatArray) -> None:
    """Take the answers to ``state.trial``: every proposal that is as good replaces its parent."""
    reach, reach_square, crossing, weight = 0.0, 0.0, 0.0, 0.0
    for i in range(state.x.shape[0]):
        state.counters[TOLD] += 1
        keep_best(state, state.trial[i], objective[i], violation[i])
        if not better(violation[i], objective[i], state.violation[i], state.objective[i]):
            continue
        gain = state.violation[i] - violation[i]
        if gain == 0.0:
            gain = state.objective[i] - objective[i]
        if gain > 0.0 and state.violation[i] < np.inf:  # a success; the first answer for a place is none
            gain = min(gain, 1e100)
            reach += gain * state.reach[i]
            reach_square += gain * state.reach[i] ** 2
            crossing += gain * state.crossing[i]
            weight += gain
            _keep_parent(state, i)
        state.violation[i], state.objective[i] = violation[i], objective[i]
        copy_row(state.trial[i], state.x[i])
    state.counters[IDLE] += 1
    if weight > 0.0:
        at = state.counters[HISTORY_AT]
        state.reach_history[at] = reach_square / reach  # Lehmer mean
        state.crossing_history[at] = crossing / weight
        state.counters[HISTORY_AT] = (at + 1) % HISTORY
        state.counters[IDLE] = 0


@inner
def _keep_parent(state: PopulationState, i: int) -> None:
    """Put a replaced parent into the archive, in the place of a random one where that is full."""
    solutions = state.x.shape[0]
    if state.counters[ARCHIVED] < solutions:
        place = state.counters[ARCHIVED]
        state.counters[ARCHIVED] += 1
    else:
        place = int(uniform(state.stream) * solutions)
    copy_row(state.x[i], state.archive[place])
