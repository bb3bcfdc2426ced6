"""Which torch operations a trace understands, by the kind of layer that they are."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import nn

ACTIVATIONS: dict[Any, str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.CELU: "celu",
    nn.Mish: "mish",
    nn.Softplus: "softplus",
    nn.PReLU: "prelu",
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu6: "relu6",
    F.leaky_relu: "leaky_relu",
    F.silu: "silu",
    F.gelu: "gelu",
    F.hardswish: "hardswish",
    F.hardsigmoid: "hardsigmoid",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    F.tanh: "tanh",
    torch.tanh: "tanh",
    F.elu: "elu",
    F.selu: "selu",
    F.celu: "celu",
    F.mish: "mish",
    F.softplus: "softplus",
    F.prelu: "prelu",
    torch.prelu: "prelu",
    "relu": "relu",
    "relu_": "relu",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "tanh": "tanh",
    "tanh_": "tanh",
}
# Activations that make something else of a channel of zeros.
NOT_ZERO_AT_ZERO = {"hardsigmoid", "sigmoid", "softplus"}

DROPOUTS = {
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout), "dropout"),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout), "dropout"),
    torch.dropout: "dropout",
    torchvision.ops.stochastic_depth: "stochastic_depth",
    torchvision.ops.StochasticDepth: "stochastic_depth",
}

# They mix the channels of a place, so a channel that falls changes all others.
MIXING: dict[Any, str] = {
    nn.LayerNorm: "layer_norm",
    F.layer_norm: "layer_norm",
    nn.GroupNorm: "group_norm",
    F.group_norm: "group_norm",
    nn.LocalResponseNorm: "local_response_norm",
    F.local_response_norm: "local_response_norm",
    nn.Softmax: "softmax",
    F.softmax: "softmax",
    torch.softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
    F.log_softmax: "log_softmax",
    torch.log_softmax: "log_softmax",
    "softmax": "softmax",
    "log_softmax": "log_softmax",
}

POOLS: dict[Any, str] = {
    nn.MaxPool2d: "max_pool",
    nn.AvgPool2d: "avg_pool",
    nn.AdaptiveMaxPool2d: "adaptive_max_pool",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool",
    F.max_pool2d: "max_pool",
    torch.max_pool2d: "max_pool",
    F.avg_pool2d: "avg_pool",
    F.adaptive_max_pool2d: "adaptive_max_pool",
    F.adaptive_avg_pool2d: "adaptive_avg_pool",
}
MEANS = {torch.mean, "mean"}

ARITHMETIC: dict[Any, str] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), "add"),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), "sub"),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), "mul"),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), "div"),
}
CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate}

# They move values about, at no cost in the paper's Table I.
RESHAPES = {torch.flatten, torch.reshape, "flatten", "reshape", nn.Flatten}
UNCHANGED = {"contiguous", "clone", "detach", "to", "float", torch.clone, nn.Identity}
MOVES = {
    *RESHAPES,
    *UNCHANGED,
    operator.getitem,
    nn.Unflatten,
    *(torch.permute, torch.transpose, torch.chunk, torch.split, torch.unsqueeze, torch.squeeze, torch.roll),
    *("permute", "transpose", "chunk", "split", "unsqueeze", "squeeze", "expand", "roll", "view", "unflatten"),
}


def window(kernel: Any) -> int:
    """Area of a pooling's window, given as torch takes it: a side or a pair of them."""
    sides = tuple(kernel) if isinstance(kernel, (tuple, list)) else (kernel, kernel)
    return math.prod(int(side) for side in (sides if len(sides) == 2 else sides * 2))
