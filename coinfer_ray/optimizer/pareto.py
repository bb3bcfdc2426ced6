"""The strategies that nobody beats in latency, the device's energy and the loss of accuracy together.

Among measured strategies the front is found by looking at all of them. Where predictions count there are too many, and
the exact solver gives, for each of some losses, the least latency, the least energy, and the least weighted sum of both
for weights between. Such sums reach the corners of the front's convex hull; what lies in its dents they miss (Das and
Dennis, Structural Optimization 14, 1997).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack, get_args

import numpy as np
from coinfer_kernels import Scenarios, Solutions
from coinfer_kernels.warm_up import compile_solvers

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.optimizer.candidates import Candidates, Source, unbeaten
from coinfer_ray.optimizer.optimize import TIME_LIMIT_S, OptimizeOptions, split_options
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import best_accuracy, check_snr, solve
from coinfer_ray.optimizer.stream import check_stream
from coinfer_ray.problem.costs import objective as objective_of
from coinfer_ray.problem.costs import seconds_per_item
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.scenarios.batch import weight_rows
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.scenarios.scenario import Device, Given, Link, Scenario, Server, check_max_loss

PREDICTED_LOSSES = (0.005, 0.01, 0.02, 0.05)  # where predictions count and no losses are asked for
PacedBy = Literal["latency", "throughput"]
ENERGY_OF_STREAMS = "it is known for one request at a time, and throughput is of a stream"
POINTS = 3  # weighted sums between the least latency and the least energy


@dataclass(frozen=True)
class FrontPoint:
    """A strategy of a front.

    ``latency_s`` (s) and ``energy_j`` (J, None where the device's powers are not known); ``accuracy`` in 0..1 and what
    it rests on, as an :class:`coinfer_ray.optimizer.optimize.Answer` says it; ``loss``: the base network's accuracy
    less what this one reaches with the front's confidence, or less ``accuracy`` without one. ``gap`` is by which share
    what the strategy was found for may be above the best that the predictor allows: 0 where all were looked at, None
    for a measured one among predictions. ``items_per_s`` is None unless throughput takes the latency's place.
    """

    latency_s: float
    energy_j: float | None
    loss: float
    accuracy: float
    accuracy_source: Source
    trainings: int
    gap: float | None
    cut_after: str
    strategy: Strategy
    items_per_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The point as JSON can say it."""
        document = vars(self) | {"strategy": self.strategy.to_json()}
        if self.items_per_s is None:  # as points have always been
            del document["items_per_s"]
        return document


@dataclass(frozen=True)
class Front:
    """``points`` of ``model`` at ``input_px`` pixels by rising latency, or falling throughput, none of which beats
    another.

    ``base_accuracy`` is the unmodified network's; ``confidence`` what was asked of measured strategies, None where
    predictions count. ``looked_at``: strategies that were compared. ``without_energy`` says why energy does not count,
    None where it does.
    """

    model: str
    input_px: int
    base_accuracy: float
    confidence: float | None
    points: tuple[FrontPoint, ...]
    looked_at: int
    without_energy: str | None = None

    @property
    def of_streams(self) -> bool:
        """Whether throughput takes the latency's place."""
        return self.points[0].items_per_s is not None

    def to_json(self) -> dict[str, Any]:
        """The object that ``coinfer pareto --json`` prints."""
        return vars(self) | {"points": [point.to_json() for point in self.points]}


def pareto(
    model: ModelLike,
    device: Device | Given | None = None,
    server: Server | Given | None = None,
    link: Link | Given | None = None,
    *,
    max_losses: Sequence[float] | None = None,
    objective: PacedBy = "latency",
    points: int = POINTS,
    seed: int = 0,
    time_limit_s: float | None = TIME_LIMIT_S,
    **options: Unpack[OptimizeOptions],
) -> Front:
    """The strategies that nobody beats in latency, device energy and loss of accuracy together.

    A strategy beats another where it is worse in none of them and better in one; of some that are equal in all one is
    kept. Without the device's powers latency and loss are left. With a ``confidence`` (default 0.9) the front is exact
    among the measured strategies and the network as it is at every cut. With ``max_losses`` (shares) it holds those
    alone that are unbeaten in latency and energy among all within one of these losses; the fastest within each is the
    answer that :func:`coinfer_ray.optimize` gives for it.

    Without (``confidence=None``) predictions count: for each of ``max_losses`` (default 0.005, 0.01, 0.02, 0.05) the
    least latency, the least energy, and ``points`` weighted sums between them, where the two differ; each by the exact
    solver with ``seed`` and ``time_limit_s`` (:func:`coinfer_ray.optimizer.solve.solve`), with its proven gap. The
    measured strategies that are unbeaten within one of the losses are on it as well.

    With the ``objective`` ``throughput`` items per second take the latency's place, among measured strategies, and
    energy does not count, which is known for one request at a time.

    ``model``, ``device``, ``server``, ``link`` and ``options`` are those of :func:`coinfer_ray.optimize`, but for
    ``max_loss``.

    Raises:
        InputError: as :func:`coinfer_ray.optimize` raises it; no losses, or one that is no share; points below 0;
            throughput on predictions.
        TypeError: an option that neither a problem nor a scenario has.
    """
    if "max_loss" in options:
        raise TypeError("pareto() got an unexpected keyword argument 'max_loss'; it takes max_losses")
    of_problem, of_scenario = split_options("pareto", options)
    losses = None if max_losses is None else check_losses(max_losses)
    check_name("objective", objective, get_args(PacedBy))
    if points < 0:
        raise InputError(f"points: {points} must be 0 or more; 3 weighted sums between the ends are usual")
    scenario = resolve(network=resolve_model(model).name, device=device, server=server, link=link, **of_scenario)
    problem = assemble(model, times=scenario.times, **of_problem)
    return front(problem, scenario, losses, objective=objective, points=points, seed=seed, time_limit_s=time_limit_s)


def check_losses(losses: Sequence[float]) -> tuple[float, ...]:
    """The losses in rising order, each once.

    Raises:
        InputError: none, or one that is no share.
    """
    if not len(losses):
        raise InputError("max losses: none given; give some, 0.01,0.02 or 0.005:0.05:10")
    for loss in losses:
        check_max_loss(loss)
    return tuple(sorted({float(loss) for loss in losses}))


def front(
    problem: Problem,
    scenario: Scenario,
    losses: Sequence[float] | None = None,
    *,
    objective: PacedBy = "latency",
    points: int = POINTS,
    seed: int = 0,
    time_limit_s: float | None = TIME_LIMIT_S,
) -> Front:
    """The front of an assembled problem; the arguments are those of :func:`pareto`.

    Raises:
        InputError: no strategy keeps to any of the losses; throughput on predictions.
    """
    streams = objective == "throughput"
    if streams:
        check_stream(scenario.confidence)
    check_snr(problem, np.array([np.nan if scenario.link.snr_db is None else scenario.link.snr_db]))
    problem = problem.at_link(scenario.link.snr_db)
    weights, why = ([scenario.weights()], ENERGY_OF_STREAMS) if streams else _weights(scenario)
    if losses is None and scenario.confidence is None:
        losses = PREDICTED_LOSSES
    pool = Candidates.measured(problem, scenario.confidence)
    if scenario.confidence is None and losses is not None:
        solved = _solved(problem, scenario, weights, np.array(losses), points, seed, time_limit_s)
        pool = solved.with_others(replace(pool, gap=np.full(len(pool), np.nan)))
    values = [pool.objective(each) for each in weights]
    if streams:  # of equal paces the least latency comes first, and is kept
        pool = pool.take(np.argsort(values[0], kind="stable"))
        values = [seconds_per_item(pool.costs, np.array(weights[0]))]
    criteria = np.column_stack([*values, problem.base_accuracy - pool.bound])
    rows = unbeaten(criteria)
    if losses is not None:
        rows = _within(rows, criteria, pool.bound, problem.base_accuracy - np.array(losses))
    if not len(rows):
        raise _nothing_keeps(problem, scenario, losses)
    return Front(
        model=problem.graph.model,
        input_px=problem.graph.input_px,
        base_accuracy=problem.base_accuracy,
        confidence=scenario.confidence,
        points=tuple(_point(problem, scenario, pool, criteria, int(row), streams) for row in rows),
        looked_at=len(pool),
        without_energy=why,
    )


def _weights(scenario: Scenario) -> tuple[list[tuple[float, ...]], str | None]:
    """The scenario's weights of latency and, where powers are known, of energy; else why they are not."""
    try:
        return [scenario.weights("latency"), scenario.weights("energy")], None
    except InputError as error:
        return [scenario.weights("latency")], str(error)


def _within(rows: np.ndarray, criteria: np.ndarray, bound: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """Those of ``rows`` that are unbeaten in all but the loss among the rows above one of ``floors`` (L,)."""
    kept = np.zeros(len(rows), dtype=np.bool_)
    for floor in floors:
        some = np.flatnonzero(bound[rows] >= floor)
        kept[some[unbeaten(criteria[rows[some], :-1])]] = True
    return rows[kept]


def _point(
    problem: Problem, scenario: Scenario, pool: Candidates, criteria: np.ndarray, row: int, streams: bool
) -> FrontPoint:
    strategy = problem.space.strategy(pool.levels[row])
    first, *energy_j, loss = criteria[row].tolist()
    return FrontPoint(
        latency_s=float(pool.objective(scenario.weights())[row]) if streams else first,
        energy_j=energy_j[0] if energy_j else None,
        loss=loss,
        accuracy=float(pool.accuracy[row]),
        accuracy_source=pool.source(row),
        trainings=int(pool.trainings[row]),
        gap=float(pool.gap[row]) if np.isfinite(pool.gap[row]) else None,
        cut_after=problem.graph.cut_name(strategy.partition_point),
        strategy=strategy,
        items_per_s=1 / first if streams else None,
    )


def _solved(
    problem: Problem,
    scenario: Scenario,
    weights: Sequence[tuple[float, ...]],
    losses: np.ndarray,
    points: int,
    seed: int,
    time_limit_s: float | None,
) -> Candidates:
    """The exact solver's answers, predictions included: for each loss the ends, then the weighted sums between."""
    compile_solvers()
    each = weight_rows(weights)
    floors = problem.base_accuracy - losses
    snr_db = np.nan if scenario.link.snr_db is None else scenario.link.snr_db

    def run(rows: np.ndarray, floor: np.ndarray, first: int) -> Solutions:
        asked = Scenarios(rows, floor, np.full(len(floor), snr_db))
        return solve(problem, asked, seed=seed, first_scenario=first, time_limit_s=time_limit_s)

    ends = run(np.tile(each, (len(floors), 1)), np.repeat(floors, len(each)), 0)
    found = [ends]
    if len(each) == 2 and points:
        sums, floor = _sums(problem.answers(ends).costs, ends.feasible, each, floors, points)
        if len(sums):
            found.append(run(sums, floor, len(ends.feasible)))
    return _as_candidates(problem, found)


def _sums(
    costs: np.ndarray, feasible: np.ndarray, weights: np.ndarray, floors: np.ndarray, points: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, 3 or 4) of sums between the ends of each floor, and the floor of each (n,).

    ``costs`` (2L, 3) are those of the ends. A sum counts seconds and joules as shares of what lies between the ends, so
    that even steps of the share spread over the front whatever its units; floors whose ends are one point get none.
    """
    values = objective_of(costs, weights).reshape(-1, 2, 2)  # floor, end, objective
    seconds, joules = values[:, 1, 0] - values[:, 0, 0], values[:, 0, 1] - values[:, 1, 1]
    apart = (seconds > 0) & (joules > 0) & feasible.reshape(-1, 2).all(axis=1)
    shares = np.arange(1, points + 1) / (points + 1)
    rows = [
        (1 - share) * weights[0] / seconds[at] + share * weights[1] / joules[at]
        for at in np.flatnonzero(apart)
        for share in shares
    ]
    return np.array(rows).reshape(-1, weights.shape[1]), np.repeat(floors[apart], points)


def _as_candidates(problem: Problem, found: Sequence[Solutions]) -> Candidates:
    parts = []
    for solutions in found:
        answers, trainings = problem.answers(solutions), np.zeros(len(solutions.feasible), dtype=np.int64)
        if answers.trainings is not None:
            trainings = answers.trainings
        columns = answers.accuracy, answers.accuracy, answers.known, trainings, np.maximum(solutions.gap, 0)
        parts.append(Candidates(solutions.levels, answers.costs, *columns).take(solutions.feasible))
    return parts[0] if len(parts) == 1 else parts[0].with_others(parts[1])


def _nothing_keeps(problem: Problem, scenario: Scenario, losses: Sequence[float] | None) -> InputError:
    snr_db = np.nan if scenario.link.snr_db is None else scenario.link.snr_db
    least = problem.base_accuracy - best_accuracy(problem, snr_db, scenario.confidence)
    return InputError(
        f"max losses: no strategy loses at most {max(losses or (0.0,)):g}; the least that can be had is a loss of "
        f"{np.ceil(least * 1e4) / 1e4:.4f}"
    )
