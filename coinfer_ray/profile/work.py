"""What is measured: layers alone at several channel counts, short runs of layers, and whole halves of networks.

Layers alone and runs are what times are fitted to; halves are for the error, and in no fit. Nothing is trained: times
do not depend on what the weights are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from coinfer_ray.models.layers import Layer, LayerGraph
from coinfer_ray.problem.layer_times import FREE, terms_of
from coinfer_ray.problem.space import SearchSpace

Part = Literal["layer", "run", "half", "cut", "held out"]  # the last two are of one network's own times
SHARES = ((1.0, 1.0), (0.5, 0.95), (0.15, 0.5))  # of the channels, between which a layer's are drawn
RUNS = 24  # of each network
HALVES = 6  # cuts of each network, of which both halves are measured
LONGEST_RUN = 30  # layers; a residual block has a dozen
MOST_LAYERS = 40  # different ones of each network


@dataclass(frozen=True)
class Work:
    """One thing to measure: consecutive ``layers`` of a network, with the channels that they have here.

    Exactly one tensor enters them, that of the first layer's input, and the last layer's output is what they give.
    """

    name: str
    part: Part
    layers: tuple[Layer, ...]

    @property
    def terms(self) -> np.ndarray:
        """(5,) what they do (:func:`coinfer_ray.problem.layer_times.terms_of`), summed."""
        rows = [terms_of(layer, layer.in_channels, layer.out_channels) for layer in self.layers]
        total: np.ndarray = np.sum(rows, axis=0)
        return total

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Of the tensor that enters, one image: a vector keeps its channels."""
        first = self.layers[0]
        return 1, first.in_channels, first.in_height, first.in_width

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)


def plan(graphs: Sequence[LayerGraph], seed: int = 0) -> list[Work]:
    """All work for the ``graphs``, in an order of which any beginning holds some of everything."""
    rng = np.random.default_rng(seed)
    work = [each for graph in graphs for each in (*_layers(graph, rng), *_runs(graph, rng), *_halves(graph, rng))]
    return [work[position] for position in rng.permutation(len(work))]


def _layers(graph: LayerGraph, rng: np.random.Generator) -> Iterator[Work]:
    """Every different layer alone, at three channel counts."""
    different = {
        (layer.kind, layer.in_channels, layer.in_height, layer.out_channels, layer.out_height, layer.kernel_area): layer
        for layer in graph.layers
        if layer.kind not in FREE
    }
    kept = list(different.values())
    for layer in (kept[position] for position in sorted(rng.permutation(len(kept))[:MOST_LAYERS])):
        for number, (low, high) in enumerate(SHARES):
            narrow = _narrowed(layer, graph, rng.uniform(low, high), rng.uniform(low, high))
            yield Work(f"{graph.model}-{graph.input_px}-{layer.name}-{number}", "layer", (narrow,))


def _narrowed(layer: Layer, graph: LayerGraph, share_in: float, share_out: float) -> Layer:
    """``layer`` with a share of its channels, where they can be pruned."""
    ci = _kept(layer.in_channels, share_in, layer.group_width or 1) if layer.in_set else layer.in_channels
    co = _kept(layer.out_channels, share_out, layer.group_width or 1) if layer.out_set else layer.out_channels
    if layer.group_width or layer.kind not in ("conv", "fc"):  # what goes in comes out
        co = ci
    inputs = tuple(0 for _ in layer.inputs)
    return replace(layer, in_channels=ci, out_channels=co, inputs=inputs)


def _kept(channels: int, share: float, unit: int) -> int:
    return unit * max(1, round(share * channels / unit))


def _runs(graph: LayerGraph, rng: np.random.Generator) -> Iterator[Work]:
    """Short runs of layers between two places at which one tensor crosses, of a network pruned at random."""
    points = np.array(graph.cut_points)
    for number in range(RUNS):
        pruned = pruned_at_random(graph, rng).layers
        first = int(rng.integers(0, len(points) - 1))
        near = points[(points > points[first]) & (points <= points[first] + LONGEST_RUN)]
        if len(near):
            layers = pruned[points[first] : int(rng.choice(near))]
            if any(layer.kind not in FREE for layer in layers):
                yield Work(f"{graph.model}-{graph.input_px}-run-{number}", "run", layers)


def _halves(graph: LayerGraph, rng: np.random.Generator) -> Iterator[Work]:
    """Both halves of the whole network, pruned at random or not at all, at several cuts; and it all."""
    yield Work(f"{graph.model}-{graph.input_px}-whole", "half", graph.layers)
    inner = np.array(graph.cut_points[1:-1])
    for number, point in enumerate(sorted(rng.permutation(inner)[:HALVES].tolist())):
        layers = graph.layers if number % 2 else pruned_at_random(graph, rng).layers
        for side, half in (("device", layers[:point]), ("server", layers[point:])):
            if any(layer.kind not in FREE for layer in half):
                yield Work(f"{graph.model}-{graph.input_px}-{side}-{point}", "half", half)


def pruned_at_random(graph: LayerGraph, rng: np.random.Generator) -> LayerGraph:
    """``graph`` pruned at random: every set by a ratio of its own, around a common one."""
    space = SearchSpace(graph)
    levels = np.zeros(len(space.variables), dtype=np.int64)
    common = rng.uniform(0, 0.6)
    for row in range(space.sets):
        levels[row] = int(np.clip(common + rng.normal(0, 0.15), 0, 0.9) * space.tables.n_levels[row])
    return with_kept(graph, space.kept_channels(space.strategy(levels)))


def with_kept(graph: LayerGraph, kept: Mapping[str, int]) -> LayerGraph:
    """``graph`` with so many channels of each prunable set."""
    layers = tuple(
        replace(
            layer,
            in_channels=layer.in_channels if layer.in_set is None else kept[layer.in_set],
            out_channels=layer.out_channels if layer.out_set is None else kept[layer.out_set],
        )
        for layer in graph.layers
    )
    return replace(graph, layers=layers)
