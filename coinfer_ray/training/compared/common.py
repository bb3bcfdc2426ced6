"""What the compared methods' trainings share: the protocol, and the rows that one training leaves.

A training ends in one or more **choices**: a network cut at a point, with what it costs and the accuracy that was
measured on it. A row of a choice holds ``partition_point``, ``feature_bits`` (of a value on the link), ``device_flop``,
``server_flop``, ``uplink_bit`` and what :meth:`CandidateTrainer.measure` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import nn

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.trace import trace_graph
from coinfer_ray.problem.costs import INPUT_BITS
from coinfer_ray.problem.strategy import FLOAT_BITS
from coinfer_ray.training.candidate import CandidateTrainer

Row = dict[str, Any]
R = TypeVar("R", bound=Mapping[str, Any])


class Training(Protocol):
    """One compared method's way to train. ``name`` is the method's in :mod:`coinfer_ray.methods.registry`."""

    name: str

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        """What is asked of each of its trainings, in their order: plain values that JSON can hold."""
        ...

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        """Do one of them: the choices that it leaves, and with each ``images``, the images that training presented.

        Raises:
            Diverged: the loss or the trained network's outputs are no numbers.
        """
        ...


def plain_cuts(
    trainer: CandidateTrainer, network: nn.Module, points: Iterable[int], measured: Mapping[str, Any]
) -> list[Row]:
    """A row for each partition point of a network without a codec, whose accuracy no cut changes.

    ``measured`` is what was measured on it; costs are counted on its own modules.
    """
    graph = trainer.graph
    layers = trace_graph(network, graph.input_shape, graph.model).layers
    flops = [layer.flops for layer in layers]
    rows = []
    for point in points:
        bits = FLOAT_BITS * layers[point - 1].output_elements if 0 < point < len(layers) else 0
        if point == 0:
            bits = INPUT_BITS * graph.input_elements
        costs = {"device_flop": sum(flops[:point]), "server_flop": sum(flops[point:]), "uplink_bit": bits}
        rows.append({"partition_point": point, "feature_bits": FLOAT_BITS, **costs, **measured})
    return rows


def lower_envelope(rows: Sequence[R]) -> list[R]:
    """The rows that a weighted sum of device FLOPs and uplink bits is least for, with some positive weights, in the
    order of their FLOPs: the lower left corners of the convex hull."""
    corners: list[R] = []
    for row in sorted(rows, key=lambda each: (each["device_flop"], each["uplink_bit"])):
        if corners and row["uplink_bit"] >= corners[-1]["uplink_bit"]:
            continue
        while len(corners) > 1 and not _turns_left(corners[-2], corners[-1], row):
            corners.pop()
        corners.append(row)
    return corners


def _turns_left(a: Mapping[str, Any], b: Mapping[str, Any], c: Mapping[str, Any]) -> bool:
    x, y = "device_flop", "uplink_bit"
    return bool((b[x] - a[x]) * (c[y] - a[y]) > (b[y] - a[y]) * (c[x] - a[x]))
