"""Which measured strategies are worth training again with a feature of fewer bits.

A feature of eight bits a value costs a quarter of the time on the link and next to no accuracy, one of four an eighth
and some. What a width costs the network as it is was measured at every cut; it is taken for what it costs any other
there. Whatever would be the answer to some scenario if that were so is worth knowing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from coinfer_kernels import Scenarios, cheapest_feasible
from numpy.typing import NDArray

from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.predictor.fit import measured_of
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import FLOAT_BITS, Strategy
from coinfer_ray.records.choices import ChoiceTable
from coinfer_ray.records.store import Records, RecordsInfo

_MEASURED = (
    "base_validation_accuracy",
    "base_test_accuracy",
    "validation_accuracy",
    "validation_gained",
    "validation_lost",
    "test_accuracy",
    "test_gained",
    "test_lost",
    "device_flop",
    "server_flop",
    "uplink_bit",
)  # columns that a record and a choice share
MOST_WIDTHS = 6  # cuts and widths of one network at which it is measured in a round


def base_records(choices: ChoiceTable, info: RecordsInfo, space: SearchSpace) -> Records:
    """The network as it is at every inner cut of ``space``, with each of its widths: what JALAD's measurements among
    ``choices`` say, which are of the same network on the same images as the records of ``info``.

    Raises:
        InputError: ``choices`` have none of JALAD.
    """
    from coinfer_ray.training.verifier import strategy_number
    from coinfer_ray.training.worker import Task

    measured_together = Counter(own["asked"] for own in choices.rows_of("jalad"))
    rows = []
    untouched = dict.fromkeys(info.prunable_sets, 0.0)
    for own in choices.rows_of("jalad"):
        if own["feature_bits"] not in space.cut_bits:
            continue
        strategy = Strategy(untouched, own["partition_point"], feature_bits=own["feature_bits"])
        task = Task(strategy_number(space, strategy, None), strategy, None, own["seed"])
        measured = {name: own[name] for name in _MEASURED}
        measured["wall_s"] = own["wall_s"] / measured_together[own["asked"]]
        rows.append(task.columns | measured | {"status": "ok", "fine_tune_images": 0, "end_to_end_images": 0})
    return Records.of(rows, info, choices.source)


def knowing_widths(problem: Problem, records: Records, base: Records) -> Problem:
    """The problem by ``records`` alone and what the network as it is loses with few bits, ``base``."""
    parts = [measured_of(each, problem.accuracy, problem.base_accuracy) for each in (records, base)]
    measured = parts[0].beside(parts[1])
    return replace(problem, fitted=replace(problem.predictor, measured=measured))


def few_bits_plan(problem: Problem, scenarios: Scenarios, *, confidence: float | None, rounds: int) -> list[Strategy]:
    """The strategies of ``problem``'s records with a quantised feature that some of ``scenarios`` would be answered by.

    A round takes what is the answer to one at least, the most often first, and leaves it out for the next: what comes
    second counts where the first disappoints. Those of a pruned network without a codec, at most :data:`MOST_WIDTHS` of
    a round, follow each other, for one training serves them all.
    """
    space, measured, cut = problem.space, problem.measured, problem.space.cut_variable
    share, lost = link_shares(problem), width_losses(problem)
    rows, twins = _twins(problem)
    levels = measured.levels[rows]
    levels[:, cut] = twins
    sent = problem.delay.costs(levels) if len(rows) else np.empty((0, 3))
    sent[:, 2] *= share[twins]
    known, before = len(problem.known_levels), len(problem.known_levels) + len(measured.levels)
    costs = np.vstack([problem.known_costs, measured.costs, sent])
    bound = problem.measured_bound(confidence)
    reached = np.concatenate([np.full(known, problem.base_accuracy), bound, bound[rows] - lost[twins]])
    asked: dict[tuple[int, ...], list[int]] = {}
    names = [_name(problem, row) for row in levels]
    for _ in range(rounds):
        index, _ = cheapest_feasible(costs, reached, scenarios)
        won: dict[tuple[int, ...], list[int]] = {}
        for row, _ in Counter(index[index >= before].tolist()).most_common():
            won.setdefault(names[row - before], []).append(row)
        for name, own in won.items():
            asked.setdefault(name, []).extend(own[:MOST_WIDTHS])
            reached[own] = -1.0
    return [space.strategy(levels[row - before]) for own in asked.values() for row in own]


def link_shares(problem: Problem) -> NDArray[np.float64]:
    """(C,) for each level of the cut the share of its bits that Huffman coding left of what was measured there, in the
    mean; where nothing was, that of its width; 1 for floats, and for a width of which nothing is known."""
    measured, cut, widths = problem.measured, problem.space.cut_variable, problem.space.cut_bits
    at = measured.levels[:, cut]
    share = np.ones(len(widths))
    for width in np.unique(widths[widths < FLOAT_BITS]):
        rows = np.flatnonzero(widths[at] == width)
        if not len(rows):
            continue
        left = measured.costs[rows, 2] / problem.delay.costs(measured.levels[rows])[:, 2]
        share[widths == width] = left.mean()
        for level in np.unique(at[rows]):
            share[level] = left[at[rows] == level].mean()
    return share


def width_losses(problem: Problem) -> NDArray[np.float64]:
    """(C,) for each level of the cut what its width costs the network as it is, in accuracy (0..1): what was measured,
    from 0 on; where it was not, the mean of its width, and 0 for a width that was measured nowhere."""
    space, cut = problem.space, problem.space.cut_variable
    levels = np.zeros((len(space.cut_bits), len(space.variables)), dtype=np.int64)
    levels[:, cut] = np.arange(len(levels))
    place = problem.measured.find(levels)
    lost = np.where(place >= 0, problem.base_accuracy - np.append(problem.measured.accuracy, 0.0)[place], np.nan)
    lost = np.maximum(lost, 0.0)
    for width in np.unique(space.cut_bits):
        own = space.cut_bits == width
        known = lost[own & ~np.isnan(lost)]
        lost[own & np.isnan(lost)] = known.mean() if len(known) and width < FLOAT_BITS else 0.0
    return lost


def _twins(problem: Problem) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (T,) and (T,): of a measured strategy that sends floats at an inner cut, and of a level there that sends
    fewer bits."""
    space = problem.space
    points = np.asarray(space.variables[space.cut_variable].values)
    cuts, bits = problem.measured.levels[:, space.cut_variable], space.cut_bits
    rows, twins = [], []
    for level in np.flatnonzero(bits < FLOAT_BITS):
        own = np.flatnonzero((points[cuts] == points[level]) & (bits[cuts] == FLOAT_BITS))
        rows.append(own)
        twins.append(np.full(len(own), level))
    return np.concatenate([*rows, np.empty(0, dtype=np.int64)]), np.concatenate([*twins, np.empty(0, dtype=np.int64)])


def _name(problem: Problem, levels: np.ndarray) -> tuple[int, ...]:
    """The levels, the same ones wherever a network without a codec is cut."""
    space = problem.space
    plain = (levels[space.codec_variable :] == space.tables.canonical[space.codec_variable :]).all()
    return tuple(int(0 if plain and v == space.cut_variable else level) for v, level in enumerate(levels))
