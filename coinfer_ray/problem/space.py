"""The Parameters Generator (the paper's Section V-B): decision variables, their levels, strategies.

A strategy has one sparsity ratio for each prunable set, one partition point and eight codec parameters. All of
them are discrete by nature (channels are counted, kernels are odd), so a strategy is a vector of level indices;
``SearchSpace`` says what the levels are, and ``tables`` hands them to the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np
from coinfer_kernels.notation import CODEC_VARIABLES, CODEC_WIDTH_1, SpaceTables

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy, check_feature_bits

Cuts = Literal["all", "inner"]
CutKind = Literal["raw", "spatial", "vector", "none"]

# A set has at most this many sparsity levels, so that a level fits a byte and a step frees whole vector lanes.
SPARSITY_LEVELS = 64
# From 1 (leave out) down to 1/16 of the channels or of the width.
RATIO_LEVELS = tuple(step / 16 for step in range(16, 0, -1))
KERNEL_LEVELS = (1.0, 3.0, 5.0)
STRIDE_LEVELS = (1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Variable:
    """One decision variable: ``values[level]`` is what a level means and what the predictor sees."""

    name: str
    values: tuple[float, ...]


class SearchSpace:
    """All strategies for one network.

    Variables, in order: the sparsity ratios (P of them), the partition point, the eight codec parameters. With
    ``cuts="inner"`` the partition point stays within 1..N-1, as in the paper; with ``"all"`` the endpoints 0
    (everything on the server) and N (everything on the device) belong to the space. Without a ``codec`` the codec's
    parameters mean nothing anywhere: the feature is sent as it is. ``feature_bits`` are the widths of a value that may
    cross an inner cut: each such cut has one level for each of them, in their order, of the same value, since the
    predictor is told nothing of widths; ``cut_bits`` (C,) says which level has which. ``measured_bits`` are widths at
    which only what was measured takes part, for what they cost in accuracy no predictor says: their levels come behind
    the first ``searched_cuts`` ones, which an optimizer may choose freely. ``multiple``: of each set either all
    channels are kept, or a multiple of it.
    """

    def __init__(
        self,
        graph: LayerGraph,
        *,
        cuts: Cuts = "all",
        sparsity_levels: int = SPARSITY_LEVELS,
        codec: bool = True,
        feature_bits: Sequence[int] = (FLOAT_BITS,),
        measured_bits: Sequence[int] = (),
        multiple: int = 1,
    ) -> None:
        if multiple < 1:
            raise InputError(f"multiple: channels in multiples of {multiple}; 8 suits most processors, 1 allows all")
        self.graph = graph
        self.cuts: Cuts = cuts
        self.codec = codec
        self.feature_bits = tuple(feature_bits)
        self.measured_bits = tuple(measured_bits)
        self.multiple = multiple
        for bits in (*self.feature_bits, *self.measured_bits):
            check_feature_bits(bits)
        points = graph.cut_points if cuts == "all" else graph.cut_points[1:-1]
        if not points:
            raise InputError(
                f"model: {graph.model} has no layer boundary that exactly one tensor crosses; use --cuts all"
            )
        variables = []
        for prunable in graph.prunable_sets:
            groups = prunable.channels // prunable.unit
            step = -(-groups // sparsity_levels)
            removed = [
                r
                for r in range(0, groups, step)  # at least one group stays
                if r == 0 or (prunable.channels - r * prunable.unit) % multiple == 0
            ]
            variables.append(
                Variable(f"sparsity.{prunable.name}", tuple(r * prunable.unit / prunable.channels for r in removed))
            )
        self.sets = len(variables)
        ends = (0, len(graph.layers))  # where nothing is quantised
        cuts_with_bits = [
            (point, bits) for point in points for bits in ((FLOAT_BITS,) if point in ends else self.feature_bits)
        ]
        self.searched_cuts = len(cuts_with_bits)
        cuts_with_bits += [(point, bits) for point in points if point not in ends for bits in self.measured_bits]
        self.cut_bits = np.array([bits for _, bits in cuts_with_bits], dtype=np.int64)
        variables.append(Variable("partition_point", tuple(float(point) for point, _ in cuts_with_bits)))
        codec_levels = (RATIO_LEVELS, KERNEL_LEVELS, STRIDE_LEVELS) * 2 + (RATIO_LEVELS, RATIO_LEVELS)
        variables += [
            Variable(f"codec.{field.name}", levels) for field, levels in zip(fields(Codec), codec_levels, strict=True)
        ]
        self.variables = tuple(variables)

    @property
    def cut_variable(self) -> int:
        return self.sets

    @property
    def codec_variable(self) -> int:
        return self.sets + 1

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of the predictor's input, the SNR not included."""
        return tuple(variable.name for variable in self.variables)

    def cut_kind(self, partition_point: int) -> CutKind:
        """What crosses the link there: decides which codec parameters mean anything."""
        if partition_point == 0:
            return "raw"
        if partition_point == len(self.graph.layers):
            return "none"
        layer = self.graph.layers[partition_point - 1]
        return "vector" if layer.vector or layer.out_height * layer.out_width == 1 else "spatial"

    @cached_property
    def tables(self) -> SpaceTables:
        n_levels = np.array([len(variable.values) for variable in self.variables], dtype=np.int64)
        values = np.empty((len(self.variables), int(n_levels.max())))
        for row, variable in zip(values, self.variables, strict=True):
            row[: len(variable.values)] = variable.values
            row[len(variable.values) :] = variable.values[-1]
        points = [int(point) for point in self.variables[self.cut_variable].values]
        active = np.ones((len(points), len(self.variables)), dtype=np.bool_)
        first, split, end = (
            self.codec_variable,
            self.codec_variable + CODEC_WIDTH_1,
            self.codec_variable + CODEC_VARIABLES,
        )
        for level, point in enumerate(points):
            kind = self.cut_kind(point)
            active[level, first:split] = self.codec and kind == "spatial"
            active[level, split:end] = self.codec and kind == "vector"
        # Level 0 of every codec parameter is 1: the stage is left out.
        return SpaceTables(n_levels, values, self.cut_variable, active, np.zeros(len(self.variables), dtype=np.int64))

    def is_canonical(self, levels: np.ndarray) -> np.ndarray:
        """(n,) whether ``levels`` (n, V) have what their cut makes meaningless at its one value, as strategies of this
        space do."""
        tables = self.tables
        free = tables.active[levels[:, self.cut_variable]]
        same: np.ndarray = (free | (levels == tables.canonical)).all(axis=1)
        return same

    def strategy(self, levels: np.ndarray) -> Strategy:
        """The strategy at a vector of level indices (V,)."""
        values = [variable.values[int(level)] for variable, level in zip(self.variables, levels, strict=True)]
        names = [prunable.name for prunable in self.graph.prunable_sets]
        return Strategy(
            sparsity=dict(zip(names, values[: self.sets], strict=True)),
            partition_point=int(values[self.cut_variable]),
            codec=Codec.from_values(values[self.codec_variable :]),
            feature_bits=int(self.cut_bits[int(levels[self.cut_variable])]),
        )

    def values(self, strategy: Strategy) -> np.ndarray:
        """What the predictor sees of a strategy: (V,) float64, whether or not it lies on the space's levels.

        Raises:
            InputError: the strategy names other prunable sets, or a cut that this network does not allow.
        """
        names = [prunable.name for prunable in self.graph.prunable_sets]
        if set(strategy.sparsity) != set(names):
            odd = sorted(set(strategy.sparsity) ^ set(names))
            raise InputError(
                f"strategy: the prunable sets of {self.graph.model} are {', '.join(names)}; check {', '.join(odd)}"
            )
        bad = [name for name in names if not 0 <= strategy.sparsity[name] < 1]
        if bad:
            raise InputError(
                f"strategy: the sparsity of {bad[0]} is {strategy.sparsity[bad[0]]}; it must lie in [0, 1)"
            )
        if strategy.partition_point not in self.graph.cut_points:
            allowed = ", ".join(map(str, self.graph.cut_points))
            raise InputError(
                f"strategy: {self.graph.model} cannot be cut at {strategy.partition_point}; allowed: {allowed}"
            )
        ratios = [strategy.sparsity[name] for name in names]
        return np.array([*ratios, strategy.partition_point, *self.canonical_codec(strategy).values()])

    def canonical_codec(self, strategy: Strategy) -> Codec:
        """The strategy's codec with the parameters that its cut makes meaningless set to 1."""
        kind = self.cut_kind(strategy.partition_point)
        values = list(strategy.codec.values())
        if kind != "spatial":
            values[:CODEC_WIDTH_1] = [1.0] * CODEC_WIDTH_1
        if kind != "vector":
            values[CODEC_WIDTH_1:] = [1.0] * (CODEC_VARIABLES - CODEC_WIDTH_1)
        return Codec.from_values(values)

    def levels(self, strategy: Strategy) -> np.ndarray:
        """The nearest level indices (V,) int64 to a strategy, its cut's with the nearest bits among them."""
        values = self.values(strategy)
        nearest = [int(np.abs(np.asarray(v.values) - x).argmin()) for v, x in zip(self.variables, values, strict=True)]
        same = np.flatnonzero(np.asarray(self.variables[self.cut_variable].values) == strategy.partition_point)
        if len(same):
            nearest[self.cut_variable] = int(same[np.abs(self.cut_bits[same] - strategy.feature_bits).argmin()])
        return np.array(nearest, dtype=np.int64)

    def kept_channels(self, strategy: Strategy) -> dict[str, int]:
        """Channels that remain in each prunable set: whole units, at least one of them."""
        kept = {}
        for prunable in self.graph.prunable_sets:
            groups = prunable.channels // prunable.unit
            removed = round(strategy.sparsity[prunable.name] * groups)
            kept[prunable.name] = prunable.unit * max(1, groups - removed)
        return kept
