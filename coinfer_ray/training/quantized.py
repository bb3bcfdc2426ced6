"""What quantisation costs a trained network: accuracy and coded bits at every cut, for every bit width.

JALAD quantises the in-layer feature of the network as it is, so nothing is trained: the device half runs once, the
server half once a width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from coinfer_ray.compression.quantize import Quantizer, huffman_bits
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.split import split
from coinfer_ray.training.data import ImageSet
from coinfer_ray.training.trainer import Preprocess, ResidentImages

CALIBRATION_IMAGES = 1_000
BATCH = 250


@dataclass(frozen=True)
class QuantizedCut:
    """A cut whose feature is sent at ``bits`` a value. ``coded_bit`` is the mean over images of the Huffman stream,
    ``plain_bit`` what the values take as they are."""

    partition_point: int
    bits: int
    validation_accuracy: float
    test_accuracy: float
    plain_bit: int
    coded_bit: float


@torch.inference_mode()
def measure_cut(
    network: nn.Module,
    graph: LayerGraph,
    partition_point: int,
    widths: Sequence[int],
    *,
    train: ImageSet,
    validation: ImageSet,
    test: ImageSet,
    preprocess: Preprocess,
    device: torch.device,
) -> list[QuantizedCut]:
    """Measure one inner cut of a trained network at each of ``widths`` bits.

    The range is calibrated on the first training images, accuracies are measured on all of ``validation`` and
    ``test``, bits on ``validation``.
    """
    device_half, server_half = (half.eval() for half in split(network, graph, partition_point))

    def feature(part: ResidentImages) -> torch.Tensor:
        sent: torch.Tensor = device_half(preprocess(part.images))
        return sent

    quantizers = [Quantizer(bits).to(device).eval() for bits in widths]
    for part in _batches(train.take(slice(0, CALIBRATION_IMAGES)), device):
        seen = feature(part)
        for quantizer in quantizers:
            quantizer.calibrate(seen)
    hits = np.zeros((2, len(widths)))
    coded = np.zeros(len(widths))
    for split_number, images in enumerate((validation, test)):
        for part in _batches(images, device):
            sent = feature(part)
            for number, quantizer in enumerate(quantizers):
                codes = quantizer.codes(sent)
                found = server_half(quantizer.rebuild(codes)).argmax(1)
                hits[split_number, number] += int((found == part.labels).sum())
                if images is validation:
                    coded[number] += huffman_bits(codes.cpu().numpy()).sum()
    elements = graph.layers[partition_point - 1].output_elements
    return [
        QuantizedCut(
            partition_point=partition_point,
            bits=bits,
            validation_accuracy=float(hits[0, number] / len(validation)),
            test_accuracy=float(hits[1, number] / len(test)),
            plain_bit=quantizers[number].plain_bits(elements),
            coded_bit=float(coded[number] / len(validation)),
        )
        for number, bits in enumerate(widths)
    ]


def _batches(images: ImageSet, device: torch.device) -> list[ResidentImages]:
    resident = ResidentImages.of(images, device)
    return [resident.take(slice(start, start + BATCH)) for start in range(0, len(images), BATCH)]
