"""Seconds of a layer as a linear function of what it does: a cost model that is fitted to measured times.

FLOPs over one speed miss the times of real layers by 40 to 300 %: a fully connected layer waits for its weights, and so
does a convolution on few pixels, a grouped convolution leaves most of the arithmetic idle, an addition moves memory,
and each layer takes time to start.
:class:`LayerTimes` has a coefficient for each of these, and none is below 0, so a layer never gets slower as channels
go, which the exact solver's proof rests on. (Scission's published profiles: 12 to 18 % per block and 3 to 16 % end to
end with the model left out of the fit, against 41 to 311 % with the best single speed.)
"""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, fields

import numpy as np

from coinfer_ray.models.layers import Layer

# Layers that a runtime folds into the convolution before them, or that do nothing when a network is used.
FREE = frozenset(("batch_norm", "dropout", "stochastic_depth", "expand", "relu", "relu6", "leaky_relu"))
TERMS = 5


@dataclass(frozen=True)
class LayerTimes:
    """Seconds for each of what a layer does, from 0 on.

    ``conv_flop``: a FLOP of a convolution, or of a matrix product on several rows. ``grouped_flop``: a FLOP of a
    grouped or depthwise convolution. ``element``: a value read or written, inputs and outputs, not the weights.
    ``weight``: a weight of a convolution or of a fully connected layer. ``layer``: the layer itself.
    """

    conv_flop: float
    grouped_flop: float
    element: float
    weight: float
    layer: float

    def seconds(self, layer: Layer, in_channels: int, out_channels: int) -> float:
        """Seconds of a layer with that many channels kept."""
        quadratic, out, own, constant = self.coefficients(layer)
        return quadratic * in_channels * out_channels + out * out_channels + own * in_channels + constant

    def coefficients(self, layer: Layer) -> tuple[float, float, float, float]:
        """(q, o, i, c) such that seconds = q * kept inputs * kept outputs + o * kept outputs + i * kept inputs + c."""
        rows = np.array(term_coefficients(layer))
        quadratic, out, own, constant = (rows @ np.array(astuple(self))).tolist()
        return quadratic, out, own, constant

    def to_json(self) -> dict[str, float]:
        return asdict(self)


NAMES = tuple(field.name for field in fields(LayerTimes))


def term_coefficients(layer: Layer) -> tuple[tuple[float, ...], ...]:
    """(4, 5) how much of each term of :class:`LayerTimes` a layer has: per kept input times kept output channel, per
    kept output channel, per kept input channel, and at all.

    FLOPs are the paper's Table I (:attr:`Layer.flop_coefficients`).
    """
    nothing = (0.0,) * TERMS
    if layer.kind in FREE:
        return nothing, nothing, nothing, nothing
    inputs, outputs = float(layer.in_height * layer.in_width), float(layer.out_height * layer.out_width)
    quadratic, linear = (float(each) for each in layer.flop_coefficients)
    moved_in = (0.0, 0.0, inputs * max(1, len(layer.inputs)), 0.0, 0.0)
    constant = (0.0, 0.0, 0.0, 0.0, 1.0)
    match layer.kind:
        case "fc":
            return (0.0, 0.0, 0.0, inputs, 0.0), (0.0, 0.0, outputs, 0.0, 0.0), moved_in, constant
        case "conv" if layer.group_width:
            weights = float(layer.group_width * layer.kernel_area)
            return nothing, (0.0, linear, outputs, weights, 0.0), moved_in, constant
        case "conv":
            weights = float(layer.kernel_area)
            return (quadratic, 0.0, 0.0, weights, 0.0), (linear, 0.0, outputs, 0.0, 0.0), moved_in, constant
        case "linear" | "other":
            return (quadratic, *nothing[1:]), (linear, 0.0, outputs, 0.0, 0.0), moved_in, constant
        case "concat":  # reads what it writes; its own input is only the first of several
            return nothing, (0.0, 0.0, 2 * outputs, 0.0, 0.0), nothing, constant
        case _:  # poolings, sums, norms: memory alone
            return nothing, (0.0, 0.0, outputs, 0.0, 0.0), moved_in, constant


def terms_of(layer: Layer, in_channels: int, out_channels: int) -> np.ndarray:
    """(5,) what a layer does with that many channels kept: FLOPs of convolutions and of grouped ones, elements moved,
    weights, layers."""
    each = np.array([in_channels * out_channels, out_channels, in_channels, 1.0])
    terms: np.ndarray = each @ np.array(term_coefficients(layer))
    return terms


def codec_price(times: LayerTimes) -> np.ndarray:
    """(2, 3) seconds of a FLOP, an element and a stage of the codec: of convolutions, whose few weights are neglected,
    and of linear layers, which have a weight for every two FLOPs."""
    return np.array(
        [
            [times.conv_flop, times.element, times.layer],
            [times.weight / 2, times.element, times.layer],
        ]
    )
