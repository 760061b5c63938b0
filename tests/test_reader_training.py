"""Systems that answer every task: their training and their scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modlib.aggregation import StepLog, flat, task_weights
from modlib.batches import image_getter, shuffled_batches
from modlib.errors import ModlibError
from modlib.gradients import gramian, task_gradients
from modlib.optimisers import build_optimiser
from modlib.reader_losses import answer_losses
from modlib.reader_training import accuracy, take_step, train_one_epoch, train_reader
from modlib.reading import load_tasks
from modlib.task_readers import ReaderSettings, all_streams, build_reader

TINY = ReaderSettings(train_images=60, test_images=20, batch_size=16, epochs=2, seed=1)
SYSTEMS = ("single", "uniform", "moo", "channel", "top_down")


@pytest.fixture
def data(places):
    return load_tasks(TINY, places)


def trained(settings, data, checkpoint=None):
    model = build_reader(settings, data.classes)
    epochs = list(train_reader(model, data, settings, checkpoint))
    return model, [{k: v for k, v in one.items() if k != "seconds"} for one in epochs]


# Training


@pytest.mark.parametrize("system", SYSTEMS)
def test_training_again_gives_the_same_and_what_was_cut_goes_on(system, data, tmp_path):
    settings = replace(TINY, system=system)
    model, epochs = trained(settings, data)
    checkpoint = tmp_path / "run.pt"
    cut = build_reader(settings, data.classes)
    next(train_reader(cut, data, settings, checkpoint))
    again, epochs_again = trained(settings, data, checkpoint)
    assert epochs_again == epochs
    for (name, value), other in zip(model.state_dict().items(), again.state_dict().values(),
                                    strict=True):
        assert torch.equal(value, other), name
    assert [one["epoch"] for one in epochs] == [1, 2]
    assert [one["images"] for one in epochs] == [48, 48]


def test_it_learns_to_read(places):
    """A corner alone on its canvas, in a moment: far above guessing's 10 %."""
    settings = ReaderSettings(tasks=("LU",), canvas=28, train_images=1000, test_images=200,
                              system="uniform", epochs=4, learning_rate=4e-3)
    _, epochs = trained(settings, load_tasks(settings, places))
    assert epochs[-1]["valid_accuracy"]["LU"] > 0.6


def test_moo_steps_by_mgdas_weights_and_the_heads_by_their_own_losses(data):
    settings = replace(TINY, system="moo")
    model, plain = build_reader(settings, 10), build_reader(settings, 10)
    indices = torch.from_numpy(data.indices("train")[:8])
    images, labels = image_getter(data, torch.device("cpu"))(indices), torch.from_numpy(
        data.labels_NT[indices.numpy()])
    losses_T = answer_losses(all_streams(plain, images).logits, labels)
    gradients_TP = task_gradients(losses_T, list(plain.backbone.parameters()))
    weights_T = task_weights("mgda", gramian(gradients_TP), torch.Generator())
    assert weights_T.sum().item() == pytest.approx(1) and not torch.allclose(
        weights_T, torch.tensor([0.5, 0.5]))
    losses_T.mean().backward()
    optimiser = build_optimiser(model, settings)
    log = StepLog()
    before_P = flat(list(model.backbone.parameters()))
    take_step(model, optimiser, answer_losses(all_streams(model, images).logits, labels),
              settings, torch.Generator(), log)
    assert torch.equal(log.weights[0], weights_T)
    changed_P = flat(list(model.backbone.parameters())) - before_P
    assert log.uphill[0] == np.mean([float(one @ changed_P) > 0 for one in gradients_TP])
    step_P = torch.cat([weight.grad.flatten() for weight in model.backbone.parameters()])
    torch.testing.assert_close(step_P, weights_T @ gradients_TP)
    for mine, other in zip(model.heads.parameters(), plain.heads.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_moos_weights_are_told_as_a_mean_over_the_epoch(data, monkeypatch):
    told, add = [], StepLog.add
    monkeypatch.setattr(StepLog, "add", lambda log, weights_T, *given: (
        told.append(weights_T), add(log, weights_T, *given)))
    _, epochs = trained(replace(TINY, system="moo"), data)
    for n, epoch in enumerate(epochs):
        weights_T = torch.stack(told[3 * n:3 * n + 3]).mean(0)
        assert epoch["task_weights"] == dict(zip(data.tasks, weights_T.tolist(), strict=True))
        assert sum(epoch["task_weights"].values()) == pytest.approx(1)
    assert "task_weights" not in trained(replace(TINY, system="uniform"), data)[1][0]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_probe_counts_the_signs_over_the_backbone_and_changes_nothing(system, data):
    plain, epochs = trained(replace(TINY, system=system), data)
    probed, told = trained(replace(TINY, system=system, ucr_every=2), data)
    for one, other in zip(plain.parameters(), probed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [one["loss"] for one in told] == [one["loss"] for one in epochs]
    assert [one["ucr"] for one in epochs] == [[], []]
    if system == "single":
        assert [one["ucr"] for one in told] == [[], []]
        return
    assert [one["ucr_batches"] for one in told] == [2, 2]  # batches 0 and 2 of three
    # The first probe, by hand.
    model = build_reader(replace(TINY, system=system), data.classes).train()
    rng, train = np.random.default_rng([TINY.seed, 0]), data.indices("train")
    first = next(shuffled_batches(train, 16, 3, rng))
    losses_T = answer_losses(
        all_streams(model, image_getter(data, torch.device("cpu"))(first)).logits,
        torch.from_numpy(data.labels_NT[first.numpy()]))
    backbone = getattr(model, "model", model).backbone
    one, other = (torch.cat([g.flatten() for g in torch.autograd.grad(
        loss, list(backbone.parameters()), retain_graph=True)]) for loss in losses_T)
    [epoch] = list(train_reader(
        build_reader(replace(TINY, system=system), data.classes), data,
        replace(TINY, system=system, ucr_every=99, epochs=1)))
    [pair] = epoch["ucr"]
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
    assert pair["mean_cosine"] == pytest.approx(cosine, abs=1e-4)
    assert pair["positive"] == (cosine > 0) and pair["negative"] == (cosine < 0)


@pytest.mark.parametrize("changes", [
    {"system": "channel"}, {"system": "channel", "td_weight": 2.0}, {},
    {"bu1_weight": 0.5, "td_weight": 2.0}])
def test_task_after_task_is_the_step_of_all_together(changes, data):
    together, apart = (replace(TINY, tasks_together=one, **changes) for one in (True, False))
    gradients, losses = [], []
    for settings in (together, apart):
        model = build_reader(settings, data.classes)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
        optimiser.param_groups[0]["factor"] = 0.0
        metrics = train_one_epoch(model, optimiser, data, image_getter(data, torch.device("cpu")),
                                  replace(settings, batches_per_epoch=1), 0)
        gradients.append([weight.grad for weight in model.parameters()])
        losses.append(metrics["task_losses"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_single_networks_are_trained_as_if_alone(data):
    both = build_reader(replace(TINY, system="single"), 10)
    indices = torch.from_numpy(data.indices("train")[:8])
    images, labels = image_getter(data, torch.device("cpu"))(indices), torch.from_numpy(
        data.labels_NT[indices.numpy()])
    alone = torch.nn.functional.cross_entropy(both.networks[1](images), labels[:, 1])
    expected = torch.autograd.grad(alone, list(both.networks[1].parameters()))
    take_step(both, build_optimiser(both, TINY),
              answer_losses(all_streams(both, images).logits, labels),
              replace(TINY, system="single"), torch.Generator())
    for weight, gradient in zip(both.networks[1].parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_a_loss_that_is_not_finite_is_told(data):
    model = build_reader(TINY, data.classes)
    torch.nn.init.constant_(model.head[0].weight, float("nan"))
    with pytest.raises(ModlibError, match=r"loss of epoch 1 is not finite.*lower learning_rate"):
        next(train_reader(model, data, TINY))


# Scores


class Says(torch.nn.Module):
    """Answers every task with the class that each image's first pixel holds."""

    def for_all_tasks(self, images_BCHW):
        said = torch.nn.functional.one_hot(images_BCHW[:, 0, 0, 0].long(), 10).float()
        return said.expand(2, *said.shape)


@pytest.fixture
def told(data):
    """The data with right answers in the first pixels for task 0; task 1 asks about few images."""
    images = np.array(data.images_NCHW)
    images[:, 0, 0, 0] = data.labels_NT[:, 0]
    labels_NT = np.array(data.labels_NT)
    labels_NT[:, 1] = -1
    labels_NT[data.indices("valid")[:4], 1] = [(label + wrong) % 10 for label, wrong in zip(
        labels_NT[data.indices("valid")[:4], 0], (0, 1, 1, 1), strict=True)]
    return replace(data, images_NCHW=images, labels_NT=labels_NT)


def test_accuracy_counts_only_what_is_asked(told):
    given = accuracy(Says(), told, "valid", image_getter(told, torch.device("cpu")), batch_size=7)
    assert given == {"LU": 1.0, "RL": 0.25}


def test_a_task_that_asks_nothing_cannot_be_scored(told):
    with pytest.raises(ModlibError, match="task 'RL' asks about no image of the test split"):
        accuracy(Says(), told, "test", image_getter(told, torch.device("cpu")))
