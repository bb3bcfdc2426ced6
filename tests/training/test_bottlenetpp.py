"""BottleNet++: the codec's sizes and costs at every legal cut, what is frozen when, and what one training leaves."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from coinfer_ray.compression.bottlenetpp import AnalogueChannel, ConditionedEncoder, NoiseLevel, build_bottleneck
from coinfer_ray.compression.codec import Feature, sent_elements
from coinfer_ray.compression.quantize import Quantizer
from coinfer_ray.errors import InputError
from coinfer_ray.models import zoo
from coinfer_ray.models.layers import Layer, LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.split import SplitNetwork, split
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.training.candidate import CandidateData, CandidateSettings, CandidateTrainer
from coinfer_ray.training.compared import bottlenetpp
from coinfer_ray.training.compared.bottlenetpp import MAX_TRAININGS, BottlenetppTraining, useful_cuts
from coinfer_ray.training.data import DataSplits, load_data
from coinfer_ray.training.trainer import Preprocess
from tests.training.collect_driver import quick

CPU = torch.device("cpu")
MODELS = ("alexnet", "regnet_x_400mf")
FEATURE = Feature(6, 5, 8, flat=False)


def feature_of(layer: Layer) -> Feature:
    return Feature(layer.out_channels, layer.out_height, layer.out_width, layer.vector)


def spatial_cuts(graph: LayerGraph) -> list[int]:
    space = SearchSpace(graph)
    return [point for point in graph.cut_points if space.cut_kind(point) == "spatial"]


@pytest.fixture(scope="module")
def data(few_images: Path) -> DataSplits:
    return load_data(few_images)


@pytest.fixture(scope="module")
def trainers(data: DataSplits) -> dict[str, CandidateTrainer]:
    torch.manual_seed(0)
    parts = [getattr(data, name).take(slice(0, 32)) for name in ("train", "validation", "test")]
    return {
        model: CandidateTrainer(
            zoo.build(model, 10).eval(),
            SearchSpace(load_graph(model, 64)),
            CandidateData(*parts, Preprocess.of(data, 64)),
            quick(CandidateSettings(distillation=0.9), 48),
            device=CPU,
            precision=torch.float32,
        )
        for model in MODELS
    }


@pytest.mark.parametrize("model", MODELS)
def test_shapes_and_compression_ratios_at_every_spatial_cut(model: str) -> None:
    graph = load_graph(model, 64)
    for point in spatial_cuts(graph):
        feature = feature_of(graph.layers[point - 1])
        known = torch.randn(2, feature.channels, feature.height, feature.width)
        for shrink in (False, True):
            channels = max(1, feature.channels // 16)
            codec = build_bottleneck(feature, channels, shrink=shrink)
            high, wide = [math.ceil(side / 2) if shrink else side for side in (feature.height, feature.width)]
            with torch.no_grad():
                codeword = codec.encoder.eval()(known)
                rebuilt = codec.decoder.eval()(codec.channel(codeword))
            assert codeword.shape == (2, channels, high, wide) and rebuilt.shape == known.shape
            assert codec.codeword == (channels, high, wide)
            assert codec.elements == sent_elements(codec.encoder, feature) == channels * high * wide
            if feature.height % 2 == 0:  # the paper's ratio of "bandwidth": C H W / (c' H' W')
                assert feature.elements / codec.elements == feature.channels / channels * (4 if shrink else 1)


class Counted:
    """Multiplications and additions of a module's convolutions, by hooks: two for each weight that is used, and one
    for each output's bias (of a convolution to be folded with its batch norm) counted as two, as Table I has it."""

    def __init__(self, network: nn.Module) -> None:
        self.flops = 0
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(self._convolution)
            elif isinstance(module, nn.ReLU | nn.Sigmoid):
                module.register_forward_hook(lambda module, inputs, output: self._add(output[0].numel()))

    def _convolution(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        places = (output if isinstance(module, nn.Conv2d) else inputs[0])[0, 0].numel()
        self._add(2 * places * module.weight.numel() + 2 * output[0].numel())

    def _add(self, flops: int) -> None:
        self.flops += flops


@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("rectified", [False, True])
def test_flops(shrink: bool, rectified: bool) -> None:
    codec = build_bottleneck(FEATURE, 3, shrink=shrink, rectified=rectified)
    counts = [Counted(codec.encoder), Counted(codec.decoder)]
    codec.decoder(codec.encoder(torch.randn(1, 6, 5, 8).expand(2, -1, -1, -1)))
    assert [count.flops for count in counts] == [codec.encoder_flops, codec.decoder_flops]
    if shrink:  # by hand: 3 x 4 places, 7 planes with the noise level's, 2 x 2 taps
        assert codec.encoder_flops == 2 * 12 * (7 * 4 + 1) * 3 + 12 * 3
        assert codec.decoder_flops == 2 * 12 * 3 * 4 * 6 + 2 * 240 + 240 * rectified
    else:
        assert codec.encoder_flops == 2 * 40 * (7 * 9 + 1) * 3 + 40 * 3
        assert codec.decoder_flops == 2 * 40 * (3 * 9 + 1) * 6 + 240 * rectified


@pytest.mark.parametrize("sides", [(4, 4), (5, 7), (7, 6)])
def test_shrinking_reads_and_restores_every_place_of_odd_sides(sides: tuple[int, int]) -> None:
    codec = build_bottleneck(Feature(2, *sides, flat=False), 2, shrink=True, rectified=False)
    encoder, decoder = codec.encoder.eval(), codec.decoder.eval()
    x = torch.randn(1, 2, *sides, requires_grad=True)
    codeword = encoder(x)
    (gradient,) = torch.autograd.grad(codeword.sum(), x)
    assert (gradient != 0).all()
    # Every place of the output depends on a place of the codeword, not on the bias alone.
    assert (decoder(codeword) != decoder(torch.zeros_like(codeword))).all()


def test_the_codeword_is_within_0_and_1_and_decodes_to_nothing_negative() -> None:
    codec = build_bottleneck(FEATURE, 3, shrink=False)
    with torch.no_grad():
        codeword = codec.encoder(3 * torch.randn(16, 6, 5, 8))
        assert 0 < codeword.min() < 0.1 and 0.9 < codeword.max() < 1
        assert codec.decoder(codeword).min() == 0
        assert build_bottleneck(FEATURE, 3, shrink=False, rectified=False).decoder(codeword).min() < 0


def test_the_encoder_is_told_the_noise_of_the_batch() -> None:
    level = NoiseLevel(0.2)
    encoder, channel = ConditionedEncoder(level, nn.Identity()), AnalogueChannel(level)
    torch.manual_seed(0)
    told = []
    for _ in range(200):
        seen = encoder(torch.zeros(2, 3, 40, 40))
        assert seen.shape == (2, 4, 40, 40) and (seen[:, :3] == 0).all() and seen[:, 3].unique().numel() == 1
        told.append(float(seen[0, 3, 0, 0]))
        assert float(channel(seen).sub(seen).std()) == pytest.approx(told[-1], rel=0.05)
    assert 0 <= min(told) < 0.01 and 0.19 < max(told) <= 0.2
    assert sum(told) / 200 == pytest.approx(0.1, abs=0.02)  # five standard errors of a uniform's mean


def test_a_noise_free_channel_changes_nothing_and_draws_nothing() -> None:
    codec = build_bottleneck(FEATURE, 3, shrink=False)
    state = torch.get_rng_state()
    codeword = codec.encoder(torch.randn(2, 6, 5, 8, generator=torch.Generator().manual_seed(0)))
    assert codec.channel(codeword) is codeword
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("feature", "channels"), [(Feature(6, 5, 8, flat=True), 3), (Feature(256, 1, 1, flat=False), 3), (FEATURE, 0)]
)
def test_no_such_codec(feature: Feature, channels: int) -> None:
    with pytest.raises(InputError, match="bottlenetpp"):
        build_bottleneck(feature, channels, shrink=False)


@pytest.mark.parametrize(
    ("model", "cuts"), [("alexnet", "relu1 pool1 pool2"), ("regnet_x_400mf", "relu1 relu4 relu7 relu13 relu34")]
)
def test_the_plan_asks_for_cuts_that_send_less(model: str, cuts: str) -> None:
    graph = load_graph(model, 64)
    assert [graph.layers[point - 1].name for point in useful_cuts(graph)] == cuts.split()
    assert set(useful_cuts(graph)) <= set(spatial_cuts(graph))
    plan = BottlenetppTraining().plan(graph)
    assert json.loads(json.dumps(plan)) == plan and len(plan) <= MAX_TRAININGS
    assert len({tuple(each.values()) for each in plan}) == len(plan)
    # A prefix is balanced: first every cut at a quarter of its channels.
    assert [each["partition_point"] for each in plan[: len(cuts.split())]] == useful_cuts(graph)
    for number, each in enumerate(plan):
        layer = graph.layers[each["partition_point"] - 1]
        shares = [4] if number < len(cuts.split()) else [2, 4, 8, 16, 32]
        assert each["channels"] in [int(layer.out_channels / share + 0.5) for share in shares]
        assert not each["shrink"] or layer.out_height >= 4


def state_of(*modules: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


@pytest.mark.parametrize("model", MODELS)
def test_the_network_is_frozen_while_the_codec_learns(model: str, trainers: dict[str, CandidateTrainer]) -> None:
    """Weights, and means and variances of batch norms; dropout is off."""
    trainer = trainers[model]
    point = useful_cuts(trainer.graph)[1]
    halves = split(copy.deepcopy(trainer.base), trainer.graph, point)
    codec = build_bottleneck(feature_of(trainer.graph.layers[point - 1]), 4, shrink=True)
    network = SplitNetwork(halves[0], codec.encoder, codec.channel, codec.decoder, halves[1])
    modes: set[bool] = set()
    for half in halves:
        for module in half.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Dropout):
                module.register_forward_hook(lambda module, inputs, output: modes.add(module.training))
    before, codec_before = state_of(*halves), state_of(codec.encoder, codec.decoder)
    bottlenetpp._train_codec(trainer, network, 32, seed=0)
    assert modes == {False}
    assert all(torch.equal(old, new) for old, new in zip(before, state_of(*halves), strict=True))
    changed = [
        not torch.equal(old, new) for old, new in zip(codec_before, state_of(codec.encoder, codec.decoder), strict=True)
    ]
    assert all(changed)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_decoder_starts_at_the_scale_of_the_feature(trainers: dict[str, CandidateTrainer]) -> None:
    trainer = trainers["regnet_x_400mf"]
    halves = split(copy.deepcopy(trainer.base), trainer.graph, 3)
    codec = build_bottleneck(feature_of(trainer.graph.layers[2]), 4, shrink=True)
    network = SplitNetwork(halves[0], codec.encoder, codec.channel, codec.decoder, halves[1])
    bottlenetpp._start_decoder(trainer, network)
    with torch.no_grad():
        known = halves[0].eval()(trainer.data.preprocess(trainer.train_images.images)).double().numpy()
    norm = next(module for module in codec.decoder.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.bias.tolist() == pytest.approx(known.mean((0, 2, 3)), rel=1e-4, abs=1e-5)
    assert norm.weight.tolist() == pytest.approx(known.std((0, 2, 3)), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("model", "noise"), [("regnet_x_400mf", 0.0), ("regnet_x_400mf", 0.1), ("alexnet", 0.0)])
def test_what_one_training_leaves(
    model: str, noise: float, trainers: dict[str, CandidateTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainers[model]
    presented, networks = [], []
    tune, measure = trainer.tune, trainer.measure
    monkeypatch.setattr(trainer, "tune", lambda *args: (presented.append(args[1].images), tune(*args))[1])
    monkeypatch.setattr(trainer, "measure", lambda *args: (networks.append(copy.deepcopy(args[0])), measure(*args))[1])
    before = state_of(trainer.base)
    training, graph = BottlenetppTraining(), trainer.graph
    asked = training.plan(graph)[1]
    rows = training.train(trainer, asked | ({"noise": noise} if noise else {}), seed=5)
    assert all(torch.equal(old, new) for old, new in zip(before, state_of(trainer.base), strict=True))
    assert presented == [32, 64] and {row["images"] for row in rows} == {96}
    assert [row["feature_bits"] for row in rows] == ([32] if noise else [32, 8])
    point = asked["partition_point"]
    feature = feature_of(graph.layers[point - 1])
    codec = build_bottleneck(feature, asked["channels"], shrink=asked["shrink"])
    for row in rows:
        assert row["partition_point"] == point
        assert row["uplink_bit"] == row["feature_bits"] * codec.elements
        assert row["device_flop"] == sum(layer.flops for layer in graph.layers[:point]) + codec.encoder_flops
        assert row["server_flop"] == sum(layer.flops for layer in graph.layers[point:]) + codec.decoder_flops
        assert 0 <= row["test_accuracy"] <= 1 and "validation_lost" in row
    # The codec that was trained ends in a ReLU: these cuts come after one.
    assert isinstance(networks[0].decoder[-1], nn.ReLU)
    if noise:
        assert networks[0].channel.level is networks[0].encoder.level and networks[0].channel.level.greatest == noise
    else:
        quantizer = networks[1].channel
        assert isinstance(quantizer, Quantizer) and quantizer.bits == 8
        assert 0 <= float(quantizer.low) < float(quantizer.high) <= 1
    if model != "alexnet":
        assert training.train(trainer, asked | ({"noise": noise} if noise else {}), seed=5) == rows


def test_a_feature_that_can_be_negative_is_not_rectified() -> None:
    for model in MODELS:
        graph = load_graph(model, 64)
        kinds = {point: graph.layers[point - 1].kind for point in spatial_cuts(graph)}
        found = {point for point in kinds if bottlenetpp._never_negative(graph, point)}
        assert found == {point for point, kind in kinds.items() if kind not in ("conv", "batch_norm", "add")}


def test_cuts_without_sides_are_refused(trainers: dict[str, CandidateTrainer]) -> None:
    trainer = trainers["alexnet"]
    for point in (0, 13, 16, 21):
        with pytest.raises(InputError, match=f"partition_point {point} must be one of"):
            BottlenetppTraining().train(trainer, {"partition_point": point, "channels": 4, "shrink": False}, 0)
