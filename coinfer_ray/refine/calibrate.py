"""A confidence that holds for answers: how much margin the answers to random scenarios really need.

A margin of q units of :mod:`coinfer_ray.predictor.calibration` gives every scenario an answer. Scenarios that are drawn
at random are exchangeable with the next one that somebody asks about, so when each of n has been answered from the
greatest margin of a ladder downward, every answer trained anew from a fresh seed, and the least margin noted down to
which all of its answers kept their bound, the ceil(C (n + 1))-th smallest of these margins keeps the next scenario's
answer with a probability of at least C. That is split-conformal prediction with the needed margin as the score (V. Vovk
et al., "Algorithmic Learning in a Random World", 2005; for losses that fall with a margin: A. Angelopoulos et al.,
"Conformal Risk Control", ICLR 2024). The predictor is left as it is, and so are the strategies that it has measured:
what is learned here belongs to the next one.

A scenario whose answer breaks its bound even at the greatest margin has no needed margin; it counts as one above all
others, and a confidence that would need it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from coinfer_kernels import Scenarios

from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import DEFAULT_OPTIMIZER, solve
from coinfer_ray.predictor.calibration import Calibration
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.costs import objective as objective_of
from coinfer_ray.records.request import Measure, Request
from coinfer_ray.refine.cases import Case
from coinfer_ray.scenarios.batch import weight_rows

LADDER = (3.0, 1.5, 0.75)
MAX_NODES = 20_000  # of the exact solver: a time limit would make answers differ from run to run
_ANY = 0.5  # a confidence: all that a fixed margin's calibration knows


@dataclass(frozen=True)
class Step:
    """The answer at one margin ``q``: where its accuracy comes from, its latency beside that of the best plain cut (s),
    and the losses (0..1) against the base network on the same images, as a fresh training measured them; None where it
    is the network as it is."""

    q: float
    source: str
    latency_s: float
    plain_s: float
    validation_loss: float | None
    test_loss: float | None
    kept: bool


@dataclass(frozen=True)
class CalibratedCase:
    """A scenario's answers from the greatest margin down to the first that broke its bound; ``needed`` is the least
    margin of those that kept it, infinite where none did."""

    case: Case
    steps: tuple[Step, ...]
    needed: float

    def to_json(self) -> dict[str, Any]:
        needed = self.needed if np.isfinite(self.needed) else None
        return {
            "scenario": self.case.name,
            "max_loss": self.case.max_loss,
            "needed": needed,
            "steps": [vars(step) for step in self.steps],
        }


def needed_margins(
    problem: Problem,
    cases: Sequence[Case],
    measure: Measure,
    *,
    repeat: int = 0,
    ladder: Sequence[float] = LADDER,
) -> list[CalibratedCase]:
    """The margin that each case needs; ``measure`` trains what ``problem`` answers, from the seeds of ``repeat``.

    Raises:
        InputError: as :func:`coinfer_ray.optimizer.solve.solve`.
    """
    weights = weight_rows([case.weights for case in cases])
    floors = problem.base_accuracy - np.array([case.max_loss for case in cases])
    scenarios = Scenarios(weights, floors, np.full(len(cases), np.nan))
    plain = objective_of(problem.known_costs, weights).min(axis=0)
    alive, steps = np.ones(len(cases), dtype=bool), [list[Step]() for _ in cases]
    for q in sorted(ladder, reverse=True):
        rows = np.flatnonzero(alive)
        if not len(rows):
            break
        fixed = with_calibration(problem, _always(problem.predictor, q))
        some = Scenarios(weights[rows], floors[rows], scenarios.snr_db[rows])
        found = solve(fixed, some, DEFAULT_OPTIMIZER, confidence=_ANY, max_nodes=MAX_NODES)
        answers = problem.answers(found)
        wanted = {tuple(levels) for levels, base in zip(found.levels.tolist(), answers.known, strict=True) if not base}
        order = sorted(wanted)
        requests = [Request(problem.space.strategy(np.array(levels)), None, repeat) for levels in order]
        measured = {order[position]: row for position, row in measure(requests)}
        for place, row in enumerate(rows.tolist()):
            levels = tuple(found.levels[place].tolist())
            validation, test = (_loss(measured.get(levels), split) for split in ("validation", "test"))
            counts = validation if problem.accuracy == "validation" else test
            base = bool(answers.known[place])
            assert answers.trainings is not None
            source = "base" if base else "measured" if answers.trainings[place] else "predicted"
            kept = base or (counts is not None and counts <= cases[row].max_loss + 1e-9)
            objective = float(found.objective[place])
            steps[row].append(Step(q, source, objective, float(plain[row]), validation, test, kept))
            alive[row] = kept
    return [
        CalibratedCase(case, tuple(taken), min((step.q for step in taken if step.kept), default=np.inf))
        for case, taken in zip(cases, steps, strict=True)
    ]


def calibrated(predictor: Predictor, cases: Sequence[CalibratedCase]) -> Predictor:
    """``predictor`` with the margins that the answers to ``cases`` needed in place of its records' scores."""
    scale = predictor.calibration
    scores = np.array([case.needed for case in cases])
    return replace(predictor, calibration=Calibration.of_answers(scores, scale.base_accuracy, scale.resolution))


def with_calibration(problem: Problem, calibration: Calibration) -> Problem:
    """``problem`` with another calibration of its predictor."""
    return replace(problem, fitted=replace(problem.predictor, calibration=calibration))


def _always(predictor: Predictor, q: float) -> Calibration:
    scale = predictor.calibration
    return Calibration.of_answers(np.full(2, q), scale.base_accuracy, scale.resolution)


def _loss(row: Any, split: str) -> float | None:
    if row is None or row["status"] != "ok":
        return None
    return float(row[f"base_{split}_accuracy"] - row[f"{split}_accuracy"])
