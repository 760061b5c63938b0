"""Training in rounds: steps equal a plain loop, layers split from the top, a cut run goes on."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modlib import adaptive_branching, classification
from modlib.adaptive_branching import (
    BranchingSettings,
    branching_round,
    build_network,
    train_branching,
)
from modlib.arrays import from_json
from modlib.batches import image_getter
from modlib.classification import random_batches
from modlib.errors import ModlibError
from modlib.optimisers import build_optimiser
from modlib.thin_vgg import LAYERS, BranchingVgg
from modlib.trunk import normalise_pixels

DEFAULTS = {field.name: field.default for field in fields(BranchingSettings)}
OTHER_VALUES = {
    "profile": "mine", "dataset": "celeba", "tasks": ("Smiling", "Young"), "image_size": 48,
    "toy_images": 60, "system": "thin", "thinness": 16, "wide_thinness": 96, "somp": False,
    "filters": "random", "scales": True, "alpha": 2.0, "round_batches": 10, "affinity_decay": 0.9,
    "bn_decay": 0.99, "batch_size": 24, "horizontal_flip": False, "epochs": 9,
    "batches_per_epoch": 7, "optimiser": "adagrad", "learning_rate": 0.01,
    "scale_rate_factor": 10.0, "schedule": "cosine", "gradient_clip": 1.0,
    "precision": "float32", "ucr_every": 5, "seed": 3,
}


@pytest.fixture
def of_planted(planted) -> BranchingSettings:
    """Two epochs of four batches of 10 of the 30 planted training images; a round every third."""
    return BranchingSettings(
        tasks=planted.tasks, image_size=48, thinness=4, wide_thinness=6, alpha=20.0,
        round_batches=3, batch_size=10, epochs=2, batches_per_epoch=4, precision="float32",
        learning_rate=0.01)


def trained(settings, data, checkpoint=None, epochs=None):
    """The trained network and its epochs' metrics, without the seconds."""
    network = build_network(settings)
    told = []
    for metrics in train_branching(network, data, settings, checkpoint):
        told.append({k: v for k, v in metrics.items() if k != "seconds"})
        if len(told) == epochs:
            break
    return network, told


def assert_same(one: BranchingVgg, other: BranchingVgg) -> None:
    assert one.get_extra_state() == other.get_extra_state()
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not name.endswith("extra_state")
            and not torch.equal(mine[name], theirs[name])] == []


# Training

@pytest.mark.parametrize("optimiser", ["adam", "adagrad"])
def test_steps_between_rounds_equal_a_plain_loop(of_planted, planted, optimiser):
    settings = replace(of_planted, round_batches=99, epochs=1, gradient_clip=0.5,
                       optimiser=optimiser, schedule="cosine")
    network, [metrics] = trained(settings, planted)
    plain = build_network(settings).train()
    parameters = list(plain.parameters())
    step = (torch.optim.Adam(parameters) if optimiser == "adam" else
            torch.optim.Adagrad(parameters, initial_accumulator_value=0.1))
    losses = []
    get_images = image_getter(planted, torch.device("cpu"))
    for number, (images, labels) in enumerate(random_batches(planted, get_images, settings, 0)):
        step.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + np.cos(np.pi * number / 4))
        loss = F.binary_cross_entropy_with_logits(plain(normalise_pixels(images)), labels.float())
        step.zero_grad()
        loss.backward()
        length = sum(p.grad.square().sum() for p in parameters).sqrt()
        assert length > 0.5  # there is something to clip
        for p in parameters:
            p.grad *= 0.5 / (length + 1e-6)
        step.step()
        losses.append(loss.item())
    for name, value in plain.state_dict().items():
        if "affinity" not in name and "extra" not in name:
            torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-2, atol=1e-3)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["images"] == 40 and metrics["rounds"] == []


@pytest.mark.parametrize("system", ["thin", "branched"])
def test_the_scales_learn_at_a_rate_of_their_own(of_planted, planted, system):
    """One step of Adam goes as far as its rate says, but for gradients near its epsilon."""
    settings = replace(of_planted, scales=True, scale_rate_factor=5.0, system=system, epochs=1,
                       batches_per_epoch=1)
    network, _ = trained(settings, planted)
    before = build_network(settings).state_dict()
    moved = {name: (value - before[name]).abs().max() for name, value
             in network.state_dict().items() if not name.endswith("extra_state")}
    for name in ("conv5_3", "fc6", "fc7"):
        assert moved[f"modulation.{name}.weight"] == pytest.approx(0.05, rel=0.02)
    assert moved["layers.0.0.0.weight"] == pytest.approx(0.01, rel=0.02)


def test_a_round_leaves_the_scales_and_their_averages(of_planted):
    network = build_network(replace(of_planted, scales=True)).train()
    optimiser = build_optimiser(network, of_planted)
    network(torch.randn(6, 3, 48, 48)).sum().backward()
    optimiser.step()
    network.affinity.add(torch.randn(6, 3), torch.zeros(6, 3, dtype=torch.bool))
    scales, groups = list(network.modulation.parameters()), optimiser.param_groups
    kept = [value.clone() for value in scales]
    branching_round(network, optimiser, of_planted)
    assert [id(one) for one in groups[1]["params"]] == [id(one) for one in scales]
    together = {id(one) for group in groups for one in group["params"]}
    assert together == {id(one) for one in network.parameters()}
    assert len(together) == sum(len(group["params"]) for group in groups)
    assert all(torch.equal(one, before) for one, before in zip(scales, kept, strict=True))
    assert all(one in optimiser.state for one in scales)


# Probes

@pytest.mark.parametrize("scales", [False, True])
def test_a_probe_counts_the_signs_of_inner_products_over_what_all_tasks_share(
        of_planted, planted, scales):
    settings = replace(of_planted, system="thin", scales=scales, ucr_every=4, epochs=1)
    [metrics] = trained(settings, planted)[1]
    network = build_network(settings).train()
    get_images = image_getter(planted, torch.device("cpu"))
    images, labels = next(iter(random_batches(planted, get_images, settings, 0)))
    logits = network(normalise_pixels(images))
    gradients = []
    for task in range(3):
        loss = F.binary_cross_entropy_with_logits(logits[:, task], labels[:, task].float())
        of_layers = torch.autograd.grad(loss, list(network.layers.parameters()), retain_graph=True)
        gradients.append(torch.cat([one.flatten() for one in of_layers]))
    assert metrics["ucr_batches"] == 1  # of four batches the first
    assert [pair["tasks"] for pair in metrics["ucr"]] == [
        ["Smiling", "Mouth_Slightly_Open"], ["Smiling", "Young"], ["Mouth_Slightly_Open", "Young"]]
    for pair, (i, j) in zip(metrics["ucr"], ((0, 1), (0, 2), (1, 2)), strict=True):
        product = gradients[i] @ gradients[j]
        assert (pair["positive"], pair["negative"]) == (int(product > 0), int(product < 0))
        cosine = product / (gradients[i].norm() * gradients[j].norm())
        assert pair["mean_cosine"] == pytest.approx(cosine.item(), abs=1e-3)


def test_probes_change_nothing_else(of_planted, planted):
    settings = replace(of_planted, scales=True)
    network, told = trained(settings, planted)
    probed, also_told = trained(replace(settings, ucr_every=2), planted)
    assert_same(network, probed)
    assert [epoch.pop("ucr_batches") for epoch in also_told] == [2, 2]
    assert [epoch.pop("ucr_batches") for epoch in told] == [0, 0]
    assert all(epoch.pop("ucr") for epoch in also_told)
    assert not any(epoch.pop("ucr") for epoch in told)
    assert told == also_told


def test_where_nothing_is_shared_nothing_is_probed(of_planted, planted):
    settings = replace(of_planted, system="retrained", ucr_every=1, epochs=1)
    network = build_network(settings)
    network.take_groups([[[0], [1], [2]]] * len(LAYERS))
    [metrics] = train_branching(network, planted, settings)
    assert (metrics["ucr"], metrics["ucr_batches"]) == ([], 0)


# Rounds

def test_layers_are_split_from_the_top_down_every_so_many_batches(of_planted, planted):
    network, epochs = trained(replace(of_planted, round_batches=2), planted)
    rounds = [one for epoch in epochs for one in epoch["rounds"]]
    assert [len(epoch["rounds"]) for epoch in epochs] == [2, 2]
    assert [one["batch"] for one in rounds] == [2, 4, 6, 8]
    assert [one["layer"] for one in rounds] == ["fc7", "fc6", "conv5_3", "conv5_2"]
    for one in rounds:  # with so large an α every task gets a branch
        assert one["groups"] == [["Smiling"], ["Mouth_Slightly_Open"], ["Young"]]
        assert [d["branches"] for d in one["objectives"]] == [1, 2, 3]
        affinity_TT = from_json(one["affinity"])
        assert affinity_TT.shape == (3, 3) and np.array_equal(affinity_TT, affinity_TT.T)
        np.testing.assert_allclose(np.diag(affinity_TT), 1)
    assert [len(layer) for layer in network.layers] == [1] * 11 + [3] * 4
    assert json.loads(json.dumps(epochs)) == epochs


def test_the_first_layer_that_is_not_split_ends_the_rounds(of_planted, planted):
    network, epochs = trained(replace(of_planted, alpha=0.0), planted)
    rounds = [one for epoch in epochs for one in epoch["rounds"]]
    assert [(one["layer"], len(one["groups"])) for one in rounds] == [("fc7", 1)]
    assert network.active == -1


@pytest.mark.parametrize("system", ["wide", "thin", "retrained", "shuffled"])
def test_the_other_systems_are_not_split(of_planted, planted, system):
    _, epochs = trained(replace(of_planted, system=system), planted)
    assert [epoch["rounds"] for epoch in epochs] == [[], []]


def test_there_are_no_more_branches_than_vgg_16_is_wide(of_planted, planted):
    """conv1_1 of ω = 32 may have two branches, as 2 · 32 are VGG-16's 64 filters."""
    settings = replace(of_planted, thinness=32, wide_thinness=32)
    network = build_network(settings)
    optimiser = build_optimiser(network, settings)
    branches = []
    for _ in LAYERS:
        network.affinity.affinity_TT.copy_((1 + torch.eye(3)) / 2)
        branches.append(len(branching_round(network, optimiser, settings)["groups"]))
    assert branches == [3] * 13 + [2, 2]


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_a_round_starts_new_averages_and_the_split_layers_anew(of_planted, planted, name):
    of_planted = replace(of_planted, optimiser=name)
    torch.manual_seed(0)  # an affinity by which the round makes three branches
    network = build_network(of_planted).train()
    optimiser = build_optimiser(network, of_planted)
    network(torch.randn(6, 3, 48, 48)).sum().backward()
    optimiser.step()
    network.affinity.add(torch.randn(6, 3), torch.zeros(6, 3, dtype=torch.bool))
    branching_round(network, optimiser, of_planted)
    assert network.affinity.weight == 0 and network.affinity.affinity_TT.abs().sum() == 0
    assert optimiser.param_groups[0]["params"] == list(network.parameters())
    branches = [branch[0].weight for branch in network.layers[-1]]
    assert len(branches) == 3
    below = optimiser.state[network.layers[-3][0][0].weight]  # conv5_3's
    start = {"adam": {"step": 0, "exp_avg": 0, "exp_avg_sq": 0},
             "adagrad": {"step": 0, "sum": pytest.approx(0.1)}}[name]
    assert below["step"] == 1 and below.keys() == start.keys()
    for weight in branches:
        for key, value in optimiser.state[weight].items():
            assert value.min() == value.max() == start[key]
            assert value.shape in (weight.shape, ())
    kept = [value.data_ptr() for weight in branches for value in optimiser.state[weight].values()]
    assert len(set(kept)) == len(kept)


def test_after_a_round_a_branch_steps_as_one_that_is_trained_from_here(of_planted, planted):
    """Adam's first step goes as far as its rate says, whatever came before."""
    torch.manual_seed(0)
    network = build_network(of_planted).train()
    optimiser = build_optimiser(network, of_planted)
    for scale in (100.0, 1.0):
        network(torch.randn(6, 3, 48, 48)).sum().mul(scale).backward()
        optimiser.step()
        optimiser.zero_grad()
    network.affinity.add(torch.randn(6, 3), torch.zeros(6, 3, dtype=torch.bool))
    branching_round(network, optimiser, of_planted)
    weights = [branch[0].weight for branch in network.layers[-1]]
    before = [weight.detach().clone() for weight in weights]
    network(torch.randn(6, 3, 48, 48)).sum().backward()
    optimiser.step()
    for weight, old in zip(weights, before, strict=True):
        assert (weight.detach() - old).abs().max() == pytest.approx(0.01, rel=0.02)


def test_right_answers_of_an_epochs_batches_are_counted_before_each_step(of_planted, planted):
    settings = replace(of_planted, learning_rate=1e-9, round_batches=99, epochs=1)
    _, [metrics] = trained(settings, planted)
    network, right = build_network(settings).train(), []
    get_images = image_getter(planted, torch.device("cpu"))
    for images, labels in random_batches(planted, get_images, settings, 0):
        with torch.no_grad():
            right.append((network(normalise_pixels(images)) > 0) == labels)
    expected = torch.cat(right).double().mean(0)
    assert list(metrics["train_accuracy"]) == list(planted.tasks)
    assert list(metrics["train_accuracy"].values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_copies_part_when_they_are_trained(of_planted, planted):
    network, _ = trained(of_planted, planted)
    weights = [branch[0].weight for branch in network.layers[-1]]
    assert not torch.equal(weights[0], weights[1])


# A run that is cut

@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("optimiser", ["adam", "adagrad"])
@pytest.mark.parametrize("round_batches", [3, 4, 5])
def test_a_run_that_is_cut_goes_on_to_the_same_network(
        of_planted, planted, tmp_path, optimiser, round_batches, scales):
    """After the first epoch the tree has branches, and the averages of a round are half done."""
    settings = replace(of_planted, optimiser=optimiser, round_batches=round_batches, epochs=3,
                       scales=scales, scale_rate_factor=3.0, ucr_every=3)
    path = tmp_path / "run.pt"
    for _ in range(2):  # it is cut twice
        trained(settings, planted, path, epochs=1 + path.exists())
    resumed, told = trained(settings, planted, path)
    unbroken, expected = trained(settings, planted)
    assert told == expected
    assert_same(resumed, unbroken)
    assert len(unbroken.layers[-1]) == 3


def test_a_finished_run_is_loaded_without_training(of_planted, planted, tmp_path, monkeypatch):
    first, told = trained(of_planted, planted, tmp_path / "run.pt")
    monkeypatch.setattr(adaptive_branching, "train_one_epoch", None)
    again, told_again = trained(of_planted, planted, tmp_path / "run.pt")
    assert told_again == told
    assert_same(again, first)


def test_one_seed_gives_one_result_and_another_another(of_planted, planted):
    one, again = trained(of_planted, planted)[1], trained(of_planted, planted)[1]
    assert one == again
    assert trained(replace(of_planted, seed=1), planted)[1] != one


def test_building_draws_nothing_from_the_global_generator(of_planted):
    state = torch.get_rng_state()
    assert_same(build_network(of_planted), build_network(of_planted))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_not_finite_stops(of_planted, planted, monkeypatch):
    monkeypatch.setattr(classification, "bce_losses",
                        lambda logits, labels: logits.mean(0) * float("nan"))
    with pytest.raises(ModlibError, match=r"loss of epoch 1 is not finite.*learning_rate"):
        trained(of_planted, planted)


# Settings

def test_every_setting_has_another_value_here():
    assert list(OTHER_VALUES) == list(DEFAULTS)
    assert not [name for name, value in OTHER_VALUES.items() if value == DEFAULTS[name]]


def test_a_network_is_as_wide_as_its_settings_say():
    assert [BranchingSettings(thinness=4, wide_thinness=8, **changes).omega for changes in (
        {}, {"filters": "random"}, {"filters": "all"}, {"system": "wide"})] == [4, 4, 8, 8]


@pytest.mark.parametrize("changes", [{"somp": False}, {"system": "wide"}])
def test_filters_are_of_a_network_that_starts_from_a_wide_one(changes):
    with pytest.raises(ModlibError, match="filters='random' needs a network that starts from a wi"):
        BranchingSettings(filters="random", **changes)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_run_name_changes_with_every_setting(name):
    assert (BranchingSettings(**{name: OTHER_VALUES[name]}).run_name("data").rpartition("-")[2]
            != BranchingSettings().run_name("data").rpartition("-")[2])


def test_a_record_of_settings_gives_the_settings_back():
    settings = BranchingSettings(**OTHER_VALUES | {"somp": True})
    assert BranchingSettings(**json.loads(json.dumps(settings.as_dict()))) == settings


def test_one_wide_run_serves_every_thin_one():
    settings = BranchingSettings(thinness=16, wide_thinness=24, seed=4)
    expected = replace(settings, system="wide")
    for changes in ({"system": "thin"}, {"alpha": 2.0}, {"system": "shuffled", "alpha": 3.0}):
        assert replace(settings, **changes).wide == expected
    assert expected.wide is None and replace(settings, somp=False).wide is None


def test_runs_with_scales_start_from_the_runs_without():
    plain = BranchingSettings(alpha=2.0)
    for system in ("thin", "branched", "retrained", "shuffled"):
        of_system = replace(plain, system=system)
        with_scales = replace(of_system, scales=True, scale_rate_factor=10.0, ucr_every=15)
        assert with_scales.wide == of_system.wide
        assert with_scales.trunk_from == of_system.trunk_from
        assert not with_scales.trunk_from.scales


def test_a_run_starts_from_the_tree_or_from_the_wide_network():
    branched = BranchingSettings(alpha=2.0)
    for system in ("retrained", "shuffled"):
        assert replace(branched, system=system).trunk_from == branched
    assert branched.trunk_from == branched.wide
    assert replace(branched, system="thin", somp=False).trunk_from is None


@pytest.mark.parametrize(("changes", "said"), [
    ({"system": "modulated"}, "value of system: 'modulated'"),
    ({"alpha": -1.0}, "alpha must be from 0"),
    ({"thinness": 0}, "thinness must be from 1"),
    ({"thinness": 96}, "wide_thinness must be at least thinness, 96; given 64"),
    ({"round_batches": 0}, "round_batches must be from 1"),
    ({"affinity_decay": 1.5}, r"affinity_decay must be from 0\.0 to 1\.0"),
    ({"somp": 1}, "somp must be true or false"),
    ({"gradient_clip": 0.0}, "gradient_clip must be from"),
])
def test_wrong_settings_are_refused_by_name(changes, said):
    with pytest.raises(ModlibError, match=said):
        BranchingSettings(**changes)
