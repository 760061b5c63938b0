"""The training loop against one that is written out, its checkpoints, rates, flips and counts."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from modlib import networks, training
from modlib.errors import ModlibError
from modlib.evaluation import embed_images, triplet_accuracy
from modlib.modulation import ChannelScale
from modlib.networks import build_network
from modlib.training import (
    build_optimiser,
    draw_batches,
    flip_some,
    image_getter,
    total_loss,
    train,
)
from modlib.triplets import epoch_batches, fixed_triplets, triplets_in_batch


def network_of(settings, seed=None):
    return build_network(
        settings.system, settings.tasks, settings.image_size, settings.width,
        settings.modulate_from, settings.embedding_size, settings.bn_decay,
        settings.seed if seed is None else seed)


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
    in_float32 = networks.normalise_pixels
    monkeypatch.setattr(networks, "normalise_pixels", lambda images: in_float32(images).double())
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
        # Independent networks: the sum gives each the gradient of its own mean loss.
        count = 1 if settings.system == "independent" else len(task_losses)
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


@pytest.mark.parametrize("system", ["fully_shared", "modulated", "independent"])
@pytest.mark.parametrize(("batching", "optimiser"), [
    ("triplets", "adagrad"), ("shared", "adam"), ("shared", "adagrad")])
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


def test_independent_networks_minimise_the_sum(tiny):
    settings = replace(tiny, system="independent")
    losses_T = torch.tensor([0.1, 0.2, 0.6])
    assert total_loss(network_of(settings), losses_T, settings).item() == pytest.approx(0.9)


def test_the_regulariser_changes_what_is_learnt(tiny, planted):
    plain, _ = trained(tiny, planted)
    held_apart, _ = trained(
        replace(tiny, regulariser_weight=1.0, regulariser_beta=10.0), planted)
    near, far = ([(n.task_scales()[0] - n.task_scales()[other]).square().sum().item()
                  for n in (plain, held_apart)] for other in (1, 2))
    assert far[1] - near[1] > far[0] - near[0] + 0.1


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
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_probing_does_not_change_what_is_learnt(tiny, planted, precision):
    often, _ = trained(replace(tiny, ucr_every=1, precision=precision), planted)
    never, epochs = trained(replace(tiny, ucr_every=0, precision=precision), planted)
    assert_same_state(often, never)
    assert [(epoch["ucr"], epoch["ucr_batches"]) for epoch in epochs] == [([], 0)] * 2


def test_independent_networks_have_no_ucr(tiny, planted):
    _, epochs = trained(replace(tiny, system="independent", epochs=1), planted)
    assert (epochs[0]["ucr"], epochs[0]["ucr_batches"]) == ([], 0)


# The same again, and resuming

def test_the_same_settings_give_the_same_to_the_last_bit(tiny, planted):
    (one, epochs), (other, epochs_again) = trained(tiny, planted), trained(tiny, planted)
    assert_same_state(one, other)
    assert epochs == epochs_again


def drawn(data, settings, epoch):
    """The images of an epoch, and the state that its in-batch triplets are drawn from."""
    batches = list(draw_batches(data, image_getter(data, torch.device("cpu")), settings, epoch))
    return torch.stack([images for images, _, _ in batches]), batches[0][2].get_state()


def test_an_epochs_batches_can_be_drawn_again(tiny, planted):
    for one, again in zip(drawn(planted, tiny, 3), drawn(planted, tiny, 3), strict=True):
        assert torch.equal(one, again)


def test_every_epoch_draws_anew(tiny, planted):
    for one, other in zip(drawn(planted, tiny, 0), drawn(planted, tiny, 1), strict=True):
        assert not torch.equal(one, other)


def test_another_seed_draws_other_batches(tiny, planted):
    other_seed = replace(tiny, seed=1)
    for one, other in zip(drawn(planted, tiny, 0), drawn(planted, other_seed, 0), strict=True):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("changes", [
    {}, {"optimiser": "adagrad", "system": "independent"},
    {"precision": "bfloat16", "batching": "triplets", "schedule": "cosine"}])
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
    pytest.param(3, "gradient is not finite", id="in a probed batch"),
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


def test_the_scales_and_only_they_have_their_own_rate(tiny):
    network = network_of(tiny)
    others, scales = build_optimiser(network, tiny).param_groups
    assert {id(p) for p in scales["params"]} == {id(p) for p in network.task_parameters()}
    assert {id(p) for p in others["params"]} == {id(p) for p in network.shared_parameters()}


def test_scales_with_rate_factor_0_stay_1(tiny, planted):
    network, _ = trained(replace(tiny, scale_rate_factor=0.0), planted)
    assert torch.equal(network.task_scales(), torch.ones_like(network.task_scales()))


# Images

def test_pixels_come_in_the_order_asked_for(planted):
    images = image_getter(planted, torch.device("cpu"))(torch.tensor([5, 2, 5]))
    assert np.array_equal(images.numpy(), planted.images_NCHW[[5, 2, 5]])


def test_a_flipped_image_is_its_mirror_and_the_others_stay(planted):
    images = torch.from_numpy(planted.images_NCHW.copy())
    flipped = flip_some(images, np.random.default_rng(0))
    stayed = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)]
    assert [a != b for a, b in zip(stayed, mirrored, strict=True)] == [True] * 90
    assert 30 < sum(mirrored) < 60


def test_flips_depend_on_the_random_state_alone(planted):
    images = torch.from_numpy(planted.images_NCHW.copy())
    first, again, other = (flip_some(images, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_flipped_only_when_asked_for(tiny, planted, monkeypatch, flip):
    flipped = []
    monkeypatch.setattr(
        training, "flip_some", lambda images, rng: flipped.append(len(images)) or images)
    trained(replace(tiny, epochs=1, horizontal_flip=flip), planted)
    assert flipped == ([18] * 2 if flip else [])


@pytest.mark.parametrize("batching", ["shared", "triplets"])
def test_bfloat16_trains_float32_weights(tiny, planted, batching):
    settings = replace(tiny, precision="bfloat16", batching=batching)
    network, epochs = trained(settings, planted)
    _, in_float32 = trained(replace(settings, precision="float32"), planted)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert epochs[0]["loss"] == pytest.approx(in_float32[0]["loss"], rel=0.2)
    assert epochs[0]["loss"] != in_float32[0]["loss"]
