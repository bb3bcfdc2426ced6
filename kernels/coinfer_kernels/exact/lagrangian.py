"""A Lagrangian lower bound over a box: the cost and the accuracy of a strategy x are relaxed to separable functions,
and the accuracy constraint is priced with a multiplier.

The two bounds of ``bounds`` are far apart by nature: the most accurate strategy of a box is its dearest one. Here both
sides become sums over the variables v, so that they can be weighed against each other:

(L1) accuracy, from above:   acc(x) <= constant + sum_v gain_v(x_v)
     From each tree in turn, one variable after the other takes what its position costs at least, whatever the others
     are; the leaves keep the rest (soft arc consistency of weighted constraint networks; M. Cooper et al., Artificial
     Intelligence 174, 2010). A tree that is a sum of functions of one variable is taken apart exactly.
(L2) FLOPs, from below:      kept_i kept_o = exp(y_i + y_o) >= P (1 + (y_i - a_i) + (y_o - a_o)),  P = exp(a_i + a_o)
     with y the logarithms of kept channels: a convex function lies above its tangent at any point a (outer
     linearisation).
(L3) bits, from below:       the same for what the codec sends, a product of channels, ratios and strides but for the
     rounding of each; the codec's FLOPs stay at their least.
(L4) dual function:          d(m) = min_x cost(x) + m (floor - acc(x)),  m >= 0
     is a lower bound on the objective for any multiplier m, now minimised variable by variable. d is concave in m with
     the slope floor - acc(x): m goes where the lines through a value on either side of the maximum meet (a secant
     step on the slope), and the tangents' points a move towards the minimisers. Whatever they are, the bound holds.

The same numbers tell which positions cannot belong to a strategy that is good enough (fixing by reduced costs).
"""

from typing import NamedTuple

import numpy as np

from coinfer_kernels.exact.bounds import CutTables, corner_cost
from coinfer_kernels.exact.model import ROUNDING, ExactModel
from coinfer_kernels.jit import copy_row, inner, maker
from coinfer_kernels.notation import (
    CODEC_RATIO_1,
    CODEC_RATIO_2,
    CODEC_STRIDE_1,
    CODEC_STRIDE_2,
    CODEC_VARIABLES,
    CODEC_WIDTH_1,
    CODEC_WIDTH_2,
    CUT_SPATIAL,
    CUT_VECTOR,
    FloatArray,
    IntArray,
)
from coinfer_kernels.problem import Problem
from coinfer_kernels.trees.leaf_sets import WORD, Words, lowest_bit

TANGENTS = 3  # points tried for a box
MULTIPLIERS = 5  # tried for each


class Relaxation(NamedTuple):
    """Room for the bound. K: most leaves of a tree."""

    gain: FloatArray  # (V, M + 1) what a position adds to the accuracy at most, as differences while it is built
    rest: FloatArray  # (K,) what is left of a tree's leaves
    least: FloatArray  # (K,)
    leaf: IntArray  # (K,) leaves that meet the box
    slope: FloatArray  # (P,) objective per logarithm of kept channels, at the tangent
    rate: FloatArray  # (P,) objective per kept channel
    share: FloatArray  # (V, M) logarithm of what a codec parameter leaves of the elements sent, at least
    sent: FloatArray  # (3,) objective per element, logarithm of the elements of one kept channel, codec's least cost
    codec_set: IntArray  # (1,) the set whose channels cross the cut; -1 where the elements are no product in this box
    codec_point: FloatArray  # (2,) where the tangent of the elements touches (logarithm), and at the best bound
    codec_slope: FloatArray  # (1,) objective per logarithm of the elements, at the tangent
    point: FloatArray  # (P,) where the tangent touches, kept from box to box
    best_point: FloatArray  # (P,)
    under: FloatArray  # (P + 1,) logarithms chosen at a multiplier that is too small, that of the elements last
    over: FloatArray  # (P + 1,) and at one too large
    chosen: IntArray  # (V,) positions chosen
    part: FloatArray  # (V,) what each variable contributes to the bound
    multiplier: FloatArray  # (1,) kept from box to box
    constant: FloatArray  # (1,) of the accuracy


@maker
def new_relaxation(model: ExactModel) -> Relaxation:
    """Room for any box."""
    variables, most = model.level.shape
    sets, leaves = model.kept.shape[0] - 1, 1
    for t in range(model.tree_start.shape[0] - 1):
        leaves = max(leaves, model.tree_start[t + 1] - model.tree_start[t])
    return Relaxation(
        gain=np.zeros((variables, most + 1)),
        rest=np.zeros(leaves),
        least=np.zeros(leaves),
        leaf=np.zeros(leaves, np.int64),
        slope=np.zeros(sets),
        rate=np.zeros(sets),
        share=np.zeros((variables, most)),
        sent=np.zeros(3),
        codec_set=np.zeros(1, np.int64),
        codec_point=np.full(2, np.inf),
        codec_slope=np.zeros(1),
        point=np.full(sets, np.inf),
        best_point=np.zeros(sets),
        under=np.zeros(sets + 1),
        over=np.zeros(sets + 1),
        chosen=np.zeros(variables, np.int64),
        part=np.zeros(variables),
        multiplier=np.zeros(1),
        constant=np.zeros(1),
    )


@inner
def _relax_tree(
    model: ExactModel, at: CutTables, low: IntArray, high: IntArray, size: int, relaxed: Relaxation
) -> None:
    """(L1) for one tree, ``size`` leaves of which (``relaxed.leaf``) meet the box."""
    rest, least = relaxed.rest, relaxed.least
    for i in range(at.active[0]):
        v = at.variables[i]
        asked = False
        for k in range(size):
            leaf = relaxed.leaf[k]
            if model.leaf_first[leaf, v] > low[v] or model.leaf_last[leaf, v] < high[v]:
                asked = True
                break
        if not asked:
            continue
        for k in range(size):
            least[k] = np.inf
        position = low[v]
        while position <= high[v]:
            end, most = high[v], -np.inf
            for k in range(size):
                leaf = relaxed.leaf[k]
                first, last = model.leaf_first[leaf, v], model.leaf_last[leaf, v]
                if first > position:
                    end = min(end, first - 1)
                elif last >= position:
                    end = min(end, last)
                    most = max(most, rest[k])
            relaxed.gain[v, position] += most
            relaxed.gain[v, end + 1] -= most
            for k in range(size):
                leaf = relaxed.leaf[k]
                if model.leaf_first[leaf, v] <= position <= model.leaf_last[leaf, v]:
                    least[k] = min(least[k], most)
            position = end + 1
        for k in range(size):
            rest[k] -= least[k]
    most = -np.inf
    for k in range(size):
        most = max(most, rest[k])
    relaxed.constant[0] += most


@inner
def relax_accuracy(
    model: ExactModel, at: CutTables, low: IntArray, high: IntArray, words: Words, relaxed: Relaxation
) -> None:
    """(L1): bound the accuracy in a box, of which ``words`` are the leaves, by a sum over variables."""
    gain = relaxed.gain
    for v in range(low.shape[0]):
        for position in range(low[v], high[v] + 2):
            gain[v, position] = 0.0
    relaxed.constant[0] = at.constant[0]
    for t in range(at.trees[0]):
        first, size = at.tree_bit[t], 0
        for b in range(first // WORD, (first + at.tree_size[t] - 1) // WORD + 1):
            word = words[b]
            if b == first // WORD:
                word = word >> np.uint64(first % WORD) << np.uint64(first % WORD)
            stop = first + at.tree_size[t] - b * WORD
            if stop < WORD:
                word &= (np.uint64(1) << np.uint64(stop)) - np.uint64(1)
            while word:
                bit = b * WORD + int(lowest_bit(word))
                relaxed.leaf[size] = at.leaf[bit]
                relaxed.rest[size] = at.value[bit]
                size += 1
                word &= word - np.uint64(1)
        best = relaxed.rest[0]
        relaxed.constant[0] += best
        if size > 1:
            for k in range(size):
                relaxed.rest[k] -= best
            _relax_tree(model, at, low, high, size, relaxed)
    for v in range(low.shape[0]):
        total = 0.0
        for position in range(low[v], high[v] + 1):
            total += gain[v, position]
            gain[v, position] = total
    for i in range(at.active[0]):
        v = at.variables[i]
        for position in range(low[v], high[v] + 1):
            gain[v, position] += at.single[v, position]


@inner
def _rounded(count: int) -> float:
    """Rounding x >= ``count`` - 1/2 half up, to at least ``count`` >= 1, leaves at least this share of x."""
    return count / (count + 0.5)


@inner
def relax_bits(
    problem: Problem, model: ExactModel, at: CutTables, low: IntArray, high: IntArray, relaxed: Relaxation
) -> None:
    """(L3): bound what the codec sends by a product over variables, or, where that is no better, by its least.

    With ratio r, stride s and kernel K a stage makes ``max(1, round(r C))`` channels of C and, of H rows,
    ``floor((H + 2 floor(K / 2) - K) / s) + 1``, which is ``ceil(H / s)`` for odd kernels and no less for even ones.
    """
    cost, cut = problem.cost, at.cut[0]
    kind, codec, row = cost.cut_kind[cut], cost.codec_variable, cost.cut_set[cut]
    relaxed.codec_set[0] = -1
    for v in range(codec, codec + CODEC_VARIABLES):
        for position in range(low[v], high[v] + 1):
            relaxed.share[v, position] = 0.0
    corner_cost(problem, model, at, low, high)
    relaxed.sent[2] = at.codec[0]
    if (kind != CUT_SPATIAL and kind != CUT_VECTOR) or cost.cut_channels[cut] != np.floor(cost.cut_channels[cut]):
        return
    spatial = kind == CUT_SPATIAL
    first, second = (CODEC_RATIO_1, CODEC_RATIO_2) if spatial else (CODEC_WIDTH_1, CODEC_WIDTH_2)
    height, width = cost.cut_height[cut], cost.cut_width[cut]
    each = cost.cut_channels[cut] * (1.0 if spatial else height * width)
    channels, loss = int(model.kept[row, high[row] if row < relaxed.point.shape[0] else 0] * each), 0.0
    for parameter in (first, second):
        v = codec + parameter
        dearest, cheapest = (
            cost.ratio[parameter, model.level[v, low[v]]],
            cost.ratio[parameter, model.level[v, high[v]]],
        )
        channels = max(1, int(np.floor(cheapest * channels + 0.5)))
        if cheapest != 1.0 or dearest != 1.0:
            loss += np.log(_rounded(channels))
        for position in range(low[v], high[v] + 1):
            relaxed.share[v, position] = np.log(max(cost.ratio[parameter, model.level[v, position]], 1e-300))
    if spatial:
        _relax_strides(problem, model, low, high, height, width, relaxed)
    relaxed.sent[0] = at.weights[2] * cost.cut_bits[cut]
    relaxed.sent[1] = np.log(each) + loss
    spread = model.log_kept[row, low[row]] - model.log_kept[row, high[row]] if row < relaxed.point.shape[0] else 0.0
    for parameter in range(first, CODEC_WIDTH_1 if spatial else CODEC_VARIABLES):
        v = codec + parameter
        spread += relaxed.share[v, low[v]] - relaxed.share[v, high[v]]
    if spread + loss <= 0.0:
        return
    relaxed.codec_set[0] = row
    weight, at.weights[2] = at.weights[2], 0.0
    corner_cost(problem, model, at, low, high)
    relaxed.sent[2] = at.codec[0]
    at.weights[2] = weight


@inner
def _relax_strides(
    problem: Problem, model: ExactModel, low: IntArray, high: IntArray, height: int, width: int, relaxed: Relaxation
) -> None:
    """What strides leave of the elements: the first's share exactly, the second's at the least favourable first."""
    cost, codec = problem.cost, problem.cost.codec_variable
    v, w = codec + CODEC_STRIDE_1, codec + CODEC_STRIDE_2
    for position in range(low[w], high[w] + 1):
        relaxed.share[w, position] = np.inf
    for i in range(low[v], high[v] + 1):
        stride = int(cost.ratio[CODEC_STRIDE_1, model.level[v, i]])
        rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
        relaxed.share[v, i] = np.log(float(rows * columns))
        for j in range(low[w], high[w] + 1):
            stride = int(cost.ratio[CODEC_STRIDE_2, model.level[w, j]])
            left = ((rows - 1) // stride + 1) * ((columns - 1) // stride + 1)
            relaxed.share[w, j] = min(relaxed.share[w, j], np.log(float(left)) - relaxed.share[v, i])


@inner
def _set_tangents(model: ExactModel, at: CutTables, relaxed: Relaxation) -> float:
    """(L2), (L3): lay the tangents at ``relaxed.point`` and ``relaxed.codec_point``; returns their constant."""
    sets = relaxed.point.shape[0]
    constant: float = at.line[sets] + relaxed.sent[2]
    for p in range(sets):
        relaxed.slope[p], relaxed.rate[p] = 0.0, at.line[p]
    for q in range(at.pair.shape[0]):
        i, o, pair = model.pair_in[q], model.pair_out[q], at.pair[q]
        if i == sets and o == sets:
            constant += pair
        elif i == sets or o == sets:
            relaxed.rate[min(i, o)] += pair
        else:
            product = pair * np.exp(relaxed.point[i] + relaxed.point[o])
            constant += product * (1.0 - relaxed.point[i] - relaxed.point[o])
            relaxed.slope[i] += product
            relaxed.slope[o] += product
    relaxed.codec_slope[0] = 0.0
    row = relaxed.codec_set[0]
    if row >= 0:
        slope = relaxed.sent[0] * np.exp(relaxed.codec_point[0])
        constant += slope * (1.0 + relaxed.sent[1] - relaxed.codec_point[0])
        relaxed.codec_slope[0] = slope
        if row < sets:
            relaxed.slope[row] += slope
    return constant


@inner
def _price(model: ExactModel, relaxed: Relaxation, v: int, position: int) -> float:
    """What a position costs by itself, at the tangents."""
    if v < relaxed.point.shape[0]:
        value: float = relaxed.rate[v] * model.kept[v, position] + relaxed.slope[v] * model.log_kept[v, position]
        return value
    codec_price: float = relaxed.codec_slope[0] * relaxed.share[v, position]
    return codec_price


@inner
def _minimise_by_variable(
    model: ExactModel, low: IntArray, high: IntArray, multiplier: float, relaxed: Relaxation
) -> float:
    """(L4): choose the best position of every variable at a multiplier; returns the sum of what they contribute."""
    total = 0.0
    for v in range(low.shape[0]):
        best, chosen = np.inf, low[v]
        for position in range(low[v], high[v] + 1):
            value = _price(model, relaxed, v, position) - multiplier * relaxed.gain[v, position]
            if value < best:
                best, chosen = value, position
        relaxed.chosen[v], relaxed.part[v] = chosen, best
        total += best
    return total


@inner
def _gained(relaxed: Relaxation) -> float:
    total: float = relaxed.constant[0]
    for v in range(relaxed.chosen.shape[0]):
        total += relaxed.gain[v, relaxed.chosen[v]]
    return total


@inner
def _note_choice(model: ExactModel, relaxed: Relaxation, out: FloatArray) -> None:
    """Logarithms at the chosen positions: of the sets' kept channels, and behind them of the elements sent."""
    sets, row = relaxed.point.shape[0], relaxed.codec_set[0]
    for p in range(sets):
        out[p] = model.log_kept[p, relaxed.chosen[p]]
    out[sets] = relaxed.sent[1] + (out[row] if 0 <= row < sets else 0.0)
    for v in range(sets, relaxed.chosen.shape[0]):
        out[sets] += relaxed.share[v, relaxed.chosen[v]]


@inner
def _start_points(model: ExactModel, low: IntArray, high: IntArray, relaxed: Relaxation) -> None:
    """Bring the points at which tangents touch into the box."""
    sets, row = relaxed.point.shape[0], relaxed.codec_set[0]
    for p in range(sets):
        relaxed.point[p] = min(max(relaxed.point[p], model.log_kept[p, high[p]]), model.log_kept[p, low[p]])
    least = most = relaxed.sent[1]
    if 0 <= row < sets:
        least, most = least + model.log_kept[row, high[row]], most + model.log_kept[row, low[row]]
    for v in range(sets, low.shape[0]):
        least, most = least + relaxed.share[v, high[v]], most + relaxed.share[v, low[v]]
    relaxed.codec_point[0] = min(max(relaxed.codec_point[0], least), most)


@inner
def _move_tangents(relaxed: Relaxation, share: float) -> None:
    """Go half the way to the point between the two choices, of which the one below has that share."""
    sets = relaxed.point.shape[0]
    for p in range(sets):
        relaxed.point[p] += 0.5 * (share * relaxed.under[p] + (1.0 - share) * relaxed.over[p] - relaxed.point[p])
    relaxed.codec_point[0] += 0.5 * (
        share * relaxed.under[sets] + (1.0 - share) * relaxed.over[sets] - relaxed.codec_point[0]
    )


@inner
def _first_multiplier(model: ExactModel, low: IntArray, high: IntArray, relaxed: Relaxation) -> float:
    """What the box's dearest positions cost more than its cheapest, for what they gain: its average exchange rate."""
    saved, lost = 0.0, 0.0
    for v in range(low.shape[0]):
        if low[v] < high[v]:
            saved += _price(model, relaxed, v, low[v]) - _price(model, relaxed, v, high[v])
            lost += relaxed.gain[v, low[v]] - relaxed.gain[v, high[v]]
    return abs(saved) / max(abs(lost), ROUNDING) + ROUNDING


@inner
def _try_multipliers(
    model: ExactModel,
    at: CutTables,
    low: IntArray,
    high: IntArray,
    floor: float,
    cutoff: float,
    best: float,
    best_multiplier: float,
    relaxed: Relaxation,
) -> tuple[float, float]:
    """(L4): look for the best multiplier at one tangent, whose next point is found on the way; the best bound of all.

    The bound is concave in the multiplier, its slope what the choice lacks in accuracy. Of two multipliers on either
    side of the best, the lines through their values meet above it.
    """
    constant, multiplier = _set_tangents(model, at, relaxed), relaxed.multiplier[0]
    small, small_value, small_slope = 0.0, -np.inf, 0.0
    large, large_value, large_slope = np.inf, -np.inf, 0.0
    for _ in range(MULTIPLIERS):
        value = (
            constant
            + _minimise_by_variable(model, low, high, multiplier, relaxed)
            + multiplier * (floor - relaxed.constant[0])
        )
        value -= ROUNDING * (abs(constant) + multiplier)
        slope = floor - _gained(relaxed)
        if value > best:
            best, best_multiplier = value, multiplier
            copy_row(relaxed.point, relaxed.best_point)
            relaxed.codec_point[1] = relaxed.codec_point[0]
            if best >= cutoff:
                return best, best_multiplier
        if slope > 0.0:
            small, small_value, small_slope = multiplier, value, slope
            _note_choice(model, relaxed, relaxed.under)
        else:
            large, large_value, large_slope = multiplier, value, slope
            _note_choice(model, relaxed, relaxed.over)
        if large == np.inf:
            multiplier = 4.0 * multiplier if multiplier > 0.0 else _first_multiplier(model, low, high, relaxed)
        elif small_slope > 0.0:
            meeting = large_value - large_slope * large - small_value + small_slope * small
            multiplier = min(max(meeting / (small_slope - large_slope), small), large)
        elif multiplier > 0.0:
            multiplier = 0.25 * multiplier if multiplier > 1e-9 * abs(constant) else 0.0
        else:
            break
    if small_slope > 0.0 and large < np.inf:
        _move_tangents(relaxed, -large_slope / (small_slope - large_slope))
    else:
        _move_tangents(relaxed, 1.0 if small_slope > 0.0 else 0.0)
    return best, best_multiplier


@inner
def lagrangian_bound(
    model: ExactModel, at: CutTables, low: IntArray, high: IntArray, floor: float, cutoff: float, relaxed: Relaxation
) -> float:
    """Lower bound of the objective of what is accurate enough in a box.

    Comes after :func:`relax_accuracy` and :func:`relax_bits`. The search for a good multiplier and tangent ends as soon
    as the bound reaches ``cutoff``.
    """
    _start_points(model, low, high, relaxed)
    best, multiplier = -np.inf, relaxed.multiplier[0]
    for _ in range(TANGENTS):
        best, multiplier = _try_multipliers(model, at, low, high, floor, cutoff, best, multiplier, relaxed)
        relaxed.multiplier[0] = multiplier
        if best >= cutoff:
            break
    return best


@inner
def narrow_by_reduced_costs(
    model: ExactModel, at: CutTables, low: IntArray, high: IntArray, floor: float, cutoff: float, relaxed: Relaxation
) -> float:
    """Drop positions at the ends of every variable that cost too much by themselves, after :func:`lagrangian_bound`.

    Returns the least bound of what was dropped, infinite where nothing was.
    """
    copy_row(relaxed.best_point, relaxed.point)
    relaxed.codec_point[0] = relaxed.codec_point[1]
    multiplier = relaxed.multiplier[0]
    constant = _set_tangents(model, at, relaxed)
    total = (
        constant
        + _minimise_by_variable(model, low, high, multiplier, relaxed)
        + multiplier * (floor - relaxed.constant[0])
    )
    total -= ROUNDING * (abs(constant) + multiplier)
    dropped = np.inf
    for v in range(low.shape[0]):
        others = total - relaxed.part[v]
        for end in range(2):
            while low[v] < high[v]:
                position = high[v] if end == 1 else low[v]
                bound = others + _price(model, relaxed, v, position) - multiplier * relaxed.gain[v, position]
                if bound < cutoff:
                    break
                dropped = min(dropped, bound)
                if end == 1:
                    high[v] -= 1
                else:
                    low[v] += 1
    return dropped
