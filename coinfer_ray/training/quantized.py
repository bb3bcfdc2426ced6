"""What quantisation costs a trained network: accuracy and coded bits at every cut, for every bit width.

JALAD quantises the in-layer feature of the network as it is, so nothing is trained: the device half runs once for all
cuts that are measured together, each server half once for all widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.fx
from torch import nn

from coinfer_ray.compression.quantize import Quantizer, huffman_bits
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.split import Watched, split
from coinfer_ray.training.trainer import Preprocess, ResidentImages

CALIBRATION_IMAGES = 1_000
BATCH = 256  # as everything else is measured


@dataclass
class MeasuredCut:
    """One cut at one width: which images are classified correctly, (n,) bool by split; the bits of an image's values as
    they are; and the mean over validation images of their Huffman stream."""

    plain_bit: int
    hits: dict[str, torch.Tensor] = field(default_factory=dict)
    coded_bit: float = 0.0


@torch.inference_mode()
def measure_cuts(
    network: nn.Module,
    graph: LayerGraph,
    points: Sequence[int],
    widths: Sequence[int],
    *,
    calibration: ResidentImages,
    splits: Mapping[str, ResidentImages],
    preprocess: Preprocess,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[list[MeasuredCut]]:
    """Measure inner cuts of a trained network, at each of ``points`` (ascending) each of ``widths`` bits.

    The ranges are calibrated on the first of the training images ``calibration``; ``splits`` are the images to be
    measured on, ``validation`` among them. ``precision`` is the context that networks run in, a trainer's
    ``autocast``. A value arrives in the type that the layer before the cut gave it, as through a channel.
    """
    last, _ = split(network, graph, points[-1])
    servers = {point: split(network, graph, point)[1].eval() for point in points}
    device = Watched(cast(torch.fx.GraphModule, last.eval()), graph, points)
    quantizers = {point: [Quantizer(bits).to(calibration.images.device).eval() for bits in widths] for point in points}

    def calibrate(point: int, feature: torch.Tensor) -> None:
        first, *others = quantizers[point]
        first.calibrate(feature)
        for other in others:
            other.load_state_dict(first.state_dict())

    found: dict[tuple[int, str], list[torch.Tensor]] = {(point, name): [] for point in points for name in splits}
    coded = {point: np.zeros(len(widths)) for point in points}

    def send(name: str, labels: torch.Tensor, point: int, feature: torch.Tensor) -> None:
        codes = [quantizer.codes(feature) for quantizer in quantizers[point]]
        if name == "validation":
            coded[point] += [huffman_bits(each.cpu().numpy()).sum() for each in codes]
        received = [each.rebuild(sent).to(feature.dtype) for each, sent in zip(quantizers[point], codes, strict=True)]
        answers = servers[point](torch.cat(received)).argmax(1).view(len(widths), -1)
        found[point, name].append((answers == labels).cpu())

    # One context for all: within it a weight is converted once.
    with precision():
        for part in _batches(calibration.take(slice(0, CALIBRATION_IMAGES))):
            device.run(preprocess(part.images), calibrate)
        for name, images in splits.items():
            for part in _batches(images):
                device.run(preprocess(part.images), partial(send, name, part.labels))
    measured = []
    for point in points:
        elements = graph.layers[point - 1].output_elements
        hits = {name: torch.cat(found[point, name], dim=1) for name in splits}
        measured.append(
            [
                MeasuredCut(
                    quantizer.plain_bits(elements),
                    {name: correct[number] for name, correct in hits.items()},
                    float(coded[point][number] / len(splits["validation"])),
                )
                for number, quantizer in enumerate(quantizers[point])
            ]
        )
    return measured


def _batches(images: ResidentImages) -> list[ResidentImages]:
    return [images.take(slice(start, start + BATCH)) for start in range(0, len(images), BATCH)]
