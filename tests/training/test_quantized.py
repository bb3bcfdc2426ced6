"""Quantising the trained network at a cut: eight bits change next to nothing, one changes much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coinfer_ray.compression.quantize import Quantizer
from coinfer_ray.models import zoo
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.split import SplitNetwork, split
from coinfer_ray.training.data import load_data
from coinfer_ray.training.quantized import measure_cuts
from coinfer_ray.training.trainer import Preprocess, ResidentImages, accuracy, hits, share
from tests.reference import deflate

CPU = torch.device("cpu")
Own = dict[str, ResidentImages]


@pytest.fixture(scope="module")
def told(few_images: Path) -> tuple[nn.Module, LayerGraph, Own, Preprocess]:
    """An untrained AlexNet, and images with the labels that it gives itself: a change of its mind is an error."""
    torch.manual_seed(0)
    network, data = zoo.build("alexnet", 10).eval(), load_data(few_images)
    preprocess = Preprocess.of(data, 64)
    own = {}
    with torch.inference_mode():
        for name in ("train", "validation", "test"):
            images = torch.from_numpy(getattr(data, name).images)[:600]
            own[name] = ResidentImages(images, network(preprocess(images)).argmax(1))
    assert accuracy(network, own["test"], preprocess, device=CPU, precision=torch.float32) == 1.0
    return network, load_graph("alexnet", 64), own, preprocess


def test_accuracy_and_bits_of_a_cut(told: tuple[nn.Module, LayerGraph, Own, Preprocess]) -> None:
    network, graph, own, preprocess = told
    splits = {name: own[name] for name in ("validation", "test")}
    found = measure_cuts(
        network, graph, (3, 18), (1, 4, 8), calibration=own["train"], splits=splits, preprocess=preprocess
    )
    for point, measured in zip((3, 18), found, strict=True):
        elements = graph.layers[point - 1].output_elements
        assert [cut.plain_bit for cut in measured] == [elements, 4 * elements, 8 * elements]
        kept = [share(cut.hits["test"]) for cut in measured]
        assert kept[0] < kept[2] and kept[2] > 0.9
        assert all(cut.hits[name].shape == own[name].labels.shape for cut in measured for name in splits)
        coded = [cut.coded_bit for cut in measured]
        assert coded == sorted(coded)
        assert all(cut.coded_bit <= cut.plain_bit * 1.6 + 500 for cut in measured)
        # The entropy of a ReLU's output is well below its width.
        assert coded[2] < 0.9 * measured[2].plain_bit


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_cuts_measured_together_are_the_network_with_a_quantizer_at_each(
    told: tuple[nn.Module, LayerGraph, Own, Preprocess], precision: torch.dtype
) -> None:
    """One pass for all cuts and widths against a split network for each, run as every other network is: behind layers
    that the next one overwrites in place (1, 16), and within the classifier."""
    network, graph, own, preprocess = told
    splits = {name: own[name] for name in ("validation", "test")}
    points, widths = (1, 2, 16, 17), (2, 8)

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16)

    found = measure_cuts(
        network,
        graph,
        points,
        widths,
        calibration=own["train"],
        splits=splits,
        preprocess=preprocess,
        precision=autocast,
    )
    for point, measured in zip(points, found, strict=True):
        device_half, server_half = split(network, graph, point)
        for bits, cut in zip(widths, measured, strict=True):
            quantizer = Quantizer(bits).eval()
            with torch.no_grad(), autocast():
                seen = device_half(preprocess(own["train"].images))
                quantizer.calibrate(seen)
                sent = quantizer.codes(device_half(preprocess(splits["validation"].images)))
            assert cut.coded_bit == pytest.approx(np.mean(deflate.deflate_bits(sent.numpy())), rel=1e-3)
            whole = SplitNetwork(device_half, nn.Identity(), quantizer, nn.Identity(), server_half)
            for name, images in splits.items():
                alone = hits(whole, images, preprocess, device=CPU, precision=precision)
                # Batches of other sizes are summed in another order: now and then an image is on the edge.
                assert (cut.hits[name] != alone).float().mean() <= 0.01, (point, bits, name)
