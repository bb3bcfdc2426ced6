"""Solve a batch of scenarios of an assembled problem with one of the optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from coinfer_kernels import (
    Scenarios,
    Solutions,
    canonicalize,
    cheapest_feasible,
    features,
    solve_exact,
    solve_paper,
    solve_quantum,
)

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.optimizer.problem import UNREACHABLE, Problem, each_confidence


def _solve_genetic(*tables: Any, **options: Any) -> Solutions:
    """:func:`coinfer_ray.optimizer.genetic.solve_genetic`.

    Raises:
        InputError: pymoo is not installed.
    """
    try:
        from coinfer_ray.optimizer.genetic import solve_genetic
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "pymoo":
            raise
        raise InputError("optimizer: genetic needs pymoo; pip install 'coinfer-ray[peers]'") from None
    return solve_genetic(*tables, **options)


_HEURISTICS: dict[str, Callable[..., Solutions]] = {
    "quantum": solve_quantum,
    "paper": partial(solve_paper, rule="best"),
    "paper-parent": partial(solve_paper, rule="parent"),
    "genetic": _solve_genetic,
}
DEFAULT_OPTIMIZER = "exact"
OPTIMIZERS = (DEFAULT_OPTIMIZER, *_HEURISTICS)
MAX_REFUTED = 8  # times that a scenario is solved anew because measurements refute its answer
_ABOVE = 1e-9  # what lifts a floor past a prediction that has been refuted
EXACT_START = 50_000  # evaluations for the strategy that the exact solver starts from: more cost more than they save


def solve(
    problem: Problem,
    scenarios: Scenarios,
    optimizer: str = DEFAULT_OPTIMIZER,
    seed: int = 0,
    *,
    first_scenario: int = 0,
    confidence: np.ndarray | float | None = None,
    certify: bool = False,
    time_limit_s: float | None = None,
    measured: bool = True,
    **options: Any,
) -> Solutions:
    """The best strategy for each of S scenarios, the network as it is included (:mod:`coinfer_ray.optimizer.optimize`).

    So are, where ``measured``, the strategies that were trained for the records, by their measured accuracy; with a
    confidence by :meth:`Problem.measured_bound`, and then they are alone with it where the predictor is not to be
    trusted (:meth:`Problem.required_accuracy`): the best of them is found by looking at all, which proves it. Where an
    optimizer's own answer is one of them and falls below the floor, its prediction is refuted: it is asked again for
    one that is predicted to be better.

    ``exact`` starts from what ``quantum`` finds and goes on until no strategy can be better by more than a
    thousandth, until its node limit, or until ``time_limit_s`` seconds have been spent on a scenario, with the lower
    bound that was proven by then. With a time limit an answer that it ends depends on the machine's speed; nothing
    else does. ``quantum`` (iterated local search) and ``paper`` (the paper's Algorithm 1 as printed; ``paper-parent``:
    with the rule of the published codes, :mod:`coinfer_kernels.algorithm1`) search without a proof, within a number
    of evaluations; so does ``genetic`` (pymoo's genetic algorithm, :mod:`coinfer_ray.optimizer.genetic`).

    ``confidence`` is how sure the predictor must be that an answer meets ``scenarios.accuracy_floor``, one for all
    or one each (S,), NaN for those that take its predictions as they are; None: all of them.

    ``certify`` has the exact solver prove a lower bound beside another optimizer's answers, which stay as they are.

    ``first_scenario`` is the number of the first scenario in the larger grid that the batch is a part of; with
    it a scenario's answer depends on nothing but its own number and the seed. ``options`` go to the optimizer
    (:func:`coinfer_kernels.solve_quantum`, :func:`coinfer_kernels.solve_paper`, :func:`coinfer_kernels.solve_exact`,
    :func:`coinfer_ray.optimizer.genetic.solve_genetic`).

    Raises:
        InputError: an unknown optimizer, or one whose library is not installed, a time limit that is not above 0, a
            confidence that the records cannot promise, or scenarios without SNR for a predictor that needs one.
    """
    check_name("optimizer", optimizer, OPTIMIZERS)
    if time_limit_s is not None and not time_limit_s > 0:
        raise InputError(f"time limit: {time_limit_s} s must be above 0")
    check_snr(problem, scenarios.snr_db)
    keys = np.arange(first_scenario, first_scenario + len(scenarios.accuracy_floor))
    asked = each_confidence(confidence, len(keys))
    how = {"certify": certify, "time_limit_s": time_limit_s, "measured": measured, **options}
    found = _nothing(problem, len(keys))
    for own, rows in problem.by_snr(scenarios.snr_db):
        some = _solve(own, _rows(scenarios, rows), optimizer, seed, keys[rows], asked[rows], **how)
        found = some if len(rows) == len(keys) else _merged(found, some, rows)
    return found


def _solve(
    problem: Problem,
    scenarios: Scenarios,
    optimizer: str,
    seed: int,
    keys: np.ndarray,
    asked: np.ndarray,
    *,
    certify: bool,
    time_limit_s: float | None,
    measured: bool,
    **options: Any,
) -> Solutions:
    """:func:`solve` for scenarios of which the same strategies are measured; ``keys`` (S,) number them, ``asked`` (S,)
    are their confidences."""
    required = scenarios._replace(accuracy_floor=problem.required_accuracy(scenarios.accuracy_floor, asked))
    facts = _Facts(problem, measured)

    def run(rows: np.ndarray) -> Solutions:
        """The optimizer's own solutions of the scenarios ``rows``."""
        tables = *problem.searched, problem.predictor.ensemble.tables
        own, wanted = _rows(scenarios, rows), _rows(required, rows)
        if optimizer != "exact":
            return _HEURISTICS[optimizer](*tables, wanted, seed=seed, keys=keys[rows], **options)
        begun = solve_quantum(*tables, wanted, seed=seed, keys=keys[rows], max_evaluations=EXACT_START)
        searched, begun = begun, facts.beside(begun, own, asked[rows])
        proven = _prove(problem, wanted, begun, searched, max_seconds=time_limit_s, **options)
        seen = np.where(proven.feasible, proven.accuracy, np.maximum(begun.accuracy, proven.accuracy))
        return proven._replace(accuracy=seen, evaluations=begun.evaluations + proven.evaluations)

    found, open_rows = _nothing(problem, len(keys)), np.flatnonzero(required.accuracy_floor < UNREACHABLE)
    if len(open_rows):
        found = _merged(found, run(open_rows), open_rows)
    bound = found.lower_bound
    for _ in range(MAX_REFUTED):
        predicted = facts.refuted(found, scenarios, asked)
        again = np.flatnonzero(~np.isnan(predicted))
        if not len(again):
            break
        required.accuracy_floor[again] = np.maximum(predicted[again], required.accuracy_floor[again]) + _ABOVE
        found = _merged(found, run(again), again)
    solved = facts.beside(found, scenarios, asked)
    if certify and optimizer != "exact":
        floors = problem.required_accuracy(scenarios.accuracy_floor, asked)
        wanted = scenarios._replace(accuracy_floor=floors)
        bound = _prove(problem, wanted, solved, found, max_seconds=time_limit_s).lower_bound
    return solved._replace(lower_bound=np.minimum(bound, solved.objective))


def check_snr(problem: Problem, snr_db: np.ndarray) -> None:
    """Raise InputError unless every link (S,) has the signal-to-noise ratio that a predictor for noisy ones needs."""
    if problem.predictor.noisy and not np.isfinite(snr_db).all():
        raise InputError(
            "link: the records come from a noisy channel, so every link needs a signal-to-noise ratio; "
            "give bandwidth and SNR instead of a rate"
        )


def _nothing(problem: Problem, count: int) -> Solutions:
    """No strategy for ``count`` scenarios, and the proof that there is none."""
    return Solutions(
        levels=np.zeros((count, len(problem.space.variables)), dtype=np.int64),
        objective=np.full(count, np.inf),
        accuracy=np.zeros(count),
        evaluations=np.zeros(count, dtype=np.int64),
        feasible=np.zeros(count, dtype=np.bool_),
        lower_bound=np.full(count, np.inf),
    )


def _rows(scenarios: Scenarios, rows: np.ndarray) -> Scenarios:
    return Scenarios._make(column[rows] for column in scenarios)


def _merged(old: Solutions, new: Solutions, rows: np.ndarray) -> Solutions:
    """``old`` with the solutions ``new`` in its ``rows``."""
    columns = Solutions._make(column.copy() for column in old)
    for column, better in zip(columns, new, strict=True):
        column[rows] = better
    return columns


def _prove(problem: Problem, required: Scenarios, begun: Solutions, searched: Solutions, **options: Any) -> Solutions:
    """The exact solver from the answers at hand; ``required`` has the floors that predictions must meet. Where one is
    none that an optimizer may choose (:attr:`Problem.searched`) it starts from what one found, ``searched``."""
    outside = np.flatnonzero(begun.levels[:, problem.space.cut_variable] >= problem.space.searched_cuts)
    begun = _merged(begun, Solutions._make(column[outside] for column in searched), outside)
    # A strategy known to meet the floor may be predicted, or have the base's accuracy, below what is required.
    accepted = np.maximum(begun.accuracy, required.accuracy_floor)
    incumbents = begun._replace(accuracy=np.where(begun.feasible, accepted, begun.accuracy))
    tables = *problem.searched, problem.predictor.ensemble.tables
    return solve_exact(*tables, required, incumbents=incumbents, **options)


def best_accuracy(problem: Problem, snr_db: float = np.nan, confidence: float | None = None) -> float:
    """The best accuracy that can be had: the base network's where it is known, or the best predicted one.

    With a ``confidence`` the predicted ones count as the bounds that they reach with it, and the measured ones that
    hold at ``snr_db``.

    The latter by coordinate ascent from the untouched network at every cut: one variable at a time over all of
    its levels until nothing gains. A local optimum, near which the accuracy bound lies.
    """
    space, cut = problem.space, problem.space.cut_variable
    levels = np.zeros((space.searched_cuts, len(space.variables)), dtype=np.int64)
    levels[:, cut] = np.arange(len(levels))
    best = _accuracy(problem, levels, snr_db, confidence)
    gained = True
    while gained:
        gained = False
        for variable in np.flatnonzero(np.arange(len(space.variables)) != cut):
            for level in range(int(space.tables.n_levels[variable])):
                moved = levels.copy()
                moved[:, variable] = level
                moved = canonicalize(space.tables, moved)
                accuracy = _accuracy(problem, moved, snr_db, confidence)
                better = accuracy > best
                levels[better], best[better] = moved[better], accuracy[better]
                gained |= bool(better.any())
    reached = problem.at_link(snr_db).measured_bound(confidence)
    return float(max(best.max(), reached.max(initial=0.0)))


def _accuracy(problem: Problem, levels: np.ndarray, snr_db: float, confidence: float | None) -> np.ndarray:
    x = features(problem.space.tables, levels, snr_db if problem.predictor.noisy else None)
    predicted = problem.predictor.predict(x)
    sure = predicted
    if confidence is not None:
        trusted = problem.predictor.trusted
        sure = problem.predictor.lower_bound(predicted, confidence) if trusted else np.zeros(len(predicted))
    return np.where(problem.is_known(levels), problem.base_accuracy, sure)


def _better_of(a: Solutions, b: Solutions) -> Solutions:
    """Row by row the feasible one with the lower objective; where neither is, the higher accuracy seen."""
    take = np.where(a.feasible | b.feasible, b.objective < a.objective, b.accuracy > a.accuracy)
    return Solutions(
        levels=np.where(take[:, None], b.levels, a.levels),
        objective=np.where(take, b.objective, a.objective),
        accuracy=np.where(take, b.accuracy, a.accuracy),
        evaluations=a.evaluations + b.evaluations,
        feasible=a.feasible | b.feasible,
        lower_bound=np.full(len(take), np.nan),
    )


def judged(
    problem: Problem, found: Solutions, scenarios: Scenarios, confidence: np.ndarray | float | None
) -> Solutions:
    """``found``, with the best measured strategy in place of each that was measured and falls below its floor."""
    asked = each_confidence(confidence, len(found.feasible))
    for own, rows in problem.by_snr(scenarios.snr_db):
        facts, links = _Facts(own, measured=True), _rows(scenarios, rows)
        mine = Solutions._make(column[rows] for column in found)
        wrong = np.flatnonzero(~np.isnan(facts.refuted(mine, links, asked[rows])))
        if len(wrong):
            some = Solutions._make(column[wrong] for column in mine)
            right = facts.beside(some, _rows(links, wrong), asked[rows][wrong])
            found = _merged(found, right._replace(lower_bound=some.lower_bound), rows[wrong])
    return found


@dataclass(frozen=True)
class _Facts:
    """The strategies whose accuracy is measured: the network as it is, and those of the records where ``measured``."""

    problem: Problem
    measured: bool

    def refuted(self, found: Solutions, scenarios: Scenarios, confidence: np.ndarray) -> np.ndarray:
        """(S,) what is predicted of a found strategy that was measured and falls below the floor; NaN for others."""
        predicted = np.full(len(found.feasible), np.nan)
        place = self._find(found)
        for rows, bound in self._bounds(confidence):
            rows = rows & (place >= 0)
            wrong = np.flatnonzero(rows)[bound[place[rows]] < scenarios.accuracy_floor[rows]]
            if len(wrong):
                snr_db = scenarios.snr_db[wrong] if self.problem.predictor.noisy else None
                x = features(self.problem.space.tables, found.levels[wrong], snr_db)
                predicted[wrong] = self.problem.predictor.predict(x)
        return predicted

    def beside(self, found: Solutions, scenarios: Scenarios, confidence: np.ndarray) -> Solutions:
        """The optimizer's solutions compared with the facts, by which its own that are among them are judged."""
        problem, floor = self.problem, scenarios.accuracy_floor
        base, place = np.full(len(floor), problem.base_accuracy), self._find(found)
        known = found.feasible & problem.is_known(found.levels)
        sure, accuracy = np.where(known, base, np.inf), np.where(known, base, found.accuracy)
        for rows, bound in self._bounds(confidence):
            rows = rows & (place >= 0)
            sure[rows], accuracy[rows] = bound[place[rows]], problem.measured.accuracy[place[rows]]
        feasible = found.feasible & (sure >= floor)
        objective = np.where(feasible, found.objective, np.inf)
        best = found._replace(objective=objective, accuracy=accuracy, feasible=feasible)
        if len(problem.known_levels):
            reached = np.full(len(problem.known_levels), problem.base_accuracy)
            best = _better_of(best, _cheapest(problem.known_levels, problem.known_costs, reached, reached, scenarios))
        for rows, bound in self._bounds(confidence):
            some = np.flatnonzero(rows)
            own = problem.measured
            facts = _cheapest(own.levels, own.costs, bound, own.accuracy, _rows(scenarios, some))
            mine = Solutions._make(column[some] for column in best)
            best = _merged(best, _better_of(mine, facts), some)
        return best

    def _find(self, found: Solutions) -> np.ndarray:
        none = np.full(len(found.feasible), -1)
        return np.where(found.feasible, self.problem.measured.find(found.levels), -1) if self.measured else none

    def _bounds(self, confidence: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each confidence the scenarios (S,) that ask for it, and what measured strategies reach (M,)."""
        if not (self.measured and len(self.problem.measured.accuracy)):
            return
        for each in np.unique(confidence):  # NaN counts as one value
            rows = np.isnan(confidence) if np.isnan(each) else confidence == each
            yield rows, self.problem.measured_bound(None if np.isnan(each) else float(each))


def _cheapest(
    levels: np.ndarray, costs: np.ndarray, bound: np.ndarray, accuracy: np.ndarray, scenarios: Scenarios
) -> Solutions:
    """The cheapest of the strategies ``levels`` (K, V) whose ``bound`` (K,) keeps to each scenario's floor."""
    index, objective = cheapest_feasible(costs, bound, scenarios)
    seen = np.where(index >= 0, accuracy[index], accuracy.max())
    return Solutions(
        levels=levels[index],
        objective=objective,
        accuracy=seen,
        evaluations=np.full(len(index), len(levels)),
        feasible=index >= 0,
        lower_bound=np.full(len(index), np.nan),
    )
