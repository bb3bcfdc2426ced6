"""The wireless channel between encoder and decoder, as the network sees it."""

from __future__ import annotations

import torch
from torch import nn


class AWGNChannel(nn.Module):
    """Additive white Gaussian noise at ``snr_db`` on the power-normalised feature, in training and in test.

    The feature of each image is sent at unit mean power and scaled back by the receiver, which knows the gain
    (one number an image, neglected in the bits): the noise's power is the feature's divided by the SNR.
    """

    def __init__(self, snr_db: float) -> None:
        super().__init__()
        self.snr_db = snr_db

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        dims = tuple(range(1, feature.dim()))
        power = feature.detach().float().square().mean(dim=dims, keepdim=True)
        scale = (power * 10 ** (-self.snr_db / 10)).sqrt()
        return feature + (scale * torch.randn_like(feature, dtype=torch.float32)).to(feature.dtype)


def make_channel(snr_db: float | None) -> nn.Module:
    """The AWGN channel, or a noise-free one where ``snr_db`` is None."""
    return nn.Identity() if snr_db is None else AWGNChannel(snr_db)
