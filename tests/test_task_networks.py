"""What tasks share and what is theirs: all tasks at once, gradients apart, frozen trunks."""

import numpy as np
import pytest
import torch
from slow_networks import (
    EVERY,
    OF_TASKS,
    SMALL,
    STAGES,
    TASKS,
    assert_near,
    batch_norms,
    gradients,
    in_float64,
    pixels,
    small,
    stages_of_tasks,
)
from torch import Tensor, nn

from modlib.errors import ModlibError
from modlib.losses import triplet_losses
from modlib.modulation import ChannelScale
from modlib.networks import SYSTEMS
from modlib.task_networks import Network


def count_normalised_values(network: nn.Module) -> dict[str, int]:
    """Filled by the next forward pass: how many values a channel each batch norm averages."""
    values: dict[str, int] = {}
    for name, norm in batch_norms(network).items():
        norm.register_forward_hook(
            lambda _, inputs, __, name=name: values.update({name: inputs[0][:, 0].numel()}))
    return values


# One task or all tasks


@pytest.mark.parametrize(("system", "modulate_from"), EVERY)
def test_embed_all_tasks_equals_a_call_a_task_in_eval_mode(system, modulate_from):
    network, images = in_float64(small(system, modulate_from=modulate_from)).eval(), pixels(4)
    every = network.embed_all_tasks(images)
    size = "branch_size" if system.endswith("branches") else "embedding_size"
    assert every.shape == (3, 4, SMALL[size])
    for task in range(3):
        assert_near(every[task], network(images, torch.full((4,), task)))


@pytest.mark.parametrize(("system", "modulate_from"), EVERY)
def test_embed_all_tasks_in_train_mode_equals_forward_on_images_repeated_per_task(
    system, modulate_from
):
    once = in_float64(small(system, modulate_from=modulate_from))
    repeated = in_float64(small(system, modulate_from=modulate_from))
    images = pixels(5)
    every = once.embed_all_tasks(images)
    rows = repeated(images.repeat(3, 1, 1, 1), torch.arange(3).repeat_interleave(5))
    assert_near(every, rows.reshape(3, 5, -1))
    for g, e in zip(gradients(once, every), gradients(repeated, rows.reshape(3, 5, -1)),
                    strict=True):
        assert_near(g, e)


@pytest.mark.parametrize(("system", "repeats_through"), [
    ("fully_shared", "fc"), ("independent", None), ("csn", "fc"), ("branches", "fc"),
    ("modulated", "block4"), ("projection", "block4"),
])
def test_running_averages_differ_from_the_repeated_batchs_by_the_unbiased_factor_alone(
    system, repeats_through
):
    """Up to the first modulated stage, forward sees n values T times over: it divides the same
    sum of squares, T times, by T·n − 1, where embed_all_tasks divides it by n − 1."""
    once, repeated = (in_float64(small(system, bn_decay=0.6)) for _ in range(2))
    before = {name: norm.running_var.clone() for name, norm in batch_norms(once).items()}
    values = count_normalised_values(once), count_normalised_values(repeated)
    images = pixels(5)
    once.embed_all_tasks(images)
    repeated(images.repeat(3, 1, 1, 1), torch.arange(3).repeat_interleave(5))
    for name, norm in batch_norms(once).items():
        other, n = batch_norms(repeated)[name], values[0][name]
        repeats = repeats_through is not None and (
            STAGES.index(name.split(".")[1]) <= STAGES.index(repeats_through))
        assert values[1][name] == (3 * n if repeats else n)
        factor = 3 * (n - 1) / (3 * n - 1) if repeats else 1.0
        assert norm.num_batches_tracked == other.num_batches_tracked == 1
        assert_near(other.running_mean, norm.running_mean)
        variance = (norm.running_var - 0.6 * before[name]) / 0.4
        other_variance = (other.running_var - 0.6 * before[name]) / 0.4
        assert_near(other_variance, factor * variance)


@pytest.mark.parametrize(("system", "modulate_from"), [
    (system, block) for system, block in EVERY if system != "independent"])
def test_embed_all_tasks_runs_the_stages_that_no_task_changes_once_an_image(system, modulate_from):
    network, rows = small(system, modulate_from=modulate_from).eval(), {}
    for name, stage in network.stages.items():
        stage.register_forward_hook(
            lambda _, __, output, name=name: rows.update({name: len(output)}))
    network.embed_all_tasks(pixels(5))
    first = STAGES.index((*stages_of_tasks(system, modulate_from), "fc")[0])
    assert rows == {name: 5 if number <= first else 15 for number, name in enumerate(STAGES)}


ON_ONE_TRUNK = [(system, block) for system, block in EVERY if system != "independent"]


@pytest.mark.parametrize(("system", "modulate_from"), ON_ONE_TRUNK)
def test_embedding_the_trunks_output_equals_embedding_the_images(system, modulate_from):
    network, images = small(system, modulate_from=modulate_from).eval(), pixels(4)
    every = network.embed_all_tasks(images)
    assert torch.equal(network.embed_features(network.trunk_output(images)), every)


@pytest.mark.parametrize(("system", "modulate_from"), ON_ONE_TRUNK)
def test_a_copy_of_the_trunks_output_for_each_task_gives_the_same_embeddings(system, modulate_from):
    network, images = in_float64(small(system, modulate_from=modulate_from)).eval(), pixels(4)
    features = network.trunk_output(images)
    copies = features.repeat(3, *[1] * (features.ndim - 1))
    given = network.embed_features(copies, copies=True)
    assert_near(given, network.embed_all_tasks(images), 1e-7)


def test_each_task_meets_its_own_copy_of_the_trunks_output_and_no_other():
    network, images = small("modulated").eval(), pixels(6)
    features_TBCHW = network.trunk_output(images).unflatten(0, (3, 2))  # other images for each task
    given = network.embed_features(features_TBCHW.flatten(0, 1), copies=True)
    assert given.shape == (3, 2, 16)
    for task in range(3):
        own = network(images[2 * task:2 * task + 2], torch.full((2,), task))
        assert_near(given[task], own)


@pytest.mark.parametrize(("system", "modulate_from"), [
    ("modulated", 2), ("modulated", 3), ("modulated", 4), ("projection", 4)])
def test_all_tasks_by_matrix_products_equal_a_call_a_task_by_convolutions(
    system, modulate_from, convolved
):
    """Maps of 64 pixels end as 2×2 of 6 channels, 24 numbers; 3 × 17 images are more than 48."""
    network = in_float64(small(system, modulate_from=modulate_from, image_size=64, width=0.05))
    images, block5 = pixels(17, side=64), set(network.eval().stages["block5"].residual.modules())

    def images_convolved_in_block5() -> list[int]:
        counts = [count for layer, count in convolved if layer in block5]
        convolved.clear()
        return counts

    every = network.embed_all_tasks(images)
    assert images_convolved_in_block5() == [24, 24]  # the unit vectors alone
    calls = torch.stack([network(images, torch.full((17,), task)) for task in range(3)])
    assert images_convolved_in_block5() == [17, 17] * 3
    assert_near(every, calls)
    for g, e in zip(gradients(network, every), gradients(network, calls), strict=True):
        assert_near(g, e)


# What is shared


@pytest.mark.parametrize("system", SYSTEMS)
def test_shared_task_and_frozen_parameters_partition_all_parameters(system):
    network = small(system)
    frozen = list(network.stages.parameters()) if system == "mask_only" else []
    parts = [id(p) for p in network.shared_parameters() + network.task_parameters() + frozen]
    assert sorted(parts) == sorted(id(p) for p in network.parameters())


@pytest.mark.parametrize(("system", "shared", "task"), [
    ("fully_shared", True, False), ("independent", False, True), ("csn", True, True),
    ("branches", True, True), ("mask_only", False, True), ("modulated", True, True),
    ("projection", True, True),
])
def test_each_system_shares_what_its_name_says(system, shared, task):
    network = small(system)
    assert bool(network.shared_parameters()) is shared
    assert bool(network.task_parameters()) is task


def test_task_parameters_of_the_modulated_network_are_its_scales_weights():
    network = small("modulated")
    weights = {id(m.weight) for m in network.modules() if isinstance(m, ChannelScale)}
    assert {id(p) for p in network.task_parameters()} == weights


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_tasks_loss_leaves_the_other_independent_networks_without_gradient(mode):
    network = small("independent").train(mode == "train")
    network.embed_all_tasks(pixels(6))[1].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.networks[1].parameters() if p.ndim > 1)
    for other in (0, 2):
        for p in network.networks[other].parameters():
            assert p.grad is None or p.grad.abs().sum() == 0


def triplet_loss_of_task(network: Network, task: int, seed: int = 2) -> Tensor:
    embeddings_BD = network(pixels(6, seed=seed), torch.full((6,), task))
    return triplet_losses(*embeddings_BD.reshape(2, 3, -1).unbind(1), margin=4.0).mean()


@pytest.mark.parametrize("draw", range(4))
@pytest.mark.parametrize("system", sorted(OF_TASKS))
def test_a_tasks_triplets_leave_what_is_the_other_tasks_own_without_gradient(system, draw):
    """Masks, scales, branches and projections alike, for any tasks, task and first block."""
    rng = np.random.default_rng([draw, *system.encode()])
    names = rng.permutation(["Smiling", "Young", "Bald", "Bangs", "Male"])
    tasks = tuple(names[:rng.integers(2, 6)])
    task, block = int(rng.integers(len(tasks))), int(rng.integers(2, 6))
    network = small(system, tasks, modulate_from=block, seed=draw)
    triplet_loss_of_task(network, task, seed=draw).backward()
    for name, own in network.modulation.named_parameters():
        for other in range(len(tasks)):
            reached = bool(own.grad[other].abs().sum() > 0)
            assert reached is (other == task), (name, tasks, task, block, other)


def test_a_joint_batch_couples_tasks_through_the_batch_statistics_alone():
    network, images = small("modulated", modulate_from=4), pixels(6)
    other_tasks = {}
    for mode in ("train", "eval"):
        network.train(mode == "train").zero_grad()
        network.embed_all_tasks(images)[1].sum().backward()
        other_tasks[mode] = {name: float(scale.weight.grad[[0, 2]].abs().sum())
                             for name, scale in network.modulation.items()}
    assert other_tasks["eval"] == {"block4": 0, "block5": 0, "fc": 0}
    assert other_tasks["train"]["block4"] > 0  # batch norm of block5 and fc follows
    assert other_tasks["train"]["block5"] > 0  # batch norm of fc follows
    assert other_tasks["train"]["fc"] == 0  # nothing follows


@pytest.mark.parametrize("system", ["csn", "branches", "mask_only"])
def test_a_joint_batch_couples_no_tasks_where_no_batch_statistics_follow(system):
    """Masks and branches are last; on a frozen trunk the statistics are fixed."""
    network = small(system)
    embeddings_TBD = network.embed_all_tasks(pixels(6))
    triplet_losses(*embeddings_TBD[1].reshape(2, 3, -1).unbind(1), margin=4.0).sum().backward()
    for own in network.modulation.values():
        assert own.weight.grad[1].abs().sum() > 0
        assert own.weight.grad[[0, 2]].abs().sum() == 0


# The frozen trunk


def test_a_frozen_trunk_has_no_gradient_and_its_statistics_do_not_move():
    network = small("mask_only").train()
    before = {name: value.clone() for name, value in network.stages.state_dict().items()}
    triplet_loss_of_task(network, task=1).backward()
    network.embed_all_tasks(pixels(5)).sum().backward()
    assert network.shared_parameters() == []
    assert all(p.grad is None and not p.requires_grad for p in network.stages.parameters())
    assert all(p.grad is not None for p in network.task_parameters())
    for name, value in network.stages.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_frozen_trunk_stays_in_eval_mode_and_the_network_does_not():
    network = small("mask_only")
    assert network.training
    for mode in (False, True):
        assert network.train(mode) is network
        assert network.training is mode
        assert all(module.training is mode for module in network.modulation.modules())
        assert not any(module.training for module in network.stages.modules())


def test_freezing_keeps_the_mode_of_all_that_is_not_frozen():
    for mode in (False, True):
        network = small("modulated").train(mode)
        network.freeze()
        assert network.training is mode
        assert not any(module.training for module in network.stages.modules())
        assert [p.requires_grad for p in network.task_parameters()] == [True] * 3


def test_freezing_changes_no_embedding_in_eval_mode():
    network, images = small("modulated").eval(), pixels(3)
    before = network.embed_all_tasks(images)
    network.freeze()
    assert torch.equal(network.embed_all_tasks(images), before)


# State


@pytest.mark.parametrize("system", SYSTEMS)
def test_state_survives_the_round_trip(system):
    network, loaded = small(system).eval(), small(system, seed=9).eval()
    images, task_B = pixels(4), torch.tensor([0, 2, 1, 1])
    assert not torch.equal(loaded(images, task_B), network(images, task_B))
    loaded.load_state_dict(network.state_dict())
    assert torch.equal(loaded(images, task_B), network(images, task_B))
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in network.parameters()]


# Scales


def test_task_scales_stand_side_by_side_in_stage_order():
    network = small("modulated", modulate_from=4)
    for value, scale in enumerate(network.modulation.values(), start=1):
        nn.init.constant_(scale.weight, value)
    nn.init.constant_(network.modulation["block5"].weight[1], -1.0)
    channels = round(128 * SMALL["width"])
    expected = torch.tensor([1.0] * channels + [2.0] * channels + [3.0] * 16).repeat(3, 1)
    expected[1, channels:2 * channels] = 0
    assert torch.equal(network.task_scales(), expected)


@pytest.mark.parametrize("system", ["fully_shared", "branches", "projection"])
def test_a_network_without_scales_has_none_to_give(system):
    with pytest.raises(ModlibError, match=r"no scales.*'modulated'"):
        small(system).task_scales()


# Bad input


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("shape", [(2, 3, 48, 47), (2, 1, 48, 48), (3, 48, 48), (2, 3, 53, 53)])
def test_images_of_another_shape_are_refused_with_both(system, shape):
    network, images = small(system), torch.zeros(shape, dtype=torch.uint8)
    for call in (lambda: network.embed_all_tasks(images),
                 lambda: network(images, torch.zeros(len(images), dtype=torch.long))):
        with pytest.raises(ModlibError, match=r"images must be \(B, 3, 48, 48\)") as error:
            call()
        assert str(shape)[1:-1].partition(", ")[2] in str(error.value)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("task_B", [
    torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([0]), torch.tensor([0.0, 1.0])])
def test_task_indices_outside_the_tasks_are_refused(system, task_B):
    with pytest.raises(ModlibError, match="task indices must be"):
        small(system)(pixels(2), task_B)


def test_there_are_as_many_tasks_as_were_named():
    assert [small(system).num_tasks for system in SYSTEMS] == [len(TASKS)] * len(SYSTEMS)
