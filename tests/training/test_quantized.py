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
from coinfer_ray.training.trainer import Preprocess, accuracy


def untrained_but_telling(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return zoo.build("alexnet", 10).eval()


def test_accuracy_and_bits_of_a_cut(few_images: Path) -> None:
    data = load_data(few_images)
    network, graph = untrained_but_telling(), load_graph("alexnet", 64)
    preprocess = Preprocess.of(data, 64)
    device = torch.device("cpu")
    # Labels that the network itself gives make every change of its mind an error.
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    with torch.inference_mode():
        own = {
            name: type(part)(part.images, network(preprocess(torch.from_numpy(part.images))).argmax(1).numpy())
            for name, part in parts.items()
        }
    assert accuracy(network, own["test"], preprocess, device=device, precision=torch.float32) == 1.0
    for point in (3, 18):
        rows = measure_cut(network, graph, point, (1, 4, 8), **own, preprocess=preprocess, device=device)
        elements = graph.layers[point - 1].output_elements
        assert [row.bits for row in rows] == [1, 4, 8]
        assert [row.plain_bit for row in rows] == [elements, 4 * elements, 8 * elements]
        kept = [row.test_accuracy for row in rows]
        assert kept[0] < kept[2] and kept[2] > 0.9
        coded = [row.coded_bit for row in rows]
        assert coded == sorted(coded)
        assert all(row.coded_bit <= row.plain_bit * 1.6 + 500 for row in rows)
        # The entropy of a ReLU's output is well below its width.
        assert coded[2] < 0.9 * rows[2].plain_bit
        assert np.isfinite(coded).all()
