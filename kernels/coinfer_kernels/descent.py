"""A strategy in hand, and the descent from it to the edge of the predictor's box.

With all other variables held, a level of a variable costs one intersection of bit sets (``leaves``), the sum over
the few trees that ask for the variable, and the few layers that it touches.
"""

from math import log
from typing import NamedTuple

import numpy as np

from coinfer_kernels.jit import copy_row, inner, maker
from coinfer_kernels.latency import codec_cost, cost_row, objective_of
from coinfer_kernels.leaves import LeafTables, Words, leaf_tables, snr_words, value_of_leaves
from coinfer_kernels.notation import (
    CODEC_RATIO_1,
    CODEC_RATIO_2,
    CODEC_STRIDE_1,
    CODEC_STRIDE_2,
    CODEC_VARIABLES,
    CODEC_WIDTH_1,
    CODEC_WIDTH_2,
    CostTables,
    FloatArray,
    IntArray,
)
from coinfer_kernels.quantum import Problem
from coinfer_kernels.rng import Stream, uniform

THRIFTY = 0.8  # share of the descents that begin where most can be saved
MOST_SWEEPS = 100  # two or three do; gains of a rounding error must not go round in a circle
REPAIRS = 2  # sweeps in search of a feasible strategy
TOLERANCE = 1e-12  # of sums in another order; a strategy that is kept is checked by the predictor itself


class SearchModel(NamedTuple):
    """The problem without what cannot matter. Q: pairs of sets between which layers lie."""

    cost: CostTables
    leaves: LeafTables
    levels: IntArray  # (V, M) levels that can be best, ascending
    counts: IntArray  # (V,) how many
    falling: IntArray  # (V,) from this place on, a level costs less than the one before it, whatever the others are
    pair_in: IntArray  # (Q,) rows of ``kept``
    pair_out: IntArray  # (Q,)
    pair_flop: FloatArray  # (C, 2, Q) FLOPs per kept input and output channel, on the device and on the server
    set_flop: FloatArray  # (C, 2, P + 1) FLOPs per kept output channel
    corner_flop: FloatArray  # (C, 2) no strategy has fewer
    touching: IntArray  # (P + 1, Q) pairs that a set belongs to, -1 behind the last


class Here(NamedTuple):
    """One scenario at one cut, and the strategy in hand."""

    weights: FloatArray  # (3,) of the scenario
    floor: FloatArray  # (1,)
    pair: FloatArray  # (Q,) objective per kept input and output channel
    line: FloatArray  # (P + 1,) objective per kept output channel
    base: Words  # (B,) leaves that the SNR, the cut and the meaningless variables leave open
    linear: FloatArray  # (1,) what those add by themselves
    active: IntArray  # (1,) how many variables mean something at this cut
    order: IntArray  # (V,) those variables, in the order of the descent
    finish: FloatArray  # (V,) room to find that order
    levels: IntArray  # (V,) the strategy
    at: IntArray  # (V,) its place among the levels that can be best
    accuracy: FloatArray  # (1,) its predicted accuracy
    most_accurate: FloatArray  # (1,) of all strategies that a sweep ended with
    behind: Words  # (V + 1, B) leaves that the variables from a place of the order on leave open
    before: Words  # (B,) leaves that the variables before a place leave open
    others: Words  # (B,) room for sets of leaves
    words: Words  # (B,)
    x: FloatArray  # (F,) room for features
    scratch: FloatArray  # (2, trees)
    spent: IntArray  # (1,) levels tried


def search_model(problem: Problem) -> SearchModel:
    """Merge layers between the same sets, and drop levels that never are the best."""
    cost = problem.cost
    leaves = leaf_tables(problem.ensemble, problem.space.values)
    pairs, pair_of = np.unique(np.stack([cost.in_set, cost.out_set]), axis=1, return_inverse=True)
    cuts, rows = len(cost.cut_layers), len(cost.kept)
    fewest, most = cost.kept.min(axis=1), cost.kept.max(axis=1)
    least = cost.quadratic * fewest[cost.in_set] + cost.linear  # FLOPs per output channel
    pair_flop, set_flop = np.zeros((cuts, 2, pairs.shape[1])), np.zeros((cuts, 2, rows))
    corner_flop = np.zeros((cuts, 2))
    for cut, first in enumerate(cost.cut_layers):
        for side, layers in enumerate((slice(0, first), slice(first, None))):
            np.add.at(pair_flop[cut, side], pair_of[layers], cost.quadratic[layers])
            np.add.at(set_flop[cut, side], cost.out_set[layers], cost.linear[layers])
            out = cost.out_set[layers]
            corner_flop[cut, side] = np.minimum(least[layers] * fewest[out], least[layers] * most[out]).sum()
    touching = np.full((rows, pairs.shape[1]), -1, dtype=np.int64)
    for row in range(rows):
        found = np.flatnonzero((pairs == row).any(axis=0))
        touching[row, : len(found)] = found
    levels, count, falling = _useful_levels(problem, leaves, least)
    return SearchModel(
        cost,
        leaves,
        levels,
        count,
        falling,
        np.ascontiguousarray(pairs[0]),
        np.ascontiguousarray(pairs[1]),
        pair_flop,
        set_flop,
        corner_flop,
        touching,
    )


def _useful_levels(problem: Problem, leaves: LeafTables, least: FloatArray) -> tuple[IntArray, IntArray, IntArray]:
    """Levels that can be best, how many, and from which place on each costs less than the one before.

    Of levels that the predictor cannot tell apart, only the cheapest can be best. ``least`` (L,): FLOPs of a layer
    per output channel with as few input channels as can be; where that is negative, nothing is known.
    """
    space, cost = problem.space, problem.cost
    variables, widest = space.values.shape
    reach = leaves.reach.reshape(variables, widest, -1)
    levels, count = np.tile(np.arange(widest), (variables, 1)), space.n_levels.copy()
    falling = count.copy()
    for v in range(variables):
        own = np.arange(space.n_levels[v])
        if v < len(cost.kept) - 1:
            if (np.diff(cost.kept[v, own]) > 0).any() or (least[cost.out_set == v] < 0).any():
                continue
            differs = (reach[v, own[:-1]] != reach[v, own[1:]]).any(axis=1)
            differs |= leaves.linear[v, own[:-1]] != leaves.linear[v, own[1:]]
            own = own[np.append(differs, True)]
            levels[v, : len(own)], count[v], falling[v] = own, len(own), 0
        elif 0 <= v - cost.codec_variable < CODEC_VARIABLES:
            # Level 0 may leave a stage out; from level 1 on, less width and more stride cost less.
            ratio = cost.ratio[v - cost.codec_variable, own[1:]]
            steps = np.diff(ratio)
            shrinks = v - cost.codec_variable in (CODEC_RATIO_1, CODEC_RATIO_2, CODEC_WIDTH_1, CODEC_WIDTH_2)
            grows = v - cost.codec_variable in (CODEC_STRIDE_1, CODEC_STRIDE_2)
            if (ratio != 1).all() and ((shrinks and (steps <= 0).all()) or (grows and (steps >= 0).all())):
                falling[v] = 1
    return levels, count, falling


@maker
def new_here(problem: Problem, model: SearchModel, s: int) -> Here:
    variables, words = problem.space.n_levels.shape[0], model.leaves.snr_reach.shape[1]
    return Here(
        weights=problem.scenarios.weights[s],
        floor=np.full(1, problem.scenarios.accuracy_floor[s] - TOLERANCE),
        pair=np.empty(model.pair_in.shape[0]),
        line=np.empty(model.cost.kept.shape[0]),
        base=np.empty(words, np.uint64),
        linear=np.empty(1),
        active=np.empty(1, np.int64),
        order=np.empty(variables, np.int64),
        finish=np.empty(variables),
        levels=np.empty(variables, np.int64),
        at=np.zeros(variables, np.int64),
        accuracy=np.empty(1),
        most_accurate=np.full(1, -np.inf),
        behind=np.empty((variables + 1, words), np.uint64),
        before=np.empty(words, np.uint64),
        others=np.empty(words, np.uint64),
        words=np.empty(words, np.uint64),
        x=np.empty(problem.ensemble.coefficients.shape[0]),
        scratch=np.empty((2, problem.ensemble.roots.shape[0])),
        spent=np.zeros(1, np.int64),
    )


@inner
def _meet(reach: Words, row: int, words: Words, out: Words) -> None:
    """Leaves of ``words`` that a level (``row`` of ``reach``) can reach."""
    size = np.uintp(out.shape[0])
    first = np.uintp(row) * size
    for b in range(size):
        out[b] = words[b] & reach[first + b]


@inner
def enter_cut(problem: Problem, model: SearchModel, cut: int, snr_db: float, here: Here) -> None:
    """Go to a cut, with a strategy that prunes nothing."""
    leaves, most = model.leaves, model.levels.shape[1]
    for q in range(here.pair.shape[0]):
        here.pair[q] = model.pair_flop[cut, 0, q] * here.weights[0] + model.pair_flop[cut, 1, q] * here.weights[1]
    for p in range(here.line.shape[0]):
        here.line[p] = model.set_flop[cut, 0, p] * here.weights[0] + model.set_flop[cut, 1, p] * here.weights[1]
    snr_words(leaves, snr_db, here.base)
    linear = leaves.intercept
    if leaves.snr_coefficient != 0.0:
        linear += leaves.snr_coefficient * snr_db
    active = 0
    for v in range(here.levels.shape[0]):
        if v == problem.space.cut_variable or not problem.space.active[cut, v]:
            here.levels[v] = cut if v == problem.space.cut_variable else problem.space.canonical[v]
            _meet(leaves.reach, v * most + here.levels[v], here.base, here.base)
            linear += leaves.linear[v, here.levels[v]]
        else:
            take_level(model, here, v, 0)
            here.order[active] = v
            active += 1
    here.linear[0] = linear
    here.active[0] = active


@inner
def take_level(model: SearchModel, here: Here, v: int, at: int) -> None:
    here.at[v] = at
    here.levels[v] = model.levels[v, at]


@inner
def _look(model: SearchModel, here: Here) -> None:
    """Predict the strategy in hand, and note what the variables from each place of the order on leave open."""
    leaves, most, active = model.leaves, model.levels.shape[1], here.active[0]
    linear = here.linear[0]
    copy_row(here.base, here.behind[active])
    for i in range(active - 1, -1, -1):
        v = here.order[i]
        _meet(leaves.reach, v * most + here.levels[v], here.behind[i + 1], here.behind[i])
        linear += leaves.linear[v, here.levels[v]]
    here.spent[0] += 1
    here.accuracy[0] = value_of_leaves(leaves, here.behind[0], here.scratch) + linear


@inner
def _hold_others(model: SearchModel, here: Here, v: int, behind: Words) -> float:
    """Put what all variables but v leave open into ``here.others``; returns what doesn't depend on v.

    ``here.before`` holds the variables before v in the order, ``behind`` those behind it. Trees that don't ask for v
    are left out of ``here.others``: their sum is the accuracy in hand less what v adds now.
    """
    others = here.others
    if model.leaves.median:
        for b in range(others.shape[0]):
            others[b] = here.before[b] & behind[b]
        return 0.0
    always = model.leaves.always
    for b in range(others.shape[0]):
        others[b] = here.before[b] & behind[b] & ~always[v, b]
    return float(here.accuracy[0] - _depending(model, here, v, here.levels[v]))


@inner
def _depending(model: SearchModel, here: Here, v: int, level: int) -> float:
    """What depends on variable v, at one of its levels, the others held."""
    _meet(model.leaves.reach, v * model.levels.shape[1] + level, here.others, here.words)
    here.spent[0] += 1
    return float(value_of_leaves(model.leaves, here.words, here.scratch) + model.leaves.linear[v, level])


@inner
def _cost_at(model: SearchModel, here: Here, cut: int, v: int, level: int) -> float:
    """The part of the objective that changes with variable v, at one of its levels."""
    cost, levels = model.cost, here.levels
    kept, sets = cost.kept, cost.kept.shape[0] - 1
    before, total = levels[v], 0.0
    levels[v] = level
    if v < sets:
        total += here.line[v] * kept[v, level]
        for i in range(model.touching.shape[1]):
            q = model.touching[v, i]
            if q < 0:
                break
            other = model.pair_in[q] + model.pair_out[q] - v
            total += here.pair[q] * kept[v, level] * kept[other, levels[other] if other < sets else 0]
    if v >= sets or v == cost.cut_set[cut]:
        device, server, uplink = codec_cost(cost, cut, levels)
        total += objective_of(here.weights, device, server, uplink)
    levels[v] = before
    return total


@inner
def _to_cheapest(model: SearchModel, here: Here, cut: int, v: int, behind: Words) -> bool:
    """Move variable v to its cheapest level that keeps a feasible strategy feasible; whether it moved."""
    now, falling = here.at[v], model.falling[v]
    if falling == 0 and now == model.counts[v] - 1:
        return False
    rest = _hold_others(model, here, v, behind)
    best, reached = now, here.accuracy[0]
    for at in range(model.counts[v] - 1, max(now, falling - 1), -1):
        accuracy = _depending(model, here, v, model.levels[v, at]) + rest
        if accuracy >= here.floor[0]:
            best, reached = at, accuracy
            break
    if falling > 0:
        least = _cost_at(model, here, cut, v, here.levels[v])
        if best != now:
            value = _cost_at(model, here, cut, v, model.levels[v, best])
            if value < least:
                least = value
            else:
                best, reached = now, here.accuracy[0]
        for at in range(falling):
            value = _cost_at(model, here, cut, v, model.levels[v, at])
            if value < least:
                accuracy = _depending(model, here, v, model.levels[v, at]) + rest
                if accuracy >= here.floor[0]:
                    best, reached, least = at, accuracy, value
    here.accuracy[0] = reached
    take_level(model, here, v, best)
    return bool(best != now)


@inner
def _to_most_accurate(model: SearchModel, here: Here, v: int, behind: Words) -> None:
    """Move variable v to its most accurate level."""
    rest = _hold_others(model, here, v, behind)
    best, most = here.at[v], here.accuracy[0]
    for at in range(model.counts[v]):
        accuracy = _depending(model, here, v, model.levels[v, at]) + rest
        if accuracy > most:
            best, most = at, accuracy
    here.accuracy[0] = most
    take_level(model, here, v, best)


@inner
def _sweep(model: SearchModel, here: Here, cut: int) -> bool:
    """Move every variable in turn: of an infeasible strategy to more accurate levels until it is feasible, of a
    feasible one to cheaper levels. Returns whether one moved to a cheaper level.
    """
    moved = False
    _look(model, here)
    repair = here.accuracy[0] < here.floor[0]
    copy_row(here.base, here.before)
    for i in range(here.active[0]):
        v = here.order[i]
        if repair:
            if here.accuracy[0] >= here.floor[0]:
                break
            _to_most_accurate(model, here, v, here.behind[i + 1])
        elif _to_cheapest(model, here, cut, v, here.behind[i + 1]):
            moved = True
        _meet(model.leaves.reach, v * model.levels.shape[1] + here.levels[v], here.before, here.before)
    here.most_accurate[0] = max(here.most_accurate[0], here.accuracy[0])
    return moved


@inner
def _order_by_saving(model: SearchModel, here: Here, cut: int, count: int, stream: Stream) -> None:
    """Put the first ``count`` variables in random order, one that can save more likely before one that saves less.

    An exponential race: variable v finishes after Exp(1) / saving (Efraimidis and Spirakis, 2006).
    """
    order, finish = here.order, here.finish
    for i in range(count):
        v = order[i]
        saving = _cost_at(model, here, cut, v, here.levels[v])
        saving -= _cost_at(model, here, cut, v, model.levels[v, model.counts[v] - 1])
        time = -log(1.0 - uniform(stream)) / max(saving, 1e-300)
        j = i
        while j > 0 and finish[j - 1] > time:
            finish[j], order[j] = finish[j - 1], order[j - 1]
            j -= 1
        finish[j], order[j] = time, v


@inner
def improve(model: SearchModel, here: Here, cut: int, free: int, stream: Stream) -> float:
    """Repair and descend; the objective of where that ends, infinite where nothing feasible was found.

    ``free``: how many variables at the front of the order may be put in another.
    """
    _look(model, here)
    for _ in range(REPAIRS):
        if here.accuracy[0] >= here.floor[0]:
            break
        _sweep(model, here, cut)
    if here.accuracy[0] < here.floor[0]:
        return np.inf
    if uniform(stream) < THRIFTY:
        _order_by_saving(model, here, cut, free, stream)
    for _ in range(MOST_SWEEPS):
        if not _sweep(model, here, cut):
            break
    device, server, uplink = cost_row(model.cost, cut, here.levels)
    return objective_of(here.weights, device, server, uplink)
