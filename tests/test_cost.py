"""The cost is counted: operations as by hand, images as the settings say, speed from records."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from modlib.cost import (
    CELEBA_TRAIN,
    MEASURE,
    Table,
    core_hours_table,
    core_rate,
    hours_table,
    no_gpu_yet,
    paper_profile,
    paper_tables,
    probe_factor,
    speed_sentence,
    step_operations,
    training_hours,
    training_images,
    training_operations,
)
from modlib.errors import ModlibError
from modlib.experiments import new_network
from modlib.throughput import kind

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tables():
    return paper_tables(paper_profile())


def timed(speeds: dict[str, float], device: str = "NVIDIA H200") -> dict:
    """A hand-made record of speeds."""
    return {"systems": {name: {"images_per_second": speed} for name, speed in speeds.items()},
            "device": device, "processor": "a CPU", "seconds": 61.2,
            "versions": {"torch": "2.12.0"}, "git_commit": "0123456789abcdef"}


def record(settings, seconds: float, device: str = "cpu (2 threads of 4 cores)") -> dict:
    return {"settings": settings.as_dict(), "epochs": [{"images": 600}, {"images": 400}],
            "run": {"training_seconds": seconds, "device": device}}


def forward_by_hand(settings) -> list[float]:
    """Multiplications and additions of every convolution and linear layer as it is called."""
    counts, network = [], new_network(settings)

    def count(layer, _, output):
        outputs = output.shape[2] * output.shape[3] if output.ndim == 4 else 1
        counts.append(2 * layer.weight.numel() * len(output) * outputs / 3)

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    side = settings.image_size
    with torch.no_grad():
        network.embed_all_tasks(torch.zeros(3, 3, side, side))
    return counts


def test_a_step_is_a_forward_pass_and_two_back_but_to_the_pixels(tiny):
    """To the activations and to the weights; all independent networks have a first layer."""
    first, *others = forward_by_hand(shared := replace(tiny, system="fully_shared"))
    assert step_operations(shared) == pytest.approx(2 * first + 3 * sum(others), rel=1e-9)
    alone = replace(tiny, system="independent")
    assert step_operations(alone) == pytest.approx(len(tiny.tasks) * step_operations(shared))


@pytest.mark.parametrize("trunk", ["branches", "modulated"])
def test_little_goes_back_through_a_frozen_trunk(tiny, trunk):
    """Only through what stands above the first scales, its smallest maps."""
    frozen = replace(tiny, system="mask_only", trunk_system=trunk)
    forward = sum(forward_by_hand(frozen))
    assert forward < step_operations(frozen) < 1.1 * forward
    assert step_operations(tiny) > 2.5 * forward


@pytest.mark.parametrize("system", ["independent", "modulated", "csn"])
def test_where_an_image_serves_one_task_it_goes_through_one_trunk(tiny, system):
    penalties = {"embedding_norm_weight": 0.1, "mask_norm_weight": 0.1} if system == "csn" else {}
    settings = replace(tiny, system=system, batching="triplets", **penalties)
    assert step_operations(settings) == step_operations(replace(tiny, system="fully_shared"))
    regularised = replace(tiny, batching="triplets", regulariser_weight=0.1)
    assert step_operations(regularised) == step_operations(replace(tiny, system="fully_shared"))


def test_a_modulated_networks_later_stages_count_once_a_task(tiny):
    assert step_operations(tiny) > step_operations(replace(tiny, system="fully_shared"))


def test_images_are_those_of_all_batches(tiny):
    assert training_images(tiny) == 2 * 2 * 18
    assert training_images(replace(tiny, batch_size=20)) == 2 * 2 * 18  # whole triplets a task


def test_an_open_epoch_is_as_long_as_the_first_tasks_holders_last(tiny):
    images = training_images(replace(tiny, epochs=1, batches_per_epoch=None))
    holders = 0.481105 * CELEBA_TRAIN  # of Smiling, as measured
    assert images / 9 == pytest.approx(holders, rel=1e-4)  # an anchor is in 3 images × 3 tasks


def test_a_task_whose_share_is_not_known_is_named(tiny):
    with pytest.raises(ModlibError, match="'Wearing_Hat' on CelebA was not measured"):
        training_images(replace(tiny, tasks=("Wearing_Hat",), batches_per_epoch=None))


def test_the_rate_is_operations_over_core_seconds_of_cpus(tiny):
    each = 1000 * step_operations(tiny)
    records = [record(tiny, 10.0), record(tiny, 30.0, "cpu (1 threads of 4 cores)"),
               record(tiny, 1.0, "NVIDIA H200")]
    assert core_rate(records) == pytest.approx(2 * each / (2 * 10 + 30))
    with pytest.raises(ModlibError, match="no record tells"):
        core_rate(records[2:])


def test_the_table_adds_up(tiny):
    table = Table((tiny, replace(tiny, seed=1)))
    hours = core_hours_table({"one": table, "other": table}, {"here": training_operations(tiny)
                                                              / 3600 / 50})
    assert list(hours.loc["all"][["runs", "core-hours, here"]]) == ["4", "200"]
    assert list(hours.loc["one"][["runs", "core-hours, here"]]) == ["2", "100"]


def test_the_papers_tables_are_at_its_scale(tables):
    assert list(tables) == ["Table 1", "Table 3", "Tables 4 and 5"]
    assert {len(table.runs) / 3 for table in tables.values()} == {6, 7, 8}  # rows, of 3 seeds
    assert {(one.image_size, one.width, one.batching) for table in tables.values()
            for one in table.runs} == {(150, 1.0, "triplets")}
    assert len(tables["Table 3"].runs[0].tasks) == 20


def test_hours_are_all_images_over_images_per_second(tiny):
    """Two runs of 72 images each; independent networks have a speed of their own."""
    alone = replace(tiny, system="independent")
    record = timed({"modulated": 72 / 3600 / 20, "independent, 6 images each": 72 / 3600 / 5})
    assert training_hours(tiny, record["systems"]) == pytest.approx(20)
    assert training_hours(alone, record["systems"]) == pytest.approx(5)
    tables = {"one": Table((tiny, tiny)), "other": Table((alone,))}
    hours = hours_table({"one": tables["one"], "other": tables["other"]}, record)
    assert list(hours["runs"]) == ["2", "1", "3"]
    assert list(hours["hours"]) == ["40", "5.0", "45"]
    # Every 2nd batch is probed: 3 backward passes of two thirds of a step, so twice the time.
    assert list(hours["hours with probes"]) == ["80", "5.0", "85"]


def test_what_is_not_probed_costs_no_more(tiny):
    assert probe_factor(replace(tiny, ucr_every=0)) == 1
    assert probe_factor(replace(tiny, system="independent")) == 1
    assert probe_factor(replace(tiny, system="mask_only")) == 1
    assert probe_factor(replace(tiny, ucr_every=4)) == pytest.approx(1 + 3 * 2 / 3 / 4)


def test_a_system_that_was_not_timed_is_named(tiny):
    with pytest.raises(ModlibError, match=r"'modulated' was not timed; timed: csn; .* --measure"):
        training_hours(tiny, timed({"csn": 1.0})["systems"])


def test_every_run_of_the_papers_tables_can_have_hours(tables):
    kinds = {kind(run) for table in tables.values() for run in table.runs}
    assert len(kinds) < 12
    assert hours_table(tables, timed(dict.fromkeys(kinds, 1000.0))).loc["all", "runs"] == "63"


def test_where_no_gpu_was_timed_the_page_says_how():
    cpu = timed({"csn": 1.0}, "cpu (2 threads of 4 cores)")
    for records in ([], [cpu]):
        assert "Not run yet" in no_gpu_yet(records)
    assert f"    {MEASURE}\n" in (ROOT / "book/many_machines.md").read_text("utf8")
    assert no_gpu_yet([cpu, timed({"csn": 1.0})]) == ""


def test_the_sentence_says_what_was_timed_and_where():
    said = speed_sentence(timed({"fully_shared": 1234.5}))
    for part in ("**NVIDIA H200**", "fully shared 1,234", "61 seconds", "2.12.0", "`0123456789`"):
        assert part in said
    assert "a CPU" not in said
    assert "cpu (2 threads of 4 cores), a CPU" in speed_sentence(
        timed({"csn": 1.0}, "cpu (2 threads of 4 cores)"))
