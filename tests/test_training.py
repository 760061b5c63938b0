"""The training loop against one that is written out, its steps, checkpoints and counts."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from modlib import aggregation, task_networks, training
from modlib.arrays import from_json
from modlib.batches import image_getter
from modlib.errors import ModlibError
from modlib.evaluation import embed_images, triplet_accuracy
from modlib.experiments import new_network
from modlib.gradients import UcrCounter
from modlib.modulation import ChannelScale
from modlib.networks import SYSTEMS, build_network
from modlib.settings import Settings
from modlib.training import stage_sizes, total_loss, train, training_step
from modlib.triplets import epoch_batches, fixed_triplets, triplets_in_batch

TRUNK = ("conv1", "block2", "block3", "block4", "block5", "fc")


def network_of(settings, seed=None):
    return new_network(settings if seed is None else replace(settings, seed=seed))


def trained(settings, data, checkpoint=None):
    """The trained network and its epochs' metrics, without the seconds."""
    network = network_of(settings)
    return network, without_seconds(train(network, data, settings, checkpoint))


def without_seconds(epochs):
    return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in epochs]


def assert_same_state(one, other):
    for (name, value), (_, expected) in zip(
            one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(value, expected), name


# The plain loop

@pytest.fixture
def float64(monkeypatch):
    """Networks compute in float64 after ``.double()``: rounding must not grow over the steps,
    as it does where Adam divides a gradient near 0 by its own size."""
    in_float32 = task_networks.normalise_pixels
    monkeypatch.setattr(
        task_networks, "normalise_pixels", lambda images: in_float32(images).double())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def plain_epoch(network, data, settings):
    """The first epoch of ``train``, step by step; returns every batch's task losses, and every
    probed batch's signs of the inner products of the task gradients."""
    rng = np.random.default_rng([settings.seed, 0])
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003)
    scales = [m.weight for m in network.modules() if isinstance(m, ChannelScale)]
    others = [p for p in network.parameters() if not any(p is scale for scale in scales)]
    make = {
        "adam": torch.optim.Adam,
        "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr, initial_accumulator_value=0.1),
    }[settings.optimiser]
    groups = [others, scales] if scales else [others]
    rates = [settings.learning_rate, settings.learning_rate * settings.scale_rate_factor]
    rates = rates[:len(groups)]
    optimisers = [make(group, lr=rate) for group, rate in zip(groups, rates, strict=True)]
    batches = epoch_batches(
        data.labels_NT, data.indices("train"), settings.tasks, settings.triplets_per_task,
        settings.batches_per_epoch, settings.triplet_choice, rng)
    losses, signs = [], []
    network.train()
    for number, triplets in enumerate(batches):
        if number / len(batches) >= 0.7:
            for optimiser, rate in zip(optimisers, rates, strict=True):
                optimiser.param_groups[0]["lr"] = rate / 10
        indices = triplets.flatten()
        pixels = data.images_NCHW[indices].copy()
        if settings.horizontal_flip:
            for position in np.flatnonzero(rng.random(len(indices)) < 0.5):
                pixels[position] = pixels[position][:, :, ::-1].copy()
        of_batch = {"triplets": triplet_task_losses, "shared": shared_task_losses}
        task_losses = of_batch[settings.batching](
            network, torch.from_numpy(pixels), data, indices, settings, generator)
        losses.append([loss.item() for loss in task_losses])
        if settings.ucr_every and number % settings.ucr_every == 0:
            signs.append(gradient_signs(task_losses, network.shared_parameters()))
        for optimiser in optimisers:
            optimiser.zero_grad()
        # Nothing shared: the sum gives each task the gradient of its own mean loss.
        count = 1 if settings.system in ("independent", "mask_only") else len(task_losses)
        (sum(task_losses) / count).backward()
        for optimiser in optimisers:
            optimiser.step()
    return losses, signs


def triplet_task_losses(network, images, data, indices, settings, generator):
    task_of_image = torch.arange(len(settings.tasks)).repeat_interleave(
        len(images) // len(settings.tasks))
    embeddings = network(images, task_of_image)
    hinges = [[] for _ in settings.tasks]
    for start in range(0, len(images), 3):
        anchor, positive, negative = embeddings[start:start + 3]
        hinges[task_of_image[start]].append(hinge(anchor, positive, negative, settings.margin))
    return [torch.stack(one).mean() for one in hinges]


def shared_task_losses(network, images, data, indices, settings, generator):
    labels = torch.from_numpy(data.labels_NT[indices])
    drawn = triplets_in_batch(
        labels, settings.samples_per_anchor, settings.triplet_choice, generator)
    losses = []
    for task, embeddings in enumerate(network.embed_all_tasks(images)):
        of_anchors = []
        for anchor in torch.nonzero(drawn.is_anchor_TB[task]).flatten():
            samples = zip(
                drawn.positive_TBS[task, anchor], drawn.negative_TBS[task, anchor], strict=True)
            of_anchors.append(torch.stack([
                hinge(embeddings[anchor], embeddings[positive], embeddings[negative],
                      settings.margin)
                for positive, negative in samples]).mean())
        losses.append(torch.stack(of_anchors).mean())
    return losses


def hinge(anchor, positive, negative, margin):
    return torch.relu(((anchor - positive) ** 2).sum() + margin - ((anchor - negative) ** 2).sum())


def gradient_signs(losses, parameters):
    flat = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        flat.append(torch.cat([g.flatten() for g in gradients]))
    pairs = [(i, j) for i in range(len(flat)) for j in range(i + 1, len(flat))]
    return [torch.dot(flat[i], flat[j]).sign().item() for i, j in pairs]


@pytest.mark.parametrize(("system", "batching", "optimiser"), [
    *[(system, *how) for system in ("fully_shared", "modulated", "independent")
      for how in (("triplets", "adagrad"), ("shared", "adam"), ("shared", "adagrad"))],
    ("csn", "triplets", "adagrad"), ("branches", "shared", "adam"),
    ("mask_only", "shared", "adagrad"), ("projection", "triplets", "adam")])
def test_an_epoch_is_the_plain_loop(float64, tiny, planted, batching, system, optimiser):
    settings = replace(
        tiny, batching=batching, system=system, optimiser=optimiser, epochs=1,
        batches_per_epoch=4, learning_rate=0.01, ucr_every=0)
    network, plain = network_of(settings).double(), network_of(settings).double()
    [metrics] = train(network, planted, settings)
    losses, _ = plain_epoch(plain, planted, settings)
    for (name, value), expected in zip(
            network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            value, expected, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
    np.testing.assert_allclose(
        list(metrics["task_losses"].values()), np.mean(losses, axis=0), rtol=1e-6)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_regularised_loss_is_the_mean_over_tasks_plus_lambda_times_eq_8(tiny):
    settings = replace(tiny, regulariser_weight=0.5, regulariser_beta=4.0)
    network = network_of(settings)
    with torch.no_grad():
        fc = network.modulation["fc"].weight  # all other scales stay 1
        fc[0, 0], fc[1, 0], fc[2, 0] = 1.0, 3.0, 2.5
    # |W_0 − W_1|² + β − |W_0 − W_2|² = 4 + 4 − 2.25
    losses_T = torch.tensor([0.1, 0.2, 0.6])
    assert total_loss(network, losses_T, settings).item() == pytest.approx(0.3 + 0.5 * 5.75)


def test_the_loss_without_regulariser_is_the_mean_over_tasks(tiny):
    losses_T = torch.tensor([0.1, 0.2, 0.6])
    assert total_loss(network_of(tiny), losses_T, tiny).item() == pytest.approx(0.3)


@pytest.mark.parametrize("system", ["independent", "mask_only"])
def test_where_nothing_is_shared_the_sum_is_minimised(tiny, system):
    settings = replace(tiny, system=system)
    losses_T = torch.tensor([0.1, 0.2, 0.6])
    assert total_loss(network_of(settings), losses_T, settings).item() == pytest.approx(0.9)


def test_the_regulariser_changes_what_is_learnt(tiny, planted):
    plain, _ = trained(tiny, planted)
    held_apart, _ = trained(
        replace(tiny, regulariser_weight=1.0, regulariser_beta=10.0), planted)
    near, far = ([(n.task_scales()[0] - n.task_scales()[other]).square().sum().item()
                  for n in (plain, held_apart)] for other in (1, 2))
    assert far[1] - near[1] > far[0] - near[0] + 0.1


# Every system


@pytest.mark.parametrize("batching", ["shared", "triplets"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_can_be_set_and_takes_a_step(tiny, planted, system, batching):
    settings = replace(tiny, system=system, batching=batching, margin=4.0)
    network = network_of(settings)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # low rank starts with one of its two factors at 0: the other waits a step
        losses_T = training_step(
            network, optimiser, *batch_of(settings, planted), settings, in_batch())
    assert losses_T.shape == (3,)
    assert losses_T.isfinite().all() and (losses_T > 0).all()
    assert not losses_T.requires_grad
    for name, value in network.named_parameters():
        assert value.isfinite().all()
        assert torch.equal(value, before[name]) is not value.requires_grad, name


def test_every_system_has_a_name_in_settings_and_no_other_name_is_there():
    for system in SYSTEMS:
        assert Settings(system=system).system == system
    with pytest.raises(ModlibError) as refused:
        Settings(system="no such system")
    assert str(refused.value).rstrip(".").endswith(", ".join(SYSTEMS))


def test_training_masks_alone_leaves_the_trunk_as_it_was_to_the_last_bit(tiny, planted):
    settings = replace(tiny, system="mask_only", learning_rate=0.01)
    network, _ = trained(settings, planted)
    new = network_of(settings)
    assert_same_state(network.stages, new.stages)
    for name, scale in network.modulation.items():
        assert not torch.equal(scale.weight, new.modulation[name].weight)


# One step


def batch_of(settings, data):
    """A batch's images, in the order of their triplets, and labels."""
    rng = np.random.default_rng(4)
    indices = epoch_batches(data.labels_NT, data.indices("train"), settings.tasks,
                            settings.triplets_per_task, 1, "holders", rng).flatten()
    return torch.from_numpy(data.images_NCHW[indices]), torch.from_numpy(data.labels_NT[indices])


def in_batch():
    return torch.Generator().manual_seed(5)


def changes_of_a_step(settings, batch, counter=None, network=None):
    """What a step of length 1 along the gradient subtracts from every parameter, by its name."""
    network = network or network_of(settings)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    training_step(network, optimiser, *batch, settings, in_batch(), counter)
    return {name: before[name] - value.detach() for name, value in network.named_parameters()}


def plain_gradients(settings, batch, loss_of):
    """The gradient of one number, ``loss_of(network, task losses, images)``, by parameter."""
    network = network_of(settings)
    losses_T = training.batch_task_losses(network, *batch, settings, in_batch())
    loss_of(network, losses_T, batch[0]).backward()
    return {name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in network.named_parameters()}


def gradients_by_task(settings, batch):
    return [plain_gradients(settings, batch, lambda _, losses_T, __, t=t: losses_T[t])
            for t in range(len(settings.tasks))]


def assert_close_together(given, expected, names, tolerance=1e-4):
    """Equal up to rounding, next to the longest expected gradient of these parameters."""
    assert names
    longest = max(expected[name].abs().max() for name in names)
    assert longest > 0
    for name in names:
        torch.testing.assert_close(
            given[name], expected[name], rtol=0, atol=float(tolerance * longest),
            msg=lambda text, name=name: f"{name}: {text}")


def min_norm_point(one, other):
    """The shortest vector between two (Sener and Koltun, 2018, Eq. 4 and Fig. 1)."""
    share = float(torch.dot(other - one, other) / (one - other).square().sum())
    share = min(max(share, 0.0), 1.0)
    return share * one + (1 - share) * other


def without_conflict(one, other):
    """Yu et al., 2020, Algorithm 1: each gradient less its part against the other."""
    product = torch.dot(one, other)
    if product >= 0:
        return one + other
    return (one - product / other.square().sum() * other
            + other - product / one.square().sum() * one)


SHARED_STEP = {  # for two tasks UPGrad projects as PCGrad does
    "mean": lambda one, other: (one + other) / 2,
    "mgda": min_norm_point,
    "pcgrad": lambda one, other: without_conflict(one, other) / 2,
    "upgrad": lambda one, other: without_conflict(one, other) / 2,
}


@pytest.mark.parametrize("swapped", [0, 3])
@pytest.mark.parametrize("system", ["fully_shared", "modulated", "csn", "branches", "projection"])
@pytest.mark.parametrize("aggregation", SHARED_STEP)
def test_a_step_moves_what_is_shared_by_the_aggregated_and_the_rest_by_the_mean_gradient(
        tiny, planted, aggregation, system, swapped):
    """The tasks have three of four triplets in common; where positive and negative are swapped
    in these for the second task, the gradients conflict."""
    triplets = torch.arange(15).reshape(5, 3)
    triplets, other_triplets = triplets[:4], triplets[[0, 1, 2, 4]]
    other_triplets[:swapped] = other_triplets[:swapped, [0, 2, 1]]
    order = torch.cat([triplets, other_triplets]).flatten()
    batch = torch.from_numpy(planted.images_NCHW[order]), torch.zeros(24, 2, dtype=torch.bool)
    settings = replace(tiny, tasks=("Smiling", "Young"), system=system, aggregation=aggregation,
                       mask_initialisation="normal", batching="triplets", batch_size=24, margin=4.0)
    of_task = gradients_by_task(settings, batch)
    trunk = [name for name in of_task[0] if name.startswith("stages.")]
    own = [name for name in of_task[0] if name.startswith("modulation.")]
    one, other = (torch.cat([g[name].flatten() for name in trunk]) for g in of_task)
    assert (torch.dot(one, other) < 0) == (swapped == 3)
    step_P = SHARED_STEP[aggregation](one, other)
    sizes = [of_task[0][name].numel() for name in trunk]
    expected = {name: part.view_as(of_task[0][name])
                for name, part in zip(trunk, step_P.split(sizes), strict=True)}
    expected |= {name: (of_task[0][name] + of_task[1][name]) / 2 for name in own}
    given = changes_of_a_step(settings, batch)
    # UPGrad's solver adds 1e-4 to the Gramian's diagonal.
    assert_close_together(given, expected, trunk, 1e-3 if aggregation == "upgrad" else 1e-4)
    if own:
        assert_close_together(given, expected, own)


@pytest.mark.parametrize("aggregation", SHARED_STEP)
def test_the_regulariser_moves_the_scales_as_eq_8_says_however_gradients_are_aggregated(
        tiny, planted, aggregation):
    settings = replace(tiny, aggregation=aggregation)
    batch, changes = batch_of(settings, planted), []
    for weight in (0.0, 0.5):
        network = network_of(settings)
        with torch.no_grad():
            fc = network.modulation["fc"].weight  # all other scales stay 1
            fc[0, 0], fc[1, 0], fc[2, 0] = 1.0, 3.0, 2.5
        changes.append(changes_of_a_step(
            replace(settings, regulariser_weight=weight, regulariser_beta=4.0), batch,
            network=network))
    expected = {name: torch.zeros_like(change) for name, change in changes[0].items()}
    # The gradient of ½(|W_0 − W_1|² + β − |W_0 − W_2|²): W_2 − W_1, W_1 − W_0 and W_0 − W_2.
    expected["modulation.fc.weight"][:, 0] = torch.tensor([-0.5, 2.0, -1.5])
    for name, change in changes[1].items():
        torch.testing.assert_close(change - changes[0][name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["mean", "mgda"])
def test_a_counted_step_counts_its_gradients_signs_and_moves_as_any_other(
        tiny, planted, aggregation):
    settings = replace(tiny, aggregation=aggregation)
    batch, counter = batch_of(settings, planted), UcrCounter(3)
    counted = changes_of_a_step(settings, batch, counter)
    for name, change in changes_of_a_step(settings, batch).items():
        assert torch.equal(counted[name], change), name
    assert counter.batches == 1
    flat = [torch.cat([g[name].flatten() for name in g if name.startswith("stages.")])
            for g in gradients_by_task(settings, batch)]
    assert (counter.positive_TT - counter.negative_TT).tolist() == [
        [int(torch.dot(a, b).sign()) for b in flat] for a in flat]


@pytest.mark.parametrize("system", ["fully_shared", "modulated", "low_rank"])
def test_a_counted_step_keeps_the_inner_products_over_each_stages_parameters(
        tiny, planted, system):
    settings = replace(tiny, system=system, margin=4.0)
    batch, counter = batch_of(settings, planted), UcrCounter(3)
    changes_of_a_step(settings, batch, counter)
    [stages_STT] = counter.stages
    of_task = gradients_by_task(settings, batch)
    for stage, given_TT in zip(TRUNK, stages_STT, strict=True):
        flat = [torch.cat([g[name].flatten() for name in g if name.startswith(f"stages.{stage}.")])
                for g in of_task]
        expected_TT = torch.tensor([[torch.dot(a, b) for b in flat] for a in flat])
        assert expected_TT.diagonal().min() > 0
        assert (given_TT - expected_TT).abs().max() <= 1e-4 * expected_TT.abs().max(), stage


def test_pcgrads_orders_are_drawn_from_the_batchs_generator(tiny, planted, monkeypatch):
    settings, states = replace(tiny, aggregation="pcgrad"), []
    aggregate = aggregation.aggregate_gradients

    def look(name, gradients_TP, gramian_TT, shared, generator):
        states.append(generator.get_state())
        told.append(aggregate(name, gradients_TP, gramian_TT, shared, generator))
        states.append(generator.get_state())
        return told[-1]

    told = []
    monkeypatch.setattr(aggregation, "aggregate_gradients", look)
    _, [epoch] = trained(replace(settings, epochs=1), planted)
    assert len({tuple(state.tolist()) for state in states}) == 4  # before and after each step
    mean_T = torch.stack(told).mean(0)
    assert list(epoch["task_weights"].values()) == pytest.approx(mean_T.tolist())
    assert "task_weights" not in trained(replace(tiny, epochs=1), planted)[1][0]


def test_the_full_networks_stages_have_these_many_shared_parameters():
    """Filters of 3 by 3 without bias, and two numbers a channel of each batch norm."""
    def block(c, d):
        return 9 * c * d + 2 * 9 * d * d + 3 * 2 * d

    assert stage_sizes(build_network("modulated", ("Smiling", "Young"))) == {
        "conv1": 9 * 3 * 32 + 2 * 32, "block2": block(32, 64), "block3": block(64, 128),
        "block4": block(128, 128), "block5": block(128, 128), "fc": 7 * 7 * 128 * 256 + 2 * 256}


# The penalties of CSN


@pytest.mark.parametrize("batching", ["shared", "triplets"])
@pytest.mark.parametrize(("length", "sparsity"), [(0.5, 0.0), (0.0, 0.25), (0.5, 0.25)])
def test_a_step_of_csn_minimises_the_loss_plus_its_penalties(
        tiny, planted, batching, length, sparsity):
    settings = replace(tiny, system="csn", batching=batching, embedding_norm_weight=length,
                       mask_norm_weight=sparsity)

    def plain_loss(network, losses_T, images):
        x = task_networks.normalise_pixels(images)
        for stage in network.stages.values():
            x = stage(x)
        squares = sum(number ** 2 for image in x for number in image)
        masks = sum(torch.relu(number) for mask in network.modulation["fc"].weight
                    for number in mask) / 3
        return (sum(losses_T) / 3 + length * squares.sqrt() / len(images) ** 0.5
                + sparsity * masks)

    batch = batch_of(settings, planted)
    expected = plain_gradients(settings, batch, plain_loss)
    given = changes_of_a_step(settings, batch)
    assert_close_together(given, expected, list(expected))
    unpenalised = changes_of_a_step(
        replace(settings, embedding_norm_weight=0.0, mask_norm_weight=0.0), batch)
    trunk = [name for name in given if name.startswith("stages.")]
    assert all(torch.equal(given[n], unpenalised[n]) for n in trunk) is (length == 0)


@pytest.mark.parametrize("batching", ["shared", "triplets"])
def test_penalties_leave_no_hook_behind_even_when_the_step_fails(
        tiny, planted, batching, monkeypatch):
    settings = replace(tiny, system="csn", batching=batching, embedding_norm_weight=0.5)
    network = network_of(settings)

    def hooks():
        return [hook for module in network.modules()
                for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
                for hook in getattr(module, kind)]

    batch = batch_of(settings, planted)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "batch_task_losses", interrupted)
        changes_of_a_step(settings, batch, network=network)
    assert hooks() == []
    changes_of_a_step(settings, batch, network=network)
    assert hooks() == []


def interrupted(*_):
    raise KeyboardInterrupt


# Metrics of an epoch

def test_an_epoch_tells_all_that_a_record_promises(tiny, planted):
    _, epochs = trained(tiny, planted)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    for epoch in epochs:
        assert set(epoch["task_losses"]) == set(epoch["valid_accuracy"]) == set(tiny.tasks)
        assert epoch["loss"] == pytest.approx(np.mean(list(epoch["task_losses"].values())))
        assert epoch["images"] == 2 * 18


def test_every_epoch_says_how_long_it_took(tiny, planted, monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr("modlib.epochs.time.perf_counter", lambda: next(clock))
    assert [e["seconds"] for e in train(network_of(tiny), planted, tiny)] == [2.5, 1.0]


def test_validation_accuracy_is_that_of_the_network_as_it_stands(tiny, planted):
    network, epochs = trained(tiny, planted)
    valid = planted.indices("valid")
    embeddings = embed_images(network, image_getter(planted, torch.device("cpu")),
                              torch.from_numpy(valid))
    triplets = fixed_triplets(planted.labels_NT, valid, planted.tasks, 40, seed=1)
    accuracy = triplet_accuracy(embeddings, torch.from_numpy(triplets - valid[0]))
    assert list(epochs[-1]["valid_accuracy"].values()) == accuracy.tolist()


def test_training_learns_the_planted_attributes(tiny, planted):
    _, epochs = trained(replace(tiny, epochs=4, batches_per_epoch=8, ucr_every=0), planted)
    assert epochs[-1]["loss"] < 0.7 * epochs[0]["loss"]


def test_training_learns_the_planted_categories(tiny, categorised):
    settings = replace(tiny, epochs=4, batches_per_epoch=10, ucr_every=0, learning_rate=4e-3)
    _, epochs = trained(settings, categorised)
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]


def test_training_on_given_triplets_needs_no_label(tiny, given):
    settings = replace(tiny, epochs=4, batches_per_epoch=8, ucr_every=0, batching="triplets")
    network, epochs = trained(settings, given)
    assert epochs[-1]["loss"] < 0.7 * epochs[0]["loss"]
    valid = given.indices("valid")
    embeddings = embed_images(network, image_getter(given, torch.device("cpu")),
                              torch.from_numpy(valid))
    accuracy = triplet_accuracy(
        embeddings, torch.from_numpy(given.triplets["valid"] - valid[0]))
    assert list(epochs[-1]["valid_accuracy"].values()) == accuracy.tolist()


def test_shared_batching_without_labels_is_refused_with_the_tasks_names(tiny, given, categorised):
    with pytest.raises(ModlibError, match=(
            r"batching='shared'.*for Smiling, Mouth_Slightly_Open, Young; use batching='trip")):
        next(train(network_of(tiny), given, tiny))
    labels_NT = categorised.labels_NT.copy()
    labels_NT[categorised.indices("train"), 2] = -1
    with pytest.raises(ModlibError, match="has one for Young; use"):
        next(train(network_of(tiny), replace(given, labels_NT=labels_NT), tiny))


def test_training_puts_the_network_into_train_mode(tiny, planted):
    network, (expected, _) = network_of(tiny).eval(), trained(tiny, planted)
    list(train(network, planted, tiny))
    assert_same_state(network, expected)


def test_an_epoch_lasts_as_long_as_the_first_tasks_holders(tiny, planted):
    _, [epoch] = trained(replace(tiny, epochs=1, batches_per_epoch=None), planted)
    holders = planted.labels_NT[planted.indices("train"), 0].sum()
    assert epoch["images"] == holders // 2 * 18


# Update compliance ratio

def test_ucr_counts_add_up_to_the_probed_batches(tiny, planted):
    _, epochs = trained(replace(tiny, batches_per_epoch=4, ucr_every=3), planted)
    for epoch in epochs:
        assert epoch["ucr_batches"] == 2  # batches 0 and 3
        assert len(epoch["ucr"]) == 3
        for pair in epoch["ucr"]:
            assert pair["positive"] + pair["negative"] + pair["zero"] == 2


def test_an_epoch_counts_every_stage_of_the_trunk_apart(tiny, planted):
    _, epochs = trained(replace(tiny, batches_per_epoch=4, ucr_every=3), planted)
    for epoch in epochs:
        assert set(epoch["ucr_stages"]) == {"stages", "counts"}
        assert epoch["ucr_stages"]["stages"] == list(TRUNK)
        counts_2STT = from_json(epoch["ucr_stages"]["counts"])
        assert (counts_2STT.shape, counts_2STT.dtype) == ((2, 6, 3, 3), np.int32)
        assert counts_2STT.min() == 0
        assert counts_2STT.sum(0).max() == epoch["ucr_batches"] == 2
        assert np.array_equal(counts_2STT, counts_2STT.swapaxes(2, 3))
        positive_STT, negative_STT = counts_2STT
        for task in range(3):  # no gradient is against itself
            assert (positive_STT[:, task, task] == 2).all()
            assert (negative_STT[:, task, task] == 0).all()


@pytest.mark.parametrize("changes", [
    {"ucr_every": 0}, {"system": "independent"}, {"system": "mask_only"}])
def test_without_probes_there_are_no_counts_by_stage(tiny, planted, changes):
    _, epochs = trained(replace(tiny, **changes), planted)
    assert not any("ucr_stages" in epoch for epoch in epochs)


def test_ucr_counts_are_the_plain_loops_signs(float64, tiny, planted):
    settings = replace(tiny, epochs=1, batches_per_epoch=4, ucr_every=1)
    [epoch] = train(network_of(settings).double(), planted, settings)
    _, signs = plain_epoch(network_of(settings).double(), planted, settings)
    assert [pair["tasks"] for pair in epoch["ucr"]] == [
        ["Smiling", "Mouth_Slightly_Open"], ["Smiling", "Young"],
        ["Mouth_Slightly_Open", "Young"]]
    for pair, of_pair in zip(epoch["ucr"], np.transpose(signs), strict=True):
        assert pair["positive"] == (of_pair > 0).sum()
        assert pair["negative"] == (of_pair < 0).sum()


@pytest.mark.parametrize("changes", [
    {"precision": "float32"}, {"precision": "bfloat16"}, {"aggregation": "pcgrad"}])
def test_probing_does_not_change_what_is_learnt(tiny, planted, changes):
    often, _ = trained(replace(tiny, ucr_every=1, **changes), planted)
    never, epochs = trained(replace(tiny, ucr_every=0, **changes), planted)
    assert_same_state(often, never)
    assert [(epoch["ucr"], epoch["ucr_batches"]) for epoch in epochs] == [([], 0)] * 2


@pytest.mark.parametrize("system", ["independent", "mask_only"])
def test_where_nothing_is_shared_there_is_no_ucr(tiny, planted, system):
    _, epochs = trained(replace(tiny, system=system, epochs=1), planted)
    assert (epochs[0]["ucr"], epochs[0]["ucr_batches"]) == ([], 0)


# The same again, and resuming

def test_the_same_settings_give_the_same_to_the_last_bit(tiny, planted):
    (one, epochs), (other, epochs_again) = trained(tiny, planted), trained(tiny, planted)
    assert_same_state(one, other)
    assert epochs == epochs_again


@pytest.mark.parametrize("changes", [
    {}, {"optimiser": "adagrad", "system": "independent"},
    {"precision": "bfloat16", "batching": "triplets", "schedule": "cosine"},
    {"aggregation": "pcgrad"}, {"system": "mask_only"},
    {"system": "csn", "mask_initialisation": "normal", "embedding_norm_weight": 0.1,
     "mask_norm_weight": 0.1, "batching": "triplets"}])
def test_a_run_resumed_after_any_epoch_is_the_unbroken_run_to_the_last_bit(
        tiny, planted, tmp_path, changes):
    settings = replace(tiny, epochs=3, **changes)
    unbroken, epochs = trained(settings, planted)
    whole = train(network_of(settings), planted, settings, tmp_path / "run.pt")
    for done, _ in enumerate(whole, start=1):
        shutil.copy(tmp_path / "run.pt", tmp_path / f"after_{done}.pt")
    for done in (1, 2, 3):
        resumed = network_of(settings, seed=99)  # all that it is must come from the checkpoint
        again = train(resumed, planted, settings, tmp_path / f"after_{done}.pt")
        assert without_seconds(again) == epochs
        assert_same_state(resumed, unbroken)


def test_finished_epochs_are_not_trained_again(tiny, planted, tmp_path, monkeypatch):
    list(train(network_of(tiny), planted, tiny, tmp_path / "run.pt"))
    monkeypatch.setattr(training, "train_one_epoch", None)
    assert len(list(train(network_of(tiny), planted, tiny, tmp_path / "run.pt"))) == 2


@pytest.mark.parametrize("changes", [{"seed": 1}, {"epochs": 3}])
def test_a_checkpoint_of_other_settings_is_refused_by_name(tiny, planted, tmp_path, changes):
    list(train(network_of(tiny), planted, replace(tiny, epochs=2), tmp_path / "run.pt"))
    other = replace(tiny, **changes)
    with pytest.raises(ModlibError) as caught:
        list(train(network_of(other), planted, other, tmp_path / "run.pt"))
    for part in ("run.pt", tiny.run_name(planted.fingerprint), other.run_name(planted.fingerprint)):
        assert part in str(caught.value)


def test_a_checkpoint_of_other_data_is_refused_by_name(tiny, planted, tmp_path):
    list(train(network_of(tiny), planted, tiny, tmp_path / "run.pt"))
    with pytest.raises(ModlibError, match="belongs to"):
        list(train(network_of(tiny), replace(planted, fingerprint="other"), tiny,
                   tmp_path / "run.pt"))


def test_a_checkpoint_cut_short_while_writing_leaves_the_one_before(
        tiny, planted, tmp_path, monkeypatch):
    unbroken, epochs = trained(tiny, planted)
    run = train(network_of(tiny), planted, tiny, tmp_path / "run.pt")
    next(run)

    def torn_save(state, file):
        file.write(b"half a check")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch, "save", torn_save)
        next(run)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    resumed, epochs_resumed = trained(tiny, planted, tmp_path / "run.pt")
    assert epochs_resumed == epochs
    assert_same_state(resumed, unbroken)


def test_a_torn_temporary_file_is_not_taken_for_a_checkpoint(tiny, planted, tmp_path):
    (tmp_path / "run.pt.17.tmp").write_bytes(b"half a check")  # what SIGKILL may leave
    _, epochs = trained(tiny, planted, tmp_path / "run.pt")
    assert trained(tiny, planted, tmp_path / "run.pt")[1] == epochs


@pytest.mark.parametrize("length", [0, 3000])
def test_a_checkpoint_that_cannot_be_read_is_named(tiny, planted, tmp_path, length):
    path = tmp_path / "run.pt"
    list(train(network_of(tiny), planted, replace(tiny, epochs=1), path))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModlibError, match=r"run\.pt"):
        list(train(network_of(tiny), planted, replace(tiny, epochs=1), path))


@pytest.mark.parametrize(("call", "said"), [  # calls 3 and 4 are the second epoch's two batches
    pytest.param(3, "loss of epoch 2 is not finite", id="in a probed batch"),
    pytest.param(4, "loss of epoch 2 is not finite", id="in another batch")])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_earlier_epochs(
        tiny, planted, tmp_path, monkeypatch, call, said):
    finite = training.batch_task_losses
    calls = []

    def broken_in_the_second_epoch(*arguments):
        calls.append(1)
        return finite(*arguments) * (math.nan if len(calls) == call else 1)

    unbroken, epochs = trained(tiny, planted)
    with monkeypatch.context() as patched:
        patched.setattr(training, "batch_task_losses", broken_in_the_second_epoch)
        run = train(network_of(tiny), planted, tiny, tmp_path / "run.pt")
        next(run)
        with pytest.raises(ModlibError, match=f"{said}.*learning_rate"):
            next(run)
    resumed, epochs_resumed = trained(tiny, planted, tmp_path / "run.pt")
    assert epochs_resumed == epochs
    assert_same_state(resumed, unbroken)


# Learning rates

def test_scales_with_rate_factor_0_stay_1(tiny, planted):
    network, _ = trained(replace(tiny, scale_rate_factor=0.0), planted)
    assert torch.equal(network.task_scales(), torch.ones_like(network.task_scales()))


# Precision

@pytest.mark.parametrize("batching", ["shared", "triplets"])
def test_bfloat16_trains_float32_weights(tiny, planted, batching):
    settings = replace(tiny, precision="bfloat16", batching=batching)
    network, epochs = trained(settings, planted)
    _, in_float32 = trained(replace(settings, precision="float32"), planted)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert epochs[0]["loss"] == pytest.approx(in_float32[0]["loss"], rel=0.2)
    assert epochs[0]["loss"] != in_float32[0]["loss"]
