"""Systems that answer every task: their settings, and what they have of their own."""

from dataclasses import fields

import pytest
import torch

from modlib.errors import ModlibError
from modlib.task_readers import (
    ReaderSettings,
    all_streams,
    backbone_parameters,
    build_reader,
    one_task_streams,
    operations,
    shared_parameters,
)
from modlib.top_down import count_weights

FOUR = ("LU", "RL", "LL", "RU")
SYSTEMS = ("single", "uniform", "moo", "channel", "top_down")
OTHER_VALUES = {
    "profile": "mine", "dataset": "mnist", "tasks": FOUR, "train_images": 60_000,
    "test_images": 20, "canvas": 40, "image_size": 64, "system": "uniform", "td_channels": 3,
    "into_td": "multiply", "into_bu2": "add", "image_aware": False, "spatial": False,
    "tasks_together": False, "ucr_every": 5, "bu1_weight": 0.5, "td_weight": 0.5,
    "batch_size": 9, "epochs": 9, "batches_per_epoch": 2, "optimiser": "adagrad",
    "learning_rate": 0.01, "scale_rate_factor": 20.0, "schedule": "cosine", "seed": 3,
}


@pytest.fixture
def images_B1HW() -> torch.Tensor:
    return torch.randint(0, 256, (5, 1, 28, 28), generator=torch.Generator().manual_seed(1),
                         dtype=torch.uint8)


# Settings


def test_every_setting_is_part_of_the_runs_name():
    defaults = {field.name: field.default for field in fields(ReaderSettings)}
    assert OTHER_VALUES.keys() == defaults.keys()
    names = {ReaderSettings(**{name: value}).run_name("data").rpartition("-")[2]
             for name, value in OTHER_VALUES.items()}
    assert len(names | {ReaderSettings().run_name("data").rpartition("-")[2]}) == 1 + len(defaults)


def test_a_run_name_tells_the_kind():
    assert ReaderSettings(profile="mine", seed=4).run_name("data").startswith(
        "mine-reader-top_down-2tasks-seed4-")


@pytest.mark.parametrize(("changes", "said"), [
    ({"system": "topdown"}, "did you mean 'top_down'"), ({"dataset": "MNST"}, "'mnist'"),
    ({"canvas": 20}, "canvas must be from 28 to 56; given 20"),
    ({"into_td": "plus"}, "value of into_td: 'plus'"), ({"tasks": []}, "tasks must be one or more"),
    ({"td_weight": -1.0}, "td_weight must be from 0"),
    ({"ucr_every": 2, "tasks_together": False}, "ucr_every above 0 needs tasks_together=True"),
    ({"system": "uniform", "td_channels": 4}, "td_channels is of system='top_down'; given 4"),
    ({"system": "channel", "spatial": False}, "spatial is of system='top_down'"),
    ({"system": "moo", "td_weight": 1.0}, "td_weight above 0 needs system='top_down' or 'channel'"),
    ({"dataset": "clevr", "td_weight": 1.0}, "td_weight above 0 needs a dataset that tells where"),
])
def test_wrong_settings_are_refused_by_name(changes, said):
    with pytest.raises(ModlibError, match=said):
        ReaderSettings(**changes)


# Networks


@pytest.mark.parametrize("tasks", [FOUR[:2], FOUR])
@pytest.mark.parametrize(("system", "of_all", "each"), [
    ("single", 0, 24_250), ("uniform", 21_250, 3_000), ("moo", 21_250, 3_000),
    ("channel", 24_250, 10 + 20 + 50), ("top_down", 24_250 + 6_651, 320)])
def test_weights_are_those_of_table_5(system, of_all, each, tasks):
    model = build_reader(ReaderSettings(system=system, tasks=tasks), 10)
    assert count_weights(model) == of_all + each * len(tasks)


def test_no_number_of_scales_a_task_gives_the_papers_multiples():
    """Page 10 says so; it prints ×1.002, ×1.005 and ×1.007 for two, three and four tasks."""
    def fits(scales, tasks, printed):
        return abs(scales * tasks / 24_250 - (printed - 1)) <= 0.0005

    printed = {2: 1.002, 3: 1.005, 4: 1.007}
    assert [tasks for tasks, one in printed.items() if fits(10 + 20, tasks, one)] == [2]
    assert not any(all(fits(scales, *one) for one in printed.items()) for scales in range(500))


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_task_of_every_image_is_answered_and_all_weights_are_trained(system, images_B1HW):
    model = build_reader(ReaderSettings(system=system, tasks=FOUR), 10)
    logits_TBK = all_streams(model, images_B1HW).logits
    assert logits_TBK.shape == (4, 5, 10)
    logits_TBK.square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("system", SYSTEMS)
def test_one_seed_gives_every_system_the_same_backbone(system):
    def weight(seed, system):
        settings = ReaderSettings(system=system, seed=seed)
        torch.manual_seed(seed + 7)  # the global seed decides nothing
        state = build_reader(settings, 10).state_dict()
        [name] = [name for name in state if name.endswith("stages.1.0.weight")
                  and "bu1" not in name and "networks.1" not in name]
        return state[name]
    assert torch.equal(weight(3, system), weight(3, "top_down"))
    assert not torch.equal(weight(3, system), weight(4, system))


def test_single_networks_do_not_touch_each_other(images_B1HW):
    model = build_reader(ReaderSettings(system="single"), 10)
    all_streams(model, images_B1HW).logits[0].sum().backward()
    assert all(weight.grad.any() for weight in model.networks[0].parameters())
    assert not any(weight.grad.any() for weight in model.networks[1].parameters())
    assert shared_parameters(model) == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_backbone_is_what_all_systems_have_in_common(system):
    model = build_reader(ReaderSettings(system=system), 10)
    found = backbone_parameters(model)
    own = {id(weight) for weight in model.parameters()}
    assert sum(weight.numel() for weight in found) == (0 if system == "single" else 21_250 + 80)
    assert {id(weight) for weight in found} <= own


def test_the_work_of_networks_of_their_own_is_theirs_together():
    one, four = (operations(ReaderSettings(system="single", tasks=FOUR[:count]))
                 for count in (1, 4))
    assert four == 4 * one == 4 * operations(ReaderSettings(system="uniform", tasks=FOUR[:1]))
    assert operations(ReaderSettings(system="uniform", tasks=FOUR)) < 1.02 * one
    assert operations(ReaderSettings(tasks=FOUR, seed=4)) == operations(ReaderSettings(tasks=FOUR))
    assert operations(ReaderSettings(tasks=FOUR)) > 4 * one  # it sees the image once more


@pytest.mark.parametrize(("system", "own"), [
    ("uniform", 2 * (3_000 + 60)), ("channel", 2 * 80), ("top_down", 2 * 320)])
def test_shared_is_what_no_task_owns(system, own):
    model = build_reader(ReaderSettings(system=system), 10)
    every = sum(weight.numel() for weight in model.parameters())
    assert every - sum(weight.numel() for weight in shared_parameters(model)) == own


def test_channel_modulation_starts_as_the_plain_network(images_B1HW):
    model = build_reader(ReaderSettings(system="channel"), 10)
    given = all_streams(model, images_B1HW).logits
    torch.testing.assert_close(given[0], given[1])
    torch.testing.assert_close(given[0], model.remove()(images_B1HW))


def test_the_maps_of_channel_modulation_are_its_last_stages(images_B1HW):
    model = build_reader(ReaderSettings(system="channel", tasks=FOUR), 10)
    for scale in model.modulation.values():
        torch.nn.init.uniform_(scale.scale.weight, 0.5, 1.5)
    every = all_streams(model, images_B1HW)
    each = [one_task_streams(model, images_B1HW, task) for task in range(4)]
    scales = list(model.modulation.values())
    stages = model.remove().backbone.stages
    for task, one in enumerate(each):
        seen = images_B1HW / 255
        for stage, scale in zip(stages, scales, strict=False):
            seen = stage(seen) * scale.scale.weight[task][:, None, None]
        expected = torch.nn.functional.interpolate(
            seen.mean(1, keepdim=True), (28, 28), mode="bilinear")[:, 0]
        torch.testing.assert_close(every.maps[task], expected)
        torch.testing.assert_close(one.maps[0], expected)
        torch.testing.assert_close(one.logits[0], every.logits[task])


def test_photographs_get_their_backbones():
    clevr = build_reader(ReaderSettings(dataset="clevr", tasks=("a",), image_size=64), 2)
    assert clevr.embedding.embedding_dim == 32 * 2 * 2
    cub = build_reader(ReaderSettings(dataset="cub_200", tasks=("a",), image_size=64), 16)
    assert cub.head.out_features == 16 and len(cub.backbone.stages) == 5
