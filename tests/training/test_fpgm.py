"""FPGM: which filters it chooses, that zeros are what removal computes, and what one training leaves."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coinfer_ray.compression.pruning import shrink
from coinfer_ray.errors import InputError
from coinfer_ray.models import zoo
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.trace import trace_graph
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Codec
from coinfer_ray.records.store import read_records, shipped_records
from coinfer_ray.training.candidate import CandidateData, CandidateSettings, CandidateTrainer
from coinfer_ray.training.compared import fpgm
from coinfer_ray.training.compared.fpgm import LAYERWISE, RATES, FpgmTraining, SoftPruned, uniform
from coinfer_ray.training.data import load_data
from coinfer_ray.training.subnetworks import flops_left
from coinfer_ray.training.trainer import Phase, Preprocess, train
from tests.training.collect_driver import quick

CPU = torch.device("cpu")
PHASE = Phase(images=0, batch_size=32, learning_rate=1e-3, optimizer="adamw")


def lively(model: str) -> nn.Module:
    """Untrained, but with scales, shifts and statistics of batch norms that all differ."""
    torch.manual_seed(1)
    network = zoo.build(model, 10).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.3)
    return network


def test_damaged_records_are_told_and_leave_no_rates_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load_graph("alexnet", 64)
    content = shipped_records("alexnet", 64).read_bytes()
    damaged = tmp_path / "alexnet-64px.parquet"
    damaged.write_bytes(content[:-100])
    monkeypatch.setattr(fpgm, "shipped_records", lambda *_: damaged)
    with pytest.raises(InputError, match=r"alexnet-64px\.parquet is not a whole Parquet file"):
        FpgmTraining().plan(graph)


def distance_sums(weight: torch.Tensor, unit: int) -> list[float]:
    """For every ``unit`` filters, the sum of the Euclidean distances to the others, in plain Python."""
    rows = weight.reshape(len(weight) // unit, -1).tolist()
    return [sum(math.dist(one, other) for other in rows) for one in rows]


@pytest.mark.parametrize(
    ("model", "name"),
    [("alexnet", "conv1"), ("regnet_x_400mf", "conv2"), ("regnet_x_400mf", "conv6"), ("regnet_x_400mf", "conv14")],
)
def test_the_channels_nearest_to_the_others_go(model: str, name: str) -> None:
    """One layer; tied ones, by the mean of their scores; convolutions of groups, in whole groups."""
    network, graph = lively(model), load_graph(model, 64)
    prunable = graph.set_named(name)
    modules = {layer.name: layer.module for layer in graph.layers}
    scores = [
        distance_sums(network.get_submodule(modules[layer]).weight.detach(), prunable.unit) for layer in prunable.layers
    ]
    mean = np.mean(scores, axis=0)
    kept = SoftPruned(network, graph, uniform(graph, 0.3), 100).keep[name]
    removed = sorted(set(range(prunable.channels)) - set(kept.tolist()))
    groups = np.argsort(mean)[: round(0.3 * len(mean))]
    assert removed == sorted(group * prunable.unit + each for group in groups for each in range(prunable.unit))


@pytest.mark.parametrize(("model", "sets"), [("alexnet", 5), ("regnet_x_400mf", 27)])
def test_zeros_compute_what_removal_does(model: str, sets: int) -> None:
    network, graph = lively(model), load_graph(model, 64)
    before = copy.deepcopy(network)
    soft = SoftPruned(network, graph, uniform(graph, 0.4), 100).eval()
    assert len(soft.keep) == sets
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        zeroed = soft(x)
        removed = shrink(network, graph, soft.keep)
        assert torch.allclose(removed(x), zeroed, rtol=0, atol=1e-5 * float(zeroed.abs().max()))
        assert not torch.allclose(before(x), zeroed, atol=1e-2 * float(zeroed.abs().max()))
    widths = {layer.name: layer.out_channels for layer in trace_graph(removed, graph.input_shape, model).layers}
    for prunable in graph.prunable_sets:
        gone = round(0.4 * prunable.channels / prunable.unit) * prunable.unit if prunable.name in soft.keep else 0
        assert {widths[layer] for layer in prunable.layers} == {prunable.channels - gone}


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_layer_by_layer_the_best_records_say_how_much(model: str) -> None:
    """The more is left, the less was lost; what is planned is what is removed, linear layers included."""
    network, graph = lively(model), load_graph(model, 64)
    plan = [each["kept"] for each in FpgmTraining().plan(graph)[len(RATES) :]]
    assert 2 <= len(plan) <= LAYERWISE and plan == json.loads(json.dumps(plan))
    records, space = read_records(shipped_records(model, 64)), SearchSpace(graph)
    lost: dict[str, list[float]] = {}
    for strategy, reached in zip(records.strategies, records.accuracy(), strict=True):
        if strategy.codec == Codec():
            lost.setdefault(json.dumps(space.kept_channels(strategy)), []).append(records.base_accuracy() - reached)
    losses = [np.mean(lost[json.dumps(kept)]) for kept in plan]
    shares = [flops_left(graph, kept) for kept in plan]
    assert shares == sorted(shares) and losses == sorted(losses, reverse=True) and losses[0] < 0.05
    soft = SoftPruned(network, graph, plan[0], 100).eval()
    assert {name: len(rows) for name, rows in soft.keep.items()} == plan[0]
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        zeroed = soft(x)
        assert torch.allclose(
            shrink(network, graph, soft.keep)(x), zeroed, rtol=0, atol=1e-5 * float(zeroed.abs().max())
        )


def test_channels_are_chosen_anew_after_every_epoch_and_stay_at_zero(few_images: Path) -> None:
    data, graph = load_data(few_images), load_graph("alexnet", 64)
    network = lively("alexnet")
    soft = SoftPruned(network, graph, uniform(graph, 0.25), choose_every=48)
    chosen_at: list[int] = []
    choose = soft.choose

    def watched() -> None:
        chosen_at.append(soft.presented)
        choose()

    soft.choose = watched  # type: ignore[method-assign]
    first = {name: rows.clone() for name, rows in soft.keep.items()}
    conv = network.get_submodule("features.0")
    assert isinstance(conv, nn.Conv2d)
    gone = sorted(set(range(64)) - set(first["conv1"].tolist()))
    assert (conv.weight[gone] == 0).all() and (conv.weight[first["conv1"]] != 0).any()
    # All that were kept become neighbours far from zero, one of them in their middle: it is chosen next, and zeros are
    # chosen no more. What an optimizer might make of a channel that is gone doesn't count.
    rest = first["conv1"].tolist()
    moved = rest.pop()
    with torch.no_grad():
        conv.weight[first["conv1"]] += 1.0
        conv.weight[moved] = conv.weight[rest].mean(0)
        for parameter in (conv.weight, conv.bias):
            parameter[gone] = 5.0
    before = conv.weight.detach().clone()
    phase = replace(PHASE, images=96)
    train(soft, data.train, Preprocess.of(data, 64), phase, seed=0, device=CPU, precision=torch.float32)
    assert chosen_at == [64]  # before the first batch of 32 that has an epoch of 48 behind it
    kept = soft.keep["conv1"].tolist()
    assert len(kept) == 48 and moved not in kept and set(gone) < set(kept)
    gone = sorted(set(range(64)) - set(kept))
    soft.clear()
    assert (conv.weight[gone] == 0).all() and (conv.bias[gone] == 0).all()
    assert (conv.weight[rest] != before[rest]).any()


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_a_training_leaves_a_row_for_every_partition_point(model: str, few_images: Path) -> None:
    data, graph = load_data(few_images), load_graph(model, 64)
    parts = [getattr(data, name).take(slice(0, 64)) for name in ("train", "validation", "test")]
    settings = quick(CandidateSettings(distillation=0.9), 64)
    candidate_data = CandidateData(*parts, Preprocess.of(data, 64))
    trainer = CandidateTrainer(
        lively(model), SearchSpace(graph), candidate_data, settings, device=CPU, precision=torch.float32
    )
    weights = copy.deepcopy(trainer.base.state_dict())
    training = FpgmTraining()
    plan = training.plan(graph)
    assert json.loads(json.dumps(plan))[: len(RATES)] == [{"rate": rate} for rate in RATES]
    asked = plan[len(RATES) - 1]
    rows = training.train(trainer, asked, seed=3)
    assert [row["partition_point"] for row in rows] == list(graph.cut_points)
    assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.base.state_dict().items())
    assert {row["images"] for row in rows} == {128} and len({row["test_accuracy"] for row in rows}) == 1
    assert rows[0]["uplink_bit"] == 32 * 3 * 64 * 64 and rows[-1]["uplink_bit"] == 0
    # Half of the first convolution's channels: 2 Ho Wo (Ci K^2 + 1) Co, and 32 bits a value.
    conv = graph.layers[0]
    area = conv.out_height * conv.out_width
    assert rows[1]["device_flop"] == 2 * area * (3 * conv.kernel_area + 1) * conv.out_channels // 2
    assert rows[1]["uplink_bit"] == 32 * area * conv.out_channels // 2
    totals = {row["device_flop"] + row["server_flop"] for row in rows}
    assert len(totals) == 1 and totals.pop() < graph.flops
    if model != "alexnet":  # too slow to be done twice
        assert training.train(trainer, asked, seed=3) == rows
