"""The compared methods side by side on one scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.methods.proposed import Proposed
from coinfer_ray.methods.registry import DEFAULT_METHODS, METHODS, Method
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.optimizer.optimize import TIME_LIMIT_S, OptimizeOptions, explain_infeasible, split_options
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import DEFAULT_OPTIMIZER
from coinfer_ray.problem.costs import objective as objective_of
from coinfer_ray.problem.costs import parts
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.scenarios.scenario import Device, Given, Goal, Link, Scenario, Server


def compare(
    model: ModelLike,
    device: Device | Given | None = None,
    server: Server | Given | None = None,
    link: Link | Given | None = None,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    optimizer: str = DEFAULT_OPTIMIZER,
    objective: Goal = "latency",
    seed: int = 0,
    time_limit_s: float | None = TIME_LIMIT_S,
    seconds_per_joule: float | None = None,
    **options: Unpack[OptimizeOptions],
) -> list[dict[str, Any]]:
    """One row for each of ``methods``, in their order, as ``coinfer compare --json`` prints them.

    ``methods`` are names of :data:`coinfer_ray.methods.registry.METHODS`. The proposed one, ``coinfer``, and
    ``prune_partition`` need records and take their input size, and ``optimizer`` and ``time_limit_s`` are for them.
    The others need none; those that train (:mod:`coinfer_ray.methods.trained`) run where their choices ship, the rest
    at any ``input_px``: by default at that of the shipped records, or at the paper's 224. Without records nothing is
    known of the accuracy, which is then None. ``accuracy_bound`` is what a row reaches with the ``confidence`` that
    was asked for, None where none was; a measured accuracy is its own bound.

    ``model``, ``device``, ``server``, ``link``, ``objective``, ``seconds_per_joule``, ``seed`` and ``options`` are
    those of :func:`coinfer_ray.optimize`. By ``throughput`` every method chooses among what was measured, and rows have
    ``items_per_s`` as well; ``genetic`` and ``cia`` cannot. By ``weighted`` they have ``weighted_s``, and ``energy_j``.

    Raises:
        InputError: unknown names, unusable records, an accuracy bound that no strategy meets, or a confidence that
            the records cannot promise; throughput by a method that cannot, or on predictions.
    """
    for method in methods:
        check_name("method", method, tuple(METHODS))
    of_problem, of_scenario = split_options("compare", options)
    scenario = resolve(network=resolve_model(model).name, device=device, server=server, link=link, **of_scenario)
    scenario = scenario.priced(objective, seconds_per_joule)
    chosen = [_asked(METHODS[name], optimizer, time_limit_s) for name in methods]
    predict = any(method.predicts for method in chosen) or of_problem.get("records") is not None
    problem = assemble(model, predict=predict, times=scenario.times, **of_problem)
    batch = ScenarioBatch.of([scenario], objective)
    return [_row(method, problem, scenario, batch, objective, seed) for method in chosen]


def _asked(method: Method, optimizer: str, time_limit_s: float | None) -> Method:
    """``method`` with the optimizer and the time limit that were asked for, where it leaves them open."""
    if not isinstance(method, Proposed):
        return method
    own = method.optimizer if method.optimizer != DEFAULT_OPTIMIZER else optimizer
    return replace(method, optimizer=own, time_limit_s=time_limit_s)


def _row(
    method: Method, problem: Problem, scenario: Scenario, batch: ScenarioBatch, objective: Goal, seed: int
) -> dict[str, Any]:
    found = method.solve(problem, batch, seed=seed)
    if not found.feasible[0]:
        if method.predicts:
            seen = float(found.accuracy[0])
            raise explain_infeasible(problem, scenario, seen, predictions=objective != "throughput")
        raise InputError(
            f"{method.name}: no choice keeps the loss within {scenario.max_loss}; raise --max-loss or use --cuts all"
        )
    costs, accuracy, known = found.costs[0], float(found.accuracy[0]), bool(found.known[0])
    weights = np.array([scenario.weights("latency")])
    device_s, server_s, uplink_s, crossing_s = parts(found.costs[:1], weights)[0].tolist()
    sure = problem.accuracy_bound(found, scenario.confidence)[0]
    point = int(found.partition_point[0])
    row = {
        "method": method.name,
        "latency_s": device_s + server_s + uplink_s + crossing_s,
        "device_s": device_s,
        "server_s": server_s,
        "uplink_s": uplink_s,
        "crossing_s": crossing_s,
        "uplink_bit": float(costs[2]),
        "energy_j": float(found.objective[0]) if objective == "energy" else None,
        "cut_after": problem.graph.cut_name(point),
        "accuracy": None if np.isnan(accuracy) else accuracy,
        "accuracy_source": None
        if np.isnan(accuracy)
        else "measured"
        if found.trainings is not None and found.trainings[0]
        else "base"
        if known
        else "predicted",
        "accuracy_bound": None if np.isnan(sure) else float(sure),
        "partition_point": point,
        **{name: int(column[0]) or None for name, column in found.extra.items()},
    }
    if objective == "throughput":
        row["items_per_s"] = 1 / float(found.objective[0])
    if objective == "weighted":
        row["energy_j"] = float(objective_of(costs, np.array(scenario.weights("energy"))))
        row["weighted_s"] = float(found.objective[0])
    if found.levels is not None:
        row["strategy"] = problem.space.strategy(found.levels[0]).to_json()
    return row
