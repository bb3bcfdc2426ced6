"""JALAD (H. Li et al., "JALAD: Joint Accuracy- and Latency-Aware Deep Structure Decoupling for Edge-Cloud
Execution", ICPADS 2018): the network as it is, cut where it pays, the feature quantised to c bits a value and
Huffman-coded; no pruning, no trained codec.

For every cut and every c the accuracy and the mean coded bits are measured on the base network; nothing is trained. A
feature is sent plainly packed where that is smaller than its Huffman code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.training.candidate import CandidateTrainer
from coinfer_ray.training.compared.common import Row, plain_cuts
from coinfer_ray.training.quantized import measure_cut

WIDTHS = (2, 4, 6, 8)


class Jalad:
    """See :class:`coinfer_ray.training.compared.common.Training`."""

    name = "jalad"

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        """Every inner cut, each at all of :data:`WIDTHS`."""
        return [{"partition_point": point} for point in graph.cut_points[1:-1]]

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        """Measure one cut; ``seed`` plays no part."""
        point = asked["partition_point"]
        network = trainer.base.to(trainer.device)
        measured = measure_cut(
            network,
            trainer.graph,
            point,
            WIDTHS,
            calibration=trainer.train_images,
            splits={"validation": trainer.validation_images, "test": trainer.test_images},
            preprocess=trainer.data.preprocess,
        )
        (plain,) = plain_cuts(trainer, network, [point], {})
        rows = []
        for bits, (hits, plain_bit, coded_bit) in zip(WIDTHS, measured, strict=True):
            sent = {"feature_bits": bits, "uplink_bit": min(plain_bit, coded_bit), "images": 0}
            rows.append(plain | sent | trainer.compare_with_base(hits))
        return rows
