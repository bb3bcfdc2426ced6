"""One scenario or a batch of them: assemble what the search needs, solve, and say what was found.

The search trusts the predictor for every compressed strategy. For the network as it is - nothing pruned, nothing
encoded, cut anywhere or nowhere - it doesn't: that strategy computes what the base network computes, so its
accuracy is the measured base accuracy, a fact. These strategies are compared with the optimizer's answer in every
scenario, so that no answer is slower than All_Local, All_Server or Neurosurgeon over the same cuts, unless 8 bits alone
are asked for. (Where the records were collected through a noisy channel, only what a codec encodes meets the noise: the
input and a feature without a codec are sent as bits at the link's rate.)

Nor does it need to for the strategies of the records: those were trained, and take part by their measured accuracy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Unpack, cast

import numpy as np
from coinfer_kernels import (
    Scenarios,
)
from coinfer_kernels.warm_up import compile_solvers

from coinfer_ray.errors import InputError
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.optimizer.budget import Budget, solve_within
from coinfer_ray.optimizer.candidates import Candidates
from coinfer_ray.optimizer.problem import UNREACHABLE, Problem, ProblemOptions, assemble
from coinfer_ray.optimizer.solve import DEFAULT_OPTIMIZER, best_accuracy, check_snr, solve
from coinfer_ray.optimizer.stream import check_stream, solve_stream
from coinfer_ray.problem.costs import objective as objective_of
from coinfer_ray.problem.costs import parts
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.scenarios.read import ScenarioNumbers, resolve
from coinfer_ray.scenarios.scenario import Device, Given, Goal, Link, Scenario, Server

TIME_LIMIT_S = 10.0  # that one answer takes at most, where nothing else is asked; few scenarios need a second


@dataclass(frozen=True)
class Answer:
    """The strategy found for one scenario, and what it costs.

    ``model`` at ``input_px`` pixels takes ``latency_s`` = ``device_s`` + ``server_s`` + ``uplink_s`` + ``crossing_s``
    (s; the last is the round trip, where anything is sent) and sends ``uplink_bit`` (bit); ``cut_after`` names the last
    layer on the device. Accuracies are in 0..1: the ``predicted_accuracy``, the ``accuracy_floor`` that was to be met,
    and the unmodified network's ``base_accuracy``. ``optimizer`` looked at ``evaluations`` strategies.

    ``accuracy_source`` is ``base`` where the network stays as it is and its accuracy is measured; ``measured`` where
    this very strategy was trained for the records, ``trainings`` times, with ``typical_error`` the standard error of
    its loss; ``predicted`` where the predictor says so, with ``typical_error`` (root mean square,
    out of fold) in either direction.
    ``accuracy_bound`` is what it reaches with the ``confidence`` that was asked for; both None where none was.
    ``seconds`` is the time of the search alone, without reading and fitting the records. ``energy_j`` is None
    unless energy was the objective, part of it or bounded. ``lower_bound_s``: no strategy that the predictor holds for
    accurate enough is faster; ``gap``: by which share the answer may be above the best; both None where nothing was
    proven, and within a budget among measured strategies alone.
    ``graph_fingerprint``: of the network's layer graph. ``items_per_s`` is None unless throughput was the objective,
    ``weighted_s`` unless that was: the latency, and the price of the energy (s).
    """

    model: str
    input_px: int
    latency_s: float
    device_s: float
    server_s: float
    uplink_s: float
    uplink_bit: float
    energy_j: float | None
    predicted_accuracy: float
    accuracy_floor: float
    base_accuracy: float
    accuracy_source: Literal["base", "measured", "predicted"]
    trainings: int
    typical_error: float
    confidence: float | None
    accuracy_bound: float | None
    strategy: Strategy
    cut_after: str
    optimizer: str
    evaluations: int
    seconds: float
    lower_bound_s: float | None = None
    gap: float | None = None
    crossing_s: float = 0.0
    graph_fingerprint: str | None = None
    items_per_s: float | None = None
    weighted_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``coinfer optimize --json`` prints."""
        document = vars(self) | {"strategy": self.strategy.to_json()}
        for name in ("items_per_s", "weighted_s"):
            if document[name] is None:  # as answers have always been
                del document[name]
        return document


class OptimizeOptions(ProblemOptions, ScenarioNumbers, total=False):
    """Everything that may be said of a problem and of a scenario."""


def optimize(
    model: ModelLike,
    device: Device | Given | None = None,
    server: Server | Given | None = None,
    link: Link | Given | None = None,
    *,
    optimizer: str = DEFAULT_OPTIMIZER,
    objective: Goal = "latency",
    seed: int = 0,
    certify: bool = False,
    time_limit_s: float | None = TIME_LIMIT_S,
    max_energy_j: float | None = None,
    max_latency_ms: float | None = None,
    seconds_per_joule: float | None = None,
    **options: Unpack[OptimizeOptions],
) -> Answer:
    """The strategy with the least latency (or energy, or the greatest throughput) whose accuracy stays within
    ``max_loss`` of the base's.

    ``model`` is a network's name (``coinfer models`` lists them), ``package.module:callable``, a layer graph file, or
    an ``nn.Module`` or what builds one (:func:`coinfer_ray.models.source.resolve_model`). ``objective``: ``latency`` in
    seconds, ``energy``, the device's in joules, which needs its powers, ``weighted``, seconds and ``seconds_per_joule``
    for each joule, or ``throughput`` of a stream, in items per
    second, whose slowest stage counts (:mod:`coinfer_ray.optimizer.stream`): among measured strategies alone, all of
    which are compared.

    ``device``, ``server`` and ``link`` are presets by name (``coinfer devices``), YAML files, or objects of
    :mod:`coinfer_ray.scenarios.scenario`. ``options`` are those of
    :class:`coinfer_ray.scenarios.read.ScenarioNumbers` (``rate_mbps=7.5``, ``max_loss=0.01``, ...) and of
    :class:`coinfer_ray.optimizer.problem.ProblemOptions` (``records=...``, ``input_px=...``, ...). ``optimizer``,
    ``seed``, ``certify`` and ``time_limit_s`` (seconds; None: no limit): :func:`coinfer_ray.optimizer.solve.solve`.

    ``max_energy_j`` (J) bounds the energy of the fastest, ``max_latency_ms`` (ms) the latency of the one with the least
    energy, or of the greatest throughput; either is kept among measured strategies alone, all of which are compared.

    Raises:
        InputError: unknown names, unusable records, an accuracy bound that no strategy meets, or a confidence that
            the records cannot promise; a budget that nothing keeps to; a budget or throughput on predictions, or
            with ``certify``, which bounds predictions.
        TypeError: an option that neither class has.
    """
    of_problem, of_scenario = split_options("optimize", options)
    scenario = resolve(network=resolve_model(model).name, device=device, server=server, link=link, **of_scenario)
    scenario = scenario.priced(objective, seconds_per_joule)
    budget = Budget.given(
        max_energy_j, max_latency_ms, objective=objective, optimizer=optimizer, confidence=scenario.confidence
    )
    return answer(
        assemble(model, times=scenario.times, **of_problem),
        scenario,
        optimizer=optimizer,
        objective=objective,
        seed=seed,
        certify=certify,
        time_limit_s=time_limit_s,
        budget=budget,
    )


def split_options(caller: str, options: Mapping[str, Any]) -> tuple[ProblemOptions, ScenarioNumbers]:
    """The options of a problem and those of a scenario, apart.

    Raises:
        TypeError: one that is neither's, in the words of Python's own error.
    """
    unknown = [name for name in options if name not in OptimizeOptions.__annotations__]
    if unknown:
        raise TypeError(f"{caller}() got an unexpected keyword argument {unknown[0]!r}")
    of_problem = {name: value for name, value in options.items() if name in ProblemOptions.__annotations__}
    of_scenario = {name: value for name, value in options.items() if name in ScenarioNumbers.__annotations__}
    return cast(ProblemOptions, of_problem), cast(ScenarioNumbers, of_scenario)


def answer(
    problem: Problem,
    scenario: Scenario,
    *,
    optimizer: str = DEFAULT_OPTIMIZER,
    objective: Goal = "latency",
    seed: int = 0,
    certify: bool = False,
    time_limit_s: float | None = TIME_LIMIT_S,
    budget: Budget | None = None,
) -> Answer:
    """Solve one scenario of an assembled problem, within a ``budget`` where one is given; the other arguments are
    those of :func:`optimize`.

    Raises:
        InputError: no strategy meets the accuracy bound, or none of those that do the budget; the message says the
            best that can be had.
    """
    snr_db = np.nan if scenario.link.snr_db is None else scenario.link.snr_db
    problem = problem.at_link(snr_db)
    floor = problem.base_accuracy - scenario.max_loss
    weights = np.array([scenario.weights("latency" if objective == "throughput" else objective)])
    required = problem.required_accuracy(np.array([floor]), scenario.confidence)
    searched = budget is None and objective != "throughput"
    if objective == "throughput":
        check_stream(scenario.confidence, optimizer)
    if certify and not searched:
        what = "throughput" if objective == "throughput" else "what keeps to a budget"
        raise InputError(
            f"certify: bounds what predictions allow, and {what} is found by comparing all measured strategies, which "
            "proves it; leave --certify out"
        )
    if searched and (optimizer == "exact" or certify) and required[0] < UNREACHABLE:
        compile_solvers()  # once on a machine, on two cores, and no part of the search
    began = time.perf_counter()
    scenarios = Scenarios(weights, np.array([floor]), np.array([snr_db]))
    if budget is not None:
        check_snr(problem, scenarios.snr_db)
        found = solve_within(problem, scenario, objective, budget)
    elif not searched:
        found = solve_stream(problem, scenarios, np.array([scenario.confidence]))
    else:
        found = solve(
            problem,
            scenarios,
            optimizer,
            seed,
            confidence=scenario.confidence,
            certify=certify,
            time_limit_s=time_limit_s,
        )
    seconds = time.perf_counter() - began
    if not found.feasible[0]:
        raise explain_infeasible(problem, scenario, float(found.accuracy[0]), predictions=searched)
    answers = problem.answers(found)
    costs, known = answers.costs[0], bool(answers.known[0])
    counts_energy = objective in ("energy", "weighted") or (budget is not None and objective != "throughput")
    device_s, server_s, uplink_s, crossing_s = parts(answers.costs, np.array([scenario.weights("latency")]))[0]
    strategy = problem.space.strategy(found.levels[0])
    trainings = 0 if answers.trainings is None else int(answers.trainings[0])
    source: Literal["base", "measured", "predicted"] = "base" if known else "measured" if trainings else "predicted"
    error = np.nan if answers.error is None else float(answers.error[0])
    bound, gap = float(found.lower_bound[0]), float(found.gap[0])
    sure = problem.accuracy_bound(answers, scenario.confidence)
    return Answer(
        model=problem.graph.model,
        input_px=problem.graph.input_px,
        latency_s=float(device_s + server_s + uplink_s + crossing_s),
        device_s=float(device_s),
        server_s=float(server_s),
        uplink_s=float(uplink_s),
        uplink_bit=float(costs[2]),
        energy_j=float(objective_of(costs, np.array(scenario.weights("energy")))) if counts_energy else None,
        predicted_accuracy=float(found.accuracy[0]),
        accuracy_floor=float(floor),
        base_accuracy=problem.base_accuracy,
        accuracy_source=source,
        trainings=trainings,
        typical_error={"base": 0.0, "measured": error, "predicted": problem.predictor.typical_error}[source],
        confidence=scenario.confidence,
        accuracy_bound=None if scenario.confidence is None else float(sure[0]),
        strategy=strategy,
        cut_after=problem.graph.cut_name(strategy.partition_point),
        optimizer=optimizer,
        evaluations=int(found.evaluations[0]),
        seconds=seconds,
        lower_bound_s=bound if objective == "latency" and np.isfinite(bound) else None,
        gap=gap if np.isfinite(gap) else None,
        crossing_s=float(crossing_s),
        graph_fingerprint=problem.graph.fingerprint,
        items_per_s=1 / float(found.objective[0]) if objective == "throughput" else None,
        weighted_s=float(found.objective[0]) if objective == "weighted" else None,
    )


def explain_infeasible(
    problem: Problem, scenario: Scenario, seen: float = 0.0, *, predictions: bool = True
) -> InputError:
    """The error that says which loss must be allowed, where no strategy keeps to the scenario's.

    ``seen`` is the best predicted accuracy that the optimizer came across; without ``predictions`` only what was
    measured can be had.
    """
    floor, asked = problem.base_accuracy - scenario.max_loss, ""
    if scenario.confidence is not None:
        asked = f" with a confidence of {scenario.confidence}"
        trusted = problem.predictor.trusted
        seen = float(problem.predictor.lower_bound(seen, scenario.confidence)) if trusted else 0.0
    if predictions:
        snr_db = np.nan if scenario.link.snr_db is None else scenario.link.snr_db
        best = max(seen, best_accuracy(problem, snr_db, scenario.confidence))
    else:
        link = problem.at_link(scenario.link.snr_db)
        best = float(Candidates.measured(link, scenario.confidence).bound.max(initial=0.0))
    loss = math.ceil(1e4 * (problem.base_accuracy - best)) / 1e4  # rounded so that the advice can be followed
    return InputError(
        f"max loss: no strategy reaches an accuracy of {floor:.4f}{asked}; the best that can be had is {best:.4f} "
        f"(base network: {problem.base_accuracy:.4f}); allow a loss of {loss:.4f} or more"
    )
