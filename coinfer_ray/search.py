"""One scenario or a batch of them: assemble what the search needs, solve, and say what was found.

The search trusts the predictor for every compressed strategy. For the network as it is - nothing pruned, nothing
encoded, cut anywhere or nowhere - it doesn't: that strategy computes what the base network computes, so its
accuracy is the measured base accuracy, a fact. These strategies are compared with the optimizer's answer in every
scenario, so that no answer is slower than All_Local, All_Server or Neurosurgeon over the same cuts. (Where the
records were collected through a noisy channel, an uncoded feature at an inner cut would be damaged as well; there
only the two endpoints count as known: one sends nothing, the other the input as bits at the link's rate.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from coinfer_kernels import (
    Certificates,
    Scenarios,
    Solutions,
    canonicalize,
    cheapest_feasible,
    features,
    solve_exact,
    solve_paper,
    solve_quantum,
)
from coinfer_kernels.notation import CUT_NONE, CUT_RAW

from coinfer_ray.errors import InputError
from coinfer_ray.latency import FEATURE_BITS, INPUT_BITS, DelayCalculator
from coinfer_ray.models.layers import LayerGraph, check_name, load_graph
from coinfer_ray.predictor import DEFAULT_REGRESSOR, Predictor, obtain_predictor
from coinfer_ray.scenario import Device, Given, Link, Objective, Scenario, Server, resolve
from coinfer_ray.space import Cuts, SearchSpace, Strategy
from coinfer_ray.store import Records, Split

_HEURISTICS: dict[str, Callable[..., Solutions]] = {"quantum": solve_quantum, "paper": solve_paper}
OPTIMIZERS = (*_HEURISTICS, "exact")
EXACT_START = 50_000  # evaluations for the strategy that the exact solver starts from: more cost more than they save


class Solved(NamedTuple):
    """One answer for each scenario: :class:`coinfer_kernels.Solutions`, and a lower bound where one was proven."""

    levels: np.ndarray  # (S, V)
    objective: np.ndarray  # (S,)
    accuracy: np.ndarray  # (S,) predicted, whatever confidence was asked for
    evaluations: np.ndarray  # (S,)
    feasible: np.ndarray  # (S,)
    lower_bound: np.ndarray  # (S,) no strategy that is accurate enough costs less; NaN where nothing is proven


@dataclass(frozen=True)
class Problem:
    """What all scenarios of one network share. Plain arrays inside: it travels to workers, and needs no torch."""

    space: SearchSpace
    delay: DelayCalculator
    predictor: Predictor

    @property
    def graph(self) -> LayerGraph:
        return self.space.graph

    @property
    def base_accuracy(self) -> float:
        """Measured accuracy of the network before pruning and partition."""
        return self.predictor.base_accuracy

    @cached_property
    def known_levels(self) -> np.ndarray:
        """(K, V) strategies whose accuracy is the base accuracy (see the module), one for each such cut."""
        kinds = self.delay.tables.cut_kind
        cuts = np.flatnonzero(np.isin(kinds, (CUT_RAW, CUT_NONE)) | (not self.predictor.noisy))
        levels = np.zeros((len(cuts), len(self.space.variables)), dtype=np.int64)
        levels[:, self.space.cut_variable] = cuts
        return levels

    @cached_property
    def known_costs(self) -> np.ndarray:
        """(K, 3) costs of :attr:`known_levels`."""
        return self.delay.costs(self.known_levels)

    def is_known(self, levels: np.ndarray) -> np.ndarray:
        """(n,) whether the accuracy of each strategy ``levels`` (n, V) is a fact instead of a prediction."""
        known: np.ndarray = (levels[:, None, :] == self.known_levels[None]).all(axis=2).any(axis=1)
        return known

    def required_accuracy(self, floor: np.ndarray, confidence: np.ndarray | float | None) -> np.ndarray:
        """(S,) what a strategy must be predicted to reach, to reach ``floor`` (S,) with that confidence.

        ``confidence`` is one for all or one each (S,); None and NaN take predictions as they are.

        Raises:
            InputError: a confidence that is no probability, or higher than the records can promise.
        """
        asked = _each(confidence, len(floor))
        required = floor.copy()
        for each in np.unique(asked[~np.isnan(asked)]):
            rows = asked == each
            required[rows] = self.predictor.required_accuracy(floor[rows], float(each))
        return required

    def accuracy_bound(self, solved: Solved, confidence: np.ndarray | float | None) -> np.ndarray:
        """(S,) the accuracy that each answer reaches with the confidence that was asked for.

        NaN where none was asked; the base accuracy, a fact, where the network stays as it is. ``confidence`` as in
        :meth:`required_accuracy`.
        """
        asked = _each(confidence, len(solved.accuracy))
        bound = np.full(len(asked), np.nan)
        for each in np.unique(asked[~np.isnan(asked)]):
            rows = asked == each
            bound[rows] = self.predictor.lower_bound(solved.accuracy[rows], float(each))
        facts = ~np.isnan(asked) & self.is_known(solved.levels)
        bound[facts] = solved.accuracy[facts]
        return bound

    def provenance(self) -> dict[str, Any]:
        """What an answer rests on, as JSON can say it: the predictor, its records, and how costs are counted."""
        tables = self.delay.tables
        return {
            "predictor": self.predictor.provenance(),
            "cuts": self.space.cuts,
            "codec_flops": "count" if tables.codec_flops else "neglect",
            "feature_bits": tables.feature_bits,
            "input_bits": tables.input_bits,
        }


@dataclass(frozen=True)
class Answer:
    """The strategy found for one scenario, and what it costs.

    ``accuracy_source`` is ``base`` where the network stays as it is and its accuracy is measured, ``predicted``
    where the predictor says so, with ``typical_error`` (root mean square, out of fold) in either direction.
    ``accuracy_bound`` is what it reaches with the ``confidence`` that was asked for; both None where none was.
    ``seconds`` is the time of the search alone, without reading and fitting the records. ``energy_j`` is None
    unless energy was the objective. ``lower_bound_s``: no strategy that the predictor holds for accurate enough is
    faster; ``gap``: by which share the answer may be above the best; both None where nothing was proven.
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
    accuracy_source: Literal["base", "predicted"]
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

    def to_json(self) -> dict[str, Any]:
        """The object that ``coinfer optimize --json`` prints."""
        return vars(self) | {"strategy": self.strategy.to_json()}


def assemble(
    model: str,
    input_px: int | None = None,
    records: Predictor | Records | str | Path | None = None,
    cuts: Cuts = "all",
    codec_flops: bool = True,
    regressor: str = DEFAULT_REGRESSOR,
    accuracy: Split = "validation",
    input_bits: float = INPUT_BITS,
) -> Problem:
    """Read the network's graph, fit or load the predictor, and build the tables.

    ``records`` are records, a predictor, or the path of either; None takes the shipped records. The other
    arguments: :class:`SearchSpace`, :class:`DelayCalculator`, :func:`coinfer_ray.predictor.obtain_predictor`.

    Raises:
        InputError: unknown names, or records that cannot be used for this network.
    """
    check_input_bits(input_bits)
    predictor = obtain_predictor(records, model=model, input_px=input_px, regressor=regressor, accuracy=accuracy)
    space = SearchSpace(load_graph(model, predictor.input_px), cuts=cuts)
    expected = len(space.feature_names)
    if predictor.feature_names[:expected] != space.feature_names:
        raise InputError(f"predictor: sees other variables than {model} has; fit its records again with `coinfer fit`")
    delay = DelayCalculator(space, feature_bits=FEATURE_BITS, input_bits=input_bits, codec_flops=codec_flops)
    return Problem(space, delay, predictor)


def check_input_bits(input_bits: float) -> None:
    """Raise InputError unless the bits of one element of the input are a number above 0."""
    if not 0 < input_bits < np.inf:
        raise InputError(f"input bits: {input_bits} must be above 0; 8 sends an image's bytes, 32 its floats")


def solve(
    problem: Problem,
    scenarios: Scenarios,
    optimizer: str = "quantum",
    seed: int = 0,
    first_scenario: int = 0,
    confidence: np.ndarray | float | None = None,
    certify: bool = False,
    **options: Any,
) -> Solved:
    """The best strategy for each scenario, known ones included (see the module).

    ``quantum`` and ``paper`` search; ``exact`` starts from what ``quantum`` finds and goes on until no strategy can
    be better by more than a thousandth, or until its node limit, with the lower bound that was proven by then.

    ``confidence`` is how sure the predictor must be that an answer meets ``scenarios.accuracy_floor``, one for all
    or one each (S,), NaN for those that take its predictions as they are; None: all of them.

    ``certify`` has the exact solver prove a lower bound beside another optimizer's answers, which stay as they are.

    ``first_scenario`` is the number of the first scenario in the larger grid that the batch is a part of; with
    it a scenario's answer depends on nothing but its own number and the seed. ``options`` go to the optimizer
    (:func:`coinfer_kernels.solve_quantum`, :func:`coinfer_kernels.solve_paper`, :func:`coinfer_kernels.solve_exact`).

    Raises:
        InputError: an unknown optimizer, a confidence that the records cannot promise, or scenarios without SNR for
            a predictor that needs one.
    """
    check_name("optimizer", optimizer, OPTIMIZERS)
    if problem.predictor.noisy and not np.isfinite(scenarios.snr_db).all():
        raise InputError(
            "link: the records come from a noisy channel, so every link needs a signal-to-noise ratio; "
            "give bandwidth and SNR instead of a rate"
        )
    count = len(scenarios.accuracy_floor)
    tables = problem.space.tables, problem.delay.tables, problem.predictor.ensemble.tables
    required = scenarios._replace(accuracy_floor=problem.required_accuracy(scenarios.accuracy_floor, confidence))
    if optimizer == "exact":
        begun = solve(problem, scenarios, "quantum", seed, first_scenario, confidence, max_evaluations=EXACT_START)
        proven = _prove(problem, required, begun, **options)
        found = Solutions(
            levels=proven.levels,
            objective=proven.objective,
            accuracy=np.where(proven.feasible, proven.accuracy, np.maximum(begun.accuracy, proven.accuracy)),
            evaluations=begun.evaluations + proven.nodes,
            feasible=proven.feasible,
        )
        best = _with_known(problem, scenarios, found)
        return Solved(*best, lower_bound=np.minimum(proven.lower_bound, best.objective))
    keys = np.arange(first_scenario, first_scenario + count)
    found = _HEURISTICS[optimizer](*tables, required, seed=seed, keys=keys, **options)
    solved = Solved(*_with_known(problem, scenarios, found), lower_bound=np.full(count, np.nan))
    if not certify:
        return solved
    bound = _prove(problem, required, solved).lower_bound
    return solved._replace(lower_bound=np.minimum(bound, solved.objective))


def _prove(problem: Problem, required: Scenarios, begun: Solved, **options: Any) -> Certificates:
    """The exact solver from the answers at hand; ``required`` has the floors that predictions must meet."""
    # A strategy known to meet the floor may be predicted, or have the base's accuracy, below what is required.
    accepted = np.maximum(begun.accuracy, required.accuracy_floor)
    incumbents = Solutions(*begun[:5])._replace(accuracy=np.where(begun.feasible, accepted, begun.accuracy))
    tables = problem.space.tables, problem.delay.tables, problem.predictor.ensemble.tables
    return solve_exact(*tables, required, incumbents=incumbents, **options)


def optimize(
    model: str,
    device: Device | Given | None = None,
    server: Server | Given | None = None,
    link: Link | Given | None = None,
    *,
    device_gflops: float | None = None,
    server_gflops: float | None = None,
    rate_mbps: float | None = None,
    bandwidth_mhz: float | None = None,
    snr_db: float | None = None,
    max_loss: float = 0.02,
    confidence: float | None = None,
    records: Predictor | Records | str | Path | None = None,
    input_px: int | None = None,
    cuts: Cuts = "all",
    codec_flops: bool = True,
    input_bits: float = INPUT_BITS,
    accuracy: Split = "validation",
    optimizer: str = "quantum",
    objective: Objective = "latency",
    seed: int = 0,
    certify: bool = False,
) -> Answer:
    """The strategy with the least latency (or energy) whose accuracy stays within ``max_loss`` of the base's.

    With a ``confidence`` (0.95, say) the predictor must be that sure of it; None takes its predictions as they are.

    ``device``, ``server`` and ``link`` are the paper's presets by name, YAML files, or objects of
    :mod:`coinfer_ray.scenario`; the numbers beside them describe one that has no name.

    Raises:
        InputError: unknown names, unusable records, an accuracy bound that no strategy meets, or a confidence that
            the records cannot promise.
    """
    scenario = resolve(
        device=device,
        device_gflops=device_gflops,
        server=server,
        server_gflops=server_gflops,
        link=link,
        rate_mbps=rate_mbps,
        bandwidth_mhz=bandwidth_mhz,
        snr_db=snr_db,
        max_loss=max_loss,
        confidence=confidence,
    )
    problem = assemble(
        model, input_px, records, cuts=cuts, codec_flops=codec_flops, input_bits=input_bits, accuracy=accuracy
    )
    return answer(problem, scenario, optimizer=optimizer, objective=objective, seed=seed, certify=certify)


def answer(
    problem: Problem,
    scenario: Scenario,
    *,
    optimizer: str = "quantum",
    objective: Objective = "latency",
    seed: int = 0,
    certify: bool = False,
) -> Answer:
    """Solve one scenario of an assembled problem; ``certify`` proves how far the answer can be from the best.

    Raises:
        InputError: no strategy meets the accuracy bound; the message says the best accuracy that can be had.
    """
    snr_db = np.nan if scenario.link.snr_db is None else scenario.link.snr_db
    floor = problem.base_accuracy - scenario.max_loss
    weights = np.array([scenario.weights(objective)])
    began = time.perf_counter()
    scenarios = Scenarios(weights, np.array([floor]), np.array([snr_db]))
    found = solve(problem, scenarios, optimizer, seed, confidence=scenario.confidence, certify=certify)
    seconds = time.perf_counter() - began
    if not found.feasible[0]:
        asked, seen = "", float(found.accuracy[0])
        if scenario.confidence is not None:
            asked = f" with a confidence of {scenario.confidence}"
            seen = float(problem.predictor.lower_bound(seen, scenario.confidence))
        best = max(seen, best_accuracy(problem, snr_db, scenario.confidence))
        loss = math.ceil(1e4 * (problem.base_accuracy - best)) / 1e4  # rounded so that the advice can be followed
        raise InputError(
            f"max loss: no strategy reaches an accuracy of {floor:.4f}{asked}; the best that can be had is {best:.4f} "
            f"(base network: {problem.base_accuracy:.4f}); allow a loss of {loss:.4f} or more"
        )
    levels = found.levels[0]
    costs = problem.delay.costs(levels)[0]
    device_s, server_s, uplink_s = costs * np.asarray(scenario.weights("latency"))
    strategy = problem.space.strategy(levels)
    known = bool(problem.is_known(found.levels)[0])
    bound = float(found.lower_bound[0])
    sure = problem.accuracy_bound(found, scenario.confidence)
    return Answer(
        model=problem.graph.model,
        input_px=problem.graph.input_px,
        latency_s=float(device_s + server_s + uplink_s),
        device_s=float(device_s),
        server_s=float(server_s),
        uplink_s=float(uplink_s),
        uplink_bit=float(costs[2]),
        energy_j=float(costs @ weights[0]) if objective == "energy" else None,
        predicted_accuracy=float(found.accuracy[0]),
        accuracy_floor=float(floor),
        base_accuracy=problem.base_accuracy,
        accuracy_source="base" if known else "predicted",
        typical_error=0.0 if known else problem.predictor.typical_error,
        confidence=scenario.confidence,
        accuracy_bound=None if scenario.confidence is None else float(sure[0]),
        strategy=strategy,
        cut_after=problem.graph.cut_name(strategy.partition_point),
        optimizer=optimizer,
        evaluations=int(found.evaluations[0]),
        seconds=seconds,
        lower_bound_s=bound if objective == "latency" and np.isfinite(bound) else None,
        gap=float(1 - bound / found.objective[0]) if np.isfinite(bound) else None,
    )


def best_accuracy(problem: Problem, snr_db: float = np.nan, confidence: float | None = None) -> float:
    """The best accuracy that can be had: the base network's where it is known, or the best predicted one.

    With a ``confidence`` the predicted ones count as the bounds that they reach with it.

    The latter by coordinate ascent from the untouched network at every cut: one variable at a time over all of
    its levels until nothing gains. A local optimum, near which the accuracy bound lies.
    """
    space, cut = problem.space, problem.space.cut_variable
    levels = np.zeros((int(space.tables.n_levels[cut]), len(space.variables)), dtype=np.int64)
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
    return float(best.max())


def _accuracy(problem: Problem, levels: np.ndarray, snr_db: float, confidence: float | None) -> np.ndarray:
    x = features(problem.space.tables, levels, snr_db if problem.predictor.noisy else None)
    predicted = problem.predictor.predict(x)
    sure = predicted if confidence is None else problem.predictor.lower_bound(predicted, confidence)
    return np.where(problem.is_known(levels), problem.base_accuracy, sure)


def _each(confidence: np.ndarray | float | None, count: int) -> np.ndarray:
    """(count,) confidences, NaN where none is asked."""
    return np.broadcast_to(np.asarray(np.nan if confidence is None else confidence, dtype=np.float64), (count,))


def _better_of(a: Solutions, b: Solutions) -> Solutions:
    """Row by row the feasible one with the lower objective; where neither is, the higher accuracy seen."""
    take = np.where(a.feasible | b.feasible, b.objective < a.objective, b.accuracy > a.accuracy)
    return Solutions(
        levels=np.where(take[:, None], b.levels, a.levels),
        objective=np.where(take, b.objective, a.objective),
        accuracy=np.where(take, b.accuracy, a.accuracy),
        evaluations=a.evaluations + b.evaluations,
        feasible=a.feasible | b.feasible,
    )


def _with_known(problem: Problem, scenarios: Scenarios, found: Solutions) -> Solutions:
    """The optimizer's solutions, measured against the strategies whose accuracy is a fact."""
    floor = scenarios.accuracy_floor
    base = np.full(len(floor), problem.base_accuracy)
    known = found.feasible & problem.is_known(found.levels)
    feasible = found.feasible & (~known | (base >= floor))
    own = Solutions(
        levels=found.levels,
        objective=np.where(feasible, found.objective, np.inf),
        accuracy=np.where(known, base, found.accuracy),
        evaluations=found.evaluations,
        feasible=feasible,
    )
    if not len(problem.known_levels):
        return own
    accuracy = np.full(len(problem.known_levels), problem.base_accuracy)
    index, objective = cheapest_feasible(problem.known_costs, accuracy, scenarios)
    endpoints = Solutions(
        levels=problem.known_levels[index],
        objective=objective,
        accuracy=base,
        evaluations=np.full(len(floor), len(problem.known_levels)),
        feasible=index >= 0,
    )
    return _better_of(own, endpoints)
