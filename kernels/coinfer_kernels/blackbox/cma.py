"""Covariance matrix adaptation: a Gaussian that learns a function's scales and directions.

N. Hansen, "The CMA evolution strategy: a tutorial" (arXiv:1604.00772), with its default weights, negative ones for
active adaptation among them, and its default rates, over the real variables, in the unit cube. What differs:

- *Cholesky's factor* in place of the root of the covariance matrix, for the samples and for the evolution path of the
  step size (O. Krause, D. Arbones and C. Igel, "CMA-ES with optimal covariance update and storage complexity", NeurIPS
  2016): a few per cent of the arithmetic, and no iteration. It is computed every D/20 generations.
- *Restarts* alternate between populations that double and small ones, whichever have spent less (N. Hansen,
  "Benchmarking a BI-population CMA-ES on the BBOB-2009 function testbed", GECCO 2009). A run *around* a solution begins
  there instead, narrow, with the first population, and the variables that are not its own keep the solution's values.
- *Borders*: a sample outside counts as the point of the border next to it. The mean may lie outside by no more than the
  Gaussian's width, so that a corner is hit by many samples at once.
- *Feasibility rule*: samples are ranked by violation first, as everywhere here.
- *A solution from elsewhere* takes the worst sample's place, its step cut to a length that a sample could have had
  (N. Hansen, "Injecting external solutions into CMA-ES", arXiv:1110.4181).

D: variables; F: those that it moves; L: the most samples of a generation.
"""

from math import exp, log, sqrt
from typing import NamedTuple

import numpy as np

from coinfer_kernels.blackbox.shade import better
from coinfer_kernels.jit import copy_row, inner, kernel
from coinfer_kernels.notation import FloatArray, IntArray
from coinfer_kernels.rng import Stream, normal, seed_stream, uniform

DOUBLINGS = 5  # the largest population is so many times twice the first
WIDTH = 0.2  # of the first Gaussian, in widths of the domain
OUTSIDE = 1.0  # of the Gaussian's width, by which its middle may lie beyond the border
NEAR = 0.05  # of the first Gaussian around a solution
NARROWEST = 1e-12  # widths of the domain, at which a run ends
FLAT = 1e-13  # of the objective's size: differences that are rounding
SMALLEST = 1e-300
WORST_CONDITION = 1e7  # of the Cholesky factor's diagonal

# Places in ``CmaState.numbers`` and ``CmaState.counters``.
SIGMA, MU_EFF, C_SIGMA, D_SIGMA, C_PATH, C_ONE, C_MU, RUN_VIOLATION, RUN_OBJECTIVE = range(9)
SAMPLES, GENERATION, IDLE, RUN, LARGE, SPENT_LARGE, SPENT_SMALL, IS_SMALL, PENDING, ENDED, AROUND = range(11)


class CmaState(NamedTuple):
    """All there is to know: copy it, and the run goes on from there."""

    low: FloatArray  # (D,)
    high: FloatArray  # (D,)
    free: IntArray  # (F,) the variables that it moves
    base: FloatArray  # (D,) the values of all others, and where a run around a solution begins
    mean: FloatArray  # (F,) in the unit cube, or near it
    path_sigma: FloatArray  # (F,)
    path: FloatArray  # (F,)
    covariance: FloatArray  # (F, F) its upper triangle
    factor: FloatArray  # (F, F) upper, its transpose times it the covariance
    step: FloatArray  # (L, F) of each sample, from the mean in units of sigma
    trial: FloatArray  # (L, D) the samples
    weight: FloatArray  # (L,) from the best to the worst, the last ones negative
    answer: FloatArray  # (2, L) violation and objective of each
    order: IntArray  # (L,) samples from the best to the worst
    work: FloatArray  # (2, F)
    pending: FloatArray  # (D + 2,) a solution from elsewhere, its violation and objective
    numbers: FloatArray  # (9,)
    counters: IntArray  # (11,)
    stream: Stream  # (4,)


def new_cma(low: FloatArray, high: FloatArray, free: IntArray, around: bool, seed: int) -> CmaState:
    """A Gaussian over the variables ``free`` (F,) that has not been asked yet; ``around``: it begins at solutions."""
    dimensions, moved = len(low), len(free)
    samples = 0 if moved == 0 else (4 + int(3.0 * log(moved))) * 2 ** (0 if around else DOUBLINGS)
    stream = np.empty(4, dtype=np.uint64)
    seed_stream(stream, seed, 0, 1)
    counters = np.zeros(11, dtype=np.int64)
    counters[AROUND] = around
    return CmaState(
        low=low.copy(),
        high=high.copy(),
        free=free.astype(np.int64),
        base=low.copy(),
        mean=np.zeros(moved),
        path_sigma=np.zeros(moved),
        path=np.zeros(moved),
        covariance=np.zeros((moved, moved)),
        factor=np.zeros((moved, moved)),
        step=np.zeros((samples, moved)),
        trial=np.zeros((samples, dimensions)),
        weight=np.zeros(samples),
        answer=np.zeros((2, samples)),
        order=np.zeros(samples, dtype=np.int64),
        work=np.zeros((2, moved)),
        pending=np.zeros(dimensions + 2),
        numbers=np.zeros(9),
        counters=counters,
        stream=stream,
    )


@inner
def _place(state: CmaState, x: FloatArray, d: int) -> float:
    """A solution's coordinate in the unit cube."""
    v = state.free[d]
    low, high = state.low[v], state.high[v]
    place: float = (x[v] - low) / (high - low)
    return place


@inner
def _begin(state: CmaState) -> None:
    """A run's population, its first Gaussian, and its rates."""
    counters, numbers, dimensions = state.counters, state.numbers, state.free.shape[0]
    first = 4 + int(3 * log(dimensions))
    samples, sigma = first, WIDTH
    counters[IS_SMALL] = 0
    if counters[AROUND] == 1:
        sigma = NEAR
    elif counters[RUN] > 0:
        if counters[SPENT_SMALL] < counters[SPENT_LARGE]:
            counters[IS_SMALL] = 1
            share = uniform(state.stream)
            samples = int(first * exp(share * share * log(max(0.5 * 2.0 ** counters[LARGE], 1.0))))
            sigma *= exp(-2.0 * log(10.0) * uniform(state.stream))
        else:
            counters[LARGE] = min(counters[LARGE] + 1, DOUBLINGS)
            samples = first * 2 ** counters[LARGE]
    counters[SAMPLES] = min(samples, state.step.shape[0])
    counters[RUN] += 1
    counters[GENERATION] = counters[IDLE] = counters[ENDED] = 0
    numbers[SIGMA], numbers[RUN_VIOLATION], numbers[RUN_OBJECTIVE] = sigma, np.inf, np.inf
    for d in range(dimensions):
        state.mean[d] = _place(state, state.base, d) if counters[AROUND] == 1 else uniform(state.stream)
        state.path_sigma[d] = state.path[d] = 0.0
        for e in range(dimensions):
            state.covariance[d, e] = state.factor[d, e] = 1.0 if d == e else 0.0
    _set_rates(state)


@inner
def _set_rates(state: CmaState) -> None:
    """Weights and rates of the tutorial, its equations (49) to (58)."""
    numbers, n, samples = state.numbers, float(state.free.shape[0]), state.counters[SAMPLES]
    good, good_square, bad, bad_square = 0.0, 0.0, 0.0, 0.0
    for i in range(samples):
        weight = log(0.5 * (samples + 1)) - log(i + 1.0)
        state.weight[i] = weight
        if weight > 0.0:
            good, good_square = good + weight, good_square + weight * weight
        else:
            bad, bad_square = bad - weight, bad_square + weight * weight
    mu = good * good / good_square
    c_one = 2.0 / ((n + 1.3) ** 2 + mu)
    c_mu = min(1.0 - c_one, 2.0 * (0.25 + mu + 1.0 / mu - 2.0) / ((n + 2.0) ** 2 + mu))
    most = min(1.0 + c_one / c_mu, 1.0 + 2.0 * (bad * bad / bad_square) / (mu + 2.0))
    most = min(most, (1.0 - c_one - c_mu) / (n * c_mu))
    for i in range(samples):
        state.weight[i] *= 1.0 / good if state.weight[i] > 0.0 else most / bad
    numbers[MU_EFF], numbers[C_ONE], numbers[C_MU] = mu, c_one, c_mu
    c_sigma = (mu + 2.0) / (n + mu + 5.0)
    numbers[C_SIGMA] = c_sigma
    numbers[D_SIGMA] = 1.0 + 2.0 * max(0.0, sqrt((mu - 1.0) / (n + 1.0)) - 1.0) + c_sigma
    numbers[C_PATH] = (4.0 + mu / n) / (n + 4.0 + 2.0 * mu / n)


@kernel
def ask_cma(state: CmaState) -> int:
    """Put the next samples into ``state.trial``; how many there are."""
    if state.counters[RUN] == 0 or state.counters[ENDED] == 1:
        _begin(state)
    sigma, dimensions = state.numbers[SIGMA], state.free.shape[0]
    samples = int(state.counters[SAMPLES])
    for i in range(samples):
        step = state.step[i]
        for d in range(dimensions):
            step[d] = 0.0
        for d in range(dimensions):
            z, row = normal(state.stream), state.factor[d]
            for e in range(d, dimensions):
                step[e] += row[e] * z
        copy_row(state.base, state.trial[i])
        for d in range(dimensions):
            v = state.free[d]
            place = min(max(state.mean[d] + sigma * step[d], 0.0), 1.0)
            low, high = state.low[v], state.high[v]
            state.trial[i, v] = min(low + place * (high - low), high)
    return samples


@inner
def _rank(state: CmaState) -> None:
    """Sort the samples from the best to the worst, by Shell's method."""
    samples, order = state.counters[SAMPLES], state.order
    violation, objective = state.answer[0], state.answer[1]
    for i in range(samples):
        order[i] = i
    gap = 1
    while gap < samples // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, samples):
            one, j = order[i], i
            while j >= gap and not better(
                violation[order[j - gap]], objective[order[j - gap]], violation[one], objective[one]
            ):
                order[j] = order[j - gap]
                j -= gap
            order[j] = one
        gap //= 3


@inner
def _inject(state: CmaState) -> None:
    """Let the pending solution take the worst sample's place, if it is better."""
    dimensions, sigma = state.free.shape[0], state.numbers[SIGMA]
    violation, objective = state.answer[0], state.answer[1]
    worst = state.order[state.counters[SAMPLES] - 1]
    state.counters[PENDING] = 0
    known = state.low.shape[0]
    other_violation, other_objective = float(state.pending[known]), float(state.pending[known + 1])
    if not better(other_violation, other_objective, violation[worst], objective[worst]):
        return
    for d in range(dimensions):
        place = _place(state, state.pending, d)
        state.step[worst, d] = (place - state.mean[d]) / sigma
    length = sqrt(_length_square(state, state.step[worst]))
    most = sqrt(dimensions) + 2.0 * dimensions / (dimensions + 2.0)
    if length > most:
        for d in range(dimensions):
            state.step[worst, d] *= most / length
    violation[worst], objective[worst] = other_violation, other_objective
    _rank(state)


@inner
def _whiten(state: CmaState, step: FloatArray, out: FloatArray) -> None:
    """The normal numbers whose product with the factor is ``step``."""
    dimensions = state.free.shape[0]
    for d in range(dimensions):
        out[d] = step[d]
    for d in range(dimensions):
        row = state.factor[d]
        out[d] /= row[d]
        z = out[d]
        for e in range(d + 1, dimensions):
            out[e] -= row[e] * z


@inner
def _length_square(state: CmaState, step: FloatArray) -> float:
    out, total = state.work[1], 0.0
    _whiten(state, step, out)
    for d in range(state.free.shape[0]):
        total += out[d] * out[d]
    return total


@kernel
def tell_cma(state: CmaState, objective: FloatArray, violation: FloatArray) -> None:
    """Take the answers to ``state.trial``: the Gaussian moves, turns and changes its width."""
    counters, dimensions = state.counters, state.free.shape[0]
    samples = counters[SAMPLES]
    counters[GENERATION] += 1
    counters[SPENT_SMALL if counters[IS_SMALL] == 1 else SPENT_LARGE] += samples
    for i in range(samples):
        state.answer[0, i], state.answer[1, i] = violation[i], objective[i]
    _rank(state)
    if counters[PENDING] == 1:
        _inject(state)
    _move_mean(state)
    _move_paths(state)
    if counters[GENERATION] % max(1, dimensions // 20) == 0 and not _factorise(state):
        counters[ENDED] = 1
    _judge_run(state)


@inner
def _move_mean(state: CmaState) -> None:
    """To the weighted mean of the better half; the step that was taken goes into ``state.work[0]``."""
    dimensions, sigma, mean_step = state.free.shape[0], state.numbers[SIGMA], state.work[0]
    for d in range(dimensions):
        mean_step[d] = 0.0
    for i in range(state.counters[SAMPLES]):
        weight, step = state.weight[i], state.step[state.order[i]]
        if weight > 0.0:
            for d in range(dimensions):
                mean_step[d] += weight * step[d]
    for d in range(dimensions):
        outside = OUTSIDE * sigma * sqrt(max(state.covariance[d, d], 0.0))
        place = min(max(state.mean[d] + sigma * mean_step[d], -outside), 1.0 + outside)
        mean_step[d] = (place - state.mean[d]) / sigma
        state.mean[d] = place


@inner
def _move_paths(state: CmaState) -> None:
    """The evolution paths, with them sigma and the covariance matrix."""
    numbers, dimensions, n = state.numbers, state.free.shape[0], float(state.free.shape[0])
    c_sigma, c_path, mu = numbers[C_SIGMA], numbers[C_PATH], numbers[MU_EFF]
    mean_step, white, square = state.work[0], state.work[1], 0.0
    _whiten(state, mean_step, white)
    for d in range(dimensions):
        moved = (1.0 - c_sigma) * state.path_sigma[d] + sqrt(c_sigma * (2.0 - c_sigma) * mu) * white[d]
        state.path_sigma[d] = moved
        square += moved * moved
    expected = sqrt(n) * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n * n))
    begun = 1.0 - (1.0 - c_sigma) ** (2.0 * state.counters[GENERATION])
    moving = 1.0 if square / n / begun < 2.0 + 4.0 / (n + 1.0) else 0.0
    for d in range(dimensions):
        state.path[d] *= 1.0 - c_path
        state.path[d] += moving * sqrt(c_path * (2.0 - c_path) * mu) * mean_step[d]
    _learn(state, moving)
    numbers[SIGMA] *= exp(min(1.0, (c_sigma / numbers[D_SIGMA]) * (sqrt(square) / expected - 1.0)))
    widest = 0.0
    for d in range(dimensions):
        widest = max(widest, state.covariance[d, d])
    numbers[SIGMA] = min(numbers[SIGMA], 1.0 / sqrt(widest))


@inner
def _learn(state: CmaState, moving: float) -> None:
    """Turn and stretch the covariance matrix: towards the path and the good samples, away from the bad ones."""
    numbers, dimensions, samples = state.numbers, state.free.shape[0], state.counters[SAMPLES]
    c_one, c_mu, total = numbers[C_ONE], numbers[C_MU], 0.0
    for i in range(samples):
        total += state.weight[i]
    lost = (1.0 - moving) * numbers[C_PATH] * (2.0 - numbers[C_PATH])
    kept = 1.0 + c_one * lost - c_one - c_mu * total
    for d in range(dimensions):
        row, along = state.covariance[d], c_one * state.path[d]
        for e in range(d, dimensions):
            row[e] = kept * row[e] + along * state.path[e]
    for i in range(samples):
        step, weight = state.step[state.order[i]], c_mu * state.weight[i]
        if weight < 0.0:
            weight *= dimensions / max(_length_square(state, step), SMALLEST)  # keeps the matrix positive definite
        for d in range(dimensions):
            row, along = state.covariance[d], weight * step[d]
            for e in range(d, dimensions):
                row[e] += along * step[e]


@inner
def _factorise(state: CmaState) -> bool:
    """Cholesky's factor of the covariance matrix; whether it is sound."""
    factor, dimensions = state.factor, state.free.shape[0]
    least, most = np.inf, 0.0
    for d in range(dimensions):
        for e in range(d, dimensions):
            factor[d, e] = state.covariance[d, e]
    for d in range(dimensions):
        row = factor[d]
        if not row[d] > 0.0:
            return False
        root = sqrt(row[d])
        least, most = min(least, root), max(most, root)
        for e in range(d, dimensions):
            row[e] /= root
        for e in range(d + 1, dimensions):
            other, along = factor[e], row[e]
            for f in range(e, dimensions):
                other[f] -= along * row[f]
    return most < WORST_CONDITION * least


@inner
def _judge_run(state: CmaState) -> None:
    """Whether the run has ended: no gain for long, none to be had any more, or no width left."""
    counters, numbers, dimensions = state.counters, state.numbers, state.free.shape[0]
    violation, objective = state.answer[0], state.answer[1]
    best, last = state.order[0], state.order[counters[SAMPLES] - 1]
    counters[IDLE] += 1
    if violation[best] < numbers[RUN_VIOLATION] or (
        violation[best] == numbers[RUN_VIOLATION]
        and objective[best] < numbers[RUN_OBJECTIVE] - FLAT * abs(objective[best])
    ):
        numbers[RUN_VIOLATION], numbers[RUN_OBJECTIVE] = violation[best], objective[best]
        counters[IDLE] = 0
    settled = 10 + 30 * dimensions // counters[SAMPLES]
    patience = 110 + settled
    if counters[AROUND] == 0:  # a discus shows no gain until its one short axis is learned; the wait is pycma's
        patience = 100 + int(100.0 * dimensions * sqrt(dimensions) / counters[SAMPLES])
    flat = violation[last] == violation[best] and objective[last] - objective[best] <= FLAT * abs(objective[best])
    widest = 0.0
    for d in range(dimensions):
        widest = max(widest, sqrt(max(state.covariance[d, d], 0.0)))
    if (flat and counters[IDLE] > settled) or counters[IDLE] > patience + counters[GENERATION] // 5:
        counters[ENDED] = 1
    if numbers[SIGMA] * widest < NARROWEST:
        counters[ENDED] = 1
