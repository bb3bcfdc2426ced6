"""JALAD (H. Li et al., "JALAD: Joint Accuracy- and Latency-Aware Deep Structure Decoupling for Edge-Cloud
Execution", ICPADS 2018): the network as it is, cut where it pays, the feature quantised to c bits a value and
Huffman-coded; no pruning, no trained codec.

For every cut and every c the accuracy and the mean coded bits are measured on the base network, in the precision that
it is itself measured in; nothing is trained. A feature is sent plainly packed where that is smaller than its Huffman
code.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.training.candidate import CandidateTrainer
from coinfer_ray.training.compared.common import Row, plain_cuts
from coinfer_ray.training.quantized import measure_cuts

WIDTHS = (2, 4, 6, 8)
TOGETHER = 4  # cuts of one measurement, which share the layers before them; a killed run loses one


class Jalad:
    """See :class:`coinfer_ray.training.compared.common.Training`."""

    name = "jalad"

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        """Every inner cut at all of :data:`WIDTHS`, :data:`TOGETHER` cuts at a time."""
        inner = list(graph.cut_points[1:-1])
        return [{"partition_points": inner[at : at + TOGETHER]} for at in range(0, len(inner), TOGETHER)]

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        """Measure these cuts; ``seed`` plays no part."""
        points = asked["partition_points"]
        network = channels_last(copy.deepcopy(trainer.base).to(trainer.device)).eval()
        measured = measure_cuts(
            network,
            trainer.graph,
            points,
            WIDTHS,
            calibration=trainer.train_images,
            splits={"validation": trainer.validation_images, "test": trainer.test_images},
            preprocess=trainer.data.preprocess,
            precision=trainer.autocast,
        )
        rows = []
        for plain, of_cut in zip(plain_cuts(trainer, network, points, {}), measured, strict=True):
            for bits, cut in zip(WIDTHS, of_cut, strict=True):
                sent = {"feature_bits": bits, "uplink_bit": min(cut.plain_bit, cut.coded_bit), "images": 0}
                rows.append(plain | sent | trainer.compare_with_base(cut.hits))
        return rows
