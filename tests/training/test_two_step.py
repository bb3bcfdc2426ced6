"""2-Step Pruning: whom its scores send away first, when a run stops, and what its choices cost."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coinfer_ray.compression.pruning import shrink
from coinfer_ray.errors import InputError
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.split import split
from coinfer_ray.models.trace import trace_graph
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.training.candidate import CandidateData, CandidateSettings, CandidateTrainer
from coinfer_ray.training.compared import two_step
from coinfer_ray.training.compared.taylor import taylor_scores
from coinfer_ray.training.compared.two_step import (
    TwoStep,
    TwoStepSettings,
    cheapest_cuts,
    kept_channels,
    least_units,
    lower_envelope,
    prune,
    without,
)
from coinfer_ray.training.data import load_data
from coinfer_ray.training.quantized import measure_cuts
from coinfer_ray.training.trainer import Diverged, Phase, Preprocess, ResidentImages, share

CPU = torch.device("cpu")
FEW = TwoStepSettings(ranking_images=40, images=32, final_images=64, batch_size=16, parts=5, least=0.6)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Tied(nn.Module):
    """Sets: conv1 = {conv1, conv4} of 6 channels, tied by the addition; conv2 = {conv2, conv3} of 4 groups of 2; fc1.

    Activations work in place, as torchvision's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 2, 1)
        self.b = nn.Conv2d(6, 8, 1)
        self.c = nn.Conv2d(8, 8, 3, 1, 1, groups=4)
        self.d = nn.Conv2d(8, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc1 = nn.Linear(24, 12)
        self.fc2 = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.a(x))
        x = self.relu(x + self.norm(self.d(self.c(self.relu(self.b(x))))))
        return self.fc2(self.relu(self.fc1(torch.flatten(self.pool(x), 1))))


def tied(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = Tied().eval()
    with torch.no_grad():
        network.norm.running_mean.normal_(0, 0.3)
        network.norm.running_var.uniform_(0.2, 1.0)
    return network


def trainer_of(network: nn.Module, source: Path, px: int, images: int, **settings: Any) -> CandidateTrainer:
    data = load_data(source)
    part = CandidateData(data.train.take(slice(0, images)), data.validation, data.test, Preprocess.of(data, px))
    graph = trace_graph(network, (3, px, px), "own")
    chosen = CandidateSettings(
        fine_tune=Phase(images=0, batch_size=1, learning_rate=1e-2, optimizer="adamw"), **settings
    )
    return CandidateTrainer(network, SearchSpace(graph), part, chosen, device=CPU, precision=torch.float32)


@pytest.fixture(scope="module")
def trainer(few_images: Path) -> CandidateTrainer:
    return trainer_of(tied(), few_images, 12, 200, norm_images=64, distillation=0.9)


def naive_scores(network: nn.Module, x: torch.Tensor, labels: torch.Tensor, batch_size: int) -> dict[str, list[float]]:
    """By the definition, channel after channel: no hooks, nothing in place, sums in plain Python."""
    net: Any = copy.deepcopy(network).double()
    sums: dict[str, list[float]] = {}
    for start in range(0, len(x), batch_size):
        part, truth = x[start : start + batch_size].double(), labels[start : start + batch_size]
        z = {"a": net.a(part)}
        first = F.relu(z["a"])
        z["b"] = net.b(first)
        z["c"] = net.c(F.relu(z["b"]))
        z["d"] = net.d(z["c"])
        y = F.relu(first + net.norm(z["d"]))
        loss = F.cross_entropy(net.fc2(F.relu(net.fc1(net.pool(y).flatten(1)))), truth)
        gradients = dict(zip(z, torch.autograd.grad(loss, list(z.values())), strict=True))
        for name, maps in z.items():
            n, channels, height, width = maps.shape
            totals = sums.setdefault(name, [0.0] * channels)
            values, slopes = maps.tolist(), gradients[name].tolist()
            for c in range(channels):
                products = 0.0
                for i in range(n):
                    for h in range(height):
                        for w in range(width):
                            products += values[i][c][h][w] * slopes[i][c][h][w]
                totals[c] += products / (n * height * width)
    normed = {}
    for name, totals in sums.items():
        norm = sum(value * value for value in totals) ** 0.5
        normed[name] = [abs(value) / norm for value in totals]
    pairs = [left + right for left, right in zip(normed["b"], normed["c"], strict=True)]
    return {  # of two filters, and of four
        "conv1": [(left + right) / 2 for left, right in zip(normed["a"], normed["d"], strict=True)],
        "conv2": [sum(pairs[start : start + 2]) / 4 for start in range(0, len(pairs), 2)],
    }


def test_scores_are_those_of_naive_loops() -> None:
    network = tied()
    graph = trace_graph(network, (3, 12, 12), "own")
    rng = np.random.default_rng(0)
    images = ResidentImages(
        torch.from_numpy(rng.integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)), torch.from_numpy(rng.integers(0, 10, 7))
    )
    preprocess = Preprocess(12, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    for pruned in (network, without(network, graph, [("conv1", 4), ("conv2", 0), ("conv2", 3)])):
        before = {name: tensor.clone() for name, tensor in pruned.state_dict().items()}
        found = taylor_scores(pruned, graph, images, preprocess, batch_size=4, device=CPU, precision=torch.float32)
        expected = naive_scores(pruned, preprocess(images.images), images.labels, 4)
        assert set(found) == {"conv1", "conv2"}
        for name, values in expected.items():
            assert found[name].tolist() == pytest.approx(values, rel=1e-4)
        assert all(torch.equal(before[name], tensor) for name, tensor in pruned.state_dict().items())
        assert all(parameter.grad is None for parameter in pruned.parameters())
        assert not any(module._forward_hooks for module in pruned.modules())


def test_the_least_go_first_but_never_a_sets_last() -> None:
    scores = {"a": [0.3, 0.1, 0.2], "b": [0.05, 0.04], "c": [0.0]}
    assert least_units(scores, 3) == [("b", 1), ("a", 1), ("a", 2)]
    assert least_units(scores, 9) == [("b", 1), ("a", 1), ("a", 2)]
    assert least_units({"a": [1.0, 1.0, 1.0], "b": [1.0, 2.0]}, 2) == [("a", 0), ("a", 1)]


def test_units_are_counted_in_the_pruned_network() -> None:
    """Two removals, the second by what the first left, are one of the same channels."""
    network = tied()
    graph = trace_graph(network, (3, 12, 12), "own")
    twice = without(without(network, graph, [("conv2", 1), ("conv1", 0)]), graph, [("conv2", 1), ("conv2", 2)])
    once = shrink(network, graph, {"conv1": torch.arange(1, 6), "conv2": torch.tensor([0, 1])})
    x = torch.randn(3, 3, 12, 12)
    assert kept_channels(twice, graph) == {"conv1": 5, "conv2": 2, "fc1": 12}
    assert torch.equal(twice.eval()(x), once.eval()(x))


def test_a_run_removes_in_the_order_of_the_scores(few_images: Path) -> None:
    """With nothing trained, a run of two iterations against naive scores computed anew after each."""
    trainer = trainer_of(tied(), few_images, 12, 16)
    settings = TwoStepSettings(images=0, final_images=0, parts=5, least=0.7)  # 2 of 10 units at a time: 10, 8, 6
    network = trainer.base
    x = trainer.data.preprocess(trainer.train_images.images)
    keep = {"conv1": list(range(6)), "conv2": list(range(4))}
    for _ in range(2):
        scores = naive_scores(network, x, trainer.train_images.labels, 16)
        order = sorted((value, name, unit) for name, values in scores.items() for unit, value in enumerate(values))
        for _, name, unit in sorted(order[:2], key=lambda each: -each[2]):
            del keep[name][unit]
        channels = {"conv1": keep["conv1"], "conv2": [2 * unit + half for unit in keep["conv2"] for half in (0, 1)]}
        network = shrink(trainer.base, trainer.graph, {name: torch.tensor(rows) for name, rows in channels.items()})
    found = prune(trainer, trainer.base, ["conv1", "conv2"], 0.01, settings, np.random.default_rng(0))
    assert sum(len(units) for units in keep.values()) == 6 and found.images == 2 * 16
    expected = network.state_dict()
    assert expected.keys() == found.network.state_dict().keys()
    assert all(torch.equal(expected[name], tensor) for name, tensor in found.network.state_dict().items())


@pytest.fixture
def run(few_images: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, int, list[Phase]]]:
    """A run over a convolution of 20 channels whose accuracies are given: the channels left, images and phases."""
    chain = nn.Sequential(nn.Conv2d(3, 20, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(80, 10))
    trainer = trainer_of(chain, few_images, 8, 16)

    def run(accuracies: list[float], keep: float, settings: TwoStepSettings) -> tuple[int, int, list[Phase]]:
        phases: list[Phase] = []
        given = iter(accuracies)
        monkeypatch.setattr(trainer, "tune", lambda network, phase, seed: phases.append(phase))
        monkeypatch.setattr(two_step, "accuracy", lambda *_, **__: next(given))
        found = prune(trainer, trainer.base, ["conv1"], keep, settings, np.random.default_rng(0))
        assert next(given, None) is None
        return kept_channels(found.network, trainer.graph)["conv1"], found.images, phases

    return run


def test_a_run_stops_at_a_fifth(run: Callable[..., tuple[int, int, list[Phase]]]) -> None:
    """ceil(20 / 16) = 2 at a time: eight times to 4, which is no more than a fifth."""
    left, images, phases = run([0.8] * 9, 0.95, TwoStepSettings())
    assert left == 4
    assert [phase.images for phase in phases] == [4_000] * 8 + [16_000]
    assert {(phase.batch_size, phase.learning_rate) for phase in phases} == {(128, 1e-2)}
    assert images == 8 * (16 + 4_000) + 16_000  # there are 16 images to rank by
    assert run([0.8] * 6, 0.95, TwoStepSettings(least=0.55))[0] == 10  # 12 is more than 11


def test_the_iteration_that_breaks_the_bound_stays(run: Callable[..., tuple[int, int, list[Phase]]]) -> None:
    assert run([0.8, 0.79, 0.75], 0.95, TwoStepSettings())[0] == 16
    assert run([0.8, 0.79, 0.75, 0.73, 0.1], 0.9, TwoStepSettings())[0] == 12
    assert run([0.5, 0.25], 0.5, TwoStepSettings())[0] == 18  # the bound itself is not above it


def test_a_set_of_one_unit_is_trained_alone(run: Callable[..., tuple[int, int, list[Phase]]]) -> None:
    left, _, phases = run([0.8] * 20, 0.95, TwoStepSettings(least=0.0, parts=20))
    assert left == 1 and len(phases) == 20  # 19 removals, then nothing is left to remove


def test_norms_are_measured_after_a_removal(few_images: Path) -> None:
    trainer = trainer_of(tied(), few_images, 12, 64, norm_images=64)
    settings = replace(FEW, images=0, final_images=0, least=0.8)
    network: Any = prune(trainer, trainer.base, ["conv1"], 0.01, settings, np.random.default_rng(0)).network
    x = trainer.data.preprocess(trainer.train_images.images)
    with torch.no_grad():
        z = network.d(network.c(F.relu(network.b(F.relu(network.a(x))))))
    assert kept_channels(network, trainer.graph)["conv1"] == 4
    assert torch.allclose(network.norm.running_mean, z.mean((0, 2, 3)), atol=1e-5)


def test_the_same_with_and_without_the_first_step_kept(
    trainer: CandidateTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions: list[list[str]] = []

    def counted(trainer: CandidateTrainer, network: nn.Module, region: list[str], *rest: Any) -> Any:
        regions.append(region)
        return prune(trainer, network, region, *rest)

    monkeypatch.setattr(two_step, "prune", counted)
    keeping = TwoStep(FEW)
    first = keeping.train(trainer, {"keep": 0.5, "set": None}, 7)
    second = keeping.train(trainer, {"keep": 0.5, "set": "conv1"}, 7)
    assert regions == [["conv1", "conv2"], ["conv1"]]
    assert keeping.train(trainer, {"keep": 0.5, "set": None}, 7) == first
    assert TwoStep(FEW).train(trainer, {"keep": 0.5, "set": "conv1"}, 7) == second
    assert regions == [["conv1", "conv2"], ["conv1"]] * 2
    # Whatever else the first step was made for is another.
    other = keeping.train(trainer, {"keep": 0.5, "set": None}, 8)
    assert len(regions) == 5 and other != first
    keeping.train(trainer, {"keep": 0.6, "set": None}, 8)
    assert len(regions) == 6
    assert second[0]["images"] > first[0]["images"]
    kept = [json.loads(rows[0]["kept"]) for rows in (first, second)]
    assert kept[1]["conv1"] < kept[0]["conv1"] < 6 and kept[1]["conv2"] == kept[0]["conv2"]


def test_choices_cost_what_the_pruned_layers_do(trainer: CandidateTrainer) -> None:
    """FLOPs by Table I with the channels that ``kept`` says, written out; bits from what really leaves the device."""
    graph, asked = trainer.graph, TwoStep(FEW)
    for name in (None, "conv1"):
        rows = asked.train(trainer, {"keep": 0.5, "set": name}, 3)
        network = asked._first_step(trainer, 0.5, 3).network
        if name:
            network = prune(trainer, network, [name], 0.5, FEW, np.random.default_rng([3, 2])).network
        kept = json.loads(rows[0]["kept"])
        a, b = kept["conv1"], kept["conv2"]
        flops = {
            1: 2 * 36 * (3 * 9 + 1) * a,
            2: 36 * a,
            3: 2 * 36 * (a + 1) * b,
            4: 36 * b,
            5: 2 * 36 * (2 * 9 + 1) * b,
            6: 2 * 36 * (b + 1) * a,
            7: 0,
            8: 36 * a,
            9: 36 * a,
            10: 36 * a,
            11: (2 * 4 * a - 1) * 12,
            12: 12,
            13: (2 * 12 - 1) * 10,
        }
        plain = [row for row in rows if row["feature_bits"] == 32]
        inner = (1, 2, 8, 9, 10)
        points = (0, *inner, 11, 12, 13) if name is None else inner
        assert tuple(row["partition_point"] for row in plain) == points
        for row in plain:
            point = row["partition_point"]
            device_half, _ = split(network, graph, point)
            sent = device_half.eval()(torch.zeros(1, 3, 12, 12)).numel()
            assert row["uplink_bit"] == {0: 32 * 3 * 12 * 12, 13: 0}.get(point, 32 * sent)
            assert row["device_flop"] == sum(flops[layer] for layer in range(1, point + 1))
            assert row["server_flop"] == sum(flops[layer] for layer in range(point + 1, 14))
            assert row["validation_accuracy"] == trainer.measure(network, 0)["validation_accuracy"]
        coded = [row for row in rows if row["feature_bits"] == 8]
        if name:
            assert [row["partition_point"] for row in coded] == [10]
        for row in coded:
            parts = {"validation": trainer.validation_images, "test": trainer.test_images}
            point, images, preprocess = row["partition_point"], trainer.train_images, trainer.data.preprocess
            [[one]] = measure_cuts(
                network, graph, [point], [8], calibration=images, splits=parts, preprocess=preprocess
            )
            assert row["uplink_bit"] == pytest.approx(one.coded_bit)
            assert row["validation_accuracy"] == share(one.hits["validation"])
            assert row["test_accuracy"] == share(one.hits["test"])
            beside = next(each for each in plain if each["partition_point"] == point)
            for column in ("device_flop", "server_flop", "images", "kept"):
                assert row[column] == beside[column]


def test_only_cuts_that_some_scenario_would_choose_are_coded(trainer: CandidateTrainer) -> None:
    costs = [(5, 10), (0, 100), (0, 100), (1, 99), (2, 40), (3, 39), (9, 10), (8, 4)]
    rows = [{"device_flop": flop, "uplink_bit": bit} for flop, bit in costs]
    found = [(row["device_flop"], row["uplink_bit"]) for row in lower_envelope(rows)]
    assert found == [(0, 100), (2, 40), (5, 10), (8, 4)]
    one = TwoStep(replace(FEW, coded_cuts=1)).train(trainer, {"keep": 0.5, "set": None}, 3)
    assert [row["feature_bits"] for row in one].count(8) == 1
    sends_least = min(one[1:-2], key=lambda row: row["uplink_bit"])  # without the endpoints and itself
    assert one[-1]["partition_point"] == sends_least["partition_point"]


def test_the_plan_has_a_second_step_for_each_set_at_a_cut() -> None:
    alexnet, regnet = load_graph("alexnet", 64), load_graph("regnet_x_400mf", 64)
    assert cheapest_cuts(alexnet) == {"conv1": 3, "conv2": 6, "conv3": 7, "conv4": 9, "conv5": 13}
    # Sets within a block never cross a cut.
    assert cheapest_cuts(regnet) == {"conv1": 1, "conv2": 14, "conv6": 26, "conv13": 48, "conv35": 232}
    plan = TwoStep(replace(FEW, keeps=(0.9,))).plan(regnet)
    assert [item["set"] for item in plan] == [None, "conv1", "conv2", "conv6", "conv13", "conv35"]
    plan = TwoStep(TwoStepSettings(keeps=(0.9, 0.8), most_sets=2)).plan(alexnet)
    assert json.loads(json.dumps(plan)) == [
        {"keep": keep, "set": name} for keep in (0.9, 0.8) for name in (None, "conv2", "conv5")
    ]
    pooled = trace_graph(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), (3, 4, 4), "own")
    assert [item["set"] for item in TwoStep(TwoStepSettings(keeps=(0.9,))).plan(pooled)] == [None]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"keep": 1.0, "set": None}, "two_step: keep is 1.0; it must be above 0 and below 1"),
        ({"keep": 0.9, "set": "conv2"}, "two_step: no cut of own has the set conv2; sets are conv1"),
    ],
)
def test_what_cannot_be_done_is_said(trainer: CandidateTrainer, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TwoStep(FEW).train(trainer, asked, 0)


def test_scores_that_are_no_numbers_are_said(trainer: CandidateTrainer) -> None:
    network: Any = copy.deepcopy(trainer.base)
    with torch.no_grad():
        network.fc2.weight[:] = torch.nan
    with pytest.raises(Diverged, match="the Taylor scores of conv1 are no numbers"):
        prune(trainer, network, ["conv1"], 0.5, FEW, np.random.default_rng(0))
