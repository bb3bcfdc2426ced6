"""The closed loop: fit, optimise, really train what was chosen, learn from it, until nothing better is predicted.

A predicted accuracy is a claim, and an optimizer harvests a predictor's errors: of all strategies it takes those
whose accuracy is overestimated most. So every choice is trained, and from then on its measured accuracy is a fact
that no prediction overrules.

**Round.** Fit the predictor on all records, the measured choices among them. For each scenario that isn't settled
find the cheapest strategy whose predicted accuracy keeps to ``floor + margin``. It is trained, unless it is known
already.

**Margin.** Where a choice measures below the floor, the scenario asks for that much more predicted accuracy from
the next round on; where one keeps to it, the margin is halved, and so it is where nothing better than the best
fact is left at it. A prediction that a fact has refuted is refused in its round by a margin just above it: the
predictor is monotone or coarse, so single points can't be cut out of it. With a confidence the floor is the
stricter one of :mod:`coinfer_ray.predictor.calibration`, calibrated anew in each round. A scenario is settled when, at
the least margin that the facts allow, nothing cheaper than its best fact is predicted.

**Facts** are the untouched network at its cuts (the base accuracy), every strategy in the records (the mean over its
seeds) and every choice that was trained. The best fact of a scenario is the cheapest that keeps to the floor, so an
answer never rests on a prediction. A fact carries the noise of its training and of its images, and the cheapest of
many that just keep to a floor was lucky more often than not. With ``repeats`` (``--seeds``) the best fact of a
scenario is trained again, from one further seed a round, before it is an answer, and its mean counts: what was only
lucky falls below the floor and the next one is tried. What is still in doubt when the budget is spent is no answer. A
training from a fresh seed (``coinfer verify``) judges what is left.

The whole run is a function of the start records and of the measurements. Measurements are shards on disk, and a
shard is not trained twice: after a kill the same rounds are gone through again, up to where they stopped, and end
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from coinfer_kernels import Scenarios, features

from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.records.request import Measure, Request
from coinfer_ray.records.store import Records, Split
from coinfer_ray.refine.cases import Case
from coinfer_ray.refine.facts import Fact, Facts, _key

MARGIN_STEP = 1e-3  # margins below this are taken for none: a fifth of the error of an accuracy on 5,000 images
TOLERANCE = 1e-3  # a strategy must be cheaper than the best fact by this share to be worth training
CHOICE_NODES = 50_000  # of the exact solver: what is trained next needs no proof that takes longer than its training
_ABOVE = 1e-9  # what lifts a margin past a prediction that has been refuted


@dataclass(frozen=True)
class Step:
    """One choice of one scenario: what was predicted of it and what training it gave."""

    round: int
    strategy: Strategy
    latency_s: float
    predicted_accuracy: float
    accuracy_bound: float | None
    margin: float
    measured_accuracy: float | None
    test_accuracy: float | None
    floor_met: bool

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"strategy": self.strategy.to_json()}


@dataclass
class CaseState:
    """Where a scenario stands. ``best`` is None while no fact keeps to the floor."""

    case: Case
    accuracy_floor: float
    best: Fact | None = None
    best_latency_s: float | None = None
    margin: float = 0.0
    settled: bool = False
    steps: list[Step] = field(default_factory=list)

    def to_json(self, problem: Problem) -> dict[str, Any]:
        """What ``coinfer search --json`` prints of a scenario."""
        best = self.best
        return {
            "scenario": self.case.name,
            "max_loss": self.case.max_loss,
            "confidence": self.case.confidence,
            "snr_db": self.case.snr_db,
            "accuracy_floor": self.accuracy_floor,
            "settled": self.settled,
            "latency_s": self.best_latency_s,
            "accuracy": None if best is None else best.accuracy,
            "test_accuracy": None if best is None else best.test_accuracy,
            "accuracy_source": None if best is None else best.source,
            "trainings": None if best is None else best.trainings,
            "strategy": None if best is None else problem.space.strategy(np.array(best.levels)).to_json(),
            "steps": [step.to_json() for step in self.steps],
        }


@dataclass(frozen=True)
class LoopResult:
    """``stopped``: ``settled`` where every scenario is, else ``budget``. ``trained`` counts trainings, with those
    whose shards were at hand; ``problem`` has the predictor that was fitted last."""

    states: tuple[CaseState, ...]
    trained: int
    rounds: int
    stopped: Literal["settled", "budget"]
    problem: Problem

    def to_json(self) -> dict[str, Any]:
        """The object that ``coinfer search --json`` prints."""
        return {
            "model": self.problem.graph.model,
            "input_px": self.problem.graph.input_px,
            "stopped": self.stopped,
            "rounds": self.rounds,
            "trained": self.trained,
            "base_accuracy": self.problem.base_accuracy,
            "scenarios": [state.to_json(self.problem) for state in self.states],
        }


def search_loop(
    cases: Sequence[Case],
    start: Records,
    measure: Measure,
    fit: Callable[[Records], Problem],
    *,
    budget: int,
    repeats: int = 1,
    split: Split = "validation",
    optimizer: str = "exact",
    seed: int = 0,
    on_round: Callable[[LoopResult], None] | None = None,
) -> LoopResult:
    """Go round until every case is settled or ``budget`` trainings are spent (see the module).

    ``measure`` trains strategies and yields their records' rows, ``fit`` makes a search problem of records; an answer
    rests on ``repeats`` trainings at the least. ``on_round`` is told where things stand after each round.

    Raises:
        InputError: a budget that trains nothing, or what ``measure``, ``fit`` and the optimizer raise.
    """
    if repeats < 1 or budget < repeats:
        raise InputError(
            f"candidates: a budget of {budget} trains no strategy {repeats} times; give {max(repeats, 1)} or more"
        )
    problem = fit(start)
    facts = Facts(problem, start, split)
    states = tuple(CaseState(case, problem.base_accuracy - case.max_loss) for case in cases)
    rows: list[Mapping[str, Any]] = []
    trained = rounds = 0
    while True:
        # A settled case is looked at again: a later predictor may promise something better after all.
        choices = [_choose(problem, facts, state, optimizer, seed, position) for position, state in enumerate(states)]
        doubts = []
        for state, choice in zip(states, choices, strict=True):
            _note_best(facts, state)
            doubt = _doubt(state.best, repeats)
            state.settled = choice is None and doubt is None
            doubts.append(doubt)
        new = [
            _Job(choice.levels, state.case.snr_db, 0)
            for state, choice in zip(states, choices, strict=True)
            if choice is not None
        ]
        wanted = list(dict.fromkeys([*(doubt for doubt in doubts if doubt is not None), *new]))
        jobs = wanted[: budget - trained]
        for state in states if not jobs else ():
            _note_best(facts, state, repeats)  # an answer that the budget leaves in doubt is none
        result = LoopResult(states, trained, rounds, "budget" if wanted else "settled", problem)
        if on_round is not None:
            on_round(result)
        if not jobs:
            return result
        rounds += 1
        for job, row in zip(jobs, _measure(measure, problem, jobs), strict=True):
            facts.add(job.levels, job.snr_db, [row])
            rows.append(row)
        trained += len(jobs)
        for state, choice in zip(states, choices, strict=True):
            fact = None if choice is None else facts.of(choice.levels, state.case.snr_db)
            if choice is not None and fact is not None:
                _learn(problem, state, choice, fact, rounds)
        problem = fit(with_rows(start, rows))


class _Job(NamedTuple):
    """A training that is wanted: of a strategy over a channel, from its seed number ``repeat``."""

    levels: tuple[int, ...]
    snr_db: float | None
    repeat: int


def _doubt(best: Fact | None, repeats: int) -> _Job | None:
    """What a best fact lacks to be an answer; the network as it is lacks nothing.

    One training at a time: most that were lucky fall at the next.
    """
    if best is None or best.source == "base" or best.trainings >= repeats:
        return None
    return _Job(best.levels, best.snr_db, best.own)


@dataclass(frozen=True)
class Choice:
    """What the optimizer would have trained; ``required`` is the predicted accuracy that its floor asks for."""

    levels: tuple[int, ...]
    latency_s: float
    predicted: float
    required: float


def _choose(
    problem: Problem, facts: Facts, state: CaseState, optimizer: str, seed: int, position: int
) -> Choice | None:
    """The cheapest strategy that is predicted to keep to the floor, beats the best fact and isn't known yet.

    Halves the case's margin while nothing better is left at it, and lifts it past predictions that a fact has
    refuted. None: nothing better is predicted.
    """
    _, to_beat = facts.best(state.case, state.accuracy_floor)
    least = 0.0
    while True:
        choice = _predicted_best(problem, state, optimizer, seed, position)
        if choice is None or not choice.latency_s < to_beat * (1 - TOLERANCE):
            if state.margin <= least:
                return None
            state.margin = max(least, _halved(state.margin))
        elif facts.of(choice.levels, state.case.snr_db) is None:
            return choice
        else:  # known, and cheaper than the best that keeps to the floor: the prediction is refuted
            least = state.margin = choice.predicted - choice.required + _ABOVE


def _predicted_best(problem: Problem, state: CaseState, optimizer: str, seed: int, position: int) -> Choice | None:
    case = state.case
    required = problem.predictor.required_accuracy(np.array([state.accuracy_floor]), case.confidence)
    snr_db = np.nan if case.snr_db is None else case.snr_db
    scenarios = Scenarios(np.array([case.weights]), required + state.margin, np.array([snr_db]))
    limit: dict[str, Any] = {"max_nodes": CHOICE_NODES} if optimizer == "exact" else {}
    found = solve(problem, scenarios, optimizer, seed, first_scenario=position, measured=False, **limit)
    if not found.feasible[0]:
        return None
    x = features(problem.space.tables, found.levels, snr_db if problem.predictor.noisy else None)
    predicted = float(problem.predictor.predict(x)[0])
    return Choice(_key(found.levels[0]), float(found.objective[0]), predicted, float(required[0]))


def _learn(problem: Problem, state: CaseState, choice: Choice, fact: Fact, rounds: int) -> None:
    """Write down what training gave of a choice, and set the margin by it."""
    met = fact.accuracy is not None and fact.accuracy >= state.accuracy_floor
    confidence = state.case.confidence
    bound = None if confidence is None else float(problem.predictor.lower_bound(choice.predicted, confidence))
    state.steps.append(
        Step(
            round=rounds,
            strategy=problem.space.strategy(np.array(choice.levels)),
            latency_s=choice.latency_s,
            predicted_accuracy=choice.predicted,
            accuracy_bound=bound,
            margin=state.margin,
            measured_accuracy=fact.accuracy,
            test_accuracy=fact.test_accuracy,
            floor_met=met,
        )
    )
    if met:
        state.margin = _halved(state.margin)
    elif fact.accuracy is not None:
        state.margin += state.accuracy_floor - fact.accuracy


def with_rows(start: Records, rows: Sequence[Mapping[str, Any]]) -> Records:
    """The start records and those of the measured ``rows`` that ended well, as one set."""
    import pyarrow as pa

    schema = start.table.schema
    ended_well = [{name: row.get(name) for name in schema.names} for row in rows if row["status"] == "ok"]
    table = pa.concat_tables([start.table, pa.Table.from_pylist(ended_well, schema=schema)])
    return replace(start, table=table, failed=start.failed + len(rows) - len(ended_well))


def _measure(measure: Measure, problem: Problem, jobs: Sequence[_Job]) -> list[Mapping[str, Any]]:
    """The row of each job, in order, whichever of them ends first."""
    requests = [Request(problem.space.strategy(np.array(levels)), snr_db, repeat) for levels, snr_db, repeat in jobs]
    found = dict(measure(requests))
    return [found[position] for position in range(len(requests))]


def _note_best(facts: Facts, state: CaseState, trainings: int = 1) -> None:
    state.best, latency = facts.best(state.case, state.accuracy_floor, trainings)
    state.best_latency_s = None if state.best is None else latency


def _halved(margin: float) -> float:
    return margin / 2 if margin / 2 >= MARGIN_STEP else 0.0
