"""The Delay Calculator (the paper's Section V-B): from a layer graph to the kernels' cost tables.

End-to-end latency is the sum of computation on the device and on the server (the paper's Section IV-A) and of the
transmission of the compressed feature (Section IV-B, equation 5); the downlink result is neglected. FLOPs follow
Table I. Where the times of a side's layers were measured (:mod:`coinfer_ray.problem.layer_times`), its cost is counted
in seconds instead, and a scenario's weight for it is 1.
"""

from __future__ import annotations

import numpy as np
from coinfer_kernels import strategy_costs
from coinfer_kernels.notation import CUT_NONE, CUT_RAW, CUT_SPATIAL, CUT_VECTOR, CostTables

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.problem.layer_times import LayerTimes, codec_price
from coinfer_ray.problem.network_times import NetworkSeconds, SideTimes, times_for
from coinfer_ray.problem.space import SearchSpace

Times = tuple[SideTimes | None, SideTimes | None]  # of the device's layers and of the server's
INPUT_BITS = 32
_FLOPS = np.array([[1.0, 0.0, 0.0]] * 2)  # the price of a codec in FLOPs
_CALLED = (0, -1)  # a device that runs any layer runs the first, a server the last
_KINDS = {"raw": CUT_RAW, "spatial": CUT_SPATIAL, "vector": CUT_VECTOR, "none": CUT_NONE}


class DelayCalculator:
    """FLOPs on both sides and bits on the link for any strategy of a space.

    ``codec_flops=False`` neglects the codec's own FLOPs, as the paper does. ``input_bits`` are the bits of one element
    of the network's raw input on the link; those of a feature's are the space's (:attr:`SearchSpace.cut_bits`).
    ``times`` of the device's layers and of the server's: that side's cost is seconds; None: FLOPs. ``counted`` is what
    they say of this network.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        input_bits: float = INPUT_BITS,
        codec_flops: bool = True,
        times: Times = (None, None),
    ) -> None:
        self.space = space
        self.times = times
        graph = space.graph
        self.counted = times_for(times[0], graph), times_for(times[1], graph)
        rows = {prunable.name: row for row, prunable in enumerate(graph.prunable_sets)}
        fixed = len(rows)
        levels = space.tables.values.shape[1]
        kept = np.ones((fixed + 1, levels))
        for name, row in rows.items():
            prunable = graph.set_named(name)
            kept[row] = np.rint((1 - space.tables.values[row]) * prunable.channels)

        in_set = np.array([rows.get(layer.in_set or "", fixed) for layer in graph.layers])
        out_set = np.array([rows.get(layer.out_set or "", fixed) for layer in graph.layers])
        device, server = (_coefficients(graph, each, end) for each, end in zip(self.counted, _CALLED, strict=True))
        prices: dict[str, np.ndarray] = {}
        self.rows_of_layer = 1
        if times != (None, None):
            self.rows_of_layer = 3
            prices["codec_price"] = np.array([_codec_price(each) for each in self.counted])
            prices["server_quadratic"], prices["server_linear"] = _rows_of(server)
            # A cost of the kept inputs, and one that stays, are layers of their own (CostTables).
            alone = np.full(len(in_set), fixed)
            in_set, out_set = (
                np.column_stack(each).ravel() for each in ((in_set, alone, alone), (out_set, in_set, alone))
            )
        quadratic, linear = (device[:, 0], device[:, 1]) if self.rows_of_layer == 1 else _rows_of(device)

        points = [int(point) for point in space.variables[space.cut_variable].values]
        cut_set = np.full(len(points), fixed)
        cut_channels, cut_height, cut_width = np.ones(len(points)), np.ones(len(points)), np.ones(len(points))
        for level, point in enumerate(points):
            if point == 0:
                cut_channels[level], cut_height[level], cut_width[level] = graph.input_shape
                continue
            layer = graph.layers[point - 1]
            cut_height[level], cut_width[level] = layer.out_height, layer.out_width
            if layer.out_set is None:
                cut_channels[level] = layer.out_channels
            else:
                cut_set[level] = rows[layer.out_set]
        self.tables = CostTables(
            in_set=in_set.astype(np.int64),
            out_set=out_set.astype(np.int64),
            quadratic=quadratic,
            linear=linear,
            kept=kept,
            cut_layers=self.rows_of_layer * np.array(points, dtype=np.int64),
            cut_kind=np.array([_KINDS[space.cut_kind(point)] for point in points], dtype=np.int64),
            cut_set=cut_set.astype(np.int64),
            cut_channels=cut_channels,
            cut_height=cut_height.astype(np.int64),
            cut_width=cut_width.astype(np.int64),
            codec_variable=space.codec_variable,
            ratio=np.ascontiguousarray(space.tables.values[space.codec_variable :]),
            cut_bits=space.cut_bits.astype(np.float64),
            input_bits=float(input_bits),
            codec_flops=codec_flops,
            **prices,
        )

    def costs(self, levels: np.ndarray) -> np.ndarray:
        """(n, V) level indices to (n, 3) float64: device FLOPs, server FLOPs (or seconds), uplink bits."""
        return strategy_costs(self.tables, self.space.cut_variable, np.atleast_2d(levels))

    def layer_costs(self) -> np.ndarray:
        """(N, 2) what each layer of the unmodified network costs on the device and on the server."""
        layers = self.space.graph.layers
        columns = [
            [
                layer.flops if each is None else each.seconds(layer, layer.in_channels, layer.out_channels)
                for layer in layers
            ]
            for each in self.counted
        ]
        costs = np.array(columns, dtype=np.float64)
        for column, each, end in zip(costs, self.counted, _CALLED, strict=True):
            column[end] += _call_s(each)
        return costs.T


def _codec_price(times: NetworkSeconds | None) -> np.ndarray:
    """(2, 3) what the codec costs on one side (:func:`coinfer_ray.problem.layer_times.codec_price`)."""
    if times is None:
        return _FLOPS
    return codec_price(times if isinstance(times, LayerTimes) else times.layers)


def _call_s(times: NetworkSeconds | None) -> float:
    """What a side that runs any layer takes besides (s)."""
    return 0.0 if times is None or isinstance(times, LayerTimes) else times.call_s


def _coefficients(graph: LayerGraph, times: NetworkSeconds | None, called: int) -> np.ndarray:
    """(N, 4) what each layer costs per kept input times kept output channel, per kept output, per kept input, and at
    all; channels that are never pruned are inside. What a side takes besides is the layer's at ``called``."""
    found = np.empty((len(graph.layers), 4))
    for row, layer in zip(found, graph.layers, strict=True):
        row[:] = (*layer.flop_coefficients, 0, 0) if times is None else times.coefficients(layer)
        if layer.in_set is None:
            row[[0, 2]] *= layer.in_channels
        if layer.out_set is None:
            row[[0, 1]] *= layer.out_channels
    found[called, 3] += _call_s(times)
    return found


def _rows_of(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns ``quadratic`` and ``linear`` (3 N,) of three rows for each layer: its products and outputs, its
    inputs, and what stays."""
    quadratic = np.zeros((len(coefficients), 3))
    quadratic[:, 0] = coefficients[:, 0]
    return quadratic.ravel(), np.ascontiguousarray(coefficients[:, 1:]).ravel()


def parts(costs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(S, 4) what each strategy's computation on the device and on the server, its uplink and its crossing come to.

    ``costs`` (S, 3) are device FLOPs, server FLOPs and uplink bits, ``weights`` (S, 3) or (S, 4) the scenario's of each
    strategy (:mod:`coinfer_kernels.notation`): in seconds, or in joules, as the weights say.
    """
    crossing = np.where(costs[:, 2] > 0, weights[:, 3], 0.0) if weights.shape[1] == 4 else np.zeros(len(costs))
    return np.column_stack([costs * weights[:, :3], crossing])


def objective(costs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Objective (n, S) of strategies ``costs`` (n, 3) under ``weights`` (S, 3) or (S, 4); (n,) under those of one
    scenario, (3,) or (4,); and a number for a single strategy."""
    value: np.ndarray = costs @ weights[..., :3].T
    return value + np.multiply.outer(costs[..., 2] > 0, weights[..., 3]) if weights.shape[-1] == 4 else value


def seconds_per_item(costs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n,) what each item of a stream takes by strategies ``costs`` (n, 3) under the weights (3,) or (4,) of a latency.

    Device, uplink and server work on different items at a time, so the slowest of the three sets the pace. What a
    crossing takes by itself delays every item and holds up none behind it.
    """
    slowest: np.ndarray = (costs * weights[:3]).max(axis=1)
    return slowest
