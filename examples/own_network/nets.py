"""A network of one's own: any classifier that torch.fx can trace."""

import torch
import torch.nn.functional as F
from torch import nn


class Small(nn.Module):
    """For images of 8 x 8 pixels; it takes ``num_classes``, so it is built for as many classes as the images have."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16 * 4 * 4, 64)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.max_pool2d(F.relu(x + self.norm(self.body(x))), 2)
        x = F.relu(self.hidden(x.view(x.size(0), -1)))
        return self.head(F.dropout(x, 0.1, training=self.training))
