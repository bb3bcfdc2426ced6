"""Early exits on the lines of Edgent (E. Li, Z. Zhou and X. Chen, "Edge Intelligence: On-Demand Deep Learning Model
Co-Inference with Device-Edge Synergy", SIGCOMM MECOMM 2018): a network may end behind an inner layer, with a head of
its own, and what is left of it is cut where it pays, or stays whole on either side.

Edgent takes the most accurate exit that meets a deadline. Here the accuracy is given and the latency sought, so the
answer is the least latency over (exit, cut) of the exits that keep the bound; it needs no predictor of latencies, since
costs are known.

What differs here: its network is BranchyNet's (S. Teerapittayanon, B. McDanel and H. T. Kung, ICPR 2016), whose
branches and trunk are trained together from scratch. Here **the trunk is frozen**: all methods start from the same base
network, the last exit is that network, and with a trunk that never moves its accuracy stays the one that was measured,
whatever the other exits need. All heads learn in one training, by distillation from the last exit and on as many images
as a candidate; as they share nothing that moves, none is in another's way, so every exit has two of them to choose
from. A feature is sent as floats, as there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from coinfer_ray.models.layers import Layer, LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.split import Watched, split
from coinfer_ray.models.symbolic import fx_trace
from coinfer_ray.training.candidate import CandidateTrainer, distillation_loss
from coinfer_ray.training.compared.common import Row, lower_envelope, plain_cuts
from coinfer_ray.training.trainer import Batch, train

MAX_EXITS = 12
HIDDEN = (0, 512)  # channels between a head's feature and its outputs; 0: a linear classifier
LEARNING_RATE = 1e-2  # of heads that start from nothing; twice and five times less was worse behind early layers
BATCH = 64
MEASURE_BATCH = 256  # as everything else is measured
_WEIGHTED = ("conv", "fc", "linear", "other")


class Edgent:
    """One training of all heads; it leaves a row for each head and each cut of its network that can pay."""

    name = "edgent"

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        """``exits``: the layers behind which the network may end."""
        exits = exit_points(graph)
        return [{"exits": exits}] if exits else []

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        """Train the heads, and measure all of them in one pass.

        Raises:
            Diverged: the loss is no longer finite.
        """
        settings, graph = trainer.settings, trainer.graph
        images = settings.fine_tune.images + settings.end_to_end.images
        torch.manual_seed(seed)
        network = WithExits(copy.deepcopy(trainer.base), graph, asked["exits"])
        network = channels_last(network.to(trainer.device))
        phase = replace(settings.end_to_end, images=images, batch_size=BATCH, learning_rate=LEARNING_RATE)
        train(
            network,
            trainer.train_images,
            trainer.data.preprocess,
            phase,
            seed=seed,
            device=trainer.device,
            precision=trainer.precision,
            loss=_ExitsLoss(settings.distillation),
        )
        found = exit_hits(trainer, network)
        rows = []
        for number, (point, hidden) in enumerate(network.exits):
            measured = trainer.compare_with_base({name: hits[number] for name, hits in found.items()})
            variant = f"exit after {graph.layers[point - 1].name}, " + (f"{hidden} hidden" if hidden else "linear")
            measured |= {"images": images, "variant": variant}
            rows += cuts_of_exit(trainer, network.ending_at(number), point, measured)
        return rows


def exit_points(graph: LayerGraph) -> list[int]:
    """The layers behind which a network may end, at most :data:`MAX_EXITS`, evenly by FLOPs.

    Of the cuts between two layers with weights the one with the fewest values, the latest of equals; none where only
    the network's own classifier is left.
    """
    places: list[int] = []
    before = 0
    last = max(layer.index for layer in graph.layers if layer.kind in _WEIGHTED)
    for point in graph.cut_points[1:-1]:
        between = graph.layers[before:point]
        if any(layer.kind in _WEIGHTED for layer in graph.layers[point : last - 1]):
            if not places or any(layer.kind in _WEIGHTED for layer in between):
                places.append(point)
            elif graph.layers[point - 1].output_elements <= graph.layers[places[-1] - 1].output_elements:
                places[-1] = point
            before = point
    done = {point: sum(layer.flops for layer in graph.layers[:point]) / graph.flops for point in places}
    chosen: list[int] = []
    for number in range(min(MAX_EXITS, len(places))):
        aim = (number + 1) / (min(MAX_EXITS, len(places)) + 1)
        chosen.append(min((point for point in places if point not in chosen), key=lambda each: abs(done[each] - aim)))
    return sorted(chosen)


@dataclass(frozen=True)
class _ExitsLoss:
    """The sum of the losses of all exits but the last, whose outputs they learn from."""

    weight: float

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        *exits, last = model(batch.x)
        losses = [distillation_loss(logits, last, batch.labels, self.weight) for logits in exits]
        return torch.stack(losses).sum()


class WithExits(nn.Module):
    """A frozen ``network`` of ``graph`` with heads behind the layers ``points``, one for each of :data:`HIDDEN`.

    It gives the outputs (n, classes) of all heads, in the order of ``exits``, and then the network's own. In training
    mode the network stays as it is used: batch norms keep their statistics, dropout is off.
    """

    def __init__(self, network: nn.Module, graph: LayerGraph, points: Sequence[int]) -> None:
        super().__init__()
        self.graph = graph
        self.trunk = fx_trace(network, graph.model).requires_grad_(False).eval()
        self.exits = [(point, hidden) for point in points for hidden in HIDDEN]
        self.heads = nn.ModuleList(head(graph.layers[point - 1], hidden, graph.classes) for point, hidden in self.exits)

    def train(self, mode: bool = True) -> WithExits:
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features: dict[int, torch.Tensor] = {}
        watched = Watched(self.trunk, self.graph, sorted({point for point, _ in self.exits}))
        with torch.no_grad():
            last = watched.run(x, features.__setitem__)
        outputs = [each(features[point]) for each, (point, _) in zip(self.heads, self.exits, strict=True)]
        return [*outputs, last]

    def ending_at(self, number: int) -> nn.Module:
        """The network that ends at one of the heads, in evaluation mode."""
        device_half, _ = split(self.trunk, self.graph, self.exits[number][0])
        return nn.Sequential(device_half, self.heads[number]).eval()


def head(layer: Layer, hidden: int, classes: int) -> nn.Sequential:
    """A classifier on what ``layer`` gives.

    With ``hidden`` channels it is a depthwise and a pointwise convolution (a tenth of a full one's operations), each
    normalised, before the mean over positions; where there is one position, a hidden linear layer.
    """
    channels = layer.out_channels
    if layer.vector:
        elements = layer.output_elements
        if not hidden:
            return nn.Sequential(nn.Linear(elements, classes))
        return nn.Sequential(nn.Linear(elements, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    mean = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if not hidden:
        return nn.Sequential(*mean, nn.Linear(channels, classes))
    if layer.out_height * layer.out_width == 1:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    stride = 2 if min(layer.out_height, layer.out_width) > 2 else 1
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        *mean,
        nn.Linear(hidden, classes),
    )


@torch.inference_mode()
def exit_hits(trainer: CandidateTrainer, network: WithExits) -> dict[str, torch.Tensor]:
    """Which images every exit gets right, the network's own at the end: (exits + 1, n) bool by split."""
    network.eval()
    found = {}
    for name, images in (("validation", trainer.validation_images), ("test", trainer.test_images)):
        correct = []
        for start in range(0, len(images), MEASURE_BATCH):
            part = images.take(slice(start, start + MEASURE_BATCH))
            with trainer.autocast():
                outputs = network(trainer.data.preprocess(part.images))
            correct.append(torch.stack([logits.argmax(1) == part.labels for logits in outputs]).cpu())
        found[name] = torch.cat(correct, dim=1)
    return found


def cuts_of_exit(trainer: CandidateTrainer, network: nn.Module, point: int, measured: Mapping[str, Any]) -> list[Row]:
    """A row for each partition point of a ``network`` that ends behind layer ``point``: whole on the server, whole on
    the device, and of those between the ones that are least for some device and link."""
    graph = trainer.graph
    inner = [each for each in graph.cut_points[1:-1] if each <= point]
    server, *between = plain_cuts(trainer, network, [0, *inner], measured)
    everything = server["device_flop"] + server["server_flop"]
    device = server | {
        "partition_point": len(graph.layers),
        "device_flop": everything,
        "server_flop": 0,
        "uplink_bit": 0,
    }
    return [server, *lower_envelope(between), device]
