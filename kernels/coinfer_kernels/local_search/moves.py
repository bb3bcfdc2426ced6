"""Moves of the local search: to the best point of a line (one variable) or of a plane (two) of the space.

All variables but one or two are held. The leaves that those leave open are few; each is an interval or a rectangle of
places. Added to a difference array at its ends (line) or corners (plane), their values become the accuracies of all
points by running sums (in a plane: a summed-area table), and the costs are a sum or a product of two rows. So the best
point is found exactly, where sampling would have to find it: with what all others leave to it, a variable goes straight
to the far edge of the predictor's box.

Best is, up to the accuracy floor, the most accurate point that keeps within a budget; from there on the cheapest.
"""

from typing import Any

import numpy as np

from coinfer_kernels.costs import codec_cost, objective_of
from coinfer_kernels.jit import copy_row, inner
from coinfer_kernels.local_search.model import LevelModel
from coinfer_kernels.local_search.state import Here, in_codec, intersect, objective_here, sum_or_median, take_place
from coinfer_kernels.notation import FloatArray
from coinfer_kernels.trees.leaf_sets import WORD, lowest_bit


@inner
def _hold(model: LevelModel, here: Here, v: int, w: int) -> None:
    """Put what all variables but v and w leave open into ``here.others``."""
    copy_row(here.base, here.others)
    for i in range(here.active[0]):
        u = here.order[i]
        if u != v and u != w:
            intersect(model, u, here.at[u], here.others)


@inner
def _leaves_of_one(model: LevelModel, here: Here, v: int, w: int, along: FloatArray) -> None:
    """What the leaves open add at every place of v that ask for v and not for w, into ``along`` (places,)."""
    low, high, value, others = model.low[v], model.high[v], model.value, here.others
    always, always_w = model.always[v], model.always[w]
    count = np.uintp(model.counts[v])
    for k in range(count + np.uintp(1)):
        along[k] = 0.0
    for b in range(np.uintp(others.shape[0])):
        word = others[b] & ~always[b]
        if v != w:
            word &= always_w[b]
        while word:
            leaf = b * np.uintp(WORD) + lowest_bit(word)
            along[np.uintp(low[leaf])] += value[leaf]
            along[np.uintp(high[leaf])] -= value[leaf]
            word &= word - np.uint64(1)
    levels, linear, total = model.levels[v], model.linear[v], 0.0
    for at in range(count):
        total += along[at]
        along[at] = total + linear[np.uintp(levels[at])]


@inner
def _leaves_of_both(model: LevelModel, here: Here, v: int, w: int) -> bool:
    """What the leaves open add that ask for v and w, into ``here.grid`` (places of v, places of w + 1).

    Returns whether there are such leaves.
    """
    rows, width, grid, others = np.uintp(model.counts[v]), np.uintp(model.counts[w] + 1), here.grid, here.others
    low_v, high_v, low_w, high_w = model.low[v], model.high[v], model.low[w], model.high[w]
    value, always_v, always_w = model.value, model.always[v], model.always[w]
    found = False
    for b in range(np.uintp(others.shape[0])):
        word = others[b] & ~(always_v[b] | always_w[b])
        if word and not found:
            found = True
            for k in range((rows + np.uintp(1)) * width):
                grid[k] = 0.0
        while word:
            leaf = b * np.uintp(WORD) + lowest_bit(word)
            first, behind = np.uintp(low_v[leaf]) * width, np.uintp(high_v[leaf]) * width
            left, right, amount = np.uintp(low_w[leaf]), np.uintp(high_w[leaf]), value[leaf]
            grid[first + left] += amount
            grid[first + right] -= amount
            grid[behind + left] -= amount
            grid[behind + right] += amount
            word &= word - np.uint64(1)
    if found:
        for k in range(width, rows * width):
            grid[k] += grid[k - width]
        for j in range(np.uintp(1), width - np.uintp(1)):  # column by column, so that the additions overlap
            for i in range(rows):
                grid[i * width + j] += grid[i * width + j - np.uintp(1)]
    return found


@inner
def _pair_of(model: LevelModel, here: Here, v: int, w: int) -> float:
    """Objective per kept channel of set v and kept channel of set w."""
    total = 0.0
    for i in range(model.touching.shape[1]):
        q = model.touching[v, i]
        if q < 0:
            break
        if model.pair_in[q] + model.pair_out[q] - v == w:
            total += here.pair[q]
    return total


@inner
def _codec_objective(model: LevelModel, here: Here) -> float:
    device, server, uplink = codec_cost(model.cost, here.cut[0], here.levels)
    return objective_of(here.weights, device, server, uplink)


@inner
def _codec_costs(model: LevelModel, here: Here, v: int) -> None:
    """Bring the row of v in ``here.codec`` up to date."""
    state = here.codec_known[here.levels.shape[0]]
    if here.codec_known[v] == state:
        return
    here.codec_known[v] = state
    levels, now, row = here.levels, here.levels[v], here.codec[v]
    base = _codec_objective(model, here)
    for at in range(model.counts[v]):
        levels[v] = model.levels[v, at]
        row[at] = _codec_objective(model, here) - base
    levels[v] = now


@inner
def _place_costs(model: LevelModel, here: Here, v: int, codec: bool, cost: FloatArray, step: FloatArray) -> None:
    """What every place of v adds to the objective, and how many channels, the others held."""
    sets, count, channels = model.cost.kept.shape[0] - 1, np.uintp(model.counts[v]), model.channels[v]
    if v < sets:
        slope, own = here.line[v], 0.0
        for i in range(model.touching.shape[1]):
            q = model.touching[v, i]
            if q < 0:
                break
            other = model.pair_in[q] + model.pair_out[q] - v
            if other == v:
                own += here.pair[q]
            elif other < sets:
                slope += here.pair[q] * channels_here(model, here, other)
            else:
                slope += here.pair[q]
        now = channels_here(model, here, v)
        slope += own * now  # own (k^2 - now^2) = (own now + own k) (k - now)
        for at in range(count):
            step[at] = channels[at] - now
            cost[at] = (slope + own * channels[at]) * step[at]
    else:
        for at in range(count):
            step[at] = cost[at] = 0.0
    if codec:
        _codec_costs(model, here, v)
        row = here.codec[v]
        for at in range(count):
            cost[at] += row[at]


@inner
def channels_here(model: LevelModel, here: Here, v: int) -> float:
    """Channels that the strategy in hand keeps of set v, meaningful at this cut or not."""
    channels: float = model.cost.kept[v, here.levels[v]]
    return channels


@inner
def _better(accuracy: float, objective: float, here: Here, budget: float) -> bool:
    """Whether a point is better than the strategy in hand.

    Within the budget is better than beyond; up to the floor the more accurate is better, from there on the cheaper.
    """
    within, floor = bool(objective <= budget), here.floor[0]
    if within != (here.objective[0] <= budget):
        return within
    if not within:
        return bool(objective < here.objective[0])
    if accuracy >= floor:
        return bool(here.accuracy[0] < floor or objective < here.objective[0] * (1.0 - 1e-13))
    return bool(here.accuracy[0] < floor and accuracy > here.accuracy[0])


@inner
def _fill_line(model: LevelModel, here: Here, v: int) -> None:
    """Accuracy, up to a constant, and cost of every place of v into the first rows of ``along`` and ``cost``."""
    _hold(model, here, v, v)
    here.spent[0] += model.counts[v]
    if model.median:
        _median_of_plane(model, here, v, v)
        for at in range(model.counts[v]):
            here.along[0, at] = here.grid[at]
    else:
        _leaves_of_one(model, here, v, v, here.along[0])
    _place_costs(model, here, v, in_codec(model, here, v), here.cost[0], here.step[0])


@inner
def move_on_line(model: LevelModel, here: Here, v: int, budget: float) -> bool:
    """Move along variable v to the best point; whether that is another one."""
    along, cost = here.along[0], here.cost[0]
    _fill_line(model, here, v)
    rest, objective = here.accuracy[0] - along[here.at[v]], here.objective[0]
    best = here.at[v]
    for at in range(model.counts[v]):
        if _better(rest + along[at], objective + cost[at], here, budget):
            best = at
            here.accuracy[0], here.objective[0] = rest + along[at], objective + cost[at]
    if best == here.at[v]:
        return False
    take_place(model, here, v, best)
    return True


@inner
def _row_holds(
    along: FloatArray,
    cost: FloatArray,
    step: FloatArray,
    grid: FloatArray,
    first: int,
    columns: int,
    accuracy: float,
    factor: float,
    limit: float,
) -> bool:
    """Whether a row has a point of that accuracy below that cost; a loop without branches, in vector lanes."""
    found = 0
    for j in range(columns):
        found += (along[j] + grid[first + j] >= accuracy) & (cost[j] + factor * step[j] < limit)
    return found > 0


@inner
def move_in_plane(model: LevelModel, here: Here, v: int, w: int, budget: float) -> bool:
    """As :func:`move_on_line`, in the plane of two variables."""
    _hold(model, here, v, w)
    along_v, along_w, grid = here.along[0], here.along[1], here.grid
    cost_v, cost_w, step_v, step_w = here.cost[0], here.cost[1], here.step[0], here.step[1]
    rows: Any = np.uintp(model.counts[v])
    columns: Any = np.uintp(model.counts[w])
    width = columns + np.uintp(1)
    if model.median:
        _median_of_plane(model, here, v, w)
        joint = True
        for k in range(max(rows, columns)):
            along_v[k] = along_w[k] = 0.0
    else:
        _leaves_of_one(model, here, v, w, along_v)
        _leaves_of_one(model, here, w, v, along_w)
        joint = _leaves_of_both(model, here, v, w)
    if not joint:
        for k in range(rows * width):
            grid[k] = 0.0
    codec_v, codec_w = in_codec(model, here, v), in_codec(model, here, w)
    _place_costs(model, here, v, codec_v and not codec_w, cost_v, step_v)
    _place_costs(model, here, w, codec_w and not codec_v, cost_w, step_w)
    both, sets = codec_v and codec_w, model.cost.kept.shape[0] - 1
    pair = _pair_of(model, here, v, w) if v < sets and w < sets else 0.0
    now_v: Any = np.uintp(here.at[v])
    now_w: Any = np.uintp(here.at[w])
    rest = here.accuracy[0] - along_v[now_v] - along_w[now_w] - grid[now_v * width + now_w]
    objective = here.objective[0]
    base = _codec_objective(model, here) if both else 0.0
    here.spent[0] += rows * columns
    best_v, best_w = now_v, now_w
    was_v, was_w, levels = here.levels[v], here.levels[w], here.levels
    for i in range(rows):
        least_accurate, most_costly = _wanted(here, budget)
        accuracy, own, factor = rest + along_v[i], objective + cost_v[i], pair * step_v[i]
        # Does the row hold anything better? Costs of a codec that depends on both are looked up where it matters.
        limit = np.inf if both else most_costly - own
        if not _row_holds(along_w, cost_w, step_w, grid, i * width, columns, least_accurate - accuracy, factor, limit):
            continue
        levels[v] = model.levels[v, i]
        for j in range(columns):
            reached = accuracy + along_w[j] + grid[i * width + j]
            if reached < least_accurate:
                continue
            total = own + cost_w[j] + factor * step_w[j]
            if both:
                levels[w] = model.levels[w, j]
                total += _codec_objective(model, here) - base
            if _better(reached, total, here, budget):
                best_v, best_w = i, j
                here.accuracy[0], here.objective[0] = reached, total
    levels[v], levels[w] = was_v, was_w
    if best_v == now_v and best_w == now_w:
        return False
    take_place(model, here, v, best_v)
    take_place(model, here, w, best_w)
    return True


@inner
def _wanted(here: Here, budget: float) -> tuple[float, float]:
    """Accuracy that a better point has at least, and objective that it stays below."""
    if here.objective[0] > budget:
        return -np.inf, here.objective[0]
    if here.accuracy[0] >= here.floor[0]:
        return here.floor[0], here.objective[0]
    return here.accuracy[0], budget * (1.0 + 1e-15)


@inner
def _median_of_plane(model: LevelModel, here: Here, v: int, w: int) -> None:
    """Accuracy at every point of a plane (or line, v = w) into ``here.grid``, where the ensemble is a median."""
    rows, columns = model.counts[v], model.counts[w] if v != w else 1
    width = columns + 1 if v != w else 1
    kept, words = here.others, here.trial
    for i in range(rows):
        for j in range(columns):
            copy_row(kept, words)
            intersect(model, v, i, words)
            if v != w:
                intersect(model, w, j, words)
            here.grid[i * width + j] = sum_or_median(model, words, here.scratch)


@inner
def take_cheaper(model: LevelModel, here: Here, v: int, budget: float) -> None:
    """Move variable v to the costliest level that meets the budget, else to the cheapest, whatever the accuracy.

    Keeps ``here.objective``.
    """
    cost = here.cost[0]
    _place_costs(model, here, v, in_codec(model, here, v), cost, here.step[0])
    allowed = budget - here.objective[0]
    best, saved = -1, 0.0
    for at in range(model.counts[v]):
        if cost[at] < 0.0 and (best < 0 or (allowed >= cost[at] > saved if saved <= allowed else cost[at] < saved)):
            best, saved = at, cost[at]
    if best >= 0:
        take_place(model, here, v, best)
        here.objective[0] += saved


@inner
def corner_here(model: LevelModel, here: Here) -> float:
    """Objective with every variable at the cheapest level that it could take by itself; changes the strategy."""
    corner = here.moved
    for i in range(here.active[0]):
        v = here.order[i]
        along, cost = here.along[0], here.cost[0]
        _fill_line(model, here, v)
        rest = here.accuracy[0] - along[here.at[v]]
        best, least = here.at[v], 0.0
        for at in range(model.counts[v]):
            if rest + along[at] >= here.floor[0] and cost[at] <= least:
                best, least = at, cost[at]
        corner[v] = best
    for i in range(here.active[0]):
        take_place(model, here, here.order[i], corner[here.order[i]])
    return objective_here(model, here)
