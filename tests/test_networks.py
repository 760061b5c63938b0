"""Every system against a slow reference: its sizes, its function, its initial weights, refusals."""

from math import erf, exp, pi, sqrt

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
    reference,
    reference_of_system,
    small,
    stages_of_tasks,
)
from torch import nn

from modlib import networks
from modlib.errors import ModlibError
from modlib.modulation import ChannelScale
from modlib.networks import SYSTEMS, TRUNK_FROM, build_network, take_trunk
from modlib.task_networks import count_parameters
from modlib.trunk import normalise_pixels

TWENTY = [f"task{t}" for t in range(20)]

# Sizes and counts


@pytest.fixture(scope="module")
def paper_network():
    return build_network("modulated", TWENTY)


def test_every_system_is_held_against_the_reference():
    assert {system for system, _ in EVERY} == set(SYSTEMS)


def test_paper_network_has_2_952_032_weights(paper_network):
    weights = [m.weight for m in paper_network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert count_parameters(weights) == 2_952_032


def test_paper_network_shares_2_955_296_parameters_with_batch_norm(paper_network):
    assert count_parameters(paper_network.shared_parameters()) == 2_955_296


def test_modulating_20_tasks_from_block4_takes_10_240_parameters(paper_network):
    assert count_parameters(paper_network.task_parameters()) == 10_240
    assert paper_network.task_scales().shape == (20, 512)


@pytest.mark.parametrize(("system", "changes", "more"), [
    ("fully_shared", {}, 0),
    ("modulated", {"modulate_from": 2}, 14_080),
    ("modulated", {"modulate_from": 3}, 12_800),
    ("modulated", {"modulate_from": 4}, 10_240),
    ("modulated", {"modulate_from": 5}, 7_680),
    ("mask_only", {}, 10_240),
    ("csn", {}, 5_120),
    ("csn", {"modulate_from": 2}, 5_120),
    ("branches", {}, 1_310_720),
    ("branches", {"branch_size": 25}, 128_000),
    ("projection", {}, 1_966_080),
    ("modulated", {"signed_scales": True}, 10_240),
    ("modulated_branches", {}, 20 * (128 + 128 + 256 * 256)),
    ("modulated_branches", {"branch_size": 25}, 20 * (128 + 128 + 256 * 25)),
    ("modulated_branches", {"modulate_from": 2}, 20 * (64 + 3 * 128 + 256 * 256)),
    ("low_rank", {}, 20 * (128 + 128 + 256) * (1 + 2 * 4)),
    ("low_rank", {"rank": 1}, 20 * (128 + 128 + 256) * (1 + 2 * 1)),
    ("low_rank", {"rank": 16, "modulate_from": 5}, 20 * (128 + 256) * (1 + 2 * 16)),
])
def test_20_tasks_add_these_parameters_to_one_full_network(system, changes, more):
    network = build_network(system, TWENTY, **changes)
    assert count_parameters(network.parameters()) == 2_955_296 + more
    assert count_parameters(network.task_parameters()) == more


def test_20_independent_networks_have_56_150_624_parameters_more_than_one(monkeypatch):
    monkeypatch.setattr(networks, "initialise_weights", lambda *_: None)
    with torch.device("meta"):  # sizes without numbers
        independent = build_network("independent", TWENTY)
    assert count_parameters(independent.parameters()) == 2_955_296 + 56_150_624


def test_independent_networks_have_t_times_the_parameters():
    one = count_parameters(build_network("fully_shared", TASKS, **SMALL).parameters())
    independent = build_network("independent", TASKS, **SMALL)
    assert count_parameters(independent.parameters()) == len(TASKS) * one


@pytest.mark.parametrize(("system", "modulate_from"), EVERY)
def test_what_is_a_tasks_own_follows_the_stages_that_its_system_names(system, modulate_from):
    network = build_network(system, TASKS, **SMALL, modulate_from=modulate_from)
    parts = network.networks if system == "independent" else [network]
    for part in parts:
        assert tuple(part.modulation) == stages_of_tasks(system, modulate_from)


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
@pytest.mark.parametrize(("system", "modulate_from"), [*EVERY, ("projection", 3)])
def test_forward_and_gradients_equal_the_table_2_reference(system, modulate_from, mode):
    # At a side of 53 every pooling but the first leaves a row and a column over.
    network = in_float64(small(system, image_size=53, modulate_from=modulate_from))
    network.train(mode == "train")
    images, task_B = pixels(7, side=53), torch.tensor([2, 0, 2, 1, 1, 0, 0])
    expected = reference_of_system(network, system, modulate_from, images, task_B)
    expected_gradients = gradients(network, expected)
    given = network(images, task_B)
    assert_near(given, expected)
    given_gradients = gradients(network, given)
    assert given_gradients
    for g, e in zip(given_gradients, expected_gradients, strict=True):
        assert_near(g, e)


@pytest.mark.parametrize("system", ["modulated", "modulated_branches", "mask_only"])
def test_networks_with_signed_scales_equal_the_table_2_reference(system):
    network, images = in_float64(small(system, signed_scales=True)).eval(), pixels(6)
    assert (network.task_scales() < 0).any()
    every = network.embed_all_tasks(images)
    for task in range(3):
        task_B = torch.full((6,), task)
        expected = reference(network, images, task_B, stages_of_tasks(system, 4))
        assert_near(network(images, task_B), expected)
        assert_near(every[task], expected)


def test_independent_forward_takes_a_batch_without_some_task():
    network = in_float64(small("independent")).eval()
    images = pixels(3)
    expected = reference(network.networks[1], images, torch.ones(3))
    assert_near(network(images, torch.tensor([1, 1, 1])), expected)


def test_branches_may_be_narrower_or_wider_than_the_embedding():
    for size in (1, 7, 40):
        network, images = small("branches", branch_size=size), pixels(4)
        assert network(images, torch.tensor([0, 1, 2, 1])).shape == (4, size)
        assert network.embed_all_tasks(images).shape == (3, 4, size)


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


@pytest.mark.parametrize("system", ["modulated", "projection", "low_rank"])
def test_modulation_and_projection_start_as_the_function_of_the_fully_shared_network(system):
    images, task_B = pixels(6), torch.tensor([0, 0, 1, 1, 2, 2])
    own = build_network(system, TASKS, **SMALL, modulate_from=2, seed=5)
    shared = build_network("fully_shared", TASKS, **SMALL, seed=5)
    torch.testing.assert_close(own(images, task_B), shared(images, task_B))
    torch.testing.assert_close(own.embed_all_tasks(images), shared.embed_all_tasks(images))


def test_mask_only_starts_as_the_function_of_its_frozen_trunk():
    images, task_B = pixels(6), torch.tensor([0, 0, 1, 1, 2, 2])
    own = build_network("mask_only", TASKS, **SMALL, seed=5)
    trained = small("fully_shared").eval()
    take_trunk(own, trained)
    torch.testing.assert_close(own(images, task_B), trained(images, task_B))


# Initial weights


@pytest.mark.parametrize("system", SYSTEMS)
def test_same_seed_gives_the_same_weights_and_another_seed_others(system):
    first, again, other = (build_network(system, TASKS, **SMALL, seed=s).state_dict()
                           for s in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name, value in first.items():
        if value.ndim > 1 and "modulation" not in name:
            assert not torch.equal(value, other[name]), name


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_initial_trunk_is_the_same_for_every_system_of_one_seed(system):
    """Of the independent networks the first one's."""
    expected = build_network("fully_shared", TASKS, **SMALL, seed=3).stages.state_dict()
    network = build_network(system, TASKS, **SMALL, modulate_from=3, seed=3)
    trunk = network.networks[0].stages if system == "independent" else network.stages
    given = trunk.state_dict()
    assert list(given) == list(expected)
    assert all(torch.equal(given[name], expected[name]) for name in expected)


@pytest.mark.parametrize("changes", [
    {"system": "fully_shared"}, {"system": "branches"},
    {"system": "csn", "mask_initialisation": "normal"}, {"system": "low_rank"},
    {"system": "modulated_branches"}])
def test_initial_weights_depend_on_the_global_seed_in_no_way_and_leave_it_alone(changes):
    torch.manual_seed(1)
    first = build_network(tasks=TASKS, **SMALL, **changes).state_dict()
    torch.manual_seed(2)
    again = build_network(tasks=TASKS, **SMALL, **changes).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_independent_networks_start_from_different_weights():
    one, two, three = (n.stages["fc"][1].weight
                       for n in build_network("independent", TASKS, **SMALL).networks)
    assert not torch.equal(one, two)
    assert not torch.equal(one, three)
    assert not torch.equal(two, three)


DENSITY, INSIDE = exp(-2) / sqrt(2 * pi), erf(2 / sqrt(2))
TRUNCATED_STD = 0.1 * sqrt(1 - 2 * 2 * DENSITY / INSIDE)  # of N(0, 0.1²) inside two deviations


def test_initial_weights_are_a_normal_of_deviation_0_1_truncated_at_two_deviations(paper_network):
    layers = [m.weight.detach() for m in paper_network.modules()
              if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 14
    for weight in layers:
        assert 0.19 < weight.abs().max() <= 0.2
        assert weight.std() == pytest.approx(TRUNCATED_STD, rel=0.1)
    together = torch.cat([weight.flatten() for weight in layers])
    assert together.std() == pytest.approx(TRUNCATED_STD, rel=2e-3)
    assert together.mean() == pytest.approx(0, abs=3e-4)


def test_kaiming_weights_keep_the_variance_of_what_a_relu_lets_through():
    network = build_network("fully_shared", TASKS, image_size=64, initialisation="kaiming")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            inputs = layer.weight[0].numel()
            weight = layer.weight.detach()
            assert weight.std() == pytest.approx(sqrt(2 / inputs), rel=0.1)
            assert weight.abs().max() > 2.5 * sqrt(2 / inputs)  # not truncated
    with pytest.raises(ModlibError, match=r"initialisation.*'kaimin'.*mean 'kaiming'"):
        build_network("fully_shared", TASKS, initialisation="kaimin")


def test_branches_are_drawn_from_the_same_truncated_normal_and_differ_by_task():
    network = build_network("branches", TASKS, image_size=48, width=0.1, seed=1)
    weight = network.modulation["fc"].weight.detach()
    assert weight.shape == (3, 256, 256)
    assert 0.19 < weight.abs().max() <= 0.2
    assert weight.std() == pytest.approx(TRUNCATED_STD, rel=1e-2)
    assert weight.mean() == pytest.approx(0, abs=1e-3)
    assert not torch.equal(weight[0], weight[1])
    other = build_network("branches", TASKS, image_size=48, width=0.1, seed=2)
    assert not torch.equal(weight, other.modulation["fc"].weight)


def test_branches_after_scales_start_as_branches_alone():
    alone, after = (build_network(system, TASKS, **SMALL, seed=1)
                    for system in ("branches", "modulated_branches"))
    assert torch.equal(after.modulation["fc"].weight, alone.modulation["fc"].weight)
    assert torch.equal(after.task_scales(), torch.ones(3, 26 + 26))


@pytest.mark.parametrize("rank", [1, 5])
def test_low_rank_starts_with_drawn_factors_that_lead_to_zeros(rank):
    one, other = (build_network("low_rank", TASKS, **SMALL, rank=rank, seed=s).modulation
                  for s in (1, 2))
    assert one["block4"].down.shape == (3, 26, rank)
    for name, module in one.items():
        assert torch.equal(module.scale.weight, torch.ones_like(module.scale.weight))
        assert not module.up.any()
        assert not torch.equal(module.down, other[name].down)
    assert not torch.equal(one["block4"].down, one["block5"].down)


@pytest.mark.parametrize("system", ["modulated", "modulated_branches", "mask_only"])
def test_scales_are_signed_where_it_is_asked_for_and_only_there(system):
    for signed in (True, False):
        network = build_network(system, TASKS, **SMALL, signed_scales=signed)
        scales = [m for m in network.modules() if isinstance(m, ChannelScale)]
        assert [scale.signed for scale in scales] == [signed] * len(scales) != []
    default = build_network(system, TASKS, **SMALL)
    assert not default.modulation["block4"].signed


def test_masks_of_the_embedding_are_never_signed():
    network = build_network("csn", TASKS, **SMALL, signed_scales=True)
    assert not network.modulation["fc"].signed


def test_scales_start_at_1(paper_network):
    assert torch.equal(paper_network.task_scales(), torch.ones(20, 512))


def test_projections_start_as_the_identity():
    network = build_network("projection", TASKS, **SMALL)
    for projection in network.modulation.values():
        for matrix in projection.weight:
            assert torch.equal(matrix, torch.eye(len(matrix)))


def test_masks_start_at_1_on_the_tasks_own_slice_and_at_a_tenth_elsewhere():
    network = build_network("csn", TASKS, image_size=48, width=0.1, embedding_size=8)
    assert torch.equal(network.task_scales(), torch.tensor([
        [1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
        [0.1, 0.1, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1],
        [0.1, 0.1, 0.1, 0.1, 1.0, 1.0, 0.1, 0.1],  # the last two numbers belong to nobody
    ]))


@pytest.mark.parametrize(("tasks", "size"), [(1, 5), (2, 2), (3, 3), (3, 16), (20, 256)])
def test_every_number_of_the_embedding_is_at_most_one_tasks_own(tasks, size):
    network = build_network("csn", TWENTY[:tasks], image_size=48, width=0.1, embedding_size=size)
    own = network.task_scales() == 1
    assert own.sum(1).tolist() == [size // tasks] * tasks
    assert own.sum(0).max() == 1
    assert (own.sum(0) == 0).sum() == size % tasks
    assert torch.equal(network.task_scales()[~own],
                       torch.full((int((~own).sum()),), 0.1))


def test_normal_masks_are_drawn_with_mean_0_9_and_deviation_0_7_by_the_seed():
    def masks(seed):
        network = build_network("csn", TWENTY, image_size=48, width=0.1, seed=seed,
                                mask_initialisation="normal")
        return network.modulation["fc"].weight.detach()

    weight = masks(0)
    assert weight.mean() == pytest.approx(0.9, abs=0.03)
    assert weight.std() == pytest.approx(0.7, abs=0.02)
    assert (weight <= 0).float().mean() == pytest.approx(0.1, abs=0.02)  # Φ(−0.9/0.7)
    assert torch.equal(weight, masks(0))
    assert not torch.equal(weight, masks(1))


# A trunk that was trained before


@pytest.mark.parametrize("trained_system", ["branches", "fully_shared", "modulated"])
def test_a_taken_trunk_is_equal_in_weights_and_statistics_and_the_scales_stay(trained_system):
    network, trained = small("mask_only"), small(trained_system, seed=8)
    scales = network.task_scales().clone()
    take_trunk(network, trained)
    expected = trained.stages.state_dict()
    for name, value in network.stages.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert torch.equal(network.task_scales(), scales)


def test_a_taken_trunk_is_a_copy():
    network, trained = small("mask_only"), small("branches", seed=8)
    take_trunk(network, trained)
    before = network.stages["fc"][1].weight.clone()
    nn.init.zeros_(trained.stages["fc"][1].weight)
    assert torch.equal(network.stages["fc"][1].weight, before)
    assert not any(p.requires_grad for p in network.stages.parameters())


def test_only_systems_on_a_trained_trunk_are_frozen():
    assert {system for system in SYSTEMS if getattr(small(system), "frozen", False)} == set(
        TRUNK_FROM) == {"mask_only"}
    assert set(TRUNK_FROM.values()) <= set(SYSTEMS) - set(TRUNK_FROM)
    assert set(SYSTEMS) >= OF_TASKS


# Bad input


@pytest.mark.parametrize(("changes", "words"), [
    ({"system": "modulatd"}, ["system", "'modulatd'", "did you mean 'modulated'"]),
    ({"system": "x"}, ["system", "'x'", *SYSTEMS]),
    ({"tasks": ()}, ["tasks", "one or more distinct", "()"]),
    ({"tasks": ("Young", "Young")}, ["tasks", "distinct", "('Young', 'Young')"]),
    ({"tasks": "Young"}, ["tasks", "names", "'Young'"]),
    ({"image_size": 47}, ["image_size", "at least 48", "47"]),
    ({"image_size": 48.5}, ["image_size", "a whole number", "48.5"]),
    ({"width": 0}, ["width", "above 0", "given 0"]),
    ({"width": 8.5}, ["width", "at most 8", "8.5"]),
    ({"width": float("nan")}, ["width", "above 0", "nan"]),
    ({"width": "1"}, ["width", "a number", "'1'"]),
    ({"modulate_from": 1}, ["modulate_from", "2 to 5", "given 1"]),
    ({"modulate_from": 6}, ["modulate_from", "2 to 5", "given 6"]),
    ({"embedding_size": 0}, ["embedding_size", "at least 1", "given 0"]),
    ({"embedding_size": 16.0}, ["embedding_size", "a whole number", "16.0"]),
    ({"branch_size": 0}, ["branch_size", "at least 1", "given 0"]),
    ({"branch_size": "25"}, ["branch_size", "a whole number", "'25'"]),
    ({"rank": 0}, ["rank", "at least 1", "given 0"]),
    ({"system": "low_rank", "rank": -3}, ["rank", "at least 1", "given -3"]),
    ({"system": "low_rank", "rank": 4.0}, ["rank", "a whole number", "4.0"]),
    ({"rank": None}, ["rank", "a whole number", "None"]),
    ({"mask_initialisation": "normals"},
     ["mask_initialisation", "'normals'", "did you mean 'normal'"]),
    ({"system": "csn", "embedding_size": 2}, ["csn", "embedding_size", "a task, 3", "given 2"]),
    ({"bn_decay": 0.0}, ["bn_decay", "between 0 and 1", "0.0"]),
    ({"bn_decay": 1.0}, ["bn_decay", "between 0 and 1", "1.0"]),
    ({"bn_decay": None}, ["bn_decay", "a number", "None"]),
])
def test_bad_arguments_are_refused_by_name_with_what_was_given_and_what_is_allowed(changes, words):
    with pytest.raises(ModlibError) as error:
        build_network(**({"system": "modulated", "tasks": TASKS} | changes))
    assert [word for word in words if word not in str(error.value)] == []


def test_masks_need_as_many_numbers_as_tasks_and_no_more():
    network = build_network("csn", TASKS, image_size=48, width=0.1, embedding_size=3)
    assert network.task_scales().argmax(1).tolist() == [0, 1, 2]
    build_network("modulated", TASKS, image_size=48, width=0.1, embedding_size=2)
