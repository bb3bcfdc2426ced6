"""A codec's start: the feature's principal components, and the linear decoder that reconstructs most from them.

Trained from random weights a codec needs as many steps as it is wide, and what a strategy's accuracy then says is
how long its codec was trained. The best linear encoder and decoder are known in closed form, the leading principal
components (P. Baldi and K. Hornik, "Neural networks and principal component analysis", Neural Networks 2(1), 1989), so
a codec starts from these, stage by stage, and training only has to better them.

A convolution of stride s starts as a transform of blocks: of its taps those that lie in the s x s places that no other
output sees, all others zero. Each batch norm starts from the statistics of what reaches it and keeps the components'
relative scale, so that the strong ones count for more in the next stage; before the ReLU it lifts them, so that
little of them is cut off. The decoder's stages are ridge regressions from what really arrives there, the ridge being
the channel's noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

MAX_COMPONENTS = 384  # of a stage; those beyond start at random, with no weight in the decoder
ROWS = 8_192  # blocks that components and decoder are fitted to
IMAGES = 512, 2_048  # at least and at most so many whose blocks these are
LIFT = 2.0  # standard deviations by which a component is lifted before a ReLU; half that where blocks have places
MIN_RIDGE = 1e-3  # of the code's mean power
MAX_GAIN = 4.0  # by which the power that a decoder lost is made up for


BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True)
class _Stage:
    """One stage of the encoder and its mirror in the decoder. ``norm``: of the encoder; ``up_norm``: behind the
    decoder's layer, which the last one has not (it has a bias)."""

    down: nn.Conv2d | nn.Linear
    norm: BatchNorm
    up: nn.ConvTranspose2d | nn.Linear
    up_norm: BatchNorm | None
    relu: bool


@torch.no_grad()
def start_from_components(encoder: nn.Module, decoder: nn.Module, feature: torch.Tensor, noise: float = 0.0) -> None:
    """Set the parameters of a codec of :func:`coinfer_ray.compression.codec.build_codec` in place.

    ``feature`` (n, C, H, W) or (n, F): what the device half makes of n images. ``noise``: the channel's noise power as
    a share of the code's. Draws from torch's generator.
    """
    stages = _stages(encoder, decoder)
    if not stages:
        return
    few, many = IMAGES
    if isinstance(stages[0].down, nn.Conv2d):
        places = feature[0, 0].numel() // stages[0].down.stride[0] ** 2
        seen = [feature[: max(few, min(many, ROWS // max(1, places)))]]
    else:
        seen = [feature[:many].flatten(1)]
    for stage in stages:
        seen.append(_fit_encoder(stage, seen[-1]))
    arrived, ridge = seen[-1], max(MIN_RIDGE, noise)
    for stage, target in zip(reversed(stages), reversed(seen[:-1]), strict=True):
        arrived = _fit_decoder(stage, arrived, target, ridge)
        ridge = MIN_RIDGE


@torch.no_grad()
def restore_power(encoder: nn.Module, decoder: nn.Module, feature: torch.Tensor, made: torch.Tensor) -> None:
    """Give what the decoder makes the deviation that the feature has, in place.

    The decoder that errs least makes too little of what it is unsure of, or has no code for: it stays near the mean.
    The server's half was trained on features of full power, and what it sums over places counts on it.

    ``feature`` and ``made`` (n, C, ...): what goes into the encoder and what comes out of the decoder.
    """
    stages = _stages(encoder, decoder)
    if not stages:
        return
    gain = float((_deviation(feature) / _deviation(made).clamp_min(1e-6)).clamp(1, MAX_GAIN))
    # Around the mean: behind the inner batch norm, or of a code that the encoder's own has centred.
    inner = stages[-1].up_norm
    (stages[0].up if inner is None else inner).weight.mul_(gain)


def _stages(encoder: nn.Module, decoder: nn.Module) -> list[_Stage]:
    downs = [module for module in encoder.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    ups = [module for module in decoder.modules() if isinstance(module, nn.ConvTranspose2d | nn.Linear)]
    norms, up_norms = ([m for m in half.modules() if isinstance(m, BatchNorm)] for half in (encoder, decoder))
    mirrored = zip(downs, norms, reversed(ups), [None, *reversed(up_norms)] if ups else [], strict=True)
    return [
        _Stage(down, norm, up, up_norm, relu=number < len(downs) - 1)
        for number, (down, norm, up, up_norm) in enumerate(mirrored)
    ]


def _fit_encoder(stage: _Stage, x: torch.Tensor) -> torch.Tensor:
    """Fit the stage's encoder to what reaches it; returns what leaves it."""
    down, norm = stage.down, stage.norm
    outputs = down.weight.shape[0]
    blocks = _few(_blocks(down, x))
    count = min(outputs, MAX_COMPONENTS, *blocks.shape)
    centred = blocks - blocks.mean(dim=0)
    components = torch.svd_lowrank(centred, q=count, niter=2)[2]  # (D, count)
    if isinstance(down, nn.Conv2d):
        taps, side = _taps(down)
        down.weight[:count] = 0
        down.weight[:count, :, taps, taps] = components.T.reshape(count, -1, side, side)
    else:
        down.weight[:count] = components.T
    y: torch.Tensor = down(x)
    deviation = _moments(y)[1]
    scale = deviation[:count].square().mean().sqrt().clamp_min(1e-6)
    gains = (deviation / scale).clamp_min(1e-3)
    gains[count:] = gains[:count].min()
    lift = 0.0 if not stage.relu else LIFT if _has_one_place(down) else LIFT / 2
    y = _set_norm(norm, y, gains, lift * gains)
    return F.relu(y) if stage.relu else y


def _fit_decoder(stage: _Stage, z: torch.Tensor, target: torch.Tensor, ridge: float) -> torch.Tensor:
    """Fit the stage's decoder to make ``target`` of ``z``, what arrives there; returns what leaves it."""
    up, up_norm = stage.up, stage.up_norm
    count = min(z.shape[1], MAX_COMPONENTS)
    code = z.movedim(1, -1).reshape(-1, z.shape[1])[:, :count]
    code, blocks = _few(code), _few(_blocks(stage.down, target))
    channels = target.shape[1]
    wanted = blocks.reshape(len(blocks), channels, -1)
    gram = code.T @ code
    gram.diagonal().add_(ridge * gram.diagonal().mean().clamp_min(1e-6))
    ones = torch.ones(len(code), 1, device=code.device)
    # One bias serves all places: of those in a block what no code explains, and those that no output sees in full.
    unexplained = ones - code @ torch.linalg.solve(gram, code.T @ ones)
    unseen = len(code) * max(0.0, target[0, 0].numel() / z[0, 0].numel() - wanted.shape[2])
    bias = (unexplained.T @ wanted.sum(dim=2)).squeeze(0) + unseen * target.transpose(0, 1).flatten(1).mean(dim=1)
    bias /= unexplained.sum().clamp_min(1e-6) * wanted.shape[2] + unseen
    weights = torch.linalg.solve(gram, code.T @ (wanted - bias[:, None]).flatten(1))  # (count, D)
    up.weight.zero_()
    if isinstance(up, nn.ConvTranspose2d):
        taps, side = _taps(up)
        up.weight[:count, :, taps, taps] = weights.reshape(count, channels, side, side)
    else:
        up.weight[:, :count] = weights.T
    made: torch.Tensor = up(z)
    if up_norm is None:
        assert up.bias is not None
        up.bias.copy_(bias)
        return made
    mean, deviation = _moments(made)
    return F.relu(_set_norm(up_norm, made, deviation, mean + bias))


def _set_norm(norm: BatchNorm, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Set a batch norm's statistics to those of ``y``, and its parameters; returns what it makes of ``y``."""
    mean, deviation = _moments(y)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(deviation.square())
    norm.weight.copy_(weight)
    norm.bias.copy_(bias)
    return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def _geometry(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[int, int, int]:
    """Kernel, stride and padding along either axis."""
    return layer.weight.shape[-1], layer.stride[0], int(layer.padding[0])


def _taps(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[slice, int]:
    """Which taps of a kernel, along either axis, lie in the block that its output has to itself, and how many."""
    kernel, stride, pad = _geometry(layer)
    side = min(kernel, stride)
    first = min(pad, kernel - side)
    return slice(first, first + side), side


def _has_one_place(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether a block is one place, so that the decoder's bias can be what each place wants."""
    return isinstance(layer, nn.Linear) or layer.stride[0] == 1


def _blocks(down: nn.Conv2d | nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Rows (n * places, D) of what the stage's outputs have to themselves, channel by channel, of ``x``."""
    if not isinstance(down, nn.Conv2d):
        return x
    taps, side = _taps(down)
    kernel, stride, pad = _geometry(down)
    low, across = ((size + 2 * pad - kernel) // stride + 1 for size in x.shape[2:])
    padded = F.pad(x, (pad, pad, pad, pad))
    rows, columns = (slice(taps.start, taps.start + (n - 1) * stride + side) for n in (low, across))
    return F.unfold(padded[..., rows, columns], side, stride=stride).movedim(1, 2).flatten(0, 1)


def _few(rows: torch.Tensor) -> torch.Tensor:
    """At most :data:`ROWS` of them, evenly spaced: the same of code and target."""
    return rows[:: -(-len(rows) // ROWS)]


def _deviation(y: torch.Tensor) -> torch.Tensor:
    """Standard deviation around the channels' means, over all of them."""
    return _moments(y)[1].square().mean().sqrt()


def _moments(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel."""
    flat = y.movedim(1, 0).flatten(1)
    return flat.mean(dim=1), (flat.var(dim=1, unbiased=False) + 1e-5).sqrt()
