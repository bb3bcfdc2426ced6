"""A codec's start: closed forms of linear codecs, and every shape of codec that the space has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from coinfer_ray.compression.codec import Feature, build_codec
from coinfer_ray.compression.codec_start import restore_power, start_from_components
from coinfer_ray.models.split import SplitNetwork
from coinfer_ray.problem.strategy import Codec
from coinfer_ray.training.candidate import SINGLE, codec_rates

RATIOS = st.sampled_from([0.0625, 0.25, 0.5625, 0.9375, 1.0])
KERNELS, STRIDES = st.sampled_from([1, 3, 5]), st.sampled_from([1, 2, 3])


def low_rank(images: int, features: int, rank: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    scales = torch.linspace(2, 1, rank)[:, None]
    return torch.randn(images, rank, generator=draw) @ (scales * torch.randn(rank, features, generator=draw)) + 3


def error(codec: Codec, feature: torch.Tensor, kind: str = "spatial", noise: float = 0.0) -> float:
    """Mean square error of the started codec, over the feature's variance."""
    flat = kind == "vector" and feature.dim() == 2
    shape = (feature.shape[1], 1, 1) if flat else feature.shape[1:]
    pair = build_codec(codec, Feature(*shape, flat), "vector" if kind == "vector" else "spatial")
    start_from_components(pair.encoder, pair.decoder, feature, noise)
    with torch.no_grad():
        made = pair.decoder.eval()(pair.encoder.eval()(feature))
    assert made.shape == feature.shape
    return float((made - feature).square().mean() / feature.var(dim=0).mean())


def test_a_vector_of_as_many_components_as_the_code_has_values_is_reproduced() -> None:
    feature = low_rank(600, 64, rank=8)
    assert error(Codec(width_1=0.125), feature, "vector") < 1e-3


def test_what_a_narrower_code_loses_is_the_other_components_share() -> None:
    torch.manual_seed(0)
    feature = low_rank(600, 64, rank=16)
    values = torch.linalg.svdvals(feature - feature.mean(dim=0)).square()
    lost = float(values[4:].sum() / values.sum())
    assert error(Codec(width_1=0.0625), feature, "vector") == pytest.approx(lost, rel=0.02)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (3, 3), (5, 2)])
def test_a_convolution_reproduces_blocks_of_few_components(kernel: int, stride: int) -> None:
    # Blocks of stride x stride that are made of 4 patterns each; the code has 8 channels.
    blocks = low_rank(100 * 36, 16 * stride**2, rank=4)
    feature = torch.nn.functional.fold(
        blocks.reshape(100, 36, -1).movedim(1, 2), (6 * stride, 6 * stride), stride, stride=stride
    )
    pad, first = kernel // 2, min(kernel // 2, kernel - min(kernel, stride))
    if first != pad:  # the blocks that this kernel has to itself begin before the first place
        feature = torch.nn.functional.pad(feature, (0, pad - first, 0, pad - first))[..., pad - first :, pad - first :]
    assert error(Codec(ratio_1=0.5, kernel_1=kernel, stride_1=stride), feature) < 0.15


def test_a_second_stage_behind_the_relu_loses_little_more_than_its_width_takes() -> None:
    feature = low_rank(2000, 64, rank=8)
    one, two = Codec(width_1=0.125), Codec(width_1=0.5, width_2=0.25)
    assert error(one, feature, "vector") < 1e-3
    assert error(two, feature, "vector") < 0.05


def test_noise_is_answered_by_a_shorter_code() -> None:
    """The ridge is the noise's power: what the decoder makes of a noisy code shrinks towards the mean."""
    feature = low_rank(600, 64, rank=8)
    errors = [error(Codec(width_1=0.125), feature, "vector", noise) for noise in (0.0, 0.1, 1.0)]
    assert errors[0] < errors[1] < errors[2] < 1


@settings(max_examples=60, deadline=None)
@given(
    stages=st.tuples(RATIOS, KERNELS, STRIDES, RATIOS, KERNELS, STRIDES),
    size=st.integers(1, 9),
    channels=st.sampled_from([1, 7, 24]),
)
@example(stages=(0.9375, 3, 3, 0.25, 3, 3), size=6, channels=7)  # 1.68, the worst that was ever found
def test_every_convolutional_codec_starts_near_the_mean_or_better(
    stages: tuple[float, ...], size: int, channels: int
) -> None:
    """Of 96 feature maps that are mostly noise; what only says the mean errs by 1."""
    torch.manual_seed(0)
    feature = torch.relu(torch.randn(96, channels, size, size) + torch.randn(96, channels, 1, 1))
    names = ("ratio_1", "kernel_1", "stride_1", "ratio_2", "kernel_2", "stride_2")
    if stages == (1, 1, 1, 1, 1, 1):
        return
    assert error(Codec(**dict(zip(names, stages, strict=True))), feature) < 2


def test_a_feature_that_never_varies_gives_a_codec_that_makes_its_mean() -> None:
    for feature in (torch.zeros(40, 6, 4, 4), torch.full((40, 6, 4, 4), 2.0)):
        shape = Codec(ratio_1=0.5, kernel_1=3, stride_1=2, ratio_2=0.5, kernel_2=3)
        pair = build_codec(shape, Feature(6, 4, 4, False), "spatial")
        start_from_components(pair.encoder, pair.decoder, feature)
        with torch.no_grad():
            made = pair.decoder.eval()(pair.encoder.eval()(feature))
        assert torch.allclose(made.mean(), feature.mean(), atol=0.5)
        assert torch.isfinite(made).all()


@pytest.mark.parametrize("second", [{}, {"ratio_2": 0.5, "kernel_2": 3, "stride_2": 3}])
def test_restored_power_is_the_features(second: dict[str, float]) -> None:
    torch.manual_seed(0)
    feature = torch.randn(400, 8, 6, 6)
    pair = build_codec(Codec(ratio_1=0.5, kernel_1=1, stride_1=2, **second), Feature(8, 6, 6, False), "spatial")  # type: ignore[arg-type]
    start_from_components(pair.encoder, pair.decoder, feature)
    encoder, decoder = pair.encoder.eval(), pair.decoder.eval()

    def power() -> float:
        with torch.no_grad():
            return float(decoder(encoder(feature)).var())

    before = power()
    with torch.no_grad():
        restore_power(encoder, decoder, feature, decoder(encoder(feature)))
    # What is sent by one place in four, of half of the channels, has an eighth of the power.
    assert before < 0.2
    assert before < power() <= 1.05
    if not second:
        assert power() == pytest.approx(1, rel=0.05)


def test_a_codec_learns_at_a_rate_over_its_fan_in() -> None:
    """The rate over the inputs of an output: channels times taps, of which a transposed convolution sees some."""
    pair = build_codec(Codec(ratio_1=0.5, kernel_1=5, stride_1=2), Feature(8, 9, 9, False), "spatial")
    network = SplitNetwork(nn.Identity(), pair.encoder, nn.Identity(), pair.decoder, nn.Identity())
    rates = codec_rates(network, 0.5)
    down, up = pair.encoder[0], pair.decoder[0]  # type: ignore[index]
    assert rates[down.weight] == 0.5 / (8 * 25)
    assert rates[up.weight] == 0.5 / (4 * 6)  # of 25 taps at stride 2 a place sees 6.25
    assert rates[up.bias] == 0.5 / SINGLE
    assert set(rates) == {*pair.encoder.parameters(), *pair.decoder.parameters()}
