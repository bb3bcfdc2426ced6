"""What is put between the halves of a split network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coinfer_ray.compression.channel import AWGNChannel
from coinfer_ray.models import zoo
from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Codec, Strategy
from coinfer_ray.training.candidate import (
    TEMPERATURE,
    CandidateData,
    CandidateSettings,
    CandidateTrainer,
    _DistillationLoss,
)
from coinfer_ray.training.data import load_data
from coinfer_ray.training.trainer import Batch, Preprocess

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trainer(few_images: Path) -> CandidateTrainer:
    torch.manual_seed(0)
    data = load_data(few_images)
    images = CandidateData(data.train, data.validation, data.test, Preprocess.of(data, 64))
    space = SearchSpace(load_graph("regnet_x_400mf", 64))
    network = zoo.build("regnet_x_400mf", 10).eval()
    return CandidateTrainer(network, space, images, CandidateSettings(), device=CPU, precision=torch.float32)


def test_only_what_a_codec_encodes_meets_the_channels_noise(trainer: CandidateTrainer) -> None:
    """Raw input and features arrive as the bits that they were sent as, and at the last cut nothing is sent."""
    graph = trainer.graph
    whole = {prunable.name: 0.0 for prunable in graph.prunable_sets}
    x = torch.randn(2, 3, 64, 64)
    expected = trainer.base(x)
    inner, halved = graph.cut_points[2], Codec(ratio_1=0.5)
    for point, codec in ((0, Codec()), (inner, Codec()), (inner, halved), (0, halved), (len(graph.layers), halved)):
        assembled = trainer.assemble(trainer.base, Strategy(whole, point, codec), snr_db=0.0)
        noisy = isinstance(assembled.network.channel, AWGNChannel)
        assert noisy == (point == inner and codec == halved) == (not isinstance(assembled.network.channel, nn.Identity))
        if not noisy:
            assert torch.allclose(assembled.network.eval()(x), expected, rtol=1e-3, atol=1e-4)
    found = trainer.train(Strategy(whole, inner, Codec()), snr_db=0.0, seed=0)
    assert found.measured["validation_gained"] == found.measured["validation_lost"] == 0  # nothing to train


def test_the_distillation_loss_is_hintons() -> None:
    """By its formula in float64: T^2 times the cross-entropy of the softened outputs, and the labels' share."""
    torch.manual_seed(0)
    teacher, student = nn.Linear(6, 4), nn.Linear(6, 4)
    x, labels = torch.randn(9, 6), torch.randint(0, 4, (9,))
    batch = Batch(x, labels, 0.0, np.random.default_rng(0))
    t, s = (net(x).detach().double().numpy() for net in (teacher, student))

    def log_softmax(z: np.ndarray) -> np.ndarray:
        return z - z.max(1, keepdims=True) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))

    soft = -(np.exp(log_softmax(t / TEMPERATURE)) * log_softmax(s / TEMPERATURE)).sum(1).mean() * TEMPERATURE**2
    hard = -log_softmax(s)[np.arange(9), labels.numpy()].mean()
    for weight in (0.0, 0.7, 1.0):
        value = _DistillationLoss(teacher, weight)(student, batch)
        assert float(value.detach()) == pytest.approx(weight * soft + (1 - weight) * hard, rel=1e-5)
    value.backward()
    assert teacher.weight.grad is None and student.weight.grad is not None


def test_batch_norms_are_measured_before_anything_is_trained(few_images: Path) -> None:
    """With nothing trained, a pruned network whose norms are measured computes with its own statistics."""
    from dataclasses import replace

    from coinfer_ray.training.candidate import FINE_TUNE

    torch.manual_seed(0)
    data = load_data(few_images)
    images = CandidateData(data.train, data.validation, data.test, Preprocess.of(data, 64))
    space = SearchSpace(load_graph("regnet_x_400mf", 64))
    network = zoo.build("regnet_x_400mf", 10).eval()
    nothing = replace(FINE_TUNE, images=0)
    behind = {prunable.name: 0.0 for prunable in space.graph.prunable_sets} | {space.graph.prunable_sets[-1].name: 0.5}
    strategy = Strategy(behind, len(space.graph.layers), Codec())
    for count in (0, 128):
        settings = CandidateSettings(fine_tune=nothing, end_to_end=nothing, norm_images=count)
        trainer = CandidateTrainer(network, space, images, settings, device=CPU, precision=torch.float32)
        trained = trainer.train(strategy, snr_db=None, seed=0).network
        norm = next(module for module in trained.modules() if isinstance(module, nn.BatchNorm2d))
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        seen = first(images.preprocess(torch.from_numpy(data.train.images[:128])))
        expected = seen.mean(dim=(0, 2, 3)) if count else torch.zeros_like(seen[0, :, 0, 0])
        assert torch.allclose(norm.running_mean, expected, atol=1e-3)
