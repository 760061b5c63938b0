"""Every probe against plain backward passes, a task at a time; nothing is left of the probing."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from slow_networks import small
from torch import Tensor, nn
from torch.nn.functional import normalize

from modlib import probes
from modlib.arrays import from_json
from modlib.batches import draw_batches, image_getter
from modlib.experiments import run, trained_network
from modlib.kept_runs import checkpoint_path, record_path
from modlib.probes import DRAWN, FROZEN, JOINT, OWN, TRUNK, probe_modes
from modlib.results import comparable, read_record
from modlib.triplets import triplets_in_batch
from modlib.trunk import normalise_pixels

CPU = torch.device("cpu")
MODES = (JOINT, FROZEN, DRAWN, OWN, TRUNK)
PROBES = 4


@pytest.fixture
def settings(tiny):
    return replace(tiny, final_probes=PROBES, margin=1.0)  # few triplets are right by so much


def network_for(settings, system="modulated"):
    """Small, and with batch statistics that are not those of the images."""
    return small(system, settings.tasks, width=settings.width)


def probed(network, planted, settings):
    return probe_modes(network, planted, image_getter(planted, CPU), settings)


# Plain references


def copy_of(network, settings, training: bool) -> nn.Module:
    """A fresh one for every pass: no pass sees the averages that another one moved."""
    fresh = network_for(settings, "modulated" if network.modulation else "fully_shared")
    fresh.load_state_dict(network.state_dict())
    return fresh.train(training)


def hinge(embeddings_BD: Tensor, anchor, positive, negative, margin: float) -> Tensor:
    """Of one triplet, or of several with one anchor."""
    def distance(one, other):
        return (embeddings_BD[one] - embeddings_BD[other]).square().sum(-1)

    return torch.relu(distance(anchor, positive) + margin - distance(anchor, negative))


def joint_losses(embeddings_TBD: Tensor, triplets, settings) -> list[Tensor]:
    """Over the samples of an anchor, then over the anchors of a task."""
    losses = []
    for task, embeddings_BD in enumerate(embeddings_TBD):
        of_anchors = [
            hinge(embeddings_BD, anchor, triplets.positive_TBS[task, anchor],
                  triplets.negative_TBS[task, anchor], settings.margin).mean()
            for anchor in triplets.is_anchor_TB[task].nonzero().flatten().tolist()]
        losses.append(torch.stack(of_anchors).mean())
    return losses


def inner_products(gradients: list[Tensor]) -> np.ndarray:
    """None of them may be so near 0 that rounding could decide its sign, but for gradients of 0."""
    table = np.array([[float(one @ other) for other in gradients] for one in gradients])
    lengths = np.sqrt(np.outer(table.diagonal(), table.diagonal()))
    assert np.abs(table[lengths > 0] / lengths[lengths > 0]).min() > 1e-4
    return table


def weight_gradients(network, losses: list[Tensor]) -> list[Tensor]:
    gradients = []
    for loss in losses:
        network.zero_grad()
        loss.backward(retain_graph=True)
        gradients.append(torch.cat([p.grad.flatten() for p in network.stages.parameters()]))
    return gradients


def plain_joint(training, network, images_BCHW, triplets, settings):
    """Every image goes in once a task."""
    network, tasks = copy_of(network, settings, training), len(settings.tasks)
    embeddings = network(images_BCHW.repeat(tasks, 1, 1, 1),
                         torch.arange(tasks).repeat_interleave(len(images_BCHW)))
    losses = joint_losses(embeddings.unflatten(0, (tasks, -1)), triplets, settings)
    return inner_products(weight_gradients(network, losses))


def drawn_loss(embeddings_BD: Tensor, first: int, each: int, settings) -> Tensor:
    """Three images a triplet: anchor, positive, negative."""
    return torch.stack([hinge(embeddings_BD, n, n + 1, n + 2, settings.margin)
                        for n in range(first, first + each, 3)]).mean()


def plain_drawn(network, images_BCHW, _, settings):
    """Every image goes in once a task; a task's loss is over the images drawn for it."""
    network, tasks = copy_of(network, settings, True), len(settings.tasks)
    each = len(images_BCHW) // tasks
    embeddings_TBD = network(
        images_BCHW.repeat(tasks, 1, 1, 1),
        torch.arange(tasks).repeat_interleave(len(images_BCHW))).unflatten(0, (tasks, -1))
    losses = [drawn_loss(embeddings_TBD[task], task * each, each, settings)
              for task in range(tasks)]
    return inner_products(weight_gradients(network, losses))


def plain_own(network, images_BCHW, _, settings):
    """Of 18 images the first six were drawn for the first task, three a triplet; and so on."""
    gradients, each = [], len(images_BCHW) // len(settings.tasks)
    for task in range(len(settings.tasks)):
        fresh = copy_of(network, settings, True)
        embeddings_BD = fresh(images_BCHW[task * each:(task + 1) * each], torch.full((each,), task))
        gradients += weight_gradients(fresh, [drawn_loss(embeddings_BD, 0, each, settings)])
    return inner_products(gradients)


def plain_trunk(network, images_BCHW, triplets, settings):
    """A copy of the trunk's output for each task, and the stages above by hand."""
    network, tasks = copy_of(network, settings, True), len(settings.tasks)
    stages, x, copies = iter(network.stages.items()), normalise_pixels(images_BCHW), None
    task_TB = torch.arange(tasks).repeat_interleave(len(images_BCHW))
    for name, stage in stages:
        x = stage(x)
        if copies is None and (name in network.modulation or name == "fc"):
            copies = [x.detach().clone().requires_grad_() for _ in range(tasks)]
            x = torch.cat(copies)
        if name in network.modulation:
            x = network.modulation[name](x, task_TB)
    embeddings_TBD = normalize(x, dim=1).unflatten(0, (tasks, -1))
    sum(joint_losses(embeddings_TBD, triplets, settings)).backward()
    return inner_products([copy.grad.flatten() for copy in copies])


PLAIN = {JOINT: partial(plain_joint, True), FROZEN: partial(plain_joint, False),
         DRAWN: plain_drawn, OWN: plain_own, TRUNK: plain_trunk}


def plain_signs(network, planted, settings) -> dict[str, np.ndarray]:
    """The signs of each mode's inner products, by batch: (N, T, T)."""
    shared = replace(settings, batching="shared", batch_images="triplets",
                     batches_per_epoch=settings.final_probes)
    signs = {mode: [] for mode in MODES}
    for images_BCHW, labels_BT, generator in draw_batches(
            planted, image_getter(planted, CPU), shared, settings.epochs):
        triplets = triplets_in_batch(labels_BT, settings.samples_per_anchor, "holders", generator)
        for mode, plain in PLAIN.items():
            signs[mode].append(np.sign(plain(network, images_BCHW, triplets, settings)))
    return {mode: np.array(found) for mode, found in signs.items()}


# The modes


@pytest.mark.parametrize("system", ["modulated", "fully_shared"])
def test_every_mode_counts_the_signs_of_plain_backward_passes(system, settings, planted):
    network = network_for(settings, system)
    expected = plain_signs(network, planted, settings)
    assert len({(found == 1).sum(0).tobytes() for found in expected.values()}) == len(MODES)
    given = probed(network, planted, settings)
    assert given["batches"] == PROBES
    assert tuple(given["modes"]) == MODES
    for mode, signs_NTT in expected.items():
        counts_2TT = from_json(given["modes"][mode]["counts"])
        assert counts_2TT.dtype == np.int32
        assert counts_2TT[0].tolist() == (signs_NTT == 1).sum(0).tolist(), mode
        assert counts_2TT[1].tolist() == (signs_NTT == -1).sum(0).tolist(), mode
        for other, others_NTT in expected.items():
            same = [signs_NTT[n, i, j] == others_NTT[n, i, j]
                    for n in range(PROBES) for i, j in ((0, 1), (0, 2), (1, 2))
                    if signs_NTT[n, i, j] and others_NTT[n, i, j]]
            assert given["modes"][mode]["agreement"][other] == pytest.approx(np.mean(same))


def test_counts_and_agreement_by_hand(settings, planted, monkeypatch):
    """Two modes, three batches; a Gramian is given by its pairs (0, 1), (0, 2) and (1, 2)."""
    tables = {JOINT: [(2, -3, 0), (1, -1, 5), (-4, 0, 0.5)],
              OWN: [(9, 1, 0), (1, -0.2, -5), (-4, 0, -0.5)]}
    batches = iter(range(3))

    def gramians(*_):
        n = next(batches)
        for mode, rows in tables.items():
            a, b, c = rows[n]
            yield mode, torch.tensor([[1, a, b], [a, 1, c], [b, c, 1]])

    monkeypatch.setattr(probes, "_gramians", gramians)
    found = probed(network_for(settings), planted, replace(settings, final_probes=3))["modes"]
    positive, negative = from_json(found[JOINT]["counts"]).tolist()
    assert positive == [[3, 2, 0], [2, 3, 2], [0, 2, 3]]
    assert negative == [[0, 1, 2], [1, 0, 0], [2, 0, 0]]
    positive, negative = from_json(found[OWN]["counts"]).tolist()
    assert positive == [[3, 2, 1], [2, 3, 0], [1, 0, 3]]
    assert negative == [[0, 1, 1], [1, 0, 2], [1, 2, 0]]
    assert found[JOINT]["agreement"] == {JOINT: 1, OWN: pytest.approx(4 / 7)}  # two of nine are 0
    assert found[OWN]["agreement"] == {JOINT: pytest.approx(4 / 7), OWN: 1}


def test_there_is_no_agreement_where_every_product_is_zero(settings, planted, monkeypatch):
    monkeypatch.setattr(probes, "_gramians", lambda *_: [
        (JOINT, torch.eye(3)), (OWN, torch.ones(3, 3))])
    found = probed(network_for(settings), planted, replace(settings, final_probes=1))["modes"]
    assert found[OWN]["agreement"] == {JOINT: None, OWN: 1}
    assert found[JOINT]["agreement"] == {JOINT: None, OWN: None}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_joint_batch_agrees_with_itself_in_both_precisions(precision, settings, planted):
    settings = replace(settings, precision=precision, final_probes=2)
    found = probed(network_for(settings), planted, settings)["modes"]
    assert tuple(found) == MODES
    assert found[JOINT]["agreement"][JOINT] == 1
    for mode in MODES:
        counts_2TT = from_json(found[mode]["counts"])
        assert counts_2TT.shape == (2, 3, 3)
        assert np.diagonal(counts_2TT[0]).tolist() == [2, 2, 2]  # no gradient is 0 or nan
        assert np.array_equal(counts_2TT, counts_2TT.transpose(0, 2, 1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_stages_compute_in_the_settings_precision(precision, settings, planted):
    network, kinds = network_for(settings), Counter()
    network.stages["fc"].register_forward_hook(lambda _, __, output: kinds.update([output.dtype]))
    probed(network, planted, replace(settings, precision=precision, final_probes=1))
    assert kinds == {getattr(torch, precision): 4 + 3}  # own batches: one a task


@pytest.mark.parametrize("changes", [{"batching": "triplets"}, {"batch_images": "any"},
                                     {"batches_per_epoch": None}])
def test_every_way_to_train_is_probed_on_the_same_batches(changes, settings, planted):
    settings = replace(settings, final_probes=2)
    network = network_for(settings)
    assert probed(network, planted, replace(settings, **changes)) == probed(
        network, planted, settings)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_is(training, settings, planted):
    network = network_for(settings).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probed(network, planted, replace(settings, final_probes=1))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(module.training == training for module in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


# Runs


def test_a_run_keeps_the_probes_of_its_trained_network(loaded, tiny, places):
    settings = replace(tiny, final_probes=2)
    record = run(settings, places)
    network = trained_network(settings, places, loaded, image_getter(loaded, CPU))
    assert record["results"]["probes"] == probed(network, loaded, settings)
    path = record_path(settings, places, loaded.fingerprint)
    assert read_record(path)["results"]["probes"] == record["results"]["probes"]


def test_probing_at_the_end_changes_nothing_else(loaded, tiny, places):
    with_probes, without = (comparable(run(replace(tiny, final_probes=count), places))
                            for count in (1, 0))
    del with_probes["results"]["probes"]
    assert with_probes["results"] == without["results"]
    assert with_probes["epochs"] == without["epochs"]


@pytest.mark.parametrize("system", ["independent", "mask_only"])
def test_where_nothing_shared_is_trained_nothing_is_probed(system, loaded, tiny, places):
    settings = replace(tiny, system=system, epochs=1, batches_per_epoch=1, final_probes=1)
    assert "probes" not in run(settings, places)["results"]
    assert checkpoint_path(settings, places, loaded.fingerprint).exists()
