"""The proposed method with features of 8 bits: the best of the records' strategies, trained to send fewer.

The paper sends floats of 32 bits, and so do the records. Compared methods that quantise what crosses the link are met
on equal terms by this: a strategy is trained as its record was, with its codec's output quantised through a
straight-through estimator (:class:`coinfer_ray.compression.quantize.Quantizer`) and Huffman-coded where that is less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.records.store import read_records, shipped_records
from coinfer_ray.training.candidate import CandidateTrainer
from coinfer_ray.training.compared.common import Row, lower_envelope

BITS = 8
LOSSES = (0.02, 0.05, 0.01)  # shares, the most asked for first


class FewBits:
    """See :class:`coinfer_ray.training.compared.common.Training`."""

    name = "coinfer8"

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        """Of the shipped records' strategies that are cut within, those that some device and link is served best by,
        for each of :data:`LOSSES`.

        Raises:
            InputError: no records ship for the network.
        """
        records = read_records(shipped_records(graph.model, graph.input_px))
        kept = records.accuracy() - records.base_accuracy()
        strategies, costs = records.strategies, records.costs()
        rows = [
            {"device_flop": device, "uplink_bit": bits, "strategy": strategy, "lost": lost}
            for strategy, (device, _, bits), lost in zip(strategies, costs.tolist(), (-kept).tolist(), strict=True)
            if 0 < strategy.partition_point < len(graph.layers)
        ]
        asked: list[dict[str, Any]] = []
        for most in LOSSES:
            for row in lower_envelope([row for row in rows if row["lost"] <= most]):
                each = {"strategy": row["strategy"].to_json(), "feature_bits": BITS}
                if each not in asked:
                    asked.append(each)
        return asked

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        """Train one strategy with a quantised feature.

        Raises:
            InputError: a strategy that the network does not have.
            Diverged: the loss or the trained network's outputs are no numbers.
        """
        strategy = Strategy.from_json(asked["strategy"])
        trainer.space.values(strategy)
        measured = dict(trainer.train(strategy, snr_db=None, seed=seed, feature_bits=asked["feature_bits"]).measured)
        images = measured.pop("fine_tune_images") + measured.pop("end_to_end_images")
        sent = min(measured["uplink_bit"], measured["coded_bit"])
        return [
            measured
            | {
                "partition_point": strategy.partition_point,
                "feature_bits": asked["feature_bits"],
                "uplink_bit": sent,
                "images": images,
            }
        ]
