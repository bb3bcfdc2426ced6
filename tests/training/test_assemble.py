"""What is put between the halves of a split network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from coinfer_ray.compression.channel import AWGNChannel
from coinfer_ray.models import zoo
from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Codec, Strategy
from coinfer_ray.training.candidate import CandidateData, CandidateSettings, CandidateTrainer
from coinfer_ray.training.data import load_data
from coinfer_ray.training.trainer import Preprocess

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trainer(few_images: Path) -> CandidateTrainer:
    torch.manual_seed(0)
    data = load_data(few_images)
    images = CandidateData(data.train, data.validation, data.test, Preprocess.of(data, 64))
    space = SearchSpace(load_graph("regnet_x_400mf", 64))
    network = zoo.build("regnet_x_400mf", 10).eval()
    return CandidateTrainer(network, space, images, CandidateSettings(), device=CPU, precision=torch.float32)


def test_only_a_feature_meets_the_channels_noise(trainer: CandidateTrainer) -> None:
    """Raw input arrives as the bits that it was sent as, and at the last cut nothing is sent."""
    graph = trainer.graph
    whole = {prunable.name: 0.0 for prunable in graph.prunable_sets}
    x = torch.randn(2, 3, 64, 64)
    expected = trainer.base(x)
    for point in (0, graph.cut_points[2], len(graph.layers)):
        assembled = trainer.assemble(trainer.base, Strategy(whole, point, Codec()), snr_db=0.0)
        noisy = isinstance(assembled.network.channel, AWGNChannel)
        assert noisy == (0 < point < len(graph.layers)) == (not isinstance(assembled.network.channel, nn.Identity))
        if not noisy:
            assert torch.allclose(assembled.network.eval()(x), expected, rtol=1e-3, atol=1e-4)
