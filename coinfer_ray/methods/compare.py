"""The compared methods side by side on one scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.methods import jalad
from coinfer_ray.methods.registry import METHODS, BaselineResult
from coinfer_ray.models.library import load_graph
from coinfer_ray.optimizer.optimize import answer
from coinfer_ray.optimizer.problem import Problem, assemble, check_input_bits
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.costs import INPUT_BITS, DelayCalculator
from coinfer_ray.problem.space import Cuts, SearchSpace
from coinfer_ray.records.store import Records, Split, read_records, shipped_records
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.scenarios.scenario import Device, Given, Link, Objective, Scenario, Server

PROPOSED = "coinfer"
JALAD = "jalad"  # needs a measured table, which not every network has; so only where it is asked for
ALL_METHODS = (*METHODS, PROPOSED)
PAPER_INPUT_PX = 224


def compare(
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
    methods: Sequence[str] = ALL_METHODS,
    records: Predictor | Records | str | Path | None = None,
    input_px: int | None = None,
    cuts: Cuts = "all",
    codec_flops: bool = True,
    input_bits: float = INPUT_BITS,
    accuracy: Split = "validation",
    optimizer: str = "quantum",
    objective: Objective = "latency",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row for each of ``methods``, in their order, as ``coinfer compare --json`` prints them.

    Args:
        model: a network's name, see ``coinfer models``.
        device, server, link: a preset's name (the paper's Tables II and III), a YAML file, what such a file holds,
            or an object of :mod:`coinfer_ray.scenarios.scenario`.
        device_gflops, server_gflops: a speed in GFLOP/s, instead of a name.
        rate_mbps: an uplink rate in Mb/s (1e6 bit/s), instead of a link's name.
        bandwidth_mhz, snr_db: bandwidth in MHz and signal-to-noise ratio in dB; together they give Shannon's rate.
        max_loss: allowed loss of accuracy in 0..1; 0.02 are 2 points.
        confidence: how sure the predictor must be that the floor is met, 0.95 say; None takes its predictions.
        methods: names of the compared methods.
        records: records, a predictor, or the path of either; None: those that ship.
        input_px: side of the network's input in pixels; None: that of the records.
        cuts: ``all``: all on the server and all on the device count as cuts; ``inner``: 1..N-1 alone, as in the paper.
        codec_flops: whether encoder and decoder cost FLOPs (the paper: no).
        input_bits: bits of one element of the raw input on the link.
        accuracy: ``validation`` or ``test``: the images on which the records' accuracy was measured.
        optimizer: ``exact``, ``quantum``, ``paper`` or ``paper-parent``.
        objective: ``latency`` (s), or ``energy`` (J) of the device, which needs its powers.
        seed: a whole number from 0 on; the same one gives the same answer.

    The proposed method, ``coinfer``, needs records (see :func:`coinfer_ray.optimizer.problem.assemble`) and takes their
    input size. The others need none and run at any ``input_px``; by default at that of the shipped records, or
    at the paper's 224. Without records nothing is known of the accuracy, which is then None. ``accuracy_bound`` is
    what a row reaches with the ``confidence`` that was asked for, None where none was; the others' accuracy is
    measured. ``jalad`` reads the table of quantised cuts beside the shipped records.

    Raises:
        InputError: unknown names, unusable records, an accuracy bound that no strategy meets, or a confidence that
            the records cannot promise.
    """
    for method in methods:
        check_name("method", method, (*ALL_METHODS, JALAD))
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
    if PROPOSED in methods or records is not None:
        problem = assemble(
            model, input_px, records, cuts=cuts, codec_flops=codec_flops, input_bits=input_bits, accuracy=accuracy
        )
        return [
            _proposed(problem, scenario, optimizer, objective, seed)
            if method == PROPOSED
            else _baseline(method, problem, scenario, cuts, objective, accuracy)
            for method in methods
        ]
    check_input_bits(input_bits)
    graph = load_graph(model, input_px or _usual_input_px(model))
    delay = DelayCalculator(SearchSpace(graph), input_bits=input_bits)
    return [_baseline(method, delay, scenario, cuts, objective, accuracy) for method in methods]


def _proposed(problem: Problem, scenario: Scenario, optimizer: str, objective: Objective, seed: int) -> dict[str, Any]:
    document = answer(problem, scenario, optimizer=optimizer, objective=objective, seed=seed).to_json()
    strategy = document["strategy"]
    shared = ("latency_s", "device_s", "server_s", "uplink_s", "uplink_bit", "energy_j", "cut_after")
    row = {"method": PROPOSED} | {name: document[name] for name in shared}
    return row | {
        "accuracy": document["predicted_accuracy"],
        "accuracy_source": document["accuracy_source"],
        "accuracy_bound": document["accuracy_bound"],
        "partition_point": strategy["partition_point"],
        "strategy": strategy,
    }


def _baseline(
    method: str,
    network: Problem | DelayCalculator,
    scenario: Scenario,
    cuts: Cuts,
    objective: Objective,
    split: Split,
) -> dict[str, Any]:
    weights = np.array([scenario.weights(objective)])
    delay = network if isinstance(network, DelayCalculator) else network.delay
    extra: dict[str, Any] = {}
    result: BaselineResult | jalad.JaladResult
    if method == JALAD:
        graph = delay.space.graph
        table = jalad.read_quantized(jalad.quantized_path(graph.model, graph.input_px))
        result = jalad.solve(delay, table, weights, scenario.max_loss, cuts=cuts, accuracy=split)
        if not np.isfinite(result.objective[0]):
            raise InputError(f"jalad: no inner cut loses at most {scenario.max_loss}; allow more, or take --cuts all")
        extra = {"bits": int(result.bits[0]) or None}
    else:
        result = METHODS[method](network, weights, cuts=cuts)
    point, costs, accuracy = int(result.partition_point[0]), result.costs[0], float(result.accuracy[0])
    device_s, server_s, uplink_s = (costs * np.array(scenario.weights("latency"))).tolist()
    return {
        "method": method,
        "latency_s": device_s + server_s + uplink_s,
        "device_s": device_s,
        "server_s": server_s,
        "uplink_s": uplink_s,
        "uplink_bit": float(costs[2]),
        "energy_j": float(result.objective[0]) if objective == "energy" else None,
        "cut_after": delay.space.graph.cut_name(point),
        "accuracy": None if np.isnan(accuracy) else accuracy,
        "accuracy_source": None if np.isnan(accuracy) else "measured" if extra.get("bits") else "base",
        "accuracy_bound": None if np.isnan(accuracy) or scenario.confidence is None else accuracy,
        "partition_point": point,
        **extra,
    }


def _usual_input_px(model: str) -> int:
    """The input size of the shipped records, so that every choice of methods speaks of the same network."""
    try:
        return read_records(shipped_records(model)).input_px
    except InputError:
        return PAPER_INPUT_PX
