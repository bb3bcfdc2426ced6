"""BottleNet++: a learned codec at the cut of a network that is otherwise as it was, trained in three phases.

J. Shao and J. Zhang, "BottleNet++: An End-to-End Approach for Feature Compression in Device-Edge Co-Inference Systems",
ICC Workshops 2020; the codec is :mod:`coinfer_ray.compression.bottlenetpp`. First the network is trained alone (here:
the base network that all methods start from), then the codec with the network frozen, then both.

What differs here: both phases are trained as all candidates are, by distillation, and present as many images in all,
a third of them to the codec alone, in the published batches of 32. The published rate of Adam, 1e-4, is for 70 epochs
and would leave a codec of this budget where it started: its rates follow an output's number of inputs, as those of all
codecs do, and the decoder's batch norm starts at the scale of the feature. A codeword is sent as it is, 32 bits a
value, and also quantised to 8 bits without further training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from coinfer_ray.compression.bottlenetpp import build_bottleneck
from coinfer_ray.compression.codec import Feature
from coinfer_ray.compression.quantize import Quantizer
from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import Layer, LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.split import SplitNetwork, split
from coinfer_ray.problem.strategy import FLOAT_BITS
from coinfer_ray.training.candidate import MEASURE_IMAGES, CandidateTrainer, codec_rates
from coinfer_ray.training.compared.common import Row

MAX_CUTS = 6
MAX_TRAININGS = 24
MIN_SIDE = 4  # of a feature whose sides the codec may halve
# (Feature channels to a codeword channel, whether the sides are halved), those that keep a bound of a few points first.
COMPRESSIONS = (
    (4, False),
    (8, False),
    (2, False),
    (4, True),
    (16, False),
    (8, True),
    (32, False),
    (16, True),
    (32, True),
)
CODEC_SHARE = 1 / 3  # of the images
CODEC_BATCH = 32
CODEC_RATE = 1.0  # in both phases, over an output's number of inputs as in codec_rates
CODED_BITS = 8


class BottlenetppTraining:
    """One training for each pair of a cut and a compression; each leaves a row with a codeword of 32 bits a value, and
    one with the same codeword quantised to 8."""

    name = "bottlenetpp"

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        """``partition_point``, ``channels`` of the codeword, and ``shrink``: every cut once before any comes again.

        Vectors are not offered: the codec is convolutional.
        """
        asked: list[dict[str, Any]] = []
        for divisor, halved in COMPRESSIONS:
            for point in useful_cuts(graph):
                layer = graph.layers[point - 1]
                channels = max(1, int(layer.out_channels / divisor + 0.5))
                shrink = halved and min(layer.out_height, layer.out_width) >= MIN_SIDE
                each = {"partition_point": point, "channels": channels, "shrink": shrink}
                if each not in asked:
                    asked.append(each)
        return asked[:MAX_TRAININGS]

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        """``asked`` may also hold ``noise``, the greatest standard deviation of white Gaussian noise on the codeword.
        There is no second row then: what is sent are no bits.

        Raises:
            InputError: the partition point is no cut with a feature that has sides.
            Diverged: the loss is no longer finite.
        """
        graph, settings, point, noise = trainer.graph, trainer.settings, asked["partition_point"], asked.get("noise", 0)
        if point not in graph.cut_points[1:-1] or not _has_sides(graph.layers[point - 1]):
            legal = [each for each in graph.cut_points[1:-1] if _has_sides(graph.layers[each - 1])]
            raise InputError(f"bottlenetpp: partition_point {point} must be one of {legal}, whose features have sides")
        layer = graph.layers[point - 1]
        feature = Feature(layer.out_channels, layer.out_height, layer.out_width, flat=False)
        torch.manual_seed(seed)
        codec = build_bottleneck(
            feature, asked["channels"], shrink=asked["shrink"], rectified=_never_negative(graph, point), noise=noise
        )
        halves = split(copy.deepcopy(trainer.base), graph, point)
        network = SplitNetwork(halves[0], codec.encoder, codec.channel, codec.decoder, halves[1])
        network = channels_last(network.to(trainer.device))
        images = settings.fine_tune.images + settings.end_to_end.images
        alone = round(CODEC_SHARE * images)
        _start_decoder(trainer, network)
        _train_codec(trainer, network, alone, seed)
        rates = codec_rates(network, CODEC_RATE)
        trainer.tune(network, replace(settings.end_to_end, images=images - alone), seed + 1, rates)
        flops = [each.flops for each in graph.layers]
        costs = {
            "partition_point": point,
            "device_flop": sum(flops[:point]) + codec.encoder_flops,
            "server_flop": sum(flops[point:]) + codec.decoder_flops,
            "codec_device_flop": codec.encoder_flops,
            "codec_server_flop": codec.decoder_flops,
            "images": images,
        }
        rows = []
        for bits in (FLOAT_BITS,) if noise else (FLOAT_BITS, CODED_BITS):
            if bits == CODED_BITS:
                network.channel = _calibrated(trainer, network)
            measured = trainer.measure(network, seed + 2)
            rows.append(costs | {"feature_bits": bits, "uplink_bit": bits * codec.elements} | measured)
        return rows


def useful_cuts(graph: LayerGraph) -> list[int]:
    """The inner cuts whose feature has sides and fewer elements than that of any earlier cut, at most
    :data:`MAX_CUTS`.

    Activations and batch norms behind such a cut go to the device's side, as in the paper: they cost next to nothing,
    and what they leave is easier to encode.
    """
    points: list[int] = []
    for point in graph.cut_points[1:-1]:
        layer = graph.layers[point - 1]
        if not _has_sides(layer):
            continue
        least = graph.layers[points[-1] - 1].output_elements if points else None
        if least is None or layer.output_elements < least:
            points.append(point)
        elif layer.kind in ("relu", "batch_norm") and points[-1] in layer.inputs:
            points[-1] = point
    return points[:MAX_CUTS]


def _has_sides(layer: Layer) -> bool:
    return not layer.vector and layer.out_height * layer.out_width > 1


def _never_negative(graph: LayerGraph, point: int) -> bool:
    """Whether a ReLU, or pooling and dropout after one, made the feature."""
    layer = graph.layers[point - 1]
    if layer.kind in ("max_pool", "avg_pool", "dropout"):
        return layer.inputs[0] > 0 and _never_negative(graph, layer.inputs[0])
    return layer.kind == "relu"


class _Frozen(nn.Module):
    """``network`` as it is used: batch norms keep their statistics and dropout is off, in training mode too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> _Frozen:
        super().train(False)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.network(x)
        return output


def _train_codec(trainer: CandidateTrainer, network: SplitNetwork, images: int, seed: int) -> None:
    """Train the codec of ``network`` while both of its halves stay what they are."""
    halves = (network.device_half, network.server_half)
    for half in halves:
        half.requires_grad_(False)
    frozen = [_Frozen(half) for half in halves]
    around = SplitNetwork(frozen[0], network.encoder, network.channel, network.decoder, frozen[1])
    phase = replace(trainer.settings.end_to_end, images=images, batch_size=CODEC_BATCH)
    trainer.tune(around, phase, seed, codec_rates(around, CODEC_RATE))
    for half in halves:
        half.requires_grad_(True)


def _start_decoder(trainer: CandidateTrainer, network: SplitNetwork) -> None:
    """Start the decoder's batch norm at the mean and the standard deviation of each channel of the feature."""
    norm = next(module for module in network.decoder.modules() if isinstance(module, nn.BatchNorm2d))
    sums, squares, count = torch.zeros_like(norm.weight), torch.zeros_like(norm.weight), 0
    with torch.no_grad():
        for feature in _known_features(trainer, network):
            values = feature.float().movedim(1, 0).flatten(1)
            sums += values.sum(1)
            squares += values.square().sum(1)
            count += values.shape[1]
        norm.bias.copy_(sums / count)
        norm.weight.copy_((squares / count - norm.bias.square()).clamp_min(0).sqrt())


def _calibrated(trainer: CandidateTrainer, network: SplitNetwork) -> Quantizer:
    """A quantizer whose range is that of the codewords of some training images."""
    quantizer = Quantizer(CODED_BITS).to(trainer.device)
    with torch.no_grad():
        for feature in _known_features(trainer, network):
            with _autocast(trainer):
                quantizer.calibrate(network.encoder(feature))
    return quantizer


@torch.no_grad()
def _known_features(trainer: CandidateTrainer, network: SplitNetwork) -> Iterator[torch.Tensor]:
    """What crosses the cut for some training images, a batch at a time; the network is in evaluation mode then."""
    known = trainer.train_images.take(slice(0, MEASURE_IMAGES))
    network.eval()
    for start in range(0, len(known), 256):
        with _autocast(trainer):
            feature: torch.Tensor = network.device_half(trainer.data.preprocess(known.images[start : start + 256]))
        yield feature


def _autocast(trainer: CandidateTrainer) -> torch.autocast:
    return torch.autocast(trainer.device.type, dtype=torch.bfloat16, enabled=trainer.precision == torch.bfloat16)
