"""How a network's tensors lie in memory."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def channels_last(network: Network) -> Network:
    """``network`` itself, its tensors of four dimensions in channels_last.

    ``Module.to(memory_format=...)`` does the same, but fails where one has five, such as tables of relative positions.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return network
