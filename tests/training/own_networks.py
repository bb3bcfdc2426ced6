"""Networks of a user's own, for tests and as the module that a path of theirs leads to."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Small(nn.Module):
    """``view`` on what a convolution gives, a skip, batch norms of maps and of vectors, a mode that is handed on, and a
    layer that the forward leaves alone. For inputs of 8 px."""

    def __init__(self, num_classes: int = 10, stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, stride, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8 * 16, 32)
        self.hidden_norm = nn.BatchNorm1d(32)
        self.head = nn.Linear(32, num_classes)
        self.left_over = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        y = self.norm(self.body(x))
        x = F.max_pool2d(F.relu(x + y), 2) if self.body.stride == (1, 1) else F.relu(F.max_pool2d(x, 2) + y)
        x = F.relu(self.hidden_norm(self.hidden(x.view(x.size(0), -1))))
        scores: torch.Tensor = self.head(F.dropout(x, 0.1, training=self.training))
        return scores


class Strided(Small):
    """The same weights, another network."""

    def __init__(self) -> None:
        super().__init__(stride=2)


def five_classes() -> nn.Module:
    """It cannot be told how many class scores to give."""
    return Small(5)


def breaks(**options: Any) -> nn.Module:
    """It raises."""
    raise ValueError(f"no licence\nfor {options['num_classes']} classes")


def gives_a_dict() -> dict[str, int]:
    """It gives no network."""
    return {}


NUMBER = 3
