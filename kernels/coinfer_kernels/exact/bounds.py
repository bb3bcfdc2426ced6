"""Bounds over a box of positions at one cut: how accurate a strategy of it can be, and how little it can cost.

*Accuracy, from above*: the sum over trees of the best leaf that meets the box, plus what positions add by themselves.
Which leaves meet the box is kept as a bit set (``trees.leaf_sets``), in which every tree's leaves lie in the order of
their values, the best first: a tree's best reachable leaf is its lowest bit, and all trees of a word give theirs in
three operations:

    word w       | tree 0: best .. worst | tree 1: best .. worst |  (bits 0, 1, 2, ... from the left)
    open leaves  |   0   1   1   0       |   1   0   1   1       |
    starts       |   1   0   0   0       |   1   0   0   0       |   the first bit of every tree
    best         |   0   1   0   0       |   1   0   0   0       |   open & ~(open - starts)
                                                                     the borrow of each tree ends at its lowest open bit

A tree of more than 64 leaves has words of its own (``span``). Variables that the cut fixes and the SNR are substituted
first; a tree that then asks for one variable only becomes a table over that variable's positions, exactly.

*Objective, from below*: the cheapest corner of the box. Costs fall from position to position, except that a codec stage
whose parameters are all 1 is left out and costs no FLOPs; so of every stage two forms are looked at, its cheapest one
and none at all. What is found is a strategy of the box, unless a set of channels costs less where more of it is kept.
"""

from typing import NamedTuple

import numpy as np

from coinfer_kernels.costs import codec_cost, objective_of
from coinfer_kernels.exact.model import ExactModel
from coinfer_kernels.jit import inner, maker
from coinfer_kernels.notation import (
    CODEC_KERNEL_1,
    CODEC_RATIO_2,
    CODEC_WIDTH_1,
    CODEC_WIDTH_2,
    CUT_SPATIAL,
    CUT_VECTOR,
    FloatArray,
    IntArray,
)
from coinfer_kernels.problem import Problem
from coinfer_kernels.trees.leaf_sets import WORD, Words, lowest_bit
from coinfer_kernels.trees.median import weighted_median


class CutTables(NamedTuple):
    """The problem at one cut, for one scenario; room that is filled again for the next. W: words in use."""

    cut: IntArray  # (1,) the cut's level
    active: IntArray  # (1,) variables that the cut leaves free
    words: IntArray  # (1,) W
    variables: IntArray  # (V,) the free ones
    low: IntArray  # (V,) the box of all strategies at this cut
    high: IntArray  # (V,)
    constant: FloatArray  # (1,) what every strategy gets
    single: FloatArray  # (V, M) what a position adds by itself
    number: IntArray  # (N,) bit of a leaf, -1 for leaves that have none
    above: Words  # (V * M * W,) leaves whose interval ends at a position or behind it
    below: Words  # (V * M * W,) leaves whose interval begins at a position or before it
    value: FloatArray  # (W * 64,) of a bit's leaf
    starts: Words  # (W,) first bit of every tree
    span: IntArray  # (W,) 1; or how many words the one tree takes that begins here; 0 for its other words
    open: Words  # (W,) all leaves that have a bit
    leaf: IntArray  # (W * 64,) a bit's leaf
    trees: IntArray  # (1,) trees that have bits
    tree_bit: IntArray  # (T,) their first bits
    tree_size: IntArray  # (T,) and how many
    codec: FloatArray  # (1,) the codec's share of the objective's bound
    pair: FloatArray  # (Q,) objective per kept input and output channel
    line: FloatArray  # (P + 1,) objective per kept output channel
    weights: FloatArray  # (4,) of the scenario
    levels: IntArray  # (V,) room for a strategy
    corner: IntArray  # (V,) levels of the strategy that has the objective's bound
    scratch: FloatArray  # (2, T)


@maker
def new_cut_tables(model: ExactModel) -> CutTables:
    """Room for any cut."""
    variables, most = model.level.shape
    leaves, trees = model.leaf_value.shape[0], model.tree_start.shape[0] - 1
    words = 2 * (leaves // WORD) + 2  # a word and the next hold more than 64 leaves, but for trees of many words
    for t in range(trees):
        if model.tree_start[t + 1] - model.tree_start[t] > WORD:
            words += 2
    return CutTables(
        cut=np.full(1, -1, np.int64),
        active=np.zeros(1, np.int64),
        words=np.zeros(1, np.int64),
        variables=np.zeros(variables, np.int64),
        low=np.zeros(variables, np.int64),
        high=np.zeros(variables, np.int64),
        constant=np.zeros(1),
        single=np.zeros((variables, most)),
        number=np.zeros(leaves, np.int64),
        above=np.zeros(variables * most * words, np.uint64),
        below=np.zeros(variables * most * words, np.uint64),
        value=np.zeros(words * WORD),
        starts=np.zeros(words, np.uint64),
        span=np.zeros(words, np.int64),
        open=np.zeros(words, np.uint64),
        leaf=np.zeros(words * WORD, np.int64),
        trees=np.zeros(1, np.int64),
        tree_bit=np.zeros(trees, np.int64),
        tree_size=np.zeros(trees, np.int64),
        codec=np.zeros(1),
        pair=np.zeros(model.pair_in.shape[0]),
        line=np.zeros(model.kept.shape[0]),
        weights=np.zeros(4),
        levels=np.zeros(variables, np.int64),
        corner=np.zeros(variables, np.int64),
        scratch=np.zeros((2, trees)),
    )


@inner
def price_cut(problem: Problem, model: ExactModel, s: int, cut: int, at: CutTables) -> None:
    """Fill in what the objective at one cut of scenario s needs, and the box of its strategies."""
    weights = problem.scenarios.weights
    for i in range(4):
        at.weights[i] = weights[s, i]
    for q in range(at.pair.shape[0]):
        at.pair[q] = model.pair_flop[cut, 0, q] * weights[s, 0] + model.pair_flop[cut, 1, q] * weights[s, 1]
    for p in range(at.line.shape[0]):
        at.line[p] = model.set_flop[cut, 0, p] * weights[s, 0] + model.set_flop[cut, 1, p] * weights[s, 1]
    _whole_box(problem, model, cut, at)


@inner
def enter_cut(problem: Problem, model: ExactModel, s: int, cut: int, at: CutTables) -> None:
    """Fill the tables for one cut of scenario s."""
    price_cut(problem, model, s, cut, at)
    snr_db = problem.scenarios.snr_db[s]
    at.constant[0] = model.intercept + (model.snr_coefficient * snr_db if model.snr_coefficient != 0.0 else 0.0)
    for i in range(at.active[0]):
        v = at.variables[i]
        for position in range(model.positions[v]):
            at.single[v, position] = model.linear[v, position]
    for v in range(at.low.shape[0]):
        if at.low[v] == at.high[v]:
            at.constant[0] += model.linear[v, at.low[v]]
            at.single[v, at.low[v]] = 0.0
    _number_leaves(model, snr_db, at)
    _fill_words(model, at)


@inner
def _whole_box(problem: Problem, model: ExactModel, cut: int, at: CutTables) -> None:
    """The box of all strategies at a cut, and its free variables."""
    at.cut[0] = cut
    active = 0
    for v in range(at.low.shape[0]):
        if v == problem.space.cut_variable:
            at.low[v] = at.high[v] = model.cut_position[cut]
        elif not problem.space.active[cut, v]:
            at.low[v] = at.high[v] = model.canonical[v]
        else:
            at.low[v], at.high[v] = 0, model.positions[v] - 1
            if at.high[v] > 0:
                at.variables[active] = v
                active += 1
    at.active[0] = active


@inner
def _meets(model: ExactModel, leaf: int, snr: float, at: CutTables) -> bool:
    """Whether a leaf can be reached at this cut and SNR (NaN, which stands for none, is not asked)."""
    if snr <= model.leaf_snr[leaf, 0] or snr > model.leaf_snr[leaf, 1]:
        return False
    for v in range(at.low.shape[0]):
        if model.leaf_first[leaf, v] > at.high[v] or model.leaf_last[leaf, v] < at.low[v]:
            return False
    return True


@inner
def _asked(model: ExactModel, t: int, at: CutTables) -> int:
    """The free variable that tree t asks for; -1 where it asks for none, -2 where for several."""
    found = -1
    for i in range(at.active[0]):
        v = at.variables[i]
        for leaf in range(model.tree_start[t], model.tree_start[t + 1]):
            if at.number[leaf] >= 0 and (model.leaf_first[leaf, v] > 0 or model.leaf_last[leaf, v] < at.high[v]):
                if found >= 0:
                    return -2
                found = v
                break
    return found


@inner
def _number_leaves(model: ExactModel, snr: float, at: CutTables) -> None:
    """Give every leaf that can be reached a bit, its tree's best one first; trees of one variable become tables."""
    free = at.trees[0] = 0
    for t in range(model.tree_start.shape[0] - 1):
        start, stop, size = model.tree_start[t], model.tree_start[t + 1], 0
        for leaf in range(start, stop):
            at.number[leaf] = 0 if _meets(model, leaf, snr, at) else -1
            size += at.number[leaf] + 1
        asked = -2 if model.median else _asked(model, t, at)
        if asked != -2:
            for leaf in range(start, stop):
                if at.number[leaf] >= 0:
                    if asked < 0:
                        at.constant[0] += model.leaf_value[leaf]
                    else:
                        for position in range(model.leaf_first[leaf, asked], model.leaf_last[leaf, asked] + 1):
                            at.single[asked, position] += model.leaf_value[leaf]
                at.number[leaf] = -1
            continue
        inside = free % WORD
        if inside > 0 and inside + size > WORD:
            free += WORD - inside
        first = free
        at.tree_bit[at.trees[0]], at.tree_size[at.trees[0]] = first, size
        at.trees[0] += 1
        at.span[first // WORD] = 1 if size <= WORD else (size + WORD - 1) // WORD
        if first % WORD == 0:
            at.starts[first // WORD] = 0
        for w in range(first // WORD + 1, (first + size - 1) // WORD + 1):
            at.span[w] = at.starts[w] = 0
        at.starts[first // WORD] |= np.uint64(1) << np.uint64(first % WORD)
        for leaf in range(start, stop):
            if at.number[leaf] >= 0:
                at.number[leaf] = free
                at.value[free], at.leaf[free] = model.leaf_value[leaf], leaf
                free += 1
        if size > WORD and free % WORD > 0:  # nobody shares the words of a large tree
            free += WORD - free % WORD
    at.words[0] = (free + WORD - 1) // WORD


@inner
def _fill_words(model: ExactModel, at: CutTables) -> None:
    """Set the leaves' bits in ``above`` and ``below``."""
    count, most = at.words[0], model.level.shape[1]
    for b in range(count):
        at.open[b] = 0
    for i in range(at.active[0]):
        v = at.variables[i]
        first = v * most * count
        for w in range(first, first + model.positions[v] * count):
            at.above[w] = at.below[w] = 0
    for leaf in range(at.number.shape[0]):
        if at.number[leaf] < 0:
            continue
        b, bit = at.number[leaf] // WORD, np.uint64(1) << np.uint64(at.number[leaf] % WORD)
        at.open[b] |= bit
        for i in range(at.active[0]):
            v = at.variables[i]
            at.above[(v * most + model.leaf_last[leaf, v]) * count + b] |= bit
            at.below[(v * most + model.leaf_first[leaf, v]) * count + b] |= bit
    for i in range(at.active[0]):
        v = at.variables[i]
        first = v * most * count
        for w in range(count, model.positions[v] * count):
            at.below[first + w] |= at.below[first + w - count]
        for w in range((model.positions[v] - 1) * count - 1, -1, -1):
            at.above[first + w] |= at.above[first + w + count]


@inner
def meet(at: CutTables, most: int, v: int, low: int, high: int, words: Words, out: Words) -> None:
    """Leaves of ``words`` (W,) that meet an interval of one variable; ``most`` is M."""
    count = np.uintp(at.words[0])
    above, below = np.uintp(v * most + low) * count, np.uintp(v * most + high) * count
    for b in range(count):
        out[b] = words[b] & at.above[above + b] & at.below[below + b]


@inner
def meet_box(at: CutTables, most: int, low: IntArray, high: IntArray, out: Words) -> None:
    """Leaves (W,) that meet a box."""
    for b in range(at.words[0]):
        out[b] = at.open[b]
    for i in range(at.active[0]):
        v = at.variables[i]
        meet(at, most, v, low[v], high[v], out, out)


@inner
def most_single(at: CutTables, v: int, low: int, high: int) -> float:
    """The most that a position of an interval adds by itself."""
    most: float = at.single[v, low]
    for position in range(low + 1, high + 1):
        most = max(most, at.single[v, position])
    return most


@inner
def best_leaves(model: ExactModel, at: CutTables, words: Words) -> float:
    """Sum, or weighted median, over trees of the best leaf that is left."""
    if model.median:
        return _median_of_best(model, at, words)
    total = 0.0
    for b in range(np.uintp(at.words[0])):
        span = at.span[b]
        if span == 1:
            # Every tree has a leaf left, so subtracting 1 from each clears its lowest bit and nothing beyond it.
            best, part = words[b] & ~(words[b] - at.starts[b]), 0.0
            while best:
                part += at.value[b * np.uintp(WORD) + lowest_bit(best)]
                best &= best - np.uint64(1)
            total += part
        elif span > 1:
            first = np.uintp(b)
            while words[first] == 0:
                first += np.uintp(1)
            total += at.value[first * np.uintp(WORD) + lowest_bit(words[first])]
    return total


@inner
def _median_of_best(model: ExactModel, at: CutTables, words: Words) -> float:
    """The weighted median rises with each of its values, so that of the trees' best leaves bounds all others."""
    tree = 0
    values, weights = at.scratch[0], at.scratch[1]
    for b in range(np.uintp(at.words[0])):
        if at.span[b] == 0:
            continue
        first, best = np.uintp(b), words[b] & ~(words[b] - at.starts[b])
        if at.span[b] > 1:
            while words[first] == 0:
                first += np.uintp(1)
            best = words[first] & (~words[first] + np.uint64(1))
        while best:
            values[tree] = at.value[first * np.uintp(WORD) + lowest_bit(best)]
            weights[tree] = model.weights[tree]
            tree += 1
            best &= best - np.uint64(1)
    return weighted_median(values, weights)


@inner
def corner_cost(problem: Problem, model: ExactModel, at: CutTables, low: IntArray, high: IntArray) -> float:
    """Lower bound of the objective over a box; ``at.corner`` becomes the strategy that has it."""
    kept, total = model.kept, 0.0
    sets = kept.shape[0] - 1
    for q in range(at.pair.shape[0]):
        i, o = model.pair_in[q], model.pair_out[q]
        total += at.pair[q] * kept[i, high[i] if i < sets else 0] * kept[o, high[o] if o < sets else 0]
    for p in range(sets):
        position = high[p] if model.rising[p] or at.line[p] >= 0.0 else low[p]
        total += at.line[p] * kept[p, position]
    total += at.line[sets]
    for v in range(high.shape[0]):
        at.corner[v] = at.levels[v] = model.level[v, high[v]]
    at.codec[0] = _least_codec(problem, model, at, low, high)
    bound: float = total + at.codec[0]
    return bound


@inner
def _none_possible(model: ExactModel, codec: int, low: IntArray, high: IntArray, first: int, stop: int) -> bool:
    """Whether a stage, codec parameters ``first`` .. ``stop`` - 1, can be left out in a box."""
    for p in range(first, stop):
        if low[codec + p] > model.one_last[p] or high[codec + p] < model.one_first[p]:
            return False
    return True


@inner
def _set_stage(
    model: ExactModel, at: CutTables, codec: int, low: IntArray, high: IntArray, first: int, stop: int, none: bool
) -> None:
    """Put a stage at its cheapest corner, or leave it out."""
    for p in range(first, stop):
        position = max(low[codec + p], model.one_first[p]) if none else high[codec + p]
        at.levels[codec + p] = model.level[codec + p, position]


@inner
def _least_codec(problem: Problem, model: ExactModel, at: CutTables, low: IntArray, high: IntArray) -> float:
    """The least that crossing the cut can cost, the tensor having as few channels as in the box."""
    cut, codec = at.cut[0], problem.cost.codec_variable
    kind = problem.cost.cut_kind[cut]
    if kind == CUT_SPATIAL:
        first, second, stop = 0, CODEC_RATIO_2, CODEC_WIDTH_1
    elif kind == CUT_VECTOR:
        first, second, stop = CODEC_WIDTH_1, CODEC_WIDTH_2, CODEC_WIDTH_2 + 1
    else:
        device, server, uplink = codec_cost(problem.cost, cut, at.levels)
        return objective_of(at.weights, device, server, uplink)
    least = np.inf
    for form in range(4):
        none_1, none_2 = form % 2 == 1, form // 2 == 1
        if none_1 and not _none_possible(model, codec, low, high, first, second):
            continue
        if none_2 and not _none_possible(model, codec, low, high, second, stop):
            continue
        _set_stage(model, at, codec, low, high, first, second, none_1)
        _set_stage(model, at, codec, low, high, second, stop, none_2)
        free_1 = kind == CUT_SPATIAL and model.any_kernel and not none_1
        free_2 = kind == CUT_SPATIAL and model.any_kernel and not none_2
        least = _least_kernels(problem, model, at, low, high, free_1, free_2, least)
    return least


@inner
def _least_kernels(
    problem: Problem,
    model: ExactModel,
    at: CutTables,
    low: IntArray,
    high: IntArray,
    free_1: bool,
    free_2: bool,
    least: float,
) -> float:
    """Price the codec in ``at.levels``, with all of a stage's kernels where ``free``; keep the cheaper."""
    codec, levels = problem.cost.codec_variable, at.levels
    first, second = codec + CODEC_KERNEL_1, codec + CODEC_RATIO_2 + CODEC_KERNEL_1
    for kernel_1 in range(low[first] if free_1 else high[first], high[first] + 1):
        if free_1:
            levels[first] = model.level[first, kernel_1]
        for kernel_2 in range(low[second] if free_2 else high[second], high[second] + 1):
            if free_2:
                levels[second] = model.level[second, kernel_2]
            device, server, uplink = codec_cost(problem.cost, at.cut[0], levels)
            value = objective_of(at.weights, device, server, uplink)
            if value < least:
                least = value
                for p in range(codec, codec + 8):
                    at.corner[p] = levels[p]
    return least
