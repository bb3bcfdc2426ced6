"""Features of 8 bits and fewer, and the bits that are left of them after entropy coding.

A feature is quantised uniformly between two constants of the tensor, its least and greatest value over some images
(both ends of the link know them, so they are not sent). Training goes through the rounding by the straight-through
estimator (Y. Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013): the backward
pass takes it for the identity within the range and for a constant outside.

The entropy coder is Huffman's, as in JALAD (H. Li et al., "JALAD: Joint Accuracy- and Latency-Aware Deep Structure
Decoupling for Edge-Cloud Execution", ICPADS 2018): zlib's DEFLATE told to use Huffman codes alone, one stream an
image with its own code table inside, one byte a symbol. Only its length is computed (:mod:`coinfer_kernels.huffman`).
"""

from __future__ import annotations

import numpy as np
import torch
from coinfer_kernels.huffman import deflate_bits
from torch import nn

from coinfer_ray.problem.strategy import QUANTIZED_BITS


class Quantizer(nn.Module):
    """Rounds a feature to 2**bits levels between ``low`` and ``high``; gradients pass straight through.

    In training mode it widens the range to what it sees; :meth:`calibrate` does so on demand. In evaluation mode
    the range stands and values beyond it are clipped.

    Raises:
        ValueError: ``bits`` is not within 1..8.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        if bits not in QUANTIZED_BITS:
            least, most = QUANTIZED_BITS.start, QUANTIZED_BITS.stop - 1
            raise ValueError(f"bits: {bits} must be within {least}..{most}, a symbol fits a byte")
        self.bits = bits
        self.register_buffer("low", torch.tensor(torch.inf))
        self.register_buffer("high", torch.tensor(-torch.inf))

    def reset(self) -> None:
        """Forget the range."""
        self.low.fill_(torch.inf)
        self.high.fill_(-torch.inf)

    @torch.no_grad()
    def calibrate(self, feature: torch.Tensor) -> None:
        """Widen the range to the least and the greatest value of ``feature``."""
        self.low.copy_(torch.minimum(self.low, feature.min().float()))
        self.high.copy_(torch.maximum(self.high, feature.max().float()))

    @property
    def step(self) -> torch.Tensor:
        """The distance of two levels; 1 where the range is a single value."""
        width = self.high - self.low
        step: torch.Tensor = torch.where(width > 0, width, torch.ones_like(width)) / (2**self.bits - 1)
        return step

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """The feature as the receiver rebuilds it, of the same shape and type."""
        if self.training:
            self.calibrate(feature)
        clipped = torch.minimum(torch.maximum(feature.float(), self.low), self.high)
        rebuilt = self.rebuild(self.codes(clipped))
        return (clipped + (rebuilt - clipped).detach()).to(feature.dtype)

    @torch.no_grad()
    def codes(self, feature: torch.Tensor) -> torch.Tensor:
        """What is sent: uint8 level indices of the same shape."""
        return ((feature.float() - self.low) / self.step).round().clamp(0, 2**self.bits - 1).to(torch.uint8)

    def rebuild(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 values of level indices."""
        return codes.float() * self.step + self.low

    def plain_bits(self, elements: int) -> int:
        """Bits of a feature of so many elements without entropy coding."""
        return self.bits * elements


def huffman_bits(codes: np.ndarray) -> np.ndarray:
    """(n,) bits of each row of level indices (n, ...) uint8 after Huffman coding, its code table included."""
    return deflate_bits(codes.reshape(len(codes), -1))
