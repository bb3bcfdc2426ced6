"""Small networks of the ways in which people write them: what is taken is pruned, cut and counted rightly."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.split import split
from coinfer_ray.models.trace import trace_graph
from tests.models.agreement import check_network, close


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1, **more: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, **more)


def head(features: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(features, 10)]


def pooled(features: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), *head(features)]


class Own(nn.Module):
    """Modules by name, and a forward that uses them."""

    def __init__(self, forward: Callable[..., torch.Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def units(graph: LayerGraph) -> list[tuple[int, int]]:
    return [(each.channels, each.unit) for each in graph.prunable_sets]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_groups_of_several_widths_fall_in_their_least_common_multiple() -> None:
    chain = [conv(3, 24), nn.ReLU(), conv(24, 24, groups=6), nn.ReLU(), conv(24, 24, groups=4), nn.ReLU()]
    assert units(check_network(nn.Sequential(*chain, *head(24 * 64)))) == [(24, 12)]

    def summed(net: Own, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        return net.head(F.relu(net.a(x) + net.b(x)))

    wide = Own(
        summed, stem=conv(3, 48), a=conv(48, 48, groups=6), b=conv(48, 48, groups=4), head=nn.Sequential(*pooled(48))
    )
    assert units(check_network(wide)) == [(48, 24)]


def test_groups_that_no_unit_but_all_channels_fits_stay_whole() -> None:
    chain = [conv(3, 12), nn.ReLU(), conv(12, 12, groups=3), nn.ReLU(), conv(12, 12, groups=2), nn.ReLU(), conv(12, 6)]
    assert units(check_network(nn.Sequential(*chain, *pooled(6)))) == [(6, 1)]


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(96, 256, 2), (16, 32, 16), (32, 16, 16), (24, 36, 6)], ids=str
)
def test_groups_with_other_numbers_of_inputs_than_outputs_stay_whole(inputs: int, outputs: int, groups: int) -> None:
    chain = [conv(3, 8), nn.ReLU(), conv(8, inputs), nn.ReLU(), conv(inputs, outputs, 5, groups), nn.ReLU()]
    graph = check_network(nn.Sequential(*chain, conv(outputs, 64), nn.MaxPool2d(2), *head(64 * 16)))
    assert units(graph) == [(8, 1), (64, 1)]


FLATTENINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "view": lambda x: x.view(x.size(0), -1),
    "view of a shape": lambda x: x.view(x.shape[0], -1),
    "view of a tuple": lambda x: x.view((x.size(0), -1)),
    "reshape": lambda x: x.reshape(x.size()[0], -1),
    "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], -1)),
    "flatten": lambda x: x.flatten(1),
    "torch.flatten": lambda x: torch.flatten(x, start_dim=1),
}


@pytest.mark.parametrize("name", FLATTENINGS)
def test_flattenings_keep_channels_prunable(name: str) -> None:
    network = Own(
        lambda net, x: net.fc(FLATTENINGS[name](F.relu(net.conv2(F.relu(net.conv(x)))))),
        conv=conv(3, 8),
        conv2=conv(8, 6),
        fc=nn.Linear(6 * 64, 10),
    )
    assert units(check_network(network)) == [(8, 1), (6, 1)]


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.view(-1, 384),
        lambda x: x.reshape(x.size(0), 6 * 64),
        lambda x: x.view(x.size(0), x.size(1) * 64),
        lambda x: x.permute(0, 2, 3, 1).reshape(x.size(0), -1),
        lambda x: x.view(x.size(0), 2, x.size(1) // 2, 64).transpose(1, 2).flatten(1),
    ],
    ids=["constant", "constant with the batch", "reckoned", "channels last", "shuffled"],
)
def test_flattenings_that_count_on_all_channels_keep_them(flatten: Callable[[torch.Tensor], torch.Tensor]) -> None:
    network = Own(
        lambda net, x: net.fc(flatten(F.relu(net.conv2(F.relu(net.conv(x)))))),
        conv=conv(3, 8),
        conv2=conv(8, 6),
        fc=nn.Linear(6 * 64, 10),
    )
    assert units(check_network(network)) == [(8, 1)]


def test_a_reshape_to_a_constant_number_of_images_is_refused_in_one_line() -> None:
    network = Own(lambda net, x: net.fc(net.conv(x).reshape(1, -1)), conv=conv(3, 6), fc=nn.Linear(384, 10))
    with pytest.raises(InputError, match=r"does not run on inputs of 8 px: call_module fc \(at fc\) fails") as error:
        trace_graph(network, (3, 8, 8), "own")
    assert "\n" not in str(error.value)


def test_a_module_called_twice_is_one_set() -> None:
    def twice(net: Own, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(net.first(x))
        x = F.relu(net.norm(net.second(F.relu(net.norm(net.second(x))))))
        return net.head(x)

    network = Own(
        twice, first=conv(3, 12), second=conv(12, 12), norm=nn.BatchNorm2d(12), head=nn.Sequential(*head(768))
    )
    graph = check_network(network)
    assert units(graph) == [(12, 1)]
    assert graph.prunable_sets[0].layers == ("conv1", "conv2", "conv3")


def test_a_block_called_on_two_branches_is_one_block() -> None:
    def siamese(net: Own, x: torch.Tensor) -> torch.Tensor:
        left, right = net.block(net.a(x)), net.block(net.b(x))
        return net.head(left * right)

    block = nn.Sequential(conv(8, 12), nn.BatchNorm2d(12), nn.ReLU(), conv(12, 10))
    graph = check_network(Own(siamese, a=conv(3, 8), b=conv(3, 8), block=block, head=nn.Sequential(*pooled(10))))
    assert units(graph) == [(8, 1), (12, 1), (10, 1)]


def test_two_modules_that_share_a_weight_share_it_after_pruning() -> None:
    chain = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), *pooled(8))
    chain[4].weight = chain[2].weight
    graph = check_network(chain)
    assert units(graph) == [(8, 1)]
    small = shrink(chain, graph, ChannelRanking(chain, graph).keep({"conv1": 3}))
    assert small[4].weight is small[2].weight and small[4].weight.shape == (3, 3, 3, 3)


def test_a_shared_module_between_which_the_input_is_fixed_is_fixed() -> None:
    network = Own(
        lambda net, x: net.head(net.same(F.relu(net.same(x)))), same=conv(3, 3), head=nn.Sequential(*head(192))
    )
    assert units(check_network(network)) == []


class Dropouts(nn.Module):
    """Dropout as a function, in a block of its own, in the network's mode; and one that is always on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = conv(3, 6), Block(), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(F.relu(self.stem(x)))
        return self.fc(F.dropout(x.mean((2, 3)), 0.5, self.training))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x is None:
            raise AssertionError("never")
        return x + F.dropout2d(self.conv(x), 0.5, training=self.training)


@pytest.mark.parametrize("mode", [True, False])
def test_dropout_as_a_function_follows_the_mode_of_the_halves(mode: bool) -> None:
    network = Dropouts().eval()
    images = torch.randn(4, 3, 8, 8)
    graph = check_network(network)
    with torch.no_grad():
        whole = network(images)
        network.train(mode)
        modes = [module.training for module in network.modules()]
        for point in graph.cut_points[1:-1]:
            device, server = split(network, graph, point)
            assert [module.training for module in network.modules()] == modes
            halves = nn.Sequential(device, server)
            assert torch.equal(halves.eval()(images), whole)
            halves.train()
            torch.manual_seed(3)
            first = halves(images)
            torch.manual_seed(4)
            assert not torch.allclose(first, halves(images))
            torch.manual_seed(3)
            assert torch.equal(network.train()(images), first)
            network.train(mode)


def test_frozen_parts_stay_frozen_when_a_network_is_traced() -> None:
    network = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), *pooled(6)).train()
    network[1].eval()
    split(network, trace_graph(network, (3, 8, 8), "own"), 2)
    assert [module.training for module in network] == [True, False, *[True] * 5]


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, n, x, y: net.fc(y.view(n, -1)),
        lambda net, n, x, y: net.fc(y.reshape(n * 2 // 2, -1)),
        lambda net, n, x, y: net.fc(y.view(operator.add(x.size()[:1], (-1,)))),
        lambda net, n, x, y: net.fc(y.view(n, -1)) * (n + 1),
        lambda net, n, x, y: net.fc(y.view(n, x.shape[2], -1).flatten(1)),
    ],
    ids=["size", "reckoned", "shape", "no multiple", "another side"],
)
def test_sizes_read_before_a_cut_are_known_behind_it(forward: Callable[..., torch.Tensor]) -> None:
    def early(net: Own, x: torch.Tensor) -> torch.Tensor:
        n = x.size(0)
        return forward(net, n, x, F.relu(net.conv2(F.relu(net.conv1(x)))))

    network = Own(early, conv1=conv(3, 4), conv2=conv(4, 6), fc=nn.Linear(384, 10))
    graph = check_network(network)
    assert {1, 2, 3, 4} <= set(graph.cut_points)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.avg_pool2d(x, x.size(3)),
        lambda x: F.avg_pool2d(x, kernel_size=x.shape[-2:]),
        lambda x: F.adaptive_avg_pool2d(x, (1, 1)),
        lambda x: x.mean([2, 3]),
        lambda x: x.mean((-2, -1), keepdim=True),
        lambda x: torch.mean(x, dim=(2, 3)),
        lambda x: x.mean(3).mean(2),
        lambda x: x.mean(3, keepdim=True).mean(2, True).squeeze(-1).squeeze(-1),
        lambda x: F.adaptive_max_pool2d(x, 1),
        lambda x: F.max_pool2d(x, x.size(2)),
    ],
    ids=range(10),
)
def test_global_pooling_in_all_spellings(pool: Callable[[torch.Tensor], torch.Tensor]) -> None:
    network = Own(
        lambda net, x: net.fc(torch.flatten(pool(F.relu(net.conv(x))), 1)), conv=conv(3, 8), fc=nn.Linear(8, 10)
    )
    graph = check_network(network)
    assert units(graph) == [(8, 1)]
    # Averages cost a sum of all they read, in one step or in two; the largest of 8 x 8 costs as much.
    poolings = sum(layer.flops for layer in graph.layers if "pool" in layer.kind)
    assert poolings in (8 * 64, 8 * 64 + 8 * 8)


def test_a_kernel_that_does_not_fit_is_refused_in_one_line() -> None:
    network = Own(lambda net, x: net.fc(F.avg_pool2d(net.conv(x), 99).flatten(1)), conv=conv(3, 8), fc=nn.Linear(8, 10))
    with pytest.raises(InputError, match=r"avg_pool2d \(at avg_pool2d\) fails .*use larger ones") as error:
        trace_graph(network, (3, 8, 8), "own")
    assert "\n" not in str(error.value)


def excited(net: Own, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(net.stem(x))
    b, c, _, _ = x.size()
    y = net.pool(x).view(b, c)
    y = torch.sigmoid(net.up(F.relu(net.down(y)))).view(b, c, 1, 1)
    return net.head(x * y.expand_as(x))


def test_squeeze_and_excitation_is_pruned_with_what_it_scales() -> None:
    parts = {"stem": conv(3, 16), "pool": nn.AdaptiveAvgPool2d(1), "down": nn.Linear(16, 4), "up": nn.Linear(4, 16)}
    graph = check_network(Own(excited, **parts, head=nn.Sequential(conv(16, 6), nn.ReLU(), *pooled(6))))
    assert units(graph) == [(16, 1), (4, 1), (6, 1)]
    assert graph.prunable_sets[0].layers == ("conv1", "fc2")


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid(), nn.Softplus()], ids=lambda each: type(each).__name__)
def test_channels_that_a_zeroed_filter_leaves_a_constant_in_stay(gate: nn.Module) -> None:
    graph = check_network(nn.Sequential(conv(3, 8), gate, conv(8, 6), nn.ReLU(), *pooled(6)))
    assert units(graph) == [(6, 1)]


ZERO_AT_ZERO = [nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.Tanh(), nn.ELU(), nn.Mish(), nn.PReLU(), nn.LeakyReLU(0.2)]


@pytest.mark.parametrize("activation", ZERO_AT_ZERO, ids=lambda each: type(each).__name__)
def test_other_activations_are_pruned_through(activation: nn.Module) -> None:
    graph = check_network(nn.Sequential(conv(3, 8), activation, conv(8, 6), activation, *pooled(6)))
    assert units(graph) == [(8, 1), (6, 1)]


@pytest.mark.parametrize(
    "layer",
    [
        nn.GroupNorm(2, 8),
        nn.LayerNorm([8, 8, 8]),
        nn.LocalResponseNorm(3),
        nn.PReLU(8),
        nn.Softmax(1),
        nn.BatchNorm2d(8, affine=False),
        nn.ConvTranspose2d(8, 8, 1),
        nn.InstanceNorm2d(8, affine=True),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_mixes_or_counts_channels_keeps_them(layer: nn.Module) -> None:
    graph = check_network(nn.Sequential(conv(3, 8), layer, nn.ReLU(), conv(8, 6), nn.ReLU(), *pooled(6)))
    assert units(graph) == [(6, 1)]


def test_batch_norms_of_vectors_fall_with_their_layer() -> None:
    hidden = [nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10), nn.LogSoftmax(1)]
    graph = check_network(nn.Sequential(conv(3, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *hidden))
    assert units(graph) == [(8, 1), (12, 1)]
    flat = [conv(3, 8), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(512), nn.Linear(512, 10)]
    assert units(check_network(nn.Sequential(*flat))) == []


def test_concatenated_channels_stay_and_the_cut_behind_them_is_allowed() -> None:
    def dense(net: Own, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(net.a(x))
        return net.head(torch.cat([x, net.b(F.relu(net.inner(x)))], dim=1))

    rest = nn.Sequential(nn.ReLU(), conv(14, 5), nn.ReLU(), *pooled(5))
    graph = check_network(Own(dense, a=conv(3, 8), inner=conv(8, 7), b=conv(7, 6), head=rest))
    assert units(graph) == [(7, 1), (5, 1)]
    joined = next(layer for layer in graph.layers if layer.kind == "concat")
    assert joined.cut_allowed and joined.flops == 0 and joined.output_elements == 14 * 64


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: x * net.scale,
        lambda net, x: x + 1.0,
        lambda net, x: x / x.size(1),
        lambda net, x: x + x.new_ones(x.size(1), 1, 1),
        lambda net, x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        lambda net, x: torch.cumsum(x, 1),
        lambda net, x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2),
        lambda net, x: x + x[:, :1],
    ],
    ids=["own tensor", "shift", "count", "ones", "permuted", "unknown", "shuffle", "one of them"],
)
def test_channels_that_cannot_be_followed_stay(forward: Callable[..., torch.Tensor]) -> None:
    network = Own(
        lambda net, x: net.head(forward(net, F.relu(net.stem(x)))), stem=conv(3, 8), head=nn.Sequential(*tail())
    )
    network.register_parameter("scale", nn.Parameter(torch.rand(8, 1, 1)))
    assert units(check_network(network)) == [(6, 1)]


def tail() -> list[nn.Module]:
    return [conv(8, 6), nn.ReLU(), *pooled(6)]


def test_attention_is_costed_by_its_products_and_cut_before_and_behind() -> None:
    def attends(net: Own, x: torch.Tensor) -> torch.Tensor:
        tokens = F.relu(net.stem(x)).flatten(2).transpose(1, 2)
        attended, _ = net.attention(tokens, tokens, tokens, need_weights=False)
        return net.head((tokens + net.mlp(attended)).mean(1))

    network = Own(
        attends,
        stem=conv(3, 8),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        mlp=nn.Linear(8, 8),
        head=nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10)),
    )
    graph = check_network(network)
    assert units(graph) == [(12, 1)]
    flops = {layer.name: layer.flops for layer in graph.layers}
    # Four 8 x 8 projections of 64 tokens and, in heads, 64 x 64 products of 8 in all, twice.
    assert flops["other1"] == 2 * 64 * (4 * 8 * 8 + 2 * 64 * 8)
    assert flops["linear1"] == 64 * 8 * (2 * 8 - 1)
    assert [graph.cut_name(point) for point in graph.cut_points] == ["input", "conv1", "relu1", "other2", *TAIL_CUTS]


TAIL_CUTS = ["fc1", "relu2", "fc2"]


def test_what_runs_after_the_scores_does_not_count_as_a_cut() -> None:
    def auxiliary(net: Own, x: torch.Tensor) -> torch.Tensor:
        scores = net.fc(F.relu(net.conv(x)).flatten(1))
        F.relu(torch.tanh(scores))
        return scores

    graph = check_network(Own(auxiliary, conv=conv(3, 4), fc=nn.Linear(256, 10)))
    assert [graph.cut_name(point) for point in graph.cut_points] == ["input", "conv1", "relu1", "fc1", "relu2"]


def test_pruned_networks_own_all_their_parameters() -> None:
    network = nn.Sequential(conv(3, 8), nn.PReLU(), nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 4, 2, 2), *head(1024))
    network[0].weight.requires_grad_(False)
    before = [parameter.clone() for parameter in network.parameters()]
    graph = trace_graph(network, (3, 8, 8), "own")
    small = shrink(network, graph, {})
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(1.0)
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), before, strict=True))
    assert [each.requires_grad for each in small.parameters()] == [each.requires_grad for each in network.parameters()]


def test_views_train_in_channels_last() -> None:
    network = Own(
        lambda net, x: net.fc(F.relu(net.conv(x)).view(x.size(0), -1)), conv=conv(3, 8), fc=nn.Linear(512, 10)
    )
    graph = trace_graph(network, (3, 8, 8), "own")
    small = shrink(network, graph, ChannelRanking(network, graph).keep({"conv1": 5}))
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    small(images).sum().backward()
    assert small.conv.weight.grad is not None and small.fc.weight.shape == (10, 320)
    assert list(small.state_dict()) == list(network.state_dict())
    assert close(nn.Sequential(*split(small, graph, 1))(images), small(images))


def test_tensors_of_five_dimensions_stay_as_they_are() -> None:
    """``Module.to`` would fail on one, and takes those of four to the same layout."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1))
    expected = copy.deepcopy(network).to(memory_format=torch.channels_last)
    network.register_buffer("table", torch.zeros(2, 3, 4, 5, 6))
    made = channels_last(network)
    assert made is network and network.table.is_contiguous()
    strides = [parameter.stride() for parameter in network.parameters()]
    assert strides == [parameter.stride() for parameter in expected.parameters()]
