"""Quantising the trained network at a cut: eight bits change next to nothing, one changes much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from coinfer_ray.models import zoo
from coinfer_ray.models.library import load_graph
from coinfer_ray.training.data import load_data
from coinfer_ray.training.quantized import measure_cut
from coinfer_ray.training.trainer import Preprocess, ResidentImages, accuracy, share


def untrained_but_telling(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return zoo.build("alexnet", 10).eval()


def test_accuracy_and_bits_of_a_cut(few_images: Path) -> None:
    data = load_data(few_images)
    network, graph = untrained_but_telling(), load_graph("alexnet", 64)
    preprocess = Preprocess.of(data, 64)
    device = torch.device("cpu")
    # Labels that the network itself gives make every change of its mind an error.
    own = {}
    with torch.inference_mode():
        for name in ("train", "validation", "test"):
            images = torch.from_numpy(getattr(data, name).images)
            own[name] = ResidentImages(images, network(preprocess(images)).argmax(1))
    assert accuracy(network, own["test"], preprocess, device=device, precision=torch.float32) == 1.0
    calibration = own.pop("train")
    for point in (3, 18):
        measured = measure_cut(
            network, graph, point, (1, 4, 8), calibration=calibration, splits=own, preprocess=preprocess
        )
        elements = graph.layers[point - 1].output_elements
        assert [plain for _, plain, _ in measured] == [elements, 4 * elements, 8 * elements]
        kept = [share(hits["test"]) for hits, _, _ in measured]
        assert kept[0] < kept[2] and kept[2] > 0.9
        assert all(hits[name].shape == own[name].labels.shape for hits, _, _ in measured for name in own)
        coded = [coded for _, _, coded in measured]
        assert coded == sorted(coded)
        assert all(each <= plain * 1.6 + 500 for _, plain, each in measured)
        # The entropy of a ReLU's output is well below its width.
        assert coded[2] < 0.9 * measured[2][1]
        assert np.isfinite(coded).all()
