"""Symbols, shapes and units shared by every kernel; the tuples of arrays that kernels take.

===  ==============================================================================================
n    strategies in a batch
V    decision variables of a strategy (AlexNet: 7 sparsity ratios, the cut, 8 codec parameters = 16)
P    prunable sets; variables 0..P-1 are their sparsity ratios
L    layers of the network, in execution order
C    levels of the cut variable (partition points that the search may choose)
M    most levels that any variable has
F    features that the predictor sees: V, and one more (SNR) for a predictor of noisy channels
S    scenarios (a device, a server, a link, an accuracy floor)
===  ==============================================================================================

A **strategy is a vector of level indices** (V,) int64, ``0 <= levels[v] < n_levels[v]``. Level 0 of a sparsity
ratio prunes nothing. Its **costs** are three numbers that no scenario changes: FLOPs on the device, FLOPs on the
server, bits on the uplink. A scenario is a **weight** for each of them, so that the objective is a dot product::

    T = device_flop * w[0] + server_flop * w[1] + uplink_bit * w[2]          w = (1/theta_d, 1/theta_s, 1/R)  [s]

and likewise an energy in joules. A fourth weight, where there is one, is what crossing the link costs by itself, a
round trip above all: w[3] is added for a strategy that sends anything, ``uplink_bit > 0``. FLOPs and bits are whole
numbers below 2**53, kept in float64 without loss.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# What crosses the link at a cut (``CostTables.cut_kind``).
CUT_RAW = 0  # everything on the server: the network's input, uncompressed
CUT_SPATIAL = 1  # a feature map: the codec is two convolutions
CUT_VECTOR = 2  # a vector: the codec is two linear layers
CUT_NONE = 3  # everything on the device: nothing is sent

# Positions of the codec's parameters, counted from ``CostTables.codec_variable``.
CODEC_RATIO_1, CODEC_KERNEL_1, CODEC_STRIDE_1 = 0, 1, 2
CODEC_RATIO_2, CODEC_KERNEL_2, CODEC_STRIDE_2 = 3, 4, 5
CODEC_WIDTH_1, CODEC_WIDTH_2 = 6, 7
CODEC_VARIABLES = 8


class SpaceTables(NamedTuple):
    """The decision variables and their levels."""

    n_levels: IntArray  # (V,)
    values: FloatArray  # (V, M) what the predictor sees at each level; padded with the last value
    cut_variable: int  # which variable is the cut
    active: BoolArray  # (C, V) whether a variable means anything at a cut
    canonical: IntArray  # (V,) the level that a variable takes where it means nothing


class CostTables(NamedTuple):
    """FLOPs and bits as functions of the levels; or seconds in place of FLOPs, on either side.

    A layer with k_in kept input and k_out kept output channels costs ``quadratic * k_in * k_out + linear * k_out``
    FLOPs. ``in_set`` and ``out_set`` index the rows of ``kept``; row P of ``kept`` is all ones and stands for
    channels that are never pruned (their number is inside the coefficients). A cost in k_in alone, or a constant, is a
    layer more: one that has the input's set, or row P, as its ``out_set``.

    ``server_quadratic`` and ``server_linear``, where they are not empty, are what the layers cost on the server, and
    ``quadratic`` and ``linear`` then hold for the device alone: measured seconds are another function on each side.
    ``codec_price`` says what the codec costs by its FLOPs, the elements that it reads and writes, and its stages; empty
    it stands for its FLOPs.
    """

    in_set: IntArray  # (L,)
    out_set: IntArray  # (L,)
    quadratic: FloatArray  # (L,)
    linear: FloatArray  # (L,)
    kept: FloatArray  # (P + 1, M) channels kept at each level of each set
    cut_layers: IntArray  # (C,) layers on the device
    cut_kind: IntArray  # (C,) CUT_RAW, CUT_SPATIAL, CUT_VECTOR or CUT_NONE
    cut_set: IntArray  # (C,) row of ``kept`` with the channels of the tensor that crosses
    cut_channels: FloatArray  # (C,) its channels per kept channel of that row: 1, or their number where fixed
    cut_height: IntArray  # (C,) elements of one channel; CUT_RAW: the whole input is channels * height * width
    cut_width: IntArray  # (C,)
    codec_variable: int  # first of the CODEC_VARIABLES codec variables
    ratio: FloatArray  # (8, M) codec parameter values by level: output-channel or width ratios, kernels, strides
    cut_bits: FloatArray  # (C,) bits of one element of what crosses, but for CUT_RAW
    input_bits: float  # bits of one element of the network's input on the link
    codec_flops: bool  # whether the codec's own FLOPs count (the paper neglects them)
    server_quadratic: FloatArray = np.empty(0)  # (L,), or (0,): as on the device
    server_linear: FloatArray = np.empty(0)  # (L,), or (0,)
    # (2, 2, 3): on the device and the server; of a spatial codec and of one for vectors; a FLOP, an element, a stage
    codec_price: FloatArray = np.empty((0, 2, 3))


class EnsembleTables(NamedTuple):
    """A fitted regressor: ``intercept + coefficients . x`` plus a tree ensemble (either part may be empty).

    Node j of a tree sends x to ``left[j]`` where ``x[feature[j]] <= threshold[j]``, else to ``right[j]``; a leaf has
    ``feature[j] == -1`` and its own index on both sides. The comparison is in float64: that scikit-learn rounds the
    features of most of its trees to float32 first is part of the thresholds
    (:func:`coinfer_kernels.trees.packed.widen`).
    """

    feature: IntArray  # (nodes,)
    threshold: FloatArray  # (nodes,)
    left: IntArray  # (nodes,) indices into these arrays, for all trees alike
    right: IntArray  # (nodes,)
    value: FloatArray  # (nodes,) what the tree adds at a leaf, its weight not included
    roots: IntArray  # (trees,)
    weights: FloatArray  # (trees,) learning rate, 1/trees, or AdaBoost's estimator weights
    median: bool  # AdaBoost: the weighted median of the trees instead of their weighted sum
    intercept: float
    coefficients: FloatArray  # (F,)


class Scenarios(NamedTuple):
    """A batch of scenarios."""

    weights: FloatArray  # (S, 3) objective per device FLOP, server FLOP and uplink bit; (S, 4): and per crossing
    accuracy_floor: FloatArray  # (S,) least predicted accuracy, in 0..1
    snr_db: FloatArray  # (S,) the predictor's last feature where F = V + 1; ignored where F = V


class Solutions(NamedTuple):
    """One answer for each of S scenarios, and how far it can be from the best.

    What a solver that proves bounds (:func:`coinfer_kernels.solve_exact`) says of a scenario:

    ==============================  =========  ===========  ===========  ============
    scenario                        feasible   objective    lower_bound  gap
    ==============================  =========  ===========  ===========  ============
    solved                          True       finite       finite       <= allowed
    stopped by a limit, with        True       finite       finite       what it is
    a strategy at hand
    proven to have no strategy      False      infinite     infinite     0
    stopped by a limit, without     False      infinite     finite       infinite
    a strategy at hand
    ==============================  =========  ===========  ===========  ============
    """

    levels: IntArray  # (S, V); row s is meaningless where not feasible[s]
    objective: FloatArray  # (S,) infinite where not feasible[s]
    accuracy: FloatArray  # (S,) predicted; where not feasible[s], the best that was seen
    evaluations: IntArray  # (S,) strategies evaluated; boxes looked at by the exact solver
    feasible: BoolArray  # (S,)
    lower_bound: FloatArray  # (S,) no feasible strategy has a lower objective; NaN where nothing is proven

    @property
    def gap(self) -> FloatArray:
        """(S,) (objective - lower_bound) / |objective|: by which share of itself an answer can be above the best.

        NaN where nothing is proven.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = np.maximum(self.objective - self.lower_bound, 0.0) / np.abs(self.objective)
        gap = np.where(self.lower_bound >= self.objective, 0.0, gap)
        gap = np.where(np.isfinite(self.objective) | np.isnan(self.lower_bound), gap, np.inf)
        proven_empty: FloatArray = np.where(np.isposinf(self.lower_bound), 0.0, gap)
        return proven_empty
