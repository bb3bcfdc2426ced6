"""The encoder-decoder pair at the cut: two convolutions, or two linear layers, mirrored by the decoder.

A stage whose parameters are all 1 would change nothing and is left out. Each stage but the decoder's last is
followed by a batch norm (folded when deployed, so it costs nothing), and a ReLU stands between two stages. This
is the structure that ``coinfer_kernels.costs`` prices; ``codec_flops`` counts it on the modules themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from coinfer_ray.problem.strategy import Codec


@dataclass(frozen=True)
class Feature:
    """The tensor that crosses the cut, without its batch dimension. ``flat``: it arrives as a vector."""

    channels: int
    height: int
    width: int
    flat: bool

    @property
    def elements(self) -> int:
        return self.channels * self.height * self.width


@dataclass(frozen=True)
class CodecPair:
    """``encoder`` and ``decoder`` with the FLOPs of one image on each side (the paper's Table I)."""

    encoder: nn.Module
    decoder: nn.Module
    encoder_flops: int
    decoder_flops: int


def build_codec(codec: Codec, feature: Feature, kind: Literal["spatial", "vector"]) -> CodecPair:
    """Freshly initialised encoder and decoder for a feature (the paper's Section V-B)."""
    return _convolutional(codec, feature) if kind == "spatial" else _linear(codec, feature)


def _convolutional(codec: Codec, feature: Feature) -> CodecPair:
    stages = [
        stage
        for stage in (
            (codec.ratio_1, codec.kernel_1, codec.stride_1),
            (codec.ratio_2, codec.kernel_2, codec.stride_2),
        )
        if stage != (1, 1, 1)
    ]
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    encoder_flops = decoder_flops = 0
    channels, height, width = feature.channels, feature.height, feature.width
    for position, (ratio, kernel, stride) in enumerate(stages):
        outputs, pad = _share(ratio, channels), kernel // 2
        low, across = (height + 2 * pad - kernel) // stride + 1, (width + 2 * pad - kernel) // stride + 1
        # What the floor in the sizes dropped: the transposed convolution puts it back, so odd sizes fit.
        missing = (
            height - ((low - 1) * stride - 2 * pad + kernel),
            width - ((across - 1) * stride - 2 * pad + kernel),
        )
        last = position == 0
        down: nn.Module = nn.Conv2d(channels, outputs, kernel, stride, pad, bias=False)
        up: nn.Module = nn.ConvTranspose2d(outputs, channels, kernel, stride, pad, output_padding=missing, bias=last)
        if any(_has_idle_taps(size, kernel, stride) for size in (height, width)):
            down, up = _InFloat32(down), _InFloat32(up)
        encoder += [down, nn.BatchNorm2d(outputs)]
        decoder = [up, *([] if last else [nn.BatchNorm2d(channels)]), *decoder]
        encoder_flops += 2 * low * across * (channels * kernel**2 + 1) * outputs
        decoder_flops += 2 * low * across * outputs * kernel**2 * channels + 2 * height * width * channels
        channels, height, width = outputs, low, across
        if position == 0 and len(stages) == 2:
            encoder.append(nn.ReLU())
            decoder.insert(0, nn.ReLU())
            encoder_flops += channels * height * width
            decoder_flops += channels * height * width
    return CodecPair(nn.Sequential(*encoder), nn.Sequential(*decoder), encoder_flops, decoder_flops)


class _InFloat32(nn.Module):
    """A convolution, kept in float32 under autocast: for feature maps smaller than its kernel.

    Where some taps of the kernel meet nothing but padding, oneDNN's bfloat16 backward pass (torch 2.15) leaves the
    gradient of those taps unwritten: whatever was in memory, NaN among it. Seen for a 5 x 5 kernel with stride 3 on
    a 2 x 2 feature.
    """

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            output: torch.Tensor = self.convolution(x.float())
        return output


def _has_idle_taps(size: int, kernel: int, stride: int) -> bool:
    """Whether some tap of a kernel, padded by half of it, meets only padding along an axis of ``size``."""
    pad = kernel // 2
    starts = range(-pad, size + pad - kernel + 1, stride)
    return any(all(not 0 <= start + tap < size for start in starts) for tap in range(kernel))


def _linear(codec: Codec, feature: Feature) -> CodecPair:
    ratios = [ratio for ratio in (codec.width_1, codec.width_2) if ratio != 1]
    encoder: list[nn.Module] = [] if feature.flat or not ratios else [nn.Flatten()]
    decoder: list[nn.Module] = []
    encoder_flops = decoder_flops = 0
    inputs = feature.elements
    for position, ratio in enumerate(ratios):
        outputs = _share(ratio, inputs)
        encoder += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs)]
        last = position == 0
        up = nn.Linear(outputs, inputs, bias=last)
        decoder = [up, *([] if last else [nn.BatchNorm1d(inputs)]), *decoder]
        encoder_flops += (2 * inputs - 1) * outputs
        decoder_flops += (2 * outputs - 1) * inputs
        inputs = outputs
        if position == 0 and len(ratios) == 2:
            encoder.append(nn.ReLU())
            decoder.insert(0, nn.ReLU())
            encoder_flops += inputs
            decoder_flops += inputs
    if not feature.flat and ratios:
        decoder.append(nn.Unflatten(1, (feature.channels, feature.height, feature.width)))
    return CodecPair(nn.Sequential(*encoder), nn.Sequential(*decoder), encoder_flops, decoder_flops)


def _share(ratio: float, count: int) -> int:
    return max(1, int(ratio * count + 0.5))


@torch.no_grad()
def sent_elements(encoder: nn.Module, feature: Feature) -> int:
    """Elements of the encoder's output for one image, counted on a real forward pass."""
    shape = (feature.elements,) if feature.flat else (feature.channels, feature.height, feature.width)
    mode = encoder.training
    sent: torch.Tensor = encoder.eval()(torch.zeros(1, *shape))
    encoder.train(mode)
    return sent.numel()
