"""BottleNet++'s codec: a convolution each way, a codeword within (0, 1), and an encoder that knows the channel.

J. Shao and J. Zhang, "BottleNet++: An End-to-End Approach for Feature Compression in Device-Edge Co-Inference Systems",
ICC Workshops 2020, Section III. The encoder appends a constant plane with the channel's noise level to the feature,
then come a convolution, a batch norm and a sigmoid; the decoder mirrors it with a convolution, a batch norm and a ReLU.
With ``shrink`` the convolutions are 2 x 2 with stride 2, the decoder's transposed, else 3 x 3 with stride 1. (The
authors' program has the decoder's two the wrong way round.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from coinfer_ray.compression.codec import Feature
from coinfer_ray.errors import InputError


class NoiseLevel:
    """The channel's condition, which encoder and channel share: the noise's standard deviation ``sigma``.

    It is drawn for every batch, in training and in test, uniformly from 0 to ``greatest``; torch's own generator is
    left alone where that is 0.
    """

    def __init__(self, greatest: float) -> None:
        self.greatest = greatest
        self.sigma = 0.0

    def draw(self) -> float:
        """The next batch's ``sigma``."""
        if self.greatest:
            self.sigma = self.greatest * float(torch.rand(()))
        return self.sigma


class ConditionedEncoder(nn.Module):
    """Layers that read the feature (n, C, H, W) with one more plane, which holds the batch's noise level."""

    def __init__(self, level: NoiseLevel, *layers: nn.Module) -> None:
        super().__init__()
        self.level = level
        self.layers = nn.Sequential(*layers)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        plane = torch.full_like(feature[:, :1], self.level.draw())
        codeword: torch.Tensor = self.layers(torch.cat([feature, plane], 1))
        return codeword


class AnalogueChannel(nn.Module):
    """White Gaussian noise of the level that the encoder was told, on a codeword whose power the sigmoid bounds."""

    def __init__(self, level: NoiseLevel) -> None:
        super().__init__()
        self.level = level

    def forward(self, codeword: torch.Tensor) -> torch.Tensor:
        return codeword + self.level.sigma * torch.randn_like(codeword) if self.level.sigma else codeword


@dataclass(frozen=True)
class Bottleneck:
    """Encoder, channel and decoder; FLOPs of one image on each side; the codeword's (channels, height, width)."""

    encoder: nn.Module
    channel: nn.Module
    decoder: nn.Module
    encoder_flops: int
    decoder_flops: int
    codeword: tuple[int, int, int]

    @property
    def elements(self) -> int:
        """Numbers that cross the link for one image."""
        channels, height, width = self.codeword
        return channels * height * width


def build_bottleneck(
    feature: Feature, channels: int, *, shrink: bool, rectified: bool = True, noise: float = 0.0
) -> Bottleneck:
    """A freshly initialised codec for ``feature`` with a codeword of so many channels.

    ``shrink`` halves both sides, odd ones rounded up: one row or column of zeros fills them. ``rectified``: the feature
    is never negative, so the decoder ends in a ReLU as published; one that can be negative is left as it is. ``noise``:
    the greatest standard deviation of the channel's noise (0: none; the published 0.1 is a PSNR of 20 dB and more).

    FLOPs follow :mod:`coinfer_ray.compression.codec`: batch norms are folded, sigmoid and ReLU cost one an element.

    Raises:
        InputError: a vector, which has no sides, or fewer than one channel.
    """
    if feature.flat or feature.height * feature.width == 1:
        raise InputError(f"bottlenetpp: a vector of {feature.elements} values; its codec needs a feature with sides")
    if channels < 1:
        raise InputError(f"bottlenetpp: a codeword of {channels} channels; at least 1 is needed")
    sides = (feature.height, feature.width)
    level = NoiseLevel(noise)
    if shrink:
        # A convolution that starts one place early on an odd side reads all of it, and its mirror restores it whole.
        odd = (sides[0] % 2, sides[1] % 2)
        down = nn.Conv2d(feature.channels + 1, channels, 2, 2, odd, bias=False)
        up: nn.Module = nn.ConvTranspose2d(channels, feature.channels, 2, 2, odd, output_padding=odd, bias=False)
        sides = (-(-sides[0] // 2), -(-sides[1] // 2))
    else:
        down = nn.Conv2d(feature.channels + 1, channels, 3, 1, 1, bias=False)
        up = nn.Conv2d(channels, feature.channels, 3, 1, 1, bias=False)
    area, taps = sides[0] * sides[1], 4 if shrink else 9
    encoder = ConditionedEncoder(level, down, nn.BatchNorm2d(channels), nn.Sigmoid())
    decoder = nn.Sequential(up, nn.BatchNorm2d(feature.channels), *([nn.ReLU()] if rectified else []))
    return Bottleneck(
        encoder,
        AnalogueChannel(level),
        decoder,
        encoder_flops=2 * area * ((feature.channels + 1) * taps + 1) * channels + area * channels,
        decoder_flops=2 * area * channels * taps * feature.channels + (2 + rectified) * feature.elements,
        codeword=(channels, *sides),
    )
