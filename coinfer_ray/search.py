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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from coinfer_kernels.notation import CUT_NONE, CUT_RAW

from coinfer_ray.errors import InputError
from coinfer_ray.latency import FEATURE_BITS, INPUT_BITS, DelayCalculator
from coinfer_ray.models.layers import LayerGraph, check_name, load_graph
from coinfer_ray.predictor import DEFAULT_REGRESSOR, Predictor, obtain_predictor
from coinfer_ray.scenario import Device, Given, Link, Objective, Scenario, Server, resolve
from coinfer_ray.space import Cuts, SearchSpace, Strategy
from coinfer_ray.store import Records, Split

_HEURISTICS = {"quantum": solve_quantum, "paper": solve_paper}
OPTIMIZERS = (*_HEURISTICS, "exact")


class Solved(NamedTuple):
    """One answer for each scenario: :class:`coinfer_kernels.Solutions`, and a lower bound where one was proven."""

    levels: np.ndarray  # (S, V)
    objective: np.ndarray  # (S,)
    accuracy: np.ndarray  # (S,)
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
    **options: Any,
) -> Solved:
    """The best strategy for each scenario, known ones included (see the module).

    ``quantum`` and ``paper`` search; ``exact`` starts from what ``quantum`` finds and goes on until no strategy can
    be better by more than a thousandth, or until its node limit, with the lower bound that was proven by then.

    ``first_scenario`` is the number of the first scenario in the larger grid that the batch is a part of; with
    it a scenario's answer depends on nothing but its own number and the seed. ``options`` go to the optimizer
    (:func:`coinfer_kernels.solve_quantum`, :func:`coinfer_kernels.solve_paper`, :func:`coinfer_kernels.solve_exact`).

    Raises:
        InputError: an unknown optimizer, or scenarios without SNR for a predictor that needs one.
    """
    check_name("optimizer", optimizer, OPTIMIZERS)
    if problem.predictor.noisy and not np.isfinite(scenarios.snr_db).all():
        raise InputError(
            "link: the records come from a noisy channel, so every link needs a signal-to-noise ratio; "
            "give bandwidth and SNR instead of a rate"
        )
    count = len(scenarios.accuracy_floor)
    tables = problem.space.tables, problem.delay.tables, problem.predictor.ensemble.tables
    if optimizer == "exact":
        begun = solve(problem, scenarios, "quantum", seed, first_scenario)
        proven = solve_exact(*tables, scenarios, incumbents=Solutions(*begun[:5]), **options)
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
    found = _HEURISTICS[optimizer](*tables, scenarios, seed=seed, keys=keys, **options)
    return Solved(*_with_known(problem, scenarios, found), lower_bound=np.full(count, np.nan))


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
    records: Predictor | Records | str | Path | None = None,
    input_px: int | None = None,
    cuts: Cuts = "all",
    codec_flops: bool = True,
    input_bits: float = INPUT_BITS,
    accuracy: Split = "validation",
    optimizer: str = "quantum",
    objective: Objective = "latency",
    seed: int = 0,
) -> Answer:
    """The strategy with the least latency (or energy) whose accuracy stays within ``max_loss`` of the base's.

    ``device``, ``server`` and ``link`` are the paper's presets by name, YAML files, or objects of
    :mod:`coinfer_ray.scenario`; the numbers beside them describe one that has no name.

    Raises:
        InputError: unknown names, unusable records, or an accuracy bound that no strategy meets.
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
    )
    problem = assemble(
        model, input_px, records, cuts=cuts, codec_flops=codec_flops, input_bits=input_bits, accuracy=accuracy
    )
    return answer(problem, scenario, optimizer=optimizer, objective=objective, seed=seed)


def answer(
    problem: Problem, scenario: Scenario, *, optimizer: str = "quantum", objective: Objective = "latency", seed: int = 0
) -> Answer:
    """Solve one scenario of an assembled problem.

    Raises:
        InputError: no strategy meets the accuracy bound; the message says the best accuracy that can be had.
    """
    snr_db = np.nan if scenario.link.snr_db is None else scenario.link.snr_db
    floor = problem.base_accuracy - scenario.max_loss
    weights = np.array([scenario.weights(objective)])
    began = time.perf_counter()
    found = solve(problem, Scenarios(weights, np.array([floor]), np.array([snr_db])), optimizer, seed)
    seconds = time.perf_counter() - began
    if not found.feasible[0]:
        best = max(float(found.accuracy[0]), best_accuracy(problem, snr_db))
        loss = math.ceil(1e4 * (problem.base_accuracy - best)) / 1e4  # rounded so that the advice can be followed
        raise InputError(
            f"max loss: no strategy reaches an accuracy of {floor:.4f}; the best that can be had is {best:.4f} "
            f"(base network: {problem.base_accuracy:.4f}); allow a loss of {loss:.4f} or more"
        )
    levels = found.levels[0]
    costs = problem.delay.costs(levels)[0]
    device_s, server_s, uplink_s = costs * np.asarray(scenario.weights("latency"))
    strategy = problem.space.strategy(levels)
    known = bool(problem.is_known(found.levels)[0])
    bound = float(found.lower_bound[0])
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
        strategy=strategy,
        cut_after=problem.graph.cut_name(strategy.partition_point),
        optimizer=optimizer,
        evaluations=int(found.evaluations[0]),
        seconds=seconds,
        lower_bound_s=bound if objective == "latency" and np.isfinite(bound) else None,
        gap=float(1 - bound / found.objective[0]) if np.isfinite(bound) else None,
    )


def best_accuracy(problem: Problem, snr_db: float = np.nan) -> float:
    """The best accuracy that can be had: the base network's where it is known, or the best predicted one.

    The latter by coordinate ascent from the untouched network at every cut: one variable at a time over all of
    its levels until nothing gains. A local optimum, near which the accuracy bound lies.
    """
    space, cut = problem.space, problem.space.cut_variable
    levels = np.zeros((int(space.tables.n_levels[cut]), len(space.variables)), dtype=np.int64)
    levels[:, cut] = np.arange(len(levels))
    best = _predicted(problem, levels, snr_db)
    gained = True
    while gained:
        gained = False
        for variable in np.flatnonzero(np.arange(len(space.variables)) != cut):
            for level in range(int(space.tables.n_levels[variable])):
                moved = levels.copy()
                moved[:, variable] = level
                moved = canonicalize(space.tables, moved)
                accuracy = _predicted(problem, moved, snr_db)
                better = accuracy > best
                levels[better], best[better] = moved[better], accuracy[better]
                gained |= bool(better.any())
    return float(best.max())


def _predicted(problem: Problem, levels: np.ndarray, snr_db: float) -> np.ndarray:
    x = features(problem.space.tables, levels, snr_db if problem.predictor.noisy else None)
    return np.where(problem.is_known(levels), problem.base_accuracy, problem.predictor.predict(x))


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
