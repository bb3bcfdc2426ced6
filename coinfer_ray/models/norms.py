"""Batch norms that do more than to norm, taken apart.

Some libraries have a norm and the activation behind it in one module, such as timm's ``BatchNormAct2d``: a subclass of
torch's norm whose children are what follows. A trace has to see the two, since the norm falls with its channels, and
to keep the norm a module, since its statistics follow the mode.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class BatchNormThen(nn.BatchNorm2d):
    """A batch norm, and then its children in order; ``alone``: the norm without them, as a trace calls it."""

    def forward(self, input: torch.Tensor, alone: bool = False) -> torch.Tensor:
        y = super().forward(input)
        if not alone:
            for follower in self.children():
                y = follower(y)
        return y


_KNOWN = (nn.BatchNorm2d.forward, BatchNormThen.forward)


def with_norms_apart(network: nn.Module) -> nn.Module:
    """``network`` itself, its norms that compute what :class:`BatchNormThen` does made such.

    Names, parameters and results stay; copies and pickles keep the class.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and type(module).forward not in _KNOWN and _is_norm_then(module):
            module.__class__ = BatchNormThen
    return network


def _is_norm_then(module: nn.BatchNorm2d) -> bool:
    """Whether a copy of ``module`` gives the same as a :class:`BatchNormThen`, in either mode, and its statistics."""
    tensor = next(iter(module.state_dict().values()), torch.zeros(()))
    images = torch.randn(4, module.num_features, 2, 2, generator=torch.Generator().manual_seed(0))
    images = images.to(tensor.device, tensor.dtype)
    own, ours = copy.deepcopy(module), copy.deepcopy(module)
    ours.__class__ = BatchNormThen
    with torch.random.fork_rng(), torch.no_grad():
        for training in (True, False):
            made = []
            for each in (own, ours):
                torch.manual_seed(0)
                try:
                    made.append(each.train(training)(images.clone()))
                except Exception:  # whatever another library's forward raises on such an input
                    return False
            if not torch.equal(*made):
                return False
    held, other = own.state_dict(), ours.state_dict()
    return all(torch.equal(held[name], other[name]) for name in held)
