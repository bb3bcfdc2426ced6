"""Layers as torch runs them, where ONNX Runtime is not installed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import Layer
from coinfer_ray.profile.geometry import window_of
from coinfer_ray.profile.measure import Prepared
from coinfer_ray.profile.work import Work

Step = Callable[[list[torch.Tensor]], torch.Tensor]


def version() -> str:
    return f"torch {torch.__version__}"


def prepare(work: Work, threads: int) -> Prepared:
    """The work ready to be run on so many threads of this processor.

    Raises:
        InputError: a kind of layer that has no form here.
    """
    torch.set_num_threads(threads)
    inside = {layer.index for layer in work.layers}
    steps = [(layer, _step(layer)) for layer in work.layers]
    first = work.layers[0]
    feature = torch.full((1, first.in_channels, first.in_height, first.in_width), 0.5)

    def run() -> torch.Tensor:
        made: dict[int, torch.Tensor] = {}
        with torch.inference_mode():
            for layer, step in steps:
                made[layer.index] = step(
                    [made[each] if each in inside and each in made else feature for each in layer.inputs]
                )
        return made[work.layers[-1].index]

    return Prepared(run, feature.sum)


def _step(layer: Layer) -> Step:
    match layer.kind:
        case "conv":
            own, ci = window_of(layer), layer.group_width or layer.in_channels
            groups = layer.in_channels // layer.group_width if layer.group_width else 1
            weight = torch.full((layer.out_channels, ci, own.side, own.side), 1 / (ci * layer.kernel_area))
            bias = torch.zeros(layer.out_channels)
            return lambda x: F.conv2d(x[0], weight, bias, own.stride, own.padding, groups=groups)
        case "fc":
            width = layer.in_channels * layer.in_height * layer.in_width
            matrix = torch.full((layer.out_channels, width), 1 / width)
            return lambda x: F.linear(x[0].flatten(1), matrix)
        case "relu" | "relu6" | "leaky_relu":
            return lambda x: F.relu(x[0])
        case "max_pool":
            own = window_of(layer)
            return lambda x: F.max_pool2d(x[0], own.side, own.stride, own.padding)
        case "avg_pool":
            return lambda x: F.adaptive_avg_pool2d(x[0], (layer.out_height, layer.out_width))
        case "add":
            return lambda x: x[0] + x[-1]
        case "batch_norm" | "dropout" | "stochastic_depth":
            return lambda x: x[0]
        case kind:
            raise InputError(f"profile: layers of kind {kind} cannot be measured; leave {layer.name}'s network out")
