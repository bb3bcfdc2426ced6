"""A base network trained to be pruned: its sub-networks are what pruning leaves, and rank as they were trained."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.models import trace, zoo
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.training.base import BaseNetwork, build_base, read_base, train_base
from coinfer_ray.training.data import DataSplits, load_data
from coinfer_ray.training.ordering import keep_order, ordered_network
from coinfer_ray.training.prunable import PrunablePhase, make_prunable, measure_batch_norms
from coinfer_ray.training.subnetworks import SlicedNetwork, draw_kept, flops_left, kept_of_flops
from coinfer_ray.training.trainer import Diverged, Phase, Preprocess, accuracy
from coinfer_ray.training.worker import default_settings
from tests.models.test_pruning import with_lively_norms

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
MODELS = ("regnet_x_400mf", "alexnet")
PRUNABLE = PrunablePhase(images=96, batch_size=16, learning_rate=1e-3, optimizer="adamw", plain=0.3)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Few images leave little to chance only where sums are taken in the same order, whatever the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(few_images: Path) -> DataSplits:
    return load_data(few_images)


@pytest.fixture(scope="module")
def plain(data: DataSplits) -> BaseNetwork:
    phase = Phase(images=64, batch_size=32, learning_rate=1e-3, optimizer="adamw")
    return train_base("regnet_x_400mf", 64, data, phase=phase, seed=0, device=CPU, precision=torch.float32)


@pytest.fixture(scope="module", params=MODELS)
def lively(request: pytest.FixtureRequest) -> tuple[nn.Module, LayerGraph]:
    torch.manual_seed(0)
    network = with_lively_norms(zoo.build(request.param, 10)).eval()
    return network, trace.trace_graph(network, (3, 64, 64), request.param)


def test_the_order_is_that_of_nnis_masks(lively: tuple[nn.Module, LayerGraph]) -> None:
    network, graph = lively
    ranking = ChannelRanking(network, graph)
    order = ranking.order()
    for share in (0.9, 0.45):
        groups = {each.name: max(1, round(share * each.channels / each.unit)) for each in graph.prunable_sets}
        kept = {each.name: groups[each.name] * each.unit for each in graph.prunable_sets}
        for name, channels in ranking.keep(kept).items():
            assert channels.tolist() == sorted(order[name][: kept[name]].tolist())


def test_a_slice_is_the_pruned_network(lively: tuple[nn.Module, LayerGraph]) -> None:
    """Outputs in training mode and the gradients that reach the whole network's weights."""
    network, graph = lively
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    network.train()
    rng = np.random.default_rng(1)
    x = torch.randn(8, 3, 64, 64)
    sliced = SlicedNetwork(network, graph)
    running = [copy.deepcopy(buffer) for buffer in network.buffers()]
    for level in (0.05, 0.45):
        kept = draw_kept(graph, level, 0.12, rng)
        pruned = shrink(network, graph, {name: torch.arange(count) for name, count in kept.items()}).train()
        expected = pruned(x)
        found = sliced(x, kept)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
        network.zero_grad()
        found.square().mean().backward()
        expected.square().mean().backward()
        for layer in graph.layers:
            if layer.kind in ("conv", "fc"):
                whole, part = [net.get_submodule(layer.module).weight.grad for net in (network, pruned)]
                assert float(whole.norm()) == pytest.approx(float(part.norm()), rel=1e-2)
        for layer in graph.layers:  # a GPU computes the same by masks
            if layer.kind in ("conv", "fc"):
                network.get_submodule(layer.module).weight.sliced = network.get_submodule(layer.module).weight.grad
        network.zero_grad()
        masked = sliced._masked(x, kept)
        assert torch.allclose(masked, found, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
        masked.square().mean().backward()
        for layer in graph.layers:
            if layer.kind in ("conv", "fc"):
                weight = network.get_submodule(layer.module).weight
                assert float((weight.grad - weight.sliced).norm()) <= 0.05 * float(weight.sliced.norm())
    # It leaves no trace in the averages of the whole network's batch norms.
    assert all(torch.equal(now, then) for now, then in zip(network.buffers(), running, strict=True))
    network.eval()


def test_drawn_sub_networks_are_legal_and_as_large_as_asked_for() -> None:
    graph = trace.trace_graph(zoo.build("regnet_x_400mf", 10), (3, 64, 64), "regnet_x_400mf")
    rng = np.random.default_rng(0)
    for _ in range(50):
        kept = draw_kept(graph, rng.uniform(0, 0.9), 0.3, rng)
        for each in graph.prunable_sets:
            assert each.unit <= kept[each.name] <= each.channels and kept[each.name] % each.unit == 0
    for share in (0.75, 0.5):
        assert flops_left(graph, kept_of_flops(graph, share, 0.12, rng)) == pytest.approx(share, abs=0.03)
    assert flops_left(graph, {each.name: each.channels for each in graph.prunable_sets}) == 1


def test_scaled_filters_rank_in_order_and_compute_the_same(lively: tuple[nn.Module, LayerGraph]) -> None:
    network, graph = lively
    shuffled = copy.deepcopy(network)
    x = torch.randn(4, 3, 64, 64)
    before = shuffled(x)
    assert any((order.diff() < 0).any() for order in ChannelRanking(shuffled, graph).order().values())
    keep_order(shuffled, graph)
    assert torch.allclose(shuffled(x), before, rtol=1e-3, atol=1e-3 * float(before.detach().abs().max()))
    for name, order in ChannelRanking(shuffled, graph).order().items():
        assert torch.equal(order, torch.arange(len(order))), name


def test_ordering_the_channels_changes_no_output(plain: BaseNetwork) -> None:
    network, graph = ordered_network(plain, 10)
    x = torch.randn(4, 3, 64, 64)
    expected = build_base(plain, 10)(x)
    assert torch.allclose(network(x), expected, rtol=1e-3, atol=1e-3 * float(expected.detach().abs().max()))
    # But for norms that are equal to the last digits: only the end of the phase sets them apart.
    for name, order in ChannelRanking(network, graph).order().items():
        assert (order - torch.arange(len(order))).abs().max() <= graph.set_named(name).unit, name


def test_batch_norms_are_measured_as_plain_averages(data: DataSplits) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    preprocess = Preprocess.of(data, 32)
    measure_batch_norms(network, data.train, preprocess, 512, device=CPU, precision=torch.float32)
    x = preprocess(torch.from_numpy(data.train.images[:512]))
    norm = network[0]
    assert torch.allclose(norm.running_mean, x.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, x.var((0, 2, 3)), rtol=1e-2)
    assert norm.momentum == 0.1 and not norm.training


def test_sub_networks_learn_with_the_whole(plain: BaseNetwork, data: DataSplits) -> None:
    """The same images without sub-networks leave the pruned network worse."""
    phase = PrunablePhase(images=1_600, batch_size=32, learning_rate=2e-3, optimizer="adamw", augment=False)
    preprocess = Preprocess.of(data, 64)
    found = []
    for plain_share in (0.0, 1.0):
        one = PrunablePhase(**(vars(phase) | {"plain": plain_share}))
        base = make_prunable(plain, data, phase=one, seed=1, device=CPU, precision=torch.float32)
        assert base.info["prunable"]["plain"] == plain_share and base.info["prunable_from"] == plain.fingerprint
        network = build_base(base, 10)
        graph = trace.trace_graph(network, (3, 64, 64), "regnet_x_400mf")
        ranking = ChannelRanking(network, graph)
        if plain_share == 0.0:  # what was trained is what NNI keeps, though the weights are rounded
            assert all(torch.equal(order, torch.arange(len(order))) for order in ranking.order().values())
        kept = kept_of_flops(graph, 0.6, 0.0, np.random.default_rng(0))
        pruned = shrink(network, graph, ranking.keep(kept))
        measure_batch_norms(pruned, data.train, preprocess, 512, device=CPU, precision=torch.float32)
        found.append(accuracy(pruned, data.train, preprocess, device=CPU, precision=torch.float32))
    assert found[0] > found[1] + 0.03, found


def test_a_killed_run_goes_on_to_the_same_network(plain: BaseNetwork, few_images: Path, tmp_path: Path) -> None:
    """kill -9 in the second phase, again the same command: bit for bit the weights of a run without it."""
    from coinfer_ray.training.base import save_base

    save_base(plain, tmp_path / "plain.safetensors")
    code = (
        "import runpy, sys; from coinfer_ray.training import trainer; trainer.CHECKPOINT_S = 0.0; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code, str(REPOSITORY / "scripts" / "train_base.py"), "--data", str(few_images)]
        options = {"--from": tmp_path / "plain.safetensors", "--out": out, "--prunable-images": 1_536}
        options["--fine-tune-images"] = 0
        return subprocess.Popen(command + [str(each) for pair in options.items() for each in pair])

    assert start(tmp_path / "straight.safetensors").wait(timeout=400) == 0
    killed, checkpoint = tmp_path / "killed.safetensors", tmp_path / ".killed.safetensors.prunable"
    run = start(killed)
    end = time.monotonic() + 240
    while not checkpoint.exists():
        assert run.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not killed.exists()
    assert start(killed).wait(timeout=400) == 0
    assert read_base(killed).fingerprint == read_base(tmp_path / "straight.safetensors").fingerprint
    assert not [path for path in os.listdir(tmp_path) if path.startswith(".")]


def test_fewer_images_shorten_both_phases() -> None:
    settings = default_settings("regnet_x_400mf")
    assert settings.prunable is not None
    half = settings.with_base_images(settings.base.images // 2, None)
    assert half.base.images == settings.base.images // 2
    assert half.prunable is not None and half.prunable.images == settings.prunable.images // 2
    assert settings.with_base_images(None, None) == settings
    assert settings.with_base_images(100, 0).prunable is None
    plain = replace(settings, prunable=None)
    assert plain.with_base_images(100, 100).prunable is None


def test_a_loss_that_is_no_number_is_said_of_sub_networks_too(plain: BaseNetwork, data: DataSplits) -> None:
    weights = {name: array.copy() for name, array in plain.weights.items()}
    weights["fc.weight"][:] = np.nan
    with pytest.raises(Diverged, match="the loss is nan"):
        broken = BaseNetwork(weights, 0.5, 0.5, plain.info)
        make_prunable(broken, data, phase=PRUNABLE, seed=0, device=CPU, precision=torch.float32)


def test_every_norm_that_keeps_statistics_is_measured(data: DataSplits) -> None:
    """Of vectors too, and instance norms that track; those that keep none stay as they are."""
    torch.manual_seed(0)
    instance, none = nn.InstanceNorm2d(3, track_running_stats=True), nn.BatchNorm2d(3, track_running_stats=False)
    vector = nn.BatchNorm1d(12)
    network = nn.Sequential(instance, none, nn.AvgPool2d(16), nn.Flatten(), vector, nn.Linear(12, 10))
    preprocess = Preprocess.of(data, 32)
    measure_batch_norms(network, data.train, preprocess, 512, device=CPU, precision=torch.float32)
    x = preprocess(torch.from_numpy(data.train.images[:512]))
    assert torch.allclose(instance.running_mean, x.mean((0, 2, 3)), atol=1e-5)
    with torch.no_grad():
        halves = [network[2](none(F.instance_norm(half))).flatten(1) for half in x.split(256)]
    pooled = torch.cat(halves)
    assert torch.allclose(vector.running_mean, pooled.mean(0), atol=1e-4)
    assert torch.allclose(vector.running_var, pooled.var(0), rtol=2e-2)
    assert none.running_mean is None and vector.momentum == 0.1 and not vector.training


def test_norms_without_scale_or_statistics_are_sliced_and_ordered() -> None:
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(12, track_running_stats=False)
    convs = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)
    network = nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU(), *head)
    graph = trace.trace_graph(network, (3, 8, 8), "norms")
    (only,) = graph.prunable_sets
    x = torch.randn(16, 3, 8, 8)
    expected = shrink(network, graph, {only.name: torch.arange(7)}).train()(x)
    assert torch.allclose(SlicedNetwork(network, graph)(x, {only.name: 7}), expected, atol=1e-5)
    before = network.train()(x)
    keep_order(network, graph)
    norms_of_filters = convs[1].weight.detach().abs().sum((1, 2, 3))
    assert (norms_of_filters.diff() < 0).all()
    assert torch.allclose(network(x), before, atol=1e-4)
