"""Early exits: where a network may end, what it costs then, and that the last exit stays the base network."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coinfer_ray.methods.partition import partition_costs
from coinfer_ray.methods.trained import choose
from coinfer_ray.models import zoo
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.trace import trace_graph
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.records.choices import read_choices, write_choices
from coinfer_ray.records.store import RecordsInfo
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.training.candidate import CandidateData, CandidateSettings, CandidateTrainer
from coinfer_ray.training.compared import edgent
from coinfer_ray.training.compared.edgent import Edgent, WithExits, exit_hits, exit_points
from coinfer_ray.training.data import ImageSet, load_data
from coinfer_ray.training.trainer import Phase, Preprocess, accuracy, train
from tests.training.collect_driver import quick

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


class Tiny(nn.Sequential):
    """Two convolutions and a classifier, for inputs of 8 px."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 96, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(96 * 4, num_classes),
        )


def coloured(count: int, seed: int) -> ImageSet:
    """Images of one colour each and a little noise; the colour's brightness of ten is the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    images = 12 + 25 * labels[:, None, None, None] + rng.integers(-3, 4, (count, 8, 8, 3))
    return ImageSet(images.astype(np.uint8), labels.astype(np.int64))


@pytest.fixture(scope="module")
def trainer() -> CandidateTrainer:
    """Of a tiny network that tells the colours apart."""
    torch.manual_seed(0)
    network, preprocess = Tiny(), Preprocess(8, (0.5,) * 3, (0.28,) * 3)
    images = [coloured(count, seed) for seed, count in enumerate((1000, 200, 300))]
    phase = Phase(images=30_000, batch_size=50, learning_rate=5e-3, optimizer="adamw", augment=False)
    train(network, images[0], preprocess, phase, seed=0, device=CPU, precision=torch.float32)
    assert accuracy(network, images[2], preprocess, device=CPU, precision=torch.float32) > 0.95
    settings = CandidateSettings(
        fine_tune=Phase(4_000, 64, 1e-3, optimizer="adamw", augment=False),
        end_to_end=Phase(16_000, 64, 1e-3, optimizer="adamw", augment=False),
        distillation=0.9,
    )
    graph = trace_graph(network.eval(), SHAPE, "tiny")
    return CandidateTrainer(
        network, SearchSpace(graph), CandidateData(*images, preprocess), settings, device=CPU, precision=torch.float32
    )


@pytest.fixture(scope="module")
def rows(trainer: CandidateTrainer) -> list[dict[str, Any]]:
    return Edgent().train(trainer, {"exits": [3]}, seed=1)


def test_a_network_may_end_where_least_crosses_between_two_layers_with_weights() -> None:
    def names(model: str) -> list[str]:
        graph = load_graph(model, 64)
        return [graph.layers[point - 1].name for point in exit_points(graph)]

    assert names("alexnet") == ["pool1", "pool2", "relu3", "relu4", "pool3", "dropout2"]
    regnet = load_graph("regnet_x_400mf", 64)
    points = exit_points(regnet)
    assert len(points) == len(set(points)) == edgent.MAX_EXITS and points == sorted(points)
    assert {regnet.layers[point - 1].kind for point in points} == {"relu"}
    assert set(points) <= set(regnet.cut_points)
    done = [sum(layer.flops for layer in regnet.layers[:point]) / regnet.flops for point in points]
    assert done[0] < 0.15 and done[-1] > 0.85 and max(np.diff(done)) < 0.13
    assert json.loads(json.dumps(Edgent().plan(regnet))) == [{"exits": points}]
    # Of a network with one layer before its classifier nothing could be left out.
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)).eval()
    assert Edgent().plan(trace_graph(small, SHAPE, "small")) == []


def test_what_a_network_that_ends_early_costs(rows: list[dict[str, Any]], trainer: CandidateTrainer) -> None:
    """Counted by hand from Table I: conv 2 Ho Wo (Ci K^2 + 1) Co, activation Hi Wi Ci, pool K^2 Ho Wo Ci, mean Hi Wi
    Ci, linear (2 Ci - 1) Co."""
    assert exit_points(trainer.graph) == [3]
    conv, relu, pool = 2 * 64 * (3 * 9 + 1) * 4, 64 * 4, 4 * 16 * 4
    heads = {
        "exit after pool1, linear": 16 * 4 + 7 * 10,
        "exit after pool1, 512 hidden": 2 * 4 * (9 + 1) * 4
        + 2 * 4 * (4 + 1) * 512
        + 4 * 512
        + 4 * 512
        + (2 * 512 - 1) * 10,
    }
    for variant, head in heads.items():
        own = {row["partition_point"]: row for row in rows if row["variant"] == variant}
        total = conv + relu + pool + head
        # Behind the pooling less crosses than behind the convolution, for few FLOPs more; the ReLU is never best.
        costs = {
            0: (0, 32 * 192),
            1: (conv, 32 * 256),
            3: (total - head, 32 * 64),
            len(trainer.graph.layers): (total, 0),
        }
        assert {point: (row["device_flop"], row["uplink_bit"]) for point, row in own.items()} == costs
        assert all(row["device_flop"] + row["server_flop"] == total for row in own.values())
        assert all(row["images"] == 20_000 and row["feature_bits"] == 32 for row in own.values())


def test_an_exit_that_tells_as_much_wins(rows: list[dict[str, Any]], trainer: CandidateTrainer, tmp_path: Path) -> None:
    """The colours can be told at once, so the head is as good as the network, and what is behind it is never run."""
    best = {row["variant"]: row["validation_accuracy"] for row in rows}
    assert best["exit after pool1, 512 hidden"] >= trainer.base_columns["base_validation_accuracy"] - 0.02
    columns = {"method": "edgent", "asked": '{"exits": [3]}', "training": 0, "seed": 1, "wall_s": 1.0}
    sets = tuple(each.name for each in trainer.graph.prunable_sets)
    info = RecordsInfo("tiny", 8, sets, {"data": "made up"}, {"coinfer-ray": "test"})
    write_choices(tmp_path / "c.parquet", [row | columns for row in rows], info)
    choices = read_choices(tmp_path / "c.parquet").of("edgent")
    assert len(choices) == len(rows) and (choices.trainings == 1).all()  # two heads at one point are two choices
    assert {json.loads(asked)["variant"] for asked in choices.asked} == set(best)
    problem = assemble(Tiny(), predict=False, input_px=8)
    nothing = np.full(1, np.nan)
    for weights in ([1e-6, 1e-9, 1e-6], [1e-6, 1e-9, 1e-8], [1e-9, 1e-9, 1e-3]):
        batch = ScenarioBatch(np.array([weights]), np.array([0.03]), nothing, nothing)
        found = choose(problem, batch, choices)
        floor = rows[0]["base_validation_accuracy"] - 0.03
        kept = [row for row in rows if row["validation_accuracy"] >= floor]
        own = min(np.dot([row["device_flop"], row["server_flop"], row["uplink_bit"]], weights) for row in kept)
        plain = float((partition_costs(problem.delay)[list(trainer.graph.cut_points)] @ weights).min())
        assert found.objective[0] == pytest.approx(min(own, plain))
    assert own < plain and not found.known[0]  # all on the device, where the classifier and a convolution are spared


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_the_last_exit_is_the_base_network_and_each_other_what_it_is_alone(model: str, few_images: Path) -> None:
    data, graph = load_data(few_images), load_graph(model, 64)
    parts = [getattr(data, name).take(slice(0, 96)) for name in ("train", "validation", "test")]
    torch.manual_seed(2)
    base = zoo.build(model, 10).eval()
    own = CandidateTrainer(
        base,
        SearchSpace(graph),
        CandidateData(*parts, Preprocess.of(data, 64)),
        quick(CandidateSettings(distillation=0.9), 64),
        device=CPU,
        precision=torch.float32,
    )
    before = copy.deepcopy(base.state_dict())
    asked = Edgent().plan(graph)[0]
    made: list[WithExits] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edgent, "exit_hits", lambda by, network: made.append(network) or exit_hits(by, network))
        rows = Edgent().train(own, asked, seed=3)
    (network,) = made
    found = exit_hits(own, network)
    for name, hits in found.items():
        assert torch.equal(hits[-1], own.base_hits[name])
    assert all(torch.equal(before[name], tensor) for name, tensor in own.base.state_dict().items())
    trunk = network.trunk.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.items())  # statistics of norms, too
    assert any(parameter.grad is not None for parameter in network.heads.parameters())
    for number in (1, 4, len(network.exits) - 1):
        point, hidden = network.exits[number]
        variant = f"exit after {graph.layers[point - 1].name}, " + (f"{hidden} hidden" if hidden else "linear")
        mine = [row for row in rows if row["variant"] == variant]
        alone = own.measure(network.ending_at(number), seed=0)
        assert all(row[name] == alone[name] for row in mine for name in alone)
        places = [row["partition_point"] for row in mine]
        assert places[0] == 0 and places[-1] == len(graph.layers) and max(places[:-1]) <= point
        assert set(places) <= set(graph.cut_points)
        assert mine[0]["uplink_bit"] == 32 * graph.input_elements and mine[-1]["uplink_bit"] == 0
        assert all(row["device_flop"] + row["server_flop"] < graph.flops for row in mine[:1])
    assert json.dumps(Edgent().train(own, asked, seed=3)) == json.dumps(rows)


def test_heads_learn_and_the_trunk_stays_in_evaluation_mode(trainer: CandidateTrainer) -> None:
    graph: LayerGraph = trainer.graph
    network = WithExits(copy.deepcopy(trainer.base), graph, [3]).train()
    assert not network.trunk.training and all(module.training for module in network.heads.modules())
    x = torch.randn(4, 3, 8, 8)
    *exits, last = network(x)
    assert torch.equal(last, trainer.base.eval()(x)) and not last.requires_grad
    assert all(logits.shape == (4, 10) and logits.requires_grad for logits in exits)
    assert not any(parameter.requires_grad for parameter in network.trunk.parameters())
