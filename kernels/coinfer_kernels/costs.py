"""The Delay Calculator: what a strategy costs, and what a scenario makes of the costs.

FLOPs follow the paper's Table I, latency its Sections IV-A (computation) and IV-B (transmission, equation 5): a
strategy's costs (device FLOPs, server FLOPs, uplink bits) belong to no scenario, a scenario is three weights of them
in the problem's objective (equations 6 to 9).
"""

from math import floor

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels import checks
from coinfer_kernels.jit import check_threads, inner, kernel, run_parts
from coinfer_kernels.notation import (
    CODEC_RATIO_1,
    CODEC_RATIO_2,
    CODEC_VARIABLES,
    CODEC_WIDTH_1,
    CODEC_WIDTH_2,
    CUT_NONE,
    CUT_RAW,
    CUT_SPATIAL,
    CostTables,
    FloatArray,
    IntArray,
    Scenarios,
)

SCENARIOS_PER_PART = 256


@inner
def _kept(kept: FloatArray, row: int, levels: IntArray) -> float:
    """Channels kept in a prunable set; the last row of ``kept`` stands for channels never pruned."""
    channels: float = kept[row, levels[row] if row < kept.shape[0] - 1 else 0]
    return channels


@inner
def _width(channels: int, ratio: float) -> int:
    """Channels or elements after a codec stage: the ratio's share, rounded half up, at least one."""
    return max(1, floor(ratio * channels + 0.5))


@inner
def _convolution_stage(
    channels: int, height: int, width: int, ratio: float, kernel_size: int, stride: int
) -> tuple[int, int, int, float, float]:
    """One convolution of the codec: output (channels, height, width), encoder FLOPs, decoder FLOPs.

    Convolution: 2 Ho Wo (Ci K^2 + 1) Co. Its mirror, a transposed convolution from Co x Ho x Wo back to
    Ci x Hi x Wi: 2 Ho Wo Co K^2 Ci products and sums, and the folded batch norm's 2 Hi Wi Ci.
    """
    padding = kernel_size // 2
    out = _width(channels, ratio)
    out_height = (height + 2 * padding - kernel_size) // stride + 1
    out_width = (width + 2 * padding - kernel_size) // stride + 1
    products = 2.0 * out_height * out_width * out * kernel_size * kernel_size * channels
    encoder = products + 2.0 * out_height * out_width * out
    decoder = products + 2.0 * height * width * channels
    return out, out_height, out_width, encoder, decoder


@inner
def _spatial_codec(
    ratio: FloatArray, levels: IntArray, channels: int, height: int, width: int
) -> tuple[float, float, float, float, float]:
    """Encoder FLOPs, decoder FLOPs and elements sent of the two-convolution codec; a 1-1-1 stage is left out.

    Then the elements that its stages, on either side alike, read and write, and how many they are. ``ratio`` (8, M) are
    the codec's parameter values, ``levels`` (8,) the strategy's levels of them.
    """
    encoder, decoder, between, present, moved = 0.0, 0.0, 0.0, 0, 0.0
    for first in (CODEC_RATIO_1, CODEC_RATIO_2):
        share = ratio[first, levels[first]]
        kernel_size = int(ratio[first + 1, levels[first + 1]])
        stride = int(ratio[first + 2, levels[first + 2]])
        if share == 1.0 and kernel_size == 1 and stride == 1:
            continue
        between = float(channels * height * width)
        channels, height, width, forth, back = _convolution_stage(channels, height, width, share, kernel_size, stride)
        encoder += forth
        decoder += back
        moved += between + float(channels * height * width)
        present += 1
    if present == 2:  # a ReLU between the stages, on either side
        encoder += between
        decoder += between
    return encoder, decoder, float(channels * height * width), moved, float(present)


@inner
def _vector_codec(ratio: FloatArray, levels: IntArray, elements: int) -> tuple[float, float, float, float, float]:
    """What :func:`_spatial_codec` says, of the two-layer codec; FLOPs (2 Ci - 1) Co a layer."""
    encoder, decoder, between, present, moved = 0.0, 0.0, 0.0, 0, 0.0
    for parameter in (CODEC_WIDTH_1, CODEC_WIDTH_2):
        share = ratio[parameter, levels[parameter]]
        if share == 1.0:
            continue
        between = float(elements)
        out = _width(elements, share)
        encoder += (2.0 * elements - 1.0) * out
        decoder += (2.0 * out - 1.0) * elements
        elements = out
        moved += between + float(elements)
        present += 1
    if present == 2:
        encoder += between
        decoder += between
    return encoder, decoder, float(elements), moved, float(present)


@inner
def _layer_flops(cost: CostTables, device_layers: int, levels: IntArray) -> tuple[float, float]:
    """FLOPs (or seconds) of the first ``device_layers`` layers on the device and of the rest on the server."""
    # Arrays of a tuple are taken out once: each access inside the loop would count references.
    in_set, out_set, kept = cost.in_set, cost.out_set, cost.kept
    quadratic, linear = cost.quadratic, cost.linear
    device, server = 0.0, 0.0
    for layer in range(device_layers):
        k_out = _kept(kept, out_set[layer], levels)
        device += quadratic[layer] * _kept(kept, in_set[layer], levels) * k_out + linear[layer] * k_out
    quadratic, linear = cost.server_quadratic, cost.server_linear
    for layer in range(device_layers, in_set.shape[0]):
        k_out = _kept(kept, out_set[layer], levels)
        server += quadratic[layer] * _kept(kept, in_set[layer], levels) * k_out + linear[layer] * k_out
    return device, server


@inner
def codec_cost(cost: CostTables, cut: int, levels: IntArray) -> tuple[float, float, float]:
    """What crossing the cut costs: encoder and decoder (where they count) in FLOPs or seconds, uplink bits."""
    kind = cost.cut_kind[cut]
    if kind == CUT_NONE:
        return 0.0, 0.0, 0.0
    channels = int(_kept(cost.kept, cost.cut_set[cut], levels) * cost.cut_channels[cut])
    height, width = cost.cut_height[cut], cost.cut_width[cut]
    if kind == CUT_RAW:
        return 0.0, 0.0, channels * height * width * cost.input_bits
    codec_levels = levels[cost.codec_variable : cost.codec_variable + CODEC_VARIABLES]
    if kind == CUT_SPATIAL:
        encoder, decoder, elements, moved, stages = _spatial_codec(cost.ratio, codec_levels, channels, height, width)
    else:
        encoder, decoder, elements, moved, stages = _vector_codec(cost.ratio, codec_levels, channels * height * width)
    if not cost.codec_flops:
        return 0.0, 0.0, elements * cost.cut_bits[cut]
    price, form = cost.codec_price, 0 if kind == CUT_SPATIAL else 1
    encoder = encoder * price[0, form, 0] + moved * price[0, form, 1] + stages * price[0, form, 2]
    decoder = decoder * price[1, form, 0] + moved * price[1, form, 1] + stages * price[1, form, 2]
    return encoder, decoder, elements * cost.cut_bits[cut]


@inner
def cost_row(cost: CostTables, cut: int, levels: IntArray) -> tuple[float, float, float]:
    """Device FLOPs, server FLOPs and uplink bits of one strategy at cut level ``cut``."""
    device, server = _layer_flops(cost, cost.cut_layers[cut], levels)
    encoder, decoder, uplink = codec_cost(cost, cut, levels)
    return device + encoder, server + decoder, uplink


@inner
def objective_of(weights: FloatArray, device: float, server: float, uplink: float) -> float:
    """T = F_d / theta_d + F_s / theta_s + bits / R, and a crossing where bits are sent, by the scenario's 4 weights."""
    objective: float = device * weights[0] + server * weights[1] + uplink * weights[2]
    return objective + (weights[3] if uplink > 0.0 else 0.0)


@kernel
def _cost_rows(cost: CostTables, cut_variable: int, levels: IntArray, costs: FloatArray) -> None:
    for i in range(levels.shape[0]):
        costs[i, 0], costs[i, 1], costs[i, 2] = cost_row(cost, levels[i, cut_variable], levels[i])


@kernel
def _latency_rows(costs: FloatArray, weights: FloatArray, start: int, stop: int, out: FloatArray) -> None:
    for i in range(start, stop):
        for s in range(weights.shape[0]):
            out[i, s] = objective_of(weights[s], costs[i, 0], costs[i, 1], costs[i, 2])


@kernel
def _cheapest_rows(
    costs: FloatArray,
    accuracy: FloatArray,
    scenarios: Scenarios,
    start: int,
    stop: int,
    index: IntArray,
    objective: FloatArray,
) -> None:
    for s in range(start, stop):
        best, best_at = np.inf, -1
        for i in range(costs.shape[0]):
            if accuracy[i] >= scenarios.accuracy_floor[s]:
                value = objective_of(scenarios.weights[s], costs[i, 0], costs[i, 1], costs[i, 2])
                if value < best:
                    best, best_at = value, i
        index[s], objective[s] = best_at, best


def strategy_costs(cost: CostTables, cut_variable: int, levels: ArrayLike) -> FloatArray:
    """Costs (n, 3) of canonical strategies ``levels`` (n, V): device FLOPs, server FLOPs, uplink bits.

    ``cost``: the network's tables; ``cut_variable``: the column of ``levels`` that holds the cut.

    Raises:
        ValueError: wrong shapes, or levels that the tables don't have.
    """
    cost = checks.cost_tables(cost)
    rows = checks.array("levels", levels, np.int64, 2)
    sets, variables = len(cost.kept) - 1, rows.shape[1]
    if max(sets, cost.codec_variable + CODEC_VARIABLES) > variables or not 0 <= cut_variable < variables:
        raise ValueError(f"levels: has {variables} columns, too few for the cost tables or cut variable {cut_variable}")
    checks.within("levels (sparsity)", rows[:, :sets], 0, cost.kept.shape[1])
    checks.within("levels (cut)", rows[:, cut_variable], 0, len(cost.cut_layers))
    codec = slice(cost.codec_variable, cost.codec_variable + CODEC_VARIABLES)
    checks.within("levels (codec)", rows[:, codec], 0, cost.ratio.shape[1])
    costs = np.empty((len(rows), 3))
    _cost_rows(cost, int(cut_variable), rows, costs)
    return costs


def latencies(costs: ArrayLike, weights: ArrayLike, threads: int | None = 1) -> FloatArray:
    """Objective (n, S) of every strategy in every scenario, from costs (n, 3) and weights (S, 3) or (S, 4).

    ``threads`` share the strategies; None for all that numba may use.

    Raises:
        ValueError: wrong shapes.
    """
    strategies = _three_columns("costs", costs)
    per_scenario = checks.four_weights("weights", weights)
    out = np.empty((len(strategies), len(per_scenario)))
    run_parts(
        lambda start, stop: _latency_rows(strategies, per_scenario, start, stop, out),
        len(strategies),
        max(1, 65536 // max(1, len(per_scenario))),
        check_threads(threads),
    )
    return out


def cheapest_feasible(
    costs: ArrayLike, accuracy: ArrayLike, scenarios: Scenarios, threads: int | None = 1
) -> tuple[IntArray, FloatArray]:
    """The cheapest of n strategies that meets each scenario's accuracy floor.

    ``costs`` (n, 3): device FLOPs, server FLOPs, uplink bits; ``accuracy`` (n,) in 0..1; ``threads`` share the
    ``scenarios``, None for all that numba may use. Returns the strategy's row (S,), -1 where none is feasible, and its
    objective (S,), infinite there. Equal objectives: the first row. The n x S product is never stored.

    Raises:
        ValueError: wrong shapes, or a scenario with weights that are negative or not finite.
    """
    strategies = _three_columns("costs", costs)
    reached = checks.shaped("accuracy", accuracy, np.float64, (len(strategies),))
    batch = checks.scenario_batch(scenarios)
    count = len(batch.accuracy_floor)
    index, objective = np.empty(count, dtype=np.int64), np.empty(count)
    run_parts(
        lambda start, stop: _cheapest_rows(strategies, reached, batch, start, stop, index, objective),
        count,
        SCENARIOS_PER_PART,
        check_threads(threads),
    )
    return index, objective


def _three_columns(name: str, value: ArrayLike) -> FloatArray:
    rows = checks.array(name, value, np.float64, 2)
    if rows.shape[1] != 3:
        raise ValueError(f"{name}: has {rows.shape[1]} columns; 3 are needed (device FLOPs, server FLOPs, uplink bits)")
    return rows
