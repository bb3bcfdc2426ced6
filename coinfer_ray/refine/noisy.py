"""Which measured strategies are worth training again through noise, and at which signal-to-noise ratio.

Through a noisy link a codec has to be trained for the noise; what has none is sent as bits, and loses nothing. One that
was trained and measured at a ratio holds at every higher one, where there is less noise, so a few ratios, the steps of
a ladder, serve all links. At first each strategy is taken to lose no more at a step than without noise, and what would
then be the answer to some random scenario is trained there. What it really loses counts from then on, at that step and
above. Other codecs at the same cut are then taken to pay for the noise what the one of them paid that paid least, there
or above. So it goes on until nothing that answers a scenario is a guess: optimism in the face of uncertainty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from coinfer_kernels import Scenarios, cheapest_feasible

from coinfer_ray.optimizer.problem import Problem

Levels = tuple[int, ...]


class Wanted(NamedTuple):
    """Strategies with a codec that answer some scenario, each with a step of the ladder (dB), the most often wanted
    first: ``guesses`` have not been trained there, ``measured`` were, and answer by that."""

    guesses: list[tuple[Levels, float]]
    measured: list[tuple[Levels, float]]


def next_noisy(
    problem: Problem,
    scenarios: Scenarios,
    ladder: tuple[float, ...],
    measured: Mapping[tuple[Levels, float], float],
    *,
    confidence: float | None,
) -> Wanted:
    """The strategies to train next, each with its step of ``ladder`` (dB, rising), none of them a guess when every
    scenario is answered by what is known; and what of it answers some.

    ``problem`` holds the noise-free records, its network as it is and its measured strategies are those that take part;
    the ``scenarios``' ratios say which step's trainings they may use, those below the lowest none. ``measured`` has the
    accuracies (0..1) of trainings through noise.
    """
    facts = problem.measured
    levels = np.vstack([problem.known_levels, facts.levels])
    costs = np.vstack([problem.known_costs, facts.costs])
    alone = np.concatenate([np.full(len(problem.known_levels), problem.base_accuracy), facts.accuracy])
    error = np.concatenate([np.zeros(len(problem.known_levels)), facts.error])
    exact = problem.is_known(levels)
    keys = [tuple(row) for row in levels.tolist()]
    codec = problem.space.codec_variable
    silent = (levels[:, codec:] == problem.space.tables.canonical[codec:]).all(axis=1)
    reached = _reached(keys, levels[:, problem.space.cut_variable], alone, silent, ladder, measured)
    step = np.searchsorted(ladder, scenarios.snr_db, side="right") - 1
    guesses: Counter[tuple[Levels, float]] = Counter()
    winners: Counter[tuple[Levels, float]] = Counter()
    for number in range(len(ladder)):
        rows = np.flatnonzero(step == number)
        accuracy, guessed, best = reached[number]
        bound = accuracy
        if confidence is not None:
            bound = accuracy - problem.predictor.calibration.margin(error, confidence)
        bound = np.where(exact, alone, bound)
        found, _ = cheapest_feasible(costs, bound, Scenarios._make(column[rows] for column in scenarios))
        found = found[found >= 0]
        guesses.update((keys[row], ladder[number]) for row in found if guessed[row])
        winners.update((keys[row], ladder[best[row]]) for row in found if not (guessed[row] or silent[row]))
    return Wanted(*([each for each, _ in counter.most_common()] for counter in (guesses, winners)))


def _reached(
    keys: list[Levels],
    cut: np.ndarray,
    alone: np.ndarray,
    silent: np.ndarray,
    ladder: tuple[float, ...],
    measured: Mapping[tuple[Levels, float], float],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each step the accuracies of the strategies ``keys`` (K,), which of them are guesses (K,), and the step at
    which it was measured where it is none (K,).

    What was measured at a step or below counts, the best of it. A guess is the accuracy ``alone`` (K,), less what noise
    took there, or above, of the one at its ``cut`` (K,) that lost least to it; none of the ``silent`` (K,) is one.
    """
    known = np.array([[measured.get((key, step), np.nan) for step in ladder] for key in keys]).reshape(-1, len(ladder))
    paid = np.full((cut.max() + 1, len(ladder)), np.inf)
    rows, columns = np.nonzero(~np.isnan(known) & ~silent[:, None])
    np.minimum.at(paid, (cut[rows], columns), alone[rows] - known[rows, columns])
    paid = np.where(np.isinf(paid), 0.0, np.maximum(paid, 0.0))
    steps = []
    for number in range(len(ladder)):
        there = np.nan_to_num(known[:, : number + 1], nan=-np.inf)
        held = there.max(axis=1)
        hoped = alone - paid[cut, number:].max(axis=1)
        # Once it was trained at this very step there is nothing left to hope for.
        guessed = ~silent & np.isnan(known[:, number]) & (hoped > held)
        accuracy = np.where(silent, alone, np.where(guessed, hoped, held))
        steps.append((accuracy, guessed, there.argmax(axis=1)))
    return steps
