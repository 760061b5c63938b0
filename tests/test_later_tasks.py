"""Tasks that come later: the old ones' embeddings stay, bit for bit; the tables by hand."""

import copy
import re

import pytest
import torch
from slow_networks import small
from study_records import publish, record, wide_record

from modlib import twenty_attributes
from modlib.errors import ModlibError
from modlib.later_tasks import (
    ADDED,
    BEFORE,
    HELD_OUT,
    KEPT,
    STUDY,
    TOGETHER,
    accuracies,
    added_table,
    lay_out,
    published,
    takeaway,
    with_added_tasks,
)
from modlib.networks import take_trunk
from modlib.settings import Settings
from modlib.twenty_attributes import TASKS

FACES = {"dataset": "celeba"}
OLD, NEW = ("Smiling", "Bald", "Bangs"), ("Young", "Goatee")
NOTHING = {row: [] for row in STUDY.rows}
TABLE = ["added later", "trained with the rest", "difference"]
COUNT = len(HELD_OUT)
MEAN = (COUNT - 1) / 2  # of the points that each task of the hand-made records has more


def before_and_added(**changes):
    """A network of three tasks and one of two more on its trunk; no scale is another's."""
    before = small("modulated", OLD, **changes).eval()
    added = small("mask_only", NEW, **changes).eval()
    with torch.no_grad():
        for scale in added.modulation.values():
            scale.weight.copy_(scale.weight.flip(1))
    take_trunk(added, before)
    return before, added


def photographs(count: int = 7) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 48, 48), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(0))


def embedded(network, *tasks: int) -> torch.Tensor:
    """Each image for its own task; the tasks go round."""
    with torch.no_grad():
        return network(photographs(), torch.tensor(tasks).repeat(7)[:7])


# The study


def test_the_added_tasks_start_from_the_run_that_never_saw_them():
    added, before = (Settings(**STUDY.changes(row)) for row in (ADDED, BEFORE))
    assert added.trunk_from == before
    assert not set(added.tasks) & set(before.tasks)


def test_the_tasks_are_the_papers_twenty():
    assert sorted((*KEPT, *HELD_OUT)) == sorted(twenty_attributes.TASKS)
    assert len(KEPT) == len(HELD_OUT) == 10
    assert STUDY.changes(TOGETHER)["tasks"] == twenty_attributes.TASKS


def test_the_trunk_and_what_is_added_to_it_see_as_many_triplets_a_task_and_batch():
    runs, _ = STUDY.lay_out({"dataset": "celeba", "batch_size": 180, "seeds": [0, 1]})
    for before, added in zip(runs[BEFORE], runs[ADDED], strict=True):
        assert before.triplets_per_task == added.triplets_per_task == 6
        assert added.trunk_from == before


def test_the_row_trained_together_is_table_3s_modulated_network():
    parameters = FACES | {"seeds": [2], "scale_rate_factor": 10.0}
    tuned = {twenty_attributes.OURS: {"learning_rate": 4e-3, "margin": 0.4},
             "mask only": {"learning_rate": 1e-3}}
    runs, _ = lay_out(parameters, tuned)
    _, table_3, _ = twenty_attributes.lay_out(parameters | {"tasks": list(TASKS)}, tuned)
    assert runs[TOGETHER] == table_3[twenty_attributes.OURS]
    assert {(one.learning_rate, one.margin) for [one] in runs.values()} == {(4e-3, 0.4)}
    assert runs[ADDED][0].trunk_from == runs[BEFORE][0]


def test_by_the_papers_recipe_nothing_that_was_chosen_for_adam_counts():
    tuned = {twenty_attributes.OURS: {"learning_rate": 4e-3, "margin": 0.4}}
    runs, _ = lay_out(FACES | {"optimiser": "adagrad", "learning_rate": 1e-2}, tuned)
    assert {(one.learning_rate, one.margin) for [one] in runs.values()} == {(1e-2, 0.2)}


def publish_rows(monkeypatch, tmp_path, **of_rows):
    """Records of one profile, of each row as many seeds as there are changes, where the book
    looks for them; what was trained together lies in Table 3's folder."""
    monkeypatch.setattr("modlib.results.project_root", lambda start=None: tmp_path)
    for row, changes in of_rows.items():
        study, name, values = ((STUDY, BEFORE, {"tasks": KEPT}) if row == "before" else
                               (twenty_attributes.STUDY, twenty_attributes.OURS, {"tasks": TASKS}))
        publish(tmp_path / f"book/results/{study.folder}", [
            wide_record(study, name, dict.fromkeys(values["tasks"], 80), seed,
                        profile="celeba_cpu_20", scale_rate_factor=10.0, **more)
            for seed, more in enumerate(changes)])


def test_what_was_trained_together_is_read_from_table_3(monkeypatch, tmp_path):
    publish_rows(monkeypatch, tmp_path, before=[{}], together=[{}, {}])
    rows = published("celeba_cpu_20")
    assert {name: len(records) for name, records in rows.items()} == {
        BEFORE: 1, ADDED: 0, TOGETHER: 2}
    assert rows[TOGETHER] == twenty_attributes.STUDY.published("celeba_cpu_20")["modulated"]


def test_table_3_of_another_margin_is_no_comparison(monkeypatch, tmp_path):
    publish_rows(monkeypatch, tmp_path, before=[{}], together=[{"margin": 0.4}])
    with pytest.raises(ModlibError, match="differ in margin"):
        published("celeba_cpu_20")


def test_every_row_is_told_from_every_other():
    records = {row: record(STUDY, row, **STUDY.changes(row)) for row in STUDY.rows}
    assert STUDY.by_row(list(records.values())) == {row: [one] for row, one in records.items()}


# One network for all


@pytest.mark.parametrize("changes", [{}, {"modulate_from": 2}, {"signed_scales": True}])
def test_every_embedding_is_that_of_the_network_it_came_from_to_the_last_bit(changes):
    before, added = before_and_added(**changes)
    joint = with_added_tasks(before, added)
    assert joint.num_tasks == 5
    seen = set()
    for task in range(3):
        assert torch.equal(embedded(joint, task), embedded(before, task))
        seen.add(embedded(joint, task).numpy().tobytes())
    for task in range(2):
        assert torch.equal(embedded(joint, 3 + task), embedded(added, task))
        seen.add(embedded(joint, 3 + task).numpy().tobytes())
    assert len(seen) == 5  # no task is another one


def test_old_and_new_tasks_may_share_a_batch():
    before, added = before_and_added()
    mixed = embedded(with_added_tasks(before, added), 2, 4)
    assert torch.equal(mixed[::2], embedded(before, 2)[::2])
    assert torch.equal(mixed[1::2], embedded(added, 1)[1::2])


def test_all_tasks_of_an_image_are_embedded_in_one_pass():
    before, added = before_and_added()
    with torch.no_grad():
        given = with_added_tasks(before, added).embed_all_tasks(photographs())
        expected = torch.cat([one.embed_all_tasks(photographs()) for one in (before, added)])
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)


def test_tasks_can_be_added_once_more():
    before, added = before_and_added()
    twice = with_added_tasks(with_added_tasks(before, added), added)
    assert torch.equal(embedded(twice, 6), embedded(added, 1))


def test_both_networks_stay_as_they_are():
    networks = before_and_added()
    kept = copy.deepcopy(networks)
    joint = with_added_tasks(*networks)
    with torch.no_grad():
        for parameter in joint.parameters():
            parameter.add_(1)
    for network, was in zip(networks, kept, strict=True):
        assert network.num_tasks == was.num_tasks
        for name, value in network.state_dict().items():
            assert torch.equal(value, was.state_dict()[name]), name


def test_a_task_costs_its_scales_alone():
    before, added = before_and_added()
    numbers = [sum(p.numel() for p in network.parameters())
               for network in (with_added_tasks(before, added), before)]
    assert numbers[0] - numbers[1] == 2 * (26 + 26 + 16)  # block 4, block 5 and fc


@pytest.mark.parametrize("name", ["stages.fc.1.weight", "stages.conv1.1.running_mean"])
def test_another_trunk_is_refused(name):
    before, added = before_and_added()
    added.state_dict()[name][..., 0] += 1e-6
    with pytest.raises(ModlibError, match="only be added to the trunk that they were trained on"):
        with_added_tasks(before, added)


def test_a_trunk_of_another_width_is_refused():
    with pytest.raises(ModlibError, match="trunks differ"):
        with_added_tasks(before_and_added()[0], small("mask_only", NEW, width=0.3))


@pytest.mark.parametrize(("system", "changes"), [
    ("modulated", {"modulate_from": 5}), ("modulated", {"signed_scales": True}),
    ("csn", {}), ("projection", {}), ("low_rank", {}), ("fully_shared", {})])
def test_only_scales_after_the_same_stages_can_be_put_together(system, changes):
    before, _ = before_and_added()
    added = small(system, NEW, **changes)
    take_trunk(added, before)
    for pair in ((before, added), (added, before)):
        with pytest.raises(ModlibError, match="must have scales after the same stages"):
            with_added_tasks(*pair)


# Tables


def of(row: str, seed: int = 0, accuracy: int = 80, others: int = 60) -> dict:
    """``accuracy`` of the held-out tasks, one more for each in their order; else ``others``."""
    tasks = STUDY.changes(row)["tasks"]
    return wide_record(STUDY, row, {
        task: accuracy + HELD_OUT.index(task) if task in HELD_OUT else others
        for task in tasks}, seed)


@pytest.fixture(scope="module")
def rows():
    """Two seeds each: one point below, one above."""
    return STUDY.by_row([
        of(row, seed, mean + change) for row, mean in ((ADDED, 85), (TOGETHER, 70), (BEFORE, 0))
        for seed, change in ((0, -1), (1, 1))])


def test_accuracies_are_of_the_held_out_tasks_alone(rows):
    table = accuracies(rows)
    assert len(table) == 2 * 2 * COUNT
    assert list(table[(table.row == TOGETHER) & (table.seed == 1)].task) == list(HELD_OUT)
    assert set(table[table.row == ADDED].accuracy.round()) == set(range(84, 86 + COUNT))
    assert accuracies(NOTHING).empty


def test_the_table_has_each_task_and_their_mean(rows):
    table = added_table(rows)
    assert list(table.index) == [*(task.replace("_", " ") for task in HELD_OUT), "mean"]
    assert list(table) == TABLE
    for place, name in enumerate(table.index[:-1]):
        assert table.loc[name].tolist()[:2] == [f"{85 + place}.0 ± 1.4", f"{70 + place}.0 ± 1.4"]
        assert table.loc[name, "difference"].startswith("+15.00 [")
    assert table.loc["mean"].tolist()[:2] == [f"{85 + MEAN:.1f} ± 1.4", f"{70 + MEAN:.1f} ± 1.4"]


def test_each_difference_has_its_interval_and_that_of_the_mean_is_the_narrowest(rows):
    widths = {}
    for name, line in added_table(rows).difference.items():
        value, low, high = map(float, re.findall(r"[−+][\d.]+", line))
        assert (value, line) == (15, f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
        assert low < value < high
        widths[name] = high - low
    assert min(widths, key=widths.get) == "mean"
    assert len(set(widths.values())) > 2  # each task's own


@pytest.mark.parametrize("missing", [ADDED, TOGETHER])
def test_the_table_without_one_row_has_the_other(rows, missing):
    table = added_table(rows | {missing: []})
    there = ({ADDED, TOGETHER} - {missing}).pop()
    assert set(table[missing]) == {"not run yet"}
    assert set(table.difference) == {"not run yet"}
    assert table[there].equals(added_table(rows)[there])


def test_one_seed_of_each_gives_differences_without_intervals(rows):
    table = added_table({row: records[:1] for row, records in rows.items()})
    assert set(table.difference) == {"+15.00 (one seed)"}
    assert table.loc["mean"].tolist()[:2] == [f"{84 + MEAN:.1f}", f"{69 + MEAN:.1f}"]


def test_the_table_of_no_records_is_empty_and_has_its_columns():
    assert added_table(NOTHING).empty
    assert list(added_table(NOTHING)) == TABLE


def test_the_takeaway_takes_its_numbers_from_the_table(rows):
    first = takeaway(rows)
    assert f"reach a mean of **{85 + MEAN:.1f} ± 1.4 %**" in first
    assert f"from the start, {70 + MEAN:.1f} ± 1.4 %" in first
    assert added_table(rows).loc["mean", "difference"] in first


@pytest.mark.parametrize("missing", [ADDED, TOGETHER])
def test_the_takeaway_needs_both_rows(rows, missing):
    assert takeaway(rows | {missing: []}) == "Not run yet on real faces."
