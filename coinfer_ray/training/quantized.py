"""What quantisation costs a trained network: accuracy and coded bits at every cut, for every bit width.

JALAD quantises the in-layer feature of the network as it is, so nothing is trained: the device half runs once, the
server half once a width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from coinfer_ray.compression.quantize import Quantizer, huffman_bits
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.split import split
from coinfer_ray.training.trainer import Preprocess, ResidentImages

CALIBRATION_IMAGES = 1_000
BATCH = 250


@torch.inference_mode()
def measure_cut(
    network: nn.Module,
    graph: LayerGraph,
    partition_point: int,
    widths: Sequence[int],
    *,
    calibration: ResidentImages,
    splits: Mapping[str, ResidentImages],
    preprocess: Preprocess,
) -> list[tuple[dict[str, torch.Tensor], int, float]]:
    """Measure one inner cut of a trained network at each of ``widths`` bits.

    For each: which images are classified correctly, (n,) bool by split; the bits of an image's values as they are; and
    the mean over validation images of their Huffman stream. The range is calibrated on the first of the training
    images ``calibration``; ``splits`` are the images to be measured on, ``validation`` among them.
    """
    device_half, server_half = (half.eval() for half in split(network, graph, partition_point))

    def feature(part: ResidentImages) -> torch.Tensor:
        sent: torch.Tensor = device_half(preprocess(part.images))
        return sent

    quantizers = [Quantizer(bits).to(calibration.images.device).eval() for bits in widths]
    for part in _batches(calibration.take(slice(0, CALIBRATION_IMAGES))):
        seen = feature(part)
        for quantizer in quantizers:
            quantizer.calibrate(seen)
    hits: list[dict[str, list[torch.Tensor]]] = [{name: [] for name in splits} for _ in widths]
    coded = np.zeros(len(widths))
    for name, images in splits.items():
        for part in _batches(images):
            sent = feature(part)
            for number, quantizer in enumerate(quantizers):
                codes = quantizer.codes(sent)
                found = server_half(quantizer.rebuild(codes)).argmax(1)
                hits[number][name].append((found == part.labels).cpu())
                if name == "validation":
                    coded[number] += huffman_bits(codes.cpu().numpy()).sum()
    elements = graph.layers[partition_point - 1].output_elements
    return [
        (
            {name: torch.cat(parts) for name, parts in hits[number].items()},
            quantizer.plain_bits(elements),
            float(coded[number] / len(splits["validation"])),
        )
        for number, quantizer in enumerate(quantizers)
    ]


def _batches(images: ResidentImages) -> list[ResidentImages]:
    return [images.take(slice(start, start + BATCH)) for start in range(0, len(images), BATCH)]
