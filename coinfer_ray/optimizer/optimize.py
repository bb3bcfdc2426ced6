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
from pathlib import Path
from typing import Any, Literal

import numpy as np
from coinfer_kernels import (
    Scenarios,
)

from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import best_accuracy, solve
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.costs import INPUT_BITS
from coinfer_ray.problem.space import Cuts
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.records.store import Records, Split
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.scenarios.scenario import Device, Given, Link, Objective, Scenario, Server


@dataclass(frozen=True)
class Answer:
    """The strategy found for one scenario, and what it costs.

    ``model`` at ``input_px`` pixels takes ``latency_s`` = ``device_s`` + ``server_s`` + ``uplink_s`` (s) and sends
    ``uplink_bit`` (bit); ``cut_after`` names the last layer on the device. Accuracies are in 0..1: the
    ``predicted_accuracy``, the ``accuracy_floor`` that was to be met, and the unmodified network's ``base_accuracy``.
    ``optimizer`` looked at ``evaluations`` strategies.

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

    Args:
        model: a network's name, see ``coinfer models``.
        device, server, link: a preset's name (the paper's Tables II and III), a YAML file, what such a file holds,
            or an object of :mod:`coinfer_ray.scenarios.scenario`.
        device_gflops, server_gflops: a speed in GFLOP/s, instead of a name.
        rate_mbps: an uplink rate in Mb/s (1e6 bit/s), instead of a link's name.
        bandwidth_mhz, snr_db: bandwidth in MHz and signal-to-noise ratio in dB; together they give Shannon's rate.
        max_loss: allowed loss of accuracy in 0..1; 0.02 are 2 points.
        confidence: how sure the predictor must be that the floor is met, 0.95 say; None takes its predictions.
        records: records, a predictor, or the path of either; None: those that ship.
        input_px: side of the network's input in pixels; None: that of the records.
        cuts: ``all``: all on the server and all on the device count as cuts; ``inner``: 1..N-1 alone, as in the paper.
        codec_flops: whether encoder and decoder cost FLOPs (the paper: no).
        input_bits: bits of one element of the raw input on the link.
        accuracy: ``validation`` or ``test``: the images on which the records' accuracy was measured.
        optimizer: ``exact``, ``quantum``, ``paper`` or ``paper-parent``.
        objective: ``latency`` (s), or ``energy`` (J) of the device, which needs its powers.
        seed: a whole number from 0 on; the same one gives the same answer.
        certify: prove a lower bound beside the answer of an optimizer that has none.

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
