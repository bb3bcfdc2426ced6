"""Batch norms that do more than to norm, taken apart.

Some libraries have a norm and the activation behind it in one module, such as timm's ``BatchNormAct2d``: a subclass of
torch's norm whose children are what follows. A trace has to see the two, since the norm falls with its channels, and
to keep the norm a module, since its statistics follow the mode.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import torch
from torch import nn


class BatchNormThen(nn.BatchNorm2d):
    """A batch norm, and then its children in order; ``alone``: the norm without them, as a trace calls it.

    The input may be given by any name, since each library's forward has its own.
    """

    def forward(self, *inputs: torch.Tensor, alone: bool = False, **named: torch.Tensor) -> torch.Tensor:
        (images,) = (*inputs, *named.values())
        y = super().forward(images)
        if not alone:
            for follower in self.children():
                y = follower(y)
        return y


_KNOWN = (nn.BatchNorm2d.forward, BatchNormThen.forward)
_LARGE = 100.0  # times the usual size of values; half precision still holds what comes of it


def with_norms_apart(network: nn.Module) -> nn.Module:
    """``network`` itself, its norms that compute what :class:`BatchNormThen` does made such.

    Names, parameters and results stay; copies and pickles keep the class.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and type(module).forward not in _KNOWN and _is_norm_then(module):
            module.__class__ = BatchNormThen
    return network


def _is_norm_then(module: nn.BatchNorm2d) -> bool:
    """Whether ``module`` gives the same as a :class:`BatchNormThen`, in either mode, and its statistics.

    Asked of copies: with its own weights, and with large ones, whose results go past where an activation may be cut
    off (6 in ReLU6), each on images of two sizes.
    """
    if "forward" in vars(module) or not _takes_one(type(module).forward):
        return False
    with torch.random.fork_rng(), torch.no_grad():
        return all(_same_on(module, scale, size) for scale in (1.0, _LARGE) for size in ((2, 2), (5, 3)))


def _takes_one(forward: Callable[..., object]) -> bool:
    """Whether a module's ``forward`` takes its input and nothing else, as any caller of a norm may rely on."""
    own, *others = inspect.signature(forward).parameters.values()
    return len(others) == 1 and others[0].kind in (own.POSITIONAL_ONLY, own.POSITIONAL_OR_KEYWORD)


def _same_on(module: nn.BatchNorm2d, scale: float, size: tuple[int, int]) -> bool:
    """The same on images of ``size`` (height, width), values, weights and biases ``scale`` times what is usual."""
    tensor = next(iter(module.state_dict().values()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images = scale * torch.randn(4, module.num_features, *size, generator=generator)
    images = images.to(tensor.device, tensor.dtype)
    own = copy.deepcopy(module)
    if scale != 1:
        for weights in (own.weight, own.bias):
            if isinstance(weights, torch.Tensor):
                weights.copy_(scale * torch.randn(weights.shape, generator=generator))
    ours = copy.deepcopy(own)
    ours.__class__ = BatchNormThen
    for training in (True, False):
        made = []
        for each in (own, ours):
            torch.manual_seed(0)
            try:
                made.append(each.train(training)(images.clone()))
            except Exception:  # whatever another library's forward raises on such an input
                return False
        if not all(isinstance(each, torch.Tensor) for each in made) or not torch.equal(*made):
            return False
    held, other = own.state_dict(), ours.state_dict()
    return all(torch.equal(held[name], other[name]) for name in held)
