"""The Delay Calculator (the paper's Section V-B): from a layer graph to the kernels' cost tables.

End-to-end latency is the sum of computation on the device and on the server (the paper's Section IV-A) and of the
transmission of the compressed feature (Section IV-B, equation 5); the downlink result is neglected. FLOPs follow
Table I.
"""

from __future__ import annotations

import numpy as np
from coinfer_kernels import strategy_costs
from coinfer_kernels.notation import CUT_NONE, CUT_RAW, CUT_SPATIAL, CUT_VECTOR, CostTables

from coinfer_ray.problem.space import SearchSpace

INPUT_BITS = 32
_KINDS = {"raw": CUT_RAW, "spatial": CUT_SPATIAL, "vector": CUT_VECTOR, "none": CUT_NONE}


class DelayCalculator:
    """FLOPs on both sides and bits on the link for any strategy of a space.

    ``codec_flops=False`` neglects the codec's own FLOPs, as the paper does. ``input_bits`` are the bits of one element
    of the network's raw input on the link; those of a feature's are the space's (:attr:`SearchSpace.cut_bits`).
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        input_bits: float = INPUT_BITS,
        codec_flops: bool = True,
    ) -> None:
        self.space = space
        graph = space.graph
        rows = {prunable.name: row for row, prunable in enumerate(graph.prunable_sets)}
        fixed = len(rows)
        levels = space.tables.values.shape[1]
        kept = np.ones((fixed + 1, levels))
        for name, row in rows.items():
            prunable = graph.set_named(name)
            kept[row] = np.rint((1 - space.tables.values[row]) * prunable.channels)

        layers = len(graph.layers)
        in_set, out_set = np.full(layers, fixed), np.full(layers, fixed)
        quadratic, linear = np.empty(layers), np.empty(layers)
        for position, layer in enumerate(graph.layers):
            quadratic[position], linear[position] = layer.flop_coefficients
            if layer.in_set is None:
                quadratic[position] *= layer.in_channels
            else:
                in_set[position] = rows[layer.in_set]
            if layer.out_set is None:
                quadratic[position] *= layer.out_channels
                linear[position] *= layer.out_channels
            else:
                out_set[position] = rows[layer.out_set]

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
            cut_layers=np.array(points, dtype=np.int64),
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
        )

    def costs(self, levels: np.ndarray) -> np.ndarray:
        """(n, V) level indices to (n, 3) float64: device FLOPs, server FLOPs, uplink bits."""
        return strategy_costs(self.tables, self.space.cut_variable, np.atleast_2d(levels))


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
