"""FPGM: filters near the geometric median of their layer are replaceable, so these are removed.

Y. He, P. Liu, Z. Wang, Z. Hu and Y. Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
Acceleration", CVPR 2019. A filter's score is the sum of its Euclidean distances to the layer's other filters; those
with the least go. They are set to zero, training goes on without them, and at the end of every epoch they are chosen
anew; only after the last epoch are they removed (Algorithm 1). From a trained network the authors' program chooses
before the first epoch as well, and so does this.

Published is one rate for all convolutions, whose linear layers stay whole. **Layer by layer** is the other reading of
what the paper compares with, FPGM with "auto-selection" of what is pruned: the space of the proposed method with this
criterion and without a codec. Its rates are those of the shipped records' best strategies without a codec, which were
pruned by the L1 norm, so that its search is as good as that one.

What differs here: layers whose channels can only fall together are ranked by the mean of their scores, and grouped
convolutions in whole groups. The training is that of all candidates: by
distillation, as many images, one decay of the learning rate; an epoch is a sixth of it. Filters of zeros are as near to
each other as can be, so that trained networks keep their first choice: no later one changed it in our trainings.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Codec
from coinfer_ray.records.store import read_records, shipped_records
from coinfer_ray.training.candidate import CandidateTrainer
from coinfer_ray.training.compared.common import Row, plain_cuts
from coinfer_ray.training.subnetworks import flops_left

RATES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
EPOCHS = 6
LAYERWISE = 6  # at most
MOST_LOST = 0.05  # of the accuracy, by a strategy whose rates are taken


class FpgmTraining:
    """Prunes every convolutional set at one ``rate`` (0..1) a training, or every set to so many channels (``kept``);
    each leaves a row for every partition point."""

    name = "fpgm"

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        return [{"rate": rate} for rate in RATES] + [{"kept": kept} for kept in layerwise(graph)]

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        settings, graph = trainer.settings, trainer.graph
        images = settings.fine_tune.images + settings.end_to_end.images
        base = channels_last(copy.deepcopy(trainer.base).to(trainer.device))
        kept = asked["kept"] if "kept" in asked else uniform(graph, asked["rate"])
        soft = SoftPruned(base, graph, kept, choose_every=-(-images // EPOCHS))
        trainer.tune(soft, replace(settings.end_to_end, images=images), seed)
        soft.choose()
        removed = shrink(soft.network, graph, soft.keep)
        measured = trainer.measure(removed, seed + 1) | {"images": images}
        return plain_cuts(trainer, removed, graph.cut_points, measured)


def uniform(graph: LayerGraph, rate: float) -> dict[str, int]:
    """The channels that every convolutional set keeps where ``rate`` (0..1) of its units go."""
    return {
        each.name: each.unit * max(1, each.channels // each.unit - round(rate * (each.channels // each.unit)))
        for each in graph.prunable_sets
        if _is_convolutional(graph, each.layers[0])
    }


def layerwise(graph: LayerGraph) -> list[dict[str, int]]:
    """The channels that every set keeps in the shipped records' best strategies without a codec: those that lose less
    than all that have fewer FLOPs, at most :data:`LAYERWISE` evenly along them. None where no records ship."""
    try:
        path = shipped_records(graph.model, graph.input_px)
    except InputError:
        return []
    records = read_records(path)
    space, base, accuracy = SearchSpace(graph), records.base_accuracy(), records.accuracy()
    found: dict[tuple[tuple[str, int], ...], list[float]] = {}
    for strategy, reached in zip(records.strategies, accuracy, strict=True):
        if space.canonical_codec(strategy) == Codec():
            found.setdefault(tuple(space.kept_channels(strategy).items()), []).append(base - float(reached))
    front: list[dict[str, int]] = []
    least = MOST_LOST
    for _, lost, kept in sorted(
        (flops_left(graph, dict(kept)), float(np.mean(lost)), kept) for kept, lost in found.items()
    ):
        if lost < least:
            least = lost
            front.append(dict(kept))
    places = np.unique(np.linspace(0, len(front) - 1, min(LAYERWISE, len(front))).round().astype(int))
    return [front[place] for place in places]


class SoftPruned(nn.Module):
    """``network`` with the channels at zero that FPGM would remove, so that each set of ``kept`` has so many left.

    They are chosen at once, and anew after every ``choose_every`` images in training mode. What the optimizer makes
    of them in between is set back to zero before each forward pass: that is to mask their gradients, and their
    momentum too.
    """

    def __init__(self, network: nn.Module, graph: LayerGraph, kept: Mapping[str, int], choose_every: int) -> None:
        super().__init__()
        self.network = network
        sets = tuple(prunable for prunable in graph.prunable_sets if prunable.name in kept)
        self.graph = replace(graph, prunable_sets=sets)
        self.kept = kept
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
            if layer.kind not in ("conv", "fc", "batch_norm") or layer.out_set not in self.keep:
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
