"""The training loop against one that is written out, its checkpoints, rates, flips and counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from modlib import networks, training
from modlib.errors import ModlibError
from modlib.evaluation import embed_images, triplet_accuracy
from modlib.modulation import ChannelScale
from modlib.networks import build_network
from modlib.training import build_optimiser, flip_some, rate_multiplier, set_rates, total_loss, train
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
    """The first epoch of ``train``, step by step; returns every batch's task losses and the
    signs of the inner products of the task gradients."""
    rng = np.random.default_rng([settings.seed, 0])
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003)
    scales = [m.weight for m in network.modules() if isinstance(m, ChannelScale)]
    others = [p for p in network.parameters() if not any(p is scale for scale in scales)]
    make = {
        "adam": torch.optim.Adam,
        "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr, initial_accumulator_value=0.1),
    }[settings.optimiser]
    optimisers = [make(others, lr=settings.learning_rate)]
    if scales:
        optimisers.append(make(scales, lr=settings.learning_rate * settings.scale_rate_factor))
    batches = epoch_batches(
        data.labels_NT, data.indices("train"), settings.tasks, settings.triplets_per_task,
        settings.batches_per_epoch, settings.triplet_choice, rng)
    losses, signs = [], []
    network.train()
    for number, triplets in enumerate(batches):
        if number / len(batches) >= 0.7:
            for optimiser, factor in zip(optimisers, (1, settings.scale_rate_factor), strict=False):
                optimiser.param_groups[0]["lr"] = settings.learning_rate / 10 * factor
        indices = triplets.flatten()
        pixels = data.images_NCHW[indices].copy()
        if settings.horizontal_flip:
            for position in np.flatnonzero(rng.random(len(indices)) < 0.5):
                pixels[position] = pixels[position][:, :, ::-1].copy()
        task_losses = {"triplets": triplet_task_losses, "shared": shared_task_losses}[
            settings.batching](network, torch.from_numpy(pixels), data, indices, settings, generator)
        losses.append([loss.item() for loss in task_losses])
        if network.shared_parameters():
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
            positives, negatives = drawn.positive_TBS[task, anchor], drawn.negative_TBS[task, anchor]
            of_anchors.append(torch.stack([
                hinge(embeddings[anchor], embeddings[p], embeddings[n], settings.margin)
                for p, n in zip(positives, negatives, strict=True)]).mean())
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


@pytest.mark.parametrize("optimiser", ["adam", "adagrad"])
@pytest.mark.parametrize("system", ["fully_shared", "modulated", "independent"])
@pytest.mark.parametrize("batching", ["triplets", "shared"])
def test_an_epoch_is_the_plain_loop(float64, tiny, planted, batching, system, optimiser):
    settings = replace(
        tiny, batching=batching, system=system, optimiser=optimiser, epochs=1,
        batches_per_epoch=4, learning_rate=0.01)
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
