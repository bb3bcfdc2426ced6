"""Strided 1x1 convolutions in a form that trains safely.

oneDNN's weight gradient of a strided 1x1 convolution in channels_last float32 writes out of bounds where the inputs
have few channels (fewer than 8 with AVX2, fewer than 16 with AVX-512: oneDNN issue 6035); a pruned network gets there.
Reading every s-th row and column first and convolving at stride 1 is the same sum, and leaves that code alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def convolve(conv: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``conv`` applied to ``x`` (n, channels, height, width) with other weights of its kind, which may be narrower.

    A grouped convolution keeps the width of its groups: their number follows from the weights.
    """
    groups = 1 if conv.groups == 1 else weight.shape[0] * conv.groups // conv.out_channels
    stride = conv.stride
    if is_strided_pointwise(conv):
        x, stride = x[..., :: stride[0], :: stride[1]], (1, 1)
    return F.conv2d(x, weight, bias, stride, conv.padding, conv.dilation, groups)


def is_strided_pointwise(module: nn.Module) -> bool:
    """Whether ``module`` is a 1x1 convolution that skips places, without padding."""
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.padding in ((0, 0), "valid")
    )


class StridedPointwise(nn.Conv2d):
    """A strided 1x1 convolution that is computed at stride 1 on the places that it reads."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return convolve(self, input, self.weight, self.bias)


def with_safe_strides(network: nn.Module) -> nn.Module:
    """``network`` itself, its strided 1x1 convolutions made :class:`StridedPointwise`.

    Names, parameters and results stay; copies and pickles keep the class.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and is_strided_pointwise(module):
            module.__class__ = StridedPointwise
    return network
