"""FPGM: filters near the geometric median of their layer are replaceable, so these are removed, at one rate everywhere.

Y. He, P. Liu, Z. Wang, Z. Hu and Y. Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
Acceleration", CVPR 2019. A filter's score is the sum of its Euclidean distances to the layer's other filters; those
with the least go. They are set to zero, training goes on without them, and at the end of every epoch they are chosen
anew; only after the last epoch are they removed (Algorithm 1). From a trained network the authors' program chooses
before the first epoch as well, and so does this.

What differs here: layers whose channels can only fall together are ranked by the mean of their scores, and grouped
convolutions in whole groups. Linear layers stay whole, as published. The training is that of all candidates: by
distillation, as many images, one decay of the learning rate; an epoch is a sixth of it. Filters of zeros are as near to
each other as can be, so that trained networks keep their first choice: no later one changed it in our trainings.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.training.candidate import CandidateTrainer
from coinfer_ray.training.compared.common import Row, plain_cuts

RATES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
EPOCHS = 6


class FpgmTraining:
    """Prunes every convolutional set at one ``rate`` (0..1) a training; each leaves a row for every partition point."""

    name = "fpgm"

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        return [{"rate": rate} for rate in RATES]

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        settings, graph = trainer.settings, trainer.graph
        images = settings.fine_tune.images + settings.end_to_end.images
        base = channels_last(copy.deepcopy(trainer.base).to(trainer.device))
        soft = SoftPruned(base, graph, asked["rate"], choose_every=-(-images // EPOCHS))
        trainer.tune(soft, replace(settings.end_to_end, images=images), seed)
        soft.choose()
        removed = shrink(soft.network, graph, soft.keep)
        measured = trainer.measure(removed, seed + 1) | {"images": images}
        return plain_cuts(trainer, removed, graph.cut_points, measured)


class SoftPruned(nn.Module):
    """``network`` with the convolutional channels at zero that FPGM would remove, ``rate`` (0..1) of every set.

    They are chosen at once, and anew after every ``choose_every`` images in training mode. What the optimizer makes
    of them in between is set back to zero before each forward pass: that is to mask their gradients, and their
    momentum too.
    """

    def __init__(self, network: nn.Module, graph: LayerGraph, rate: float, choose_every: int) -> None:
        super().__init__()
        self.network = network
        sets = tuple(prunable for prunable in graph.prunable_sets if _is_convolutional(graph, prunable.layers[0]))
        self.graph = replace(graph, prunable_sets=sets)
        self.kept = {
            each.name: each.unit * max(1, each.channels // each.unit - round(rate * (each.channels // each.unit)))
            for each in sets
        }
        self.choose_every = choose_every
        self.presented = 0
        # NNI knows plain convolutions only, and training makes others of some: the same parameters in modules that
        # stay as they are, in a tuple lest they count twice.
        self._plain = (copy.deepcopy(network, memo={id(each): each for each in network.parameters()}),)
        self._gone: list[tuple[nn.Parameter, torch.Tensor]] = []
        self.choose()

    def choose(self) -> None:
        """Rank the channels by the weights as they are now, and set the last ones to zero."""
        self.clear()
        ranking = ChannelRanking(self._plain[0], self.graph, "fpgm")
        self.keep = {name: rows.cpu() for name, rows in ranking.keep(self.kept).items()}
        self._gone = []
        for layer in self.graph.layers:
            if layer.kind not in ("conv", "batch_norm") or layer.out_set not in self.keep:
                continue
            for parameter in self.network.get_submodule(layer.module).parameters(recurse=False):
                gone = torch.ones(len(parameter), dtype=torch.bool)
                gone[self.keep[layer.out_set]] = False
                self._gone.append((parameter, gone.nonzero().flatten().to(parameter.device)))
        self.clear()

    @torch.no_grad()
    def clear(self) -> None:
        """Set the chosen channels to zero: their filters and biases, and their scale and shift in batch norms."""
        for parameter, gone in self._gone:
            parameter[gone] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            if self.presented and self.presented % self.choose_every < len(x):
                self.choose()
            self.clear()
            self.presented += len(x)
        output: torch.Tensor = self.network(x)
        return output


def _is_convolutional(graph: LayerGraph, layer: str) -> bool:
    return next(each.kind for each in graph.layers if each.name == layer) == "conv"
