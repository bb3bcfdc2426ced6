"""The halves of a network that its own times are fitted to: the beginning and the rest at each cut, at several levels
of pruning; and others, pruned set by set, that are kept out of the fit for its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from coinfer_ray.models.layers import Layer, LayerGraph
from coinfer_ray.problem.layer_times import FREE
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.profile.work import Part, Work, pruned_at_random, with_kept

LEVELS = (0.0, 0.3, 0.5, 0.75)  # of pruning, the same for all sets
HELD_OUT = 8  # cuts whose halves are kept out of the fit, each pruned in another way

Side = Literal["device", "server"]


@dataclass(frozen=True)
class Half:
    """One half of a network: ``work`` on a ``side`` of the cut after layer ``cut``.

    ``pruned`` is the share that all prunable sets lose; None where each loses its own, which keeps it out of the fit.
    """

    side: Side
    cut: int
    pruned: float | None
    work: Work


def measured_cuts(graph: LayerGraph) -> list[int]:
    """The cuts between which times are told apart: one after each cut's layers that a runtime folds away, and the end.

    A cut with such layers behind it (a convolution, its activation to come) has the halves of the next.
    """
    ends = [
        point
        for point in graph.cut_points[1:]
        if point == len(graph.layers) or graph.layers[point].kind not in FREE or not graph.layers[point].cut_allowed
    ]
    return [point for point in ends if any(layer.kind not in FREE for layer in graph.layers[:point])]


def halves_of(graph: LayerGraph, seed: int = 0) -> list[Half]:
    """All halves to measure of a network, in an order of which any beginning holds some of everything."""
    rng, space = np.random.default_rng([seed, 1]), SearchSpace(graph)
    cuts = measured_cuts(graph)
    found = []
    for level in LEVELS:
        pruned = pruned_uniformly(graph, space, level)
        found += [half for cut in cuts for half in both_halves(pruned, cut, level, f"{graph.model}-{graph.input_px}")]
    for number, cut in enumerate(sorted(rng.choice(cuts, min(HELD_OUT, len(cuts)), replace=False).tolist())):
        name = f"{graph.model}-{graph.input_px}-held-out-{number}"
        found += both_halves(pruned_at_random(graph, rng), cut, None, name)
    return [found[position] for position in rng.permutation(len(found))]


def both_halves(pruned: LayerGraph, cut: int, level: float | None, name: str) -> list[Half]:
    """Both halves at a cut, or the one that has anything to do."""
    part: Part = "cut" if level is not None else "held out"
    share = "" if level is None else f"-{level:g}"
    both: dict[Side, tuple[Layer, ...]] = {"device": pruned.layers[:cut], "server": pruned.layers[cut:]}
    return [
        Half(side, cut, level, Work(f"{name}-{side}-{cut}{share}", part, layers))
        for side, layers in both.items()
        if any(layer.kind not in FREE for layer in layers)
    ]


def pruned_uniformly(graph: LayerGraph, space: SearchSpace, level: float) -> LayerGraph:
    """The network with all prunable sets pruned by a share, or the one that its space has nearest to it."""
    levels = np.zeros(len(space.variables), dtype=np.int64)
    for row in range(space.sets):
        count = space.tables.n_levels[row]
        levels[row] = int(np.abs(space.tables.values[row, :count] - level).argmin())
    return with_kept(graph, space.kept_channels(space.strategy(levels)))
