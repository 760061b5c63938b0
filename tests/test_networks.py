"""The Table 2 network against a slow reference, what it shares, and the systems built on it."""

from math import erf, exp, pi, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modlib.errors import ModlibError
from modlib.losses import triplet_losses
from modlib.modulation import ChannelScale
from modlib.networks import (
    SYSTEMS,
    Network,
    build_network,
    count_parameters,
    normalise_pixels,
)

TASKS = ("Smiling", "Young", "Bald")
SMALL = {"image_size": 48, "width": 0.2, "embedding_size": 16}
STAGES = ("conv1", "block2", "block3", "block4", "block5", "fc")


def small(system: str, **changes) -> Network:
    """A small network whose scales and running averages are away from their initial values."""
    network = build_network(system, TASKS, **(SMALL | changes))
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, ChannelScale):
            nn.init.uniform_(module.weight, -0.3, 2.0, generator=generator)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=generator)
    return network


def in_float64(network: Network) -> Network:
    """Compute in float64, so that a difference is a mistake and not rounding at a ReLU's kink."""
    for stages in [network.stages] if hasattr(network, "stages") else [
            own.stages for own in network.networks]:
        stages["conv1"].register_forward_pre_hook(lambda _, inputs: inputs[0].double())
    return network.double()


def pixels(batch: int, side: int = 48, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)


def reference(
    network: nn.Module, images: Tensor, task_B: Tensor, first_modulated: str | None
) -> Tensor:
    """Table 2 word for word: conv, bn, relu, *then* pool; sum after the block's second ReLU."""
    layers = iter([m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    norms = iter([m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)])
    scales = iter([m for m in network.modules() if isinstance(m, ChannelScale)])

    def conv_bn_relu(x, padding):
        weight, norm = next(layers).weight, next(norms)
        x = F.conv2d(x, weight, padding=padding) if x.ndim == 4 else F.linear(x, weight)
        return F.relu(F.batch_norm(
            x, norm.running_mean.clone(), norm.running_var.clone(), norm.weight, norm.bias,
            training=network.training, eps=1e-3))

    def modulate(x, stage):
        if first_modulated is None or STAGES.index(stage) < STAGES.index(first_modulated):
            return x
        w = next(scales).weight
        return torch.stack([
            torch.stack([channel * F.relu(w[t, c]) for c, channel in enumerate(image)])
            for image, t in zip(x, task_B.tolist(), strict=True)
        ])

    mean = torch.tensor([122.77, 115.95, 102.98]).reshape(1, 3, 1, 1)
    x = ((images.float() - mean) / 128).to(next(network.parameters()).dtype)
    x = modulate(conv_bn_relu(x, padding=0), "conv1")
    for stage in STAGES[1:-1]:
        x = F.max_pool2d(conv_bn_relu(x, padding=0), 2)
        after_second_relu = conv_bn_relu(conv_bn_relu(x, padding=1), padding=1)
        x = modulate(x + after_second_relu, stage)
    x = modulate(conv_bn_relu(x.reshape(len(x), -1), padding=0), "fc")
    return (x / x.square().sum(1, keepdim=True).sqrt()).float()


def assert_near(given: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to the rounding of the float32 embeddings, next to the largest expected number."""
    assert given.shape == expected.shape
    assert (given - expected).abs().max() <= tolerance * expected.abs().max()


def gradients(network: nn.Module, embeddings: Tensor) -> list[Tensor]:
    """Of an arbitrary smooth function of the embeddings; zeros for what it does not reach."""
    mix = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad(
        (embeddings * mix).sum(), list(network.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g
            for g, p in zip(found, network.parameters(), strict=True)]


def batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules()
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)}


def count_normalised_values(network: nn.Module) -> dict[str, int]:
    """Filled by the next forward pass: how many values a channel each batch norm averages."""
    values: dict[str, int] = {}
    for name, norm in batch_norms(network).items():
        norm.register_forward_hook(
            lambda _, inputs, __, name=name: values.update({name: inputs[0][:, 0].numel()}))
    return values


# Sizes and counts


@pytest.fixture(scope="module")
def paper_network():
    return build_network("modulated", [f"task{t}" for t in range(20)])


def test_paper_network_has_2_952_032_weights(paper_network):
    weights = [m.weight for m in paper_network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert count_parameters(weights) == 2_952_032


def test_paper_network_shares_2_955_296_parameters_with_batch_norm(paper_network):
    assert count_parameters(paper_network.shared_parameters()) == 2_955_296


def test_modulating_20_tasks_from_block4_takes_10_240_parameters(paper_network):
    assert count_parameters(paper_network.task_parameters()) == 10_240
    assert paper_network.task_scales().shape == (20, 512)


def test_independent_networks_have_t_times_the_parameters():
    one = count_parameters(build_network("fully_shared", TASKS, **SMALL).parameters())
    independent = build_network("independent", TASKS, **SMALL)
    assert count_parameters(independent.parameters()) == len(TASKS) * one


@pytest.mark.parametrize("modulate_from", [2, 3, 4, 5])
def test_modulation_starts_at_the_named_block_and_ends_at_fc(modulate_from):
    network = build_network("modulated", TASKS, width=1.0, image_size=48,
                            modulate_from=modulate_from)
    channels = [64, 128, 128, 128, 256][modulate_from - 2:]
    assert list(network.modulation) == list(STAGES[modulate_from - 1:])
    assert count_parameters(network.task_parameters()) == len(TASKS) * sum(channels)


def test_stage_sizes_are_those_of_table_2(paper_network):
    network = build_network("fully_shared", TASKS, width=0.1).eval()
    sizes = []
    for stage in network.stages.values():
        stage.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[1:])))
    network(pixels(1, side=150), torch.zeros(1, dtype=torch.long))
    assert sizes == [(3, 148, 148), (6, 73, 73), (13, 35, 35), (13, 16, 16), (13, 7, 7), (256,)]
    assert paper_network.stages["fc"][1].in_features == 6272
    assert paper_network.stages["fc"][1].out_features == 256


def test_smallest_image_leaves_one_pixel_for_fc():
    network = build_network("fully_shared", TASKS, width=1.0, image_size=48)
    assert network.stages["fc"][1].in_features == 128


def test_batch_norm_has_the_papers_epsilon_and_decay(paper_network):
    norms = batch_norms(paper_network).values()
    assert len(norms) == 14
    assert {norm.eps for norm in norms} == {1e-3}
    assert all(norm.momentum == pytest.approx(0.005) for norm in norms)


# The function


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("system", "modulate_from"), [
    ("fully_shared", None), ("modulated", 2), ("modulated", 3), ("modulated", 4), ("modulated", 5),
])
def test_forward_and_gradients_equal_the_table_2_reference(system, modulate_from, mode):
    # At a side of 53 every pooling but the first leaves a row and a column over.
    changes = {"modulate_from": modulate_from} if modulate_from else {}
    network = in_float64(small(system, image_size=53, **changes)).train(mode == "train")
    images, task_B = pixels(5, side=53), torch.tensor([2, 0, 1, 1, 0])
    first = f"block{modulate_from}" if modulate_from else None
    expected = reference(network, images, task_B, first)
    expected_gradients = gradients(network, expected)
    given = network(images, task_B)
    assert_near(given, expected)
    for g, e in zip(gradients(network, given), expected_gradients, strict=True):
        assert_near(g, e)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_independent_forward_is_each_tasks_own_reference(mode):
    network = in_float64(small("independent")).train(mode == "train")
    images, task_B = pixels(7), torch.tensor([2, 0, 2, 1, 1, 0, 0])
    expected = torch.zeros(7, SMALL["embedding_size"])
    for task, own in enumerate(network.networks):
        rows = [b for b in range(7) if task_B[b] == task]
        expected[rows] = reference(own, images[rows], task_B[rows], None)
    assert_near(network(images, task_B), expected)


def test_independent_forward_takes_a_batch_without_some_task():
    network = in_float64(small("independent")).eval()
    images = pixels(3)
    expected = reference(network.networks[1], images, torch.ones(3), None)
    assert_near(network(images, torch.tensor([1, 1, 1])), expected)


def test_pixels_are_centred_and_divided_by_128():
    image = torch.tensor([122.77, 115.95, 102.98]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2).clone()
    image[0, 1, 0, 1] += 64
    expected = torch.zeros(1, 3, 2, 2)
    expected[0, 1, 0, 1] = 0.5
    torch.testing.assert_close(normalise_pixels(image), expected)


@pytest.mark.parametrize("system", SYSTEMS)
def test_uint8_and_float_pixels_agree(system):
    network = small(system).eval()
    images, task_B = pixels(3), torch.tensor([0, 1, 2])
    assert torch.equal(network(images, task_B), network(images.float(), task_B))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_embeddings_are_float32_of_length_1(system, precision):
    network, images = small(system), pixels(4)
    with torch.autocast("cpu", torch.bfloat16, precision == "bfloat16"):
        one, every = network(images, torch.tensor([0, 0, 1, 1])), network.embed_all_tasks(images)
    for embeddings in (one, every):
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(embeddings.shape[:-1]))


def test_scales_of_1_leave_the_function_of_the_fully_shared_network():
    images, task_B = pixels(6), torch.tensor([0, 0, 1, 1, 2, 2])
    modulated = build_network("modulated", TASKS, **SMALL, modulate_from=2, seed=5)
    shared = build_network("fully_shared", TASKS, **SMALL, seed=5)
    torch.testing.assert_close(modulated(images, task_B), shared(images, task_B))


# One task or all tasks


@pytest.mark.parametrize(("system", "modulate_from"), [
    ("fully_shared", 4), ("independent", 4), ("modulated", 2), ("modulated", 4), ("modulated", 5),
])
def test_embed_all_tasks_equals_a_call_a_task_in_eval_mode(system, modulate_from):
    network, images = in_float64(small(system, modulate_from=modulate_from)).eval(), pixels(4)
    every = network.embed_all_tasks(images)
    assert every.shape == (3, 4, SMALL["embedding_size"])
    for task in range(3):
        assert_near(every[task], network(images, torch.full((4,), task)))


@pytest.mark.parametrize(("system", "modulate_from"), [
    ("fully_shared", 4), ("independent", 4), ("modulated", 2), ("modulated", 4), ("modulated", 5),
])
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
    ("fully_shared", "fc"), ("independent", None), ("modulated", "block4"),
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


def test_embed_all_tasks_runs_the_unmodulated_stages_once_an_image():
    network, rows = small("modulated", modulate_from=4).eval(), {}
    for name, stage in network.stages.items():
        stage.register_forward_hook(
            lambda _, inputs, __, name=name: rows.update({name: len(inputs[0])}))
    network.embed_all_tasks(pixels(5))
    assert rows == {"conv1": 5, "block2": 5, "block3": 5, "block4": 5, "block5": 15, "fc": 15}


# What is shared


@pytest.mark.parametrize("system", SYSTEMS)
def test_shared_and_task_parameters_partition_all_parameters(system):
    network = small(system)
    parts = [id(p) for p in network.shared_parameters() + network.task_parameters()]
    assert sorted(parts) == sorted(id(p) for p in network.parameters())


@pytest.mark.parametrize(("system", "shared", "task"), [
    ("fully_shared", True, False), ("independent", False, True), ("modulated", True, True),
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


def triplet_loss_of_task(network: Network, task: int) -> Tensor:
    embeddings_BD = network(pixels(6), torch.full((6,), task))
    return triplet_losses(*embeddings_BD.reshape(2, 3, -1).unbind(1), margin=2.0).mean()


@pytest.mark.parametrize("modulate_from", [2, 3, 4, 5])
def test_a_tasks_triplets_leave_the_other_tasks_scales_without_gradient(modulate_from):
    network = small("modulated", modulate_from=modulate_from)
    triplet_loss_of_task(network, task=1).backward()
    for scale in network.modulation.values():
        assert scale.weight.grad[1].abs().sum() > 0
        assert scale.weight.grad[[0, 2]].abs().sum() == 0


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


# Initial weights


@pytest.mark.parametrize("system", SYSTEMS)
def test_same_seed_gives_the_same_weights_and_another_seed_others(system):
    first, again, other = (build_network(system, TASKS, **SMALL, seed=s).state_dict()
                           for s in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name, value in first.items():
        if value.ndim > 1 and "modulation" not in name:
            assert not torch.equal(value, other[name]), name


def test_initial_weights_do_not_depend_on_the_global_seed():
    torch.manual_seed(1)
    first = build_network("fully_shared", TASKS, **SMALL).state_dict()
    torch.manual_seed(2)
    again = build_network("fully_shared", TASKS, **SMALL).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_independent_networks_start_from_different_weights():
    one, two, three = (n.stages["fc"][1].weight
                       for n in build_network("independent", TASKS, **SMALL).networks)
    assert not torch.equal(one, two)
    assert not torch.equal(one, three)
    assert not torch.equal(two, three)


def test_initial_weights_are_a_normal_of_deviation_0_1_truncated_at_two_deviations(paper_network):
    density, inside = exp(-2) / sqrt(2 * pi), erf(2 / sqrt(2))
    truncated_std = 0.1 * sqrt(1 - 2 * 2 * density / inside)
    layers = [m.weight.detach() for m in paper_network.modules()
              if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 14
    for weight in layers:
        assert 0.19 < weight.abs().max() <= 0.2
        assert weight.std() == pytest.approx(truncated_std, rel=0.1)
    together = torch.cat([weight.flatten() for weight in layers])
    assert together.std() == pytest.approx(truncated_std, rel=2e-3)
    assert together.mean() == pytest.approx(0, abs=3e-4)


def test_scales_start_at_1(paper_network):
    assert torch.equal(paper_network.task_scales(), torch.ones(20, 512))


def test_task_scales_stand_side_by_side_in_stage_order():
    network = small("modulated", modulate_from=4)
    for value, scale in enumerate(network.modulation.values(), start=1):
        nn.init.constant_(scale.weight, value)
    nn.init.constant_(network.modulation["block5"].weight[1], -1.0)
    channels = round(128 * SMALL["width"])
    expected = torch.tensor([1.0] * channels + [2.0] * channels + [3.0] * 16).repeat(3, 1)
    expected[1, channels:2 * channels] = 0
    assert torch.equal(network.task_scales(), expected)


# Bad input


@pytest.mark.parametrize(("changes", "words"), [
    ({"system": "modulatd"}, ["system", "'modulatd'", "did you mean 'modulated'"]),
    ({"system": "x"}, ["system", "'x'", *SYSTEMS]),
    ({"tasks": ()}, ["tasks", "one or more distinct", "()"]),
    ({"tasks": ("Young", "Young")}, ["tasks", "distinct", "('Young', 'Young')"]),
    ({"tasks": "Young"}, ["tasks", "names", "'Young'"]),
    ({"image_size": 47}, ["image_size", "at least 48", "47"]),
    ({"width": 0}, ["width", "above 0", "given 0"]),
    ({"width": 8.5}, ["width", "at most 8", "8.5"]),
    ({"width": float("nan")}, ["width", "above 0", "nan"]),
    ({"modulate_from": 1}, ["modulate_from", "2 to 5", "given 1"]),
    ({"modulate_from": 6}, ["modulate_from", "2 to 5", "given 6"]),
    ({"embedding_size": 0}, ["embedding_size", "at least 1", "given 0"]),
    ({"bn_decay": 0.0}, ["bn_decay", "between 0 and 1", "0.0"]),
    ({"bn_decay": 1.0}, ["bn_decay", "between 0 and 1", "1.0"]),
])
def test_bad_arguments_are_refused_by_name_with_what_was_given_and_what_is_allowed(changes, words):
    with pytest.raises(ModlibError) as error:
        build_network(**({"system": "modulated", "tasks": TASKS} | changes))
    assert [word for word in words if word not in str(error.value)] == []


def test_a_fully_shared_network_has_no_scales_to_give():
    with pytest.raises(ModlibError, match=r"no scales.*'modulated'"):
        small("fully_shared").task_scales()
