"""DADS under light load (C. Hu, W. Bao, D. Wang and F. Liu, "Dynamic Adaptive DNN Surgery for Inference Acceleration on
the Edge", INFOCOM 2019): the network as it is, divided anywhere, also within a block, where several tensors cross.

The device may run any set of layers that holds the inputs of its members. The paper finds the best of them by a minimum
cut for each scenario, in which what several layers of the server read is sent once. Which sets there are depends on the
network alone: where one tensor alone crosses they fall apart, and between two such points there are few. So they are
listed once, with what they cost, and a batch of scenarios is one pass over them; the result is the minimum cut's.

The paper's mode for heavy load, which balances a stream's stages, is not here: ``--objective throughput`` is ours.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.methods.partition import cheapest
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.problem.strategy import FLOAT_BITS
from coinfer_ray.scenarios.batch import ScenarioBatch

MOST_DIVISIONS = 100_000


class Dads:
    """See :class:`coinfer_ray.methods.registry.Method`. A division's partition point is its last layer on the device;
    ``extra["tensors"]`` are those that cross."""

    name = "dads"
    title = "DADS"
    predicts = False
    plain = False
    in_paper = False

    def solve(self, problem: Problem, batch: ScenarioBatch, *, seed: int = 0) -> Answers:
        """The cheapest division; ``seed`` plays no part. With inner cuts alone both sides run something.

        Raises:
            InputError: the network branches so widely that it has more than :data:`MOST_DIVISIONS` divisions.
        """
        graph = problem.graph
        on_device = divisions(graph)
        if problem.space.cuts == "inner":
            on_device = on_device[on_device.any(axis=1) & ~on_device.all(axis=1)]
        device, server = problem.delay.layer_costs().T
        crosses = crossing(graph, on_device)
        bits = np.array([layer.output_elements * FLOAT_BITS for layer in graph.layers], dtype=np.float64)
        bits = np.concatenate([[graph.input_elements * problem.delay.tables.input_bits], bits])
        costs = np.column_stack([on_device @ device, ~on_device @ server, crosses @ bits])
        chosen, objective = cheapest(costs, batch)
        last = np.where(on_device, np.arange(1, len(graph.layers) + 1), 0).max(axis=1)
        sure = problem.fitted is not None
        return Answers.unproven(
            objective,
            costs[chosen],
            last[chosen].astype(np.int64),
            accuracy=np.full(len(batch), problem.base_accuracy if sure else np.nan),
            known=np.full(len(batch), sure),
            choices=len(costs),
            extra={"tensors": crosses.sum(axis=1)[chosen]},
        )


def divisions(graph: LayerGraph) -> np.ndarray:
    """(K, N) bool, which of the N layers the device runs: all sets that hold the inputs of their members, the plain
    prefixes and both ends among them, in the order of their last layer.

    Raises:
        InputError: there are more than :data:`MOST_DIVISIONS`.
    """
    narrow = _narrow_points(graph)
    found = [np.zeros(len(graph.layers), dtype=np.bool_)]
    for start, end in pairwise(narrow):
        here = [frozenset[int]()]
        for layer in graph.layers[start:end]:
            needed = {each for each in layer.inputs if each > start}
            here += [own | {layer.index} for own in here if needed <= own]
            if len(here) + len(found) > MOST_DIVISIONS:
                raise InputError(
                    f"methods: {graph.model} branches so widely that dads has more than {MOST_DIVISIONS:,} divisions; "
                    "leave it out"
                )
        for own in here[1:]:  # the empty one is the whole of the segment before
            row = np.zeros(len(graph.layers), dtype=np.bool_)
            row[:start] = True
            row[[index - 1 for index in own]] = True
            found.append(row)
    return np.array(found)


def crossing(graph: LayerGraph, on_device: np.ndarray) -> np.ndarray:
    """(K, N + 1) bool, which tensors cross for divisions (K, N): the input first, then each layer's output; one that
    several layers of the server read is sent once."""
    there = np.column_stack([np.ones(len(on_device), dtype=np.bool_), on_device])
    read = np.zeros_like(there)
    for layer in graph.layers:
        for each in layer.inputs:
            read[:, each] |= ~there[:, layer.index]
    crosses: np.ndarray = there & read
    return crosses


def _narrow_points(graph: LayerGraph) -> list[int]:
    """The points, both ends included, behind which only what the layer there left is read, so that whoever divides the
    network beyond it has all before it on the device."""
    count = len(graph.layers)
    furthest = list(range(count + 1))
    for layer in graph.layers:
        for each in layer.inputs:
            furthest[each] = max(furthest[each], layer.index)
    points, reach = [0], furthest[0]
    for point in range(1, count):
        if reach <= point:
            points.append(point)
        reach = max(reach, furthest[point])
    return [*points, count]
