"""2-Step Pruning: prune all convolutions, then, for each cut, the one whose channels cross the link.

W. Shi, Y. Hou, S. Zhou, Z. Niu, Y. Zhang and L. Geng, "Improving Device-Edge Cooperative Inference of Deep Learning via
2-Step Pruning" (IEEE INFOCOM Workshops 2019, arXiv 1903.03472), as the authors' public code does it. One run over a
region (all convolutional sets in the first step, one of them in the second) removes in each iteration a sixteenth of
the filters that the region began with, those of the lowest Taylor scores (:mod:`.taylor`), and fine-tunes; it goes on
while the accuracy is above a share of what it was before the run and more than a fifth of the filters are left, and
ends with a longer fine-tuning. The iteration that breaks the bound is not undone.

It differs from that code in these points. The bound is on the accuracy on validation images, in evaluation mode (the
code takes the test images, and batch norms in training mode). Channels that can only fall together are one unit with
their mean score. Phases are counts of images, and every network is trained as all candidates are, with the base
network as teacher. The share of the accuracy is a parameter, for the code's 0.95 is more than an allowed loss of a few
points can bear twice.
"""

from __future__ import annotations

import copy
import json
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from coinfer_ray.compression.pruning import shrink
from coinfer_ray.compression.quantize import Quantizer
from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.split import SplitNetwork, split
from coinfer_ray.training.candidate import CandidateTrainer
from coinfer_ray.training.compared.common import Row, lower_envelope, plain_cuts
from coinfer_ray.training.compared.taylor import convolutional_sets, taylor_scores
from coinfer_ray.training.prunable import measure_batch_norms
from coinfer_ray.training.trainer import accuracy

CODED_BITS = 8
Units = Sequence[tuple[str, int]]  # the set and the number of a unit within it


@dataclass(frozen=True)
class TwoStepSettings:
    """``keeps``: the shares of the accuracy that runs are planned for. An iteration ranks by ``ranking_images``,
    removes one of ``parts`` of the region's units and trains with ``images``; ``final_images`` end a run. A run stops
    at ``least`` of the region's units. At most ``most_sets`` sets get a second step, and at most ``coded_cuts`` cuts of
    the first step's network are measured with a coded feature, too.
    """

    keeps: tuple[float, ...] = (0.99, 0.975)
    ranking_images: int = 2_000
    images: int = 4_000
    final_images: int = 16_000
    batch_size: int = 128
    parts: int = 16
    least: float = 0.2
    most_sets: int = 6
    coded_cuts: int = 4


@dataclass(frozen=True)
class _Pruned:
    """A network after a run, and how many training images it has seen in all."""

    network: nn.Module
    images: int


@dataclass
class TwoStep:
    """The trainings of 2-Step Pruning: one for the first step, and one for each set whose channels cross a cut.

    A second step begins with the first, from the same seed. The last first step is kept, so that a process that does
    several items of one ``keep`` with one seed, one after another, does it once; results are the same without.
    """

    settings: TwoStepSettings = TwoStepSettings()
    name: str = field(default="two_step", init=False)
    _first: tuple[weakref.ref[CandidateTrainer], float, int, _Pruned] | None = field(default=None, init=False)

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        """For each share of the accuracy the first step (``set`` None), and a second one for each set at a cut.

        Where more than ``most_sets`` sets cross a legal cut, they are divided in the order of their cuts into as many
        groups of one size, as nearly as can be, and each group is stood for by the set that sends the fewest elements,
        the first of equals.
        """
        cuts = cheapest_cuts(graph)
        elements = {name: graph.layers[point - 1].output_elements for name, point in cuts.items()}
        groups = np.array_split(sorted(cuts, key=cuts.__getitem__), min(self.settings.most_sets, len(cuts)) or 1)
        chosen = [min((str(name) for name in group), key=elements.__getitem__) for group in groups if len(group)]
        return [{"keep": keep, "set": name} for keep in self.settings.keeps for name in (None, *chosen)]

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        """Do the first step, or with ``asked["set"]`` both; ``asked["keep"]``: the share of the accuracy (0..1) above
        which a run goes on.

        Rows of the first step: all cuts at which one tensor crosses, both endpoints included, with 32 bits a value; and
        a few inner ones with a feature of 8 bits a value after Huffman coding. Those of the second step: the cuts at
        which the set's channels cross, and the cheapest of them with a coded feature. ``images`` counts those presented
        by ranking and training, the first step included; ``kept`` is a JSON object of the channels that each set keeps.

        Raises:
            InputError: ``keep`` is out of its range, or ``set`` is none that crosses a cut.
            Diverged: the loss or the scores are no numbers.
        """
        graph, keep, name = trainer.graph, asked["keep"], asked["set"]
        cuts = cheapest_cuts(graph)
        if not 0 < keep < 1:
            raise InputError(f"two_step: keep is {keep}; it must be above 0 and below 1")
        if name is not None and name not in cuts:
            raise InputError(f"two_step: no cut of {graph.model} has the set {name}; sets are {', '.join(cuts)}")
        pruned = self._first_step(trainer, keep, seed)
        if name is not None:
            second = prune(trainer, pruned.network, [name], keep, self.settings, np.random.default_rng([seed, 2]))
            pruned = replace(second, images=pruned.images + second.images)
        known = {"images": pruned.images, "kept": json.dumps(kept_channels(pruned.network, graph))}
        measured = trainer.measure(pruned.network, seed) | known
        if name is None:
            rows = plain_cuts(trainer, pruned.network, graph.cut_points, measured)
            inner = [row for row in rows if 0 < row["partition_point"] < len(graph.layers)]
            coded = lower_envelope(inner)[-self.settings.coded_cuts :]
        else:
            rows = plain_cuts(trainer, pruned.network, cuts_of_set(graph, name), measured)
            coded = [row for row in rows if row["partition_point"] == cuts[name]]
        return rows + [row | _coded(trainer, pruned.network, row["partition_point"], seed) for row in coded]

    def _first_step(self, trainer: CandidateTrainer, keep: float, seed: int) -> _Pruned:
        if self._first is not None:
            of, *how, pruned = self._first
            if of() is trainer and how == [keep, seed]:
                return pruned
        region = [each.name for each in convolutional_sets(trainer.graph)]
        pruned = prune(trainer, trainer.base, region, keep, self.settings, np.random.default_rng([seed, 1]))
        self._first = weakref.ref(trainer), keep, seed, pruned
        return pruned


def cuts_of_set(graph: LayerGraph, name: str) -> list[int]:
    """The inner partition points at which one tensor crosses, with the channels of that set."""
    return [point for point in graph.cut_points[1:-1] if graph.layers[point - 1].out_set == name]


def cheapest_cuts(graph: LayerGraph) -> dict[str, int]:
    """For each convolutional set that crosses a legal cut the point that sends the fewest elements, the first of
    equals."""
    cuts = {}
    for each in convolutional_sets(graph):
        if points := cuts_of_set(graph, each.name):
            cuts[each.name] = min(points, key=lambda point: graph.layers[point - 1].output_elements)
    return cuts


def prune(
    trainer: CandidateTrainer,
    network: nn.Module,
    region: Sequence[str],
    keep: float,
    settings: TwoStepSettings,
    rng: np.random.Generator,
) -> _Pruned:
    """One run over the sets of ``region``: prune and fine-tune a copy of ``network`` in turn, as the module says.

    ``images`` of the result counts this run's. ``rng`` draws the images that units are ranked by, and the seeds.

    Raises:
        Diverged: the loss or the scores are no numbers.
    """
    graph = trainer.graph
    phase = replace(trainer.settings.fine_tune, images=settings.images, batch_size=settings.batch_size)
    network = channels_last(copy.deepcopy(network).to(trainer.device))
    start = found = _validation_accuracy(trainer, network)
    left = total = sum(_units(network, graph, region).values())
    step = math.ceil(total / settings.parts)
    images = 0
    while found > keep * start and left > settings.least * total:
        rows = torch.from_numpy(rng.permutation(len(trainer.train_images))[: settings.ranking_images])
        scores = taylor_scores(
            network,
            graph,
            trainer.train_images.take(rows.to(trainer.device)),
            trainer.data.preprocess,
            batch_size=settings.batch_size,
            device=trainer.device,
            precision=trainer.precision,
        )
        removed = least_units({name: scores[name].tolist() for name in region}, step)
        if not removed:
            break
        network = channels_last(without(network, graph, removed))
        left -= len(removed)
        if trainer.settings.norm_images:
            measure_batch_norms(
                network,
                trainer.train_images,
                trainer.data.preprocess,
                trainer.settings.norm_images,
                device=trainer.device,
                precision=trainer.precision,
            )
        trainer.tune(network, phase, _seed(rng))
        images += len(rows) + phase.images
        found = _validation_accuracy(trainer, network)
    trainer.tune(network, replace(phase, images=settings.final_images), _seed(rng))
    return _Pruned(network, images + settings.final_images)


def least_units(scores: Mapping[str, Sequence[float]], count: int) -> list[tuple[str, int]]:
    """The ``count`` units of the lowest scores by set, fewer where only each set's last one would be left.

    Among equals the first goes first.
    """
    left = {name: len(values) for name, values in scores.items()}
    every = [(value, name, unit) for name, values in scores.items() for unit, value in enumerate(values)]
    removed: list[tuple[str, int]] = []
    for _, name, unit in sorted(every, key=lambda each: each[0]):
        if len(removed) == count:
            break
        if left[name] > 1:
            left[name] -= 1
            removed.append((name, unit))
    return removed


def without(network: nn.Module, graph: LayerGraph, removed: Units) -> nn.Module:
    """A copy of ``network``, which may be a pruned one of ``graph``, without those units."""
    keep = {}
    for name in {name for name, _ in removed}:
        unit = graph.set_named(name).unit
        stays = torch.ones(_units(network, graph, [name])[name], dtype=torch.bool)
        stays[[number for of, number in removed if of == name]] = False
        keep[name] = stays.repeat_interleave(unit).nonzero().flatten()
    # Of the graph it takes no channel counts, only which layers share channels.
    return shrink(network, graph, keep)


def kept_channels(network: nn.Module, graph: LayerGraph) -> dict[str, int]:
    """How many channels of each prunable set a pruned network of ``graph`` has."""
    modules = {layer.name: layer.module for layer in graph.layers}
    weights = {each.name: network.get_submodule(modules[each.layers[0]]).weight for each in graph.prunable_sets}
    return {name: len(weight) for name, weight in weights.items() if isinstance(weight, torch.Tensor)}


def _units(network: nn.Module, graph: LayerGraph, region: Sequence[str]) -> dict[str, int]:
    kept = kept_channels(network, graph)
    return {name: kept[name] // graph.set_named(name).unit for name in region}


def _validation_accuracy(trainer: CandidateTrainer, network: nn.Module) -> float:
    return accuracy(
        network,
        trainer.validation_images,
        trainer.data.preprocess,
        device=trainer.device,
        precision=trainer.precision,
    )


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _coded(trainer: CandidateTrainer, network: nn.Module, point: int, seed: int) -> Row:
    """What a row has otherwise where the feature is sent with 8 bits a value, Huffman-coded: nothing is trained."""
    device_half, server_half = split(network, trainer.graph, point)
    quantizer = Quantizer(CODED_BITS).to(trainer.device)
    sent = SplitNetwork(device_half, nn.Identity(), quantizer, nn.Identity(), server_half)
    trainer.calibrate(sent, quantizer)
    measured = trainer.measure(sent, seed)
    return measured | {"feature_bits": CODED_BITS, "uplink_bit": trainer.coded_bit(sent, quantizer)}
