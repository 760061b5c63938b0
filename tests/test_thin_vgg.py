"""Thin VGGs have the paper's sizes, and splitting a layer changes not one bit of the function."""

import pytest
import torch
from torch import Tensor, nn

from modlib.errors import ModlibError
from modlib.thin_vgg import (
    LAYERS,
    SCALED,
    VGG16_WIDTHS,
    BranchingVgg,
    count_layer_weights,
    poolings_above,
    thin_widths,
    without_batch_norm,
)

TASKS = 6
TREE = [[[0, 2], [1], [3, 4, 5]], [[0, 1], [2]], [[0], [1]]]  # clusters of three rounds


def thin(seed: int = 0, tasks: int = TASKS, thinness: int = 4, image_size: int = 48):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = BranchingVgg(tasks, image_size, thin_widths(thinness))
        for parameter in network.parameters():  # batch norm's too: all channels tell
            nn.init.normal_(parameter, 0.1 if parameter.ndim == 1 else 0, 0.3)
    return network


def pixels(batch: int = 5, side: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, side, side, generator=generator)


def grown(clusters=TREE) -> BranchingVgg:
    """A network with three split layers whose branches have parted."""
    network = thin()
    for of_round in clusters:
        network.widen(of_round)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def scaled(network: BranchingVgg, seed: int | None = None, image_size: int = 48) -> BranchingVgg:
    """The network with scales for each task: all 1, or random ones, some of them dead."""
    widths = {name: len(layer[0][1 + (name == "fc6")].weight)
              for name, layer in zip(LAYERS, network.layers, strict=True)}
    with_scales = BranchingVgg(network.num_tasks, image_size, widths, scales=True)
    with_scales.load_state_dict(network.state_dict(), strict=False)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in with_scales.modulation.parameters():
            nn.init.normal_(parameter, 1, 0.7, generator=generator)
    return with_scales.train(network.training)


# Sizes

def test_thin_32_has_the_weights_that_the_authors_count():
    assert count_layer_weights(BranchingVgg(40, 224, thin_widths(32))) == 218_464


def test_vgg_16_has_the_weights_that_the_paper_prints():
    with torch.device("meta"):
        assert f"{count_layer_weights(BranchingVgg(40, 224, VGG16_WIDTHS)) / 1e6:.2f}" == "134.41"


def test_widths_are_at_most_the_thinness_and_twice_it_for_fc():
    widths = thin_widths(96)
    assert [widths[name] for name in ("conv1_1", "conv2_1", "conv5_3", "fc6", "fc7")] == [
        64, 96, 96, 192, 192]


def test_poolings_are_counted_from_the_output_down():
    assert {name: poolings_above(name) for name in LAYERS} == {
        "fc7": 0, "fc6": 0, "conv5_3": 1, "conv5_2": 1, "conv5_1": 1, "conv4_3": 2, "conv4_2": 2,
        "conv4_1": 2, "conv3_3": 3, "conv3_2": 3, "conv3_1": 3, "conv2_2": 4, "conv2_1": 4,
        "conv1_2": 5, "conv1_1": 5}


@pytest.mark.parametrize("side", [32, 48, 64])
def test_every_image_size_gives_a_logit_a_task(side):
    assert thin(image_size=side)(pixels(2, side)).shape == (2, TASKS)


def test_too_small_images_are_refused():
    with pytest.raises(ModlibError, match=r"image_size must be at least 32.*given 31"):
        thin(image_size=31)


# Splitting

@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("batch", [2, 5, 33])
@torch.no_grad()
def test_splitting_changes_not_one_bit(train, batch):
    network = thin(image_size=64).train(train)
    for clusters in TREE:
        before = network(pixels(batch, 64))
        network.widen(clusters)
        assert torch.equal(network(pixels(batch, 64)), before)


@torch.no_grad()
def test_splitting_at_the_papers_sizes_changes_not_one_bit():
    network = thin(tasks=40, thinness=32, image_size=64).eval()
    before = network(pixels(3, 64))
    network.widen([[*range(n, 40, 7)] for n in range(7)])
    network.widen([[0, 3], [1, 2, 4], [5, 6]])
    assert torch.equal(network(pixels(3, 64)), before)


def test_copies_are_of_their_own():
    network = thin()
    [(copy, original), _] = network.widen(TREE[0])
    with torch.no_grad():
        copy[0].weight += 1
    assert not torch.equal(copy[0].weight, original[0].weight)


def test_the_tree_holds_the_tasks_of_every_branch():
    network = grown()
    assert network.groups[-3:] == [[[0, 1, 2], [3, 4, 5]], [[0, 1, 2], [3, 4, 5]],
                                   [[0, 2], [1], [3, 4, 5]]]
    assert network.groups[:-3] == [[[0, 1, 2, 3, 4, 5]]] * 12
    assert [network.parents(index) for index in (12, 13, 14)] == [[0, 0], [0, 1], [0, 0, 1]]
    assert network.active == 11


@torch.no_grad()
def test_logits_are_those_of_each_tasks_own_path():
    network = grown().eval()
    given = network(pixels())
    for task in range(TASKS):
        x = pixels()
        for layer, groups in zip(network.layers, network.groups, strict=True):
            [own] = [n for n, tasks in enumerate(groups) if task in tasks]
            x = layer[own](x)
        expected = x @ network.output.weight[task] + network.output.bias[task]
        torch.testing.assert_close(given[:, task], expected)


def test_a_task_trains_its_own_path_alone():
    network = grown().eval()
    network(pixels())[:, 1].sum().backward()
    for layer, groups in zip(network.layers, network.groups, strict=True):
        for branch, tasks in zip(layer, groups, strict=True):
            trained = any(bool(parameter.grad.any()) for parameter in branch.parameters())
            assert trained == (1 in tasks)


def test_one_cluster_finishes_the_tree_and_then_nothing_can_be_split():
    network = thin()
    assert network.widen([list(range(TASKS))]) == []
    assert (network.active, network.groups[-1]) == (-1, [list(range(TASKS))])
    with pytest.raises(ModlibError, match="the tree is finished"):
        network.widen([[0], [1]])


@pytest.mark.parametrize("clusters", [[[0, 1], [2, 3, 4]], [[0, 1, 2, 3, 4, 5], [0]], [[0], [7]]])
def test_clusters_must_hold_each_branch_once(clusters):
    with pytest.raises(ModlibError, match="each of the 6 branches above fc7 once"):
        thin().widen(clusters)


def test_shared_are_the_layers_with_one_branch():
    network = grown()
    shared = {id(parameter) for parameter in network.shared_parameters()}
    assert shared == {id(p) for layer in list(network.layers)[:-3] for p in layer.parameters()}


# Scales inside the branches

@pytest.mark.parametrize("batch", [1, 2, 5, 33])
@pytest.mark.parametrize("make", [thin, grown])
@torch.no_grad()
def test_scales_of_1_change_not_one_bit(make, batch):
    network = make()
    network(pixels(20))  # running averages that are not the initial ones
    network.eval()
    assert torch.equal(scaled(network)(pixels(batch)), network(pixels(batch)))


@pytest.mark.parametrize("side", [48, 64])
@torch.no_grad()
def test_with_scales_logits_are_those_of_each_tasks_own_path(side):
    network = scaled(thin(image_size=side), seed=4, image_size=side)
    for clusters in TREE:
        network.widen(clusters)
    generator = torch.Generator().manual_seed(2)
    for parameter in network.layers.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    given = network.eval()(pixels(side=side))
    for task in range(TASKS):
        x = pixels(side=side)
        for name, layer, groups in zip(LAYERS, network.layers, network.groups, strict=True):
            [own] = [n for n, tasks in enumerate(groups) if task in tasks]
            x = layer[own](x)
            if name in SCALED:
                scales_C = network.modulation[name].weight[task].clamp(min=0)
                x = x * scales_C.reshape(-1, *[1] * (x.ndim - 2))
        expected = x @ network.output.weight[task] + network.output.bias[task]
        torch.testing.assert_close(given[:, task], expected)
    for parameter in network.modulation.parameters():
        assert (parameter <= 0).any()  # dead ones were among them
        parameter.fill_(1)
    assert not torch.allclose(given, network(pixels(side=side)))


@torch.no_grad()
def test_in_training_a_branch_normalises_the_features_of_all_of_its_tasks_together():
    network = scaled(grown(), seed=4).train()
    given, maps = network(pixels()), {}
    x = pixels()
    for layer in list(network.layers)[:-3]:  # they have one branch
        x = layer[0](x)
    for branch, tasks in zip(network.layers[-3], network.groups[-3], strict=True):
        maps |= {task: branch(x) for task in tasks}
    scales = {name: module.weight.clamp(min=0) for name, module in network.modulation.items()}
    features = {task: (maps[task] * scales["conv5_3"][task][:, None, None]).flatten(1)
                for task in range(TASKS)}
    for index, name in ((-2, "fc6"), (-1, "fc7")):
        for branch, tasks in zip(network.layers[index], network.groups[index], strict=True):
            outputs = branch(torch.cat([features[task] for task in tasks]))
            features |= {task: one * scales[name][task] for task, one in
                         zip(tasks, outputs.chunk(len(tasks)), strict=True)}
    expected = torch.stack([features[task] @ network.output.weight[task]
                            for task in range(TASKS)], 1) + network.output.bias
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [2, 5, 33])
@torch.no_grad()
def test_with_scales_splitting_changes_not_one_bit(batch):
    network = scaled(thin(image_size=64), seed=4, image_size=64).eval()
    for clusters in TREE:
        before = network(pixels(batch, 64))
        network.widen(clusters)
        assert torch.equal(network(pixels(batch, 64)), before)


@torch.no_grad()
def test_with_scales_a_branchs_batch_norm_sees_its_own_tasks_alone_in_training():
    """So in training the function does change, as widen's description says."""
    network = scaled(thin(image_size=64), seed=4, image_size=64).train()
    before = network(pixels(5, 64))
    network.widen(TREE[0])
    assert not torch.equal(network(pixels(5, 64)), before)


@torch.no_grad()
def test_with_scales_splitting_at_the_papers_sizes_changes_not_one_bit():
    network = scaled(thin(tasks=40, thinness=32, image_size=64), seed=4, image_size=64).eval()
    before = network(pixels(3, 64))
    network.widen([[*range(n, 40, 7)] for n in range(7)])
    network.widen([[0, 3], [1, 2, 4], [5, 6]])
    assert torch.equal(network(pixels(3, 64)), before)


def test_with_scales_a_task_trains_its_own_path_and_its_own_scales_alone():
    network = scaled(grown(), seed=4).eval()
    network(pixels())[:, 1].sum().backward()
    for layer, groups in zip(network.layers, network.groups, strict=True):
        for branch, tasks in zip(layer, groups, strict=True):
            trained = any(bool(parameter.grad.any()) for parameter in branch.parameters()
                          if parameter.grad is not None)
            assert trained == (1 in tasks)
    for module in network.modulation.values():
        assert module.weight.grad.any(1).tolist() == [task == 1 for task in range(TASKS)]


@torch.no_grad()
def test_what_lies_below_the_scales_is_computed_once_a_branch(convolved):
    network = scaled(grown(), seed=4).eval()
    network(pixels(5))
    assert [images for _, images in convolved] == [5] * sum(
        len(layer) for layer in list(network.layers)[:-2])


def test_scales_are_no_weights_are_not_shared_and_are_nothing_where_there_are_none():
    network = grown()
    with_scales = scaled(network)
    assert count_layer_weights(with_scales) == count_layer_weights(network)
    assert len(with_scales.shared_parameters()) == len(network.shared_parameters())
    added = with_scales.state_dict().keys() - network.state_dict().keys()
    assert added == {f"modulation.{name}.weight" for name in ("conv5_3", "fc6", "fc7")}
    assert [len(module.weight) for module in with_scales.modulation.values()] == [TASKS] * 3


# A whole tree at once, and from a state_dict

@torch.no_grad()
def test_a_whole_tree_of_copies_changes_not_one_bit():
    network, tree = thin().eval(), grown().groups
    before = network(pixels())
    network.take_groups(tree)
    assert network.groups == tree and network.active == -1
    assert [len(layer) for layer in network.layers] == [1] * 12 + [2, 2, 3]
    assert torch.equal(network(pixels()), before)


def test_a_tree_of_too_few_layers_is_refused():
    with pytest.raises(ModlibError, match="groups must be of the 15 layers conv1_1 to fc7; given"):
        thin().take_groups(grown().groups[1:])


@pytest.mark.parametrize(("top", "said"), [
    ([[0, 1], [2, 3, 4]], "groups of fc7 must hold each of 6 tasks once"),
    ([[0, 5], [1, 2, 3, 4]], "groups of fc7 must each lie in one group of the layer below")])
def test_what_is_no_tree_is_refused(top, said):
    tree = [*grown().groups[:-1], top]
    with pytest.raises(ModlibError, match=said):
        thin().take_groups(tree)


@pytest.mark.parametrize("into", [thin, lambda: grown([[[n] for n in range(TASKS)]])])
@torch.no_grad()
def test_a_state_dict_brings_its_tree(into, tmp_path):
    network, other = grown().eval(), into()
    torch.save(network.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (other.groups, other.active) == (network.groups, network.active)
    assert torch.equal(other.eval()(pixels()), network(pixels()))


# For inference

@pytest.mark.parametrize("make", [grown, lambda: scaled(grown(), seed=4)])
@torch.no_grad()
def test_without_batch_norm_the_network_computes_the_same(make):
    network = make()
    network(pixels(20))  # running averages that are not the initial ones
    network.eval()
    folded = without_batch_norm(network)
    torch.testing.assert_close(folded(pixels()), network(pixels()), rtol=1e-4, atol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
