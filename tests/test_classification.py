"""Classifiers: how they are built, their loss and scores against loops, their training, records."""

import json
from dataclasses import fields, replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from modlib import classification
from modlib.batches import image_getter
from modlib.classification import (
    ClassifierSettings,
    bce_losses,
    build_classifier,
    evaluate,
    run_classifier,
    shared_parameters,
    task_logits,
    train_classifier,
)
from modlib.errors import ModlibError
from modlib.insertion import insert_modulation
from modlib.kept_runs import checkpoint_path
from modlib.modulated_network import ModulatedNetwork
from modlib.modulation import ChannelScale
from modlib.results import RECORD_KEYS, comparable, read_record
from modlib.settings import Settings
from modlib.task_networks import count_parameters

CPU = torch.device("cpu")
SYSTEMS = ("fully_shared", "branches", "modulated")
BACKBONE = 11_176_512  # parameters of ResNet-18 without its last layer
DEFAULTS = {field.name: field.default for field in fields(ClassifierSettings)}
OTHER_VALUES = {
    "profile": "mine", "dataset": "celeba", "tasks": ("Smiling", "Young"), "image_size": 48,
    "toy_images": 60, "system": "branches", "modulate_after": ("layer4",), "branch_size": 8,
    "batch_size": 24, "horizontal_flip": False, "epochs": 9, "batches_per_epoch": 7,
    "optimiser": "adagrad", "learning_rate": 0.01, "scale_rate_factor": 1.0,
    "schedule": "tenth_every_40_epochs", "precision": "float32", "ucr_every": 1, "seed": 3,
}


@pytest.fixture
def tiny_classifier() -> ClassifierSettings:
    """Two epochs of two batches of 12 toy faces, in float32."""
    return ClassifierSettings(
        tasks=("Smiling", "Mouth_Slightly_Open", "Wavy_Hair"), image_size=48, toy_images=120,
        batch_size=12, epochs=2, batches_per_epoch=2, precision="float32", ucr_every=2)


@pytest.fixture
def of_planted(tiny_classifier, planted) -> ClassifierSettings:
    """The same for the planted images, of which 30 are for training."""
    return replace(tiny_classifier, tasks=planted.tasks, optimiser="adagrad", learning_rate=0.05)


class SmallClassifier(nn.Module):
    """What ResNet-18 is to the functions here, in a moment: a body, and fc for three tasks."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(6, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.body(pixels).flatten(1))


def small(system: str = "fully_shared", seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SmallClassifier()
    if system == "modulated":
        return insert_modulation(model, ["body.1"], ["a", "b", "c"], torch.zeros(2, 3, 48, 48))
    return model


def with_random_scales(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, ChannelScale):
            nn.init.uniform_(module.weight, -0.3, 2.0, generator=generator)
    return model


def trained(settings, data, system: str = "fully_shared", seed: int = 0, checkpoint=None):
    """The trained small classifier and its epochs' metrics, without the seconds."""
    model = small(system, seed)
    epochs = train_classifier(model, data, settings, checkpoint)
    return model, [{k: v for k, v in one.items() if k != "seconds"} for one in epochs]


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    for (name, value), expected in zip(
            one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


# How they are built

@pytest.mark.parametrize(("system", "changes", "of_tasks"), [
    ("fully_shared", {}, 4 * 513),
    ("branches", {}, 4 * (512 * 128 + 128 + 128 + 1)),
    ("branches", {"branch_size": 8}, 4 * (512 * 8 + 8 + 8 + 1)),
    ("modulated", {}, 4 * 513 + 4 * (256 + 512 + 512)),
    ("modulated", {"modulate_after": ["layer4"]}, 4 * 513 + 4 * 512),
    ("modulated", {"tasks": ["Young"]}, 513 + 256 + 512 + 512),
])
def test_parameters_are_those_of_resnet_18_and_the_tasks_own(system, changes, of_tasks):
    model = build_classifier(ClassifierSettings(system=system, image_size=48, **changes))
    assert count_parameters(model.parameters()) == BACKBONE + of_tasks
    assert count_parameters(shared_parameters(model)) == BACKBONE


def backbone(model: nn.Module) -> dict[str, Tensor]:
    network = model.model if isinstance(model, ModulatedNetwork) else model
    return {name: value for name, value in network.state_dict().items() if name[:3] != "fc."}


def test_one_seed_gives_every_system_the_same_backbone_and_another_seed_another():
    settings = ClassifierSettings(image_size=48, seed=3)
    torch.manual_seed(3)
    expected = backbone(resnet18(num_classes=4))
    for system in SYSTEMS:
        torch.manual_seed(system == "branches")  # the global seed decides nothing
        given = backbone(build_classifier(replace(settings, system=system)))
        assert given.keys() == expected.keys()
        assert all(torch.equal(given[name], expected[name]) for name in expected)
    other = backbone(build_classifier(replace(settings, system="fully_shared", seed=4)))
    assert not torch.equal(other["conv1.weight"], expected["conv1.weight"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_building_draws_nothing_from_the_global_generator_and_all_from_the_seed(system):
    settings = ClassifierSettings(image_size=48, system=system, seed=5)
    state = torch.get_rng_state()
    one, again = build_classifier(settings), build_classifier(settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_state(one, again)


def test_branches_start_apart_from_each_other():
    model = build_classifier(ClassifierSettings(system="branches", image_size=48))
    firsts = [branch[0].weight for branch in model.fc.tasks]
    assert [tuple(first.shape) for first in firsts] == [(128, 512)] * 4
    assert not any(torch.equal(firsts[0], other) for other in firsts[1:])


def test_modulation_follows_the_named_submodules():
    model = build_classifier(
        ClassifierSettings(image_size=48, modulate_after=["avgpool", "layer2.1"]))
    assert sorted(model.modulation) == ["avgpool", "layer2/1"]
    assert [module.scale.weight.shape[1] for module in model.modulation.values()] == [128, 512]


def test_an_unknown_submodule_is_refused_with_the_nearest():
    with pytest.raises(ModlibError, match=r"submodule 'layer5' .*did you mean 'layer4'"):
        build_classifier(ClassifierSettings(image_size=48, modulate_after=["layer5"]))


# Logits

def pixels(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (batch, 3, 48, 48), dtype=torch.uint8, generator=generator)


def normalised(images: Tensor) -> Tensor:
    mean = torch.tensor([122.77, 115.95, 102.98]).reshape(1, 3, 1, 1)
    return (images.float() - mean) / 128


@pytest.mark.parametrize("model", [
    pytest.param(lambda: small("modulated"), id="small"),
    pytest.param(lambda: build_classifier(ClassifierSettings(
        image_size=48, tasks=["a", "b", "c"])), id="resnet18")])
@torch.no_grad()
def test_a_modulated_networks_logits_are_output_t_of_task_ts_own_pass(model):
    model, images = with_random_scales(model()).eval(), pixels(4)
    given = task_logits(model, images)
    assert given.shape == (4, 3)
    for t in range(3):
        own_pass = model(normalised(images), torch.full((4,), t))
        torch.testing.assert_close(given[:, t], own_pass[:, t], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(given, model(normalised(images), torch.zeros(4).long()))


@pytest.mark.parametrize("system", ["fully_shared", "branches"])
@torch.no_grad()
def test_the_other_systems_logits_are_their_output(system):
    settings = ClassifierSettings(image_size=48, system=system, tasks=["a", "b", "c"])
    model, images = build_classifier(settings).eval(), pixels(3)
    given = task_logits(model, images)
    torch.testing.assert_close(given, model(normalised(images)))
    if system == "branches":
        features = nn.Sequential(*list(model.children())[:-1])(normalised(images)).flatten(1)
        for t, branch in enumerate(model.fc.tasks):
            hidden = torch.relu(features @ branch[0].weight.T + branch[0].bias)
            own = hidden @ branch[2].weight.T + branch[2].bias
            torch.testing.assert_close(given[:, t:t + 1], own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("system", ["fully_shared", "modulated"])
def test_logits_are_float32_under_autocast(system):
    with torch.autocast("cpu", torch.bfloat16):
        assert task_logits(small(system), pixels(2)).dtype == torch.float32


def test_a_tasks_loss_leaves_what_is_the_other_tasks_own_without_gradient():
    """In eval mode: in train mode the batch statistics after a scale couple the tasks."""
    model = with_random_scales(small("modulated")).eval()
    bce_losses(task_logits(model, pixels(6)), torch.arange(18).reshape(6, 3) % 2)[1].backward()
    for own in (model.modulation["body/1"].scale.weight, model.model.fc.weight):
        assert own.grad[1].abs().sum() > 0
        assert own.grad[[0, 2]].abs().sum() == 0


# What is shared

@pytest.mark.parametrize("system", SYSTEMS)
def test_all_but_scales_branches_and_last_rows_is_shared(system):
    model = build_classifier(ClassifierSettings(system=system, image_size=48))
    shared = {id(p) for p in shared_parameters(model)}
    assert len(shared) == len(shared_parameters(model))
    network = model.model if system == "modulated" else model
    assert shared == {id(p) for name, part in network.named_children() if name != "fc"
                      for p in part.parameters()}


# The loss

def test_bce_losses_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits_BT = 3 * torch.randn(5, 3, generator=generator)
    labels_BT = torch.rand(5, 3, generator=generator) < 0.5
    expected = []
    for t in range(3):
        shares = [1 / (1 + exp(-float(logits_BT[b, t]))) for b in range(5)]
        expected.append(sum(-log(p if labels_BT[b, t] else 1 - p)
                            for b, p in enumerate(shares)) / 5)
    for labels in (labels_BT, labels_BT.int(), labels_BT.float()):
        given = bce_losses(logits_BT, labels)
        assert given.shape == (3,)
        assert given.tolist() == pytest.approx(expected, rel=1e-5)


def test_bce_losses_of_extreme_logits_are_finite():
    losses = bce_losses(torch.tensor([[200.0, -200.0, 0.0]]), torch.tensor([[False, False, True]]))
    assert losses.tolist() == pytest.approx([200.0, 0.0, log(2)])


# Scores

class Brightness(nn.Module):
    """The logits are the mean colours, rounded so that there are ties, less what is given."""

    def __init__(self, less=(0.0, 0.0, 0.0)):
        super().__init__()
        self.less = nn.Parameter(torch.tensor(less))

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean((2, 3)) * 20).round() / 20 - self.less


def scores_by_loops(logits, labels) -> tuple[float, float]:
    """Accuracy, and the share of pairs (holder, other) in which the holder's logit is higher."""
    right = sum((logit > 0) == held for logit, held in zip(logits, labels, strict=True))
    pairs = [(holder, other) for holder, held in zip(logits, labels, strict=True) if held
             for other, has_it in zip(logits, labels, strict=True) if not has_it]
    higher = sum(1.0 if holder > other else 0.5 if holder == other else 0.0
                 for holder, other in pairs)
    return right / len(logits), higher / len(pairs)


@pytest.mark.parametrize("batch_size", [7, 30, 512])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_accuracy_and_auc_equal_loops_over_images_and_pairs(
        of_planted, planted, split, batch_size):
    noise = np.random.default_rng(1).random(planted.labels_NT.shape) < 0.3
    data = replace(planted, labels_NT=planted.labels_NT ^ noise)  # or every pair would be right
    model, get_images = Brightness((-0.1, 0.0, 0.05)), image_getter(data, CPU)
    scores = evaluate(model, data, split, get_images, of_planted, "some_", batch_size)
    assert list(scores) == ["some_accuracy", "some_auc"]
    rows = data.indices(split)
    logits_NT = task_logits(model, get_images(torch.from_numpy(rows))).tolist()
    for t, task in enumerate(data.tasks):
        accuracy, auc = scores_by_loops([row[t] for row in logits_NT], data.labels_NT[rows, t])
        assert scores["some_accuracy"][task] == pytest.approx(accuracy)
        assert scores["some_auc"][task] == pytest.approx(auc)
        assert 0.5 < auc < 1


def logits_of(rows, monkeypatch) -> None:
    monkeypatch.setattr(classification, "task_logits", lambda *_: torch.tensor(rows))


def four_tested(planted):
    """Of four test images the first two hold every attribute."""
    labels_NT = planted.labels_NT.copy()
    split_N = np.zeros_like(planted.split_N)
    split_N[:4], labels_NT[:2], labels_NT[2:4] = 2, True, False
    return replace(planted, labels_NT=labels_NT, split_N=split_N)


def test_accuracy_and_auc_by_hand(of_planted, planted, monkeypatch):
    data = four_tested(planted)
    logits_of([[2.0, -1.0, 0.0], [1.0, 3.0, 1.0], [-1.0, 0.5, 0.0], [-2.0, -0.5, 0.0]], monkeypatch)
    scores = evaluate(small(), data, "test", image_getter(data, CPU), of_planted, "")
    # Holders −1 and 3 against 0.5 and −0.5: two of four pairs. Holders 0 and 1 against two 0s:
    # two pairs and two ties; a logit of 0 says "without".
    assert list(scores["accuracy"].values()) == [1.0, 0.5, 0.75]
    assert list(scores["auc"].values()) == [1.0, 0.5, 0.75]


@pytest.mark.parametrize(("held", "said"), [(False, "given 0 with, of 30"),
                                            (True, "given 30 with, of 30")])
def test_a_split_without_both_kinds_of_image_is_refused_by_task(of_planted, planted, held, said):
    labels_NT = planted.labels_NT.copy()
    labels_NT[planted.indices("valid"), 2] = held
    data = replace(planted, labels_NT=labels_NT)
    with pytest.raises(ModlibError, match=f"'Young' in the valid split.*{said}"):
        evaluate(small(), data, "valid", image_getter(data, CPU), of_planted, "")


def test_categories_are_no_attributes_to_classify(of_planted, categorised):
    with pytest.raises(ModlibError, match=r"are attributes.*given tasks of categories: Smil"):
        evaluate(small(), categorised, "valid", image_getter(categorised, CPU), of_planted, "")


def test_logits_that_are_not_finite_are_refused(of_planted, planted, monkeypatch):
    data = four_tested(planted)
    logits_of([[0.0, 0.0, float("nan")]] * 4, monkeypatch)
    with pytest.raises(ModlibError, match="logits are not finite; a lower learning_rate"):
        evaluate(small(), data, "test", image_getter(data, CPU), of_planted, "")


def test_scores_come_from_eval_mode_and_change_nothing(of_planted, planted):
    model = small("modulated").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    get_images = image_getter(planted, CPU)
    first = evaluate(model, planted, "test", get_images, of_planted, "")
    assert evaluate(model, planted, "test", get_images, of_planted, "", batch_size=9) == first
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# Training

def plain_epoch(model: nn.Module, data, settings) -> list[list[float]]:
    """The first epoch written out, with Adagrad; returns every batch's losses by task."""
    rng = np.random.default_rng([settings.seed, 0])
    order = rng.permutation(data.indices("train"))
    scales = [m.weight for m in model.modules() if isinstance(m, ChannelScale)]
    others = [p for p in model.parameters() if not any(p is scale for scale in scales)]
    rate, fast = settings.learning_rate, settings.learning_rate * settings.scale_rate_factor
    optimisers = [torch.optim.Adagrad(params, lr=lr, initial_accumulator_value=0.1)
                  for params, lr in ((others, rate), (scales, fast)) if params]
    losses = []
    model.train()
    for number in range(settings.batches_per_epoch):
        indices = order[12 * number:12 * number + 12]
        images = data.images_NCHW[indices].copy()
        for b in np.flatnonzero(rng.random(12) < 0.5):
            images[b] = images[b][:, :, ::-1].copy()
        x = normalised(torch.from_numpy(images))
        if isinstance(model, ModulatedNetwork):  # every image once a task, in one batch
            task_TB = torch.arange(3).repeat_interleave(12)
            outputs = model(x.repeat(3, 1, 1, 1), task_TB).reshape(3, 12, 3)
            logits = [outputs[t, :, t] for t in range(3)]
        else:
            logits = model(x).unbind(1)
        of_tasks = [nn.functional.binary_cross_entropy_with_logits(
            logits[t], torch.from_numpy(data.labels_NT[indices, t]).float()) for t in range(3)]
        losses.append([loss.item() for loss in of_tasks])
        for optimiser in optimisers:
            optimiser.zero_grad()
        (sum(of_tasks) / 3).backward()
        for optimiser in optimisers:
            optimiser.step()
    return losses


@pytest.mark.parametrize("system", ["fully_shared", "modulated"])
def test_an_epoch_is_the_plain_loop(of_planted, planted, system):
    settings = replace(of_planted, epochs=1, schedule="tenth_every_40_epochs")
    model, [epoch] = trained(settings, planted, system)
    plain = small(system)
    losses = plain_epoch(plain, planted, settings)
    for (name, value), expected in zip(
            model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, msg=name)
    assert list(epoch["task_losses"].values()) == pytest.approx(np.mean(losses, axis=0), rel=1e-4)
    assert epoch["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_an_epoch_tells_all_that_a_record_promises(of_planted, planted):
    _, epochs = trained(of_planted, planted)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    for epoch in epochs:
        assert set(epoch) == {"epoch", "loss", "task_losses", "images", "ucr_batches", "ucr",
                              "valid_accuracy", "valid_auc"}
        for scores in ("task_losses", "valid_accuracy", "valid_auc"):
            assert list(epoch[scores]) == list(planted.tasks)
        assert epoch["images"] == 24


def test_validation_scores_are_those_of_the_network_as_it_stands(of_planted, planted):
    model, epochs = trained(of_planted, planted)
    scores = evaluate(model, planted, "valid", image_getter(planted, CPU), of_planted, "valid_")
    assert {name: epochs[-1][name] for name in scores} == scores


def test_training_learns_the_planted_attributes(of_planted, planted):
    _, epochs = trained(replace(of_planted, epochs=20, learning_rate=0.2, ucr_every=0), planted)
    assert epochs[-1]["loss"] < 0.8 * epochs[0]["loss"]
    assert min(epochs[-1]["valid_auc"].values()) > 0.9


def drawn(settings, data, monkeypatch) -> list[list[int]]:
    """The images of every training batch of the first epoch, by their indices."""
    batches, get_images = [], image_getter(data, CPU)

    def told(indices):
        batches.append(indices.tolist())
        return get_images(indices)

    monkeypatch.setattr(classification, "evaluate", lambda *_: {})
    next(train_classifier(small(), data, settings, get_images=told))
    return batches


def test_an_epoch_shows_every_image_at_most_once(of_planted, planted, monkeypatch):
    batches = drawn(replace(of_planted, batches_per_epoch=None), planted, monkeypatch)
    assert [len(batch) for batch in batches] == [12, 12]  # of 30; the rest waits
    seen = [n for batch in batches for n in batch]
    assert len(set(seen)) == 24
    assert set(seen) <= set(planted.indices("train").tolist())
    assert seen != sorted(seen)


def test_a_long_epoch_goes_round_again_in_whole_batches(of_planted, planted, monkeypatch):
    batches = drawn(replace(of_planted, batches_per_epoch=20), planted, monkeypatch)
    assert [len(set(batch)) for batch in batches] == [12] * 20
    seen = {n for batch in batches for n in batch}
    assert seen == set(planted.indices("train").tolist())


def test_a_batch_is_never_larger_than_the_train_split(of_planted, planted, monkeypatch):
    batches = drawn(replace(of_planted, batch_size=500), planted, monkeypatch)
    assert [sorted(batch) for batch in batches] == [planted.indices("train").tolist()] * 2


def test_every_epoch_and_seed_draws_anew(of_planted, planted, monkeypatch):
    one, other = (drawn(replace(of_planted, seed=seed), planted, monkeypatch) for seed in (0, 1))
    assert one != other
    assert one == drawn(of_planted, planted, monkeypatch)
    of_epochs, get_images = [], image_getter(planted, CPU)
    list(train_classifier(small(), planted, of_planted, get_images=lambda indices: (
        of_epochs.append(indices.tolist()) or get_images(indices))))
    assert of_epochs[:2] == one
    assert of_epochs[2:] != one


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_mirrored_only_when_asked_for(of_planted, planted, monkeypatch, flip):
    flipped = []
    monkeypatch.setattr(classification, "flip_some",
                        lambda images, rng: flipped.append(len(images)) or images)
    trained(replace(of_planted, epochs=1, horizontal_flip=flip), planted)
    assert flipped == ([12] * 2 if flip else [])


def test_scales_have_a_rate_of_their_own(of_planted, planted):
    model, _ = trained(replace(of_planted, scale_rate_factor=0.0), planted, "modulated")
    assert (model.modulation["body/1"].scale.weight == 1).all()
    model, _ = trained(of_planted, planted, "modulated")
    assert (model.modulation["body/1"].scale.weight != 1).any()


def test_bfloat16_trains_float32_weights(of_planted, planted):
    model, epochs = trained(replace(of_planted, precision="bfloat16"), planted, "modulated")
    _, in_float32 = trained(of_planted, planted, "modulated")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert epochs[0]["loss"] == pytest.approx(in_float32[0]["loss"], rel=0.1)
    assert epochs[0]["loss"] != in_float32[0]["loss"]


# Update compliance ratio

def test_ucr_counts_are_the_signs_of_the_tasks_gradients_over_what_is_shared(of_planted, planted):
    settings = replace(of_planted, epochs=1, batches_per_epoch=1, ucr_every=1,
                       horizontal_flip=False)
    _, [epoch] = trained(settings, planted)
    indices = np.random.default_rng([0, 0]).permutation(planted.indices("train"))[:12]
    flat = []
    for t in range(3):
        model = small().train()
        logits = model(normalised(torch.from_numpy(planted.images_NCHW[indices])))[:, t]
        labels = torch.from_numpy(planted.labels_NT[indices, t]).float()
        nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        flat.append(torch.cat([p.grad.flatten() for p in model.body.parameters()]))
    assert epoch["ucr_batches"] == 1
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert [counts["tasks"] for counts in epoch["ucr"]] == [
        [planted.tasks[i], planted.tasks[j]] for i, j in pairs]
    for (i, j), counts in zip(pairs, epoch["ucr"], strict=True):
        sign = int(torch.dot(flat[i], flat[j]).sign())
        assert counts["positive"] - counts["negative"] == sign
        assert counts["mean_cosine"] == pytest.approx(
            float(nn.functional.cosine_similarity(flat[i], flat[j], dim=0)), abs=1e-4)


@pytest.mark.parametrize(("every", "probed"), [(0, 0), (1, 4), (2, 2), (3, 2), (4, 1)])
def test_every_kth_batch_is_probed(of_planted, planted, every, probed):
    settings = replace(of_planted, epochs=1, batches_per_epoch=4, ucr_every=every)
    _, [epoch] = trained(settings, planted)
    assert epoch["ucr_batches"] == probed
    assert len(epoch["ucr"]) == (3 if probed else 0)


@pytest.mark.parametrize("system", ["fully_shared", "modulated"])
def test_probing_does_not_change_what_is_learnt(of_planted, planted, system):
    often, _ = trained(replace(of_planted, ucr_every=1), planted, system)
    never, _ = trained(replace(of_planted, ucr_every=0), planted, system)
    assert_same_state(often, never)


# The same again, and resuming

@pytest.mark.parametrize("system", ["fully_shared", "modulated"])
def test_the_same_settings_give_the_same_to_the_last_bit(of_planted, planted, system):
    (one, epochs), (other, again) = (trained(of_planted, planted, system) for _ in range(2))
    assert_same_state(one, other)
    assert epochs == again


@pytest.mark.parametrize(("system", "changes"), [
    ("fully_shared", {"optimiser": "adam"}), ("modulated", {"precision": "bfloat16"})])
@pytest.mark.parametrize("done", [1, 2])
def test_a_run_resumed_after_any_epoch_is_the_unbroken_run_to_the_last_bit(
        of_planted, planted, tmp_path, system, changes, done):
    settings = replace(of_planted, epochs=3, **changes)
    unbroken, epochs = trained(settings, planted, system)
    cut = train_classifier(small(system), planted, settings, tmp_path / "run.pt")
    for _ in range(done):
        next(cut)
    cut.close()
    resumed, again = trained(settings, planted, system, 99, tmp_path / "run.pt")
    assert again == epochs
    assert_same_state(resumed, unbroken)


def test_a_checkpoint_of_other_settings_is_refused_by_name(of_planted, planted, tmp_path):
    trained(of_planted, planted, checkpoint=tmp_path / "run.pt")
    other = replace(of_planted, seed=1)
    with pytest.raises(ModlibError) as caught:
        trained(other, planted, checkpoint=tmp_path / "run.pt")
    for settings in (of_planted, other):
        assert settings.run_name(planted.fingerprint) in str(caught.value)


@pytest.mark.parametrize(("call", "said"), [
    pytest.param(3, "loss of epoch 2 is not finite", id="in a probed batch"),
    pytest.param(4, "loss of epoch 2 is not finite", id="in another batch")])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_earlier_epochs(
        of_planted, planted, tmp_path, monkeypatch, call, said):
    calls = []

    def broken_in_the_second_epoch(*arguments):
        calls.append(1)
        return bce_losses(*arguments) * (float("nan") if len(calls) == call else 1)

    _, epochs = trained(of_planted, planted)
    with monkeypatch.context() as patched:
        patched.setattr(classification, "bce_losses", broken_in_the_second_epoch)
        run = train_classifier(small(), planted, of_planted, tmp_path / "run.pt")
        next(run)
        with pytest.raises(ModlibError, match=f"{said}.*learning_rate"):
            next(run)
    assert trained(of_planted, planted, checkpoint=tmp_path / "run.pt")[1] == epochs


# Records

def test_a_run_writes_the_record_that_it_returns(tiny_classifier, places):
    told = []
    settings = replace(tiny_classifier, epochs=1, batches_per_epoch=1)
    record = run_classifier(settings, places, lambda *each: told.append(each))
    [path] = Path(places.results_dir).iterdir()
    assert read_record(path) == record
    assert run_classifier(settings, places) == record  # read, not run again
    assert tuple(record) == RECORD_KEYS
    assert record["settings"] == settings.as_dict()
    assert record["data"]["images"] == {"train": 84, "valid": 12, "test": 24}
    assert told == [(settings, record["epochs"][0])]
    assert checkpoint_path(settings, places, record["data"]["fingerprint"]).exists()
    results = record["results"]
    assert set(results) == {"test_accuracy", "test_auc", "parameters"}
    for scores in (results["test_accuracy"], results["test_auc"]):
        assert list(scores) == list(settings.tasks)
        assert all(0 <= score <= 1 for score in scores.values())
    of_tasks = 3 * 513 + 3 * (256 + 512 + 512)
    assert results["parameters"] == {
        "total": BACKBONE + of_tasks, "shared": BACKBONE, "task": of_tasks}


@pytest.fixture
def quick(monkeypatch, planted):
    """Runs on the planted images with the small classifier in the place of ResNet-18."""
    monkeypatch.setattr(classification, "load_data", lambda *_: planted)
    monkeypatch.setattr(classification, "build_classifier",
                        lambda settings: small(settings.system, settings.seed))


@pytest.mark.parametrize("system", ["fully_shared", "modulated"])
def test_a_run_that_is_cut_goes_on_to_the_record_of_an_unbroken_one(
        quick, of_planted, places, tmp_path, system):
    settings = replace(of_planted, system=system, epochs=3)

    def cut_after_the_second(_, metrics):
        if metrics["epoch"] == 2:
            raise KeyboardInterrupt

    elsewhere = replace(places, results_dir=str(tmp_path / "other/records"),
                        checkpoint_dir=str(tmp_path / "other/checkpoints"))
    with pytest.raises(KeyboardInterrupt):
        run_classifier(settings, places, cut_after_the_second)
    assert not list(Path(places.results_dir).glob("*.json"))
    resumed, unbroken = (run_classifier(settings, where) for where in (places, elsewhere))
    assert comparable(resumed) == comparable(unbroken)
    assert resumed["run"] != unbroken["run"]


def test_a_run_is_tested_on_the_test_split_at_the_end(quick, of_planted, planted, places):
    record = run_classifier(of_planted, places)
    model, _ = trained(of_planted, planted, "modulated")
    tested = evaluate(model, planted, "test", image_getter(planted, CPU), of_planted, "test_")
    assert record["results"] == tested | {"parameters": record["results"]["parameters"]}
    shared = 3 * 6 * 25 + 6 + 12
    assert record["results"]["parameters"] == {
        "total": shared + 3 * 7 + 3 * 6, "shared": shared, "task": 3 * 7 + 3 * 6}


def test_a_run_asks_torch_for_the_same_result_every_time(quick, of_planted, places):
    run_classifier(of_planted, places)
    assert torch.are_deterministic_algorithms_enabled()


# Settings

def test_every_setting_has_another_value_here():
    assert list(OTHER_VALUES) == list(DEFAULTS)
    assert not [name for name, value in OTHER_VALUES.items() if value == DEFAULTS[name]]


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_run_name_changes_with_every_setting(name):
    assert (ClassifierSettings(**{name: OTHER_VALUES[name]}).run_name("data").rpartition("-")[2]
            != ClassifierSettings().run_name("data").rpartition("-")[2])


def test_a_run_name_tells_the_kind_and_is_not_that_of_a_triplet_run():
    name = ClassifierSettings(profile="mine", tasks=["A", "B"], seed=5).run_name("data")
    assert name.startswith("mine-classifier-modulated-2tasks-seed5-")
    assert not Settings().run_name("data").startswith("quick-classifier")


def test_a_record_of_settings_gives_the_settings_back():
    settings = ClassifierSettings(**OTHER_VALUES)
    plain = settings.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert ClassifierSettings(**plain) == settings


@pytest.mark.parametrize(("changes", "said"), [
    ({"system": "csn"}, r"value of system: 'csn'.*fully_shared, branches, modulated"),
    ({"system": "modulatd"}, "value of system: 'modulatd'.*did you mean 'modulated'"),
    ({"tasks": []}, "tasks must be one or more distinct names"),
    ({"tasks": ["Young", "Young"]}, "tasks must be one or more distinct names"),
    ({"modulate_after": "layer4"}, "modulate_after must be a list of str; given 'layer4'"),
    ({"modulate_after": [4]}, "modulate_after must be a list of str"),
    ({"branch_size": 0}, "branch_size must be from 1 to 65536; given 0"),
    ({"batch_size": 2}, "batch_size must be from 3"),
    ({"image_size": 47}, "image_size must be from 48"),
    ({"epochs": 0}, "epochs must be from 1"),
    ({"batches_per_epoch": 0}, "batches_per_epoch must be from 1"),
    ({"learning_rate": 0.0}, "learning_rate must be from"),
    ({"scale_rate_factor": -1.0}, "scale_rate_factor must be from"),
    ({"ucr_every": -1}, "ucr_every must be from 0"),
    ({"horizontal_flip": 1}, "horizontal_flip must be true or false"),
    ({"precision": "float16"}, "value of precision: 'float16'"),
    ({"schedule": "cosin"}, "value of schedule: 'cosin'.*did you mean 'cosine'"),
    ({"profile": "a/b"}, "profile must be of letters"),
    ({"seed": -1}, "seed must be from 0"),
])
def test_wrong_settings_are_refused_by_name(changes, said):
    with pytest.raises(ModlibError, match=said):
        ClassifierSettings(**changes)


def test_what_only_triplet_networks_know_is_no_setting_here():
    with pytest.raises(TypeError, match="margin"):
        ClassifierSettings(margin=0.2)
