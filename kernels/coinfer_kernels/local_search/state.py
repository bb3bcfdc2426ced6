"""A strategy in hand: its levels, its costs, and the leaves that it leaves open in every tree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coinfer_kernels.costs import cost_row, objective_of
from coinfer_kernels.jit import copy_row, inner, maker
from coinfer_kernels.local_search.model import LevelModel
from coinfer_kernels.notation import FloatArray, IntArray
from coinfer_kernels.problem import Problem
from coinfer_kernels.trees.leaf_sets import WORD, Words, lowest_bit
from coinfer_kernels.trees.median import weighted_median

TOLERANCE = 1e-12  # of sums in another order; a strategy that is kept is checked by the predictor itself


class Here(NamedTuple):
    """One scenario at one cut, and the strategy in hand. K: most places of a variable."""

    cut: IntArray  # (1,)
    weights: FloatArray  # (4,) of the scenario
    floor: FloatArray  # (1,)
    pair: FloatArray  # (Q,) objective per kept input and output channel
    line: FloatArray  # (P + 1,) objective per kept output channel
    base: Words  # (B,) leaves that the SNR, the cut and the meaningless variables leave open
    linear: FloatArray  # (1,) what those add by themselves
    active: IntArray  # (1,) how many variables mean something at this cut
    order: IntArray  # (V,) those variables, in the order of the descent
    moved: IntArray  # (V,) sweep in which a variable moved last
    levels: IntArray  # (V,) the strategy
    at: IntArray  # (V,) the places of its levels
    accuracy: FloatArray  # (1,) its predicted accuracy
    objective: FloatArray  # (1,)
    most_accurate: FloatArray  # (1,) of all strategies that a search ended with
    others: Words  # (B,) leaves that the variables that are held leave open
    trial: Words  # (B,)
    grid: FloatArray  # ((K + 1) ** 2,) what the leaves add that ask for both variables of a plane
    along: FloatArray  # (2, K + 1) what those add that ask for one of them
    cost: FloatArray  # (2, K) what its places add to the objective
    step: FloatArray  # (2, K) by how many channels its places differ from the one in hand
    codec: FloatArray  # (V, K) what the codec costs at the places of a variable, less what it costs now
    codec_known: IntArray  # (V + 1,) state of the codec for which a row of ``codec`` holds; last, the state in hand
    x: FloatArray  # (F,) room for features
    scratch: FloatArray  # (2, trees)
    spent: IntArray  # (1,) strategies whose accuracy was computed


@maker
def new_here(problem: Problem, model: LevelModel, s: int) -> Here:
    variables, words = problem.space.n_levels.shape[0], model.snr_reach.shape[1]
    places = model.levels.shape[1]
    return Here(
        cut=np.zeros(1, np.int64),
        weights=problem.scenarios.weights[s],
        floor=np.full(1, problem.scenarios.accuracy_floor[s] - TOLERANCE),
        pair=np.empty(model.pair_in.shape[0]),
        line=np.empty(model.cost.kept.shape[0]),
        base=np.empty(words, np.uint64),
        linear=np.empty(1),
        active=np.empty(1, np.int64),
        order=np.empty(variables, np.int64),
        moved=np.empty(variables, np.int64),
        levels=np.empty(variables, np.int64),
        at=np.zeros(variables, np.int64),
        accuracy=np.empty(1),
        objective=np.empty(1),
        most_accurate=np.full(1, -np.inf),
        others=np.empty(words, np.uint64),
        trial=np.empty(words, np.uint64),
        grid=np.empty((places + 1) * (places + 1)),
        along=np.empty((2, places + 1)),
        cost=np.empty((2, places)),
        step=np.empty((2, places)),
        codec=np.empty((variables, places)),
        codec_known=np.zeros(variables + 1, np.int64),
        x=np.empty(problem.ensemble.coefficients.shape[0]),
        scratch=np.empty((2, problem.ensemble.roots.shape[0])),
        spent=np.zeros(1, np.int64),
    )


@inner
def intersect(model: LevelModel, v: int, at: int, words: Words) -> None:
    """Keep the leaves of ``words`` that a place can reach."""
    reach, size = model.reach, np.uintp(words.shape[0])
    first = (np.uintp(v) * np.uintp(model.levels.shape[1]) + np.uintp(at)) * size
    for b in range(size):
        words[b] &= reach[first + b]


@inner
def enter_cut(problem: Problem, model: LevelModel, cut: int, snr_db: float, here: Here) -> None:
    """Go to a cut, with a strategy that prunes nothing."""
    here.cut[0] = cut
    for q in range(here.pair.shape[0]):
        here.pair[q] = model.pair_flop[cut, 0, q] * here.weights[0] + model.pair_flop[cut, 1, q] * here.weights[1]
    for p in range(here.line.shape[0]):
        here.line[p] = model.set_flop[cut, 0, p] * here.weights[0] + model.set_flop[cut, 1, p] * here.weights[1]
    behind = 0
    while behind < model.snr_edges.shape[0] and snr_db > model.snr_edges[behind]:
        behind += 1
    copy_row(model.snr_reach[behind], here.base)
    linear = model.intercept
    if model.snr_coefficient != 0.0:
        linear += model.snr_coefficient * snr_db
    active = 0
    for v in range(here.levels.shape[0]):
        if v == problem.space.cut_variable or not problem.space.active[cut, v]:
            here.levels[v] = cut if v == problem.space.cut_variable else problem.space.canonical[v]
            intersect(model, v, model.place_of[v, here.levels[v]], here.base)
            linear += model.linear[v, here.levels[v]]
        else:
            take_place(model, here, v, model.identity[v])
            here.order[active] = v
            active += 1
    here.linear[0] = linear
    here.active[0] = active
    here.codec_known[here.levels.shape[0]] += 1


@inner
def in_codec(model: LevelModel, here: Here, v: int) -> bool:
    """Whether what crosses the cut depends on v."""
    return bool(v >= model.cost.kept.shape[0] - 1 or v == model.cost.cut_set[here.cut[0]])


@inner
def take_place(model: LevelModel, here: Here, v: int, at: int) -> None:
    here.at[v] = at
    here.levels[v] = model.levels[v, at]
    if in_codec(model, here, v):
        here.codec_known[here.levels.shape[0]] += 1


@inner
def sum_or_median(model: LevelModel, words: Words, scratch: FloatArray) -> float:
    """What the trees add for a set with one leaf of each; ``scratch`` (2, trees) is room to work in."""
    value, tree, total = model.value, 0, 0.0
    for b in range(np.uintp(words.shape[0])):
        word = words[b]
        while word:
            leaf = value[b * np.uintp(WORD) + lowest_bit(word)]
            if model.median:
                scratch[0, tree], scratch[1, tree] = leaf, model.weights[tree]
                tree += 1
            total += leaf
            word &= word - np.uint64(1)
    return weighted_median(scratch[0], scratch[1]) if model.median else total


@inner
def objective_here(model: LevelModel, here: Here) -> float:
    device, server, uplink = cost_row(model.cost, here.cut[0], here.levels)
    return objective_of(here.weights, device, server, uplink)


@inner
def look(model: LevelModel, here: Here) -> None:
    """Predict the strategy in hand, and compute what it costs."""
    copy_row(here.base, here.others)
    total = here.linear[0]
    for i in range(here.active[0]):
        v = here.order[i]
        intersect(model, v, here.at[v], here.others)
        total += model.linear[v, here.levels[v]]
    here.spent[0] += 1
    here.accuracy[0] = total + sum_or_median(model, here.others, here.scratch)
    here.objective[0] = objective_here(model, here)
